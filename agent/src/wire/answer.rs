// SPDX-License-Identifier: Apache-2.0
//! What an upstream said, in the form in which it is kept and sent again.

use super::header::Flags;

/// A response without its header, question and OPT record: everything a reply adds to a query.
///
/// The records are the upstream's octets. Compression pointers into the question stay true, as
/// the question has the same length and the same place in every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Response code, lower four bits, and the flags AD and TC as the upstream set them.
    pub flags: Flags,
    /// Records in the answer, authority and additional sections, OPT not counted.
    pub counts: [u16; 3],
    /// The records of the three sections.
    pub records: &'a [u8],
    /// Where in `records` each record's TTL stands: 16-bit numbers, little-endian.
    pub ttl_offsets: &'a [u8],
    /// Seconds since the upstream answered; every TTL is less by them.
    pub age: u32,
}

impl Answer<'_> {
    /// Bits of [`Self::flags`] that are taken from an upstream.
    pub const KEPT_FLAGS: u16 = Flags::AD | Flags::TC | 0x000f;

    /// The places of the TTLs, in the order of the records.
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        self.ttl_offsets
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&pair| usize::from(u16::from_le_bytes(pair)))
    }

    /// How many whole records fit into `room` octets: their octets, and how many of each section.
    #[must_use]
    pub fn fitting(&self, room: usize) -> (usize, [u16; 3]) {
        let mut octets = 0_usize;
        let mut fit = 0_u16;
        for offset in self.offsets() {
            let Some(end) = self.record_end(offset).filter(|&end| end <= room) else {
                break;
            };
            octets = end;
            fit = fit.saturating_add(1);
        }
        let [answers, authorities, additionals] = self.counts;
        let answers = answers.min(fit);
        fit = fit.saturating_sub(answers);
        let authorities = authorities.min(fit);
        fit = fit.saturating_sub(authorities);
        (octets, [answers, authorities, additionals.min(fit)])
    }

    /// The end of the record whose TTL stands at `offset`: behind the TTL come the length of the
    /// data (16 bits) and the data.
    fn record_end(&self, offset: usize) -> Option<usize> {
        let at = offset.checked_add(4)?;
        let length = self.records.get(at..)?.first_chunk::<2>()?;
        at.checked_add(2)?
            .checked_add(usize::from(u16::from_be_bytes(*length)))
    }
}
