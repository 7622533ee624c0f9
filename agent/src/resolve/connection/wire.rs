// SPDX-License-Identifier: Apache-2.0
//! The octets of one connection, and who waits for them.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::Asker;
use crate::resolve::message::{self, Exchanged};
use crate::resolve::octets::Stream;
use crate::resolve::upstream::Failure;
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::wire::question::Question;

/// Octets of the length in front of a message (RFC 1035 section 4.2.2).
pub(super) const PREFIX: usize = 2;
/// Room for what one read brings: most responses alone.
const ROOM: usize = 1024;
/// And so much for each that may come with it.
const ROOM_EACH: usize = 128;
/// Room that a connection without a question keeps.
const ROOM_KEPT: usize = 8 << 10;
/// Responses in a row that belong to no question, before the connection is given up.
pub(super) const LIES: usize = 8;

/// Its octets, and who waits for them.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) used: Instant,
    /// Nothing was answered on it yet.
    pub(super) is_fresh: bool,
    /// It must take no more questions.
    pub(super) is_spoilt: bool,
    /// How it ended.
    pub(super) ended: Option<Outcome>,
    /// Somebody was told of its end as of a failure of the server.
    pub(super) is_blamed: bool,
    /// Places that were given to who has not asked yet.
    pub(super) boarding: usize,
    /// Questions under way, in the order in which they were asked.
    pub(super) asked: VecDeque<Entry>,
    /// Wakes the driver, once it has run for the first time.
    pub(super) driver: Option<Waker>,
    /// It was woken and has not run yet.
    is_called: bool,
    /// What is to be told to those who are mere data, when the lock is free.
    pub(super) told: Vec<Told>,
    /// What is asked in this turn of the thread goes out together.
    pub(super) is_gathering: bool,
    pub(super) outgoing: Vec<u8>,
    /// Octets of it that are gone already.
    pub(super) written: usize,
    /// TLS may keep what the socket had no room for.
    pub(super) is_unflushed: bool,
    pub(super) incoming: Vec<u8>,
    /// Further messages with the ID of one that was not looked at yet.
    pub(super) spare: Vec<(u16, Vec<u8>)>,
    pub(super) lies: usize,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u16,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// It is waited for; whom to wake, where that is known yet.
    Waiting(Option<Waker>),
    /// This one is told, at the latest then.
    Asker(Instant, Box<dyn Asker>),
    /// This has come.
    Answered(Vec<u8>),
    /// Nobody waits any more. An answer may still come.
    Left,
}

/// What came of a question, and whom it is told.
#[derive(Debug)]
pub(super) enum Told {
    Answered(Box<dyn Asker>, Exchanged, Instant),
    Failed(Box<dyn Asker>, Failure),
    Late(Box<dyn Asker>),
}

impl Told {
    pub(super) fn tell(self) {
        match self {
            Self::Answered(asker, exchanged, now) => asker.answered(exchanged, now),
            Self::Failed(asker, failure) => asker.failed(failure),
            Self::Late(asker) => asker.is_late(),
        }
    }
}

impl Wire {
    pub(super) fn new(stream: Stream, now: Instant) -> Self {
        Self {
            stream,
            used: now,
            is_fresh: true,
            is_spoilt: false,
            ended: None,
            is_blamed: false,
            boarding: 0,
            asked: VecDeque::new(),
            driver: None,
            is_called: false,
            told: Vec::new(),
            is_gathering: false,
            outgoing: Vec::new(),
            written: 0,
            is_unflushed: false,
            incoming: Vec::new(),
            spare: Vec::new(),
            lies: 0,
        }
    }

    pub(super) fn entry(&mut self, id: u16) -> Option<&mut Entry> {
        self.asked.iter_mut().find(|entry| entry.id == id)
    }

    /// The same, looked for among the last ones first.
    pub(super) fn latest(&mut self, id: u16) -> Option<&mut Entry> {
        self.asked.iter_mut().rev().find(|entry| entry.id == id)
    }

    /// Places for further questions, where so many may be under way.
    pub(super) fn room(&self, most: usize) -> usize {
        if self.is_spoilt {
            return 0;
        }
        most.saturating_sub(self.boarding + self.asked.len())
    }

    /// Has a question written with the next turn of the driver; with the ID that it goes by.
    pub(super) fn ask(&mut self, question: &Question, draw: u16, gathers: bool) -> u16 {
        let mut id = draw;
        while self.entry(id).is_some() {
            id = id.wrapping_add(1);
        }
        self.is_gathering |= gathers && self.asked.is_empty();
        let state = State::Waiting(None);
        self.asked.push_back(Entry { id, state });
        message::write_frame(question, id, &mut self.outgoing);
        self.call();
        id
    }

    pub(super) fn take(&mut self, id: u16) -> Option<Vec<u8>> {
        let entry = self.entry(id)?;
        if !matches!(entry.state, State::Answered(_)) {
            return None;
        }
        match std::mem::replace(&mut entry.state, State::Waiting(None)) {
            State::Answered(message) => Some(message),
            State::Waiting(_) | State::Asker(..) | State::Left => None,
        }
    }

