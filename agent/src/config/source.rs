// SPDX-License-Identifier: Apache-2.0
//! Where values come from: the file, the environment, the flags. Finds for each key the one value
//! that counts, and names what no key knows. What a value means is read elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::corefile::{self, Footprint, NodeCache, texts::Texts};
use super::keys::{self, KEYS, Key, Kind};
use super::nearest::nearest;
pub(super) use super::unread::{Unread, read_text, read_text_or_pipe};
use super::yaml::{self, Entry, Node, Place, Value, quote};
use super::{Origin, Problem, limits};

/// The file that is read where none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/nodens/nodens.yaml";

/// What a configuration is loaded from. Kept, so that a reload loads from the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    /// The file named on the command line.
    pub file: Option<PathBuf>,
    /// The file that is read where none is named, if it exists.
    pub default_file: PathBuf,
    /// The Corefile that is read in the place of a file.
    pub corefile: Option<NodeCache>,
    /// The environment as it was at start.
    pub environment: BTreeMap<String, String>,
    /// Flags that were given, by the path of their key.
    pub flags: BTreeMap<&'static str, String>,
    /// Whether the start fails where no upstream can be reached.
    pub require_upstream: bool,
}

impl Default for Sources {
    /// No file named, an empty environment, no flags.
    fn default() -> Self {
        Self {
            file: None,
            default_file: PathBuf::from(DEFAULT_FILE),
            corefile: None,
            environment: BTreeMap::new(),
            flags: BTreeMap::new(),
            require_upstream: false,
        }
    }
}

impl fmt::Debug for Sources {
    /// Without the values of the environment, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("default_file", &self.default_file)
            .field("corefile", &self.corefile)
            .field("environment", &self.environment.len())
            .field("flags", &self.flags)
            .field("require_upstream", &self.require_upstream)
            .finish()
    }
}

/// Which source a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    /// A Corefile with all that belongs to it.
    Corefile(Arc<Texts>),
    Environment(String),
    Flag(String),
}

/// Where a value stands: source, place in its text, path of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) source: Source,
    pub(super) place: Place,
    pub(super) key: String,
}

impl Spot {
    pub(super) fn origin(&self) -> Origin {
        match &self.source {
            Source::Default => Origin::Default {
                key: self.key.clone(),
            },
            Source::File(path) => Origin::File {
                path: path.clone(),
                line: self.place.line,
                column: self.place.column,
                key: self.key.clone(),
            },
            Source::Corefile(texts) => texts.origin(self.place, ""),
            Source::Environment(variable) => Origin::Environment {
                variable: variable.clone(),
            },
            Source::Flag(flag) => Origin::Flag { flag: flag.clone() },
        }
    }

    /// A problem here. Variables and flags hold a key's whole value: the message says where in it.
    pub(super) fn problem(&self, message: impl fmt::Display, remedy: impl Into<String>) -> Problem {
        let message = match &self.source {
            Source::Default | Source::File(_) | Source::Corefile(_) => message.to_string(),
            Source::Environment(_) | Source::Flag(_) if self.place == Place::default() => {
                format!("{}: {message}", self.key)
            }
            Source::Environment(_) | Source::Flag(_) => format!(
                "{} (line {}, column {} of the value): {message}",
                self.key, self.place.line, self.place.column
            ),
        };
        Problem {
            origin: self.origin(),
            message,
            remedy: remedy.into(),
        }
    }

    /// The same source, another place below this key.
    pub(super) fn below(&self, place: Place, step: &str) -> Self {
        Self {
            source: self.source.clone(),
            place,
            key: format!("{}{step}", self.key),
        }
    }
}

/// A key's value as it was written.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) source: Source,
    pub(super) node: Node,
}

/// All values that were given, the strongest source of each.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) values: BTreeMap<&'static str, Given>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// What a Corefile was read from.
    pub(super) footprint: Option<Footprint>,
    /// The file could not be read to its end: nothing can be said of keys that are not there.
    pub(super) is_broken: bool,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Reads all sources.
