// SPDX-License-Identifier: Apache-2.0
//! Replays `tests/replay/*.rpl` against the cache and the resolving side as they are, with upstream
//! servers on real sockets and a clock that only the scenario moves; and keeps docs/rules.md, the
//! table of rules, as the scenarios' headers have it.
//!
//! A scenario reads like Unbound's: steps that ask, check what goes upstream, answer it, let time
//! pass and check what clients got. [`script`] has the words.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has pauses and an environment of its own"
)]

mod config;
mod message;
mod play;
mod rules;
mod script;
mod upstream;

use std::path::PathBuf;

use script::Scenario;

/// Where the scenarios are.
fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/replay"))
}

/// Every scenario, in the order of its file's name.
fn scenarios() -> Vec<Scenario> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rpl"))
        .collect();
    files.sort();
    files.iter().map(|file| Scenario::read(file)).collect()
}

/// `REPLAY=stale` plays the scenarios alone whose file's name holds the word.
#[test]
fn every_scenario_goes_as_it_is_written() {
    let wanted = std::env::var("REPLAY").unwrap_or_default();
    let mut wrong = Vec::new();
    let mut played = 0;
    for scenario in scenarios() {
        if !scenario.name.contains(&wanted) {
            continue;
        }
        played += 1;
        if let Err(why) = play::play(&scenario) {
            wrong.push(why);
        }
    }
    assert!(played > 0, "no scenario has {wanted:?} in its name");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}