    /// Has the driver write and read.
    pub(super) fn call(&mut self) {
        if !std::mem::replace(&mut self.is_called, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// Looks for another message with an ID whose first was none of its question.
    pub(super) fn take_spare(&mut self, id: u16) {
        if let Some(at) = self.spare.iter().position(|(other, _)| *other == id) {
            let (_, message) = self.spare.remove(at);
            if let Some(entry) = self.entry(id) {
                entry.state = State::Answered(message);
            }
        }
    }

    pub(super) fn places(&self) -> usize {
        let is_taken = |entry: &&Entry| !matches!(entry.state, State::Left);
        self.boarding + self.asked.iter().filter(is_taken).count()
    }

    /// Takes in that an answer was taken.
    pub(super) fn answered(&mut self, id: u16, now: Instant) {
        if let Some(at) = self.asked.iter().position(|entry| entry.id == id) {
            self.asked.remove(at);
        }
        self.is_fresh = false;
        self.lies = 0;
        self.used = now;
        self.shrink();
    }

    /// Gives room back that one large answer has needed.
    fn shrink(&mut self) {
        let is_unused = self.asked.is_empty() && self.incoming.is_empty();
        if is_unused && self.incoming.capacity() > ROOM_KEPT {
            self.incoming = Vec::new();
        }
    }

    /// Ends it: who waits is woken, who is mere data is told.
    pub(super) fn end(&mut self, outcome: Outcome) {
        self.is_spoilt = true;
        self.ended.get_or_insert(outcome);
        for entry in &mut self.asked {
            if let State::Waiting(waker) = &mut entry.state
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
        self.take_askers(
            |_| true,
            |wire, asker| {
                let failure = wire.failure(outcome);
                Told::Failed(asker, failure)
            },
        );
        self.call();
    }

    /// Tells those whose time is up.
    pub(super) fn dismiss_late(&mut self, now: Instant) {
        self.take_askers(|due| due <= now, |_, asker| Told::Late(asker));
    }

    /// When the first of them has to be told.
    pub(super) fn earliest(&self) -> Option<Instant> {
        let due = self.asked.iter().filter_map(|entry| match entry.state {
            State::Asker(due, _) => Some(due),
            _ => None,
        });
        due.min()
    }

    fn take_askers(
        &mut self,
        which: impl Fn(Instant) -> bool,
        told: impl Fn(&mut Self, Box<dyn Asker>) -> Told,
    ) {
        for at in 0..self.asked.len() {
            let state = &mut self.asked[at].state;
            if !matches!(state, State::Asker(due, _) if which(*due)) {
                continue;
            }
            if let State::Asker(_, asker) = std::mem::replace(state, State::Waiting(None)) {
                let told = told(self, asker);
                self.told.push(told);
            }
        }
    }

    /// How its end is told to the next one of those who waited: the first of them hears what became
    /// of the server, the others had not their turn yet.
    pub(super) fn failure(&mut self, outcome: Outcome) -> Failure {
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
    pub(super) fn work(&mut self, context: &mut Context<'_>, cells: &UpstreamCells) {
        self.is_called = false;
        self.is_gathering = false;
        if self.ended.is_some() {
            return;
        }
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
            self.incoming.reserve(ROOM + ROOM_EACH * self.asked.len());
            match pin!(self.stream.read_buf(&mut self.incoming)).poll(context) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => self.sort(Instant::now(), cells),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.shrink();
        // Nobody will ask here: what comes is not worth reading.
        if self.is_spoilt && self.ended.is_none() && self.asked.is_empty() && self.boarding == 0 {
            self.end(Outcome::Closed);
        }
        Ok(())
    }

    /// Gives the messages that are whole to those who wait for them.
    fn sort(&mut self, now: Instant, cells: &UpstreamCells) {
        let incoming = std::mem::take(&mut self.incoming);
        let mut at = 0;
        while let Some((prefix, rest)) = incoming[at..].split_first_chunk::<PREFIX>() {
            let length = usize::from(u16::from_be_bytes(*prefix));
            let Some(message) = rest.get(..length) else {
                break;
            };
            self.deliver(message, now, cells);
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

    fn deliver(&mut self, message: &[u8], now: Instant, cells: &UpstreamCells) {
        let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
        let at = id.and_then(|id| self.asked.iter().position(|entry| entry.id == id));
        let Some(at) = at else {
            // A message without an ID is for the one that is due.
            let waits =
                |entry: &&mut Entry| matches!(entry.state, State::Waiting(_) | State::Asker(..));
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
                self.is_fresh = false;
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Asker(due, asker) => {
                let id = entry.id;
                match Exchanged::read(message, asker.question(), id) {
                    Ok(exchanged) => {
                        self.answered(id, now);
                        if self.told.is_empty() {
                            self.told.reserve_exact(1 + self.asked.len());
                        }
                        self.told.push(Told::Answered(asker, exchanged, now));
                    }
                    Err(lie) => {
                        entry.state = State::Asker(due, asker);
                        self.lie(lie, cells);
                    }
                }
            }
            // Somebody is lying; who asked will see which.
            State::Answered(first) => {
                entry.state = State::Answered(first);
                self.is_spoilt = true;
                if self.spare.len() < LIES {
                    self.spare.push((entry.id, message.to_vec()));
                }
            }
            State::Left => drop(self.asked.remove(at)),
        }
    }

    /// Counts a message that does not belong to a question.
    pub(super) fn lie(&mut self, lie: Outcome, cells: &UpstreamCells) {
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
        // It sees that there is nothing left to drive.
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
