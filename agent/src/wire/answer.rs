// SPDX-License-Identifier: Apache-2.0
//! What an upstream said, in the form in which it is kept and sent again.

use super::edns::ExtendedError;
use super::header::Flags;
use super::{qtype, rcode};

/// What an answer is worth when it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Its lifetime has not ended.
    #[default]
    Fresh,
    /// Its lifetime has ended, and no upstream answers (RFC 8767).
    Stale,
    /// The upstreams failed a moment ago (RFC 9520).
    Failure,
    /// A failure that the upstreams have just answered with.
    PassedOn,
}

/// Address records of one set that may be sent in any order: every other one comes to stand first
/// in turn. They have the same owner in the same octets and the same length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Where in the records the set begins.
    pub at: u16,
    /// How many records it has; 0 and 1 have no turns.
    pub count: u16,
    /// Octets of each.
    pub each: u16,
}

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
    /// What it is worth.
    pub standing: Standing,
    /// The set whose records take turns.
    pub turns: Turns,
}

impl Answer<'_> {
    /// NOERROR without a record.
    pub const NOTHING: Answer<'static> = Answer {
        flags: Flags(0),
        counts: [0; 3],
        records: &[],
        ttl_offsets: &[],
        age: 0,
        standing: Standing::Fresh,
        turns: Turns {
            at: 0,
            count: 0,
            each: 0,
        },
    };

    /// The TTL of every record of a stale answer in seconds (RFC 8767 section 4).
    pub const STALE_TTL: u32 = 30;

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

    /// What a client that wonders is told.
    #[must_use]
    pub fn extended(&self) -> Option<ExtendedError> {
        match self.standing {
            Standing::Fresh => None,
            Standing::Stale if self.flags.rcode() == rcode::NXDOMAIN => {
                Some(ExtendedError::STALE_NXDOMAIN)
            }
            Standing::Stale => Some(ExtendedError::STALE),
            Standing::Failure => Some(ExtendedError::CACHED_ERROR),
            Standing::PassedOn => Some(ExtendedError::UPSTREAM_FAILED),
        }
    }

    /// The A or AAAA records that the answer section ends with and that may take turns: two or more
    /// whose owners are one and the same pointer. A name behind them that points into them finds
    /// the same octets whichever stands there.
    #[must_use]
    pub fn find_turns(&self) -> Turns {
        /// Octets of a record beside its data: pointer, type, class, TTL, length.
        const FRAME: usize = 12;
        let mut run = Turns::default();
        let mut set = None;
        let mut at = 0_usize;
        let [answers, ..] = self.counts;
        for offset in self.offsets().take(usize::from(answers)) {
            let Some(end) = self.record_end(offset) else {
                return Turns::default();
            };
            let record = self.records.get(at..end).unwrap_or(&[]);
            let found = match record {
                [a @ 0xc0..=0xff, b, 0, kind, 0, 1, ..]
                    if matches!(
                        (u16::from(*kind), record.len().checked_sub(FRAME)),
                        (qtype::A, Some(4)) | (qtype::AAAA, Some(16))
                    ) =>
                {
                    Some((*a, *b, *kind))
                }
                _ => None,
            };
            if found.is_some() && found == set {
                run.count = run.count.saturating_add(1);
            } else {
                let short = |number: usize| u16::try_from(number).unwrap_or(0);
                run = Turns {
                    at: short(at),
                    count: u16::from(found.is_some()),
                    each: short(record.len()),
                };
            }
            set = found;
            at = end;
        }
        if run.count < 2 {
            return Turns::default();
        }
        run
    }

    /// Copies the first `to.len()` octets of the records; of the set that takes turns record number
    /// `turn`, counted round and round, stands first.
    pub(super) fn copy_turned(&self, to: &mut [u8], turn: u16) {
        let Turns { at, count, each } = self.turns;
        let (start, each) = (usize::from(at), usize::from(each));
        let set = start..start.saturating_add(usize::from(count).saturating_mul(each));
        let ahead = usize::from(turn.checked_rem(count).unwrap_or(0)).saturating_mul(each);
        let cut = set.start.saturating_add(ahead);
        let mut rest = to;
        for part in [
            0..set.start,
            cut..set.end,
            set.start..cut,
            set.end..usize::MAX,
        ] {
            let end = part.end.min(self.records.len());
            let from = self.records.get(part.start..end).unwrap_or(&[]);
            let length = from.len().min(rest.len());
            let (here, behind) = rest.split_at_mut(length);
            here.copy_from_slice(from.get(..length).unwrap_or(&[]));
            rest = behind;
        }
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
