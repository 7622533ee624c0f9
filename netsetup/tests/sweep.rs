// SPDX-License-Identifier: Apache-2.0
//! What node-cache leaves on a node: its rules, written by the real iptables as it writes them, and
//! its interface. They are known again, told, and removed when nobody listens there; nothing else
//! ever is.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod netns;

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use netns::node_cache::{LOCAL, Listener, SERVICE, interface, rules};
use netns::{run, run_words, within};
use nodens_netsetup::link::{self, Kind};
use nodens_netsetup::sweep::{self, Swept};
use nodens_netsetup::{Plan, Settings};

const LOCAL6: &str = "fd00:20::10";
const SERVICE6: &str = "fd96::a";

fn all_rules() {
    for address in [LOCAL, SERVICE] {
        rules("iptables-nft", address, true);
    }
    for address in [LOCAL6, SERVICE6] {
        rules("ip6tables-nft", address, true);
    }
}

fn saved() -> String {
    let all = ["iptables-nft-save", "ip6tables-nft-save"]
        .map(run)
        .concat();
    let rules = all.lines().filter(|line| line.starts_with("-A"));
    rules.collect::<Vec<_>>().join("\n")
}

fn told(plan: &Plan) -> String {
    let differences = sweep::look(plan).unwrap().differences();
    let words: Vec<_> = differences.iter().map(ToString::to_string).collect();
    words.join("\n")
}

#[track_caller]
fn says(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
}

#[test]
fn nothing_is_told_of_a_node_without_node_cache() {
    within(|| {
        run("iptables-nft -t raw -A PREROUTING -p udp --dport 53 -j NOTRACK");
        run("iptables-nft -A INPUT -p tcp -d 192.0.2.1 --dport 53 -j ACCEPT");
        run("ip link add other0 type bridge");
        let before = (saved(), run("ip -j address"));
        assert_eq!(told(&plan()), "");
        assert!(sweep::look(&plan()).unwrap().is_absent());
        assert_eq!(sweep::sweep(&plan()).unwrap(), Swept::default());
        assert_eq!((saved(), run("ip -j address")), before);
    });
}

#[test]
fn all_that_a_killed_node_cache_left_is_told_and_goes() {
    within(|| {
        // What others have beside it stays, in its order.
        run("iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT");
        run("iptables-nft -t raw -A PREROUTING -s 192.0.2.1 -j NOTRACK");
        let before = saved();
        all_rules();
        interface();
        let told = told(&plan());
        says(
            &told,
            &[
                "table ip raw (of iptables): wanted no rule of node-cache's for 10.96.0.10",
                "for fd96::a, found 8 of its rules, and nobody listens there any more: NOTRACK on the \
                 cluster's DNS address disables kube-proxy and the fallback",
                "for 10.96.0.10, found 8 of its rules, and nobody listens there any more: NOTRACK on the \
                 cluster's DNS address disables kube-proxy and the fallback",
                "for 169.254.20.10, found 8 of its rules, and nobody listens there any more: NOTRACK on a \
                 node-local address disables the fallback",
                "for fd00:20::10, found 8 of its rules, and nobody listens there any more: NOTRACK on a \
                 node-local address disables the fallback",
                "table ip6 raw (of ip6tables): wanted no rule of node-cache's for fd96::a",
                "table ip filter (of iptables)",
                "8 of its rules",
                "interface nodelocaldns (of node-cache)",
                "the cluster's DNS address 10.96.0.10: what the node itself asks there",
                "nobody listens there any more",
                "netsetup up --sweep",
            ],
        );
        let swept = sweep::sweep(&plan()).unwrap();
        assert_eq!((swept.users, swept.left), (Vec::new(), Vec::new()));
        let removed = swept.removed.join("\n");
        says(&removed, &["8 rules for 10.96.0.10 in table ip raw"]);
        says(&removed, &["address 10.96.0.10 on nodelocaldns"]);
        assert_eq!(saved(), before);
        let addresses = run("ip -4 address show dev nodelocaldns");
        assert!(!addresses.contains("inet"), "{addresses}");
        assert!(sweep::look(&plan()).unwrap().is_absent());
        assert_eq!(sweep::sweep(&plan()).unwrap(), Swept::default());
    });
}

