// SPDX-License-Identifier: Apache-2.0
//! A query's way through the plugins of a block that answer without asking anybody, as rules of
//! `zones[].answers`: the first that fits counts. Where a plugin lets names of some zones pass that
//! it keeps else, the rules of the plugins behind it come in between.

use super::plugins::At;
use super::values::{Zones, encloses, labels};
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

/// What one plugin does, in this order.
pub(super) type Stage = Vec<Step>;

/// One thing that a plugin does.
#[derive(Debug)]
pub(super) enum Step {
    /// It answers.
    Answer(Rule),
    /// These go on to the next plugin, and nothing of this one is for them any more.
    Pass(Names),
    /// These come no further.
    End(Names, &'static str),
}

/// Names of a zone, asked for by type.
#[derive(Debug)]
pub(super) struct Names {
    /// A type, or ANY.
    pub(super) kind: String,
    pub(super) zone: String,
    pub(super) place: Place,
}

/// What one Corefile may cost.
#[derive(Debug)]
pub(super) struct Budget {
    /// Rules, of all zones.
    answers: usize,
    /// Names of `hosts`, of all blocks.
    names: usize,
    /// Looks at what a plugin does, of all zones.
    looks: usize,
}

const MAX_LOOKS: usize = limits::MAX_ANSWERS * limits::MAX_ZONES;

impl Default for Budget {
    fn default() -> Self {
        Self {
            answers: limits::MAX_ANSWERS,
            names: limits::MAX_ANSWERS,
            looks: MAX_LOOKS,
        }
    }
}

impl Budget {
    /// Takes so many looks; `None` where there are not so many.
    pub(super) fn look(&mut self, times: usize) -> Option<()> {
        let left = self.looks.checked_sub(times);
        self.looks = left.unwrap_or_default();
        left.map(|_| ())
    }

    /// Takes a name; `None` where there is none left.
    pub(super) fn name(&mut self) -> Option<()> {
        self.names = self.names.checked_sub(1)?;
        Some(())
    }

    /// What was found and what was expected where there is nothing left.
    pub(super) fn explain(&self) -> (String, String) {
        if self.looks == 0 {
            let found = "answers of template and hosts for very many zones".to_owned();
            let expected = format!("at most {MAX_LOOKS}, each counted for each of its zones");
            return (found, expected);
        }
        let most = limits::MAX_ANSWERS;
        let found = format!("more than {most} answers of template and hosts in all blocks");
        (found, format!("at most {most} in all zones"))
    }
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
    pub(super) fn within(&self, zone: &str) -> Vec<Self> {
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

impl Names {
    /// Those of them that are of a type and in a zone, too.
    fn met<'a>(&'a self, kind: &'a str, zone: &'a str) -> Option<(&'a str, &'a str)> {
        let kind = common(&self.kind, kind)?;
        if encloses(zone, &self.zone) {
            return Some((kind, &self.zone));
        }
        encloses(&self.zone, zone).then_some((kind, zone))
    }
}

/// The type that both are for.
fn common<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    match (one, other) {
        ("ANY", kind) | (kind, "ANY") => Some(kind),
        (one, other) => (one == other).then_some(one),
    }
}

/// The rules of plugins, in the order of theirs, as far as they are about names of a zone. `None`
/// where they are more than the Corefile may have.
pub(super) fn lines(budget: &mut Budget, stages: &[&Stage], zone: &str) -> Option<Vec<At<String>>> {
    let mut flow = Flow {
        budget,
        settled: Vec::new(),
        rules: Vec::new(),
    };
    flow.through(stages, "ANY", zone)?;
    // So it is without a rule.
    while flow.rules.pop_if(|rule| rule.says == "ASK").is_some() {}
    Some(flow.rules.iter().map(Rule::line).collect())
}

struct Flow<'a> {
    budget: &'a mut Budget,
    /// Zones by type whose names all have a rule: what comes behind is not for them.
    settled: Vec<(String, Zones)>,
    rules: Vec<Rule>,
}

impl Flow<'_> {
    fn through(&mut self, stages: &[&Stage], kind: &str, zone: &str) -> Option<()> {
        let mut rest = stages;
        while let Some((stage, behind)) = rest.split_first() {
            rest = behind;
            for step in *stage {
                self.budget.look(1)?;
                match step {
                    Step::Answer(rule) => self.answer(rule, kind, zone)?,
                    Step::Pass(names) => {
                        let Some((kind, zone)) = names.met(kind, zone) else {
                            continue;
                        };
                        if !self.is_settled(kind, zone) {
                            // As deep as there are plugins at most.
                            self.through(behind, kind, zone)?;
                            self.settle(kind, zone, "ASK", names.place)?;
                        }
                    }
                    Step::End(names, rcode) => {
                        if let Some((kind, zone)) = names.met(kind, zone) {
                            self.settle(kind, zone, rcode, names.place)?;
                        }
                    }
                }
            }
            if self.is_settled(kind, zone) {
                break;
            }
        }
        Some(())
    }

    fn answer(&mut self, rule: &Rule, kind: &str, zone: &str) -> Option<()> {
        let Some(kind) = common(&rule.kind, kind) else {
            return Some(());
        };
        for rule in rule.within(zone) {
            if !self.is_settled(kind, &rule.name) {
                let kind = kind.to_owned();
                self.put(Rule { kind, ..rule })?;
            }
        }
        Some(())
    }

    /// One rule for all names of a zone that have none yet.
    fn settle(&mut self, kind: &str, zone: &str, says: &str, place: Place) -> Option<()> {
        if self.is_settled(kind, zone) {
            return Some(());
        }
        for rule in Rule::of_zone(kind, zone, says, place) {
            self.put(rule)?;
        }
        match self.settled.iter_mut().find(|(other, _)| other == kind) {
            Some((_, zones)) => zones.add(zone),
            None => {
                let mut zones = Zones::default();
                zones.add(zone);
                self.settled.push((kind.to_owned(), zones));
            }
        }
        Some(())
    }

    fn is_settled(&self, kind: &str, zone: &str) -> bool {
        let mut of_kind = self.settled.iter();
        of_kind.any(|(other, zones)| (other == "ANY" || other == kind) && zones.enclose(zone))
    }

    fn put(&mut self, rule: Rule) -> Option<()> {
        self.budget.answers = self.budget.answers.checked_sub(1)?;
        self.rules.push(rule);
        Some(())
    }
}
