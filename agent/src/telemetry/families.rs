// SPDX-License-Identifier: Apache-2.0
//! The one table of metrics: what `/metrics` shows and what docs/metrics.md says.

use std::sync::atomic::Ordering::Relaxed;

use super::cache_families::CACHE;
use super::cells::{ConnectionRefusal, Outcome, OverLimit, UpstreamGauges};
use super::coredns::COREDNS;
use super::counters::{RCODES, TYPES};
use super::exposition::{Family, Kind, Series};
use super::registry::{HealthFigures, Scrape};
use super::steering::STEERING;
use crate::wire::fault::Fault;

/// Families under the headings of the documentation, in the order of a scrape. The names of CoreDNS
/// come behind our own, where they are wanted.
pub(super) fn sections(
    of_coredns: bool,
) -> impl Iterator<Item = &'static (&'static str, &'static [Family])> {
    SECTIONS.iter().chain(of_coredns.then_some(&AS_COREDNS))
}

const SECTIONS: &[(&str, &[Family])] = &[
    ("Queries", QUERIES),
    ("Cache", CACHE),
    ("Clients over TCP", STREAM),
    ("Upstreams", UPSTREAM),
    ("Workers", WORKERS),
    ("Steering", STEERING),
    ("The agent", AGENT),
    ("The process", PROCESS),
];

const AS_COREDNS: (&str, &[Family]) = ("As CoreDNS and node-cache name them", COREDNS);

const QUERIES: &[Family] = &[
    Family {
        name: "nodens_queries_total",
        kind: Kind::Counter,
        labels: &["zone", "proto", "family", "type", "rcode"],
        help: "Queries answered, by the zone of their name, transport, family, query type and response code.",
        read: |scrape, series| {
            for (&(zone, channel, qtype, rcode), &count) in &scrape.answers {
                series.count(
                    &[
                        scrape.zone(zone),
                        channel.proto(),
                        channel.family(),
                        TYPES[qtype].1,
                        RCODES[rcode].1,
                    ],
                    count,
                );
            }
        },
    },
    Family {
        name: "nodens_queries_rejected_total",
        kind: Kind::Counter,
        labels: &["proto", "reason"],
        help: "Queries that were not taken as such, by reason. All but short and response were answered, and are in nodens_queries_total too.",
        read: |scrape, series| {
            let tcp = scrape.cells.stream.rejected();
            for (proto, counts) in [("udp", scrape.rejected_udp), ("tcp", tcp)] {
                for (fault, count) in Fault::ALL.iter().zip(counts) {
                    series.count(&[proto, fault.reason()], count);
                }
            }
        },
    },
    Family {
        name: "nodens_query_duration_seconds",
        kind: Kind::Histogram,
        labels: &["source"],
        help: "Time from a query's receipt to its answer being with the kernel. Hits over UDP are timed by the batch.",
        read: |scrape, series| {
            series.distribution(&["hit"], &scrape.hit_latency);
            series.distribution(&["miss"], &scrape.miss_latency);
        },
    },
    Family {
        name: "nodens_queries_handed_over_total",
        kind: Kind::Counter,
        labels: &["proto"],
        help: "Misses that were handed over to be resolved.",
        read: |scrape, series| {
            series.count(&["udp"], scrape.sum(|worker| &worker.handed_over));
            series.count(&["tcp"], scrape.cells.stream.handed_over.load(Relaxed));
        },
    },
    Family {
        name: "nodens_queries_in_flight",
        kind: Kind::Gauge,
        labels: &[],
        help: "Misses being resolved now, clients that wait counted each.",
        read: |scrape, series| series.count(&[], scrape.cells.resolve.in_flight.load(Relaxed)),
    },
    Family {
        name: "nodens_queries_in_flight_largest_client",
        kind: Kind::Gauge,
        labels: &[],
        help: "Of nodens_queries_in_flight, those of the source address that has most of them, a second ago at most. A quarter of limits.inFlight is the most that it may have.",
        read: |scrape, series| series.count(&[], scrape.cells.resolve.used().1),
    },
    Family {
        name: "nodens_queries_queued_most",
        kind: Kind::Gauge,
        labels: &[],
        help: "Most misses that waited to be taken in, within a second before the last look. 2048 is the most that may.",
        read: |scrape, series| series.count(&[], scrape.cells.resolve.queued()),
    },
    Family {
        name: "nodens_answers_waiting_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Octets of answers that wait for TCP connections to take them, a second ago at most. 4 MiB is the most that large ones may come to.",
        read: |scrape, series| series.count(&[], scrape.cells.resolve.used().0),
    },
    Family {
        name: "nodens_queries_coalesced_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Misses that shared the upstream exchange of an identical one.",
        read: |scrape, series| series.count(&[], scrape.cells.resolve.coalesced.load(Relaxed)),
    },
    Family {
        name: "nodens_queries_over_limit_total",
        kind: Kind::Counter,
        labels: &["limit"],
        help: "Misses answered SERVFAIL because there was too much under way, by what there was too much of.",
        read: |scrape, series| {
            let counts = scrape.cells.resolve.over_limit();
            for ((_, limit), count) in OverLimit::ALL.iter().zip(counts) {
                series.count(&[limit], count);
            }
            series.count(&["queue"], scrape.sum(|worker| &worker.refused_queue_full));
        },
    },
];

