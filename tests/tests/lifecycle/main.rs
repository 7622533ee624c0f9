// SPDX-License-Identifier: Apache-2.0
//! The real program from its first answer to its end: readiness, outages, drain, reload, and
//! addresses that come and go.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

mod addresses;
mod drain;
mod readiness;
mod reload;

use std::time::Duration;

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::fault::{Fault, Gate, Reply, Step};
use nodens_tests::process::wait_for;

/// Longest wait for anything, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Type A.
const A: u16 = 1;
/// Lives for a day: no test sees it expire.
const DAY: &str = "day.example.org";

/// An upstream that answers when the gate is open.
fn held(gate: &Gate) -> Fault {
    let gate = gate.clone();
    Fault::start(move |_| {
        gate.wait();
        vec![Step::Send(Reply::Address)]
    })
    .unwrap()
}

/// No deadline comes before a gate opens, on however busy a machine.
fn patient() -> Builder {
    Agent::builder()
        .set("limits.queryTimeout", "30s")
        .set("limits.attemptTimeout", "10s")
        .set("limits.drainTimeout", "60s")
}

/// Waits until a metric has this value.
#[track_caller]
fn wait_for_metric(agent: &Agent, name: &str, labels: &[(&str, &str)], value: u32) {
    let mut last = 0.0;
    let reached = wait_for(name, PATIENCE, || {
        last = agent.metric(name, labels)?;
        Ok((last == f64::from(value)).then_some(()))
    });
    assert!(reached.is_ok(), "{name} {labels:?} is {last}, not {value}");
}

/// Waits until `/readyz` and `/healthz` both say yes.
#[track_caller]
fn wait_until_ready(agent: &Agent) {
    let mut last = String::new();
    let reached = wait_for("ready and live", PATIENCE, || {
        let verdicts = [agent.health("/readyz")?, agent.health("/healthz")?];
        last = format!("{verdicts:?}");
        Ok(verdicts.iter().all(|v| v.status == 200).then_some(()))
    });
    assert!(reached.is_ok(), "{last}");
}
