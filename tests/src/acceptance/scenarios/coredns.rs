// SPDX-License-Identifier: Apache-2.0
//! CoreDNS or the API server goes, and comes back.

use crate::acceptance::stage::{PATIENCE, Stage};
use crate::cluster::Machine;
use crate::cluster::pods::Pod;
use crate::drill::rows::Outcome;
use crate::drill::stage::describe;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::process::wait_for;

/// Misses a second of one pod.
const MISSES: u32 = 500;
/// Queries a second for names that the cache has.
const HITS: u64 = 500;

/// `kubectl rollout restart`, then a pod deleted that gets no time to say so.
pub(super) fn restart(stage: &Stage) -> Outcome {
    let misses = stage.misses(&stage.client(Machine::Node(1))?, MISSES)?;
    stage.wait(3.0);
    let begin = now_ns();
    stage
        .kubectl
        .run("-n kube-system rollout restart deployment/coredns")?;
    stage.roll_out("kube-system", "deployment/coredns")?;
    stage.wait(8.0);
    let rolled = now_ns();
    let pods = Pod::all(&stage.kubectl, "kube-system", "k8s-app=kube-dns")?;
    if let Some(pod) = pods.first() {
        let line = format!(
            "-n kube-system delete pod {} --grace-period=0 --force",
            pod.name
        );
        stage.kubectl.run(&line)?;
    }
    stage.roll_out("kube-system", "deployment/coredns")?;
    stage.wait(3.0);
    let end = now_ns();
    let tally = misses.stop()?;
    let all = tally.span(begin, end);
    Ok((
        vec![
            Figure::count(" SERVFAIL", all.servfail, 0, 0),
            Figure::count(" lost", all.lost + all.other, 0, 0),
            Figure::time(" ms p99", all.quantile(0.99), 150.0, 50.0),
        ],
        vec![
            format!("restart: {}", tally.span(begin, rolled).describe()),
            format!("deletion: {}", tally.span(rolled, end).describe()),
            format!("sent late by: {}", all.lateness()),
        ],
    ))
}

/// Nobody answers for a minute but the cache.
pub(super) fn gone(stage: &Stage) -> Outcome {
    let flow = stage.flow(&stage.client(Machine::Node(1))?, HITS)?;
    stage
        .kubectl
        .run("-n kube-system scale deployment/coredns --replicas=0")?;
    wait_for("the end of CoreDNS's pods", PATIENCE, || {
        let pods = Pod::all(&stage.kubectl, "kube-system", "k8s-app=kube-dns")?;
        Ok(pods.is_empty().then_some(()))
    })?;
    let begin = now_ns();
    stage.wait(stage.pick(60.0, 40.0));
    let end = now_ns();
    stage
        .kubectl
        .run("-n kube-system scale deployment/coredns --replicas=2")?;
    stage.roll_out("kube-system", "deployment/coredns")?;
    stage.wait(2.0);
    let tally = flow.stop()?;
    Ok((
        vec![
            Figure::count(" wrong or SERVFAIL", tally.wrong, 0, 0),
            Figure::count(" lost", tally.lost(0, u64::MAX) as u64, 0, 0),
        ],
        vec![
            format!("away: {}", describe(&tally, begin, end)),
            format!("in all: {}", describe(&tally, 0, u64::MAX)),
        ],
    ))
}

/// The cluster cannot change, and what is there goes on.
pub(super) fn api_gone(stage: &Stage) -> Outcome {
    let mut flows = Vec::new();
    for node in stage.cluster.options.nodes() {
        let client = stage.client(node)?;
        flows.push((node, stage.flow(&client, HITS)?, stage.misses(&client, 50)?));
    }
    stage.cluster.stop(Machine::Control, "kube-apiserver")?;
    let begin = now_ns();
    stage.wait(stage.pick(60.0, 20.0));
    let end = now_ns();
    stage.cluster.resume(Machine::Control, "kube-apiserver")?;
    stage.cluster.wait_for_nodes()?;
    let (mut lost, mut wrong) = (0, 0);
    let mut details = Vec::new();
    for (node, flow, misses) in flows {
        let hits = flow.stop()?;
        let misses = misses.stop()?.span(begin, end);
        lost += hits.lost(0, u64::MAX) as u64 + misses.lost;
        wrong += hits.wrong + misses.servfail + misses.other;
        details.push(format!("{node}, hits: {}", describe(&hits, begin, end)));
        details.push(format!("{node}, misses: {}", misses.describe()));
    }
    Ok((
        vec![
            Figure::count(" lost", lost, 0, 0),
            Figure::count(" wrong or SERVFAIL", wrong, 0, 0),
        ],
        details,
    ))
}
