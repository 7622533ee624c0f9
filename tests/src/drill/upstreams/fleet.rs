// SPDX-License-Identifier: Apache-2.0
//! CoreDNS pods behind the address of a Service, as a node sees them, and what can happen to them.
//!
//! ```text
//!   clients ──veth── node: the forwarder on 169.254.20.10 ──veth── pod 0: CoreDNS 10.244.9.10
//!   10.244.1.10-13         10.96.0.50 by kube-proxy's rules ──veth── pod 1: CoreDNS 10.244.9.11
//!                          (or the pods' addresses)         ──veth── pod 2 …
//! ```
//!
//! The rules are those of [`shape`], one pod by chance for each connection, the source masqueraded.
//! What is lost is lost on its way, where it arrives: a rule on the sender's side would tell the
//! sender (EPERM), as no wire does.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use super::late::Late;
use super::names;
use crate::agent::sum_samples;
use crate::client::Client;
use crate::coredns;
use crate::load::meter::CpuMeter;
use crate::node::{Family, Space, host_address, shape, sweep};
use crate::process::{Program, TempDir, wait_for};
use crate::query::Query;

/// Pods that a fleet can have.
pub const PODS: usize = 6;
/// Their names in messages.
const NAMES: [&str; PODS] = [
    "coredns-0",
    "coredns-1",
    "coredns-2",
    "coredns-3",
    "coredns-4",
    "coredns-5",
];
/// The addresses that clients have: a source address may have no more than a share of the agent.
pub const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 244, 1, 10),
    Ipv4Addr::new(10, 244, 1, 11),
    Ipv4Addr::new(10, 244, 1, 12),
    Ipv4Addr::new(10, 244, 1, 13),
];
/// The priority (nice(1)) of what stands for other machines: pods, clients, the resolver behind. In
/// a cluster they would not wait for this node's CPUs; here whoever else is busy would be measured.
pub(super) const ELSEWHERE: i32 = -10;
/// How long a program may take until it answers: one of 100 MB on a busy machine.
pub const START: Duration = Duration::from_secs(30);
/// Where a pod tells its metrics, in its own namespace.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9153);
/// The first port of the resolver that answers late, one a pod.
const LATE_PORT: u16 = 5300;
/// Octets of a packet of TCP above which it carries a query: more than any without data has.
const DATA: u16 = 90;

/// How the CoreDNS of a fleet is made.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Pods at the start.
    pub pods: u8,
    /// Where names come from a resolver behind CoreDNS: how late it answers.
    pub late: Option<Duration>,
    /// How long CoreDNS goes on answering after SIGTERM (plugin `health`).
    pub lameduck: Duration,
}

impl Kind {
    /// Three pods that answer at once.
    pub const THREE: Self = Self {
        pods: 3,
        late: None,
        lameduck: Duration::ZERO,
    };
}

/// What happens to packets from and to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All arrive.
    Open,
    /// None arrives, and nobody is told.
    Silent,
    /// So many of a hundred are lost, in each direction.
    Lossy(u8),
}

/// The node, its pods, its clients. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    kind: Kind,
    // Programs go before the namespaces that they are in.
    pods: Vec<Pod>,
    _late: Option<Late>,
    dir: TempDir,
    clients: Space,
    node: Space,
}

/// A CoreDNS.
#[derive(Debug)]
pub struct Pod {
    number: u8,
    way: Way,
    program: Program,
    space: Space,
}

