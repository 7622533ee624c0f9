// SPDX-License-Identifier: Apache-2.0
//! The cluster's Services as kube-proxy writes them into a node's kernel.
//!
//! After pkg/proxy/iptables and pkg/proxy/nftables of Kubernetes 1.34: the same chains, priorities
//! and order of rules for Services with a cluster IP alone. Node ports, load balancers and health
//! checks have nothing to do with DNS and are left out, their (empty) places kept.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::addresses::{DNS, Family};

/// How the addresses of Services are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// (a) Kube-proxy in iptables mode, through iptables-nft.
    Iptables,
    /// (b) Kube-proxy in nftables mode.
    Nftables,
    /// (c) Not at all: addresses of Services lead nowhere, the agent is alone.
    Absent,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Iptables, Self::Nftables, Self::Absent];

    /// The letter for it.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Iptables => "a",
            Self::Nftables => "b",
            Self::Absent => "c",
        }
    }

    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Iptables => "kube-proxy in iptables mode",
            Self::Nftables => "kube-proxy in nftables mode",
            Self::Absent => "no kube-proxy",
        }
    }
}

/// A Service of the cluster.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in namespace kube-system.
    pub name: String,
    /// Its cluster IP.
    pub address: IpAddr,
    /// The pods behind it.
    pub endpoints: Vec<IpAddr>,
}

/// kube-dns, nodens-upstream and nodens-fallback, all in front of CoreDNS.
#[must_use]
pub fn dns_services(family: Family) -> Vec<Service> {
    [
        ("kube-dns", family.service()),
        ("nodens-upstream", family.upstream()),
        ("nodens-fallback", family.fallback()),
    ]
    .map(|(name, address)| Service {
        name: name.to_owned(),
        address,
        endpoints: family.coredns().to_vec(),
    })
    .into()
}

/// So many rules in a chain that no packet comes through, for `iptables-nft-restore`: a big cluster's
/// weight in the kernel, without its Services. To load 40,000 takes 0.7 s on two CPUs, 0.4 s of which
/// no other program can change a rule.
#[must_use]
pub fn ballast(count: u32) -> String {
    let mut text = String::from("*mangle\n:LAB-BALLAST - [0:0]\n");
    for number in 0..count {
        let [_, high, middle, low] = number.to_be_bytes();
        _ = writeln!(
            text,
            "-A LAB-BALLAST -d {high}.{middle}.{low}.1/32 -j ACCEPT"
        );
    }
    text.push_str("COMMIT\n");
    text
}

const PORTS: [(&str, &str); 2] = [("dns", "udp"), ("dns-tcp", "tcp")];

/// The input of `iptables-nft-restore --noflush` (`ip6tables-nft-restore` for IPv6).
#[must_use]
pub fn iptables(family: Family, services: &[Service]) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    let pods = family.pods();
    for service in services {
        for (port, proto) in PORTS {
            let name = format!("kube-system/{}:{port}", service.name);
            let svc = format!("KUBE-SVC-{}", tag(&name));
            let to = format!("-m {proto} -p {proto} -d {} --dport {DNS}", service.address);
            let cluster_ip = format!("-m comment --comment \"{name} cluster IP\" {to}");
            _ = writeln!(chains, ":{svc} - [0:0]");
            _ = writeln!(rules, "-A KUBE-SERVICES {cluster_ip} -j {svc}");
            _ = writeln!(rules, "-A {svc} {cluster_ip} ! -s {pods} -j KUBE-MARK-MASQ");
            for (place, endpoint) in service.endpoints.iter().enumerate() {
                let sep = format!("KUBE-SEP-{}", tag(&format!("{name}{endpoint}")));
                let target = target(*endpoint);
                let left = service.endpoints.len() - place;
                let statistic = match left {
                    1 => String::new(),
                    // 1/2, 1/3 …: written as kube-proxy does, with ten digits.
                    _ => format!(
                        "-m statistic --mode random --probability 0.{:010} ",
                        10_000_000_000_u64 / left as u64
                    ),
                };
                let comment = format!("-m comment --comment \"{name}\"");
                _ = writeln!(chains, ":{sep} - [0:0]");
                _ = writeln!(
                    rules,
                    "-A {svc} -m comment --comment \"{name} -> {target}\" {statistic}-j {sep}\n\
                     -A {sep} {comment} -s {endpoint} -j KUBE-MARK-MASQ\n\
                     -A {sep} {comment} -m {proto} -p {proto} -j DNAT --to-destination {target}"
                );
            }
        }
    }
    format!(
        "*filter\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n{rules}\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n"
    )
}

