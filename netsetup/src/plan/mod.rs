// SPDX-License-Identifier: Apache-2.0
//! What the node's network should look like, as data: the addresses that nodens owns and the
//! Service addresses that it steers to them. Nothing here touches the kernel.

mod error;
mod stand_in;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use self::error::PlanError;

/// Most clients' addresses of one family: every packet of the node passes the rules of each.
pub const MOST_ADDRESSES: usize = 16;

/// How long a TCP flow is remembered beyond [`Settings::tcp_idle`]: the agent closes the connection
/// first, and the packets that end it must still find their way.
const FAREWELL: Duration = Duration::from_secs(60);

/// Addresses within 169.254.0.0/16 at which clouds answer their machines (metadata, time, DNS):
/// taking one would cut the node off from it.
const CLOUD: [Ipv4Addr; 3] = [
    Ipv4Addr::new(169, 254, 169, 123),
    Ipv4Addr::new(169, 254, 169, 253),
    Ipv4Addr::new(169, 254, 169, 254),
];

/// What the configuration says about the node's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The interface of our own that holds the addresses, e.g. `nodens0`.
    pub interface: String,
    /// Every address that the agent listens on. Those of 169.254.0.0/16 and fc00::/7 are
    /// node-local and become the plan's; others are none of its business.
    pub listen: Vec<IpAddr>,
    /// The port of all of them, and of the Service addresses: a port is never rewritten.
    pub port: u16,
    /// The cluster's DNS Service addresses that pods ask.
    pub services: Vec<IpAddr>,
    /// The node-local address for each of `services`: the first of a family for the first, and so
    /// on. `None`: the addresses that follow the last node-local listen address of the family.
    pub redirect_to: Option<Vec<IpAddr>>,
    /// A Service address of CoreDNS's own that answers while no agent lives, one a family at most.
    pub fallback: Vec<IpAddr>,
    /// After how long without a query the agent closes a client's TCP connection.
    pub tcp_idle: Duration,
}

/// The whole of what nodens wants on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The interface that holds the addresses, e.g. `nodens0`.
    pub interface: String,
    /// The port that clients ask.
    pub port: u16,
    /// Node-local addresses that clients ask (RFC 3927 for IPv4, a ULA for IPv6).
    pub addresses: Vec<IpAddr>,
    /// Service addresses of the cluster's DNS, each with the node-local address it is steered to.
    pub captures: Vec<Capture>,
    /// A Service address of CoreDNS that answers for the link-local addresses while no agent lives.
    pub fallback: Vec<IpAddr>,
    /// Where the agent's questions to itself come from, one address a family: its own, so that the
    /// rules know them whatever the switch says. Not loopback: kube-proxy's iptables mode drops what
    /// comes to 127.0.0.0/8 from elsewhere and is not tracked (its chain `KUBE-FIREWALL`).
    pub probes: Vec<IpAddr>,
    /// How long a TCP flow that began with us is remembered after its last packet.
    pub remember_tcp: Duration,
    /// For listen addresses that another program holds, where they are answered instead.
    pub stand_ins: Vec<Capture>,
}

/// One Service address and where its queries go: only the address is rewritten, never the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The cluster's DNS address that pods ask.
    pub service: IpAddr,
    /// The node-local address, of the same family, that answers instead.
    pub local: IpAddr,
}

/// How clients reach an address: what is steered, and what fails, apart from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// UDP (RFC 1035 section 4.2.1).
    Udp,
    /// TCP (RFC 7766).
    Tcp,
}

/// One address that clients ask, over one protocol: the unit of the dead-man's switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The address clients ask: node-local or a Service address.
    pub address: IpAddr,
    /// The protocol.
    pub proto: Proto,
}

