// SPDX-License-Identifier: Apache-2.0
//! Every shape of the cluster's rules, every place that asks, both families, UDP and TCP.

use nodens_tests::node::{Family, From, Node, Server, Shape};
use rustix::process::Signal;

use crate::{ANSWER, PATIENCE, asked, node, wait_for_answer};

/// Entries of the connection tracking that a pod's DNS packets have made.
fn pod_entries(node: &Node) -> Vec<String> {
    ["ipv4", "ipv6"]
        .iter()
        .flat_map(|family| {
            let list = node
                .host()
                .run(&format!("conntrack -L -f {family}"))
                .unwrap();
            list.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| {
            let mut sources = line.split(' ').filter(|word| word.starts_with("src="));
            let first = sources.next().unwrap_or_default();
            line.contains("dport=53 ")
                && (first.starts_with("src=10.244.") || first.starts_with("src=fd00:10:244:"))
        })
        .collect()
}

fn everybody_is_answered_by(node: &Node, server: Server) {
    for from in From::ALL {
        for address in asked() {
            for over_tcp in [false, true] {
                let by = node.ask(from, address, over_tcp, PATIENCE).unwrap();
                assert_eq!(by, server, "{address} from {}", from.describe());
            }
        }
    }
}

fn the_agent_answers_dies_and_comes_back(shape: Shape) {
    let (_alone, node) = node(shape);
    let mut agent = node.agent(Family::BOTH).start(&node).unwrap();
    node.host().run("conntrack -F").unwrap();
    everybody_is_answered_by(&node, Server::Agent);
    assert_eq!(pod_entries(&node), [""; 0]);

    agent.signal(Signal::KILL).unwrap();
    agent.wait(PATIENCE).unwrap();
    if shape == Shape::Absent {
        // There is nobody to fall through to; but no rule of ours is in the way of one.
        for address in asked() {
            node.ask(From::Veth, address, false, ANSWER).unwrap_err();
        }
        let tables = node.host().run("nft list tables").unwrap();
        assert!(!tables.contains("nodens"), "{tables}");
    } else {
        everybody_is_answered_by(&node, Server::CoreDns);
        // That the entries are seen where there are some.
        assert!(!pod_entries(&node).is_empty());
    }

    agent.start_again(&node).unwrap();
    agent.wait_until_it_answers(&node).unwrap();
    everybody_is_answered_by(&node, Server::Agent);
}

#[test]
fn beside_kube_proxy_in_iptables_mode_everybody_is_answered_here_and_by_coredns_when_it_dies() {
    the_agent_answers_dies_and_comes_back(Shape::Iptables);
}

#[test]
fn beside_kube_proxy_in_nftables_mode_everybody_is_answered_here_and_by_coredns_when_it_dies() {
    the_agent_answers_dies_and_comes_back(Shape::Nftables);
}

#[test]
fn without_kube_proxy_everybody_is_answered_here_and_no_rule_outlives_the_agent() {
    the_agent_answers_dies_and_comes_back(Shape::Absent);
}

#[test]
fn a_family_that_is_not_configured_is_left_to_coredns() {
    for (ours, others) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let (_alone, node) = node(Shape::Nftables);
        let _agent = node.agent(&[ours]).start(&node).unwrap();
        for from in From::ALL {
            for address in ours.asked() {
                wait_for_answer(&node, from, address, Server::Agent);
            }
            let service = Family::dns(others.service());
            wait_for_answer(&node, from, service, Server::CoreDns);
        }
    }
}

#[test]
fn a_bridge_that_does_not_call_the_rules_of_ip_changes_nothing() {
    let (_alone, node) = node(Shape::Iptables);
    for name in ["iptables", "ip6tables"] {
        let parameter = format!("bridge/bridge-nf-call-{name}");
        node.host().sysctl(&parameter, "0").unwrap();
    }
    let _agent = node.agent(Family::BOTH).start(&node).unwrap();
    everybody_is_answered_by(&node, Server::Agent);
}
