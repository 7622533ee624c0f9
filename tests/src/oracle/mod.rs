// SPDX-License-Identifier: Apache-2.0
//! A second opinion on every message: hickory-proto beside the agent's `wire`. The property tests
//! and the fuzz targets run the same checks.
//!
//! ```text
//! bytes ──► wire ─────────────────────────────┐
//!      └──► hickory, less the known [`Difference`]s ──► the same verdict and values, or an error
//!                                             └──► replies, read by hickory again
//! ```

mod query;
mod reading;
mod reply;
mod response;

pub use query::check_query;
pub use response::{Asked, check_response};

/// What both make of a message, where they agree but for known differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether `wire` takes the message.
    pub accepted: bool,
    /// Why hickory says otherwise; empty where it says the same.
    pub differences: Vec<Difference>,
}

/// Where `wire` and hickory-proto 0.26 differ knowingly: this list is the whole of it.
///
/// A lenient difference is checked by hiding from hickory the data that it would look into, and no
/// more; of the rest it must say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Stricter: a pointer into the header, from a question or a record. There is no name in a
    /// header that it could mean (RFC 1035 section 4.1.4), and replies have other headers.
    HeaderPointer,
    /// Stricter: a pointer that stands in the question, or a name read from octets of a TTL. Both
    /// are others in the replies (letter case, age); RFC 1035 section 4.1.4 has pointers mean
    /// names.
    ChangingName,
    /// Stricter: more than 126 pointers in one name; a name has no more labels to point at (RFC
    /// 1035 section 2.3.4). Hickory follows thousands.
    PointerChain,
    /// Stricter: EDNS options that do not fill the data of their OPT record (RFC 6891 section
    /// 6.1.2). Hickory forgets them all and takes the record.
    BrokenOptions,
    /// Stricter: an OPT record whose owner is a pointer to a root label: it must be 0 (RFC 6891
    /// section 6.1.2).
    OptOwner,
    /// Stricter: a query with more than two additional records, as CoreDNS (RFC 6891 section 6.1.1
    /// and RFC 8945 section 5.1: one OPT and one TSIG).
    ManyAdditionals,
    /// Stricter: data of MD, MF, MB, MG, MR, MINFO (RFC 1035 section 3.3) and DNAME (RFC 6672
    /// section 2.1) that is not its names. Hickory takes any octets.
    NamesUnread,
    /// Stricter: a record of type MAILB or MAILA, which only a question may have (RFC 6895 section
    /// 3.1). Hickory refuses the other types of that kind, as we do.
    QuestionType,
    /// More lenient: a record without data, of a type without a format known here (RFC 3597
    /// section 3). Hickory takes it for a dynamic update.
    EmptyData,
    /// More lenient: data in types that nodens never looks into (RFC 3597 section 3), and of all
    /// additional records of a query but OPT.
    OpaqueData,
    /// More lenient: client subnets that hickory cannot read. RFC 7871 section 7.1.2 has those
    /// refuse them who use them; nodens does not.
    ClientSubnet,
    /// More lenient: options of an EDNS version other than 0 are not read; the answer is BADVERS
    /// (RFC 6891 section 6.1.3).
    OtherVersion,
}

impl Difference {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HeaderPointer,
        Self::ChangingName,
        Self::PointerChain,
        Self::BrokenOptions,
        Self::OptOwner,
        Self::ManyAdditionals,
        Self::NamesUnread,
        Self::QuestionType,
        Self::EmptyData,
        Self::OpaqueData,
        Self::ClientSubnet,
        Self::OtherVersion,
    ];

    /// Whether `wire` refuses what hickory takes.
    #[must_use]
    pub fn is_stricter(self) -> bool {
        self < Self::EmptyData
    }
}
