// SPDX-License-Identifier: Apache-2.0
//! The straight part of the second line: a question that finds a place on a connection is asked at once
//! and kept as mere data with it. Its answer is kept and sent on without a task of its own; nearly all
//! questions go this way.
//!
//! What does not go straight (nothing to be lent, a refusal, an end, nothing in time) becomes a task,
//! which goes on from there (`exchange`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Resolver;
use super::choice::Visited;
use super::connection::Asker;
use super::exchange::{self, Head, Sent, Start};
use super::flights::Flight;
use super::message::Exchanged;
use super::pool::Take;
use super::upstream::Failure;
use crate::telemetry::clock::nanoseconds;
use crate::wire::question::Question;

/// A question under way that no task waits for.
#[derive(Debug)]
struct Begun {
    flight: Flight,
    arrived_ns: u64,
    visited: Visited,
    sent: Sent,
}

impl Resolver {
    /// Asks at once where that can be done, or gives the flight back, with what was begun.
    pub(super) fn begin(
        &self,
        flight: Flight,
        arrived_ns: u64,
        now: Instant,
    ) -> Option<(Flight, Option<Box<Start>>)> {
        let route = &flight.route;
        if route.adapts() {
            return Some((flight, None));
        }
        let limits = self.limits.load();
        let waited = self.waited(arrived_ns, now);
        let deadline = now + limits.query_timeout.saturating_sub(waited);
        let mut visited = Visited::default();
        let chosen = (now < deadline).then(|| route.choose(&mut visited, now));
        let Some(server) = chosen.flatten().map(Arc::clone) else {
            return Some((flight, None));
        };
        let lent = if server.way().is_udp() {
            None
        } else {
            server.lend(Take::Any, &limits, now)
        };
        let Some(lent) = lent else {
            let start = Start {
                server,
                visited,
                head: None,
            };
            return Some((flight, Some(Box::new(start))));
        };
        let patience = route.stale_after(&self.settings.load());
        let sent = exchange::send(&flight.question, &limits, deadline, lent, now);
        // Where nobody is to wait, an earlier answer has been looked for already.
        let due = if patience.is_zero() {
            sent.soon
        } else {
            sent.soon.min(now + patience.saturating_sub(waited))
        };
        let Sent { lent, at, soon } = sent;
        lent.tell(due, |lent| Begun {
            flight,
            arrived_ns,
            visited,
            sent: Sent { lent, at, soon },
        });
        None
    }

    /// How long a query has waited by `now` that came at a moment of the agent's clock.
    pub(super) fn waited(&self, arrived_ns: u64, now: Instant) -> Duration {
        let since_start = nanoseconds(self.timeline.at(now));
        Duration::from_nanos(since_start.saturating_sub(arrived_ns))
    }
}

impl Begun {
    /// Has a task go on.
    fn go_on(flight: Flight, arrived_ns: u64, start: Start) {
        let resolver = Arc::clone(&flight.resolver);
        resolver.spawn(flight, arrived_ns, None, Some(Box::new(start)));
    }
}

impl Asker for Begun {
    fn question(&self) -> &Question {
        &self.flight.question
    }

    fn answered(self: Box<Self>, exchanged: Exchanged, now: Instant) {
        let Self {
            flight,
            arrived_ns,
            visited,
            sent: Sent { lent, at, .. },
        } = *self;
        let server = Arc::clone(lent.server());
        lent.was_told(at, now);
        server.answered(&exchanged, now - at, now);
        exchange::note(&flight.question, &server, Ok(&exchanged), at);
        if exchanged.is_refusal() || exchanged.is_loop() {
            let start = Start {
                server,
                visited,
                head: Some(Box::new(Head::Said(exchanged))),
            };
            Self::go_on(flight, arrived_ns, start);
            return;
        }
        let resolver = Arc::clone(&flight.resolver);
        resolver.conclude(flight, &exchanged, server.index(), now);
    }

    fn failed(self: Box<Self>, failure: Failure) {
        let Self {
            flight,
            arrived_ns,
            visited,
            sent: Sent { lent, at, .. },
        } = *self;
        let server = Arc::clone(lent.server());
        server.failed_by(failure, at);
        if failure != Failure::Stale {
            exchange::note(&flight.question, &server, Err(failure.label()), at);
        }
        drop(lent);
        let start = Start {
            server,
            visited,
            head: Some(Box::new(Head::Failed(failure, at))),
        };
        Self::go_on(flight, arrived_ns, start);
    }

    fn is_late(self: Box<Self>) {
        let Self {
            flight,
            arrived_ns,
            visited,
            sent,
        } = *self;
        let start = Start {
            server: Arc::clone(sent.lent.server()),
            visited,
            head: Some(Box::new(Head::Sent(sent))),
        };
        Self::go_on(flight, arrived_ns, start);
    }
}
