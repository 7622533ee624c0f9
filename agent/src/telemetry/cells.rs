// SPDX-License-Identifier: Apache-2.0
//! The cells that each thread writes. One thread writes a block, any thread reads it; a count is
//! a plain load and store ([`counters::add`](super::counters::add)). Workers have a block each;
//! the cold thread owns those of client streams and of resolving.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::answers::Answers;
use super::counters::{MAX_ZONES, add, subtract};
use crate::wire::fault::Fault;

pub use super::upstream_cells::{Outcome, UpstreamCells, UpstreamGauges};

/// Most upstream servers that are told apart over the life of a process; the last stands for all
/// that came later.
pub const MAX_UPSTREAMS: usize = 64;

/// The label of whatever came after its table was full.
const OTHER: &str = "other";

/// Why a client's TCP connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// `listen.tcpConnections` were open.
    Total,
    /// `listen.tcpConnectionsPerClient` of this source address were open.
    Client,
}

impl ConnectionRefusal {
    /// All of them, in the order of their index, with their label values.
    pub const ALL: [(Self, &str); 2] = [(Self::Total, "total"), (Self::Client, "client")];
}

/// What there was too much of for a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// `limits.inFlight` were under way.
    InFlight,
    /// The source address had its share of `limits.inFlight`.
    Client,
    /// Large answers waited for TCP connections to take them.
    Octets,
    /// Many waited for upstreams that said nothing.
    Upstream,
}

impl OverLimit {
    /// All of them, in the order of their index, with their label values.
    pub const ALL: [(Self, &str); 4] = [
        (Self::InFlight, "in_flight"),
        (Self::Client, "client"),
        (Self::Octets, "octets"),
        (Self::Upstream, "upstream"),
    ];
}

/// Why an answer that belongs to its question is not kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its answer section has records of names that its question does not lead to.
    OutsideChain,
    /// Its CNAMEs lead in a circle, or on and on: it is taken for a failure.
    Loop,
    /// It denies with the SOA of another zone.
    ForeignSoa,
    /// It denies a name without an SOA.
    NoSoa,
    /// It is larger than a cell of the cache, or there was no room.
    NoRoom,
}

impl Unfit {
    /// All of them, in the order of their index, with their label values.
    pub const ALL: [(Self, &str); 5] = [
        (Self::OutsideChain, "outside_chain"),
        (Self::Loop, "cname_loop"),
        (Self::ForeignSoa, "foreign_soa"),
        (Self::NoSoa, "no_soa"),
        (Self::NoRoom, "no_room"),
    ];
}

/// What happened to answers on the cold side beside being fetched and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer whose lifetime had ended was put back, as no upstream answered.
    Stale,
    /// A failure of the upstreams was remembered.
    Failure,
    /// A popular answer was asked for again before its end.
    Prefetch,
    /// It was not, as as many were being asked for as may.
    PrefetchDropped,
    /// Data and the denial of its name were seen together: names of the zone are denied type by
    /// type for a while.
    Contradiction,
    /// A name was denied because it lies below one that does not exist.
    Cut,
}

impl Event {
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// What one worker counts. Aligned so that two workers never write to one pair of cache lines
/// (CPUs fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCells {
    /// Answers that the worker sent. Those under a zone are hits, timed from the receipt of their
    /// batch to its answers being with the kernel; what it answers of itself (rejections, a full
    /// queue, the pulse) belongs under [`NO_ZONE`](super::counters::NO_ZONE).
    pub answers: Answers,
    /// Batches received with at least one datagram in them.
    pub batches: AtomicU64,
    /// Answers that the kernel would not take.
    pub send_errors: AtomicU64,
    /// Misses given to the cold thread.
    pub handed_over: AtomicU64,
    /// Misses that found the queue to the cold thread full, and were answered SERVFAIL.
    pub refused_queue_full: AtomicU64,
    /// Moves each time the worker has gone through its loop: a worker whose receive queue is not
    /// empty and whose count stands still hangs.
    pub progress: AtomicU64,
    rejected: [AtomicU64; Fault::ALL.len()],
}

