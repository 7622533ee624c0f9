// SPDX-License-Identifier: Apache-2.0
//! What a client sent comes back to it: ID, letter case, flags, EDNS; and no more than it can take.

use std::time::Duration;

use nodens_tests::agent::Agent;
use nodens_tests::client::{Client, Response};
use nodens_tests::fault::{ADDRESS, Asked, Fault, Reply, Step};
use nodens_tests::query::{AD, Edns, Outline, QR, Query, RA, RD, TC};
use nodens_tests::sample::Sample;

use crate::support::{A, DAY, TXT, assert_echo, wait_for_metric, with_case};

#[test]
fn every_client_gets_back_its_id_letter_case_flags_and_edns() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let client = agent.client();
    let mut connection = client.connect().unwrap();
    let mut answered = None;
    // A miss first, then hits.
    for turn in 0..3_u16 {
        for bits in 0..32_usize {
            let is_set = |bit: usize| bits >> bit & 1 == 1;
            let mut query = Query::new(&with_case(DAY, bits * 61), A)
                .id(turn.wrapping_mul(0x7777) ^ 0xfffe)
                .rd(is_set(0))
                .cd(is_set(1))
                .ad(is_set(2));
            if is_set(3) {
                query = query.edns(4096).option(10, b"cookie!!");
            }
            if is_set(4) {
                query = query.dnssec_ok();
            }
            let udp = client.udp(&query).unwrap();
            let tcp = connection.ask(&query).unwrap();
            assert_echo(&query, &udp);
            assert_echo(&query, &tcp);
            let addresses = answered.get_or_insert_with(|| udp.addresses());
            assert_eq!(addresses.len(), 1);
            assert_eq!(
                (&udp.addresses(), &tcp.addresses()),
                (&*addresses, &*addresses)
            );
        }
    }
    // One for each of DO and CD.
    assert_eq!(sample.queries(DAY, A), 4);
}

