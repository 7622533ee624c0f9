// SPDX-License-Identifier: Apache-2.0
//! What a sweep does where the node changes while it is under way.

use std::net::IpAddr;

use super::*;
use crate::netns::node_cache::{LOCAL, Listener, SERVICE, interface, rules};
use crate::netns::{run, within};
use crate::plan::Settings;

fn plan() -> Plan {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: vec![ip(LOCAL)],
        port: 53,
        services: vec![ip(SERVICE)],
        redirect_to: None,
        fallback: Vec::new(),
        tcp_idle: std::time::Duration::from_secs(10),
    })
    .unwrap()
}

fn addresses() -> String {
    run("ip -4 address show dev nodelocaldns")
}

#[test]
fn a_node_cache_that_comes_back_during_a_sweep_keeps_its_interface() {
    within(|| {
        // Its rules alone say that this address is its own.
        for address in [LOCAL, SERVICE, "169.254.25.10"] {
            rules("iptables-nft", address, true);
        }
        interface();
        run("ip address add 169.254.25.10/32 dev nodelocaldns");
        let before = addresses();
        let mut back = None;
        let swept = sweep_as(&plan(), Kind::Dummy, || {
            back = Some(Listener::start("udp", "169.254.25.10:53"));
        })
        .unwrap();
        assert_eq!(swept.removed.len(), 6, "{swept:?}");
        let users = swept.users.join(", ");
        assert!(users.contains("openssl (process "), "{swept:?}");
        assert_eq!(addresses(), before);

        drop(back);
        let swept = sweep_as(&plan(), Kind::Dummy, || {}).unwrap();
        assert_eq!(swept.users, Vec::<String>::new());
        assert!(!addresses().contains(SERVICE));
    });
}

#[test]
fn what_only_its_rules_told_to_be_node_caches_goes_after_them() {
    within(|| {
        rules("iptables-nft", "169.254.25.10", true);
        interface();
        run("ip address add 169.254.25.10/32 dev nodelocaldns");
        sweep(&plan()).unwrap();
        assert!(!addresses().contains("inet"), "{}", addresses());
    });
}

#[test]
fn rules_that_somebody_puts_back_without_end_keep_the_interface_and_are_told() {
    within(|| {
        rules("iptables-nft", SERVICE, true);
        interface();
        let before = addresses();
        let mut rounds = 0;
        let swept = sweep_as(&plan(), Kind::Dummy, || {
            rounds += 1;
            rules("iptables-nft", SERVICE, true);
        })
        .unwrap();
        assert_eq!(rounds, TRIES);
        let [left] = &swept.left[..] else {
            panic!("{swept:?}");
        };
        assert!(left.found.contains("puts them back"), "{left}");
        assert_eq!(addresses(), before);
    });
}

#[test]
fn an_interface_without_an_address_is_told_and_left() {
    within(|| {
        run("ip link add nodelocaldns type bridge");
        // Bridges stand for dummies, which this kernel may not have.
        let incumbent = look_as(&plan(), Kind::Bridge, &BTreeSet::new()).unwrap();
        assert!(!incumbent.is_absent() && !incumbent.is_in_use());
        let [told] = &incumbent.differences()[..] else {
            panic!("{incumbent:?}");
        };
        assert!(told.found.contains("it cannot be told"), "{told}");
        let swept = sweep_as(&plan(), Kind::Bridge, || {}).unwrap();
        assert_eq!(swept.removed, Vec::<String>::new());
        assert_eq!(swept.left, std::slice::from_ref(told));
        run("ip link show nodelocaldns");
        // With its address it is node-cache's, and nobody listens there.
        run(&format!("ip address add {SERVICE}/32 dev nodelocaldns"));
        let swept = sweep_as(&plan(), Kind::Bridge, || {}).unwrap();
        assert_eq!(swept.removed, ["interface nodelocaldns"]);
    });
}

#[test]
fn who_listens_at_an_address_that_nobody_knows_on_its_interface_is_a_user_of_it() {
    within(|| {
        interface();
        run("ip address add 169.254.25.10/32 dev nodelocaldns");
        let before = addresses();
        let listener = Listener::start("udp", "169.254.25.10:53");
        let swept = sweep(&plan()).unwrap();
        assert!(
            swept.removed.is_empty() && swept.users.len() == 1,
            "{swept:?}"
        );
        assert_eq!(addresses(), before);
        drop(listener);
    });
}
