// SPDX-License-Identifier: Apache-2.0
//! The sample cluster: Services, endpoints and pods, and the names that follow from them by
//! Kubernetes' DNS specification 1.1.0; and a small world outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SRV, TXT};

use super::zones::{Zone, Zones, name};

/// TTL of the kubernetes plugin of CoreDNS, in seconds.
const CLUSTER_TTL: u32 = 5;
/// TTL of `dns-version` in that plugin, in seconds.
const VERSION_TTL: u32 = 28_800;
/// TTL of the world outside, in seconds.
const OUTSIDE_TTL: u32 = 300;
/// Negative TTL of the root zone, in seconds.
const ROOT_TTL: u32 = 86_400;

/// A Service of Kubernetes.
struct Service {
    /// `<service>.<namespace>`.
    name: &'static str,
    /// ClusterIPs; empty for a headless Service.
    addresses: Vec<IpAddr>,
    /// Name, protocol and number.
    ports: &'static [(&'static str, &'static str, u16)],
    /// Of a headless Service: host names with their addresses.
    endpoints: Vec<(String, Vec<IpAddr>)>,
}

impl Zones {
    /// The sample cluster and its world.
    pub(super) fn sample() -> Self {
        let mut cluster = Zone::new("cluster.local", CLUSTER_TTL, true);
        let mut clusterset = Zone::new("clusterset.local", CLUSTER_TTL, true);
        let mut v4 = Zone::new("in-addr.arpa", CLUSTER_TTL, true);
        let mut v6 = Zone::new("ip6.arpa", CLUSTER_TTL, true);

        let version = txt(&["1.1.0"]);
        cluster.add("dns-version.cluster.local", VERSION_TTL, version.clone());
        clusterset.add("dns-version.clusterset.local", VERSION_TTL, version);
        for service in services() {
            let base = format!("{}.svc.cluster.local", service.name);
            for (address, target) in service.publish(&mut cluster, &base) {
                let reverse = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                reverse.add(&reverse_name(address), CLUSTER_TTL, ptr(&target));
            }
        }
        for service in exported_services() {
            let base = format!("{}.svc.clusterset.local", service.name);
            service.publish(&mut clusterset, &base);
        }
        for (service, target) in [
            ("outside.prod", "www.example.org"),
            ("bare.prod", "text.example.org"),
            ("gone.prod", "missing.example.org"),
        ] {
            let owner = format!("{service}.svc.cluster.local");
            cluster.add(&owner, CLUSTER_TTL, cname(target));
        }
        for (owner, address) in [
            ("10-244-1-5.prod", "10.244.1.5"),
            ("10-244-2-7.prod", "10.244.2.7"),
            ("172-0-0-1.default", "172.0.0.1"),
            ("fd00-10-244-1--5.prod", "fd00:10:244:1::5"),
        ] {
            let owner = format!("{owner}.pod.cluster.local");
            cluster.add(&owner, CLUSTER_TTL, address_data(ip(address)));
        }
        let (org, com) = outside();
        let root = Zone::new(".", ROOT_TTL, false);
        Self::new(vec![cluster, clusterset, v4, v6, org, com, root])
    }
}

impl Service {
    /// Adds the Service's names at and below `base`; gives the addresses and names of its reverse
    /// mapping.
    fn publish(&self, zone: &mut Zone, base: &str) -> Vec<(IpAddr, String)> {
        let mut reverse = Vec::new();
        let mut targets = Vec::new();
        for &address in &self.addresses {
            zone.add(base, CLUSTER_TTL, address_data(address));
            reverse.push((address, base.to_owned()));
            targets.push(base.to_owned());
        }
        for (hostname, addresses) in &self.endpoints {
            let owner = format!("{hostname}.{base}");
            for &address in addresses {
                zone.add(base, CLUSTER_TTL, address_data(address));
                zone.add(&owner, CLUSTER_TTL, address_data(address));
                reverse.push((address, owner.clone()));
                targets.push(owner.clone());
            }
        }
        // CoreDNS shares a weight of 100 among all pairs of address and port that match, rounds
        // down, and then drops what is there twice.
        let weight = |pairs: usize| u16::try_from((100 / pairs).max(1)).unwrap_or(1);
        for &(port, protocol, number) in self.ports {
            let owner = format!("_{port}._{protocol}.{base}");
            for target in &targets {
                let one_port = srv(weight(targets.len()), number, target);
                zone.add(&owner, CLUSTER_TTL, one_port);
                // Asked for SRV without a port it names them all.
                let every_port = srv(weight(targets.len() * self.ports.len()), number, target);
                zone.add(base, CLUSTER_TTL, every_port);
            }
        }
        reverse
    }
}

