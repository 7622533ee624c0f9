// SPDX-License-Identifier: Apache-2.0
//! What the sample cluster answers.

use hickory_proto::op::ResponseCode::{FormErr, NXDomain, NoError, NotImp, Refused};
use hickory_proto::rr::RecordType::{A, AAAA, CNAME, MX, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Record, rdata};

use super::*;
use crate::client::{Client, Response};
use crate::query::{AA, Query, TC};

fn ask(name: &str, qtype: RecordType) -> Response {
    let sample = Sample::start().unwrap();
    Client::new(sample.addr()).resolve(name, qtype).unwrap()
}

fn addresses(name: &str, qtype: RecordType) -> Vec<String> {
    let addresses = ask(name, qtype).addresses();
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_has_its_cluster_addresses_with_ttl_5() {
    let response = ask("web.prod.svc.cluster.local", A);
    assert_eq!(response.ttls(), [5]);
    assert!(response.has(AA));
    assert_eq!(response.addresses()[0].to_string(), "10.96.12.34");
    assert_eq!(
        addresses("web.prod.svc.cluster.local", AAAA),
        ["fd00:10:96::c22"]
    );
}

#[test]
fn a_headless_service_has_the_addresses_of_its_pods() {
    assert_eq!(
        addresses("db.prod.svc.cluster.local", A),
        ["10.244.1.20", "10.244.1.21", "10.244.1.22"]
    );
    assert_eq!(addresses("db.prod.svc.cluster.local", AAAA).len(), 3);
    assert_eq!(
        addresses("db-1.db.prod.svc.cluster.local", A),
        ["10.244.1.21"]
    );
    assert_eq!(addresses("wide.prod.svc.cluster.local", A).len(), 120);
    assert_eq!(
        addresses("10-244-2-7.cache.prod.svc.cluster.local", A),
        ["10.244.2.7"]
    );
}

#[test]
fn a_named_port_has_srv_records_with_the_addresses_of_their_targets() {
    let response = ask("_http._tcp.web.prod.svc.cluster.local", SRV);
    assert_eq!(response.answers.len(), 1);
    assert_eq!(
        response.answers[0].data.to_string(),
        "0 50 80 web.prod.svc.cluster.local."
    );
    assert_eq!(response.additionals.len(), 2);
    let response = ask("_postgres._tcp.db.prod.svc.cluster.local", SRV);
    assert_eq!(response.answers.len(), 3);
    assert_eq!(response.additionals.len(), 6);
    assert_eq!(ask("web.prod.svc.cluster.local", SRV).answers.len(), 2);
}

#[test]
fn addresses_have_their_names_back() {
    let v4 = ask("34.12.96.10.in-addr.arpa", PTR);
    assert_eq!(
        v4.answers[0].data.to_string(),
        "web.prod.svc.cluster.local."
    );
    let v6 = ask(
        "2.2.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
        PTR,
    );
    assert_eq!(
        v6.answers[0].data.to_string(),
        "web.prod.svc.cluster.local."
    );
    let pod = ask("21.1.244.10.in-addr.arpa", PTR);
    assert_eq!(
        pod.answers[0].data.to_string(),
        "db-1.db.prod.svc.cluster.local."
    );
}

#[test]
fn an_external_name_is_an_alias_with_what_its_target_has() {
    let full = ask("outside.prod.svc.cluster.local", A);
    let types: Vec<_> = full.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [CNAME, CNAME, A, A]);
    assert_eq!(full.ttls(), [5, 300, 300, 300]);
    let bare = ask("bare.prod.svc.cluster.local", A);
    assert_eq!((bare.rcode(), bare.answers.len()), (NoError, 1));
    let gone = ask("gone.prod.svc.cluster.local", A);
    assert_eq!((gone.rcode(), gone.answers.len()), (NoError, 1));
    assert!(bare.authorities.is_empty() && gone.authorities.is_empty());
    // A resolver of the world outside says more (RFC 6604, RFC 2308 section 2.1).
    let dangling = ask("dangling.example.org", A);
    assert_eq!((dangling.rcode(), dangling.answers.len()), (NXDomain, 1));
    assert_eq!(dangling.authorities[0].record_type(), SOA);
}

