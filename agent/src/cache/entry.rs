// SPDX-License-Identifier: Apache-2.0
//! One cached response as octets: a fixed head, the question, the records, the places of the TTLs.
//!
//! ```text
//! | stored 4 | expires 4 | zone 2 | flags 2 | counts 3x2 | records 2 | ttls 2 | question 2 |
//! | question … | records … | TTL offsets, 2 each … |
//! ```
//! Numbers are in the machine's order; nothing here leaves the process.

use crate::wire::answer::Answer;
use crate::wire::header::Flags;
use crate::wire::question::Question;

use super::Tick;

/// Length of the fixed head in octets.
const HEAD: usize = 24;

/// A response to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// What was asked.
    pub question: &'a Question,
    /// What the upstream said.
    pub answer: Answer<'a>,
    /// The zone it counts for.
    pub zone: u16,
    /// When it came.
    pub stored: Tick,
    /// When its lifetime ends; [`Tick::NEVER`] for what is kept for good.
    pub expires: Tick,
}

impl Draft<'_> {
    /// The entry's length in octets.
    pub(super) fn len(&self) -> usize {
        HEAD + self.question.as_octets().len()
            + self.answer.records.len()
            + self.answer.ttl_offsets.len()
    }

    /// Writes the entry; `to` has [`Self::len`] octets.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let [answers, authorities, additionals] = self.answer.counts;
        let question = self.question.as_octets();
        // Records come from one message and a question has at most 258 octets: all fit 16 bits.
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes();
        to.clear();
        to.extend(self.stored.0.to_ne_bytes());
        to.extend(self.expires.0.to_ne_bytes());
        to.extend(self.zone.to_ne_bytes());
        to.extend(self.answer.flags.0.to_ne_bytes());
        to.extend(answers.to_ne_bytes());
        to.extend(authorities.to_ne_bytes());
        to.extend(additionals.to_ne_bytes());
        to.extend(short(self.answer.records.len()));
        to.extend(short(self.answer.ttl_offsets.len() / 2));
        to.extend(short(question.len()));
        to.extend(question);
        to.extend(self.answer.records);
        to.extend(self.answer.ttl_offsets);
    }
}

/// Whether `octets`, an entry, answers the question `wanted` ([`Question::as_octets`]).
pub(super) fn is_for(octets: &[u8], wanted: &[u8]) -> bool {
    octets.get(HEAD..HEAD + wanted.len()) == Some(wanted)
        && octets.get(22..HEAD) == Some(&u16::try_from(wanted.len()).unwrap_or(0).to_ne_bytes())
}

/// A cached response, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    stored: Tick,
    expires: Tick,
    zone: u16,
    flags: Flags,
    counts: [u16; 3],
    question: &'a [u8],
    records: &'a [u8],
    ttl_offsets: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads what [`Draft::write`] wrote; `None` for anything else.
    pub(super) fn read(octets: &'a [u8]) -> Option<Self> {
        let (head, rest) = octets.split_first_chunk::<HEAD>()?;
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let (question, rest) = rest.split_at_checked(usize::from(half(22)))?;
        let (records, rest) = rest.split_at_checked(usize::from(half(18)))?;
        let ttl_offsets = rest.get(..usize::from(half(20)) * 2)?;
        Some(Self {
            stored: Tick(word(0)),
            expires: Tick(word(4)),
            zone: half(8),
            flags: Flags(half(10)),
            counts: [half(12), half(14), half(16)],
            question,
            records,
            ttl_offsets,
        })
    }

    /// What was asked, as [`Question::as_octets`] has it.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        self.question
    }

    /// The lower-case name that was asked for, in wire form.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        Question::name_of(self.question)
    }

    /// The zone that the entry counts for.
    #[must_use]
    pub fn zone(&self) -> u16 {
        self.zone
    }

    /// The response code, which is below 16 for everything that is kept.
    #[must_use]
    pub fn rcode(&self) -> u16 {
        self.flags.rcode()
    }

    /// When the upstream answered.
    #[must_use]
    pub fn stored(&self) -> Tick {
        self.stored
    }

    /// When the entry's lifetime ends.
    #[must_use]
    pub fn expires(&self) -> Tick {
        self.expires
    }

    /// Whether the entry's lifetime has not ended.
    #[must_use]
    pub fn is_fresh(&self, now: Tick) -> bool {
        now < self.expires
    }

    /// What to send at `now`.
    #[must_use]
    pub fn answer(&self, now: Tick) -> Answer<'a> {
        let age = if self.expires == Tick::NEVER {
            0
        } else {
            now.seconds_since(self.stored)
        };
        Answer {
            flags: self.flags,
            counts: self.counts,
            records: self.records,
            ttl_offsets: self.ttl_offsets,
            age,
        }
    }
}
