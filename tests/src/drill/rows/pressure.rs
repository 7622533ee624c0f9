// SPDX-License-Identifier: Apache-2.0
//! Too much work, for the agent or for the machine.

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::Outcome;
use super::rules::steady;
use crate::drill::stage::{Stage, describe};
use crate::drill::streams::Streams;
use crate::drill::table::Figure;
use crate::load::client::{Load, Meanwhile, Pace, Spacing, Transport};
use crate::load::names::{Names, Pick};
use crate::load::question::Expect;
use crate::load::{Random, cpus, now_ns};
use crate::node::{Server, ZONE};

/// Queries a second that must go on being answered from the cache in the midst of a flood.
const HITS: u64 = 500;
/// TCP connections that ask twice a second meanwhile.
const STREAMS: u32 = 10;

/// New names, three times as many as the cold thread can resolve.
pub(super) fn misses(stage: &Stage<'_>) -> Outcome {
    let agent = stage.agent()?;
    let space = stage.node.space(stage.from);
    let server = stage.asked()[0];
    let load = |pace, seconds: f64| -> anyhow::Result<_> {
        Ok(Load {
            server,
            transport: Transport::Udp,
            pace,
            names: Names::new(&format!("m#.flood.{ZONE}"), 1, Pick::New)?,
            // SERVFAIL is an answer to somebody who asks too much.
            expect: Expect::Echo,
            clients: vec![None],
            duration: Duration::from_secs_f64(seconds),
            timeout: Duration::from_secs(1),
            seed: Random::seed_of_the_moment(),
        })
    };
    let closed = load(Pace::Closed { window: 128 }, stage.pick(4.0, 1.0))?;
    let alone = space.within(|| closed.run())?;
    let flow = stage.flow_of(HITS)?;
    let pause = Duration::from_millis(500);
    let streams = Streams::start(space, &stage.asked(), STREAMS, pause)?;
    let trips = stage.trips(&agent)?;
    let begin = now_ns();
    let pace = Pace::Paced {
        per_second: 3.0 * alone.per_second(),
        spacing: Spacing::Even,
        meanwhile: Meanwhile::Send,
    };
    let flood = load(pace, stage.pick(15.0, 3.0))?;
    let flooded = space.within(|| flood.run())?;
    let end = now_ns();
    let report = streams.stop();
    let tally = flow.stop()?;
    let trips = stage.trips(&agent)? - trips;
    let mut figures = steady(&tally, begin, trips);
    figures.push(Figure::count(" lost over TCP", report.lost, 0, 0));
    Ok((
        figures,
        vec![
            format!(
                "{:.0} misses a second one behind the other; in the flood {} sent, {:.0} a second \
                 answered",
                alone.per_second(),
                flooded.sent,
                flooded.per_second()
            ),
            format!("hits meanwhile: {}", describe(&tally, begin, end)),
            format!(
                "TCP: {} of {} by the agent; {:?}",
                report.by(Server::Agent, 0, u64::MAX),
                report.asked,
                report.faults.first()
            ),
        ],
    ))
}

/// Twice as many programs as CPUs that do nothing but compute, at the agent's own priority.
pub(super) fn busy(stage: &Stage<'_>) -> Outcome {
    let agent = stage.agent()?;
    let flow = stage.flow()?;
    let trips = stage.trips(&agent)?;
    let others = Busy::start(2 * cpus()?.len())?;
    let begin = now_ns();
    stage.wait(30.0, 6.0);
    let count = others.0.len();
    drop(others);
    thread::sleep(Duration::from_millis(500));
    let tally = flow.stop()?;
    let trips = stage.trips(&agent)? - trips;
    Ok((
        steady(&tally, begin, trips),
        vec![format!(
            "{count} busy programs; {}",
            describe(&tally, begin, u64::MAX)
        )],
    ))
}

/// Programs that compute until they are dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> anyhow::Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..count {
            let child = Command::new("setpriv")
                .args([
                    "--pdeathsig",
                    "KILL",
                    "--",
                    "sh",
                    "-c",
                    "while :; do :; done",
                ])
                .spawn()
                .context("start `setpriv`")?;
            busy.0.push(child);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
