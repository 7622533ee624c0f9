// SPDX-License-Identifier: Apache-2.0
//! Identical misses cost one upstream query, whoever asks and however.

use std::time::Duration;

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Client, Response};
use nodens_tests::fault::{ADDRESS, Fault, Gate, Reply, Step};
use nodens_tests::frames;
use nodens_tests::query::{CD, Outline, Query};
use nodens_tests::tap::Tap;

use crate::support::{A, PATIENCE, assert_echo, wait_for_metric, with_case};

const NAME: &str = "web.prod.svc.cluster.local";

/// An upstream that answers 300 ms after the gate was opened.
fn slow(gate: &Gate) -> Fault {
    let gate = gate.clone();
    let delay = Duration::from_millis(300);
    Fault::start(move |_| {
        gate.wait();
        vec![Step::Wait(delay), Step::Send(Reply::Address)]
    })
    .unwrap()
}

/// No deadline comes before the gate opens, on however busy a machine.
fn patient() -> Builder {
    Agent::builder()
        .set("limits.queryTimeout", "30s")
        .set("limits.attemptTimeout", "10s")
}

/// A client's own way to ask the same: everything differs that may.
fn variant(number: usize) -> Query {
    let query = Query::new(&with_case(NAME, number * 5), A)
        .id(u16::try_from(number * 127 + 7).unwrap())
        .rd(number.is_multiple_of(2))
        .ad(number.is_multiple_of(5));
    match number % 3 {
        0 => query,
        1 => query.edns(512 + u16::try_from(number).unwrap()),
        _ => query.option(10, b"a cookie"),
    }
}

#[track_caller]
fn assert_own(query: &Query, bytes: Vec<u8>) {
    let response = Response::judge(&query.to_bytes(), bytes, Duration::ZERO).unwrap();
    assert_echo(query, &response);
    assert_eq!(response.addresses(), [ADDRESS]);
}

/// Sends each query from a socket of its own, or several over a connection of their own in one
/// write, and gives what takes the answers in.
fn send_all(client: &Client, over_udp: &[Query], over_tcp: &[Query]) -> impl FnOnce() {
    let sockets: Vec<_> = over_udp
        .iter()
        .map(|query| {
            let socket = client.udp_socket().unwrap();
            socket.send(&query.to_bytes()).unwrap();
            (query.clone(), socket)
        })
        .collect();
    let connections: Vec<_> = over_tcp
        .chunks(25)
        .map(|queries| {
            let mut connection = client.connect().unwrap();
            let frames = queries.iter().map(|q| frames::frame(&q.to_bytes()));
            let burst = frames.collect::<Vec<_>>().concat();
            connection.send_bytes(&burst).unwrap();
            (queries.to_vec(), connection)
        })
        .collect();
    move || {
        for (query, socket) in sockets {
            let mut buffer = [0; 1500];
            let length = socket.recv(&mut buffer).unwrap();
            assert_own(&query, buffer[..length].to_vec());
        }
        for (mut queries, mut connection) in connections {
            while !queries.is_empty() {
                let bytes = connection.receive().unwrap().unwrap();
                let id = Outline::read(&bytes).unwrap().id;
                let asked = |query: &Query| Outline::read(&query.to_bytes()).unwrap().id == id;
                let at = queries.iter().position(asked);
                assert_own(&queries.remove(at.unwrap()), bytes);
            }
        }
    }
}

#[test]
fn five_hundred_identical_concurrent_misses_cost_one_upstream_query() {
    let gate = Gate::new();
    let fault = slow(&gate);
    let tap = Tap::open(fault.addr()).unwrap();
    let agent = patient().upstream(tap.addr()).start().unwrap();
    let client = agent.client().patience(PATIENCE);

    let queries: Vec<_> = (0..500).map(variant).collect();
    let take_in = send_all(&client, &queries[..250], &queries[250..]);
    // All of them are under way at one time before the upstream says a word.
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 500);
    gate.open();
    take_in();

    assert_eq!((tap.count(NAME, A), tap.total()), (1, 1));
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 0);
    let coalesced = agent.metric("nodens_queries_coalesced_total", &[]);
    assert_eq!(coalesced.unwrap(), 499.0);
    // Whoever comes after them finds it in the cache.
    client.udp(&variant(501)).unwrap();
    client.tcp(&variant(502)).unwrap();
    assert_eq!(tap.total(), 1);
}

