// SPDX-License-Identifier: Apache-2.0
//! Responses of upstreams: `wire` takes what hickory takes, says the same of it, and what it keeps
//! lives through every reply.

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Header, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nodens::wire::chain::Chain;
use nodens::wire::response::{Expected, Lie, MAX_OFFSETS, Response};

use super::reading::{self, Reading, Role};
use super::{Difference, Verdict, reply};

/// A TTL above the sign bit stands for seven days (RFC 8767 section 4).
const SEVEN_DAYS: u32 = 604_800;

/// What was asked of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The ID that was sent.
    pub id: u16,
    /// The question section that was sent.
    pub question: Vec<u8>,
}

impl Asked {
    /// The exchange that a response claims to belong to; where its question is none, another one.
    #[must_use]
    pub fn claimed_by(bytes: &[u8]) -> Self {
        let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let claimed = reading::question(bytes).map(|(_, question)| question);
        let question = claimed.filter(|question| !reading::has_pointer(question));
        let other = b"\x03web\x04prod\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
        Self {
            id,
            question: question.unwrap_or(other).to_vec(),
        }
    }
}

/// Compares what `wire` and hickory make of a response, and reads replies made of it.
///
/// # Errors
/// Says where they differ otherwise than [`Difference`] lists, or what is wrong with a reply.
pub fn check_response(bytes: &[u8], asked: &Asked) -> Result<Verdict> {
    let mut message = bytes.to_vec();
    let mut offsets = vec![0; MAX_OFFSETS];
    let expected = Expected {
        id: asked.id,
        question: &asked.question,
    };
    let ours = Response::parse(&mut message, &expected, &mut offsets);
    match (ours, expect(bytes, asked)) {
        (Ok(response), Ok(reading)) => {
            let kept = Kept::of(&reading)?;
            compare(bytes, &response, &reading, &kept)?;
            let answer = response.answer(&message, &offsets);
            reply::check_answers(asked, &answer, &kept)?;
            let mut short = response;
            short.shorten(&mut message, &mut offsets);
            let answer = short.answer(&message, &offsets);
            reply::check_answers(asked, &answer, &kept).context("shortened")?;
            let differences = if reading.is_taken_as_is {
                Vec::new()
            } else {
                reading.lenient()
            };
            ensure!(
                reading.is_taken_as_is || !differences.is_empty(),
                "hickory refuses it for no known reason"
            );
            Ok(Verdict {
                accepted: true,
                differences,
            })
        }
        (Err(lie), Err(refusal)) => {
            ensure!(
                lie == refusal.lie,
                "wire says {lie:?}, hickory has it that {:?}",
                refusal.lie
            );
            Ok(Verdict {
                accepted: false,
                differences: refusal.differences,
            })
        }
        (Ok(_), Err(refusal)) => {
            anyhow::bail!("wire takes it, hickory has it that {:?}", refusal.lie)
        }
        (Err(lie), Ok(_)) => anyhow::bail!("hickory takes it, wire says {lie:?}"),
    }
}

/// Why a response should be thrown away, in hickory's eyes.
struct Refusal {
    lie: Lie,
    /// Those that keep us, not hickory, from taking it.
    differences: Vec<Difference>,
}

impl From<Lie> for Refusal {
    fn from(lie: Lie) -> Self {
        Self {
            lie,
            differences: Vec::new(),
        }
    }
}

/// What hickory's reading of the response asks of us.
fn expect(bytes: &[u8], asked: &Asked) -> Result<Reading, Refusal> {
    let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| Lie::Malformed)?;
    if header.message_type != MessageType::Response || header.op_code != OpCode::Query {
        return Err(Lie::Malformed.into());
    }
    if header.id != asked.id {
        return Err(Lie::WrongId.into());
    }
    let end = reading::HEADER + asked.question.len();
    let is_answered = match header.counts.queries {
        0 => {
            header.counts.answers == 0
                && header.counts.authorities == 0
                && matches!(
                    header.response_code,
                    ResponseCode::FormErr
                        | ResponseCode::ServFail
                        | ResponseCode::NotImp
                        | ResponseCode::Refused
                )
        }
        1 => bytes.get(reading::HEADER..end) == Some(&asked.question),
        _ => false,
    };
    if !is_answered {
        return Err(Lie::WrongQuestion.into());
    }
    let reading = reading::read(bytes, Role::Response).ok_or(Lie::Malformed)?;
    let strict = reading.strict();
    if !strict.is_empty() {
        let taken = reading.is_taken_as_is;
        return Err(Refusal {
            lie: Lie::Malformed,
            differences: if taken { strict } else { Vec::new() },
        });
    }
    if reading.message.is_none() {
        return Err(Lie::Malformed.into());
    }
    Ok(reading)
}

