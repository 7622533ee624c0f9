// SPDX-License-Identifier: Apache-2.0
//! The agent is replaced, as a rollout does it, and how soon it serves.

use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use super::Outcome;
use crate::drill::stage::{Stage, describe};
use crate::drill::streams::Streams;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::load::report::median;
use crate::node::{NodeAgent, Server};

/// Longest wait for the end of a drain: more than `limits.drainTimeout`.
const DRAIN: Duration = Duration::from_secs(30);
/// TCP connections that ask once a second.
const STREAMS: u32 = 20;

/// SIGTERM, the end, a new start, the first answers: nobody notices.
pub(super) fn restart(stage: &Stage<'_>) -> Outcome {
    let times = stage.pick(20, 3);
    let mut agent = stage.agent()?;
    let flow = stage.flow()?;
    let space = stage.node.space(stage.from);
    let streams = Streams::start(space, &stage.asked(), STREAMS, Duration::from_secs(1))?;
    stage.wait(2.0, 1.2);
    let (mut drains, mut returns) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let told = now_ns();
        drain(&mut agent)?;
        let ended = now_ns();
        agent.start_again(stage.node)?;
        stage.wait_for_return(&agent)?;
        let returned = now_ns();
        drains.push(Duration::from_nanos(ended - told).as_secs_f64());
        returns.push(Duration::from_nanos(returned - ended).as_secs_f64());
        stage.wait(1.5, 1.2);
    }
    let report = streams.stop();
    let tally = flow.stop()?;
    let lost = tally.lost(0, u64::MAX);
    let mut details = vec![
        format!(
            "{times} times; drain {:.2} s, back after {:.2} s (medians)",
            median(&drains).unwrap_or_default(),
            median(&returns).unwrap_or_default()
        ),
        format!("UDP: {}", describe(&tally, 0, u64::MAX)),
        format!(
            "TCP: {} queries on {STREAMS} connections, {} by the agent, {} by CoreDNS; closed \
             between answers {}",
            report.asked,
            report.by(Server::Agent, 0, u64::MAX),
            report.by(Server::CoreDns, 0, u64::MAX),
            report.closed
        ),
    ];
    details.extend(report.faults.iter().take(5).cloned());
    Ok((
        vec![
            Figure::count(" lost", lost as u64, 0, 0),
            Figure::count(" reset", report.resets, 0, 0),
            Figure::count(" lost over TCP", report.lost, 0, 0),
        ],
        details,
    ))
}

/// From exec to the first answer on the slowest address. A program that asks the kernel to end the
/// agent with us runs before it, about 1 ms.
pub(super) fn start(stage: &Stage<'_>) -> Outcome {
    let mut agent = stage.agent()?;
    let flow = stage.flow()?;
    let mut events = Vec::new();
    for _ in 0..stage.pick(7, 3) {
        drain(&mut agent)?;
        stage.wait(0.5, 0.3);
        events.push(now_ns());
        agent.start_again(stage.node)?;
        stage.wait_for_return(&agent)?;
        stage.wait(0.5, 0.3);
    }
    let tally = flow.stop()?;
    let firsts = events
        .iter()
        .filter_map(|&event| tally.first(Server::Agent, event));
    let times: Vec<f64> = firsts.map(|first| first.as_secs_f64()).collect();
    ensure!(times.len() == events.len(), "an agent never answered");
    let middle = median(&times).map(Duration::from_secs_f64);
    let list: Vec<_> = times.iter().map(|t| format!("{:.1}", t * 1e3)).collect();
    Ok((
        vec![Figure::time(" ms", middle, 40.0, 25.0)],
        vec![format!("median of {} ms", list.join(", "))],
    ))
}

/// SIGTERM, and the end it must come to.
fn drain(agent: &mut NodeAgent) -> anyhow::Result<()> {
    agent.signal(Signal::TERM)?;
    let status = agent.wait(DRAIN)?;
    ensure!(status.code() == Some(0), "{status}\n{}", agent.log());
    Ok(())
}
