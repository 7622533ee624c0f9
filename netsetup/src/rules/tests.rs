// SPDX-License-Identifier: Apache-2.0
//! Tests of the model.

use std::collections::HashSet;
use std::net::IpAddr;

use super::compare::Meaning;
use super::*;
use crate::plan::{Plan, Settings};
use crate::tables::Shape;

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace()
        .map(|one| one.parse().unwrap())
        .collect()
}

fn plan() -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips("169.254.20.10 fd00:20::a"),
        port: 5353,
        services: ips("10.96.0.10 fd10::a"),
        redirect_to: None,
        fallback: ips("10.96.0.51 fd10::51"),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}

/// With all that there can be in them.
fn tables() -> [(Table, Shape); 2] {
    let plan = plan().standing_in(|_| true);
    [
        (active::table(&plan), crate::active::SHAPE),
        (fallback::table(&plan).unwrap(), crate::fallback::SHAPE),
    ]
}

#[test]
fn every_comment_fits_and_every_set_is_made() {
    for (table, _) in tables() {
        let sets: HashSet<_> = table.sets.iter().map(|set| set.name).collect();
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            // nft 1.0.6 shows 128 octets with the one that ends it.
            assert!((1..128).contains(&rule.why.len()), "{}", rule.why);
            for statement in &rule.statements {
                if let Statement::Lookup(_, set, _)
                | Statement::Update(_, set)
                | Statement::Forget(_, set) = statement
                {
                    assert!(sets.contains(set), "{set}");
                }
            }
        }
    }
}

#[test]
fn a_table_is_known_again_by_all_that_is_made() {
    for (table, shape) in tables() {
        assert_eq!(table.name, shape.table);
        let chains: Vec<_> = table
            .chains
            .iter()
            .map(|chain| (chain.name, chain.base))
            .collect();
        assert_eq!(chains, shape.chains);
        let sets: Vec<_> = table.sets.iter().map(|set| set.name).collect();
        assert_eq!(sets, shape.sets);
    }
}

#[test]
fn no_rule_changes_a_port_and_every_one_names_that_of_the_plan() {
    for (table, _) in tables() {
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            for statement in &rule.statements {
                if let Statement::Port(_, _, port) | Statement::AnyPort(_, _, port) = statement {
                    assert_eq!(*port, 5353);
                }
            }
            let rewrites = rule.statements.iter();
            let rewrites = rewrites
                .filter(|one| matches!(one, Statement::Rewrite(..)))
                .count();
            // Behind it the packet sees no other rule of the chain.
            let end = rule.statements.last_chunk();
            let is_last = matches!(end, Some([Statement::Rewrite(..), Statement::Accept]));
            assert!(
                rewrites == 0 || rewrites == 1 && is_last,
                "{}",
                text::rule(rule)
            );
        }
    }
}

#[test]
fn any_two_rules_of_a_chain_mean_something_else() {
    for (table, _) in tables() {
        for chain in &table.chains {
            let meanings: Vec<_> = chain
                .rules
                .iter()
                .map(|rule| Meaning::read(&netlink::expression_bytes(rule)))
                .collect();
            for (place, meaning) in meanings.iter().enumerate() {
                assert!(!meanings[..place].contains(meaning), "{}", chain.name);
            }
        }
    }
}

#[test]
fn the_rules_are_those_of_the_design_in_their_order() {
    let plan = Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips("169.254.20.10"),
        port: 53,
        services: ips("10.96.0.10"),
        redirect_to: None,
        fallback: ips("10.96.0.51"),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap();
    let table = active::table(&plan);
    let has = |name: &str| -> Vec<String> {
        let chain = table.chains.iter().find(|chain| chain.name == name);
        chain.unwrap().rules.iter().map(text::rule).collect()
    };
    let (to_queries, to_answers) = ("th dport 53 jump queries", "th sport 53 jump answers");
    assert_eq!(has("prerouting"), [to_queries]);
    assert_eq!(has("output"), [to_queries, to_answers]);

    let local = "169.254.20.10";
    let service = "10.96.0.10";
    let redirect = "169.254.20.11";
    let rewrite = |address| match address {
        "169.254.20.10" => String::new(),
        _ => format!(" ip daddr set {redirect}"),
    };
    let mut wanted = Vec::new();
    for address in [local, redirect] {
        wanted.push(format!(
            "ip saddr 169.254.20.12 ip daddr {address} notrack accept"
        ));
    }
    for address in [local, service] {
        wanted.push(format!(
            "ip daddr {address} udp dport 53 ip daddr . meta l4proto . udp dport @live notrack{} accept",
            rewrite(address)
        ));
    }
    for address in [local, service] {
        let tcp = format!("ip daddr {address} tcp dport 53");
        let key = "ip daddr . meta l4proto . tcp dport";
        let flow = "ip saddr . tcp sport . ip daddr";
        let syn = "tcp flags & (syn | ack) == syn";
        wanted.push(format!(
            "{tcp} {syn} {key} != @live delete @began {{ {flow} }}"
        ));
        wanted.push(format!(
            "{tcp} {syn} {key} @live update @began {{ {flow} }}"
        ));
        wanted.push(format!(
            "{tcp} {flow} @began {key} @serve update @began {{ {flow} }} notrack{} accept",
            rewrite(address)
        ));
    }
    assert_eq!(has("queries"), wanted);

    let flow = "ip daddr . tcp dport . ip saddr";
    assert_eq!(
        has("answers"),
        [
            format!("ip saddr {local} ip daddr 169.254.20.12 notrack accept"),
            format!("ip saddr {redirect} ip daddr 169.254.20.12 notrack accept"),
            format!("ip saddr {local} udp sport 53 notrack accept"),
            format!("ip saddr {local} tcp sport 53 {flow} @began notrack accept"),
            format!("ip saddr {redirect} udp sport 53 notrack ip saddr set {service} accept"),
            format!("ip saddr {redirect} tcp sport 53 notrack ip saddr set {service} accept"),
        ]
    );
}
