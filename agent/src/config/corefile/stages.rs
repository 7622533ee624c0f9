// SPDX-License-Identifier: Apache-2.0
//! A query's way through the plugins of a block that answer without asking anybody, as rules of
//! `zones[].answers`: the first that fits counts. Where a plugin ends the way for all other names of a
//! zone but lets those of some zones pass, the rules of the plugins behind it come in between.

use super::plugins::At;
use super::values::{encloses, labels};
use crate::config::limits;
use crate::config::yaml::Place;

/// One rule of `zones[].answers`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// A type, or ANY.
    pub(super) kind: String,
    pub(super) name: String,
    /// It is for names at least so many labels below the name; 0: for the name alone.
    pub(super) below: usize,
    /// What is answered.
    pub(super) says: String,
    pub(super) place: Place,
}

/// What one plugin answers.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) rules: Vec<Rule>,
    pub(super) ends: Vec<End>,
}

/// A zone whose other names come no further.
#[derive(Debug)]
pub(super) struct End {
    pub(super) kind: String,
    pub(super) zone: String,
    pub(super) rcode: &'static str,
    /// Types and zones that come further all the same.
    pub(super) passes: Vec<(String, String)>,
    pub(super) place: Place,
}

impl Rule {
    /// Rules for all names of a zone.
    fn of_zone(kind: &str, zone: &str, says: &str, place: Place) -> [Self; 2] {
        [0, 1].map(|below| Self {
            kind: kind.to_owned(),
            name: zone.to_owned(),
            below,
            says: says.to_owned(),
            place,
        })
    }

    /// What of it is about names of a zone.
    fn within(&self, zone: &str) -> Vec<Self> {
        if encloses(zone, &self.name) {
            return vec![self.clone()];
        }
        if self.below == 0 || !encloses(&self.name, zone) {
            return Vec::new();
        }
        let depth = labels(zone).saturating_sub(labels(&self.name));
        match self.below.saturating_sub(depth) {
            0 => Self::of_zone(&self.kind, zone, &self.says, self.place).to_vec(),
            below => vec![Self {
                name: zone.to_owned(),
                below,
                ..self.clone()
            }],
        }
    }

    /// As it is written in the configuration.
    fn line(&self) -> At<String> {
        let (kind, says) = (&self.kind, &self.says);
        let stars = vec!["*"; self.below].join(".");
        let pattern = match (self.below, self.name.as_str()) {
            // A name that begins with one is no pattern.
            (0, name) if name.starts_with('*') => format!("\\{name}"),
            (0, name) => name.to_owned(),
            (_, ".") => stars,
            (_, name) => format!("{stars}.{name}"),
        };
        (format!("{kind} {pattern} {says}"), self.place)
    }
}

/// The rules of plugins, in the order of theirs, as far as they are about names of a zone. One more
/// than may be where there are more.
pub(super) fn lines(stages: &[&Stage], zone: &str) -> Vec<At<String>> {
    let mut out = Vec::new();
    flow(stages, zone, true, &mut out);
    out.iter().map(Rule::line).collect()
}

/// `is_all`: `zone` is all that there is, so that rules need not be cut down to it.
fn flow(stages: &[&Stage], zone: &str, is_all: bool, out: &mut Vec<Rule>) {
    let Some((stage, behind)) = stages.split_first() else {
        return;
    };
    for rule in &stage.rules {
        put(rule, zone, is_all, out);
    }
    for end in &stage.ends {
        for (kind, passed) in &end.passes {
            let passed = match () {
                () if encloses(zone, passed) => passed,
                () if encloses(passed, zone) => zone,
                () => continue,
            };
            if out.len() > limits::MAX_ANSWERS {
                return;
            }
            flow(behind, passed, false, out);
            for rule in Rule::of_zone(kind, passed, "ASK", end.place) {
                put(&rule, zone, is_all, out);
            }
        }
        for rule in Rule::of_zone(&end.kind, &end.zone, end.rcode, end.place) {
            put(&rule, zone, is_all, out);
        }
    }
    flow(behind, zone, is_all, out);
}

fn put(rule: &Rule, zone: &str, is_all: bool, out: &mut Vec<Rule>) {
    // Above the bound it is refused, and how many there are is of no interest.
    if out.len() > limits::MAX_ANSWERS {
        return;
    }
    let within = rule.within(zone);
    match (is_all, within.is_empty()) {
        (true, false) => out.push(rule.clone()),
        _ => out.extend(within),
    }
}
