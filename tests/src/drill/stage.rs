// SPDX-License-Identifier: Apache-2.0
//! Where a drill runs: a node, who asks, and how long it may take.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::flow::{Flow, Plan, Tally};
use crate::client::Client;
use crate::load::now_ns;
use crate::node::{Builder, Family, From, Node, NodeAgent, Server, Shape, ZONE};
use crate::query::Query;

/// Names that a flow asks for in turn, all of them in the cache.
const NAMES: u32 = 100;
/// Type TXT.
const TXT: u16 = 16;

/// What a drill needs to know.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The node.
    pub node: &'a Node,
    /// The families the agent serves and the clients ask in.
    pub families: &'a [Family],
    /// Where the queries come from.
    pub from: From,
    /// Queries a second, over all addresses together.
    pub per_second: u64,
    /// The short form.
    pub quick: bool,
}

impl Stage<'_> {
    /// `long`, or `short` in the short form.
    #[must_use]
    pub fn pick<T>(&self, long: T, short: T) -> T {
        if self.quick { short } else { long }
    }

    /// Sleeps so many seconds, or so many in the short form.
    pub fn wait(&self, long: f64, short: f64) {
        thread::sleep(Duration::from_secs_f64(self.pick(long, short)));
    }

    /// The agent of this stage, not started.
    #[must_use]
    pub fn builder(&self) -> Builder {
        self.node.agent(self.families)
    }

    /// The agent of this stage, answering.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn agent(&self) -> anyhow::Result<NodeAgent> {
        self.builder().start(self.node)
    }

    /// LOCAL and S.
    #[must_use]
    pub fn asked(&self) -> Vec<SocketAddr> {
        let families = self.families.iter();
        families.flat_map(|family| family.asked()).collect()
    }

    /// Queries at the stage's pace from its client. Returns once all names are in the cache.
    ///
    /// # Errors
    /// As [`Flow::start`].
    pub fn flow(&self) -> anyhow::Result<Flow> {
        self.flow_of(self.per_second)
    }

    /// As [`Self::flow`], at another pace.
    ///
    /// # Errors
    /// As [`Flow::start`].
    pub fn flow_of(&self, per_second: u64) -> anyhow::Result<Flow> {
        let plan = Plan {
            servers: self.asked(),
            per_second,
            names: NAMES,
        };
        let flow = Flow::start(self.node.space(self.from), plan)?;
        self.wait(2.0, 0.7);
        Ok(flow)
    }

    /// Whether the cluster's addresses lead to CoreDNS when nobody intercepts them.
    #[must_use]
    pub fn has_coredns(&self) -> bool {
        self.node.shape != Shape::Absent
    }

    /// Asks for new names until the agent's resident memory has this size: its cache is full then.
    ///
    /// # Errors
    /// When it does not grow any more.
    pub fn fill(&self, agent: &NodeAgent, bytes: u64) -> anyhow::Result<u64> {
        let server = self.asked()[0];
        let mut last = (agent.resident_bytes()?, now_ns());
        let mut number = 0_u64;
        loop {
            let patience = Duration::from_millis(200);
            let client = Client::new(server).patience(patience);
            let names = number..number + 4_000;
            number = names.end;
            let space = self.node.space(self.from);
            space.within(|| ask_for_text(&client, ZONE, names))?;
            let resident = agent.resident_bytes()?;
            if resident >= bytes {
                return Ok(resident);
            }
            if resident > last.0 {
                last = (resident, now_ns());
            }
            let still = Duration::from_nanos(now_ns() - last.1);
            ensure!(
                still < Duration::from_secs(20),
                "the cache does not grow beyond {resident} octets of {bytes}"
            );
        }
    }

    /// How often the dead-man's switch has tripped.
    ///
    /// # Errors
    /// When the agent does not tell.
    pub fn trips(&self, agent: &NodeAgent) -> anyhow::Result<u64> {
        let trips = agent.metric(self.node, "nodens_switch_trips_total", &[])?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a counter"
        )]
        Ok(trips as u64)
    }

    /// Waits until everything is answered by the agent again.
    ///
    /// # Errors
    /// When it is not within 10 s.
    pub fn wait_for_return(&self, agent: &NodeAgent) -> anyhow::Result<()> {
        agent.wait_until_it_answers(self.node)
    }
}

/// Asks for the TXT record of names of these numbers in a zone, a hundred at a time.
///
/// # Errors
/// When there is no socket. A datagram that is lost is a name less, no more.
pub fn ask_for_text(client: &Client, zone: &str, names: Range<u64>) -> anyhow::Result<()> {
    let socket = client.udp_socket()?;
    let mut buffer = [0; 1500];
    let mut waiting = 0;
    for number in names {
        let query = Query::new(&format!("f{number}.fill.{zone}"), TXT);
        let _ = socket.send(&query.edns(1232).to_bytes());
        waiting += 1;
        while waiting > 100 {
            waiting = match socket.recv(&mut buffer) {
                Ok(_) => waiting - 1,
                Err(_) => 0,
            };
        }
    }
    Ok(())
}

/// What a tally says beside the figures.
#[must_use]
pub fn describe(tally: &Tally, from_ns: u64, to_ns: u64) -> String {
    let latency = tally.latency(from_ns, to_ns).map_or_else(
        || "no answer".to_owned(),
        |(middle, longest)| {
            format!(
                "latency {:.2} ms, at most {:.1} ms",
                middle.as_secs_f64() * 1e3,
                longest.as_secs_f64() * 1e3
            )
        },
    );
    format!(
        "{} queries, {} answered by the agent, {} by CoreDNS, {} lost, {} wrong; {latency}",
        tally.asked(from_ns, to_ns),
        tally.by(Server::Agent, from_ns, to_ns),
        tally.by(Server::CoreDns, from_ns, to_ns),
        tally.lost(from_ns, to_ns),
        tally.wrong,
    )
}

/// The number of the agent's thread of this name.
///
/// # Errors
/// When there is none.
pub fn thread_of(agent: &NodeAgent, name: &str) -> anyhow::Result<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid()))?;
    let mut found = tasks.flatten().filter(|task| {
        let comm = fs::read_to_string(task.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    });
    let task = found.next().with_context(|| format!("no thread {name}"))?;
    Ok(task.file_name().to_string_lossy().parse()?)
}