impl Plan {
    /// Makes the plan that the settings ask for.
    ///
    /// # Errors
    /// Every problem of the settings, each with its remedy.
    pub fn new(settings: &Settings) -> Result<Self, Vec<PlanError>> {
        let mut problems = Vec::new();
        let interface = &settings.interface;
        if !is_interface_name(interface) {
            problems.push(PlanError::InterfaceName(interface.clone()));
        }
        if settings.port == 0 {
            problems.push(PlanError::NoPort);
        }
        let addresses = Self::own_addresses(&settings.listen, &mut problems);
        let services = usable("the Service addresses", &settings.services, &mut problems);
        problems.extend(
            services
                .iter()
                .filter(|service| settings.listen.contains(service))
                .map(|&service| PlanError::ServiceIsListen(service)),
        );
        let captures = match &settings.redirect_to {
            Some(locals) => told(&services, locals, settings, &mut problems),
            None => chosen(&services, &addresses, settings, &mut problems),
        };
        let fallback = Self::fallback(settings, &addresses, &services, &mut problems);
        for family in [Family::V4, Family::V6] {
            let of_family = |address: &&IpAddr| Family::of(**address) == family;
            let number = addresses.iter().chain(&services).filter(of_family).count();
            if number > MOST_ADDRESSES {
                problems.push(PlanError::TooMany { family, number });
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let probes = Self::probes(settings, &addresses, &captures)?;
        Ok(Self {
            interface: interface.clone(),
            port: settings.port,
            addresses,
            captures,
            fallback,
            probes,
            remember_tcp: settings.tcp_idle.saturating_add(FAREWELL),
            stand_ins: Vec::new(),
        })
    }

    /// What is listened on: the addresses or their stand-ins, and the node-local address of every
    /// capture.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<IpAddr> {
        let own = self.addresses.iter().map(|&own| self.stands_for(own));
        let redirects = self.captures.iter().map(|capture| capture.local);
        own.chain(redirects).collect()
    }

    /// What is put on the interface: what is listened on, what has a stand-in, and where probes come
    /// from.
    #[must_use]
    pub fn interface_addresses(&self) -> Vec<IpAddr> {
        let mut all = self.local_addresses();
        all.extend(&self.probes);
        all.extend(self.stand_ins.iter().map(|one| one.service));
        all
    }

    /// Where probes of an address of this family come from.
    #[must_use]
    pub fn probe(&self, family: Family) -> Option<IpAddr> {
        let mut probes = self.probes.iter().copied();
        probes.find(|&probe| Family::of(probe) == family)
    }

    /// Every address that clients ask, over every protocol.
    #[must_use]
    pub fn lanes(&self) -> Vec<Lane> {
        let services = self.captures.iter().map(|capture| capture.service);
        let addresses = self.addresses.iter().copied().chain(services);
        addresses
            .flat_map(|address| [Proto::Udp, Proto::Tcp].map(|proto| Lane { address, proto }))
            .collect()
    }

    /// The node-local address that answers what clients ask of `address`.
    #[must_use]
    pub fn served_by(&self, address: IpAddr) -> Option<IpAddr> {
        let mut captures = self.captures.iter();
        captures
            .find(|capture| capture.service == address)
            .map(|capture| capture.local)
            .or_else(|| {
                let is_own = self.addresses.contains(&address);
                is_own.then(|| self.stands_for(address))
            })
    }

    fn own_addresses(listen: &[IpAddr], problems: &mut Vec<PlanError>) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        let mut seen = HashSet::new();
        for &address in listen {
            match address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                    problems.push(PlanError::LinkLocal6(v6));
                }
                _ if !seen.insert(address) => problems.push(PlanError::Duplicate {
                    of: "the listen addresses",
                    address,
                }),
                _ if is_node_local(address) => match reserved(address) {
                    Some(why) => problems.push(PlanError::Reserved { address, why }),
                    None => addresses.push(address),
                },
                _ => {}
            }
        }
        addresses
    }

    /// The next free address behind those that are listened on, for each family that has any.
    fn probes(
        settings: &Settings,
        addresses: &[IpAddr],
        captures: &[Capture],
    ) -> Result<Vec<IpAddr>, Vec<PlanError>> {
        let captured = captures.iter().map(|capture| capture.local);
        let locals: Vec<_> = addresses.iter().copied().chain(captured).collect();
        let mut used: HashSet<IpAddr> = locals.iter().copied().collect();
        used.extend(
            (settings.services.iter())
                .chain(&settings.listen)
                .chain(&settings.fallback),
        );
        let mut probes = Vec::new();
        let mut problems = Vec::new();
        for family in [Family::V4, Family::V6] {
            let of_family = |address: &&IpAddr| Family::of(**address) == family;
            let Some(&last) = locals.iter().rev().find(of_family) else {
                continue;
            };
            match free_behind(last, &used) {
                Some(probe) => probes.push(probe),
                None => problems.push(PlanError::NoProbeAddress(last)),
            }
        }
        if problems.is_empty() {
            Ok(probes)
        } else {
            Err(problems)
        }
    }

    fn fallback(
        settings: &Settings,
        addresses: &[IpAddr],
        services: &[IpAddr],
        problems: &mut Vec<PlanError>,
    ) -> Vec<IpAddr> {
        let fallback = usable("the fallback addresses", &settings.fallback, problems);
        for (place, &address) in fallback.iter().enumerate() {
            let family = Family::of(address);
            if services.contains(&address) {
                problems.push(PlanError::FallbackIsService(address));
            }
            if settings.listen.contains(&address) {
                problems.push(PlanError::FallbackIsListen(address));
            }
            if fallback[..place]
                .iter()
                .any(|&one| Family::of(one) == family)
            {
                problems.push(PlanError::SecondFallback(address));
            }
            match addresses
                .iter()
                .filter(|&&one| Family::of(one) == family)
                .count()
            {
                0 => problems.push(PlanError::FallbackAlone(address)),
                1 => {}
                number => problems.push(PlanError::FallbackForMany { address, number }),
            }
        }
        fallback
    }
}

