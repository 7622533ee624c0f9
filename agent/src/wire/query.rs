// SPDX-License-Identifier: Apache-2.0
//! A client's query: one pass over untrusted octets.

use super::cursor::{Changing, Cursor};
use super::edns::Edns;
use super::fault::{Fault, Rejection};
use super::header::{Flags, HEADER, Header};
use super::question::Question;
use super::{MIN_UDP, qtype};

const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
/// Additional records of a query: OPT, and TSIG or SIG(0). CoreDNS takes as many, Unbound one.
/// It bounds the work for one datagram.
const MAX_ADDITIONALS: u16 = 2;

/// What a reply needs to know of a query, beside its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The client's number for the exchange.
    pub id: u16,
    /// The query's flags.
    pub flags: Flags,
    /// Where the question ends, in octets from the start of the message.
    pub question_end: usize,
    /// The query's OPT record.
    pub edns: Option<Edns>,
}

impl Query {
    /// Whether the client wants DNSSEC's records (the DO bit, RFC 3225).
    #[must_use]
    pub fn wants_dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Reads a query: exactly one question, no answer and no authority record, at most two
    /// additional records and one OPT among them. Other additional records are passed over: their
    /// data is not read. Octets behind the last record are ignored, as CoreDNS and Unbound do.
    /// `question` takes the canonical question.
    ///
    /// # Errors
    /// Says what is wrong, with what could be read until then.
    ///
    /// # Specification
    /// RFC 1035 section 4.1, RFC 6891 section 6.1, RFC 9619 (one question).
    pub fn parse(message: &[u8], question: &mut Question) -> Result<Self, Rejection> {
        let mut rejection = Rejection {
            fault: Fault::Short,
            flags: Flags::default(),
            question_end: 0,
            qtype: 0,
            edns: None,
        };
        let Some(header) = Header::read(message) else {
            return Err(rejection);
        };
        rejection.flags = header.flags;
        if header.flags.has(Flags::QR) {
            return Err(rejection.because(Fault::Response));
        }
        if header.flags.0 & Flags::OPCODE != 0 {
            return Err(rejection.because(Fault::NotImp));
        }
        if header.questions != 1 {
            return Err(rejection.because(Fault::FormErr));
        }
        let mut cursor = Cursor::new(message, HEADER);
        let (Some(name), Some(qtype), Some(qclass)) =
            (cursor.plain_name(), cursor.u16(), cursor.u16())
        else {
            return Err(rejection.because(Fault::FormErr));
        };
        rejection.question_end = cursor.position();
        rejection.qtype = qtype;
        if header.answers != 0 || header.authorities != 0 {
            // An IXFR query rightly has an authority record (RFC 1995 section 3).
            let transfer = qtype == qtype::IXFR;
            let fault = if transfer {
                Fault::Type
            } else {
                Fault::FormErr
            };
            return Err(rejection.because(fault));
        }
        if header.additionals > MAX_ADDITIONALS {
            return Err(rejection.because(Fault::FormErr));
        }
        for _ in 0..header.additionals {
            if Self::additional(&mut cursor, &mut rejection.edns).is_none() {
                return Err(rejection.because(Fault::FormErr));
            }
        }
        let dnssec_ok = match rejection.edns {
            Some(edns) if edns.version != 0 => return Err(rejection.because(Fault::BadVers)),
            Some(edns) => edns.dnssec_ok,
            None => false,
        };
        if qclass != CLASS_IN && qclass != CLASS_ANY {
            return Err(rejection.because(Fault::Class));
        }
        if matches!(
            qtype,
            0 | qtype::OPT | qtype::TKEY | qtype::TSIG | qtype::IXFR | qtype::AXFR
        ) {
            return Err(rejection.because(Fault::Type));
        }
        question.set(
            name,
            qtype,
            dnssec_ok,
            header.flags.has(Flags::CD),
            qclass == CLASS_ANY,
        );
        Ok(Self {
            id: header.id,
            flags: header.flags,
            question_end: rejection.question_end,
            edns: rejection.edns,
        })
    }

    /// The largest UDP answer in octets: what the client takes, at most `ours` (RFC 6891
    /// section 6.2.5: less than 512 means 512).
    #[must_use]
    pub fn udp_limit(&self, ours: u16) -> usize {
        match self.edns {
            Some(edns) => usize::from(edns.udp_size.min(ours)).max(MIN_UDP),
            None => MIN_UDP,
        }
    }

    /// Passes one additional record; an OPT must be at the root and the only one.
    fn additional(cursor: &mut Cursor<'_>, edns: &mut Option<Edns>) -> Option<()> {
        let before = cursor.position();
        cursor.name(Changing::NOTHING)?;
        let owner_len = cursor.position().saturating_sub(before);
        if cursor.u16()? != qtype::OPT {
            let _class = cursor.u16()?;
            let _ttl = cursor.u32()?;
            let length = cursor.u16()?;
            cursor.take(usize::from(length))?;
            return Some(());
        }
        if owner_len != 1 || edns.is_some() {
            return None;
        }
        *edns = Some(Edns::read(cursor)?);
        Some(())
    }
}

impl Rejection {
    fn because(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}
