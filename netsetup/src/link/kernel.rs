// SPDX-License-Identifier: Apache-2.0
//! Links and addresses as the kernel has them, and the requests that change them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData, InfoKind,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::event::{Timespec, poll};
use rustix::io::Errno;

use super::{ALIAS, Kind, LOOPBACK, NODE_CACHE, PROTOCOL};
use crate::conversation::{Conversation, Message, Refusal, attributes, number, text};

/// A request with its flags.
pub(super) type Request = (RouteNetlinkMessage, u16);

/// The kinds of messages that carry a link and an address (linux/rtnetlink.h).
pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DEL_LINK: u16 = 17;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DEL_ADDRESS: u16 = 21;

/// Octets of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// `IFF_UP`.
const UP: u32 = 1;

/// Attributes of a link (`IFLA_…`).
const IFNAME: u16 = 3;
const MASTER: u16 = 10;
const LINKINFO: u16 = 18;
const IFALIAS: u16 = 20;
/// In `IFLA_LINKINFO`: `IFLA_INFO_KIND`.
const INFO_KIND: u16 = 1;

/// Attributes of an address (`IFA_…`).
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const FLAGS: u16 = 8;
const PROTO: u16 = 11;

/// Flags of an address that nobody can be asked at (`IFA_F_…`): duplicates were found, or are
/// still looked for.
const DAD_FAILED: u32 = 0x08;
const TENTATIVE: u32 = 0x40;

/// `RTN_LOCAL`: the route of a packet that has arrived.
const LOCAL_ROUTE: u8 = 2;

/// How often it is looked at whether an address is reached yet, at most: two seconds in all, for a
/// machine whose CPUs are all taken. A socket that is connected before keeps its way out of the
/// node.
pub(super) const SETTLES: usize = 4_000;

/// The same for those who may not wait, 10 ms: their questions find out.
pub(super) const FEW_SETTLES: usize = 20;

/// The pause between two looks.
const SETTLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};

/// The label of an IPv4 address of ours on `lo`.
const LOOPBACK_LABEL: &str = "lo:nodens";

/// An interface on the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) is_up: bool,
    alias: Option<String>,
    pub(super) kind: Option<String>,
    master: u32,
}

impl Interface {
    /// Reads a message of [`NEW_LINK`] or [`DEL_LINK`].
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        if !matches!(message.kind, NEW_LINK | DEL_LINK) {
            return None;
        }
        let mut found = Self {
            index: message.number(4)?,
            is_up: message.number(8)? & UP != 0,
            ..Self::default()
        };
        for (kind, value) in message.attributes(LINK_HEADER) {
            match kind {
                IFNAME => found.name = text(value),
                MASTER => found.master = number(value)?,
                IFALIAS => found.alias = Some(text(value)),
                LINKINFO => {
                    let mut nested = attributes(value);
                    let kind = nested.find(|(kind, _)| *kind == INFO_KIND);
                    found.kind = kind.map(|(_, value)| text(value));
                }
                _ => {}
            }
        }
        Some(found)
    }

    /// What it is when it is ours: made by nodens, or `lo` where the plan says so.
    pub(super) fn ours(&self) -> Option<Kind> {
        if self.name == LOOPBACK {
            return Some(Kind::Loopback);
        }
        if self.alias.as_deref() != Some(ALIAS) {
            return None;
        }
        match self.kind.as_deref() {
            Some("dummy") => Some(Kind::Dummy),
            Some("bridge") => Some(Kind::Bridge),
            _ => None,
        }
    }

    /// As [`Self::ours`], and what node-cache made where it has node-cache's name.
    pub(super) fn usable(&self) -> Option<Kind> {
        let is_theirs = self.name == NODE_CACHE;
        self.ours().or_else(|| is_theirs.then_some(Kind::NodeCache))
    }

    /// What it is, for a person.
    pub(super) fn kind_in_words(&self) -> String {
        let kind = self.kind.as_deref().map_or_else(
            || "an interface of hardware".to_owned(),
            |kind| format!("a {kind} interface"),
        );
        match &self.alias {
            Some(alias) => format!("{kind} with the alias \"{alias}\""),
            None => format!("{kind} without the alias \"{ALIAS}\" that nodens gives"),
        }
    }
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) index: u32,
    prefix: u8,
    flags: u32,
    /// Whether nodens put it there.
    pub(super) is_marked: bool,
}

