// SPDX-License-Identifier: Apache-2.0
//! The directives `hosts` and `template`: answers that need no upstream, as lines of
//! `zones[].answers` (CoreDNS plugin/hosts, plugin/template).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::directives::{Entry, remedy_for_option};
use super::lexer::Token;
use super::parser::Directive;
use super::plugins::{BlockRead, duration};
use super::stages::{End, Rule, Stage};
use super::values;
use crate::config::nearest::nearest;
use crate::config::source::Unread;
use crate::config::yaml::{Place, quote};
use crate::config::{limits, text};
use crate::wire::presentation::TypeName;

/// The TTL of addresses in `hosts` where none is written, in seconds.
const HOSTS_TTL: u32 = 3600;

/// Names of hosts, in the order in which they were written.
#[derive(Default)]
struct Hosts {
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
    const WORD: &str = "hosts";
    let place = directive.name.place;
    let mut hosts = Hosts::default();
    let file = match directive.arguments.first() {
        Some(file) => Some((PathBuf::from(&file.text), file.place)),
        // CoreDNS reads it beside the names in the braces, too.
        None => context.node_cache.hosts.clone().map(|file| (file, place)),
    };
    if let Some((path, place)) = file {
        from_file(context, &path, place, &mut hosts);
    }
    let mut zones = Vec::new();
    for zone in directive.arguments.iter().skip(1) {
        zones.extend(zone_names(context, zone, WORD));
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
    if zones.is_empty() {
        zones = read.zones.iter().map(|(zone, _)| zone.clone()).collect();
    }
    let served = zones;
    let mut stage = Stage::default();
    let mut put = |kind: &str, name: &str, says: String, place: Place| {
        stage.rules.push(Rule {
            kind: kind.to_owned(),
            name: name.to_owned(),
            below: 0,
            says,
            place,
        });
    };
    for name in &hosts.names {
        let Some((addresses, place)) = hosts.of_name.get(name) else {
            continue;
        };
        if !served.iter().any(|zone| values::encloses(zone, name)) {
            continue;
        }
        for (kind, is_v4) in [("A", true), ("AAAA", false)] {
            let of_kind: Vec<_> = addresses
                .iter()
                .filter(|address| address.is_ipv4() == is_v4)
                .map(ToString::to_string)
                .collect();
            if !of_kind.is_empty() {
                let first = first_of(context, &of_kind, &format!("addresses of {name}"), *place);
                put(kind, name, format!("{ttl} {first}"), *place);
            }
        }
        put("ANY", name, "NOERROR".to_owned(), *place);
    }
    let reverse = hosts.of_address.iter().filter(|_| has_reverse);
    for (address, (names, place)) in reverse {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let owner = values::zones(&format!("{address}/{bits}")).unwrap_or_default();
        for owner in owner {
            let first = first_of(context, names, &format!("names of {address}"), *place);
            put("PTR", &owner, format!("{ttl} {first}"), *place);
        }
    }
    for zone in served {
        let Some(mut passed) = passed_in(&zone, passes.as_deref()) else {
            continue;
        };
        // Reverse names that are not there always are (plugin/hosts/hosts.go).
        passed.push(("PTR".to_owned(), zone.clone()));
        stage.ends.push(End {
            kind: "ANY".to_owned(),
            zone,
            rcode: "SERVFAIL",
            passes: passed,
            place,
        });
    }
    if stage.rules.is_empty() && stage.ends.is_empty() {
        let remedy = "write lines like 10.0.0.1 example.org within its braces";
        context.note(place, WORD, "zones", "hosts has no names", remedy);
    }
    read.hosts = Some(stage);
}

/// As many records as one answer has.
fn first_of(context: &mut Context<'_>, all: &[String], what: &str, place: Place) -> String {
    const MOST: usize = limits::MAX_ANSWER_RECORDS;
    if all.len() > MOST {
        let message = format!("the first {MOST} {what} are answered, and no more");
        let remedy = "nothing need be done where nobody asks for more";
        context.note(place, "hosts", "zones", message, remedy);
    }
    all.get(..MOST).unwrap_or(all).join(" ")
}

/// Zones within one that are left to the next plugin, for all types; `None`: all of it is. A
/// `fallthrough` without zones names all of them.
fn passed_in(zone: &str, passes: Option<&[String]>) -> Option<Vec<(String, String)>> {
    let passes = passes.unwrap_or_default();
    if passes.iter().any(|one| values::encloses(one, zone)) {
        return None;
    }
    let within = passes.iter().filter(|one| values::encloses(zone, one));
    Some(within.map(|one| ("ANY".to_owned(), one.clone())).collect())
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
    const WORD: &str = "hosts";
    let Ok(address) = word.parse::<IpAddr>() else {
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
            hosts.add(address, name, first.place);
        }
    }
}

