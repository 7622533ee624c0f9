// SPDX-License-Identifier: Apache-2.0
//! The series of CoreDNS and node-cache under their own names, for dashboards and alerts that know
//! them: a part of the one table of [`super::families`], shown where `admin.corednsNames` is set.
//!
//! Names, labels and bounds are those of CoreDNS 1.14 (`plugin/metrics`, `plugin/cache`,
//! `plugin/pkg/proxy`) and node-cache 1.26; `coredns_forward_requests_total` and its like left
//! CoreDNS with 1.11, and dashboards still ask for them.

use std::collections::BTreeMap;

use super::cells::{Event, Outcome};
use super::counters::{Channel, NO_ZONE, RCODES, TYPES};
use super::exposition::{Family, Kind, Series};
use super::latency::Distribution;
use super::registry::{Scrape, ZoneEntries};
use super::sizes::SizeDistribution;
use super::zone_cells::ZoneTotals;

/// CoreDNS's label value for what it answers without regard to the name.
const DROPPED: &str = "dropped";
/// Its label values of what a cache keeps, in the order of [`ZoneEntries`].
const KINDS: [&str; 2] = ["success", "denial"];
/// The plugin that asks upstreams.
const FORWARD: &str = "forward";

pub(super) const COREDNS: &[Family] = &[
    Family {
        name: "coredns_build_info",
        kind: Kind::Gauge,
        labels: &["version", "revision", "goversion"],
        help: "Always 1. The version is that of nodens; the revision says so.",
        read: |_, series| {
            series.count(&[env!("CARGO_PKG_VERSION"), "nodens", ""], 1);
        },
    },
    Family {
        name: "coredns_panics_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Always 0: a panic ends the process, and the kernel hands queries to CoreDNS.",
        read: |_, series| {
            series.count(&[], 0);
        },
    },
    Family {
        name: "coredns_plugin_enabled",
        kind: Kind::Gauge,
        labels: &["server", "zone", "view", "name"],
        help: "Always 1, for what nodens does of the plugins cache, errors, forward and prometheus.",
        read: |scrape, series| {
            by_zone(scrape, |server, zone, _| {
                for name in ["cache", "errors", FORWARD, "prometheus"] {
                    series.count(&[server, zone, "", name], 1);
                }
            });
        },
    },
    Family {
        name: "coredns_dns_requests_total",
        kind: Kind::Counter,
        labels: &["server", "zone", "view", "proto", "family", "type"],
        help: "As nodens_queries_total, all response codes together.",
        read: |scrape, series| {
            let server = server(scrape);
            let mut sums = BTreeMap::new();
            for (&(zone, channel, qtype, _), &count) in of_clients(scrape) {
                *sums.entry((zone, channel, qtype)).or_insert(0) += count;
            }
            for ((zone, channel, qtype), count) in sums {
                series.count(
                    &[
                        server,
                        zone_of(scrape, zone),
                        "",
                        channel.proto(),
                        channel.family(),
                        TYPES[qtype].1,
                    ],
                    count,
                );
            }
        },
    },
    Family {
        name: "coredns_dns_responses_total",
        kind: Kind::Counter,
        labels: &["server", "zone", "view", "rcode", "plugin"],
        help: "As nodens_queries_total, by what answered: cache, forward, or none of them where a query was refused.",
        read: |scrape, series| {
            let server = server(scrape);
            let mut sums = BTreeMap::new();
            for (&(zone, _, _, rcode), &count) in of_clients(scrape) {
                *sums.entry((zone, rcode)).or_insert(0) += count;
            }
            for ((zone, rcode), count) in sums {
                let fetched = scrape.fetched.get(&(zone, rcode)).copied().unwrap_or(0);
                let here = if zone == NO_ZONE { "" } else { "cache" };
                for (plugin, count) in [(here, count - fetched), (FORWARD, fetched)] {
                    if count > 0 {
                        let zone = zone_of(scrape, zone);
                        series.count(&[server, zone, "", RCODES[rcode].1, plugin], count);
                    }
                }
            }
        },
    },
    Family {
        name: "coredns_dns_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["server", "zone", "view"],
        help: "As nodens_query_duration_seconds, by zone, with CoreDNS's bounds.",
        read: |scrape, series| {
            by_zone(scrape, |server, zone, [hits, misses]| {
                let mut times = hits.latency.clone();
                times.merge(&misses.latency);
                durations(series, &[server, zone, ""], &times);
            });
        },
    },
    Family {
        name: "coredns_dns_request_size_bytes",
        kind: Kind::Histogram,
        labels: &["server", "zone", "view", "proto"],
        help: "Sizes of queries.",
        read: |scrape, series| sizes(scrape, series, |totals| &totals.asked),
    },
    Family {
        name: "coredns_dns_response_size_bytes",
        kind: Kind::Histogram,
        labels: &["server", "zone", "view", "proto"],
        help: "Sizes of answers.",
        read: |scrape, series| sizes(scrape, series, |totals| &totals.sent),
    },
    Family {
        name: "coredns_dns_do_requests_total",
        kind: Kind::Counter,
        labels: &["server", "zone", "view"],
        help: "Queries that ask for the records of DNSSEC (the DO bit).",
        read: |scrape, series| {
            by_zone(scrape, |server, zone, totals| {
                let count = totals.iter().map(|totals| totals.dnssec_ok).sum();
                series.count(&[server, zone, ""], count);
            });
        },
    },
    Family {
        name: "coredns_cache_entries",
        kind: Kind::Gauge,
        labels: &["server", "type", "zones", "view"],
        help: "As nodens_cache_entries, by zone, data and denials apart.",
        read: |scrape, series| kept(scrape, series, |zone| zone.entries),
    },
    Family {
        name: "coredns_cache_evictions_total",
        kind: Kind::Counter,
        labels: &["server", "type", "zones", "view"],
        help: "As nodens_cache_evictions_total, by zone, data and denials apart.",
        read: |scrape, series| kept(scrape, series, |zone| zone.evictions),
    },
    Family {
        name: "coredns_cache_requests_total",
        kind: Kind::Counter,
        labels: &["server", "zones", "view"],
        help: "Hits and misses together.",
        read: |scrape, series| {
            let hits = scrape.hits.iter().copied();
            let counts = hits.zip(scrape.cells.resolve.misses());
            each(scrape, counts.map(|(hits, misses)| hits + misses), series);
        },
    },
    Family {
        name: "coredns_cache_hits_total",
        kind: Kind::Counter,
        labels: &["server", "type", "zones", "view"],
        help: "As nodens_cache_hits_total, data and denials apart; failures that are remembered are denials, as in CoreDNS.",
        read: |scrape, series| {
            by_zone_index(scrape, |index, server, zone, [hits, _]| {
                let all = scrape.hits.get(index).copied().unwrap_or(0);
                let counts = [all.saturating_sub(hits.denials), hits.denials];
                for (kind, count) in KINDS.iter().zip(counts) {
                    series.count(&[server, kind, zone, ""], count);
                }
            });
        },
    },
    Family {
        name: "coredns_cache_misses_total",
        kind: Kind::Counter,
        labels: &["server", "zones", "view"],
        help: "As nodens_cache_misses_total.",
        read: |scrape, series| each(scrape, scrape.cells.resolve.misses(), series),
    },
    Family {
        name: "coredns_cache_prefetch_total",
        kind: Kind::Counter,
        labels: &["server", "zones", "view"],
        help: "As nodens_cache_prefetches_total.",
        read: |scrape, series| {
            each(
                scrape,
                scrape.cells.resolve.happenings(Event::Prefetch),
                series,
            );
        },
    },
    Family {
        name: "coredns_cache_served_stale_total",
        kind: Kind::Counter,
        labels: &["server", "zones", "view"],
        help: "Queries that got an answer beyond its lifetime, as no upstream answered.",
        read: |scrape, series| {
            by_zone(scrape, |server, zone, totals| {
                let count = totals.iter().map(|totals| totals.stale).sum();
                series.count(&[server, zone, ""], count);
            });
        },
    },
    Family {
        name: "coredns_cache_drops_total",
        kind: Kind::Counter,
        labels: &["server", "zones", "view"],
        help: "Always 0: a response to another question is no answer, and is not kept (nodens_upstream_exchanges_total).",
        read: |scrape, series| {
            by_zone(scrape, |server, zone, _| {
                series.count(&[server, zone, ""], 0)
            })
        },
    },
    Family {
        name: "coredns_proxy_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["proxy_name", "to", "rcode"],
        help: "Time of an upstream's response, by its code.",
        read: |scrape, series| {
            responses(scrape, |to, rcode, times| {
                durations(series, &[FORWARD, to, rcode], times);
            });
        },
    },
    Family {
        name: "coredns_proxy_healthcheck_failures_total",
        kind: Kind::Counter,
        labels: &["proxy_name", "to"],
        help: "Tries at an upstream that found nobody there: no connection, refused, unreachable, no answer in time. nodens asks no health checks.",
        read: |scrape, series| {
            failures(scrape, |to, count| series.count(&[FORWARD, to], count));
        },
    },
    Family {
        name: "coredns_proxy_conn_cache_hits_total",
        kind: Kind::Counter,
        labels: &["proxy_name", "to", "proto"],
        help: "Responses that needed no connection of their own.",
        read: |scrape, series| {
            connections(scrape, series, |opened, answered| {
                answered.saturating_sub(opened)
            })
        },
    },
    Family {
        name: "coredns_proxy_conn_cache_misses_total",
        kind: Kind::Counter,
        labels: &["proxy_name", "to", "proto"],
        help: "Connections opened to an upstream.",
        read: |scrape, series| connections(scrape, series, |opened, _| opened),
    },
    Family {
        name: "coredns_forward_requests_total",
        kind: Kind::Counter,
        labels: &["to"],
        help: "Queries that an upstream answered, as CoreDNS counted them until 1.11.",
        read: |scrape, series| {
            upstreams(scrape, |index, to| {
                series.count(&[to], answered(scrape, index))
            });
        },
    },
    Family {
        name: "coredns_forward_responses_total",
        kind: Kind::Counter,
        labels: &["to", "rcode"],
        help: "Responses of an upstream by their code, as CoreDNS counted them until 1.11.",
        read: |scrape, series| {
            responses(scrape, |to, rcode, times| {
                series.count(&[to, rcode], times.count())
            });
        },
    },
    Family {
        name: "coredns_forward_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["to", "rcode"],
        help: "Time of an upstream's response, as CoreDNS had it until 1.11.",
        read: |scrape, series| {
            responses(scrape, |to, rcode, times| {
                durations(series, &[to, rcode], times);
            });
        },
    },
    Family {
        name: "coredns_forward_healthcheck_failures_total",
        kind: Kind::Counter,
        labels: &["to"],
        help: "As coredns_proxy_healthcheck_failures_total, under the name that it had until 1.11.",
        read: |scrape, series| failures(scrape, |to, count| series.count(&[to], count)),
    },
    Family {
        name: "coredns_forward_max_concurrent_rejects_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Misses answered SERVFAIL because there was too much under way.",
        read: |scrape, series| {
            let [flight, client, _, upstream] = scrape.cells.resolve.over_limit();
            let queue = scrape.sum(|worker| &worker.refused_queue_full);
            series.count(&[], flight + client + upstream + queue);
        },
    },
    Family {
        name: "coredns_forward_healthcheck_broken_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Questions that no upstream of their zone answered; CoreDNS counts when all of them are down.",
        read: |scrape, series| {
            series.count(&[], scrape.cells.resolve.happenings(Event::Failure).sum());
        },
    },
    Family {
        name: "coredns_health_request_failures_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Questions that the agent asked itself for its health, and that were not answered.",
        read: |scrape, series| {
            let probes = scrape.health.iter().flat_map(|health| &health.probes);
            series.count(&[], probes.map(|probe| probe.failed).sum());
        },
    },
    Family {
        name: "coredns_reload_failed_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Reloads of the configuration that were refused.",
        read: |scrape, series| {
            series.count(&[], scrape.cells.agent.reloads().1);
        },
    },
    Family {
        name: "coredns_nodecache_setup_errors_total",
        kind: Kind::Counter,
        labels: &["errortype"],
        help: "Rules that the kernel did not take (iptables), and files that could not be used (configmap). The other kinds of node-cache are always 0: what is missing is put back, see nodens_healed_total.",
        read: |scrape, series| {
            let steering = scrape
                .health
                .as_ref()
                .and_then(|health| health.steering.as_ref());
            let refused = steering.map_or(0, |steering| steering.refused);
            let (_, files) = scrape.cells.agent.file_changes();
            for (errortype, count) in [
                ("configmap", files),
                ("interface_add", 0),
                ("interface_check", 0),
                ("iptables", refused),
                ("iptables_lock", 0),
            ] {
                series.count(&[errortype], count);
            }
        },
    },
];

