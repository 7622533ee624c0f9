// SPDX-License-Identifier: Apache-2.0
//! The first process of a machine: prepares what it mounts, keeps its components running, and reaps
//! what they leave. When it ends the kernel ends all processes of the machine, pods included.
//!
//! A component stops (SIGKILL: a crash) while a file NAME.stop is beside its log, and starts again
//! when that is gone.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::components::{self, Component};
use super::plan::{Machine, Options};
use crate::netns::run;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// From a component's end to its next start, as service managers do.
const RESTART: Duration = Duration::from_secs(1);

/// The file that stops a component.
#[must_use]
pub fn stop_file(machine: Machine, component: &str) -> PathBuf {
    machine.logs().join(format!("{component}.stop"))
}

/// Is a machine, for ever. To be called as the first process of a PID namespace, with a mount
/// namespace of its own.
///
/// # Errors
/// When it is not, or something cannot be mounted or written.
pub fn be(machine: Machine, options: Options) -> anyhow::Result<()> {
    ensure!(
        std::process::id() == 1,
        "{machine} must be the first process of a PID namespace: `cluster up` starts it so"
    );
    fs::create_dir_all(machine.logs())?;
    let components = components::of(machine, options)?;
    if let Machine::Node(_) = machine {
        mount(machine).context("mount what the node has of its own")?;
        enter_cgroups(machine).context("make the node's cgroups")?;
        for other in options.nodes().filter(|&other| other != machine) {
            hide_cgroups(other).context("hide the other nodes' cgroups")?;
        }
    }
    Keeper::new(machine, components).keep()
}

struct Keeper {
    machine: Machine,
    components: Vec<Component>,
    running: HashMap<Pid, usize>,
    /// When each may start; `None` for what runs and what is done.
    due: Vec<Option<Instant>>,
}

impl Keeper {
    fn new(machine: Machine, components: Vec<Component>) -> Self {
        let due = components.iter().map(|_| Some(Instant::now())).collect();
        Self {
            machine,
            components,
            running: HashMap::new(),
            due,
        }
    }

