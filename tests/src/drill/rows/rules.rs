// SPDX-License-Identifier: Apache-2.0
//! What is in the kernel beside the agent's rules: connection tracking, and other programs' rules.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use super::Outcome;
use crate::drill::flow::{Flow, Plan};
use crate::drill::stage::{Stage, describe};
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::load::report::median;
use crate::node::{Family, From, Server, iptables_restore, shape};
use crate::process::wait_for;

/// Queries a second of the drill that counts entries.
const FAST: u64 = 10_000;
/// Rules of another program.
const RULES: u32 = 40_000;

/// Every query is a datagram of its own; none may be remembered.
pub(super) fn conntrack(stage: &Stage<'_>) -> Outcome {
    let mut agent = stage.agent()?;
    let from = pod(stage.from);
    let plan = Plan {
        servers: stage.asked(),
        per_second: FAST,
        names: 100,
    };
    let queries = stage.pick(100_000, 10_000);
    stage.node.host().run("conntrack -F")?;
    let flow = Flow::start(stage.node.space(from), plan.clone())?;
    wait_for("the queries to be sent", Duration::from_secs(60), || {
        Ok((flow.asked() >= queries).then_some(()))
    })?;
    let tally = flow.stop()?;
    for server in stage.asked() {
        for _ in 0..10 {
            stage.node.ask(from, server, true, Duration::from_secs(2))?;
        }
    }
    // Entries of UDP live for 30 s: all are still here.
    let entries = entries(stage)?;
    let mut details = vec![describe(&tally, 0, u64::MAX)];
    if stage.has_coredns() {
        // The count is worth something only where it can be other than 0.
        agent.signal(Signal::KILL)?;
        thread::sleep(Duration::from_millis(200));
        let flow = Flow::start(stage.node.space(from), plan)?;
        thread::sleep(Duration::from_millis(500));
        flow.stop()?;
        let without = self::entries(stage)?;
        ensure!(without > 0, "no entry even without an agent");
        details.push(format!("without an agent the same sockets make {without}"));
    }
    Ok((
        vec![Figure::count(" entries", entries, 0, 0), lost(&tally, 0)],
        details,
    ))
}

/// Entries of DNS that a pod's packet has made, in both families.
fn entries(stage: &Stage<'_>) -> anyhow::Result<u64> {
    let mut count = 0;
    for (family, pods) in [("ipv4", "src=10.244."), ("ipv6", "src=fd00:10:244:")] {
        let list = stage
            .node
            .host()
            .run(&format!("conntrack -L -f {family}"))?;
        let made = list.lines().filter(|line| {
            // The first address is that of the packet which made the entry.
            let first = line
                .split_whitespace()
                .find(|word| word.starts_with("src="));
            first.is_some_and(|source| source.starts_with(pods)) && line.contains("dport=53 ")
        });
        count += made.count() as u64;
    }
    Ok(count)
}

/// The place itself, or the pod behind a veth for the host's network, which is none.
fn pod(from: From) -> From {
    if from == From::Host { From::Veth } else { from }
}

/// Another program loads many rules: netlink stands still meanwhile.
pub(super) fn restore(stage: &Stage<'_>) -> Outcome {
    let agent = stage.agent()?;
    let rules = shape::ballast(RULES);
    let command = iptables_restore(Family::V4);
    let flow = stage.flow()?;
    let trips = stage.trips(&agent)?;
    let is_over = AtomicBool::new(false);
    let begin = now_ns();
    let mut times = Vec::new();
    thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let mut times = Vec::new();
            while !is_over.load(Relaxed) {
                let begun = now_ns();
                stage.node.host().feed(&command, &rules)?;
                times.push(Duration::from_nanos(now_ns() - begun).as_secs_f64());
            }
            anyhow::Ok(times)
        });
        stage.wait(30.0, 6.0);
        is_over.store(true, Relaxed);
        times = loading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok(())
    })?;
    let tally = flow.stop()?;
    let trips = stage.trips(&agent)? - trips;
    Ok((
        steady(&tally, begin, trips),
        vec![
            format!(
                "{} loads of {RULES} rules, {:.1} s each",
                times.len(),
                median(&times).unwrap_or_default()
            ),
            describe(&tally, begin, u64::MAX),
        ],
    ))
}

/// Queries that nobody answered. The goal is none; a few may drown in the client's own queue while
/// others have its CPU.
fn lost(tally: &crate::drill::flow::Tally, begin: u64) -> Figure {
    Figure::count(" lost", tally.lost(begin, u64::MAX) as u64, 10, 0)
}

/// The figures of a drill in which nothing may happen.
pub(super) fn steady(tally: &crate::drill::flow::Tally, begin: u64, trips: u64) -> Vec<Figure> {
    let strangers = tally.by(Server::CoreDns, begin, u64::MAX);
    vec![
        Figure::count(" trips", trips, 0, 0),
        Figure::count(" answered by CoreDNS", strangers as u64, 0, 0),
        lost(tally, begin),
    ]
}

/// As a restart of the host's nftables service does.
pub(super) fn flush(stage: &Stage<'_>) -> Outcome {
    let mut agent = stage.agent()?;
    let flow = stage.flow()?;
    let begin = now_ns();
    let host = stage.node.host();
    let mut times = Vec::new();
    for _ in 0..stage.pick(5, 2) {
        host.run("nft flush ruleset")?;
        let flushed = now_ns();
        wait_for("the fallback table", Duration::from_secs(5), || {
            Ok(host.run("nft list table inet nodens-fallback").ok())
        })?;
        times.push(Duration::from_nanos(now_ns() - flushed).as_secs_f64());
        thread::sleep(Duration::from_millis(500));
    }
    let end = now_ns();
    // As kube-proxy does when it sees that its own are gone; upstreams are reached again.
    stage.node.load_services()?;
    thread::sleep(Duration::from_millis(200));
    agent.signal(Signal::KILL)?;
    let killed = now_ns();
    stage.wait(1.5, 1.0);
    let tally = flow.stop()?;
    let fallback = tally.first(Server::CoreDns, killed);
    ensure!(fallback.is_some(), "what was put back leads nowhere");
    let strangers = tally.by(Server::CoreDns, begin, end);
    let lost = tally.lost(begin, end);
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok((
        vec![
            Figure::time(
                " ms until the fallback was back",
                Some(Duration::from_secs_f64(slowest)),
                1_000.0,
                200.0,
            ),
            Figure::count(" left the agent", (strangers + lost) as u64, 0, 0),
        ],
        vec![
            format!(
                "the longest of {}; {}",
                times.len(),
                describe(&tally, begin, end)
            ),
            format!("killed afterwards: {}", describe(&tally, killed, u64::MAX)),
        ],
    ))
}
