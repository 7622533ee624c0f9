// SPDX-License-Identifier: Apache-2.0
//! The agent of a lab's node: the real program in the node's namespace, intercepting.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use super::{Family, From, Node, Server, Shape};
use crate::agent::{self as program, Agent, HttpResponse, http_get, sum_samples};
use crate::process::{Program, TempDir, wait_for};

/// How long it may take until queries reach it; far above what it needs, for busy machines.
const START: Duration = Duration::from_secs(20);
/// The port of `/metrics`.
const METRICS: u16 = 9253;
/// The port of `/healthz` and `/readyz`.
const HEALTH: u16 = 9254;

/// An agent before it starts.
#[derive(Clone, Debug)]
pub struct Builder {
    keys: program::Builder,
    families: Vec<Family>,
    wrapper: Vec<String>,
}

/// An agent on a node. Killed when dropped; start it again with [`NodeAgent::start_again`].
#[derive(Debug)]
pub struct NodeAgent {
    program: Program,
    builder: Builder,
    dir: TempDir,
}

impl Builder {
    pub(super) fn new(shape: Shape, families: &[Family]) -> Self {
        let list = |address: fn(Family) -> IpAddr| {
            let addresses: Vec<_> = families
                .iter()
                .map(|&family| format!("\"{}\"", address(family)))
                .collect();
            format!("[{}]", addresses.join(", "))
        };
        let is_alone = shape == Shape::Absent;
        let fallback = if is_alone {
            "off".to_owned()
        } else {
            list(Family::fallback)
        };
        let upstreams: Vec<SocketAddr> = families
            .iter()
            .flat_map(|family| {
                if is_alone {
                    family.coredns().to_vec()
                } else {
                    vec![family.upstream()]
                }
            })
            .map(Family::dns)
            .collect();
        let first = families
            .first()
            .map_or_else(|| Family::V4.local(), |family| family.local());
        let keys = Agent::builder()
            .set("listen.addresses", &list(Family::local))
            .set("listen.port", "53")
            .set("cluster.dnsService", &list(Family::service))
            .set("intercept.enabled", "true")
            .set("intercept.fallback", &fallback)
            .set(
                "admin.metrics",
                &format!("\"{}\"", SocketAddr::new(first, METRICS)),
            )
            .set(
                "admin.health",
                &format!("\"{}\"", SocketAddr::new(first, HEALTH)),
            )
            .zone(".", &upstreams);
        Self {
            keys,
            families: families.to_vec(),
            wrapper: Vec::new(),
        }
    }

    /// Sets any key by its path, to a value as YAML writes it.
    #[must_use]
    pub fn set(mut self, path: &str, value: &str) -> Self {
        self.keys = self.keys.set(path, value);
        self
    }

    /// Starts it through another program, e.g. `setpriv --inh-caps=-net_admin`.
    #[must_use]
    pub fn through(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Writes the configuration into `dir` and gives the command `nodens` with these words and
    /// `--config`.
    ///
    /// # Errors
    /// When the program is missing, with the command that makes it.
    pub fn command(&self, dir: &TempDir, words: &[&str]) -> anyhow::Result<Command> {
        let path = dir.path().join("nodens.yaml");
        let socket = dir.path().join("admin.sock").display().to_string();
        fs::write(&path, self.keys.config().replace("$SOCKET", &socket))?;
        let nodens = program::command()?;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(nodens.get_program()),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(nodens.get_program());
                command
            }
        };
        for (name, _) in nodens.get_envs() {
            command.env_remove(name);
        }
        command.args(words).arg("--config").arg(path);
        Ok(command)
    }

    /// Runs a command of the program on a node to its end, with no agent of its own.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, node: &Node, words: &[&str]) -> anyhow::Result<std::process::Output> {
        let dir = TempDir::new()?;
        let mut command = self.command(&dir, words)?;
        node.host().within(|| Ok(command.output()?))
    }

    /// Starts it on a node and waits until it answers what is asked of LOCAL and S from a pod,
    /// over UDP and TCP.
    ///
    /// # Errors
    /// When it ends, or does not answer within 20 s; its log is part of the error.
    pub fn start(self, node: &Node) -> anyhow::Result<NodeAgent> {
        let agent = self.launch(node)?;
        agent.wait_until_it_answers(node)?;
        Ok(agent)
    }

    /// Starts it on a node, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(self, node: &Node) -> anyhow::Result<NodeAgent> {
        let dir = TempDir::new()?;
        let command = self.command(&dir, &["run"])?;
        let program = node.host().start(command, dir.path().join("log"))?;
        Ok(NodeAgent {
            program,
            builder: self,
            dir,
        })
    }
}

impl NodeAgent {
    /// Waits until every address is answered by the agent over UDP and TCP, from a pod.
    ///
    /// # Errors
    /// When one is not within 20 s; the log is part of the error.
    pub fn wait_until_it_answers(&self, node: &Node) -> anyhow::Result<()> {
        for server in self.asked() {
            for over_tcp in [false, true] {
                let what = format!("the agent to answer on {server}");
                wait_for(&what, START, || {
                    let patience = Duration::from_millis(300);
                    let answered = node.ask(From::Veth, server, over_tcp, patience);
                    Ok(answered.ok().filter(|by| *by == Server::Agent))
                })
                .with_context(|| format!("log of the agent:\n{}", self.log()))?;
            }
        }
        Ok(())
    }

    /// LOCAL and S in its families: what clients ask.
    #[must_use]
    pub fn asked(&self) -> Vec<SocketAddr> {
        let families = self.builder.families.iter();
        families.flat_map(|family| family.asked()).collect()
    }

    /// Starts it once more, after its end, and does not wait. The log begins anew.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self, node: &Node) -> anyhow::Result<()> {
        let command = self.builder.command(&self.dir, &["run"])?;
        self.program = node.host().start(command, self.dir.path().join("log"))?;
        Ok(())
    }

    /// Runs another command of the same program with the same configuration, e.g. `retire`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn command(&self, node: &Node, words: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = self.builder.command(&self.dir, words)?;
        node.host().within(|| Ok(command.output()?))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.program.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.program.wait(patience)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What the system reports.
    pub fn status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.program.status()?)
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.program.resident_bytes()
    }

    /// What it has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// GET of its health listener, e.g. `/readyz`.
    ///
    /// # Errors
    /// When there is no response.
    pub fn health(&self, node: &Node, path: &str) -> anyhow::Result<HttpResponse> {
        self.get(node, HEALTH, path)
    }

    /// The sum of all samples of a metric that have these labels; 0 where there is none.
    ///
    /// # Errors
    /// When there is no response.
    pub fn metric(&self, node: &Node, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let response = self.get(node, METRICS, "/metrics")?;
        Ok(sum_samples(&response.body, name, labels))
    }

    fn get(&self, node: &Node, port: u16, path: &str) -> anyhow::Result<HttpResponse> {
        let family = self.builder.families.first().context("no family")?;
        let server = SocketAddr::new(family.local(), port);
        node.host().within(|| http_get(server, path))
    }
}
