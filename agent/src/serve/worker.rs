// SPDX-License-Identifier: Apache-2.0
//! The hot loop: receive a batch, look each query up, answer in place or hand over, send.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use rustix::fd::OwnedFd;

use super::batch::{BATCH, Batch, Datagram};
use crate::cache::{Lookup, Reader, Session, Tick};
use crate::miss::{Asked, Miss, Sender};
use crate::telemetry::cells::WorkerCells;
use crate::telemetry::clock::Clock;
use crate::telemetry::counters::{Channel, NO_ZONE, add};
use crate::wire::edns::ExtendedError;
use crate::wire::query::Query;
use crate::wire::question::Question;
use crate::wire::rcode;
use crate::wire::reply::{self, Shape};

/// The token of the control eventfd; listeners have their own numbers.
const CONTROL: u64 = u64::MAX;
/// Batches that one socket may have before the others get their turn.
const TURNS: usize = 8;

/// What the daemon tells a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve this socket too.
    Open {
        /// The listener's number.
        listener: u32,
        /// This worker's member of the group.
        socket: Arc<UdpSocket>,
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
    pub(super) commands: Mutex<Vec<Command>>,
    pub(super) bell: OwnedFd,
}

impl Mailbox {
    pub(super) fn send(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        // It fails only where the bell rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Command> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
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
    pub(super) sockets: BTreeMap<u32, Arc<UdpSocket>>,
    pub(super) batch: Batch,
}

impl Worker {
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// A socket is broken.
    pub(super) fn run(mut self) -> io::Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let control = epoll::EventData::new_u64(CONTROL);
        epoll::add(&poll, &self.mailbox.bell, control, epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(16);
        loop {
            events.clear();
            match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in &events {
                match event.data.u64() {
                    CONTROL => {
                        if !self.obey(&poll)? {
                            return Ok(());
                        }
                    }
                    listener => self.serve(u32::try_from(listener).unwrap_or(u32::MAX))?,
                }
            }
            add(&self.cells.progress, 1);
        }
    }

    /// Carries commands out; `false` where the worker is to end.
    fn obey(&mut self, poll: &OwnedFd) -> io::Result<bool> {
        for command in self.mailbox.take() {
            match command {
                Command::Open { listener, socket } => {
                    let token = epoll::EventData::new_u64(listener.into());
                    epoll::add(poll, &socket, token, epoll::EventFlags::IN)?;
                    self.sockets.insert(listener, socket);
                }
                Command::Close { listener } => {
                    self.serve(listener)?;
                    self.sockets.remove(&listener);
                }
                Command::Stop => {
                    let listeners: Vec<u32> = self.sockets.keys().copied().collect();
                    for listener in listeners {
                        self.serve(listener)?;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Answers what waits at one socket.
    fn serve(&mut self, listener: u32) -> io::Result<()> {
        let Some(socket) = self.sockets.get(&listener) else {
            return Ok(());
        };
        let Ok(address) = socket.local_addr() else {
            return Ok(());
        };
        let channel = Channel::udp(address.is_ipv6());
        for _ in 0..TURNS {
            let received = self.batch.receive(socket.as_fd())?;
            if received == 0 {
                break;
            }
            let began = Clock.now();
            let mut turn = Turn {
                session: self.reader.online(),
                cells: &self.cells,
                channel,
                now: Tick::of(began),
                udp_size: self.udp_size,
                question: Question::new(),
                hits: 0,
            };
            let mut handed_over = 0;
            for index in 0..received {
                let mut datagram = self.batch.datagram(index);
                let Some(asked) = turn.answer(&mut datagram) else {
                    continue;
                };
                // The octets outlive the borrow of the batch, so its client can be asked for.
                let Some(client) = self.batch.client(index) else {
                    continue;
                };
                let miss = Miss {
                    client,
                    listener,
                    arrived_ns: u64::try_from(began.as_nanos()).unwrap_or(u64::MAX),
                    asked,
                };
                if self.misses.push(miss) {
                    handed_over += 1;
                } else {
                    turn.refuse(&mut self.batch.datagram(index));
                }
            }
            let hits = turn.hits;
            drop(turn);
            if handed_over > 0 {
                self.misses.ring();
                add(&self.cells.handed_over, handed_over);
            }
            let sent = self.batch.send(socket.as_fd());
            add(&self.cells.send_errors, sent.failed as u64);
            add(&self.cells.batches, 1);
            if hits > 0 {
                let took: Duration = Clock.now().saturating_sub(began);
                self.cells.hit_latency.record(took, hits);
            }
            if received < BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// One batch, while the worker is online.
struct Turn<'a> {
    session: Session<'a>,
    cells: &'a WorkerCells,
    channel: Channel,
    now: Tick,
    udp_size: u16,
    question: Question,
    hits: u64,
}

impl Turn<'_> {
    /// Answers a datagram in place where that is possible at once; else returns what the cold
    /// side needs to answer it.
    fn answer(&mut self, datagram: &mut Datagram<'_>) -> Option<Asked> {
        let message = &datagram.buffer[..datagram.len];
        let query = match Query::parse(message, &mut self.question) {
            Ok(query) => query,
            Err(rejection) => {
                self.cells.reject(rejection.fault);
                if let Some(rcode) = rejection.fault.rcode() {
                    let qtype = rejection.qtype;
                    self.cells
                        .answers
                        .count(NO_ZONE, self.channel, qtype, rcode);
                }
                let length = reply::reject(datagram.buffer, &rejection, &self.shape(usize::MAX));
                datagram.answer(length);
                return None;
            }
        };
        match self.session.get(&self.question, self.now) {
            Lookup::Hit(entry) => {
                let shape = self.shape(query.udp_limit(self.udp_size));
                let length =
                    reply::answer(datagram.buffer, &query, &entry.answer(self.now), &shape);
                datagram.answer(length);
                let (zone, rcode) = (entry.zone(), entry.rcode());
                self.cells
                    .answers
                    .count(zone, self.channel, self.question.qtype(), rcode);
                self.hits += u64::from(zone != NO_ZONE);
                None
            }
            Lookup::Miss => Some(Asked::new(message, &query)),
        }
    }

    /// Answers a miss that the cold side has no room for.
    fn refuse(&mut self, datagram: &mut Datagram<'_>) {
        add(&self.cells.refused_queue_full, 1);
        let message = &datagram.buffer[..datagram.len];
        let Ok(query) = Query::parse(message, &mut self.question) else {
            return;
        };
        let why = Some(ExtendedError::OVER_LIMIT);
        let shape = self.shape(usize::MAX);
        let length = reply::failure(datagram.buffer, &query, rcode::SERVFAIL, why, &shape);
        datagram.answer(length);
        let qtype = self.question.qtype();
        self.cells
            .answers
            .count(NO_ZONE, self.channel, qtype, rcode::SERVFAIL);
    }

    fn shape(&self, limit: usize) -> Shape {
        Shape {
            limit,
            udp_size: self.udp_size,
            keepalive: None,
        }
    }
}
