// SPDX-License-Identifier: Apache-2.0
//! Clients over TCP (RFC 7766).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown};
use std::thread;
use std::time::{Duration, Instant};

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Connection, Response};
use nodens_tests::fault::{Fault, Gate, Reply, Step};
use nodens_tests::frames;
use nodens_tests::process::wait_for;
use nodens_tests::query::{Outline, Query};
use nodens_tests::sample::{Sample, bench_address};
use socket2::SockRef;

use crate::support::{A, DAY, PATIENCE, TXT, wait_for_metric};

/// Code of edns-tcp-keepalive (RFC 7828).
const KEEPALIVE: u16 = 11;

fn burst(queries: &[Query]) -> Vec<u8> {
    let frames = queries.iter().map(|query| frames::frame(&query.to_bytes()));
    frames.collect::<Vec<_>>().concat()
}

fn receive_id(connection: &mut Connection) -> u16 {
    let bytes = connection.receive().unwrap().expect("an answer");
    Outline::read(&bytes).unwrap().id
}

/// Whether the other end has closed: without an answer, with or without RST.
fn is_closed(connection: &mut Connection) -> bool {
    match connection.receive() {
        Ok(None) => true,
        Ok(Some(_)) => false,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => true,
            _ => panic!("{error}"),
        },
    }
}

/// An upstream that holds names back that begin with `slow`, until the gate opens.
fn partly_slow(gate: &Gate) -> Fault {
    let gate = gate.clone();
    Fault::start(move |asked| {
        if asked.outline.as_ref().unwrap().name.starts_with("slow") {
            gate.wait();
        }
        vec![Step::Send(Reply::Address)]
    })
    .unwrap()
}

fn patient() -> Builder {
    Agent::builder()
        .set("limits.queryTimeout", "30s")
        .set("limits.attemptTimeout", "10s")
}

#[test]
fn a_slow_miss_holds_up_nothing_behind_it_on_its_connection() {
    let gate = Gate::new();
    let fault = partly_slow(&gate);
    let agent = patient().upstream(fault.addr()).start().unwrap();
    let client = agent.client().patience(PATIENCE);
    client.query("known.example.org", A).unwrap();
    let mut connection = client.connect().unwrap();
    let ask = |name: &str, id: u16| Query::new(name, A).id(id);
    let queries = [
        ask("slow.example.org", 1),
        ask("known.example.org", 2),
        ask("KNOWN.example.org", 3),
        ask("new.example.org", 4),
        ask("slow.example.org", 5),
        ask("known.example.org", 6),
    ];
    connection.send_bytes(&burst(&queries)).unwrap();
    let first: BTreeSet<_> = (0..4).map(|_| receive_id(&mut connection)).collect();
    assert_eq!(first, BTreeSet::from([2, 3, 4, 6]));
    gate.open();
    let last: BTreeSet<_> = (0..2).map(|_| receive_id(&mut connection)).collect();
    assert_eq!(last, BTreeSet::from([1, 5]));
}

#[test]
fn three_hundred_queries_in_one_write_are_all_answered_each_with_its_own_answer() {
    let sample = Sample::start().unwrap();
    let agent = patient().upstream(sample.addr()).start().unwrap();
    let mut connection = agent.client().patience(PATIENCE).connect().unwrap();
    let name = |n: u16| format!("n{n}.bench.cluster.local");
    let queries: Vec<_> = (0..300).map(|n| Query::new(&name(n), A).id(n)).collect();
    // Misses first, then hits.
    for _ in 0..2 {
        connection.send_bytes(&burst(&queries)).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..300 {
            let bytes = connection.receive().unwrap().unwrap();
            let id = Outline::read(&bytes).unwrap().id;
            let asked = queries[usize::from(id)].to_bytes();
            let response = Response::judge(&asked, bytes, Duration::ZERO).unwrap();
            let expected: IpAddr = bench_address(&name(id)).into();
            assert_eq!(response.addresses(), [expected]);
            assert!(seen.insert(id), "{id} was answered twice");
        }
    }
    assert_eq!(sample.total(), 300);
}

