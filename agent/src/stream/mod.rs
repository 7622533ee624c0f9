// SPDX-License-Identifier: Apache-2.0
//! Clients over TCP (RFC 7766): many queries on a connection, answered in whatever order their
//! answers come, within limits.

mod places;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::places::{Place, Places};
use crate::cache::{Lookup, Reader, Tick};
use crate::config::Listen;
use crate::lifecycle::drain::DrainWatcher;
use crate::lifecycle::ready::Health;
use crate::miss::Asked;
use crate::resolve::{Reply, Resolver, To, Waiter};
use crate::telemetry::cells::StreamCells;
use crate::telemetry::clock::{Clock, nanoseconds};
use crate::telemetry::counters::{Channel, NO_ZONE, add};
use crate::wire::MAX_MESSAGE;
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
/// Pause after an error of accept: the system is short of something.
const PAUSE: Duration = Duration::from_millis(50);
/// The log is told of such an error at most this often.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What all connections share.
#[derive(Debug)]
pub struct Streams {
    resolver: Arc<Resolver>,
    reader: Mutex<Reader>,
    cells: Arc<StreamCells>,
    health: Arc<Health>,
    limits: Listen,
    places: Arc<Places>,
    /// Room for one message.
    buffer: Mutex<Vec<u8>>,
}

impl Streams {
    /// Serves within the limits of `listen`.
    #[must_use]
    pub fn new(
        resolver: Arc<Resolver>,
        reader: Reader,
        cells: Arc<StreamCells>,
        health: Arc<Health>,
        listen: &Listen,
    ) -> Arc<Self> {
        let (most, of_client) = (listen.tcp_connections, listen.tcp_connections_per_client);
        Arc::new(Self {
            resolver,
            reader: Mutex::new(reader),
            places: Places::new(most, of_client, &cells),
            cells,
            health,
            limits: listen.clone(),
            buffer: Mutex::new(vec![0; MAX_MESSAGE]),
        })
    }

    /// Takes connections until the drain begins, then waits for those that are left.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, drain: DrainWatcher) {
        let mut connections = JoinSet::new();
        let mut said: Option<Instant> = None;
        let begun = drain.clone().begun();
        tokio::pin!(begun);
        loop {
            tokio::select! {
                _blocker = &mut begun => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        // The agent's own probe takes no client's place, and finds one always.
                        let is_probe = self.health.is_probe(peer);
                        let place = if is_probe { None } else { self.places.take(peer.ip()) };
                        if is_probe || place.is_some() {
                            let guest = place.as_ref().map(Place::guest);
                            let connection = Connection::new(&self, place, stream, peer);
                            let task = connections.spawn(connection.live(drain.clone()));
                            if let Some(guest) = guest {
                                guest.runs_in(task);
                            }
                        }
                    }
                    Err(error) => {
                        let now = Instant::now();
                        if said.is_none_or(|last| now >= last + SAID_EVERY) {
                            said = Some(now);
                            tracing::warn!(%error, "cannot take a TCP connection");
                        }
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

struct Connection {
    streams: Arc<Streams>,
    place: Option<Place>,
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
    active: Instant,
}

impl Connection {
    fn new(
        streams: &Arc<Streams>,
        place: Option<Place>,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Self {
        // An answer must not wait for the next one (RFC 7766 section 8).
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (replies, settled) = mpsc::channel(PIPELINE);
        Self {
            streams: Arc::clone(streams),
            place,
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
            active: Instant::now(),
        }
    }

    async fn live(mut self, drain: DrainWatcher) {
        // Errors are the client's: it reset the connection, or does not read its answers.
        let _ = self.serve(drain).await;
    }

    async fn serve(&mut self, drain: DrainWatcher) -> io::Result<()> {
        let idle = self.streams.limits.tcp_idle;
        let mut is_draining = drain.is_draining();
        let begun = drain.begun();
        tokio::pin!(begun);
        loop {
            if self.waiting == 0 && (self.is_half_closed || is_draining) {
                return Ok(());
            }
            if let Some(place) = &self.place {
                place.awaits_answers(self.waiting > 0);
            }
            let may_read = !self.is_half_closed && !is_draining && self.waiting < PIPELINE;
            self.inbox.reserve(READ);
            tokio::select! {
                _blocker = &mut begun, if !is_draining => is_draining = true,
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

    /// A query or an answer has passed.
    fn touch(&mut self) {
        self.active = Instant::now();
        if let Some(place) = &self.place {
            place.touch();
        }
    }

    fn take_reply(&mut self, reply: &Reply) {
        self.waiting -= 1;
        self.outbox.extend(reply.frame());
    }

    /// Answers or hands on every whole query that came.
    async fn take_queries(&mut self) -> io::Result<()> {
        let began = Clock.now();
        let mut hits = 0;
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
            hits += u64::from(self.take_query(query, began));
            self.touch();
            if self.outbox.len() >= WRITE {
                self.flush().await?;
            }
        }
        self.inbox.drain(..taken);
        self.flush().await?;
        if hits > 0 {
            let took = Clock.now().saturating_sub(began);
            self.streams.cells.hit_latency.record(took, hits);
        }
        Ok(())
    }

    /// Answers or hands on one query; `true` where the cache had the answer.
    fn take_query(&mut self, query: std::ops::Range<usize>, began: Duration) -> bool {
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
                if let Some(rcode) = rejection.fault.rcode() {
                    cells
                        .answers
                        .count(NO_ZONE, channel, rejection.qtype, rcode);
                }
                buffer[..message.len()].copy_from_slice(message);
                let length = reply::reject(&mut buffer, &rejection, &streams.shape());
                self.put(&buffer[..length]);
                return false;
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
            let length = reply::answer(&mut buffer, &query, &entry.answer(now), &streams.shape());
            let (zone, rcode) = (entry.zone(), entry.rcode());
            cells.answers.count(zone, channel, question.qtype(), rcode);
            self.put(&buffer[..length]);
            return zone != NO_ZONE;
        }
        let waiter = Waiter {
            asked: Asked::new(message, &query),
            arrived_ns: nanoseconds(began),
            to: To::Stream {
                replies: self.replies.clone(),
                client: self.client,
                keepalive: streams.keepalive(),
            },
        };
        drop(session);
        drop(reader);
        drop(buffer);
        self.waiting += 1;
        add(&cells.handed_over, 1);
        streams.resolver.ask(waiter);
        false
    }

    fn put(&mut self, message: &[u8]) {
        if let Ok(length @ 1..) = u16::try_from(message.len()) {
            self.outbox.extend(length.to_be_bytes());
            self.outbox.extend(message);
        }
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

impl Streams {
    fn shape(&self) -> Shape {
        Shape {
            limit: MAX_MESSAGE,
            udp_size: self.limits.udp_size,
            keepalive: Some(self.keepalive()),
        }
    }

    /// The idle timeout in units of 100 ms (RFC 7828 section 3.1).
    fn keepalive(&self) -> u16 {
        u16::try_from(self.limits.tcp_idle.as_millis() / 100).unwrap_or(u16::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All of it belongs to the cold thread; a task that panicked left it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
