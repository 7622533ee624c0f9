// SPDX-License-Identifier: Apache-2.0
//! The rules of node-cache as iptables-nft keeps them in nf_tables, known by all that they say.
//!
//! ```text
//!   raw PREROUTING   to ADDRESS:PORT                    NOTRACK
//!   raw OUTPUT       to and from ADDRESS:PORT, :HEALTH  NOTRACK
//!   filter INPUT     to ADDRESS:PORT                    ACCEPT
//!   filter OUTPUT    from ADDRESS:PORT                  ACCEPT
//! ```
//!
//! Each for UDP and TCP (the health port for TCP alone), since 2023 with a comment. A rule is
//! node-cache's where it says this, nothing else, and has its comment. Without the comment, NOTRACK
//! is where the whole of its set is there for an address of the plan; ACCEPT is not, for a host's
//! firewall may have the same rule.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::conversation::{Refusal, attributes, text};
use crate::firewall::kernel::{Kernel, Path, Rule, big, data_value};
use crate::plan::{Plan, Proto};

/// Families (`NFPROTO_…`), as nft calls them, and the program that keeps their rules.
const FAMILIES: [(u8, &str, &str); 2] = [(2, "ip", "iptables"), (10, "ip6", "ip6tables")];

/// How every comment of node-cache's begins.
const COMMENT: &str = "NodeLocal DNS Cache: ";

/// A place where node-cache has rules, and how it ends its comment there.
struct Place {
    table: &'static str,
    chain: &'static str,
    comment: &'static str,
    verdict: Verdict,
    sides: &'static [Side],
}

const PLACES: [Place; 4] = [
    place("raw", "PREROUTING", &[Side::To]),
    place("raw", "OUTPUT", &[Side::To, Side::From]),
    place("filter", "INPUT", &[Side::To]),
    place("filter", "OUTPUT", &[Side::From]),
];

const fn place(table: &'static str, chain: &'static str, sides: &'static [Side]) -> Place {
    let is_raw = table.len() == 3;
    Place {
        table,
        chain,
        comment: if is_raw {
            "skip conntrack"
        } else {
            "allow DNS traffic"
        },
        verdict: if is_raw {
            Verdict::Notrack
        } else {
            Verdict::Accept
        },
        sides,
    }
}

/// Rules for DNS that are NOTRACK, for one address: its set is whole with these.
const NOTRACKS: usize = 6;

/// Whose address and port a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// The packet's destination.
    To,
    /// Its source.
    From,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Notrack,
    Accept,
}

/// A rule of node-cache's, or near to one.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: Path,
    pub(super) handle: u64,
    /// The family as nft calls it.
    pub(super) family: &'static str,
    /// What keeps the table.
    pub(super) program: &'static str,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whether it keeps packets from connection tracking.
    pub(super) is_notrack: bool,
    proto: Proto,
    side: Side,
    has_comment: bool,
}