#[test]
fn a_query_that_comes_octet_by_octet_is_a_query() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let mut connection = agent.client().connect().unwrap();
    let queries = [Query::new(DAY, A).id(1), Query::new(DAY, A).edns(900).id(2)];
    for octet in burst(&queries) {
        connection.send_bytes(&[octet]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let ids = [receive_id(&mut connection), receive_id(&mut connection)];
    assert_eq!(ids, [1, 2]);
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answers() {
    let gate = Gate::new();
    let fault = partly_slow(&gate);
    let agent = patient().upstream(fault.addr()).start().unwrap();
    let mut connection = agent.client().patience(PATIENCE).connect().unwrap();
    let queries = [
        Query::new("slow.example.org", A).id(1),
        Query::new("quick.example.org", A).id(2),
    ];
    connection.send_bytes(&burst(&queries)).unwrap();
    connection.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_id(&mut connection), 2);
    gate.open();
    assert_eq!(receive_id(&mut connection), 1);
    assert!(is_closed(&mut connection));
}

#[test]
fn an_idle_connection_is_closed_after_tcp_idle_and_one_that_waits_is_not() {
    let gate = Gate::new();
    let fault = partly_slow(&gate);
    let agent = patient()
        .upstream(fault.addr())
        .set("listen.tcpIdle", "1s")
        .start()
        .unwrap();
    let client = agent.client().patience(PATIENCE);
    let idle = Duration::from_secs(1);
    let mut silent = client.connect().unwrap();
    let mut half = client.connect().unwrap();
    half.send_bytes(&burst(&[Query::new(DAY, A)])[..9]).unwrap();
    let mut waiting = client.connect().unwrap();
    let slow = Query::new("slow.example.org", A);
    waiting.send(&slow).unwrap();
    let mut active = client.connect().unwrap();
    active.ask(&Query::new(DAY, A)).unwrap();
    thread::sleep(idle * 6 / 10);
    let asked = Instant::now();
    // It may be too late on a very busy machine: then the connection is closed as promised.
    if active.ask(&Query::new(DAY, A)).is_ok() {
        assert!(is_closed(&mut active));
        assert!(asked.elapsed() >= idle, "after {:?}", asked.elapsed());
    }
    assert!(is_closed(&mut silent));
    assert!(is_closed(&mut half));
    wait_for_metric(&agent, "nodens_tcp_connections_idle_closed_total", &[], 3);
    // A client that waits is not idle, however long it takes.
    wait_for_metric(&agent, "nodens_tcp_connections_open", &[], 1);
    gate.open();
    let bytes = waiting.receive().unwrap().unwrap();
    Response::judge(&slow.to_bytes(), bytes, Duration::ZERO).unwrap();
    assert!(is_closed(&mut waiting));
    wait_for_metric(&agent, "nodens_tcp_connections_open", &[], 0);
}

#[test]
fn clients_over_the_limits_are_refused_and_counted_and_the_agent_stays_ready() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder()
        .upstream(sample.addr())
        .set("listen.tcpConnections", "4")
        .set("listen.tcpConnectionsPerClient", "2")
        .start()
        .unwrap();
    wait_for_metric(&agent, "nodens_tcp_connections_open", &[], 0);
    let refused = "nodens_tcp_connections_refused_total";
    let accepted = "nodens_tcp_connections_accepted_total";
    let before = agent.metric(accepted, &[]).unwrap();
    let from = |last: u8| {
        let client = agent.client().from(IpAddr::from([127, 0, 0, last]));
        client.connect().unwrap()
    };
    let query = Query::new(DAY, A);
    let mut taken: Vec<_> = [1, 1, 2, 2].map(from).into();
    for connection in &mut taken {
        connection.ask(&query).unwrap();
    }
    taken[0].ask(&query).unwrap();
    assert!(is_closed(&mut from(3)));
    wait_for_metric(&agent, refused, &[("reason", "total")], 1);
    drop(taken.pop());
    wait_for_metric(&agent, "nodens_tcp_connections_open", &[], 3);
    assert!(is_closed(&mut from(1)));
    wait_for_metric(&agent, refused, &[("reason", "client")], 1);
    let mut fourth = from(3);
    fourth.ask(&query).unwrap();
    // The agent's own questions find a place, lest a flood of connections kill the pod. Without
    // answers it would be found dead after five seconds.
    thread::sleep(Duration::from_millis(5500));
    wait_for("the agent to be ready", PATIENCE, || {
        let verdicts = [agent.health("/readyz")?, agent.health("/healthz")?];
        Ok(verdicts.iter().all(|v| v.status == 200).then_some(()))
    })
    .unwrap();
    for connection in taken.iter_mut().chain([&mut fourth]) {
        connection.ask(&query).unwrap();
    }
    let taken = agent.metric(accepted, &[]).unwrap() - before;
    assert_eq!(taken, 5.0, "the agent's own questions are no clients");
}

