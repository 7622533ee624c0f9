// SPDX-License-Identifier: Apache-2.0
//! The list of zones: names, upstreams, lifetimes, and the cluster zone that is always there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::adapt::{self, Dns64, Rewrite};
use super::answers::{self, LocalAnswer};
use super::keys::{self, Kind};
use super::limits::{self, Limit};
use super::reader::{Reader, kind};
use super::servers::{nameservers, transport, upstreams};
use super::source::{Given, Source, Spot, unknown};
use super::text::{self, Wrong};
use super::yaml::{Entry, Node, Place, Value};
use super::{Located, Transport, Zone};
use crate::wire::name::Name;

/// What a root zone looks like, for who has none.
const ROOT_ZONE: &str = "add the two lines `zones:` and `  - { name: \".\", upstreams: [10.96.0.10] }`, \
     with the address of the cluster's DNS in place of 10.96.0.10";

/// A zone as it was read. What is wrong in it is a problem already; the rest is checked on.
#[derive(Debug)]
pub(super) struct ZoneReading {
    /// With the place of the name.
    name: (Name, Spot),
    pub(super) upstreams: Vec<(SocketAddr, Spot)>,
    /// The file that the upstreams are from.
    pub(super) resolv_conf: Option<(PathBuf, Spot)>,
    transport: Transport,
    pipeline: Option<u16>,
    max_ttl: Option<u32>,
    max_negative_ttl: Option<u32>,
    least_ttls: [Option<u32>; 2],
    max_failure_ttl: Option<u32>,
    stale_after: Option<Duration>,
    in_order: bool,
    rotate: Option<bool>,
    cuts: Option<bool>,
    rewrites: Vec<Rewrite>,
    dns64: Option<Dns64>,
    answers: Arc<[LocalAnswer]>,
}

/// Reads the list, and asks for a root zone.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<ZoneReading> {
    let given = reader.collected.values.remove("zones");
    let mut zones: Vec<ZoneReading> = Vec::new();
    // With a zone whose name cannot be read, nobody knows that the root is missing.
    let mut names_are_known = !reader.collected.is_broken;
    let spot = match given {
        Some(Given { source, node }) => {
            let spot = Spot {
                source,
                place: node.place,
                key: "zones".to_owned(),
            };
            match node.value {
                Value::List(nodes) => {
                    if nodes.len() > limits::MAX_ZONES {
                        let wrong = Wrong {
                            expected: format!("at most {}", limits::MAX_ZONES),
                            remedy: "join zones that have the same upstreams".to_owned(),
                        };
                        reader.problem(&spot, &format!("{} zones", nodes.len()), &wrong);
                    }
                    let mut room = limits::MAX_ANSWERS;
                    for (index, node) in nodes.iter().enumerate().take(limits::MAX_ZONES) {
                        let spot = spot.below(node.place, &format!("[{index}]"));
                        match zone(reader, node, &spot, &mut room) {
                            Some(zone) => zones.push(zone),
                            None => names_are_known = false,
                        }
                    }
                }
                Value::Nothing => {}
                _ => {
                    names_are_known = false;
                    let wrong = Wrong {
                        expected: "a list of zones".to_owned(),
                        remedy: "write each zone below it, beginning with `- name:`".to_owned(),
                    };
                    reader.problem(&spot, &node.found(), &wrong);
                }
            }
            spot
        }
        None => Spot {
            source: reader
                .collected
                .file
                .clone()
                .map_or(Source::Default, Source::File),
            place: Place::START,
            key: "zones".to_owned(),
        },
    };
    if names_are_known && !zones.iter().any(|zone| zone.name.0 == Name::ROOT) {
        let wrong = Wrong {
            expected: "at least one zone named \".\" with upstreams".to_owned(),
            remedy: ROOT_ZONE.to_owned(),
        };
        reader.problem(&spot, "no upstream for the root zone", &wrong);
    }
    twice(reader, &zones);
    zones
}

/// The same zone must not be there twice.
fn twice(reader: &mut Reader<'_>, zones: &[ZoneReading]) {
    for (index, zone) in zones.iter().enumerate() {
        let (name, spot) = &zone.name;
        let before = zones.iter().take(index).find(|other| other.name.0 == *name);
        if let Some(before) = before {
            let wrong = Wrong {
                expected: format!(
                    "each zone once (it is {} too)",
                    before.name.1.key.trim_end_matches(".name")
                ),
                remedy: "remove one of the two, or join their upstreams".to_owned(),
            };
            reader.problem(spot, &format!("the zone {name} again"), &wrong);
        }
    }
}

