// SPDX-License-Identifier: Apache-2.0
//! Queries: `wire` takes what hickory takes, says the same of it, and names what is wrong with the
//! rest.

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Header, MessageType, OpCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nodens::wire;
use nodens::wire::fault::Fault;
use nodens::wire::question::Question;

use super::reading::{self, Reading, Role};
use super::{Difference, Verdict, reply};

/// Compares what `wire` and hickory make of a query, and reads every kind of reply to it.
///
/// # Errors
/// Says where they differ otherwise than [`Difference`] lists, or what is wrong with a reply.
pub fn check_query(bytes: &[u8]) -> Result<Verdict> {
    let mut question = Question::new();
    let ours = wire::query::Query::parse(bytes, &mut question);
    let theirs = expect(bytes);
    match (ours, theirs) {
        (Ok(query), Ok(reading)) => {
            compare(bytes, &query, &question, &reading)?;
            reply::check_replies(bytes, &query)?;
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
        (Err(rejection), Err(refusal)) => {
            ensure!(
                rejection.fault == refusal.fault,
                "wire says {:?}, hickory has it that {:?}",
                rejection.fault,
                refusal.fault
            );
            reply::check_rejection(bytes, &rejection)?;
            Ok(Verdict {
                accepted: false,
                differences: refusal.differences,
            })
        }
        (Ok(_), Err(refusal)) => {
            anyhow::bail!("wire takes it, hickory has it that {:?}", refusal.fault)
        }
        (Err(rejection), Ok(_)) => {
            anyhow::bail!("hickory takes it, wire says {:?}", rejection.fault)
        }
    }
}

/// Why a query should be refused, in hickory's eyes.
struct Refusal {
    fault: Fault,
    /// Those that keep us, not hickory, from taking it; or hickory, not us, from naming the fault.
    differences: Vec<Difference>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            differences: Vec::new(),
        }
    }
}

/// What hickory's reading of the query asks of us.
fn expect(bytes: &[u8]) -> Result<Reading, Refusal> {
    let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| Fault::Short)?;
    if header.message_type != MessageType::Query {
        return Err(Fault::Response.into());
    }
    if header.op_code != OpCode::Query {
        return Err(Fault::NotImp.into());
    }
    if header.counts.queries != 1 {
        return Err(Fault::FormErr.into());
    }
    let reading = reading::read(bytes, Role::Query);
    let taken = reading.as_ref().is_some_and(|it| it.is_taken_as_is);
    let refuse = |mut differences: Vec<Difference>| {
        if !taken {
            differences.clear();
        }
        Err(Refusal {
            fault: Fault::FormErr,
            differences,
        })
    };
    let (query, question) = reading::question(bytes).ok_or(Fault::FormErr)?;
    if reading::has_pointer(question) {
        return refuse(vec![Difference::HeaderPointer]);
    }
    if header.counts.answers != 0 || header.counts.authorities != 0 {
        let is_transfer = query.query_type == RecordType::IXFR;
        let fault = if is_transfer {
            Fault::Type
        } else {
            Fault::FormErr
        };
        return Err(fault.into());
    }
    if header.counts.additionals > 2 {
        return refuse(vec![Difference::ManyAdditionals]);
    }
    let reading = reading.ok_or(Fault::FormErr)?;
    if !reading.strict().is_empty() {
        return refuse(reading.strict());
    }
    if reading.message.is_none() {
        return Err(Fault::FormErr.into());
    }
    if reading.opt().is_some_and(|opt| (opt.ttl >> 16) & 0xff != 0) {
        return Err(Refusal {
            fault: Fault::BadVers,
            differences: if taken { Vec::new() } else { reading.lenient() },
        });
    }
    if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) {
        return Err(Fault::Class.into());
    }
    let is_data = !matches!(
        query.query_type,
        RecordType::ZERO
            | RecordType::OPT
            | RecordType::TSIG
            | RecordType::IXFR
            | RecordType::AXFR
            | RecordType::Unknown(249)
    );
    if !is_data {
        return Err(Fault::Type.into());
    }
    Ok(reading)
}

/// Everything that `wire` says of a query that both take.
fn compare(
    bytes: &[u8],
    query: &wire::query::Query,
    question: &Question,
    reading: &Reading,
) -> Result<()> {
    let message = reading.message.as_ref().context("hickory refuses it")?;
    let (asked, octets) = reading::question(bytes).context("hickory sees no question")?;
    ensure!(query.id == message.id, "ID {}", query.id);
    reply::compare_flags(query.flags, bytes)?;
    ensure!(
        query.question_end == reading::HEADER + octets.len(),
        "the question ends at {}",
        query.question_end
    );
    ensure!(
        question.qtype() == u16::from(asked.query_type),
        "type {}",
        question.qtype()
    );
    ensure!(
        question.qclass() == u16::from(asked.query_class),
        "class {}",
        question.qclass()
    );
    compare_name(question.name(), &asked.name)?;
    ensure!(
        question.checking_disabled() == message.checking_disabled,
        "CD of the question"
    );
    let again = Question::from_octets(question.as_octets());
    ensure!(
        again.is_some_and(|again| again.as_octets() == question.as_octets()),
        "the question does not survive its octets"
    );
    ensure!(
        question.dnssec_ok() == query.edns.is_some_and(|edns| edns.dnssec_ok),
        "DO of the question"
    );
    match (query.edns, &message.edns) {
        (None, None) => {}
        (Some(ours), Some(theirs)) => {
            ensure!(ours.version == theirs.version(), "EDNS version");
            ensure!(ours.dnssec_ok == theirs.flags().dnssec_ok, "DO");
            ensure!(
                ours.udp_size.max(512) == theirs.max_payload(),
                "UDP size {}",
                ours.udp_size
            );
            ensure!(
                Some(ours.udp_size) == reading.opt().map(|opt| opt.class),
                "UDP size as sent {}",
                ours.udp_size
            );
            ensure!(
                ours.keepalive == theirs.option(EdnsCode::Keepalive).is_some(),
                "keepalive"
            );
        }
        (ours, theirs) => anyhow::bail!("EDNS {ours:?}, hickory {theirs:?}"),
    }
    Ok(())
}

/// A lower-case name in wire form is the name that hickory read, and lives through its text.
fn compare_name(ours: &[u8], theirs: &hickory_proto::rr::Name) -> Result<()> {
    let labels: Vec<Vec<u8>> = theirs.iter().map(<[u8]>::to_ascii_lowercase).collect();
    let own: Vec<Vec<u8>> = wire::name::labels(ours).map(<[u8]>::to_vec).collect();
    ensure!(own == labels, "the name is {own:?}, hickory's {labels:?}");
    let name = wire::name::Name::from_wire(ours).context("the name is no name")?;
    let text = name.to_string();
    let again = wire::name::Name::parse(&text)?;
    ensure!(again == name, "{text:?} is another name: {again}");
    Ok(())
}
