// SPDX-License-Identifier: Apache-2.0
//! The metrics say what happened, exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};

use nodens_tests::agent::{Agent, http_get};
use nodens_tests::client::Client;
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::support::{A, AAAA, DAY, PATIENCE, TXT};

const BENCH: &str = "n1.bench.cluster.local";
const MISSING: &str = "missing.example.org";

/// Name, type, and what is counted: zone, type, response code. None expires before a test ends.
pub(crate) const QUESTIONS: [(&str, u16, [&str; 3]); 9] = [
    (DAY, A, [".", "A", "NOERROR"]),
    (DAY, AAAA, [".", "AAAA", "NOERROR"]),
    (DAY, 65, [".", "HTTPS", "NOERROR"]),
    (DAY, 33, [".", "SRV", "NOERROR"]),
    (DAY, 999, [".", "other", "NOERROR"]),
    ("text.example.org", TXT, [".", "TXT", "NOERROR"]),
    ("example.org", 15, [".", "MX", "NOERROR"]),
    (MISSING, A, [".", "A", "NXDOMAIN"]),
    (BENCH, A, ["cluster.local.", "A", "NOERROR"]),
];
/// Times that each is asked over each transport and family.
pub(crate) const TIMES: u64 = 3;
/// Transports and families.
pub(crate) const CHANNELS: u64 = 4;

/// A count.
fn whole(value: f64) -> u64 {
    format!("{value}").parse().expect("a whole number")
}

/// Every sample of a scrape.
#[derive(Debug)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// The sum of a metric's samples whose labels have all of these.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let is_one = |sample: &str| {
            let rest = sample.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| sample.contains(label))
        };
        let values = self.0.iter().filter(|(sample, _)| is_one(sample));
        let sum: f64 = values.map(|(_, value)| value).sum();
        // A sum of nothing is -0.
        whole(0.0 + sum)
    }

    /// Those that count answers, but for the agent's questions to itself.
    fn answers(&self) -> BTreeMap<String, u64> {
        let own = ["type=\"TXT\"", "zone=\"\"", "rcode=\"NOERROR\""];
        let counted = self.0.iter().filter(|(sample, _)| {
            sample.starts_with("nodens_queries_total{")
                && !own.iter().all(|label| sample.contains(label))
        });
        let counted = counted.map(|(sample, value)| (sample.clone(), whole(*value)));
        counted.collect()
    }
}

/// Reads a scrape as Prometheus does, and more strictly.
pub(crate) fn read(text: &str) -> Scrape {
    let mut samples = BTreeMap::new();
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut family = "";
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect(line);
            assert!(!words.is_empty() && helped.insert(name), "{line}");
        } else if let Some(of_type) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of_type.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "HELP comes first: {line}");
            assert!(families.insert(name, kind).is_none(), "twice: {line}");
            family = name;
        } else {
            let (sample, value) = line.rsplit_once(' ').expect(line);
            let value: f64 = value.parse().expect(line);
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let name = sample.split('{').next().unwrap();
            let suffix = name.strip_prefix(family).expect(line);
            let suffixes: &[&str] = match families[family] {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line} is of {family}");
            let before = samples.insert(sample.to_owned(), value);
            assert!(before.is_none(), "twice: {line}");
        }
    }
    let scrape = Scrape(samples);
    for source in ["source=\"hit\"", "source=\"miss\""] {
        let name = "nodens_query_duration_seconds";
        let buckets = text.lines().filter(|line| {
            line.starts_with("nodens_query_duration_seconds_bucket") && line.contains(source)
        });
        let buckets: Vec<f64> = buckets
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(buckets.is_sorted() && buckets.len() > 10, "{buckets:?}");
        let count = scrape.sum(&format!("{name}_count"), &[source]);
        assert_eq!(buckets.last().copied().map(whole), Some(count));
    }
    scrape
}

fn clients(agent: &Agent) -> [(Client, &'static str); 2] {
    let over_ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, agent.addr().port()));
    [(agent.client(), "1"), (Client::new(over_ipv6), "2")]
}

/// Asks everything, and gives what must have been counted.
pub(crate) fn ask_everything(agent: &Agent) -> BTreeMap<String, u64> {
    let mut expected = BTreeMap::new();
    let mut expect = |proto: &str, family: &str, [zone, of_type, rcode]: [&str; 3]| {
        let sample = format!(
            "nodens_queries_total{{zone=\"{zone}\",proto=\"{proto}\",family=\"{family}\",\
             type=\"{of_type}\",rcode=\"{rcode}\"}}"
        );
        *expected.entry(sample).or_default() += 1;
    };
    for (client, family) in clients(agent) {
        let mut connection = client.connect().unwrap();
        for _ in 0..TIMES {
            for (name, qtype, counted) in QUESTIONS {
                let query = Query::new(name, qtype);
                client.udp(&query).unwrap();
                expect("udp", family, counted);
                connection.ask(&query).unwrap();
                expect("tcp", family, counted);
            }
            let chaos = Query::new("version.bind", TXT).class(3);
            client.udp(&chaos).unwrap();
            expect("udp", family, ["", "TXT", "REFUSED"]);
            connection.ask(&chaos).unwrap();
            expect("tcp", family, ["", "TXT", "REFUSED"]);
        }
    }
    expected
}