/// All answers but those to the agent's questions to itself, which are nobody's requests: of what
/// belongs to no zone only they are no refusal.
fn of_clients<'a>(
    scrape: &'a Scrape<'_>,
) -> impl Iterator<Item = (&'a (u16, Channel, usize, usize), &'a u64)> {
    let is_own = |zone, rcode: usize| zone == NO_ZONE && RCODES[rcode].0 == 0;
    let answers = scrape.answers.iter();
    answers.filter(move |&(&(zone, _, _, rcode), _)| !is_own(zone, rcode))
}

/// The label `server`. Where there is none, none of these families is asked for.
fn server<'a>(scrape: &Scrape<'a>) -> &'a str {
    scrape.server.unwrap_or_default()
}

/// How a zone is called, as CoreDNS does it.
fn zone_of<'a>(scrape: &'a Scrape<'_>, index: u16) -> &'a str {
    if index == NO_ZONE {
        DROPPED
    } else {
        scrape.zone(index)
    }
}

/// Every zone that has a name with its index, behind the label `server`.
fn by_zone_index(scrape: &Scrape<'_>, mut visit: impl FnMut(usize, &str, &str, &[ZoneTotals; 2])) {
    let server = server(scrape);
    let zones = scrape.zones.iter().zip(&scrape.totals).enumerate();
    for (index, (zone, totals)) in zones.skip(usize::from(NO_ZONE) + 1) {
        visit(index, server, zone, totals);
    }
}

