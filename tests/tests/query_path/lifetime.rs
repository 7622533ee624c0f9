// SPDX-License-Identifier: Apache-2.0
//! How long an answer is kept, and what its TTLs say meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nodens_tests::agent::Agent;
use nodens_tests::client::Client;
use nodens_tests::fault::{Asked, Fault, Reply, Step};
use nodens_tests::query::Query;

use crate::support::{A, AAAA, Cluster};

/// The cache's clock ticks in tenths of a second.
const TICK: Duration = Duration::from_millis(100);

#[test]
fn ttls_age_each_on_its_own_and_an_expired_entry_is_asked_again() {
    let cluster = Cluster::start();
    let (tap, client) = (&cluster.tap, cluster.agent.client());
    // An alias for 60 s to an alias for 30 s to a name for 300 s.
    let chain = "chain.example.org";
    let young = client.query(chain, A).unwrap();
    assert_eq!(young.ttls(), [60, 30, 300, 300]);
    let short = "short.example.org";
    assert_eq!(client.query(short, A).unwrap().ttls(), [1]);

    thread::sleep(Duration::from_millis(2200));
    let old = client.query(chain, A).unwrap();
    let lost = 60 - old.ttls()[0];
    assert!((2..30).contains(&lost), "{lost} s");
    assert_eq!(old.ttls(), [60 - lost, 30 - lost, 300 - lost, 300 - lost]);
    assert_eq!(tap.count(chain, A), 1);

    assert_eq!(client.query(short, A).unwrap().ttls(), [1]);
    assert_eq!(tap.count(short, A), 2);
}

/// RFC 8914 section 4.14.
const CACHED_ERROR: u16 = 13;

/// A reply by the first label of the name up to its first dash.
fn by_name(asked: &Asked) -> Vec<Step> {
    let outline = asked.outline.as_ref().unwrap();
    let negative = |rcode, ttl, minimum| Reply::Negative {
        rcode,
        ttl,
        minimum,
    };
    let reply = match outline.name.split(['-', '.']).next().unwrap() {
        "second" => Reply::AddressWithTtl(1),
        "nothing" => Reply::AddressWithTtl(0),
        // RFC 2181 section 8: a TTL with its top bit set is none.
        "huge" => Reply::AddressWithTtl(0x8000_0001),
        "long" => Reply::AddressWithTtl(86_400),
        "soattl" => negative(3, 1, 3600),
        "minimum" => negative(3, 3600, 1),
        "nodata" => negative(0, 1, 3600),
        "denied" => negative(3, 3600, 3600),
        "bare" => Reply::Rcode(3),
        "empty" => Reply::Rcode(0),
        "formerr" => Reply::Rcode(1),
        "servfail" => Reply::Rcode(2),
        "notimp" => Reply::Rcode(4),
        "refused" => Reply::Rcode(5),
        other => panic!("{other}"),
    };
    vec![Step::Send(reply)]
}

/// The answer to names of this kind is kept for `life` and then asked for again. A machine so busy
/// that the life is over before a second query is out gets another name, and another chance.
fn assert_kept(client: &Client, fault: &Fault, kind: &str, zone: &str, life: Duration) {
    for number in 0..20 {
        let name = format!("{kind}-{number}.{zone}");
        let before = Instant::now();
        client.query(&name, A).unwrap();
        let answered = Instant::now();
        assert_eq!(fault.count(&name, A), 1, "{name}");
        // Late in its life, but in it.
        thread::sleep((life * 6 / 10).saturating_sub(before.elapsed()));
        client.query(&name, A).unwrap();
        if before.elapsed() + 2 * TICK > life {
            continue;
        }
        assert_eq!(fault.count(&name, A), 1, "{name} was not kept");
        thread::sleep((life + 2 * TICK).saturating_sub(answered.elapsed()));
        client.query(&name, A).unwrap();
        assert_eq!(fault.count(&name, A), 2, "{name} was kept too long");
        return;
    }
    panic!("this machine is too busy to ask twice in {life:?}");
}

#[test]
fn an_answer_is_kept_for_its_ttl_within_the_bounds_of_its_zone() {
    let fault = Fault::start(by_name).unwrap();
    let addr = fault.addr();
    let zone = |name: &str, more: &str| {
        format!("  - {{ name: \"{name}\", upstreams: [\"{addr}\"]{more} }}\n")
    };
    let config = Agent::builder().config()
        + "zones:\n"
        + &zone(".", "")
        + &zone("brief.test", ", maxTtl: 2s, maxNegativeTtl: 2s")
        + &zone("never.test", ", maxTtl: 0s, maxNegativeTtl: 0s");
    let agent = Agent::start(&config).unwrap();
    let client = agent.client();
    let lives = [
        // As RFC 2308 section 5 has it: the smaller of the SOA's TTL and its MINIMUM.
        ("second", "test", 1),
        ("soattl", "test", 1),
        ("minimum", "test", 1),
        ("nodata", "test", 1),
        // A "no" without SOA is damped, not kept.
        ("bare", "test", 1),
        ("empty", "test", 1),
        // What the zone allows.
        ("long", "brief.test", 2),
        ("denied", "brief.test", 2),
        ("second", "brief.test", 1),
        // What the cluster's zone allows by itself.
        ("denied", "svc.cluster.local", 5),
    ];
    thread::scope(|scope| {
        for (kind, zone, seconds) in lives {
            let (client, fault) = (&client, &fault);
            let life = Duration::from_secs(seconds);
            scope.spawn(move || assert_kept(client, fault, kind, zone, life));
        }
        scope.spawn(|| {
            // Above the sign bit a TTL stands for seven days (RFC 8767 section 4).
            for _ in 0..2 {
                let response = client.query("huge.test", A).unwrap();
                let ttl = response.ttls().first().copied();
                assert!(ttl > Some(604_000) && ttl <= Some(604_800), "{ttl:?}");
            }
            assert_eq!(fault.count("huge.test", A), 1);
            for (kind, zone) in [
                ("nothing", "test"),
                ("long", "never.test"),
                ("denied", "never.test"),
            ] {
                let name = format!("{kind}.{zone}");
                for number in 1..=3 {
                    client.query(&name, A).unwrap();
                    assert_eq!(fault.count(&name, A), number, "{name} was kept");
                }
            }
        });
    });
}

/// RFC 9520 section 3.2; FORMERR speaks of the query and is not kept.
#[test]
fn a_failure_is_passed_on_and_remembered_for_a_moment() {
    let fault = Fault::start(by_name).unwrap();
    let agent = Agent::builder().upstream(fault.addr()).start().unwrap();
    let client = agent.client();
    for (kind, rcode) in [
        ("servfail", ResponseCode::ServFail),
        ("refused", ResponseCode::Refused),
        ("notimp", ResponseCode::NotImp),
        ("formerr", ResponseCode::FormErr),
    ] {
        let name = format!("{kind}.example.org");
        let is_kept = rcode != ResponseCode::FormErr;
        for number in 1..=3 {
            let query = Query::new(&name, AAAA).edns(1232);
            let response = client.udp(&query).unwrap();
            assert_eq!(response.rcode(), rcode);
            let asked = if is_kept { 1 } else { number };
            assert_eq!(fault.count(&name, AAAA), asked, "{name}");
            if is_kept && number > 1 {
                assert_eq!(response.extended_error(), Some(CACHED_ERROR), "{name}");
            }
        }
    }
}
