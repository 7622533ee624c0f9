// SPDX-License-Identifier: Apache-2.0
//! Durations on a logarithmic scale, to within 1.6 %.

use std::time::Duration;

/// Bits of a value that are kept: 64 buckets for each power of two.
const KEPT_BITS: u32 = 6;
/// Buckets in all: exact below 64, then 64 for each of the powers of two up to 2^63.
const BUCKETS: usize = (64 - KEPT_BITS as usize + 1) << KEPT_BITS;

/// How often each duration was seen.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Histogram {
    /// Adds a duration in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    /// How many durations were added.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The duration that `fraction` of all durations do not exceed; zero if there are none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is far below 2^53 and never negative"
    )]
    pub fn quantile(&self, fraction: f64) -> Duration {
        let rank = (fraction * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(bucket));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(KEPT_BITS + 1);
    // Above 127 the top bit of the mantissa is always set: 64 values are left for each shift.
    let mantissa = usize::try_from(value >> shift).unwrap_or(0);
    ((shift as usize) << KEPT_BITS) + mantissa
}

/// The middle of the values of a bucket.
fn middle(bucket: usize) -> u64 {
    let powers = bucket >> KEPT_BITS;
    if powers < 2 {
        return bucket as u64;
    }
    let shift = powers - 1;
    let mantissa = (bucket - (shift << KEPT_BITS)) as u64;
    (mantissa << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, Histogram, bucket, middle};

    #[test]
    fn a_bucket_holds_its_value_to_within_two_percent() {
        let mut values: Vec<u64> = (0..300).collect();
        for power in 8..63 {
            values.extend([
                (1 << power) - 1,
                1 << power,
                (1 << power) + (1 << (power - 1)),
            ]);
        }
        for value in values {
            let near = middle(bucket(value));
            assert!(
                near.abs_diff(value) * 64 <= value.max(1),
                "{value} became {near}"
            );
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn buckets_rise_with_their_values() {
        let mut last = 0;
        for value in 0..100_000 {
            let now = bucket(value);
            assert!(now == last || now == last + 1, "{value}: {last}, {now}");
            last = now;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut one = Histogram::default();
        let mut other = Histogram::default();
        for us in 1..=500 {
            one.record(us * 1000);
            other.record((us + 500) * 1000);
        }
        one.merge(&other);
        assert_eq!(one.total(), 1000);
        for (fraction, us) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = one.quantile(fraction).as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.02, "{fraction}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