/// One zone; `None` where its name is not known. There is `room` for so many rules of its own answers.
fn zone(
    reader: &mut Reader<'_>,
    node: &Node,
    spot: &Spot,
    room: &mut usize,
) -> Option<ZoneReading> {
    let Value::Map(entries) = &node.value else {
        let wrong = Wrong {
            expected: "a mapping with name and upstreams".to_owned(),
            remedy: "write it like { name: \".\", upstreams: [10.96.0.10] }".to_owned(),
        };
        reader.problem(spot, &node.found(), &wrong);
        return None;
    };
    let mut given: BTreeMap<&str, (&Node, Spot)> = BTreeMap::new();
    for Entry { place, key, node } in entries {
        match keys::find(&format!("zones[].{key}")) {
            Some(_) => {
                given.insert(key, (node, spot.below(node.place, &format!(".{key}"))));
            }
            None => {
                let spot = spot.below(*place, &format!(".{key}"));
                let problem = unknown(&spot, key, "zones[].");
                reader.collected.problems.push(problem);
            }
        }
    }

    let transport = transport(reader, &given);
    let port = match transport {
        Transport::Tls(_) => limits::UPSTREAM_TLS_PORT,
        Transport::Tcp | Transport::Udp => limits::UPSTREAM_PORT,
    };
    let lifetime = |key: &str, reader: &mut Reader<'_>| {
        let limit = lifetime_limit(key);
        let (node, spot) = given.get(key)?;
        reader.scalar_at(node, spot, |text| text::seconds(text, &limit))
    };
    let max_ttl = lifetime("maxTtl", reader);
    let max_negative_ttl = lifetime("maxNegativeTtl", reader);
    let least_ttls = ["minTtl", "minNegativeTtl"].map(|key| lifetime(key, reader));
    let max_failure_ttl = lifetime("maxFailureTtl", reader);
    let stale_after = given.get("staleAfter").and_then(|(node, spot)| {
        let Kind::Time(limit) = kind("zones[].staleAfter") else {
            unreachable!("zones[].staleAfter is a time");
        };
        reader.scalar_at(node, spot, |text| text::time(text, &limit))
    });
    let in_order = given.get("order").is_some_and(|(node, spot)| {
        let Kind::Word(words) = kind("zones[].order") else {
            unreachable!("zones[].order is a word");
        };
        reader.scalar_at(node, spot, |text| text::word(text, words)) == Some("written")
    });
    let switch = |key: &str, reader: &mut Reader<'_>| {
        let (node, spot) = given.get(key)?;
        reader.scalar_at(node, spot, text::switch)
    };
    let pipeline = given.get("pipeline").and_then(|(node, spot)| {
        let Kind::CountOrAuto(limit) = kind("zones[].pipeline") else {
            unreachable!("zones[].pipeline is a number or auto");
        };
        reader.scalar_at(node, spot, |text| {
            text::count_or_auto(text, &limit, "a number of queries like 16")
        })
    });
    let rotate = switch("rotate", reader);
    let cuts = switch("cuts", reader);
    let rewrites = match given.get("rewrites") {
        Some((node, spot)) => rewrites(reader, node, spot),
        None => Vec::new(),
    };
    let dns64 = given.get("dns64");
    let dns64 = dns64.and_then(|(node, spot)| reader.scalar_at(node, spot, adapt::dns64)?);
    let answers = match given.get("answers") {
        Some((node, spot)) => local_answers(reader, node, spot, room),
        None => Arc::default(),
    };
    let mut file = None;
    let upstreams = match (given.get("upstreams"), given.get("resolv.conf")) {
        (Some((node, list)), None) => upstreams(reader, node, list, port),
        (None, Some((node, spot))) => {
            nameservers(reader, node, spot, port).map(|(path, servers)| {
                file = Some((path, spot.clone()));
                servers
            })
        }
        (Some(_), Some((_, file))) => {
            let wrong = Wrong {
                expected: "one of the two".to_owned(),
                remedy: "remove upstreams or resolv.conf".to_owned(),
            };
            reader.problem(file, "upstreams and resolv.conf in one zone", &wrong);
            None
        }
        // It answers itself.
        (None, None) if given.contains_key("answers") => None,
        (None, None) => {
            let wrong = Wrong {
                expected: "upstreams or resolv.conf".to_owned(),
                remedy: "add the servers to ask, e.g. `upstreams: [10.96.0.10]`".to_owned(),
            };
            reader.problem(spot, "a zone without servers", &wrong);
            None
        }
    };
    let Some((node, name_spot)) = given.get("name") else {
        let wrong = Wrong {
            expected: "the key name".to_owned(),
            remedy: "add the zone's name; `name: \".\"` is the root, for all names".to_owned(),
        };
        reader.problem(spot, "a zone without a name", &wrong);
        return None;
    };
    let name = reader.scalar_at(node, name_spot, text::domain)?;
    Some(ZoneReading {
        name: (name, name_spot.clone()),
        upstreams: upstreams.unwrap_or_default(),
        resolv_conf: file,
        transport,
        pipeline: pipeline.flatten(),
        max_ttl,
        max_negative_ttl,
        least_ttls,
        max_failure_ttl,
        stale_after,
        in_order,
        rotate,
        cuts,
        rewrites,
        dns64,
        answers,
    })
}

