// SPDX-License-Identifier: Apache-2.0
//! node-cache's manifest, in which nothing but the image is changed; and changed back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::acceptance::objects;
use crate::acceptance::stage::{PATIENCE, Stage};
use crate::agent::http_get;
use crate::cluster::{Machine, archive};
use crate::coredns;
use crate::drill::flow::Tally;
use crate::drill::rows::Outcome;
use crate::drill::stage::describe;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::node::{Family, Server, ZONE, incumbent};
use crate::process::{TempDir, wait_for};

/// The image that stands for node-cache's.
const STAND_IN: &str = "cluster.invalid/node-cache:1";
/// The DaemonSet.
const SET: &str = "ds/node-local-dns";
/// Queries a second of a pod on each node.
const RATE: u64 = 2_000;
/// What iptables needs besides itself for node-cache's rules.
const EXTENSIONS: [&str; 5] = ["NOTRACK", "comment", "standard", "tcp", "udp"];

/// From node-cache to nodens, from nodens to nodens, back to node-cache and forth again.
pub(super) fn image(stage: &Stage) -> Outcome {
    let outcome = change(stage);
    clean(stage)?;
    outcome
}

fn change(stage: &Stage) -> Outcome {
    stage.cluster.load(&stand_in()?.1)?;
    stage.kubectl.apply(&manifest())?;
    stage.kubectl.apply(&stub_domain(stage)?)?;
    // It reads its ConfigMaps at its start.
    roll(stage, "rollout restart ds/node-local-dns", Server::CoreDns)?;
    let began = now_ns();
    let flows = flows(stage, |stage| stage.services())?;
    let ours = format!("ghcr.io/nodens-dns/nodens:{}", env!("CARGO_PKG_VERSION"));
    let to_ours = format!("set image {SET} node-cache={ours}");
    roll(stage, &to_ours, Server::Agent)?;
    let mut details = Vec::new();
    let there = stop(flows, "there", began, &mut details)?;
    let unscraped = scrape(stage, &mut details)?;

    // From here on something of ours is on the node whenever nobody else answers.
    let began = now_ns();
    let flows = self::flows(stage, Stage::asked)?;
    roll(stage, &format!("rollout restart {SET}"), Server::Agent)?;
    let again = now_ns();
    roll(
        stage,
        &format!("set image {SET} node-cache={STAND_IN}"),
        Server::CoreDns,
    )?;
    for node in stage.cluster.options.nodes() {
        wait_for("node-cache to be back", PATIENCE, || {
            Ok(is_node_caches(stage, node).ok().filter(|is| *is))
        })?;
    }
    let forth = now_ns();
    roll(stage, &to_ours, Server::Agent)?;
    let since = |moment: u64| (moment - began) / 1_000_000_000;
    details.push(format!(
        "anew at 0 s, back to node-cache at {} s, forth again at {} s",
        since(again),
        since(forth)
    ));
    let back = stop(flows, "anew, back, forth", began, &mut details)?;
    Ok((
        vec![
            Figure::count(" lost from node-cache", there.0, 0, 0),
            Figure::count(" lost anew, back and forth", back.0, 0, 0),
            Figure::count(" wrong", there.1 + back.1, 0, 0),
            Figure::count(" pages missing", unscraped, 0, 0),
        ],
        details,
    ))
}

/// Changes the DaemonSet, and waits until every node's client is answered as wanted.
fn roll(stage: &Stage, line: &str, wanted: Server) -> anyhow::Result<()> {
    stage.kubectl.run(&format!("-n kube-system {line}"))?;
    stage.roll_out("kube-system", SET)?;
    for node in stage.cluster.options.nodes() {
        stage.wait_until_answered_by(node, wanted)?;
    }
    stage.wait(2.0);
    Ok(())
}

type Flows = Vec<(Machine, crate::drill::flow::Flow)>;

/// Queries from a pod of each node.
fn flows(stage: &Stage, servers: fn(&Stage) -> Vec<std::net::SocketAddr>) -> anyhow::Result<Flows> {
    let nodes = stage.cluster.options.nodes();
    let flow = |node| {
        let client = stage.client(node)?;
        // The machine's CPUs are all nodes'.
        let rate = if node == Machine::Node(1) {
            RATE
        } else {
            RATE / 10
        };
        Ok((node, stage.flow_to(&client, servers(stage), rate)?))
    };
    nodes.map(flow).collect()
}

/// What was lost and what was wrong.
fn stop(
    flows: Flows,
    leg: &str,
    began: u64,
    details: &mut Vec<String>,
) -> anyhow::Result<(u64, u64)> {
    let (mut lost, mut wrong) = (0, 0);
    for (node, flow) in flows {
        let tally: Tally = flow.stop()?;
        lost += tally.lost(0, u64::MAX) as u64;
        wrong += tally.wrong;
        details.push(format!("{node}, {leg}: {}", describe(&tally, 0, u64::MAX)));
        for (number, server) in tally.servers.iter().enumerate() {
            let of_it = tally.all.iter().filter(|asked| asked.server == number);
            let lost = of_it.filter(|asked| asked.answer.is_none());
            let moments: Vec<_> = lost
                .map(|asked| (asked.sent_ns.saturating_sub(began)) / 1_000_000)
                .collect();
            if let [first, .., last] = moments[..] {
                let number = moments.len();
                details.push(format!(
                    "{node}, {leg}: {number} to {server} lost, from {first} to {last} ms"
                ));
            }
        }
    }
    Ok((lost, wrong))
}

