// SPDX-License-Identifier: Apache-2.0
//! The chains, rules and sets of others, as nf_tables tells them (linux/netfilter/nf_tables.h).

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use rustix::io::Errno;

use super::packet::Hook;
use crate::conversation::{Conversation, Message, Question, Refusal, attributes, text};

/// `NFNL_SUBSYS_NFTABLES`: the upper octet of a message's kind.
const NF_TABLES: u16 = 10 << 8;

/// Kinds of messages (`NFT_MSG_…`).
const GET_CHAIN: u16 = NF_TABLES | 4;
const GET_RULE: u16 = NF_TABLES | 7;
const GET_SET: u16 = NF_TABLES | 10;
const GET_ELEMENT: u16 = NF_TABLES | 13;

/// Octets of `struct nfgenmsg`; the first is the family.
const HEADER: usize = 4;

/// Families (`NFPROTO_…`).
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The priority of our own prerouting and output chains (raw - 10): what others do before it, they
/// do to packets that are not yet steered.
const OUR_PRIORITY: i32 = -310;

/// Most rules and set elements that are read in all. A node has tens of thousands of rules, nearly
/// all of them in chains that a packet for the node does not come by.
const MOST_RULES: usize = 20_000;
const MOST_ELEMENTS: usize = 20_000;

/// A base chain of type filter at a hook that our packets pass.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) path: Path,
    pub(super) hook: Hook,
    /// Whether what no rule decides is dropped.
    pub(super) is_closed: bool,
}

impl Chain {
    /// Whether iptables made it: then iptables must be able to read what is added.
    pub(super) fn is_of_iptables(&self) -> bool {
        let table = self.path.table.as_str();
        self.path.family != INET
            && matches!(table, "filter" | "mangle" | "raw" | "security")
            && self
                .path
                .name
                .chars()
                .all(|letter| letter.is_ascii_uppercase())
    }

    pub(super) fn family_name(&self) -> &'static str {
        match self.path.family {
            IPV4 => "ip",
            IPV6 => "ip6",
            _ => "inet",
        }
    }

    /// Whether packets of this address' family come by.
    pub(super) fn sees(&self, ip: &IpAddr) -> bool {
        match self.path.family {
            IPV4 => ip.is_ipv4(),
            IPV6 => ip.is_ipv6(),
            _ => true,
        }
    }
}

/// A rule: its expressions, each a name and its attributes, as the kernel sent them.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) handle: u64,
    expressions: Vec<u8>,
}

impl Rule {
    pub(crate) fn expressions(&self) -> impl Iterator<Item = (String, &[u8])> {
        attributes(&self.expressions).map(|(_, element)| {
            let (mut name, mut data) = (String::new(), &[][..]);
            for (kind, value) in attributes(element) {
                match kind {
                    1 => name = text(value),
                    2 => data = value,
                    _ => {}
                }
            }
            (name, data)
        })
    }
}

/// A set or a map.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// Whether its elements are the bounds of ranges.
    pub(super) is_interval: bool,
    pub(super) elements: Vec<Element>,
}

/// An element of a set, in the set's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// The end of a range of concatenated keys.
    pub(super) key_end: Option<Vec<u8>>,
    /// Whether a range ends before this key, instead of beginning with it.
    pub(super) is_end: bool,
    /// Whether it stands for what is not in the set.
    pub(super) is_rest: bool,
    /// `NFTA_SET_ELEM_DATA`: what a map gives.
    pub(super) data: Vec<u8>,
}

/// The family, table and name of a chain or a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
}

impl Path {
    /// Another of the same table.
    pub(super) fn beside(&self, name: String) -> Self {
        Self {
            family: self.family,
            table: self.table.clone(),
            name,
        }
    }
}

/// Reads, and remembers what it has read.
#[derive(Debug)]
pub(crate) struct Kernel {
    conversation: Conversation,
    rules: HashMap<Path, Option<Rc<Vec<Rule>>>>,
    sets: HashMap<Path, Option<Rc<Set>>>,
    rules_left: usize,
    elements_left: usize,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, Refusal> {
        Ok(Self {
            conversation: Conversation::about_rules()?,
            rules: HashMap::new(),
            sets: HashMap::new(),
            rules_left: MOST_RULES,
            elements_left: MOST_ELEMENTS,
        })
    }

    /// The base chains that packets to and from our sockets pass.
    pub(super) fn base_chains(&mut self) -> Result<Vec<Chain>, Refusal> {
        self.conversation
            .all(&question(GET_CHAIN, 0, &[]), |message| {
                let family = *message.body.first()?;
                let (mut table, mut name, mut kind) = (String::new(), String::new(), String::new());
                let (mut at, mut is_closed) = (None, false);
                for (attribute, value) in message.attributes(HEADER) {
                    match attribute {
                        1 => table = text(value),
                        3 => name = text(value),
                        4 => at = hook(value),
                        5 => is_closed = big(value) == Some(0),
                        7 => kind = text(value),
                        _ => {}
                    }
                }
                let is_ours_to_see = matches!(family, INET | IPV4 | IPV6)
                    // Chains of type nat see no untracked packet.
                    && matches!(kind.as_str(), "filter" | "route");
                let (hook, priority) = at.filter(|_| is_ours_to_see)?;
                let is_before_us =
                    matches!(hook, Hook::Prerouting | Hook::Output) && priority <= OUR_PRIORITY;
                (!is_before_us).then_some(Chain {
                    path: Path {
                        family,
                        table,
                        name,
                    },
                    hook,
                    is_closed,
                })
            })
    }

