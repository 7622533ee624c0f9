// SPDX-License-Identifier: Apache-2.0
//! A packet that is thought through a chain: what is known of it, octet by octet.

use std::fmt;
use std::net::IpAddr;

use crate::plan::Proto;

/// `NF_CT_STATE_UNTRACKED_BIT`: the only state of an untracked packet.
pub(super) const UNTRACKED: u32 = 1 << 6;

/// The port of a client: one of those that kernels give (`ip_local_port_range`).
const CLIENT_PORT: u16 = 40_000;

/// Where on their way packets come by a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Output,
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl Hook {
    /// Whether packets come by it on their way in.
    pub(super) fn is_inward(self) -> bool {
        matches!(self, Self::Prerouting | Self::Input)
    }
}

/// An untracked query, or the reply to it, at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) hook: Hook,
    pub(super) is_reply: bool,
    /// Whether the client is on the node itself, as our own prober is: then both ways lead over
    /// `lo`. Else none does.
    pub(super) is_from_here: bool,
    pub(super) proto: Proto,
    /// Whom a query is for, the source of a reply.
    pub(super) ours: IpAddr,
    /// Our port.
    pub(super) port: u16,
}

/// An octet that is known or not.
pub(super) type Octet = Option<u8>;

impl Packet {
    pub(super) fn proto_name(&self) -> &'static str {
        match self.proto {
            Proto::Udp => "udp",
            Proto::Tcp => "tcp",
        }
    }

    /// `IPPROTO_UDP`, `IPPROTO_TCP`.
    pub(super) fn proto_number(&self) -> u8 {
        match self.proto {
            Proto::Udp => 17,
            Proto::Tcp => 6,
        }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub(super) fn family(&self) -> u8 {
        if self.ours.is_ipv6() { 10 } else { 2 }
    }

    /// `ETH_P_IP`, `ETH_P_IPV6`.
    pub(super) fn protocol(&self) -> u16 {
        if self.ours.is_ipv6() { 0x86dd } else { 0x0800 }
    }

    /// Whether it is for this node (`fib daddr type local`), where that is known.
    pub(super) fn is_for_here(&self) -> Option<bool> {
        (self.hook.is_inward() || self.is_from_here).then_some(true)
    }

    /// What is known of its IP header (RFC 791 section 3.1, RFC 8200 section 3).
    pub(super) fn network_header(&self) -> Vec<Octet> {
        let mut header = vec![None; 40];
        let (protocol_at, from, to) = match self.ours {
            IpAddr::V4(_) => (9, 12, 16),
            IpAddr::V6(_) => (6, 8, 24),
        };
        header[protocol_at] = Some(self.proto_number());
        let octets = match self.ours {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let begin = if self.is_reply { from } else { to };
        for (at, octet) in (begin..).zip(octets) {
            header[at] = Some(octet);
        }
        header
    }

    /// What is known of its UDP or TCP header: the ports.
    pub(super) fn transport_header(&self) -> Vec<Octet> {
        let mut header = vec![None; 20];
        let (ours, client) = if self.is_reply { (0, 2) } else { (2, 0) };
        for (begin, port) in [(ours, self.port), (client, CLIENT_PORT)] {
            for (at, octet) in (begin..).zip(port.to_be_bytes()) {
                header[at] = Some(octet);
            }
        }
        header
    }
}