/// Whether node-cache has the page of metrics of a node.
fn is_node_caches(stage: &Stage, node: Machine) -> anyhow::Result<bool> {
    let at = (node.address(Family::V4), 9253).into();
    let door = stage.client(node)?.door()?;
    let page = door.within(|| http_get(at, "/metrics"))?;
    let has = |name: &str| page.body.lines().any(|line| line.starts_with(name));
    Ok(has("coredns_dns_requests_total") && !has("nodens_"))
}

/// How many of the pages that Prometheus and the kubelet read are missing.
fn scrape(stage: &Stage, details: &mut Vec<String>) -> anyhow::Result<u64> {
    let mut missing = 0;
    for node in stage.cluster.options.nodes() {
        let pod = stage.client(node)?;
        let host = stage.client_of(objects::HOST_CLIENT, node)?;
        let (own, local) = (node.address(Family::V4), Family::V4.local());
        for (from, address, path, wanted) in [
            (&pod, (own, 9253), "/metrics", "coredns_dns_requests_total"),
            (&pod, (own, 9253), "/metrics", "nodens_"),
            (
                &pod,
                (own, 9353),
                "/metrics",
                "coredns_nodecache_setup_errors_total",
            ),
            (&host, (local, 8080), "/health", ""),
        ] {
            let page = from.door()?.within(|| http_get(address.into(), path));
            let is_there = page.as_ref().is_ok_and(|page| {
                let mut lines = page.body.lines();
                page.status == 200 && lines.any(|line| line.starts_with(wanted))
            });
            if !is_there {
                missing += 1;
                details.push(format!("{node}: no {wanted} at {address:?}{path}"));
            }
        }
    }
    Ok(missing)
}

/// The manifest with node-cache's stand-in.
fn manifest() -> String {
    include_str!("../../../kubernetes/nodelocaldns.yaml")
        .replace("IMAGE", STAND_IN)
        .replace("__PILLAR__LOCAL__DNS__", &Family::V4.local().to_string())
        .replace("__PILLAR__DNS__SERVER__", &Family::V4.service().to_string())
        .replace("__PILLAR__DNS__DOMAIN__", "cluster.local")
}

/// Names of the flows are CoreDNS's; the manifest has only the cluster's asked there.
fn stub_domain(stage: &Stage) -> anyhow::Result<String> {
    let service = stage
        .kubectl
        .json("-n kube-system get service kube-dns-upstream")?;
    let upstream = service["spec"]["clusterIP"]
        .as_str()
        .context("its address")?;
    Ok(format!(
        "apiVersion: v1\n\
         kind: ConfigMap\n\
         metadata: {{ name: kube-dns, namespace: kube-system }}\n\
         data:\n  stubDomains: '{{\"{ZONE}\": [\"{upstream}\"]}}'\n"
    ))
}

/// CoreDNS, what does node-cache's work around it, and what that needs, in an image.
fn stand_in() -> anyhow::Result<(TempDir, PathBuf)> {
    let dir = TempDir::new()?;
    let script = dir.path().join("node-cache.sh");
    std::fs::write(&script, include_str!("../../../kubernetes/node-cache.sh"))?;
    let rules = dir.path().join("node-cache.rules");
    std::fs::write(&rules, incumbent::RULES)?;
    let busybox = PathBuf::from("/bin/busybox");
    let iptables = PathBuf::from("/usr/sbin/xtables-nft-multi");
    for program in [&busybox, &iptables] {
        ensure!(
            program.exists(),
            "{} is missing: `make cluster-deps` installs it",
            program.display()
        );
    }
    let mut files: Vec<(PathBuf, String)> = vec![
        (script, "/node-cache.sh".to_owned()),
        (rules, "/node-cache.rules".to_owned()),
        (coredns::find()?, "/coredns".to_owned()),
        (busybox, "/busybox".to_owned()),
        (iptables.clone(), "/xtables-nft-multi".to_owned()),
    ];
    let mut libraries = libraries(&iptables)?;
    let extensions = Path::new("/usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH))
        .join("xtables");
    for name in EXTENSIONS {
        let file = format!("libxt_{name}.so");
        let from = extensions.join(&file);
        libraries.extend(self::libraries(&from)?);
        files.push((from, format!("/xtables/{file}")));
    }
    let libraries = libraries.into_iter();
    files.extend(libraries.map(|path| (PathBuf::from(&path), path)));
    let files: Vec<archive::File<'_>> = files
        .iter()
        .map(|(from, to)| (from.as_path(), to.as_str()))
        .collect();
    let to = dir.path().join("node-cache.tar");
    let entry = ["/busybox", "sh", "/node-cache.sh"];
    archive::write(&to, STAND_IN, &files, &entry)?;
    Ok((dir, to))
}

/// The libraries that a program or a library of Debian needs, with the loader.
fn libraries(of: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new("ldd").arg(of).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "ldd {}: {text}", of.display());
    let words = text.split_whitespace();
    let paths = words.filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}

/// Leaves the cluster as it was.
fn clean(stage: &Stage) -> anyhow::Result<()> {
    let delete = "delete --ignore-not-found --wait=true -f -";
    stage.kubectl.feed(delete, &manifest())?;
    stage
        .kubectl
        .run("-n kube-system delete configmap kube-dns --ignore-not-found")?;
    wait_for("the last pod to end", PATIENCE, || {
        let line = "-n kube-system get pods -l k8s-app=node-local-dns -o name";
        Ok(stage.kubectl.run(line)?.trim().is_empty().then_some(()))
    })?;
    for node in stage.cluster.options.nodes() {
        for line in [
            "nft delete table inet nodens-fallback",
            "ip link delete nodens0",
            "ip link delete nodelocaldns",
        ] {
            // It may not have come so far.
            let _ = stage.cluster.on(node, line);
        }
    }
    Ok(())
}