    fn keep(mut self) -> anyhow::Result<()> {
        loop {
            self.reap()?;
            for (&pid, &which) in &self.running {
                if stop_file(self.machine, self.components[which].name).exists() {
                    // Fails where it has ended meanwhile.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            for which in 0..self.components.len() {
                if self.is_to_start(which) {
                    let pid = self.start(which)?;
                    self.running.insert(pid, which);
                    self.due[which] = None;
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Every process that has ended: components, and orphans that came to us.
    fn reap(&mut self) -> anyhow::Result<()> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error).context("wait for a process"),
            };
            let Some(which) = self.running.remove(&pid) else {
                continue;
            };
            let component = &self.components[which];
            let is_done = component.is_step && status.exit_status() == Some(0);
            self.due[which] = (!is_done).then(|| Instant::now() + RESTART);
        }
    }

    fn is_to_start(&self, which: usize) -> bool {
        let component = &self.components[which];
        self.due[which].is_some_and(|due| due <= Instant::now())
            && component.after.iter().all(|file| file.exists())
            && !stop_file(self.machine, component.name).exists()
    }

    fn start(&self, which: usize) -> anyhow::Result<Pid> {
        let component = &self.components[which];
        let path = self.machine.logs().join(format!("{}.log", component.name));
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        let child = Command::new(&component.words[0])
            .args(&component.words[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!(
                    "start {} (`make cluster-deps` installs it)",
                    component.words[0]
                )
            })?;
        // It is waited for by its number, with all others.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.context("the number of a process")
    }
}

/// Gives a node places of its own for all that its components and its pods write, so that two nodes
/// share nothing and the machine keeps nothing.
fn mount(machine: Machine) -> anyhow::Result<()> {
    let home = machine.home();
    let dir = |name: &str| {
        let path = home.join(name);
        fs::create_dir_all(&path)?;
        anyhow::Ok(path.display().to_string())
    };
    run(&format!("hostname {machine}"))?;
    // A view of this network namespace's devices, with the machine's cgroups below it: kubelet and
    // the CNI plugins look there.
    let cgroups = dir("cgroups")?;
    run(&format!("mount --rbind /sys/fs/cgroup {cgroups}"))?;
    run("umount -l /sys")?;
    run("mount -t sysfs sysfs /sys")?;
    run(&format!("mount --rbind {cgroups} /sys/fs/cgroup"))?;
    run(&format!("umount -l {cgroups}"))?;
    // kubelet wants what it mounts to reach its pods. Not before: the last umount would have
    // reached /sys/fs/cgroup.
    run("mount --make-rshared /")?;
    run("mount -t tmpfs -o mode=755 tmpfs /run")?;
    run(&format!("mount --bind {} /var/log", dir("log")?))?;
    for below in ["/var/lib", "/opt", "/usr/libexec"] {
        let (upper, work) = (
            dir(&format!("upper{below}"))?,
            dir(&format!("work{below}"))?,
        );
        run(&format!(
            "mount -t overlay overlay -o lowerdir={below},upperdir={upper},workdir={work} {below}"
        ))?;
    }
    // No overlay: containers are overlays themselves, of what kubelet keeps there.
    fs::create_dir_all("/var/lib/kubelet")?;
    run(&format!(
        "mount --bind {} /var/lib/kubelet",
        dir("kubelet")?
    ))?;
    // kubelet insists on these settings of the whole kernel. It may have its way with a file.
    let kernel = dir("kernel")?;
    for (name, value) in [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ] {
        let file = format!("{kernel}/{}", name.replace('/', "-"));
        fs::write(&file, format!("{value}\n"))?;
        run(&format!("mount --bind {file} /proc/sys/{name}"))?;
    }
    Ok(())
}

/// Where a machine's cgroups are: once, or in each hierarchy of version 1.
///
/// # Errors
/// There are none at all.
pub(super) fn cgroups(machine: Machine) -> anyhow::Result<Vec<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return Ok(vec![top.join(machine.namespace())]);
    }
    let mut all = Vec::new();
    for hierarchy in fs::read_dir(top).context("look for cgroups")? {
        let hierarchy = hierarchy?.path();
        // The one of version 2 beside them has no controllers.
        if !hierarchy.is_symlink() && !hierarchy.ends_with("unified") {
            all.push(hierarchy.join(machine.namespace()));
        }
    }
    Ok(all)
}

/// kubelet looks at every container's cgroup that it sees at its start, 3 s each for those that
/// it does not know.
fn hide_cgroups(other: Machine) -> anyhow::Result<()> {
    for group in cgroups(other)? {
        fs::create_dir_all(&group)?;
        run(&format!("mount -t tmpfs -o ro tmpfs {}", group.display()))?;
    }
    Ok(())
}

/// One cgroup a node in each hierarchy, in whose part `system` its components are: kubelet's root must
/// be there before it, and kubelet is in one cgroup for CPU and memory.
fn enter_cgroups(machine: Machine) -> anyhow::Result<()> {
    for group in cgroups(machine)? {
        let system = group.join("system");
        fs::create_dir_all(&system)?;
        let above = group.parent().unwrap_or(&group);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // A new cpuset of version 1 is empty, and takes no process until it is not.
            if let Ok(all) = fs::read(above.join(file)) {
                fs::write(group.join(file), &all)?;
                fs::write(system.join(file), &all)?;
            }
        }
        let procs = system.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("write {}", procs.display()))?;
        if above.join("cgroup.controllers").exists() {
            for controller in ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"] {
                for whose in [above, &group] {
                    // Not every kernel has each; kubelet says which it misses.
                    let control = whose.join("cgroup.subtree_control");
                    let _ = fs::write(control, format!("+{controller}"));
                }
            }
        }
    }
    Ok(())
}