const STREAM: &[Family] = &[
    Family {
        name: "nodens_tcp_connections_open",
        kind: Kind::Gauge,
        labels: &[],
        help: "Client connections open now.",
        read: |scrape, series| series.count(&[], scrape.cells.stream.connections_open()),
    },
    Family {
        name: "nodens_tcp_connections_accepted_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Client connections taken.",
        read: |scrape, series| series.count(&[], scrape.cells.stream.connections_accepted()),
    },
    Family {
        name: "nodens_tcp_connections_refused_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Client connections closed because too many were open: one that rested made room, or else the newcomer went.",
        read: |scrape, series| {
            let counts = scrape.cells.stream.connections_refused();
            for ((_, reason), count) in ConnectionRefusal::ALL.iter().zip(counts) {
                series.count(&[reason], count);
            }
        },
    },
    Family {
        name: "nodens_tcp_connections_idle_closed_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Client connections that we closed because they were idle.",
        read: |scrape, series| series.count(&[], scrape.cells.stream.connections_idle_closed()),
    },
];

const UPSTREAM: &[Family] = &[
    Family {
        name: "nodens_upstream_exchanges_total",
        kind: Kind::Counter,
        labels: &["upstream", "outcome"],
        help: "Tries at an upstream, by how they ended.",
        read: |scrape, series| {
            for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
                let counts = scrape.cells.resolve.upstream(index).outcomes();
                for ((_, outcome), count) in Outcome::ALL.iter().zip(counts) {
                    series.count(&[upstream, outcome], count);
                }
            }
        },
    },
    Family {
        name: "nodens_upstream_hedges_total",
        kind: Kind::Counter,
        labels: &["upstream"],
        help: "Queries to an upstream that were asked a second time, of it or of another, because the answer took longer than 95 of 100 do.",
        read: |scrape, series| {
            for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
                series.count(&[upstream], scrape.cells.resolve.upstream(index).hedges());
            }
        },
    },
    Family {
        name: "nodens_upstream_moves_total",
        kind: Kind::Counter,
        labels: &["upstream"],
        help: "Queries to an upstream that were asked again over another connection, because an earlier one on theirs was not answered (zones[].pipeline).",
        read: |scrape, series| {
            for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
                series.count(&[upstream], scrape.cells.resolve.upstream(index).moves());
            }
        },
    },
    Family {
        name: "nodens_upstream_up",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "1 while an upstream is asked, 0 while it is left alone because it failed. As it was a second ago at most, like the five that follow.",
        read: |scrape, series| gauge(scrape, series, |gauges| f64::from(u8::from(gauges.is_up))),
    },
    Family {
        name: "nodens_upstream_queries_in_flight",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Queries that an upstream has not answered yet.",
        read: |scrape, series| gauge(scrape, series, |gauges| decimal(gauges.in_flight)),
    },
    Family {
        name: "nodens_upstream_queries_waiting",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Queries that wait for a connection to an upstream.",
        read: |scrape, series| gauge(scrape, series, |gauges| decimal(gauges.waiting)),
    },
    Family {
        name: "nodens_upstream_pipeline_depth",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Queries that may be under way on one connection to an upstream (zones[].pipeline).",
        read: |scrape, series| gauge(scrape, series, |gauges| decimal(gauges.depth)),
    },
    Family {
        name: "nodens_upstream_rtt_seconds",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Time of an upstream's answer, exponentially smoothed; 0 before the first.",
        read: |scrape, series| {
            gauge(scrape, series, |gauges| decimal(gauges.smoothed_us) / 1e6);
        },
    },
    Family {
        name: "nodens_upstream_rtt_p95_seconds",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Time below which 95 of 100 of an upstream's last answers came, a quarter too long at most; 0 before there were enough.",
        read: |scrape, series| gauge(scrape, series, |gauges| decimal(gauges.p95_us) / 1e6),
    },
    Family {
        name: "nodens_upstream_connections_open",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Connections to an upstream open now.",
        read: |scrape, series| by_upstream(scrape, series, |opened, closed| opened - closed),
    },
    Family {
        name: "nodens_upstream_connections_opened_total",
        kind: Kind::Counter,
        labels: &["upstream"],
        help: "Connections opened to an upstream.",
        read: |scrape, series| by_upstream(scrape, series, |opened, _| opened),
    },
    Family {
        name: "nodens_upstream_connections_closed_total",
        kind: Kind::Counter,
        labels: &["upstream"],
        help: "Connections to an upstream that ended, whoever ended them.",
        read: |scrape, series| by_upstream(scrape, series, |_, closed| closed),
    },
    Family {
        name: "nodens_upstream_loops",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Zones in which an upstream is not asked, since it sends queries back to this agent.",
        read: |scrape, series| {
            for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
                series.count(&[upstream], scrape.cells.resolve.upstream(index).circles());
            }
        },
    },
    Family {
        name: "nodens_upstream_without_tcp",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "1 where an upstream answers over UDP and takes no TCP connection.",
        read: |scrape, series| {
            for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
                series.count(
                    &[upstream],
                    scrape.cells.resolve.upstream(index).without_tcp(),
                );
            }
        },
    },
];

