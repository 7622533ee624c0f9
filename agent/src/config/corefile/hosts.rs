// SPDX-License-Identifier: Apache-2.0
//! The directive `hosts`: names and addresses of files and of the braces, as lines of
//! `zones[].answers` (CoreDNS plugin/hosts).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::context::Context;
use super::directives::{Entry, remedy_for_option};
use super::lexer::Token;
use super::local::{passed_in, passed_zones, zone_names};
use super::parser::Directive;
use super::plugins::{BlockRead, duration};
use super::stages::{Names, Rule, Stage, Step};
use super::values::{self, Zones};
use crate::config::limits;
use crate::config::source::Unread;
use crate::config::yaml::{Place, quote};

const WORD: &str = "hosts";

/// The TTL of records where none is written, in seconds.
const HOSTS_TTL: u32 = 3600;

/// Names in all files of hosts of one Corefile: such a file has one MiB at most.
const MAX_NAMES: usize = 4 * limits::MAX_ANSWERS;

/// Names with their addresses, in the order of a file.
pub(super) type Lines = Rc<[(IpAddr, Box<str>)]>;

/// Names of hosts, in the order in which they were written.
#[derive(Default)]
struct Hosts {
    /// The zones of the directive: all other names are left out.
    served: Zones,
    /// Those of the block, whose names alone come here; `None` where others become theirs.
    own: Option<Zones>,
    /// Some of them have reverse names.
    has_reverse: bool,
    names: Vec<String>,
    of_name: BTreeMap<String, (Vec<IpAddr>, Place)>,
    of_address: BTreeMap<IpAddr, (Vec<String>, Place)>,
}

/// Reads `hosts [FILE [ZONES...]] { [ADDRESS NAMES...]; ttl N; no_reverse; reload T; fallthrough [ZONES] }`.
pub(super) fn hosts(
    context: &mut Context<'_>,
    directive: &Directive,
    entry: &Entry,
    read: &mut BlockRead,
) {
    let place = directive.name.place;
    let mut zones = Vec::new();
    for zone in directive.arguments.iter().skip(1) {
        zones.extend(zone_names(context, zone, WORD));
    }
    if zones.is_empty() {
        zones = read.zones.iter().map(|(zone, _)| zone.clone()).collect();
    }
    let own = read.zones.iter().map(|(zone, _)| zone);
    let mut hosts = Hosts {
        served: Zones::of(&zones),
        own: (!read.renames).then(|| Zones::of(own.clone())),
        has_reverse: own.clone().any(|zone| zone.ends_with("arpa")),
        ..Hosts::default()
    };
    let file = match directive.arguments.first() {
        Some(file) => Some((PathBuf::from(&file.text), file.place)),
        // CoreDNS reads it beside the names in the braces, too.
        None => context.node_cache.hosts.clone().map(|file| (file, place)),
    };
    if let Some((path, place)) = file {
        for (address, name) in from_file(context, &path, place).iter() {
            hosts.add(context, *address, name, place);
        }
    }
    let mut ttl = HOSTS_TTL;
    let mut has_reverse = true;
    let mut passes: Option<Vec<String>> = None;
    for line in &directive.lines {
        let Some((first, rest)) = line.split_first() else {
            continue;
        };
        match (first.text.as_str(), rest) {
            ("fallthrough", zones) => {
                passes = Some(passed_zones(context, zones, WORD));
            }
            ("no_reverse", []) => has_reverse = false,
            ("reload", [time]) => {
                duration(context, time, WORD, "reload");
            }
            ("ttl", [number]) => match values::number(&number.text).filter(|ttl| *ttl > 0) {
                Some(number) => ttl = number.min(limits::MAX_ANSWER_TTL),
                None => {
                    let found = quote(&number.text);
                    let remedy = "write it like ttl 3600";
                    context.wrong(number.place, WORD, &found, "a TTL in seconds", remedy);
                }
            },
            (word, names) => host(context, first, word, names, entry, &mut hosts),
        }
    }
    let tried = 1 + passes.as_ref().map_or(0, Vec::len);
    if context.budget.look(zones.len() * tried).is_none() {
        context.too_many_answers(place, WORD);
        return;
    }
    if hosts.names.is_empty()
        && zones
            .iter()
            .all(|zone| passed_in(zone, passes.as_deref()).is_none())
    {
        let remedy = "write lines like 10.0.0.1 example.org within its braces";
        context.note(place, WORD, "zones", "hosts has no names", remedy);
    }
    let mut stage = Stage::new();
    if has_reverse {
        hosts.reverse(context, ttl, &mut stage);
    }
    // Reverse names that are not there go on in any case (plugin/hosts/hosts.go).
    stage.extend(
        zones
            .iter()
            .map(|zone| Step::Pass(names("PTR", zone, place))),
    );
    hosts.forward(context, ttl, &mut stage);
    for zone in zones {
        if let Some(passed) = passed_in(&zone, passes.as_deref()) {
            let passed = passed.iter();
            stage.extend(passed.map(|zone| Step::Pass(names("ANY", zone, place))));
            stage.push(Step::End(names("ANY", &zone, place), "SERVFAIL"));
        }
    }
    read.hosts = Some(stage);
}

