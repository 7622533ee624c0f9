// SPDX-License-Identifier: Apache-2.0
//! The fallback table: persistent; with no agent alive it sends what is asked of a node-local
//! address to CoreDNS.

use std::time::Duration;

use crate::check::Difference;
use crate::error::Error;
use crate::nfnetlink::{Batch, Connection};
use crate::plan::{Family, Plan};
use crate::rules::fallback::{CHAINS, NAME, detoured, table};
use crate::tables::{self, Shape};

/// By what the table of an earlier nodens is known.
pub(crate) const SHAPE: Shape = Shape {
    table: NAME,
    chains: &CHAINS,
    sets: &[detoured(Family::V4), detoured(Family::V6)],
};

/// The chains that send queries to CoreDNS; the others bring the answers back.
const SENDING: [&str; 2] = ["prerouting", "output"];

/// How long answers of CoreDNS may take that are waited for: a name that it has to ask others for.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

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
    if tables::differences(&mut connection, &wanted, "")?.is_empty() {
        return Ok(());
    }
    tables::put(&mut connection, &SHAPE, &wanted, false)
}

/// As [`revert`], and loses no answer on the way: first nothing new is sent to CoreDNS, and when what
/// was under way has come back the table goes.
///
/// # Errors
/// As [`apply`].
pub fn revert_in_use() -> Result<(), Error> {
    let mut connection = Connection::open()?;
    if tables::is_there(&mut connection, &SHAPE)? {
        let mut batch = Batch::default();
        for chain in SENDING {
            let step = format!("empty chain {chain} of table inet {NAME}");
            batch.flush_chain(NAME, chain, step);
        }
        connection.commit(&mut batch, "send nothing to CoreDNS any more")?;
        pause(LAST_ANSWERS);
    }
    tables::remove(&mut connection, &SHAPE)
}

#[expect(
    clippy::disallowed_methods,
    reason = "nobody tells when an answer that is not tracked by us has passed"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Removes the table, if it is there.
///
/// # Errors
/// As [`apply`].
pub fn revert() -> Result<(), Error> {
    tables::remove(&mut Connection::open()?, &SHAPE)
}

/// Whether there is a table of its name, whatever is in it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn exists() -> Result<bool, Error> {
    Ok(Connection::open()?.table(NAME)?.is_some())
}

/// What differs between the table and the plan.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn check(plan: &Plan) -> Result<Vec<Difference>, Error> {
    let mut connection = Connection::open()?;
    if let Some(wanted) = table(plan) {
        let remedy = "`nodens netsetup up` makes it anew; a running agent does so by itself";
        return tables::differences(&mut connection, &wanted, remedy);
    }
    if connection.table(NAME)?.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![Difference {
        place: format!("table inet {NAME}"),
        wanted: "none, for the plan has no fallback".to_owned(),
        found: "a table".to_owned(),
        remedy: "`nodens netsetup up` removes it".to_owned(),
    }])
}
