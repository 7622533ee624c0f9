// SPDX-License-Identifier: Apache-2.0
//! Who stands between the clients and the pods: the agent, or what clusters have today in its
//! place.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::fleet::{CLIENTS, Fleet, START};
use super::names;
use crate::agent::{self, Agent};
use crate::client::Client;
use crate::coredns;
use crate::load::meter::CpuMeter;
use crate::node::{Family, Space};
use crate::process::{Program, TempDir, wait_for};
use crate::query::Query;

/// The salt of the name that is asked until it is answered.
const FIRST_SALT: u32 = 0;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The agent.
    Agent,
    /// CoreDNS that forwards over TCP, with the plugins of node-cache's own file.
    Incumbent,
    /// CoreDNS that forwards over TCP, and nothing else.
    Bare,
}

/// What node-cache's file has beside `bind`, `forward` and what follows changes of the file.
const PLUGINS: &str = " errors\n cache 30\n loop\n prometheus 127.0.0.1:9253\n";

impl Kind {
    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Agent => "the agent",
            Self::Incumbent => "CoreDNS with `forward` and `force_tcp` in the agent's place",
            Self::Bare => "CoreDNS with `forward` and `force_tcp` alone",
        }
    }
}

/// What a forwarder is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The servers of all names.
    pub upstreams: Vec<SocketAddr>,
    /// Where it answers.
    pub listen: SocketAddr,
    /// Further keys of the agent, with values as YAML writes them.
    pub keys: Vec<(&'static str, String)>,
}

/// A forwarder that runs. Killed when dropped.
#[derive(Debug)]
pub struct Forwarder {
    listen: SocketAddr,
    program: Program,
    _dir: TempDir,
}

impl Forwarder {
    /// Starts it on the node of a fleet, in front of these servers, and waits until clients get
    /// their first answer.
    ///
    /// # Errors
    /// When they do not within 30 s; its log is part of the error.
    pub fn start(
        fleet: &Fleet,
        kind: Kind,
        upstreams: &[IpAddr],
        keys: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        let settings = Settings {
            upstreams: upstreams.iter().copied().map(Family::dns).collect(),
            listen: Family::dns(Family::V4.local()),
            keys: keys.to_vec(),
        };
        let mut forwarder = Self::launch(fleet.node(), kind, &settings)?;
        forwarder.await_answer(fleet.clients(), Some(CLIENTS[0].into()))?;
        Ok(forwarder)
    }

    /// Starts it in a namespace, and does not wait.
    ///
    /// # Errors
    /// When the program is missing, with the command that makes it.
    pub fn launch(space: &Space, kind: Kind, settings: &Settings) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let command = match kind {
            Kind::Agent => agent(&dir, settings)?,
            Kind::Incumbent => incumbent(&dir, settings, PLUGINS)?,
            Kind::Bare => incumbent(&dir, settings, "")?,
        };
        let program = space.start(command, dir.path().join("log"))?;
        Ok(Self {
            listen: settings.listen,
            program,
            _dir: dir,
        })
    }

    /// Waits until a client in `space` gets an answer with data.
    ///
    /// # Errors
    /// When it does not within 30 s; the log is part of the error.
    pub fn await_answer(&mut self, space: &Space, source: Option<IpAddr>) -> anyhow::Result<()> {
        let mut client = Client::new(self.listen).patience(Duration::from_secs(1));
        if let Some(source) = source {
            client = client.from(source);
        }
        let program = &mut self.program;
        let mut number = 0;
        wait_for("the first answer", START, || {
            if let Some(status) = program.status()? {
                bail!("the forwarder ended with {status}");
            }
            // A new name each time: no failure is remembered of it.
            number += 1;
            let query = Query::new(&names::text(FIRST_SALT, number), 1_u16);
            let answer = space.within(|| client.udp(&query));
            Ok(answer.ok().filter(|answer| !answer.addresses().is_empty()))
        })
        .with_context(|| format!("log of the forwarder:\n{}", program.log()))?;
        Ok(())
    }

    /// Where it answers.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
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

    /// A meter of its CPU time.
    ///
    /// # Errors
    /// When it has ended.
    pub fn meter(&self) -> anyhow::Result<CpuMeter> {
        CpuMeter::of(self.pid()).context("the forwarder has ended")
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }
}

fn agent(dir: &TempDir, settings: &Settings) -> anyhow::Result<Command> {
    let listen = settings.listen;
    let mut keys = Agent::builder()
        .set("listen.addresses", &format!("[{}]", listen.ip()))
        .set("listen.port", &listen.port().to_string())
        .set("admin.metrics", &format!("\"{}:9253\"", listen.ip()))
        .set("admin.health", &format!("\"{}:9254\"", listen.ip()))
        .zone(".", &settings.upstreams);
    for (key, value) in &settings.keys {
        keys = keys.set(key, value);
    }
    let path = dir.path().join("nodens.yaml");
    let socket = dir.path().join("admin.sock").display().to_string();
    fs::write(&path, keys.config().replace("$SOCKET", &socket))?;
    let mut command = agent::command()?;
    command.arg("run").arg("--config").arg(path);
    Ok(command)
}

fn incumbent(dir: &TempDir, settings: &Settings, plugins: &str) -> anyhow::Result<Command> {
    let servers: Vec<_> = settings.upstreams.iter().map(ToString::to_string).collect();
    let (ip, port) = (settings.listen.ip(), settings.listen.port());
    let corefile = format!(
        ".:{port} {{\n bind {ip}\n{plugins} forward . {} {{\n  force_tcp\n }}\n}}\n",
        servers.join(" ")
    );
    let path = dir.path().join("Corefile");
    fs::write(&path, corefile)?;
    let mut command = Command::new(coredns::find()?);
    command.arg("-conf").arg(path);
    Ok(command)
}