impl Address {
    /// Reads a message of [`NEW_ADDRESS`] or [`DEL_ADDRESS`].
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        if !matches!(message.kind, NEW_ADDRESS | DEL_ADDRESS) {
            return None;
        }
        let mut flags = u32::from(*message.body.get(2)?);
        let (mut local, mut address, mut is_marked) = (None, None, false);
        for (kind, value) in message.attributes(ADDRESS_HEADER) {
            match kind {
                ADDRESS => address = ip(value),
                LOCAL => local = ip(value),
                LABEL => is_marked |= text(value) == LOOPBACK_LABEL,
                FLAGS => flags = number(value)?,
                PROTO => is_marked |= value.first() == Some(&PROTOCOL),
                _ => {}
            }
        }
        Some(Self {
            // IFA_ADDRESS is the peer's where there is one.
            ip: local.or(address)?,
            index: message.number(4)?,
            prefix: *message.body.get(1)?,
            flags,
            is_marked,
        })
    }

    /// An address as [`addition`] makes it.
    pub(super) fn planned(ip: IpAddr, index: u32) -> Self {
        Self {
            ip,
            index,
            prefix: whole(ip),
            flags: 0,
            is_marked: true,
        }
    }

    /// Whether it is one address, not a network.
    pub(super) fn is_single(&self) -> bool {
        self.prefix == whole(self.ip)
    }

    /// Whether it is one address, not a network, and answers.
    pub(super) fn is_whole(&self) -> bool {
        self.prefix == whole(self.ip) && self.flags & (DAD_FAILED | TENTATIVE) == 0
    }

    /// Whether the kernel gave it to the interface by itself (RFC 4291 section 2.5.6).
    pub(super) fn is_link_local(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }
}

/// The interface of this name.
pub(super) fn interface(
    kernel: &mut Conversation,
    name: &str,
) -> Result<Option<Interface>, Refusal> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let found = kernel.one(
        &RouteNetlinkMessage::GetLink(message).into(),
        Interface::read,
    )?;
    // An alternative name finds an interface too.
    Ok(found.filter(|found| found.name == name))
}

/// The names of the ports of a bridge.
pub(super) fn ports(kernel: &mut Conversation, index: u32) -> Result<Vec<String>, Refusal> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        LinkAttribute::Controller(index),
    ];
    let mut found = kernel.all(
        &RouteNetlinkMessage::GetLink(message).into(),
        Interface::read,
    )?;
    // A kernel that knows no such filter gives all interfaces.
    found.retain(|port| port.master == index);
    Ok(found.into_iter().map(|port| port.name).collect())
}

/// The addresses on an interface, of both families.
pub(super) fn addresses(kernel: &mut Conversation, index: u32) -> Result<Vec<Address>, Refusal> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let mut found = kernel.all(
        &RouteNetlinkMessage::GetAddress(message).into(),
        Address::read,
    )?;
    // A kernel that knows no such filter gives all addresses.
    found.retain(|there| there.index == index);
    Ok(found)
}

/// Makes an interface that goes nowhere, ours and up, in one system call: no death of this process
/// leaves one behind without the mark.
pub(super) fn make(kernel: &mut Conversation, name: &str, kind: Kind) -> Result<(), Refusal> {
    let mut info = vec![];
    match kind {
        Kind::Bridge => {
            info.push(LinkInfo::Kind(InfoKind::Bridge));
            // It has nobody to talk to; queries of its own would only show up in captures.
            info.push(LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
                InfoBridge::MulticastQuerier(false),
            ])));
        }
        Kind::Dummy | Kind::Loopback | Kind::NodeCache => {
            info.push(LinkInfo::Kind(InfoKind::Dummy))
        }
    }
    let mut new = LinkMessage::default();
    new.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(info),
    ];
    // The kernel takes no alias and no mode of IPv6 addresses with the making itself.
    let mut furnish = LinkMessage::default();
    furnish.header.flags = LinkFlags::Up;
    furnish.header.change_mask = LinkFlags::Up;
    furnish.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::IfAlias(ALIAS.to_owned()),
    ];
    let mut quiet = LinkMessage::default();
    quiet.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]),
    ];
    let answers = kernel.change(vec![
        (RouteNetlinkMessage::NewLink(new), NLM_F_CREATE | NLM_F_EXCL),
        // A kernel without IPv6 refuses it, and needs it not.
        (RouteNetlinkMessage::SetLink(quiet), 0),
        (RouteNetlinkMessage::SetLink(furnish), 0),
    ])?;
    let mut answers = answers.into_iter();
    answers.next().unwrap_or(Ok(()))?;
    if let Some(Err(refusal)) = answers.nth(1) {
        if let Ok(Some(made)) = interface(kernel, name) {
            let _ = kernel.change(vec![unlink(made.index)]);
        }
        return Err(refusal);
    }
    Ok(())
}