#[test]
fn pods_clustersets_and_the_version_have_names() {
    assert_eq!(
        addresses("10-244-1-5.prod.pod.cluster.local", A),
        ["10.244.1.5"]
    );
    assert_eq!(
        addresses("fd00-10-244-1--5.prod.pod.cluster.local", AAAA),
        ["fd00:10:244:1::5"]
    );
    assert_eq!(
        addresses("web.prod.svc.clusterset.local", A),
        ["10.97.0.20"]
    );
    assert_eq!(
        addresses("db-0.west.db.prod.svc.clusterset.local", A),
        ["10.245.1.20"]
    );
    let version = ask("dns-version.cluster.local", TXT);
    assert_eq!(version.answers[0].data.to_string(), "1.1.0");
}

#[test]
fn what_does_not_exist_is_denied_as_coredns_denies_it() {
    for (name, qtype, rcode) in [
        ("com.prod.svc.cluster.local", A, NXDomain),
        ("com.svc.cluster.local", A, NXDomain),
        ("com.cluster.local", A, NXDomain),
        ("svc.cluster.local", A, NoError),
        ("prod.svc.cluster.local", A, NoError),
        ("pod.cluster.local", A, NoError),
        ("_tcp.web.prod.svc.cluster.local", SRV, NXDomain),
        ("_nope._tcp.web.prod.svc.cluster.local", SRV, NXDomain),
        ("idle.prod.svc.cluster.local", A, NXDomain),
        ("api.prod.svc.cluster.local", AAAA, NoError),
        ("web.prod.svc.cluster.local", TXT, NoError),
        ("1.0.0.10.in-addr.arpa", PTR, NXDomain),
    ] {
        let response = ask(name, qtype);
        assert_eq!(response.rcode(), rcode, "{name}");
        assert!(response.answers.is_empty(), "{name}");
        let soa = &response.authorities[0];
        assert_eq!((soa.record_type(), soa.ttl), (SOA, 5), "{name}");
    }
    let stripe = ask("api.stripe.com", A);
    assert_eq!(stripe.rcode(), NXDomain);
    assert_eq!(stripe.authorities[0].ttl, 86_400);
}

#[test]
fn the_world_outside_answers_too() {
    assert_eq!(addresses("example.org", A), ["192.0.2.10", "192.0.2.11"]);
    let www = ask("www.example.org", AAAA);
    assert_eq!(www.addresses()[0].to_string(), "2001:db8::10");
    assert!(!www.has(AA));
    let mx = ask("example.org", MX);
    assert_eq!((mx.answers.len(), mx.additionals.len()), (1, 1));
    assert_eq!(ask("chain.example.org", A).ttls(), [60, 30, 300, 300]);
}

#[test]
fn what_does_not_fit_is_cut_at_a_record_and_says_so() {
    let sample = Sample::start().unwrap();
    let client = Client::new(sample.addr());
    for (name, qtype, size, whole) in [
        ("big.example.org", TXT, 1232, 10),
        ("huge.example.org", TXT, 4096, 40),
        ("many.example.org", A, 512, 100),
        ("crowd.example.org", A, 4096, 512),
    ] {
        let query = Query::new(name, qtype).edns(size);
        let cut = client.udp(&query).unwrap();
        assert!(cut.has(TC), "{name}");
        assert!(cut.bytes.len() <= usize::from(size), "{name}");
        assert!((1..whole).contains(&cut.answers.len()), "{name}");
        assert!(cut.edns.is_some(), "{name}");
        let full = client.tcp(&query).unwrap();
        assert!(!full.has(TC), "{name}");
        assert_eq!(full.answers.len(), whole, "{name}");
        assert!(full.bytes.len() > usize::from(size), "{name}");
    }
    let without_edns = client.query("big.example.org", TXT).unwrap();
    assert!(without_edns.bytes.len() <= 512 && without_edns.edns.is_none());
}

#[test]
fn names_in_answers_point_at_the_question_and_keep_its_letter_case() {
    let response = ask("WEB.proD.svc.Cluster.Local", A);
    assert_eq!(
        response.answers[0].name.to_ascii(),
        "WEB.proD.svc.Cluster.Local."
    );
    let question = 12 + response.outline.question.len();
    assert_eq!(response.bytes.len(), question + 16);
}

