// SPDX-License-Identifier: Apache-2.0
//! Zones out of blocks: a block's zones, and within them those that a `forward`, an `except` or a
//! `cache` makes different.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cache::CacheRead;
use super::context::Context;
use super::forward::Forward;
use super::kube_dns::Stub;
use super::plugins::{At, BlockRead};
use super::stages::{self, Names, Stage, Step};
use super::values::encloses;
use crate::config::limits;
use crate::config::text::show_time;
use crate::config::yaml::{Entry, Node, Place, Value, quote};

/// TTL of the answers of stub domains, positive and negative: node-cache writes `cache 30`.
const STUB_TTL: u32 = 30;

/// Names behind `forward` and `except` in one block: those that are in its zones become zones of their
/// own, of which there are fewer.
const MAX_NAMED: usize = 1000;

/// A zone in the making.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: At<String>,
    pub(super) forward: Option<Forward>,
    max_ttl: At<u32>,
    max_negative_ttl: At<u32>,
    least_ttls: [Option<At<u32>>; 2],
    max_failure_ttl: Option<At<u32>>,
    stale_after: Option<At<Duration>>,
    rotate: Option<Place>,
    rewrites: Vec<At<String>>,
    dns64: Option<At<String>>,
    answers: Vec<At<String>>,
}

/// All zones of all blocks, those of stub domains behind them.
pub(super) fn read(
    context: &mut Context<'_>,
    blocks: &[(BlockRead, Place)],
    stubs: &[Stub],
) -> Vec<Draft> {
    let own: BTreeSet<&str> = blocks
        .iter()
        .flat_map(|(block, _)| block.zones.iter().map(|(zone, _)| zone.as_str()))
        .chain(stubs.iter().map(|stub| stub.name.0.as_str()))
        .collect();
    let mut drafts = Vec::new();
    for (block, place) in blocks {
        let named = block.forwards.iter();
        let named: usize = named.map(|forward| 1 + forward.except.len()).sum();
        if named > MAX_NAMED {
            let place = block
                .forwards
                .last()
                .map_or(*place, |forward| forward.place);
            let found = format!("{named} names behind forward and except");
            let expected = format!("at most {MAX_NAMED} in a block");
            let remedy =
                "name the zones above them, or leave out those that the block does not have";
            context.wrong(place, "forward", &found, &expected, remedy);
            return drafts;
        }
        for zone in &block.zones {
            // There are more than may be: how many is of no interest.
            if drafts.len() <= limits::MAX_ZONES && !context.is_too_much {
                of_block(context, block, zone, &own, &mut drafts);
            }
        }
        unused(context, block);
        untranslated(context, block);
    }
    for stub in stubs.iter().take(limits::MAX_ZONES + 1) {
        let place = stub.name.1;
        drafts.push(Draft {
            forward: Some(Forward {
                servers: stub.servers.clone(),
                ..Forward::new(place, ".".to_owned())
            }),
            max_ttl: (STUB_TTL, place),
            max_negative_ttl: (STUB_TTL, place),
            ..Draft::new(stub.name.clone())
        });
    }
    if !own.contains(".") && !drafts.is_empty() {
        let place = blocks.first().map_or(Place::START, |(_, place)| *place);
        let message =
            "there is no block for `.`: names outside the blocks' zones get REFUSED, as in CoreDNS";
        let remedy =
            "add a block like `.:53 { forward . /etc/resolv.conf }` where they should be answered";
        context.note(place, "", "zones", message, remedy);
        let answers = ["ANY . REFUSED", "ANY * REFUSED"];
        drafts.push(Draft {
            answers: answers.map(|line| (line.to_owned(), place)).to_vec(),
            ..Draft::new((".".to_owned(), place))
        });
    }
    drafts
}

