// SPDX-License-Identifier: Apache-2.0
//! Pods go: without a word, or one by one as a rollout takes them.

use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::drill::upstreams::fleet::{Fleet, Kind, Way};
use crate::drill::upstreams::trial::{PER_SECOND, Scene, To, Trial};
use crate::load::now_ns;

/// How long after SIGTERM kube-proxy has taken a pod's endpoint out: both begin when the pod is
/// deleted, and neither waits for the other.
const ENDPOINT: Duration = Duration::from_millis(500);
/// Longest wait for the end of a CoreDNS beyond its lame duck's time.
const END: Duration = Duration::from_secs(20);

pub(super) fn behind_service(scene: &Scene) -> Outcome {
    silent(scene, To::Service, [40.0, 10.0], true)
}

pub(super) fn of_three(scene: &Scene) -> Outcome {
    silent(scene, To::Pods, [20.0, 5.0], false)
}

/// The pod that carries most is silent for 15 s in the midst of 30.
fn silent(scene: &Scene, to: To, [must, aim]: [f64; 2], has_tail: bool) -> Outcome {
    let fleet = Fleet::new(Kind::THREE)?;
    let mut trial = Trial::start(scene, fleet, to, PER_SECOND)?;
    let begin = now_ns();
    scene.wait(7.5, 1.0);
    // Whichever it is: were it by chance one that is not in use, nothing would happen.
    let busiest = trial
        .tally()
        .busiest(begin)
        .context("no pod has answered")?;
    let silenced = now_ns();
    trial.fleet.set(&[busiest], Way::Silent)?;
    scene.wait(15.0, 3.0);
    trial.fleet.set(&[busiest], Way::Open)?;
    let open = now_ns();
    scene.wait(7.5, 1.0);
    let end = now_ns();
    let ended = trial.stop()?;
    let (span, mut details) = ended.judge(begin, end)?;
    let middle = ended.tally.span(silenced, open);
    details.insert(1, format!("pod {busiest} silent: {}", middle.describe()));
    let mut figures = vec![
        Figure::count(" SERVFAIL or lost", span.failed(), 0, 0),
        Figure::time(" ms p99", span.quantile(0.99), must, aim),
    ];
    if has_tail {
        let tail = span.quantile(0.999);
        figures.push(Figure::time(" ms p99.9", tail, 250.0, 60.0));
    }
    Ok((figures, details))
}

/// As a Deployment does it, with a surge of one: a new pod is ready and behind the Service; an old
/// one gets SIGTERM and its endpoint goes; it ends when its lame duck does, and its namespace with
/// it.
pub(super) fn roll(scene: &Scene) -> Outcome {
    let lameduck = Duration::from_millis(scene.pick(5_000, 1_000));
    let mut fleet = Fleet::new(Kind {
        lameduck,
        ..Kind::THREE
    })?;
    // Started beforehand: in a cluster it would not be this node's CPUs that start them.
    fleet.add(3)?;
    let mut trial = Trial::start(scene, fleet, To::Service, PER_SECOND)?;
    let begin = now_ns();
    let mut serving = vec![0, 1, 2];
    let mut ends = Vec::new();
    for old in 0..3 {
        serving.push(old + 3);
        trial.fleet.serve(&serving)?;
        scene.wait(1.0, 0.2);
        trial.fleet.terminate(old)?;
        let told = now_ns();
        thread::sleep(ENDPOINT);
        serving.retain(|&number| number != old);
        trial.fleet.serve(&serving)?;
        trial.buried += trial.fleet.bury(old, lameduck + END)?;
        let took = Duration::from_nanos(now_ns() - told).as_secs_f64();
        ends.push(format!("{took:.1}"));
        scene.wait(2.0, 0.5);
    }
    let end = now_ns();
    let ended = trial.stop()?;
    let (span, mut details) = ended.judge(begin, end)?;
    let ends = ends.join(", ");
    details.push(format!("from SIGTERM to the end of CoreDNS: {ends} s"));
    Ok((
        vec![Figure::count(" SERVFAIL or lost", span.failed(), 0, 0)],
        details,
    ))
}
