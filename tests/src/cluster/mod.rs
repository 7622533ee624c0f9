// SPDX-License-Identifier: Apache-2.0
//! A real Kubernetes on one machine: what the chart and the agent are accepted on.
//!
//! ```text
//!   127.0.0.1:PORT        ┌ control  10.89.0.10   etcd, API server, controllers, scheduler
//!        │ door           │
//!        └───────────► outside ─── node1  10.89.0.11   containerd, kubelet, kube-proxy, pods 10.244.1.0/24
//!                     a bridge, └─ node2  10.89.0.12   the same, pods 10.244.2.0/24
//!                     the nodes' resolver
//! ```
//!
//! No component is a stub. Kubernetes is built from tests/kubernetes (`make kubernetes`), CoreDNS from
//! tests/coredns; containerd, runc and the CNI plugins are Debian's. Each [`machine`] is a network
//! namespace, and in it a PID and a mount namespace, whose first process keeps its components running.
//! Nothing is sent from this machine's own namespace but what goes through the [`door`] on loopback.
//!
//! What was learnt on the way:
//!
//! - `ip netns exec` mounts another /sys for each call, which kubelet does not survive: nodes enter
//!   their namespace with nsenter and make the rest with unshare.
//! - kubelet 1.34 takes cgroups of version 1 with `failCgroupV1: false`; later versions may not.
//! - SIGTERM to the API server takes a minute: components are stopped with SIGKILL.
//! - A program of 140 MB that is started to ask one question takes 0.2 s of a CPU: see [`kubectl`].

pub mod archive;
pub mod components;
pub mod door;
pub mod fabric;
pub mod keys;
pub mod kubectl;
pub mod machine;
pub mod plan;
pub mod pods;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

pub use plan::{HOME, Machine, Options, Proxy};

use crate::coredns;
use crate::netns::run;
use crate::node::sweep;
use crate::process::{find_program, free_port, wait_for};

/// How long any one step of the start may take: a machine whose CPUs are all taken.
const STEP: Duration = Duration::from_secs(180);
/// How long what was killed may take to be gone.
const END: Duration = Duration::from_secs(30);
/// Programs of Debian that nodes run, and the packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/bin/nsenter", "util-linux"),
];

/// A cluster that is up.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// What it is.
    pub options: Options,
}

