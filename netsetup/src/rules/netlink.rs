// SPDX-License-Identifier: Apache-2.0
//! The rules as netlink messages: what nf_tables executes (include/uapi/linux/netfilter/nf_tables.h).
//!
//! A statement becomes expressions that load from the packet into registers, compare and write. What
//! the crate has no type for goes through its generic one: ct, dynset, masq, notrack.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, ChecksumFlags, ChecksumType, Cmp, DataAttribute,
    ExpressionAttribute, Expressions, Hook as HookAttribute, HookNumber, Immediate, InetHookNumber,
    ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, SetAttribute, SetDescription, SetFlags, SetMessage, TableAttribute,
    TableFlags, TableMessage, Verdict, VerdictAttribute,
};

use super::{
    Base, Chain, ChainKind, Field, Hook, KeyType, Presence, Rule, Set, Side, Statement, Table,
};
use crate::nfnetlink::read::{FoundChain, FoundSet};
use crate::plan::{Family, Proto};

/// `NF_ACCEPT` of include/uapi/linux/netfilter.h: a verdict, and the policy of a chain.
const NF_ACCEPT: u32 = 1;

/// `nft_payload_bases`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Offsets within headers, in octets: RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1.
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const IPV4_CHECKSUM: u32 = 10;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Attributes and values of `nft_ct`: `NFTA_CT_*`, `NFT_CT_*`, `IP_CT_DIR_ORIGINAL`.
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_DIRECTION: u16 = 3;
const CT_KEY_STATE: u32 = 0;
const CT_KEY_DST_IP: u32 = 20;
const CT_KEY_DST_IP6: u32 = 22;
const CT_ORIGINAL: u8 = 0;
/// `NF_CT_STATE_UNTRACKED_BIT` of `nf_conntrack_common.h`.
const CT_STATE_UNTRACKED: u32 = 1 << 6;

/// Attributes and values of `nft_dynset`: `NFTA_DYNSET_*`, `NFT_DYNSET_OP_*`.
const DYNSET_SET_NAME: u16 = 1;
const DYNSET_OP: u16 = 3;
const DYNSET_SREG_KEY: u16 = 4;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;

/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;

/// Types of keys as nft numbers them (its `enum datatypes`); the kernel keeps them for nft's sake.
/// Those of a concatenation follow one another, six bits each.
const TYPE_IPV4_ADDR: u32 = 7;
const TYPE_IPV6_ADDR: u32 = 8;
const TYPE_INET_PROTO: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;

/// The kind of user data of a rule that nft shows as its comment (`NFTNL_UDATA_RULE_COMMENT`).
const COMMENT: u8 = 0;

/// Octets of a register slot: each part of a concatenation begins with one.
const SLOT_BYTES: u32 = 4;

type Expression = ListAttribute<ExpressionAttribute>;

/// The message that makes the table.
pub(crate) fn new_table(table: &Table, is_owned: bool) -> NfTablesMessage {
    let flags = if is_owned {
        TableFlags::Owner
    } else {
        TableFlags::empty()
    };
    let name = TableAttribute::Name(table.name.to_owned());
    NfTablesMessage::NewTable(TableMessage {
        attributes: vec![name, TableAttribute::Flags(flags)],
    })
}

/// The message that makes an empty set; `id` is its number in the transaction.
pub(crate) fn new_set(table: &Table, set: &Set, id: u32) -> NfTablesMessage {
    let values = self::set(set);
    let mut attributes = vec![
        SetAttribute::Table(table.name.to_owned()),
        SetAttribute::Name(values.name),
        SetAttribute::Flags(SetFlags::from_bits_retain(values.flags)),
        SetAttribute::KeyType(values.key_type),
        SetAttribute::KeyLen(values.key_bytes),
        SetAttribute::Id(id),
    ];
    if values.size > 0 {
        let size = SetDescription::Size(values.size);
        attributes.push(SetAttribute::Description(vec![size]));
    }
    if values.timeout_ms > 0 {
        attributes.push(SetAttribute::Timeout(values.timeout_ms));
    }
    NfTablesMessage::NewSet(SetMessage { attributes })
}

