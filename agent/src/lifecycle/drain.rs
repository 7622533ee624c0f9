// SPDX-License-Identifier: Apache-2.0
//! The graceful stop: one trigger, any number of watchers, and a blocker for whoever still has
//! work. The drain is over when the last watcher and blocker is gone.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// A trigger and its first watcher; clone the watcher for each part that must end cleanly.
#[must_use]
pub fn new() -> (DrainTrigger, DrainWatcher) {
    let (begin, begun) = watch::channel(false);
    // Nothing is ever sent: the channel closes when the last holder of its sender is gone.
    let (holder, ended) = mpsc::channel(1);
    (
        DrainTrigger { begin, ended },
        DrainWatcher { begun, holder },
    )
}

/// Begins the drain and waits for its end.
#[derive(Debug)]
pub struct DrainTrigger {
    begin: watch::Sender<bool>,
    ended: mpsc::Receiver<Infallible>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainEnd {
    /// Everyone finished.
    Complete,
    /// The grace was over before.
    TimedOut,
}

impl DrainTrigger {
    /// Begins the drain; returns when everyone has finished, or after `grace`.
    pub async fn drain(mut self, grace: Duration) -> DrainEnd {
        self.begin.send_replace(true);
        match timeout(grace, self.ended.recv()).await {
            Ok(_) => DrainEnd::Complete,
            Err(_) => DrainEnd::TimedOut,
        }
    }
}

/// Learns when the drain begins. It holds up the drain as a [`DrainBlocker`] does: keep it only
/// where the drain is acted on.
#[derive(Clone, Debug)]
pub struct DrainWatcher {
    begun: watch::Receiver<bool>,
    holder: mpsc::Sender<Infallible>,
}

impl DrainWatcher {
    /// Waits for the drain to begin. Finish what is under way, then drop the blocker. A trigger
    /// that is dropped begins the drain too: then nobody is left who could.
    pub async fn begun(mut self) -> DrainBlocker {
        let _ = self.begun.wait_for(|begun| *begun).await;
        DrainBlocker {
            _holder: self.holder,
        }
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.begun.borrow() || self.begun.has_changed().is_err()
    }
}

/// Holds up the drain until it is dropped.
#[derive(Debug)]
pub struct DrainBlocker {
    _holder: mpsc::Sender<Infallible>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_the_last_blocker_is_dropped() {
        let (trigger, watcher) = new();
        let mut parts = tokio::task::JoinSet::new();
        let start = tokio::time::Instant::now();
        for seconds in [1, 3, 2] {
            let watcher = watcher.clone();
            parts.spawn(async move {
                assert!(!watcher.is_draining());
                let _blocker = watcher.begun().await;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            });
        }
        tokio::task::yield_now().await;
        drop(watcher);
        assert_eq!(trigger.drain(GRACE).await, DrainEnd::Complete);
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_after_its_grace() {
        let (trigger, watcher) = new();
        let start = tokio::time::Instant::now();
        assert_eq!(trigger.drain(GRACE).await, DrainEnd::TimedOut);
        assert_eq!(start.elapsed(), GRACE);
        assert!(watcher.is_draining());
    }

    #[tokio::test]
    async fn with_nobody_to_wait_for_a_drain_ends_at_once() {
        let (trigger, watcher) = new();
        drop(watcher);
        assert_eq!(trigger.drain(GRACE).await, DrainEnd::Complete);
    }

    #[tokio::test]
    async fn a_watcher_that_comes_late_and_one_without_a_trigger_see_the_drain() {
        let (trigger, watcher) = new();
        drop(trigger);
        assert!(watcher.is_draining());
        let _blocker = watcher.begun().await;
    }
}