    /// All that a question is about; nothing where that is gone meanwhile.
    fn all<T>(
        &mut self,
        question: &Question,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        match self.conversation.all(question, read) {
            Err(answer) if answer.errno == Errno::NOENT => Ok(Vec::new()),
            found => found,
        }
    }

    /// The rules of a chain; `None` where there are too many to read.
    pub(crate) fn rules(&mut self, path: &Path) -> Result<Option<Rc<Vec<Rule>>>, Refusal> {
        if let Some(known) = self.rules.get(path) {
            return Ok(known.clone());
        }
        let mut found = None;
        if self.rules_left > 0 {
            let question = question(GET_RULE, path.family, &[(1, &path.table), (2, &path.name)]);
            let rules = self.all(&question, |message| {
                let is_there = has(message, 1, &path.table) && has(message, 2, &path.name);
                let mut rule = Rule {
                    handle: 0,
                    expressions: Vec::new(),
                };
                for (attribute, value) in message.attributes(HEADER) {
                    match attribute {
                        3 => {
                            rule.handle =
                                value.first_chunk().map_or(0, |it| u64::from_be_bytes(*it))
                        }
                        4 => rule.expressions = value.to_vec(),
                        _ => {}
                    }
                }
                is_there.then_some(rule)
            })?;
            self.rules_left = self.rules_left.saturating_sub(rules.len());
            found = Some(Rc::new(rules));
        }
        self.rules.insert(path.clone(), found.clone());
        Ok(found)
    }

    /// A set with its elements; `None` where there are too many to read.
    pub(super) fn set(&mut self, path: &Path) -> Result<Option<Rc<Set>>, Refusal> {
        if let Some(known) = self.sets.get(path) {
            return Ok(known.clone());
        }
        let mut found = None;
        if self.elements_left > 0 {
            let names = [(1, path.table.as_str()), (2, path.name.as_str())];
            let name = question(GET_SET, path.family, &names);
            let flags = self.conversation.one(&name, |message| {
                let mut flags = message.attributes(HEADER).filter(|(kind, _)| *kind == 3);
                Some(flags.next().and_then(|(_, value)| big(value)).unwrap_or(0))
            })?;
            let list = question(GET_ELEMENT, path.family, &names);
            let parts = self.all(&list, |message| {
                let mut lists = message.attributes(HEADER).filter(|(kind, _)| *kind == 3);
                lists.next().map(|(_, list)| elements(list))
            })?;
            let elements: Vec<Element> = parts.into_iter().flatten().collect();
            self.elements_left = self.elements_left.saturating_sub(elements.len());
            found = Some(Rc::new(Set {
                // `NFT_SET_INTERVAL`.
                is_interval: flags.unwrap_or(0) & 0x4 != 0,
                elements,
            }));
        }
        self.sets.insert(path.clone(), found.clone());
        Ok(found)
    }
}

fn elements(list: &[u8]) -> Vec<Element> {
    let read = |(_, element)| {
        let mut found = Element::default();
        for (attribute, value) in attributes(element) {
            match attribute {
                1 => found.key = data_value(value),
                2 => found.data = value.to_vec(),
                3 => {
                    let flags = big(value).unwrap_or(0);
                    found.is_end = flags & 1 != 0;
                    found.is_rest = flags & 2 != 0;
                }
                10 => found.key_end = Some(data_value(value)),
                _ => {}
            }
        }
        found
    };
    attributes(list).map(read).collect()
}

/// `NFTA_DATA_VALUE` within some data.
pub(crate) fn data_value(data: &[u8]) -> Vec<u8> {
    let value = attributes(data).find(|(kind, _)| *kind == 1);
    value.map(|(_, value)| value.to_vec()).unwrap_or_default()
}

/// A number of the network's order.
pub(crate) fn big(value: &[u8]) -> Option<u32> {
    value
        .first_chunk()
        .map(|number| u32::from_be_bytes(*number))
}

/// The hook and priority of a base chain.
fn hook(value: &[u8]) -> Option<(Hook, i32)> {
    let (mut hook, mut priority) = (None, 0);
    for (kind, value) in attributes(value) {
        match (kind, big(value)?) {
            (1, 0) => hook = Some(Hook::Prerouting),
            (1, 1) => hook = Some(Hook::Input),
            (1, 3) => hook = Some(Hook::Output),
            (1, 4) => hook = Some(Hook::Postrouting),
            (2, number) => priority = number.cast_signed(),
            _ => {}
        }
    }
    hook.map(|hook| (hook, priority))
}

/// Whether the attribute is this text: a kernel that knows no such filter sends all there is.
fn has(message: &Message<'_>, kind: u16, wanted: &str) -> bool {
    message
        .attributes(HEADER)
        .any(|(attribute, value)| attribute == kind && text(value) == wanted)
}

fn question(kind: u16, family: u8, texts: &[(u16, &str)]) -> Question {
    let mut body = vec![family, 0, 0, 0];
    for (attribute, text) in texts {
        let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(text.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    Question { kind, body }
}