/// A set as the kernel is to have it.
pub(crate) fn set(set: &Set) -> FoundSet {
    let mut flags = SetFlags::Timeout;
    if set.dynamic.is_some() {
        flags |= SetFlags::Eval;
    }
    let parts = set.key.iter();
    FoundSet {
        name: set.name.to_owned(),
        flags: flags.bits(),
        key_type: parts.fold(0, |types, part| types << TYPE_BITS | part.number()),
        key_bytes: set.key.iter().map(|part| part.slots_bytes()).sum(),
        timeout_ms: set.dynamic.map_or(0, |dynamic| {
            u64::try_from(dynamic.timeout.as_millis()).unwrap_or(u64::MAX)
        }),
        size: set.dynamic.map_or(0, |dynamic| dynamic.size),
    }
}

/// The message that makes a chain without rules.
pub(crate) fn new_chain(table: &Table, chain: &Chain) -> NfTablesMessage {
    let mut attributes = vec![
        ChainAttribute::Table(table.name.to_owned()),
        ChainAttribute::Name(chain.name.to_owned()),
    ];
    if let Some(base) = chain.base {
        attributes.extend([
            ChainAttribute::Hook(vec![
                HookAttribute::Number(HookNumber::Inet(base.hook.number())),
                HookAttribute::Priority(base.priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type(base.kind.name().to_owned()),
        ]);
    }
    NfTablesMessage::NewChain(ChainMessage { attributes })
}

/// A chain as the kernel is to have it.
pub(crate) fn chain(name: &str, base: Option<Base>) -> FoundChain {
    FoundChain {
        name: name.to_owned(),
        kind: base.map_or("", |base| base.kind.name()).to_owned(),
        hook: base.map(|base| (base.hook.number().into(), base.priority)),
        policy: base.map(|_| NF_ACCEPT),
    }
}

/// The message that adds a rule to the end of its chain.
pub(crate) fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> NfTablesMessage {
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.name.to_owned()),
            RuleAttribute::Chain(chain.name.to_owned()),
            RuleAttribute::Expressions(expressions(rule)),
            RuleAttribute::UserData(comment(rule.why)),
        ],
    })
}

/// The message that deletes a table with all in it.
pub(crate) fn delete_table(name: &str) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage {
        attributes: vec![TableAttribute::Name(name.to_owned())],
    })
}

/// The expressions of a rule as octets: what an attribute `NFTA_RULE_EXPRESSIONS` holds.
pub(crate) fn expression_bytes(rule: &Rule) -> Vec<u8> {
    let expressions = expressions(rule);
    let mut bytes = vec![0; expressions.as_slice().buffer_len()];
    expressions.as_slice().emit(&mut bytes);
    bytes
}

fn comment(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes()[..text.len().min(127)].to_vec();
    bytes.push(0);
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    [vec![COMMENT, length], bytes].concat()
}

fn expressions(rule: &Rule) -> Vec<Expression> {
    let mut writer = Writer::default();
    for statement in &rule.statements {
        writer.statement(statement);
    }
    writer.expressions
}

/// Writes expressions one after the other; remembers what has been made sure of.
#[derive(Default)]
struct Writer {
    expressions: Vec<Expression>,
    family: Option<Family>,
}

