// SPDX-License-Identifier: Apache-2.0
//! Why a query is not answered from the cache or an upstream, and what it gets instead.

use super::edns::{Edns, ExtendedError};
use super::header::Flags;
use super::{qtype, rcode};

/// What is wrong with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Shorter than a header: no answer, as there is nothing to answer to.
    Short,
    /// A response: no answer, as two servers would otherwise answer each other for ever.
    Response,
    /// The octets are no query (RFC 1035 section 4.1).
    FormErr,
    /// An opcode other than QUERY.
    NotImp,
    /// An EDNS version other than 0 (RFC 6891 section 6.1.3).
    BadVers,
    /// A class other than IN and ANY.
    Class,
    /// A zone transfer, or a type that stands for no data.
    Type,
}

impl Fault {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 7] = [
        Self::Short,
        Self::Response,
        Self::FormErr,
        Self::NotImp,
        Self::BadVers,
        Self::Class,
        Self::Type,
    ];

    /// Label value in metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
            Self::FormErr => "formerr",
            Self::NotImp => "notimp",
            Self::BadVers => "badvers",
            Self::Class => "refused_class",
            Self::Type => "refused_type",
        }
    }

    /// The response code; `None` where no answer is sent.
    #[must_use]
    pub fn rcode(self) -> Option<u16> {
        match self {
            Self::Short | Self::Response => None,
            Self::FormErr => Some(rcode::FORMERR),
            Self::NotImp => Some(rcode::NOTIMP),
            Self::BadVers => Some(rcode::BADVERS),
            Self::Class | Self::Type => Some(rcode::REFUSED),
        }
    }

    /// The Extended DNS Error that goes with it, for a query of this type.
    #[must_use]
    pub fn extended(self, qtype: u16) -> Option<ExtendedError> {
        match (self, qtype) {
            (Self::Class, _) => Some(ExtendedError::ONLY_IN),
            (Self::Type, qtype::IXFR | qtype::AXFR) => Some(ExtendedError::NO_TRANSFER),
            (Self::Type, _) => Some(ExtendedError::NO_META_TYPE),
            _ => None,
        }
    }
}

/// A query that is refused, with what of it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What is wrong.
    pub fault: Fault,
    /// The query's flags.
    pub flags: Flags,
    /// Where the question ends, in octets from the start; 0 where none could be read.
    pub question_end: usize,
    /// The query type, where a question could be read; else 0.
    pub qtype: u16,
    /// The query's OPT record, where one could be read.
    pub edns: Option<Edns>,
}