/// What kube-proxy has for IPv4 where it lets NodePorts be reached at 127.0.0.1, and kubelet too: an
/// answer that is not tracked and goes to 127.0.0.0/8 ends here.
pub const KUBE_FIREWALL: &str = "\
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
";

/// The jumps from the built-in chains, which kube-proxy makes once.
pub const IPTABLES_JUMPS: &str = "\
*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
COMMIT
";

/// The input of `nft -f`.
#[must_use]
pub fn nftables(family: Family, services: &[Service], node: IpAddr) -> String {
    let (ip, kind) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let (pods, cidr) = (family.pods(), family.services());
    let (mut chains, mut rules, mut elements) = (String::new(), String::new(), String::new());
    for service in services {
        let address = service.address;
        _ = writeln!(
            elements,
            "add element {ip} kube-proxy cluster-ips {{ {address} }}"
        );
        for (port, proto) in PORTS {
            let name = format!("kube-system/{}/{proto}/{port}", service.name);
            let chain = format!("service-{}-{name}", &tag(&name)[..8]);
            _ = writeln!(chains, "add chain {ip} kube-proxy {chain}");
            _ = writeln!(
                rules,
                "add rule {ip} kube-proxy {chain} {ip} daddr {address} {ip} saddr != {pods} jump mark-for-masquerade"
            );
            let mut choices = Vec::new();
            for (place, endpoint) in service.endpoints.iter().enumerate() {
                let target = target(*endpoint);
                let written = endpoint.to_string().replace(':', ".");
                let tag = tag(&format!("{name}{endpoint}"));
                let endpoint_chain = format!("endpoint-{}-{name}__{written}/{DNS}", &tag[..8]);
                _ = writeln!(chains, "add chain {ip} kube-proxy {endpoint_chain}");
                _ = writeln!(
                    rules,
                    "add rule {ip} kube-proxy {endpoint_chain} {ip} saddr {endpoint} jump mark-for-masquerade\n\
                     add rule {ip} kube-proxy {endpoint_chain} meta l4proto {proto} dnat to {target}"
                );
                choices.push(format!("{place} : goto {endpoint_chain}"));
            }
            _ = writeln!(
                rules,
                "add rule {ip} kube-proxy {chain} numgen random mod {} vmap {{ {} }}",
                choices.len(),
                choices.join(", ")
            );
            _ = writeln!(
                elements,
                "add element {ip} kube-proxy service-ips {{ {address} . {proto} . {DNS} : goto {chain} }}"
            );
        }
    }
    let base = NFTABLES_BASE
        .replace("$IP", ip)
        .replace("$TYPE", kind)
        .replace("$SERVICES", cidr)
        .replace("$NODE", &node.to_string());
    format!("{base}{chains}{rules}{elements}")
}

/// Everything that does not depend on the Services, as `nft list table` shows it.
const NFTABLES_BASE: &str = "\
table $IP kube-proxy {
  set cluster-ips { type $TYPE; }
  set nodeport-ips { type $TYPE; elements = { $NODE } }
  map firewall-ips { type $TYPE . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  map no-endpoint-services { type $TYPE . inet_proto . inet_service : verdict; }
  map service-ips { type $TYPE . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  chain reject-chain { reject; }
  chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }
  chain services {
    $IP daddr . meta l4proto . th dport vmap @service-ips
    $IP daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain cluster-ips-check {
    $IP daddr @cluster-ips reject
    $IP daddr { $SERVICES } drop
  }
  chain firewall-check { $IP daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain nodeport-endpoints-check {
    $IP daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }
  chain service-endpoints-check { $IP daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain filter-prerouting-pre-dnat {
    type filter hook prerouting priority -110
    ct state new jump firewall-check
  }
  chain filter-output-pre-dnat {
    type filter hook output priority -110
    ct state new jump firewall-check
  }
  chain filter-forward {
    type filter hook forward priority 0
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-input {
    type filter hook input priority 0
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-output {
    type filter hook output priority 0
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
}
";

fn target(endpoint: IpAddr) -> String {
    Family::dns(endpoint).to_string()
}

/// 16 characters that stand for a name, where kube-proxy has part of a SHA-256 in base 32.
fn tag(name: &str) -> String {
    let seed = 0xcbf2_9ce4_8422_2325_u64;
    let step = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3);
    // FNV-1a, twice, for 80 bits.
    let first = name.bytes().fold(seed, step);
    let second = name.bytes().rev().fold(first, step);
    (0..16)
        .map(|place| {
            let word = if place < 8 { first } else { second };
            let digit = (word >> (place % 8 * 5)) & 31;
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::try_from(digit).unwrap_or(0)])
        })
        .collect()
}
