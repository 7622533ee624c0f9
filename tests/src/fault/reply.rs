// SPDX-License-Identifier: Apache-2.0
//! Good and bad responses, written octet by octet.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Asked;
use crate::frames;
use crate::query::{AA, Edns, QR, RA, RD, TC, wire_name};

/// The address in good A records (RFC 5737).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The address in good AAAA records (RFC 3849).
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// TTL of good records, in seconds.
const TTL: u32 = 30;
/// A name that nobody asks for.
const ELSEWHERE: &str = "elsewhere.example.net";
const A: u16 = 1;
const SOA: u16 = 6;
const NULL: u16 = 10;
const AAAA: u16 = 28;

/// A response to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A good answer with one record: [`ADDRESS`] for A, [`ADDRESS6`] for AAAA; NODATA with SOA
    /// for other types. TTL 30.
    Address,
    /// The same with this TTL; values above 2^31 are for RFC 2181 section 8 to judge.
    AddressWithTtl(u32),
    /// This message, its length as it should be.
    Bytes(Vec<u8>),
    /// 65,535 octets: a record whose data is a chain of compression pointers that ends in a loop,
    /// and thousands of records whose names begin at the chain's end.
    CompressionLoops,
    /// These octets, the length among them; over UDP they are sent as they are.
    Frame(Vec<u8>),
    /// So many octets without sense, their ID the right one.
    Garbage(usize),
    /// A good answer whose TCP length says one octet more or less, as this says.
    Length(i8),
    /// So many A records, 198.18.0.0 and following.
    Many(u16),
    /// NXDOMAIN or NODATA (rcode 3 or 0) with a SOA record: its TTL, its MINIMUM.
    Negative {
        /// The response code.
        rcode: u8,
        /// TTL of the SOA record, in seconds.
        ttl: u32,
        /// MINIMUM of the SOA record, in seconds (RFC 2308 section 4).
        minimum: u32,
    },
    /// A good answer without a question section.
    NoQuestion,
    /// Not yet a response: a good answer with QR clear.
    NoResponse,
    /// A good answer with an OPT record between two other records of the additional section.
    OptInTheMiddle,
    /// A good answer, the letter case of the question's name turned round.
    OtherCase,
    /// The record belongs to another name.
    OtherName,
    /// A response code, without any record.
    Rcode(u8),
    /// TC set, and no record.
    Truncated,
    /// A good answer with two OPT records, which is none (RFC 6891 section 6.1.1).
    TwoOpts,
    /// A good answer to a question of its own, with another ID.
    Unasked,
    /// A good answer with another ID.
    WrongId,
    /// A good answer with another question.
    WrongQuestion,
    /// A good answer to another query type.
    WrongType,
}

impl Reply {
    /// The message with its TCP length.
    pub(super) fn frame(&self, asked: &Asked) -> Vec<u8> {
        let message = self.message(asked);
        match self {
            Self::Frame(_) => message,
            Self::Length(by) => {
                let mut frame = frames::frame(&message);
                let length = u16::from_be_bytes([frame[0], frame[1]]);
                let wrong = length.wrapping_add_signed(i16::from(*by));
                frame[..2].copy_from_slice(&wrong.to_be_bytes());
                frame
            }
            _ => frames::frame(&message),
        }
    }

    /// The message.
    pub(super) fn message(&self, asked: &Asked) -> Vec<u8> {
        let mut answer = Answer::to(asked);
        match self {
            Self::Bytes(bytes) | Self::Frame(bytes) => return bytes.clone(),
            Self::CompressionLoops => return compression_loops(answer),
            Self::Garbage(length) => return garbage(&answer, *length, asked.number),
            Self::Unasked => return unasked_message(),
            Self::Address | Self::Length(_) => answer.good(TTL),
            Self::AddressWithTtl(ttl) => answer.good(*ttl),
            Self::Many(count) => {
                for n in 0..*count {
                    let [high, low] = n.to_be_bytes();
                    answer.record(&POINTER, A, TTL, &[198, 18, high, low]);
                }
            }
            Self::Negative {
                rcode,
                ttl,
                minimum,
            } => {
                answer.flags |= u16::from(rcode & 0xf);
                answer.soa(*ttl, *minimum);
            }
            Self::NoQuestion => {
                let name = answer.question[..answer.question.len() - 4].to_vec();
                answer.question.clear();
                answer.record(&name, A, TTL, &ADDRESS.octets());
            }
            Self::NoResponse => {
                answer.flags &= !QR;
                answer.good(TTL);
            }
            Self::OptInTheMiddle => {
                answer.good(TTL);
                let other = wire_name("other.example.net");
                answer.additional(&record(&other, A, TTL, &[192, 0, 2, 2]));
                answer.edns = false;
                answer.additional(&Edns::new(1232).to_bytes());
                answer.additional(&record(&other, A, TTL, &[192, 0, 2, 3]));
            }
            Self::OtherCase => {
                let name = answer.question.len() - 4;
                for byte in &mut answer.question[..name] {
                    *byte = if byte.is_ascii_uppercase() {
                        byte.to_ascii_lowercase()
                    } else {
                        byte.to_ascii_uppercase()
                    };
                }
                answer.good(TTL);
            }
            Self::OtherName => {
                answer.record(&wire_name(ELSEWHERE), A, TTL, &[192, 0, 2, 66]);
            }
            Self::Rcode(rcode) => answer.flags |= u16::from(rcode & 0xf),
            Self::Truncated => answer.flags |= TC,
            Self::TwoOpts => {
                answer.good(TTL);
                answer.edns = false;
                answer.additional(&Edns::new(1232).to_bytes());
                answer.additional(&Edns::new(4096).to_bytes());
            }
            Self::WrongId => {
                answer.id = !answer.id;
                answer.good(TTL);
            }
            Self::WrongQuestion => {
                let class = answer.question.split_off(answer.question.len() - 4);
                answer.question = wire_name(ELSEWHERE);
                answer.question.extend(class);
                answer.good(TTL);
            }
            Self::WrongType => {
                let at = answer.question.len() - 3;
                answer.question[at] ^= 0x1d; // A becomes AAAA and the other way round
                answer.qtype ^= 0x1d;
                answer.good(TTL);
            }
        }
        answer.to_bytes()
    }
}

