// SPDX-License-Identifier: Apache-2.0
//! Interface and addresses, in a namespace of each test's own: what is put there, found again,
//! healed and taken back.
#![expect(clippy::unwrap_used, reason = "a test fails so")]
#![expect(clippy::disallowed_methods, reason = "a test owns its clock")]

mod netns;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netns::{Pod, run, within};
use nodens_netsetup::link::{self, Kind, Part};
use nodens_netsetup::{Error, Plan, Settings, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

#[test]
fn every_address_of_the_plan_answers_at_once_and_is_adopted_by_the_next_call() {
    within(|| {
        let plan = plan(
            &["169.254.20.10", "fd00:20::10"],
            &["10.96.0.10", "fd96::a"],
        );
        let links = link::apply(&plan).unwrap();
        assert_ne!(links.kind, Kind::Loopback);
        assert_eq!(links.interface, "nodens0");
        assert_eq!(links.made.len(), 7, "{links:?}");
        assert!(
            links.adopted.is_empty() && links.removed.is_empty(),
            "{links:?}"
        );
        for ip in plan.interface_addresses() {
            UdpSocket::bind((ip, 53)).unwrap();
        }
        assert_eq!(link::check(&plan).unwrap(), []);

        let before = node();
        let again = link::apply(&plan).unwrap();
        assert_eq!(again.adopted, links.made);
        assert_eq!(again.kind, links.kind);
        assert!(
            again.made.is_empty() && again.removed.is_empty(),
            "{again:?}"
        );
        assert_same(&before, "after the second call");
    });
}

#[test]
fn revert_leaves_the_node_as_it_was() {
    within(|| {
        let _pod = Pod::new(1);
        let plan = plan(
            &["169.254.20.10", "fd00:20::10"],
            &["10.96.0.10", "fd96::a"],
        );
        let before = node();
        link::apply(&plan).unwrap();
        assert!(node() != before);
        link::revert(&plan).unwrap();
        assert_same(&before, "after revert");
        link::revert(&plan).unwrap();
        assert_same(&before, "with nothing to remove any more");
    });
}

#[test]
fn addresses_of_an_earlier_configuration_go() {
    within(|| {
        link::apply(&plan(&["169.254.20.10", "fd00:20::10"], &[])).unwrap();
        let plan = plan(&["169.254.20.20", "fd00:20::10"], &[]);
        let found = in_words(&plan);
        // The address that clients ask, and the one that the agent asks itself from; each twice.
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[0].contains("address 169.254.20.20 on nodens0: wanted there"),
            "{found:?}"
        );
        assert!(
            found[2].contains("the configuration does not name it"),
            "{found:?}"
        );

        let links = link::apply(&plan).unwrap();
        assert_eq!(links.removed, [ip("169.254.20.10"), ip("169.254.20.11")]);
        let made = [ip("169.254.20.20"), ip("169.254.20.21")];
        assert_eq!(links.made, made.map(Part::Address));
        assert!(links.adopted.contains(&Part::Address(ip("fd00:20::10"))));
        assert_eq!(link::check(&plan).unwrap(), []);
        UdpSocket::bind("169.254.20.10:53").unwrap_err();
    });
}

#[test]
fn what_others_broke_is_mended() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        let good = node();
        for breaks in [
            // The last of their family: what is made anew comes last.
            "ip address del 169.254.20.11/32 dev nodens0",
            "ip address del fd00:20::11/128 dev nodens0",
            "ip link set nodens0 down",
            "ip link del nodens0",
        ] {
            run(breaks);
            assert!(!link::check(&plan).unwrap().is_empty(), "after `{breaks}`");
            link::apply(&plan).unwrap();
            assert_eq!(link::check(&plan).unwrap(), [], "after `{breaks}`");
            assert_same(&good, breaks);
        }
    });
}

#[test]
fn mending_keeps_what_the_kernel_takes_and_says_what_it_does_not() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        run("ip link del nodens0");
        run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let mended = link::mend(&plan).unwrap();
        let words = mended.refused.unwrap().to_string();
        assert!(words.contains("fd00:20::10"), "{words}");
        assert!(run("ip address show nodens0").contains("169.254.20.10"));

        // Once the kernel takes it, the rest comes back too.
        run("sysctl -qw net.ipv6.conf.nodens0.disable_ipv6=0");
        let mended = link::mend(&plan).unwrap();
        assert!(mended.refused.is_none(), "{:?}", mended.refused);
        assert_eq!(link::check(&plan).unwrap(), []);
        assert!(link::mend(&plan).unwrap().links.made.is_empty());
    });
}