impl Fleet {
    /// Builds it all; every pod answers and is behind the Service.
    ///
    /// # Errors
    /// Without root, without CoreDNS (`make coredns`), or when a program is missing (`make deps`).
    pub fn new(kind: Kind) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run it again with sudo"
        );
        sweep::sweep();
        let mut fleet = Self {
            kind,
            pods: Vec::new(),
            _late: None,
            dir: TempDir::new()?,
            clients: Space::new("clients")?,
            node: Space::new("node")?,
        };
        fleet.connect().context("connect the namespaces")?;
        if let Some(delay) = kind.late {
            let pods: Vec<_> = (0..).zip(NAMES).map(|(pod, _)| (pod, late(pod))).collect();
            fleet._late = Some(Late::start(&fleet.node, &pods, delay)?);
        }
        fleet.add(kind.pods)?;
        fleet.serve(&fleet.numbers())?;
        Ok(fleet)
    }

    /// The node's namespace.
    #[must_use]
    pub fn node(&self) -> &Space {
        &self.node
    }

    /// The clients' namespace.
    #[must_use]
    pub fn clients(&self) -> &Space {
        &self.clients
    }

    /// The pods there are.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Their numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<u8> {
        self.pods.iter().map(Pod::number).collect()
    }

    /// Starts so many pods more, all at once, and waits until each answers. No Service leads to
    /// them yet.
    ///
    /// # Errors
    /// When one does not within 30 s; its log is part of the error.
    pub fn add(&mut self, count: u8) -> anyhow::Result<()> {
        let first = self.pods.last().map_or(0, |pod| pod.number + 1);
        for number in first..first + count {
            let pod = self.launch(number)?;
            self.pods.push(pod);
        }
        let (node, pods) = (&self.node, &mut self.pods);
        for pod in pods.iter_mut().filter(|pod| pod.number >= first) {
            let server = Family::dns(address(pod.number).into());
            let program = &mut pod.program;
            wait_for("CoreDNS to answer", START, || {
                if let Some(status) = program.status()? {
                    bail!("CoreDNS ended with {status}");
                }
                // Class CH, so that nobody behind it is asked; over the transport that is used.
                let query = Query::new("ready.invalid", 16_u16).class(3);
                let client = Client::new(server).patience(Duration::from_millis(500));
                Ok(node.within(|| client.tcp(&query)).ok())
            })
            .with_context(|| format!("log of CoreDNS:\n{}", program.log()))?;
        }
        Ok(())
    }

    /// Lets the Service lead to these pods alone, in one transaction, as kube-proxy does. What is
    /// connected stays connected: conntrack knows where to.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn serve(&self, numbers: &[u8]) -> anyhow::Result<()> {
        let service = shape::Service {
            name: "nodens-upstream".to_owned(),
            address: Family::V4.upstream(),
            endpoints: numbers.iter().map(|&n| address(n).into()).collect(),
        };
        let rules = shape::nftables(Family::V4, &[service], host_address(Family::V4));
        let anew = format!("table ip kube-proxy\ndelete table ip kube-proxy\n{rules}");
        self.node.feed("nft -f -", &anew).map(|_| ())
    }

    /// Sets what happens to the packets of these pods from now on.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn set(&mut self, numbers: &[u8], way: Way) -> anyhow::Result<()> {
        for pod in &mut self.pods {
            if numbers.contains(&pod.number) {
                pod.way = way;
                let rules = faults(&[("eth0".to_owned(), way)]);
                pod.space.feed("nft -f -", &rules)?;
            }
        }
        let ways: Vec<_> = self
            .pods
            .iter()
            .map(|pod| (link(pod.number), pod.way))
            .collect();
        self.node.feed("nft -f -", &faults(&ways)).map(|_| ())
    }

    /// Sends SIGTERM to a pod's CoreDNS.
    ///
    /// # Errors
    /// When there is no such pod, or it has ended.
    pub fn terminate(&mut self, number: u8) -> anyhow::Result<()> {
        let pod = self.pods.iter_mut().find(|pod| pod.number == number);
        let pod = pod.with_context(|| format!("no pod {number}"))?;
        pod.program.signal(Signal::TERM)
    }

    /// Waits for the end of a pod's CoreDNS and takes its namespace away, with its link. Gives how
    /// many queries it was asked, as it told last.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub fn bury(&mut self, number: u8, patience: Duration) -> anyhow::Result<u64> {
        let place = self.pods.iter().position(|pod| pod.number == number);
        let mut pod = self
            .pods
            .remove(place.with_context(|| format!("no pod {number}"))?);
        let mut asked = 0;
        wait_for("the end of CoreDNS", patience, || {
            // What is said in the midst of the end can be nothing.
            asked = pod.asked().unwrap_or(0).max(asked);
            Ok(pod.program.status()?)
        })?;
        Ok(asked)
    }

    /// Queries that all pods together were asked so far.
    ///
    /// # Errors
    /// When one does not tell.
    pub fn asked(&self) -> anyhow::Result<u64> {
        self.pods.iter().map(Pod::asked).sum()
    }

    /// Packets with a query that have left the node for a pod so far, those that were lost and
    /// those that TCP sent again among them.
    ///
    /// # Errors
    /// When the rule that counts is gone.
    pub fn sent(&self) -> anyhow::Result<u64> {
        let said = self.node.run("nft list counter inet lab queries")?;
        let mut words = said
            .split_whitespace()
            .skip_while(|&word| word != "packets");
        Ok(words.nth(1).context("a counter")?.parse()?)
    }

    /// Connections that are open from the node to a server of DNS.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn connections(&self) -> anyhow::Result<usize> {
        let table = self
            .node
            .within(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))?;
        Ok(established(&table, 53))
    }

    /// Meters of the CPU time of all pods.
    ///
    /// # Errors
    /// When one has ended.
    pub fn meters(&self) -> anyhow::Result<Vec<CpuMeter>> {
        let meters = self.pods.iter().map(|pod| CpuMeter::of(pod.program.pid()));
        Ok(meters.collect::<Result<_, _>>()?)
    }

    fn connect(&self) -> anyhow::Result<()> {
        let clients = self.clients.path();
        let mut lines = format!(
            "address add {node}/32 dev lo\n\
             address add {listen}/32 dev lo\n\
             link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {clients}\n\
             link set cali0 up\n\
             route add {services} dev cali0 src {node}\n",
            node = host_address(Family::V4),
            listen = Family::V4.local(),
            services = Family::V4.services(),
        );
        for client in CLIENTS {
            _ = writeln!(lines, "route add {client} dev cali0");
        }
        self.node.ip(&lines)?;
        self.node.sysctl("ipv4/ip_forward", "1")?;
        self.node.feed(
            "nft -f -",
            &format!(
                "table inet lab {{\n counter queries {{ }}\n chain leave {{\n\
                 \x20 type filter hook postrouting priority 300\n\
                 \x20 udp dport 53 counter name queries\n\
                 \x20 tcp dport 53 meta length > {DATA} counter name queries\n\
                 \x20}}\n}}\n"
            ),
        )?;
        let addresses: Vec<_> = CLIENTS.map(|client| client.into()).into();
        self.clients.ip(&behind_veth(&addresses))
    }

    fn launch(&self, number: u8) -> anyhow::Result<Pod> {
        let name = NAMES.get(usize::from(number)).context("too many pods")?;
        let space = Space::new(name)?;
        let (link, pod, path) = (link(number), address(number), space.path());
        self.node.ip(&format!(
            "link add {link} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {path}\n\
             link set {link} up\n\
             route add {pod} dev {link}\n"
        ))?;
        space.ip(&behind_veth(&[pod.into()]))?;
        let source = if self.kind.late.is_some() {
            let late = late(number);
            format!(" forward . {late} {{\n  prefer_udp\n  max_fails 0\n }}\n")
        } else {
            names::plugin(number)
        };
        let corefile = format!(
            ".:53 {{\n bind {pod}\n errors\n\
             \x20health 127.0.0.1:8080 {{\n  lameduck {}ms\n }}\n\
             \x20prometheus {METRICS}\n{source}}}\n",
            self.kind.lameduck.as_millis()
        );
        let path = self.dir.path().join(format!("Corefile-{number}"));
        std::fs::write(&path, corefile)?;
        let mut command = Command::new("nice");
        command.args(["-n", &ELSEWHERE.to_string()]);
        command.arg(coredns::find()?).arg("-conf").arg(path);
        let log = self.dir.path().join(format!("coredns-{number}.log"));
        let program = space.start(command, log)?;
        Ok(Pod {
            number,
            way: Way::Open,
            program,
            space,
        })
    }
}

