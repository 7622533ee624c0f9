// SPDX-License-Identifier: Apache-2.0
//! The list of zones: names, upstreams, lifetimes, and the cluster zone that is always there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::keys::{self, Kind};
use super::limits::{self, Limit};
use super::reader::{Reader, kind, with_environment};
use super::source::{Given, Source, Spot, read_text, unknown};
use super::text::{self, Wrong};
use super::yaml::{Entry, Node, Place, Value, quote};
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
    max_ttl: Option<u32>,
    max_negative_ttl: Option<u32>,
    rotate: Option<bool>,
    cuts: Option<bool>,
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
                    for (index, node) in nodes.iter().enumerate().take(limits::MAX_ZONES) {
                        let spot = spot.below(node.place, &format!("[{index}]"));
                        match zone(reader, node, &spot) {
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

/// One zone; `None` where its name is not known.
fn zone(reader: &mut Reader<'_>, node: &Node, spot: &Spot) -> Option<ZoneReading> {
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

    if let Some((node, spot)) = given.get("transport") {
        reader.scalar_at(node, spot, transport);
    }
    let lifetime = |key: &str, reader: &mut Reader<'_>| {
        let limit = lifetime_limit(key);
        let (node, spot) = given.get(key)?;
        reader.scalar_at(node, spot, |text| text::seconds(text, &limit))
    };
    let max_ttl = lifetime("maxTtl", reader);
    let max_negative_ttl = lifetime("maxNegativeTtl", reader);
    let switch = |key: &str, reader: &mut Reader<'_>| {
        let (node, spot) = given.get(key)?;
        reader.scalar_at(node, spot, text::switch)
    };
    let rotate = switch("rotate", reader);
    let cuts = switch("cuts", reader);
    let upstreams = match (given.get("upstreams"), given.get("resolv.conf")) {
        (Some((node, list)), None) => upstreams(reader, node, list),
        (None, Some((node, file))) => resolv_conf(reader, node, file),
        (Some(_), Some((_, file))) => {
            let wrong = Wrong {
                expected: "one of the two".to_owned(),
                remedy: "remove upstreams or resolv.conf".to_owned(),
            };
            reader.problem(file, "upstreams and resolv.conf in one zone", &wrong);
            None
        }
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
        max_ttl,
        max_negative_ttl,
        rotate,
        cuts,
    })
}

fn lifetime_limit(key: &str) -> Limit<Duration> {
    match kind(&format!("zones[].{key}")) {
        Kind::Seconds(limit) => limit,
        _ => unreachable!("zones[].{key} is a lifetime"),
    }
}

fn transport(text: &str) -> Result<Transport, Wrong> {
    match text {
        "tcp" => Ok(Transport::Tcp),
        "udp" | "tls" => Err(Wrong {
            expected: "tcp".to_owned(),
            remedy: format!("write tcp: this version does not speak {text} to upstreams yet"),
        }),
        _ => Err(Wrong {
            expected: "tcp".to_owned(),
            remedy: "write tcp, or leave the key out".to_owned(),
        }),
    }
}

fn upstreams(reader: &mut Reader<'_>, node: &Node, spot: &Spot) -> Option<Vec<(SocketAddr, Spot)>> {
    let environment = &reader.sources.environment;
    let items = reader.items_at(node, spot, |text| {
        with_environment(environment, text, text::upstream)
    })?;
    if !(1..=limits::MAX_UPSTREAMS).contains(&items.len()) {
        let wrong = Wrong {
            expected: format!("1 to {}", limits::MAX_UPSTREAMS),
            remedy: "name the servers to ask; a Service's address stands for all its pods"
                .to_owned(),
        };
        reader.problem(spot, &format!("{} upstreams", items.len()), &wrong);
        return None;
    }
    let mut distinct: Vec<(SocketAddr, Spot)> = Vec::new();
    for (upstream, spot) in items {
        if distinct.iter().any(|(other, _)| *other == upstream) {
            let problem = spot.problem(
                format!("found the upstream {upstream} again, it counts once"),
                "remove one of the two",
            );
            reader.collected.warnings.push(problem);
        } else {
            distinct.push((upstream, spot));
        }
    }
    Some(distinct)
}

fn resolv_conf(
    reader: &mut Reader<'_>,
    node: &Node,
    spot: &Spot,
) -> Option<Vec<(SocketAddr, Spot)>> {
    let path = reader.scalar_at(node, spot, |text| match text {
        "" => Err(Wrong {
            expected: "the path of a file".to_owned(),
            remedy: "write it like /etc/resolv.conf".to_owned(),
        }),
        path => Ok(path.to_owned()),
    })?;
    match nameservers(Path::new(&path)) {
        Ok(servers) => {
            let port = limits::UPSTREAM_PORT;
            let place = |server| (SocketAddr::new(server, port), spot.clone());
            Some(servers.into_iter().map(place).collect())
        }
        Err((message, remedy)) => {
            let problem = spot.problem(format!("{path}: {message}"), remedy);
            reader.collected.problems.push(problem);
            None
        }
    }
}

/// The servers of a file in the form of resolv.conf(5), each once. Message and remedy where it
/// cannot be used.
fn nameservers(path: &Path) -> Result<Vec<IpAddr>, (String, String)> {
    let text = read_text(path, limits::MAX_RESOLV_CONF_BYTES)
        .map_err(|reason| reason.explain("resolv.conf"))?;
    let mut servers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let word = words.next().unwrap_or_default();
        let number = index + 1;
        let server = text::address(word)
            .and_then(|server| text::reachable(server).map(|()| server))
            .map_err(|wrong| {
                (
                    format!(
                        "found {} on its line {number}, expected {}",
                        quote(word),
                        wrong.expected
                    ),
                    wrong.remedy,
                )
            })?;
        if server.is_loopback() {
            return Err((
                format!(
                    "found the loopback address {server} on its line {number}, expected a server of the network"
                ),
                "it is a stub on this host: name the file with the real servers, \
                 with systemd-resolved /run/systemd/resolve/resolv.conf"
                    .to_owned(),
            ));
        }
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    match servers.len() {
        0 => Err((
            "found no nameserver line, expected at least one".to_owned(),
            "name a file with nameserver lines, or write upstreams".to_owned(),
        )),
        number if number > limits::MAX_UPSTREAMS => Err((
            format!(
                "found {number} nameservers, expected at most {}",
                limits::MAX_UPSTREAMS
            ),
            "remove some".to_owned(),
        )),
        _ => Ok(servers),
    }
}

/// The zones in the order in which they are matched, the cluster zone among them. Only called for
/// what it is worth where nothing was wrong.
pub(super) fn finish(readings: Vec<ZoneReading>, cluster: &Name) -> Vec<Zone> {
    let mut zones: Vec<_> = readings
        .into_iter()
        .map(|reading| {
            let (ttl, negative_ttl) = lifetimes(&reading.name.0, cluster);
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
                transport: Transport::Tcp,
                max_ttl: reading.max_ttl.unwrap_or(ttl),
                max_negative_ttl: reading.max_negative_ttl.unwrap_or(negative_ttl),
                rotate: reading.rotate.unwrap_or(reading.name.0 == *cluster),
                cuts: reading.cuts.unwrap_or(reading.name.0 == *cluster),
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
    let whole = |limit: Limit<Duration>| u32::try_from(limit.default.as_secs()).unwrap_or(u32::MAX);
    (whole(ttl), whole(negative_ttl))
}
