// SPDX-License-Identifier: Apache-2.0
//! Our tables and the kernel: made in one transaction, known again, and compared with the model.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use rustix::io::Errno;

use crate::check::Difference;
use crate::error::Error;
use crate::nfnetlink::read::{FoundChain, FoundRule, FoundSet};
use crate::nfnetlink::{Batch, Connection};
use crate::owner;
use crate::rules::compare::Meaning;
use crate::rules::{Base, Chain, Set, Table, netlink, text};

/// `NF_ACCEPT`, the policy of our chains.
const POLICY_ACCEPT: u32 = 1;

/// How often a table is looked at again when others are at it.
const TRIES: u32 = 3;

/// Adds to a batch what makes the table and all in it; the table must not be there.
fn make(batch: &mut Batch, table: &Table, is_owned: bool) {
    let name = table.name;
    let create = NLM_F_CREATE | NLM_F_EXCL;
    let message = netlink::new_table(table, is_owned);
    batch.push(message, create, format!("make table inet {name}"));
    for (id, set) in (1..).zip(&table.sets) {
        let step = format!("make set {} of table inet {name}", set.name);
        batch.push(netlink::new_set(table, set, id), create, step);
    }
    for chain in &table.chains {
        let called = chain.base.map(|base| {
            let (kind, hook) = (base.kind.name(), base.hook.name());
            format!(" (type {kind}, hook {hook})")
        });
        let called = called.unwrap_or_default();
        let step = format!("make chain {} of table inet {name}{called}", chain.name);
        batch.push(netlink::new_chain(table, chain), create, step);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let step = format!(
                "add a rule to chain {} of table inet {name}: {}",
                chain.name,
                text::rule(rule)
            );
            let message = netlink::new_rule(table, chain, rule);
            batch.push(message, NLM_F_CREATE | NLM_F_APPEND, step);
        }
    }
}

/// Adds to a batch what deletes the table and all in it; the table must be there.
pub(crate) fn delete(batch: &mut Batch, name: &str) {
    let step = format!("delete table inet {name}");
    batch.push(netlink::delete_table(name), 0, step);
}

/// Makes the table in one transaction, in place of one of ours that is there.
///
/// # Errors
/// As [`is_there`], and when the kernel refuses.
pub(crate) fn put(
    connection: &mut Connection,
    ours: &Shape,
    wanted: &Table,
    is_owned: bool,
) -> Result<(), Error> {
    let mut batch = Batch::default();
    let mut tries = 0;
    loop {
        batch.clear();
        if is_there(connection, ours)? {
            delete(&mut batch, ours.table);
        }
        make(&mut batch, wanted, is_owned);
        tries += 1;
        match connection.commit(&mut batch, "make a table") {
            // Another one was at it at the same time: then it is looked at again.
            Err(error) if tries < TRIES && is_overtaken(&error) => {}
            done => return done.map_err(lacking),
        }
    }
}

/// Removes the table, if it is there.
///
/// # Errors
/// As [`is_there`], and when the kernel refuses.
pub(crate) fn remove(connection: &mut Connection, ours: &Shape) -> Result<(), Error> {
    let mut batch = Batch::default();
    let mut tries = 0;
    loop {
        if !is_there(connection, ours)? {
            return Ok(());
        }
        batch.clear();
        delete(&mut batch, ours.table);
        tries += 1;
        match connection.commit(&mut batch, "delete a table") {
            Err(error) if tries < TRIES && is_overtaken(&error) => {}
            done => return done,
        }
    }
}

/// Whether what was seen a moment ago is no longer so: a table has come, gone, or got an owner.
fn is_overtaken(error: &Error) -> bool {
    match error {
        Error::NotPermitted { .. } => true,
        Error::Refused { step, source, .. } => {
            let is = |errno: Errno| source.raw_os_error() == Some(errno.raw_os_error());
            step.starts_with("make table") && is(Errno::EXIST)
                || step.starts_with("delete table") && is(Errno::NOENT)
        }
        _ => false,
    }
}

