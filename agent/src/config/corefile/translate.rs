// SPDX-License-Identifier: Apache-2.0
//! From blocks to keys: what concerns several blocks is joined here, and what cannot be joined is
//! refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::cache::CAPACITY;
use super::context::Context;
use super::forward::Forward;
use super::kube_dns::Stub;
use super::listen::{self, Listening};
use super::plugins::{self, At, BlockRead};
use super::texts::Text;
use super::zones::{self, Draft, list, text};
use super::{expand, parser, values};
use crate::config::limits::{self, Limit};
use crate::config::text::{self as grammar, show_size, show_time};
use crate::config::yaml::{Node, Place, Value, quote};

/// Bytes that an entry of node-cache's capacity becomes: an answer with four addresses needs some
/// 200, one with an SOA and a long name 300.
pub(super) const BYTES_PER_ENTRY: u64 = 512;
const MIB: u64 = 1 << 20;

type Values = BTreeMap<&'static str, Node>;

/// Reads the Corefile and translates it. Where there are problems the values mean nothing.
pub(super) fn translate(context: &mut Context<'_>, stubs: &[Stub]) -> Values {
    let local_ips = local_ips(context);
    let file = context.node_cache.file.clone();
    let mut values = Values::new();
    let Some(tokens) = expand::read(context, &file) else {
        return values;
    };
    let blocks = parser::parse(context, tokens);
    if context.is_unfilled {
        return values;
    }
    let blocks: Vec<_> = blocks
        .iter()
        .map(|block| {
            let place = block.keys.first().map_or(Place::START, |key| key.place);
            (plugins::read(context, block), place)
        })
        .collect();
    if blocks.is_empty() {
        if context.problems.is_empty() {
            let remedy = "write one like `.:53 { forward . /etc/resolv.conf }`";
            let place = context.start;
            context.wrong(place, "", "no server block", "one at least", remedy);
        }
        return values;
    }
    port(context, &blocks, &mut values);
    let listening = listen::read(context, &blocks, &local_ips);
    put_listening(context, &listening, &mut values);
    admin(context, &blocks, &mut values);
    store(context, &blocks, &mut values);
    bounds(context, &blocks, &mut values);
    let drafts = zones::read(context, &blocks, stubs);
    if let Some(domain) = domain(&drafts) {
        values.insert("cluster.domain", text(domain));
    }
    let place = blocks.first().map_or(Place::START, |(_, place)| *place);
    let nodes = drafts.iter().map(Draft::node).collect();
    let value = Value::List(nodes);
    values.insert("zones", Node { place, value });
    values
}

/// The addresses of `-localip`.
fn local_ips(context: &mut Context<'_>) -> Vec<At<IpAddr>> {
    let all = context.node_cache.local_ips.clone();
    let flag = Text::Flag("-localip".to_owned());
    let before = context.texts.add(flag, 1);
    let place = Place {
        line: before + 1,
        column: 1,
    };
    let mut addresses = Vec::new();
    for one in all {
        match grammar::address(one.trim()) {
            Ok(address) => addresses.push((address, place)),
            Err(wrong) => {
                let expected = "addresses, separated by commas";
                context.wrong(place, "", &quote(&one), expected, &wrong.remedy);
            }
        }
    }
    addresses
}

/// One port for all blocks.
fn port(context: &mut Context<'_>, blocks: &[(BlockRead, Place)], values: &mut Values) {
    let mut ports = blocks.iter().flat_map(|(block, _)| &block.ports);
    let Some((first, place)) = ports.next() else {
        return;
    };
    for (port, other) in ports.filter(|(port, _)| port != first) {
        let line = context.texts.line(*place);
        let expected = format!("the port {first} that the block on line {line} has");
        let remedy = "write the same port in every block";
        let found = format!("the port {port}");
        context.wrong(*other, "", &found, &expected, remedy);
    }
    values.insert("listen.port", text(&(first.to_string(), *place)));
}

