// SPDX-License-Identifier: Apache-2.0
//! The dead-man's switch as a decision: who was seen alive, so what may be refreshed. It reads no
//! clock and touches no kernel; moments are those of
//! [`Clock::now_ns`](crate::telemetry::clock::Clock::now_ns).
//!
//! The kernel keeps an element for each address and transport and lets it go by itself after
//! `intercept.deadAfter`. So nothing here ever trips the switch: it only withholds a refresh, and
//! whoever is seen alive again before the element runs out has never been gone. That is the
//! hysteresis, and it is all on the side of staying (docs/adr/0011-dead-mans-switch.md).

use std::time::Duration;

use nodens_netsetup::plan::{Lane, Proto};

use crate::telemetry::clock::nanoseconds;

/// A worker that has something in its receive queue and has not gone through its loop this long
/// is taken to hang. A loop takes microseconds; the rest is for a machine without a free CPU.
pub const WORKER_STILL: Duration = Duration::from_millis(750);

/// The cold thread is taken to hang when it has not beaten this long: four of its beats.
pub const COLD_STILL: Duration = Duration::from_secs(1);

/// Most of the time between two looks that counts against somebody. Where more has passed, we
/// have not run ourselves (SIGSTOP, no CPU, a long call into the kernel), and so may nobody have.
const LONGEST_LOOK: Duration = Duration::from_millis(400);

/// Turns in a row with a good answer before a lane that has tripped is steered again: who answers
/// now and then is better left alone.
const RETURN_TURNS: u32 = 2;

/// What is seen of the agent's threads at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Each worker, in their order.
    pub workers: Vec<WorkerSight>,
    /// Any figure that the cold thread changes while it moves.
    pub cold: u64,
}

/// What is seen of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSight {
    /// Whether a receive queue of its has something in it.
    pub has_waiting: bool,
    /// Its cell [`progress`](crate::telemetry::cells::WorkerCells::progress).
    pub progress: u64,
}

/// What has become of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its element was set for the first time.
    Armed(Lane),
    /// Its element ran out.
    Tripped(Lane, Cause),
    /// Its element was set again after it had run out.
    Returned(Lane),
}

/// Why a lane was not refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It did not answer.
    NoAnswer,
    /// A worker, by its number, stood still over a queue.
    Worker(usize),
    /// The cold thread stood still.
    Cold,
    /// The kernel took no refresh, or too late; or we did not run ourselves.
    Late,
}

/// The switch of all lanes.
#[derive(Debug)]
pub struct Switch {
    dead_after: Duration,
    lanes: Vec<Track>,
    workers: Vec<Still>,
    cold: Still,
    looked_ns: Option<u64>,
    longest_gap: Duration,
}

#[derive(Debug)]
struct Track {
    lane: Lane,
    /// When the kernel last took its element; `None` before the first time.
    refreshed_ns: Option<u64>,
    is_up: bool,
    /// Turns in a row with a good answer.
    good_turns: u32,
    cause: Cause,
}

/// How long a figure has not changed while it should.
#[derive(Clone, Debug, Default)]
struct Still {
    last: Option<u64>,
    for_: Duration,
}

impl Still {
    fn see(&mut self, figure: u64, should_move: bool, passed: Duration) {
        if self.last == Some(figure) && should_move {
            self.for_ += passed;
        } else {
            self.for_ = Duration::ZERO;
        }
        self.last = Some(figure);
    }
}

impl Switch {
    /// All lanes down: nothing is steered yet. `dead_after` is how long the kernel keeps an
    /// element.
    #[must_use]
    pub fn new(lanes: Vec<Lane>, dead_after: Duration) -> Self {
        let track = |lane| Track {
            lane,
            refreshed_ns: None,
            is_up: false,
            good_turns: 0,
            cause: Cause::NoAnswer,
        };
        Self {
            dead_after,
            lanes: lanes.into_iter().map(track).collect(),
            workers: Vec::new(),
            cold: Still::default(),
            looked_ns: None,
            longest_gap: Duration::ZERO,
        }
    }

    /// A turn begins: takes in what is seen of the threads.
    pub fn look(&mut self, sight: &Sight, now_ns: u64) {
        let passed = self
            .looked_ns
            .map_or(0, |last| now_ns.saturating_sub(last))
            .min(nanoseconds(LONGEST_LOOK));
        let passed = Duration::from_nanos(passed);
        self.looked_ns = Some(now_ns);
        self.workers
            .resize_with(sight.workers.len(), Still::default);
        for (still, worker) in self.workers.iter_mut().zip(&sight.workers) {
            still.see(worker.progress, worker.has_waiting, passed);
        }
        self.cold.see(sight.cold, true, passed);
    }

