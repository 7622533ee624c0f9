// SPDX-License-Identifier: Apache-2.0
//! How long answers are kept: by their records, by their zone, by what they say.

use super::keep::lifetime;
use super::*;
use crate::config::{Transport, Zone};
use crate::wire::name::Name;
use crate::wire::response::{Expected, MAX_OFFSETS, Response};

/// The question `a. A IN`.
const QUESTION: &[u8] = b"\x01a\x00\x00\x01\x00\x01";
const NXDOMAIN: u8 = 3;

/// A response with these low flags, answer records and authority records.
fn response(flags: [u8; 2], answers: &[Vec<u8>], authorities: &[Vec<u8>]) -> Response {
    let count = |records: &[Vec<u8>]| u8::try_from(records.len()).unwrap();
    let mut message = vec![0, 7, 0x80 | flags[0], flags[1], 0, 1];
    message.extend([0, count(answers), 0, count(authorities), 0, 0]);
    message.extend(QUESTION);
    message.extend([answers, authorities].concat().concat());
    let expected = Expected {
        id: 7,
        question: QUESTION,
    };
    Response::parse(&mut message, &expected, &mut vec![0; MAX_OFFSETS]).unwrap()
}

fn record(rtype: u8, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12, 0, rtype, 0, 1];
    record.extend(ttl.to_be_bytes());
    record.extend([0, u8::try_from(data.len()).unwrap()]);
    record.extend(data);
    record
}

fn address(ttl: u32) -> Vec<u8> {
    record(1, ttl, &[10, 0, 0, 1])
}

/// An SOA record of the root zone with this TTL and this MINIMUM.
fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut data = vec![0; 2 + 16];
    data.extend(minimum.to_be_bytes());
    let of_question = record(6, ttl, &data);
    [&[0], &of_question[2..]].concat()
}

/// The lifetime in a zone that keeps positive answers 60 s and negative ones 10 s at most.
fn seconds(response: &Response) -> Option<u32> {
    let zone = Zone {
        name: Name::ROOT,
        upstreams: Vec::new(),
        resolv_conf: None,
        transport: Transport::Tcp,
        pipeline: None,
        max_ttl: 60,
        max_negative_ttl: 10,
        min_ttl: 0,
        min_negative_ttl: 0,
        max_failure_ttl: 5,
        stale_after: None,
        in_order: false,
        rotate: false,
        cuts: false,
        rewrites: Vec::new(),
        dns64: None,
        answers: Arc::default(),
    };
    let routes = Routes::new(&[zone], &Arc::new(Telemetry::new(1)), None);
    lifetime(response, routes.of(b"\x01a\x00"))
}

#[test]
fn an_answer_lives_as_long_as_its_shortest_record_within_the_bound_of_its_zone() {
    let both = [address(30), address(5)];
    assert_eq!(seconds(&response([0, 0], &both, &[])), Some(5));
    assert_eq!(seconds(&response([0, 0], &[address(300)], &[])), Some(60));
    assert_eq!(seconds(&response([0, 0], &[address(0)], &[])), None);
}

#[test]
fn a_denial_lives_as_long_as_its_soa_says_and_a_second_without_one() {
    for rcode in [0, NXDOMAIN] {
        let denied = |authorities: &[Vec<u8>]| seconds(&response([0, rcode], &[], authorities));
        assert_eq!(denied(&[soa(30, 5)]), Some(5));
        assert_eq!(denied(&[soa(3, 5)]), Some(3));
        assert_eq!(denied(&[soa(300, 300)]), Some(10));
        assert_eq!(denied(&[soa(0, 5)]), None);
        assert_eq!(denied(&[]), Some(1));
    }
}

#[test]
fn a_chain_to_a_name_that_does_not_exist_lives_no_longer_than_the_denial() {
    let chain = [record(5, 30, b"\x01b\x00")];
    let denied = response([0, NXDOMAIN], &chain, &[soa(30, 5)]);
    assert_eq!(seconds(&denied), Some(5));
    assert_eq!(seconds(&response([0, NXDOMAIN], &chain, &[])), Some(1));
}

#[test]
fn what_is_truncated_or_failed_is_not_kept() {
    assert_eq!(seconds(&response([2, 0], &[address(30)], &[])), None);
    for rcode in [1, 2, 4, 5] {
        assert_eq!(seconds(&response([0, rcode], &[], &[soa(30, 5)])), None);
    }
}

/// Limits with one place for all, and one connection.
pub(super) fn limits() -> Limits {
    Limits {
        in_flight: 1,
        query_timeout: Duration::from_secs(4),
        attempt_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        upstream_connections: 1,
        upstream_idle: Duration::from_secs(8),
        hedge_percent: 5,
        loop_probes: Duration::ZERO,
        drain_timeout: Duration::ZERO,
    }
}

#[test]
fn a_miss_under_way_takes_little_memory() {
    let telemetry = Arc::new(Telemetry::new(1));
    let cache = Cache::new(1 << 20, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let resolver = Resolver::new(
        cache.clone(),
        cache.reader().unwrap(),
        Routes::new(&[], &telemetry, None),
        limits(),
        CacheConfig {
            size_bytes: 1 << 20,
            stale_for: Duration::ZERO,
            stale_after: Duration::from_millis(1800),
            prefetch: false,
        },
        1232,
        telemetry,
    );
    let route = Arc::clone(resolver.routes().of(b"\x00"));
    let question = Question::new();
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let flight = Flight::new(&resolver, Arc::new(question), &route, nobody);
    let size = size_of_val(&Arc::clone(&resolver).resolve(flight, 0, None, None));
    // Ten thousand of them may wait while no upstream answers.
    assert!(size <= 1600, "{size} octets, question and waiters apart");
}