impl Hosts {
    fn add(&mut self, address: IpAddr, name: String, place: Place) {
        let (addresses, _) = self.of_name.entry(name.clone()).or_insert_with(|| {
            self.names.push(name.clone());
            (Vec::new(), place)
        });
        // One more than may be, so that it can be told.
        if addresses.len() <= limits::MAX_ANSWER_RECORDS && !addresses.contains(&address) {
            addresses.push(address);
        }
        let (names, _) = self
            .of_address
            .entry(address)
            .or_insert_with(|| (Vec::new(), place));
        if names.len() <= limits::MAX_ANSWER_RECORDS && !names.contains(&name) {
            names.push(name);
        }
    }
}

/// The lines of a file in the form of hosts(5). What is wrong in it is left out, as CoreDNS does, and
/// so is a file that is not there (yet).
fn from_file(context: &mut Context<'_>, path: &Path, place: Place, hosts: &mut Hosts) {
    const WORD: &str = "hosts";
    let content = match context.read(path) {
        Ok(content) => content,
        Err(Unread::Missing) => {
            let message = format!("{} is not there: it adds no names", path.display());
            let remedy = "create it, or correct the path; it is followed";
            context.note(place, WORD, "zones", message, remedy);
            return;
        }
        Err(reason) => {
            let (message, remedy) = reason.explain("file of hosts");
            let message = format!("{}: {message}", path.display());
            context.problem(place, WORD, message, &remedy);
            return;
        }
    };
    for line in content.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        for name in words {
            if let (Some(address), Ok([name])) = (address, values::zones(name).as_deref()) {
                hosts.add(address, name.clone(), place);
            }
        }
    }
}

/// The zones behind `fallthrough`; all where none is named.
fn passed_zones(context: &mut Context<'_>, tokens: &[Token], word: &str) -> Vec<String> {
    if tokens.is_empty() {
        return vec![".".to_owned()];
    }
    let zones = tokens.iter();
    zones
        .flat_map(|zone| zone_names(context, zone, word))
        .collect()
}

fn zone_names(context: &mut Context<'_>, token: &Token, word: &str) -> Vec<String> {
    match values::zones(&token.text) {
        Ok(zones) => zones,
        Err(remedy) => {
            context.wrong(token.place, word, &quote(&token.text), "a name", &remedy);
            Vec::new()
        }
    }
}

