// SPDX-License-Identifier: Apache-2.0
//! The agent dies, hangs, or hangs in one place.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::Outcome;
use crate::drill::stage::{Stage, describe, thread_of};
use crate::drill::streams::Streams;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::node::Server;
use crate::process::wait_for;

/// SIGKILL, with the cache full: the more memory, the later the kernel closes the sockets.
pub(super) fn kill(stage: &Stage<'_>) -> Outcome {
    let (size, bytes) = stage.pick(("64MiB", 64 << 20), ("8MiB", 8 << 20));
    let mut agent = stage.builder().set("cache.size", size).start(stage.node)?;
    let resident = stage.fill(&agent, bytes)?;
    let flow = stage.flow()?;
    let event = now_ns();
    agent.signal(Signal::KILL)?;
    stage.wait(3.0, 1.5);
    let end = now_ns();
    let tally = flow.stop()?;
    let lost = tally.lost(0, u64::MAX);
    let first = tally.first(Server::CoreDns, event);
    let before = tally.lost(0, event.saturating_sub(1_000_000_000));
    Ok((
        vec![
            Figure::count(" lost", lost as u64, 50, 5),
            Figure::time(" ms to CoreDNS", first, 50.0, 50.0),
        ],
        vec![
            format!(
                "{} MiB resident; {before} lost long before the kill",
                resident >> 20
            ),
            format!("after it: {}", describe(&tally, event, end)),
        ],
    ))
}

/// A new agent starts where a killed one has left its rules and addresses.
pub(super) fn come_back(stage: &Stage<'_>) -> Outcome {
    let mut agent = stage.agent()?;
    let flow = stage.flow()?;
    agent.signal(Signal::KILL)?;
    stage.wait(2.0, 1.0);
    let event = now_ns();
    agent.start_again(stage.node)?;
    stage.wait_for_return(&agent)?;
    stage.wait(3.0, 1.0);
    let tally = flow.stop()?;
    let lost = tally.lost(event, u64::MAX);
    let first = tally.first(Server::Agent, event);
    ensure!(first.is_some(), "nothing was answered by the new agent");
    Ok((
        vec![Figure::count(" lost", lost as u64, 0, 0)],
        vec![format!(
            "first answers of the new agent after {:.0} ms; {}",
            first.unwrap_or_default().as_secs_f64() * 1e3,
            describe(&tally, event, u64::MAX)
        )],
    ))
}

/// SIGSTOP: the elements run out.
pub(super) fn stop(stage: &Stage<'_>) -> Outcome {
    let mut agent = stage.agent()?;
    let flow = stage.flow()?;
    let stopped = now_ns();
    agent.signal(Signal::STOP)?;
    stage.wait(10.0, 3.0);
    let continued = now_ns();
    agent.signal(Signal::CONT)?;
    stage.wait_for_return(&agent)?;
    let healed = Duration::from_nanos(now_ns() - continued);
    stage.wait(2.0, 1.0);
    let end = now_ns();
    let tally = flow.stop()?;
    // Until it goes on everything is CoreDNS's, so the gap is one of the hand-over.
    let gap = tally.gap(stopped, continued);
    let back = tally.gap(continued, end - 100_000_000);
    Ok((
        vec![
            Figure::time(" ms gap", Some(gap), 1_200.0, 900.0),
            Figure::count(
                " lost after SIGCONT",
                tally.lost(continued, u64::MAX) as u64,
                0,
                0,
            ),
        ],
        vec![
            format!(
                "healed {:.1} s after SIGCONT, gap then {:.0} ms",
                healed.as_secs_f64(),
                back.as_secs_f64() * 1e3
            ),
            format!("stopped: {}", describe(&tally, stopped, continued)),
            format!("after SIGCONT: {}", describe(&tally, continued, u64::MAX)),
        ],
    ))
}

/// The accept loop hangs while all else goes on: a tracer lets the agent's accept4 find nothing,
/// whoever waits to be accepted. (Filling the queue of a loop that works is impossible; taking the
/// agent's descriptors would hurt its upstreams and its own probes too; stopping the thread would
/// stop misses.)
pub(super) fn accept(stage: &Stage<'_>) -> Outcome {
    let agent = stage.agent()?;
    let flow = stage.flow()?;
    let cold = thread_of(&agent, "cold")?;
    let trips = stage.trips(&agent)?;
    let begin = now_ns();
    let mut tracer = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-p", &cold.to_string()])
        .args(["-e", "trace=accept4", "-e", "inject=accept4:error=EAGAIN"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start `strace` (`make deps` installs it)")?;
    let measured = (|| {
        thread::sleep(Duration::from_millis(200));
        ensure!(tracer.try_wait()?.is_none(), "strace has ended");
        let wedged = now_ns();
        wait_for_tcp(stage, Server::CoreDns)?;
        let fell = Duration::from_nanos(now_ns() - wedged);
        let servers = stage.asked();
        let pause = Duration::from_millis(500);
        let streams = Streams::start(stage.node.space(stage.from), &servers, 10, pause)?;
        stage.wait(4.0, 1.5);
        Ok((fell, streams.stop()))
    })();
    // The kernel frees the agent when its tracer ends.
    let _ = tracer.kill();
    let _ = tracer.wait();
    let (fell, report) = measured?;
    let freed = now_ns();
    wait_for_tcp(stage, Server::Agent)?;
    let healed = Duration::from_nanos(now_ns() - freed);
    let tally = flow.stop()?;
    let strangers = tally.by(Server::CoreDns, begin, u64::MAX);
    let lost = tally.lost(begin, u64::MAX);
    Ok((
        vec![
            Figure::time(" ms until TCP fell through", Some(fell), 2_000.0, 2_000.0),
            Figure::count(" lost over TCP", report.lost, 0, 0),
            Figure::count(" UDP left", (strangers + lost) as u64, 0, 0),
        ],
        vec![
            format!(
                "TCP back {:.1} s after the wedge was gone; {} trips told",
                healed.as_secs_f64(),
                stage.trips(&agent)? - trips
            ),
            format!("UDP: {}", describe(&tally, begin, u64::MAX)),
            format!(
                "TCP: {} answers; {:?}",
                report.answers.len(),
                report.faults.first()
            ),
        ],
    ))
}

/// Waits until new connections to every address are answered by this server.
fn wait_for_tcp(stage: &Stage<'_>, wanted: Server) -> anyhow::Result<()> {
    let patience = Duration::from_millis(300);
    for server in stage.asked() {
        let what = format!("{wanted:?} to answer on {server} over TCP");
        wait_for(&what, Duration::from_secs(10), || {
            let answered = stage.node.ask(stage.from, server, true, patience);
            Ok(answered.ok().filter(|by| *by == wanted))
        })?;
    }
    Ok(())
}
