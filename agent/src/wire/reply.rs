// SPDX-License-Identifier: Apache-2.0
//! What a client gets, written over its own query: ID, question and letter case are simply left
//! where they are.

use super::answer::{Answer, Standing};
use super::edns::{self, Edns, ExtendedError};
use super::fault::Rejection;
use super::header::{Flags, HEADER};
use super::qtype;
use super::query::Query;

/// How a reply is sent: what limits it, and what we say of ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The largest reply in octets. The buffer must have room for it.
    pub limit: usize,
    /// The UDP size that our OPT record announces, in octets (RFC 6891 section 6.2.3).
    pub udp_size: u16,
    /// What edns-tcp-keepalive tells a client that asked for it, in units of 100 ms
    /// (RFC 7828 section 3.1); `None` over UDP, where the option must not be sent.
    pub keepalive: Option<u16>,
}

/// Writes `answer` behind the question that `message` begins with; returns the reply's length in
/// octets, 0 where the buffer is too short for any reply.
///
/// Flags: QR and RA set, AA clear, RD and CD as the client sent them, AD as the upstream set it
/// where the client sent AD or DO (RFC 6840 section 5.8). What does not fit sets TC and leaves as
/// many whole records as fit (RFC 2181 section 9). What is not fresh says so to a client with EDNS
/// (RFC 8914); the records of a set that takes turns begin with the one that the query's ID names.
pub fn answer(message: &mut [u8], query: &Query, answer: &Answer<'_>, shape: &Shape) -> usize {
    let mut tail = Tail::of(query.edns, shape);
    if answer.standing != Standing::Fresh {
        tail.explain(answer.extended(), answer.flags.rcode());
    }
    let start = query.question_end;
    let room = shape.limit.saturating_sub(start).saturating_sub(tail.len());
    let whole = answer.records.len() <= room;
    let (octets, counts) = if whole {
        (answer.records.len(), answer.counts)
    } else {
        answer.fitting(room)
    };
    let end = start.saturating_add(octets);
    let (Some(to), Some(records)) = (message.get_mut(start..end), answer.records.get(..octets))
    else {
        return 0;
    };
    if answer.turns.count > 1 {
        answer.copy_turned(to, query.id);
    } else {
        to.copy_from_slice(records);
    }
    if answer.standing == Standing::Stale {
        set_ttls(to, answer, Answer::STALE_TTL);
    } else if answer.age > 0 {
        age_ttls(to, answer);
    }
    let mut flags = Flags::QR | Flags::RA | (answer.flags.0 & 0x000f);
    flags |= query.flags.0 & (Flags::RD | Flags::CD);
    flags |= answer.flags.0 & Flags::TC;
    if !whole {
        flags |= Flags::TC;
    }
    let wants_ad = query.flags.has(Flags::AD) || query.edns.is_some_and(|edns| edns.dnssec_ok);
    if wants_ad {
        flags |= answer.flags.0 & Flags::AD;
    }
    finish(message, end, flags, counts, &tail)
}

/// Writes a reply without records: an RCODE and, for a client with EDNS, why.
/// Returns its length in octets.
pub fn failure(
    message: &mut [u8],
    query: &Query,
    rcode: u16,
    why: Option<ExtendedError>,
    shape: &Shape,
) -> usize {
    let mut tail = Tail::of(query.edns, shape);
    tail.explain(why, rcode);
    let flags =
        Flags::QR | Flags::RA | (query.flags.0 & (Flags::RD | Flags::CD)) | (rcode & 0x000f);
    finish(message, query.question_end, flags, [0; 3], &tail)
}

/// Writes what a query that is refused gets; returns its length in octets, 0 where it gets
/// nothing. The question comes back where one could be read.
pub fn reject(message: &mut [u8], rejection: &Rejection, shape: &Shape) -> usize {
    let Some(rcode) = rejection.fault.rcode() else {
        return 0;
    };
    let mut tail = Tail::of(rejection.edns, shape);
    tail.explain(rejection.fault.extended(rejection.qtype), rcode);
    let kept = Flags::OPCODE | Flags::RD | Flags::CD;
    let flags = Flags::QR | (rejection.flags.0 & kept) | (rcode & 0x000f);
    let end = rejection.question_end.max(HEADER);
    let length = finish(message, end, flags, [0; 3], &tail);
    if rejection.question_end == 0
        && let Some(questions) = message.get_mut(4..6)
    {
        questions.copy_from_slice(&[0, 0]);
    }
    length
}