fn by_zone(scrape: &Scrape<'_>, mut visit: impl FnMut(&str, &str, &[ZoneTotals; 2])) {
    by_zone_index(scrape, |_, server, zone, totals| {
        visit(server, zone, totals)
    });
}

/// One series a zone.
fn each(scrape: &Scrape<'_>, counts: impl Iterator<Item = u64>, series: &mut Series) {
    let counts: Vec<_> = counts.collect();
    by_zone_index(scrape, |index, server, zone, _| {
        series.count(&[server, zone, ""], counts.get(index).copied().unwrap_or(0));
    });
}

/// Times, with CoreDNS's bounds.
fn durations(series: &mut Series, labels: &[&str], times: &Distribution) {
    let bounds = times.cumulative_of_coredns();
    series.histogram(labels, bounds, times.count(), times.sum_seconds());
}

/// Sizes by transport; of one that nobody uses there is none.
fn sizes(scrape: &Scrape<'_>, series: &mut Series, of: fn(&ZoneTotals) -> &[SizeDistribution; 2]) {
    by_zone(scrape, |server, zone, totals| {
        for (index, proto) in ["udp", "tcp"].into_iter().enumerate() {
            let mut sizes = SizeDistribution::default();
            for totals in totals {
                sizes.merge(&of(totals)[index]);
            }
            if sizes.count() > 0 {
                series.sizes(&[server, zone, "", proto], &sizes);
            }
        }
    });
}

