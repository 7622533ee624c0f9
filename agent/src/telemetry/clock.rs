// SPDX-License-Identifier: Apache-2.0
//! The only place that asks the system for the time. Everything else takes it as an argument.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The system's clocks. Has no state: two of them agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Time that only moves forward, since an arbitrary moment (CLOCK_MONOTONIC; no system call
    /// where the vDSO has it).
    #[must_use]
    pub fn now(self) -> Duration {
        duration(clock_gettime(ClockId::Monotonic))
    }

    /// [`Self::now`] in nanoseconds.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        nanoseconds(self.now())
    }

    /// [`Self::now`] in whole seconds as entries keep it: never 0, which is left to mean "never".
    #[must_use]
    pub fn now_seconds(self) -> u32 {
        Self::seconds_of(self.now_ns())
    }

    /// A reading of [`Self::now_ns`] as [`Self::now_seconds`] would have given it, for those who
    /// hold a reading already.
    #[must_use]
    pub fn seconds_of(now_ns: u64) -> u32 {
        u32::try_from(now_ns / 1_000_000_000)
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }

    /// Wall clock time since 1970-01-01 UTC. May jump; for timestamps only.
    #[must_use]
    pub fn wall(self) -> Duration {
        duration(clock_gettime(ClockId::Realtime))
    }

    /// Processor time that the process has used, all threads together.
    #[must_use]
    pub fn process_cpu(self) -> Duration {
        duration(clock_gettime(ClockId::ProcessCPUTime))
    }
}

/// A duration in nanoseconds; 584 years at most.
#[must_use]
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment before 1970 (only a broken wall clock has one) is 1970.
fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_begin_at_one_and_follow_the_nanoseconds() {
        assert_eq!(Clock::seconds_of(0), 1);
        assert_eq!(Clock::seconds_of(999_999_999), 1);
        assert_eq!(Clock::seconds_of(1_000_000_000), 2);
        assert_eq!(Clock::seconds_of(u64::MAX), u32::MAX);
        let before = Clock.now_ns();
        let seconds = Clock.now_seconds();
        let after = Clock.now_ns();
        assert!((Clock::seconds_of(before)..=Clock::seconds_of(after)).contains(&seconds));
    }

    #[test]
    fn the_clocks_are_the_systems() {
        let standard = std::time::UNIX_EPOCH.elapsed().unwrap();
        assert!(Clock.wall().abs_diff(standard) < Duration::from_secs(5));
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // The kernel counts suspended time in uptime, and not in the monotonic clock.
        assert!(Clock.now().as_secs_f64() < uptime + 5.0);
        assert!(Clock.now() > Duration::ZERO);
        assert!(Clock.process_cpu() > Duration::ZERO);
    }
}
