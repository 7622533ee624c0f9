// SPDX-License-Identifier: Apache-2.0
//! Garbage for the admin ports, and more misses than may be under way.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use nodens_tests::dice::Dice;
use nodens_tests::fault::{self, Fault};
use nodens_tests::frames::frame;
use nodens_tests::process::wait_for;
use nodens_tests::query::{Outline, Query};
use nodens_tests::sample::{Sample, bench_address};

use super::{Ends, agent, bystander, is_well, source};

#[test]
fn garbage_for_the_admin_ports_leaves_them_and_dns_alone() {
    let sample = Sample::start().unwrap();
    let mut agent = agent().upstream(sample.addr()).start().unwrap();
    let mut dice = Dice::new();
    let ports = [agent.health_addr(), agent.metrics_addr()];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| bystander(&agent, &sample, &is_over));
        let ends = Ends(&is_over);
        let begun = Instant::now();
        let mut held = Vec::new();
        while begun.elapsed() < Duration::from_secs(3) {
            for port in ports {
                let mut stream = TcpStream::connect(port).unwrap();
                let bytes = garbage_for_http(&mut dice);
                // The agent may have closed it in the middle.
                let _ = stream.write_all(&bytes);
                held.push(stream);
            }
            if held.len() > 300 {
                held.drain(..50);
            }
            thread::sleep(Duration::from_millis(2));
        }
        // Those that are held are more than may be open: it is they who make room.
        for _ in 0..5 {
            assert_eq!(agent.health("/readyz").unwrap().status, 200);
            assert!(agent.metrics().unwrap().contains("nodens_ready 1"));
        }
        drop(ends);
        bystander.join().unwrap();
    });
    is_well(&mut agent);
}

fn garbage_for_http(dice: &mut Dice) -> Vec<u8> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
    match dice.of(0..8) {
        0 => {
            let length = dice.of(0..5000);
            dice.octets(length)
        }
        1 => [b"GET /".as_slice(), &vec![b'a'; 100_000]].concat(),
        2 => {
            let fields = "X-A: b\r\n".repeat(1000);
            format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes()
        }
        3 => b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
        4 => b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
        5 => request.repeat(50),
        6 => frame(&Query::new("web.prod.svc.cluster.local", A).to_bytes()),
        _ => dice.mutate(request, 0),
    }
}

/// Repetitions of one query, by a client that does not wait: they share one answer.
#[test]
fn a_client_that_repeats_itself_without_end_is_one_who_waits() {
    let fault = Fault::start(fault::silence()).unwrap();
    let agent = agent()
        .upstream(fault.addr())
        .set("limits.queryTimeout", "1500ms")
        .set("limits.inFlight", "100")
        .start()
        .unwrap();
    let socket = agent.client().udp_socket().unwrap();
    let query = Query::new("web.example.org", A).to_bytes();
    for _ in 0..1000 {
        socket.send(&query).unwrap();
    }
    let waiting = wait_for("the queries", Duration::from_secs(1), || {
        let waiting = agent.metric("nodens_queries_in_flight", &[])?;
        Ok((waiting > 0.0).then_some(waiting))
    });
    assert_eq!(waiting.unwrap(), 1.0);
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut buffer = [0; 512];
    socket.recv(&mut buffer).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket.recv(&mut buffer).unwrap_err();
}

