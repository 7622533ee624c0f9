// SPDX-License-Identifier: Apache-2.0
//! Load: clients that verify every reply, the bare echo that is their limit, the meters.
//!
//! ```text
//!   names ──► client ──UDP or TCP──► server under test ──TCP──► upstream
//!               │                        │
//!          Outcome (latency,         CpuMeter, Memory
//!          lost, wrong)              (the kernel's accounting)
//! ```
//!
//! [`client::Load`] describes a run and runs it; [`meter`] says what it cost the server;
//! [`mod@bench`] puts both together into the table of `make bench`. The binaries `load`, `echo` and
//! `bench` only read arguments.

#![expect(
    clippy::disallowed_methods,
    reason = "a load generator owns its clock and its pauses"
)]

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

pub mod bench;
pub mod client;
pub mod echo;
pub mod histogram;
mod link;
pub mod meter;
pub mod mmsg;
pub mod names;
pub mod process;
pub mod question;
pub mod report;
pub mod upstream;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The monotonic clock is never negative and stays below 2^63 ns for 292 years.
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The CPUs this process may run on, in the order in which a steered socket group wants them:
/// place i holds the CPU c with `c % n == i` where there is one, so that `ld #cpu; mod #n; ret a`
/// finds the socket of the CPU it runs on. CPUs whose place is taken fill the places left over.
///
/// # Errors
/// What `sched_getaffinity` says.
pub fn cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect();
    Ok(place(&all))
}

/// See [`cpus`].
fn place(all: &[usize]) -> Vec<usize> {
    let mut places: Vec<Option<usize>> = vec![None; all.len()];
    let mut left = Vec::new();
    for &cpu in all {
        let place = &mut places[cpu % all.len()];
        if place.is_none() {
            *place = Some(cpu);
        } else {
            left.push(cpu);
        }
    }
    let mut left = left.into_iter();
    places
        .into_iter()
        .filter_map(|place| place.or_else(|| left.next()))
        .collect()
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// What `sched_setaffinity` says: a CPU outside of the process's mask, for one.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// A small random generator (splitmix64): seeded, cheap, good enough to pick names and pauses.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that differs between runs and processes.
    #[must_use]
    pub fn seed_of_the_moment() -> u64 {
        Self(now_ns() ^ (u64::from(std::process::id()) << 32)).next()
    }

    /// 64 random bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "not an iterator: it has no end"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, evenly spread (to within `bound` / 2^64).
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number in [0, 1).
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are what a double holds"
    )]
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, place};

    #[test]
    fn every_cpu_has_one_place_and_the_steered_one_where_it_can() {
        assert_eq!(place(&[0, 1]), [0, 1]);
        assert_eq!(place(&[2, 3]), [2, 3]);
        assert_eq!(place(&[1, 2]), [2, 1]);
        assert_eq!(place(&[1, 3]), [3, 1]);
        let mut sparse = place(&[0, 4, 8, 9]);
        assert_eq!(sparse[0], 0);
        assert_eq!(sparse[1], 9);
        sparse.sort_unstable();
        assert_eq!(sparse, [0, 4, 8, 9]);
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_reach_every_value() {
        let mut random = Random::new(7);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(random.below(10)).unwrap()] += 1;
            assert!(random.fraction() < 1.0);
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }
}
