// SPDX-License-Identifier: Apache-2.0
//! The fallback table: persistent; with no agent alive it sends what is asked of a node-local
//! address to CoreDNS.

use crate::error::Error;
use crate::nfnetlink::{Batch, Connection};
use crate::plan::Plan;
use crate::rules::fallback::{NAME, table};
use crate::tables::{self, Shape};

/// By what the table of an earlier nodens is known.
pub(crate) const SHAPE: Shape = Shape {
    table: NAME,
    chains: &["prerouting", "output", "nat_post", "fix_post", "fix_in"],
    sets: &[],
};

/// Makes the table, or leaves it where it is right already; one of ours with other content is
/// replaced in one transaction. A plan without fallback removes it.
///
/// # Errors
/// When the kernel refuses, or another program made a table of that name.
pub fn apply(plan: &Plan) -> Result<(), Error> {
    let Some(wanted) = table(plan) else {
        return revert();
    };
    let mut connection = Connection::open()?;
    let mut batch = Batch::default();
    if is_there(&mut connection)? {
        if tables::differences(&mut connection, &wanted, "")?.is_empty() {
            return Ok(());
        }
        tables::delete(&mut batch, NAME);
    }
    tables::make(&mut batch, &wanted, false);
    connection.commit(&mut batch, "make table inet nodens-fallback")
}

/// Removes the table, if it is there.
///
/// # Errors
/// As [`apply`].
pub fn revert() -> Result<(), Error> {
    let mut connection = Connection::open()?;
    if !is_there(&mut connection)? {
        return Ok(());
    }
    let mut batch = Batch::default();
    tables::delete(&mut batch, NAME);
    connection.commit(&mut batch, "delete table inet nodens-fallback")
}

/// Whether there is such a table, and it is ours.
fn is_there(connection: &mut Connection) -> Result<bool, Error> {
    let Some(found) = connection.table(NAME)? else {
        return Ok(false);
    };
    if let Some(port_id) = found.owner {
        return Err(Error::TableOwned {
            table: NAME,
            port_id,
            process: None,
        });
    }
    tables::recognise(connection, &SHAPE)?;
    Ok(true)
}
