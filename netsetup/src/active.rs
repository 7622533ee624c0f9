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
use crate::rules;
use crate::rules::active::{CHAINS, NAME, table};
use crate::tables::{self, Shape};

/// By what a plain table that an earlier nodens left is known.
pub(crate) const SHAPE: Shape = Shape {
    table: NAME,
    chains: &CHAINS,
    sets: &[
        "live",
        "serve",
        "began",
        "elsewhere",
        "live6",
        "serve6",
        "began6",
        "elsewhere6",
    ],
};

/// How often an agent that owns the table is waited for, and how long each time: the table of one
/// that was killed is there until its sockets are closed, and they are when its memory is torn down,
/// some 30 ms for 256 MiB. Until then it looks alive.
const ENDING_PAUSE: Duration = Duration::from_millis(10);

/// See [`ENDING_PAUSE`].
const ENDING_TRIES: u32 = 50;

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
    commits: u64,
    renewal: Renewal,
    /// The octets of the last refresh, for the next.
    batch: Batch,
    keys: Vec<Vec<u8>>,
}

/// How an element that is there gets its time anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// It is added again and stays. Linux 6.12.
    InPlace,
    /// It is removed and added in one transaction, on every kernel. What was removed is let go only
    /// after a grace period of RCU, and a table whose owner dies meanwhile steers until then
    /// (docs/adr/0052-elements-are-renewed-in-place.md).
    Replaced,
}

impl Renewal {
    /// What this kernel can do. By its release, as an older one takes the attribute and ignores it.
    fn of_kernel() -> Self {
        Self::of(&rustix::system::uname().release().to_string_lossy())
    }

