// SPDX-License-Identifier: Apache-2.0
//! Clients over TCP that dawdle, flood, send too much or never read, beside one that asks.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use nodens_tests::client::{Connection, Response};
use nodens_tests::fault::{Asked, Fault, Reply, Step};
use nodens_tests::frames::frame;
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use super::{BESIDE, BUDGET, agent, beside_a_bystander, is_well, source};

/// Whether the server has closed a connection.
fn is_closed(connection: &Connection) -> bool {
    let mut stream = connection.stream();
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn clients_that_dawdle_over_tcp_are_let_go_and_hold_nobody_up() {
    let sample = Sample::start().unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .set("listen.tcpIdle", "1s")
        .start()
        .unwrap();
    let query = frame(&Query::new("web.prod.svc.cluster.local", A).to_bytes());
    let longest = [0xff; 2];
    beside_a_bystander(&agent, &sample, || {
        let client = agent.client().from(source(2));
        let begun = Instant::now();
        // An octet at a time, of a good query, of one of 65,535 octets, and lengths alone.
        let kinds: [Vec<u8>; 4] = [
            query.clone(),
            longest.iter().chain(&query).copied().collect(),
            longest.to_vec(),
            vec![],
        ];
        let mut slow: Vec<(Connection, &[u8])> = kinds
            .iter()
            .cycle()
            .take(80)
            .map(|kind| {
                (
                    client.connect().unwrap(),
                    &kind[..kind.len().saturating_sub(1)],
                )
            })
            .collect();
        while begun.elapsed() < Duration::from_millis(2500) {
            for (connection, rest) in &mut slow {
                if let Some((octet, behind)) = rest.split_first() {
                    // Closed by the agent meanwhile, most likely.
                    let _ = connection.send_bytes(&[*octet]);
                    *rest = behind;
                }
            }
            thread::sleep(Duration::from_millis(60));
        }
        let left = slow
            .iter()
            .filter(|(connection, _)| !is_closed(connection))
            .count();
        assert_eq!(left, 0, "of {}", slow.len());
    });
    let idle = agent
        .metric("nodens_tcp_connections_idle_closed_total", &[])
        .unwrap();
    assert!(idle >= 80.0, "{idle}");
    is_well(&mut agent);
}

#[test]
fn frames_of_any_length_are_read_as_they_are_and_leave_no_memory_behind() {
    let sample = Sample::start().unwrap();
    let mut agent = agent().upstream(sample.addr()).start().unwrap();
    let query = Query::new("web.prod.svc.cluster.local", A);
    beside_a_bystander(&agent, &sample, || {
        let client = agent.client().from(source(2));
        let mut connections: Vec<_> = (0..100).map(|_| client.connect().unwrap()).collect();
        for connection in &mut connections {
            // Nothing, many times; then a query with all that a frame can have behind it.
            connection.send_bytes(&[0; 2000]).unwrap();
            let mut longest = query.to_bytes();
            longest.resize(65_535, 0);
            connection.send_bytes(&frame(&longest)).unwrap();
            let answer = connection.receive().unwrap().unwrap();
            let answer = Response::judge(&query.to_bytes(), answer, Duration::ZERO).unwrap();
            assert_eq!(answer.rcode(), ResponseCode::NoError);
            // And most of one more, so that its room is still needed, but for the last ones.
            connection.send_bytes(&[0xff, 0xff, 0]).unwrap();
        }
        for connection in &mut connections {
            let mut rest = vec![0; 65_534];
            // A response, to which nothing is owed.
            rest[1] = 0x80;
            connection.send_bytes(&rest).unwrap();
            connection.ask(&query).unwrap();
        }
        let resident = agent.resident_bytes().unwrap();
        let limit = BUDGET * 6 / 5 + BESIDE;
        assert!(resident <= limit, "{resident} octets of at most {limit}");
    });
    is_well(&mut agent);
}

#[test]
fn a_flood_of_connections_takes_no_place_from_those_who_ask() {
    let sample = Sample::start().unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .set("listen.tcpConnections", "100")
        .set("listen.tcpConnectionsPerClient", "40")
        .start()
        .unwrap();
    let descriptors = agent.descriptors().unwrap();
    beside_a_bystander(&agent, &sample, || {
        let begun = Instant::now();
        let mut held = Vec::new();
        // More than are allowed in all, from clients with as many as each may have and more, the
        // agent's own probes' among them; held open, some with half a query.
        while begun.elapsed() < Duration::from_secs(7) {
            for number in 1..10 {
                for _ in 0..10 {
                    let client = agent.client().from(source(number));
                    let Ok(mut connection) = client.connect() else {
                        continue;
                    };
                    if held.len() % 2 == 0 {
                        let _ = connection.send_bytes(&[0, 40, 1]);
                    }
                    held.push(connection);
                }
            }
            if held.len() > 600 {
                held.drain(..200);
            }
            let open = agent.metric("nodens_tcp_connections_open", &[]).unwrap();
            assert!(open <= 100.0, "{open}");
            thread::sleep(Duration::from_millis(100));
        }
    });
    let health = agent.health("/healthz").unwrap();
    assert_eq!(health.status, 200, "{}", health.body);
    let refused = agent
        .metric("nodens_tcp_connections_refused_total", &[])
        .unwrap();
    assert!(refused > 100.0, "{refused}");
    wait_for(
        "the descriptors to come back",
        Duration::from_secs(15),
        || Ok((agent.descriptors()? <= descriptors + 3).then_some(())),
    )
    .unwrap();
    is_well(&mut agent);
}

/// Container runtimes hand out 1,024 descriptors, and more to whoever asks.
#[test]
fn connections_of_clients_never_use_up_the_descriptors() {
    let sample = Sample::start().unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .descriptors(64)
        .start()
        .unwrap();
    let mut connections: Vec<_> = (0..180)
        .map(|number| {
            let client = agent.client().from(source(2 + number / 90));
            client.connect().unwrap()
        })
        .collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        // A miss each: a connection upstream is needed, too.
        let name = format!("{number}.bench.cluster.local");
        let response = connection.ask(&Query::new(&name, A)).unwrap();
        assert_eq!(response.rcode(), ResponseCode::NoError, "{name}");
    }
    is_well(&mut agent);
}

