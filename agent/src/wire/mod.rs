// SPDX-License-Identifier: Apache-2.0
//! DNS bytes (RFC 1035 section 4). No I/O, no clock, no allocation, no panic: everything here
//! reads what strangers sent.
//!
//! ```text
//! a client's bytes ── query::Query::parse ──► question::Question (the cache's key)
//!                                        └──► fault::Rejection ── reply::reject ──► bytes
//! an upstream's    ── response::Response::parse ──► answer::Answer ── reply::answer ──► bytes
//! ```

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod answer;
pub mod chain;
pub mod edns;
pub mod fault;
pub mod header;
pub mod name;
pub mod plain;
pub mod presentation;
pub mod query;
pub mod question;
pub mod reply;
pub mod response;

mod cursor;
mod shorten;

/// Query types that nodens treats by name (IANA DNS parameters).
pub mod qtype {
    /// IPv4 address (RFC 1035).
    pub const A: u16 = 1;
    /// Name server (RFC 1035).
    pub const NS: u16 = 2;
    /// Canonical name (RFC 1035).
    pub const CNAME: u16 = 5;
    /// Start of authority (RFC 1035).
    pub const SOA: u16 = 6;
    /// Pointer (RFC 1035).
    pub const PTR: u16 = 12;
    /// Kind of host (RFC 1035).
    pub const HINFO: u16 = 13;
    /// Mailbox of a mailing list (RFC 1035).
    pub const MINFO: u16 = 14;
    /// Mail exchange (RFC 1035).
    pub const MX: u16 = 15;
    /// Text (RFC 1035).
    pub const TXT: u16 = 16;
    /// IPv6 address (RFC 3596).
    pub const AAAA: u16 = 28;
    /// Service (RFC 2782).
    pub const SRV: u16 = 33;
    /// A whole subtree by another name (RFC 6672).
    pub const DNAME: u16 = 39;
    /// EDNS (RFC 6891): no type of data.
    pub const OPT: u16 = 41;
    /// Signature (RFC 4034).
    pub const RRSIG: u16 = 46;
    /// Transaction key (RFC 2930): no type of data.
    pub const TKEY: u16 = 249;
    /// Transaction signature (RFC 8945): no type of data.
    pub const TSIG: u16 = 250;
    /// Incremental transfer (RFC 1995).
    pub const IXFR: u16 = 251;
    /// Transfer (RFC 5936).
    pub const AXFR: u16 = 252;
    /// Every type (RFC 1035): the last of those that only a question may have, which begin with
    /// [`IXFR`] (RFC 6895 section 3.1).
    pub const ANY: u16 = 255;
}

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The query could not be read.
    pub const FORMERR: u16 = 1;
    /// The query could not be answered.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// Not implemented.
    pub const NOTIMP: u16 = 4;
    /// Not willing.
    pub const REFUSED: u16 = 5;
    /// An EDNS version we do not speak.
    pub const BADVERS: u16 = 16;
}

/// Largest DNS message in octets: what a TCP length prefix can say (RFC 1035 section 4.2.2).
pub const MAX_MESSAGE: usize = 65_535;
/// Largest UDP message of a client without EDNS (RFC 1035 section 4.2.1).
pub const MIN_UDP: usize = 512;

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod tests;
