// SPDX-License-Identifier: Apache-2.0
//! One cached response as octets: a fixed head, the question, the records, the places of the TTLs.
//!
//! ```text
//! | stored 4 | expires 4 | dies 4 | zone 2 | flags 2 | counts 3x2 | records 2 | ttls 2 | question 2 |
//! | early 2 | turns: at 2, count 2, each 1 | standing 1 | upstream 2 |
//! | question … | records … | TTL offsets, 2 each … |
//! ```
//! Numbers are in the machine's order; nothing here leaves the process.

use crate::wire::answer::{Answer, Standing, Turns};
use crate::wire::header::Flags;
use crate::wire::question::Question;

use super::{Tick, key};

/// Length of the fixed head in octets.
const HEAD: usize = 38;
const STALE: u8 = Standing::Stale as u8;
const FAILURE: u8 = Standing::Failure as u8;
/// Where in it the length of the question stands.
const QUESTION_LEN: usize = 26;

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
    /// When it is of no use any more, not even as a stale answer.
    pub dies: Tick,
    /// How long before [`Self::expires`] it is due to be asked for again, in ticks; 0 is never.
    pub early: u16,
    /// The upstream that said it, by the index it has in counters.
    pub upstream: u16,
}

impl<'a> Draft<'a> {
    /// An answer that is of no use beyond its lifetime, and that nobody need ask for before.
    #[must_use]
    pub fn new(question: &'a Question, answer: Answer<'a>, zone: u16, lifetime: [Tick; 2]) -> Self {
        let [stored, expires] = lifetime;
        Self {
            question,
            answer,
            zone,
            stored,
            expires,
            dies: expires,
            early: 0,
            upstream: 0,
        }
    }

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
        to.extend(self.dies.0.to_ne_bytes());
        to.extend(self.zone.to_ne_bytes());
        to.extend(self.answer.flags.0.to_ne_bytes());
        to.extend(answers.to_ne_bytes());
        to.extend(authorities.to_ne_bytes());
        to.extend(additionals.to_ne_bytes());
        to.extend(short(self.answer.records.len()));
        to.extend(short(self.answer.ttl_offsets.len() / 2));
        to.extend(short(question.len()));
        to.extend(self.early.to_ne_bytes());
        let turns = self.answer.turns;
        to.extend(turns.at.to_ne_bytes());
        to.extend(turns.count.to_ne_bytes());
        // Records of addresses, which have 16 or 28 octets.
        to.push(u8::try_from(turns.each).unwrap_or(0));
        to.push(self.answer.standing as u8);
        to.extend(self.upstream.to_ne_bytes());
        to.extend(question);
        to.extend(self.answer.records);
        to.extend(self.answer.ttl_offsets);
    }
}

/// Whether `octets`, an entry, answers the question `wanted` ([`Question::as_octets`]).
pub(super) fn is_for(octets: &[u8], wanted: &[u8]) -> bool {
    octets.get(HEAD..HEAD + wanted.len()) == Some(wanted) && has_question_of(octets, wanted.len())
}

/// Whether `octets`, an entry, denies the name of the question `wanted`, whatever its type.
pub(super) fn is_denial_for(octets: &[u8], wanted: &[u8]) -> bool {
    let (name, [_, _, flags]) = Question::parts_of(wanted);
    let [high, low] = key::DENIAL.to_be_bytes();
    let Some(behind) = octets.get(HEAD + name.len()..) else {
        return false;
    };
    behind.first_chunk() == Some(&[high, low, flags])
        && has_question_of(octets, wanted.len())
        && octets.get(HEAD..HEAD + name.len()) == Some(name)
}

/// Whether `octets`, an entry, is about this name.
pub(super) fn is_about(octets: &[u8], name: &[u8]) -> bool {
    let entry = Entry::read(octets);
    entry.is_some_and(|entry| entry.name() == name)
}

fn has_question_of(octets: &[u8], len: usize) -> bool {
    let len = u16::try_from(len).unwrap_or(0).to_ne_bytes();
    octets.get(QUESTION_LEN..QUESTION_LEN + 2) == Some(&len)
}

/// A cached response, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    stored: Tick,
    expires: Tick,
    dies: Tick,
    zone: u16,
    flags: Flags,
    counts: [u16; 3],
    early: u16,
    turns: Turns,
    standing: Standing,
    upstream: u16,
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
        let (question, rest) = rest.split_at_checked(usize::from(half(QUESTION_LEN)))?;
        let (records, rest) = rest.split_at_checked(usize::from(half(22)))?;
        let ttl_offsets = rest.get(..usize::from(half(24)) * 2)?;
        Some(Self {
            stored: Tick(word(0)),
            expires: Tick(word(4)),
            dies: Tick(word(8)),
            zone: half(12),
            flags: Flags(half(14)),
            counts: [half(16), half(18), half(20)],
            early: half(28),
            turns: Turns {
                at: half(30),
                count: half(32),
                each: u16::from(head[34]),
            },
            standing: match head[35] {
                STALE => Standing::Stale,
                FAILURE => Standing::Failure,
                _ => Standing::Fresh,
            },
            upstream: half(36),
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

    /// The type that was asked for; `None` where the entry denies the name for every type.
    #[must_use]
    pub fn qtype(&self) -> Option<u16> {
        let (_, [high, low, _]) = Question::parts_of(self.question);
        Some(u16::from_be_bytes([high, low])).filter(|&qtype| qtype != key::DENIAL)
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

    /// When the entry is of no use any more, not even as a stale answer.
    #[must_use]
    pub fn dies(&self) -> Tick {
        self.dies
    }

    /// What the entry is worth while it is fresh: [`Standing::Stale`] where an answer whose lifetime
    /// has ended was put back for a while.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The upstream that said it, by the index it has in counters.
    #[must_use]
    pub fn upstream(&self) -> u16 {
        self.upstream
    }

    /// Whether there are records in the answer section.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        let [answers, ..] = self.counts;
        answers > 0
    }

    /// Whether it says that there is no such name, nothing of the type, or that nobody knows: what
    /// CoreDNS keeps in its cache of denials.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        self.rcode() != 0 || !self.has_answers()
    }

    /// Whether the entry, if it is asked for often, should be asked for upstream.
    #[must_use]
    pub fn is_ending(&self, now: Tick) -> bool {
        self.early > 0 && self.expires.0.saturating_sub(now.0) <= u32::from(self.early)
    }

    /// Whether the entry is an upstream's answer, beyond its lifetime, that may still be sent where
    /// no upstream answers.
    #[must_use]
    pub fn is_stale(&self, now: Tick) -> bool {
        !self.is_fresh(now) && now < self.dies && self.standing != Standing::Failure
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
            standing: self.standing,
            turns: self.turns,
        }
    }
}