fn put_listening(context: &mut Context<'_>, listening: &Listening, values: &mut Values) {
    let show = |all: &[At<IpAddr>]| -> Vec<At<String>> {
        let show = |(address, place): &At<IpAddr>| (address.to_string(), *place);
        all.iter().map(show).collect()
    };
    let is_set_up = context.node_cache.sets_up && listening.has_work();
    if !listening.listen.is_empty() {
        let addresses = show(&listening.listen);
        values.insert("listen.addresses", list(&addresses, Place::START));
    } else if let Some((address, place)) = listening.captured.first() {
        let message = format!(
            "{address} is an address of the cluster, which is never put on the node: it is captured, and answered \
             at 169.254.20.10"
        );
        let remedy = "add the node-local address to bind";
        context.note(*place, "bind", "listen.addresses", message, remedy);
        let default = ("169.254.20.10".to_owned(), *place);
        values.insert("listen.addresses", list(&[default], *place));
    }
    if let Some((_, place)) = listening.captured.first() {
        if is_set_up {
            let addresses = show(&listening.captured);
            values.insert("cluster.dnsService", list(&addresses, *place));
        } else {
            let all = show(&listening.captured);
            let all: Vec<_> = all.iter().map(|(address, _)| address.as_str()).collect();
            let message = format!(
                "{} is not answered by itself: with -setupinterface=false and -setupiptables=false somebody else brings \
                 its queries here",
                all.join(", ")
            );
            let remedy = "nothing need be done where that is so";
            context.note(*place, "bind", "cluster.dnsService", message, remedy);
        }
    }
    let place = listening
        .listen
        .first()
        .or_else(|| listening.captured.first());
    let place = place.map_or(Place::START, |(_, place)| *place);
    values.insert("intercept.enabled", text(&(is_set_up.to_string(), place)));
    if is_set_up && context.node_cache.sweeps {
        values.insert("intercept.sweep", text(&("true".to_owned(), place)));
    }
    if let Some(interface) = &context.node_cache.interface {
        values.insert("intercept.interface", text(&(interface.clone(), place)));
    }
    if is_set_up && falls_back(context, listening) {
        let variable = format!("env:{}", context.node_cache.upstream_variable());
        values.insert("intercept.fallback", text(&(variable, place)));
    }
}

/// Whether the upstream Service can answer at the node-local address while no agent does: during a
/// roll as well, in which node-cache leaves that address to nobody.
fn falls_back(context: &Context<'_>, listening: &Listening) -> bool {
    let variable = context.node_cache.upstream_variable();
    let upstream = context.environment.get(&variable);
    let Some(upstream) = upstream.and_then(|text| text.parse::<IpAddr>().ok()) else {
        return false;
    };
    let is_ours = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_link_local() && upstream.is_ipv4(),
        IpAddr::V6(v6) => v6.is_unique_local() && upstream.is_ipv6(),
    };
    let listen: BTreeSet<_> = listening.listen.iter().map(|(ip, _)| *ip).collect();
    let is_captured = listening.captured.iter().any(|(ip, _)| *ip == upstream);
    // Answers of one Service cannot tell which of several addresses was asked.
    let ours = listen.iter().filter(|ip| is_ours(ip)).count();
    ours == 1 && !is_captured && !listen.contains(&upstream)
}

