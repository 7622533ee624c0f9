// SPDX-License-Identifier: Apache-2.0
//! The agent or its node dies.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;

use crate::acceptance::stage::{PATIENCE, RELEASE, Stage, losses};
use crate::cluster::Machine;
use crate::cluster::pods::Pod;
use crate::drill::flow::Tally;
use crate::drill::rows::Outcome;
use crate::drill::stage::describe;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::node::Server;
use crate::process::wait_for;

/// Queries a second of the pod whose agent it hits.
const RATE: u64 = 1_000;
/// Queries a second of a pod on the other node.
const OTHER: u64 = 200;

/// SIGKILL of the process, under load.
pub(super) fn kill(stage: &Stage) -> Outcome {
    let (hit, other) = (Machine::Node(1), Machine::Node(2));
    let agent = stage.agent(hit)?;
    let flow = stage.flow(&stage.client(hit)?, RATE)?;
    let aside = stage.flow(&stage.client(other)?, OTHER)?;
    let event = now_ns();
    stage.signal(&agent, Signal::KILL)?;
    let began = Instant::now();
    wait_until_started_again(stage, &agent)?;
    let back = began.elapsed();
    stage.wait(2.0);
    let tally = flow.stop()?;
    let aside = aside.stop()?;
    Ok((
        vec![
            Figure::count(" lost", tally.lost(0, u64::MAX) as u64, 10, 5),
            Figure::time(
                " ms until the agent answers again",
                Some(back),
                60_000.0,
                5_000.0,
            ),
            Figure::count(" noticed on the other node", noticed(&aside), 0, 0),
        ],
        vec![
            describe(&tally, event, u64::MAX),
            format!("lost since the kill: {}", losses(&tally, event)),
            format!("other node: {}", describe(&aside, 0, u64::MAX)),
        ],
    ))
}

/// Killed as soon as it is back, until kubelet waits before it starts it again.
pub(super) fn back_off(stage: &Stage) -> Outcome {
    let node = Machine::Node(1);
    let flow = stage.flow(&stage.client(node)?, RATE)?;
    let kills = stage.pick(4, 2);
    let mut events = Vec::new();
    let mut longest = Duration::ZERO;
    for _ in 0..kills {
        let agent = stage.agent(node)?;
        events.push(now_ns());
        stage.signal(&agent, Signal::KILL)?;
        let began = Instant::now();
        wait_until_started_again(stage, &agent)?;
        longest = longest.max(began.elapsed());
        stage.wait(0.5);
    }
    stage.wait(2.0);
    let tally = flow.stop()?;
    let ends = events.iter().skip(1).copied().chain([u64::MAX]);
    let lost = events
        .iter()
        .zip(ends)
        .map(|(&event, end)| tally.lost(event, end));
    let worst = lost.max().unwrap_or(0) as u64;
    let mut details = vec![
        format!(
            "{kills} kills, away for {:.0} s at most",
            longest.as_secs_f64()
        ),
        describe(&tally, 0, u64::MAX),
    ];
    for event in events {
        details.push(format!("lost since a kill: {}", losses(&tally, event)));
    }
    Ok((
        vec![
            Figure::count(" lost in the worst kill", worst, 10, 5),
            Figure::count(" wrong", tally.wrong, 0, 0),
        ],
        details,
    ))
}

/// SIGSTOP of the process, under load, until kubelet has ended it and it is back.
pub(super) fn stop(stage: &Stage) -> Outcome {
    let node = Machine::Node(1);
    let agent = stage.agent(node)?;
    let flow = stage.flow(&stage.client(node)?, RATE)?;
    let event = now_ns();
    let began = Instant::now();
    stage.signal(&agent, Signal::STOP)?;
    wait_until_started_again(stage, &agent)?;
    let back = began.elapsed();
    stage.wait(2.0);
    let end = now_ns();
    let tally = flow.stop()?;
    // Until CoreDNS has answered on every address, and then until nothing happens any more.
    let gap = tally.gap(event, end);
    let switched = event + u64::try_from(gap.as_nanos())?;
    Ok((
        vec![
            Figure::time(" ms gap", Some(gap), 1_200.0, 1_000.0),
            Figure::count(
                " lost after it",
                tally.lost(switched, u64::MAX) as u64,
                10,
                0,
            ),
            Figure::time(
                " ms until the agent answers again",
                Some(back),
                90_000.0,
                60_000.0,
            ),
        ],
        vec![
            describe(&tally, event, u64::MAX),
            format!("lost since then: {}", losses(&tally, event)),
        ],
    ))
}

/// A node's processes end at once, and start again a moment later; its network stays as it was.
pub(super) fn reboot(stage: &Stage) -> Outcome {
    let (hit, other) = (Machine::Node(1), Machine::Node(2));
    let aside = stage.flow(&stage.client(other)?, OTHER)?;
    let before = stage.agent(hit)?;
    stage.cluster.cut_power(hit)?;
    stage.wait(stage.pick(10.0, 2.0));
    stage.cluster.begin(hit)?;
    let began = Instant::now();
    wait_for("the agent of the node that came back", PATIENCE, || {
        let agent = stage.agent(hit).ok();
        Ok(agent.filter(|now| now.pid != before.pid))
    })?;
    stage.roll_out("kube-system", &format!("ds/{RELEASE}"))?;
    stage.roll_out(crate::acceptance::objects::NAMESPACE, "ds/client")?;
    wait_for("a client on the node that came back", PATIENCE, || {
        Ok(stage.client(hit).ok())
    })?;
    stage.wait_until_answered_by(hit, Server::Agent)?;
    let back = began.elapsed();
    let flow = stage.flow(&stage.client(hit)?, RATE)?;
    let steady = now_ns();
    stage.wait(5.0);
    let tally = flow.stop()?;
    let aside = aside.stop()?;
    ensure!(tally.asked(steady, u64::MAX) > 0, "nothing was asked");
    Ok((
        vec![
            Figure::time(
                " ms until it resolves by its agent",
                Some(back),
                120_000.0,
                30_000.0,
            ),
            Figure::count(" lost then", tally.lost(steady, u64::MAX) as u64, 0, 0),
            Figure::count(
                " lost on the other node",
                aside.lost(0, u64::MAX) as u64,
                0,
                0,
            ),
        ],
        vec![
            describe(&tally, steady, u64::MAX),
            format!("other node: {}", describe(&aside, 0, u64::MAX)),
        ],
    ))
}

/// Waits until kubelet has started a killed agent again and its clients are answered by it.
fn wait_until_started_again(stage: &Stage, killed: &Pod) -> anyhow::Result<()> {
    wait_for("kubelet to start the agent again", PATIENCE, || {
        let agent = stage.agent(killed.node).ok();
        Ok(agent.filter(|now| now.restarts > killed.restarts))
    })?;
    stage.wait_until_answered_by(killed.node, Server::Agent)
}

/// What a pod that should notice nothing has noticed: queries lost, wrong, or answered by another.
fn noticed(tally: &Tally) -> u64 {
    let lost = tally.lost(0, u64::MAX) + tally.by(Server::CoreDns, 0, u64::MAX);
    lost as u64 + tally.wrong
}
