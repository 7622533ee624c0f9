// SPDX-License-Identifier: Apache-2.0
//! The ConfigMap of kube-dns, mounted as a directory: `stubDomains` and `upstreamNameservers`, JSON.

use std::path::Path;

use super::context::Context;
use super::plugins::At;
use super::texts::Text;
use super::values;
use crate::config::nearest::nearest;
use crate::config::source::Unread;
use crate::config::yaml::{self, Node, Place, Value};

/// A stub domain with its servers.
#[derive(Debug)]
pub(super) struct Stub {
    pub(super) name: At<String>,
    pub(super) servers: Vec<At<String>>,
}

/// Files of the directory that are read.
const STUB_DOMAINS: &str = "stubDomains";
const UPSTREAM_NAMESERVERS: &str = "upstreamNameservers";
const FEDERATIONS: &str = "federations";

/// Reads the directory: returns the stub domains, and keeps the servers for the placeholder.
pub(super) fn read(context: &mut Context<'_>) -> Vec<Stub> {
    let Some(directory) = context.node_cache.kube_dns.clone() else {
        return Vec::new();
    };
    unknown(context, &directory);
    let mut stubs = Vec::new();
    if let Some(node) = json(context, &directory.join(STUB_DOMAINS)) {
        match node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let servers = servers(context, &entry.node, STUB_DOMAINS);
                    // What is wrong with them is told: that there are none is no news.
                    let has_servers = !servers.is_empty();
                    match values::zones(&entry.key) {
                        Ok(names) if !entry.key.contains('/') => {
                            let names = names.into_iter().map(|name| (name, entry.place));
                            let stub = |name| Stub {
                                name,
                                servers: servers.clone(),
                            };
                            stubs.extend(names.filter(|_| has_servers).map(stub));
                        }
                        _ => {
                            let found = yaml::quote(&entry.key);
                            let remedy = "write it like example.org";
                            let expected = "the name of a domain";
                            context.wrong(entry.place, STUB_DOMAINS, &found, expected, remedy);
                        }
                    }
                }
            }
            Value::Nothing => {}
            _ => {
                let remedy = "write it like {\"example.org\": [\"10.0.0.1\"]}";
                let expected = "an object of domains with lists of servers";
                context.wrong(node.place, STUB_DOMAINS, &node.found(), expected, remedy);
            }
        }
    }
    if let Some(node) = json(context, &directory.join(UPSTREAM_NAMESERVERS)) {
        let servers = servers(context, &node, UPSTREAM_NAMESERVERS);
        context.node_cache.upstream_nameservers =
            servers.into_iter().map(|(server, _)| server).collect();
    }
    if let Some(node) = json(context, &directory.join(FEDERATIONS)) {
        let message = "federations have no effect: Kubernetes has them no more";
        context.note(node.place, FEDERATIONS, "", message, "remove the key");
    }
    stubs
}

/// Notes files that mean nothing to anybody; those of the kubelet's begin with two dots.
fn unknown(context: &mut Context<'_>, directory: &Path) {
    const KNOWN: [&str; 3] = [STUB_DOMAINS, UPSTREAM_NAMESERVERS, FEDERATIONS];
    for path in context.list(directory) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("..") || KNOWN.contains(&&*name) {
            continue;
        }
        let message = format!("the key {} has no effect", yaml::quote(&name));
        let remedy = match nearest(&name, KNOWN.into_iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("remove it; the keys are {}", KNOWN.join(", ")),
        };
        let before = context.texts.add(Text::File(path.clone()), 1);
        let place = Place {
            line: before + 1,
            column: 1,
        };
        context.note(place, &name, "", message, remedy);
    }
}

/// A file of the directory; `None` where it is not there, is empty, or is wrong.
fn json(context: &mut Context<'_>, path: &Path) -> Option<Node> {
    let text = match context.read(path) {
        Ok(text) => text,
        Err(Unread::Missing) => return None,
        Err(reason) => {
            let (message, remedy) = reason.explain("file of kube-dns' ConfigMap");
            context.problems.push(crate::config::Problem {
                origin: reason.origin(path),
                message,
                remedy,
            });
            return None;
        }
    };
    if text.trim().is_empty() {
        return None;
    }
    let lines = text.split('\n').count();
    let before = context.texts.add(Text::File(path.to_owned()), lines);
    let at = |place: Place| Place {
        line: place.line + before,
        ..place
    };
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        let place = Place {
            line: error.line().max(1),
            column: error.column().max(1),
        };
        let message = format!("found what is not JSON ({error})");
        let remedy = "correct the value in the ConfigMap of kube-dns";
        context.problem(at(place), "", message, remedy);
        return None;
    }
    // JSON is YAML, but for tabs: and these stand between values alone.
    match yaml::parse(&text.replace('\t', " ")) {
        Ok(node) => node.map(|node| shift(node, before)),
        Err(faults) => {
            for fault in faults {
                context.problem(at(fault.place), "", fault.message, &fault.remedy);
            }
            None
        }
    }
}

/// The node with its lines numbered through all texts.
fn shift(node: Node, before: usize) -> Node {
    let at = |place: Place| Place {
        line: place.line + before,
        ..place
    };
    let value = match node.value {
        Value::List(nodes) => {
            Value::List(nodes.into_iter().map(|node| shift(node, before)).collect())
        }
        Value::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|entry| yaml::Entry {
                    place: at(entry.place),
                    key: entry.key,
                    node: shift(entry.node, before),
                })
                .collect(),
        ),
        value => value,
    };
    Node {
        place: at(node.place),
        value,
    }
}

/// A list of servers, `IP` or `IP:PORT`.
fn servers(context: &mut Context<'_>, node: &Node, word: &str) -> Vec<At<String>> {
    let Value::List(nodes) = &node.value else {
        let remedy = "write it like [\"10.0.0.1\"]";
        context.wrong(node.place, word, &node.found(), "a list of servers", remedy);
        return Vec::new();
    };
    let mut servers = Vec::new();
    for node in nodes {
        match &node.value {
            Value::Text(text) if values::is_server(text) && !text.starts_with("env:") => {
                servers.push((text.clone(), node.place));
            }
            _ => {
                let expected = "a server's address, with a port or without";
                let remedy = "write it like 10.0.0.1 or 10.0.0.1:5353; names are not resolved here";
                context.wrong(node.place, word, &node.found(), expected, remedy);
            }
        }
    }
    if nodes.is_empty() && word == STUB_DOMAINS {
        let remedy = "add the servers, or remove the domain";
        context.wrong(
            node.place,
            word,
            "an empty list",
            "one server at least",
            remedy,
        );
    }
    servers
}