/// A pointer to the question's name (RFC 1035 section 4.1.4).
const POINTER: [u8; 2] = [0xc0, 12];

/// A response under way.
struct Answer {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    qtype: u16,
    edns: bool,
    counts: [u16; 3],
    sections: Vec<u8>,
}

impl Answer {
    fn to(asked: &Asked) -> Self {
        let outline = asked.outline.as_ref();
        let flags = outline.map_or(0, |outline| outline.flags & (RD | 0x7800));
        Self {
            id: outline.map_or(0, |outline| outline.id),
            flags: flags | QR | AA | RA,
            question: outline
                .map_or_else(|| vec![0, 0, 1, 0, 1], |outline| outline.question.clone()),
            qtype: outline.map_or(A, |outline| outline.qtype),
            edns: outline.is_some_and(|outline| outline.edns.is_some()),
            counts: [0; 3],
            sections: Vec::new(),
        }
    }

    fn good(&mut self, ttl: u32) {
        match self.qtype {
            A => self.record(&POINTER, A, ttl, &ADDRESS.octets()),
            AAAA => self.record(&POINTER, AAAA, ttl, &ADDRESS6.octets()),
            _ => self.soa(ttl, ttl),
        }
    }

    fn record(&mut self, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) {
        self.sections.extend(record(owner, rtype, ttl, data));
        self.counts[0] += 1;
    }

    fn soa(&mut self, ttl: u32, minimum: u32) {
        let mut data = wire_name("ns.example.org");
        data.extend(wire_name("hostmaster.example.org"));
        for number in [1, 7200, 1800, 86_400, minimum] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        self.sections.extend(record(&[0], SOA, ttl, &data));
        self.counts[1] += 1;
    }

    fn additional(&mut self, record: &[u8]) {
        self.sections.extend_from_slice(record);
        self.counts[2] += 1;
    }

    fn to_bytes(&self) -> Vec<u8> {
        let has_question = !self.question.is_empty();
        let additional = self.counts[2] + u16::from(self.edns);
        let mut bytes = Vec::with_capacity(512);
        for word in [
            self.id,
            self.flags,
            u16::from(has_question),
            self.counts[0],
            self.counts[1],
            additional,
        ] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.question);
        bytes.extend_from_slice(&self.sections);
        if self.edns {
            bytes.extend_from_slice(&Edns::new(1232).to_bytes());
        }
        bytes
    }
}

fn record(owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend_from_slice(&rtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes.extend_from_slice(&ttl.to_be_bytes());
    let length = u16::try_from(data.len()).expect("a record's data has 16 bits of length");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// An answer that no query asked for, as it goes over TCP.
pub(super) fn unasked() -> Vec<u8> {
    frames::frame(&unasked_message())
}

fn unasked_message() -> Vec<u8> {
    let mut question = wire_name(ELSEWHERE);
    question.extend_from_slice(&[0, 1, 0, 1]);
    let mut answer = Answer {
        id: 0xbeef,
        flags: QR | RD | RA,
        question,
        qtype: A,
        edns: false,
        counts: [0; 3],
        sections: Vec::new(),
    };
    answer.good(TTL);
    answer.to_bytes()
}

/// The same octets for the same query number, so that a failure can be seen again.
fn garbage(answer: &Answer, length: usize, number: usize) -> Vec<u8> {
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = answer.id.to_be_bytes().to_vec();
    while bytes.len() < length {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn compression_loops(mut answer: Answer) -> Vec<u8> {
    const WHOLE: usize = 65_535;
    /// Pointers have 14 bits: nothing further in can be pointed at.
    const REACH: usize = 0x3fff;
    answer.edns = false;
    let chain_at = 12 + answer.question.len() + POINTER.len() + 10;
    // The first pointer points at itself, each other one at the one before it.
    let mut chain = Vec::new();
    let mut at = chain_at;
    let mut target = at;
    while at + 2 <= REACH {
        let pointer = 0xc000 | u16::try_from(target).unwrap_or(0);
        chain.extend_from_slice(&pointer.to_be_bytes());
        target = at;
        at += 2;
    }
    answer.record(&POINTER, NULL, TTL, &chain);
    let end = (0xc000 | u16::try_from(target).unwrap_or(0)).to_be_bytes();
    let head = 12 + answer.question.len();
    let mut left = WHOLE - head - answer.sections.len();
    while left > 0 {
        // The last record takes what is left over, so that the message is full to the octet.
        let data = if left < 2 * 12 { left - 12 } else { 0 };
        answer.record(&end, A, TTL, &vec![0; data]);
        left -= 12 + data;
    }
    answer.to_bytes()
}