/// Takes `answer.age` from every TTL, each for itself; a TTL does not go below 0.
fn age_ttls(records: &mut [u8], answer: &Answer<'_>) {
    each_ttl(records, answer, |ttl| ttl.saturating_sub(answer.age));
}

/// Gives every record the same TTL.
fn set_ttls(records: &mut [u8], answer: &Answer<'_>, seconds: u32) {
    each_ttl(records, answer, |_| seconds);
}

fn each_ttl(records: &mut [u8], answer: &Answer<'_>, new: impl Fn(u32) -> u32) {
    for offset in answer.offsets() {
        // Behind a cut the offsets go on past the records that were left out.
        let Some(ttl) = records
            .get_mut(offset..)
            .and_then(<[u8]>::first_chunk_mut::<4>)
        else {
            return;
        };
        *ttl = new(u32::from_be_bytes(*ttl)).to_be_bytes();
    }
}

/// Writes the OPT record and the header around what stands between them.
fn finish(
    message: &mut [u8],
    end: usize,
    flags: u16,
    [answers, authorities, additionals]: [u16; 3],
    tail: &Tail,
) -> usize {
    let bytes = tail.bytes();
    let length = end.saturating_add(bytes.len());
    let Some(to) = message.get_mut(end..length) else {
        return 0;
    };
    to.copy_from_slice(bytes);
    let additionals = additionals.saturating_add(u16::from(!bytes.is_empty()));
    // Bytes 0 and 1 are the client's ID, 4 and 5 the count of questions: both stay.
    let Some([_, _, f, g, _, _, a, b, n, o, x, y]) = message.first_chunk_mut::<HEADER>() else {
        return 0;
    };
    [*f, *g] = flags.to_be_bytes();
    [*a, *b] = answers.to_be_bytes();
    [*n, *o] = authorities.to_be_bytes();
    [*x, *y] = additionals.to_be_bytes();
    length
}

/// Room for an OPT record with keepalive (6) and an Extended DNS Error (4 + 2 + text).
const TAIL: usize = 96;

/// The OPT record of a reply: empty for a client without EDNS (RFC 6891 section 7).
struct Tail {
    bytes: [u8; TAIL],
    len: usize,
}

impl Tail {
    fn of(edns: Option<Edns>, shape: &Shape) -> Self {
        let mut tail = Self {
            bytes: [0; TAIL],
            len: 0,
        };
        let Some(edns) = edns else {
            return tail;
        };
        let flags = if edns.dnssec_ok { edns::DO } else { 0 };
        // Root, type, our UDP size, extended RCODE and version 0, flags, length of options.
        tail.push(&[0]);
        tail.push(&qtype::OPT.to_be_bytes());
        tail.push(&shape.udp_size.to_be_bytes());
        tail.push(&[0, 0]);
        tail.push(&flags.to_be_bytes());
        tail.push(&[0, 0]);
        if let (true, Some(timeout)) = (edns.keepalive, shape.keepalive) {
            tail.option(edns::KEEPALIVE, &timeout.to_be_bytes());
        }
        tail
    }

    /// Sets the upper bits of an RCODE above 15 and adds the Extended DNS Error.
    fn explain(&mut self, why: Option<ExtendedError>, rcode: u16) {
        if self.len == 0 {
            return;
        }
        if let Some(extended) = self.bytes.get_mut(5) {
            *extended = u8::try_from(rcode >> 4).unwrap_or(0);
        }
        if let Some(why) = why {
            let text = why.text.as_bytes();
            let mut data = [0; TAIL];
            let [high, low] = why.code.to_be_bytes();
            let end = text.len().saturating_add(2);
            if let Some([a, b, rest @ ..]) = data.get_mut(..end) {
                (*a, *b) = (high, low);
                rest.copy_from_slice(text);
            }
            self.option(edns::EDE, data.get(..end).unwrap_or(&[high, low]));
        }
    }

    /// Appends an option and lengthens the record by it; one that does not fit is left out.
    fn option(&mut self, code: u16, data: &[u8]) {
        if self.len.saturating_add(data.len()).saturating_add(4) > TAIL {
            return;
        }
        self.push(&code.to_be_bytes());
        self.push(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        self.push(data);
        let options = u16::try_from(self.len.saturating_sub(edns::OPT_LEN)).unwrap_or(0);
        if let Some(length) = self.bytes.get_mut(9..edns::OPT_LEN) {
            length.copy_from_slice(&options.to_be_bytes());
        }
    }

    fn push(&mut self, data: &[u8]) {
        let end = self.len.saturating_add(data.len());
        if let Some(to) = self.bytes.get_mut(self.len..end) {
            to.copy_from_slice(data);
            self.len = end;
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}
