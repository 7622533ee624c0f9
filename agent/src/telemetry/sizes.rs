// SPDX-License-Identifier: Apache-2.0
//! How large messages are: a histogram with CoreDNS's bounds (`plugin/metrics/vars`), so that its
//! dashboards go on.

use super::histogram::{Histogram, Totals};

/// Upper bounds in octets.
const BOUNDS: [u16; 14] = [
    0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000,
];

/// With one for what is above every bound.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Sizes that one thread saw.
pub(super) type Sizes = Histogram<BUCKETS>;

impl Sizes {
    /// Counts one message.
    pub(super) fn record(&self, octets: usize) {
        self.count(bucket_index(octets), 1, octets as u64);
    }
}

/// Several [`Sizes`] added up.
pub(super) type SizeDistribution = Totals<BUCKETS>;

impl SizeDistribution {
    /// Upper bounds in octets, each with the number of messages at or below it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.up_to(BOUNDS.into_iter().map(f64::from))
    }

    /// The octets of all messages.
    pub(super) fn octets(&self) -> u64 {
        self.sum()
    }
}

/// The first bucket whose bound is not below `octets`. All bounds are compared: no branch to be
/// guessed, and the compiler does it at one go.
fn bucket_index(octets: usize) -> usize {
    let octets = u16::try_from(octets).unwrap_or(u16::MAX);
    BOUNDS
        .iter()
        .map(|&bound| usize::from(octets > bound))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_falls_into_the_first_bucket_that_holds_it() {
        for octets in (0..70_000).chain([usize::MAX]) {
            let expected = BOUNDS
                .iter()
                .position(|&bound| octets <= usize::from(bound));
            assert_eq!(
                bucket_index(octets),
                expected.unwrap_or(BOUNDS.len()),
                "{octets}"
            );
        }
    }

    #[test]
    fn sizes_of_two_threads_add_up() {
        let (one, two) = (Sizes::default(), Sizes::default());
        one.record(100);
        one.record(512);
        two.record(65_535);
        let mut both = SizeDistribution::default();
        both.add(&one);
        both.add(&two);
        assert_eq!((both.count(), both.octets()), (3, 66_147));
        let cumulative: Vec<_> = both.cumulative().collect();
        assert_eq!(cumulative[1], (100.0, 1));
        assert_eq!(cumulative[5], (511.0, 1));
        assert_eq!(cumulative[6], (1023.0, 2));
        assert_eq!(
            cumulative[13],
            (64_000.0, 2),
            "the largest is above every bound"
        );
    }
}
