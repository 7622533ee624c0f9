// SPDX-License-Identifier: Apache-2.0
//! The rules as nft's JSON (libnftables-json(5)), through the crate `nftables`. It has no word for
//! the flag `owner`. Two statements it writes in a way that nft does not take; they are mended.

use std::borrow::Cow;
use std::collections::HashSet;

use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField,
};
use nftables::schema;
use nftables::stmt;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::{Chain, ChainKind, Field, Hook, KeyType, Presence, Rule, Set, Side, Statement, Table};
use crate::plan::Family;

/// Marks the sets of the statements that take elements out, until the word is put in.
const FORGET: &str = "forget:";

/// The tables as one document that `nft -j -f` takes.
pub(crate) fn json(tables: &[Table]) -> Value {
    let objects: Vec<_> = tables.iter().flat_map(objects).collect();
    let document = schema::Nftables {
        objects: objects.into(),
    };
    // The types hold text and numbers alone: nothing that JSON cannot.
    let mut value = serde_json::to_value(document).unwrap_or_else(|_| json!({ "nftables": [] }));
    mend(&mut value);
    value
}

/// Writes `notrack` as nft does, and the statement that takes an element out of a set.
fn mend(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mend),
        Value::String(word) if word == "notrack" => *value = json!({ "notrack": null }),
        Value::Object(map) => {
            let set = map.get("set").and_then(Value::as_str);
            if let Some(name) = set.and_then(|set| set.strip_prefix(FORGET)) {
                let name = name.to_owned();
                map.insert("set".to_owned(), name.into());
                map.insert("op".to_owned(), "delete".into());
            }
            map.values_mut().for_each(mend);
        }
        _ => {}
    }
}

fn objects(table: &Table) -> Vec<schema::NfObject<'static>> {
    use schema::NfListObject as Object;
    let mut objects = vec![Object::Table(schema::Table {
        family: NfFamily::INet,
        name: table.name.into(),
        handle: None,
    })];
    let sets = table.sets.iter();
    objects.extend(sets.map(|one| Object::Set(Box::new(set(table, one)))));
    objects.extend(
        table
            .chains
            .iter()
            .map(|one| Object::Chain(chain(table, one))),
    );
    for chain in &table.chains {
        let rules = chain.rules.iter();
        objects.extend(rules.map(|one| Object::Rule(rule(table, chain, one))));
    }
    objects
        .into_iter()
        .map(schema::NfObject::ListObject)
        .collect()
}

fn set(table: &Table, set: &Set) -> schema::Set<'static> {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    schema::Set {
        family: NfFamily::INet,
        table: table.name.into(),
        name: set.name.into(),
        handle: None,
        set_type: schema::SetTypeValue::Concatenated(set.key.iter().map(key_type).collect()),
        policy: None,
        // nft sees from the rules which sets are dynamic; before 1.0.7 its JSON has no word for it.
        flags: Some(HashSet::from([schema::SetFlag::Timeout])),
        elem: None,
        timeout: set.dynamic.map(|dynamic| seconds(dynamic.timeout)),
        gc_interval: None,
        size: set.dynamic.map(|dynamic| dynamic.size),
        comment: None,
    }
}

const fn key_type(part: &KeyType) -> schema::SetType {
    match part {
        KeyType::Address(Family::V4) => schema::SetType::Ipv4Addr,
        KeyType::Address(Family::V6) => schema::SetType::Ipv6Addr,
        KeyType::Proto => schema::SetType::InetProto,
        KeyType::Port => schema::SetType::InetService,
    }
}

fn chain(table: &Table, chain: &Chain) -> schema::Chain<'static> {
    schema::Chain {
        family: NfFamily::INet,
        table: table.name.into(),
        name: chain.name.into(),
        _type: chain.base.map(|base| match base.kind {
            ChainKind::Filter => NfChainType::Filter,
            ChainKind::Nat => NfChainType::NAT,
            ChainKind::Route => NfChainType::Route,
        }),
        hook: chain.base.map(|base| match base.hook {
            Hook::Prerouting => NfHook::Prerouting,
            Hook::Input => NfHook::Input,
            Hook::Output => NfHook::Output,
            Hook::Postrouting => NfHook::Postrouting,
        }),
        prio: chain.base.map(|base| base.priority),
        policy: chain.base.map(|_| NfChainPolicy::Accept),
        ..schema::Chain::default()
    }
}

