// SPDX-License-Identifier: Apache-2.0
//! Processes of machines and of pods, as this machine sees them: it shows all of them below /proc,
//! whatever namespace they are in.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustix::process::Pid;
use serde_json::Value;

use super::kubectl::Kubectl;
use super::plan::{HOME, Machine};
use crate::node::space::Door;

/// A pod with a running container.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: Machine,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The first process of its first container.
    pub pid: Pid,
    /// How often its first container was started again.
    pub restarts: u64,
}

impl Pod {
    /// The pods of a namespace with this label whose first container runs, by node.
    ///
    /// # Errors
    /// The API server does not tell.
    pub fn all(kubectl: &Kubectl, namespace: &str, label: &str) -> anyhow::Result<Vec<Self>> {
        let list = kubectl.json(&format!("-n {namespace} get pods -l {label}"))?;
        let items = list["items"].as_array().context("a list of pods")?;
        let mut pods: Vec<Self> = items.iter().filter_map(Self::read).collect();
        pods.sort_by_key(|pod| pod.node.to_string());
        Ok(pods)
    }

    fn read(pod: &Value) -> Option<Self> {
        let status = &pod["status"];
        let container = &status["containerStatuses"][0];
        let id = container["containerID"]
            .as_str()?
            .strip_prefix("containerd://")?;
        let addresses = status["podIPs"].as_array()?.iter();
        Some(Self {
            name: pod["metadata"]["name"].as_str()?.to_owned(),
            node: Machine::parse(pod["spec"]["nodeName"].as_str()?).ok()?,
            addresses: addresses
                .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
                .collect(),
            pid: of_container(id)?,
            restarts: container["restartCount"].as_u64()?,
        })
    }

    /// Lets a thread into its network namespace.
    ///
    /// # Errors
    /// It has ended.
    pub fn door(&self) -> anyhow::Result<Door> {
        Door::open(&self.proc("ns/net"))
    }

    /// A file of its own, by its path in the pod.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_file(&self, path: &str) -> anyhow::Result<String> {
        let path = self.proc("root").join(path.trim_start_matches('/'));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(file)
    }
}

/// All processes, by number.
fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// The oldest process of a container, by the cgroup that has the container's ID for a name.
fn of_container(id: &str) -> Option<Pid> {
    let is_in = |pid: &Pid| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        groups.is_ok_and(|groups| groups.lines().any(|line| line.ends_with(id)))
    };
    all().filter(is_in).min_by_key(|pid| pid.as_raw_nonzero())
}

/// Processes in a network namespace, pods with one of their own not among them.
pub(super) fn in_namespace(path: &Path) -> anyhow::Result<Vec<Pid>> {
    let wanted = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let is_in = |pid: &Pid| {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net"));
        namespace.is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
    };
    Ok(all().filter(is_in).collect())
}

/// Whether a process has ended, its parent's look at it aside.
pub(super) fn is_gone(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status
        .lines()
        .find_map(|line| line.strip_prefix("State:\t"));
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// The first process of a machine.
///
/// # Errors
/// The machine is not up.
pub(super) fn first_process(machine: Machine) -> anyhow::Result<Pid> {
    let file = Path::new(HOME).join(format!("{machine}.pid"));
    let mark = fs::read_to_string(&file).with_context(|| format!("{machine} is not up"))?;
    let parent = mark.split(':').next().unwrap_or_default();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .with_context(|| format!("{machine} has ended"))?;
    let first = children
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok());
    first
        .and_then(Pid::from_raw)
        .with_context(|| format!("{machine} has ended"))
}

/// Whether a component of a machine runs.
pub(super) fn runs(machine: Machine, component: &str) -> anyhow::Result<bool> {
    let first = first_process(machine)?;
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
    Ok(children.split_whitespace().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = line.split(|&octet| octet == 0).next().unwrap_or_default();
        program.ends_with(component.as_bytes())
    }))
}

/// The pod on a node, of which there must be one.
///
/// # Errors
/// There is none, or another.
pub fn only(pods: &[Pod], node: Machine) -> anyhow::Result<&Pod> {
    let mut on = pods.iter().filter(|pod| pod.node == node);
    let pod = on
        .next()
        .with_context(|| format!("no such pod runs on {node}"))?;
    ensure!(on.next().is_none(), "several such pods run on {node}");
    Ok(pod)
}
