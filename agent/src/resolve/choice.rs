// SPDX-License-Identifier: Apache-2.0
//! Which of a zone's servers is asked: of two that are drawn the faster one with less to do, or the
//! first where the zone wants them in order; one that has failed is left alone for a while, and then asked by one query.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::routes::Route;
use super::upstream::Server;

/// How long a server is left alone that failed for the first time; twice as long each time after.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest that it is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a query that looks whether a server is back may take before another one looks.
const LOOK: Duration = Duration::from_secs(1);
/// A server that answered within that is not down, whatever else went wrong: of several pods
/// behind one address one may fail alone.
const LATELY: Duration = Duration::from_millis(200);

/// What is known of whether a server answers.
#[derive(Debug, Default)]
pub(super) struct Health {
    answered: Option<Instant>,
    failures: u32,
    /// Left alone until then.
    pause: Option<Instant>,
    /// Since when a query looks whether it is back.
    looking: Option<Instant>,
    is_down: bool,
}

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is.
    Up,
    /// It has failed: one query may look whether it is back.
    Due,
    /// It has failed, and is left alone until then.
    Away(Instant),
}

impl Health {
    /// Takes in an answer. Whether it had failed before.
    pub(super) fn answered(&mut self, now: Instant) {
        *self = Self {
            answered: Some(now),
            ..Self::default()
        };
    }

    /// Takes in the failure of a try that began at `began`. An answer that came since then clears
    /// the server: then it was one connection that failed.
    pub(super) fn failed(&mut self, began: Instant, now: Instant) {
        if self.has_answered_since(began) {
            return;
        }
        self.is_down |= !self.has_answered_lately(now);
        if self.pause.is_some_and(|until| now < until) {
            return;
        }
        let doublings = self.failures.min(6);
        self.pause = Some(now + (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE));
        self.failures += 1;
        self.looking = None;
    }

    /// Whether it has failed and not answered since.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Whether an answer came at this moment or later.
    pub(super) fn has_answered_since(&self, moment: Instant) -> bool {
        self.answered.is_some_and(|answered| answered >= moment)
    }

    /// Whether an answer came a moment ago.
    pub(super) fn has_answered_lately(&self, now: Instant) -> bool {
        self.answered
            .is_some_and(|answered| now < answered + LATELY)
    }

    /// When it last answered.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.answered
    }

    /// Whether it is asked now.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match (self.pause, self.looking) {
            (None, _) => Standing::Up,
            (Some(until), _) if now < until => Standing::Away(until),
            (_, Some(since)) if now < since + LOOK => Standing::Away(since + LOOK),
            _ => Standing::Due,
        }
    }

    /// Notes that a query looks whether the server is back.
    pub(super) fn look(&mut self, now: Instant) {
        self.looking = Some(now);
    }
}

/// Servers that a query has been to, by their index in the route. A zone has 15 at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visited(u16);

impl Visited {
    fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }
}

impl Route {
    /// Whether many queries wait for its servers, and nothing comes from any of them.
    pub(super) fn is_overrun(&self) -> bool {
        let all = self.all_servers();
        !all.is_empty() && all.iter().all(|server| server.is_overrun())
    }

    /// A server that was chosen before, as one of this route's.
    pub(super) fn same(&self, server: &Arc<Server>) -> Option<&Arc<Server>> {
        let mut all = self.all_servers().iter();
        all.find(|one| Arc::ptr_eq(one, server))
    }

    /// The server to ask next: one that the query has not been to, while there is one.
    pub(super) fn choose(&self, visited: &mut Visited, now: Instant) -> Option<&Arc<Server>> {
        let all = self.all_servers();
        if let [only] = all {
            return Some(only);
        }
        let index = self.pick(*visited, now).or_else(|| {
            *visited = Visited::default();
            self.pick(*visited, now)
        })?;
        visited.add(index);
        all.get(index)
    }

    /// A server that is up and that the query has not been to, for its second try at one time.
    pub(super) fn other(&self, visited: &mut Visited, now: Instant) -> Option<&Arc<Server>> {
        let all = self.all_servers();
        let index = self.pick(*visited, now)?;
        let server = all.get(index)?;
        if server.standing(now) != Standing::Up {
            return None;
        }
        visited.add(index);
        Some(server)
    }

    fn pick(&self, visited: Visited, now: Instant) -> Option<usize> {
        let all = self.all_servers();
        let turn = self.next.fetch_add(1, Relaxed);
        let mut up: [usize; 16] = [0; 16];
        let mut count = 0;
        let mut soonest: Option<(Instant, usize)> = None;
        for (index, server) in all.iter().enumerate().take(up.len()) {
            if visited.has(index) {
                continue;
            }
            match server.standing(now) {
                // Those behind it are for when it fails.
                Standing::Up if self.in_order && count == 0 => return Some(index),
                Standing::Up => {
                    up[count] = index;
                    count += 1;
                }
                Standing::Due => {
                    server.look(now);
                    return Some(index);
                }
                Standing::Away(until) => {
                    if soonest.is_none_or(|(first, _)| until < first) {
                        soonest = Some((until, index));
                    }
                }
            }
        }
        match count {
            0 => soonest.map(|(_, index)| index),
            1 => Some(up[0]),
            _ => {
                let one = turn % count;
                let step = 1 + (turn / count) % (count - 1);
                let (one, two) = (up[one], up[(one + step) % count]);
                let is_two = all[two].burden() < all[one].burden();
                Some(if is_two { two } else { one })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn a_server_that_fails_is_left_alone_for_longer_and_longer_and_then_looked_for_by_one() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for pause in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            health.failed(now, now);
            // Others fail that were under way.
            health.failed(now, now + ms(10));
            assert_eq!(health.standing(now), Standing::Away(now + ms(pause)));
            now += ms(pause);
            assert_eq!(health.standing(now), Standing::Due);
            health.look(now);
            assert_eq!(health.standing(now), Standing::Away(now + LOOK));
            // Nobody heard of that one again.
            assert_eq!(health.standing(now + LOOK), Standing::Due);
        }
        health.answered(now);
        assert_eq!(health.standing(now), Standing::Up);
        assert!(!health.is_down());
    }

    #[tokio::test]
    async fn one_connection_that_fails_says_nothing_of_a_server_that_has_answered_since() {
        let began = Instant::now();
        let mut health = Health::default();
        health.answered(began + ms(1));
        health.failed(began, began + ms(500));
        assert_eq!(health.standing(began + ms(500)), Standing::Up);
        // It is left alone, but down only when it has said nothing for a while.
        health.failed(began + ms(2), began + ms(100));
        assert!(!health.is_down());
        assert_ne!(health.standing(began + ms(100)), Standing::Up);
        health.failed(began + ms(250), began + ms(251));
        assert!(health.is_down());
    }
}
