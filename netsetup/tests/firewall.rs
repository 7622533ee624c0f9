// SPDX-License-Identifier: Apache-2.0
//! What is said of a host's firewall, held against what that firewall does to real packets: a pod
//! asks over UDP and TCP, IPv4 and IPv6, untracked, as nodens steers it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

mod netns;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use netns::{Pod, run, run_words, within};
use nodens_netsetup::firewall::{self, Firewall};
use nodens_netsetup::{Plan, Settings, link};

/// What nodens does to these packets, and no more: nobody tracks them.
const STEER: &str = "table inet steer {
  chain prerouting { type filter hook prerouting priority -310; th dport 53 notrack; }
  chain output { type filter hook output priority -310; th sport 53 notrack; }
}";

#[test]
fn nothing_is_said_where_no_firewall_drops() {
    holds("", &[], &ALL);
    holds(
        "chain input { type filter hook input priority 0; policy accept; ct state invalid drop; \
         ct state new drop; tcp dport 22 drop; meta mark 0x1 drop; ip daddr 192.0.2.1 drop; \
         iif lo drop; }",
        &[],
        &ALL,
    );
    holds(
        "chain nat { type nat hook prerouting priority dstnat; policy drop; }",
        &[],
        &ALL,
    );
}

#[test]
fn a_firewall_that_knows_connections_alone_drops_what_has_none() {
    for accepts in [
        "ct state established,related accept",
        "ct state { established, related } accept",
        "ct state vmap { established : accept, related : accept, invalid : drop }",
        "ct state new accept",
        "ct state != untracked accept",
        "ct mark 5 accept; ct status dnat accept; ct direction original accept",
        "iif lo accept; iifname \"lo\" accept; iifname vmap { \"lo\" : accept }",
        "iifname { \"lo\" } accept; meta iif . th dport { lo . 53 } accept",
        "tcp dport { 22, 80, 1000-2000 } accept; udp dport != 53 accept",
        "meta l4proto icmp accept; ip protocol icmp accept; icmpv6 type echo-request accept",
        "fib daddr type broadcast accept",
        "ip daddr 10.0.0.0/8 accept; ip6 daddr fd77::/16 accept",
        "counter; log prefix \"seen\"; meta mark set 0x1",
    ] {
        let input =
            format!("chain input {{ type filter hook input priority 0; policy drop; {accepts}; }}");
        holds(&input, &ALL, &[]);
    }
}

#[test]
fn a_rule_that_lets_the_packets_in_is_seen() {
    for (accepts, passes) in [
        ("ct state untracked accept", &ALL[..]),
        ("ct state established,related,untracked accept", &ALL),
        ("udp dport 53 accept", &UDP),
        ("tcp dport 53 accept", &TCP),
        ("meta l4proto { tcp, udp } th dport 53 accept", &ALL),
        ("udp dport { 1-100 } accept; tcp dport >= 50 accept", &ALL),
        ("th dport != 1-52 accept", &ALL),
        ("ip daddr 169.254.20.10 accept", &IPV4),
        ("ip6 daddr { fd00:20::/64 } accept", &IPV6),
        (
            "ip daddr != 10.0.0.0/8 udp dport vmap { 53 : accept }",
            &["udp 4"],
        ),
        (
            "ip daddr . udp dport { 169.254.20.10 . 53 } accept",
            &["udp 4"],
        ),
        (
            "ip daddr . udp dport { 169.254.20.0/24 . 50-60 } accept",
            &["udp 4"],
        ),
        ("meta nfproto ipv6 meta l4proto udp accept", &["udp 6"]),
        ("ip protocol tcp accept; ip6 nexthdr tcp accept", &TCP),
        ("fib daddr type local accept", &ALL),
        (
            "fib daddr type != local drop; ct state invalid drop; accept",
            &ALL,
        ),
        ("iifname \"veth*\" accept", &ALL),
        ("iifname vmap { \"lo\" : accept, \"veth1\" : accept }", &ALL),
        ("ip saddr 10.9.0.0/16 accept", &IPV4),
        ("iif != lo accept", &ALL),
    ] {
        let drops: Vec<&str> = ALL
            .into_iter()
            .filter(|lane| !passes.contains(lane))
            .collect();
        let input = format!(
            "chain input {{ type filter hook input priority 0; policy drop; \
             ct state established,related accept; {accepts}; }}"
        );
        holds(&input, &drops, passes);
    }
}