/// The zone of a block, and the zones within it that are served in another way. `own` are the zones
/// of all blocks: their names never reach this one.
fn of_block(
    context: &mut Context<'_>,
    block: &BlockRead,
    zone: &At<String>,
    own: &BTreeSet<&str>,
    drafts: &mut Vec<Draft>,
) {
    let mut names: Vec<At<String>> = vec![zone.clone()];
    let mut known = BTreeSet::from([zone.0.clone()]);
    let of_cache = block.cache.iter().flat_map(|cache| {
        let all = cache.zones.iter().chain(&cache.no_success);
        all.chain(&cache.no_denial).cloned()
    });
    let of_forward = block.forwards.iter().flat_map(|forward| {
        let from = (forward.from.clone(), forward.place);
        std::iter::once(from).chain(forward.except.iter().cloned())
    });
    for (name, place) in of_forward.chain(of_cache) {
        let is_below = encloses(&zone.0, &name) && !own.contains(name.as_str());
        if is_below && known.insert(name.clone()) {
            names.push((name, place));
        }
        if names.len() > limits::MAX_ZONES {
            break;
        }
    }
    let zones: Vec<String> = names.iter().map(|(name, _)| name.clone()).collect();
    for name in names {
        for rule in block.rewrites.iter().take(limits::MAX_REWRITES) {
            goes_another_way(context, block, &zones, &name.0, rule);
        }
        let forward = takes(block, &name.0).and_then(|index| block.forwards.get(index).cloned());
        // A name may be any other when it comes to the rules.
        let scope = match block.rewrites.as_slice() {
            [] => name.0.as_str(),
            _ => ".",
        };
        let mut last = Stage::new();
        if forward.is_none() {
            let rcode = match block.whoami {
                Some(place) => {
                    let message = "whoami tells nothing: its names get NOERROR without a record";
                    context.note(place, "whoami", "zones", message, "nothing need be done");
                    "NOERROR"
                }
                None => {
                    let message = format!("no forward takes {}: its names get SERVFAIL", name.0);
                    let remedy = "add a forward for them";
                    context.note(name.1, "forward", "zones", message, remedy);
                    "SERVFAIL"
                }
            };
            let names = Names {
                kind: "ANY".to_owned(),
                zone: scope.to_owned(),
                place: name.1,
            };
            last.push(Step::End(names, rcode));
        }
        let stages = block.templates.iter().chain(&block.hosts);
        let stages: Vec<&Stage> = stages.chain([&last]).collect();
        let Some(answers) = stages::lines(&mut context.budget, &stages, scope) else {
            let place = name.1;
            return context.too_many_answers(place, "");
        };
        let cache = block.cache.as_ref();
        let [max_ttl, max_negative_ttl] = lifetimes(cache, &name);
        drafts.push(Draft {
            forward,
            max_ttl,
            max_negative_ttl,
            least_ttls: cache.map_or([None; 2], |cache| cache.least_ttls),
            max_failure_ttl: cache.and_then(|cache| cache.max_failure_ttl),
            stale_after: cache.and_then(|cache| cache.stale_after),
            rotate: block.rotate,
            rewrites: block.rewrites.clone(),
            dns64: block.dns64.clone(),
            answers,
            name,
        });
    }
}

/// The `forward` of a block that takes a name, by its index.
fn takes(block: &BlockRead, name: &str) -> Option<usize> {
    let takes = |forward: &Forward| {
        let mut except = forward.except.iter();
        encloses(&forward.from, name) && !except.any(|(one, _)| encloses(one, name))
    };
    block.forwards.iter().position(takes)
}

