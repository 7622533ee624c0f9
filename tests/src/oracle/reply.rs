// SPDX-License-Identifier: Apache-2.0
//! Replies, read again by hickory and by `wire` itself.

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Header, Message, MessageType};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nodens::wire::answer::Answer;
use nodens::wire::edns::ExtendedError;
use nodens::wire::fault::Rejection;
use nodens::wire::header::Flags;
use nodens::wire::query::Query;
use nodens::wire::question::Question;
use nodens::wire::reply::{self, Shape};
use nodens::wire::response::{Expected, MAX_OFFSETS, Response};
use nodens::wire::{MAX_MESSAGE, MIN_UDP, rcode};

use super::reading::{self, HEADER, Reading, Role};
use super::response::{Asked, Kept};

/// Our own UDP size.
const UDP_SIZE: u16 = 1232;
/// What a client over TCP hears of its idle timeout, in units of 100 ms.
const KEEPALIVE: u16 = 100;
/// Octets that no reply may show: what the buffer held before.
const STALE: u8 = 0xa5;
/// OPT records of clients: none, 512 octets, 4096 with DO, 1232 with keepalive.
const CLIENTS: [&[u8]; 4] = [
    &[],
    &[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0],
    &[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0],
    &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0],
];

/// The bits of the header are those that hickory reads (all but Z, which neither uses).
pub(super) fn compare_flags(ours: Flags, bytes: &[u8]) -> Result<()> {
    let header = Header::read(&mut BinDecoder::new(bytes))?;
    let bits = [
        (Flags::QR, header.message_type == MessageType::Response),
        (Flags::AA, header.authoritative),
        (Flags::TC, header.truncation),
        (Flags::RD, header.recursion_desired),
        (Flags::RA, header.recursion_available),
        (Flags::AD, header.authentic_data),
        (Flags::CD, header.checking_disabled),
    ];
    for (bit, is_set) in bits {
        ensure!(ours.has(bit) == is_set, "flag {bit:#06x}");
    }
    ensure!(ours.rcode() == u16::from(header.response_code), "RCODE");
    ensure!(
        (ours.0 & Flags::OPCODE) >> 11 == u16::from(u8::from(header.op_code)),
        "opcode"
    );
    Ok(())
}

/// Over UDP to this client, in the smallest UDP message, and over TCP.
fn shapes(query: &Query) -> [Shape; 3] {
    let udp = Shape {
        limit: query.udp_limit(UDP_SIZE),
        udp_size: UDP_SIZE,
        keepalive: None,
    };
    let smallest = Shape {
        limit: MIN_UDP,
        ..udp
    };
    let tcp = Shape {
        limit: MAX_MESSAGE,
        udp_size: UDP_SIZE,
        keepalive: Some(KEEPALIVE),
    };
    [udp, smallest, tcp]
}

/// Every kind of reply to a query that is taken: failures, and what upstreams could say to it.
pub(super) fn check_replies(asked: &[u8], query: &Query) -> Result<()> {
    let limit = query.udp_limit(UDP_SIZE);
    ensure!(
        (MIN_UDP..=usize::from(UDP_SIZE)).contains(&limit),
        "the UDP limit is {limit}"
    );
    let failures = [
        (rcode::SERVFAIL, Some(ExtendedError::NO_UPSTREAM)),
        (rcode::SERVFAIL, Some(ExtendedError::OVER_LIMIT)),
        (rcode::REFUSED, None),
    ];
    for shape in shapes(query) {
        for (rcode, why) in failures {
            let mut buffer = Buffer::holding(asked);
            let length = reply::failure(&mut buffer.octets, query, rcode, why, &shape);
            let read = buffer.read(length, asked, query, &shape)?;
            let flags = Flags::QR | Flags::RA | rcode;
            buffer.has_flags(flags | query.flags.0 & (Flags::RD | Flags::CD))?;
            ensure!(read.frames.len() == usize::from(query.edns.is_some()));
            buffer.explains(&read, why)?;
        }
    }
    let exchange = Asked {
        id: 0x4e4e,
        question: asked[HEADER..query.question_end].to_vec(),
    };
    for said in said_to(&exchange) {
        let reading = reading::read(&said, Role::Response).context("what we made up")?;
        let kept = Kept::of(&reading)?;
        let mut said = said;
        let mut offsets = vec![0; MAX_OFFSETS];
        let expected = Expected {
            id: exchange.id,
            question: &exchange.question,
        };
        let mut response = Response::parse(&mut said, &expected, &mut offsets)?;
        response.shorten(&mut said, &mut offsets);
        let answer = response.answer(&said, &offsets);
        for shape in shapes(query) {
            check_answer(asked, query, &answer, &kept, &shape)?;
        }
    }
    Ok(())
}