#[test]
fn what_other_chains_decide_is_followed() {
    let input = "chain input { type filter hook input priority 0; policy drop; ";
    for (more, passes) in [
        (
            "jump services; } chain services { jump dns; drop; } \
             chain dns { th dport 53 accept; }",
            &ALL[..],
        ),
        ("jump dns; accept; } chain dns { udp dport 53 drop; }", &TCP),
        (
            "jump dns; accept; } chain dns { udp dport 53 return; drop; }",
            &UDP,
        ),
        (
            "goto dns; accept; } chain dns { udp dport 53 accept; }",
            &UDP,
        ),
        (
            "meta l4proto vmap { tcp : jump tcps, udp : goto udps }; accept; } \
             chain tcps { tcp dport 53 drop; } chain udps { accept; }",
            &UDP,
        ),
        (
            "iifname vmap { \"lo\" : accept, \"veth1\" : jump pods }; } \
             chain pods { ip6 daddr fd00:20::10 accept; }",
            &IPV6,
        ),
        // As firewalld does it: all zones, each for its interfaces, then no.
        (
            "ct state { established, related } accept; iifname \"lo\" accept; jump zones; \
             ct state invalid drop; reject with icmpx admin-prohibited; } \
             chain zones { iifname \"eth9\" goto public; goto public; } \
             chain public { tcp dport 22 accept; jump allow; } \
             chain allow { tcp dport 53 ct state new,untracked accept; }",
            &TCP,
        ),
    ] {
        let drops: Vec<&str> = ALL
            .into_iter()
            .filter(|lane| !passes.contains(lane))
            .collect();
        holds(&format!("{input}{more}"), &drops, passes);
    }
}

#[test]
fn every_hook_that_the_packets_pass_is_looked_at() {
    for hook in ["prerouting", "output", "postrouting"] {
        holds(
            &format!(
                "chain first {{ type filter hook {hook} priority 0; policy drop; \
                 ct state established,related accept; }}"
            ),
            &ALL,
            &[],
        );
    }
    holds(
        "chain forward { type filter hook forward priority 0; policy drop; }",
        &[],
        &ALL,
    );
}

#[test]
fn the_rules_of_the_remedy_let_the_packets_in() {
    on_a_node(|pod, plan| {
        load(
            "chain input { type filter hook input priority 0; policy drop; \
             ct state established,related accept; }
             chain output { type filter hook output priority 0; policy drop; \
             ct state established,related accept; }",
        );
        let found = firewall::check(plan).unwrap();
        assert_eq!(found.drops.len(), 2, "{found:?}");
        let here = "replies to clients on the node itself from";
        assert!(found.drops[0].wanted.contains(here), "{found:?}");
        let input = found
            .drops
            .iter()
            .find(|one| one.place.contains("chain input"))
            .unwrap();
        assert_eq!(input.place, "table inet host, chain input (hook input)");
        assert!(input.wanted.contains("queries to 169.254.20.10"), "{input}");
        assert!(input.found.contains("its policy is drop"), "{input}");
        let rule = "`nft insert rule inet host input ip6 daddr { fd00:20::10, fd00:20::11 } udp \
                    dport 53 accept`";
        assert!(input.remedy.contains(rule), "{input}");
        follow(&found);
        assert_eq!(firewall::check(plan).unwrap(), Firewall::default());
        assert_eq!(reality(pod, &ALL), lanes(&ALL));
    });
}

#[test]
fn clients_on_the_node_itself_need_lo_to_be_open() {
    on_a_node(|_, plan| {
        let mut plan = plan.clone();
        plan.captures.clear();
        load(
            "chain input { type filter hook input priority 0; policy drop; \
             ct state established,related accept; th dport 53 accept; }",
        );
        let found = firewall::check(&plan).unwrap();
        assert_eq!(found.drops.len(), 1, "{found:?}");
        let one = &found.drops[0];
        assert!(
            one.wanted
                .starts_with("replies to clients on the node itself"),
            "{one}"
        );
        assert!(
            one.remedy
                .contains("iif lo ip saddr 169.254.20.10 udp sport 53"),
            "{one}"
        );
        assert!(!asks_itself());
        follow(&found);
        assert_eq!(firewall::check(&plan).unwrap(), Firewall::default());
        assert!(asks_itself());

        // As nearly all firewalls have it.
        run("nft flush chain inet host input");
        run("nft add rule inet host input th dport 53 accept");
        assert!(!asks_itself());
        run("nft add rule inet host input iifname lo accept");
        assert_eq!(firewall::check(&plan).unwrap(), Firewall::default());
        assert!(asks_itself());
    });
}

