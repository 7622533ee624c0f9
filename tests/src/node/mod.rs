// SPDX-License-Identifier: Apache-2.0
//! A node of a cluster on one machine, in network namespaces: what interception is tried on.
//!
//! ```text
//!   pod behind a veth ──┐
//!   10.244.1.10         │      node 192.168.50.2               another node 192.168.50.3
//!                       ├──►   agent on 169.254.20.10   ──►    CoreDNS 10.244.9.53 and .54
//!   pod behind cni0 ────┤      kube-proxy's rules
//!   10.244.2.10         │
//!   host network ───────┘      Services: kube-dns 10.96.0.10, nodens-upstream .50, -fallback .51
//! ```
//!
//! IPv6 alike, with unique local addresses. CoreDNS is the real one, kube-proxy's rules are as it
//! writes them ([`Shape`]), the agent is the real program. CoreDNS answers with AA, the agent never
//! does: that tells who has answered.
//!
//! Nothing here has a name on the machine or touches its own network; [`space`] says why nothing
//! is left of a run that is killed.

pub mod addresses;
mod agent;
pub mod incumbent;
pub mod shape;
pub mod space;
pub mod sweep;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

pub use addresses::Family;
pub use agent::{Builder, NodeAgent};
pub use incumbent::Incumbent;
pub use shape::Shape;
pub use space::Space;

use crate::client::Client;
use crate::coredns;
use crate::process::{Program, TempDir, wait_for};
use crate::query::{AA, Query};

/// A name that CoreDNS answers with [`ADDRESS`] for ever and a day, as it does every name below
/// [`ZONE`].
pub const NAME: &str = "known.drill.example";
/// Names below it all have [`ADDRESS`], and a TXT record of about a thousand octets.
pub const ZONE: &str = "drill.example";
/// The address of all names.
pub const ADDRESS: [u8; 4] = [192, 0, 2, 1];
/// How long CoreDNS may take until it answers: a program of 100 MB on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Type A.
const A: u16 = 1;

/// Where queries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum From {
    /// A pod behind a veth that the node routes to, as Calico and most clouds have it.
    Veth,
    /// A pod behind the bridge cni0, as kubenet and the CNI plugin `bridge` have it.
    Bridge,
    /// A program in the node's own network.
    Host,
}

impl From {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Veth, Self::Bridge, Self::Host];

    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Veth => "pod behind a veth",
            Self::Bridge => "pod behind a bridge",
            Self::Host => "host network",
        }
    }
}

/// The node and what is around it. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Node {
    /// Which Services there are.
    pub shape: Shape,
    // Programs go before the namespaces that they are in.
    coredns: Vec<Program>,
    dir: TempDir,
    veth: Space,
    bridge: Space,
    host: Space,
    other: Space,
}