#[test]
fn an_address_that_waits_for_duplicates_to_answer_is_made_anew() {
    within(|| {
        let plan = plan(&["fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        // A bridge that has lost its last port has no carrier, and then nobody asks for duplicates.
        run("ip address del fd00:20::10/128 dev nodens0");
        run("ip link add port type veth peer name other");
        run("ip link set port master nodens0");
        run("ip link set other up");
        run("ip link set port up");
        run("ip address add fd00:20::10/128 dev nodens0");
        run("ip link del port");
        let found = in_words(&plan);
        assert!(found[0].contains("duplicates"), "{found:?}");
        UdpSocket::bind("[fd00:20::10]:53").unwrap_err();

        link::apply(&plan).unwrap();
        assert_eq!(link::check(&plan).unwrap(), []);
        UdpSocket::bind("[fd00:20::10]:53").unwrap();
    });
}

#[test]
fn an_interface_of_somebody_else_is_left_alone_and_named() {
    within(|| {
        let plan = plan(&["169.254.20.10"], &[]);
        run("ip link add nodens0 type veth peer name other");
        run("ip link set nodens0 alias uplink");
        let before = node();
        for error in [
            link::apply(&plan).unwrap_err(),
            link::revert(&plan).unwrap_err(),
        ] {
            let words = error.to_string();
            assert!(matches!(error, Error::InterfaceTaken { .. }), "{words}");
            assert!(
                words.contains("nodens0") && words.contains("a veth interface"),
                "{words}"
            );
            assert!(words.contains("ip link delete nodens0"), "{words}");
        }
        let found = in_words(&plan);
        assert!(
            found[0].contains("a veth interface with the alias \"uplink\""),
            "{found:?}"
        );
        assert_same(&before, "left alone");

        // Of the right kind, and still not ours.
        run("ip link del nodens0");
        run("ip link add nodens0 type bridge");
        let before = node();
        let error = link::apply(&plan).unwrap_err();
        assert!(matches!(error, Error::InterfaceTaken { .. }), "{error}");
        assert_same(&before, "left alone");
    });
}

#[test]
fn a_bridge_that_others_use_is_not_removed() {
    within(|| {
        let plan = plan(&["169.254.20.10"], &[]);
        if link::apply(&plan).unwrap().kind != Kind::Bridge {
            // Only a bridge can have ports: make one where the kernel would have given a dummy.
            run("ip link del nodens0");
            run("ip link add nodens0 type bridge");
            run("ip link set nodens0 alias nodens");
            link::apply(&plan).unwrap();
        }
        run("ip link add port type veth peer name other");
        run("ip link set port master nodens0");
        let found = in_words(&plan);
        assert!(found[0].contains("ip link set port nomaster"), "{found:?}");
        let error = link::revert(&plan).unwrap_err();
        assert!(matches!(error, Error::InterfaceHasPorts { .. }), "{error}");
        assert!(error.to_string().contains("(port)"), "{error}");

        run("ip link set port nomaster");
        link::revert(&plan).unwrap();
        assert!(!run("ip -br link").contains("nodens0"));
    });
}

#[test]
fn ipv6_that_is_disabled_is_said_with_its_setting_and_nothing_stays() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let before = node();
        let error = link::apply(&plan).unwrap_err();
        assert!(matches!(error, Error::NoIpv6 { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains("put fd00:20::10 on nodens0"), "{words}");
        assert!(
            words.contains("net.ipv6.conf.default.disable_ipv6=0"),
            "{words}"
        );
        assert_same(&before, "left alone");

        // On an interface that was there, the setting of that interface counts.
        run("sysctl -qw net.ipv6.conf.default.disable_ipv6=0");
        link::apply(&plan).unwrap();
        run("sysctl -qw net.ipv6.conf.nodens0.disable_ipv6=1");
        let words = link::apply(&plan).unwrap_err().to_string();
        assert!(
            words.contains("net.ipv6.conf.nodens0.disable_ipv6=0"),
            "{words}"
        );
        assert!(
            run("ip address show nodens0").contains("169.254.20.10"),
            "it was there before"
        );
    });
}

#[test]
fn without_the_capability_the_message_says_so() {
    within(|| {
        let thread = rustix::thread::capabilities(None).unwrap();
        rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                effective: thread.effective - rustix::thread::CapabilitySet::NET_ADMIN,
                ..thread
            },
        )
        .unwrap();
        let plan = plan(&["169.254.20.10"], &[]);
        let error = link::apply(&plan).unwrap_err();
        assert!(matches!(error, Error::NotPermitted { .. }), "{error:?}");
        let words = error.to_string();
        assert!(
            words.contains("make nodens0") && words.contains("NET_ADMIN"),
            "{words}"
        );
        // Looking is free.
        assert_eq!(link::check(&plan).unwrap().len(), 1);
    });
}

