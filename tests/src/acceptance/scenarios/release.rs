// SPDX-License-Identifier: Apache-2.0
//! The release is changed for the worse, goes where it cannot work, is removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;

use crate::acceptance::snapshot;
use crate::acceptance::stage::{PATIENCE, RELEASE, Stage, label};
use crate::cluster::Machine;
use crate::cluster::kubectl::helm;
use crate::drill::rows::Outcome;
use crate::drill::stage::describe;
use crate::drill::table::Figure;
use crate::helm::said;
use crate::node::Server;
use crate::process::{TempDir, wait_for};

/// Queries a second of a pod on each node.
const RATE: u64 = 1_000;
/// What the agent ends with where the node's network cannot be set up.
const EXIT_UNAVAILABLE: u64 = 69;

/// A value that no schema can judge: a time beyond what the agent takes.
pub(super) fn upgrade(stage: &Stage) -> Outcome {
    let mut flows = Vec::new();
    for node in stage.cluster.options.nodes() {
        flows.push((node, stage.flow(&stage.client(node)?, RATE)?));
    }
    stage.upgrade(&["cache.size=32MiB"], &[])?;
    stage.wait_until_ready()?;
    stage.upgrade(&["config.cache.staleFor=10000h"], &[])?;
    let unready = wait_for("a pod that fails", PATIENCE, || {
        let pods = agents(stage)?;
        let failed = pods
            .iter()
            .find(|pod| last_exit(pod).is_some_and(|code| code != 0));
        Ok(failed.and_then(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned)))
    })?;
    // Long enough for a roll that does not stop to reach the next node.
    stage.wait(stage.pick(20.0, 10.0));
    let ready = agents(stage)?.iter().filter(|pod| is_ready(pod)).count() as u64;
    let broken = Machine::parse(&unready)?;
    let by = stage.who_answers(&stage.client(broken)?, stage.services()[0])?;
    ensure!(
        by == Server::CoreDns,
        "{by:?} answers on {broken}, whose agent has failed"
    );
    let output = helm(&["rollback", RELEASE])?;
    ensure!(output.status.success(), "helm rollback: {}", said(&output));
    stage.wait_until_ready()?;
    stage.wait(2.0);
    let (mut lost, mut wrong) = (0, 0);
    let mut details = vec![format!("it stopped at {broken}")];
    for (node, flow) in flows {
        let tally = flow.stop()?;
        lost += tally.lost(0, u64::MAX) as u64;
        wrong += tally.wrong;
        details.push(format!("{node}: {}", describe(&tally, 0, u64::MAX)));
    }
    let others = u64::from(stage.cluster.options.nodes) - 1;
    Ok((
        vec![
            Figure::count(" more nodes touched", others.saturating_sub(ready), 0, 0),
            Figure::count(" lost", lost, 0, 0),
            Figure::count(" wrong", wrong, 0, 0),
        ],
        details,
    ))
}

/// NET_ADMIN is taken out of what the chart renders.
pub(super) fn capability(stage: &Stage) -> Outcome {
    let dir = TempDir::new()?;
    let filter = dir.path().join("filter");
    fs::write(&filter, "#!/bin/sh\nexec sed 's/\"NET_ADMIN\",//'\n")?;
    fs::set_permissions(&filter, fs::Permissions::from_mode(0o700))?;
    let node = Machine::Node(1);
    let flow = stage.flow_to(&stage.client(node)?, stage.services(), RATE)?;
    stage.upgrade(&[], &["--post-renderer", &filter.display().to_string()])?;
    let code = wait_for("an agent that gives up", PATIENCE, || {
        Ok(agents(stage)?.iter().find_map(last_exit))
    })?;
    stage.wait(stage.pick(15.0, 5.0));
    let pods = agents(stage)?;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count() as u64;
    let name = pods[0]["metadata"]["name"].as_str().unwrap_or_default();
    let log = stage
        .kubectl
        .run(&format!("-n kube-system logs {name} --tail=20"))?;
    let reason = log.lines().rev().find(|line| line.contains("NET_ADMIN"));
    let tally = flow.stop()?;
    Ok((
        vec![
            Figure::count(
                " other exit codes than 69",
                u64::from(code != EXIT_UNAVAILABLE),
                0,
                0,
            ),
            Figure::count(" ready", ready, 0, 0),
            Figure::count(" lost", tally.lost(0, u64::MAX) as u64, 0, 0),
            Figure::count(" reasons missing", u64::from(reason.is_none()), 0, 0),
        ],
        vec![
            format!("its log: {}", reason.unwrap_or(&log)),
            describe(&tally, 0, u64::MAX),
        ],
    ))
}

