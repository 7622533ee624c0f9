// SPDX-License-Identifier: Apache-2.0
//! From the octets of a query to the octets of its response.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;

use super::zones::Zones;
use crate::query::Outline;

/// Largest UDP answer in octets without EDNS (RFC 1035 section 4.2.1).
const CLASSIC_SIZE: u16 = 512;
/// Type A, and class IN.
const A_IN: (u16, u16) = (1, 1);

/// The address of a name below `bench.cluster.local`: 10.0.0.0/8, and the last 24 bits of the FNV-1a
/// hash of the name in lower case with its final dot, so that whoever asks can check the answer.
#[must_use]
pub fn bench_address(name: &str) -> Ipv4Addr {
    let name = crate::query::canonical(name);
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    Ipv4Addr::from(0x0a00_0000 | hash & 0x00ff_ffff)
}

/// Whether the name, in lower case with its final dot, is below `bench.cluster.local`.
pub(super) fn is_bench(name: &str) -> bool {
    name.ends_with(".bench.cluster.local.")
}

/// Answers an A query for a name below `bench.cluster.local`; `None` for all others. Written by
/// hand: floods pass here.
pub(super) fn bench(query: &[u8], outline: &Outline, ttl: u32) -> Option<Vec<u8>> {
    let asks_address = (outline.qtype, outline.qclass) == A_IN && is_bench(&outline.name);
    let is_plain = outline.counts == [1, 0, 0, outline.counts[3]] && outline.flags & 0xf800 == 0;
    if !asks_address || !is_plain {
        return None;
    }
    let edns = outline.edns.as_ref();
    if edns.is_some_and(|edns| edns.version != 0) {
        return None;
    }
    let mut response = Vec::with_capacity(query.len() + 16);
    response.extend_from_slice(&query[..2]);
    // QR and AA set; RD, and CD as asked.
    let flags = 0x8400 | outline.flags & 0x0110;
    response.extend_from_slice(&flags.to_be_bytes());
    response.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, u8::from(edns.is_some())]);
    response.extend_from_slice(&outline.question);
    response.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    response.extend_from_slice(&ttl.to_be_bytes());
    response.extend_from_slice(&[0, 4]);
    response.extend_from_slice(&bench_address(&outline.name).octets());
    if let Some(edns) = edns {
        let mut echo = crate::query::Edns::new(edns.size);
        echo.dnssec_ok = edns.dnssec_ok;
        response.extend_from_slice(&echo.to_bytes());
    }
    Some(response)
}

/// Answers any query; `None` for what must not be answered: no header, or a response.
pub(super) fn respond(zones: &Zones, query: &[u8], udp: bool) -> Option<Vec<u8>> {
    let header = query.get(..12)?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let Ok(query) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([header[0], header[1]]);
        let opcode = OpCode::from_u8(header[2] >> 3 & 0xf);
        return error(id, opcode, ResponseCode::FormErr);
    };
    let [question] = query.queries.as_slice() else {
        return error(query.id, query.op_code, ResponseCode::FormErr);
    };
    let response = response(zones, &query, question);
    let limit = match (udp, &query.edns) {
        (false, _) => u16::MAX,
        (true, None) => CLASSIC_SIZE,
        (true, Some(edns)) => edns.max_payload().max(CLASSIC_SIZE),
    };
    fit(response, usize::from(limit))
}

fn response(zones: &Zones, query: &Message, question: &Query) -> Message {
    let mut response = Message::new(query.id, MessageType::Response, query.op_code);
    response.metadata.recursion_desired = query.recursion_desired;
    response.metadata.checking_disabled = query.checking_disabled;
    response.queries.clone_from(&query.queries);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload());
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        response.edns = Some(edns);
    }
    let version = query.edns.as_ref().map_or(0, Edns::version);
    response.metadata.response_code = if version != 0 {
        ResponseCode::BADVERS
    } else if query.op_code != OpCode::Query {
        ResponseCode::NotImp
    } else if question.query_class != DNSClass::IN {
        ResponseCode::Refused
    } else {
        let found = zones.find(&question.name, question.query_type);
        response.metadata.authoritative = found.authoritative;
        // What the world outside says came by recursion.
        response.metadata.recursion_available = !found.authoritative;
        response.answers = found.answers;
        response.authorities = found.authorities;
        response.additionals = found.additionals;
        found.rcode
    };
    response
}

/// The response's octets, with as many whole records as fit; TC says that some are missing.
fn fit(response: Message, limit: usize) -> Option<Vec<u8>> {
    let whole = encode(&response)?;
    if whole.len() <= limit {
        return Some(whole);
    }
    let mut cut = response;
    cut.metadata.truncation = true;
    cut.additionals.clear();
    cut.authorities.clear();
    let all = std::mem::take(&mut cut.answers);
    let (mut fits, mut too_many) = (0, all.len() + 1);
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        cut.answers = all[..middle].to_vec();
        if encode(&cut)?.len() <= limit {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    cut.answers = all[..fits].to_vec();
    encode(&cut)
}

fn error(id: u16, opcode: OpCode, rcode: ResponseCode) -> Option<Vec<u8>> {
    encode(&Message::error_msg(id, opcode, rcode))
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let bytes = message.to_vec();
    debug_assert!(bytes.is_ok(), "the sample's own records: {bytes:?}");
    bytes.ok()
}
