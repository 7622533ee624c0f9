// SPDX-License-Identifier: Apache-2.0
//! Several queries under way on one upstream connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::Response;
use nodens_tests::fault::{self, ADDRESS, Asked, Fault, Reply, Step};
use nodens_tests::load::client::{Load, Pace, Transport};
use nodens_tests::load::names::{Names, Pick};
use nodens_tests::load::question::Expect;
use nodens_tests::load::upstream::Upstream;
use nodens_tests::query::Query;
use nodens_tests::tap::Tap;

use crate::support::{A, PATIENCE};

/// How long a slow name takes.
const SLOW: Duration = Duration::from_millis(600);

fn is_slow(asked: &Asked) -> bool {
    let outline = asked.outline.as_ref();
    outline.is_some_and(|outline| outline.name.starts_with("slow"))
}

/// An agent whose queries share connections as the number says.
fn agent(pipeline: &str, connections: usize) -> Builder {
    Agent::builder()
        .each_zone("pipeline", pipeline)
        .set("limits.upstreamConnections", &connections.to_string())
}

/// Asks for all names at once, from one socket; how long each took.
fn burst(agent: &Agent, names: &[String]) -> BTreeMap<String, Duration> {
    let socket: UdpSocket = agent.client().patience(PATIENCE).udp_socket().unwrap();
    let queries: BTreeMap<u16, (&String, Vec<u8>)> = (1..)
        .zip(names)
        .map(|(id, name)| (id, (name, Query::new(name, A).id(id).to_bytes())))
        .collect();
    let began = Instant::now();
    for (_, query) in queries.values() {
        socket.send(query).unwrap();
    }
    let mut times = BTreeMap::new();
    let mut buffer = [0; 1500];
    while times.len() < names.len() {
        let length = socket.recv(&mut buffer).unwrap();
        let message = &buffer[..length];
        let id = u16::from_be_bytes([message[0], message[1]]);
        let (name, query) = &queries[&id];
        let took = began.elapsed();
        let response = Response::judge(query, message.to_vec(), took).unwrap();
        assert_eq!(response.rcode(), ResponseCode::NoError, "{name}");
        assert_eq!(response.addresses(), [IpAddr::V4(ADDRESS)], "{name}");
        times.insert((*name).clone(), took);
    }
    times
}

fn names(kind: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("{kind}-{n}.example.org"))
        .collect()
}

#[test]
fn a_server_that_answers_in_any_order_is_asked_many_questions_over_one_connection() {
    let wait = Duration::from_millis(100);
    let fault = Fault::builder()
        .out_of_order()
        .start(move |asked: &Asked| {
            // Those that were asked first are answered last.
            let early = u32::try_from(asked.number % 5).unwrap();
            vec![
                Step::Wait(wait * (6 - early) / 2),
                Step::Send(Reply::Address),
            ]
        })
        .unwrap();
    let builder = agent("64", 1).set("limits.hedgePercent", "0");
    let agent = builder.upstream(fault.addr()).start().unwrap();
    let began = Instant::now();
    burst(&agent, &names("any", 60));
    assert!(
        began.elapsed() < wait * 20,
        "one after the other it were 10 s"
    );
    assert_eq!(fault.total(), 60, "none is asked twice");
    // A handshake that took long had company.
    assert!(fault.connections() <= 2, "{}", fault.connections());
    let depth = agent.metric("nodens_upstream_pipeline_depth", &[]);
    assert!([0.0, 64.0].contains(&depth.unwrap()), "told once a second");
}

#[test]
fn a_slow_name_holds_up_those_behind_it_no_longer_than_a_query_waits_for_its_second_try() {
    let fault = Fault::start(|asked: &Asked| {
        let wait = if is_slow(asked) { SLOW } else { Duration::ZERO };
        vec![Step::Wait(wait), Step::Send(Reply::Address)]
    })
    .unwrap();
    let builder = agent("32", 64).set("limits.hedgePercent", "20");
    let agent = builder.upstream(fault.addr()).start().unwrap();
    // So that it knows how fast the server is.
    for round in 0..20 {
        burst(&agent, &names(&format!("warm{round}"), 16));
    }
    let moves = || agent.metric("nodens_upstream_moves_total", &[]).unwrap();
    let before = moves();
    // What may be asked again, 64 at most, is enough for so many rounds.
    for round in 0..3 {
        let mut all = names(&format!("slow{round}"), 1);
        all.extend(names(&format!("quick{round}"), 12));
        let times = burst(&agent, &all);
        let (slow, quick): (Vec<_>, Vec<_>) =
            times.iter().partition(|(name, _)| name.starts_with("slow"));
        assert!(slow.iter().all(|(_, time)| **time >= SLOW), "{slow:?}");
        assert!(quick.iter().all(|(_, time)| **time < SLOW / 2), "{quick:?}");
    }
    assert!(moves() > before, "some were written behind a slow one");
}

#[test]
fn a_connection_that_is_closed_amid_many_questions_costs_no_answer() {
    // In order, and over after the third answer of each.
    let fault = Fault::start(|asked: &Asked| {
        let answer = Step::Send(Reply::Address);
        match asked.in_connection {
            2 => vec![answer, Step::Close],
            _ => vec![answer],
        }
    })
    .unwrap();
    let agent = agent("16", 64).upstream(fault.addr()).start().unwrap();
    for round in 0..10 {
        let times = burst(&agent, &names(&format!("round{round}"), 30));
        assert!(times.values().all(|time| *time < SLOW), "{times:?}");
    }
    let labels = [("outcome", "closed")];
    let closed = agent.metric("nodens_upstream_exchanges_total", &labels);
    assert_eq!(closed.unwrap(), 0.0, "that is no failure of the server");
}

#[test]
fn answers_with_the_ids_of_others_are_taken_for_nobodys() {
    let fault = Fault::start(fault::always([
        Step::Send(Reply::WrongId),
        Step::Send(Reply::WrongQuestion),
        Step::Send(Reply::Address),
    ]))
    .unwrap();
    let agent = agent("8", 4).upstream(fault.addr()).start().unwrap();
    for round in 0..5 {
        burst(&agent, &names(&format!("round{round}"), 20));
    }
}

/// As it comes: nobody says how many. A closed loop that keeps 64 misses under way has them share
/// connections, and one after the other they do not.
#[test]
fn connections_are_shared_while_many_misses_come_quickly_and_not_else() {
    let upstream = Upstream::start().unwrap();
    let tap = Tap::open(upstream.address).unwrap();
    let direct = Agent::builder().upstream(upstream.address).start().unwrap();
    let tapped = Agent::builder().upstream(tap.addr()).start().unwrap();
    let flood = Load {
        server: direct.addr(),
        transport: Transport::Udp,
        pace: Pace::Closed { window: 64 },
        names: Names::new("n#.bench.example", 1, Pick::New).unwrap(),
        expect: Expect::Address,
        clients: vec![None],
        duration: Duration::from_millis(500),
        timeout: PATIENCE,
        seed: 1,
    };
    let began = Instant::now();
    while upstream.pipelined() == 0 {
        // A busy machine may make every answer late for a while.
        assert!(began.elapsed() < PATIENCE, "{} queries", upstream.queries());
        let loaded = flood.run().unwrap();
        assert!(
            loaded.first_wrong.is_none() && loaded.lost == 0,
            "{loaded:?}"
        );
    }
    let client = tapped.client();
    for name in names("line", 100) {
        client.query(&name, A).unwrap();
    }
    assert_eq!(tap.most_in_flight(), 1);
}
