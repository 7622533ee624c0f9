// SPDX-License-Identifier: Apache-2.0
//! The load generator against real servers: the echo, the upstream, and servers that misbehave.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::flight::Flight;
use super::{Load, Meanwhile, Outcome, Pace, Spacing, Transport};
use crate::load::echo::{self, Layout};
use crate::load::names::{Names, Pick};
use crate::load::question::Expect;
use crate::load::upstream::{self, Upstream};

fn load(server: SocketAddr) -> Load {
    Load {
        server,
        transport: Transport::Udp,
        pace: Pace::Closed { window: 32 },
        names: Names::new("n######.bench.example", 1000, Pick::Uniform).unwrap(),
        expect: Expect::Address,
        clients: vec![None, None],
        duration: Duration::from_millis(200),
        timeout: Duration::from_secs(5),
        seed: 1,
    }
}

fn assert_all_right(outcome: &Outcome) {
    assert!(outcome.sent > 0);
    assert_eq!(outcome.received, outcome.sent, "{:?}", outcome.to_json());
    assert_eq!(outcome.latency.total(), outcome.received);
    assert_eq!(outcome.first_wrong, None);
}

/// A UDP server that answers as `reply` says: the query and a count come in, replies go out.
fn serve_udp(reply: impl Fn(&[u8], u64) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        let mut count = 0;
        while let Ok((len, peer)) = socket.recv_from(&mut query) {
            for reply in reply(&query[..len], count) {
                _ = socket.send_to(&reply, peer);
            }
            count += 1;
        }
    });
    address
}

fn right(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    upstream::answer(query, &mut out).unwrap();
    out
}

