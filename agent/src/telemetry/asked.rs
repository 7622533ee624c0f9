// SPDX-License-Identifier: Apache-2.0
//! When clients last asked at a listen address: what an uninstallation must know before the
//! address goes.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::clock::{Clock, nanoseconds};

/// When clients last asked at one listen address, to the second. Every thread that serves the
/// address may note it.
#[derive(Debug, Default)]
pub struct LastAsked(AtomicU32);

impl LastAsked {
    /// Clients ask now. `now` is a reading of [`Clock::now`]. Written once a second at most, so
    /// that threads which share it seldom take it from each other.
    pub fn note(&self, now: Duration) {
        let now = Clock::seconds_of(nanoseconds(now));
        if self.0.load(Relaxed) != now {
            self.0.store(now, Relaxed);
        }
    }

    /// How long ago that was, in seconds; none where nobody has asked yet.
    #[must_use]
    pub fn seconds_ago(&self, now: Duration) -> Option<u32> {
        match self.0.load(Relaxed) {
            0 => None,
            then => Some(Clock::seconds_of(nanoseconds(now)).saturating_sub(then)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_last_second_in_which_somebody_asked() {
        let asked = LastAsked::default();
        let at = Duration::from_millis;
        assert_eq!(asked.seconds_ago(at(5_000)), None);
        asked.note(at(7_200));
        assert_eq!(asked.seconds_ago(at(7_900)), Some(0));
        assert_eq!(asked.seconds_ago(at(67_000)), Some(60));
        asked.note(at(60_000));
        assert_eq!(asked.seconds_ago(at(67_000)), Some(7));
        // Another thread's reading of the clock may be a little older.
        assert_eq!(asked.seconds_ago(at(59_000)), Some(0));
    }
}
