// SPDX-License-Identifier: Apache-2.0
//! EDNS(0): the OPT record (RFC 6891) and the few options that nodens speaks.

use super::cursor::Cursor;

/// Length of an OPT record without options, in octets.
pub const OPT_LEN: usize = 11;
/// The DO bit in the lower half of OPT's TTL field (RFC 3225).
pub const DO: u16 = 0x8000;
/// Option code of edns-tcp-keepalive (RFC 7828).
pub const KEEPALIVE: u16 = 11;
/// Option code of Extended DNS Errors (RFC 8914).
pub const EDE: u16 = 15;

/// What a client said in its OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest UDP answer it takes, in octets, as sent.
    pub udp_size: u16,
    /// EDNS version.
    pub version: u8,
    /// Whether it wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether it sent edns-tcp-keepalive (RFC 7828).
    pub keepalive: bool,
}

impl Edns {
    /// Reads an OPT record behind its type: class, TTL, length and options. `None` where the
    /// options do not fill their length exactly (RFC 6891 section 6.1.2). Another version may have
    /// other options: they are passed over, so that the client hears BADVERS (section 6.1.3).
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let udp_size = cursor.u16()?;
        let [_extended_rcode, version, flags_high, flags_low] = cursor.u32()?.to_be_bytes();
        let length = usize::from(cursor.u16()?);
        let mut options = Cursor::new(cursor.take(length)?, 0);
        let mut keepalive = false;
        while version == 0 && options.position() < length {
            let code = options.u16()?;
            let size = usize::from(options.u16()?);
            options.take(size)?;
            keepalive |= code == KEEPALIVE;
        }
        Some(Self {
            udp_size,
            version,
            dnssec_ok: u16::from_be_bytes([flags_high, flags_low]) & DO != 0,
            keepalive,
        })
    }
}

/// An Extended DNS Error (RFC 8914): why an answer is not what the client hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// The INFO-CODE.
    pub code: u16,
    /// The EXTRA-TEXT, for people.
    pub text: &'static str,
}

impl ExtendedError {
    /// 0, Other: more queries are under way than the limit allows.
    pub const OVER_LIMIT: Self = Self {
        code: 0,
        text: "too many queries under way on this node",
    };
    /// 0, Other: more queries of this client are under way than its share of the limit.
    pub const OVER_SHARE: Self = Self {
        code: 0,
        text: "too many queries of this client under way on this node",
    };
    /// 3, Stale Answer (RFC 8767): the upstreams do not answer now.
    pub const STALE: Self = Self {
        code: 3,
        text: "an earlier answer, as no upstream answers now",
    };
    /// 19, Stale NXDOMAIN Answer.
    pub const STALE_NXDOMAIN: Self = Self {
        code: 19,
        text: "an earlier denial, as no upstream answers now",
    };
    /// 13, Cached Error (RFC 9520): the upstreams failed a short while ago.
    pub const CACHED_ERROR: Self = Self {
        code: 13,
        text: "no upstream could answer a moment ago",
    };
    /// 0, Other: the upstreams themselves said so, none of them did better.
    pub const UPSTREAM_FAILED: Self = Self {
        code: 0,
        text: "the upstreams answered with this failure",
    };
    /// 0, Other: an upstream answered with CNAMEs that lead nowhere.
    pub const CNAME_LOOP: Self = Self {
        code: 0,
        text: "the upstreams answered with CNAMEs that lead in a circle",
    };
    /// 22, No Reachable Authority: none of the upstreams could prove over TLS who it is.
    pub const NO_PROOF: Self = Self {
        code: 22,
        text: "the upstreams could not prove over TLS who they are",
    };
    /// 22, No Reachable Authority: the upstreams forward to this agent.
    pub const LOOP: Self = Self {
        code: 22,
        text: "the upstreams send queries back to this agent: a loop",
    };
    /// 20, Not Authoritative: this is a cache, zones are not transferred from here.
    pub const NO_TRANSFER: Self = Self {
        code: 20,
        text: "zone transfers are not answered by a cache",
    };
    /// 21, Not Supported: a type that stands for no data.
    pub const NO_META_TYPE: Self = Self {
        code: 21,
        text: "types that stand for no data are not answered here",
    };
    /// 21, Not Supported: a class other than IN.
    pub const ONLY_IN: Self = Self {
        code: 21,
        text: "only class IN is answered here",
    };
    /// 22, No Reachable Authority: no upstream answered in time.
    pub const NO_UPSTREAM: Self = Self {
        code: 22,
        text: "no upstream answered in time",
    };
    /// 23, Network Error: the connections to the upstreams failed.
    pub const NETWORK: Self = Self {
        code: 23,
        text: "the upstreams could not be reached",
    };
    /// 0, Other: a task of ours failed.
    pub const INTERNAL: Self = Self {
        code: 0,
        text: "the agent failed while it asked upstream",
    };
    /// 14, Not Ready: the agent is going down.
    pub const DRAINING: Self = Self {
        code: 14,
        text: "the agent is shutting down",
    };
}
