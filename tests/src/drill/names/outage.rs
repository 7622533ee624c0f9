// SPDX-License-Identifier: Apache-2.0
//! CoreDNS goes while its names are asked for.

use std::time::Duration;

use super::{Lab, pick};
use crate::agent::Agent;
use crate::coredns::CoreDns;
use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::load::Random;
use crate::load::client::{Load, Meanwhile, Outcome as Came, Pace, Spacing, Transport};
use crate::load::names::{Names, Pick};
use crate::load::question::Expect;

/// Warm names, and queries for them a second.
const NAMES: usize = 1_000;
const PER_SECOND: f64 = 2_000.0;
/// TTL of the names in seconds.
const TTL: u32 = 5;
/// In which it may be found out that nobody answers any more.
const NOTICE: Duration = Duration::from_secs(2);
/// As long as a resolver waits that asks but once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stopped in mid-work: connections stand, and nobody answers.
pub(super) fn frozen(is_quick: bool) -> Outcome {
    outage(pick(is_quick, [10, 60], [2, 10]), CoreDns::freeze)
}

/// Killed: connections are reset, new ones refused.
pub(super) fn gone(is_quick: bool) -> Outcome {
    outage(pick(is_quick, [10, 60], [2, 7]), CoreDns::kill)
}

/// So many seconds with CoreDNS, so many without.
fn outage(seconds: [u64; 2], stop: fn(&mut CoreDns) -> anyhow::Result<()>) -> Outcome {
    let [before, after] = seconds.map(Duration::from_secs);
    let mut lab = Lab::start(TTL, NAMES)?;
    // No tap: it would stand for a server that still accepts.
    let agent = Agent::builder().upstream(lab.coredns.addr()).start()?;
    let load = |duration, pick| -> anyhow::Result<Came> {
        Load {
            server: agent.addr(),
            transport: Transport::Udp,
            pace: Pace::Paced {
                per_second: PER_SECOND,
                spacing: Spacing::Poisson,
                meanwhile: Meanwhile::Send,
            },
            names: Names::new("s####.prod.svc.cluster.local", NAMES as u64, pick)?,
            expect: Expect::Answer,
            clients: vec![None, None],
            duration,
            timeout: PATIENCE,
            seed: Random::seed_of_the_moment(),
        }
        .run()
    };
    // Each once, so that none is cold.
    load(before, Pick::Once)?;
    load(before, Pick::Uniform)?;
    stop(&mut lab.coredns)?;
    let first = load(NOTICE, Pick::Uniform)?;
    let rest = load(after - NOTICE, Pick::Uniform)?;
    let without = |came: &Came| came.sent - came.received;
    let put_back = agent.metric("nodens_cache_stale_total", &[])?;
    Ok((
        vec![
            Figure::count(" without data", without(&first) + without(&rest), 0, 0),
            Figure::time(
                " ms p99 after 2 s",
                Some(rest.latency.quantile(0.99)),
                5.0,
                1.0,
            ),
        ],
        vec![
            format!("first 2 s: {}", tell(&first)),
            format!("then: {}; {put_back} stale answers put back", tell(&rest)),
        ],
    ))
}

fn tell(came: &Came) -> String {
    let ms = |fraction| came.latency.quantile(fraction).as_secs_f64() * 1e3;
    format!(
        "{} queries, {} lost, {} wrong ({}); p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, the longest {:.1} ms",
        came.sent,
        came.lost,
        came.wrong,
        came.first_wrong.as_deref().unwrap_or("none"),
        ms(0.50),
        ms(0.99),
        ms(0.999),
        ms(1.0)
    )
}
