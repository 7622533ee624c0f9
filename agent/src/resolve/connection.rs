// SPDX-License-Identifier: Apache-2.0
//! One connection to an upstream, TCP (RFC 7766) or TLS over it (RFC 7858), and the questions that
//! are under way on it: one, or several, which may be answered in any order.
//!
//! ```text
//! ask ─► outgoing ─┐                       ┌─ the answer with its ID ─► who asked
//! ask ─► outgoing ─┴─► one write ─► one read ─┴─ the answer with its ID ─► who asked
//! ```
//!
//! No task belongs to a connection. Of those who wait on it one reads for all, and writes what others
//! have asked since; when it has its own answer the next one takes over.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::lock;
use super::message::{self, Exchanged};
use super::octets::Stream;
use super::upstream::Failure;
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::telemetry::registry::Telemetry;
use crate::wire::question::Question;

/// Octets of the length in front of a message (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;
/// Room for what one read brings: most responses, or a few of them.
const ROOM: usize = 1024;
/// Room that a connection without a question keeps.
const ROOM_KEPT: usize = 8 << 10;
/// Responses in a row that belong to no question, before the connection is given up.
const LIES: usize = 8;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    opened: Instant,
    /// When it should end.
    ends: Instant,
    wire: Mutex<Wire>,
    _count: Count,
}

/// Its octets, and who waits for them.
#[derive(Debug)]
struct Wire {
    stream: Stream,
    used: Instant,
    /// Nothing was answered on it yet.
    is_fresh: bool,
    /// It must take no more questions.
    is_spoilt: bool,
    /// How it ended.
    ended: Option<Outcome>,
    /// Somebody was told of its end as of a failure of the server.
    is_blamed: bool,
    /// Places that were given to who has not asked yet.
    boarding: usize,
    /// Questions under way, in the order in which they were asked.
    asked: VecDeque<Entry>,
    /// Who reads and writes for all.
    reader: Option<u16>,
    /// The reader was woken and has not run yet.
    is_called: bool,
    /// What is asked in this turn of the thread goes out together.
    is_gathering: bool,
    outgoing: Vec<u8>,
    /// Octets of it that are gone already.
    written: usize,
    /// TLS may keep what the socket had no room for.
    is_unflushed: bool,
    incoming: Vec<u8>,
    lies: usize,
}

/// A question under way.
#[derive(Debug)]
struct Entry {
    id: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is waited for; whom to wake, where that is known yet.
    Waiting(Option<Waker>),
    /// This has come.
    Answered(Vec<u8>),
    /// Nobody waits any more. An answer may still come.
    Left,
}

impl Wire {
    fn entry(&mut self, id: u16) -> Option<&mut Entry> {
        self.asked.iter_mut().find(|entry| entry.id == id)
    }

    fn take(&mut self, id: u16) -> Option<Vec<u8>> {
        let entry = self.entry(id)?;
        if !matches!(entry.state, State::Answered(_)) {
            return None;
        }
        match std::mem::replace(&mut entry.state, State::Waiting(None)) {
            State::Answered(message) => Some(message),
            State::Waiting(_) | State::Left => None,
        }
    }

    fn places(&self) -> usize {
        let is_taken = |entry: &&Entry| !matches!(entry.state, State::Left);
        self.boarding + self.asked.iter().filter(is_taken).count()
    }

    /// Takes in that an answer was taken.
    fn answered(&mut self, id: u16) {
        self.is_fresh = false;
        self.lies = 0;
        self.used = Instant::now();
        if let Some(at) = self.asked.iter().position(|entry| entry.id == id) {
            self.asked.remove(at);
        }
        if self.reader == Some(id) {
            self.hand_over();
        }
        if self.asked.is_empty() && self.incoming.capacity() > ROOM_KEPT {
            self.incoming = Vec::new();
        }
    }

