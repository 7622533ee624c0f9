// SPDX-License-Identifier: Apache-2.0
//! What the directives of one block say, each read by its own rules. Nothing is decided here that
//! concerns several blocks.

use std::time::Duration;

use super::context::Context;
use super::directives::{self, Entry, Fate};
use super::lexer::Token;
use super::parser::{Block, Directive};
use super::stages::Stage;
use super::values;
use super::{adapt, cache, forward, hosts, local};
use crate::config::yaml::{Place, quote};

/// A value with the place where it was written.
pub(super) type At<T> = (T, Place);

/// What one block says.
#[derive(Debug, Default)]
pub(super) struct BlockRead {
    /// Zones, lower case, without the dot at the end.
    pub(super) zones: Vec<At<String>>,
    /// The port of each key.
    pub(super) ports: Vec<At<u16>>,
    pub(super) binds: Vec<Token>,
    pub(super) bind_exceptions: Vec<Token>,
    pub(super) cache: Option<cache::CacheRead>,
    pub(super) forwards: Vec<forward::Forward>,
    pub(super) health: Option<At<String>>,
    pub(super) lameduck: Option<At<Duration>>,
    pub(super) ready: Option<At<String>>,
    pub(super) prometheus: Option<At<String>>,
    pub(super) rotate: Option<Place>,
    pub(super) udp_size: Option<At<u32>>,
    pub(super) tcp_idle: Option<At<Duration>>,
    /// What is answered here, in the order of CoreDNS: template before hosts.
    pub(super) templates: Vec<Stage>,
    pub(super) hosts: Option<Stage>,
    pub(super) whoami: Option<Place>,
    /// There is a `rewrite`: names of the block may become any others.
    pub(super) renames: bool,
    /// Rules of `zones[].rewrites`.
    pub(super) rewrites: Vec<At<String>>,
    /// The value of `zones[].dns64`.
    pub(super) dns64: Option<At<String>>,
}

/// Directives that may stand in a block once.
const ONCE: [&str; 11] = [
    "dns64",
    "cache",
    "hosts",
    "health",
    "ready",
    "prometheus",
    "reload",
    "loop",
    "loadbalance",
    "bufsize",
    "timeouts",
];

/// Reads a block.
pub(super) fn read(context: &mut Context<'_>, block: &Block) -> BlockRead {
    let mut read = BlockRead {
        renames: block.directives.iter().any(|one| one.name.is("rewrite")),
        ..BlockRead::default()
    };
    for key in &block.keys {
        zone(context, key, &mut read);
    }
    for (index, directive) in block.directives.iter().enumerate() {
        let name = directive.name.text.as_str();
        let Some(entry) = directives::find(name) else {
            continue;
        };
        let earlier = block.directives.iter().take(index);
        if ONCE.contains(&name) && earlier.clone().any(|other| other.name.text == name) {
            let remedy = "remove one of the two";
            context.wrong(
                directive.name.place,
                name,
                &format!("{name} again"),
                "it once in a block",
                remedy,
            );
            continue;
        }
        if entry.fate == Fate::Refused {
            refuse(context, &directive.name, name, entry);
            continue;
        }
        // The lines of `hosts` are no options, but for a few; those of `rewrite` are one rule.
        if !matches!(name, "hosts" | "rewrite") && !options_are_known(context, directive, entry) {
            continue;
        }
        one(context, directive, entry, &mut read);
    }
    read
}

/// Reads one key of a block: `[dns://]ZONE[:PORT]`.
fn zone(context: &mut Context<'_>, key: &Token, read: &mut BlockRead) {
    let text = key.text.as_str();
    let text = match text.split_once("://") {
        Some(("dns", rest)) => rest,
        Some((scheme, _)) => {
            let found = quote(&format!("{scheme}://"));
            let remedy = "remove the block; clients are answered over UDP and TCP";
            context.wrong(key.place, "", &found, "dns:// or no scheme", remedy);
            return;
        }
        None => text,
    };
    // The last colon: nothing else in a zone has one but the address of an IPv6 range.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains('/') => (name, Some(port)),
        _ => (text, None),
    };
    match port {
        None => read.ports.push((context.node_cache.port, key.place)),
        Some(port) => match values::port_number(port) {
            Some(port) => read.ports.push((port, key.place)),
            None => {
                let remedy = "write the zone like example.org:53";
                let expected = "a port from 1 to 65535 behind the colon";
                context.wrong(key.place, "", &quote(&key.text), expected, remedy);
                return;
            }
        },
    }
    match values::own_zones(name) {
        Ok(zones) => {
            let zones = zones.into_iter().map(|zone| (zone, key.place));
            read.zones.extend(zones);
        }
        Err(remedy) => {
            let expected = "a zone, e.g. example.org:53 or .:53";
            context.wrong(key.place, "", &quote(&key.text), expected, &remedy);
        }
    }
}