/// What of a response a reply repeats, as hickory reads it.
#[derive(Debug)]
pub(super) struct Kept {
    /// The records of the three sections, their TTLs as a client should see them at age 0.
    pub(super) records: Vec<Record>,
    /// How many of them stand in each section.
    pub(super) counts: [usize; 3],
    /// Octets of each.
    pub(super) lengths: Vec<usize>,
    /// The RCODE: one that speaks of the exchange with the upstream becomes SERVFAIL.
    pub(super) rcode: u16,
}

impl Kept {
    pub(super) fn of(reading: &Reading) -> Result<Self> {
        let message = reading.message.as_ref().context("hickory refuses it")?;
        // Hickory takes OPT out of the additional section: those in front of it stay the first.
        let additionals = message.additionals.iter().take(reading.kept_additionals);
        let sections = message.answers.iter().chain(&message.authorities);
        let mut records: Vec<Record> = sections.chain(additionals).cloned().collect();
        for record in &mut records {
            if record.ttl > i32::MAX.unsigned_abs() {
                record.ttl = SEVEN_DAYS;
            }
        }
        let lengths = reading.frames.iter().take(records.len());
        Ok(Self {
            counts: [
                message.answers.len(),
                message.authorities.len(),
                reading.kept_additionals,
            ],
            lengths: lengths.map(reading::Frame::len).collect(),
            rcode: match u16::from(message.response_code) {
                rcode @ 0..=15 => rcode,
                _ => u16::from(ResponseCode::ServFail),
            },
            records,
        })
    }
}

/// The name that the CNAMEs of an answer lead to from the question's; `None` without a question.
fn chain_end(question: Option<&Name>, answers: &[Record]) -> Option<Name> {
    let mut end = question?.clone();
    // More CNAMEs than that are a loop for `wire`.
    for _ in 0..18 {
        let target = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == end => Some(target.0.clone()),
            _ => None,
        });
        match target {
            Some(target) => end = target,
            None => break,
        }
    }
    Some(end)
}

/// Everything that `wire` says of a response that both take.
fn compare(bytes: &[u8], response: &Response, reading: &Reading, kept: &Kept) -> Result<()> {
    let message = reading.message.as_ref().context("hickory refuses it")?;
    reply::compare_flags(response.flags, bytes)?;
    ensure!(
        response.rcode == u16::from(message.response_code),
        "RCODE {}, hickory {:?}",
        response.rcode,
        message.response_code
    );
    ensure!(
        response.counts.map(usize::from) == kept.counts,
        "{:?} records, hickory {:?}",
        response.counts,
        kept.counts
    );
    let [answers, authorities, _] = kept.counts;
    let (answers, rest) = kept.records.split_at(answers);
    let min_ttl = answers.iter().map(|record| record.ttl).min();
    ensure!(
        response.min_ttl == min_ttl,
        "the smallest TTL is {:?}, hickory's {min_ttl:?}",
        response.min_ttl
    );
    let end = chain_end(message.queries.first().map(|query| query.name()), answers);
    let negative_ttl = rest[..authorities]
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some((&record.name, record.ttl.min(soa.minimum))),
            _ => None,
        })
        .filter(|(zone, _)| end.as_ref().is_none_or(|end| zone.zone_of(end)))
        .map(|(_, seconds)| seconds);
    ensure!(
        response.chain == Chain::Loop || response.negative_ttl == negative_ttl,
        "the negative TTL is {:?}, hickory's {negative_ttl:?}",
        response.negative_ttl
    );
    Ok(())
}
