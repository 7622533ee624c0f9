// SPDX-License-Identifier: Apache-2.0
//! The directives `rewrite` and `dns64` (CoreDNS plugin/rewrite/setup.go, plugin/dns64/setup.go).

use super::context::Context;
use super::lexer::Token;
use super::parser::Directive;
use super::plugins::{At, BlockRead};
use crate::config::adapt;
use crate::config::nearest::nearest;
use crate::config::yaml::quote;

/// The prefix where none is written (RFC 6052 section 2.1).
const WELL_KNOWN: &str = "64:ff9b::/96";
/// What of a query can be rewritten; here its name alone.
const FIELDS: [&str; 9] = [
    "name", "type", "class", "edns0", "ttl", "cname", "rcode", "answer", "stop",
];
/// Which part of a name.
const PARTS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];

/// Reads `rewrite [stop] [name] [exact|prefix|suffix|substring] FROM TO [answer auto]`.
pub(super) fn rewrite(context: &mut Context<'_>, directive: &Directive, read: &mut BlockRead) {
    const WORD: &str = "rewrite";
    let place = directive.name.place;
    let lines = directive.lines.iter().flatten();
    let words: Vec<&Token> = directive.arguments.iter().chain(lines).collect();
    let mut words = words.as_slice();
    if let [first, rest @ ..] = words
        && matches!(first.text.as_str(), "stop" | "continue")
    {
        if first.text == "continue" {
            let remedy = "write one rewrite for what both come to";
            let expected = "stop or nothing: the first rule that fits is the only one";
            context.wrong(first.place, WORD, "continue", expected, remedy);
            return;
        }
        words = rest;
    }
    match words {
        [field, rest @ ..] if field.text == "name" => words = rest,
        // `rewrite name FROM TO` may leave the field out no more than CoreDNS lets it.
        [field, ..] => {
            let known = FIELDS.contains(&field.text.as_str());
            let remedy = match nearest(&field.text, FIELDS.into_iter()) {
                Some(near) if !known => format!("did you mean {near}?"),
                _ => "remove it, or keep it in the Corefile of the cluster's CoreDNS".to_owned(),
            };
            let expected = "name: nothing else of a query is rewritten";
            context.wrong(field.place, WORD, &quote(&field.text), expected, &remedy);
            return;
        }
        [] => {
            let remedy = "write it like rewrite name exact a.example b.example";
            context.wrong(place, WORD, "nothing", "what is rewritten", remedy);
            return;
        }
    }
    let mut part = "exact";
    if let [first, rest @ ..] = words
        && rest.len() >= 2
        && let Some(found) = PARTS.iter().find(|part| first.text == **part)
    {
        if *found == "regex" {
            let remedy =
                "write exact, prefix, suffix or substring, or keep it in the cluster's CoreDNS";
            let expected = "a part of the name: there are no expressions";
            context.wrong(first.place, WORD, "regex", expected, remedy);
            return;
        }
        part = found;
        words = rest;
    }
    let [from, to, rest @ ..] = words else {
        let remedy = "write it like rewrite name exact a.example b.example";
        let found = format!("{} words", words.len());
        context.wrong(place, WORD, &found, "the old name and the new one", remedy);
        return;
    };
    let answer: Vec<&str> = rest.iter().map(|word| word.text.as_str()).collect();
    if !matches!(answer.as_slice(), [] | ["answer", "auto"]) {
        let at = rest.first().map_or(place, |word| word.place);
        let expected = "answer auto or nothing: clients get the name that they asked for";
        let remedy = "remove it, or write answer auto";
        context.wrong(at, WORD, &quote(&answer.join(" ")), expected, remedy);
        return;
    }
    let rule = match part {
        // Whole labels: CoreDNS closes both with a dot, as it does names.
        "prefix" | "substring" => format!("{part} {} {}", closed(&from.text), closed(&to.text)),
        _ => format!("{part} {} {}", from.text, to.text),
    };
    match adapt::rewrite(&rule) {
        Ok(_) => read.rewrites.push((rule, from.place)),
        Err(wrong) => {
            let found = quote(&format!("{} {}", from.text, to.text));
            context.wrong(from.place, WORD, &found, &wrong.expected, &wrong.remedy);
        }
    }
}

fn closed(text: &str) -> String {
    let dot = if text.ends_with('.') { "" } else { "." };
    format!("{text}{dot}")
}

/// Reads `dns64 [PREFIX] { [prefix PREFIX]; [translate_all]; [allow_ipv4] }`.
pub(super) fn dns64(context: &mut Context<'_>, directive: &Directive, read: &mut BlockRead) {
    const WORD: &str = "dns64";
    let place = directive.name.place;
    let mut prefix: At<String> = (WELL_KNOWN.to_owned(), place);
    let mut for_all = "";
    let mut allows_ipv4 = false;
    let options = directive.lines.iter().filter_map(|line| line.split_first());
    let mut prefixes: Vec<&Token> = directive.arguments.iter().collect();
    for (option, values) in options {
        match (option.text.as_str(), values) {
            ("prefix", values) => prefixes.extend(values),
            ("translate_all", []) => for_all = " all",
            ("allow_ipv4", []) => allows_ipv4 = true,
            (_, [first, ..]) => {
                let expected = format!("nothing behind {}", option.text);
                let found = quote(&first.text);
                context.wrong(first.place, WORD, &found, &expected, "remove it");
            }
            (_, []) => {}
        }
    }
    match prefixes.as_slice() {
        [] => {}
        [one] => prefix = (one.text.clone(), one.place),
        [_, second, ..] => {
            let found = quote(&second.text);
            context.wrong(second.place, WORD, &found, "one prefix", "remove it");
            return;
        }
    }
    let (text, at) = prefix;
    match adapt::dns64(&text) {
        Ok(Some(_)) => read.dns64 = Some((format!("{text}{for_all}"), at)),
        Ok(None) | Err(_) => {
            let remedy = "write it like 64:ff9b::/96, its length one of 32, 40, 48, 56, 64, 96";
            let expected = "a prefix of IPv6 (RFC 6052)";
            context.wrong(at, WORD, &quote(&text), expected, remedy);
            return;
        }
    }
    if !allows_ipv4 {
        let message = "clients over IPv4 get these addresses, too: one cache is for all";
        context.note(place, WORD, "zones", message, "write allow_ipv4");
    }
}