impl Node {
    /// Builds it all, CoreDNS answering; no agent yet.
    ///
    /// # Errors
    /// Without root, without CoreDNS (`make coredns`), or when a program is missing
    /// (`make deps`).
    pub fn new(shape: Shape) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run it again with sudo"
        );
        sweep::sweep();
        let mut node = Self {
            shape,
            coredns: Vec::new(),
            dir: TempDir::new()?,
            veth: Space::new("pod-veth")?,
            bridge: Space::new("pod-bridge")?,
            host: Space::new("node")?,
            other: Space::new("other-node")?,
        };
        node.connect().context("connect the namespaces")?;
        node.load_services()?;
        node.start_coredns()?;
        Ok(node)
    }

    /// The namespace that queries of this kind come from.
    #[must_use]
    pub fn space(&self, from: From) -> &Space {
        match from {
            From::Veth => &self.veth,
            From::Bridge => &self.bridge,
            From::Host => &self.host,
        }
    }

    /// The node's own namespace.
    #[must_use]
    pub fn host(&self) -> &Space {
        &self.host
    }

    /// An agent for this node, in these families; not started yet.
    #[must_use]
    pub fn agent(&self, families: &[Family]) -> Builder {
        Builder::new(self.shape, families)
    }

    /// Loads kube-proxy's rules, as kube-proxy does at its start and again when they are gone.
    ///
    /// # Errors
    /// What the programs say.
    pub fn load_services(&self) -> anyhow::Result<()> {
        for &family in Family::BOTH {
            let services = shape::dns_services(family);
            match self.shape {
                Shape::Iptables => {
                    let restore = iptables_restore(family);
                    self.host.feed(&restore, shape::IPTABLES_JUMPS)?;
                    if family == Family::V4 {
                        self.host.feed(&restore, shape::KUBE_FIREWALL)?;
                    }
                    let rules = shape::iptables(family, &services);
                    self.host.feed(&restore, &rules)?;
                }
                Shape::Nftables => {
                    let rules = shape::nftables(family, &services, host_address(family));
                    self.host.feed("nft -f -", &rules)?;
                }
                Shape::Absent => {}
            }
        }
        Ok(())
    }

    /// Asks over UDP, or TCP, from a place, and says who answered.
    ///
    /// # Errors
    /// No answer within `patience`, or a wrong one.
    pub fn ask(
        &self,
        from: From,
        server: std::net::SocketAddr,
        over_tcp: bool,
        patience: Duration,
    ) -> anyhow::Result<Server> {
        self.space(from).within(|| {
            let client = Client::new(server).patience(patience);
            let query = Query::new(NAME, A);
            let response = if over_tcp {
                client.tcp(&query)?
            } else {
                client.udp(&query)?
            };
            ensure!(
                response.addresses() == [std::net::IpAddr::from(ADDRESS)],
                "{server} answers {response:?}"
            );
            Ok(if response.has(AA) {
                Server::CoreDns
            } else {
                Server::Agent
            })
        })
    }

    /// The names and addresses of all links of the node, and its rules: what must be as before.
    ///
    /// # Errors
    /// What `ip` and `nft` say.
    pub fn picture(&self) -> anyhow::Result<String> {
        let mut picture = String::new();
        for line in [
            "ip -oneline link show",
            "ip -oneline address show",
            "ip route show table all",
            "ip -6 route show table all",
            "nft --stateless list ruleset",
        ] {
            picture.push_str(&format!("# {line}\n{}\n", self.host.run(line)?));
        }
        Ok(picture)
    }

    fn connect(&self) -> anyhow::Result<()> {
        for space in [&self.veth, &self.bridge, &self.host, &self.other] {
            for (name, value) in [
                // Addresses can be used at once: there is nobody to share them with.
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                // Strict, as many distributions have it: an answer that comes from where it
                // should not is dropped.
                ("ipv4/conf/all/rp_filter", "1"),
                ("ipv4/conf/default/rp_filter", "1"),
            ] {
                space.sysctl(name, value)?;
            }
        }
        let (veth, bridge) = (self.veth.path(), self.bridge.path());
        let other = self.other.path();
        self.host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {other}\n\
             link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {veth}\n\
             link add cni0 type bridge\n\
             link add veth0 type veth peer name eth0 netns {bridge}\n\
             link set veth0 master cni0\n\
             address add 192.168.50.2/24 dev eth0\n\
             address add fd00:50::2/64 dev eth0 nodad\n\
             address add 10.244.2.1/24 dev cni0\n\
             address add fd00:10:244:2::1/64 dev cni0 nodad\n\
             address add fe80::1/64 dev cali0 nodad\n\
             link set eth0 up\nlink set cali0 up\nlink set veth0 up\nlink set cni0 up\n\
             route add 10.244.1.10 dev cali0\n\
             route add fd00:10:244:1::a dev cali0\n\
             route add default via 192.168.50.3\n\
             route add default via fd00:50::3\n"
        ))?;
        self.other.ip("address add 192.168.50.3/24 dev eth0\n\
             address add fd00:50::3/64 dev eth0 nodad\n\
             address add 10.244.9.53/32 dev lo\naddress add 10.244.9.54/32 dev lo\n\
             address add fd00:10:244:9::53/128 dev lo nodad\n\
             address add fd00:10:244:9::54/128 dev lo nodad\n\
             link set eth0 up\n\
             route add 10.244.0.0/16 via 192.168.50.2\n\
             route add fd00:10:244::/48 via fd00:50::2\n")?;
        self.veth.ip("address add 10.244.1.10/32 dev eth0\n\
             address add fd00:10:244:1::a/128 dev eth0 nodad\n\
             link set eth0 up\n\
             neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n\
             route add default via fe80::1 dev eth0\n")?;
        self.bridge.ip("address add 10.244.2.10/24 dev eth0\n\
             address add fd00:10:244:2::a/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.244.2.1\n\
             route add default via fd00:10:244:2::1\n")?;
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // As kubeadm asks of every node.
            ("bridge/bridge-nf-call-iptables", "1"),
            ("bridge/bridge-nf-call-ip6tables", "1"),
        ] {
            self.host.sysctl(name, value)?;
        }
        Ok(())
    }

    fn start_coredns(&mut self) -> anyhow::Result<()> {
        let binary = coredns::find()?;
        for place in 0..2 {
            let addresses = Family::BOTH
                .iter()
                .map(|family| family.coredns()[place].to_string());
            let addresses: Vec<_> = addresses.collect();
            // Authoritative: every answer has AA. The TXT record fills a cache quickly.
            let filling = "x".repeat(240);
            let corefile = format!(
                ".:53 {{\n bind {}\n errors\n\
                 \x20template IN A {ZONE} {{\n  answer \"{{{{ .Name }}}} 3600 IN A 192.0.2.1\"\n }}\n\
                 \x20template IN AAAA {ZONE} {{\n  rcode NOERROR\n  authority \"{ZONE} 3600 IN SOA ns.{ZONE} root.{ZONE} 1 3600 3600 3600 3600\"\n }}\n\
                 \x20template IN TXT {ZONE} {{\n  answer \"{{{{ .Name }}}} 3600 IN TXT {filling} {filling} {filling} {filling}\"\n }}\n\
                 }}\n",
                addresses.join(" ")
            );
            let path = self.dir.path().join(format!("Corefile-{place}"));
            std::fs::write(&path, corefile)?;
            let mut command = Command::new(&binary);
            command.arg("-conf").arg(path);
            let log = self.dir.path().join(format!("coredns-{place}.log"));
            self.coredns.push(self.other.start(command, log)?);
        }
        for &family in Family::BOTH {
            for (place, address) in family.coredns().into_iter().enumerate() {
                let program = &mut self.coredns[place];
                let server = Family::dns(address);
                let host = &self.host;
                wait_for("CoreDNS to answer", START, || {
                    if let Some(status) = program.status()? {
                        bail!("CoreDNS ended with {status}");
                    }
                    let client = Client::new(server).patience(Duration::from_millis(300));
                    let response = host.within(|| client.query(NAME, A));
                    Ok(response.ok().filter(|response| response.has(AA)))
                })
                .with_context(|| format!("log of CoreDNS:\n{}", program.log()))?;
            }
        }
        Ok(())
    }
}

/// Who has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// The agent: never with AA.
    Agent,
    /// CoreDNS: always with AA.
    CoreDns,
}

/// The node's own address.
#[must_use]
pub fn host_address(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => [192, 168, 50, 2].into(),
        Family::V6 => [0xfd00, 0x50, 0, 0, 0, 0, 0, 2].into(),
    }
}

/// The command line that loads rules of iptables as kube-proxy does.
#[must_use]
pub fn iptables_restore(family: Family) -> String {
    let program = match family {
        Family::V4 => "iptables-nft-restore",
        Family::V6 => "ip6tables-nft-restore",
    };
    format!("{program} --noflush --counters")
}
