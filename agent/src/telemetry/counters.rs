// SPDX-License-Identifier: Apache-2.0
//! Counters of what was asked and answered: exact, one block of cells a writer, one plain add a
//! query, summed when they are read.
//!
//! A block has a single writing thread, so a count is a relaxed load and a relaxed store: no
//! locked instruction, no line that two CPUs write. Readers see each cell whole.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Most zones that are told apart over the life of a process.
pub const MAX_ZONES: usize = 256;

/// The zone index of what belongs to no zone: queries that were refused before their name mattered.
pub const NO_ZONE: u16 = 0;

/// Query types with a cell of their own; the last stands for all others.
pub const TYPES: [(u16, &str); 16] = [
    (1, "A"),
    (28, "AAAA"),
    (5, "CNAME"),
    (65, "HTTPS"),
    (15, "MX"),
    (2, "NS"),
    (12, "PTR"),
    (6, "SOA"),
    (33, "SRV"),
    (64, "SVCB"),
    (16, "TXT"),
    (255, "ANY"),
    (43, "DS"),
    (48, "DNSKEY"),
    (35, "NAPTR"),
    (0, "other"),
];

/// Response codes with a cell of their own; the last stands for all others.
pub const RCODES: [(u16, &str); 8] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (16, "BADVERS"),
    (u16::MAX, "other"),
];

/// Transport and family of a client, as they index a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// UDP over IPv4.
    Udp4 = 0,
    /// UDP over IPv6.
    Udp6 = 1,
    /// TCP over IPv4.
    Tcp4 = 2,
    /// TCP over IPv6.
    Tcp6 = 3,
}

impl Channel {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 4] = [Self::Udp4, Self::Udp6, Self::Tcp4, Self::Tcp6];

    /// The channel of a UDP socket of this family.
    #[must_use]
    pub fn udp(is_ipv6: bool) -> Self {
        if is_ipv6 { Self::Udp6 } else { Self::Udp4 }
    }

    /// The channel of a TCP connection of this family.
    #[must_use]
    pub fn tcp(is_ipv6: bool) -> Self {
        if is_ipv6 { Self::Tcp6 } else { Self::Tcp4 }
    }

    /// Label value: `udp` or `tcp`.
    #[must_use]
    pub fn proto(self) -> &'static str {
        match self {
            Self::Udp4 | Self::Udp6 => "udp",
            Self::Tcp4 | Self::Tcp6 => "tcp",
        }
    }

    /// Label value as CoreDNS has it: `1` for IPv4, `2` for IPv6.
    #[must_use]
    pub fn family(self) -> &'static str {
        match self {
            Self::Udp4 | Self::Tcp4 => "1",
            Self::Udp6 | Self::Tcp6 => "2",
        }
    }
}

const ROWS: usize = Channel::ALL.len() * TYPES.len();

/// The cells of one channel and query type, by response code: exactly one cache line, so that no
/// other thread's cells, nor the allocator's, share a line that a worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Row([AtomicU64; RCODES.len()]);

/// The place of a query type in [`TYPES`].
#[must_use]
pub fn type_index(qtype: u16) -> usize {
    match qtype {
        1 => 0,
        28 => 1,
        5 => 2,
        65 => 3,
        15 => 4,
        2 => 5,
        12 => 6,
        6 => 7,
        33 => 8,
        64 => 9,
        16 => 10,
        255 => 11,
        43 => 12,
        48 => 13,
        35 => 14,
        _ => 15,
    }
}

/// The place of a response code in [`RCODES`].
#[must_use]
pub fn rcode_index(rcode: u16) -> usize {
    match rcode {
        0..=5 => usize::from(rcode),
        16 => 6,
        _ => 7,
    }
}

/// Answers of one writing thread, by zone, channel, query type and response code.
#[derive(Debug)]
pub struct Answers {
    zones: Box<[OnceLock<Box<[Row]>>]>,
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
            cell.get_or_init(|| (0..ROWS).map(|_| Row::default()).collect());
        }
    }

    /// Counts one answer. Only the thread that owns the block calls it.
    pub fn count(&self, zone: u16, channel: Channel, qtype: u16, rcode: u16) {
        let at = channel as usize * TYPES.len() + type_index(qtype);
        let rows = self.zones.get(usize::from(zone)).and_then(OnceLock::get);
        if let Some(row) = rows.and_then(|rows| rows.get(at)) {
            add(&row.0[rcode_index(rcode)], 1);
        }
    }

    /// Calls `visit(zone, channel, type index, rcode index, count)` for every cell that is not zero.
    pub fn visit(&self, mut visit: impl FnMut(u16, Channel, usize, usize, u64)) {
        for (zone, rows) in (0u16..).zip(self.zones.iter()) {
            let rows = rows.get().into_iter().flat_map(|rows| rows.iter());
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

/// Adds to a cell that only this thread writes: a load and a store, no locked instruction.
pub fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Takes from a cell that only this thread writes: for cells that say how many there are now.
pub fn subtract(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).saturating_sub(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_rcode_finds_its_own_cell() {
        for (index, &(qtype, name)) in TYPES.iter().enumerate() {
            assert_eq!(type_index(qtype), index, "{name}");
        }
        for (index, &(rcode, name)) in RCODES.iter().enumerate() {
            assert_eq!(rcode_index(rcode), index, "{name}");
        }
        assert_eq!(type_index(999), 15);
        assert_eq!(rcode_index(9), 7);
    }

    #[test]
    fn a_row_is_one_cache_line() {
        assert_eq!(size_of::<Row>(), 64);
        assert_eq!(align_of::<Row>(), 64);
    }

    #[test]
    fn counts_come_back_by_all_their_labels() {
        let answers = Answers::new();
        answers.open(3);
        answers.count(3, Channel::Tcp6, 28, 3);
        answers.count(3, Channel::Tcp6, 28, 3);
        answers.count(NO_ZONE, Channel::Udp4, 4711, 1);
        answers.count(9, Channel::Udp4, 1, 0); // never opened: nothing to count in
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
