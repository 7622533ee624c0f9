// SPDX-License-Identifier: Apache-2.0
//! The registers of a rule, and the expressions that work on them alone. An octet there is known or
//! not.

use super::kernel::{big, data_value};
use super::packet::{Octet, Packet, UNTRACKED};
use crate::conversation::{attributes, text};

/// Octets of the registers, and of one of the four old, wide ones.
const REGISTERS: usize = 64;
const WIDE: usize = 16;

/// The index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// `RTN_LOCAL`, as `fib daddr type` gives it.
const LOCAL: u32 = 2;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// It hangs on what is not known of the packet.
    Open,
}

impl From<Option<bool>> for Holds {
    fn from(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Open,
        }
    }
}

/// The registers of a rule.
#[derive(Debug)]
pub(super) struct Registers {
    octets: [Octet; REGISTERS],
    /// Where an interface stands, and how wide: an index or a name, of which is known that it is
    /// not `lo`.
    interface: Option<(usize, usize)>,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            octets: [None; REGISTERS],
            interface: None,
        }
    }
}

impl Registers {
    /// Nothing here is known any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, at: usize, octets: impl IntoIterator<Item = Octet>) {
        self.interface = self.interface.filter(|&(place, _)| place != at);
        for (place, octet) in self.octets[at..].iter_mut().zip(octets) {
            *place = octet;
        }
    }

    fn put_known(&mut self, at: usize, octets: &[u8]) {
        self.put(at, octets.iter().copied().map(Some));
    }

    pub(super) fn meta(&mut self, data: &[u8], packet: &Packet) -> Holds {
        let (into, key) = into_and_key(data);
        // It sets a mark or the like.
        let Some(into) = into else {
            return Holds::Yes;
        };
        match key {
            1 => self.put_known(into, &packet.protocol().to_be_bytes()),
            15 => self.put_known(into, &[packet.family()]),
            16 => self.put_known(into, &[packet.proto_number()]),
            _ => self.put(into, [None; WIDE]),
        }
        // The interface that it comes in by, or goes out by: its index, its name.
        let width = match (packet.hook.is_inward(), key) {
            (true, 4) | (false, 5) => 4,
            (true, 6) | (false, 7) => WIDE,
            _ => return Holds::Yes,
        };
        if packet.is_from_here {
            let mut name = [0; WIDE];
            name[..2].copy_from_slice(b"lo");
            let index = LOOPBACK.to_ne_bytes();
            self.put_known(into, if width == WIDE { &name } else { &index });
        } else {
            self.interface = Some((into, width));
        }
        Holds::Yes
    }

    /// An untracked packet has a state; any other question about its connection fails.
    pub(super) fn ct(&mut self, data: &[u8]) -> Holds {
        let (into, key) = into_and_key(data);
        match (into, key) {
            (None, _) => Holds::Yes,
            (Some(into), 0) => {
                self.put_known(into, &UNTRACKED.to_ne_bytes());
                Holds::Yes
            }
            _ => Holds::No,
        }
    }

    pub(super) fn payload(&mut self, data: &[u8], packet: &Packet) -> Holds {
        let (mut into, mut base, mut offset, mut length) = (None, u32::MAX, 0, 0);
        for (kind, value) in attributes(data) {
            match kind {
                1 => into = Some(register(value)),
                2 => base = big(value).unwrap_or(base),
                3 => offset = size(value),
                4 => length = size(value).min(REGISTERS),
                _ => {}
            }
        }
        let Some(into) = into else {
            return Holds::Yes;
        };
        let header = match base {
            1 => packet.network_header(),
            2 => packet.transport_header(),
            _ => Vec::new(),
        };
        let octets = (offset..offset.saturating_add(length)).map(|at| header.get(at).copied()?);
        self.put(into, octets.collect::<Vec<_>>());
        Holds::Yes
    }

    pub(super) fn fib(&mut self, data: &[u8], packet: &Packet) -> Holds {
        let (mut into, mut result, mut flags) = (0, 0, 0);
        for (kind, value) in attributes(data) {
            match kind {
                1 => into = register(value),
                2 => result = big(value).unwrap_or(0),
                3 => flags = big(value).unwrap_or(0),
                _ => {}
            }
        }
        // `NFT_FIB_RESULT_ADDRTYPE` of `NFTA_FIB_F_DADDR`.
        if (result, flags, packet.is_for_here()) == (3, 2, Some(true)) {
            self.put_known(into, &LOCAL.to_ne_bytes());
        } else {
            self.put(into, [None; WIDE]);
        }
        Holds::Yes
    }

    pub(super) fn bitwise(&mut self, data: &[u8]) -> Holds {
        let (mut from, mut into, mut length, mut operation) = (0, 0, 0, 0);
        let (mut mask, mut flip) = (Vec::new(), Vec::new());
        for (kind, value) in attributes(data) {
            match kind {
                1 => from = register(value),
                2 => into = register(value),
                3 => length = size(value).min(REGISTERS),
                4 => mask = data_value(value),
                5 => flip = data_value(value),
                6 => operation = big(value).unwrap_or(0),
                _ => {}
            }
        }
        let octets = (0..length).map(|at| {
            let flip = *flip.get(at)?;
            match (operation, *mask.get(at)?) {
                (0, 0) => Some(flip),
                (0, mask) => Some((self.octets.get(from + at).copied()?)? & mask ^ flip),
                _ => None,
            }
        });
        let octets: Vec<Octet> = octets.collect();
        self.put(into, octets);
        Holds::Yes
    }

    pub(super) fn byteorder(&mut self, data: &[u8]) -> Holds {
        let (mut from, mut into, mut length, mut width) = (0, 0, 0, 1);
        for (kind, value) in attributes(data) {
            match kind {
                1 => from = register(value),
                2 => into = register(value),
                4 => length = size(value).min(REGISTERS),
                5 => width = size(value).clamp(1, 8),
                _ => {}
            }
        }
        let octets: Vec<Octet> = (0..length)
            .map(|at| {
                let mirrored = at / width * width + (width - 1 - at % width);
                // A big-endian machine's own order is the network's.
                let source = if cfg!(target_endian = "big") {
                    at
                } else {
                    mirrored
                };
                self.octets.get(from + source).copied()?
            })
            .collect();
        self.put(into, octets);
        Holds::Yes
    }

    pub(super) fn compare(&self, data: &[u8]) -> Holds {
        let (mut from, mut operation, mut wanted) = (0, 0, Vec::new());
        for (kind, value) in attributes(data) {
            match kind {
                1 => from = register(value),
                2 => operation = big(value).unwrap_or(0),
                3 => wanted = data_value(value),
                _ => {}
            }
        }
        if operation < 2 {
            let is_equal = self.is_equal(from, &wanted);
            return is_equal.map(|is_equal| is_equal == (operation == 0)).into();
        }
        let order = self
            .known(from, wanted.len())
            .map(|octets| octets.cmp(&wanted));
        order
            .map(|order| match operation {
                2 => order.is_lt(),
                3 => order.is_le(),
                4 => order.is_gt(),
                _ => order.is_ge(),
            })
            .into()
    }

    pub(super) fn range(&self, data: &[u8]) -> Holds {
        let (mut from, mut operation) = (0, 0);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for (kind, value) in attributes(data) {
            match kind {
                1 => from = register(value),
                2 => operation = big(value).unwrap_or(0),
                3 => low = data_value(value),
                4 => high = data_value(value),
                _ => {}
            }
        }
        let octets = self.known(from, low.len());
        octets
            .map(|octets| (low <= octets && octets <= high) == (operation == 0))
            .into()
    }

    /// Whether nothing is known of what a place begins with.
    pub(super) fn is_blank(&self, from: usize) -> bool {
        let is_interface = self.interface.is_some_and(|(place, _)| place == from);
        self.octets[from].is_none() && !is_interface
    }

    /// What stands from a place on, of this length, where all of it is known.
    pub(super) fn known(&self, from: usize, length: usize) -> Option<Vec<u8>> {
        self.octets
            .get(from..)?
            .get(..length)?
            .iter()
            .copied()
            .collect()
    }

    /// Whether what stands from a place on begins so; `None` where that is open.
    pub(super) fn is_equal(&self, from: usize, wanted: &[u8]) -> Option<bool> {
        let octets = &self.octets[from..];
        let mut is_open = octets.len() < wanted.len();
        for (octet, wanted) in octets.iter().zip(wanted) {
            match octet {
                Some(octet) if octet != wanted => return Some(false),
                Some(_) => {}
                None => is_open = true,
            }
        }
        let is_not_loopback = self.interface.is_some_and(|(place, width)| {
            let at = place.checked_sub(from);
            let wanted = at.and_then(|at| wanted.get(at..));
            wanted.is_some_and(|wanted| is_loopback(&wanted[..width.min(wanted.len())], width))
        });
        if is_not_loopback {
            return Some(false);
        }
        (!is_open).then_some(true)
    }

    /// A value for a register.
    pub(super) fn load(&mut self, register: u32, data: &[u8]) {
        self.put_known(place(register), &data_value(data));
    }
}

