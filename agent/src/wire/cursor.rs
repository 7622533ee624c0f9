// SPDX-License-Identifier: Apache-2.0
//! Reading forward through a message, never past its end.

use super::header::HEADER;
use super::name::{MAX_LABEL, MAX_NAME};

/// Compression pointers in one name. More than one a label is no compression but work for the
/// reader: without a limit 65,535 octets of pointers cost tens of millions of steps. The value is
/// that of the library of CoreDNS; Unbound has 256.
const MAX_POINTERS: usize = 126;

/// The octets of a response that are others in the replies made of it: the letter case of the
/// question and the TTLs. A name that was read from them would not stay the same name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changing<'a> {
    /// Where the question ends and the records begin.
    pub(super) records: usize,
    /// Where behind `records` the TTLs stand: 16-bit numbers, little-endian, ascending.
    pub(super) ttls: &'a [u8],
}

impl Changing<'_> {
    /// A query is read once and not kept.
    pub(super) const NOTHING: Self = Self {
        records: 0,
        ttls: &[],
    };

    /// Whether a TTL has an octet in a range.
    fn has_ttl_in(&self, start: usize, end: usize) -> bool {
        let Some(end) = end.checked_sub(self.records).filter(|&end| end > 0) else {
            return false;
        };
        let start = start.saturating_sub(self.records);
        let place = |pair: &[u8; 2]| usize::from(u16::from_le_bytes(*pair));
        let (ttls, _) = self.ttls.as_chunks::<2>();
        let behind = ttls.partition_point(|pair| place(pair).saturating_add(4) <= start);
        ttls.get(behind).is_some_and(|pair| place(pair) < end)
    }
}

/// A place in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.message.get(self.at..)?.first_chunk::<2>()?;
        self.at = self.at.saturating_add(2);
        Some(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let bytes = self.message.get(self.at..)?.first_chunk::<4>()?;
        self.at = self.at.saturating_add(4);
        Some(u32::from_be_bytes(*bytes))
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// Passes a name without compression: the one form a question may have, as nothing stands
    /// before it that a pointer could mean.
    pub(super) fn plain_name(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let mut at = start;
        loop {
            let len = usize::from(*self.message.get(at)?);
            if len > MAX_LABEL {
                return None;
            }
            at = at.saturating_add(len).saturating_add(1);
            if at.saturating_sub(start) > MAX_NAME {
                return None;
            }
            if len == 0 {
                let name = self.message.get(start..at)?;
                self.at = at;
                return Some(name);
            }
        }
    }

    /// Passes a name that may be compressed and checks all of it (RFC 1035 section 4.1.4): every
    /// pointer goes back, behind the header, to labels that end before the name that points at
    /// them; with its pointers followed the name has at most 255 octets and [`MAX_POINTERS`].
    ///
    /// What an upstream said is sent again behind other headers, with other letters in the
    /// question and other TTLs. So no name is read from the header or from TTLs, and no pointer
    /// from within the question.
    pub(super) fn name(&mut self, changing: Changing<'_>) -> Option<()> {
        let mut at = self.at;
        // Where the labels under way begin, and the place they must not reach.
        let mut start = at;
        let mut bound = self.message.len();
        let mut octets = 0_usize;
        let mut pointers = 0_usize;
        let mut end = None;
        loop {
            if at >= bound {
                return None;
            }
            let len = usize::from(*self.message.get(at)?);
            match len {
                0 => {
                    let behind = at.saturating_add(1);
                    if pointers > 0 && changing.has_ttl_in(start, behind) {
                        return None;
                    }
                    self.at = end.unwrap_or(behind);
                    return Some(());
                }
                1..=MAX_LABEL => {
                    octets = octets.saturating_add(len).saturating_add(1);
                    // The root label is still to come.
                    if octets >= MAX_NAME {
                        return None;
                    }
                    at = at.saturating_add(len).saturating_add(1);
                }
                0xc0.. => {
                    let low = usize::from(*self.message.get(at.saturating_add(1))?);
                    let target = ((len & 0x3f) << 8) | low;
                    pointers = pointers.saturating_add(1);
                    if target < HEADER || target >= start || pointers > MAX_POINTERS {
                        return None;
                    }
                    let behind = at.saturating_add(2);
                    let changes = at < changing.records || changing.has_ttl_in(start, behind);
                    if pointers > 1 && changes {
                        return None;
                    }
                    end.get_or_insert(behind);
                    bound = start;
                    start = target;
                    at = target;
                }
                _ => return None,
            }
        }
    }
}
