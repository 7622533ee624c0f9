// SPDX-License-Identifier: Apache-2.0
//! The rows of the table of metrics that tell of the steering.

use super::exposition::{Family, Kind};
use super::registry::{LaneFigures, Scrape, SteeringFigures};

pub(super) const STEERING: &[Family] = &[
    Family {
        name: "nodens_steered",
        kind: Kind::Gauge,
        labels: &["address", "proto"],
        help: "1 while the kernel steers queries to this address here, 0 while it leaves them to CoreDNS. Only where intercept.enabled is true, as all below.",
        read: |scrape, series| {
            for lane in lanes(scrape) {
                series.count(&[&lane.address, lane.proto], u64::from(lane.is_live));
            }
        },
    },
    Family {
        name: "nodens_switch_trips_total",
        kind: Kind::Counter,
        labels: &["address", "proto"],
        help: "Times that the dead-man's switch let queries to this address go to CoreDNS.",
        read: |scrape, series| {
            for lane in lanes(scrape) {
                series.count(&[&lane.address, lane.proto], lane.trips);
            }
        },
    },
    Family {
        name: "nodens_switch_returns_total",
        kind: Kind::Counter,
        labels: &["address", "proto"],
        help: "Times that queries to this address were steered here again after a trip.",
        read: |scrape, series| {
            for lane in lanes(scrape) {
                series.count(&[&lane.address, lane.proto], lane.returns);
            }
        },
    },
    Family {
        name: "nodens_switch_refreshes_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Signs of life given to the kernel, and those that it did not take.",
        read: |scrape, series| {
            if let Some(steering) = steering(scrape) {
                series.count(&["ok"], steering.refreshed);
                series.count(&["refused"], steering.refused);
            }
        },
    },
    Family {
        name: "nodens_switch_longest_gap_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "The longest time between two signs of life since the start, a trip's own gap among them. They are due every 0.25 s; beyond intercept.deadAfter the switch trips.",
        read: |scrape, series| {
            if let Some(steering) = steering(scrape) {
                series.number(&[], steering.longest_gap.as_secs_f64());
            }
        },
    },
    Family {
        name: "nodens_healed_total",
        kind: Kind::Counter,
        labels: &["part"],
        help: "Times that something of ours was gone from the node and was put back.",
        read: |scrape, series| {
            for (part, count) in steering(scrape)
                .iter()
                .flat_map(|steering| &steering.healed)
            {
                series.count(&[part], *count);
            }
        },
    },
];

fn steering<'a>(scrape: &'a Scrape<'_>) -> Option<&'a SteeringFigures> {
    scrape.health.as_ref()?.steering.as_ref()
}

fn lanes<'a>(scrape: &'a Scrape<'_>) -> &'a [LaneFigures] {
    steering(scrape).map_or(&[], |steering| &steering.lanes)
}
