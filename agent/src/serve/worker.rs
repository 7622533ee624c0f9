// SPDX-License-Identifier: Apache-2.0
//! The hot loop: receive a batch, look each query up, answer in place or hand over, send.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::batch::{BATCH, Batch};
use crate::cache::{Lookup, Reader, Session, Tick};
use crate::miss::{Asked, Miss, Sender};
use crate::telemetry::answers::Hits;
use crate::telemetry::asked::LastAsked;
use crate::telemetry::cells::WorkerCells;
use crate::telemetry::clock::{Clock, nanoseconds};
use crate::telemetry::counters::{Answered, Channel, add};
use crate::wire::answer::Standing;
use crate::wire::edns::ExtendedError;
use crate::wire::query::Query;
use crate::wire::question::Question;
use crate::wire::rcode;
use crate::wire::reply::{self, Shape};

/// The token of the bell; listeners have their own numbers, which are smaller.
const CONTROL: u64 = u64::MAX;
/// Datagrams that go through the steps together: enough to hide the memory's latency, few enough
/// to stay near.
pub(super) const GROUP: usize = 8;
/// Batches that one socket may have before the others get their turn.
const TURNS: usize = 8;

/// Turns that a socket which closes may have: more than its queue can hold.
const LAST_TURNS: usize = 64;

/// What the daemon tells a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve this socket too.
    Open {
        /// The listener's number.
        listener: u32,
        /// This worker's member of the group.
        socket: Arc<UdpSocket>,
        /// When clients last asked there.
        asked: Arc<LastAsked>,
    },
    /// Answer what waits at a listener's socket, then close it.
    Close {
        /// The listener's number.
        listener: u32,
    },
    /// Answer what waits everywhere, then end.
    Stop,
}

/// Commands that wait for a worker, and what wakes it for them.
#[derive(Debug)]
pub(super) struct Mailbox {
    commands: Mutex<Vec<Command>>,
    has_commands: AtomicBool,
    /// Wakes a worker that waits at several sockets.
    bell: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            commands: Mutex::default(),
            has_commands: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(super) fn send(&self, commands: impl IntoIterator<Item = Command>) {
        let mut waiting = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(commands);
        self.has_commands.store(true, Release);
        drop(waiting);
        // It fails only where the bell rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Command> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let mut waiting = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_commands.store(false, Relaxed);
        std::mem::take(&mut *waiting)
    }
}

/// One worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) reader: Reader,
    pub(super) misses: Sender,
    pub(super) cells: Arc<WorkerCells>,
    pub(super) mailbox: Arc<Mailbox>,
    /// What our OPT record announces and no answer exceeds, in octets.
    pub(super) udp_size: u16,
    pub(super) sockets: BTreeMap<u32, Served>,
    pub(super) batch: Batch,
    pub(super) group: Box<[Parsed; GROUP]>,
    pub(super) hits: Hits,
}

/// A listener's socket.
#[derive(Debug)]
pub(super) struct Served {
    socket: Arc<UdpSocket>,
    channel: Channel,
    asked: Arc<LastAsked>,
}

impl Worker {
    /// Serves until it is told to stop. At its only socket it waits in the receiving call itself,
    /// which saves a system call a batch; at several, with epoll.
    ///
    /// # Errors
    /// A socket is broken.
    pub(super) fn run(mut self) -> io::Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let control = epoll::EventData::new_u64(CONTROL);
        epoll::add(&poll, &self.mailbox.bell, control, epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(16);
        loop {
            if self.mailbox.has_commands.load(Acquire) && !self.obey(&poll)? {
                return Ok(());
            }
            if let (1, Some(&only)) = (self.sockets.len(), self.sockets.keys().next()) {
                self.serve(only, true)?;
            } else {
                self.wait(&poll, &mut events)?;
                for event in &events {
                    // The bell has no listener's number: its commands are carried out above.
                    if let Ok(listener) = u32::try_from(event.data.u64()) {
                        self.serve(listener, false)?;
                    }
                }
            }
            add(&self.cells.progress, 1);
        }
    }

