// SPDX-License-Identifier: Apache-2.0
//! Who has which address in the lab, in both families alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, with unique local addresses (RFC 4193).
    V6,
}

/// The port of DNS.
pub const DNS: u16 = 53;

impl Family {
    /// Both.
    pub const BOTH: &[Self] = &[Self::V4, Self::V6];

    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => Ipv6Addr::from(v6).into(),
        }
    }

    /// LOCAL: where the agent listens, which pods may name in their resolv.conf.
    #[must_use]
    pub fn local(self) -> IpAddr {
        self.pick([169, 254, 20, 10], [0xfd53, 0, 0, 0, 0, 0, 0, 0x10])
    }

    /// S: the address of the Service kube-dns.
    #[must_use]
    pub fn service(self) -> IpAddr {
        self.pick([10, 96, 0, 10], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa])
    }

    /// U: the Service nodens-upstream, of which the agent asks.
    #[must_use]
    pub fn upstream(self) -> IpAddr {
        self.pick([10, 96, 0, 50], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x50])
    }

    /// F: the Service nodens-fallback, to which LOCAL leads without an agent.
    #[must_use]
    pub fn fallback(self) -> IpAddr {
        self.pick([10, 96, 0, 51], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x51])
    }

    /// The pods of CoreDNS, on another node.
    #[must_use]
    pub fn coredns(self) -> [IpAddr; 2] {
        [0x53, 0x54].map(|host| {
            let v4 = [10, 244, 9, if host == 0x53 { 53 } else { 54 }];
            self.pick(v4, [0xfd00, 0x10, 0x244, 9, 0, 0, 0, host])
        })
    }

    /// The addresses of all pods, of every node.
    #[must_use]
    pub fn pods(self) -> &'static str {
        match self {
            Self::V4 => "10.244.0.0/16",
            Self::V6 => "fd00:10:244::/48",
        }
    }

    /// The addresses of all Services.
    #[must_use]
    pub fn services(self) -> &'static str {
        match self {
            Self::V4 => "10.96.0.0/16",
            Self::V6 => "fd00:10:96::/112",
        }
    }

    /// `address` with the port of DNS.
    #[must_use]
    pub fn dns(address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, DNS)
    }

    /// What clients ask: LOCAL and S.
    #[must_use]
    pub fn asked(self) -> [SocketAddr; 2] {
        [self.local(), self.service()].map(Self::dns)
    }
}
