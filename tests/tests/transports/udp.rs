// SPDX-License-Identifier: Apache-2.0
//! Upstreams over UDP, and those that speak nothing else.

use std::time::{Duration, Instant};

use nodens_tests::agent::Agent;
use nodens_tests::coredns::CoreDns;
use nodens_tests::fault::{self, Fault, Reply, Step};

use crate::{A, PATIENCE, said, wait_for_metric, with_zones};

fn over_udp(upstream: &Fault) -> Agent {
    let zones = format!(
        "[{{ name: ., upstreams: ['{}'], transport: udp }}]",
        upstream.addr()
    );
    with_zones(&zones).start().unwrap()
}

#[test]
fn questions_go_over_udp_and_those_with_truncated_answers_over_tcp_again() {
    let coredns = CoreDns::builder().plugins("log").start().unwrap();
    let zones = format!(
        "[{{ name: ., upstreams: ['{}'], transport: udp }}]",
        coredns.addr()
    );
    let agent = with_zones(&zones).start().unwrap();
    let client = agent.client();
    let small = client.query("web.prod.svc.cluster.local", A).unwrap();
    assert_eq!(small.addresses().len(), 1);
    let opened = |agent: &Agent| {
        let name = "nodens_upstream_connections_opened_total";
        agent.metric(name, &[]).unwrap()
    };
    assert_eq!(opened(&agent), 0.0);

    let upstream = Fault::start(|asked| {
        let reply = match asked.connection {
            None => Reply::Truncated,
            Some(_) => Reply::Many(100),
        };
        vec![Step::Send(reply)]
    })
    .unwrap();
    let agent = over_udp(&upstream);
    let whole = agent.client().resolve("large.example.org", A).unwrap();
    assert_eq!(whole.addresses().len(), 100);
    let asked = upstream.asked();
    let over: Vec<_> = asked
        .iter()
        .map(|asked| asked.connection.is_some())
        .collect();
    assert_eq!(over, [false, true]);
    assert_eq!(opened(&agent), 1.0);
    let truncated = [("outcome", "truncated")];
    let counted = agent.metric("nodens_upstream_exchanges_total", &truncated);
    assert_eq!(counted.unwrap(), 1.0);
}

#[test]
fn a_datagram_that_is_lost_costs_no_answer_and_each_has_a_number_of_its_own() {
    let upstream =
        Fault::start(fault::sequence([vec![], vec![Step::Send(Reply::Address)]])).unwrap();
    let agent = over_udp(&upstream);
    let began = Instant::now();
    let client = agent.client().patience(PATIENCE);
    assert_eq!(
        client
            .query("lost.example.org", A)
            .unwrap()
            .addresses()
            .len(),
        1
    );
    // Half of limits.attemptTimeout, 1 s, before the second goes.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    for number in 0..30 {
        let name = format!("n{number}.example.org");
        client.query(&name, A).unwrap();
    }
    let mut ids: Vec<_> = upstream
        .asked()
        .iter()
        .map(|asked| [asked.bytes[0], asked.bytes[1]])
        .collect();
    ids.sort_unstable();
    ids.dedup();
    // 32 of 65,536: two alike happen once in 132 runs, three or more never.
    assert!(ids.len() >= 30, "{ids:?}");
}

#[test]
fn answers_that_somebody_else_made_up_are_dropped_and_many_of_them_lead_to_tcp() {
    let upstream = Fault::start(|asked| match asked.connection {
        Some(_) => vec![Step::Send(Reply::Address)],
        None if asked
            .outline
            .as_ref()
            .is_some_and(|o| o.asks("few.example.org", A)) =>
        {
            vec![
                Step::Send(Reply::WrongId),
                Step::Send(Reply::WrongQuestion),
                Step::Send(Reply::Address),
            ]
        }
        None => vec![Step::Send(Reply::WrongId); 20],
    })
    .unwrap();
    let agent = over_udp(&upstream);
    let client = agent.client();
    for (name, is_tcp) in [("few.example.org", false), ("many.example.org", true)] {
        assert_eq!(
            client.query(name, A).unwrap().addresses().len(),
            1,
            "{name}"
        );
        let last = upstream.asked().pop().unwrap();
        assert_eq!(last.connection.is_some(), is_tcp, "{name}");
    }
    let outcome = |outcome: &str| {
        let labels = [("outcome", outcome)];
        let counted = agent.metric("nodens_upstream_exchanges_total", &labels);
        counted.unwrap()
    };
    assert_eq!((outcome("wrong_id"), outcome("wrong_question")), (9.0, 1.0));
}

#[test]
fn a_server_that_answers_over_udp_and_takes_no_tcp_is_told_to_the_operator_and_so_is_its_return() {
    let mut upstream = Fault::start(fault::reply(Reply::Address)).unwrap();
    upstream.refuse_tcp().unwrap();
    let agent = Agent::builder().upstream(upstream.addr()).start().unwrap();
    let client = agent.client();
    for number in 0..3 {
        let name = format!("n{number}.example.org");
        assert!(client.query(&name, A).unwrap().addresses().is_empty());
    }
    let address = upstream.addr().to_string();
    let labels = [("upstream", address.as_str())];
    wait_for_metric(&agent, "nodens_upstream_without_tcp", &labels, 1);
    let words = [
        "ERROR",
        &address,
        "takes no TCP connection",
        "`transport: udp`",
    ];
    assert_eq!(said(&agent, &words), 1, "{}", agent.log());

    upstream.resume().unwrap();
    for number in 3..6 {
        client.query(&format!("n{number}.example.org"), A).unwrap();
    }
    wait_for_metric(&agent, "nodens_upstream_without_tcp", &labels, 0);
    assert_eq!(said(&agent, &[&address, "takes TCP connections now"]), 1);
}
