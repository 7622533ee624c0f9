// SPDX-License-Identifier: Apache-2.0
//! The metrics under CoreDNS's names say what its dashboards expect, and count exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use nodens_tests::agent::{Agent, http_get};
use nodens_tests::client::Client;
use nodens_tests::coredns::CoreDns;
use nodens_tests::process::{free_port, wait_for};
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::figures::{CHANNELS, QUESTIONS, TIMES, ask_everything, read};
use crate::support::{A, AAAA, DAY, PATIENCE};

/// What Gardener's scrape configuration keeps of node-cache, but for that of the process.
const GARDENER: [&str; 11] = [
    "coredns_build_info",
    "coredns_cache_entries",
    "coredns_cache_hits_total",
    "coredns_cache_misses_total",
    "coredns_dns_request_duration_seconds_bucket",
    "coredns_dns_request_duration_seconds_count",
    "coredns_dns_requests_total",
    "coredns_dns_responses_total",
    "coredns_forward_requests_total",
    "coredns_forward_responses_total",
    "coredns_nodecache_setup_errors_total",
];
/// Names of ours that CoreDNS 1.14 has no longer, or that are node-cache's alone.
const OURS: [&str; 5] = [
    "coredns_forward_healthcheck_failures_total",
    "coredns_forward_request_duration_seconds",
    "coredns_forward_requests_total",
    "coredns_forward_responses_total",
    "coredns_nodecache_setup_errors_total",
];
/// Names of ours whose first series in CoreDNS comes with an event that does not happen in this test.
const RARE: [&str; 6] = [
    "coredns_cache_drops_total",
    "coredns_cache_evictions_total",
    "coredns_cache_prefetch_total",
    "coredns_cache_served_stale_total",
    "coredns_dns_do_requests_total",
    "coredns_proxy_healthcheck_failures_total",
];
/// Names that CoreDNS has in this test and we do not: what they count does not exist in nodens.
const THEIRS: [&str; 3] = [
    "coredns_health_request_duration_seconds",
    "coredns_hosts_reload_timestamp_seconds",
    "coredns_local_localhost_requests_total",
];

fn agent(sample: &Sample) -> Agent {
    Agent::builder()
        .upstream(sample.addr())
        .set("listen.addresses", "[127.0.0.1, '::1']")
        .set("admin.corednsNames", "true")
        .start()
        .unwrap()
}

#[test]
fn under_the_names_of_coredns_the_counters_equal_what_was_sent() {
    let sample = Sample::start().unwrap();
    let agent = agent(&sample);
    ask_everything(&agent);
    let asked = QUESTIONS.len() as u64;
    let all = asked * TIMES * CHANNELS;
    let refused = TIMES * CHANNELS;
    let mut scrape = read(&agent.metrics().unwrap());
    wait_for("the last batch", PATIENCE, || {
        scrape = read(&agent.metrics()?);
        let timed = scrape.sum("coredns_dns_request_duration_seconds_count", &[]);
        Ok((timed == all).then_some(()))
    })
    .unwrap();

    let sum = |name: &str, labels: &[&str]| scrape.sum(name, labels);
    let requests = "coredns_dns_requests_total";
    assert_eq!(sum(requests, &[]), all + refused);
    assert_eq!(sum(requests, &["zone=\"dropped\""]), refused);
    let of_tcp = ["proto=\"tcp\"", "family=\"2\"", "type=\"AAAA\""];
    assert_eq!(sum(requests, &of_tcp), TIMES);
    let server = format!("server=\"dns://127.0.0.1:{}\"", agent.addr().port());
    assert_eq!(sum(requests, &[&server]), all + refused);

    let responses = "coredns_dns_responses_total";
    assert_eq!(sum(responses, &["plugin=\"forward\""]), asked);
    assert_eq!(sum(responses, &["plugin=\"cache\""]), all - asked);
    assert_eq!(sum(responses, &["rcode=\"REFUSED\""]), refused);

    // Asked for types that it has none of, a name has an answer without a record.
    let denials = ["AAAA", "HTTPS", "SRV", "other"].len() as u64 + 1;
    let per_question = TIMES * CHANNELS - 1;
    let hits = "coredns_cache_hits_total";
    assert_eq!(sum(hits, &["type=\"denial\""]), denials * per_question);
    let data = (asked - denials) * per_question;
    assert_eq!(sum(hits, &["type=\"success\""]), data);
    assert_eq!(sum("coredns_cache_misses_total", &[]), asked);
    assert_eq!(sum("coredns_cache_requests_total", &[]), all);
    let entries = "coredns_cache_entries";
    assert_eq!(sum(entries, &["type=\"denial\""]), denials);
    assert_eq!(sum(entries, &["type=\"success\""]), asked - denials);
    assert_eq!(sum("coredns_cache_evictions_total", &[]), 0);

    for name in ["request", "response"] {
        let sizes = format!("coredns_dns_{name}_size_bytes_count");
        assert_eq!(sum(&sizes, &["proto=\"udp\""]), all / 2, "{name}");
        assert_eq!(sum(&sizes, &["proto=\"tcp\""]), all / 2, "{name}");
    }
    let octets: usize = QUESTIONS
        .iter()
        .map(|&(name, qtype, _)| Query::new(name, qtype).to_bytes().len())
        .sum();
    let sent = sum("coredns_dns_request_size_bytes_sum", &["proto=\"tcp\""]);
    assert_eq!(sent, octets as u64 * TIMES * CHANNELS / 2);

    let to = format!("to=\"{}\"", sample.addr());
    assert_eq!(sum("coredns_forward_requests_total", &[&to]), asked);
    let denied = ["rcode=\"NXDOMAIN\"", to.as_str()];
    assert_eq!(sum("coredns_forward_responses_total", &denied), 1);
    let times = "coredns_proxy_request_duration_seconds_count";
    assert_eq!(sum(times, &["proxy_name=\"forward\"", &to]), asked);
    let opened = sum("coredns_proxy_conn_cache_misses_total", &[&to]);
    assert_eq!(opened, sample.connections());
    let reused = sum("coredns_proxy_conn_cache_hits_total", &[&to]);
    assert_eq!(reused, asked - opened);
}