/// While a pod asks the node-local address, as kubelet may have told it to, its node would be
/// without DNS: `helm uninstall` says so and changes nothing; what docs/install.md says helps.
pub(super) fn refusal(stage: &Stage) -> Outcome {
    let node = Machine::Node(1);
    let client = stage.client(node)?;
    let local: Vec<_> = stage
        .asked()
        .into_iter()
        .filter(|one| !stage.services().contains(one))
        .collect();
    let flow = stage.flow_to(&client, local, RATE)?;
    let output = helm(&["uninstall", RELEASE, "--wait", "--timeout", "2m"])?;
    ensure!(
        !output.status.success(),
        "helm uninstall went through: {}",
        said(&output)
    );
    let jobs = stage.kubectl.run(&format!(
        "-n kube-system logs job/{RELEASE}-uninstall-check"
    ))?;
    let is_told = jobs.contains(&node.to_string());
    let history = helm(&["history", RELEASE, "--output", "json"])?;
    let history: Value = serde_json::from_slice(&history.stdout)?;
    let revisions = history.as_array().into_iter().flatten();
    let last = revisions
        .filter_map(|one| one["revision"].as_u64())
        .max()
        .unwrap_or_default();
    let output = helm(&["rollback", RELEASE, &last.to_string()])?;
    ensure!(output.status.success(), "helm rollback: {}", said(&output));
    stage.wait_until_ready()?;
    let tally = flow.stop()?;
    let strange = tally.by(Server::CoreDns, 0, u64::MAX) as u64;
    Ok((
        vec![
            Figure::count(" nodes not named", u64::from(!is_told), 0, 0),
            Figure::count(" lost", tally.lost(0, u64::MAX) as u64, 0, 0),
            Figure::count(" not by the agent", strange, 0, 0),
        ],
        vec![
            format!("its Job: {}", jobs.lines().last().unwrap_or_default()),
            describe(&tally, 0, u64::MAX),
        ],
    ))
}

/// Installed, used, removed: every node is as it was.
pub(super) fn uninstall(stage: &Stage) -> Outcome {
    let mut before = Vec::new();
    for node in stage.cluster.options.nodes() {
        before.push((node, snapshot::take(&stage.cluster, node)?));
    }
    stage.install()?;
    let mut flows = Vec::new();
    for node in stage.cluster.options.nodes() {
        let installed = snapshot::take(&stage.cluster, node)?;
        let of_ours = snapshot::differences(&before[flows.len()].1, &installed);
        ensure!(
            !of_ours.is_empty(),
            "the snapshot of {node} does not see an installation"
        );
        flows.push((
            node,
            stage.flow_to(&stage.client(node)?, stage.services(), RATE)?,
        ));
    }
    // The node-local address was asked while we waited for the agents.
    stage.wait(3.5);
    let began = Instant::now();
    stage.uninstall()?;
    // The pods of the DaemonSet end a moment after it.
    let clean = wait_for("nothing to be left", Duration::from_secs(60), || {
        let found = left(stage, &before)?;
        Ok(found.is_empty().then_some(()))
    });
    let took = clean.is_ok().then(|| began.elapsed());
    let found = left(stage, &before)?;
    let (mut lost, mut wrong) = (0, 0);
    let mut details: Vec<String> = found.iter().take(8).cloned().collect();
    for (node, flow) in flows {
        let tally = flow.stop()?;
        lost += tally.lost(0, u64::MAX) as u64;
        wrong += tally.wrong;
        details.push(format!("{node}: {}", describe(&tally, 0, u64::MAX)));
    }
    Ok((
        vec![
            Figure::count(" things left", found.len() as u64, 0, 0),
            Figure::count(" lost", lost, 0, 0),
            Figure::count(" wrong", wrong, 0, 0),
            Figure::time(" ms", took, 60_000.0, 30_000.0),
        ],
        details,
    ))
}

/// What is on nodes and among the objects that was not there before, or the other way round.
fn left(stage: &Stage, before: &[(Machine, BTreeSet<String>)]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (node, before) in before {
        let after = snapshot::take(&stage.cluster, *node)?;
        let differences = snapshot::differences(before, &after);
        found.extend(differences.iter().map(|line| format!("{node}: {line}")));
    }
    let kinds = "all,configmaps,serviceaccounts,roles,rolebindings";
    let of_ours = format!("-A -l app.kubernetes.io/instance={RELEASE} -o name");
    let objects = stage.kubectl.run(&format!("get {kinds} {of_ours}"))?;
    found.extend(objects.lines().map(|line| format!("object: {line}")));
    Ok(found)
}

/// The pods of the DaemonSet, as the API server has them.
fn agents(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let list = stage
        .kubectl
        .json(&format!("-n kube-system get pods -l {}", label()))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// With what its container ended last.
fn last_exit(pod: &Value) -> Option<u64> {
    let status = &pod["status"]["containerStatuses"][0];
    let ended = [&status["state"], &status["lastState"]];
    ended
        .iter()
        .find_map(|state| state["terminated"]["exitCode"].as_u64())
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}