#[test]
fn misses_that_differ_in_do_or_cd_share_nothing_and_the_others_everything() {
    let gate = Gate::new();
    let fault = slow(&gate);
    let tap = Tap::open(fault.addr()).unwrap();
    let agent = patient().upstream(tap.addr()).start().unwrap();
    let client = agent.client().patience(PATIENCE);

    let queries: Vec<_> = (0..80)
        .map(|number| {
            let query = variant(number).cd(number % 4 < 2);
            if number % 2 == 0 {
                query.dnssec_ok()
            } else {
                query
            }
        })
        .collect();
    let take_in = send_all(&client, &queries[..40], &queries[40..]);
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 80);
    gate.open();
    take_in();

    let mut asked: Vec<_> = tap
        .queries()
        .iter()
        .map(|query| {
            let outline = query.outline.as_ref().unwrap();
            let dnssec_ok = outline.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
            (dnssec_ok, outline.flags & CD != 0)
        })
        .collect();
    asked.sort();
    assert_eq!(
        asked,
        [(false, false), (false, true), (true, false), (true, true)]
    );
}

#[test]
fn a_client_that_sends_its_query_again_waits_in_one_place_and_counts_once() {
    let gate = Gate::new();
    let fault = slow(&gate);
    let agent = patient()
        .upstream(fault.addr())
        .set("limits.inFlight", "2")
        .start()
        .unwrap();
    let client = agent.client().patience(PATIENCE);
    let first = Query::new(NAME, A);
    let socket = client.udp_socket().unwrap();
    for _ in 0..5 {
        socket.send(&first.to_bytes()).unwrap();
    }
    wait_for_metric(
        &agent,
        "nodens_queries_handed_over_total",
        &[("proto", "udp")],
        5,
    );
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 1);
    // There is a place left, for the same question or another.
    let other = Query::new("api.prod.svc.cluster.local", A);
    let other_socket = client.udp_socket().unwrap();
    other_socket.send(&other.to_bytes()).unwrap();
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 2);
    assert_eq!(
        agent
            .metric("nodens_queries_over_limit_total", &[])
            .unwrap(),
        0.0
    );
    assert_eq!(agent.metric("nodens_cache_misses_total", &[]).unwrap(), 2.0);

    gate.open();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_own(&first, buffer[..length].to_vec());
    let length = other_socket.recv(&mut buffer).unwrap();
    assert_own(&other, buffer[..length].to_vec());
    // One answer, not five.
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    socket.recv(&mut buffer).unwrap_err();
    assert_eq!(fault.total(), 2);
}

#[test]
fn misses_over_the_limit_get_servfail_at_once_and_are_counted() {
    let gate = Gate::new();
    let fault = slow(&gate);
    let agent = patient()
        .upstream(fault.addr())
        .set("limits.inFlight", "2")
        .start()
        .unwrap();
    let client = agent.client().patience(PATIENCE);
    let under_way = [variant(1), variant(2)];
    let take_in = send_all(&client, &under_way[..1], &under_way[1..]);
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 2);

    let plain = Query::new("one.example.org", A);
    let with_edns = Query::new("TWO.example.org", A).edns(1232);
    let same = variant(4);
    for (number, query) in (1..).zip([plain, with_edns, same]) {
        let response = if number == 2 {
            client.tcp(&query).unwrap()
        } else {
            client.udp(&query).unwrap()
        };
        assert_echo(&query, &response);
        assert_eq!(response.outline.flags & 0xf, 2, "{response:?}");
        assert!(response.answers.is_empty());
        // 0 is "other": no code of RFC 8914 says that a server has enough to do.
        let explained = response.outline.edns.as_ref().map(|_| 0);
        assert_eq!(response.extended_error(), explained);
        let limit = [("limit", "in_flight")];
        wait_for_metric(&agent, "nodens_queries_over_limit_total", &limit, number);
    }
    let servfail = [("rcode", "SERVFAIL"), ("zone", ".")];
    let counted = agent.metric("nodens_queries_total", &servfail).unwrap();
    assert_eq!(counted, 2.0, "under the zone of their name");

    gate.open();
    take_in();
    assert_eq!(fault.total(), 1);
    let response = client.udp(&Query::new("one.example.org", A)).unwrap();
    assert_eq!(response.addresses(), [ADDRESS]);
}
