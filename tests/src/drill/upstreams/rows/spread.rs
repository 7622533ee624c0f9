// SPDX-License-Identifier: Apache-2.0
//! Which of the pods behind one address the queries go to: the kernel chooses, once a connection.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::drill::upstreams::fleet::{Fleet, Kind};
use crate::drill::upstreams::trial::{PER_SECOND, Scene, To, Trial};
use crate::load::now_ns;

/// Connections that the load of [`balance`] must need.
const CONNECTIONS: usize = 16;
/// What an answer takes there: at 1,000 a second 25 queries are under way on average.
const DELAY: Duration = Duration::from_millis(25);
/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A fourth pod; what it carries in the last third of a minute.
pub(super) fn join(scene: &Scene) -> Outcome {
    let mut fleet = Fleet::new(Kind::THREE)?;
    fleet.add(1)?;
    let trial = Trial::start(scene, fleet, To::Service, PER_SECOND)?;
    let joined = now_ns();
    trial.fleet.serve(&[0, 1, 2, 3])?;
    let mut connections = Vec::new();
    for _ in 0..60 {
        thread::sleep(Duration::from_secs(1));
        connections.push(trial.fleet.connections()?);
    }
    let end = joined + 60 * SECOND;
    let ended = trial.stop()?;
    let (_, mut details) = ended.judge(joined, end)?;
    let tens = (0..6).map(|ten| {
        let from = joined + ten * 10 * SECOND;
        let share = ended.tally.share(3, from, from + 10 * SECOND);
        format!("{:.0} %", 100.0 * share)
    });
    details.push(format!(
        "the new pod's share, ten seconds each: {}; {} connections in the middle, {} at most",
        tens.collect::<Vec<_>>().join(", "),
        middle(&connections),
        connections.iter().max().copied().unwrap_or(0)
    ));
    let share = ended.tally.share(3, end - 20 * SECOND, end);
    Ok((
        vec![Figure::percent(" % by the new pod", 100.0 * share, 15.0, 25.0).least()],
        details,
    ))
}

/// What the busiest of three carries. The upstream takes so long that many connections are needed:
/// with a few, chance alone could give one pod most of them.
pub(super) fn balance(scene: &Scene) -> Outcome {
    let fleet = Fleet::new(Kind {
        late: Some(DELAY),
        ..Kind::THREE
    })?;
    let trial = Trial::start(scene, fleet, To::Service, PER_SECOND)?;
    let begin = now_ns();
    let mut connections = Vec::new();
    for _ in 0..scene.pick(120, 5) {
        thread::sleep(Duration::from_secs(1));
        connections.push(trial.fleet.connections()?);
    }
    let end = now_ns();
    let ended = trial.stop()?;
    let (span, mut details) = ended.judge(begin, end)?;
    let middle = middle(&connections);
    details.push(format!("{middle} connections in the middle"));
    ensure!(
        middle >= CONNECTIONS,
        "{middle} connections: the load does not need {CONNECTIONS}; {}",
        span.describe()
    );
    let shares = (0..3).map(|pod| ended.tally.share(pod, begin, end));
    let most = 100.0 * shares.fold(0.0, f64::max);
    // In the short form no connection is renewed, so that there is one throw of the dice for each:
    // of 20 connections, three quarters or more go to one pod once in 2,000 times.
    let [must, aim] = scene.pick([55.0, 45.0], [75.0, 75.0]);
    let figure = Figure::percent(" % by the busiest", most, must, aim);
    Ok((vec![figure.firm()], details))
}

fn middle(counts: &[usize]) -> usize {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