/// What upstreams could say to a question: nothing, NXDOMAIN, and more than fits.
fn said_to(exchange: &Asked) -> [Vec<u8>; 3] {
    let message = |flags: u16, counts: [u16; 3], records: &[u8]| {
        let mut message = exchange.id.to_be_bytes().to_vec();
        for word in [flags, 1].into_iter().chain(counts) {
            message.extend(word.to_be_bytes());
        }
        message.extend(&exchange.question);
        message.extend(records);
        message
    };
    let a = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01";
    let soa = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x3c\x00\x18\xc0\x0c\xc0\x0c\
        \x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x05";
    let opt = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";
    let many = [a.repeat(90), soa.to_vec(), a.repeat(3), opt.to_vec()].concat();
    [
        message(0x8180, [0, 0, 0], &[]),
        message(0x81a3, [0, 1, 0], soa),
        message(0x81a0, [90, 1, 4], &many),
    ]
}

/// The reply to a query that is refused, or silence.
pub(super) fn check_rejection(asked: &[u8], rejection: &Rejection) -> Result<()> {
    for keepalive in [None, Some(KEEPALIVE)] {
        let shape = Shape {
            limit: MIN_UDP,
            udp_size: UDP_SIZE,
            keepalive,
        };
        let mut buffer = Buffer::holding(asked);
        let length = reply::reject(&mut buffer.octets, rejection, &shape);
        let Some(rcode) = rejection.fault.rcode() else {
            ensure!(length == 0, "an answer to {:?}", rejection.fault);
            continue;
        };
        ensure!((HEADER..=MIN_UDP).contains(&length), "{length} octets");
        let read = buffer.parse(length)?;
        let message = read.message.as_ref().context("hickory refuses the reply")?;
        ensure!(asked.get(..2) == buffer.octets.get(..2), "another ID");
        ensure!(u16::from(message.response_code) == rcode, "RCODE");
        let kept = rejection.flags.0 & (Flags::OPCODE | Flags::RD | Flags::CD);
        buffer.has_flags(Flags::QR | kept | (rcode & 0x000f))?;
        let end = rejection.question_end;
        ensure!(message.queries.len() == usize::from(end > 0), "questions");
        ensure!(
            end == 0 || asked.get(HEADER..end) == buffer.octets.get(HEADER..end),
            "another question"
        );
        buffer.has_opt(&read, rejection.edns, &shape)?;
        ensure!(read.frames.len() == usize::from(rejection.edns.is_some()));
        buffer.explains(&read, rejection.fault.extended(rejection.qtype))?;
    }
    Ok(())
}

/// Replies made of what an upstream said, to clients of every kind.
pub(super) fn check_answers(asked: &Asked, answer: &Answer<'_>, kept: &Kept) -> Result<()> {
    let first_ttl = kept.records.first().map_or(30, |record| record.ttl);
    for (flags, opt) in (0x0100_u16..).step_by(0x0010).zip(CLIENTS) {
        // RD; RD and CD; RD and AD; all three.
        let mut client = [0xc1, 0x1e].to_vec();
        client.extend(flags.to_be_bytes());
        client.extend([0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())]);
        client.extend(other_case(&asked.question));
        client.extend(opt);
        let Ok(query) = Query::parse(&client, &mut Question::new()) else {
            // What no client may ask no upstream is asked.
            return Ok(());
        };
        for shape in shapes(&query) {
            for age in [0, 1, first_ttl, u32::MAX] {
                let aged = Answer { age, ..*answer };
                check_answer(&client, &query, &aged, kept, &shape)
                    .with_context(|| format!("age {age}, {shape:?}, OPT {opt:?}"))?;
            }
        }
    }
    Ok(())
}

/// The question with its letters in the other case: what a client may have asked for itself.
fn other_case(question: &[u8]) -> Vec<u8> {
    let (name, rest) = question.split_at(question.len().saturating_sub(4));
    let swap = |byte: &u8| {
        if byte.is_ascii_alphabetic() {
            byte ^ 0x20
        } else {
            *byte
        }
    };
    name.iter().map(swap).chain(rest.iter().copied()).collect()
}

fn check_answer(
    asked: &[u8],
    query: &Query,
    answer: &Answer<'_>,
    kept: &Kept,
    shape: &Shape,
) -> Result<()> {
    let mut buffer = Buffer::holding(asked);
    let length = reply::answer(&mut buffer.octets, query, answer, shape);
    let read = buffer.read(length, asked, query, shape)?;
    let message = read.message.as_ref().context("hickory refuses the reply")?;
    let sections = message.answers.iter().chain(&message.authorities);
    let records: Vec<_> = sections.chain(&message.additionals).collect();

    // A prefix of what was kept, section by section, as long as fits.
    let mut left = records.len();
    let mut counts = [0; 3];
    for (count, kept) in counts.iter_mut().zip(kept.counts) {
        *count = left.min(kept);
        left -= *count;
    }
    let said = [&message.answers, &message.authorities, &message.additionals];
    ensure!(said.map(Vec::len) == counts, "the sections have {counts:?}");
    let is_cut = records.len() < kept.records.len();
    if let Some(next) = kept.lengths.get(records.len()) {
        ensure!(length + next > shape.limit, "another record would fit");
    }
    for (said, kept) in records.iter().zip(&kept.records) {
        ensure!(said.name == kept.name, "{} is not {}", said.name, kept.name);
        ensure!(said.dns_class == kept.dns_class, "class of {kept}");
        ensure!(said.data == kept.data, "{} is not {}", said.data, kept.data);
        let ttl = kept.ttl.saturating_sub(answer.age);
        ensure!(said.ttl == ttl, "TTL {} is not {ttl}", said.ttl);
    }

    let wants_ad = query.flags.has(Flags::AD) || query.edns.is_some_and(|edns| edns.dnssec_ok);
    let mut flags = Flags::QR | Flags::RA | kept.rcode;
    flags |= query.flags.0 & (Flags::RD | Flags::CD);
    flags |= if wants_ad {
        answer.flags.0 & Flags::AD
    } else {
        0
    };
    flags |= if is_cut {
        Flags::TC
    } else {
        answer.flags.0 & Flags::TC
    };
    buffer.has_flags(flags)
}