impl WorkerCells {
    /// Counts a rejected query. Only the worker that owns the block calls it.
    pub fn reject(&self, why: Fault) {
        add(&self.rejected[why as usize], 1);
    }

    /// Rejected queries, in the order of [`Fault::ALL`].
    #[must_use]
    pub fn rejected(&self) -> [u64; Fault::ALL.len()] {
        self.rejected.each_ref().map(|cell| cell.load(Relaxed))
    }
}

/// What the cold thread counts of clients over TCP.
#[derive(Debug, Default)]
pub struct StreamCells {
    /// Answers from the cache, timed from a query's last octet to its answer being with the
    /// kernel, and what is answered without it under [`NO_ZONE`](super::counters::NO_ZONE).
    pub answers: Answers,
    /// Misses given to the resolving side.
    pub handed_over: AtomicU64,
    open: AtomicU64,
    accepted: AtomicU64,
    idle_closed: AtomicU64,
    refused: [AtomicU64; ConnectionRefusal::ALL.len()],
    rejected: [AtomicU64; Fault::ALL.len()],
}

impl StreamCells {
    /// Counts a connection that was taken. [`Self::close`] goes with it.
    pub fn open(&self) {
        add(&self.accepted, 1);
        add(&self.open, 1);
    }

    /// Counts the end of a connection, whoever ended it.
    pub fn close(&self) {
        subtract(&self.open, 1);
    }

    /// Counts a connection that is being closed because it was idle; [`Self::close`] follows.
    pub fn idle(&self) {
        add(&self.idle_closed, 1);
    }

    /// Counts a connection that was not taken.
    pub fn refuse(&self, why: ConnectionRefusal) {
        add(&self.refused[why as usize], 1);
    }

    /// Counts a rejected query.
    pub fn reject(&self, why: Fault) {
        add(&self.rejected[why as usize], 1);
    }

    /// Connections open now.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Connections taken so far.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections closed for being idle.
    #[must_use]
    pub fn connections_idle_closed(&self) -> u64 {
        self.idle_closed.load(Relaxed)
    }

    /// Connections not taken, in the order of [`ConnectionRefusal::ALL`].
    #[must_use]
    pub fn connections_refused(&self) -> [u64; ConnectionRefusal::ALL.len()] {
        self.refused.each_ref().map(|cell| cell.load(Relaxed))
    }

    /// Rejected queries, in the order of [`Fault::ALL`].
    #[must_use]
    pub fn rejected(&self) -> [u64; Fault::ALL.len()] {
        self.rejected.each_ref().map(|cell| cell.load(Relaxed))
    }
}

/// What the cold thread counts of misses and upstreams.
#[derive(Debug)]
pub struct ResolveCells {
    /// Answers to clients after a miss, over UDP and TCP, timed from its arrival with its client's
    /// query to its answer being with the kernel.
    pub answers: Answers,
    /// Misses that joined an exchange already under way.
    pub coalesced: AtomicU64,
    over_limit: [AtomicU64; OverLimit::ALL.len()],
    /// Misses under way now, clients that wait counted each.
    pub in_flight: AtomicU64,
    outgoing_octets: AtomicU64,
    largest_share: AtomicU64,
    queued_now: AtomicU64,
    queued_most: AtomicU64,
    misses: Box<[AtomicU64]>,
    unfit: [AtomicU64; Unfit::ALL.len()],
    events: [Box<[AtomicU64]>; Event::COUNT],
    upstreams: Box<[UpstreamCells]>,
}

impl Default for ResolveCells {
    fn default() -> Self {
        Self {
            answers: Answers::default(),
            coalesced: AtomicU64::default(),
            over_limit: Default::default(),
            in_flight: AtomicU64::default(),
            outgoing_octets: AtomicU64::default(),
            largest_share: AtomicU64::default(),
            queued_now: AtomicU64::default(),
            queued_most: AtomicU64::default(),
            misses: by_zone(),
            unfit: Default::default(),
            events: std::array::from_fn(|_| by_zone()),
            upstreams: (0..MAX_UPSTREAMS)
                .map(|_| UpstreamCells::default())
                .collect(),
        }
    }
}

fn by_zone() -> Box<[AtomicU64]> {
    (0..MAX_ZONES).map(|_| AtomicU64::default()).collect()
}