#[test]
fn odd_queries_are_refused_each_in_its_way() {
    let sample = Sample::start().unwrap();
    let client = Client::new(sample.addr()).patience(Duration::from_millis(200));
    let rcode = |query: Query| client.udp(&query).unwrap().rcode();
    let web = || Query::new("web.prod.svc.cluster.local", A);
    assert_eq!(rcode(web().opcode(4)), NotImp);
    assert_eq!(rcode(web().class(3)), Refused);
    let badvers = client.udp(&web().edns_version(1)).unwrap();
    assert_eq!(badvers.outline.rcode(), 16);
    let mut two_questions = web().to_bytes();
    two_questions[5] = 2;
    let response = client.udp_bytes(&two_questions).unwrap().unwrap();
    assert_eq!(response[3] & 0xf, u8::try_from(u16::from(FormErr)).unwrap());
    assert!(client.udp_bytes(&[1, 2, 3]).unwrap().is_none());
    let response = web().flags(0x8000).to_bytes();
    assert!(client.udp_bytes(&response).unwrap().is_none());
}

#[test]
fn one_connection_carries_many_queries_answered_in_order() {
    let sample = Sample::start().unwrap();
    let mut connection = Client::new(sample.addr()).connect().unwrap();
    for id in 0..100 {
        let query = Query::new("web.prod.svc.cluster.local", A).id(id);
        connection.send(&query).unwrap();
    }
    for id in 0..100 {
        let response = connection.receive().unwrap().unwrap();
        assert_eq!(Outline::read(&response).unwrap().id, id);
    }
    assert_eq!(sample.queries("WEB.prod.svc.cluster.local.", A), 100);
    assert_eq!(sample.queries("web.prod.svc.cluster.local", AAAA), 0);
    assert_eq!((sample.total(), sample.connections()), (100, 1));
}

#[test]
fn a_connection_without_a_query_is_closed_after_3_s() {
    let sample = Sample::start().unwrap();
    let start = std::time::Instant::now();
    let mut connection = Client::new(sample.addr()).connect().unwrap();
    assert!(connection.receive().unwrap().is_none());
    let waited = start.elapsed().as_secs_f64();
    assert!((2.5..4.5).contains(&waited), "closed after {waited} s");
}

#[test]
fn records_change_at_run_time() {
    let sample = Sample::start().unwrap();
    let client = Client::new(sample.addr());
    let name = "new.prod.svc.cluster.local";
    assert_eq!(client.query(name, A).unwrap().rcode(), NXDomain);
    let address = RData::A(rdata::A::new(10, 96, 1, 1));
    sample.set(name, A, 7, vec![address]);
    assert_eq!(client.query(name, A).unwrap().ttls(), [7]);
    sample.remove(name);
    assert_eq!(client.query(name, A).unwrap().rcode(), NXDomain);
    sample.set_delay(Duration::from_millis(150));
    let slow = client.query(name, A).unwrap();
    assert!(slow.elapsed >= Duration::from_millis(150));
    assert_eq!(sample.queries(name, A), 4);
}

#[test]
fn every_name_below_bench_has_an_address_that_can_be_checked() {
    let sample = Sample::start().unwrap();
    let client = Client::new(sample.addr());
    sample.set_bench_ttl(77);
    for query in [
        Query::new("X1.bench.cluster.local", A),
        Query::new("x2.bench.cluster.local", A)
            .edns(1232)
            .dnssec_ok(),
    ] {
        let response = client.udp(&query).unwrap();
        let name = response.queries[0].name.to_ascii();
        assert_eq!(response.addresses(), [bench_address(&name)]);
        assert_eq!(response.ttls(), [77]);
    }
    let none = client.query("x1.bench.cluster.local", AAAA).unwrap();
    assert_eq!((none.rcode(), none.authorities.len()), (NoError, 1));
    assert_ne!(
        bench_address("x1.bench.cluster.local"),
        bench_address("x2.bench.cluster.local")
    );
}

#[test]
fn a_sample_that_refuses_comes_back() {
    let mut sample = Sample::start().unwrap();
    let client = Client::new(sample.addr());
    sample.refuse().unwrap();
    client.query("example.org", A).unwrap_err();
    sample.resume().unwrap();
    client.query("example.org", A).unwrap();
    client.tcp(&Query::new("example.org", A)).unwrap();
}
