// SPDX-License-Identifier: Apache-2.0
//! One connection of a client: its queries, its answers, and its end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::Streams;
use super::places::Place;
use crate::cache::{Lookup, Tick};
use crate::lifecycle::drain::{DrainWatcher, Stage};
use crate::lock::lock;
use crate::miss::Asked;
use crate::resolve::{Reply, To, Waiter};
use crate::telemetry::answers::Hits;
use crate::telemetry::asked::LastAsked;
use crate::telemetry::clock::{Clock, nanoseconds};
use crate::telemetry::counters::{Answered, Channel, NO_ZONE, add};
use crate::wire::MAX_MESSAGE;
use crate::wire::answer::Standing;
use crate::wire::query::Query;
use crate::wire::question::Question;
use crate::wire::reply::{self, Shape};

/// Octets of the length in front of a message (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;
/// Queries of one connection that may wait for their answers; further ones are not read.
const PIPELINE: usize = 128;
/// Octets of answers that are written at once, or a little more. It bounds what a client that does
/// not read makes us keep.
const WRITE: usize = 16 << 10;
/// Room for a few queries.
const READ: usize = 2048;
/// Octets of a query that are read: a question, an OPT record with all options that anybody sends,
/// and a signature fit many times over. What a longer one has behind them is passed over, so that
/// no client makes us keep the 65,535 octets that a length can promise.
const LONGEST: usize = 4096;
/// How long the client's end of a connection is waited for after ours. What it sends meanwhile is
/// read and dropped: closing over unread octets would reset the connection, and with it answers
/// that the client has not read yet (RFC 1122 section 4.2.2.13).
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a connection may have to leave: the process ends, or nothing is steered here any more.
#[derive(Debug)]
pub(super) struct Leave {
    pub(super) drain: DrainWatcher,
    pub(super) retire: DrainWatcher,
}

impl Leave {
    fn stage(&self) -> Stage {
        self.drain.stage().max(self.retire.stage())
    }

    /// Waits until either has come so far.
    async fn reached(&mut self, stage: Stage) {
        tokio::select! {
            () = self.drain.reached(stage) => {}
            () = self.retire.reached(stage) => {}
        }
    }
}

/// A connection that has come.
pub(super) struct Came {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Of the listen address that it came to.
    pub(super) asked: Arc<LastAsked>,
}

/// A connection that is served.
pub(super) struct Connection {
    streams: Arc<Streams>,
    place: Option<Place>,
    asked: Arc<LastAsked>,
    client: IpAddr,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    /// Octets that came and are not yet a whole query.
    inbox: Vec<u8>,
    /// Octets of the last query that are still to come and are passed over.
    skip: usize,
    /// Answers that are not yet written.
    outbox: Vec<u8>,
    replies: mpsc::Sender<Reply>,
    settled: mpsc::Receiver<Reply>,
    /// Queries whose answers are awaited.
    waiting: usize,
    /// The client will send no more.
    is_half_closed: bool,
    /// We are to leave: the next answer is the last.
    is_leaving: bool,
    /// An answer has passed since.
    has_answered: bool,
    active: Instant,
}

impl Connection {
    pub(super) fn new(streams: &Arc<Streams>, place: Option<Place>, came: Came) -> Self {
        let Came {
            stream,
            peer,
            asked,
        } = came;
        // An answer must not wait for the next one (RFC 7766 section 8).
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (replies, settled) = mpsc::channel(PIPELINE);
        Self {
            streams: Arc::clone(streams),
            place,
            asked,
            client: peer.ip(),
            read,
            write,
            inbox: Vec::new(),
            skip: 0,
            outbox: Vec::new(),
            replies,
            settled,
            waiting: 0,
            is_half_closed: false,
            is_leaving: false,
            has_answered: false,
            active: Instant::now(),
        }
    }

    pub(super) async fn live(mut self, mut leave: Leave) {
        // Errors are the client's: it reset the connection, or does not read its answers.
        let _ = self.serve(&mut leave).await;
    }