/// What a reply is written into.
struct Buffer {
    octets: Vec<u8>,
}

impl Buffer {
    /// A buffer as a worker has it: the query in front, anything behind.
    fn holding(asked: &[u8]) -> Self {
        let mut octets = vec![STALE; MAX_MESSAGE];
        if let Some(front) = octets.get_mut(..asked.len()) {
            front.copy_from_slice(asked);
        }
        Self { octets }
    }

    /// Reads a reply to a query that was taken, and checks what all such replies have in common.
    fn read(&self, length: usize, asked: &[u8], query: &Query, shape: &Shape) -> Result<Reading> {
        ensure!(length <= shape.limit, "{length} octets");
        let read = self.parse(length)?;
        let end = query.question_end;
        ensure!(self.octets.get(..2) == asked.get(..2), "another ID");
        ensure!(
            self.octets.get(HEADER..end) == asked.get(HEADER..end),
            "another question"
        );
        ensure!(read.question_end == end, "questions");
        self.has_opt(&read, query.edns, shape)?;
        let expected = Expected {
            id: query.id,
            question: &asked[HEADER..end],
        };
        let own = Response::parse(
            &mut self.octets[..length].to_vec(),
            &expected,
            &mut vec![0; MAX_OFFSETS],
        );
        own.context("wire refuses its own reply")?;
        Ok(read)
    }

    /// Reads a reply: whole, and nothing behind it.
    fn parse(&self, length: usize) -> Result<Reading> {
        let octets = self
            .octets
            .get(..length)
            .context("longer than its buffer")?;
        let read =
            reading::read(octets, Role::Response).context("hickory cannot read the reply")?;
        ensure!(read.message.is_some(), "hickory refuses the reply");
        ensure!(
            read.strict().is_empty(),
            "the reply has {:?}",
            read.strict()
        );
        let end = read
            .frames
            .last()
            .map_or(read.question_end, |last| last.data.end);
        ensure!(end == length, "{} octets too many", length - end);
        Ok(read)
    }

    fn has_flags(&self, flags: u16) -> Result<()> {
        let found = self.octets.get(2..4).context("no header")?;
        ensure!(
            found == flags.to_be_bytes(),
            "flags {found:02x?}, not {flags:04x}"
        );
        compare_flags(Flags(flags), &self.octets)
    }

    /// There is an OPT record where the client sent one, and it says what it should.
    fn has_opt(
        &self,
        read: &Reading,
        edns: Option<nodens::wire::edns::Edns>,
        shape: &Shape,
    ) -> Result<()> {
        let message: &Message = read.message.as_ref().context("hickory refuses the reply")?;
        let (Some(asked), Some(said)) = (edns, &message.edns) else {
            ensure!(edns.is_some() == message.edns.is_some(), "OPT {edns:?}");
            return Ok(());
        };
        ensure!(said.version() == 0, "EDNS version {}", said.version());
        ensure!(said.flags().dnssec_ok == asked.dnssec_ok, "DO");
        ensure!(said.flags().z == 0, "EDNS flags {}", said.flags().z);
        ensure!(said.max_payload() == shape.udp_size, "UDP size");
        let keepalive = said.option(EdnsCode::Keepalive);
        let timeout = shape.keepalive.filter(|_| asked.keepalive);
        let option = timeout.map(|timeout| {
            EdnsOption::Unknown(
                u16::from(EdnsCode::Keepalive),
                timeout.to_be_bytes().to_vec(),
            )
        });
        ensure!(keepalive == option.as_ref(), "keepalive {keepalive:?}");
        Ok(())
    }

    /// The Extended DNS Error is there for a client with EDNS (RFC 8914 section 2).
    fn explains(&self, read: &Reading, why: Option<ExtendedError>) -> Result<()> {
        let message = read.message.as_ref().context("hickory refuses the reply")?;
        let Some(edns) = &message.edns else {
            return Ok(());
        };
        let said = edns.option(EdnsCode::from(15));
        let option = why.map(|why| {
            let data = [&why.code.to_be_bytes(), why.text.as_bytes()].concat();
            EdnsOption::Unknown(15, data)
        });
        ensure!(said == option.as_ref(), "extended error {said:?}");
        Ok(())
    }
}