#[test]
fn a_client_that_never_reads_is_let_go_and_harms_nobody() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder()
        .upstream(sample.addr())
        .set("listen.tcpIdle", "1s")
        .start()
        .unwrap();
    let client = agent.client().patience(PATIENCE);
    // 40 strings of 203 octets.
    let huge = Query::new("huge.example.org", TXT);
    let size = client.tcp(&huge).unwrap().bytes.len();
    let mut deaf = client.connect().unwrap();
    SockRef::from(deaf.stream())
        .set_recv_buffer_size(4096)
        .unwrap();
    // More than the kernel keeps for a connection (tcp_wmem).
    let queries = vec![huge; (16 << 20) / size];
    let _ = deaf
        .stream()
        .set_write_timeout(Some(Duration::from_millis(500)));
    // The agent stops reading what it cannot answer, so not all of it need be taken.
    let _ = deaf.send_bytes(&burst(&queries));
    let mut other = client.connect().unwrap();
    for _ in 0..5 {
        other.ask(&Query::new(DAY, A)).unwrap();
        client.query(DAY, A).unwrap();
    }
    drop(other);
    wait_for_metric(&agent, "nodens_tcp_connections_open", &[], 0);
    // What the kernel had taken may still come; the end comes before all of it.
    let mut received = 0;
    while let Ok(Some(_)) = deaf.receive() {
        received += 1;
    }
    assert!(received < queries.len(), "{received} answers");
}

#[test]
fn a_client_that_asks_for_keepalive_is_told_the_idle_timeout() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder()
        .upstream(sample.addr())
        .set("listen.tcpIdle", "7s")
        .start()
        .unwrap();
    let client = agent.client();
    let mut connection = client.connect().unwrap();
    let query = Query::new(DAY, A).option(KEEPALIVE, &[]);
    // A miss, a hit, and a query that is refused.
    let refused = Query::new(DAY, 252_u16).option(KEEPALIVE, &[]);
    for query in [&query, &query, &refused] {
        let response = connection.ask(query).unwrap();
        let edns = response.outline.edns.unwrap();
        let told: Vec<_> = edns
            .options
            .iter()
            .filter(|(c, _)| *c == KEEPALIVE)
            .collect();
        assert_eq!(told, [&(KEEPALIVE, 70_u16.to_be_bytes().to_vec())]);
    }
    // Who does not ask is not told, and over UDP nobody is (RFC 7828 section 3.2.1).
    for response in [
        connection.ask(&Query::new(DAY, A).edns(1232)).unwrap(),
        client.udp(&query).unwrap(),
    ] {
        assert_eq!(response.outline.edns.unwrap().options, []);
    }
}