impl Writer {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Address(side, address) => {
                self.address(*side, Family::of(*address), &octets(*address));
            }
            Statement::Port(proto, side, port) => {
                self.meta(MetaKey::L4Proto, 0);
                self.equals(&[proto.number()]);
                self.load(TRANSPORT_HEADER, side.port_offset(), 2, 0);
                self.equals(&port.to_be_bytes());
            }
            Statement::AnyPort(side, presence, port) => {
                self.load(TRANSPORT_HEADER, side.port_offset(), 2, 0);
                let operator = match presence {
                    Presence::In => Operator::Equal,
                    Presence::NotIn => Operator::NotEqual,
                };
                self.compare(operator, &port.to_be_bytes());
            }
            Statement::Begins => {
                self.load(TRANSPORT_HEADER, TCP_FLAGS, 1, 0);
                self.mask(&[TCP_SYN | TCP_ACK]);
                self.equals(&[TCP_SYN]);
            }
            Statement::Lookup(key, set, presence) => {
                self.key(key);
                let mut lookup = vec![
                    Lookup::Set((*set).to_owned()),
                    Lookup::SourceRegister(register(0)),
                ];
                if *presence == Presence::NotIn {
                    lookup.push(Lookup::Flags(LOOKUP_INVERTED));
                }
                self.push(Expressions::Lookup(lookup));
            }
            Statement::Update(key, set) => self.dynset(key, set, DYNSET_UPDATE),
            Statement::Forget(key, set) => self.dynset(key, set, DYNSET_DELETE),
            Statement::IsUntracked => {
                self.other(
                    "ct",
                    vec![
                        number(CT_DREG, register(0).into()),
                        number(CT_KEY, CT_KEY_STATE),
                    ],
                );
                // The state is in the host's octet order.
                self.mask(&CT_STATE_UNTRACKED.to_ne_bytes());
                self.compare(Operator::NotEqual, &[0; 4]);
            }
            Statement::OriginalDestination(address) => {
                let key = match address {
                    IpAddr::V4(_) => CT_KEY_DST_IP,
                    IpAddr::V6(_) => CT_KEY_DST_IP6,
                };
                let direction = DefaultNla::new(CT_DIRECTION, vec![CT_ORIGINAL]);
                let register = number(CT_DREG, register(0).into());
                self.other("ct", vec![register, number(CT_KEY, key), direction]);
                self.equals(&octets(*address));
            }
            Statement::Notrack => self.other("notrack", Vec::new()),
            Statement::Accept => {
                self.verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_ACCEPT))]);
            }
            Statement::Jump(chain) => self.verdict(vec![
                VerdictAttribute::Code(Verdict::Jump),
                VerdictAttribute::Chain((*chain).to_owned()),
            ]),
            Statement::Masquerade => self.other("masq", Vec::new()),
            Statement::Rewrite(side, address) => self.rewrite(*side, *address),
        }
    }

    /// Compares an address, or how it begins.
    fn address(&mut self, side: Side, family: Family, begin: &[u8]) {
        self.of_family(family);
        let length = u32::try_from(begin.len()).unwrap_or(16);
        self.load(NETWORK_HEADER, side.address_offset(family), length, 0);
        self.equals(begin);
    }

    /// A table of family `inet` sees both versions of IP: the header says which it is.
    fn of_family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.meta(MetaKey::Nfproto, 0);
            self.equals(&[family.number()]);
            self.family = Some(family);
        }
    }

    /// Loads the parts of a key one behind the other, from the first register on.
    fn key(&mut self, key: &[Field]) {
        let mut slot = 0;
        for field in key {
            match *field {
                Field::Address(family, side) => {
                    let length = KeyType::Address(family).slots_bytes();
                    self.load(NETWORK_HEADER, side.address_offset(family), length, slot);
                    slot += length / SLOT_BYTES;
                }
                Field::Proto => {
                    self.meta(MetaKey::L4Proto, slot);
                    slot += 1;
                }
                Field::Port(_, side) => {
                    self.load(TRANSPORT_HEADER, side.port_offset(), 2, slot);
                    slot += 1;
                }
            }
        }
    }

    fn dynset(&mut self, key: &[Field], set: &str, operation: u32) {
        self.key(key);
        let mut name = set.as_bytes().to_vec();
        name.push(0);
        self.other(
            "dynset",
            vec![
                number(DYNSET_SREG_KEY, register(0).into()),
                number(DYNSET_OP, operation),
                DefaultNla::new(DYNSET_SET_NAME, name),
            ],
        );
    }

    /// IPv6 has no checksum of its own; that of UDP and TCP covers the addresses in both.
    fn rewrite(&mut self, side: Side, address: IpAddr) {
        let family = Family::of(address);
        let value = octets(address);
        let length = u32::try_from(value.len()).unwrap_or(16);
        self.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(register(0)),
            Immediate::Data(DataAttribute::Value(value)),
        ]));
        let (checksum, offset) = match family {
            Family::V4 => (ChecksumType::Inet, IPV4_CHECKSUM),
            Family::V6 => (ChecksumType::None, 0),
        };
        self.push(Expressions::Payload(vec![
            Payload::SourceRegister(register(0)),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(side.address_offset(family)),
            Payload::Len(length),
            Payload::CsumType(checksum),
            Payload::CsumOffset(offset),
            Payload::CsumFlags(ChecksumFlags::L4PseudoHeader),
        ]));
    }

    fn verdict(&mut self, verdict: Vec<VerdictAttribute>) {
        self.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]));
    }

    fn load(&mut self, base: u32, offset: u32, length: u32, slot: u32) {
        self.push(Expressions::Payload(vec![
            Payload::DestinationRegister(register(slot)),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(length),
        ]));
    }

    fn meta(&mut self, key: MetaKey, slot: u32) {
        self.push(Expressions::Meta(vec![
            Meta::Key(key),
            Meta::DestinationRegister(register(slot)),
        ]));
    }

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(4);
        self.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(register(0)),
            Bitwise::DestinationRegister(register(0)),
            Bitwise::Length(length),
            Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        ]));
    }

    fn equals(&mut self, value: &[u8]) {
        self.compare(Operator::Equal, value);
    }

    fn compare(&mut self, operator: Operator, value: &[u8]) {
        self.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(register(0)),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value.to_vec())),
        ]));
    }

    fn other(&mut self, name: &str, attributes: Vec<DefaultNla>) {
        self.push(Expressions::Other {
            expression_type: name.to_owned(),
            attributes,
        });
    }

    fn push(&mut self, expression: Expressions) {
        self.expressions.push(expression.into());
    }
}

