// SPDX-License-Identifier: Apache-2.0
//! What a cluster is made of: its options, its machines, and who has which address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::node::Family;

/// Where a cluster keeps all it writes while it is up. There is one on a machine, as its namespaces
/// have names; on a disk, as containerd unpacks images there.
pub const HOME: &str = "/var/tmp/nodens-cluster";
/// The most nodes: what two CPUs carry.
pub const MOST_NODES: u8 = 4;

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Its mode `iptables`.
    Iptables,
    /// Its mode `nftables`.
    Nftables,
}

impl Proxy {
    /// What kube-proxy calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// What a cluster is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many nodes.
    pub nodes: u8,
    /// How kube-proxy writes its rules.
    pub proxy: Proxy,
    /// Whether pods and Services have IPv6 addresses too.
    pub is_dual: bool,
}

impl Options {
    /// As one line, for [`Self::parse`].
    #[must_use]
    pub fn line(self) -> String {
        let families = if self.is_dual { "dual" } else { "single" };
        format!("{} {} {families}\n", self.nodes, self.proxy.name())
    }

    /// Reads what [`Self::line`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let mut words = line.split_whitespace();
        let nodes = words.next().context("the number of nodes")?.parse()?;
        let proxy = match words.next() {
            Some("iptables") => Proxy::Iptables,
            Some("nftables") => Proxy::Nftables,
            other => bail!("kube-proxy has no mode {other:?}"),
        };
        let is_dual = words.next() == Some("dual");
        Ok(Self {
            nodes,
            proxy,
            is_dual,
        })
    }

    /// The families of its pods and Services, the first one first.
    #[must_use]
    pub fn families(self) -> &'static [Family] {
        if self.is_dual {
            Family::BOTH
        } else {
            &[Family::V4]
        }
    }

    /// Its nodes.
    pub fn nodes(self) -> impl DoubleEndedIterator<Item = Machine> {
        (1..=self.nodes).map(Machine::Node)
    }

    /// All its machines, in the order in which they start.
    pub fn machines(self) -> impl DoubleEndedIterator<Item = Machine> {
        let others = [Machine::Outside, Machine::Control];
        others.into_iter().chain(self.nodes())
    }

    /// What `text` gives for each family, with commas in between.
    #[must_use]
    pub fn list<T: fmt::Display>(self, text: impl Fn(Family) -> T) -> String {
        let texts = self
            .families()
            .iter()
            .map(|&family| text(family).to_string());
        texts.collect::<Vec<_>>().join(",")
    }
}

/// A machine of the cluster: a network namespace, and the processes of a PID namespace in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// What is not the cluster: the way between all others, and the resolver of the nodes.
    Outside,
    /// etcd, API server, controllers, scheduler.
    Control,
    /// A node of this number, from 1 on.
    Node(u8),
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Control => f.write_str("control"),
            Self::Node(number) => write!(f, "node{number}"),
        }
    }
}

impl Machine {
    /// The machine of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(name: &str) -> anyhow::Result<Self> {
        match name {
            "outside" => Ok(Self::Outside),
            "control" => Ok(Self::Control),
            _ => {
                let number = name.strip_prefix("node").and_then(|n| n.parse().ok());
                let number = number.with_context(|| format!("no machine is called {name}"))?;
                Ok(Self::Node(number))
            }
        }
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("nodens-{self}")
    }

    /// The file of its network namespace.
    #[must_use]
    pub fn namespace_path(self) -> PathBuf {
        Path::new("/run/netns").join(self.namespace())
    }

    /// Its address on the network that all machines share.
    #[must_use]
    pub fn address(self, family: Family) -> IpAddr {
        let number = match self {
            Self::Outside => 1,
            Self::Control => 10,
            Self::Node(number) => 10 + number,
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, 89, 0, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// Bits of the prefix of the network that all machines share.
    #[must_use]
    pub fn prefix(family: Family) -> u8 {
        match family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    /// The network of a node's pods; `None` for what is no node.
    #[must_use]
    pub fn pods(self, family: Family) -> Option<String> {
        let Self::Node(number) = self else {
            return None;
        };
        Some(match family {
            Family::V4 => format!("10.244.{number}.0/24"),
            Family::V6 => format!("fd00:10:244:{number}::/64"),
        })
    }

    /// Where its components write their logs, and what tells them to stop.
    #[must_use]
    pub fn logs(self) -> PathBuf {
        Path::new(HOME).join("logs").join(self.to_string())
    }

    /// What it keeps beside that.
    #[must_use]
    pub fn home(self) -> PathBuf {
        Path::new(HOME).join(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_machines_are_read_as_they_were_written() {
        for is_dual in [false, true] {
            for proxy in [Proxy::Iptables, Proxy::Nftables] {
                let options = Options {
                    nodes: 2,
                    proxy,
                    is_dual,
                };
                assert_eq!(Options::parse(&options.line()).unwrap(), options);
                let machines: Vec<_> = options.machines().collect();
                assert_eq!(machines.len(), 4);
                for machine in machines {
                    assert_eq!(Machine::parse(&machine.to_string()).unwrap(), machine);
                }
            }
        }
        assert!(Options::parse("2 ipvs").is_err());
        assert!(Machine::parse("node").is_err());
    }
}