impl Cluster {
    /// Starts one, and tells `say` how far it is. It stays until [`down`] is called, however this
    /// process ends; but one that was begun with an `owner` is taken down by the next call when its
    /// owner ([`sweep::mark`]) has ended.
    ///
    /// # Errors
    /// One is up; a program is missing; something does not come up in time. Then all of it is taken
    /// down again, and the logs are in a directory that the error names.
    pub fn up(
        options: Options,
        owner: Option<&str>,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a cluster needs root: run it again with sudo"
        );
        ensure!(
            (1..=plan::MOST_NODES).contains(&options.nodes),
            "a cluster here has 1 to {} nodes",
            plan::MOST_NODES
        );
        for (program, package) in PROGRAMS {
            let is_there = Path::new(program).exists();
            ensure!(
                is_there,
                "{package} is missing: `make cluster-deps` installs it"
            );
        }
        components::kubernetes()?;
        coredns::find()?;
        if Path::new(HOME).exists() || !fabric::namespaces()?.is_empty() {
            let owner = fs::read_to_string(Path::new(HOME).join("owner")).unwrap_or_default();
            let is_left = !owner.is_empty() && !sweep::is_alive(&owner);
            ensure!(
                is_left,
                "a cluster is up: take it down with `make cluster-down`"
            );
            down()?;
        }
        // Whoever reads the administrator's key is root on this machine.
        let mut home = fs::DirBuilder::new();
        home.mode(0o700)
            .create(HOME)
            .with_context(|| format!("make {HOME}"))?;
        fs::create_dir(Path::new(HOME).join("logs"))?;
        fs::write(Path::new(HOME).join("options"), options.line())?;
        if let Some(owner) = owner {
            fs::write(Path::new(HOME).join("owner"), owner)?;
        }
        let cluster = Self { options };
        cluster
            .start(say)
            .map_err(|error| {
                let logs = cluster.gather();
                let ended = down();
                let logs = match logs {
                    Ok(dir) => format!("its logs are in {}", dir.display()),
                    Err(error) => format!("its logs could not be saved: {error:#}"),
                };
                let error = error.context(format!("start the cluster ({logs})"));
                match ended {
                    Ok(()) => error,
                    Err(also) => error.context(format!("and it could not be taken down: {also:#}")),
                }
            })
            .map(|()| cluster)
    }

    /// The one that is up.
    ///
    /// # Errors
    /// None is.
    pub fn attach() -> anyhow::Result<Self> {
        let line = fs::read_to_string(Path::new(HOME).join("options"))
            .context("no cluster is up: start one with `make cluster`")?;
        let options = Options::parse(&line)?;
        Ok(Self { options })
    }

    fn start(&self, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut lap = |what: &str| say(&format!("{:5.1} s  {what}", begin.elapsed().as_secs_f64()));
        fabric::build(self.options).context("connect the machines")?;
        let port = free_port()?;
        keys::write(self.options, port).context("make keys and certificates")?;
        fs::create_dir_all(components::images())?;
        let pause = components::kubernetes()?.join("pause");
        let coredns = coredns::find()?;
        for (name, image, program) in [
            ("pause", components::PAUSE, &pause),
            ("coredns", components::COREDNS, &coredns),
        ] {
            let archive = components::images().join(format!("{name}.tar"));
            let entry = format!("/{name}");
            archive::write(&archive, image, &[(program, &entry)], &[&entry])
                .with_context(|| format!("make the image of {name}"))?;
        }
        lap("network, keys, images");
        for machine in self.options.machines() {
            self.begin(machine)?;
        }
        launch(own_program()?, &["door", &port.to_string()], "door")?;
        wait_for("the door to the API server", STEP, || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        })?;
        let kubectl = kubectl::Kubectl::new()?;
        wait_for("the API server to be ready", STEP, || {
            Ok(Path::new(HOME).join("api-was-ready").exists().then_some(()))
        })?;
        lap("API server ready");
        kubectl.apply(&components::manifest(self.options))?;
        self.wait_for_nodes()?;
        lap("nodes ready");
        kubectl.run("-n kube-system rollout status deployment/coredns --timeout=180s")?;
        lap("CoreDNS ready");
        Ok(())
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// One is not in time.
    pub fn wait_for_nodes(&self) -> anyhow::Result<()> {
        let kubectl = kubectl::Kubectl::new()?;
        // One by one: of several that are not there yet it makes an error.
        for node in self.options.nodes() {
            kubectl.run(&format!("wait node/{node} --for=create --timeout=180s"))?;
            kubectl.run(&format!(
                "wait node/{node} --for=condition=Ready --timeout=180s"
            ))?;
        }
        Ok(())
    }

    /// Starts a machine's processes.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn begin(&self, machine: Machine) -> anyhow::Result<()> {
        let program = own_program()?.display().to_string();
        let name = machine.to_string();
        let namespace = format!("--net={}", machine.namespace_path().display());
        let arguments = [
            &namespace,
            "--",
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            &program,
            "machine",
            &name,
        ];
        launch(PathBuf::from("nsenter"), &arguments, &name)
    }

    /// Ends all processes of a machine, as a loss of power does; its network stays.
    ///
    /// # Errors
    /// They do not end.
    pub fn cut_power(&self, machine: Machine) -> anyhow::Result<()> {
        end(&machine.to_string())?;
        remove_cgroups([machine].into_iter())
    }

    /// Ends a component (SIGKILL), and keeps it from being started again.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self, machine: Machine, component: &str) -> anyhow::Result<()> {
        fs::write(machine::stop_file(machine, component), "")?;
        // Its keeper looks every 50 ms.
        wait_for(&format!("{component} to end"), END, || {
            let is_running = pods::runs(machine, component)?;
            Ok((!is_running).then_some(()))
        })
    }

    /// Lets a component start again.
    ///
    /// # Errors
    /// It was not stopped.
    pub fn resume(&self, machine: Machine, component: &str) -> anyhow::Result<()> {
        fs::remove_file(machine::stop_file(machine, component)).context("it was not stopped")
    }

    /// A command in a node's namespaces, network, mounts and processes: `nft`, `ip`, `ctr`.
    ///
    /// # Errors
    /// The node is not up; the command fails, with what it said.
    pub fn on(&self, machine: Machine, line: &str) -> anyhow::Result<String> {
        let pid = pods::first_process(machine)?;
        let output = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-m", "-u", "-i", "-n", "-p", "--"])
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .context("run nsenter")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{line}` on {machine}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Loads an archive of an image into all nodes.
    ///
    /// # Errors
    /// A node does not take it.
    pub fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let archive = fs::canonicalize(archive)
            .with_context(|| format!("find the image {}", archive.display()))?;
        for machine in self.options.nodes() {
            let line = format!("ctr -n k8s.io images import {}", archive.display());
            self.on(machine, &line)?;
        }
        Ok(())
    }

    /// Copies all logs, and what the API server says of its objects, into a new directory that stays.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn gather(&self) -> anyhow::Result<PathBuf> {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let dir = std::env::temp_dir().join(format!("nodens-cluster-logs-{}", time.as_millis()));
        fs::create_dir_all(&dir)?;
        let mut copies = vec![(Path::new(HOME).join("logs"), dir.join("components"))];
        copies.extend(self.options.nodes().map(|machine| {
            let pods = machine.home().join("log/pods");
            (pods, dir.join(format!("{machine}-pods")))
        }));
        for (from, to) in copies {
            // A node that has not come so far has none.
            let _ = Command::new("cp").arg("-r").arg(from).arg(to).output();
        }
        if let Ok(kubectl) = kubectl::Kubectl::new() {
            for (file, line) in [
                (
                    "objects",
                    "get all,endpointslices,events -A -o wide --request-timeout=5s",
                ),
                ("pods", "describe pods -A --request-timeout=5s"),
            ] {
                let text = kubectl
                    .run(line)
                    .unwrap_or_else(|error| format!("{error:#}"));
                fs::write(dir.join(file), text)?;
            }
        }
        Ok(dir)
    }
}

/// Takes down what is up, or what is left of it.
///
/// # Errors
/// Something cannot be removed; the rest is.
pub fn down() -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut note = |done: anyhow::Result<()>| {
        if let Err(error) = done {
            failures.push(format!("{error:#}"));
        }
    };
    for entry in fs::read_dir(HOME).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".pid") {
            note(end(name));
        }
    }
    for namespace in fabric::namespaces()? {
        // What lost its file: a directory that was removed under a running cluster.
        note(end_all_in(&namespace));
        note(run(&format!("ip netns delete {namespace}")));
    }
    note(remove_cgroups((1..=plan::MOST_NODES).map(Machine::Node)));
    if Path::new(HOME).exists() {
        note(fs::remove_dir_all(HOME).with_context(|| format!("remove {HOME}")));
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Ends every process in a network namespace.
fn end_all_in(namespace: &str) -> anyhow::Result<()> {
    let path = Path::new("/run/netns").join(namespace);
    wait_for(
        &format!("the end of all processes in {namespace}"),
        END,
        || {
            let pids = pods::in_namespace(&path)?;
            for pid in &pids {
                // Fails where it has ended meanwhile.
                let _ = kill_process(*pid, Signal::KILL);
            }
            Ok(pids.is_empty().then_some(()))
        },
    )
}

/// Removes the cgroups of nodes, the deepest first. The kernel holds one for a moment after its last
/// process.
fn remove_cgroups(nodes: impl Iterator<Item = Machine>) -> anyhow::Result<()> {
    let mut groups = Vec::new();
    for node in nodes {
        groups.extend(machine::cgroups(node)?);
        // Nobody of ours makes this one, beside hierarchies of version 1; runc does.
        groups.push(Path::new("/sys/fs/cgroup/unified").join(node.namespace()));
    }
    wait_for("the cgroups of the nodes to be empty", END, || {
        for group in &groups {
            remove_cgroup(group);
        }
        Ok((!groups.iter().any(|group| group.is_dir())).then_some(()))
    })
}

fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Tried again by the caller.
    let _ = fs::remove_dir(group);
}

/// This program, or the one beside it that has the commands of a cluster.
fn own_program() -> anyhow::Result<PathBuf> {
    find_program(
        "cluster",
        "NODENS_CLUSTER",
        "build it: cargo build -p nodens-tests --bin cluster",
    )
}

fn pid_file(name: &str) -> PathBuf {
    Path::new(HOME).join(format!("{name}.pid"))
}

/// Starts a program that outlives this one, and remembers it under a name.
fn launch(program: PathBuf, arguments: &[&str], name: &str) -> anyhow::Result<()> {
    let log = Path::new(HOME).join("logs").join(format!("{name}.log"));
    let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // What is typed on our terminal is not for it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    fs::write(pid_file(name), sweep::mark_of(child.id()))?;
    Ok(())
}

/// Kills what was started under a name, and waits until it and all below it are gone.
fn end(name: &str) -> anyhow::Result<()> {
    let file = pid_file(name);
    let mark = fs::read_to_string(&file).with_context(|| format!("{name} was not started"))?;
    if sweep::is_alive(&mark) {
        let pid = mark.split(':').next().and_then(|pid| pid.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            bail!("{} holds no process: {mark}", file.display());
        };
        let first = Machine::parse(name)
            .ok()
            .and_then(|machine| pods::first_process(machine).ok());
        kill_process(pid, Signal::KILL).with_context(|| format!("end {name}"))?;
        // The first process of a PID namespace is gone when all others in it are.
        wait_for(&format!("the end of {name}"), END, || {
            let is_first_alive = first.is_some_and(|pid| !pods::is_gone(pid));
            Ok((!is_first_alive && !sweep::is_alive(&mark)).then_some(()))
        })?;
    }
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
}