/// What the store has of each zone.
fn kept(scrape: &Scrape<'_>, series: &mut Series, of: fn(&ZoneEntries) -> [u64; 2]) {
    let Some(cache) = &scrape.cache else { return };
    by_zone_index(scrape, |index, server, zone, _| {
        let counts = cache.zones.get(index).map_or([0; 2], of);
        for (kind, count) in KINDS.iter().zip(counts) {
            series.count(&[server, kind, zone, ""], count);
        }
    });
}

fn upstreams(scrape: &Scrape<'_>, mut visit: impl FnMut(u16, &str)) {
    for (index, to) in (0..).zip(scrape.upstreams.iter()) {
        visit(index, to);
    }
}

/// Each upstream's responses by their code.
fn responses(scrape: &Scrape<'_>, mut visit: impl FnMut(&str, &str, &Distribution)) {
    upstreams(scrape, |index, to| {
        for (rcode, times) in scrape.cells.resolve.upstream(index).responses() {
            visit(to, RCODES[rcode].1, &times);
        }
    });
}

fn failures(scrape: &Scrape<'_>, mut visit: impl FnMut(&str, u64)) {
    upstreams(scrape, |index, to| {
        let outcomes = scrape.cells.resolve.upstream(index).outcomes();
        let count = Outcome::ALL
            .iter()
            .zip(outcomes)
            .filter(|((outcome, _), _)| {
                matches!(
                    outcome,
                    Outcome::Timeout
                        | Outcome::ConnectTimeout
                        | Outcome::Refused
                        | Outcome::Unreachable
                )
            });
        visit(to, count.map(|(_, count)| count).sum());
    });
}

fn answered(scrape: &Scrape<'_>, index: u16) -> u64 {
    let responses = scrape.cells.resolve.upstream(index).responses();
    responses.map(|(_, times)| times.count()).sum()
}

fn connections(scrape: &Scrape<'_>, series: &mut Series, of: fn(u64, u64) -> u64) {
    upstreams(scrape, |index, to| {
        let (opened, _) = scrape.cells.resolve.upstream(index).connections();
        series.count(&[FORWARD, to, "tcp"], of(opened, answered(scrape, index)));
    });
}