fn names(kind: &str, zone: &str, place: Place) -> Names {
    Names {
        kind: kind.to_owned(),
        zone: zone.to_owned(),
        place,
    }
}

fn answer(kind: &str, name: &str, says: String, place: Place) -> Step {
    Step::Answer(Rule {
        kind: kind.to_owned(),
        name: name.to_owned(),
        below: 0,
        says,
        place,
    })
}

/// As many records as one answer has.
fn first_of(
    context: &mut Context<'_>,
    all: &[String],
    what: impl Fn() -> String,
    place: Place,
) -> String {
    const MOST: usize = limits::MAX_ANSWER_RECORDS;
    if all.len() > MOST {
        let message = format!("the first {MOST} {} are answered, and no more", what());
        let remedy = "nothing need be done where nobody asks for more";
        context.note(place, "hosts", "zones", message, remedy);
    }
    all.get(..MOST).unwrap_or(all).join(" ")
}

/// One line `ADDRESS NAMES...`.
fn host(
    context: &mut Context<'_>,
    first: &Token,
    word: &str,
    names: &[Token],
    entry: &Entry,
    hosts: &mut Hosts,
) {
    let Some(address) = address_of(word) else {
        let found = format!("the unknown option {}", quote(word));
        let expected = format!("an address with names, or one of {}", entry.list());
        let remedy = remedy_for_option(entry, word);
        context.wrong(first.place, WORD, &found, &expected, &remedy);
        return;
    };
    if names.is_empty() {
        let remedy = "write the names behind the address";
        context.wrong(first.place, WORD, &quote(word), "names behind it", remedy);
    }
    for name in names {
        for name in zone_names(context, name, WORD) {
            hosts.add(context, address, &name, first.place);
        }
    }
}

/// An address; one of IPv4 within IPv6 is one of IPv4, as in Go.
fn address_of(word: &str) -> Option<IpAddr> {
    word.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// The reverse name of an address.
fn owner(address: IpAddr) -> Option<String> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    values::zones(&format!("{address}/{bits}")).ok()?.pop()
}

impl Hosts {
    /// Whether a name or its reverse name may be asked for.
    fn wants(&self, address: IpAddr, name: &str) -> bool {
        let of_own = |own: &Zones| {
            let is_own = |owner: String| own.enclose(&owner);
            own.enclose(name) || (self.has_reverse && owner(address).is_some_and(is_own))
        };
        self.served.enclose(name) && self.own.as_ref().is_none_or(of_own)
    }