pub(super) fn refuse(context: &mut Context<'_>, token: &Token, word: &str, entry: &Entry) {
    let message = format!("found {}, which nodens does not have", token.text);
    let doc = entry.doc.replace('`', "");
    context.problem(token.place, word, message, &format!("remove it: {doc}"));
}

/// Whether every line in the braces begins with an option of the directive.
fn options_are_known(context: &mut Context<'_>, directive: &Directive, entry: &Entry) -> bool {
    let mut is_known = true;
    for option in directive.lines.iter().filter_map(|line| line.first()) {
        match entry.option(&option.text) {
            Some(known) if known.fate == Fate::Refused => {
                refuse(context, option, entry.name, known);
                is_known = false;
            }
            Some(_) => {}
            None => {
                let found = format!("the unknown option {}", quote(&option.text));
                let expected = match entry.options {
                    [] => format!("no braces behind {}", entry.name),
                    _ => format!("one of {}", entry.list()),
                };
                let remedy = directives::remedy_for_option(entry, &option.text);
                context.wrong(option.place, entry.name, &found, &expected, &remedy);
                is_known = false;
            }
        }
    }
    is_known
}

/// Reads one directive.
fn one(context: &mut Context<'_>, directive: &Directive, entry: &Entry, read: &mut BlockRead) {
    let place = directive.name.place;
    let name = directive.name.text.as_str();
    match name {
        "bind" => {
            read.binds.extend(directive.arguments.iter().cloned());
            for line in &directive.lines {
                read.bind_exceptions.extend(line.iter().skip(1).cloned());
            }
            if directive.arguments.is_empty() {
                let remedy = "write the addresses, e.g. bind 169.254.20.10";
                context.wrong(place, name, "nothing", "addresses behind it", remedy);
            }
        }
        "cache" => read.cache = Some(cache::read(context, directive)),
        "forward" => read.forwards.extend(forward::read(context, directive)),
        "errors" => errors(context, directive),
        "log" => log(context, directive, entry),
        "reload" => reload(context, directive),
        "health" => {
            read.health = address(context, directive, ":8080");
            for line in &directive.lines {
                read.lameduck = option_duration(context, line, name).or(read.lameduck);
            }
        }
        "ready" => read.ready = address(context, directive, ":8181"),
        "prometheus" => read.prometheus = address(context, directive, "localhost:9153"),
        "hosts" => hosts::hosts(context, directive, entry, read),
        "template" => local::template(context, directive, read),
        "rewrite" => adapt::rewrite(context, directive, read),
        "dns64" => adapt::dns64(context, directive, read),
        "whoami" => {
            no_arguments(context, directive);
            read.whoami = Some(place);
        }
        "loadbalance" => loadbalance(context, directive, read),
        "bufsize" => bufsize(context, directive, read),
        "timeouts" => {
            for line in &directive.lines {
                let Some(option) = line.first() else {
                    continue;
                };
                if option.text == "maxtcpqueries" {
                    ignored(context, option.place, entry.option(&option.text));
                    continue;
                }
                let time = option_duration(context, line, name);
                match option.text.as_str() {
                    "idle" => read.tcp_idle = time,
                    other => ignored(context, option.place, entry.option(other)),
                }
            }
        }
        "debug" | "nsid" | "pprof" => ignored(context, place, Some(entry)),
        _ => no_arguments(context, directive),
    }
}

/// Notes that something is ignored, in the words of the table.
fn ignored(context: &mut Context<'_>, place: Place, entry: Option<&Entry>) {
    let Some(entry) = entry else {
        return;
    };
    let doc = entry.doc.replace('`', "");
    let message = format!("{} has no effect: {doc}", entry.name);
    context.note(place, entry.name, "", message, "remove it");
}

pub(super) fn no_arguments(context: &mut Context<'_>, directive: &Directive) {
    if let Some(first) = directive.arguments.first() {
        let word = directive.name.text.as_str();
        let expected = format!("nothing behind {word}");
        context.wrong(
            first.place,
            word,
            &quote(&first.text),
            &expected,
            "remove it",
        );
    }
}

/// The one address that a directive may name.
fn address(context: &mut Context<'_>, directive: &Directive, default: &str) -> Option<At<String>> {
    match directive.arguments.as_slice() {
        [] => Some((default.to_owned(), directive.name.place)),
        [one] => Some((one.text.clone(), one.place)),
        [_, second, ..] => {
            let expected = "one address with its port";
            let remedy = "write one, e.g. 169.254.20.10:8080";
            let found = quote(&second.text);
            context.wrong(second.place, &directive.name.text, &found, expected, remedy);
            None
        }
    }
}