pub(super) fn collect(sources: &Sources) -> Collected {
    let mut collected = Collected::default();
    if let Some(node_cache) = &sources.corefile {
        corefile::collect(&mut collected, node_cache, &sources.environment);
        if let Some(path) = &sources.file {
            collected.problems.push(Problem {
                origin: Origin::WholeFile { path: path.clone() },
                message: "found a configuration file beside a Corefile, expected one of the two"
                    .to_owned(),
                remedy: "leave --config out, or the Corefile with node-cache's flags".to_owned(),
            });
        }
    } else {
        let path = sources.file.as_ref().unwrap_or(&sources.default_file);
        match read_text(path, limits::MAX_FILE_BYTES) {
            Ok(text) => collected.file(path, &text),
            Err(Unread::Missing) if sources.file.is_none() => {}
            Err(reason) => {
                collected.is_broken = true;
                let (message, remedy) = reason.explain("configuration file");
                collected.problems.push(Problem {
                    origin: reason.origin(path),
                    message,
                    remedy,
                });
            }
        }
    }
    collected.environment(&sources.environment);
    for (path, text) in &sources.flags {
        if let Some(key) = keys::find(path).filter(|key| key.is_overridable()) {
            collected.text(key, Source::Flag(format!("--{}", key.flag())), text);
        }
    }
    collected
}

impl Collected {
    fn file(&mut self, path: &Path, text: &str) {
        self.file = Some(path.to_owned());
        let source = Source::File(path.to_owned());
        match yaml::parse(text) {
            Ok(None) => {}
            Ok(Some(Node {
                value: Value::Map(entries),
                ..
            })) => self.section(&source, entries, ""),
            Ok(Some(node)) => {
                self.is_broken = true;
                let spot = Spot {
                    source,
                    place: node.place,
                    key: String::new(),
                };
                self.problems.push(spot.problem(
                    format!("found {}, expected keys and values", node.found()),
                    "begin with `version: 1`; docs/configuration.md lists the keys",
                ));
            }
            Err(faults) => {
                self.is_broken = true;
                self.faults(&source, "", faults);
            }
        }
    }

    fn faults(&mut self, source: &Source, key: &str, faults: Vec<yaml::Fault>) {
        for fault in faults {
            let spot = Spot {
                source: source.clone(),
                place: fault.place,
                key: format!("{key}{}", fault.key),
            };
            self.problems
                .push(spot.problem(fault.message, fault.remedy));
        }
    }

    /// Takes the keys of a mapping; `prefix` is its path with a dot behind it, or empty.
    fn section(&mut self, source: &Source, entries: Vec<Entry>, prefix: &str) {
        for Entry { place, key, node } in entries {
            let path = format!("{prefix}{key}");
            let below = format!("{path}.");
            // A key with a dot in it looks like a path and is none.
            let known = keys::find(&path).filter(|_| !key.contains('.'));
            let spot = Spot {
                source: source.clone(),
                place,
                key: path,
            };
            if let Some(known) = known {
                self.values.insert(
                    known.path,
                    Given {
                        source: source.clone(),
                        node,
                    },
                );
            } else if KEYS.iter().any(|key| key.path.starts_with(&below)) {
                match node.value {
                    Value::Map(entries) => self.section(source, entries, &below),
                    Value::Nothing => {}
                    _ => self.problems.push(spot.problem(
                        format!("found {}, expected a mapping of keys", node.found()),
                        format!("write its keys below it, indented: {}", children(&below)),
                    )),
                }
            } else {
                let problem = unknown(&spot, &key, prefix);
                self.problems.push(problem);
            }
        }
    }