impl Found {
    /// What it is about.
    pub(super) fn proto(&self) -> Proto {
        self.proto
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// node-cache's for certain.
    pub(super) theirs: Vec<Found>,
    /// Like node-cache's, and not the same: where.
    pub(super) near: Vec<Near>,
}

/// A rule that is left alone.
#[derive(Clone, Debug)]
pub(super) struct Near {
    pub(super) place: String,
    pub(super) why: &'static str,
}

/// Looks for them.
pub(super) fn look(kernel: &mut Kernel, plan: &Plan) -> Result<Rules, Refusal> {
    let mut rules = Rules::default();
    let mut bare = Vec::new();
    for (number, family, program) in FAMILIES {
        for place in &PLACES {
            let path = Path {
                family: number,
                table: place.table.to_owned(),
                name: place.chain.to_owned(),
            };
            let found: Rc<Vec<Rule>> = kernel.rules(&path)?.unwrap_or_default();
            for rule in found.iter() {
                let reading = Reading::of(rule, number);
                let near = |why| Near {
                    place: format!(
                        "table {family} {}, chain {}, rule {}",
                        place.table, place.chain, rule.handle
                    ),
                    why,
                };
                match reading.judge(place, plan) {
                    Likeness::None => {}
                    Likeness::Near(why) => rules.near.push(near(why)),
                    Likeness::Same(proto, side, address, port) => {
                        let found = Found {
                            path: path.clone(),
                            handle: rule.handle,
                            family,
                            program,
                            address,
                            port,
                            is_notrack: place.verdict == Verdict::Notrack,
                            proto,
                            side,
                            has_comment: reading.comment.is_some(),
                        };
                        if found.has_comment {
                            rules.theirs.push(found);
                        } else {
                            bare.push((found, near(BARE)));
                        }
                    }
                }
            }
        }
    }
    let whole: Vec<IpAddr> = addresses(bare.iter().map(|(found, _)| found))
        .into_iter()
        .filter(|&ip| is_whole(&bare, ip, plan.port))
        .collect();
    for (found, near) in bare {
        if found.is_notrack && whole.contains(&found.address) {
            rules.theirs.push(found);
        } else {
            rules.near.push(near);
        }
    }
    Ok(rules)
}

const BARE: &str = "it says what a rule of node-cache's says, without the comment: somebody else's may say \
                    the same";

/// The addresses that rules are about.
pub(super) fn addresses<'a>(rules: impl Iterator<Item = &'a Found>) -> BTreeSet<IpAddr> {
    rules.map(|found| found.address).collect()
}

/// Whether all rules for DNS of an address are there that keep packets from being tracked.
fn is_whole(bare: &[(Found, Near)], ip: IpAddr, port: u16) -> bool {
    let of_it = bare
        .iter()
        .map(|(found, _)| found)
        .filter(|found| found.is_notrack && found.address == ip && found.port == port);
    let kinds: BTreeSet<_> = of_it
        .map(|found| (found.path.name.clone(), found.proto, found.side))
        .collect();
    kinds.len() == NOTRACKS
}

/// How like a rule of node-cache's a rule is.
enum Likeness {
    None,
    Near(&'static str),
    Same(Proto, Side, IpAddr, u16),
}

/// What a rule says, as far as node-cache's rules say anything.
#[derive(Debug, Default)]
struct Reading {
    proto: Option<u8>,
    addresses: Vec<(Side, IpAddr)>,
    ports: Vec<(Side, u16)>,
    comment: Option<String>,
    verdict: Option<Verdict>,
    /// It says something else as well.
    is_more: bool,
}

/// What was loaded into a register to be compared.
#[derive(Clone, Copy)]
enum Loaded {
    Proto,
    Address(Side),
    Port(Side),
}

impl Reading {
    fn of(rule: &Rule, family: u8) -> Self {
        let mut reading = Self::default();
        let mut loaded = None;
        for (name, data) in rule.expressions() {
            let is_understood = match name.as_str() {
                "meta" => load(&mut loaded, meta(data)),
                "payload" => load(&mut loaded, payload(data, family)),
                "cmp" => reading.compare(loaded.take(), data),
                "match" => reading.extension(data),
                "target" => reading.target(data),
                "immediate" => reading.decide(is_accept(data).then_some(Verdict::Accept)),
                "notrack" => reading.decide(Some(Verdict::Notrack)),
                "counter" => true,
                _ => false,
            };
            reading.is_more |= !is_understood;
        }
        reading.is_more |= loaded.is_some();
        reading
    }