/// Reads `template CLASS TYPE [ZONES...] { match; answer; rcode; fallthrough [ZONES] }`.
pub(super) fn template(context: &mut Context<'_>, directive: &Directive, read: &mut BlockRead) {
    const WORD: &str = "template";
    let place = directive.name.place;
    let [class, kind, zones @ ..] = directive.arguments.as_slice() else {
        let remedy = "write it like template IN AAAA .";
        context.wrong(
            place,
            WORD,
            "too little",
            "CLASS and TYPE behind it",
            remedy,
        );
        return;
    };
    if !matches!(class.text.to_ascii_uppercase().as_str(), "IN" | "ANY") {
        let found = quote(&class.text);
        let remedy = "write IN: other classes are refused anyway";
        context.wrong(class.place, WORD, &found, "the class IN or ANY", remedy);
        return;
    }
    let kind_text = kind.text.to_ascii_uppercase();
    if kind_text != "ANY" && TypeName::parse(&kind_text).is_none() {
        let found = quote(&kind.text);
        let remedy = "write a type like AAAA, or ANY for all";
        context.wrong(kind.place, WORD, &found, "the type of a query", remedy);
        return;
    }
    let mut served = Vec::new();
    for zone in zones {
        served.extend(zone_names(context, zone, WORD));
    }
    if zones.is_empty() {
        served = read.zones.iter().map(|(zone, _)| zone.clone()).collect();
    }
    let mut rcode = "NOERROR".to_owned();
    let mut patterns: Option<Vec<(String, usize)>> = None;
    let mut answers: Vec<String> = Vec::new();
    let mut ttl = 0;
    let mut passes = None;
    for line in &directive.lines {
        let Some((option, values)) = line.split_first() else {
            continue;
        };
        match option.text.as_str() {
            "match" => {
                for value in values {
                    match pattern(&value.text) {
                        Some(found) => patterns.get_or_insert_default().extend(found),
                        None => {
                            let expected = "an expression for the end of a name, or for .*";
                            let remedy = "write it like (^|[.])example[.]org[.]$, or keep the template in \
                                          the cluster's CoreDNS";
                            let found = quote(&value.text);
                            context.wrong(value.place, WORD, &found, expected, remedy);
                        }
                    }
                }
            }
            "rcode" => {
                rcode = values
                    .first()
                    .map_or(String::new(), |code| code.text.to_ascii_uppercase());
                const CODES: [&str; 4] = ["NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL"];
                if !CODES.contains(&rcode.as_str()) {
                    let place = values.first().unwrap_or(option).place;
                    let remedy = match nearest(&rcode, CODES.into_iter()) {
                        Some(near) => format!("did you mean {near}?"),
                        None => "write one of these".to_owned(),
                    };
                    let expected = "one of NOERROR, NXDOMAIN, REFUSED, SERVFAIL";
                    context.wrong(place, WORD, &quote(&rcode), expected, &remedy);
                    rcode = "NOERROR".to_owned();
                }
            }
            "answer" => {
                for value in values {
                    match address_record(&value.text, &kind_text) {
                        Some((seconds, address)) => {
                            ttl = seconds;
                            answers.push(address);
                        }
                        None => {
                            let expected = format!(
                                "a record like {{{{ .Name }}}} 60 IN {} ADDRESS of the type that is asked for",
                                if kind_text == "AAAA" { "AAAA" } else { "A" }
                            );
                            let remedy = "write such a record, or keep the template in the cluster's CoreDNS";
                            let found = quote(&value.text);
                            context.wrong(value.place, WORD, &found, &expected, remedy);
                        }
                    }
                }
            }
            "ederror" => {
                let message = "ederror has no effect: no Extended DNS Error is sent with it";
                context.note(option.place, WORD, "zones", message, "remove it");
            }
            "fallthrough" => {
                passes = Some(passed_zones(context, values, WORD));
            }
            _ => {}
        }
    }
    if !answers.is_empty() && rcode != "NOERROR" {
        let remedy = "remove rcode or answer";
        let found = format!("an answer with rcode {rcode}");
        context.wrong(place, WORD, &found, "one of the two", remedy);
        return;
    }
    let says = match answers.as_slice() {
        [] => rcode,
        answers => format!("{ttl} {}", answers.join(" ")),
    };
    let mut stage = Stage::default();
    for zone in &served {
        let all = [(zone.clone(), 0), (zone.clone(), 1)];
        let wanted: Vec<(String, usize)> = match &patterns {
            None => all.to_vec(),
            Some(patterns) => patterns
                .iter()
                .flat_map(|(name, labels)| match name.as_str() {
                    // `.*`
                    "" => all.to_vec(),
                    _ if values::encloses(zone, name) => vec![(name.clone(), *labels)],
                    _ => Vec::new(),
                })
                .collect(),
        };
        let rules = wanted.into_iter().map(|(name, below)| Rule {
            kind: kind_text.clone(),
            name,
            below,
            says: says.clone(),
            place,
        });
        stage.rules.extend(rules);
        // Without an expression all names fit.
        if patterns.is_some()
            && let Some(mut passed) = passed_in(zone, passes.as_deref())
        {
            for (kind, _) in &mut passed {
                kind.clone_from(&kind_text);
            }
            stage.ends.push(End {
                kind: kind_text.clone(),
                zone: zone.clone(),
                rcode: "SERVFAIL",
                passes: passed,
                place,
            });
        }
    }
    read.templates.push(stage);
}

