// SPDX-License-Identifier: Apache-2.0
//! The directive `forward` (CoreDNS plugin/forward/setup.go).

use std::time::Duration;

use super::context::Context;
use super::directives;
use super::lexer::Token;
use super::parser::Directive;
use super::plugins::{At, duration, no_arguments, option_duration, option_number};
use super::values;
use crate::config::limits;
use crate::config::nearest::nearest;
use crate::config::text;
use crate::config::yaml::{Place, quote};

const WORD: &str = "forward";

/// What one `forward` says.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    pub(super) place: Place,
    pub(super) from: String,
    pub(super) except: Vec<At<String>>,
    /// Servers, in the form of the configuration.
    pub(super) servers: Vec<At<String>>,
    /// The file that has them instead.
    pub(super) file: Option<At<String>>,
    pub(super) transport: At<&'static str>,
    pub(super) server_name: Option<At<String>>,
    pub(super) ca_file: Option<At<String>>,
    pub(super) expire: Option<At<Duration>>,
    pub(super) read_timeout: Option<At<Duration>>,
    pub(super) max_concurrent: Option<At<u32>>,
    /// The servers are asked in their order.
    pub(super) in_order: Option<Place>,
}

impl Forward {
    /// One to no server yet.
    pub(super) fn new(place: Place, from: String) -> Self {
        Self {
            place,
            from,
            except: Vec::new(),
            servers: Vec::new(),
            file: None,
            transport: ("udp", place),
            server_name: None,
            ca_file: None,
            expire: None,
            read_timeout: None,
            max_concurrent: None,
            in_order: None,
        }
    }
}

/// Reads it; `None` where nothing can be forwarded.
pub(super) fn read(context: &mut Context<'_>, directive: &Directive) -> Option<Forward> {
    let place = directive.name.place;
    let [from, servers @ ..] = directive.arguments.as_slice() else {
        let remedy = "write it like forward . 10.96.0.10";
        context.wrong(
            place,
            WORD,
            "nothing",
            "FROM and the servers to ask",
            remedy,
        );
        return None;
    };
    let zone = match values::zones(&from.text) {
        Ok(mut zones) => zones.drain(..).next()?,
        Err(remedy) => {
            let expected = "the zone to forward, e.g. .";
            context.wrong(from.place, WORD, &quote(&from.text), expected, &remedy);
            return None;
        }
    };
    if servers.is_empty() {
        let remedy = "add the servers' addresses, or a file like /etc/resolv.conf";
        let expected = "the servers to ask behind the zone";
        context.wrong(from.place, WORD, "nothing", expected, remedy);
        return None;
    }
    let mut forward = Forward::new(place, zone);
    let mut of_tls = Vec::new();
    for server in servers {
        let is_tls = one(context, server, &mut forward)?;
        of_tls.push((is_tls, server));
    }
    if let (Some((path, _)), true) = (&forward.file, servers.len() > 1) {
        let remedy = "name the file alone, or the servers alone";
        let found = format!("{} and other servers", quote(path));
        context.wrong(place, WORD, &found, "one of the two", remedy);
        return None;
    }
    let first = of_tls.first().is_some_and(|(is_tls, _)| *is_tls);
    if let Some((_, other)) = of_tls.iter().find(|(is_tls, _)| *is_tls != first) {
        let remedy = "write a forward for each kind, with zones of its own";
        let expected = "all servers of one line with tls:// or none";
        context.wrong(other.place, WORD, &quote(&other.text), expected, remedy);
        return None;
    }
    options(context, directive, &mut forward);
    without_tcp(context, &mut forward);
    if first {
        forward.transport = ("tls", servers.first()?.place);
    } else {
        let of_tls = [forward.server_name.take(), forward.ca_file.take()];
        let Some((_, place)) = of_tls.into_iter().flatten().next() else {
            return Some(forward);
        };
        let message = "tls has no effect: no server is written with tls://";
        let remedy = "write the servers as tls://ADDRESS, or remove it";
        context.note(place, WORD, "zones", message, remedy);
    }
    Some(forward)
}

