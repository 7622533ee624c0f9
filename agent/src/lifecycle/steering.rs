// SPDX-License-Identifier: Apache-2.0
//! What is known of the steering, for those who ask (readiness, metrics) and those who give
//! orders (drain, retire). The pulse thread alone writes what is known and carries orders out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nodens_netsetup::plan::{Lane, Proto};

use super::switch::{Cause, Change};
use crate::lock::lock;
use crate::telemetry::clock::nanoseconds;
use crate::telemetry::registry::{LaneFigures, SteeringFigures};

/// Shared by the pulse and all others.
#[derive(Debug)]
pub struct Steering {
    lanes: Vec<Told>,
    is_armed: AtomicBool,
    is_retired: AtomicBool,
    healed: [AtomicU64; Part::ALL.len()],
    refreshed: AtomicU64,
    refused: AtomicU64,
    longest_gap_ns: AtomicU64,
    /// What the kernel has said no to, while it does, of each part.
    trouble: Mutex<[Option<String>; Part::ALL.len()]>,
}

/// What is told of a lane.
#[derive(Debug)]
struct Told {
    lane: Lane,
    is_live: AtomicBool,
    trips: AtomicU64,
    returns: AtomicU64,
    why: Mutex<String>,
}

/// What others can remove from the node, and the pulse puts back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The interface and its addresses.
    Links,
    /// The table that answers when the agent is dead.
    Fallback,
    /// The table that steers, where the kernel lets others remove it.
    Active,
}

impl Part {
    /// All of them in the order of their index, with their label values.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Links, "links"),
        (Self::Fallback, "fallback"),
        (Self::Active, "active"),
    ];
}

impl Steering {
    /// Of these lanes; nothing is steered yet.
    #[must_use]
    pub fn new(lanes: &[Lane]) -> Self {
        let told = |&lane: &Lane| Told {
            lane,
            is_live: AtomicBool::new(false),
            trips: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            why: Mutex::default(),
        };
        Self {
            lanes: lanes.iter().map(told).collect(),
            is_armed: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            healed: Default::default(),
            refreshed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            longest_gap_ns: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// Whether the steering has ended for good by `nodens retire`.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed)
    }

    /// What keeps the agent from being ready, in words: what is not steered.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        if self.is_retired() {
            return vec!["retired: queries are answered and no longer steered here".to_owned()];
        }
        let mut reasons: Vec<_> = lock(&self.trouble).iter().flatten().cloned().collect();
        if !self.is_armed.load(Relaxed) {
            reasons.push("not steered yet".to_owned());
            return reasons;
        }
        let down = self.lanes.iter().filter(|told| !told.is_live.load(Relaxed));
        reasons.extend(down.map(|told| {
            let (proto, address) = (label(told.lane.proto), told.lane.address);
            match lock(&told.why).as_str() {
                "" => format!("{proto} {address}: not steered yet"),
                why => format!("{proto} {address}: not steered: {why}"),
            }
        }));
        reasons
    }

    /// All of it as metrics show it.
    #[must_use]
    pub fn figures(&self) -> SteeringFigures {
        let lane = |told: &Told| LaneFigures {
            address: told.lane.address.to_string(),
            proto: label(told.lane.proto),
            is_live: told.is_live.load(Relaxed),
            trips: told.trips.load(Relaxed),
            returns: told.returns.load(Relaxed),
        };
        let healed = |(at, label): (&AtomicU64, &'static str)| (label, at.load(Relaxed));
        let parts = Part::ALL.iter().map(|(_, label)| *label);
        SteeringFigures {
            lanes: self.lanes.iter().map(lane).collect(),
            healed: self.healed.iter().zip(parts).map(healed).collect(),
            refreshed: self.refreshed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            longest_gap: Duration::from_nanos(self.longest_gap_ns.load(Relaxed)),
        }
    }

    /// Takes in what has become of lanes, and logs it: a line for all that happened at once.
    pub(super) fn note(&self, changes: &[Change]) {
        let (mut armed, mut tripped, mut returned) = (Vec::new(), Vec::new(), Vec::new());
        for &change in changes {
            let (lane, list) = match change {
                Change::Armed(lane) => (lane, &mut armed),
                Change::Tripped(lane, _) => (lane, &mut tripped),
                Change::Returned(lane) => (lane, &mut returned),
            };
            list.push(format!("{} {}", label(lane.proto), lane.address));
            let Some(told) = self.lanes.iter().find(|told| told.lane == lane) else {
                continue;
            };
            match change {
                Change::Armed(_) => {}
                Change::Tripped(_, cause) => {
                    told.trips.fetch_add(1, Relaxed);
                    *lock(&told.why) = words(cause);
                }
                Change::Returned(_) => {
                    told.returns.fetch_add(1, Relaxed);
                }
            }
            let is_live = !matches!(change, Change::Tripped(..));
            told.is_live.store(is_live, Relaxed);
        }
        if !armed.is_empty() {
            self.is_armed.store(true, Relaxed);
            tracing::info!(lanes = armed.join(", "), "steering");
        }
        if !tripped.is_empty() {
            let why = changes.iter().find_map(|change| match change {
                Change::Tripped(_, cause) => Some(words(*cause)),
                _ => None,
            });
            tracing::error!(
                lanes = tripped.join(", "),
                why,
                "the dead-man's switch has tripped: the kernel sends these queries to CoreDNS"
            );
        }
        if !returned.is_empty() {
            tracing::warn!(lanes = returned.join(", "), "steering again after a trip");
        }
    }

    /// Nothing is steered any more, by our own will.
    pub(super) fn let_go(&self) {
        for told in &self.lanes {
            told.is_live.store(false, Relaxed);
            lock(&told.why).clear();
        }
    }

    /// From now on retired.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
    }

    /// Something of ours was gone and is back.
    pub(super) fn healed(&self, part: Part) {
        self.healed[part as usize].fetch_add(1, Relaxed);
    }

    /// What the kernel said to a refresh.
    pub(super) fn answered(&self, was_taken: bool) {
        let count = if was_taken {
            &self.refreshed
        } else {
            &self.refused
        };
        count.fetch_add(1, Relaxed);
    }

    /// The longest time that an element has waited for its refresh.
    pub(super) fn waited(&self, longest: Duration) {
        self.longest_gap_ns.store(nanoseconds(longest), Relaxed);
    }

    /// What the kernel says no to now; `None` where it no longer does. True where that is news.
    pub(super) fn trouble(&self, part: Part, what: Option<String>) -> bool {
        let trouble = &mut lock(&self.trouble)[part as usize];
        let is_news = *trouble != what;
        *trouble = what;
        is_news
    }
}

