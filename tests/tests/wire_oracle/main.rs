// SPDX-License-Identifier: Apache-2.0
//! The agent's `wire` and hickory-proto agree on what is valid and on what it says, and replies
//! made of it can be read: on random messages, on damaged ones, on octets, and on the seeds of the
//! fuzzer.
//!
//! The random numbers are the same in every run: `make fuzz` is what explores. `PROPTEST_CASES`
//! sets how many cases each property has.

mod generate;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nodens_tests::oracle::{Asked, Difference, Verdict, check_query, check_response};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// What became of the cases of one property.
#[derive(Debug, Default)]
struct Tally {
    accepted: u32,
    refused: u32,
    differences: BTreeMap<Difference, u32>,
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        if verdict.accepted {
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
        for difference in &verdict.differences {
            *self.differences.entry(*difference).or_default() += 1;
        }
    }

    /// Both sides were seen, and known differences are no more than so many in a hundred.
    fn is_fair(&self, least_accepted: u32, least_refused: u32, most_differences: u32) {
        let total = self.accepted + self.refused;
        let share = |count: u32| count * 100 / total;
        assert!(share(self.accepted) >= least_accepted, "{self:?}");
        assert!(share(self.refused) >= least_refused, "{self:?}");
        let differences = self.differences.values().sum::<u32>();
        assert!(share(differences) <= most_differences, "{self:?}");
    }
}

/// Runs a property and counts what became of its cases.
fn tally<T: std::fmt::Debug>(
    cases: &impl Strategy<Value = T>,
    check: impl Fn(&T) -> anyhow::Result<Vec<Verdict>>,
) -> Tally {
    let config = Config {
        cases: Config::default().cases.max(2_000),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let tally = RefCell::new(Tally::default());
    let outcome = TestRunner::new_with_rng(config, rng).run(cases, |case| {
        let verdicts = check(&case).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        let mut tally = tally.borrow_mut();
        verdicts.iter().for_each(|verdict| tally.count(verdict));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    tally.into_inner()
}

#[test]
fn queries_as_hickory_writes_them_are_taken_and_say_the_same() {
    let tally = tally(&generate::query(), |query| Ok(vec![check_query(query)?]));
    tally.is_fair(80, 5, 1);
}

#[test]
fn damaged_queries_are_taken_or_refused_by_both() {
    let cases = (generate::query(), generate::damages());
    let tally = tally(&cases, |(query, damages)| {
        let query = generate::damage(query.clone(), damages);
        Ok(vec![check_query(&query)?])
    });
    tally.is_fair(20, 20, 5);
}

#[test]
fn octets_are_taken_for_queries_by_both_or_neither() {
    let tally = tally(&generate::octets(0x0100), |octets| {
        Ok(vec![check_query(octets)?])
    });
    tally.is_fair(0, 50, 5);
}

#[test]
fn responses_as_hickory_writes_them_are_taken_and_say_the_same() {
    let tally = tally(&generate::response(), |(response, asked)| {
        Ok(vec![check_response(response, asked)?])
    });
    tally.is_fair(99, 0, 1);
}

#[test]
fn damaged_responses_are_taken_or_refused_by_both() {
    let cases = (generate::response(), generate::damages());
    let tally = tally(&cases, |((response, asked), damages)| {
        let response = generate::damage(response.clone(), damages);
        let claimed = Asked::claimed_by(&response);
        Ok(vec![
            check_response(&response, asked)?,
            check_response(&response, &claimed)?,
        ])
    });
    tally.is_fair(20, 20, 5);
}

#[test]
fn octets_are_taken_for_responses_by_both_or_neither() {
    let tally = tally(&generate::octets(0x8180), |octets| {
        Ok(vec![check_response(octets, &Asked::claimed_by(octets))?])
    });
    tally.is_fair(0, 50, 5);
}

#[test]
fn a_response_to_another_question_or_id_is_never_taken() {
    tally(&generate::response(), |(response, asked)| {
        let mut other = asked.clone();
        other.id ^= 1;
        let mut longer = asked.clone();
        longer.question.insert(0, 1);
        longer.question.insert(1, b'x');
        let mut other_type = asked.clone();
        let at = asked.question.len() - 3;
        other_type.question[at] ^= 1;
        let mut verdicts = Vec::new();
        for asked in [other, longer, other_type] {
            let verdict = check_response(response, &asked)?;
            anyhow::ensure!(!verdict.accepted, "taken for an answer to {asked:?}");
            verdicts.push(verdict);
        }
        Ok(verdicts)
    });
}

/// The seeds of one fuzz target: names and octets.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let files = fs::read_dir(folder.join(target)).expect("the folder of the seeds");
    let seeds: Vec<_> = files
        .map(|file| {
            let path = file.expect("a seed").path();
            let octets = fs::read(&path).expect("the octets of a seed");
            (path.display().to_string(), octets)
        })
        .collect();
    assert!(!seeds.is_empty(), "no seeds for {target}");
    seeds
}

#[test]
fn every_known_difference_has_a_seed_and_no_seed_has_an_unknown_one() {
    let mut seen = BTreeMap::new();
    let mut note = |name: String, verdict: anyhow::Result<Verdict>| {
        let verdict = verdict.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        for difference in verdict.differences {
            seen.insert(difference, name.clone());
        }
    };
    for (name, octets) in seeds("query") {
        note(name, check_query(&octets));
    }
    for (name, octets) in seeds("response") {
        note(name, check_response(&octets, &Asked::claimed_by(&octets)));
    }
    for difference in Difference::ALL {
        // One that is gone (with another hickory) leaves the list.
        assert!(seen.contains_key(&difference), "{difference:?} has no seed");
    }
}