/// Refuses a `rewrite` of names of a zone to others that another `forward` of the block takes, or may
/// take: which servers are asked is settled by the name that a client asks for. `zones` are those that
/// the block's names are parted into.
fn goes_another_way(
    context: &mut Context<'_>,
    block: &BlockRead,
    zones: &[String],
    zone: &str,
    (rule, place): &At<String>,
) {
    let lower = rule.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(' ').collect();
    let [part, from, to] = words.as_slice() else {
        return;
    };
    let [from, to] = [from, to].map(|name| name.strip_suffix('.').unwrap_or(name));
    // All names that end in this, or a zone that has them.
    let end = |text: &str| match text.strip_prefix('.') {
        Some(zone) => zone.to_owned(),
        None => text
            .split_once('.')
            .map_or(".", |(_, above)| above)
            .to_owned(),
    };
    let is_one_forward = matches!(block.forwards.as_slice(), [forward] if forward.except.is_empty() && encloses(&forward.from, zone));
    let takes_all = block.forwards.iter().all(|forward| forward.from == ".");
    let (old, new, is_one) = match *part {
        "exact" => (from.to_owned(), to.to_owned(), true),
        "suffix" => (end(from), end(to), false),
        "prefix" if eats_into(&format!("{from}."), zone) => (".".to_owned(), ".".to_owned(), false),
        // The end of the name stays.
        "prefix" => (".".to_owned(), zone.to_owned(), false),
        // Whatever it gives, there is one who may have it. It ends with a label: without a dot before, it
        // ends in front of the zone or lies in it.
        "substring"
            if is_one_forward
                && (takes_all
                    || !from.contains('.')
                        && !format!("{zone}.").contains(&format!("{from}."))) =>
        {
            return;
        }
        _ => (".".to_owned(), ".".to_owned(), false),
    };
    let is_about = match is_one {
        true => {
            let mut below = zones.iter().filter(|one| encloses(zone, one));
            encloses(zone, &old) && !below.any(|one| one != zone && encloses(one, &old))
        }
        false => encloses(zone, &old) || encloses(&old, zone),
    };
    let mut bounds = block.forwards.iter().flat_map(|forward| {
        let except = forward.except.iter().map(|(name, _)| name.as_str());
        except.chain([forward.from.as_str()])
    });
    let parts = |one: &str| one != new && encloses(&new, one);
    let is_parted = !is_one && bounds.any(parts);
    if is_about && (is_parted || takes(block, &new) != takes(block, zone)) {
        let found = format!(
            "{}, whose new names another forward of the block may take",
            quote(rule)
        );
        let expected = format!("names that the servers of {zone} are asked for, too");
        let remedy = "have one forward take both, or keep it in the cluster's CoreDNS";
        context.wrong(*place, "rewrite", &found, &expected, remedy);
    }
}

/// Whether the beginning of a name, whole labels, may be more than what is in front of its zone.
fn eats_into(beginning: &str, zone: &str) -> bool {
    let zone = format!("{zone}.");
    let splits = beginning.match_indices('.').map(|(at, _)| at + 1);
    let mut rests = [0].into_iter().chain(splits);
    zone != ".."
        && rests.any(|at| {
            let rest = beginning.get(at..).unwrap_or_default();
            !rest.is_empty() && zone.starts_with(rest)
        })
}

/// Notes where a `forward` of a block is for names that never come to it.
fn unused(context: &mut Context<'_>, block: &BlockRead) {
    for forward in &block.forwards {
        let from = &forward.from;
        let mut zones = block.zones.iter();
        if !zones.any(|(zone, _)| encloses(from, zone) || encloses(zone, from)) {
            let message = format!("no name of {from} comes to this block: the line has no effect");
            let remedy = "write the zone of the block, or .";
            context.note(forward.place, "forward", "zones", message, remedy);
        }
    }
}

/// Notes where answers of a block are not translated as CoreDNS would.
fn untranslated(context: &mut Context<'_>, block: &BlockRead) {
    if let (Some((_, place)), false) = (&block.dns64, block.templates.is_empty()) {
        let message = "where template answers AAAA without an address, one is made out of an address that template or hosts \
                       has, and not out of one of the servers'";
        let remedy = "nothing need be done where template leaves AAAA alone";
        context.note(*place, "dns64", "zones", message, remedy);
    }
}