/// node-cache takes `force_tcp` away where the servers are those of the ConfigMap of kube-dns: they need
/// not be ones that speak TCP.
fn without_tcp(context: &mut Context<'_>, forward: &mut Forward) {
    let named = &context.node_cache.upstream_nameservers;
    let servers = forward.servers.iter().map(|(server, _)| server);
    if forward.transport.0 != "tcp" || named.is_empty() || !servers.eq(named) {
        return;
    }
    let place = forward.transport.1;
    forward.transport = ("udp", place);
    let message = "force_tcp does not count for upstreamNameservers of the ConfigMap of kube-dns, as in node-cache: \
                   TCP is for what is truncated";
    context.note(place, WORD, "zones", message, "nothing need be done");
}

/// Reads one server; returns whether it is spoken to over TLS. `None` where it is wrong.
fn one(context: &mut Context<'_>, server: &Token, forward: &mut Forward) -> Option<bool> {
    let whole = server.text.as_str();
    let (scheme, address) = whole.split_once("://").unwrap_or(("", whole));
    let is_tls = match scheme {
        "" | "dns" => false,
        "tls" => true,
        _ => {
            let remedy = "write the address alone, dns:// or tls:// in front of it";
            let expected = "a server over DNS or TLS";
            context.wrong(server.place, WORD, &quote(whole), expected, remedy);
            return None;
        }
    };
    let (address, name) = match address.split_once('%') {
        // `tls://1.1.1.1%cloudflare-dns.com:853`, `tls://[v6]%name:853`
        Some((address, rest)) if is_tls => {
            let (name, port) = match rest.rsplit_once(':') {
                Some((name, port)) => (name, format!(":{port}")),
                None => (rest, String::new()),
            };
            (format!("{address}{port}"), Some(name.to_owned()))
        }
        _ => (address.to_owned(), None),
    };
    if let Some(name) = name {
        if let Some((other, _)) = forward
            .server_name
            .as_ref()
            .filter(|(other, _)| *other != name)
        {
            let expected = format!("the same name for all servers of one line, {other}");
            let remedy = "write a forward for each name, with zones of its own";
            context.wrong(server.place, WORD, &quote(&name), &expected, remedy);
            return None;
        }
        forward.server_name = Some((name, server.place));
    }
    if values::is_server(&address) {
        forward.servers.push((address, server.place));
        return Some(is_tls);
    }
    if scheme.is_empty() && (address.starts_with('/') || address.contains(".conf")) {
        forward.file = Some((address, server.place));
        return Some(false);
    }
    let remedy = match text::upstream(&address, limits::UPSTREAM_PORT) {
        Err(wrong) => wrong.remedy,
        Ok(_) => String::new(),
    };
    let expected = "a server's address, or the path of a file like /etc/resolv.conf";
    context.wrong(server.place, WORD, &quote(whole), expected, &remedy);
    None
}

fn options(context: &mut Context<'_>, directive: &Directive, forward: &mut Forward) {
    let mut forces_tcp = false;
    let mut has_expire_or_more = [None, None];
    for line in &directive.lines {
        let Some((option, values)) = line.split_first() else {
            continue;
        };
        match option.text.as_str() {
            "except" => except(context, option, values, forward),
            "force_tcp" => {
                none(context, values, option);
                forces_tcp = true;
                forward.transport = ("tcp", option.place);
            }
            "prefer_udp" => {
                none(context, values, option);
                if forces_tcp {
                    let message = "prefer_udp has no effect beside force_tcp";
                    context.note(
                        option.place,
                        WORD,
                        "zones",
                        message,
                        "remove one of the two",
                    );
                } else {
                    forward.transport = ("udp", option.place);
                }
            }
            "expire" => has_expire_or_more[0] = option_duration(context, line, WORD),
            "read_timeout" => has_expire_or_more[1] = option_duration(context, line, WORD),
            "max_age" => {
                option_duration(context, line, WORD);
                own(context, option);
            }
            "max_concurrent" => forward.max_concurrent = option_number(context, line, WORD),
            "max_fails" | "max_connect_attempts" | "max_idle_conns" => {
                option_number(context, line, WORD);
                own(context, option);
            }
            "failfast_all_unhealthy_upstreams" => none(context, values, option),
            "health_check" => {
                health_check(context, option, values);
                own(context, option);
            }
            "policy" => policy(context, option, values, forward),
            "tls" => tls(context, option, values, forward),
            "tls_servername" => match values {
                [name] => forward.server_name = Some((name.text.clone(), name.place)),
                _ => {
                    let remedy = "write it like tls_servername dns.example.org";
                    let expected = "one name behind tls_servername";
                    let found = values.len().to_string();
                    context.wrong(option.place, WORD, &found, expected, remedy);
                }
            },
            "failover" => failover(context, option, values),
            _ => {}
        }
    }
    [forward.expire, forward.read_timeout] = has_expire_or_more;
}

