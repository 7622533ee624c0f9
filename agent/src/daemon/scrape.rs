// SPDX-License-Identifier: Apache-2.0
//! What a scrape shows that is not in cells.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::cache::{Cache, ZoneFigures};
use crate::config::Config;
use crate::lifecycle::ready::Health;
use crate::listeners::{self, Listeners};
use crate::telemetry::clock::Clock;
use crate::telemetry::registry::{CacheFigures, Source, Sources, Telemetry, ZoneEntries};

/// Tells a scrape where to find what is not in cells.
pub(super) fn connect(
    telemetry: &Telemetry,
    config: &Config,
    cache: &Cache,
    health: &Arc<Health>,
    listeners: &Listeners,
) {
    if let (true, Some(first)) = (config.admin.coredns_names, config.listen.addresses.first()) {
        telemetry.show_as_coredns(SocketAddr::new(first.value, config.listen.port.value));
    }
    let (cache, health, sockets) = (cache.clone(), Arc::clone(health), listeners.sockets());
    telemetry.connect(Sources {
        cache: Source::new(move || {
            let figures = cache.figures();
            CacheFigures {
                entries: figures.entries,
                used_bytes: figures.bytes,
                budget_bytes: figures.budget_bytes,
                inserts: figures.inserts,
                replaced: figures.replaced,
                evictions: figures.evictions,
                expired: figures.expired,
                refused: figures.refused_too_large + figures.refused_no_room,
                ghost_hits: figures.ghost_hits,
                zones: cache.zones().iter().map(of_zone).collect(),
            }
        }),
        drops: Source::new(move || listeners::drops(&sockets)),
        health: Source::new(move || health.figures(Clock.now_ns())),
    });
}

fn of_zone(zone: &ZoneFigures) -> ZoneEntries {
    ZoneEntries {
        entries: zone.entries,
        evictions: zone.evictions,
    }
}
