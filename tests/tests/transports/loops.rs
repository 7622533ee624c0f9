// SPDX-License-Identifier: Apache-2.0
//! Queries that would go round in a circle: found by asking, by the real CoreDNS that forwards back and
//! by a second agent.

use std::net::SocketAddr;

use nodens_tests::agent::Agent;
use nodens_tests::coredns::CoreDns;
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::{A, NO_AUTHORITY, PATIENCE, said, wait_for_metric};

const DAY: &str = "day.example.org";

/// An agent that looks for circles once a second.
fn looking(upstream: SocketAddr) -> Agent {
    let agent = Agent::builder().upstream(upstream);
    agent.set("limits.loopProbes", "1s").start().unwrap()
}

/// Lets an agent ask another upstream.
fn move_to(agent: &mut Agent, from: SocketAddr, to: SocketAddr) {
    let config = agent.config().unwrap();
    let config = config.replace(&from.to_string(), &to.to_string());
    agent.write_config(&config).unwrap();
    agent.reload().unwrap();
}

fn loops(agent: &Agent, upstream: SocketAddr, number: u32) {
    let upstream = upstream.to_string();
    let labels = [("upstream", upstream.as_str())];
    wait_for_metric(agent, "nodens_upstream_loops", &labels, number);
}

#[track_caller]
fn assert_answers(agent: &Agent) {
    let mut number = 0;
    wait_for("an answer", PATIENCE, || {
        number += 1;
        let name = format!("n{number}.bench.cluster.local");
        let answer = agent.client().query(&name, A)?;
        Ok((answer.addresses().len() == 1).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_coredns_that_forwards_back_is_not_asked_until_it_does_no_more_and_its_place_is_told() {
    // As it was asked: over TCP.
    forwards_back("");
}

#[test]
fn one_that_forwards_back_over_udp_is_found_too() {
    forwards_back(" {\nprefer_udp\n}");
}

fn forwards_back(options: &str) {
    let sample = Sample::start().unwrap();
    let mut agent = looking(sample.addr());
    assert_answers(&agent);
    assert!(sample.total() > 0);
    let forwards = format!("forward . {}{options}", agent.addr());
    let coredns = CoreDns::builder().without_zones().plugins(&forwards);
    let coredns = coredns.plugins("log").start().unwrap();
    move_to(&mut agent, sample.addr(), coredns.addr());
    for zone in [".", "cluster.local."] {
        agent
            .wait_for_log(&format!("\"zone\":\"{zone}\""), PATIENCE)
            .unwrap();
    }
    // The root, and the cluster's zone that follows it.
    loops(&agent, coredns.addr(), 2);
    let place = format!("{}:", agent.config_path().display());
    let address = coredns.addr().to_string();
    let words = [
        "ERROR",
        "queries to an upstream come back to this agent",
        &address,
        &place,
        "upstreams[0]",
        "correct what the server forwards to",
    ];
    assert_eq!(said(&agent, &words), 2, "{}", agent.log());
    // The process lives, and says at once what is the matter.
    let query = Query::new("new.example.org", A).edns(1232);
    let answer = agent.client().udp(&query).unwrap();
    assert_eq!(u16::from(answer.rcode()), 2);
    assert_eq!(answer.extended_error(), Some(NO_AUTHORITY));
    assert!(!coredns.log().contains("new.example.org"));
    assert_eq!(agent.health("/readyz").unwrap().status, 200);

    // Who does not want to be asked is not held to what was found.
    let config = agent.config().unwrap();
    let blind = config.replace("loopProbes: 1s", "loopProbes: 0s");
    agent.write_config(&blind).unwrap();
    agent.reload().unwrap();
    loops(&agent, coredns.addr(), 0);
    agent.write_config(&config).unwrap();
    agent.reload().unwrap();
    loops(&agent, coredns.addr(), 2);

    move_to(&mut agent, coredns.addr(), sample.addr());
    assert_answers(&agent);
    loops(&agent, coredns.addr(), 0);
    assert_eq!(agent.client().query(DAY, A).unwrap().addresses().len(), 1);
}

#[test]
fn a_circle_through_another_agent_is_found_and_its_end_too_without_a_word_from_anybody() {
    let sample = Sample::start().unwrap();
    let mut far = looking(sample.addr());
    let near = looking(far.addr());
    assert_answers(&near);
    loops(&near, far.addr(), 0);

    move_to(&mut far, sample.addr(), near.addr());
    // Whoever asks first finds it; then the other's questions do not go round any more.
    wait_for("the circle to be found", PATIENCE, || {
        let found = |agent: &Agent| agent.metric("nodens_upstream_loops", &[]);
        Ok((found(&near)? + found(&far)? >= 2.0).then_some(()))
    })
    .unwrap();
    let words = ["come back to this agent", "ERROR"];
    assert!(said(&near, &words) + said(&far, &words) > 0);

    move_to(&mut far, near.addr(), sample.addr());
    assert_answers(&near);
    loops(&near, far.addr(), 0);
}
