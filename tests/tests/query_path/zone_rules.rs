// SPDX-License-Identifier: Apache-2.0
//! What a zone makes of its names beside asking for them: other names, addresses for NAT64, least TTLs,
//! the order of its servers, answers of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nodens_tests::agent::{Agent, Builder};
use nodens_tests::coredns::CoreDns;
use nodens_tests::fault::{self, Fault, Reply};
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::support::A;

const AAAA: u16 = 28;
const SRV: u16 = 33;
/// Stale Answer (RFC 8914 section 4.4).
const STALE: u16 = 3;

/// An agent whose root zone has these servers and further keys, as YAML writes them.
fn agent(servers: &[SocketAddr], keys: &str) -> Builder {
    let servers: Vec<_> = servers
        .iter()
        .map(|server| format!("\"{server}\""))
        .collect();
    let servers = servers.join(", ");
    let zones = format!("--zones=[{{name: ., upstreams: [{servers}], {keys}}}]");
    Agent::builder().arg(&zones)
}

/// The real CoreDNS with names that are made on the spot.
fn coredns() -> CoreDns {
    let templates = "log\n\
        template IN A new.example {\n answer \"{{ .Name }} 60 IN A 192.0.2.33\"\n}\n\
        template IN SRV new.example {\n answer \"{{ .Name }} 60 IN SRV 0 0 80 target.new.example.\"\n}\n\
        template IN ANY new.example {\n rcode NXDOMAIN\n \
        authority \"new.example. 60 IN SOA ns.new.example. root.new.example. 1 2 3 4 40\"\n}\n\
        template IN A v4.example {\n answer \"{{ .Name }} 60 IN A 192.0.2.33\"\n}\n\
        template IN AAAA v4.example {\n rcode NOERROR\n \
        authority \"v4.example. 60 IN SOA ns.v4.example. root.v4.example. 1 2 3 4 40\"\n}\n\
        template IN AAAA both.example {\n answer \"{{ .Name }} 60 IN AAAA 2001:db8::1\"\n}\n";
    CoreDns::builder()
        .without_zones()
        .plugins(templates)
        .start()
        .unwrap()
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_rewritten_name_is_answered_under_its_own() {
    let coredns = coredns();
    let keys = "maxTtl: 60s, maxNegativeTtl: 60s, rewrites: [\"suffix .old.example .new.example\"]";
    let agent = agent(&[coredns.addr()], keys).start().unwrap();
    let client = agent.client();
    for _ in 0..2 {
        let response = client.query("Web.old.example", A).unwrap();
        assert_eq!(response.addresses(), [IpAddr::from([192, 0, 2, 33])]);
        let owner = response.answers[0].name.to_string().to_ascii_lowercase();
        assert_eq!(owner, "web.old.example.");
    }
    // Names in data, compressed upstream.
    let response = client.query("web.old.example", SRV).unwrap();
    let shown = response.answers[0].to_string().to_ascii_lowercase();
    assert!(
        shown.starts_with("web.old.example.") && shown.ends_with("target.new.example."),
        "{shown}"
    );
    // A denial is kept, and its SOA is of a zone that the name is in.
    for _ in 0..2 {
        let response = client.query("web.old.example", 16_u16).unwrap();
        assert_eq!(u16::from(response.rcode()), 3);
    }
    assert_eq!(coredns.count("web.new.example", RecordType::A), 1);
    assert_eq!(coredns.count("web.new.example", RecordType::TXT), 1);
    assert!(!coredns.log().contains("old.example"), "{}", coredns.log());
}

#[test]
fn names_with_addresses_of_ipv4_alone_get_some_below_the_prefix() {
    let coredns = coredns();
    let agent = agent(&[coredns.addr()], "maxTtl: 60s, dns64: \"64:ff9b::/96\"");
    let agent = agent.start().unwrap();
    let client = agent.client();
    for _ in 0..2 {
        let response = client.query("a.v4.example", AAAA).unwrap();
        assert_eq!(response.addresses(), [v6("64:ff9b::192.0.2.33")]);
        // The SOA's negative lifetime is less than the address's.
        assert!(response.ttls()[0] <= 40, "{:?}", response.ttls());
    }
    let response = client.query("a.v4.example", A).unwrap();
    assert_eq!(response.addresses(), [IpAddr::from([192, 0, 2, 33])]);
    let response = client.query("a.both.example", AAAA).unwrap();
    assert_eq!(response.addresses(), [v6("2001:db8::1")]);
    assert_eq!(coredns.count("a.v4.example", RecordType::AAAA), 1);
}

#[test]
fn an_address_of_a_rule_goes_before_that_of_a_server_below_the_prefix_too() {
    let coredns = coredns();
    let keys = "dns64: \"64:ff9b::/96\", answers: [\"A a.v4.example 60 10.3.3.9\"]";
    let agent = agent(&[coredns.addr()], keys).start().unwrap();
    let client = agent.client();
    for _ in 0..2 {
        let response = client.query("a.v4.example", AAAA).unwrap();
        assert_eq!(response.addresses(), [v6("64:ff9b::10.3.3.9")]);
    }
    assert_eq!(coredns.count("a.v4.example", RecordType::AAAA), 1);
    assert_eq!(coredns.count("a.v4.example", RecordType::A), 0);
}

#[test]
fn a_ttl_below_the_least_is_raised_to_it() {
    let fault = Fault::start(fault::reply(Reply::AddressWithTtl(1))).unwrap();
    let agent = agent(&[fault.addr()], "minTtl: 7s").start().unwrap();
    let client = agent.client();
    assert_eq!(client.query("a.example", A).unwrap().ttls(), [7]);
    std::thread::sleep(Duration::from_millis(1200));
    let ttls = client.query("a.example", A).unwrap().ttls();
    assert!((5..=6).contains(&ttls[0]), "{ttls:?}");
    assert_eq!(fault.total(), 1);
}

#[test]
fn servers_in_their_order_are_asked_in_it() {
    let (mut first, second) = (Sample::start().unwrap(), Sample::start().unwrap());
    let servers = [first.addr(), second.addr()];
    let agent = agent(&servers, "order: written").start().unwrap();
    let client = agent.client();
    for number in 0..20 {
        client.query(&format!("a{number}.example.org"), A).unwrap();
    }
    assert_eq!((first.total(), second.total()), (20, 0));
    first.refuse().unwrap();
    first.reset_connections();
    client.query("later.example.org", A).unwrap();
    assert_eq!((first.total(), second.total()), (20, 1));
}

#[test]
fn a_stale_answer_may_come_before_the_upstreams() {
    let fault = Fault::start(fault::reply(Reply::AddressWithTtl(1))).unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("cache.staleAfter", "0s")
        .set("cache.prefetch", "false")
        .start()
        .unwrap();
    let client = agent.client();
    client.query("a.example", A).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let query = Query::new("a.example", A).edns(1232);
    let response = client.udp(&query).unwrap();
    assert_eq!(response.extended_error(), Some(STALE));
    // They were asked meanwhile.
    nodens_tests::process::wait_for("the second query", Duration::from_secs(5), || {
        Ok((fault.total() == 2).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_rule_answers_without_anybody_and_the_rest_is_asked_for() {
    let sample = Sample::start().unwrap();
    let keys = "answers: [\"A *.here.example 60 192.0.2.1 192.0.2.2\", \"ANY *.here.example NOERROR\", \
                \"ANY gone.example NXDOMAIN\", \"PTR 1.2.0.192.in-addr.arpa 60 a.here.example\"]";
    let agent = agent(&[sample.addr()], keys).start().unwrap();
    let client = agent.client();
    for _ in 0..2 {
        let response = client.query("a.here.example", A).unwrap();
        let wanted = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        assert_eq!(response.addresses(), wanted);
        let response = client.query("a.here.example", AAAA).unwrap();
        assert_eq!(
            (u16::from(response.rcode()), response.answers.len()),
            (0, 0)
        );
        let response = client.query("gone.example", A).unwrap();
        assert_eq!(u16::from(response.rcode()), 3);
        let response = client.query("1.2.0.192.in-addr.arpa", 12_u16).unwrap();
        assert!(response.answers[0].to_string().ends_with("a.here.example."));
    }
    assert_eq!(sample.total(), 0);
    client.query("example.org", A).unwrap();
    assert_eq!(sample.total(), 1);
}

#[test]
fn an_address_of_a_rule_is_made_one_of_ipv6_as_that_of_a_server_is() {
    let sample = Sample::start().unwrap();
    let keys = "dns64: \"64:ff9b::/96\", answers: [\"A a.example 60 192.0.2.1\", \"ANY a.example NOERROR\"]";
    let agent = agent(&[sample.addr()], keys).start().unwrap();
    let client = agent.client();
    for _ in 0..2 {
        let response = client.query("a.example", AAAA).unwrap();
        let wanted: IpAddr = "64:ff9b::c000:201".parse().unwrap();
        assert_eq!(response.addresses(), [wanted]);
        let response = client.query("a.example", A).unwrap();
        assert_eq!(response.addresses(), [IpAddr::from([192, 0, 2, 1])]);
    }
    assert_eq!(sample.total(), 0);
}