/// Longest lifetimes, positive and negative.
fn lifetimes(cache: Option<&CacheRead>, name: &At<String>) -> [At<u32>; 2] {
    let Some(cache) = cache else {
        return [(0, name.1); 2];
    };
    let takes = |zones: &[At<String>]| zones.iter().any(|(zone, _)| encloses(zone, &name.0));
    if !cache.zones.is_empty() && !takes(&cache.zones) {
        return [(0, cache.place); 2];
    }
    let of = |ttl: At<u32>, disabled: &[At<String>]| match takes(disabled) {
        true => (0, cache.place),
        false => ttl,
    };
    [
        of(cache.max_ttl, &cache.no_success),
        of(cache.max_negative_ttl, &cache.no_denial),
    ]
}

impl Draft {
    /// One that asks nobody and keeps nothing.
    fn new(name: At<String>) -> Self {
        let place = name.1;
        Self {
            name,
            forward: None,
            max_ttl: (0, place),
            max_negative_ttl: (0, place),
            least_ttls: [None; 2],
            max_failure_ttl: None,
            stale_after: None,
            rotate: None,
            rewrites: Vec::new(),
            dns64: None,
            answers: Vec::new(),
        }
    }

    /// The zone as an item of the key `zones`.
    pub(super) fn node(&self) -> Node {
        let place = self.name.1;
        let mut entries = vec![entry("name", text(&self.name))];
        if let Some(forward) = &self.forward {
            match &forward.file {
                Some(file) => entries.push(entry("resolv.conf", text(file))),
                None => entries.push(entry("upstreams", list(&forward.servers, forward.place))),
            }
            let (transport, place) = forward.transport;
            entries.push(entry("transport", text(&(transport.to_owned(), place))));
            if let Some(place) = forward.in_order {
                entries.push(entry("order", text(&("written".to_owned(), place))));
            }
            let of_tls = [
                ("serverName", &forward.server_name),
                ("caFile", &forward.ca_file),
            ];
            for (key, value) in of_tls {
                if let Some(value) = value {
                    entries.push(entry(key, text(value)));
                }
            }
        }
        let lifetimes = [
            ("maxTtl", self.max_ttl),
            ("maxNegativeTtl", self.max_negative_ttl),
        ];
        for (key, (seconds, place)) in lifetimes {
            entries.push(entry(key, text(&(format!("{seconds}s"), place))));
        }
        let [least, least_negative] = self.least_ttls;
        let further = [
            ("minTtl", least),
            ("minNegativeTtl", least_negative),
            ("maxFailureTtl", self.max_failure_ttl),
        ];
        for (key, value) in further {
            if let Some((seconds, place)) = value {
                entries.push(entry(key, text(&(format!("{seconds}s"), place))));
            }
        }
        if let Some((time, place)) = self.stale_after {
            entries.push(entry("staleAfter", text(&(show_time(time), place))));
        }
        if let Some(place) = self.rotate {
            entries.push(entry("rotate", text(&("true".to_owned(), place))));
        }
        if !self.rewrites.is_empty() {
            entries.push(entry("rewrites", list(&self.rewrites, place)));
        }
        if let Some(dns64) = &self.dns64 {
            entries.push(entry("dns64", text(dns64)));
        }
        if !self.answers.is_empty() {
            entries.push(entry("answers", list(&self.answers, place)));
        }
        Node {
            place,
            value: Value::Map(entries),
        }
    }
}

fn entry(key: &str, node: Node) -> Entry {
    Entry {
        place: node.place,
        key: key.to_owned(),
        node,
    }
}

/// A scalar.
pub(super) fn text((text, place): &At<String>) -> Node {
    Node {
        place: *place,
        value: Value::Text(text.clone()),
    }
}

/// A list of scalars.
pub(super) fn list(items: &[At<String>], place: Place) -> Node {
    Node {
        place: items.first().map_or(place, |(_, place)| *place),
        value: Value::List(items.iter().map(text).collect()),
    }
}
