// SPDX-License-Identifier: Apache-2.0
//! node-cache (NodeLocal DNSCache) on the node, as far as others meet it: the CoreDNS that it is made
//! of, with its Corefile, its interface, and its rules, written by the real iptables in its order.
//!
//! node-cache's own program is to be had neither as a Go module nor as a Debian package; what it does
//! around CoreDNS (cmd/node-cache/app/cache_app.go of kubernetes/dns 1.26.8) is done here: at its
//! start the interface, then CoreDNS, and the rules when that listens; every 60 s what is missing of
//! them ([`Incumbent::sync`]); at SIGTERM the rules one by one, then the interface, and CoreDNS ends
//! last. A bridge stands for its dummy, which not every kernel has.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::{Family, Node};
use crate::client::Client;
use crate::coredns;
use crate::process::{Program, TempDir, wait_for};
use crate::query::Query;

/// The name of its interface.
pub const INTERFACE: &str = "nodelocaldns";

/// How long it may take until it answers, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Its rules for one address, a line each.
pub const RULES: &str = include_str!("../../../netsetup/tests/netns/node-cache.rules");

/// A running node-cache. Killed when dropped; what it has put on the node stays.
#[derive(Debug)]
pub struct Incumbent {
    program: Program,
    iptables: &'static str,
    addresses: [IpAddr; 2],
    /// Holds the Corefile while it runs.
    _dir: TempDir,
}

impl Incumbent {
    /// Starts it on LOCAL and S of IPv4, with rules of `iptables-nft` or `iptables-legacy`, and waits
    /// until it listens.
    ///
    /// # Errors
    /// When a program is missing, or it does not answer.
    pub fn start(node: &Node, iptables: &'static str) -> anyhow::Result<Self> {
        let [local, service] = [Family::V4.local(), Family::V4.service()];
        let host = node.host();
        // It is no error where both are there already.
        let _ = host.ip(&format!("link add {INTERFACE} type bridge\n"));
        for address in [local, service] {
            let _ = host.ip(&format!("address add {address}/32 dev {INTERFACE}\n"));
        }
        let dir = TempDir::new()?;
        let upstream = Family::V4.upstream();
        let corefile = format!(
            ".:53 {{\n errors\n cache {{\n  success 9984 30\n  denial 9984 5\n }}\n reload\n \
             bind {local} {service}\n forward . {upstream} {{\n  force_tcp\n }}\n \
             prometheus :9253\n health {local}:8080\n}}\n"
        );
        let path = dir.path().join("Corefile");
        std::fs::write(&path, corefile)?;
        let mut command = Command::new(coredns::find()?);
        command.arg("-conf").arg(path);
        let mut program = host.start(command, dir.path().join("log"))?;
        let listens = || {
            if let Some(status) = program.status()? {
                bail!("node-cache ended with {status}");
            }
            Ok(host.run("ss -Hlntp")?.lines().any(|line| {
                let is_ours = line.contains(&format!("pid={},", program.pid()));
                is_ours && line.contains(&format!("{service}:53"))
            }))
        };
        let mut listens = listens;
        wait_for("node-cache to listen", PATIENCE, || {
            Ok(listens()?.then_some(()))
        })
        .with_context(|| format!("log of node-cache:\n{}", program.log()))?;
        let started = Self {
            program,
            iptables,
            addresses: [local, service],
            _dir: dir,
        };
        started.sync(node)?;
        Ok(started)
    }

    /// Puts back what is missing of its rules and its interface, as it does every minute.
    ///
    /// # Errors
    /// What iptables says.
    pub fn sync(&self, node: &Node) -> anyhow::Result<()> {
        for address in self.addresses {
            for rule in rules() {
                if self.rule(node, "-C", address, rule).is_err() {
                    self.rule(node, "-I", address, rule)?;
                }
            }
        }
        let host = node.host();
        let _ = host.ip(&format!("link add {INTERFACE} type bridge\n"));
        for address in self.addresses {
            let _ = host.ip(&format!("address add {address}/32 dev {INTERFACE}\n"));
        }
        Ok(())
    }

    /// Ends it as SIGTERM does: rules, interface, sockets, in this order.
    ///
    /// # Errors
    /// What the programs say; when it does not end.
    pub fn end(mut self, node: &Node) -> anyhow::Result<()> {
        for address in self.addresses {
            for rule in rules() {
                // A rule that is gone already is none of its errors.
                let _ = self.rule(node, "-D", address, rule);
            }
        }
        let _ = node.host().ip(&format!("link delete {INTERFACE}\n"));
        self.program.signal(Signal::TERM)?;
        self.program.wait(PATIENCE)?;
        Ok(())
    }

    /// Ends it as SIGKILL does: all that it has put on the node stays.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::KILL)?;
        self.program.wait(PATIENCE)?;
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What the system reports.
    pub fn status(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.program.status()?)
    }

    /// What it has written.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }

    fn rule(&self, node: &Node, verb: &str, address: IpAddr, rule: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = rule.splitn(7, ' ').collect();
        let [table, chain, proto, side, port, target, comment] = words[..] else {
            bail!("no rule of node-cache's: {rule}");
        };
        let line = format!(
            "{} -w 5 -t {table} {verb} {chain} -p {proto} -{side} {address} --{side}port {port} \
             -j {target} -m comment --comment 'NodeLocal DNS Cache: {comment}'",
            self.iptables
        );
        node.host().feed("sh -e", &line).map(|_| ())
    }
}

fn rules() -> impl Iterator<Item = &'static str> {
    RULES.lines().filter(|line| !line.starts_with('#'))
}

/// Asks over UDP from a place of the node's choice; whether anybody answers.
#[must_use]
pub fn is_answered(node: &Node, from: super::From, address: IpAddr) -> bool {
    node.space(from).within(|| {
        let client = Client::new(Family::dns(address)).patience(Duration::from_millis(700));
        client.udp(&Query::new(super::NAME, 1_u16)).is_ok()
    })
}
