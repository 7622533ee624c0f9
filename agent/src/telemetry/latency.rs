// SPDX-License-Identifier: Apache-2.0
//! How long answers take: one histogram of fixed buckets a writing thread, summed at a scrape.
//!
//! Bounds double from 0.98 µs (a hit out of a warm batch) to 8.192 s (above any query deadline),
//! so a bucket is found with one division and a count of leading zeros, and a quantile read from
//! the buckets is wrong by a factor of two at most. They are 8.192 s halved 23 times rather than
//! 1 µs doubled because the upper sixteen are then exactly CoreDNS's bounds (0.25 ms to 8.192 s):
//! both can be laid over each other bucket by bucket.

use std::time::Duration;

use super::histogram::{Histogram, Totals};

/// Buckets with an upper bound.
const BOUNDS: usize = 24;

/// With one for what is above every bound.
const BUCKETS: usize = BOUNDS + 1;

/// Of these, the upper ones, which are CoreDNS's.
const COREDNS_BOUNDS: usize = 16;

/// The upper bound of the last bucket, in seconds.
const LARGEST_SECONDS: f64 = 8.192;

/// Latencies that one thread saw, in nanoseconds.
pub(super) type Latency = Histogram<BUCKETS>;

impl Latency {
    /// Counts `queries` that took `duration` each: a batch is timed once, for all of its queries.
    pub(super) fn record(&self, duration: Duration, queries: u64) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.count(bucket_index(ns), queries, ns.saturating_mul(queries));
    }
}

/// Several [`Latency`] added up.
pub(super) type Distribution = Totals<BUCKETS>;

impl Distribution {
    /// Upper bounds in seconds, each with the number of queries at or below it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.up_to((0..BOUNDS).map(bound_seconds))
    }

    /// As [`Self::cumulative`], from CoreDNS's least bound on (0.25 ms to 8.192 s).
    pub(super) fn cumulative_of_coredns(&self) -> impl Iterator<Item = (f64, u64)> {
        self.cumulative().skip(BOUNDS - COREDNS_BOUNDS)
    }

    /// The sum of all latencies in seconds.
    pub(super) fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum()).as_secs_f64()
    }
}

/// The first bucket whose bound is not below `ns`. Bound `i` is 2^i times 15625/16 ns, and
/// `ns * 16 / 15625`, rounded up, is at most 2^i where the exact quotient is.
fn bucket_index(ns: u64) -> usize {
    let units = ns.saturating_mul(16).div_ceil(15_625);
    let doublings = u64::BITS - units.saturating_sub(1).leading_zeros();
    usize::try_from(doublings).unwrap_or(BOUNDS).min(BOUNDS)
}

/// The upper bound of a bucket in seconds. Halving is exact in binary floating point, so these
/// print as CoreDNS's do.
fn bound_seconds(index: usize) -> f64 {
    (index + 1..BOUNDS).fold(LARGEST_SECONDS, |bound, _| bound / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(latency: &Latency) -> Distribution {
        let mut distribution = Distribution::default();
        distribution.add(latency);
        distribution
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for ns in (0..64)
            .map(|bit| 1u64 << bit)
            .flat_map(|ns| [ns - 1, ns, ns + 1])
            .chain([
                976,
                977,
                1953,
                1954,
                250_000,
                250_001,
                8_192_000_000,
                8_192_000_001,
                u64::MAX,
            ])
        {
            let seconds = ns as f64 / 1e9;
            let expected = (0..BOUNDS).find(|&index| seconds <= bound_seconds(index));
            assert_eq!(bucket_index(ns), expected.unwrap_or(BOUNDS), "{ns} ns");
        }
    }

    #[test]
    fn the_upper_bounds_are_those_of_coredns() {
        let mut coredns = 0.000_25;
        let distribution = Distribution::default();
        let bounds: Vec<_> = distribution.cumulative_of_coredns().collect();
        assert_eq!(bounds.len(), 16);
        for (bound, _) in bounds {
            assert_eq!(bound.to_bits(), f64::to_bits(coredns));
            coredns *= 2.0;
        }
        assert_eq!(bound_seconds(0).to_string(), "0.0000009765625");
    }

    #[test]
    fn a_batch_counts_all_its_queries_and_threads_add_up() {
        let (one, two) = (Latency::default(), Latency::default());
        one.record(Duration::from_micros(3), 64);
        two.record(Duration::from_secs(20), 1);
        let mut both = distribution(&one);
        both.add(&two);
        assert_eq!(both.count(), 65);
        assert!((both.sum_seconds() - (64.0 * 3e-6 + 20.0)).abs() < 1e-9);
        let cumulative: Vec<_> = both.cumulative().collect();
        assert_eq!(cumulative.len(), BOUNDS);
        assert!(
            cumulative
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        );
        assert_eq!(cumulative[BOUNDS - 1].1, 64, "20 s is above every bound");
    }
}