/// TTL and address of a record whose owner is the name that is asked for.
fn address_record(record: &str, kind: &str) -> Option<(u32, String)> {
    let record = record.replace("{{ .Name }}", "@").replace("{{.Name}}", "@");
    let mut words = record.split_whitespace().peekable();
    if words.next()? != "@" {
        return None;
    }
    let mut ttl = HOSTS_TTL;
    if let Some(seconds) = words.peek().and_then(|word| values::number(word)) {
        ttl = seconds.min(limits::MAX_ANSWER_TTL);
        words.next();
    }
    if words
        .peek()
        .is_some_and(|word| word.eq_ignore_ascii_case("IN"))
    {
        words.next();
    }
    let found = words.next()?.to_ascii_uppercase();
    let address = text::address(words.next()?).ok()?;
    let of_kind = match found.as_str() {
        "A" => address.is_ipv4(),
        "AAAA" => address.is_ipv6(),
        _ => false,
    };
    (of_kind && found == kind && words.next().is_none()).then(|| (ttl, address.to_string()))
}

/// The names that an expression stands for, of those that are about the end of a name: each with how
/// many labels are below it at least, 0 for the name itself; the empty name for all.
fn pattern(expression: &str) -> Option<Vec<(String, usize)>> {
    if matches!(expression, ".*" | "^.*$" | "^.*" | ".*$" | "") {
        return Some(vec![(String::new(), 0)]);
    }
    let plain = expression.replace("[.]", "\\.").replace("(?:", "(");
    let body = plain.strip_suffix('$')?;
    for (start, labels) in [
        ("(^|\\.)", [Some(0), Some(1)]),
        ("^(.*\\.)?", [Some(0), Some(1)]),
        ("^(.+\\.)?", [Some(0), Some(1)]),
        ("^.*\\.", [Some(1), None]),
        ("^.+\\.", [Some(1), None]),
        (".*\\.", [Some(1), None]),
        (".+\\.", [Some(1), None]),
    ] {
        if let Some(name) = body.strip_prefix(start) {
            let name = literal(name)?;
            let all = labels.into_iter().flatten();
            return Some(all.map(|labels| (name.clone(), labels)).collect());
        }
    }
    let rest = body.strip_prefix('^')?;
    if let Some(counted) = rest.strip_prefix("([^.]+\\.){") {
        let (number, name) = counted.split_once(",}")?;
        let labels = usize::try_from(values::number(number)?).ok()?;
        let name = literal(name)?;
        return (labels <= 16).then_some(vec![(name, labels)]);
    }
    Some(vec![(literal(rest)?, 0)])
}

/// A name with escaped dots, one at its end.
fn literal(expression: &str) -> Option<String> {
    let labels = expression.strip_suffix("\\.")?;
    let name = labels.replace("\\.", "\u{0}");
    let is_plain =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '\u{0}');
    if !name.chars().all(is_plain) {
        return None;
    }
    let name = name.replace('\u{0}', ".").to_ascii_lowercase();
    text::domain(&name).ok().map(|_| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_for_the_end_of_a_name_are_understood_and_no_others() {
        let found = |text| {
            let names = pattern(text)?;
            let show = |(name, labels): (String, usize)| format!("{labels} {name}");
            Some(names.into_iter().map(show).collect::<Vec<_>>().join(", "))
        };
        for (text, expected) in [
            (".*", "0 "),
            (r"^example\.org\.$", "0 example.org"),
            (r"(^|[.])example[.]org[.]$", "0 example.org, 1 example.org"),
            (r"^(.*\.)?Example\.org\.$", "0 example.org, 1 example.org"),
            (r".*\.example\.org\.$", "1 example.org"),
            (
                r"^(?:[^.]+\.){4,}internal\.cloudapp\.net\.$",
                "4 internal.cloudapp.net",
            ),
        ] {
            assert_eq!(found(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            r"example\.org\.$",
            "^example.org.$",
            r"^ip-(?P<a>[0-9]*)\.example\.org\.$",
            r"^a|b\.$",
            r"^(?:[^.]+\.){99,}example\.$",
            "(",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_is_an_address_of_the_name_that_is_asked_for() {
        let found = |text| address_record(text, "A");
        assert_eq!(
            found("{{ .Name }} 60 IN A 10.0.0.1"),
            Some((60, "10.0.0.1".to_owned()))
        );
        assert_eq!(
            found("{{.Name}} A 10.0.0.1"),
            Some((3600, "10.0.0.1".to_owned()))
        );
        for text in [
            "",
            "example.org 60 IN A 10.0.0.1",
            "{{ .Name }} 60 IN AAAA fd00::1",
            "{{ .Name }} 60 IN A fd00::1",
            "{{ .Name }} 60 IN TXT x",
            "{{ .Name }} 60 IN A 10.0.0.1 x",
            "{{ .Name }} 60 IN A {{ .Group.a }}",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