    fn judge(&self, place: &Place, plan: &Plan) -> Likeness {
        let is_theirs_by_name = self
            .comment
            .as_ref()
            .is_some_and(|comment| comment.starts_with(COMMENT));
        let about = self.addresses.first().map(|(_, ip)| *ip);
        let is_about_us = about.is_some_and(|ip| {
            plan.addresses.contains(&ip) || plan.captures.iter().any(|one| one.service == ip)
        });
        let is_close = is_theirs_by_name
            || is_about_us && self.comment.is_none() && self.verdict == Some(Verdict::Notrack);
        let other = |why| {
            if is_close {
                Likeness::Near(why)
            } else {
                Likeness::None
            }
        };
        let (Some(proto), [(side, ip)], [(of_port, port)]) = (
            self.proto.and_then(proto_of),
            &self.addresses[..],
            &self.ports[..],
        ) else {
            return other("it does not ask for one protocol, address and port, as node-cache's do");
        };
        if self.is_more || side != of_port {
            return other("it says more than node-cache's rules do");
        }
        if self.verdict != Some(place.verdict) || !place.sides.contains(side) {
            return other("node-cache has no such rule there");
        }
        match &self.comment {
            Some(comment) if comment.strip_prefix(COMMENT) == Some(place.comment) => {}
            Some(_) => return other("node-cache gives its rules there another comment"),
            // The rules for the health port have the address of one for DNS.
            None if is_about_us => {}
            None => return Likeness::None,
        }
        Likeness::Same(proto, *side, *ip, *port)
    }

    fn compare(&mut self, loaded: Option<(usize, Loaded)>, data: &[u8]) -> bool {
        let (mut from, mut operation, mut value) = (None, 0, Vec::new());
        for (kind, content) in attributes(data) {
            match kind {
                1 => from = big(content),
                2 => operation = big(content).unwrap_or(1),
                3 => value = data_value(content),
                _ => {}
            }
        }
        let Some((register, what)) = loaded else {
            return false;
        };
        // `NFT_CMP_EQ`.
        if operation != 0 || from.map(|from| from as usize) != Some(register) {
            return false;
        }
        match what {
            Loaded::Proto => value.first().is_some_and(|proto| {
                value.len() == 1
                    && self
                        .proto
                        .replace(*proto)
                        .is_none_or(|before| before == *proto)
            }),
            Loaded::Address(side) => {
                let ip = match value.len() {
                    4 => value
                        .first_chunk()
                        .map(|ip: &[u8; 4]| Ipv4Addr::from(*ip).into()),
                    16 => value
                        .first_chunk()
                        .map(|ip: &[u8; 16]| Ipv6Addr::from(*ip).into()),
                    _ => None,
                };
                self.addresses.extend(ip.map(|ip| (side, ip)));
                ip.is_some()
            }
            Loaded::Port(side) => {
                let port = value.first_chunk().map(|port| u16::from_be_bytes(*port));
                self.ports.extend(port.map(|port| (side, port)));
                port.is_some() && value.len() == 2
            }
        }
    }

    /// A match of iptables' own: the comment, and in older versions the port (`struct xt_tcp`,
    /// `struct xt_udp`: the least and the greatest of the source's, then of the destination's).
    fn extension(&mut self, data: &[u8]) -> bool {
        let (name, info) = named(data);
        match name.as_str() {
            "comment" => self.comment.replace(text(&info)).is_none(),
            "tcp" | "udp" => {
                let number = if name == "tcp" { 6 } else { 17 };
                let halves: Vec<u16> = info
                    .chunks_exact(2)
                    .take(4)
                    .filter_map(|two| two.first_chunk().map(|two| u16::from_ne_bytes(*two)))
                    .collect();
                let [from, from_end, to, to_end] = halves[..] else {
                    return false;
                };
                // Flags, options and what is inverted.
                let is_plain = info[8..].iter().all(|&octet| octet == 0);
                let is_proto = self.proto.replace(number).is_none_or(|one| one == number);
                for (side, low, high) in [(Side::From, from, from_end), (Side::To, to, to_end)] {
                    match (low, high) {
                        (0, u16::MAX) => {}
                        (low, high) if low == high => self.ports.push((side, low)),
                        _ => return false,
                    }
                }
                is_plain && is_proto
            }
            _ => false,
        }
    }