/// The addresses that can be those of Services; the rest are problems.
fn usable(of: &'static str, addresses: &[IpAddr], problems: &mut Vec<PlanError>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let mut usable = Vec::new();
    for &address in addresses {
        let is_mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() || v6.is_unicast_link_local());
        let is_link_local =
            matches!(address, IpAddr::V4(v4) if v4.is_link_local() || v4.is_broadcast());
        if address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || is_mapped
            || is_link_local
        {
            problems.push(PlanError::NoServiceAddress { of, address });
        } else if !seen.insert(address) {
            problems.push(PlanError::Duplicate { of, address });
        } else {
            usable.push(address);
        }
    }
    usable
}

/// Pairs the Services with the node-local addresses that the user named, family by family.
fn told(
    services: &[IpAddr],
    locals: &[IpAddr],
    settings: &Settings,
    problems: &mut Vec<PlanError>,
) -> Vec<Capture> {
    let mut seen = HashSet::new();
    for &address in locals {
        if !seen.insert(address) {
            let of = "the redirect addresses";
            problems.push(PlanError::Duplicate { of, address });
        } else if settings.listen.contains(&address) {
            problems.push(PlanError::RedirectIsListen(address));
        } else if services.contains(&address) || settings.fallback.contains(&address) {
            problems.push(PlanError::RedirectIsService(address));
        } else if !is_node_local(address) {
            problems.push(PlanError::RedirectNotNodeLocal(address));
        } else if let Some(why) = reserved(address) {
            problems.push(PlanError::Reserved { address, why });
        }
    }
    let mut captures = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let services: Vec<_> = services.iter().filter(of_family).collect();
        let locals: Vec<_> = locals.iter().filter(of_family).collect();
        if services.len() != locals.len() {
            problems.push(PlanError::Unpaired {
                family,
                services: services.len(),
                locals: locals.len(),
            });
        }
        let pairs = services.into_iter().zip(locals);
        captures.extend(pairs.map(|(&service, &local)| Capture { service, local }));
    }
    captures
}

/// Pairs each Service with the next free address behind the last listen address of its family.
fn chosen(
    services: &[IpAddr],
    addresses: &[IpAddr],
    settings: &Settings,
    problems: &mut Vec<PlanError>,
) -> Vec<Capture> {
    let mut used: HashSet<IpAddr> = addresses.iter().copied().collect();
    used.extend(
        services
            .iter()
            .chain(&settings.listen)
            .chain(&settings.fallback),
    );
    let mut captures = Vec::new();
    for &service in services {
        let family = Family::of(service);
        let mut of_family = addresses.iter().rev();
        let Some(&last) = of_family.find(|&&address| Family::of(address) == family) else {
            problems.push(PlanError::NoListenAddress(service));
            continue;
        };
        match free_behind(last, &used) {
            Some(local) => {
                used.insert(local);
                captures.push(Capture { service, local });
            }
            None => problems.push(PlanError::NoFreeAddress { service, last }),
        }
    }
    captures
}

/// The next node-local address that nobody uses.
fn free_behind(last: IpAddr, used: &HashSet<IpAddr>) -> Option<IpAddr> {
    let mut next = following(last)?;
    // As many steps as there are addresses that can be in the way.
    for _ in 0..used.len() + CLOUD.len() {
        if !used.contains(&next) && reserved(next).is_none() {
            break;
        }
        next = following(next)?;
    }
    let is_free = !used.contains(&next) && reserved(next).is_none();
    (is_free && is_node_local(next)).then_some(next)
}

fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_add(1)
            .map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(v6) => u128::from(v6)
            .checked_add(1)
            .map(|next| Ipv6Addr::from(next).into()),
    }
}

/// Whether an address is one of those that nodens may put on its own interface.
fn is_node_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Why a node-local address must not be taken, where that is so.
fn reserved(address: IpAddr) -> Option<&'static str> {
    let IpAddr::V4(v4) = address else { return None };
    match v4.octets() {
        [169, 254, 0 | 255, _] => Some("RFC 3927 section 2.1 keeps it for future use"),
        _ if CLOUD.contains(&v4) => Some("clouds answer their machines there"),
        _ => None,
    }
}

/// What the kernel takes (`dev_valid_name` in net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    let is_wrong = |letter: char| letter == '/' || letter == ':' || letter.is_whitespace();
    !matches!(name, "" | "." | "..") && name.len() < 16 && !name.contains(is_wrong)
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} over {}", self.address, self.proto)
    }
}