#[test]
fn pods_reach_the_addresses_whatever_the_node_s_settings() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        let pod = Pod::new(1);
        let asked = |what: &str| {
            for ip in plan.interface_addresses() {
                let server = UdpSocket::bind((ip, 53)).unwrap();
                assert!(is_answered(&pod, &server), "{ip}, {what}");
            }
        };
        asked("as the kernel sets itself up");
        for setting in [
            "rp_filter=1",
            "arp_ignore=1",
            "arp_ignore=2",
            "arp_announce=2",
            "ignore_routes_with_linkdown=1",
        ] {
            for interface in ["all", "nodens0", "veth1"] {
                run(&format!("sysctl -qw net.ipv4.conf.{interface}.{setting}"));
            }
            asked(setting);
        }
        pod.within(|| run("sysctl -qw net.ipv4.conf.all.rp_filter=1"));
        asked("rp_filter=1 in the pod");
        for interface in ["all", "nodens0", "veth1"] {
            let setting = "ignore_routes_with_linkdown=1";
            run(&format!("sysctl -qw net.ipv6.conf.{interface}.{setting}"));
        }
        asked("ignore_routes_with_linkdown=1 for IPv6");
        if link::apply(&plan).unwrap().kind == Kind::Bridge {
            run("ip link add port type veth peer name other");
            run("ip link set port master nodens0");
            run("ip link del port");
            assert!(run("ip link show nodens0").contains("NO-CARRIER"));
            asked("without a carrier");
        }
    });
}

#[test]
fn the_addresses_are_never_the_source_of_the_node_s_own_connections() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        // A pod's interface without an address, as Calico makes it, and an uplink made after ours.
        let _pod = Pod::new(1);
        run("ip address flush dev veth1");
        run("ip route add 10.9.1.2 dev veth1 scope link");
        run("ip route add fd09:1::2 dev veth1");
        run("ip link add uplink type veth peer name elsewhere");
        run("ip address add 192.0.2.7/24 dev uplink");
        run("ip address add 2001:db8::7/64 dev uplink nodad");
        run("ip link set elsewhere up");
        run("ip link set uplink up");
        for (to, from) in [
            ("10.9.1.2:9", "192.0.2.7"),
            ("[fd09:1::2]:9", "2001:db8::7"),
        ] {
            let to: SocketAddr = to.parse().unwrap();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(from));
        }
    });
}

#[test]
fn the_watch_tells_within_a_second_what_others_took_away() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &["10.96.0.10"]);
        link::apply(&plan).unwrap();
        let mut watch = Watch::new(&plan).unwrap();
        assert!(
            !is_told(&mut watch, Duration::from_millis(100)),
            "nothing has happened"
        );
        for breaks in [
            "ip address del 169.254.20.11/32 dev nodens0",
            "ip address del fd00:20::10/128 dev nodens0",
            "ip link set nodens0 down",
            "ip link del nodens0",
            "ip address flush dev nodens0",
        ] {
            run(breaks);
            assert!(is_told(&mut watch, Duration::from_secs(1)), "of `{breaks}`");
            link::apply(&plan).unwrap();
            assert_eq!(link::check(&plan).unwrap(), []);
            let is_echo = is_told(&mut watch, Duration::from_millis(100));
            assert!(!is_echo, "the mending of `{breaks}` is no news");
        }
        run("ip link set nodens0 down");
        run("ip link set nodens0 name mine");
        assert!(
            is_told(&mut watch, Duration::from_secs(1)),
            "of another name"
        );
    });
}