impl ResolveCells {
    /// Counts a miss that was answered SERVFAIL because there was too much already.
    pub fn refuse(&self, why: OverLimit) {
        add(&self.over_limit[why as usize], 1);
    }

    /// Misses that were answered so, in the order of [`OverLimit::ALL`].
    #[must_use]
    pub fn over_limit(&self) -> [u64; OverLimit::ALL.len()] {
        self.over_limit.each_ref().map(|cell| cell.load(Relaxed))
    }

    /// Notes octets of answers that wait for TCP connections, and clients that wait at the source
    /// address that has most of them.
    pub fn show_use(&self, outgoing_octets: u64, largest_share: u64) {
        self.outgoing_octets.store(outgoing_octets, Relaxed);
        self.largest_share.store(largest_share, Relaxed);
    }

    /// What [`Self::show_use`] noted last.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (
            self.outgoing_octets.load(Relaxed),
            self.largest_share.load(Relaxed),
        )
    }

    /// Notes how many misses wait to be taken in.
    pub fn queue(&self, misses: u64) {
        self.queued_now.fetch_max(misses, Relaxed);
    }

    /// Begins another second of [`Self::queue`].
    pub fn show_queue(&self) {
        let most = self.queued_now.swap(0, Relaxed);
        self.queued_most.store(most, Relaxed);
    }

    /// The most that were noted in the last second.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued_most.load(Relaxed)
    }

    /// Counts an answer that is not kept as it is.
    pub fn unfit(&self, why: Unfit) {
        add(&self.unfit[why as usize], 1);
    }

    /// Such answers, in the order of [`Unfit::ALL`].
    #[must_use]
    pub fn unfits(&self) -> [u64; Unfit::ALL.len()] {
        self.unfit.each_ref().map(|cell| cell.load(Relaxed))
    }

    /// Counts what happened in a zone.
    pub fn happened(&self, event: Event, zone: u16) {
        if let Some(cell) = self.events[event as usize].get(usize::from(zone)) {
            add(cell, 1);
        }
    }

    /// How often it happened, by zone index.
    pub fn happenings(&self, event: Event) -> impl Iterator<Item = u64> {
        let cells = &self.events[event as usize];
        cells.iter().map(|cell| cell.load(Relaxed))
    }

    /// Counts a miss in a zone.
    pub fn miss(&self, zone: u16) {
        if let Some(cell) = self.misses.get(usize::from(zone)) {
            add(cell, 1);
        }
    }

    /// Misses by zone index.
    pub fn misses(&self) -> impl Iterator<Item = u64> {
        self.misses.iter().map(|cell| cell.load(Relaxed))
    }

    /// The cells of an upstream server, by the index its address has in
    /// [`Telemetry::upstreams`](super::registry::Telemetry::upstreams).
    #[must_use]
    pub fn upstream(&self, index: u16) -> &UpstreamCells {
        // Labels hands out no index that is not there.
        &self.upstreams[usize::from(index).min(MAX_UPSTREAMS - 1)]
    }
}

/// What is counted of the process as a whole. Any thread writes here, rarely.
#[derive(Debug, Default)]
pub struct AgentCells {
    reloads_ok: AtomicU64,
    reloads_refused: AtomicU64,
    files_taken: AtomicU64,
    files_refused: AtomicU64,
    last_reload_success_seconds: AtomicU64,
    config_file: ArcSwapOption<PathBuf>,
}

impl AgentCells {
    /// Counts a configuration that took effect at `wall_seconds` since 1970.
    pub fn reload_ok(&self, wall_seconds: u64) {
        self.reloads_ok.fetch_add(1, Relaxed);
        self.config_loaded(wall_seconds);
    }

    /// Counts a configuration that was refused.
    pub fn reload_refused(&self) {
        self.reloads_refused.fetch_add(1, Relaxed);
    }

    /// Notes which file the configuration in force was read from; `None` where there was none.
    pub fn config_read_from(&self, file: Option<PathBuf>) {
        self.config_file.store(file.map(Arc::new));
    }

    /// The file that the configuration in force was read from.
    #[must_use]
    pub fn config_file(&self) -> Option<Arc<PathBuf>> {
        self.config_file.load_full()
    }