/// Sets an interface up.
pub(super) fn set_up(kernel: &mut Conversation, index: u32) -> Result<(), Refusal> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    let mut answers = kernel.change(vec![(RouteNetlinkMessage::SetLink(message), 0)])?;
    answers.pop().unwrap_or(Ok(()))
}

/// The request that makes an interface ours.
pub(super) fn marking(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfAlias(ALIAS.to_owned())];
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// The request that removes an interface.
pub(super) fn unlink(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (RouteNetlinkMessage::DelLink(message), 0)
}

/// The request that puts an address on an interface, with our mark.
pub(super) fn addition(ip: IpAddr, index: u32, kind: Kind) -> Request {
    let mut message = message(&Address::planned(ip, index));
    message
        .attributes
        .push(AddressAttribute::Protocol(PROTOCOL.into()));
    match ip {
        IpAddr::V4(_) => {
            message.header.scope = AddressScope::Host;
            if kind == Kind::Loopback {
                let label = LOOPBACK_LABEL.to_owned();
                message.attributes.push(AddressAttribute::Label(label));
            }
        }
        IpAddr::V6(_) => {
            // Without NODAD nothing can be bound to it for a second or two; a route to it beside
            // the local one has no use.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            let mut life = CacheInfo::default();
            life.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
    }
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// The request that removes an address.
pub(super) fn removal(there: &Address) -> Request {
    (RouteNetlinkMessage::DelAddress(message(there)), 0)
}

/// Waits until packets to these addresses of the node reach it. The kernel does the last step for an
/// IPv6 address in a thread of its own, a moment after it took the address. That it never does is
/// for the check to find.
pub(super) fn settle(
    kernel: &mut Conversation,
    addresses: &[IpAddr],
    looks: usize,
) -> Result<(), Refusal> {
    for _ in 0..looks {
        let mut is_settled = true;
        for &ip in addresses.iter().filter(|ip| ip.is_ipv6()) {
            is_settled &= is_local(kernel, ip)?;
        }
        if is_settled {
            break;
        }
        // A pause; a signal may end it.
        let _ = poll(&mut [], Some(&SETTLE));
    }
    Ok(())
}

/// Whether the route to an address ends on this node.
fn is_local(kernel: &mut Conversation, ip: IpAddr) -> Result<bool, Refusal> {
    let mut message = RouteMessage::default();
    let (family, address) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = whole(ip);
    message.attributes = vec![RouteAttribute::Destination(address)];
    // `struct rtmsg`: the type of the route is its eighth octet.
    let question = RouteNetlinkMessage::GetRoute(message).into();
    match kernel.one(&question, |route| route.body.get(7).copied()) {
        Ok(kind) => Ok(kind == Some(LOCAL_ROUTE)),
        Err(answer) if matches!(answer.errno, Errno::NETUNREACH | Errno::HOSTUNREACH) => Ok(false),
        Err(answer) => Err(answer),
    }
}

fn message(there: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match there.ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = there.prefix;
    message.header.index = there.index;
    message.attributes = vec![
        AddressAttribute::Local(there.ip),
        AddressAttribute::Address(there.ip),
    ];
    message
}

/// The length of the prefix that is one address.
fn whole(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => octets
            .first_chunk()
            .map(|&ip: &[u8; 4]| Ipv4Addr::from(ip).into()),
        _ => octets
            .first_chunk()
            .map(|&ip: &[u8; 16]| Ipv6Addr::from(ip).into()),
    }
}
