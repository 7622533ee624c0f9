// SPDX-License-Identifier: Apache-2.0
//! The servers of a zone: their addresses, written or in a file, and how they are spoken to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

use super::keys::Kind;
use super::limits;
use super::reader::{Reader, kind, with_environment};
use super::source::Spot;
use super::text::{self, Wrong};
use super::yaml::Node;
use super::{Tls, Transport, ca, resolv_conf};

/// The transport; TCP stands in for something wrong.
pub(super) fn transport(
    reader: &mut Reader<'_>,
    given: &BTreeMap<&str, (&Node, Spot)>,
) -> Transport {
    let Kind::Word(words) = kind("zones[].transport") else {
        unreachable!("zones[].transport is a word");
    };
    let word = match given.get("transport") {
        Some((node, spot)) => {
            match reader.scalar_at(node, spot, |text| text::word(text, words)) {
                Some(word) => word,
                // Nobody knows which keys and which port go with it.
                None => return Transport::Tcp,
            }
        }
        None => "tcp",
    };
    if word == "tls" {
        return Transport::Tls(tls(reader, given));
    }
    for key in ["serverName", "caFile"] {
        if let Some((node, spot)) = given.get(key) {
            let wrong = Wrong {
                expected: format!("it with `transport: tls` alone, and this is {word}"),
                remedy: "write `transport: tls`, or remove the key".to_owned(),
            };
            reader.problem(spot, &node.found(), &wrong);
        }
    }
    match word {
        "udp" => Transport::Udp,
        _ => Transport::Tcp,
    }
}

fn tls(reader: &mut Reader<'_>, given: &BTreeMap<&str, (&Node, Spot)>) -> Tls {
    let server_name = given.get("serverName").and_then(|(node, spot)| {
        reader.scalar_at(node, spot, |text| {
            let name = text.strip_suffix('.').unwrap_or(text);
            ServerName::try_from(name.to_owned()).map_err(|_| Wrong {
                expected: "the name in the servers' certificates".to_owned(),
                remedy: "write a host name or an address, e.g. dns.example.org".to_owned(),
            })
        })
    });
    let (spot, path) = match given.get("caFile") {
        Some((node, spot)) => {
            let path = reader.scalar_at(node, spot, path);
            (spot.clone(), path.map(PathBuf::from))
        }
        None => {
            let spot = given.get("transport").map(|(_, spot)| spot.clone());
            let Some(spot) = spot else {
                unreachable!("tls is said by the key transport");
            };
            let path = ca::of_system().map_err(|wrong| {
                let problem = spot.problem(wrong.message, wrong.remedy);
                reader.collected.problems.push(problem);
            });
            (spot, path.ok())
        }
    };
    if let Some(path) = &path
        && let Err(wrong) = ca::read(path)
    {
        let problem = spot.problem(
            format!("{}: {}", path.display(), wrong.message),
            wrong.remedy,
        );
        reader.collected.problems.push(problem);
    }
    Tls {
        server_name,
        ca_file: path.unwrap_or_default(),
    }
}

fn path(text: &str) -> Result<String, Wrong> {
    match text {
        "" => Err(Wrong {
            expected: "the path of a file".to_owned(),
            remedy: "write it like /etc/resolv.conf".to_owned(),
        }),
        path => Ok(path.to_owned()),
    }
}

/// The servers that are written, each once; `None` where one of them is wrong.
pub(super) fn upstreams(
    reader: &mut Reader<'_>,
    node: &Node,
    spot: &Spot,
    port: u16,
) -> Option<Vec<(SocketAddr, Spot)>> {
    let environment = &reader.sources.environment;
    let items = reader.items_at(node, spot, |text| {
        with_environment(environment, text, |text| text::upstream(text, port))
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

/// The servers of a file, with its path.
pub(super) fn nameservers(
    reader: &mut Reader<'_>,
    node: &Node,
    spot: &Spot,
    port: u16,
) -> Option<(PathBuf, Vec<(SocketAddr, Spot)>)> {
    let path = reader.scalar_at(node, spot, path)?;
    match resolv_conf::read(Path::new(&path), port) {
        Ok(found) => {
            let servers = found.servers.into_iter();
            let servers = servers.map(|(server, _)| (server, spot.clone())).collect();
            Some((PathBuf::from(path), servers))
        }
        Err(wrong) => {
            let problem = spot.problem(format!("{path}: {}", wrong.message), wrong.remedy);
            reader.collected.problems.push(problem);
            None
        }
    }
}
