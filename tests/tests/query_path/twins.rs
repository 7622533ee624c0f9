// SPDX-License-Identifier: Apache-2.0
//! A and AAAA in one burst from one socket with neighbouring IDs, as glibc and musl ask: two answers
//! for two questions, never the one for the other, and one upstream query each.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use nodens_tests::agent::Agent;
use nodens_tests::client::{Client, Response};
use nodens_tests::fault::{self, ADDRESS, ADDRESS6, Fault, Reply};
use nodens_tests::query::Query;

use crate::support::{A, AAAA};

/// Pairs that one socket asks for in one burst: more than a worker takes in together.
const PAIRS: u16 = 40;

fn name(pair: u16) -> String {
    format!("twin-{pair}.example.org")
}

/// Both queries of a pair: their IDs differ in their last bit, or by one across a boundary.
fn pair(number: u16, first: u16) -> [Query; 2] {
    let id = first.wrapping_add(2 * number);
    [
        Query::new(&name(number), A).id(id),
        Query::new(&name(number), AAAA).id(id.wrapping_add(1)),
    ]
}

/// Sends all at once and takes in one answer for each; each must be its own query's.
#[track_caller]
fn ask(socket: &UdpSocket, queries: &[Query]) {
    let mut open = BTreeMap::new();
    for query in queries {
        socket.send(&query.to_bytes()).unwrap();
        let octets = query.to_bytes();
        open.insert([octets[0], octets[1]], octets);
    }
    let mut buffer = [0; 1500];
    while !open.is_empty() {
        let length = socket.recv(&mut buffer).unwrap();
        let got = buffer[..length].to_vec();
        let sent = open.remove(&[got[0], got[1]]).unwrap();
        // The question must be the one that went with this ID.
        let response = Response::judge(&sent, got, Duration::ZERO).unwrap();
        let is_ipv6 = sent[sent.len() - 3] == 28;
        let wanted: IpAddr = if is_ipv6 {
            ADDRESS6.into()
        } else {
            ADDRESS.into()
        };
        assert_eq!(response.addresses(), [wanted]);
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "one answer too many");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
}

#[test]
fn twins_of_one_burst_are_never_taken_for_each_other_and_cost_a_query_each() {
    let fault = Fault::start(fault::reply(Reply::Address)).unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("cache.prefetch", "false")
        .start()
        .unwrap();
    let client = Client::new(agent.addr());
    let socket = client.udp_socket().unwrap();
    // IDs pass over the end of their range, in the middle of a pair.
    let queries: Vec<Query> = (0..PAIRS)
        .flat_map(|number| pair(number, u16::MAX - PAIRS))
        .collect();
    ask(&socket, &queries);
    for number in 0..PAIRS {
        assert_eq!(fault.count(&name(number), A), 1);
        assert_eq!(fault.count(&name(number), AAAA), 1);
    }
    // From the cache, with other IDs, and from other sockets that ask the same at once.
    ask(&socket, &queries);
    for first in [0, 1, 255, 32_767] {
        let queries: Vec<Query> = (0..PAIRS).flat_map(|number| pair(number, first)).collect();
        ask(&client.udp_socket().unwrap(), &queries);
    }
    assert_eq!(fault.total(), 2 * usize::from(PAIRS));
}
