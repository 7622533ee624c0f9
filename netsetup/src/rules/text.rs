// SPDX-License-Identifier: Apache-2.0
//! The rules in nft's own syntax.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{Chain, Field, KeyType, Presence, Rule, Set, Side, Statement, Table};
use crate::plan::Family;

/// The table as `nft list table` would show it.
pub(crate) fn table(table: &Table) -> String {
    let mut parts = Vec::new();
    if table.is_owned {
        parts.push("\tflags owner\n".to_owned());
    }
    parts.extend(table.sets.iter().map(set));
    parts.extend(table.chains.iter().map(chain));
    format!("table inet {} {{\n{}}}\n", table.name, parts.join("\n"))
}

/// The rule without its comment.
pub(crate) fn rule(rule: &Rule) -> String {
    let words: Vec<_> = rule.statements.iter().map(Statement::to_string).collect();
    words.join(" ")
}

/// The type of a set's key.
pub(crate) fn key(set: &Set) -> String {
    join(set.key.iter().map(|part| part.name()))
}

fn set(set: &Set) -> String {
    let mut text = format!("\tset {} {{\n\t\ttype {}\n", set.name, key(set));
    match set.dynamic {
        None => text.push_str("\t\tflags timeout\n"),
        Some(dynamic) => {
            let (size, timeout) = (dynamic.size, seconds(dynamic.timeout));
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\t\tsize {size}\n\t\tflags dynamic,timeout\n\t\ttimeout {timeout}\n"
            );
        }
    }
    text + "\t}\n"
}

fn chain(chain: &Chain) -> String {
    let mut text = format!("\tchain {} {{\n", chain.name);
    if let Some(base) = chain.base {
        let (kind, hook) = (base.kind.name(), base.hook.name());
        let _ = writeln!(
            text,
            "\t\ttype {kind} hook {hook} priority {}; policy accept;",
            base.priority
        );
    }
    for one in &chain.rules {
        let _ = writeln!(text, "\t\t{} comment \"{}\"", rule(one), one.why);
    }
    text + "\t}\n"
}

/// As nft writes a time: `1h5m`, `70s` as `1m10s`.
fn seconds(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [
        (seconds / 3600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    parts
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect()
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(" . ")
}

impl fmt::Display for Statement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(side, address) => {
                let field = Field::Address(Family::of(*address), *side);
                write!(out, "{field} {address}")
            }
            Self::Port(proto, side, port) => write!(out, "{} {port}", Field::Port(*proto, *side)),
            Self::AnyPort(side, Presence::In, port) => {
                write!(out, "th {}port {port}", side.letter())
            }
            Self::AnyPort(side, Presence::NotIn, port) => {
                write!(out, "th {}port != {port}", side.letter())
            }
            Self::Begins => out.write_str("tcp flags & (syn | ack) == syn"),
            Self::Lookup(key, set, Presence::In) => write!(out, "{} @{set}", fields(key)),
            Self::Lookup(key, set, Presence::NotIn) => write!(out, "{} != @{set}", fields(key)),
            Self::Update(key, set) => write!(out, "update @{set} {{ {} }}", fields(key)),
            Self::Forget(key, set) => write!(out, "delete @{set} {{ {} }}", fields(key)),
            Self::IsUntracked => out.write_str("ct state untracked"),
            Self::OriginalDestination(address) => {
                let field = Field::Address(Family::of(*address), Side::Destination);
                write!(out, "ct original {field} {address}")
            }
            Self::Notrack => out.write_str("notrack"),
            Self::Accept => out.write_str("accept"),
            Self::Jump(chain) => write!(out, "jump {chain}"),
            Self::Masquerade => out.write_str("masquerade"),
            Self::Rewrite(side, address) => {
                let field = Field::Address(Family::of(*address), *side);
                write!(out, "{field} set {address}")
            }
        }
    }
}

fn fields(key: &[Field]) -> String {
    let fields: Vec<_> = key.iter().map(Field::to_string).collect();
    join(fields.iter().map(String::as_str))
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(family, side) => write!(out, "{} {}addr", family.word(), side.letter()),
            Self::Proto => out.write_str("meta l4proto"),
            Self::Port(proto, side) => write!(out, "{proto} {}port", side.letter()),
        }
    }
}

impl Side {
    /// How nft's names of the two begin.
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Source => 's',
            Self::Destination => 'd',
        }
    }
}

impl Family {
    /// nft's word for the header.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

impl KeyType {
    const fn name(self) -> &'static str {
        match self {
            Self::Address(Family::V4) => "ipv4_addr",
            Self::Address(Family::V6) => "ipv6_addr",
            Self::Proto => "inet_proto",
            Self::Port => "inet_service",
        }
    }
}