    /// `NOTRACK`, or what it is called today: `CT` with `XT_CT_NOTRACK`, mostly with
    /// `XT_CT_NOTRACK_ALIAS`, and nothing else (`struct xt_ct_target_info_v1`: flags, zone, events,
    /// helper, timeout).
    fn target(&mut self, data: &[u8]) -> bool {
        let (name, info) = named(data);
        let is_notrack = match name.as_str() {
            "NOTRACK" => true,
            "CT" => info.get(..60).is_some_and(|info| {
                let is_it = [1_u16, 3]
                    .map(u16::to_ne_bytes)
                    .iter()
                    .any(|it| info.starts_with(it));
                is_it && info[2..].iter().all(|&octet| octet == 0)
            }),
            _ => false,
        };
        self.decide(is_notrack.then_some(Verdict::Notrack))
    }

    fn decide(&mut self, verdict: Option<Verdict>) -> bool {
        let is_first = self.verdict.is_none();
        self.verdict = self.verdict.or(verdict);
        is_first && verdict.is_some()
    }
}

fn proto_of(number: u8) -> Option<Proto> {
    [Proto::Udp, Proto::Tcp]
        .into_iter()
        .find(|proto| proto.number() == number)
}

/// Remembers what was loaded; not understood where the last was never compared.
fn load(loaded: &mut Option<(usize, Loaded)>, next: Option<(usize, Loaded)>) -> bool {
    let is_free = loaded.is_none();
    *loaded = next;
    is_free && next.is_some()
}

/// `NFT_META_L4PROTO`.
fn meta(data: &[u8]) -> Option<(usize, Loaded)> {
    let (mut into, mut key) = (None, None);
    for (kind, value) in attributes(data) {
        match kind {
            1 => into = big(value),
            2 => key = big(value),
            _ => {}
        }
    }
    (key == Some(16)).then_some((into? as usize, Loaded::Proto))
}

/// Addresses and ports whole, at their places in the headers (RFC 791, RFC 8200, RFC 768, RFC 9293).
fn payload(data: &[u8], family: u8) -> Option<(usize, Loaded)> {
    let (mut into, mut base, mut offset, mut length) = (None, 0, 0, 0);
    for (kind, value) in attributes(data) {
        match kind {
            1 => into = big(value),
            2 => base = big(value)?,
            3 => offset = big(value)?,
            4 => length = big(value)?,
            _ => {}
        }
    }
    let what = match (base, family, offset, length) {
        (1, 2, 9, 1) | (1, 10, 6, 1) => Loaded::Proto,
        (1, 2, 12, 4) | (1, 10, 8, 16) => Loaded::Address(Side::From),
        (1, 2, 16, 4) | (1, 10, 24, 16) => Loaded::Address(Side::To),
        (2, _, 0, 2) => Loaded::Port(Side::From),
        (2, _, 2, 2) => Loaded::Port(Side::To),
        _ => return None,
    };
    Some((into? as usize, what))
}

/// Whether it is the verdict `accept` (`NF_ACCEPT` in `NFTA_DATA_VERDICT`).
fn is_accept(data: &[u8]) -> bool {
    let content = attributes(data).find(|(kind, _)| *kind == 2);
    let verdict = content.and_then(|(_, content)| attributes(content).find(|(kind, _)| *kind == 2));
    let code = verdict.and_then(|(_, verdict)| attributes(verdict).find(|(kind, _)| *kind == 1));
    code.and_then(|(_, code)| big(code)) == Some(1)
}

/// Name and data of a match or target of iptables' own.
fn named(data: &[u8]) -> (String, Vec<u8>) {
    let (mut name, mut info) = (String::new(), Vec::new());
    for (kind, value) in attributes(data) {
        match kind {
            1 => name = text(value),
            3 => info = value.to_vec(),
            _ => {}
        }
    }
    (name, info)
}