    /// Waits until a socket has something, or the bell rings.
    fn wait(&self, poll: &OwnedFd, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        match epoll::wait(poll, rustix::buffer::spare_capacity(events), None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries commands out; `false` where the worker is to end.
    fn obey(&mut self, poll: &OwnedFd) -> io::Result<bool> {
        for command in self.mailbox.take() {
            match command {
                Command::Open {
                    listener,
                    socket,
                    asked,
                } => {
                    let token = epoll::EventData::new_u64(listener.into());
                    epoll::add(poll, &socket, token, epoll::EventFlags::IN)?;
                    let is_ipv6 = socket.local_addr()?.is_ipv6();
                    let channel = Channel::udp(is_ipv6);
                    let served = Served {
                        socket,
                        channel,
                        asked,
                    };
                    self.sockets.insert(listener, served);
                }
                Command::Close { listener } => {
                    self.finish(listener)?;
                    if let Some(served) = self.sockets.remove(&listener) {
                        epoll::delete(poll, &served.socket)?;
                    }
                }
                Command::Stop => {
                    let listeners: Vec<u32> = self.sockets.keys().copied().collect();
                    for listener in listeners {
                        self.finish(listener)?;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Answers all that waits at a socket before it closes.
    fn finish(&mut self, listener: u32) -> io::Result<()> {
        for _ in 0..LAST_TURNS {
            let before = self.cells.batches.load(Relaxed);
            self.serve(listener, false)?;
            if self.cells.batches.load(Relaxed) == before {
                break;
            }
        }
        Ok(())
    }

    /// Answers what waits at one socket, or what comes to it first.
    fn serve(&mut self, listener: u32, wait: bool) -> io::Result<()> {
        let Some(served) = self.sockets.get(&listener) else {
            return Ok(());
        };
        for turn in 0..TURNS {
            let received = self
                .batch
                .receive(served.socket.as_fd(), wait && turn == 0)?;
            if received == 0 {
                break;
            }
            let began = Clock.now();
            let mut turn = Turn {
                session: self.reader.online(),
                batch: &mut self.batch,
                cells: &self.cells,
                misses: &self.misses,
                channel: served.channel,
                listener,
                began,
                now: Tick::of(began),
                udp_size: self.udp_size,
                hits: &mut self.hits,
                handed_over: 0,
                asked_ahead: 0,
            };
            for first in (0..received).step_by(GROUP) {
                turn.answer(first..received.min(first + GROUP), &mut self.group);
            }
            let (hits, handed_over) = (turn.hits.total(), turn.handed_over);
            let must_ring = handed_over + turn.asked_ahead > 0;
            drop(turn);
            // The agent's questions to itself are neither.
            if hits + handed_over > 0 {
                served.asked.note(began);
            }
            if must_ring {
                self.misses.ring();
                add(&self.cells.handed_over, handed_over);
            }
            let sent = self.batch.send(served.socket.as_fd());
            add(&self.cells.send_errors, sent.failed as u64);
            add(&self.cells.batches, 1);
            if hits > 0 {
                let took: Duration = Clock.now().saturating_sub(began);
                for (zone, hits) in self.hits.drain() {
                    self.cells.answers.took(zone, took, hits);
                }
            }
            if received < BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// A query of a group, on its way from its octets to its answer.
#[derive(Debug)]
pub(super) struct Parsed {
    question: Question,
    query: Option<Query>,
    tag: u32,
}

impl Parsed {
    pub(super) const NONE: Self = Self {
        question: Question::new(),
        query: None,
        tag: 0,
    };
}

/// One batch, while the worker is online.
struct Turn<'a> {
    session: Session<'a>,
    batch: &'a mut Batch,
    cells: &'a WorkerCells,
    misses: &'a Sender,
    channel: Channel,
    listener: u32,
    began: Duration,
    now: Tick,
    udp_size: u16,
    hits: &'a mut Hits,
    handed_over: u64,
    asked_ahead: u64,
}

impl Turn<'_> {
    /// Parses, looks up and answers a few datagrams, step by step for all of them: what one step
    /// has the CPU fetch is there when the next one needs it.
    fn answer(&mut self, group: Range<usize>, parsed: &mut [Parsed; GROUP]) {
        for (index, parsed) in group.clone().zip(parsed.iter_mut()) {
            self.parse(index, parsed);
        }
        for (_, parsed) in group.clone().zip(parsed.iter()) {
            if parsed.query.is_some() {
                self.session.reach(parsed.tag);
            }
        }
        for (index, parsed) in group.zip(parsed.iter()) {
            let Some(query) = &parsed.query else {
                continue;
            };
            let entry = match self.session.get_at(parsed.tag, &parsed.question, self.now) {
                Lookup::Hit(entry) => entry,
                Lookup::Due(entry) => {
                    let miss = self.miss(self.batch.message(index), query, None);
                    self.asked_ahead += u64::from(self.misses.offer(miss));
                    entry
                }
                Lookup::Miss => {
                    self.hand_over(index, parsed, query);
                    continue;
                }
            };
            let shape = self.shape(query.udp_limit(self.udp_size));
            let answer = entry.answer(self.now);
            let mut datagram = self.batch.datagram(index);
            let asked_octets = datagram.len;
            let length = reply::answer(datagram.buffer, query, &answer, &shape);
            datagram.answer(length);
            let (zone, qtype) = (entry.zone(), parsed.question.qtype());
            let answers = &self.cells.answers;
            answers.count(&Answered {
                zone,
                is_denial: entry.is_denial(),
                is_stale: entry.standing() == Standing::Stale,
                dnssec_ok: query.wants_dnssec(),
                ..Answered::of(self.channel, qtype, entry.rcode(), [asked_octets, length])
            });
            self.hits.note(zone);
        }
    }

    /// Reads a datagram; what is no query that we answer is rejected at once.
    fn parse(&mut self, index: usize, parsed: &mut Parsed) {
        if !self.batch.is_datagram(index) {
            parsed.query = None;
            return;
        }
        let shape = self.shape(usize::MAX);
        let mut datagram = self.batch.datagram(index);
        let message = &datagram.buffer[..datagram.len];
        match Query::parse(message, &mut parsed.question) {
            Ok(query) => {
                parsed.tag = self.session.approach(&parsed.question);
                parsed.query = Some(query);
            }
            Err(rejection) => {
                parsed.query = None;
                self.cells.reject(rejection.fault);
                let length = reply::reject(datagram.buffer, &rejection, &shape);
                datagram.answer(length);
                if let Some(rcode) = rejection.fault.rcode() {
                    let octets = [datagram.len, length];
                    let told = Answered::of(self.channel, rejection.qtype, rcode, octets);
                    self.cells.answers.count(&told);
                }
            }
        }
    }

    /// Gives a miss to the cold side; where that has no room, the client is told at once.
    fn hand_over(&mut self, index: usize, parsed: &Parsed, query: &Query) {
        let Some(client) = self.batch.client(index) else {
            return;
        };
        let miss = self.miss(self.batch.message(index), query, Some(client));
        if self.misses.push(miss) {
            self.handed_over += 1;
            return;
        }
        add(&self.cells.refused_queue_full, 1);
        let why = Some(ExtendedError::OVER_LIMIT);
        let shape = self.shape(usize::MAX);
        let mut datagram = self.batch.datagram(index);
        let length = reply::failure(datagram.buffer, query, rcode::SERVFAIL, why, &shape);
        datagram.answer(length);
        let (qtype, octets) = (parsed.question.qtype(), [datagram.len, length]);
        let told = Answered::of(self.channel, qtype, rcode::SERVFAIL, octets);
        self.cells.answers.count(&told);
    }

    fn miss(&self, message: &[u8], query: &Query, client: Option<SocketAddr>) -> Miss {
        Miss {
            client,
            listener: self.listener,
            arrived_ns: nanoseconds(self.began),
            asked: Asked::new(message, query),
        }
    }

    fn shape(&self, limit: usize) -> Shape {
        Shape {
            limit,
            udp_size: self.udp_size,
            keepalive: None,
        }
    }
}