#[test]
fn the_counters_equal_what_was_sent() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder()
        .upstream(sample.addr())
        .set("listen.addresses", "[127.0.0.1, '::1']")
        .start()
        .unwrap();
    // The lab has asked whether the agent answers.
    let before = read(&agent.metrics().unwrap());
    let expected = ask_everything(&agent);
    let asked = QUESTIONS.len() as u64;
    let hits = asked * (TIMES * CHANNELS - 1);

    // A worker notes how long a batch took when its answers are out.
    let mut scrape = read(&agent.metrics().unwrap());
    let hit = ["source=\"hit\""];
    wait_for("the last batch", PATIENCE, || {
        scrape = read(&agent.metrics()?);
        let timed = scrape.sum("nodens_query_duration_seconds_count", &hit);
        Ok((timed == hits).then_some(()))
    })
    .unwrap();
    assert_eq!(scrape.answers(), expected);

    let sum = |name: &str, labels: &[&str]| scrape.sum(name, labels);
    let (dot, cluster) = ("zone=\".\"", "zone=\"cluster.local.\"");
    for (zone, questions) in [(dot, asked - 1), (cluster, 1)] {
        let of_zone = questions * (TIMES * CHANNELS - 1);
        assert_eq!(sum("nodens_cache_hits_total", &[zone]), of_zone);
        assert_eq!(sum("nodens_cache_misses_total", &[zone]), questions);
    }
    let all = hits + asked;
    let rejected = sum("nodens_queries_rejected_total", &[]);
    assert_eq!(rejected, TIMES * CHANNELS);
    let refused = ["reason=\"refused_class\"", "proto=\"udp\""];
    assert_eq!(sum("nodens_queries_rejected_total", &refused), rejected / 2);
    assert_eq!(scrape.answers().values().sum::<u64>(), all + rejected);

    let missed = sum("nodens_query_duration_seconds_count", &["source=\"miss\""]);
    assert_eq!(missed, asked);
    assert_eq!(sum("nodens_queries_handed_over_total", &[]), asked);
    assert_eq!(sum("nodens_queries_in_flight", &[]), 0);
    assert_eq!(sum("nodens_queries_coalesced_total", &[]), 0);
    assert_eq!(sum("nodens_queries_over_limit_total", &[]), 0);

    assert_eq!(sample.total(), asked);
    let upstream = format!("upstream=\"{}\"", sample.addr());
    let exchanges = "nodens_upstream_exchanges_total";
    let answered = [upstream.as_str(), "outcome=\"answered\""];
    assert_eq!(sum(exchanges, &answered), asked);
    assert_eq!(sum(exchanges, &[]), asked);
    let opened = sum("nodens_upstream_connections_opened_total", &[&upstream]);
    assert_eq!(opened, sample.connections());

    assert_eq!(sum("nodens_cache_inserts_total", &[]), asked);
    // The agent's own name is held for good.
    assert_eq!(sum("nodens_cache_entries", &[]), asked + 1);
    let accepted = "nodens_tcp_connections_accepted_total";
    assert_eq!(sum(accepted, &[]) - before.sum(accepted, &[]), 2);
    assert_eq!(sum("nodens_socket_dropped_total", &[]), 0);
    assert_eq!(sum("nodens_send_errors_total", &[]), 0);
}

#[test]
fn the_same_counts_come_from_every_number_of_workers() {
    for workers in [1, 5] {
        let sample = Sample::start().unwrap();
        let agent = Agent::builder()
            .upstream(sample.addr())
            .set("listen.addresses", "[127.0.0.1, '::1']")
            .workers(workers)
            .start()
            .unwrap();
        let expected = ask_everything(&agent);
        let scrape = read(&agent.metrics().unwrap());
        assert_eq!(scrape.answers(), expected);
        let series = agent.metrics().unwrap();
        let series = series.matches("nodens_worker_answers_total{").count();
        assert_eq!(series, usize::from(workers));
    }
}

#[test]
fn a_scrape_is_valid_from_the_first_and_says_what_it_is() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let response = http_get(agent.metrics_addr(), "/metrics").unwrap();
    let head = response.head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let scrape = read(&response.body);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(scrape.sum("nodens_build_info", &[&version]), 1);
    assert!(scrape.sum("process_resident_memory_bytes", &[]) > 1_000_000);
    assert_eq!(scrape.sum("nodens_cache_budget_bytes", &[]), 64 << 20);
}
