// SPDX-License-Identifier: Apache-2.0
//! Messages to an upstream and from it: a question as it is sent, and a response that belongs to it.

use crate::telemetry::cells::Outcome;
use crate::wire::answer::Answer;
use crate::wire::chain::Chain;
use crate::wire::edns;
use crate::wire::header::{Flags, HEADER, Header};
use crate::wire::name::MAX_NAME;
use crate::wire::plain::PlainRecord;
use crate::wire::question::Question;
use crate::wire::response::{self, Expected, Lie, Response};
use crate::wire::{qtype, rcode};

/// The UDP size that a question announces in octets. It says nothing about an answer over TCP.
const UDP_SIZE: u16 = 1232;
/// Octets of a type and a class.
const TYPE_AND_CLASS: usize = 4;

/// A question section as it is sent and must come back.
pub(super) struct Section {
    octets: [u8; MAX_NAME + TYPE_AND_CLASS],
    len: usize,
}

impl Section {
    pub(super) fn of(question: &Question) -> Self {
        let name = question.name();
        let mut section = Self {
            octets: [0; MAX_NAME + TYPE_AND_CLASS],
            len: name.len() + TYPE_AND_CLASS,
        };
        let [a, b] = question.qtype().to_be_bytes();
        let [c, d] = question.qclass().to_be_bytes();
        let (start, rest) = section.octets.split_at_mut(name.len());
        start.copy_from_slice(name);
        rest[..TYPE_AND_CLASS].copy_from_slice(&[a, b, c, d]);
        section
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// Appends a question as a message, as it goes in a datagram.
pub(super) fn write(question: &Question, id: u16, message: &mut Vec<u8>) {
    let checking_disabled = if question.checking_disabled() {
        Flags::CD
    } else {
        0
    };
    let header = Header {
        id,
        // AD asks to be told whether the data was validated (RFC 6840 section 5.7).
        flags: Flags(Flags::RD | Flags::AD | checking_disabled),
        questions: 1,
        additionals: 1,
        ..Header::default()
    };
    let mut head = [0; HEADER];
    header.write(&mut head);
    let [size_high, size_low] = UDP_SIZE.to_be_bytes();
    let [type_high, type_low] = qtype::OPT.to_be_bytes();
    let dnssec_ok = if question.dnssec_ok() { edns::DO } else { 0 };
    let [do_high, do_low] = dnssec_ok.to_be_bytes();
    message.extend_from_slice(&head);
    message.extend_from_slice(Section::of(question).octets());
    message.extend_from_slice(&[
        0, type_high, type_low, size_high, size_low, 0, 0, do_high, do_low, 0, 0,
    ]);
}

/// Appends a question with its length in front, as it goes over TCP (RFC 1035 section 4.2.2).
pub(super) fn write_frame(question: &Question, id: u16, octets: &mut Vec<u8>) {
    let length = HEADER + question.name().len() + TYPE_AND_CLASS + edns::OPT_LEN;
    octets.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    write(question, id, octets);
}

/// A response that belongs to its question.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) response: Response,
    /// The message, and behind it where the TTLs stand.
    octets: Vec<u8>,
    message_len: usize,
}

impl Exchanged {
    /// Reads a message that came after a question.
    pub(super) fn read(message: &[u8], question: &Question, id: u16) -> Result<Self, Outcome> {
        let message_len = message.len();
        let len = message_len + response::offsets_needed(message);
        let mut octets = Vec::with_capacity(len);
        octets.extend_from_slice(message);
        octets.resize(len, 0);
        let (message, offsets) = octets.split_at_mut(message_len);
        let section = Section::of(question);
        let expected = Expected {
            id,
            question: section.octets(),
        };
        match Response::parse(message, &expected, offsets) {
            Ok(mut response) => {
                response.shorten(message, offsets);
                Ok(Self {
                    response,
                    octets,
                    message_len,
                })
            }
            Err(Lie::Malformed) => Err(Outcome::Malformed),
            Err(Lie::WrongId) => Err(Outcome::WrongId),
            Err(Lie::WrongQuestion) => Err(Outcome::WrongQuestion),
        }
    }

    /// Calls `each(section, record)` for the records of the answer and the authority section.
    pub(super) fn records<'a>(&'a self, each: impl FnMut(usize, &PlainRecord<'a>)) -> Option<()> {
        self.response.plain_records(self.message(), each)
    }

    /// Raises every TTL that is less than `least` seconds to that.
    pub(super) fn raise_ttls(&mut self, least: u32) {
        let (message, offsets) = self.octets.split_at_mut(self.message_len);
        self.response.raise_ttls(message, offsets, least);
    }

    /// The response as it is kept and sent on.
    pub(super) fn answer(&self) -> Answer<'_> {
        let (message, offsets) = self.octets.split_at(self.message_len);
        self.response.answer(message, offsets)
    }

    fn message(&self) -> &[u8] {
        &self.octets[..self.message_len]
    }

    /// How the try ended. Over TCP nothing has to be cut, so a server that does it is to be seen.
    pub(super) fn outcome(&self) -> Outcome {
        if self.response.flags.has(Flags::TC) {
            Outcome::Truncated
        } else {
            Outcome::Answered
        }
    }

    /// The SOA that it denies with, its names in full, and where in it the TTL stands.
    pub(super) fn soa(&self) -> Option<(Vec<u8>, usize)> {
        let (octets, length, ttl_at) = self.response.plain_soa(self.message())?;
        Some((octets.get(..length)?.to_vec(), ttl_at))
    }

    /// Whether its CNAMEs lead nowhere.
    pub(super) fn is_loop(&self) -> bool {
        self.response.chain == Chain::Loop
    }

    /// Whether the server could or would not answer: another may.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.response.rcode,
            rcode::SERVFAIL | rcode::REFUSED | rcode::NOTIMP
        ) || self.response.rcode > 15
    }
}
