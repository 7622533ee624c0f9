// SPDX-License-Identifier: Apache-2.0
//! The rules of a plan as data: the few kinds of table, set, chain and rule that nodens needs. Three
//! forms are made of the one model: netlink messages for the kernel ([`netlink`]), nft's syntax for
//! people ([`text`]) and nft's JSON for programs ([`mod@json`]).

pub(crate) mod active;
pub(crate) mod compare;
pub(crate) mod fallback;
mod json;
pub(crate) mod netlink;
#[cfg(test)]
mod tests;
pub(crate) mod text;

pub(crate) use self::json::json;

use std::net::IpAddr;
use std::time::Duration;

use crate::plan::{Family, Proto};

/// A table of family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Whether it is to go with the socket that made it.
    pub(crate) is_owned: bool,
    pub(crate) sets: Vec<Set>,
    pub(crate) chains: Vec<Chain>,
}

/// A set of concatenated keys whose elements expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: Vec<KeyType>,
    /// Filled by rules; else by the agent.
    pub(crate) dynamic: Option<Dynamic>,
}

/// Bounds of a set that rules fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// Most elements: what clients can make the kernel keep.
    pub(crate) size: u32,
    /// How long an element stays after its last update.
    pub(crate) timeout: Duration,
}

/// A part of a set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    Address(Family),
    Proto,
    Port,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// Where the kernel calls it; else other chains do.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// What makes a chain one that the kernel calls. Its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kind: ChainKind,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
    /// As `Filter`, and a packet that it changed is routed anew.
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Output,
    Postrouting,
}

/// What is done with packets that fit: statements from left to right until one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) statements: Vec<Statement>,
    /// The comment that `nft list` shows: why the rule is there. 127 bytes at most.
    pub(crate) why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// The packet's address is this.
    Address(Side, IpAddr),
    /// The packet is of this protocol and its port is this.
    Port(Proto, Side, u16),
    /// The port is this, or another, whatever the protocol. What has no ports is taken as if it had.
    AnyPort(Side, Presence, u16),
    /// A TCP segment that begins a connection: SYN without ACK.
    Begins,
    /// The key is in the set, or is not.
    Lookup(Vec<Field>, &'static str, Presence),
    /// Puts the key into the set, or keeps it there for the set's timeout from now.
    Update(Vec<Field>, &'static str),
    /// Takes the key out of the set.
    Forget(Vec<Field>, &'static str),
    /// Connection tracking does not know the packet.
    IsUntracked,
    /// The client asked this address, before any translation.
    OriginalDestination(IpAddr),
    /// Keeps the packet from connection tracking.
    Notrack,
    /// Ends this hook's chain; those that come later still see the packet.
    Accept,
    /// Goes through another chain, and then on.
    Jump(&'static str),
    /// Translates the source to the node's own address.
    Masquerade,
    /// Writes the address into the packet, and mends the checksums: that of the IPv4 header, and
    /// that of UDP or TCP, which covers the addresses. UDP without a checksum stays without.
    Rewrite(Side, IpAddr),
}

/// A part of a key as it is read from a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Address(Family, Side),
    Proto,
    Port(Proto, Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Names of the sets of a family: `live` says which lanes take new queries and connections,
/// `serve` which keep those that are established, `began` which TCP flows began with us.
pub(crate) const fn live(family: Family) -> &'static str {
    match family {
        Family::V4 => "live",
        Family::V6 => "live6",
    }
}

/// See [`live`].
pub(crate) const fn serve(family: Family) -> &'static str {
    match family {
        Family::V4 => "serve",
        Family::V6 => "serve6",
    }
}

/// See [`live`].
pub(crate) const fn began(family: Family) -> &'static str {
    match family {
        Family::V4 => "began",
        Family::V6 => "began6",
    }
}

/// Where another program holds a listen address: the TCP flows there that began since, while nothing
/// was steered here.
pub(crate) const fn elsewhere(family: Family) -> &'static str {
    match family {
        Family::V4 => "elsewhere",
        Family::V6 => "elsewhere6",
    }
}