    fn environment(&mut self, environment: &BTreeMap<String, String>) {
        let mut taken: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix("NODENS_") else {
                continue;
            };
            let value = value.trim();
            if value.is_empty() {
                continue;
            }
            let letters = rest.replace('_', "");
            let known = KEYS
                .iter()
                .filter(|key| key.is_overridable())
                .find(|key| key.variable()["NODENS_".len()..].replace('_', "") == letters);
            let Some(key) = known else {
                if !is_service_link(variable) {
                    self.warnings.push(unknown_variable(variable, rest));
                }
                continue;
            };
            // A Service named nodens-listen makes NODENS_LISTEN_PORT=tcp://10.96.0.9:53.
            if is_service_link(variable) && (value.contains("://")) {
                continue;
            }
            let source = Source::Environment(variable.clone());
            match taken.get(key.path) {
                Some((first, other)) if *other != value => {
                    let spot = Spot {
                        source,
                        place: Place::default(),
                        key: key.path.to_owned(),
                    };
                    self.problems.push(spot.problem(
                        format!(
                            "found {}, expected the value of {first}, which sets the same key",
                            quote(value)
                        ),
                        "remove one of the two variables",
                    ));
                }
                Some(_) => {}
                None => {
                    taken.insert(key.path, (variable, value));
                    self.text(key, source, value);
                }
            }
        }
    }

    /// Takes the text of a variable or a flag for a key.
    fn text(&mut self, key: &'static Key, source: Source, text: &str) {
        let place = Place::default();
        let scalar = |text: &str| Node {
            place,
            value: Value::Text(text.trim().to_owned()),
        };
        let node = match key.kind {
            Kind::Zones => match yaml::parse(text) {
                Ok(Some(node)) => node,
                Ok(None) => Node {
                    place,
                    value: Value::List(Vec::new()),
                },
                Err(faults) => {
                    self.is_broken = true;
                    self.faults(&source, key.path, faults);
                    return;
                }
            },
            Kind::Addresses
            | Kind::Services
            | Kind::ServicesOrOff
            | Kind::AddressesOrAuto
            | Kind::Sockets
                if text.contains(',') =>
            {
                Node {
                    place,
                    value: Value::List(text.split(',').map(scalar).collect()),
                }
            }
            _ => scalar(text),
        };
        self.values.insert(key.path, Given { source, node });
    }
}

/// The keys directly below a prefix, for a message.
fn children(prefix: &str) -> String {
    let mut names: Vec<_> = KEYS
        .iter()
        .filter_map(|key| key.path.strip_prefix(prefix))
        .map(|rest| {
            if prefix.ends_with("[].") {
                rest // resolv.conf is one key
            } else {
                rest.split(['.', '[']).next().unwrap_or(rest)
            }
        })
        .collect();
    names.dedup();
    names.join(", ")
}

/// The problem of a key that nobody knows. `prefix` as in [`children`].
pub(super) fn unknown(spot: &Spot, key: &str, prefix: &str) -> Problem {
    let known = children(prefix);
    let near = nearest(key, known.split(", "));
    // The right word at the wrong place: `port` at the top, `cache.size` with its dot.
    let elsewhere = KEYS.iter().find(|other| {
        other.path == spot.key
            || other
                .path
                .rsplit('.')
                .next()
                .is_some_and(|last| last == key)
    });
    let remedy = match (near, elsewhere) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, Some(other)) => match other.path.rsplit_once('.') {
            Some((section, last)) => {
                format!(
                    "did you mean {last} below {}?",
                    section.trim_end_matches("[]")
                )
            }
            None => format!(
                "did you mean {} at the top, without indentation?",
                other.path
            ),
        },
        (None, None) => "remove it or correct it".to_owned(),
    };
    spot.problem(
        format!(
            "found the unknown key {}, expected one of {known}",
            quote(key)
        ),
        remedy,
    )
}

fn unknown_variable(variable: &str, rest: &str) -> Problem {
    let letters = rest.replace('_', "");
    let names: Vec<_> = KEYS
        .iter()
        .filter(|key| key.is_overridable())
        .map(Key::variable)
        .collect();
    let bare: Vec<_> = names
        .iter()
        .map(|name| name["NODENS_".len()..].replace('_', ""))
        .collect();
    let near = nearest(&letters, bare.iter().map(String::as_str))
        .and_then(|near| bare.iter().position(|name| name == near))
        .and_then(|index| names.get(index));
    Problem {
        origin: Origin::Environment {
            variable: variable.to_owned(),
        },
        message: "no key has this variable, it is ignored".to_owned(),
        remedy: match near {
            Some(near) => format!("did you mean {near}?"),
            None => "remove it; docs/configuration.md lists the variables".to_owned(),
        },
    }
}