#[test]
fn what_somebody_listens_for_stays_until_nobody_does() {
    within(|| {
        all_rules();
        interface();
        let before = (saved(), run("ip -j address"));
        for socket in 0..3 {
            // Of another program: this one could be an agent.
            let holder = match socket {
                0 => Listener::start("udp", "10.96.0.10:53"),
                1 => Listener::start("tcp", "169.254.20.10:53"),
                _ => Listener::start("udp", "53"),
            };
            let swept = sweep::sweep(&plan()).unwrap();
            assert!(swept.removed.is_empty(), "{swept:?}");
            says(&swept.users.join(", "), &["openssl (process "]);
            assert_eq!((saved(), run("ip -j address")), before);
            let told = told(&plan());
            says(&told, &["it is in use: openssl", "delete daemonset"]);
            assert!(!told.contains("disables"), "{told}");
            drop(holder);
        }
        // Our own are not node-cache's.
        let _udp = UdpSocket::bind((LOCAL, 53)).unwrap();
        let _tcp = TcpListener::bind((LOCAL, 53)).unwrap();
        let swept = sweep::sweep(&plan()).unwrap();
        assert_eq!(swept.users, Vec::<String>::new());
        assert_eq!(saved(), "");
    });
}

#[test]
fn what_is_like_a_rule_of_node_caches_is_told_and_left() {
    within(|| {
        let comment = "NodeLocal DNS Cache: skip conntrack";
        let end = ["-m", "comment", "--comment", comment, "-j", "NOTRACK"];
        for (why, rule) in [
            ("more", "-p udp -d 10.96.0.10 --dport 53 -i eth0"),
            ("more", "-p udp -d 10.96.0.10 --dport 53 ! -s 192.0.2.1"),
            ("one protocol", "-p udp -d 10.96.0.0/16 --dport 53"),
            ("one protocol", "-p udp -d 10.96.0.10 --dport 53:54"),
            ("one protocol", "-p udp -d 10.96.0.10"),
            ("one protocol", "-p udp ! -d 10.96.0.10 --dport 53"),
            ("more", "-p udp -d 10.96.0.10 --sport 53"),
            ("no such rule", "-p udp -s 10.96.0.10 --sport 53"),
        ] {
            let mut words = vec!["iptables-nft", "-t", "raw", "-A", "PREROUTING"];
            words.extend(rule.split(' '));
            words.extend(end);
            run_words(&words, "");
            left(why);
        }
        let other = "NodeLocal DNS Cache: my own";
        let mut words = "iptables-nft -A INPUT -p udp -d 10.96.0.10 --dport 53 -j ACCEPT"
            .split(' ')
            .collect::<Vec<_>>();
        words.extend(["-m", "comment", "--comment", other]);
        run_words(&words, "");
        left("another comment");
        run("iptables-nft -t raw -A PREROUTING -p udp -d 10.96.0.10 --dport 53 -j CT --zone 5");
        run("iptables-nft -F");
        run("iptables-nft -t raw -F");
        run("iptables-nft -t raw -A PREROUTING -p udp -d 10.96.0.10 --dport 53 -j NOTRACK");
        left("without the comment");
    });
}

/// All there is stays, and one of them is told with this reason.
#[track_caller]
fn left(why: &str) {
    let before = saved();
    let swept = sweep::sweep(&plan()).unwrap();
    assert!(swept.removed.is_empty(), "{swept:?}");
    let told: Vec<_> = swept.left.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|one| one.contains(why)), "{why}: {told:?}");
    assert_eq!(saved(), before);
}