/// A type of chain or an expression that is not there is answered as a file that is not.
fn lacking(error: Error) -> Error {
    let lacks = [Errno::NOENT, Errno::OPNOTSUPP].map(|errno| Some(errno.raw_os_error()));
    match error {
        Error::Refused { step, source, .. }
            if lacks.contains(&source.raw_os_error()) && !step.starts_with("make table") =>
        {
            Error::NoKernelPart { step, source }
        }
        error => error,
    }
}

/// Whether there is such a table, which may be replaced: one that nobody owns and that is of our
/// making. It has then no chain or set but those that nodens makes.
///
/// # Errors
/// [`Error::TableOwned`] with who owns it, or [`Error::TableForeign`] with what else there is.
pub(crate) fn is_there(connection: &mut Connection, ours: &Shape) -> Result<bool, Error> {
    let table = ours.table;
    let Some(found) = connection.table(table)? else {
        return Ok(false);
    };
    if let Some(port_id) = found.owner {
        let process = owner::process_of(port_id);
        return Err(Error::TableOwned {
            table,
            port_id,
            process: process.map(|process| format!("{} (process {})", process.name, process.pid)),
        });
    }
    let mut strange = Vec::new();
    for chain in connection.chains(table)? {
        let is_ours = ours.chains.iter().any(|&(name, base)| {
            let known = netlink::chain(name, base);
            // Whoever changes the policy of a chain does not make it theirs.
            chain.name == known.name && chain.kind == known.kind && chain.hook == known.hook
        });
        if !is_ours {
            strange.push(format!("chain {} ({})", chain.name, chain_words(&chain)));
        }
    }
    for set in connection.sets(table)? {
        if !ours.sets.contains(&set.name.as_str()) {
            strange.push(format!("set {}", set.name));
        }
    }
    if strange.is_empty() {
        return Ok(true);
    }
    let what = format!("it has {}", strange.join(", "));
    Err(Error::TableForeign { table, what })
}

/// By what a table of ours is known again.
#[derive(Debug)]
pub(crate) struct Shape {
    /// The table's name.
    pub(crate) table: &'static str,
    /// Every chain that nodens makes in it, with where the kernel calls it.
    pub(crate) chains: &'static [(&'static str, Option<Base>)],
    /// Every set.
    pub(crate) sets: &'static [&'static str],
}

/// What differs between the table that is wanted and the one that is there; `remedy` is what helps.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn differences(
    connection: &mut Connection,
    wanted: &Table,
    remedy: &str,
) -> Result<Vec<Difference>, Error> {
    let name = wanted.name;
    let mut found = Found {
        place: format!("table inet {name}"),
        remedy,
        differences: Vec::new(),
    };
    let Some(table) = connection.table(name)? else {
        found.add("", "the table".to_owned(), "none".to_owned());
        return Ok(found.differences);
    };
    if let Some(port_id) = table.owner.filter(|_| !wanted.is_owned) {
        let is = format!("one that netlink port {port_id} owns, and that goes with it");
        found.add("", "a table that stays".to_owned(), is);
    }
    let sets = connection.sets(name)?;
    for wanted in &wanted.sets {
        found.set(wanted, sets.iter().find(|set| set.name == wanted.name));
    }
    let rules = connection.rules(name)?;
    let mut number = sets.len();
    for chain in &wanted.chains {
        let is = connection.chain(name, chain.name)?;
        number += usize::from(is.is_some());
        found.chain(chain, is.as_ref());
        if is.is_some() {
            found.rules(chain, rules.iter().filter(|rule| rule.chain == chain.name));
        }
    }
    for set in &sets {
        if !wanted.sets.iter().any(|wanted| wanted.name == set.name) {
            found.add("", "no other set".to_owned(), format!("set {}", set.name));
        }
    }
    // The chains of all tables are asked for only where there are too many in ours.
    if usize::try_from(table.number).is_ok_and(|all| all > number) {
        for chain in connection.chains(name)? {
            if !wanted.chains.iter().any(|wanted| wanted.name == chain.name) {
                let is = format!("chain {}", chain.name);
                found.add("", "no other chain".to_owned(), is);
            }
        }
    }
    Ok(found.differences)
}