fn rule(table: &Table, chain: &Chain, rule: &Rule) -> schema::Rule<'static> {
    schema::Rule {
        family: NfFamily::INet,
        table: table.name.into(),
        chain: chain.name.into(),
        expr: rule.statements.iter().map(statement).collect(),
        comment: Some(rule.why.into()),
        ..schema::Rule::default()
    }
}

fn statement(statement: &Statement) -> stmt::Statement<'static> {
    match statement {
        Statement::Address(side, address) => {
            equals(address_of(Family::of(*address), *side), text(address))
        }
        Statement::Port(proto, side, port) => {
            let field = field(&Field::Port(*proto, *side));
            equals(field, Expression::Number((*port).into()))
        }
        Statement::AnyPort(side, presence, port) => compare(
            payload("th", format!("{}port", side.letter())),
            operator(*presence),
            Expression::Number((*port).into()),
        ),
        Statement::Begins => {
            let flags = payload("tcp", "flags".into());
            let both = Expression::List(vec![text("syn"), text("ack")]);
            let masked = BinaryOperation::AND(flags, both);
            equals(Expression::BinaryOperation(Box::new(masked)), text("syn"))
        }
        Statement::Lookup(key, set, presence) => compare(
            concatenation(key),
            operator(*presence),
            text(format_args!("@{set}")),
        ),
        Statement::Update(key, set) => change(key, format!("@{set}")),
        Statement::Forget(key, set) => change(key, format!("{FORGET}@{set}")),
        Statement::IsUntracked => compare(
            tracked("state", None),
            stmt::Operator::IN,
            text("untracked"),
        ),
        Statement::OriginalDestination(address) => {
            let key = format!("{} daddr", Family::of(*address).word());
            equals(tracked(key, Some(CTDir::Original)), text(address))
        }
        Statement::Notrack => stmt::Statement::Notrack,
        Statement::Accept => stmt::Statement::Accept(None),
        Statement::Jump(chain) => stmt::Statement::Jump(stmt::JumpTarget {
            target: (*chain).into(),
        }),
        Statement::Masquerade => stmt::Statement::Masquerade(None),
        Statement::Rewrite(side, address) => stmt::Statement::Mangle(stmt::Mangle {
            key: address_of(Family::of(*address), *side),
            value: text(address),
        }),
    }
}

const fn operator(presence: Presence) -> stmt::Operator {
    match presence {
        Presence::In => stmt::Operator::EQ,
        Presence::NotIn => stmt::Operator::NEQ,
    }
}

fn equals(left: Expression<'static>, right: Expression<'static>) -> stmt::Statement<'static> {
    compare(left, stmt::Operator::EQ, right)
}

fn compare(
    left: Expression<'static>,
    op: stmt::Operator,
    right: Expression<'static>,
) -> stmt::Statement<'static> {
    stmt::Statement::Match(stmt::Match { left, right, op })
}

fn change(key: &[Field], set: String) -> stmt::Statement<'static> {
    stmt::Statement::Set(stmt::Set {
        op: stmt::SetOp::Update,
        elem: concatenation(key),
        set: set.into(),
    })
}

fn concatenation(key: &[Field]) -> Expression<'static> {
    let parts = key.iter().map(field).collect();
    Expression::Named(NamedExpression::Concat(parts))
}

fn field(field: &Field) -> Expression<'static> {
    match *field {
        Field::Address(family, side) => address_of(family, side),
        Field::Proto => Expression::Named(NamedExpression::Meta(Meta {
            key: MetaKey::L4proto,
        })),
        Field::Port(proto, side) => {
            let protocol = match proto {
                crate::plan::Proto::Udp => "udp",
                crate::plan::Proto::Tcp => "tcp",
            };
            payload(protocol, format!("{}port", side.letter()))
        }
    }
}

fn address_of(family: Family, side: Side) -> Expression<'static> {
    payload(family.word(), format!("{}addr", side.letter()))
}

fn payload(protocol: &'static str, field: String) -> Expression<'static> {
    let field = PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn tracked(key: impl Into<Cow<'static, str>>, dir: Option<CTDir>) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir,
    }))
}

fn text(text: impl ToString) -> Expression<'static> {
    Expression::String(text.to_string().into())
}
