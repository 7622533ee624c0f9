// SPDX-License-Identifier: Apache-2.0
//! The drills of `make drills` in their short form, where that has them not: with kube-proxy in
//! nftables mode, IPv4 and IPv6 at once, from a pod behind a bridge.

use nodens_tests::drill::rows;
use nodens_tests::drill::stage::Stage;
use nodens_tests::drill::table::to_text;
use nodens_tests::node::{Family, From, Shape};

use crate::node;

fn passes(name: &str, from: From) {
    let (_alone, node) = node(Shape::Nftables);
    let row = rows::find(name).unwrap().run(&Stage {
        node: &node,
        families: Family::BOTH,
        from,
        per_second: 2_000,
        quick: true,
    });
    let is_passed = row.is_passed();
    let table = to_text(&[row]);
    assert!(is_passed, "{table}");
}

#[test]
fn a_killed_agent_costs_a_few_queries() {
    passes("kill", From::Bridge);
}

#[test]
fn a_killed_agent_costs_programs_in_the_host_network_a_few_queries() {
    passes("kill", From::Host);
}

#[test]
fn the_return_of_the_agent_costs_nothing() {
    passes("return", From::Bridge);
}

#[test]
fn a_stopped_agent_is_let_go_and_taken_back() {
    passes("stop", From::Bridge);
}

#[test]
fn a_replaced_agent_loses_no_query_and_resets_no_connection() {
    passes("restart", From::Bridge);
}

#[test]
fn when_accept_hangs_tcp_is_let_go_alone() {
    passes("accept", From::Bridge);
}

#[test]
fn queries_of_pods_leave_nothing_in_conntrack() {
    passes("conntrack", From::Bridge);
}

#[test]
fn a_flush_of_all_rules_is_healed() {
    passes("flush", From::Bridge);
}

#[test]
fn a_flood_of_misses_trips_nothing() {
    passes("misses", From::Bridge);
}