/// A client that asks for much, and reads none of it.
#[test]
fn clients_that_never_read_cost_a_bounded_amount_of_memory() {
    let sample = Sample::start().unwrap();
    // 60,000 octets to each query, all at once: the worst that one question can set off.
    let heavy = Fault::start(|asked: &Asked| {
        let mut message = asked.bytes[..2].to_vec();
        message.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend(&asked.outline.as_ref().unwrap().question);
        message.extend([0xc0, 12, 0, 10, 0, 1, 0, 0, 0, 0, 0xea, 0x60]);
        message.resize(message.len() + 60_000, 7);
        vec![
            Step::Wait(Duration::from_millis(700)),
            Step::Send(Reply::Bytes(message)),
        ]
    })
    .unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .zone("heavy.test", &[heavy.addr()])
        .set("listen.tcpIdle", "2s")
        .start()
        .unwrap();
    let most = AtomicUsize::new(0);
    beside_a_bystander(&agent, &sample, || {
        let mut connections = Vec::new();
        for number in 0..60 {
            let mut connection = agent.client().from(source(2)).connect().unwrap();
            for _ in 0..120 {
                connection
                    .send(&Query::new("all.heavy.test", 10u16))
                    .unwrap();
            }
            if number % 20 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            connections.push(connection);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            let resident = usize::try_from(agent.resident_bytes().unwrap()).unwrap();
            most.fetch_max(resident, Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
    });
    // 7,200 answers of 60,000 octets would be 430 MB.
    let most = most.into_inner();
    assert!(most < 32 << 20, "{most} octets");
    assert!(agent.is_running().unwrap());
    assert_eq!(agent.health("/readyz").unwrap().status, 200);
}