/// Notes an option whose part nodens plays in its own way, in the words of the table.
fn own(context: &mut Context<'_>, option: &Token) {
    let entry = directives::find(WORD).and_then(|forward| forward.option(&option.text));
    let doc = entry.map_or(String::new(), |entry| entry.doc.replace('`', ""));
    let message = format!("{} has no effect: {doc}", option.text);
    context.note(option.place, WORD, "zones", message, "remove it");
}

fn none(context: &mut Context<'_>, values: &[Token], option: &Token) {
    no_arguments(
        context,
        &Directive {
            name: option.clone(),
            arguments: values.to_vec(),
            lines: Vec::new(),
        },
    );
}

fn except(context: &mut Context<'_>, option: &Token, values: &[Token], forward: &mut Forward) {
    if values.is_empty() {
        let remedy = "write it like except example.org";
        context.wrong(option.place, WORD, "nothing", "names behind except", remedy);
    }
    for value in values {
        match values::own_zones(&value.text) {
            Ok(zones) => {
                let zones = zones.into_iter().map(|zone| (zone, value.place));
                forward.except.extend(zones);
            }
            Err(remedy) => {
                let found = quote(&value.text);
                context.wrong(value.place, WORD, &found, "a name", &remedy);
            }
        }
    }
}

fn health_check(context: &mut Context<'_>, option: &Token, values: &[Token]) {
    let Some((time, mut rest)) = values.split_first() else {
        let remedy = "write it like health_check 5s";
        context.wrong(
            option.place,
            WORD,
            "nothing",
            "a duration behind it",
            remedy,
        );
        return;
    };
    duration(context, time, WORD, "health_check");
    while let Some((word, behind)) = rest.split_first() {
        rest = match (word.text.as_str(), behind) {
            ("no_rec", _) => behind,
            ("domain", [_, behind @ ..]) => behind,
            _ => {
                let remedy = "write it like health_check 5s no_rec domain example.org";
                let found = quote(&word.text);
                context.wrong(word.place, WORD, &found, "no_rec or domain NAME", remedy);
                return;
            }
        };
    }
}

fn policy(context: &mut Context<'_>, option: &Token, values: &[Token], forward: &mut Forward) {
    const POLICIES: [&str; 3] = ["random", "round_robin", "sequential"];
    match values {
        [policy] if policy.text == "sequential" => {
            forward.in_order = Some(policy.place);
        }
        [policy] if POLICIES.contains(&policy.text.as_str()) => {}
        _ => {
            let found = values
                .first()
                .map_or_else(|| "nothing".to_owned(), |one| quote(&one.text));
            let place = values.first().unwrap_or(option).place;
            let near = values
                .first()
                .and_then(|one| nearest(&one.text, POLICIES.into_iter()));
            let remedy = match near {
                Some(near) => format!("did you mean {near}?"),
                None => "write one of these".to_owned(),
            };
            let expected = "one of random, round_robin, sequential";
            context.wrong(place, WORD, &found, expected, &remedy);
        }
    }
}

/// `tls [CERT KEY] [CA]`.
fn tls(context: &mut Context<'_>, option: &Token, values: &[Token], forward: &mut Forward) {
    match values {
        [] => {}
        [ca] => forward.ca_file = Some((ca.text.clone(), ca.place)),
        _ => {
            let remedy = "write tls alone, or tls with the file of the authorities";
            let expected = "no certificate of our own: servers are not shown one";
            context.wrong(option.place, WORD, "CERT and KEY", expected, remedy);
        }
    }
}

fn failover(context: &mut Context<'_>, option: &Token, values: &[Token]) {
    if values.is_empty() {
        let remedy = "write it like failover SERVFAIL REFUSED";
        context.wrong(option.place, WORD, "nothing", "response codes", remedy);
    }
    for code in values {
        let upper = code.text.to_ascii_uppercase();
        if !["SERVFAIL", "REFUSED", "NOTIMP"].contains(&upper.as_str()) {
            let expected = "SERVFAIL, REFUSED or NOTIMP, which always go to another server";
            let remedy = "remove it: other answers are an upstream's word";
            context.wrong(code.place, WORD, &quote(&code.text), expected, remedy);
        }
    }
}
