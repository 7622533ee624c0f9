// SPDX-License-Identifier: Apache-2.0
//! What a miss costs the agent in CPU time, beside a CoreDNS that forwards over TCP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::drill::upstreams::forwarder::{Forwarder, Kind, Settings};
use crate::drill::upstreams::trial::Scene;
use crate::load::client::{Load, Outcome as Loaded, Pace, Transport, micros};
use crate::load::meter::Others;
use crate::load::names::{Names, Pick};
use crate::load::question::Expect;
use crate::load::report::median;
use crate::load::upstream::Upstream;
use crate::load::{Random, cpus};
use crate::node::Space;

/// Misses under way of all clients, as in `make bench`.
const WINDOW: usize = 64;
/// The share of lost queries above which a turn is worth nothing.
const MOST_LOSS: f64 = 0.001;

/// All on loopback in a namespace of their own, in front of the same cheap upstream that answers
/// each connection in order; turn by turn, the first of a round changing. A figure is the median of
/// the rounds' ratios.
pub(super) fn cost(scene: &Scene) -> Outcome {
    let space = Space::new("cost")?;
    let upstream = space
        .within(Upstream::start)
        .context("start the upstream")?;
    let sides = [Kind::Agent, Kind::Incumbent, Kind::Bare];
    let mut forwarders = Vec::new();
    for (kind, host) in sides.into_iter().zip(2..) {
        let settings = Settings {
            upstreams: vec![upstream.address],
            listen: SocketAddr::from(([127, 0, 0, host], 53)),
            keys: Vec::new(),
        };
        let mut forwarder = Forwarder::launch(&space, kind, &settings)?;
        forwarder.await_answer(&space, None)?;
        forwarders.push(forwarder);
    }
    let (mut ratios, mut bare) = (Vec::new(), Vec::new());
    let (mut others, mut details) = (0.0_f64, Vec::new());
    let seconds = scene.pick(1.0, 0.5);
    for round in 0..scene.pick(5, 3) {
        let mut costs = [0.0; 3];
        let mut line = format!("round {}:", round + 1);
        for turn_of in 0..sides.len() {
            let side = (round + turn_of) % sides.len();
            let turn = turn(&space, &forwarders[side], &upstream, seconds)?;
            costs[side] = turn.us_per_query;
            others = others.max(turn.others);
            _ = write!(line, " {:?} {}", sides[side], turn.describe());
        }
        ratios.push(costs[0] / costs[1]);
        bare.push(costs[0] / costs[2]);
        details.push(line);
    }
    let list = |ratios: &[f64]| {
        let shown = ratios.iter().map(|ratio| format!("1/{:.2}", 1.0 / ratio));
        shown.collect::<Vec<_>>().join(", ")
    };
    details.push(format!(
        "ratios {}; to `forward` alone {}; others had up to {:.0} % of the CPUs; {} of {} queries \
         upstream were pipelined",
        list(&ratios),
        list(&bare),
        100.0 * others,
        upstream.pipelined(),
        upstream.queries()
    ));
    let ratio = median(&ratios).context("no round")?;
    Ok((
        vec![Figure::number(
            " of CoreDNS's CPU time",
            ratio,
            0.2,
            1.0 / 6.0,
        )],
        details,
    ))
}

/// What a turn cost.
struct Turn {
    us_per_query: f64,
    others: f64,
    loaded: Loaded,
}

impl Turn {
    fn describe(&self) -> String {
        format!(
            "{:.1} us on CPU a miss, {:.0} misses a second, p50 {:.2} p99 {:.2} ms;",
            self.us_per_query,
            self.loaded.per_second(),
            self.loaded.latency.quantile(0.5).as_secs_f64() * 1e3,
            self.loaded.latency.quantile(0.99).as_secs_f64() * 1e3,
        )
    }
}

/// A closed loop on every CPU, after a warm-up.
fn turn(
    space: &Space,
    forwarder: &Forwarder,
    upstream: &Upstream,
    seconds: f64,
) -> anyhow::Result<Turn> {
    let cpus = cpus()?;
    let load = |seconds| -> anyhow::Result<_> {
        Ok(Load {
            server: forwarder.listen(),
            transport: Transport::Udp,
            pace: Pace::Closed {
                window: WINDOW.div_ceil(cpus.len()),
            },
            names: Names::new("n#.bench.example", 1, Pick::New)?,
            expect: Expect::Address,
            clients: cpus.iter().copied().map(Some).collect(),
            duration: Duration::from_secs_f64(seconds),
            timeout: Duration::from_secs(5),
            seed: Random::seed_of_the_moment(),
        })
    };
    let (warm_up, load) = (load(seconds / 4.0)?, load(seconds)?);
    space.within(|| warm_up.run())?;
    let asked = upstream.queries();
    let others = Others::watch()?;
    let meter = forwarder.meter()?;
    let loaded = space.within(|| load.run())?;
    let spent = meter.spent()?;
    let others = others.share(cpus.len(), spent.on_cpu)?;
    let asked = upstream.queries() - asked;
    ensure!(
        loaded.first_wrong.is_none() && loaded.loss() <= MOST_LOSS && spent.ended == 0,
        "{} of {} misses wrong, {} lost, {} threads ended; {:?}\n{}",
        loaded.wrong,
        loaded.sent,
        loaded.lost,
        spent.ended,
        loaded.first_wrong,
        forwarder.log()
    );
    // A query repeated after a failure is honest work, a twentieth of them is not.
    ensure!(
        (loaded.sent..=loaded.sent + loaded.sent / 20).contains(&asked),
        "{asked} queries went upstream for {} misses",
        loaded.sent
    );
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let us_per_query = micros(spent.on_cpu) / loaded.received.max(1) as f64;
    Ok(Turn {
        us_per_query,
        others,
        loaded,
    })
}
