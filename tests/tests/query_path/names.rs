// SPDX-License-Identifier: Apache-2.0
//! Every name is answered as CoreDNS answers it, and costs it one query.

use hickory_proto::rr::{Record, RecordType};
use nodens_tests::client::{Client, Response};
use nodens_tests::query::{Query, TC};
use nodens_tests::sample::Zones;

use crate::support::{A, AAAA, Cluster, DAY, TXT, assert_echo, section, with_case};

/// All names of the sample and the names above them, and some that do not exist. The 120 pods of
/// one Service are all alike: the first of them stands for all.
fn names() -> Vec<String> {
    let zones = Zones::default();
    let known = zones.iter().flat_map(|zone| zone.names());
    let mut names: Vec<String> = known.map(|name| name.to_ascii()).collect();
    names.retain(|name| !name.contains("10-244-9-") || name.contains("10-244-9-1."));
    names.retain(|name| !name.ends_with("9.244.10.in-addr.arpa.") || name.starts_with("1."));
    let missing = [
        "com.prod.svc.cluster.local.",
        "com.svc.cluster.local.",
        "com.cluster.local.",
        "idle.prod.svc.cluster.local.",
        "_nope._tcp.web.prod.svc.cluster.local.",
        "1.0.0.10.in-addr.arpa.",
        "missing.example.org.",
        "api.stripe.com.",
    ];
    names.extend(missing.map(str::to_owned));
    names
}

/// The records are those that CoreDNS gave, and none lives longer.
#[track_caller]
fn assert_same(what: &str, ours: &[Record], theirs: &[Record]) {
    let (ours, theirs) = (section(ours), section(theirs));
    let texts = |lines: &[(String, u32)]| lines.iter().map(|(t, _)| t.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&ours), texts(&theirs), "{what}");
    for ((text, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        assert!(
            ours <= theirs,
            "{what}: {text} lives {ours} s, not {theirs}"
        );
    }
}

#[track_caller]
fn assert_same_answer(what: &str, ours: &Response, theirs: &Response) {
    assert_eq!(ours.rcode(), theirs.rcode(), "{what}");
    assert_same(what, &ours.answers, &theirs.answers);
    assert_same(what, &ours.authorities, &theirs.authorities);
    assert_same(what, &ours.additionals, &theirs.additionals);
}

/// What a truncated answer has is part of the whole one, in its order, whichever record comes first:
/// addresses take turns.
#[track_caller]
fn assert_beginning(what: &str, ours: &Response, whole: &Response) {
    assert_eq!(ours.rcode(), whole.rcode(), "{what}");
    let texts = |response: &Response| {
        let sections = [
            &response.answers,
            &response.authorities,
            &response.additionals,
        ];
        let records = sections.into_iter().flatten();
        let texts = records.map(|record| record.data.to_string());
        texts.collect::<Vec<_>>()
    };
    let (ours, mut whole) = (texts(ours), texts(whole));
    assert!(ours.len() < whole.len(), "{what} is said to be cut");
    let is_part = (0..whole.len()).any(|_| {
        whole.rotate_left(1);
        whole.starts_with(&ours)
    });
    assert!(is_part, "{what}: {ours:?} of {whole:?}");
}

#[test]
fn every_name_of_the_sample_is_answered_as_coredns_answers_it() {
    let cluster = Cluster::start();
    let ours = cluster.agent.client();
    let mut over_tcp = ours.connect().unwrap();
    let mut theirs = Client::new(cluster.coredns.addr()).connect().unwrap();
    let mut compared = 0;
    let mut cut = 0;
    for name in names() {
        for rtype in [
            RecordType::A,
            RecordType::AAAA,
            RecordType::SRV,
            RecordType::TXT,
            RecordType::PTR,
            RecordType::CNAME,
            RecordType::MX,
            RecordType::SOA,
        ] {
            let what = format!("{name} {rtype}");
            let query = Query::new(&with_case(&name, compared), rtype).rd(compared % 2 == 0);
            // Over UDP it is a miss, over TCP most often a hit; both are asked before CoreDNS is,
            // so that neither can be older than it.
            let udp = ours.udp(&query).unwrap();
            let tcp = over_tcp.ask(&query).unwrap();
            let expected = theirs.ask(&query).unwrap();
            assert_echo(&query, &udp);
            assert_echo(&query, &tcp);
            assert!(!tcp.has(TC), "{what}");
            assert_same_answer(&what, &tcp, &expected);
            if udp.has(TC) {
                assert!(udp.bytes.len() <= 512, "{what}");
                assert_beginning(&what, &udp, &tcp);
                cut += 1;
            } else {
                assert_same_answer(&what, &udp, &expected);
            }
            compared += 1;
        }
    }
    assert!(compared > 600, "{compared} answers compared");
    assert!(cut > 5, "{cut} answers were too long for 512 octets");
}

#[test]
fn a_repeated_name_costs_no_second_upstream_query() {
    let cluster = Cluster::start();
    let (tap, client) = (&cluster.tap, cluster.agent.client());
    let mut connection = client.connect().unwrap();
    for (name, qtype) in [
        (DAY, A),
        // NODATA and NXDOMAIN, both for 30 s.
        (DAY, AAAA),
        ("missing.example.org", A),
        ("text.example.org", TXT),
    ] {
        for turn in 0..20 {
            let query = Query::new(&with_case(name, turn * 37), qtype);
            client.udp(&query).unwrap();
            client.udp(&query.clone().edns(1232)).unwrap();
            connection.ask(&query).unwrap();
        }
        assert_eq!(tap.count(name, qtype), 1, "{name} {qtype}");
    }
    assert_eq!(tap.total(), 4);
}

#[test]
fn a_query_with_do_or_cd_costs_an_upstream_query_of_its_own_that_says_so() {
    let cluster = Cluster::start();
    let (tap, client) = (&cluster.tap, cluster.agent.client());
    let plain = Query::new(DAY, A);
    let variants = [
        plain.clone(),
        plain.clone().dnssec_ok(),
        plain.clone().cd(true),
        plain.cd(true).dnssec_ok(),
    ];
    for number in 1..=3 {
        for (at, query) in variants.iter().enumerate() {
            let over_udp = client.udp(query).unwrap();
            let over_tcp = client.tcp(query).unwrap();
            assert_echo(query, &over_udp);
            assert_echo(query, &over_tcp);
            assert_eq!(over_udp.addresses(), over_tcp.addresses());
            if number == 1 {
                assert_eq!(tap.count(DAY, A), at + 1);
            }
        }
    }
    let asked: Vec<_> = tap
        .queries()
        .iter()
        .map(|query| {
            let outline = query.outline.as_ref().unwrap();
            let edns = outline.edns.as_ref().unwrap();
            let checking_disabled = outline.flags & nodens_tests::query::CD != 0;
            (edns.dnssec_ok, checking_disabled)
        })
        .collect();
    let expected = [(false, false), (true, false), (false, true), (true, true)];
    assert_eq!(asked, expected);
}
