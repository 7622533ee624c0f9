// SPDX-License-Identifier: Apache-2.0
//! The active table: lives and dies with the process that made it.
//!
//! The kernel deletes a table with the flag `owner` (Linux 5.12) when the socket that made it closes,
//! whatever closed it: an exit, a panic, SIGKILL, the OOM killer. Nobody else can change or delete it.
//! A kernel without that flag gets a plain table, which is deleted where there still is a chance to:
//! when [`Active`] is dropped. Else only the dead-man's switch lets it go.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::check::Difference;
use crate::error::Error;
use crate::nfnetlink::element::Elements;
use crate::nfnetlink::{Batch, Connection};
use crate::plan::{Family, Lane, Plan};
use crate::rules::active::{NAME, PRIORITY, table};
use crate::rules::{self, ChainKind, Hook};
use crate::tables::{self, Shape};

/// By what a plain table that an earlier nodens left is known.
pub(crate) const SHAPE: Shape = Shape {
    table: NAME,
    chains: &[
        ("prerouting", ChainKind::Filter, Hook::Prerouting, PRIORITY),
        ("output", ChainKind::Route, Hook::Output, PRIORITY),
    ],
    sets: &["live", "serve", "began", "live6", "serve6", "began6"],
};

/// A netlink socket that can own a table. Open it before anything else in the process: the kernel
/// closes descriptors in order, and the table goes with this one.
#[derive(Debug)]
pub struct OwnerSocket {
    connection: Connection,
}

/// The active table, and the socket that owns it: the table goes when this is dropped, and when the
/// process ends in whatever way.
#[derive(Debug)]
pub struct Active {
    connection: Connection,
    is_owned: bool,
    port: u16,
    /// The octets of the last refresh, for the next.
    batch: Batch,
    keys: Vec<Vec<u8>>,
}

impl Active {
    /// Opens the socket that is to own the table. Nothing else happens yet, and no capability is
    /// needed.
    ///
    /// # Errors
    /// When there can be no netlink socket.
    pub fn open() -> Result<OwnerSocket, Error> {
        let connection = Connection::open()?;
        Ok(OwnerSocket { connection })
    }

    /// Makes the table with its sets, chains and rules, in one transaction. The sets are empty:
    /// nothing is steered yet. What an earlier nodens left is replaced.
    ///
    /// # Errors
    /// When the kernel refuses, another process owns such a table, or another program made it.
    pub fn apply(socket: OwnerSocket, plan: &Plan) -> Result<Self, Error> {
        let OwnerSocket { mut connection } = socket;
        let wanted = table(plan);
        let is_left = tables::is_there(&mut connection, &SHAPE)?;
        let mut batch = Batch::default();
        let mut make = |is_owned| {
            batch.clear();
            if is_left {
                tables::delete(&mut batch, NAME);
            }
            tables::make(&mut batch, &wanted, is_owned);
            connection.commit(&mut batch, "make table inet nodens")
        };
        match make(true) {
            Err(error) if is_unknown_flag(&error) => make(false)?,
            made => made?,
        }
        // A kernel can take the flag and not know it: it is owned when it says by whom.
        let owner = connection.table(NAME)?.and_then(|found| found.owner);
        Ok(Self {
            is_owned: owner == Some(connection.port_id()),
            connection,
            port: plan.port,
            batch,
            keys: Vec::new(),
        })
    }

    /// Whether the kernel deletes the table with the process. `false` on kernels before 5.12: then
    /// it is a plain table, which the dead-man's switch alone lets go.
    #[must_use]
    pub const fn is_owned(&self) -> bool {
        self.is_owned
    }

    /// The netlink port that makes the changes: what [`crate::watch::Watch`] need not wake for.
    #[must_use]
    pub const fn port_id(&self) -> u32 {
        self.connection.port_id()
    }