/// A good answer that says its data is authentic.
fn authentic(asked: &Asked) -> Vec<Step> {
    let outline = asked.outline.as_ref().unwrap();
    let mut bytes = Vec::new();
    for word in [outline.id, QR | RD | RA | AD, 1, 1, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(&outline.question);
    bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
    bytes.extend(ADDRESS.octets());
    vec![Step::Send(Reply::Bytes(bytes))]
}

#[test]
fn ad_goes_to_those_who_sent_ad_or_do_and_only_where_the_upstream_set_it() {
    let sample = Sample::start().unwrap();
    let fault = Fault::start(authentic).unwrap();
    let agent = Agent::builder()
        .upstream(sample.addr())
        .zone("signed.test", &[fault.addr()])
        .start()
        .unwrap();
    let client = agent.client();
    for (name, is_authentic) in [("a.signed.test", true), (DAY, false)] {
        for _ in 0..2 {
            let plain = Query::new(name, A);
            for (query, asks_for_it) in [
                (plain.clone(), false),
                (plain.clone().edns(1232), false),
                (plain.clone().ad(true), true),
                (plain.clone().dnssec_ok(), true),
                (plain.clone().dnssec_ok().ad(true), true),
                (plain.clone().cd(true), false),
            ] {
                let udp = client.udp(&query).unwrap();
                let tcp = client.tcp(&query).unwrap();
                let expected = is_authentic && asks_for_it;
                assert_eq!(udp.has(AD), expected, "{query:?}");
                assert_eq!(tcp.has(AD), expected, "{query:?}");
                assert_eq!(udp.addresses().len(), 1);
            }
        }
    }
    // The upstream is told that AD is understood here (RFC 6840 section 5.7).
    for asked in fault.asked() {
        assert_eq!(asked.outline.unwrap().flags & (AD | RD), AD | RD);
    }
}

/// The answer over UDP: within `limit`, cut only where it must be, whole records, and all of them
/// over TCP.
fn assert_fits(client: &Client, query: &Query, limit: usize) -> Response {
    let udp = client.udp(query).unwrap();
    let tcp = client.tcp(query).unwrap();
    assert!(!tcp.has(TC));
    assert!(udp.bytes.len() <= limit, "{} octets", udp.bytes.len());
    let (some, all) = (&udp.answers, &tcp.answers);
    assert_eq!(some[..], all[..some.len()]);
    assert_eq!(udp.has(TC), some.len() < all.len());
    udp
}

#[test]
fn an_answer_over_udp_is_as_large_as_the_client_takes_and_the_rest_comes_over_tcp() {
    /// A record with its owner compressed to the question's name.
    const RECORD: usize = 2 + 10 + 4;
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let client = agent.client();
    // 100 addresses, 1,600 octets and more.
    let many = Query::new("many.example.org", A);
    for (query, limit) in [
        (many.clone(), 512),
        (many.clone().edns(0), 512),
        (many.clone().edns(511), 512),
        (many.clone().edns(700), 700),
        (many.clone().edns(1231), 1231),
        (many.clone().edns(1232), 1232),
        (many.clone().edns(4096), 1232),
        (many.clone().edns(65_535).dnssec_ok(), 1232),
    ] {
        for _ in 0..2 {
            let udp = assert_fits(&client, &query, limit);
            // Not one record more would have fitted.
            assert!(udp.has(TC));
            assert!(udp.bytes.len() + RECORD > limit, "{query:?} got too little");
            assert_echo(&query, &udp);
        }
    }
    for (name, qtype, limit) in [
        ("big.example.org", TXT, 1232),
        ("huge.example.org", TXT, 1232),
        ("crowd.example.org", A, 1232),
        ("wide.prod.svc.cluster.local", A, 1232),
        ("db.prod.svc.cluster.local", 33, 1232),
    ] {
        assert_fits(&client, &Query::new(name, qtype), 512);
        assert_fits(&client, &Query::new(name, qtype).edns(4096), limit);
        let whole = client.resolve(name, qtype).unwrap();
        assert!(!whole.has(TC) && !whole.answers.is_empty());
    }

    let roomy = Agent::builder()
        .upstream(sample.addr())
        .set("listen.udpSize", "4096")
        .start()
        .unwrap();
    let whole = roomy.client().udp(&many.clone().edns(4096)).unwrap();
    assert_eq!(whole.answers.len(), 100);
    assert!(!whole.has(TC));
    assert_eq!(
        whole.outline.edns.as_ref().map(|edns| edns.size),
        Some(4096)
    );
    assert!(roomy.client().udp(&many.edns(1232)).unwrap().has(TC));
}

/// Octets that are no query for us, the response code they get, and the reason they are counted
/// under. No code: no answer.
fn misfits() -> Vec<(Vec<u8>, Option<u16>, &'static str)> {
    let query = Query::new(DAY, A);
    let with_counts = |at: usize, count: u8| {
        let mut bytes = query.to_bytes();
        bytes[at] = count;
        bytes
    };
    let two_opts = {
        let mut bytes = query.clone().edns(1232).to_bytes();
        bytes.extend(Edns::new(1232).to_bytes());
        bytes[11] = 2;
        bytes
    };
    let cut_name = query.to_bytes()[..20].to_vec();
    let pointing = {
        let mut bytes = query.to_bytes()[..12].to_vec();
        bytes.extend(b"\xc0\x0c\x00\x01\x00\x01");
        bytes
    };
    vec![
        (vec![0; 11], None, "short"),
        (query.clone().flags(QR | RD).to_bytes(), None, "response"),
        (query.clone().opcode(4).to_bytes(), Some(4), "notimp"),
        (with_counts(5, 0), Some(1), "formerr"),
        (with_counts(5, 2), Some(1), "formerr"),
        (with_counts(7, 1), Some(1), "formerr"),
        (cut_name, Some(1), "formerr"),
        (pointing, Some(1), "formerr"),
        (two_opts, Some(1), "formerr"),
        (
            query.clone().edns_version(1).to_bytes(),
            Some(16),
            "badvers",
        ),
        (query.clone().class(3).to_bytes(), Some(5), "refused_class"),
        (Query::new(DAY, 252_u16).to_bytes(), Some(5), "refused_type"),
        (Query::new(DAY, 251_u16).to_bytes(), Some(5), "refused_type"),
    ]
}

#[test]
fn what_is_no_query_for_us_is_refused_or_met_with_silence_and_counted_by_reason() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let client = agent.client();
    let good = Query::new(DAY, A);
    let mut connection = client.connect().unwrap();
    let socket = client.udp_socket().unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for (bytes, rcode, reason) in misfits() {
        // A good query behind it: its answer comes first where the misfit gets none.
        socket.send(&bytes).unwrap();
        socket.send(&good.to_bytes()).unwrap();
        let both = [
            nodens_tests::frames::frame(&bytes),
            nodens_tests::frames::frame(&good.to_bytes()),
        ];
        connection.send_bytes(&both.concat()).unwrap();
        let mut receive_udp = || {
            let mut buffer = [0; 1500];
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        let mut receive_tcp = || connection.receive().unwrap().unwrap();
        let receivers: [&mut dyn FnMut() -> Vec<u8>; 2] = [&mut receive_udp, &mut receive_tcp];
        for receive in receivers {
            let mut answers = vec![receive()];
            if rcode.is_some() {
                answers.push(receive());
            }
            let is_good = |bytes: &Vec<u8>| {
                Response::judge(&good.to_bytes(), bytes.clone(), Duration::ZERO)
                    .is_ok_and(|response| response.answers.len() == 1)
            };
            let at = answers.iter().position(is_good).expect(reason);
            answers.remove(at);
            if let Some(answer) = answers.pop() {
                let outline = Outline::read(&answer).unwrap();
                assert_eq!(Some(outline.rcode()), rcode, "{reason}: {outline:?}");
                assert_eq!(outline.id.to_be_bytes(), bytes[..2], "{reason}");
                assert!(outline.is_response(), "{reason}");
            }
        }
        *counts.entry(reason).or_insert(0) += 1;
    }
    for (reason, count) in counts {
        for proto in ["udp", "tcp"] {
            let labels = [("reason", reason), ("proto", proto)];
            wait_for_metric(&agent, "nodens_queries_rejected_total", &labels, count);
        }
    }
    assert_eq!(sample.total(), 1, "nothing of it went upstream");
}