impl Pod {
    /// From 0, never used again.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Queries that it was asked so far, by its own count.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn asked(&self) -> anyhow::Result<u64> {
        // HTTP/1.0, so that the answer comes in one piece. Over loopback, where nothing is lost.
        let text = self.space.within(|| {
            let mut stream = TcpStream::connect_timeout(&METRICS, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            anyhow::Ok(text)
        });
        let text = text.with_context(|| format!("ask pod {} for its metrics", self.number))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a counter"
        )]
        Ok(sum_samples(&text, "coredns_dns_requests_total", &[("type", "A")]) as u64)
    }
}

/// The address of pod `number`.
#[must_use]
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 9, 10 + number)
}

/// Where the resolver behind pod `number` answers late.
fn late(number: u8) -> SocketAddr {
    SocketAddr::new(host_address(Family::V4), LATE_PORT + u16::from(number))
}

/// The node's end of a pod's veth.
fn link(number: u8) -> String {
    format!("pod{number}")
}

/// What a pod has that the node routes to, as Calico and most clouds do it.
fn behind_veth(addresses: &[IpAddr]) -> String {
    let mut lines = String::new();
    for address in addresses {
        _ = writeln!(lines, "address add {address}/32 dev eth0");
    }
    lines.push_str(
        "link set eth0 up\n\
         neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n",
    );
    lines
}