/// An attribute with a number, in network order.
fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// The register that begins with the slot; of the four of 16 octets, where it begins one, for so the
/// kernel names it when asked.
fn register(slot: u32) -> Register {
    match slot % 4 {
        0 => Register::from(1 + slot / 4),
        _ => Register::from(8 + slot),
    }
}

/// The octets of an address, in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl KeyType {
    const fn number(self) -> u32 {
        match self {
            Self::Address(Family::V4) => TYPE_IPV4_ADDR,
            Self::Address(Family::V6) => TYPE_IPV6_ADDR,
            Self::Proto => TYPE_INET_PROTO,
            Self::Port => TYPE_INET_SERVICE,
        }
    }

    /// What it takes up in a key.
    const fn slots_bytes(self) -> u32 {
        match self {
            Self::Address(Family::V6) => 16,
            _ => SLOT_BYTES,
        }
    }
}

impl Side {
    const fn address_offset(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Source, Family::V4) => IPV4_SOURCE,
            (Self::Destination, Family::V4) => IPV4_DESTINATION,
            (Self::Source, Family::V6) => IPV6_SOURCE,
            (Self::Destination, Family::V6) => IPV6_DESTINATION,
        }
    }

    /// Of UDP (RFC 768) and TCP alike.
    const fn port_offset(self) -> u32 {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

impl Family {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

impl Proto {
    /// The protocol's number in the IP header.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl ChainKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

impl Hook {
    const fn number(self) -> InetHookNumber {
        match self {
            Self::Prerouting => InetHookNumber::PreRouting,
            Self::Input => InetHookNumber::LocalIn,
            Self::Output => InetHookNumber::LocalOut,
            Self::Postrouting => InetHookNumber::PostRouting,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}