fn services() -> Vec<Service> {
    let cluster_ip = |name, addresses: &[&str], ports| Service {
        name,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ports,
        endpoints: Vec::new(),
    };
    let headless = |name, ports, endpoints| Service {
        name,
        addresses: Vec::new(),
        ports,
        endpoints,
    };
    let dashed = |address: Ipv4Addr| {
        let hostname = address.to_string().replace('.', "-");
        (hostname, vec![IpAddr::V4(address)])
    };
    let wide = (1..=120).map(|n| dashed(Ipv4Addr::new(10, 244, 9, n)));
    let stateful = (0..3).map(|n: u8| {
        let v4 = Ipv4Addr::new(10, 244, 1, 20 + n).into();
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x20 + u16::from(n)).into();
        (format!("db-{n}"), vec![v4, v6])
    });
    let cache = [[2, 7], [2, 8], [3, 7], [3, 9]].map(|[x, y]| dashed(Ipv4Addr::new(10, 244, x, y)));
    vec![
        cluster_ip(
            "kubernetes.default",
            &["10.96.0.1", "fd00:10:96::1"],
            &[("https", "tcp", 443)],
        ),
        cluster_ip(
            "kube-dns.kube-system",
            &["10.96.0.10", "fd00:10:96::a"],
            &[
                ("dns", "udp", 53),
                ("dns-tcp", "tcp", 53),
                ("metrics", "tcp", 9153),
            ],
        ),
        cluster_ip(
            "web.prod",
            &["10.96.12.34", "fd00:10:96::c22"],
            &[("http", "tcp", 80), ("https", "tcp", 443)],
        ),
        cluster_ip("api.prod", &["10.96.12.35"], &[("grpc", "tcp", 9090)]),
        cluster_ip("web.staging", &["10.96.40.2"], &[("http", "tcp", 80)]),
        headless("db.prod", &[("postgres", "tcp", 5432)], stateful.collect()),
        headless("cache.prod", &[("redis", "tcp", 6379)], cache.into()),
        headless("wide.prod", &[("http", "tcp", 8080)], wide.collect()),
        // Headless and without endpoints: none of its names exist.
        headless("idle.prod", &[("http", "tcp", 8080)], Vec::new()),
    ]
}

/// Services of several clusters (Multi-Cluster Services API): endpoints carry their cluster's name.
fn exported_services() -> Vec<Service> {
    vec![
        Service {
            name: "web.prod",
            addresses: vec![ip("10.97.0.20"), ip("fd00:10:97::20")],
            ports: &[("http", "tcp", 80)],
            endpoints: Vec::new(),
        },
        Service {
            name: "db.prod",
            addresses: Vec::new(),
            ports: &[("postgres", "tcp", 5432)],
            endpoints: vec![
                ("db-0.east".to_owned(), vec![ip("10.244.1.20")]),
                ("db-0.west".to_owned(), vec![ip("10.245.1.20")]),
            ],
        },
    ]
}

/// `example.org` and `example.com`.
fn outside() -> (Zone, Zone) {
    let mut org = Zone::new("example.org", OUTSIDE_TTL, false);
    let mut add = |owner: &str, ttl, data| {
        let dot = if owner.is_empty() { "" } else { "." };
        org.add(&format!("{owner}{dot}example.org"), ttl, data);
    };
    for address in ["192.0.2.10", "192.0.2.11", "2001:db8::10"] {
        add("", OUTSIDE_TTL, address_data(ip(address)));
    }
    add(
        "",
        OUTSIDE_TTL,
        RData::MX(MX::new(10, name("mail.example.org"))),
    );
    add("", OUTSIDE_TTL, txt(&["v=spf1 -all"]));
    add("mail", OUTSIDE_TTL, address_data(ip("192.0.2.25")));
    add("www", OUTSIDE_TTL, cname("example.org"));
    add("dangling", OUTSIDE_TTL, cname("missing.example.org"));
    add(
        "text",
        OUTSIDE_TTL,
        txt(&["no address", "two strings, \"quoted\""]),
    );
    // A chain whose TTLs differ, so that each can be seen to age on its own.
    add("chain", 60, cname("chain2.example.org"));
    add("chain2", 30, cname("example.org"));
    add("short", 1, address_data(ip("192.0.2.1")));
    add("zero", 0, address_data(ip("192.0.2.2")));
    add("day", 86_400, address_data(ip("192.0.2.3")));
    // Answers above 1,232 octets and above 4,096.
    for n in 0..10 {
        add(
            "big",
            OUTSIDE_TTL,
            txt(&[&format!("{n:02} {}", "b".repeat(180))]),
        );
    }
    for n in 0..40 {
        add(
            "huge",
            OUTSIDE_TTL,
            txt(&[&format!("{n:02} {}", "h".repeat(200))]),
        );
    }
    for n in 0..100 {
        add("many", OUTSIDE_TTL, a(Ipv4Addr::new(198, 51, 100, n)));
    }
    for n in 0..=255 {
        add("crowd", OUTSIDE_TTL, a(Ipv4Addr::new(203, 0, 113, n)));
        add("crowd", OUTSIDE_TTL, a(Ipv4Addr::new(198, 51, 100, n)));
    }
    let mut com = Zone::new("example.com", OUTSIDE_TTL, false);
    com.add(
        "api.example.com",
        OUTSIDE_TTL,
        address_data(ip("192.0.2.80")),
    );
    com.add(
        "api.example.com",
        OUTSIDE_TTL,
        address_data(ip("2001:db8::80")),
    );
    (org, com)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the sample")
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => a(v4),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn a(address: Ipv4Addr) -> RData {
    RData::A(A(address))
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn ptr(target: &str) -> RData {
    RData::PTR(PTR(name(target)))
}

fn srv(weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(0, weight, port, name(target)))
}

fn txt(strings: &[&str]) -> RData {
    RData::TXT(TXT::new(strings.iter().map(|&s| s.to_owned()).collect()))
}

/// The name of an address's PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev();
            let nibbles = nibbles.map(|o| format!("{:x}.{:x}.", o & 0xf, o >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}
