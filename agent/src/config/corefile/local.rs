// SPDX-License-Identifier: Apache-2.0
//! The directive `template`: answers that need no upstream, as lines of `zones[].answers` (CoreDNS
//! plugin/template); and what it has in common with `hosts`.

use super::context::Context;
use super::lexer::Token;
use super::parser::Directive;
use super::plugins::BlockRead;
use super::stages::{Names, Rule, Stage, Step};
use super::values;
use crate::config::nearest::nearest;
use crate::config::yaml::quote;
use crate::config::{limits, text};
use crate::wire::presentation::TypeName;

/// The TTL of records where none is written, in seconds.
const RECORD_TTL: u32 = 3600;

/// Templates of one block: each is looked at for each name that those before it let pass.
const MAX_TEMPLATES: usize = 64;

/// Zones behind one `fallthrough`: what is behind the directive is looked at for each of them.
const MAX_PASSED: usize = 100;

/// Zones within one that are left to the next plugin; `None`: all of it is. A `fallthrough` without
/// zones names all of them.
pub(super) fn passed_in(zone: &str, passes: Option<&[String]>) -> Option<Vec<String>> {
    let passes = passes.unwrap_or_default();
    if passes.iter().any(|one| values::encloses(one, zone)) {
        return None;
    }
    let within = passes.iter().filter(|one| values::encloses(zone, one));
    Some(within.cloned().collect())
}

/// The zones behind `fallthrough`; all where none is named.
pub(super) fn passed_zones(context: &mut Context<'_>, tokens: &[Token], word: &str) -> Vec<String> {
    let Some(first) = tokens.first() else {
        return vec![".".to_owned()];
    };
    let zones = tokens.iter();
    let mut zones: Vec<_> = zones
        .flat_map(|zone| zone_names(context, zone, word))
        .collect();
    if zones.len() > MAX_PASSED {
        let found = format!("{} zones behind fallthrough", zones.len());
        let expected = format!("at most {MAX_PASSED}");
        let remedy = "name the zones above them, or write fallthrough alone";
        context.wrong(first.place, word, &found, &expected, remedy);
        zones.truncate(MAX_PASSED);
    }
    zones
}

pub(super) fn zone_names(context: &mut Context<'_>, token: &Token, word: &str) -> Vec<String> {
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
    if read.templates.len() >= MAX_TEMPLATES {
        if read.templates.len() == MAX_TEMPLATES {
            let found = format!("more than {MAX_TEMPLATES} templates in one block");
            let expected = format!("at most {MAX_TEMPLATES}");
            let remedy =
                "join those that answer alike: template takes several zones and lines with match";
            context.wrong(place, WORD, &found, &expected, remedy);
            // That there are more has been said.
            read.templates.push(Stage::new());
        }
        return;
    }
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
    let mut ttl = u32::MAX;
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
                            ttl = seconds.min(ttl);
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
    let tried = patterns.as_ref().map_or(0, Vec::len) + passes.as_ref().map_or(0, Vec::len);
    if context.budget.look(served.len() * (1 + tried)).is_none() {
        context.too_many_answers(place, WORD);
        return;
    }
    let mut stage = Stage::new();
    for zone in &served {
        let all = [(zone.clone(), 0), (zone.clone(), 1)];
        let wanted: Vec<(String, usize)> = match &patterns {
            None => all.to_vec(),
            Some(patterns) => patterns
                .iter()
                .flat_map(|(name, labels)| match name.as_str() {
                    // `.*`
                    "" => all.to_vec(),
                    _ => vec![(name.clone(), *labels)],
                })
                .collect(),
        };
        for (name, below) in wanted {
            let rule = Rule {
                kind: kind_text.clone(),
                name,
                below,
                says: says.clone(),
                place,
            };
            stage.extend(rule.within(zone).into_iter().map(Step::Answer));
        }
    }
    let names = |zone: String| Names {
        kind: kind_text.clone(),
        zone,
        place,
    };
    // Without an expression all names fit.
    for zone in served.iter().filter(|_| patterns.is_some()) {
        if let Some(passed) = passed_in(zone, passes.as_deref()) {
            stage.extend(passed.into_iter().map(|zone| Step::Pass(names(zone))));
            stage.push(Step::End(names(zone.clone()), "SERVFAIL"));
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
    let mut ttl = RECORD_TTL;
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
