// SPDX-License-Identifier: Apache-2.0
//! What the drills of the way upstream are worth: pods do what they are told, and a forwarder that
//! is known to stall is seen to stall.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nodens_tests::client::{Client, Connection, Response};
use nodens_tests::drill::upstreams::fleet::{Fleet, Kind, Way, address};
use nodens_tests::drill::upstreams::forwarder::Kind as Program;
use nodens_tests::drill::upstreams::trial::Scene;
use nodens_tests::drill::upstreams::{names, rows};
use nodens_tests::node::Family;
use nodens_tests::query::Query;

/// Longest wait for an answer that must come.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for one that must not.
const SILENCE: Duration = Duration::from_millis(300);

/// One fleet at a time: two would take each other's CPU.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn query(number: u32) -> Query {
    Query::new(&names::text(1, number), 1_u16)
}

/// Which pod has answered a query.
fn pod(response: &Response, number: u32) -> u8 {
    match response.addresses()[..] {
        [IpAddr::V4(address)] => names::pod(address.octets(), number).unwrap(),
        _ => panic!("{response:?}"),
    }
}

fn service() -> Client {
    Client::new(Family::dns(Family::V4.upstream())).patience(ANSWER)
}

fn server(pod: u8) -> SocketAddr {
    Family::dns(address(pod).into())
}

#[test]
fn a_connection_goes_to_a_pod_by_chance_and_stays_there() {
    let _alone = alone();
    let fleet = Fleet::new(Kind::THREE).unwrap();
    fleet.node().within(|| {
        let ask = |connection: &mut Connection, number| {
            pod(&connection.ask(&query(number)).unwrap(), number)
        };
        let mut connections: Vec<_> = (0..30)
            .map(|number| {
                let mut connection = service().connect().unwrap();
                let pod = ask(&mut connection, number);
                (connection, pod)
            })
            .collect();
        let pods: BTreeSet<u8> = connections.iter().map(|(_, pod)| *pod).collect();
        // That one of three has none of 30 happens once in 60,000 times.
        assert_eq!(pods, BTreeSet::from([0, 1, 2]));
        assert_eq!(fleet.connections().unwrap(), 30);
        fleet.serve(&[1]).unwrap();
        for (connection, pod) in &mut connections {
            assert_eq!(ask(connection, 100), *pod);
        }
        for number in 200..210 {
            let response = service().tcp(&query(number)).unwrap();
            assert_eq!(pod(&response, number), 1);
        }
    });
    assert_eq!(fleet.asked().unwrap(), 70);
    // TCP may send one again, were the machine to stand still.
    let sent = fleet.sent().unwrap();
    assert!((70..=75).contains(&sent), "{sent} packets");
}

#[test]
fn a_silent_pod_tells_nobody_that_it_is() {
    let _alone = alone();
    let mut fleet = Fleet::new(Kind::THREE).unwrap();
    let patient = Client::new(server(1)).patience(SILENCE);
    fleet.set(&[1], Way::Silent).unwrap();
    fleet.node().within(|| {
        // Not refused, not unreachable: nothing.
        assert_eq!(patient.udp_bytes(&query(1).to_bytes()).unwrap(), None);
        let error = patient.connect().unwrap_err();
        assert!(format!("{error:#}").contains("timed out"), "{error:#}");
        let other = Client::new(server(2)).patience(ANSWER);
        assert_eq!(pod(&other.udp(&query(2)).unwrap(), 2), 2);
    });
    fleet.set(&[1], Way::Open).unwrap();
    fleet.node().within(|| {
        let client = patient.patience(ANSWER);
        assert_eq!(pod(&client.udp(&query(3)).unwrap(), 3), 1);
        assert_eq!(pod(&client.tcp(&query(4)).unwrap(), 4), 1);
    });
}

#[test]
fn packets_are_lost_at_their_rate_in_both_directions() {
    let _alone = alone();
    let mut fleet = Fleet::new(Kind::THREE).unwrap();
    fleet.set(&[0], Way::Lossy(20)).unwrap();
    let answered = fleet.node().within(|| {
        let pause = Duration::from_millis(20);
        let client = Client::new(server(0)).patience(pause);
        let socket = client.udp_socket().unwrap();
        let mut buffer = [0; 1500];
        let mut answered = 0;
        for ten in 0..100 {
            for number in ten * 10..(ten + 1) * 10 {
                socket.send(&query(number).to_bytes()).unwrap();
            }
            while answered < (ten + 1) * 10 && socket.recv(&mut buffer).is_ok() {
                answered += 1;
            }
        }
        answered
    });
    // 800 of the queries, 640 of the answers, give or take five times the deviation.
    assert!((565..=715).contains(&answered), "{answered} answers");
    let asked = fleet.asked().unwrap();
    assert!((735..=865).contains(&asked), "{asked} queries came");
}

/// CoreDNS's `forward` asks a server that is silent again and again, seconds each time: were a drill
/// to call that well, it would call anything well.
#[test]
fn the_stall_of_a_forwarder_that_is_known_to_stall_is_seen() {
    let _alone = alone();
    let row = rows::find("silent-of-three").unwrap().run(&Scene {
        kind: Program::Incumbent,
        quick: true,
    });
    assert_eq!(row.failure, None);
    assert!(!row.is_passed(), "{row:?}");
    let p99 = row.figures.iter().find(|figure| figure.what == " ms p99");
    let ms = p99.unwrap().value.unwrap_or(f64::INFINITY);
    assert!(ms > 1_000.0, "{row:?}");
}
