// SPDX-License-Identifier: Apache-2.0
//! What clients see of an upstream that goes, and of names that are asked for all the time.

use std::time::{Duration, Instant};

use nodens_tests::agent::Agent;
use nodens_tests::client::Client;
use nodens_tests::fault::{self, ADDRESS, Fault, Reply};

use crate::support::{A, PATIENCE, wait_for_metric};

/// Stale Answer (RFC 8914 section 4.4).
const STALE: u16 = 3;
const NAMES: usize = 50;

fn name(number: usize) -> String {
    format!("warm-{number}.example.org")
}

#[test]
fn warm_names_are_answered_with_data_through_an_outage_and_afresh_behind_it() {
    let mut fault = Fault::start(fault::reply(Reply::AddressWithTtl(1))).unwrap();
    let agent = Agent::builder().upstream(fault.addr()).start().unwrap();
    let client = Client::new(agent.addr());
    for number in 0..NAMES {
        client.query(&name(number), A).unwrap();
    }
    fault.refuse().unwrap();
    fault.reset_connections();
    std::thread::sleep(Duration::from_millis(1200));
    let began = Instant::now();
    let mut stale = 0;
    while began.elapsed() < Duration::from_secs(7) {
        for number in 0..NAMES {
            let query = nodens_tests::query::Query::new(&name(number), A).edns(1232);
            let response = client.udp(&query).unwrap();
            assert_eq!(response.addresses(), [ADDRESS]);
            assert_eq!(response.extended_error(), Some(STALE));
            assert_eq!(response.ttls(), [30]);
            stale += 1;
        }
    }
    // Each name was looked for again once: most answers came from the cache.
    let put_back = agent.metric("nodens_cache_stale_total", &[("zone", ".")]);
    let put_back = put_back.unwrap();
    let most = f64::from(u16::try_from(3 * NAMES).unwrap());
    assert!(put_back <= most, "{put_back} of {stale}");

    fault.resume().unwrap();
    let end = Instant::now() + PATIENCE;
    let query = nodens_tests::query::Query::new(&name(0), A).edns(1232);
    while client.udp(&query).unwrap().extended_error().is_some() {
        assert!(Instant::now() < end, "nothing fresh after the outage");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_name_that_is_asked_all_the_time_is_missed_once() {
    let fault = Fault::start(fault::reply(Reply::AddressWithTtl(2))).unwrap();
    let agent = Agent::builder().upstream(fault.addr()).start().unwrap();
    let client = Client::new(agent.addr());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        client.query("hot.example.org", A).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    wait_for_metric(&agent, "nodens_cache_misses_total", &[("zone", ".")], 1);
    let asked = fault.total();
    assert!((4..=9).contains(&asked), "{asked} queries in 7 s of TTL 2");
}