    fn add(&mut self, context: &mut Context<'_>, address: IpAddr, name: &str, place: Place) {
        let own = self.own.as_ref().map_or(0, Zones::looks);
        if context.budget.look(1 + self.served.looks() + own).is_none() {
            return context.too_many_answers(place, WORD);
        }
        if !self.wants(address, name) {
            return;
        }
        if !self.of_name.contains_key(name) {
            // Each has a rule at least.
            if context.budget.name().is_none() {
                return context.too_many_answers(place, WORD);
            }
            self.names.push(name.to_owned());
        }
        let (addresses, _) = self
            .of_name
            .entry(name.to_owned())
            .or_insert_with(|| (Vec::new(), place));
        // One more than may be, so that it can be told.
        if addresses.len() <= limits::MAX_ANSWER_RECORDS && !addresses.contains(&address) {
            addresses.push(address);
        }
        let (names, _) = self
            .of_address
            .entry(address)
            .or_insert_with(|| (Vec::new(), place));
        if names.len() <= limits::MAX_ANSWER_RECORDS && !names.iter().any(|one| one == name) {
            names.push(name.to_owned());
        }
    }

    /// Answers to who asks for names.
    fn forward(&self, context: &mut Context<'_>, ttl: u32, stage: &mut Stage) {
        for name in &self.names {
            let Some((addresses, place)) = self.of_name.get(name) else {
                continue;
            };
            for (kind, is_v4) in [("A", true), ("AAAA", false)] {
                let of_kind: Vec<_> = addresses
                    .iter()
                    .filter(|address| address.is_ipv4() == is_v4)
                    .map(ToString::to_string)
                    .collect();
                if !of_kind.is_empty() {
                    let what = || format!("addresses of {name}");
                    let first = first_of(context, &of_kind, what, *place);
                    stage.push(answer(kind, name, format!("{ttl} {first}"), *place));
                }
            }
            stage.push(answer("ANY", name, "NOERROR".to_owned(), *place));
        }
    }

    /// Answers to who asks for addresses.
    fn reverse(&self, context: &mut Context<'_>, ttl: u32, stage: &mut Stage) {
        for (address, (names, place)) in &self.of_address {
            if let Some(owner) = owner(*address) {
                let what = || format!("names of {address}");
                let first = first_of(context, names, what, *place);
                stage.push(answer("PTR", &owner, format!("{ttl} {first}"), *place));
            }
        }
    }
}

/// The lines of a file in the form of hosts(5). What is wrong in it is left out, as CoreDNS does, and
/// so is a file that is not there (yet).
fn from_file(context: &mut Context<'_>, path: &Path, place: Place) -> Lines {
    if let Some(lines) = context.hosts.get(path) {
        return Rc::clone(lines);
    }
    let content = match context.read(path) {
        Ok(content) => content,
        Err(Unread::Missing) => {
            let message = format!("{} is not there: it adds no names", path.display());
            let remedy = "create it, or correct the path; it is followed";
            context.note(place, WORD, "zones", message, remedy);
            return Lines::default();
        }
        Err(reason) => {
            let (message, remedy) = reason.explain("file of hosts");
            let message = format!("{}: {message}", path.display());
            context.problem(place, WORD, message, &remedy);
            return Lines::default();
        }
    };
    let before: usize = context.hosts.values().map(|lines| lines.len()).sum();
    let mut lines = Vec::new();
    for line in content.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(address_of) else {
            continue;
        };
        for name in words {
            if let Ok([name]) = values::zones(name).as_deref() {
                lines.push((address, name.as_str().into()));
            }
        }
        if before + lines.len() > MAX_NAMES {
            let found = format!("more than {MAX_NAMES} names in files");
            let expected = format!("at most {MAX_NAMES}");
            let remedy = "have a server answer these names, and forward them there";
            context.wrong(place, WORD, &found, &expected, remedy);
            break;
        }
    }
    let lines = Lines::from(lines);
    context.hosts.insert(path.to_owned(), Rc::clone(&lines));
    lines
}
