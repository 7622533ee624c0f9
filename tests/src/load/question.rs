// SPDX-License-Identifier: Apache-2.0
//! The query that is sent and the check of what comes back. Octet by octet, without a parser:
//! the check has to cost far less than the answer.

use std::fmt;

use super::names::{LONGEST_NAME, Names, address_of};

/// Octets of a header (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;
/// Octets of the longest query: header, name, type, class.
pub const LONGEST_QUERY: usize = HEADER + LONGEST_NAME + 4;

/// Type A (RFC 1035 section 3.2.2).
const TYPE_A: [u8; 2] = [0, 1];
/// Class IN (RFC 1035 section 3.2.4).
const CLASS_IN: [u8; 2] = [0, 1];

/// What a reply must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The ID and the question, QR set: all that an echo does.
    Echo,
    /// NOERROR with at least one answer record.
    Answer,
    /// NOERROR, and the first A record holds [`address_of`] the name.
    Address,
}

/// What is wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Shorter than its own question.
    Short,
    /// QR is not set, or the opcode is another.
    NoResponse,
    /// Another question than was asked, or not one.
    Question,
    /// TC is set.
    Truncated,
    /// An RCODE that is not NOERROR.
    Rcode(u8),
    /// No answer record.
    Empty,
    /// Not the address that follows from the name.
    Address([u8; 4]),
    /// The answer section cannot be read, or has no A record.
    Records,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("shorter than its question"),
            Self::NoResponse => f.write_str("not a response to a query"),
            Self::Question => f.write_str("the question of another query"),
            Self::Truncated => f.write_str("truncated"),
            Self::Rcode(rcode) => write!(f, "RCODE {rcode}"),
            Self::Empty => f.write_str("no answer record"),
            Self::Address([a, b, c, d]) => write!(f, "the address {a}.{b}.{c}.{d}"),
            Self::Records => f.write_str("records that cannot be read, or no A record"),
        }
    }
}