fn words(cause: Cause) -> String {
    match cause {
        Cause::NoAnswer => "no answer to our own question".to_owned(),
        Cause::Worker(number) => format!("worker {number} stands still over its queue"),
        Cause::Cold => "the cold thread stands still".to_owned(),
        Cause::Late => "the agent did not run, or the kernel took no refresh".to_owned(),
    }
}

/// `udp` or `tcp`.
fn label(proto: Proto) -> &'static str {
    match proto {
        Proto::Udp => "udp",
        Proto::Tcp => "tcp",
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const UDP: Lane = lane(Proto::Udp);
    const TCP: Lane = lane(Proto::Tcp);

    const fn lane(proto: Proto) -> Lane {
        Lane {
            address: IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10)),
            proto,
        }
    }

    #[test]
    fn what_is_not_steered_is_told_with_its_reason() {
        let steering = Steering::new(&[UDP, TCP]);
        assert_eq!(steering.reasons(), ["not steered yet"]);
        steering.note(&[Change::Armed(UDP)]);
        assert_eq!(steering.reasons(), ["tcp 10.96.0.10: not steered yet"]);
        steering.note(&[Change::Armed(TCP)]);
        assert!(steering.reasons().is_empty());
        steering.note(&[Change::Tripped(UDP, Cause::Worker(1))]);
        assert_eq!(
            steering.reasons(),
            ["udp 10.96.0.10: not steered: worker 1 stands still over its queue"]
        );
        steering.note(&[Change::Returned(UDP)]);
        assert!(steering.reasons().is_empty());
        let no = || Some("no".to_owned());
        assert!(steering.trouble(Part::Links, no()) && !steering.trouble(Part::Links, no()));
        assert!(steering.trouble(Part::Active, no()) && steering.trouble(Part::Active, None));
        assert_eq!(steering.reasons(), ["no"], "each part has its own");
        steering.retire();
        assert!(steering.reasons()[0].starts_with("retired: "));
    }

    #[test]
    fn trips_and_returns_are_counted_by_lane() {
        let steering = Steering::new(&[UDP, TCP]);
        steering.note(&[Change::Armed(UDP), Change::Armed(TCP)]);
        for _ in 0..3 {
            steering.note(&[Change::Tripped(TCP, Cause::NoAnswer)]);
            steering.note(&[Change::Returned(TCP)]);
        }
        steering.note(&[Change::Tripped(UDP, Cause::Late)]);
        steering.healed(Part::Fallback);
        let figures = steering.figures();
        let counts: Vec<_> = figures
            .lanes
            .iter()
            .map(|lane| (lane.proto, lane.is_live, lane.trips, lane.returns))
            .collect();
        assert_eq!(counts, [("udp", false, 1, 0), ("tcp", true, 3, 3)]);
        assert_eq!(
            figures.healed,
            [("links", 0), ("fallback", 1), ("active", 0)]
        );
    }

    #[test]
    fn every_part_counts_in_the_place_of_its_label() {
        for (index, (part, label)) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, index, "{label}");
        }
    }
}
