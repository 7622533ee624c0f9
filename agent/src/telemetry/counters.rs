// SPDX-License-Identifier: Apache-2.0
//! Counters of what was asked and answered: exact, one block of cells a writer, one plain add a
//! query, summed when they are read.
//!
//! A block has a single writing thread, so a count is a relaxed load and a relaxed store: no
//! locked instruction, no line that two CPUs write. Readers see each cell whole.

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

    /// Whether it is TCP.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
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

/// One answer, as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The zone it counts for.
    pub zone: u16,
    /// How its client asked.
    pub channel: Channel,
    /// What its client asked for.
    pub qtype: u16,
    /// What the client was told.
    pub rcode: u16,
    /// It says that there is no such name, or nothing of the type.
    pub is_denial: bool,
    /// Its lifetime has ended, and it was put back as no upstream answered.
    pub is_stale: bool,
    /// The client wants DNSSEC's records (the DO bit, RFC 3225).
    pub dnssec_ok: bool,
    /// The query's length in octets.
    pub asked_octets: usize,
    /// The answer's length in octets.
    pub sent_octets: usize,
}

impl Answered {
    /// An answer that was given without regard to its query's name; what else is known of one comes
    /// on top. `octets` are the query's and the answer's.
    #[must_use]
    pub fn of(channel: Channel, qtype: u16, rcode: u16, octets: [usize; 2]) -> Self {
        let [asked_octets, sent_octets] = octets;
        Self {
            zone: NO_ZONE,
            channel,
            qtype,
            rcode,
            is_denial: false,
            is_stale: false,
            dnssec_ok: false,
            asked_octets,
            sent_octets,
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
}