/// Writes the A query for name `index` to the beginning of `out`, RD set. Returns its octets.
///
/// # Panics
/// If `out` is shorter than [`LONGEST_QUERY`].
#[inline]
pub fn write(names: &Names, index: u64, id: u16, out: &mut [u8]) -> usize {
    out[..HEADER].copy_from_slice(&[0, 0, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out[..2].copy_from_slice(&id.to_be_bytes());
    let end = HEADER + names.write(index, &mut out[HEADER..]);
    out[end..end + 2].copy_from_slice(&TYPE_A);
    out[end + 2..end + 4].copy_from_slice(&CLASS_IN);
    end + 4
}

/// The ID of a message, if it is long enough to have one.
#[inline]
#[must_use]
pub fn id(message: &[u8]) -> Option<u16> {
    message
        .first_chunk()
        .map(|octets| u16::from_be_bytes(*octets))
}

/// Checks a reply against the query it answers. The ID is taken as checked.
///
/// # Errors
/// What is wrong first.
#[inline]
pub fn check(query: &[u8], reply: &[u8], expect: Expect) -> Result<(), Wrong> {
    let (Some(header), Some(question)) = (reply.get(..HEADER), reply.get(HEADER..query.len()))
    else {
        return Err(Wrong::Short);
    };
    // QR, and opcode QUERY.
    if header[2] & 0xF8 != 0x80 {
        return Err(Wrong::NoResponse);
    }
    if header[4..6] != [0, 1] || question != &query[HEADER..] {
        return Err(Wrong::Question);
    }
    if expect == Expect::Echo {
        return Ok(());
    }
    if header[2] & 0x02 != 0 {
        return Err(Wrong::Truncated);
    }
    if header[3] & 0x0F != 0 {
        return Err(Wrong::Rcode(header[3] & 0x0F));
    }
    let answers = u16::from_be_bytes([header[6], header[7]]);
    if answers == 0 {
        return Err(Wrong::Empty);
    }
    if expect == Expect::Address {
        let found = address(query, reply).ok_or(Wrong::Records)?;
        if found != address_of(&query[HEADER..query.len() - 4]).octets() {
            return Err(Wrong::Address(found));
        }
    }
    Ok(())
}

/// The address of the first A record in the answer to `query`; the question is taken as checked.
#[must_use]
pub fn address(query: &[u8], reply: &[u8]) -> Option<[u8; 4]> {
    let header = reply.first_chunk::<HEADER>()?;
    let answers = u16::from_be_bytes([header[6], header[7]]);
    first_address(reply.get(query.len()..)?, answers)
}

/// The address of the first A record among `count` records.
fn first_address(mut records: &[u8], count: u16) -> Option<[u8; 4]> {
    for _ in 0..count {
        records = skip_name(records)?;
        let (fixed, rest) = records.split_first_chunk::<10>()?;
        let (data, rest) =
            rest.split_at_checked(usize::from(u16::from_be_bytes([fixed[8], fixed[9]])))?;
        if fixed[..2] == TYPE_A && fixed[2..4] == CLASS_IN {
            return data.try_into().ok();
        }
        records = rest;
    }
    None
}

/// What follows the name at the beginning of `records` (RFC 1035 section 4.1.4).
fn skip_name(mut records: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, rest) = records.split_first()?;
        match length {
            0 => return Some(rest),
            0xC0.. => return rest.get(1..),
            1..=63 => records = rest.get(usize::from(length)..)?,
            64..=0xBF => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::str::FromStr;

    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::super::names::{Names, Pick, address_of, to_wire};
    use super::{Expect, LONGEST_QUERY, Wrong, check, id, write};

    fn query() -> Vec<u8> {
        let names = Names::new("n######.bench.example", 1000, Pick::Uniform).unwrap();
        let mut out = [0; LONGEST_QUERY];
        let len = write(&names, 42, 0x1234, &mut out);
        out[..len].to_vec()
    }

    fn reply(records: &[(&str, RData)]) -> Vec<u8> {
        let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(
            Name::from_str("n000042.bench.example.").unwrap(),
            RecordType::A,
        ));
        for (name, data) in records {
            let name = Name::from_str(name).unwrap();
            message.add_answer(Record::from_rdata(name, 30, data.clone()));
        }
        message.to_vec().unwrap()
    }

    fn right() -> Ipv4Addr {
        address_of(&to_wire("n000042.bench.example").unwrap())
    }

    #[test]
    fn the_query_is_what_another_implementation_reads() {
        let query = query();
        assert_eq!(id(&query), Some(0x1234));
        let message = Message::from_vec(&query).unwrap();
        assert_eq!(message.queries.len(), 1);
        assert_eq!(
            message.queries[0].name().to_string(),
            "n000042.bench.example."
        );
        assert_eq!(message.queries[0].query_type(), RecordType::A);
        assert!(message.metadata.recursion_desired);
    }

    #[test]
    fn the_right_address_passes_also_behind_an_alias() {
        let query = query();
        let plain = reply(&[("n000042.bench.example.", RData::A(A(right())))]);
        assert_eq!(check(&query, &plain, Expect::Address), Ok(()));
        let target = Name::from_str("other.example.").unwrap();
        let alias = reply(&[
            ("n000042.bench.example.", RData::CNAME(CNAME(target))),
            ("other.example.", RData::A(A(right()))),
        ]);
        assert_eq!(check(&query, &alias, Expect::Address), Ok(()));
    }

    #[test]
    fn every_kind_of_wrong_reply_is_found() {
        let query = query();
        let good = reply(&[("n000042.bench.example.", RData::A(A(right())))]);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut reply = good.clone();
            change(&mut reply);
            check(&query, &reply, Expect::Address)
        };
        assert_eq!(with(&|r| r.truncate(20)), Err(Wrong::Short));
        assert_eq!(with(&|r| r[2] &= 0x7F), Err(Wrong::NoResponse));
        assert_eq!(with(&|r| r[2] |= 0x08), Err(Wrong::NoResponse));
        assert_eq!(with(&|r| r[15] ^= 1), Err(Wrong::Question));
        assert_eq!(with(&|r| r[5] = 0), Err(Wrong::Question));
        assert_eq!(with(&|r| r[2] |= 0x02), Err(Wrong::Truncated));
        let servfail = ResponseCode::ServFail.low();
        assert_eq!(with(&|r| r[3] |= servfail), Err(Wrong::Rcode(2)));
        assert_eq!(with(&|r| r[7] = 0), Err(Wrong::Empty));
        assert_eq!(with(&|r| _ = r.pop()), Err(Wrong::Records));
        let [a, b, c, d] = right().octets();
        assert_eq!(
            with(&|r| *r.last_mut().unwrap() ^= 1),
            Err(Wrong::Address([a, b, c, d ^ 1]))
        );
    }

    #[test]
    fn an_echo_need_only_be_a_response() {
        let query = query();
        assert_eq!(check(&query, &query, Expect::Echo), Err(Wrong::NoResponse));
        let mut echoed = query.clone();
        echoed[2] |= 0x80;
        assert_eq!(check(&query, &echoed, Expect::Echo), Ok(()));
        assert_eq!(check(&query, &echoed, Expect::Answer), Err(Wrong::Empty));
    }
}
