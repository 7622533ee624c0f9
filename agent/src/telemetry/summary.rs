// SPDX-License-Identifier: Apache-2.0
//! The figures of a scrape as values, for the pages of the admin socket: both say the same.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cells::{Event, Outcome};
use super::counters::NO_ZONE;
use super::registry::{CacheFigures, HealthFigures, Scrape, Telemetry};

/// What a scrape shows, as far as the admin pages tell of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Every zone that something was counted for, by its index in counters.
    pub zones: Vec<ZoneCounts>,
    /// The answer store; `None` before it is known.
    pub cache: Option<CacheFigures>,
    /// The health checks; `None` before they are known.
    pub health: Option<HealthFigures>,
    /// When the process started, in seconds since 1970.
    pub start_time_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Clients that wait for an answer.
    pub in_flight: u64,
}

/// What was counted of a zone since the start, under the names of the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneCounts {
    /// The zone's name, in presentation form.
    pub zone: String,
    /// Queries answered from the cache.
    pub hits: u64,
    /// Queries that it had no answer for.
    pub misses: u64,
    /// Stale answers that were put back.
    pub stale: u64,
    /// Failures that were remembered.
    pub failures: u64,
    /// Answers that were asked for again before their end.
    pub prefetches: u64,
    /// Names that were denied below a cut.
    pub cuts: u64,
    /// Names for which data and their denial came at once.
    pub contradictions: u64,
}

impl Telemetry {
    /// Adds up what a scrape would show.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let scrape = Scrape::of(self);
        let of = |event| self.resolve.happenings(event).collect::<Vec<_>>();
        let misses: Vec<_> = self.resolve.misses().collect();
        let [stale, failures, prefetches, cuts, contradictions] = [
            Event::Stale,
            Event::Failure,
            Event::Prefetch,
            Event::Cut,
            Event::Contradiction,
        ]
        .map(of);
        let at = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or(0);
        let zones = scrape.zones.iter().enumerate();
        Summary {
            zones: zones
                .skip(usize::from(NO_ZONE) + 1)
                .map(|(index, zone)| ZoneCounts {
                    zone: zone.clone(),
                    hits: at(&scrape.hits, index),
                    misses: at(&misses, index),
                    stale: at(&stale, index),
                    failures: at(&failures, index),
                    prefetches: at(&prefetches, index),
                    cuts: at(&cuts, index),
                    contradictions: at(&contradictions, index),
                })
                .collect(),
            start_time_seconds: scrape.process.start_time_seconds,
            resident_bytes: scrape.process.resident_bytes,
            in_flight: self.resolve.in_flight.load(Relaxed),
            cache: scrape.cache,
            health: scrape.health,
        }
    }

    /// The names of the zones, each at its index in counters.
    #[must_use]
    pub fn zone_names(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.zones.load())
    }

    /// How the tries at an upstream ended so far, by the labels of the metrics; only those that
    /// happened.
    #[must_use]
    pub fn exchanges(&self, index: u16) -> Vec<(&'static str, u64)> {
        let counts = self.resolve.upstream(index).outcomes();
        let labels = Outcome::ALL.iter().map(|(_, label)| *label);
        labels.zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}
