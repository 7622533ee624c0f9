// SPDX-License-Identifier: Apache-2.0
//! Histograms of fixed buckets: one a writing thread, added up at a scrape. What the buckets mean is
//! for [`super::latency`] and [`super::sizes`] to say.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::counters::add;

/// What one thread saw, in `N` buckets. Only the thread that owns it records.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Not cumulative; the last one is above every bound.
    buckets: [AtomicU64; N],
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| AtomicU64::default()),
            sum: AtomicU64::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts `times` of a bucket that come to `sum` together.
    pub(super) fn count(&self, bucket: usize, times: u64, sum: u64) {
        if let Some(bucket) = self.buckets.get(bucket) {
            add(bucket, times);
            add(&self.sum, sum);
        }
    }
}

/// Several [`Histogram`] added up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Totals<const N: usize> {
    buckets: [u64; N],
    sum: u64,
}

impl<const N: usize> Default for Totals<N> {
    fn default() -> Self {
        Self {
            buckets: [0; N],
            sum: 0,
        }
    }
}

impl<const N: usize> Totals<N> {
    /// Adds what one thread saw.
    pub(super) fn add(&mut self, cells: &Histogram<N>) {
        for (total, bucket) in self.buckets.iter_mut().zip(&cells.buckets) {
            *total += bucket.load(Relaxed);
        }
        self.sum = self.sum.wrapping_add(cells.sum.load(Relaxed));
    }

    /// Adds what was added up already.
    pub(super) fn merge(&mut self, other: &Self) {
        for (total, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *total += bucket;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// The upper bounds, each with how many are at or below it.
    pub(super) fn up_to(
        &self,
        bounds: impl Iterator<Item = f64>,
    ) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        bounds.zip(&self.buckets).map(move |(bound, count)| {
            total += count;
            (bound, total)
        })
    }

    /// How many in all: the sum of the buckets, so that both always agree.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What they come to together.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }
}
