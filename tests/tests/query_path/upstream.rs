// SPDX-License-Identifier: Apache-2.0
//! Connections to the upstreams, and which upstream is asked.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nodens::config::limits::UPSTREAM_IDLE;
use nodens_tests::agent::Agent;
use nodens_tests::coredns::CoreDns;
use nodens_tests::fault::{self, Asked, Fault, Reply, Step};
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;
use nodens_tests::tap::Tap;

use crate::support::{A, PATIENCE};

/// CoreDNS closes a connection after this long without a query.
const COREDNS_IDLE: Duration = Duration::from_secs(10);

#[test]
fn an_upstream_connection_has_one_query_in_flight_is_used_again_and_is_closed_by_the_agent() {
    // Fewer than what has some share a connection.
    const BURST: usize = 15;
    let coredns = CoreDns::builder().start().unwrap();
    let tap = Tap::open(coredns.addr()).unwrap();
    let agent = Agent::builder()
        .upstream(tap.addr())
        .set("limits.upstreamIdle", "2s")
        .start()
        .unwrap();
    let client = agent.client();
    let name = |kind: &str, n: usize| format!("{kind}-{n}.example.org");
    // Many at once: each has a connection of its own.
    thread::scope(|scope| {
        for n in 0..BURST {
            let client = &client;
            scope.spawn(move || client.query(&name("burst", n), A).unwrap());
        }
    });
    assert_eq!(tap.total(), BURST);
    let opened = tap.connections();
    assert!(opened <= BURST as u64, "{opened} connections");

    // One after the other: over those that are there, each in its turn, so that all the pods behind
    // the address have their share.
    let (before, began) = (tap.passed().len(), Instant::now());
    for n in 0..BURST {
        client.query(&name("line", n), A).unwrap();
    }
    if began.elapsed() < Duration::from_secs(2) {
        assert_eq!(tap.connections(), opened);
        let used = tap.passed().split_off(before);
        let count = used.len();
        let mut times = BTreeMap::new();
        for message in used {
            *times.entry(message.connection).or_insert(0) += 1;
        }
        // Queries and answers alike.
        let turns = count.div_ceil(times.len());
        assert!(times.values().all(|&times| times <= turns + 2), "{times:?}");
    }
    assert_eq!(tap.most_in_flight(), 1);

    // CoreDNS would wait ten seconds from the last query; the agent does not.
    let idle = Instant::now();
    wait_for("all connections to be closed", PATIENCE, || {
        Ok((tap.open_connections() == 0).then_some(()))
    })
    .unwrap();
    assert!(idle.elapsed() < COREDNS_IDLE, "{:?}", idle.elapsed());
    assert!(UPSTREAM_IDLE.default < COREDNS_IDLE);
    let open = agent.metric("nodens_upstream_connections_open", &[]);
    assert_eq!(open.unwrap(), 0.0);

    // And then again.
    client.query(&name("later", 0), A).unwrap();
    assert_eq!(tap.total(), 2 * BURST + 1);
}

#[test]
fn a_connection_that_the_upstream_has_closed_costs_no_answer() {
    let sample = Sample::start().unwrap();
    let tap = Tap::open(sample.addr()).unwrap();
    let agent = Agent::builder().upstream(tap.addr()).start().unwrap();
    let client = agent.client();
    let name = |n: usize| format!("n{n}.bench.cluster.local");
    for n in 0..20 {
        assert_eq!(client.query(&name(n), A).unwrap().addresses().len(), 1);
        // While it waits for the next query, by RST or by the server's going away.
        if n % 2 == 0 {
            tap.reset_connections();
        } else {
            sample.reset_connections();
        }
    }
}

#[test]
fn the_longest_zone_wins() {
    let root = Fault::start(fault::reply(Reply::Address)).unwrap();
    let cluster = Fault::start(fault::reply(Reply::Address)).unwrap();
    let stub = Fault::start(fault::reply(Reply::Address)).unwrap();
    let host = Fault::start(fault::reply(Reply::Address)).unwrap();
    let agent = Agent::builder()
        .upstream(root.addr())
        .zone("cluster.local", &[cluster.addr()])
        .zone("Corp.cluster.local.", &[stub.addr()])
        .zone("one.host.example.org", &[host.addr()])
        .start()
        .unwrap();
    let client = agent.client();
    for (name, upstream, zone) in [
        ("example.org", &root, "."),
        ("local", &root, "."),
        ("xcluster.local", &root, "."),
        ("cluster.local.example.org", &root, "."),
        ("host.example.org", &root, "."),
        ("cluster.local", &cluster, "cluster.local."),
        ("web.prod.svc.CLUSTER.local", &cluster, "cluster.local."),
        ("xcorp.cluster.local", &cluster, "cluster.local."),
        ("corp.cluster.local", &stub, "corp.cluster.local."),
        ("a.b.c.CORP.cluster.local", &stub, "corp.cluster.local."),
        ("one.host.example.org", &host, "one.host.example.org."),
        ("x.one.host.example.org", &host, "one.host.example.org."),
    ] {
        let labels = [("zone", zone)];
        let before = agent.metric("nodens_cache_misses_total", &labels).unwrap();
        client.query(name, A).unwrap();
        assert_eq!(upstream.count(name, A), 1, "{name}");
        let after = agent.metric("nodens_cache_misses_total", &labels).unwrap();
        assert_eq!(after, before + 1.0, "{name} belongs to {zone}");
    }
    let totals = [&root, &cluster, &stub, &host].map(Fault::total);
    assert_eq!(totals, [5, 3, 2, 2], "nobody else is asked");
    // The root itself.
    client.udp(&Query::new(".", 2_u16)).unwrap();
    assert_eq!(root.total(), 6);
}

#[test]
fn an_upstream_that_says_nothing_is_told_of_though_a_query_may_take_no_longer_than_one_try() {
    let fault = Fault::start(|_: &Asked| vec![Step::Wait(PATIENCE)]).unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("limits.queryTimeout", "500ms")
        .set("limits.attemptTimeout", "500ms")
        .start()
        .unwrap();
    let response = agent.client().query("void.example.org", A).unwrap();
    assert_eq!(response.rcode(), ResponseCode::ServFail);
    let labels = [("outcome", "timeout")];
    let count = agent.metric("nodens_upstream_exchanges_total", &labels);
    assert!(count.unwrap() >= 1.0);
}