#[test]
fn an_echo_of_either_layout_returns_every_query() {
    for layout in [Layout::OneThread, Layout::OneLooseThread, Layout::PerCpu] {
        let server = echo::start(layout, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let outcome = Load {
            expect: Expect::Echo,
            ..load(server)
        }
        .run()
        .unwrap();
        assert_all_right(&outcome);
    }
}

#[test]
fn each_name_is_asked_once_and_answered_over_tcp() {
    let upstream = Upstream::start().unwrap();
    let outcome = Load {
        transport: Transport::Tcp { connections: 3 },
        names: Names::new("n######.bench.example", 1000, Pick::Once).unwrap(),
        duration: Duration::from_secs(60),
        ..load(upstream.address)
    }
    .run()
    .unwrap();
    assert_all_right(&outcome);
    assert_eq!(outcome.sent, 1000);
    assert_eq!(upstream.queries(), 1000);
    assert_eq!(upstream.connections(), 6);
    assert!(upstream.pipelined() > 0, "windows of 32 on 3 connections");
    assert!(
        outcome.elapsed < Duration::from_secs(30),
        "ends with the names"
    );
}

#[test]
fn a_window_of_one_on_one_connection_is_never_seen_as_pipelined() {
    let upstream = Upstream::start().unwrap();
    let outcome = Load {
        transport: Transport::Tcp { connections: 1 },
        pace: Pace::Closed { window: 1 },
        ..load(upstream.address)
    }
    .run()
    .unwrap();
    assert_all_right(&outcome);
    assert_eq!(upstream.pipelined(), 0);
}

#[test]
fn a_paced_run_sends_at_its_rate_however_it_is_spread() {
    let server = serve_udp(|query, _| vec![right(query)]);
    for (spacing, meanwhile) in [
        (Spacing::Even, Meanwhile::Block),
        (Spacing::Even, Meanwhile::Send),
        (Spacing::Poisson, Meanwhile::Block),
        (Spacing::Poisson, Meanwhile::Send),
    ] {
        // A machine that others use may leave the client behind its plan: the best of a few.
        let mut sent = Vec::new();
        let is_in_time = (0..3).any(|_| {
            let outcome = paced(server, 2000.0, spacing, meanwhile);
            assert_all_right(&outcome);
            assert_eq!(outcome.lateness.total(), outcome.sent);
            sent.push(outcome.sent);
            // Four standard deviations of a Poisson count of 2000.
            (1820..=2180).contains(&outcome.sent)
        });
        assert!(is_in_time, "{spacing:?}: {sent:?}");
    }
}

#[test]
fn a_slow_server_delays_a_client_that_blocks_and_no_other() {
    let slow = || {
        serve_udp(|query, _| {
            thread::sleep(Duration::from_millis(5));
            vec![right(query)]
        })
    };
    // Two clients, each due every 2 ms; one server, 5 ms a query.
    let blocks = paced(slow(), 1000.0, Spacing::Even, Meanwhile::Block);
    assert_all_right(&blocks);
    assert!(blocks.sent <= 250, "{}", blocks.sent);
    assert!(blocks.lateness.quantile(0.5) > Duration::from_millis(100));
    let sends = paced(slow(), 1000.0, Spacing::Even, Meanwhile::Send);
    assert!((980..=1000).contains(&sends.sent), "{}", sends.sent);
}

fn paced(server: SocketAddr, per_second: f64, spacing: Spacing, meanwhile: Meanwhile) -> Outcome {
    Load {
        pace: Pace::Paced {
            per_second,
            spacing,
            meanwhile,
        },
        duration: Duration::from_secs(1),
        ..load(server)
    }
    .run()
    .unwrap()
}

#[test]
fn lost_wrong_and_stray_replies_are_told_apart() {
    let server = serve_udp(|query, count| {
        let good = right(query);
        match count % 10 {
            3 => vec![],
            5 => {
                let mut wrong = good;
                *wrong.last_mut().unwrap() ^= 1;
                vec![wrong]
            }
            7 => vec![good.clone(), good],
            _ => vec![good],
        }
    });
    let outcome = Load {
        names: Names::new("n######.bench.example", 1000, Pick::Once).unwrap(),
        clients: vec![None],
        duration: Duration::from_secs(60),
        timeout: Duration::from_millis(200),
        ..load(server)
    }
    .run()
    .unwrap();
    assert_eq!(outcome.sent, 1000);
    assert_eq!((outcome.lost, outcome.wrong), (100, 100));
    assert_eq!(outcome.received, 800);
    // The very last double may come after the client has gone.
    assert!((99..=100).contains(&outcome.stray), "{}", outcome.stray);
    let told = outcome.first_wrong.unwrap();
    assert!(told.contains("bench.example"), "{told}");
    assert!(told.contains("the address 10."), "{told}");
}

#[test]
fn a_server_that_is_not_there_loses_every_query_and_says_so() {
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = gone.local_addr().unwrap();
    drop(gone);
    let outcome = Load {
        timeout: Duration::from_millis(50),
        ..load(server)
    }
    .run()
    .unwrap();
    assert!(outcome.sent > 0);
    assert_eq!(outcome.lost, outcome.sent);
    assert!(outcome.refused > 0);
}

#[test]
fn an_id_finds_its_query_until_it_is_answered_or_too_old() {
    let mut flight = Flight::new(4, 100);
    // Past the wrap of IDs.
    for round in 0..70_000_u64 {
        let id = flight.start(round, round);
        assert_eq!(flight.finish(id ^ 0x8000).map(|b| b.index), None);
        assert_eq!(flight.finish(id).map(|b| b.index), Some(round));
        assert_eq!(flight.finish(id).map(|b| b.index), None);
    }
    let ids: Vec<u16> = (0..4).map(|n| flight.start(1000 + n, n)).collect();
    assert!(!flight.has_room());
    assert_eq!(flight.finish(ids[1]).map(|b| b.index), Some(1));
    assert!(!flight.has_room(), "the oldest is still under way");
    assert_eq!(flight.expire(1100), 1);
    assert!(flight.has_room());
    assert_eq!(flight.finish(ids[0]).map(|b| b.index), None);
    assert_eq!(flight.expire(1102), 1);
    assert_eq!(flight.finish(ids[3]).map(|b| b.index), Some(3));
    assert_eq!(flight.under_way, 0);
}