#[test]
fn the_watch_sleeps_through_the_comings_and_goings_of_pods() {
    within(|| {
        let plan = plan(&["169.254.20.10", "fd00:20::10"], &[]);
        link::apply(&plan).unwrap();
        let mut watch = Watch::new(&plan).unwrap();
        for number in 1..4 {
            drop(Pod::new(number));
        }
        run("ip link add cni0 type bridge");
        run("ip link add port type veth peer name other");
        run("ip link set port master cni0");
        // The same address on an interface that is not ours.
        run("ip address add 169.254.20.10/32 dev cni0");
        run("ip address del 169.254.20.10/32 dev cni0");
        run("ip link set cni0 up");
        run("ip link del cni0");
        assert!(!is_told(&mut watch, Duration::from_millis(200)));
    });
}

#[test]
fn news_that_the_kernel_had_to_drop_count_as_a_change() {
    within(|| {
        let plan = plan(&["169.254.20.10"], &[]);
        link::apply(&plan).unwrap();
        run("ip link add cni0 type bridge");
        let mut watch = Watch::new(&plan).unwrap();
        let flood: String = (0..1000)
            .map(|n| format!("link set cni0 mtu {}\n", 1400 + n % 2))
            .collect();
        netns::run_words(&["ip", "-batch", "-"], &flood);
        assert!(is_told(&mut watch, Duration::from_secs(1)));
        assert!(!is_told(&mut watch, Duration::from_millis(100)), "once");
    });
}

/// Whether the watch tells of links before the time is over.
fn is_told(watch: &mut Watch, within: Duration) -> bool {
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let fd = watch.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
        if watch.look(0).links {
            return true;
        }
    }
}

/// Whether what a pod sends to the socket arrives, and what the socket answers arrives there, from
/// the address that was asked.
fn is_answered(pod: &Pod, server: &UdpSocket) -> bool {
    let at = server.local_addr().unwrap();
    let client = pod.within(|| {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = UdpSocket::bind(any).unwrap();
        // Connected: an answer from elsewhere would not come in.
        client.connect(at).unwrap();
        client
    });
    let limit = Some(Duration::from_secs(3));
    let mut octets = [0; 16];
    server.set_read_timeout(limit).unwrap();
    client.set_read_timeout(limit).unwrap();
    client.send(b"who?").unwrap();
    let Ok((length, from)) = server.recv_from(&mut octets) else {
        return false;
    };
    assert_eq!(&octets[..length], b"who?");
    server.send_to(b"me", from).unwrap();
    client
        .recv(&mut octets)
        .is_ok_and(|length| &octets[..length] == b"me")
}

/// Links, addresses and routes of the namespace, without what changes by itself.
fn node() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for what in [
        "link",
        "address",
        "-4 route show table all",
        "-6 route show table all",
        "rule",
        "-6 rule",
    ] {
        let text = run(&format!("ip -j -d {what}"));
        let Value::Array(things) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        for mut thing in things {
            if let Value::Object(fields) = &mut thing {
                // A new interface has a new index, and a MAC address by chance; timers run.
                for changing in ["ifindex", "link_index", "address", "linkinfo"] {
                    fields.remove(changing);
                }
            }
            lines.insert(format!("{what}: {thing}"));
        }
    }
    lines
}

#[track_caller]
fn assert_same(before: &BTreeSet<String>, when: &str) {
    let now = node();
    let differences: Vec<_> = before.symmetric_difference(&now).collect();
    assert!(differences.is_empty(), "{when}: {differences:#?}");
}

fn in_words(plan: &Plan) -> Vec<String> {
    let found = link::check(plan).unwrap();
    found.iter().map(ToString::to_string).collect()
}

fn plan(listen: &[&str], services: &[&str]) -> Plan {
    let ips = |words: &[&str]| words.iter().map(|word| ip(word)).collect();
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips(listen),
        port: 53,
        services: ips(services),
        redirect_to: None,
        fallback: Vec::new(),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