    /// Has the next one read who waits.
    fn hand_over(&mut self) {
        self.reader = None;
        self.is_called = false;
        let next = self
            .asked
            .iter_mut()
            .find_map(|entry| match &mut entry.state {
                State::Waiting(waker) => Some(waker.take()),
                State::Answered(_) | State::Left => None,
            });
        // One that was not looked at yet will be.
        if let Some(Some(waker)) = next {
            waker.wake();
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.is_spoilt = true;
        self.ended.get_or_insert(outcome);
        for entry in &mut self.asked {
            if let State::Waiting(waker) = &mut entry.state
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    /// How its end is told to the next one of those who waited: the first of them hears what became
    /// of the server, the others had not their turn yet.
    fn failure(&mut self, outcome: Outcome) -> Failure {
        // The last two are how the kernel's own patience ends.
        let is_quiet = matches!(
            outcome,
            Outcome::Reset | Outcome::Closed | Outcome::ConnectTimeout | Outcome::Unreachable
        );
        if std::mem::replace(&mut self.is_blamed, true) || is_quiet && !self.is_fresh {
            Failure::Stale
        } else {
            Failure::Outcome(outcome)
        }
    }

    /// Writes what was asked, reads what has come.
    fn work(&mut self, context: &mut Context<'_>, cells: &UpstreamCells) {
        if let Err(error) = self.write(context).and_then(|()| self.read(context, cells)) {
            self.end(Outcome::of(&error));
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(rest) = self.outgoing.get(self.written..)
            && !rest.is_empty()
        {
            match pin!(self.stream.write(rest)).poll(context) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.written > 0 {
            self.outgoing.clear();
            self.written = 0;
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            match pin!(self.stream.flush()).poll(context) {
                Poll::Ready(flushed) => {
                    flushed?;
                    self.is_unflushed = false;
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, context: &mut Context<'_>, cells: &UpstreamCells) -> io::Result<()> {
        while self.ended.is_none() {
            if self.incoming.capacity() - self.incoming.len() < ROOM / 2 {
                self.incoming.reserve(ROOM);
            }
            match pin!(self.stream.read_buf(&mut self.incoming)).poll(context) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => self.sort(cells),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Gives the messages that are whole to those who wait for them.
    fn sort(&mut self, cells: &UpstreamCells) {
        let incoming = std::mem::take(&mut self.incoming);
        let mut at = 0;
        while let Some((prefix, rest)) = incoming[at..].split_first_chunk::<PREFIX>() {
            let length = usize::from(u16::from_be_bytes(*prefix));
            let Some(message) = rest.get(..length) else {
                break;
            };
            self.deliver(message, cells);
            at += PREFIX + length;
        }
        self.incoming = incoming;
        self.incoming.drain(..at);
        if let Some(prefix) = self.incoming.first_chunk::<PREFIX>() {
            let length = PREFIX + usize::from(u16::from_be_bytes(*prefix));
            self.incoming
                .reserve(length.saturating_sub(self.incoming.len()));
        }
    }

    fn deliver(&mut self, message: &[u8], cells: &UpstreamCells) {
        let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
        let at = id.and_then(|id| self.asked.iter().position(|entry| entry.id == id));
        let Some(at) = at else {
            // A message without an ID is for the one that is due.
            let waits = |entry: &&mut Entry| matches!(entry.state, State::Waiting(_));
            let lie = if id.is_some() {
                Outcome::WrongId
            } else {
                Outcome::Malformed
            };
            match self.asked.iter_mut().find(waits) {
                Some(_) => self.lie(lie, cells),
                // More than what was asked for: nobody knows what comes next.
                None => self.is_spoilt = true,
            }
            return;
        };
        let entry = &mut self.asked[at];
        match std::mem::replace(&mut entry.state, State::Left) {
            State::Waiting(waker) => {
                entry.state = State::Answered(message.to_vec());
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            // The first one counts.
            State::Answered(first) => {
                entry.state = State::Answered(first);
                self.is_spoilt = true;
            }
            State::Left => drop(self.asked.remove(at)),
        }
    }

    /// Counts a message that does not belong to a question.
    fn lie(&mut self, lie: Outcome, cells: &UpstreamCells) {
        self.lies += 1;
        if self.lies < LIES {
            cells.end(lie);
        } else if self.ended.is_none() {
            self.end(lie);
        }
    }
}

impl Drop for Wire {
    /// One that may lead into the void ends at once: the kernel would keep it, and its port, for
    /// minutes, to say goodbye.
    fn drop(&mut self) {
        if !self.asked.is_empty() {
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
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
        let wire = Wire {
            stream,
            used: now,
            is_fresh: true,
            is_spoilt: false,
            ended: None,
            is_blamed: false,
            boarding: 0,
            asked: VecDeque::new(),
            reader: None,
            is_called: false,
            is_gathering: false,
            outgoing: Vec::new(),
            written: 0,
            is_unflushed: false,
            incoming: Vec::new(),
            lies: 0,
        };
        Arc::new(Self {
            opened: now,
            ends: now + max_age,
            wire: Mutex::new(wire),
            _count: Count(Arc::clone(telemetry), index),
        })
    }

    /// Whether a question may go over it that nothing is under way on: not too old, and nothing came
    /// that nobody asked for, nor its end.
    pub(super) fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        let mut wire = lock(&self.wire);
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
        let wire = lock(&self.wire);
        if wire.is_spoilt {
            0
        } else {
            most.saturating_sub(wire.boarding + wire.asked.len())
        }
    }

    /// The same where it has not been written yet what was asked in this turn.
    pub(super) fn room_in_turn(&self, most: usize) -> usize {
        if lock(&self.wire).is_gathering {
            self.room(most)
        } else {
            0
        }
    }

    /// Whether it may take questions when those under way are answered.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.ends || lock(&self.wire).is_spoilt
    }

    /// Questions that somebody waits for, or is about to ask.
    pub(super) fn places(&self) -> usize {
        lock(&self.wire).places()
    }
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

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the answer to what was asked. What does not belong to the question is dropped and
    /// counted.
    pub(super) async fn answer(
        &self,
        question: &Question,
        cells: &UpstreamCells,
    ) -> Result<Exchanged, Failure> {
        let Some(id) = self.id else {
            return Err(Failure::Outcome(Outcome::Failed));
        };
        loop {
            let answer = std::future::poll_fn(|context| self.poll(id, context, cells));
            match Exchanged::read(answer.await?, question, id) {
                Ok(exchanged) => {
                    lock(&self.connection.wire).answered(id);
                    return Ok(exchanged);
                }
                Err(lie) => lock(&self.connection.wire).lie(lie, cells),
            }
        }
    }

    /// Asks. `draw` is where the search for an ID begins that nobody else has here. With `gathers` others
    /// of this turn may have their questions written together with this one.
    pub(super) fn ask(&mut self, question: &Question, draw: u16, gathers: bool) {
        let mut wire = lock(&self.connection.wire);
        let mut id = draw;
        while wire.entry(id).is_some() {
            id = id.wrapping_add(1);
        }
        wire.boarding -= usize::from(self.id.replace(id).is_none());
        let state = State::Waiting(None);
        wire.asked.push_back(Entry { id, state });
        message::write_frame(question, id, &mut wire.outgoing);
        match wire.reader {
            None => wire.is_gathering |= gathers,
            // It sleeps until something comes to be read.
            Some(reader) if !wire.is_called => {
                wire.is_called = true;
                if let Some(Entry {
                    state: State::Waiting(Some(waker)),
                    ..
                }) = wire.entry(reader)
                {
                    waker.wake_by_ref();
                }
            }
            Some(_) => {}
        }
    }

    fn poll(
        &self,
        id: u16,
        context: &mut Context<'_>,
        cells: &UpstreamCells,
    ) -> Poll<Result<Vec<u8>, Failure>> {
        let mut wire = lock(&self.connection.wire);
        let wire = &mut *wire;
        if let Some(message) = wire.take(id) {
            return Poll::Ready(Ok(message));
        }
        if wire.ended.is_none() && wire.reader.is_none_or(|reader| reader == id) {
            wire.reader = Some(id);
            if wire.is_gathering && !wire.is_called {
                // When all others have run that were ready.
                wire.is_called = true;
                context.waker().wake_by_ref();
            } else {
                wire.is_called = false;
                wire.is_gathering = false;
                wire.work(context, cells);
                if let Some(message) = wire.take(id) {
                    return Poll::Ready(Ok(message));
                }
            }
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
        entry.state = State::Left;
        wire.is_spoilt = true;
        if wire.reader == Some(id) {
            wire.hand_over();
        }
        true
    }
}
