// SPDX-License-Identifier: Apache-2.0
//! The metrics of the cache: a part of the one table of [`super::families`].

use super::cells::{Event, Unfit};
use super::counters::NO_ZONE;
use super::exposition::{Family, Kind, Series};
use super::registry::{CacheFigures, Scrape};

pub(super) const CACHE: &[Family] = &[
    Family {
        name: "nodens_cache_hits_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Queries answered from the cache, with remembered failures and stale answers among them.",
        read: |scrape, series| by_zone(scrape, scrape.hits.iter().copied(), series),
    },
    Family {
        name: "nodens_cache_misses_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Queries that the cache had no answer for.",
        read: |scrape, series| by_zone(scrape, scrape.cells.resolve.misses(), series),
    },
    Family {
        name: "nodens_cache_entries",
        kind: Kind::Gauge,
        labels: &[],
        help: "Entries in the cache, those that have expired and may still serve as stale answers among them.",
        read: |scrape, series| cache(scrape, series, |cache| cache.entries),
    },
    Family {
        name: "nodens_cache_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes that the entries take, all overhead counted.",
        read: |scrape, series| cache(scrape, series, |cache| cache.used_bytes),
    },
    Family {
        name: "nodens_cache_budget_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes that the entries may take (cache.size).",
        read: |scrape, series| cache(scrape, series, |cache| cache.budget_bytes),
    },
    Family {
        name: "nodens_cache_inserts_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Entries put into the cache.",
        read: |scrape, series| cache(scrape, series, |cache| cache.inserts),
    },
    Family {
        name: "nodens_cache_replaced_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Inserts that took the place of an entry with the same key.",
        read: |scrape, series| cache(scrape, series, |cache| cache.replaced),
    },
    Family {
        name: "nodens_cache_evictions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Entries that left before their end to make room.",
        read: |scrape, series| cache(scrape, series, |cache| cache.evictions),
    },
    Family {
        name: "nodens_cache_expired_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Entries that left because they were of no use any more, not even as stale answers.",
        read: |scrape, series| cache(scrape, series, |cache| cache.expired),
    },
    Family {
        name: "nodens_cache_refused_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Responses that were not put into the cache: too large, or no room.",
        read: |scrape, series| cache(scrape, series, |cache| cache.refused),
    },
    Family {
        name: "nodens_cache_stale_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Answers beyond their lifetime that were put back for up to 5 s, as no upstream answered (RFC 8767).",
        read: |scrape, series| happened(scrape, Event::Stale, series),
    },
    Family {
        name: "nodens_cache_failures_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Failures of the upstreams that were remembered for 1 to 5 s (RFC 9520).",
        read: |scrape, series| happened(scrape, Event::Failure, series),
    },
    Family {
        name: "nodens_cache_prefetches_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Popular answers that were asked for again before their end.",
        read: |scrape, series| happened(scrape, Event::Prefetch, series),
    },
    Family {
        name: "nodens_cache_prefetches_dropped_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Popular answers that were not, because as many were being asked for as may.",
        read: |scrape, series| happened(scrape, Event::PrefetchDropped, series),
    },
    Family {
        name: "nodens_cache_contradictions_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Names for which data and their denial came within a second: for an hour the zone's names are denied type by type.",
        read: |scrape, series| happened(scrape, Event::Contradiction, series),
    },
    Family {
        name: "nodens_cache_cuts_total",
        kind: Kind::Counter,
        labels: &["zone"],
        help: "Names denied because they lie below one that does not exist (zones[].cuts), not counting those that ask again.",
        read: |scrape, series| happened(scrape, Event::Cut, series),
    },
    Family {
        name: "nodens_cache_unfit_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Responses that belong to their question and were not kept as they are, by reason.",
        read: |scrape, series| {
            let counts = scrape.cells.resolve.unfits();
            for ((_, reason), count) in Unfit::ALL.iter().zip(counts) {
                series.count(&[reason], count);
            }
        },
    },
    Family {
        name: "nodens_cache_ghost_hits_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Inserts of a name that was evicted a short while ago: the cache is too small for what is asked.",
        read: |scrape, series| cache(scrape, series, |cache| cache.ghost_hits),
    },
];

fn happened(scrape: &Scrape<'_>, event: Event, series: &mut Series) {
    by_zone(scrape, scrape.cells.resolve.happenings(event), series);
}

/// One series for each zone; for none only where there is something.
fn by_zone(scrape: &Scrape<'_>, counts: impl Iterator<Item = u64>, series: &mut Series) {
    for ((index, name), count) in (0..).zip(scrape.zones.iter()).zip(counts) {
        if index != NO_ZONE || count > 0 {
            series.count(&[name], count);
        }
    }
}

fn cache(scrape: &Scrape<'_>, series: &mut Series, of: fn(&CacheFigures) -> u64) {
    if let Some(value) = scrape.cache.as_ref().map(of) {
        series.count(&[], value);
    }
}