#[test]
fn of_rules_without_a_comment_a_whole_set_of_notrack_goes_and_accept_stays() {
    within(|| {
        rules("iptables-nft", SERVICE, false);
        let swept = sweep::sweep(&plan()).unwrap();
        assert_eq!(swept.removed.len(), 1, "{swept:?}");
        assert_eq!(swept.left.len(), 4, "{swept:?}");
        let left = saved();
        assert_eq!(left.lines().count(), 4, "{left}");
        assert!(!left.contains("NOTRACK"), "{left}");
    });
}

#[test]
fn rules_of_the_older_iptables_are_told_with_the_command_that_removes_them() {
    within(|| {
        run("iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT");
        run("iptables-legacy -t raw -A PREROUTING -s 192.0.2.1 -j NOTRACK");
        let save = || {
            let all = run("iptables-legacy-save");
            let rules = all.lines().filter(|line| line.starts_with("-A"));
            rules.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = save();
        rules("iptables-legacy", SERVICE, true);
        assert_eq!(save().len(), before.len() + 12);
        assert_eq!(told(&plan()), "", "the table alone says nothing");
        let swept = sweep::sweep(&plan()).unwrap();
        let [legacy] = &swept.left[..] else {
            panic!("{swept:?}");
        };
        says(&legacy.found, &["cannot be read", "disable kube-proxy"]);
        let command = legacy.remedy.split('`').nth(3).unwrap();
        run_words(&["sh", "-ec", command], "");
        assert_eq!(save(), before);
    });
}

#[test]
fn an_interface_of_node_caches_that_the_plan_names_is_used_and_kept() {
    within(|| {
        interface();
        run(&format!(
            "ip -6 address add {SERVICE6}/128 dev nodelocaldns nodad"
        ));
        let before = run("ip -j address show dev nodelocaldns");
        let plan = plan_on("nodelocaldns");
        let links = link::apply(&plan).unwrap();
        assert_eq!(links.kind, Kind::NodeCache);
        assert_eq!(links.interface, "nodelocaldns");
        assert!(links.removed.is_empty(), "{links:?}");
        for ip in plan.interface_addresses() {
            UdpSocket::bind((ip, 53)).unwrap();
        }
        assert_eq!(link::check(&plan).unwrap(), []);
        assert!(run("ip address show dev nodelocaldns").contains(SERVICE));
        // Taken back: what node-cache had stays, though the interface is up now.
        link::revert(&plan).unwrap();
        let addresses = |text: &str| {
            let all: serde_json::Value = serde_json::from_str(text).unwrap();
            let infos = all[0]["addr_info"].as_array().unwrap().clone();
            let ips = infos.iter().map(|info| info["local"].to_string());
            let mut ips: Vec<_> = ips.filter(|ip| !ip.contains("fe80")).collect();
            ips.sort();
            ips
        };
        let after = run("ip -j address show dev nodelocaldns");
        assert_eq!(addresses(&after), addresses(&before));

        link::apply(&plan).unwrap();
        let swept = sweep::sweep(&plan).unwrap();
        assert_eq!(swept.removed.len(), 2, "{swept:?}");
        assert!(!run("ip address show dev nodelocaldns").contains(SERVICE));
        assert_eq!(link::check(&plan).unwrap(), []);
    });
}

#[test]
fn an_address_on_node_caches_interface_that_nobody_knows_keeps_it() {
    within(|| {
        interface();
        run("ip address add 192.0.2.7/24 dev nodelocaldns");
        says(&told(&plan()), &["192.0.2.7, which is not known"]);
        sweep::sweep(&plan()).unwrap();
        let left = run("ip address show dev nodelocaldns");
        says(&left, &["192.0.2.7"]);
        assert!(!left.contains(SERVICE), "{left}");
    });
}

fn plan() -> Plan {
    plan_on("nodens0")
}

fn plan_on(interface: &str) -> Plan {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Plan::new(&Settings {
        interface: interface.to_owned(),
        listen: vec![ip(LOCAL), ip(LOCAL6)],
        port: 53,
        services: vec![ip(SERVICE), ip(SERVICE6)],
        redirect_to: None,
        fallback: Vec::new(),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}
