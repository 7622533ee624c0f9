// SPDX-License-Identifier: Apache-2.0
//! The ways to the upstreams: UDP, TLS, the servers of a resolv.conf that changes, and queries that
//! would go round in a circle.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

mod loops;
mod resolv_conf;
mod tls;
mod udp;

use std::time::Duration;

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::process::wait_for;

/// Longest wait for anything, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Type A.
const A: u16 = 1;
/// Extended DNS Error 22, No Reachable Authority.
const NO_AUTHORITY: u16 = 22;

/// An agent with this list of zones.
fn with_zones(zones: &str) -> Builder {
    Agent::builder().set("zones", zones)
}

/// Waits until a metric has this value.
#[track_caller]
fn wait_for_metric(agent: &Agent, name: &str, labels: &[(&str, &str)], value: u32) {
    let mut last = 0.0;
    let reached = wait_for(name, PATIENCE, || {
        last = agent.metric(name, labels)?;
        Ok((last == f64::from(value)).then_some(()))
    });
    let log = agent.log();
    assert!(
        reached.is_ok(),
        "{name} {labels:?} is {last}, not {value}: {log}"
    );
}

/// The lines of the log that have all of these words.
#[track_caller]
fn said(agent: &Agent, words: &[&str]) -> usize {
    let log = agent.log();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).count()
}