    async fn serve(&mut self, leave: &mut Leave) -> io::Result<()> {
        let idle = self.streams.limits.tcp_idle;
        let mut stage = leave.stage();
        loop {
            self.is_leaving = stage >= Stage::Draining;
            if self.waiting == 0 && self.is_half_closed {
                return Ok(());
            }
            // A client may have a query on its way as long as nothing tells it not to, so an idle
            // connection stays until it has been of use once more (RFC 7766 section 6.2.3), or
            // there is no more time.
            if self.waiting == 0
                && self.is_leaving
                && (self.has_answered || stage == Stage::LastCall)
                && !self.has_more_queries().await?
            {
                return self.say_farewell().await;
            }
            if let Some(place) = &self.place {
                place.awaits_answers(self.waiting > 0);
            }
            let may_read = !self.is_half_closed && self.waiting < PIPELINE;
            let next = match stage {
                Stage::Serving => Stage::Draining,
                _ => Stage::LastCall,
            };
            self.inbox.reserve(READ);
            tokio::select! {
                () = leave.reached(next), if stage != Stage::LastCall => {
                    stage = leave.stage();
                    self.has_answered = false;
                }
                Some(reply) = self.settled.recv(), if self.waiting > 0 => {
                    self.touch();
                    self.take_reply(&reply);
                }
                read = self.read.read_buf(&mut self.inbox), if may_read => {
                    self.is_half_closed = read? == 0;
                    self.take_queries().await?;
                }
                () = sleep_until(self.active + idle), if self.waiting == 0 => {
                    self.streams.cells.idle();
                    return Ok(());
                }
            }
            while self.outbox.len() < WRITE
                && let Ok(reply) = self.settled.try_recv()
            {
                self.take_reply(&reply);
            }
            self.flush().await?;
            // What was left in the inbox while too many waited.
            if self.waiting < PIPELINE && !self.inbox.is_empty() {
                self.take_queries().await?;
                self.flush().await?;
            }
        }
    }

