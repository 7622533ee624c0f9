// SPDX-License-Identifier: Apache-2.0
//! The cold side's time: the runtime's clock, read as the agent's.
//!
//! Both are CLOCK_MONOTONIC, so in the agent this is [`Clock`] itself. Where a test holds the
//! runtime's clock in its hand, timers, lifetimes and ages move with it together.

use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::clock::Clock;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    agent: Duration,
    runtime: Instant,
}

impl Timeline {
    /// A timeline from now on.
    pub(super) fn new() -> Self {
        Self {
            agent: Clock.now(),
            runtime: Instant::now(),
        }
    }

    /// What [`Clock::now`] says while nobody holds the runtime's clock.
    pub(super) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// The same for a moment that was read already.
    pub(super) fn at(&self, moment: Instant) -> Duration {
        self.agent + moment.saturating_duration_since(self.runtime)
    }
}