/// Rules by which packets are lost that arrive on these links, in place of those before. They come
/// before conntrack, which must not see what was lost.
fn faults(ways: &[(String, Way)]) -> String {
    let mut rules = String::new();
    for (link, way) in ways {
        match way {
            Way::Open => {}
            Way::Silent => _ = writeln!(rules, "  iifname \"{link}\" drop"),
            Way::Lossy(percent) => {
                _ = writeln!(
                    rules,
                    "  iifname \"{link}\" numgen random mod 100 < {percent} drop"
                );
            }
        }
    }
    format!(
        "table inet lab-faults\ndelete table inet lab-faults\ntable inet lab-faults {{\n\
         \x20chain arrive {{\n  type filter hook prerouting priority -400\n{rules} }}\n}}\n"
    )
}

/// Connections to a port in state ESTABLISHED (01), in the form of /proc/net/tcp.
fn established(table: &str, port: u16) -> usize {
    let is_one = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().take(4).collect();
        let [_, _, remote, "01"] = fields[..] else {
            return false;
        };
        remote.ends_with(&format!(":{port:04X}"))
    };
    table.lines().skip(1).filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_rules_where_packets_arrive() {
        let ways = [
            ("pod0".to_owned(), Way::Open),
            ("pod1".to_owned(), Way::Silent),
            ("pod2".to_owned(), Way::Lossy(5)),
        ];
        let rules = faults(&ways);
        assert!(rules.starts_with("table inet lab-faults\ndelete table inet lab-faults\n"));
        assert!(!rules.contains("pod0"), "{rules}");
        assert!(rules.contains("iifname \"pod1\" drop\n"), "{rules}");
        let lossy = "iifname \"pod2\" numgen random mod 100 < 5 drop\n";
        assert!(rules.contains(lossy), "{rules}");
    }

    #[test]
    fn open_connections_to_the_port_are_counted() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0A14FEA9:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0232A8C0:A3F2 3200600A:0035 01 00000000:00000000 00:00000000 00000000     0
   2: 0232A8C0:A3F4 3200600A:0035 02 00000001:00000000 01:00000019 00000000     0
   3: 0232A8C0:A3F6 3200600A:1F90 01 00000000:00000000 00:00000000 00000000     0
";
        assert_eq!(established(table, 53), 1);
    }
}