    /// What a kernel of a release can do, as `uname -r` tells it: `6.12.0-55.el10.x86_64`.
    fn of(release: &str) -> Self {
        let mut numbers = release
            .split(|character: char| !character.is_ascii_digit())
            .map_while(|number| number.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) >= (6, 12) => Self::InPlace,
            _ => Self::Replaced,
        }
    }
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
    /// nothing is steered yet. What an earlier nodens left is replaced; one that is just ending is
    /// waited for, half a second at most.
    ///
    /// # Errors
    /// When the kernel refuses, another process owns such a table, or another program made it.
    pub fn apply(socket: OwnerSocket, plan: &Plan) -> Result<Self, Error> {
        let OwnerSocket { mut connection } = socket;
        let wanted = table(plan);
        let mut done = tables::put(&mut connection, &SHAPE, &wanted, true);
        for _ in 0..ENDING_TRIES {
            if !matches!(done, Err(Error::TableOwned { .. })) {
                break;
            }
            pause(ENDING_PAUSE);
            done = tables::put(&mut connection, &SHAPE, &wanted, true);
        }
        match done {
            Err(error) if is_unknown_flag(&error) => Self::apply_plain(connection, plan),
            done => done.and_then(|()| Self::made(connection, plan)),
        }
    }

    /// As [`Self::apply`], on a kernel without owned tables.
    fn apply_plain(mut connection: Connection, plan: &Plan) -> Result<Self, Error> {
        tables::put(&mut connection, &SHAPE, &table(plan), false)?;
        Self::made(connection, plan)
    }

    fn made(mut connection: Connection, plan: &Plan) -> Result<Self, Error> {
        // A kernel can take the flag and not know it: the table is owned when it says by whom.
        let owner = connection.table(NAME)?.and_then(|found| found.owner);
        Ok(Self {
            is_owned: owner == Some(connection.port_id()),
            connection,
            port: plan.port,
            commits: 0,
            renewal: Renewal::of_kernel(),
            batch: Batch::default(),
            keys: Vec::new(),
        })
    }

    /// Whether the kernel deletes the table with the process. `false` on kernels before 5.12: then
    /// it is a plain table, which the dead-man's switch alone lets go.
    #[must_use]
    pub const fn is_owned(&self) -> bool {
        self.is_owned
    }

    /// Transactions so far: what [`crate::watch::Watch`] need not take for others'.
    #[must_use]
    pub const fn commits(&self) -> u64 {
        self.commits
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
        let renewal = self.renewal;
        let sets: [(&[Lane], SetOf); 2] = [(live, rules::live), (serve, rules::serve)];
        for (lanes, set) in sets {
            for family in [Family::V4, Family::V6] {
                let Some((batch, elements)) = self.elements(lanes, family, set) else {
                    continue;
                };
                match renewal {
                    Renewal::InPlace => batch.renew(elements, timeout),
                    Renewal::Replaced => {
                        // An element that expired cannot be removed, so it is added; one that is
                        // there keeps its time when it is added, so it is removed; then it begins
                        // anew.
                        batch.add(elements, timeout);
                        batch.remove(elements);
                        batch.add(elements, timeout);
                    }
                }
            }
        }
        self.commit("refresh the lanes of table inet nodens")
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
        self.commit("clear lanes of table inet nodens")
    }

    fn commit(&mut self, what: &str) -> Result<(), Error> {
        let is_empty = self.batch.is_empty();
        self.connection.commit(&mut self.batch, what)?;
        self.commits += u64::from(!is_empty);
        Ok(())
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
    tables::remove(&mut Connection::open()?, &SHAPE)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when it has deleted the table of a process that ended"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
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
            let _ = tables::remove(&mut self.connection, &SHAPE);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{run, within};
    use crate::plan::{Proto, Settings};

    fn plan() -> Plan {
        Plan::new(&Settings {
            interface: "nodens0".to_owned(),
            listen: vec![IpAddr::from([169, 254, 20, 10])],
            port: 53,
            services: vec![IpAddr::from([10, 96, 0, 10])],
            redirect_to: None,
            fallback: Vec::new(),
            tcp_idle: Duration::from_secs(10),
        })
        .unwrap()
    }

    #[test]
    fn a_kernel_without_owned_tables_gets_a_plain_one_that_is_deleted_where_it_can_be() {
        within(|| {
            let plan = plan();
            let connection = Active::open().unwrap().connection;
            let mut active = Active::apply_plain(connection, &plan).unwrap();
            assert!(!active.is_owned());
            assert_eq!(check(&plan).unwrap(), []);
            let lanes = plan.lanes();
            active
                .refresh(&lanes, &lanes, Duration::from_secs(1))
                .unwrap();
            active.clear(&lanes).unwrap();
            assert!(!run("nft list ruleset").contains("flags owner"));
            drop(active);
            assert_eq!(run("nft list ruleset"), "");
            // One that is killed leaves it: the next takes its place.
            let connection = Active::open().unwrap().connection;
            let mut active = Active::apply_plain(connection, &plan).unwrap();
            active.is_owned = true;
            drop(active);
            assert!(run("nft list ruleset").contains("table inet nodens"));
            let active = Active::apply(Active::open().unwrap(), &plan).unwrap();
            assert!(active.is_owned());
        });
    }

    #[test]
    fn only_what_an_old_kernel_says_of_the_flag_leads_to_a_plain_table() {
        let refused = |step: &str, errno: Errno| Error::Refused {
            step: step.to_owned(),
            extended: None,
            source: errno.into(),
        };
        for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
            assert!(is_unknown_flag(&refused("make table inet nodens", errno)));
            assert!(!is_unknown_flag(&refused(
                "make set live of table inet nodens",
                errno
            )));
        }
        assert!(!is_unknown_flag(&refused(
            "make table inet nodens",
            Errno::EXIST
        )));
    }

    #[test]
    fn the_release_of_the_kernel_says_whether_elements_are_renewed_in_place() {
        for release in [
            "6.12.0-55.el10.x86_64",
            "6.18.44",
            "6.12-rc1",
            "7.0.1",
            "10.0",
        ] {
            assert_eq!(Renewal::of(release), Renewal::InPlace, "{release}");
        }
        let others = [
            "5.14.0-503.el9",
            "6.11.9",
            "6.1.112-gke",
            "2.6.78",
            "6",
            "6.x.12",
            "",
            "v7.0",
        ];
        for release in others {
            assert_eq!(Renewal::of(release), Renewal::Replaced, "{release}");
        }
    }

    /// Whole seconds until each element of `live` goes, by `nft`.
    fn expires() -> Vec<u64> {
        let text = run("nft -j list set inet nodens live");
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        let elements = said["nftables"][1]["set"]["elem"].as_array().unwrap();
        elements
            .iter()
            .map(|element| element["elem"]["expires"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn the_time_of_elements_begins_anew_with_a_refresh_either_way() {
        for renewal in [Renewal::InPlace, Renewal::Replaced] {
            within(|| {
                let plan = plan();
                let mut active = Active::apply(Active::open().unwrap(), &plan).unwrap();
                active.renewal = renewal;
                let lanes = plan.lanes();
                let long = Duration::from_secs(100);
                active.refresh(&lanes, &lanes, long).unwrap();
                while expires().iter().any(|seconds| *seconds >= 99) {
                    pause(Duration::from_millis(50));
                }
                // Tried again where nft is late: it looks within a second of the refresh.
                let is_anew = (0..20).any(|_| {
                    active.refresh(&lanes, &lanes, long).unwrap();
                    expires().iter().all(|seconds| *seconds >= 99)
                });
                assert!(is_anew, "{renewal:?}: {:?}", expires());
            });
        }
    }

    /// What is removed keeps the table of one that is killed steering for a grace period of RCU.
    #[test]
    fn a_refresh_removes_nothing_where_the_kernel_can_renew_in_place() {
        let (add, remove) = (12, 14);
        let replaced = [add, remove, add];
        let cases: [(Renewal, &[u8]); 2] = [
            (Renewal::InPlace, &[add, add]),
            (Renewal::Replaced, &[replaced, replaced].concat()),
        ];
        for (renewal, kinds) in cases {
            within(|| {
                let plan = plan();
                let mut active = Active::apply(Active::open().unwrap(), &plan).unwrap();
                active.renewal = renewal;
                let lanes = plan.lanes();
                active
                    .refresh(&lanes, &lanes, Duration::from_secs(1))
                    .unwrap();
                assert_eq!(active.batch.kinds(), kinds);
                active.clear(&lanes).unwrap();
                assert_eq!(active.batch.kinds(), [add, remove]);
            });
        }
    }
    #[test]
    fn a_key_fills_up_the_slots_of_its_parts() {
        let mut key = vec![7; 40];
        let address = IpAddr::from([10, 96, 0, 10]);
        let proto = Proto::Udp;
        write_key(&mut key, Lane { address, proto }, 53);
        assert_eq!(key, [10, 96, 0, 10, 17, 0, 0, 0, 0, 53, 0, 0]);
    }
}