const WORKERS: &[Family] = &[
    Family {
        name: "nodens_socket_dropped_total",
        kind: Kind::Counter,
        labels: &["address"],
        help: "Datagrams that the kernel dropped because a worker's receive queue was full.",
        read: |scrape, series| {
            for (address, &count) in &scrape.drops {
                series.count(&[address], count);
            }
        },
    },
    Family {
        name: "nodens_send_errors_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Answers over UDP from workers that the kernel would not take.",
        read: |scrape, series| series.count(&[], scrape.sum(|worker| &worker.send_errors)),
    },
    Family {
        name: "nodens_worker_answers_total",
        kind: Kind::Counter,
        labels: &["worker"],
        help: "Answers that a worker sent: shows how evenly queries reach the CPUs.",
        read: |scrape, series| {
            for (worker, &count) in scrape.worker_answers.iter().enumerate() {
                series.count(&[&worker.to_string()], count);
            }
        },
    },
    Family {
        name: "nodens_worker_batches_total",
        kind: Kind::Counter,
        labels: &["worker"],
        help: "Batches that a worker received.",
        read: |scrape, series| {
            for (worker, cells) in scrape.cells.workers.iter().enumerate() {
                series.count(&[&worker.to_string()], cells.batches.load(Relaxed));
            }
        },
    },
];

