// SPDX-License-Identifier: Apache-2.0
//! Reads single values and lists of them out of what was collected, and gathers what is wrong.

use std::collections::BTreeMap;

use super::Located;
use super::keys::{self, Kind};
use super::source::{Collected, Given, Source, Sources, Spot};
use super::text::Wrong;
use super::yaml::{Node, Place, Value, quote};

/// A value as it was read, with what the checks need to know of it.
#[derive(Clone, Debug)]
pub(super) struct Reading<T> {
    pub(super) value: T,
    pub(super) spot: Spot,
    /// Somebody gave it.
    pub(super) is_given: bool,
    /// It is what was given; otherwise a default stands in for something wrong.
    pub(super) is_sound: bool,
}

impl<T> Reading<T> {
    pub(super) fn located(self) -> Located<T> {
        Located {
            origin: self.spot.origin(),
            value: self.value,
        }
    }
}

pub(super) fn locate<T>(items: Vec<(T, Spot)>) -> Vec<Located<T>> {
    items
        .into_iter()
        .map(|(value, spot)| Located {
            value,
            origin: spot.origin(),
        })
        .collect()
}

/// Reads values key by key and gathers what is wrong.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    pub(super) collected: Collected,
}

impl Reader<'_> {
    /// Reads a key that holds one scalar.
    pub(super) fn scalar<T>(
        &mut self,
        path: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Reading<T> {
        let Some(Given { source, node }) = self.collected.values.remove(path) else {
            return Reading {
                value: default,
                spot: default_spot(path),
                is_given: false,
                is_sound: true,
            };
        };
        let spot = Spot {
            source,
            place: node.place,
            key: path.to_owned(),
        };
        let value = self.scalar_at(&node, &spot, parse);
        Reading {
            is_given: true,
            is_sound: value.is_some(),
            value: value.unwrap_or(default),
            spot,
        }
    }

    /// Reads a key that holds a list of scalars, or one of them alone, or the word for nothing.
    pub(super) fn list<T>(
        &mut self,
        path: &'static str,
        nothing: Option<&str>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Reading<Vec<(T, Spot)>> {
        let Some(Given { source, node }) = self.collected.values.remove(path) else {
            return Reading {
                value: Vec::new(),
                spot: default_spot(path),
                is_given: false,
                is_sound: true,
            };
        };
        let spot = Spot {
            source,
            place: node.place,
            key: path.to_owned(),
        };
        let is_nothing = match (&node.value, &spot.source) {
            (Value::Text(text), Source::File(_)) => nothing == Some(text),
            // `--cluster-dns-service ""` empties a list of the file.
            (Value::Text(text), _) => nothing == Some(text) || text.is_empty(),
            _ => false,
        };
        let value = if is_nothing {
            Some(Vec::new())
        } else {
            self.items_at(&node, &spot, parse)
        };
        Reading {
            is_given: true,
            is_sound: value.is_some(),
            value: value.unwrap_or_default(),
            spot,
        }
    }

    /// The items of a list, or the one that stands alone; `None` where any is wrong.
    pub(super) fn items_at<T>(
        &mut self,
        node: &Node,
        spot: &Spot,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<(T, Spot)>> {
        let Value::List(nodes) = &node.value else {
            let item = self.scalar_at(node, spot, parse)?;
            return Some(vec![(item, spot.clone())]);
        };
        let items: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let spot = spot.below(node.place, &format!("[{index}]"));
                self.scalar_at(node, &spot, &parse).map(|item| (item, spot))
            })
            .collect();
        items.into_iter().collect()
    }

    /// One scalar; what is wrong with it becomes a problem.
    pub(super) fn scalar_at<T>(
        &mut self,
        node: &Node,
        spot: &Spot,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        // Nothing, a list or a mapping is as wrong as no text, and expects the same.
        let text = match &node.value {
            Value::Text(text) => text,
            _ => "",
        };
        match parse(text) {
            Ok(value) if matches!(node.value, Value::Text(_)) => Some(value),
            Ok(_) => None,
            Err(wrong) => {
                self.problem(spot, &node.found(), &wrong);
                None
            }
        }
    }

    pub(super) fn problem(&mut self, spot: &Spot, found: &str, wrong: &Wrong) {
        let message = format!("found {found}, expected {}", wrong.expected);
        let problem = spot.problem(message, wrong.remedy.as_str());
        self.collected.problems.push(problem);
    }
}

fn default_spot(path: &str) -> Spot {
    Spot {
        source: Source::Default,
        place: Place::default(),
        key: path.to_owned(),
    }
}

/// What the table says a key holds.
pub(super) fn kind(path: &str) -> Kind {
    match keys::find(path) {
        Some(key) => key.kind,
        None => unreachable!("{path} is in the table of keys"),
    }
}

/// Reads a text, or for `env:NAME` what the variable holds.
pub(super) fn with_environment<T>(
    environment: &BTreeMap<String, String>,
    text: &str,
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Result<T, Wrong> {
    let Some(name) = text.strip_prefix("env:") else {
        return parse(text).map_err(|wrong| Wrong {
            expected: format!("{}, or env:NAME", wrong.expected),
            ..wrong
        });
    };
    let service = name
        .strip_suffix("_SERVICE_HOST")
        .map(|service| service.to_ascii_lowercase().replace('_', "-"));
    match environment.get(name).map(|value| value.trim()) {
        Some(value) if !value.is_empty() => parse(value).map_err(|wrong| Wrong {
            expected: format!(
                "{} in the environment variable {name}, which holds {}",
                wrong.expected,
                quote(value)
            ),
            ..wrong
        }),
        _ => Err(match service {
            Some(service) => Wrong {
                expected: format!(
                    "the environment variable {name}, which Kubernetes sets for the Service {service}, and it is not set"
                ),
                remedy: format!(
                    "create the Service {service} in the pod's namespace, then start the pod anew: \
                     the Service must exist before the pod starts, and the pod's enableServiceLinks must not be false"
                ),
            },
            None => Wrong {
                expected: format!("the environment variable {name}, and it is not set"),
                remedy: format!("set {name}, or write the address itself"),
            },
        }),
    }
}