    /// Keeps the lanes of `live` (new queries and connections) and of `serve` (established TCP)
    /// steered for `timeout` from now, in one transaction. Lanes not given are left to expire.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refresh(
        &mut self,
        live: &[Lane],
        serve: &[Lane],
        timeout: Duration,
    ) -> Result<(), Error> {
        self.batch.clear();
        let sets: [(&[Lane], SetOf); 2] = [(live, rules::live), (serve, rules::serve)];
        for (lanes, set) in sets {
            for family in [Family::V4, Family::V6] {
                if let Some(elements) = self.elements(lanes, family, set) {
                    // An element that expired cannot be removed, so it is added; one that is there
                    // keeps its time when it is added, so it is removed; then it begins anew.
                    let (batch, elements) = elements;
                    batch.add(elements, timeout);
                    batch.remove(elements);
                    batch.add(elements, timeout);
                }
            }
        }
        let what = "refresh the lanes of table inet nodens";
        self.connection.commit(&mut self.batch, what)
    }

    /// Takes lanes out of `live` at once; what is established goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        self.batch.clear();
        for family in [Family::V4, Family::V6] {
            if let Some((batch, elements)) = self.elements(lanes, family, rules::live) {
                // As in a refresh: it may have expired.
                batch.add(elements, Duration::from_secs(1));
                batch.remove(elements);
            }
        }
        let what = "clear lanes of table inet nodens";
        self.connection.commit(&mut self.batch, what)
    }

    /// The elements that stand for the lanes of a family, and the batch they are for.
    fn elements(
        &mut self,
        lanes: &[Lane],
        family: Family,
        set: SetOf,
    ) -> Option<(&mut Batch, Elements<'_>)> {
        let mut number = 0;
        for lane in lanes
            .iter()
            .filter(|lane| Family::of(lane.address) == family)
        {
            if number == self.keys.len() {
                self.keys.push(Vec::new());
            }
            write_key(&mut self.keys[number], *lane, self.port);
            number += 1;
        }
        let elements = Elements {
            table: NAME,
            set: set(family),
            keys: &self.keys[..number],
        };
        (number > 0).then_some((&mut self.batch, elements))
    }
}

/// What differs between the table and the plan.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn check(plan: &Plan) -> Result<Vec<Difference>, Error> {
    let remedy = "start the agent anew: it makes the table, and the table goes with it";
    tables::differences(&mut Connection::open()?, &table(plan), remedy)
}

/// Removes the table that an agent left on a kernel without owned tables.
///
/// # Errors
/// When a living process owns it, another program made it, or the kernel refuses.
pub fn revert() -> Result<(), Error> {
    tables::remove(&SHAPE)
}

/// Which set of a family.
type SetOf = fn(Family) -> &'static str;

/// The key of a lane's element: address, protocol and port, each filling up slots of four octets.
fn write_key(key: &mut Vec<u8>, lane: Lane, port: u16) {
    key.clear();
    match lane.address {
        IpAddr::V4(v4) => key.extend(v4.octets()),
        IpAddr::V6(v6) => key.extend(v6.octets()),
    }
    key.extend([lane.proto.number(), 0, 0, 0]);
    key.extend(port.to_be_bytes());
    key.extend([0, 0]);
}

impl Drop for Active {
    fn drop(&mut self) {
        // An owned table goes with the socket. The other is deleted here, if it can be: nobody is
        // left to tell otherwise.
        if !self.is_owned {
            self.batch.clear();
            tables::delete(&mut self.batch, NAME);
            let _ = self
                .connection
                .commit(&mut self.batch, "delete table inet nodens");
        }
    }
}

/// Whether the kernel refused the table itself, for its flag.
fn is_unknown_flag(error: &Error) -> bool {
    let Error::Refused { step, source, .. } = error else {
        return false;
    };
    let unknown = [Errno::INVAL, Errno::OPNOTSUPP];
    let is_unknown = |source: &io::Error| {
        unknown
            .iter()
            .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    };
    step.starts_with("make table") && is_unknown(source)
}