    /// The lanes that may be refreshed, of those that have answered in this turn.
    pub fn alive(&self, has_answered: impl Fn(Lane) -> bool) -> Vec<Lane> {
        let may = |track: &&Track| {
            has_answered(track.lane)
                && self.hung(track.lane.proto).is_none()
                && (track.is_up || track.refreshed_ns.is_none() || self.has_recovered(track))
        };
        self.lanes
            .iter()
            .filter(may)
            .map(|track| track.lane)
            .collect()
    }

    /// Whether TCP connections that began here may stay: whoever answers them moves.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.cold.for_ < COLD_STILL
    }

    /// The kernel has taken the elements of these lanes.
    pub fn refreshed(&mut self, lanes: &[Lane], now_ns: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for track in &mut self.lanes {
            if !lanes.contains(&track.lane) {
                continue;
            }
            // The kernel took it only now: it was busy with another program's rules, and the element
            // ran out meanwhile.
            let age_ns = now_ns.saturating_sub(track.refreshed_ns.unwrap_or(now_ns));
            if track.is_up && age_ns > nanoseconds(self.dead_after) {
                track.is_up = false;
                changes.push(Change::Tripped(track.lane, Cause::Late));
            }
            if !track.is_up {
                changes.push(match track.refreshed_ns {
                    None => Change::Armed(track.lane),
                    Some(_) => Change::Returned(track.lane),
                });
            }
            if let Some(last_ns) = track.refreshed_ns {
                let gap = Duration::from_nanos(now_ns.saturating_sub(last_ns));
                self.longest_gap = self.longest_gap.max(gap);
            }
            track.is_up = true;
            track.refreshed_ns = Some(now_ns);
        }
        changes
    }

    /// A turn ends: notes who has answered in it, and whose element has run out.
    pub fn close(&mut self, has_answered: impl Fn(Lane) -> bool, now_ns: u64) -> Vec<Change> {
        let hung = [Proto::Udp, Proto::Tcp].map(|proto| self.hung(proto));
        for track in &mut self.lanes {
            let answered = has_answered(track.lane);
            let hung = hung[usize::from(track.lane.proto == Proto::Tcp)];
            track.good_turns = match hung {
                None if answered => track.good_turns + 1,
                _ => 0,
            };
            track.cause = match hung {
                _ if !answered => Cause::NoAnswer,
                Some(cause) => cause,
                None => Cause::Late,
            };
        }
        self.expire(now_ns)
    }

    /// Whose element has run out by now.
    pub fn expire(&mut self, now_ns: u64) -> Vec<Change> {
        let dead_after = nanoseconds(self.dead_after);
        let mut changes = Vec::new();
        for track in self.lanes.iter_mut().filter(|track| track.is_up) {
            let refreshed_ns = track.refreshed_ns.unwrap_or_default();
            if now_ns.saturating_sub(refreshed_ns) > dead_after {
                track.is_up = false;
                track.good_turns = 0;
                changes.push(Change::Tripped(track.lane, track.cause));
            }
        }
        changes
    }

    /// Nothing is steered any more, by our own will: the kernel has lost the table, or we took
    /// the elements out. Whoever is refreshed next is armed for the first time.
    pub fn reset(&mut self) {
        for track in &mut self.lanes {
            track.is_up = false;
            track.refreshed_ns = None;
            track.good_turns = 0;
        }
    }

    /// The longest time that an element has waited for its refresh so far.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// All lanes.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + '_ {
        self.lanes.iter().map(|track| track.lane)
    }

    /// Whether every lane is steered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lanes.iter().all(|track| track.is_up)
    }

    fn has_recovered(&self, track: &Track) -> bool {
        // The turn that is under way is the last of them.
        track.good_turns + 1 >= RETURN_TURNS
    }

    /// Who keeps lanes of this transport from being refreshed though they answer. Queries over
    /// TCP are answered by the cold thread: its own probe tells of it, and workers have no part.
    fn hung(&self, proto: Proto) -> Option<Cause> {
        if proto == Proto::Tcp {
            return None;
        }
        let worker = self
            .workers
            .iter()
            .position(|still| still.for_ >= WORKER_STILL);
        // Without the cold thread hits are answered and misses are not: half a cache is worse
        // than CoreDNS.
        let cold = self.cold.for_ >= COLD_STILL;
        worker
            .map(Cause::Worker)
            .or_else(|| cold.then_some(Cause::Cold))
    }
}

#[cfg(test)]
mod tests;
