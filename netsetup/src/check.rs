// SPDX-License-Identifier: Apache-2.0
//! What differs between the plan and the node, in words.

use std::fmt;

/// One difference between what the plan wants and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where: `table inet nodens, chain prerouting`, `interface nodens0`.
    pub place: String,
    /// What the plan wants there.
    pub wanted: String,
    /// What is there.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            wanted,
            found,
            remedy,
        } = self;
        write!(
            formatter,
            "{place}: wanted {wanted}, found {found}: {remedy}"
        )
    }
}