/// Whether a client on the node is answered over UDP.
fn asks_itself() -> bool {
    let server = UdpSocket::bind("169.254.20.10:53").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect("169.254.20.10:53").unwrap();
    client.send(b"who?").unwrap();
    for socket in [&server, &client] {
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
    }
    let mut octets = [0; 16];
    let (_, from) = server.recv_from(&mut octets).unwrap();
    server.send_to(b"me", from).unwrap();
    client.recv(&mut octets).is_ok()
}

#[test]
fn a_rule_of_iptables_that_cannot_be_read_is_said_to_be_so() {
    on_a_node(|_, plan| {
        for program in ["iptables-nft", "ip6tables-nft"] {
            run(&format!("{program} -A INPUT -i lo -j ACCEPT"));
            run(&format!(
                "{program} -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
            ));
        }
        assert_eq!(
            firewall::check(plan).unwrap(),
            Firewall::default(),
            "its policy is accept"
        );
        run("iptables-nft -P INPUT DROP");
        let found = firewall::check(plan).unwrap();
        assert_eq!(found.drops, []);
        assert_eq!(found.unread.len(), 1, "{found:?}");
        let one = &found.unread[0];
        assert!(one.place.contains("table ip filter, chain INPUT"), "{one}");
        assert!(one.found.contains("cannot be read here"), "{one}");
        let rule = "`iptables -t filter -I INPUT -d 169.254.20.11 -p tcp --dport 53 -j ACCEPT`";
        assert!(one.remedy.contains(rule), "{one}");
    });
}

#[test]
fn a_firewall_of_iptables_that_can_be_read_is() {
    on_a_node(|pod, plan| {
        run("ip6tables-nft -P INPUT DROP");
        run("ip6tables-nft -A INPUT -i lo -j ACCEPT");
        run("ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT");
        let found = firewall::check(plan).unwrap();
        assert_eq!(found.drops.len(), 1, "{found:?}");
        assert_eq!(said(&found), lanes(&IPV6));
        assert_eq!(reality(pod, &IPV4), lanes(&IPV4));
        for rule in commands(&found) {
            run(&rule.replace("ip6tables", "ip6tables-nft"));
        }
        let found = firewall::check(plan).unwrap();
        assert_eq!(
            found.drops,
            [],
            "what iptables writes for a port cannot be read"
        );
        assert_eq!(reality(pod, &ALL), lanes(&ALL));

        // A last rule that rejects is as good as a policy.
        run("iptables-nft -A INPUT -p icmp -j ACCEPT");
        run("iptables-nft -A INPUT -j REJECT");
        let found = firewall::check(plan).unwrap();
        assert_eq!(said(&found), lanes(&IPV4), "{found:?}");
    });
}

#[test]
fn without_the_capability_the_check_says_so() {
    within(|| {
        let thread = rustix::thread::capabilities(None).unwrap();
        let fewer = rustix::thread::CapabilitySets {
            effective: thread.effective - rustix::thread::CapabilitySet::NET_ADMIN,
            ..thread
        };
        rustix::thread::set_capabilities(None, fewer).unwrap();
        let words = firewall::check(&plan()).unwrap_err().to_string();
        assert!(
            words.contains("read the rules") && words.contains("NET_ADMIN"),
            "{words}"
        );
    });
}

const ALL: [&str; 4] = ["udp 4", "udp 6", "tcp 4", "tcp 6"];
const UDP: [&str; 2] = ["udp 4", "udp 6"];
const TCP: [&str; 2] = ["tcp 4", "tcp 6"];
const IPV4: [&str; 2] = ["udp 4", "tcp 4"];
const IPV6: [&str; 2] = ["udp 6", "tcp 6"];

/// With these chains in a table of the host's, the check says that `drops` are dropped, and so it
/// is; `passes` pass.
#[track_caller]
fn holds(chains: &str, drops: &[&str], passes: &[&str]) {
    on_a_node(|pod, plan| {
        load(chains);
        // The addresses that are asked below, and no others.
        let mut plan = plan.clone();
        plan.captures.clear();
        let found = firewall::check(&plan).unwrap();
        assert_eq!(found.unread, [], "{chains}");
        assert_eq!(said(&found), lanes(drops), "{chains}: {:?}", found.drops);
        assert_eq!(reality(pod, passes), lanes(passes), "{chains}");
    });
}

#[track_caller]
fn on_a_node(work: impl FnOnce(&Pod, &Plan) + Send) {
    within(|| {
        let plan = plan();
        link::apply(&plan).unwrap();
        let pod = Pod::new(1);
        know_each_other(&pod);
        run_words(&["nft", "-f", "-"], STEER);
        work(&pod, &plan);
    });
}