/// The rules that have names asked under another one.
fn rewrites(reader: &mut Reader<'_>, node: &Node, spot: &Spot) -> Vec<Rewrite> {
    let rules = reader.items_at(node, spot, adapt::rewrite);
    let rules = rules.unwrap_or_default();
    if rules.len() > limits::MAX_REWRITES {
        let wrong = Wrong {
            expected: format!("at most {}", limits::MAX_REWRITES),
            remedy: "have a server know these names, and name it in upstreams".to_owned(),
        };
        reader.problem(spot, &format!("{} rules", rules.len()), &wrong);
    }
    rules.into_iter().map(|(rule, _)| rule).collect()
}

/// The rules that answer without a server; there is `room` for so many.
fn local_answers(
    reader: &mut Reader<'_>,
    node: &Node,
    spot: &Spot,
    room: &mut usize,
) -> Arc<[LocalAnswer]> {
    let Value::List(nodes) = &node.value else {
        let rule = reader.scalar_at(node, spot, answers::parse);
        return rule.into_iter().collect();
    };
    let Some(left) = room.checked_sub(nodes.len()) else {
        let wrong = Wrong {
            expected: format!("at most {} in all zones", limits::MAX_ANSWERS),
            remedy: "have a server answer these names, and name it in upstreams".to_owned(),
        };
        let found = match limits::MAX_ANSWERS - *room {
            0 => format!("{} rules", nodes.len()),
            before => format!("{} rules behind {before} of other zones", nodes.len()),
        };
        reader.problem(spot, &found, &wrong);
        return Arc::default();
    };
    *room = left;
    let rules = nodes.iter().enumerate().filter_map(|(index, node)| {
        let spot = spot.below(node.place, &format!("[{index}]"));
        reader.scalar_at(node, &spot, answers::parse)
    });
    rules.collect()
}

fn lifetime_limit(key: &str) -> Limit<Duration> {
    match kind(&format!("zones[].{key}")) {
        Kind::Seconds(limit) => limit,
        _ => unreachable!("zones[].{key} is a lifetime"),
    }
}

/// The zones in the order in which they are matched, the cluster zone among them. Only called for
/// what it is worth where nothing was wrong.
pub(super) fn finish(readings: Vec<ZoneReading>, cluster: &Name) -> Vec<Zone> {
    let mut zones: Vec<_> = readings
        .into_iter()
        .map(|reading| {
            let (ttl, negative_ttl) = lifetimes(&reading.name.0, cluster);
            let [min_ttl, min_negative_ttl] = reading.least_ttls;
            Zone {
                name: reading.name.0,
                upstreams: reading
                    .upstreams
                    .into_iter()
                    .map(|(value, spot)| Located {
                        value,
                        origin: spot.origin(),
                    })
                    .collect(),
                resolv_conf: reading.resolv_conf.map(|(value, spot)| Located {
                    value,
                    origin: spot.origin(),
                }),
                transport: reading.transport,
                pipeline: reading.pipeline,
                max_ttl: reading.max_ttl.unwrap_or(ttl),
                max_negative_ttl: reading.max_negative_ttl.unwrap_or(negative_ttl),
                min_ttl: min_ttl.unwrap_or_default(),
                min_negative_ttl: min_negative_ttl.unwrap_or_default(),
                max_failure_ttl: reading
                    .max_failure_ttl
                    .unwrap_or_else(|| whole(limits::MAX_FAILURE_TTL)),
                stale_after: reading.stale_after,
                in_order: reading.in_order,
                rotate: reading.rotate.unwrap_or(reading.name.0 == *cluster),
                cuts: reading.cuts.unwrap_or(reading.name.0 == *cluster),
                rewrites: reading.rewrites,
                dns64: reading.dns64,
                answers: reading.answers,
            }
        })
        .collect();
    zones.sort_by_key(|zone| std::cmp::Reverse(zone.name.label_count()));
    let above = zones
        .iter()
        .position(|zone| zone.name.encloses(cluster.as_wire()));
    if let Some(index) = above
        && let Some(above) = zones.get(index)
        && above.name != *cluster
    {
        let (ttl, negative_ttl) = lifetimes(cluster, cluster);
        let zone = Zone {
            name: *cluster,
            max_ttl: above.max_ttl.min(ttl),
            max_negative_ttl: above.max_negative_ttl.min(negative_ttl),
            rotate: true,
            cuts: true,
            ..above.clone()
        };
        let labels = cluster.label_count();
        let at = zones.partition_point(|other| other.name.label_count() >= labels);
        zones.insert(at, zone);
    }
    zones
}

/// Default lifetimes of a zone in seconds, positive and negative.
fn lifetimes(zone: &Name, cluster: &Name) -> (u32, u32) {
    let (ttl, negative_ttl) = if zone == cluster {
        (limits::CLUSTER_MAX_TTL, limits::CLUSTER_MAX_NEGATIVE_TTL)
    } else {
        (limits::MAX_TTL, limits::MAX_NEGATIVE_TTL)
    };
    (whole(ttl), whole(negative_ttl))
}

/// A default in whole seconds.
fn whole(limit: Limit<Duration>) -> u32 {
    u32::try_from(limit.default.as_secs()).unwrap_or(u32::MAX)
}
