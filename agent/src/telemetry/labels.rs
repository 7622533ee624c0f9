// SPDX-License-Identifier: Apache-2.0
//! What docs/metrics.md says beside the table of families: the values of labels, and questions
//! that the metrics answer.

use super::cells::{ConnectionRefusal, Outcome};
use super::counters::{RCODES, TYPES};
use crate::wire::fault::Fault;

/// A label of the table and what its values are.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) values: fn() -> String,
}

/// Every label of the table.
pub(super) const LABELS: &[Label] = &[
    Label {
        name: "address",
        values: || {
            "a listen address with its port; where queries are steered, the address that clients ask".to_owned()
        },
    },
    Label {
        name: "family",
        values: || "`1` IPv4, `2` IPv6, as CoreDNS has it".to_owned(),
    },
    Label {
        name: "limit",
        values: || {
            "`in_flight`: `limits.inFlight` were being resolved; `client`: a source address had a quarter of them; `octets`: 4 MiB of answers waited for TCP clients to read them; `queue`: the queue of misses to be resolved was full".to_owned()
        },
    },
    Label {
        name: "outcome",
        values: || listed(Outcome::ALL.map(|(_, label)| label)),
    },
    Label {
        name: "part",
        values: || {
            "`links`: the interface and its addresses; `fallback`: the table that answers when the agent is dead; `active`: the table that steers, where the kernel lets others remove it".to_owned()
        },
    },
    Label {
        name: "proto",
        values: || listed(["udp", "tcp"]),
    },
    Label {
        name: "rcode",
        values: || listed(RCODES.map(|(_, label)| label)),
    },
    Label {
        name: "reason",
        values: || {
            let connections = listed(ConnectionRefusal::ALL.map(|(_, label)| label));
            let queries = listed(Fault::ALL.map(Fault::reason));
            format!(
                "of a rejected query: {queries}; of a refused connection: {connections} (the limit that was reached: `listen.tcpConnections`, `listen.tcpConnectionsPerClient`)"
            )
        },
    },
    Label {
        name: "result",
        values: || {
            "of a reload: `ok`, `refused`; of a probe: `answered`, `failed`; of a refresh, and of a file that has changed: `ok`, `refused`".to_owned()
        },
    },
    Label {
        name: "source",
        values: || listed(["hit", "miss"]),
    },
    Label {
        name: "type",
        values: || listed(TYPES.map(|(_, label)| label)),
    },
    Label {
        name: "upstream",
        values: || {
            "an upstream server, `ADDRESS:PORT`; `other` for those beyond the first 63 since the start"
            .to_owned()
        },
    },
    Label {
        name: "version",
        values: || "the agent's version".to_owned(),
    },
    Label {
        name: "worker",
        values: || "a worker's number, from 0".to_owned(),
    },
    Label {
        name: "zone",
        values: || {
            "the longest configured zone of the name, with its final dot; empty for what was answered without regard to its name (rejected queries, a full queue, the agent's own probes); `other` for zones beyond the first 254 since the start".to_owned()
        },
    },
];

/// What one asks of the metrics, and how.
pub(super) const QUESTIONS: &[(&str, &str)] = &[
    (
        "How much does the cache answer?",
        "sum(rate(nodens_cache_hits_total[5m])) / (sum(rate(nodens_cache_hits_total[5m])) + sum(rate(nodens_cache_misses_total[5m])))",
    ),
    (
        "How long do clients wait for a miss (99 of 100)?",
        "histogram_quantile(0.99, sum by (le) (rate(nodens_query_duration_seconds_bucket{source=\"miss\"}[5m])))",
    ),
    (
        "Which node loses queries before it has read them?",
        "sum by (instance) (rate(nodens_socket_dropped_total[5m])) > 0",
    ),
    (
        "Which upstream fails, and how?",
        "sum by (upstream, outcome) (rate(nodens_upstream_exchanges_total{outcome!=\"answered\",outcome!=\"outpaced\",outcome!=\"truncated\"}[5m])) > 0",
    ),
    (
        "Who answers SERVFAIL?",
        "sum by (instance, zone) (rate(nodens_queries_total{rcode=\"SERVFAIL\"}[5m])) > 0",
    ),
    ("Which node is not ready?", "nodens_ready == 0"),
    (
        "Which node refused its new configuration?",
        "increase(nodens_config_reloads_total{result=\"refused\"}[1h]) > 0",
    ),
    (
        "Is the cache too small?",
        "rate(nodens_cache_ghost_hits_total[5m]) > 0",
    ),
];

fn listed<const N: usize>(values: [&str; N]) -> String {
    values.map(|value| format!("`{value}`")).join(", ")
}
