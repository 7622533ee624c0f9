// SPDX-License-Identifier: Apache-2.0
//! The graceful stop: one trigger, any number of watchers, and a blocker for whoever still has
//! work. The drain is over when the last watcher and blocker is gone.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The end of the grace, in which whoever still waits for a client to make use of what is open
/// says farewell.
const LAST_CALL: Duration = Duration::from_millis(300);

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has not begun.
    Serving,
    /// Nothing new; what is under way is finished.
    Draining,
    /// The grace is nearly over.
    LastCall,
}

/// A trigger and its first watcher; clone the watcher for each part that must end cleanly.
#[must_use]
pub fn new() -> (DrainTrigger, DrainWatcher) {
    let (begin, stage) = watch::channel(Stage::Serving);
    // Nothing is ever sent: the channel closes when the last holder of its sender is gone.
    let (holder, ended) = mpsc::channel(1);
    (
        DrainTrigger { begin, ended },
        DrainWatcher { stage, holder },
    )
}

/// Begins the drain and waits for its end.
#[derive(Debug)]
pub struct DrainTrigger {
    begin: watch::Sender<Stage>,
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
        let last_call = LAST_CALL.min(grace / 2);
        for (stage, patience) in [
            (Stage::Draining, grace.saturating_sub(last_call)),
            (Stage::LastCall, last_call),
        ] {
            self.begin.send_replace(stage);
            if timeout(patience, self.ended.recv()).await.is_ok() {
                return DrainEnd::Complete;
            }
        }
        DrainEnd::TimedOut
    }
}

/// Learns when the drain begins. It holds up the drain as a [`DrainBlocker`] does: keep it only
/// where the drain is acted on.
#[derive(Clone, Debug)]
pub struct DrainWatcher {
    stage: watch::Receiver<Stage>,
    holder: mpsc::Sender<Infallible>,
}

impl DrainWatcher {
    /// Waits for the drain to begin. Finish what is under way, then drop the blocker. A trigger
    /// that is dropped begins the drain too: then nobody is left who could.
    pub async fn begun(mut self) -> DrainBlocker {
        self.reached(Stage::Draining).await;
        DrainBlocker {
            _holder: self.holder,
        }
    }

    /// Waits until the drain has come so far. Nothing is lost when the future is dropped.
    pub async fn reached(&mut self, stage: Stage) {
        let _ = self.stage.wait_for(|now| *now >= stage).await;
    }

    /// How far the drain has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let stage = *self.stage.borrow();
        if self.stage.has_changed().is_err() {
            stage.max(Stage::Draining)
        } else {
            stage
        }
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stage() >= Stage::Draining
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

    #[tokio::test(start_paused = true)]
    async fn near_the_end_of_the_grace_there_is_a_last_call() {
        let (trigger, mut watcher) = new();
        assert_eq!(watcher.stage(), Stage::Serving);
        let start = tokio::time::Instant::now();
        let mut parts = tokio::task::JoinSet::new();
        parts.spawn(async move {
            watcher.reached(Stage::Draining).await;
            assert_eq!(watcher.stage(), Stage::Draining);
            watcher.reached(Stage::LastCall).await;
            start.elapsed()
        });
        assert_eq!(trigger.drain(GRACE).await, DrainEnd::Complete);
        let last = parts.join_next().await.unwrap().unwrap();
        assert_eq!(last, GRACE - LAST_CALL);
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
