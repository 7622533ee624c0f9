// SPDX-License-Identifier: Apache-2.0
//! The fallback table: persistent; with no agent alive it sends what is asked of a node-local
//! address to CoreDNS.

use crate::error::Error;
use crate::plan::Plan;

/// Makes the table, or leaves it where it is right already; one of ours with other content is
/// replaced in one transaction. A plan without fallback removes it.
///
/// # Errors
/// When the kernel refuses, or another program made a table of that name.
pub fn apply(plan: &Plan) -> Result<(), Error> {
    let _ = plan;
    todo!()
}

/// Removes the table, if it is there.
///
/// # Errors
/// As [`apply`].
pub fn revert() -> Result<(), Error> {
    todo!()
}
