// SPDX-License-Identifier: Apache-2.0
//! `nodens netsetup up|down|check|print` and `nodens retire` as an operator uses them.

use std::process::Output;

use nodens_tests::node::{Family, From, Node, Server, Shape};

use crate::{ANSWER, PATIENCE, asked, node, said, wait_for_answer};

/// Runs the program with an agent's configuration, without an agent.
fn nodens(node: &Node, words: &[&str]) -> Output {
    node.agent(Family::BOTH).run(node, words).unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
}

#[test]
fn down_leaves_the_node_as_it_was_before_up() {
    for shape in Shape::ALL {
        let (_alone, node) = node(shape);
        let before = node.picture().unwrap();
        // Each of them twice: nothing changes the second time.
        for _ in 0..2 {
            succeeds(&nodens(&node, &["netsetup", "up"]));
        }
        let up = node.picture().unwrap();
        assert_ne!(up, before);
        succeeds(&nodens(&node, &["netsetup", "up"]));
        assert_eq!(node.picture().unwrap(), up);
        for _ in 0..2 {
            succeeds(&nodens(&node, &["netsetup", "down"]));
            assert_eq!(node.picture().unwrap(), before);
        }
    }
}

#[test]
fn up_alone_leads_the_link_local_address_to_coredns() {
    let (_alone, node) = node(Shape::Iptables);
    succeeds(&nodens(&node, &["netsetup", "up"]));
    for from in From::ALL {
        for address in asked() {
            wait_for_answer(&node, from, address, Server::CoreDns);
        }
    }
}

#[test]
fn down_after_a_killed_agent_leaves_the_node_as_it_was() {
    let (_alone, node) = node(Shape::Nftables);
    let before = node.picture().unwrap();
    let mut agent = node.agent(Family::BOTH).start(&node).unwrap();
    agent.signal(rustix::process::Signal::KILL).unwrap();
    agent.wait(PATIENCE).unwrap();
    succeeds(&agent.command(&node, &["netsetup", "down"]).unwrap());
    assert_eq!(node.picture().unwrap(), before);
}

/// As the hooks of the chart call it, which have no configuration.
#[test]
fn down_needs_no_more_than_the_addresses() {
    let (_alone, node) = node(Shape::Nftables);
    let before = node.picture().unwrap();
    succeeds(&nodens(&node, &["netsetup", "up"]));
    assert_ne!(node.picture().unwrap(), before);
    let ips = |index: usize| {
        let ips = Family::BOTH.iter().map(|family| family.asked()[index].ip());
        ips.map(|ip| ip.to_string()).collect::<Vec<_>>().join(",")
    };
    let mut down = nodens_tests::agent::command().unwrap();
    down.args(["netsetup", "down"])
        .args(["--listen-addresses", &ips(0)])
        .args(["--cluster-dns-service", &ips(1)]);
    let output = node.host().within(|| down.output()).unwrap();
    succeeds(&output);
    assert_eq!(node.picture().unwrap(), before);
}

#[test]
fn check_is_content_with_what_an_agent_has_set_up_and_names_what_is_gone() {
    let (_alone, node) = node(Shape::Nftables);
    let agent = node.agent(Family::BOTH).start(&node).unwrap();
    succeeds(&agent.command(&node, &["netsetup", "check"]).unwrap());
    drop(agent);
    succeeds(&nodens(&node, &["netsetup", "down"]));
    let output = nodens(&node, &["netsetup", "check"]);
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    let told = said(&output);
    for wanted in ["169.254.20.10", "fd53::10", "nodens-fallback"] {
        assert!(told.contains(wanted), "{wanted} in {told}");
    }
}

#[test]
fn check_names_the_firewall_that_would_drop_untracked_queries_and_the_rule_to_add() {
    let (_alone, node) = node(Shape::Nftables);
    let agent = node.agent(Family::BOTH).start(&node).unwrap();
    let firewall = "table inet site {\n chain input {\n  type filter hook input priority 0; \
                    policy drop;\n  ct state established,related accept\n  iif lo accept\n \
                    meta l4proto { icmp, ipv6-icmp } accept\n }\n}\n";
    node.host().feed("nft -f -", firewall).unwrap();
    for address in asked() {
        node.ask(From::Veth, address, false, ANSWER).unwrap_err();
    }
    let output = agent.command(&node, &["netsetup", "check"]).unwrap();
    let told = said(&output);
    assert_ne!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("site"), "{told}");
    // The remedy works as it is written.
    let remedies: Vec<&str> = told
        .split('`')
        .filter(|words| words.starts_with("nft "))
        .collect();
    assert!(!remedies.is_empty(), "no rule to add in {told}");
    for remedy in remedies {
        let command = format!("{remedy}\n");
        node.host().feed("sh -e", &command).unwrap();
    }
    for address in asked() {
        wait_for_answer(&node, From::Veth, address, Server::Agent);
    }
    succeeds(&agent.command(&node, &["netsetup", "check"]).unwrap());
}

#[test]
fn print_gives_rules_that_nft_takes_and_touches_nothing() {
    let (_alone, node) = node(Shape::Absent);
    let before = node.picture().unwrap();
    let text = nodens(&node, &["netsetup", "print"]);
    succeeds(&text);
    assert_eq!(node.picture().unwrap(), before);
    let rules = String::from_utf8_lossy(&text.stdout).into_owned();
    node.host().feed("nft --check -f -", &rules).unwrap();
    let json = nodens(&node, &["netsetup", "print", "--json"]);
    succeeds(&json);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(value["nftables"].is_array(), "{value}");
}

#[test]
fn every_command_says_the_same_as_json() {
    let (_alone, node) = node(Shape::Nftables);
    for words in [
        ["netsetup", "up", "--json"],
        ["netsetup", "check", "--json"],
        ["netsetup", "down", "--json"],
    ] {
        let output = nodens(&node, &words);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", said(&output)));
        assert!(value.is_object() || value.is_array(), "{value}");
    }
}

#[test]
fn after_retire_the_agent_steers_and_heals_no_more_and_down_removes_all() {
    let (_alone, node) = node(Shape::Iptables);
    let before = node.picture().unwrap();
    let mut agent = node.agent(Family::BOTH).start(&node).unwrap();
    succeeds(&agent.command(&node, &["retire"]).unwrap());
    for address in asked() {
        wait_for_answer(&node, From::Veth, address, Server::CoreDns);
    }
    assert!(agent.status().unwrap().is_none(), "{}", agent.log());
    node.host()
        .run("nft delete table inet nodens-fallback")
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let tables = node.host().run("nft list tables").unwrap();
    assert!(!tables.contains("nodens-fallback"), "{tables}");
    succeeds(&agent.command(&node, &["netsetup", "down"]).unwrap());
    agent.signal(rustix::process::Signal::TERM).unwrap();
    let status = agent.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert_eq!(node.picture().unwrap(), before);
}

#[test]
fn addresses_and_rules_that_others_remove_are_back_within_seconds() {
    let (_alone, node) = node(Shape::Nftables);
    let _agent = node.agent(Family::BOTH).start(&node).unwrap();
    let addresses = || node.host().run("ip -oneline address show").unwrap();
    let before = addresses();
    let line = before
        .lines()
        .find(|line| line.contains("169.254.20.10"))
        .unwrap();
    let interface = line.split_whitespace().nth(1).unwrap();
    for address in ["169.254.20.10/32", "fd53::10/128"] {
        let remove = format!("ip address delete {address} dev {interface}");
        node.host().run(&remove).unwrap();
    }
    for from in From::ALL {
        for address in asked() {
            wait_for_answer(&node, from, address, Server::Agent);
        }
    }
}