/// Health, metrics, and what answers beside them.
fn admin(context: &mut Context<'_>, blocks: &[(BlockRead, Place)], values: &mut Values) {
    let mut also: Vec<At<String>> = Vec::new();
    // Blocks may name several: all pages answer at the others, too.
    let mut first = |word: &'static str, of: fn(&BlockRead) -> Option<&At<String>>| {
        let mut first: Option<At<String>> = None;
        for (written, place) in blocks.iter().filter_map(|(block, _)| of(block)) {
            let Some(socket) = values::listen(written) else {
                let remedy = "write it like 169.254.20.10:8080, or :8080 for all addresses";
                let expected = "an address with a port";
                context.wrong(*place, word, &quote(written), expected, remedy);
                continue;
            };
            let socket = (socket.to_string(), *place);
            match &first {
                Some(first) if first.0 != socket.0 => also.push(socket),
                Some(_) => {}
                None => first = Some(socket),
            }
        }
        first
    };
    let health = first("health", |block| block.health.as_ref());
    let metrics = first("prometheus", |block| block.prometheus.as_ref());
    let ready = first("ready", |block| block.ready.as_ref());
    also.extend(ready);
    if let Some(setup) = context.node_cache.metrics.clone() {
        let flag = Text::Flag("-metrics-listen-address".to_owned());
        let line = context.texts.add(flag, 1) + 1;
        let place = Place { line, column: 1 };
        match values::listen(&setup) {
            Some(socket) => also.push((socket.to_string(), place)),
            None => {
                let remedy = "write it like 0.0.0.0:9353";
                context.wrong(place, "", &quote(&setup), "an address with a port", remedy);
            }
        }
    }
    let taken = [&health, &metrics].map(|one| one.as_ref().map(|(socket, _)| socket.clone()));
    also.retain(|(socket, _)| !taken.contains(&Some(socket.clone())));
    let mut known = BTreeSet::new();
    also.retain(|(socket, _)| known.insert(socket.clone()));
    if let Some((_, place)) = also.first() {
        values.insert("admin.also", list(&also, *place));
    }
    if let Some((_, place)) = &metrics {
        // Whoever has a Corefile has dashboards of CoreDNS.
        values.insert("admin.corednsNames", text(&("true".to_owned(), *place)));
    }
    for (path, socket) in [("admin.health", health), ("admin.metrics", metrics)] {
        if let Some(socket) = socket {
            values.insert(path, text(&socket));
        }
    }
}

/// The answer store.
fn store(context: &mut Context<'_>, blocks: &[(BlockRead, Place)], values: &mut Values) {
    let caches = || blocks.iter().filter_map(|(block, _)| block.cache.as_ref());
    let written = caches().find_map(|cache| cache.capacity_place);
    if let Some(place) = written {
        let entries: u64 = caches().map(|cache| cache.capacity).sum();
        let bytes = entries.saturating_mul(BYTES_PER_ENTRY);
        let bytes = bytes.div_ceil(MIB).saturating_mul(MIB);
        let Limit { min, max, .. } = limits::CACHE_SIZE;
        let bytes = show_size(bytes.clamp(min, max));
        let message = format!(
            "the capacities of all blocks are {entries} entries together ({CAPACITY} where none is written), and \
             become one budget of {bytes}: {BYTES_PER_ENTRY} bytes an entry"
        );
        let remedy = "nothing need be done; --cache-size sets another budget";
        context.note(place, "cache", "cache.size", message, remedy);
        values.insert("cache.size", text(&(bytes, place)));
    }
    let prefetch: Vec<_> = caches().filter_map(|cache| cache.prefetch).collect();
    if let Some((_, place)) = prefetch.first() {
        let on = prefetch.iter().any(|(on, _)| *on);
        values.insert("cache.prefetch", text(&(on.to_string(), *place)));
    }
    let stale = caches().filter_map(|cache| cache.stale_for).max();
    time(
        context,
        values,
        "cache.staleFor",
        limits::STALE_FOR,
        stale,
        "cache",
    );
}

/// Puts a duration within the bounds of its key, and says so where it was outside.
fn time(
    context: &mut Context<'_>,
    values: &mut Values,
    path: &'static str,
    limit: Limit<Duration>,
    value: Option<At<Duration>>,
    word: &str,
) {
    let Some((value, place)) = value else {
        return;
    };
    let clamped = value.clamp(limit.min, limit.max);
    if clamped != value {
        let message = format!(
            "{} becomes {}, the bound of {path}",
            show_time(value),
            show_time(clamped)
        );
        context.note(place, word, path, message, "write that");
    }
    values.insert(path, text(&(show_time(clamped), place)));
}

