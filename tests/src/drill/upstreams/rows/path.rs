// SPDX-License-Identifier: Apache-2.0
//! The way to the pods is bad, or they are slow.

use std::time::Duration;

use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::drill::upstreams::fleet::{Fleet, Kind, Way};
use crate::drill::upstreams::trial::{PER_SECOND, Scene, To, Trial};
use crate::load::now_ns;

/// Packets of a hundred that are lost, in each direction.
const LOSS: u8 = 5;
/// What the resolver behind CoreDNS takes to answer.
const DELAY: Duration = Duration::from_millis(300);

/// Of all packets of the pods, handshakes and acknowledgements too, some are lost.
pub(super) fn loss(scene: &Scene) -> Outcome {
    let mut fleet = Fleet::new(Kind::THREE)?;
    let all = fleet.numbers();
    fleet.set(&all, Way::Lossy(LOSS))?;
    let trial = Trial::start(scene, fleet, To::Service, PER_SECOND)?;
    let begin = now_ns();
    scene.wait(15.0, 3.0);
    let end = now_ns();
    let ended = trial.stop()?;
    let (span, details) = ended.judge(begin, end)?;
    Ok((
        vec![Figure::time(" ms p99", span.quantile(0.99), 300.0, 250.0)],
        details,
    ))
}

pub(super) fn late(scene: &Scene) -> Outcome {
    late_at(scene, 500, true)
}

pub(super) fn late_800(scene: &Scene) -> Outcome {
    late_at(scene, 800, false)
}

/// Every answer comes [`DELAY`] late. Where it is no must, it is an aim alone.
fn late_at(scene: &Scene, per_second: u32, is_must: bool) -> Outcome {
    let fleet = Fleet::new(Kind {
        late: Some(DELAY),
        ..Kind::THREE
    })?;
    let trial = Trial::start(scene, fleet, To::Service, per_second)?;
    let begin = now_ns();
    scene.wait(10.0, 2.5);
    let connections = trial.fleet.connections()?;
    let end = now_ns();
    let ended = trial.stop()?;
    let (span, mut details) = ended.judge(begin, end)?;
    details.push(format!("{connections} connections at the end"));
    let figures = [
        Figure::count(" not answered", span.failed(), 0, 0),
        Figure::time(" ms p99", span.quantile(0.99), 350.0, 350.0),
        Figure::percent(" % extra queries", ended.extra().max(0.0), 5.0, 5.0),
    ];
    let figures = figures.into_iter();
    let figures = figures.map(|figure| if is_must { figure } else { figure.aim_alone() });
    Ok((figures.collect(), details))
}
