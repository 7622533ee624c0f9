// SPDX-License-Identifier: Apache-2.0
//! Nodes on which the agent cannot steer: it says which step, what the kernel answered and what to
//! do, ends with 69, and leaves the node as it found it.

use nodens_tests::node::{Builder, Family, From, Node, Server, Shape};

use crate::{PATIENCE, asked, node, wait_for_answer};

/// Starts it and gives what it said at its end, which must be a refusal of the kernel's.
#[track_caller]
fn is_refused(node: &Node, builder: Builder) -> String {
    let before = node.picture().unwrap();
    let mut agent = builder.launch(node).unwrap();
    let status = agent.wait(PATIENCE);
    let log = agent.log();
    assert_eq!(status.unwrap().code(), Some(69), "{log}");
    assert_eq!(node.picture().unwrap(), before, "{log}");
    log
}

#[track_caller]
fn says(log: &str, words: &[&str]) {
    for word in words {
        assert!(log.contains(word), "no {word:?} in {log}");
    }
}

#[test]
fn without_cap_net_admin_the_message_names_it() {
    let (_alone, node) = node(Shape::Nftables);
    let builder = node.agent(Family::BOTH).through(&[
        "setpriv",
        "--inh-caps=-net_admin",
        "--bounding-set=-net_admin",
        "--",
    ]);
    says(&is_refused(&node, builder), &["NET_ADMIN"]);
}

#[test]
fn a_table_of_another_program_is_left_alone_and_named() {
    for table in ["nodens", "nodens-fallback"] {
        let (_alone, node) = node(Shape::Nftables);
        let rules = format!(
            "table inet {table} {{\n chain mine {{\n  type filter hook input priority 5; \
             counter\n }}\n}}\n"
        );
        node.host().feed("nft -f -", &rules).unwrap();
        let log = is_refused(&node, node.agent(Family::BOTH));
        says(&log, &[table]);
    }
}

#[test]
fn a_link_name_that_is_taken_is_left_alone_and_named() {
    let (_alone, node) = node(Shape::Nftables);
    node.host()
        .ip("link add nodens0 type veth peer name other0\n")
        .unwrap();
    says(&is_refused(&node, node.agent(Family::BOTH)), &["nodens0"]);
}

#[test]
fn a_second_agent_names_the_process_of_the_first_which_goes_on() {
    let (_alone, node) = node(Shape::Nftables);
    let mut first = node.agent(Family::BOTH).start(&node).unwrap();
    let log = is_refused(&node, node.agent(Family::BOTH));
    says(&log, &[&first.pid().to_string()]);
    assert!(first.status().unwrap().is_none());
    for from in From::ALL {
        for address in asked() {
            wait_for_answer(&node, from, address, Server::Agent);
        }
    }
}

#[test]
fn ipv6_that_is_disabled_is_said() {
    let (_alone, node) = node(Shape::Nftables);
    for part in ["all", "default", "lo"] {
        let parameter = format!("ipv6/conf/{part}/disable_ipv6");
        node.host().sysctl(&parameter, "1").unwrap();
    }
    says(&is_refused(&node, node.agent(Family::BOTH)), &["IPv6"]);
}

#[test]
fn plans_that_cannot_be_are_refused_before_anything_is_touched() {
    let (_alone, node) = node(Shape::Nftables);
    let before = node.picture().unwrap();
    for (path, value, words) in [
        // A Service address that is a listen address.
        (
            "cluster.dnsService",
            "[169.254.20.10]",
            ["169.254.20.10", "dnsService"],
        ),
        // No address of its own for the Service.
        (
            "listen.addresses",
            "[169.254.254.255]",
            ["10.96.0.10", "redirect"],
        ),
    ] {
        let builder = node.agent(&[Family::V4]).set(path, value);
        let mut agent = builder.launch(&node).unwrap();
        let status = agent.wait(PATIENCE);
        let log = agent.log();
        let code = status.unwrap().code().unwrap();
        assert!([64, 69].contains(&code), "{code}: {log}");
        says(&log, &words);
        assert_eq!(node.picture().unwrap(), before);
    }
}