    /// Takes what has come in the meantime; true where that is a query whose answer is awaited.
    async fn has_more_queries(&mut self) -> io::Result<bool> {
        self.inbox.reserve(READ);
        match self.read.try_read_buf(&mut self.inbox) {
            Ok(0) => self.is_half_closed = true,
            Ok(_) => {
                self.take_queries().await?;
                // Half a query: its rest is on the way.
                return Ok(self.waiting > 0 || !self.inbox.is_empty());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    /// Ends our side and waits for the client to end its own, so that nothing is reset.
    async fn say_farewell(&mut self) -> io::Result<()> {
        self.write.shutdown().await?;
        let end = async {
            while self.read.read_buf(&mut self.inbox).await? > 0 {
                self.inbox.clear();
            }
            Ok(())
        };
        timeout(FAREWELL, end).await.unwrap_or(Ok(()))
    }

    /// A query or an answer has passed.
    fn touch(&mut self) {
        self.active = Instant::now();
        if let Some(place) = &self.place {
            place.touch();
        }
    }

    fn take_reply(&mut self, reply: &Reply) {
        self.waiting -= 1;
        self.has_answered = true;
        self.outbox.extend(reply.frame());
    }

    /// Answers or hands on every whole query that came.
    async fn take_queries(&mut self) -> io::Result<()> {
        let began = Clock.now();
        let mut hits = Hits::default();
        let mut taken = self.skip.min(self.inbox.len());
        self.skip -= taken;
        while self.waiting < PIPELINE {
            let Some((prefix, rest)) = self.inbox[taken..].split_first_chunk::<PREFIX>() else {
                break;
            };
            let length = usize::from(u16::from_be_bytes(*prefix));
            let read = length.min(LONGEST);
            if rest.len() < read {
                break;
            }
            let here = rest.len().min(length);
            let query = taken + PREFIX..taken + PREFIX + read;
            taken += PREFIX + here;
            self.skip = length - here;
            let waited = self.waiting;
            let found = self.take_query(query, began);
            hits.note(found);
            // The agent's questions to itself are neither.
            if found != NO_ZONE || self.waiting > waited {
                self.asked.note(began);
            }
            self.touch();
            if self.outbox.len() >= WRITE {
                self.flush().await?;
            }
        }
        self.inbox.drain(..taken);
        self.flush().await?;
        if hits.total() > 0 {
            let took = Clock.now().saturating_sub(began);
            for (zone, hits) in hits.drain() {
                self.streams.cells.answers.took(zone, took, hits);
            }
        }
        Ok(())
    }

    /// Answers or hands on one query. Returns the zone of the name that the cache had the answer
    /// for.
    fn take_query(&mut self, query: std::ops::Range<usize>, began: Duration) -> u16 {
        let streams = Arc::clone(&self.streams);
        let cells = &streams.cells;
        let channel = Channel::tcp(self.client.is_ipv6());
        let mut buffer = lock(&streams.buffer);
        let message = &self.inbox[query];
        let mut question = Question::new();
        let query = match Query::parse(message, &mut question) {
            Ok(query) => query,
            Err(rejection) => {
                cells.reject(rejection.fault);
                buffer[..message.len()].copy_from_slice(message);
                let length = reply::reject(&mut buffer, &rejection, &self.shape());
                if let Some(rcode) = rejection.fault.rcode() {
                    let octets = [message.len(), length];
                    let told = Answered::of(channel, rejection.qtype, rcode, octets);
                    cells.answers.count(&told);
                }
                self.put(&buffer[..length]);
                return NO_ZONE;
            }
        };
        let now = Tick::of(began);
        let mut reader = lock(&streams.reader);
        let session = reader.online();
        let found = session.get(&question, now);
        if matches!(found, Lookup::Due(_)) {
            streams.resolver.ask_ahead(&question);
        }
        if let Lookup::Hit(entry) | Lookup::Due(entry) = found {
            buffer[..query.question_end].copy_from_slice(&message[..query.question_end]);
            let length = reply::answer(&mut buffer, &query, &entry.answer(now), &self.shape());
            let (octets, qtype) = ([message.len(), length], question.qtype());
            cells.answers.count(&Answered {
                zone: entry.zone(),
                is_denial: entry.is_denial(),
                is_stale: entry.standing() == Standing::Stale,
                dnssec_ok: query.wants_dnssec(),
                ..Answered::of(channel, qtype, entry.rcode(), octets)
            });
            self.put(&buffer[..length]);
            return entry.zone();
        }
        let waiter = Waiter {
            asked: Asked::new(message, &query),
            arrived_ns: nanoseconds(began),
            to: To::Stream {
                replies: self.replies.clone(),
                client: self.client,
                keepalive: self.keepalive(),
            },
        };
        drop(session);
        drop(reader);
        drop(buffer);
        self.waiting += 1;
        add(&cells.handed_over, 1);
        streams.resolver.ask(waiter);
        NO_ZONE
    }

    fn put(&mut self, message: &[u8]) {
        self.has_answered = true;
        if let Ok(length @ 1..) = u16::try_from(message.len()) {
            self.outbox.extend(length.to_be_bytes());
            self.outbox.extend(message);
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            limit: MAX_MESSAGE,
            udp_size: self.streams.limits.udp_size,
            keepalive: Some(self.keepalive()),
        }
    }

    /// The idle timeout in units of 100 ms (RFC 7828 section 3.1). Nought asks the client to close,
    /// as we are about to (section 3.2.2).
    fn keepalive(&self) -> u16 {
        if self.is_leaving {
            return 0;
        }
        u16::try_from(self.streams.limits.tcp_idle.as_millis() / 100).unwrap_or(u16::MAX)
    }

    /// Writes what there is; a client that does not read for the idle timeout is let go.
    async fn flush(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let writing = self.write.write_all(&self.outbox);
        let written = timeout(self.streams.limits.tcp_idle, writing).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.outbox.clear();
        if self.outbox.capacity() > 2 * WRITE {
            self.outbox = Vec::new();
        }
        Ok(())
    }
}