    /// Counts a change of a file that is followed; whether it took effect.
    pub fn file_changed(&self, is_taken: bool) {
        let cell = if is_taken {
            &self.files_taken
        } else {
            &self.files_refused
        };
        cell.fetch_add(1, Relaxed);
    }

    /// Changes of files that took effect, and those that were refused.
    #[must_use]
    pub fn file_changes(&self) -> (u64, u64) {
        (
            self.files_taken.load(Relaxed),
            self.files_refused.load(Relaxed),
        )
    }

    /// Notes when the configuration in force was loaded: at the start, which is no reload.
    pub fn config_loaded(&self, wall_seconds: u64) {
        self.last_reload_success_seconds
            .store(wall_seconds, Relaxed);
    }

    /// Reloads that took effect, and those that were refused.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        (
            self.reloads_ok.load(Relaxed),
            self.reloads_refused.load(Relaxed),
        )
    }

    /// When the configuration in force was loaded, in seconds since 1970; 0 before that.
    #[must_use]
    pub fn last_reload_success_seconds(&self) -> u64 {
        self.last_reload_success_seconds.load(Relaxed)
    }
}

/// Names with an index each, for labels. An index keeps its name for the life of the process, so
/// counters go on through a reload that removes a name and another that brings it back. When the
/// table is full the last index, `other`, stands for every new name.
#[derive(Debug)]
pub struct Labels {
    names: ArcSwap<Vec<String>>,
    /// Most indices, the one of `other` among them.
    max: usize,
}

impl Labels {
    /// A table of at most `max` indices that begins with `first`.
    #[must_use]
    pub fn new(first: &[&str], max: usize) -> Self {
        let names = first.iter().map(|&name| name.to_owned()).collect();
        Self {
            names: ArcSwap::from_pointee(names),
            max,
        }
    }

    /// The index of a name, new or old. Allocates: for the cold side.
    pub fn index(&self, name: &str) -> u16 {
        let find = |names: &[String]| names.iter().position(|known| known == name);
        self.names.rcu(|names| {
            let mut names = Vec::clone(names);
            if find(&names).is_none() && names.len() < self.max {
                let is_last = names.len() + 1 == self.max;
                names.push(if is_last { OTHER } else { name }.to_owned());
            }
            names
        });
        let index = find(&self.names.load()).unwrap_or(self.max - 1);
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// All names so far; each stands at its index.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Vec<String>>> {
        self.names.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_counts_in_the_place_of_its_label() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index, "{}", fault.reason());
        }
        for (index, (why, label)) in ConnectionRefusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index, "{label}");
        }
        for (index, (limit, label)) in OverLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index, "{label}");
        }
        for (index, (why, label)) in Unfit::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index, "{label}");
        }
        for (index, (outcome, label)) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{label}");
        }
    }

    #[test]
    fn the_cells_of_two_workers_share_no_pair_of_lines() {
        assert_eq!(align_of::<WorkerCells>(), 128);
        assert_eq!(size_of::<WorkerCells>() % 128, 0);
    }

    #[test]
    fn a_name_keeps_its_index_and_what_does_not_fit_is_other() {
        let labels = Labels::new(&[""], 4);
        assert_eq!(labels.index("a."), 1);
        assert_eq!(labels.index("b."), 2);
        assert_eq!(labels.index("c."), 3, "the last index");
        assert_eq!(labels.index("d."), 3);
        assert_eq!(labels.index("a."), 1);
        assert_eq!(labels.index(""), 0);
        assert_eq!(**labels.load(), ["", "a.", "b.", "other"]);
    }

    #[test]
    fn names_added_by_two_threads_at_once_are_not_lost() {
        let labels = Arc::new(Labels::new(&[], 1000));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let labels = &labels;
                scope.spawn(move || {
                    for name in 0..100 {
                        labels.index(&format!("{thread}-{name}"));
                    }
                });
            }
        });
        assert_eq!(labels.load().len(), 200);
        assert!(
            labels
                .load()
                .iter()
                .all(|name| { labels.load()[usize::from(labels.index(name))] == *name })
        );
    }
}
