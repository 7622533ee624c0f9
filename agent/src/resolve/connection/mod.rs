// SPDX-License-Identifier: Apache-2.0
//! One connection to an upstream, TCP (RFC 7766) or TLS over it (RFC 7858), and the questions that
//! are under way on it: one, or several, which may be answered in any order.
//!
//! ```text
//! ask ─► outgoing ─┐                       ┌─ the answer with its ID ─► who asked
//! ask ─► outgoing ─┴─► one write ─► one read ─┴─ the answer with its ID ─► who asked
//! ```
//!
//! One task a connection (`driver`) writes for all and reads for all. Who asks is a task that sleeps
//! until its answer is there, or, as nearly all are, an [`Asker`]: mere data, which the driver tells what
//! came of it.

mod driver;
mod wire;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use self::driver::Driver;
use self::wire::{State, Wire};
use super::lock;
use super::message::Exchanged;
use super::octets::Stream;
use super::upstream::Failure;
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::telemetry::registry::Telemetry;
use crate::wire::question::Question;

/// Who asked, where no task waits for the answer. It is told once, and without any lock held.
pub(super) trait Asker: std::fmt::Debug + Send {
    /// What was asked.
    fn question(&self) -> &Question;

    /// This was answered, and came at `now`.
    fn answered(self: Box<Self>, exchanged: Exchanged, now: Instant);

    /// The connection has ended.
    fn failed(self: Box<Self>, failure: Failure);

    /// Its time is up. The question is still under way; its place may be waited on from now on.
    fn is_late(self: Box<Self>);
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    opened: Instant,
    /// When it should end.
    ends: Instant,
    wire: Mutex<Wire>,
    count: Count,
}

/// Counts a connection from its beginning to its end.
#[derive(Debug)]
struct Count(Arc<Telemetry>, u16);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.resolve.upstream(self.1).close();
    }
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        max_age: Duration,
        telemetry: &Arc<Telemetry>,
        index: u16,
    ) -> Arc<Self> {
        telemetry.resolve.upstream(index).open();
        let now = Instant::now();
        let wire = Wire::new(stream, now);
        let connection = Arc::new(Self {
            opened: now,
            ends: now + max_age,
            wire: Mutex::new(wire),
            count: Count(Arc::clone(telemetry), index),
        });
        let driver = Driver::of(&connection);
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with its connection; a drain waits for flights"
        )]
        tokio::spawn(driver);
        connection
    }

    fn cells(&self) -> &UpstreamCells {
        let Count(telemetry, index) = &self.count;
        telemetry.resolve.upstream(*index)
    }

    /// Whether a question may go over it that nothing is under way on: not too old, and nothing came
    /// that nobody asked for, nor its end.
    pub(super) fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        let wire = lock(&self.wire);
        now < self.ends
            && now < wire.used + idle
            && !wire.is_spoilt
            && wire.incoming.is_empty()
            && wire.stream.is_silent()
    }

    /// Whether it was used at this moment or later.
    pub(super) fn was_used_since(&self, moment: Instant) -> bool {
        lock(&self.wire).used >= moment
    }

    /// Whether nothing was answered on it yet.
    pub(super) fn is_fresh(&self) -> bool {
        lock(&self.wire).is_fresh
    }

    /// Whether it has to end by this moment.
    pub(super) fn ends_by(&self, moment: Instant) -> bool {
        self.ends <= moment
    }

    /// How long it has been open.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now - self.opened
    }

    /// Places for further questions, where so many may be under way.
    pub(super) fn room(&self, most: usize) -> usize {
        lock(&self.wire).room(most)
    }

    /// The same where it has not been written yet what was asked in this turn.
    pub(super) fn room_in_turn(&self, most: usize) -> usize {
        let wire = lock(&self.wire);
        if wire.is_gathering {
            wire.room(most)
        } else {
            0
        }
    }

    /// How it is used, where so many questions may be under way.
    pub(super) fn usage(&self, most: usize, now: Instant) -> Usage {
        let wire = lock(&self.wire);
        Usage {
            is_over: now >= self.ends || wire.is_spoilt,
            room: wire.room(most),
            places: wire.places(),
        }
    }
}

/// How a connection is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// It takes no more questions.
    pub(super) is_over: bool,
    /// Places for further ones.
    pub(super) room: usize,
    /// Questions that somebody waits for, or is about to ask.
    pub(super) places: usize,
}

