// SPDX-License-Identifier: Apache-2.0
//! Text for Prometheus (exposition format 0.0.4), and for docs/metrics.md, both from the one
//! table of families. Nothing is registered: each scrape builds its families from the cells.

use std::fmt::Write as _;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::families::sections;
use super::labels::{LABELS, Label, QUESTIONS};
use super::latency::Distribution;
use super::registry::{Scrape, Telemetry};
use super::sizes::SizeDistribution;

/// The Content-Type of [`Telemetry::expose`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric family: a row of the table.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// One line, for the text format and the documentation.
    pub(super) help: &'static str,
    /// Adds the family's series as they are now. A family without any is left out of the scrape.
    pub(super) read: fn(&Scrape<'_>, &mut Series),
}

/// What a family's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The series of one family in one scrape.
#[derive(Debug)]
pub(super) struct Series {
    kind: Kind,
    labels: &'static [&'static str],
    metrics: Vec<Metric>,
}

impl Series {
    /// A series with a whole number; label values in the order of the family's labels.
    pub(super) fn count(&mut self, labels: &[&str], value: u64) {
        self.number(labels, value as f64);
    }

    /// A series with any number.
    pub(super) fn number(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.metric(labels);
        if self.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// A series of a histogram of times.
    pub(super) fn distribution(&mut self, labels: &[&str], times: &Distribution) {
        self.histogram(
            labels,
            times.cumulative(),
            times.count(),
            times.sum_seconds(),
        );
    }

    /// A series of a histogram of sizes in octets.
    pub(super) fn sizes(&mut self, labels: &[&str], sizes: &SizeDistribution) {
        let octets = sizes.octets() as f64;
        self.histogram(labels, sizes.cumulative(), sizes.count(), octets);
    }

    /// A series of a histogram: upper bounds with what is at or below each, then how many in all
    /// and their sum. The encoder adds the bucket `+Inf`.
    pub(super) fn histogram(
        &mut self,
        labels: &[&str],
        cumulative: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(cumulative.map(bucket).collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = self.metric(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn metric(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(values.len(), self.labels.len(), "{:?}", self.labels);
        let pairs = self.labels.iter().zip(values).map(|(&name, &value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }
}

impl Telemetry {
    /// Everything as text. Adds up the cells of all threads; takes no lock that a thread on the
    /// query's way could hold.
    #[must_use]
    pub fn expose(&self) -> String {
        let scrape = Scrape::of(self);
        let families: Vec<_> = sections(scrape.server.is_some())
            .flat_map(|(_, families)| families.iter())
            .filter_map(|family| family_of(family, &scrape))
            .collect();
        let mut text = String::with_capacity(32 << 10);
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            // Only a family without name or series is refused; there is none among them.
            tracing::error!(error = %error, "metrics are incomplete");
        }
        text
    }
}

fn family_of(row: &Family, scrape: &Scrape<'_>) -> Option<MetricFamily> {
    let mut series = Series {
        kind: row.kind,
        labels: row.labels,
        metrics: Vec::new(),
    };
    (row.read)(scrape, &mut series);
    if series.metrics.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(match row.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(series.metrics);
    Some(family)
}

/// docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Written from agent/src/telemetry/families.rs; do not edit. After a change there: \
         UPDATE_DOCS=1 cargo test -p nodens --lib telemetry -->\n\n\
         `GET /metrics` at `admin.metrics` (default: port 9253 of the first listen address) \
         answers in the Prometheus text format.\n\
         Counters are exact: each thread counts every query in cells of its own, and a scrape \
         adds them up.\n\
         A family, or a series of it, may be missing as long as nothing happened that it \
         counts.\n",
    );
    for (title, families) in sections(true) {
        let _ = write!(
            text,
            "\n## {title}\n\n| name | type | labels | meaning |\n|---|---|---|---|\n"
        );
        for family in *families {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels: Vec<_> = family
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let _ = writeln!(
                text,
                "| `{}` | {kind} | {} | {} |",
                family.name,
                labels.join(", "),
                family.help
            );
        }
    }
    text.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for Label { name, values } in LABELS {
        let _ = writeln!(text, "| `{name}` | {} |", values());
    }
    text.push_str("\n## Questions\n\n| question | query |\n|---|---|\n");
    for (question, query) in QUESTIONS {
        let _ = writeln!(text, "| {question} | `{query}` |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::cells::{ConnectionRefusal, Outcome};
    use crate::telemetry::counters::{Answered, Channel, NO_ZONE, add};
    use crate::telemetry::registry::{
        CacheFigures, HealthFigures, LaneFigures, ProbeFigures, Source, Sources, SteeringFigures,
        ZoneEntries,
    };
    use crate::telemetry::strict;
    use crate::wire::fault::Fault;

    fn sources() -> Sources {
        Sources {
            cache: Source::new(|| CacheFigures {
                entries: 7,
                used_bytes: 1120,
                budget_bytes: 64 << 20,
                zones: vec![
                    ZoneEntries::default(),
                    ZoneEntries {
                        entries: [4, 3],
                        evictions: [2, 1],
                    },
                ],
                ..CacheFigures::default()
            }),
            drops: Source::new(|| {
                vec![
                    ("127.0.0.1:53".to_owned(), 2),
                    ("127.0.0.1:53".to_owned(), 3),
                ]
            }),
            health: Source::new(|| HealthFigures {
                is_live: true,
                is_ready: false,
                is_draining: true,
                steering: Some(SteeringFigures {
                    lanes: vec![LaneFigures {
                        address: "10.96.0.10".to_owned(),
                        proto: "udp",
                        is_live: true,
                        trips: 2,
                        returns: 1,
                    }],
                    healed: vec![("fallback", 3)],
                    refreshed: 40,
                    refused: 4,
                    longest_gap: Duration::from_millis(312),
                }),
                probes: vec![ProbeFigures {
                    address: "[::1]:53".to_owned(),
                    proto: "tcp",
                    answered: 4,
                    failed: 1,
                }],
            }),
        }
    }

    fn answered(zone: u16, channel: Channel, qtype: u16, rcode: u16) -> Answered {
        Answered {
            zone,
            channel,
            qtype,
            rcode,
            is_denial: rcode == 3,
            is_stale: false,
            dnssec_ok: true,
            asked_octets: 60,
            sent_octets: 120,
        }
    }

    #[test]
    fn nothing_has_the_name_of_coredns_unless_it_is_asked_for() {
        let telemetry = Telemetry::new(1);
        telemetry.connect(sources());
        telemetry.zone("cluster.local.");
        telemetry.upstreams.index("10.96.0.10:53");
        assert!(!telemetry.expose().contains("coredns_"));
    }

    #[test]
    fn a_scrape_before_the_first_query_is_valid() {
        let scrape = strict::parse(&Telemetry::new(0).expose());
        assert_eq!(scrape.families["nodens_queries_rejected_total"], "counter");
        assert!(!scrape.families.contains_key("nodens_queries_total"));
        assert!(
            !scrape.families.contains_key("nodens_ready"),
            "nobody knows yet"
        );
    }

    #[test]
    fn a_scrape_adds_up_what_all_threads_counted() {
        let telemetry = Telemetry::new(2);
        telemetry.show_as_coredns("169.254.20.10:53".parse().unwrap());
        assert!(telemetry.connect(sources()));
        assert!(!telemetry.connect(sources()), "only once");
        let zone = telemetry.zone("cluster.local.");
        let root = telemetry.zone("odd\"\\\n.");
        for worker in &telemetry.workers {
            worker.answers.count(&answered(zone, Channel::Udp4, 1, 0));
            worker
                .answers
                .count(&answered(NO_ZONE, Channel::Udp6, 252, 5));
            worker.reject(Fault::Type);
            worker.answers.took(zone, Duration::from_micros(5), 3);
            add(&worker.batches, 1);
            add(&worker.handed_over, 2);
        }
        telemetry.workers[1]
            .answers
            .count(&answered(root, Channel::Udp4, 16, 3));
        telemetry
            .stream
            .answers
            .count(&answered(zone, Channel::Tcp4, 1, 0));
        telemetry.stream.reject(Fault::Short);
        telemetry.stream.open();
        telemetry.stream.open();
        telemetry.stream.idle();
        telemetry.stream.close();
        telemetry.stream.refuse(ConnectionRefusal::Client);
        telemetry
            .resolve
            .answers
            .count(&answered(zone, Channel::Udp4, 1, 0));
        telemetry.resolve.miss(zone);
        let took = Duration::from_millis(2);
        telemetry.resolve.answers.took(zone, took, 1);
        let upstream = telemetry.upstreams.index("10.96.0.10:53");
        let cells = telemetry.resolve.upstream(upstream);
        cells.end(Outcome::WrongId);
        cells.respond(3, Duration::from_millis(2));
        cells.respond(3, Duration::from_millis(3));
        cells.open();
        cells.open();
        cells.close();
        telemetry.agent.reload_refused();
        telemetry.agent.reload_ok(1_700_000_000);

        let scrape = strict::parse(&telemetry.expose());
        for (sample, value) in [
            (
                r#"nodens_queries_total{zone="cluster.local.",proto="udp",family="1",type="A",rcode="NOERROR"}"#,
                3.0,
            ),
            (
                r#"nodens_queries_total{zone="cluster.local.",proto="tcp",family="1",type="A",rcode="NOERROR"}"#,
                1.0,
            ),
            (
                r#"nodens_queries_total{zone="",proto="udp",family="2",type="other",rcode="REFUSED"}"#,
                2.0,
            ),
            (r#"nodens_cache_hits_total{zone="cluster.local."}"#, 3.0),
            (r#"nodens_cache_hits_total{zone="odd\"\\\n."}"#, 1.0),
            (r#"nodens_cache_misses_total{zone="cluster.local."}"#, 1.0),
            (r#"nodens_cache_misses_total{zone="odd\"\\\n."}"#, 0.0),
            (
                r#"nodens_queries_rejected_total{proto="udp",reason="refused_type"}"#,
                2.0,
            ),
            (
                r#"nodens_queries_rejected_total{proto="tcp",reason="short"}"#,
                1.0,
            ),
            (r#"nodens_queries_handed_over_total{proto="udp"}"#, 4.0),
            (r#"nodens_query_duration_seconds_count{source="hit"}"#, 6.0),
            (
                r#"nodens_query_duration_seconds_bucket{source="miss",le="0.002"}"#,
                1.0,
            ),
            (
                r#"nodens_query_duration_seconds_bucket{source="miss",le="0.001"}"#,
                0.0,
            ),
            (r#"nodens_query_duration_seconds_sum{source="miss"}"#, 0.002),
            ("nodens_cache_entries", 7.0),
            ("nodens_cache_budget_bytes", 67_108_864.0),
            (
                r#"nodens_socket_dropped_total{address="127.0.0.1:53"}"#,
                5.0,
            ),
            ("nodens_tcp_connections_open", 1.0),
            ("nodens_tcp_connections_accepted_total", 2.0),
            ("nodens_tcp_connections_idle_closed_total", 1.0),
            (
                r#"nodens_tcp_connections_refused_total{reason="client"}"#,
                1.0,
            ),
            (
                r#"nodens_upstream_exchanges_total{upstream="10.96.0.10:53",outcome="wrong_id"}"#,
                1.0,
            ),
            (
                r#"nodens_upstream_exchanges_total{upstream="10.96.0.10:53",outcome="answered"}"#,
                0.0,
            ),
            (
                r#"nodens_upstream_connections_open{upstream="10.96.0.10:53"}"#,
                1.0,
            ),
            (
                r#"nodens_upstream_connections_closed_total{upstream="10.96.0.10:53"}"#,
                1.0,
            ),
            (r#"nodens_worker_answers_total{worker="1"}"#, 3.0),
            (r#"nodens_worker_batches_total{worker="0"}"#, 1.0),
            (r#"nodens_config_reloads_total{result="ok"}"#, 1.0),
            (r#"nodens_config_reloads_total{result="refused"}"#, 1.0),
            (
                "nodens_config_last_reload_success_timestamp_seconds",
                1_700_000_000.0,
            ),
            ("nodens_live", 1.0),
            ("nodens_ready", 0.0),
            ("nodens_draining", 1.0),
            (
                r#"nodens_probes_total{address="[::1]:53",proto="tcp",result="failed"}"#,
                1.0,
            ),
            (r#"nodens_build_info{version="0.1.0"}"#, 1.0),
            (
                r#"coredns_dns_requests_total{server="dns://169.254.20.10:53",zone="cluster.local.",view="",proto="udp",family="1",type="A"}"#,
                3.0,
            ),
            (
                r#"coredns_dns_requests_total{server="dns://169.254.20.10:53",zone="dropped",view="",proto="udp",family="2",type="other"}"#,
                2.0,
            ),
            (
                r#"coredns_dns_responses_total{server="dns://169.254.20.10:53",zone="cluster.local.",view="",rcode="NOERROR",plugin="cache"}"#,
                3.0,
            ),
            (
                r#"coredns_dns_responses_total{server="dns://169.254.20.10:53",zone="cluster.local.",view="",rcode="NOERROR",plugin="forward"}"#,
                1.0,
            ),
            (
                r#"coredns_dns_request_duration_seconds_bucket{server="dns://169.254.20.10:53",zone="cluster.local.",view="",le="0.00025"}"#,
                6.0,
            ),
            (
                r#"coredns_dns_request_duration_seconds_count{server="dns://169.254.20.10:53",zone="cluster.local.",view=""}"#,
                7.0,
            ),
            (
                r#"coredns_dns_request_size_bytes_bucket{server="dns://169.254.20.10:53",zone="cluster.local.",view="",proto="udp",le="100"}"#,
                3.0,
            ),
            (
                r#"coredns_dns_response_size_bytes_sum{server="dns://169.254.20.10:53",zone="cluster.local.",view="",proto="tcp"}"#,
                120.0,
            ),
            (
                r#"coredns_dns_do_requests_total{server="dns://169.254.20.10:53",zone="cluster.local.",view=""}"#,
                4.0,
            ),
            (
                r#"coredns_cache_entries{server="dns://169.254.20.10:53",type="denial",zones="cluster.local.",view=""}"#,
                3.0,
            ),
            (
                r#"coredns_cache_evictions_total{server="dns://169.254.20.10:53",type="success",zones="cluster.local.",view=""}"#,
                2.0,
            ),
            (
                r#"coredns_cache_hits_total{server="dns://169.254.20.10:53",type="success",zones="cluster.local.",view=""}"#,
                3.0,
            ),
            (
                r#"coredns_cache_hits_total{server="dns://169.254.20.10:53",type="denial",zones="odd\"\\\n.",view=""}"#,
                1.0,
            ),
            (
                r#"coredns_cache_requests_total{server="dns://169.254.20.10:53",zones="cluster.local.",view=""}"#,
                4.0,
            ),
            (
                r#"coredns_forward_responses_total{to="10.96.0.10:53",rcode="NXDOMAIN"}"#,
                2.0,
            ),
            (r#"coredns_forward_requests_total{to="10.96.0.10:53"}"#, 2.0),
            (
                r#"coredns_proxy_request_duration_seconds_bucket{proxy_name="forward",to="10.96.0.10:53",rcode="NXDOMAIN",le="0.002"}"#,
                1.0,
            ),
            (
                r#"coredns_proxy_conn_cache_misses_total{proxy_name="forward",to="10.96.0.10:53",proto="tcp"}"#,
                2.0,
            ),
            (
                r#"coredns_nodecache_setup_errors_total{errortype="iptables"}"#,
                4.0,
            ),
            ("coredns_health_request_failures_total", 1.0),
        ] {
            assert!(
                (scrape.sample(sample) - value).abs() < 1e-9,
                "{sample}: {scrape:#?}"
            );
        }
        assert!(
            !scrape
                .samples
                .contains_key(r#"nodens_cache_hits_total{zone=""}"#)
        );
        assert!(scrape.sample("process_resident_memory_bytes") > 1e6);

        let in_table: BTreeSet<_> = rows().map(|family| family.name).collect();
        let in_scrape: BTreeSet<_> = scrape.families.keys().map(String::as_str).collect();
        assert_eq!(in_scrape, in_table, "every family has been seen to work");
    }

    #[test]
    fn the_table_keeps_the_rules_of_metric_names() {
        let mut names = BTreeSet::new();
        let mut used = BTreeSet::new();
        for row in rows() {
            assert!(names.insert(row.name), "{} twice", row.name);
            assert!(
                ["nodens_", "process_", "coredns_"]
                    .iter()
                    .any(|prefix| row.name.starts_with(prefix)),
                "{}",
                row.name
            );
            assert_eq!(
                row.kind == Kind::Counter,
                row.name.ends_with("_total"),
                "{}",
                row.name
            );
            assert!(
                row.help.ends_with('.') && !row.help.contains(['|', '\n']),
                "{}",
                row.name
            );
            used.extend(row.labels);
        }
        let explained: BTreeSet<_> = LABELS.iter().map(|label| label.name).collect();
        assert_eq!(explained, used);
        for (question, query) in QUESTIONS {
            let asks = names.iter().any(|name| query.contains(name));
            assert!(asks && !query.contains('|'), "{question}: {query}");
        }
    }

    #[test]
    fn the_documentation_says_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/metrics.md is out of date: UPDATE_DOCS=1 cargo test -p nodens --lib telemetry"
        );
    }

    fn rows() -> impl Iterator<Item = &'static Family> {
        sections(true).flat_map(|(_, families)| families.iter())
    }
}
