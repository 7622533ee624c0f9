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
use super::in_force::InForce;
use super::message::Exchanged;
use super::pool::Take;
use super::upstream::{Failure, Server};
use crate::telemetry::clock::nanoseconds;
use crate::wire::question::Question;

/// A question under way that no task waits for.
#[derive(Debug)]
struct Begun {
    rest: Rest,
    sent: Sent,
}

/// What a task needs to go on with it.
#[derive(Debug)]
struct Rest {
    flight: Flight,
    arrived_ns: u64,
    visited: Visited,
}

impl Resolver {
    /// Asks at once where that can be done, or gives the flight back, with what was begun.
    pub(super) fn begin(
        &self,
        flight: Flight,
        arrived_ns: u64,
        now: Instant,
        in_force: &InForce,
    ) -> Option<(Flight, Option<Box<Start>>)> {
        let route = &flight.route;
        if route.adapts() {
            return Some((flight, None));
        }
        let limits = &*in_force.limits;
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
            server.lend(Take::Any, &flight.question, limits, now)
        };
        let Some(lent) = lent else {
            let start = Start {
                server,
                visited,
                head: None,
            };
            return Some((flight, Some(Box::new(start))));
        };
        let patience = route.stale_after(&in_force.settings);
        let sent = exchange::sent(limits, deadline, lent, now);
        // Where nobody is to wait, an earlier answer has been looked for already.
        let due = if patience.is_zero() {
            sent.soon
        } else {
            sent.soon.min(now + patience.saturating_sub(waited))
        };
        let Sent { lent, at, soon } = sent;
        let rest = Rest {
            flight,
            arrived_ns,
            visited,
        };
        lent.tell(due, |lent| Begun {
            rest,
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

impl Rest {
    /// Has a task go on from what came of the first query.
    fn go_on(self, server: Arc<Server>, head: Head) {
        let resolver = Arc::clone(&self.flight.resolver);
        let start = Start {
            server,
            visited: self.visited,
            head: Some(Box::new(head)),
        };
        resolver.spawn(self.flight, self.arrived_ns, None, Some(Box::new(start)));
    }
}

impl Asker for Begun {
    fn question(&self) -> &Question {
        &self.rest.flight.question
    }

    fn answered(self: Box<Self>, exchanged: Exchanged, now: Instant) {
        let Self { rest, sent } = *self;
        let Sent { lent, at, .. } = sent;
        let server = Arc::clone(lent.server());
        lent.was_told(at, now);
        server.answered(&exchanged, now - at, now);
        exchange::note(&rest.flight.question, &server, Ok(&exchanged), at);
        if exchanged.is_refusal() || exchanged.is_loop() {
            return rest.go_on(server, Head::Said(exchanged));
        }
        let resolver = Arc::clone(&rest.flight.resolver);
        resolver.conclude(rest.flight, &exchanged, server.index(), now);
    }

    fn failed(self: Box<Self>, failure: Failure) {
        let Self { rest, sent } = *self;
        let Sent { lent, at, .. } = sent;
        let server = Arc::clone(lent.server());
        server.failed_by(failure, at);
        if failure != Failure::Stale {
            let label = failure.label();
            exchange::note(&rest.flight.question, &server, Err(label), at);
        }
        drop(lent);
        rest.go_on(server, Head::Failed(failure, at));
    }

    fn is_late(self: Box<Self>) {
        let Self { rest, sent } = *self;
        rest.go_on(Arc::clone(sent.lent.server()), Head::Sent(sent));
    }
}