/// Whether a variable has the name of one that Kubernetes sets for each Service of the namespace:
/// `NODENS_UPSTREAM_SERVICE_HOST` for the Service `nodens-upstream`, and its like.
fn is_service_link(variable: &str) -> bool {
    if variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
    {
        return true;
    }
    // ..._PORT_53_TCP, ..._PORT_53_TCP_ADDR, _PORT, _PROTO
    variable.match_indices("_PORT_").any(|(at, part)| {
        let rest = &variable[at + part.len()..];
        let mut words = rest.split('_');
        let number = words.next().unwrap_or_default();
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(words.next(), None | Some("ADDR" | "PORT" | "PROTO"))
            && words.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Collected {
        collect(&Sources {
            default_file: PathBuf::from("/nonexistent/nodens.yaml"),
            environment: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Sources::default()
        })
    }

    #[test]
    fn underscores_of_a_variable_are_free() {
        for name in [
            "NODENS_CLUSTER_DNSSERVICE",
            "NODENS_CLUSTER_DNS_SERVICE",
            "NODENS_CLUSTERDNSSERVICE",
        ] {
            let collected = environment(&[(name, "10.96.0.10")]);
            assert!(
                collected.values.contains_key("cluster.dnsService"),
                "{name}"
            );
            assert!(collected.warnings.is_empty() && collected.problems.is_empty());
        }
    }

    #[test]
    fn two_spellings_of_one_variable_must_agree() {
        let same = environment(&[("NODENS_CACHE_SIZE", "2MiB"), ("NODENS_CACHESIZE", "2MiB")]);
        assert!(same.problems.is_empty());
        let other = environment(&[("NODENS_CACHE_SIZE", "2MiB"), ("NODENS_CACHESIZE", "3MiB")]);
        assert_eq!(other.problems.len(), 1);
        assert!(
            other.problems[0]
                .message
                .contains("which sets the same key")
        );
    }

    #[test]
    fn variables_of_kubernetes_services_are_no_slips() {
        let collected = environment(&[
            ("NODENS_UPSTREAM_SERVICE_HOST", "10.96.0.50"),
            ("NODENS_UPSTREAM_SERVICE_PORT", "53"),
            ("NODENS_UPSTREAM_SERVICE_PORT_DNS_TCP", "53"),
            ("NODENS_UPSTREAM_PORT", "udp://10.96.0.50:53"),
            ("NODENS_UPSTREAM_PORT_53_TCP", "tcp://10.96.0.50:53"),
            ("NODENS_UPSTREAM_PORT_53_TCP_ADDR", "10.96.0.50"),
            ("NODENS_UPSTREAM_PORT_53_TCP_PORT", "53"),
            ("NODENS_UPSTREAM_PORT_53_UDP_PROTO", "udp"),
            ("NODENS_SERVICE_HOST", "10.96.0.51"),
            ("NODENS_PORT", "tcp://10.96.0.51:53"),
            ("NODENS_LISTEN_PORT", "tcp://10.96.0.51:53"),
        ]);
        assert!(collected.warnings.is_empty(), "{:?}", collected.warnings);
        assert!(collected.problems.is_empty());
        assert!(collected.values.is_empty(), "{:?}", collected.values);
    }

    #[test]
    fn an_unknown_variable_is_a_warning_that_names_the_nearest() {
        let collected = environment(&[("NODENS_CACHE_SICE", "2MiB"), ("NODENS_FOO", "x")]);
        let texts: Vec<_> = collected.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "environment variable NODENS_CACHE_SICE: no key has this variable, it is ignored; \
                 did you mean NODENS_CACHE_SIZE?",
                "environment variable NODENS_FOO: no key has this variable, it is ignored; \
                 remove it; docs/configuration.md lists the variables",
            ]
        );
        assert!(collected.problems.is_empty());
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let collected = environment(&[("NODENS_CACHE_SIZE", " "), ("NODENS_FOO", "")]);
        assert!(collected.values.is_empty() && collected.warnings.is_empty());
    }

    #[test]
    fn flags_are_stronger_than_variables() {
        let collected = collect(&Sources {
            default_file: PathBuf::from("/nonexistent/nodens.yaml"),
            environment: BTreeMap::from([("NODENS_WORKERS".to_owned(), "2".to_owned())]),
            flags: BTreeMap::from([("workers", "3".to_owned())]),
            ..Sources::default()
        });
        let given = &collected.values["workers"];
        assert_eq!(given.source, Source::Flag("--workers".to_owned()));
    }

    #[test]
    fn sources_do_not_print_the_environment() {
        let sources = Sources {
            environment: BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]),
            ..Sources::default()
        };
        assert!(!format!("{sources:?}").contains("secret"));
    }
}