/// A question's place on a connection. Dropping it leaves the connection, which ends where the answer
/// has not come.
#[derive(Debug)]
pub(super) struct Place {
    connection: Arc<Connection>,
    id: Option<u16>,
    has_left: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Place {
    /// Takes a place.
    pub(super) fn on(connection: &Arc<Connection>) -> Self {
        lock(&connection.wire).boarding += 1;
        Self {
            connection: Arc::clone(connection),
            id: None,
            has_left: false,
        }
    }

    /// Takes a place and asks at once, as [`Self::ask`] does.
    pub(super) fn asking(
        connection: &Arc<Connection>,
        question: &Question,
        draw: u16,
        gathers: bool,
    ) -> Self {
        let id = lock(&connection.wire).ask(question, draw, gathers);
        Self {
            connection: Arc::clone(connection),
            id: Some(id),
            has_left: false,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the answer to what was asked; with the moment at which it came. What does not belong to
    /// the question is dropped and counted.
    pub(super) async fn answer(
        &self,
        question: &Question,
        cells: &UpstreamCells,
    ) -> Result<(Exchanged, Instant), Failure> {
        let Some(id) = self.id else {
            return Err(Failure::Outcome(Outcome::Failed));
        };
        loop {
            let answer = std::future::poll_fn(|context| self.poll(id, context));
            match Exchanged::read(&answer.await?, question, id) {
                Ok(exchanged) => {
                    let now = Instant::now();
                    lock(&self.connection.wire).answered(id, now);
                    return Ok((exchanged, now));
                }
                Err(lie) => {
                    let mut wire = lock(&self.connection.wire);
                    wire.lie(lie, cells);
                    wire.take_spare(id);
                }
            }
        }
    }

    /// Asks. `draw` is where the search for an ID begins that nobody else has here. With `gathers` others
    /// of this turn may have their questions written together with this one.
    pub(super) fn ask(&mut self, question: &Question, draw: u16, gathers: bool) {
        let mut wire = lock(&self.connection.wire);
        let id = wire.ask(question, draw, gathers);
        wire.boarding -= usize::from(self.id.replace(id).is_none());
    }

    /// Has `asker`, whom the place belongs to from now on, told what comes of what was asked in this
    /// turn of the thread, or that nothing has come by `due`.
    pub(super) fn tell(connection: &Connection, id: u16, due: Instant, asker: Box<dyn Asker>) {
        let mut wire = lock(&connection.wire);
        if let Some(entry) = wire.latest(id) {
            entry.state = State::Asker(due, asker);
        }
    }

    /// The ID of what was asked.
    pub(super) fn id(&self) -> Option<u16> {
        self.id
    }

    fn poll(&self, id: u16, context: &Context<'_>) -> Poll<Result<Vec<u8>, Failure>> {
        let mut wire = lock(&self.connection.wire);
        if let Some(message) = wire.take(id) {
            return Poll::Ready(Ok(message));
        }
        if let Some(outcome) = wire.ended {
            return Poll::Ready(Err(wire.failure(outcome)));
        }
        if let Some(entry) = wire.entry(id)
            && let State::Waiting(waker) = &mut entry.state
            && !waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Whether an earlier question is not answered yet on the same connection: a server that answers
    /// in order has not come to this one.
    pub(super) fn is_behind(&self) -> bool {
        let wire = lock(&self.connection.wire);
        let others = wire
            .asked
            .iter()
            .take_while(|entry| Some(entry.id) != self.id);
        let mut others = others.filter(|entry| !matches!(entry.state, State::Answered(_)));
        others.next().is_some()
    }

    /// Whether others have places on the same connection.
    pub(super) fn is_shared(&self) -> bool {
        let wire = lock(&self.connection.wire);
        wire.boarding + wire.asked.len() > 1
    }

    /// Notes that what was asked was answered, and is looked for no more: its ID may be another's.
    pub(super) fn end(&mut self) {
        self.has_left = true;
    }

    /// Gives the place up. Whether an answer was still waited for.
    pub(super) fn leave(&mut self) -> bool {
        if std::mem::replace(&mut self.has_left, true) {
            return false;
        }
        let mut wire = lock(&self.connection.wire);
        let Some(id) = self.id else {
            wire.boarding -= 1;
            return false;
        };
        let Some(entry) = wire.entry(id) else {
            return false;
        };
        let state = std::mem::replace(&mut entry.state, State::Left);
        wire.is_spoilt = true;
        drop(wire);
        // It may be an asker with a place of its own.
        drop(state);
        true
    }
}

#[cfg(test)]
mod tests;