/// Where an attacker fills the room for misses, what is cached is answered as ever.
#[test]
fn misses_beyond_the_limit_are_refused_at_once_and_hits_are_not() {
    const LIMIT: usize = 100;
    let sample = Sample::start().unwrap();
    sample.set_bench_ttl(30);
    let silent = Fault::start(fault::silence()).unwrap();
    let agent = agent()
        .upstream(sample.addr())
        .zone("silent.test", &[silent.addr()])
        .set("limits.inFlight", &LIMIT.to_string())
        .set("limits.queryTimeout", "2s")
        .start()
        .unwrap();
    let hot = "hot.bench.cluster.local";
    assert_eq!(
        agent.client().query(hot, A).unwrap().rcode(),
        ResponseCode::NoError
    );
    let socket = agent
        .client()
        .patience(Duration::from_secs(6))
        .udp_socket()
        .unwrap();
    let begun = Instant::now();
    let mut by_reason: HashMap<Option<u16>, usize> = HashMap::new();
    let slowest_hit = thread::scope(|scope| {
        let hits = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while begun.elapsed() < Duration::from_millis(1500) {
                let hit = agent.client().query(hot, A).unwrap();
                assert_eq!(hit.addresses(), [IpAddr::V4(bench_address(hot))]);
                slowest = slowest.max(hit.elapsed);
                thread::sleep(Duration::from_millis(10));
            }
            slowest
        });
        scope.spawn(|| {
            for number in 0..5 * LIMIT {
                let query = Query::new(&format!("{number}.silent.test"), A).edns(1232);
                let query = query.id(u16::try_from(number).unwrap());
                socket.send(&query.to_bytes()).unwrap();
                if number % 10 == 9 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let mut buffer = [0; 512];
        for number in 0..5 * LIMIT {
            let length = socket.recv(&mut buffer).unwrap();
            let outline = Outline::read(&buffer[..length]).unwrap();
            assert_eq!(outline.rcode(), 2);
            let option = outline.edns.and_then(|edns| edns.options.first().cloned());
            let code = option.map(|(_, data)| u16::from_be_bytes([data[0], data[1]]));
            *by_reason.entry(code).or_default() += 1;
            if number < 4 * LIMIT {
                assert!(begun.elapsed() < Duration::from_millis(1900), "{number}");
            }
        }
        hits.join().unwrap()
    });
    assert_eq!(by_reason[&Some(0)], 4 * LIMIT, "over the limit");
    assert_eq!(
        by_reason[&Some(22)],
        LIMIT,
        "in time, and without an answer"
    );
    assert!(slowest_hit < Duration::from_millis(500), "{slowest_hit:?}");
    let over = agent.metric("nodens_queries_over_limit_total", &[("limit", "in_flight")]);
    assert_eq!(over.unwrap(), 400.0);
    let waiting = agent.metric("nodens_queries_in_flight", &[]).unwrap();
    assert_eq!(waiting, 0.0);
}

/// A pod that asks for names that nobody answers, as fast as it can.
#[test]
fn a_client_that_floods_leaves_the_others_their_share() {
    const SHARE: usize = 256;
    let sample = Sample::start().unwrap();
    let silent = Fault::start(fault::silence()).unwrap();
    let agent = agent()
        .upstream(sample.addr())
        .zone("silent.test", &[silent.addr()])
        .set("limits.inFlight", "1000")
        .set("limits.queryTimeout", "2s")
        .start()
        .unwrap();
    let over = |limit: &str| {
        let labels = [("limit", limit)];
        let count = agent.metric("nodens_queries_over_limit_total", &labels);
        count.unwrap()
    };
    let flood = |number: u8, count: usize| {
        let client = agent.client().from(source(number));
        let socket = client.udp_socket().unwrap();
        for name in 0..count {
            let query = Query::new(&format!("{name}.{number}.silent.test"), A);
            socket.send(&query.to_bytes()).unwrap();
            if name % 10 == 9 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        socket
    };
    let _flood = flood(2, 3 * SHARE);
    let refused = 2.0 * f64::from(u32::try_from(SHARE).unwrap());
    wait_for("the flood to be cut", Duration::from_secs(1), || {
        Ok((over("client") >= refused).then_some(()))
    })
    .unwrap();
    let _other = flood(3, 100);
    let response = agent.client().from(source(4));
    let response = response.query("web.prod.svc.cluster.local", A).unwrap();
    assert_eq!(response.rcode(), ResponseCode::NoError);
    assert_eq!((over("client"), over("in_flight")), (refused, 0.0));
    let waiting = agent.metric("nodens_queries_in_flight", &[]).unwrap();
    assert!(waiting > 300.0, "{waiting}");
    // All of it is given back.
    wait_for("the end of the flood", Duration::from_secs(5), || {
        Ok((agent.metric("nodens_queries_in_flight", &[])? == 0.0).then_some(()))
    })
    .unwrap();
    let _again = flood(2, SHARE);
    assert_eq!(over("client"), refused);
}
