// SPDX-License-Identifier: Apache-2.0
//! Answers of one writing thread: how many by zone, channel, query type and response code, and what
//! is counted of a zone beside.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::counters::{
    Answered, Channel, MAX_ZONES, NO_ZONE, RCODES, TYPES, add, rcode_index, type_index,
};
use super::zone_cells::ZoneCells;

const ROWS: usize = Channel::ALL.len() * TYPES.len();

/// The cells of one channel and query type, by response code: exactly one cache line, so that no
/// other thread's cells, nor the allocator's, share a line that a worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Row([AtomicU64; RCODES.len()]);

/// The hits of one batch by zone: a batch is timed once, and its time counts for each of them.
#[derive(Debug, Default)]
pub struct Hits {
    zones: Vec<(u16, u64)>,
    total: u64,
}

impl Hits {
    /// Room for a batch of so many queries, each of another zone: [`Self::note`] then never
    /// allocates.
    #[must_use]
    pub fn with_capacity(queries: usize) -> Self {
        Self {
            zones: Vec::with_capacity(queries),
            total: 0,
        }
    }

    /// Notes an answer; one of no zone is no hit.
    pub fn note(&mut self, zone: u16) {
        if zone == NO_ZONE {
            return;
        }
        self.total += 1;
        match self.zones.iter_mut().find(|(known, _)| *known == zone) {
            Some((_, hits)) => *hits += 1,
            None => self.zones.push((zone, 1)),
        }
    }

    /// All hits noted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Each zone with its hits; none are left.
    pub fn drain(&mut self) -> impl Iterator<Item = (u16, u64)> {
        self.total = 0;
        self.zones.drain(..)
    }
}

/// The cells of one zone.
#[derive(Debug)]
struct Zone {
    rows: Box<[Row]>,
    cells: ZoneCells,
}

/// Answers of one writing thread, by zone, channel, query type and response code.
#[derive(Debug)]
pub struct Answers {
    zones: Box<[OnceLock<Box<Zone>>]>,
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

impl Answers {
    /// A block with room for every zone; a zone's cells come with [`Self::open`].
    #[must_use]
    pub fn new() -> Self {
        let answers = Self {
            zones: (0..MAX_ZONES).map(|_| OnceLock::new()).collect(),
        };
        answers.open(NO_ZONE);
        answers
    }

    /// Makes the cells of a zone. The cold side calls it before a zone index is first used, so
    /// that no worker allocates.
    pub fn open(&self, zone: u16) {
        if let Some(cell) = self.zones.get(usize::from(zone)) {
            cell.get_or_init(|| {
                Box::new(Zone {
                    rows: (0..ROWS).map(|_| Row::default()).collect(),
                    cells: ZoneCells::default(),
                })
            });
        }
    }

    /// Counts one answer. Only the thread that owns the block calls it.
    pub fn count(&self, answered: &Answered) {
        let at = answered.channel as usize * TYPES.len() + type_index(answered.qtype);
        let Some(zone) = self.zone(answered.zone) else {
            return;
        };
        if let Some(row) = zone.rows.get(at) {
            add(&row.0[rcode_index(answered.rcode)], 1);
        }
        zone.cells.count(answered);
    }

    /// Notes how long `answers` of a zone took each. Only the thread that owns the block calls it.
    pub fn took(&self, zone: u16, duration: Duration, answers: u64) {
        if let Some(zone) = self.zone(zone) {
            zone.cells.latency.record(duration, answers);
        }
    }

    /// What is counted of a zone beside its answers; `None` where it was never opened.
    pub(super) fn cells(&self, zone: u16) -> Option<&ZoneCells> {
        self.zone(zone).map(|zone| &zone.cells)
    }

    fn zone(&self, zone: u16) -> Option<&Zone> {
        let zone = self.zones.get(usize::from(zone)).and_then(OnceLock::get);
        zone.map(|zone| &**zone)
    }

    /// Calls `visit(zone, channel, type index, rcode index, count)` for every cell that is not zero.
    pub fn visit(&self, mut visit: impl FnMut(u16, Channel, usize, usize, u64)) {
        for (zone, cells) in (0u16..).zip(self.zones.iter()) {
            let rows = cells.get().into_iter().flat_map(|zone| zone.rows.iter());
            for (at, row) in rows.enumerate() {
                let Some(&channel) = Channel::ALL.get(at / TYPES.len()) else {
                    continue;
                };
                for (rcode, cell) in row.0.iter().enumerate() {
                    let count = cell.load(Relaxed);
                    if count > 0 {
                        visit(zone, channel, at % TYPES.len(), rcode, count);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_cache_line() {
        assert_eq!(size_of::<Row>(), 64);
        assert_eq!(align_of::<Row>(), 64);
    }

    #[test]
    fn counts_come_back_by_all_their_labels() {
        let answers = Answers::new();
        answers.open(3);
        let answered = |zone, channel, qtype, rcode| Answered {
            zone,
            channel,
            qtype,
            rcode,
            is_denial: false,
            is_stale: false,
            dnssec_ok: false,
            asked_octets: 40,
            sent_octets: 80,
        };
        answers.count(&answered(3, Channel::Tcp6, 28, 3));
        answers.count(&answered(3, Channel::Tcp6, 28, 3));
        answers.count(&answered(NO_ZONE, Channel::Udp4, 4711, 1));
        answers.count(&answered(9, Channel::Udp4, 1, 0)); // never opened: nothing to count in
        let mut seen = Vec::new();
        answers.visit(|zone, channel, qtype, rcode, count| {
            seen.push((zone, channel, TYPES[qtype].1, RCODES[rcode].1, count));
        });
        assert_eq!(
            seen,
            [
                (NO_ZONE, Channel::Udp4, "other", "FORMERR", 1),
                (3, Channel::Tcp6, "AAAA", "NXDOMAIN", 2)
            ]
        );
    }
}