/// Neighbours without asking: a firewall may drop the questions of IPv6 (RFC 4861), as no node's
/// does for long.
fn know_each_other(pod: &Pod) {
    let mac = |interface: &str| {
        let text = run(&format!("ip -br link show dev {interface}"));
        text.split_whitespace().nth(2).unwrap().to_owned()
    };
    let (node, there) = (mac("veth1"), pod.within(|| mac("eth0")));
    run(&format!(
        "ip neigh replace fd09:1::2 lladdr {there} dev veth1 nud permanent"
    ));
    pod.within(|| {
        run(&format!(
            "ip neigh replace fd09:1::1 lladdr {node} dev eth0 nud permanent"
        ))
    });
}

#[track_caller]
fn load(chains: &str) {
    // nft wants each chain to end with its line.
    let chains = chains.replace("} chain", "}\nchain");
    run_words(
        &["nft", "-f", "-"],
        &format!("table inet host {{\n{chains}\n}}"),
    );
}

/// The lanes that are dropped, as the rules of the remedy name them.
fn said(found: &Firewall) -> BTreeSet<String> {
    let mut lanes = BTreeSet::new();
    // Clients on the node itself have a test of their own.
    for rule in commands(found).iter().filter(|rule| !rule.contains(" lo ")) {
        let proto = if rule.contains("udp") { "udp" } else { "tcp" };
        let family = if rule.contains("fd00") { 6 } else { 4 };
        lanes.insert(format!("{proto} {family}"));
    }
    lanes
}

fn commands(found: &Firewall) -> Vec<String> {
    let remedies = found
        .drops
        .iter()
        .flat_map(|one| one.remedy.split('`').skip(1).step_by(2));
    remedies.map(str::to_owned).collect()
}

fn follow(found: &Firewall) {
    for rule in commands(found) {
        run(&rule);
    }
}

fn lanes(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|&lane| lane.to_owned()).collect()
}

/// The lanes on which a pod is answered. Those that are expected to be have more time.
fn reality(pod: &Pod, expected: &[&str]) -> BTreeSet<String> {
    let ask = |lane: &'static str| {
        let ip: IpAddr = match lane.ends_with('4') {
            true => IpAddr::from([169, 254, 20, 10]),
            false => "fd00:20::10".parse().unwrap(),
        };
        let limit = Duration::from_millis(if expected.contains(&lane) { 5000 } else { 250 });
        let is_answered = match lane.starts_with("udp") {
            true => is_answered_over_udp(pod, (ip, 53).into(), limit),
            false => is_answered_over_tcp(pod, (ip, 53).into(), limit),
        };
        is_answered.then(|| lane.to_owned())
    };
    thread::scope(|scope| {
        let asked: Vec<_> = ALL.map(|lane| scope.spawn(move || ask(lane))).into();
        asked
            .into_iter()
            .filter_map(|one| one.join().unwrap())
            .collect()
    })
}

fn is_answered_over_udp(pod: &Pod, at: SocketAddr, limit: Duration) -> bool {
    let server = UdpSocket::bind(at).unwrap();
    let client = pod.within(|| {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = UdpSocket::bind(any).unwrap();
        client.connect(at).unwrap();
        client
    });
    server.set_read_timeout(Some(limit)).unwrap();
    client.set_read_timeout(Some(limit)).unwrap();
    client.send(b"who?").unwrap();
    let mut octets = [0; 16];
    let Ok((_, from)) = server.recv_from(&mut octets) else {
        return false;
    };
    // A firewall that drops it may say so at once.
    server.send_to(b"me", from).is_ok() && client.recv(&mut octets).is_ok()
}

fn is_answered_over_tcp(pod: &Pod, at: SocketAddr, limit: Duration) -> bool {
    let server = TcpListener::bind(at).unwrap();
    let Ok(mut client) = pod.within(|| TcpStream::connect_timeout(&at, limit)) else {
        return false;
    };
    let (mut accepted, _) = server.accept().unwrap();
    accepted.write_all(b"me").unwrap();
    client.set_read_timeout(Some(limit)).unwrap();
    client.read_exact(&mut [0; 2]).is_ok()
}

fn plan() -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: vec![
            IpAddr::from([169, 254, 20, 10]),
            "fd00:20::10".parse().unwrap(),
        ],
        port: 53,
        services: vec![IpAddr::from([10, 96, 0, 10]), "fd96::a".parse().unwrap()],
        redirect_to: None,
        fallback: Vec::new(),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}