/// What a scrape says of one family.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    kind: String,
    labels: BTreeSet<String>,
    bounds: BTreeSet<String>,
}

/// Each family whose name begins with `coredns_`.
fn shapes(text: &str) -> BTreeMap<String, Shape> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(of_type) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of_type.split_once(' ').unwrap();
            family = name.to_owned();
            if family.starts_with("coredns_") {
                shapes.entry(family.clone()).or_default().kind = kind.to_owned();
            }
        } else if let (Some(shape), false) = (shapes.get_mut(&family), line.starts_with('#')) {
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.rsplit_once('}'));
            for label in labels.map_or("", |(labels, _)| labels).split("\",") {
                let Some((name, value)) = label.split_once("=\"") else {
                    continue;
                };
                if name == "le" {
                    let bound: f64 = value
                        .trim_end_matches('"')
                        .replace("+Inf", "inf")
                        .parse()
                        .unwrap();
                    shape.bounds.insert(bound.to_string());
                } else {
                    shape.labels.insert(name.to_owned());
                }
            }
        }
    }
    shapes
}

#[test]
fn a_dashboard_of_coredns_finds_the_same_labels_and_bounds() {
    let sample = Sample::start().unwrap();
    let port = free_port().unwrap();
    let upstream = sample.addr();
    let coredns = CoreDns::builder()
        .without_zones()
        .plugins(&format!(
            "cache 30\nforward . {upstream} {{\nforce_tcp\n}}\nprometheus 127.0.0.1:{port}\nhealth 127.0.0.1:{}",
            free_port().unwrap()
        ))
        .start()
        .unwrap();
    let agent = agent(&sample);
    for address in [agent.addr(), coredns.addr()] {
        let client = Client::new(address);
        for _ in 0..3 {
            for (name, qtype) in [(DAY, A), (DAY, AAAA), ("missing.example.org", A)] {
                client.udp(&Query::new(name, qtype)).unwrap();
                client.tcp(&Query::new(name, qtype)).unwrap();
            }
        }
    }
    let theirs = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let theirs = shapes(&http_get(theirs, "/metrics").unwrap().body);
    let text = agent.metrics().unwrap();
    let ours = shapes(&text);
    for name in GARDENER {
        assert!(text.contains(&format!("\n{name}{{")), "{name} is missing");
    }
    for (name, shape) in &ours {
        let known = theirs.get(name);
        if OURS.contains(&name.as_str()) {
            assert_eq!(known, None, "{name} is CoreDNS's again");
        } else if let Some(known) = known {
            assert_eq!(shape, known, "{name}");
        }
    }
    let of = |shapes: &BTreeMap<String, Shape>| shapes.keys().cloned().collect::<BTreeSet<_>>();
    let missing: Vec<_> = of(&theirs).difference(&of(&ours)).cloned().collect();
    assert_eq!(missing, THEIRS, "what CoreDNS has and we do not");
    let more: BTreeSet<_> = of(&ours).difference(&of(&theirs)).cloned().collect();
    let expected = OURS.into_iter().chain(RARE).map(str::to_owned).collect();
    assert_eq!(more, expected, "what we have and CoreDNS does not");
}