/// Whether it is the index of `lo`, or its name. A name that is
/// compared without its end is the beginning of many.
fn is_loopback(interface: &[u8], width: usize) -> bool {
    match width {
        WIDE => interface.contains(&0) && text(interface) == "lo",
        _ => interface == LOOPBACK.to_ne_bytes(),
    }
}

fn size(value: &[u8]) -> usize {
    big(value).map_or(0, |size| size as usize)
}

pub(super) fn register(value: &[u8]) -> usize {
    place(big(value).unwrap_or(0))
}

/// Where a register begins: the four of sixteen octets have the numbers 1 to 4, the sixteen of four
/// octets, which lie in the same place, 8 to 23.
fn place(register: u32) -> usize {
    let place = match register {
        1..=4 => (register - 1) * 16,
        8..=23 => (register - 8) * 4,
        _ => 0,
    };
    place as usize
}

/// What `meta` and `ct` say: the register that they load, if any, and what they load there.
fn into_and_key(data: &[u8]) -> (Option<usize>, u32) {
    let (mut into, mut key) = (None, u32::MAX);
    for (kind, value) in attributes(data) {
        match kind {
            1 => into = Some(register(value)),
            2 => key = big(value).unwrap_or(key),
            _ => {}
        }
    }
    (into, key)
}
