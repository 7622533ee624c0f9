// SPDX-License-Identifier: Apache-2.0
//! The last resort, which no kernel here falls back to by itself.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use super::{Kind, Links, Part, apply_as, check, revert};
use crate::netns::{run, within};
use crate::plan::{Plan, Settings};

const NODE: &str = "ip -j address show dev lo";

#[test]
fn without_another_interface_the_addresses_go_on_lo_and_leave_nothing_there() {
    within(|| {
        run("ip address add 192.0.2.1/32 dev lo");
        let plan = plan();
        let before = (run(NODE), run("ip -6 route show table all"));
        let Links {
            kind,
            interface,
            made,
            ..
        } = apply_as(&plan, &[]).unwrap();
        assert_eq!((kind, interface.as_str()), (Kind::Loopback, "lo"));
        assert_eq!(made.len(), 4);
        for ip in plan.interface_addresses() {
            UdpSocket::bind((ip, 53)).unwrap();
        }
        assert_eq!(check(&plan).unwrap(), []);

        let again = apply_as(&plan, &[]).unwrap();
        assert_eq!((again.made, again.adopted), (Vec::new(), made));
        revert(&plan).unwrap();
        assert_eq!((run(NODE), run("ip -6 route show table all")), before);
    });
}

#[test]
fn an_address_on_lo_that_others_put_there_is_used_and_left() {
    within(|| {
        let plan = plan();
        run("ip address add 169.254.20.10/32 dev lo");
        run("ip address add 169.254.20.11/32 dev lo");
        run("ip address add fd00:20::10/128 dev lo nodad");
        run("ip address add fd00:20::11/128 dev lo nodad");
        let before = run(NODE);
        let links = apply_as(&plan, &[]).unwrap();
        assert!(links.made.is_empty(), "{links:?}");
        let addresses = plan.interface_addresses().into_iter().map(Part::Address);
        assert_eq!(links.adopted, addresses.collect::<Vec<_>>());
        revert(&plan).unwrap();
        assert_eq!(run(NODE), before);
    });
}

#[test]
fn an_address_on_lo_that_the_plan_does_not_name_is_left() {
    within(|| {
        let plan = plan();
        apply_as(&plan, &[]).unwrap();
        let mut other = plan.clone();
        other.addresses = vec![IpAddr::from([169, 254, 20, 20])];
        let links = apply_as(&other, &[]).unwrap();
        assert!(links.removed.is_empty());
        assert_eq!(check(&plan).unwrap(), []);
    });
}

#[test]
fn a_call_that_fails_on_lo_takes_back_what_it_made() {
    within(|| {
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
        let before = run(NODE);
        let words = apply_as(&plan(), &[]).unwrap_err().to_string();
        assert!(words.contains("net.ipv6.conf.lo.disable_ipv6=0"), "{words}");
        assert_eq!(run(NODE), before);
    });
}

fn plan() -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: vec![
            IpAddr::from([169, 254, 20, 10]),
            "fd00:20::10".parse().unwrap(),
        ],
        port: 53,
        services: Vec::new(),
        redirect_to: None,
        fallback: Vec::new(),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}