struct Found<'a> {
    place: String,
    remedy: &'a str,
    differences: Vec<Difference>,
}

impl Found<'_> {
    fn add(&mut self, within: &str, wanted: String, found: String) {
        let separator = if within.is_empty() { "" } else { ", " };
        self.differences.push(Difference {
            place: format!("{}{separator}{within}", self.place),
            wanted,
            found,
            remedy: self.remedy.to_owned(),
        });
    }

    fn set(&mut self, wanted: &Set, found: Option<&FoundSet>) {
        let place = format!("set {}", wanted.name);
        let Some(found) = found else {
            return self.add(&place, "the set".to_owned(), "none".to_owned());
        };
        let expected = netlink::set(wanted);
        if *found != expected {
            let wanted = set_words(&expected);
            self.add(&place, wanted, set_words(found));
        }
    }

    fn chain(&mut self, wanted: &Chain, found: Option<&FoundChain>) {
        let place = format!("chain {}", wanted.name);
        let Some(found) = found else {
            return self.add(&place, "the chain".to_owned(), "none".to_owned());
        };
        let expected = netlink::chain(wanted.name, wanted.base);
        if *found != expected {
            self.add(&place, chain_words(&expected), chain_words(found));
        }
    }

    /// The rules of a chain: those missing, those that are not ours, or else their order.
    fn rules<'a>(&mut self, chain: &Chain, found: impl Iterator<Item = &'a FoundRule>) {
        let place = format!("chain {}", chain.name);
        let wanted: Vec<_> = chain
            .rules
            .iter()
            .map(|rule| (Meaning::read(&netlink::expression_bytes(rule)), rule))
            .collect();
        let mut left: Vec<_> = found.map(|rule| &rule.meaning).collect();
        if left
            .iter()
            .copied()
            .eq(wanted.iter().map(|(meaning, _)| meaning))
        {
            return;
        }
        let mut differ = false;
        for (meaning, rule) in &wanted {
            match left.iter().position(|found| *found == meaning) {
                Some(at) => drop(left.remove(at)),
                None => {
                    differ = true;
                    let rule = format!("the rule `{}`", text::rule(rule));
                    self.add(&place, rule, "none like it".to_owned());
                }
            }
        }
        for meaning in left {
            differ = true;
            let again = wanted.iter().find(|(wanted, _)| wanted == meaning);
            let is = match again {
                Some((_, rule)) => format!("`{}` once more", text::rule(rule)),
                None => meaning.words(),
            };
            self.add(&place, "no other rule".to_owned(), is);
        }
        if !differ {
            let is = "the same rules in another order".to_owned();
            self.add(&place, "the rules in their order".to_owned(), is);
        }
    }
}

fn chain_words(chain: &FoundChain) -> String {
    let Some((number, priority)) = chain.hook else {
        return "no hook".to_owned();
    };
    let policy = match chain.policy {
        Some(POLICY_ACCEPT) => "accept",
        _ => "drop",
    };
    let kind = &chain.kind;
    format!("type {kind}, hook number {number}, priority {priority}, policy {policy}")
}

fn set_words(set: &FoundSet) -> String {
    let FoundSet {
        flags,
        key_type,
        key_bytes,
        timeout_ms,
        size,
        ..
    } = set;
    format!(
        "flags {flags:#x}, key type {key_type:#x} of {key_bytes} octets, timeout {timeout_ms} ms, \
         at most {size} elements (0: any number)"
    )
}