/// Bounds on work and time.
fn bounds(context: &mut Context<'_>, blocks: &[(BlockRead, Place)], values: &mut Values) {
    let forwards = || blocks.iter().flat_map(|(block, _)| &block.forwards);
    let expire = forwards().filter_map(|forward| forward.expire).min();
    let path = "limits.upstreamIdle";
    time(
        context,
        values,
        path,
        limits::UPSTREAM_IDLE,
        expire,
        "forward",
    );
    let read = forwards().filter_map(|forward| forward.read_timeout).max();
    let limit = Limit {
        min: limits::CONNECT_TIMEOUT.default,
        max: limits::QUERY_TIMEOUT.default,
        ..limits::ATTEMPT_TIMEOUT
    };
    time(
        context,
        values,
        "limits.attemptTimeout",
        limit,
        read,
        "forward",
    );
    let lameduck = blocks.iter().filter_map(|(block, _)| block.lameduck).max();
    let lameduck = lameduck.filter(|(time, _)| *time > limits::DRAIN_TIMEOUT.default);
    let path = "limits.drainTimeout";
    time(
        context,
        values,
        path,
        limits::DRAIN_TIMEOUT,
        lameduck,
        "health",
    );
    let idle = blocks.iter().filter_map(|(block, _)| block.tcp_idle).max();
    let path = "listen.tcpIdle";
    time(context, values, path, limits::TCP_IDLE, idle, "timeouts");
    let size = blocks.iter().filter_map(|(block, _)| block.udp_size).min();
    if let Some((size, place)) = size {
        values.insert("listen.udpSize", text(&(size.to_string(), place)));
    }
    let is_bounded = |forward: &&Forward| forward.max_concurrent.is_some_and(|(most, _)| most > 0);
    let numbers = forwards().filter(is_bounded);
    let numbers: Vec<_> = numbers
        .filter_map(|forward| forward.max_concurrent)
        .collect();
    let Some((_, place)) = numbers.first() else {
        return;
    };
    let sum: u64 = numbers.iter().map(|(most, _)| u64::from(*most)).sum();
    let mut most = sum.clamp(limits::IN_FLIGHT.min, limits::IN_FLIGHT.max);
    let mut why = "for all zones together";
    if !forwards().all(|forward| is_bounded(&forward)) && most < limits::IN_FLIGHT.default {
        // The zones that have no bound must not get that of the others.
        most = limits::IN_FLIGHT.default;
        why = "for all zones together, as those without max_concurrent have no bound";
    }
    values.insert("limits.inFlight", text(&(most.to_string(), *place)));
    let message = format!(
        "{most} misses may be under way at one time, {why}; above that clients get a stale answer or SERVFAIL in place \
         of REFUSED"
    );
    let remedy = "nothing need be done";
    context.note(*place, "forward", "limits.inFlight", message, remedy);
}

/// The cluster's domain, as far as it can be told: `cluster.local` where it is a zone, else the first
/// zone whose servers are those that reverse names have.
fn domain(drafts: &[Draft]) -> Option<&At<String>> {
    let is_reverse = |draft: &&Draft| draft.name.0.ends_with(".arpa");
    let servers = |draft: &Draft| {
        let forward = draft.forward.as_ref()?;
        let servers = forward.servers.iter().map(|(server, _)| server.clone());
        Some(servers.collect::<Vec<_>>()).filter(|servers| !servers.is_empty())
    };
    let candidates = || {
        let all = drafts.iter();
        all.filter(|draft| draft.name.0 != "." && !is_reverse(draft))
    };
    let by_custom = candidates().find(|draft| draft.name.0 == "cluster.local");
    let reverse = drafts.iter().find(is_reverse).and_then(servers);
    let by_servers = || {
        let reverse = reverse?;
        candidates().find(|draft| servers(draft).as_ref() == Some(&reverse))
    };
    by_custom.or_else(by_servers).map(|draft| &draft.name)
}
