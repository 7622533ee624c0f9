// SPDX-License-Identifier: Apache-2.0
//! A network namespace that lives as long as its owner: a host of the lab.
//!
//! It has no name in /run/netns. A thread holds it, and the programs that run in it: when this
//! process ends, however it ends, the kernel ends the programs (PR_SET_PDEATHSIG) and takes the
//! namespace apart, with all links, addresses and rules in it. So a run that is killed leaves
//! nothing, and two runs never meet.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};

use crate::netns;
use crate::process::{self, Program};

/// A host of the lab.
pub struct Space {
    name: &'static str,
    namespace: Arc<OwnedFd>,
    path: String,
    orders: Option<mpsc::Sender<Order>>,
    keeper: Option<JoinHandle<()>>,
}

/// A program to be started by the keeper.
struct Order {
    command: Command,
    log: PathBuf,
    done: mpsc::Sender<anyhow::Result<Program>>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("name", &self.name).finish()
    }
}

/// Lets a thread of any lifetime into a namespace.
#[derive(Clone, Debug)]
pub struct Door(Arc<OwnedFd>);

impl Door {
    /// To the namespace of this file, in /run/netns or below /proc.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Does `work` on a thread inside.
    ///
    /// # Panics
    /// Where `work` does, and when the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().expect("a namespace of our own");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread in, for good.
    ///
    /// # Errors
    /// What setns(2) says.
    pub fn enter(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the namespace")
    }
}

impl From<&Space> for Door {
    fn from(space: &Space) -> Self {
        space.door()
    }
}

impl Space {
    /// A new namespace, in which the loopback interface is up and nothing else is there.
    ///
    /// # Errors
    /// When there can be none: it needs root, `unshare` and `ip`.
    pub fn new(name: &'static str) -> anyhow::Result<Self> {
        let (orders, queue) = mpsc::channel();
        let (ready, made) = mpsc::channel();
        let keeper = thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || keep(&queue, &ready))?;
        let (namespace, path) = made
            .recv()
            .context("the keeper of a namespace has ended")??;
        Ok(Self {
            name,
            namespace: Arc::new(namespace),
            path,
            orders: Some(orders),
            keeper: Some(keeper),
        })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its path below /proc, for `ip link … netns`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Lets a thread in that outlives the borrow of this space.
    #[must_use]
    pub fn door(&self) -> Door {
        Door(Arc::clone(&self.namespace))
    }

    /// Does `work` on a thread inside.
    ///
    /// # Panics
    /// Where `work` does, and when the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.door().within(work)
    }

    /// Starts a program inside that ends with this process at the latest.
    ///
    /// # Errors
    /// As [`Program::start`].
    pub fn start(&self, command: Command, log: PathBuf) -> anyhow::Result<Program> {
        let (done, started) = mpsc::channel();
        let order = Order {
            command: bound_to_us(&command),
            log,
            done,
        };
        let orders = self.orders.as_ref().context("the keeper")?;
        orders.send(order).map_err(|_| anyhow!("no keeper"))?;
        started.recv().context("the keeper has ended")?
    }

    /// Runs a command line, words separated by spaces, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        self.feed(line, "")
    }

    /// As [`Self::run`], with `input` on its standard input.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn feed(&self, line: &str, input: &str) -> anyhow::Result<String> {
        self.within(|| {
            let mut words = line.split(' ');
            let mut command = Command::new(words.next().unwrap_or_default());
            let output = process::feed(command.args(words), input)?;
            let said = String::from_utf8_lossy(&output.stderr);
            let name = self.name;
            ensure!(output.status.success(), "`{line}` in {name}: {said}");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// Runs lines of `ip -batch`.
    ///
    /// # Errors
    /// The first line that fails.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        self.feed("ip -batch -", lines).map(|_| ())
    }

    /// Sets a kernel parameter of this namespace, e.g. `ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        // The kernel shows a thread the parameters of its own namespace.
        self.within(|| fs::write(&path, value))
            .with_context(|| format!("write {value} to {path} in {}", self.name))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(keeper) = self.keeper.take() {
            // A panic there has been printed already.
            let _ = keeper.join();
        }
    }
}

/// Holds the namespace and is the parent of all programs in it: the signal at the parent's death
/// is sent when the *thread* ends that has started the program.
fn keep(queue: &mpsc::Receiver<Order>, ready: &mpsc::Sender<anyhow::Result<(OwnedFd, String)>>) {
    let made = (|| {
        netns::enter().context("a network namespace of the lab's own needs root")?;
        netns::run("ip link set lo up")?;
        let path = format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            gettid().as_raw_nonzero()
        );
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok((OwnedFd::from(namespace), path))
    })();
    let is_made = made.is_ok();
    if ready.send(made).is_err() || !is_made {
        return;
    }
    while let Ok(order) = queue.recv() {
        let started = Program::start(order.command, order.log);
        // Nobody waits any more: the program is dropped and so ended.
        let _ = order.done.send(started);
    }
}

/// The same command, killed when the thread that starts it ends.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]);
    bound.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound.env(super::sweep::MARK, super::sweep::mark());
    bound
}