const AGENT: &[Family] = &[
    Family {
        name: "nodens_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        help: "Always 1; the label says what runs.",
        read: |_, series| series.count(&[env!("CARGO_PKG_VERSION")], 1),
    },
    Family {
        name: "nodens_live",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while /healthz says yes.",
        read: |scrape, series| health(scrape, series, |health| health.is_live),
    },
    Family {
        name: "nodens_ready",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while /readyz says yes.",
        read: |scrape, series| health(scrape, series, |health| health.is_ready),
    },
    Family {
        name: "nodens_draining",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 from the beginning of a drain.",
        read: |scrape, series| health(scrape, series, |health| health.is_draining),
    },
    Family {
        name: "nodens_probes_total",
        kind: Kind::Counter,
        labels: &["address", "proto", "result"],
        help: "Questions that the agent asked itself at a listen address, for its health.",
        read: |scrape, series| {
            for probe in scrape.health.iter().flat_map(|health| &health.probes) {
                series.count(&[&probe.address, probe.proto, "answered"], probe.answered);
                series.count(&[&probe.address, probe.proto, "failed"], probe.failed);
            }
        },
    },
    Family {
        name: "nodens_config_reloads_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Reloads of the configuration. A refused one leaves the old configuration in force.",
        read: |scrape, series| {
            let (ok, refused) = scrape.cells.agent.reloads();
            series.count(&["ok"], ok);
            series.count(&["refused"], refused);
        },
    },
    Family {
        name: "nodens_file_changes_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Changes of files that are followed: resolv.conf, authorities. A refused one leaves in force what was.",
        read: |scrape, series| {
            let (ok, refused) = scrape.cells.agent.file_changes();
            series.count(&["ok"], ok);
            series.count(&["refused"], refused);
        },
    },
    Family {
        name: "nodens_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the configuration in force was loaded, since 1970.",
        read: |scrape, series| {
            series.count(&[], scrape.cells.agent.last_reload_success_seconds());
        },
    },
];

const PROCESS: &[Family] = &[
    Family {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Processor time used, all threads together.",
        read: |scrape, series| number(series, scrape.process.cpu_seconds),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory in RAM.",
        read: |scrape, series| count(series, scrape.process.resident_bytes),
    },
    Family {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open file descriptors.",
        read: |scrape, series| count(series, scrape.process.open_fds),
    },
    Family {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Most file descriptors that may be open.",
        read: |scrape, series| count(series, scrape.process.max_fds),
    },
    Family {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the process started, since 1970.",
        read: |scrape, series| number(series, scrape.process.start_time_seconds),
    },
];

fn gauge(scrape: &Scrape<'_>, series: &mut Series, of: fn(&UpstreamGauges) -> f64) {
    for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
        let gauges = scrape.cells.resolve.upstream(index).gauges();
        series.number(&[upstream], of(&gauges));
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn decimal(number: u64) -> f64 {
    number as f64
}

fn by_upstream(scrape: &Scrape<'_>, series: &mut Series, of: fn(u64, u64) -> u64) {
    for (index, upstream) in (0..).zip(scrape.upstreams.iter()) {
        let (opened, closed) = scrape.cells.resolve.upstream(index).connections();
        series.count(&[upstream], of(opened.max(closed), closed));
    }
}

fn health(scrape: &Scrape<'_>, series: &mut Series, of: fn(&HealthFigures) -> bool) {
    count(series, scrape.health.as_ref().map(of).map(u64::from));
}

fn count(series: &mut Series, value: Option<u64>) {
    if let Some(value) = value {
        series.count(&[], value);
    }
}

fn number(series: &mut Series, value: Option<f64>) {
    if let Some(value) = value {
        series.number(&[], value);
    }
}