/// `OPTION DURATION`.
pub(super) fn option_duration(
    context: &mut Context<'_>,
    line: &[Token],
    word: &str,
) -> Option<At<Duration>> {
    let (option, value) = match line {
        [option, value] => (option, value),
        [option, ..] => {
            let expected = format!("one duration behind {}", option.text);
            let remedy = format!("write it like {} 5s", option.text);
            let found = format!("{} words", line.len() - 1);
            context.wrong(option.place, word, &found, &expected, &remedy);
            return None;
        }
        [] => return None,
    };
    duration(context, value, word, &option.text)
}

/// A duration as Go writes it.
pub(super) fn duration(
    context: &mut Context<'_>,
    value: &Token,
    word: &str,
    of: &str,
) -> Option<At<Duration>> {
    let found = values::duration(&value.text);
    if found.is_none() {
        let expected = format!("a duration for {of}");
        let remedy = match values::number(&value.text) {
            Some(number) => format!("name the unit: {number}s, {number}ms or {number}m"),
            None => "write it like 500ms, 5s or 1h30m".to_owned(),
        };
        context.wrong(value.place, word, &quote(&value.text), &expected, &remedy);
    }
    found.map(|found| (found, value.place))
}

/// `OPTION NUMBER`.
pub(super) fn option_number(
    context: &mut Context<'_>,
    line: &[Token],
    word: &str,
) -> Option<At<u32>> {
    if let [_, value] = line
        && let Some(number) = values::number(&value.text)
    {
        return Some((number, value.place));
    }
    let option = line.first()?;
    let place = line.get(1).unwrap_or(option).place;
    let found = match line.get(1) {
        Some(value) => quote(&value.text),
        None => "nothing".to_owned(),
    };
    let expected = format!("one whole number behind {}", option.text);
    let remedy = format!("write it like {} 10", option.text);
    context.wrong(place, word, &found, &expected, &remedy);
    None
}

fn errors(context: &mut Context<'_>, directive: &Directive) {
    if let Some(first) = directive
        .arguments
        .first()
        .filter(|one| one.text != "stdout")
    {
        let remedy = "write errors alone";
        let found = quote(&first.text);
        context.wrong(first.place, "errors", &found, "stdout or nothing", remedy);
    }
    for line in &directive.lines {
        match line.as_slice() {
            [option, time, _expression, ..] if option.text == "consolidate" => {
                duration(context, time, "errors", "consolidate");
            }
            [option, ..] if option.text == "consolidate" => {
                let remedy = "write it like consolidate 5m \".*\"";
                let expected = "a duration and an expression behind consolidate";
                let found = format!("{} words", line.len() - 1);
                context.wrong(option.place, "errors", &found, expected, remedy);
            }
            _ => {}
        }
    }
}

fn log(context: &mut Context<'_>, directive: &Directive, entry: &Entry) {
    for word in directive.lines.iter().flat_map(|line| line.iter().skip(1)) {
        if !["all", "success", "denial", "error"].contains(&word.text.as_str()) {
            let remedy = "write one of these";
            let expected = "one of all, success, denial, error";
            context.wrong(word.place, "log", &quote(&word.text), expected, remedy);
        }
    }
    let doc = entry.doc.replace('`', "");
    let remedy = "read nodens_queries_total and its like, or set log.level: debug for a while";
    context.note(directive.name.place, "log", "log.level", doc, remedy);
}

fn reload(context: &mut Context<'_>, directive: &Directive) {
    for time in &directive.arguments {
        if time.text != "off" {
            duration(context, time, "reload", "reload");
        }
    }
}

fn loadbalance(context: &mut Context<'_>, directive: &Directive, read: &mut BlockRead) {
    match directive.arguments.first() {
        Some(policy) if policy.text != "round_robin" => {
            let remedy = "write loadbalance alone; addresses take turns";
            let found = quote(&policy.text);
            context.wrong(policy.place, "loadbalance", &found, "round_robin", remedy);
        }
        _ => read.rotate = Some(directive.name.place),
    }
    for line in &directive.lines {
        if let Some(option) = line.first().filter(|option| option.text == "prefer") {
            let message = "prefer has no effect: no subnet is preferred";
            context.note(option.place, "loadbalance", "zones", message, "remove it");
        }
    }
}

fn bufsize(context: &mut Context<'_>, directive: &Directive, read: &mut BlockRead) {
    let place = directive.name.place;
    match directive.arguments.as_slice() {
        [] => read.udp_size = Some((1232, place)),
        [size] => match values::number(&size.text).filter(|size| (512..=4096).contains(size)) {
            Some(number) => read.udp_size = Some((number, size.place)),
            None => {
                let expected = "a size from 512 to 4096";
                let remedy = "write bufsize 1232";
                context.wrong(size.place, "bufsize", &quote(&size.text), expected, remedy);
            }
        },
        [_, second, ..] => {
            let found = quote(&second.text);
            context.wrong(second.place, "bufsize", &found, "one number", "remove it");
        }
    }
}
