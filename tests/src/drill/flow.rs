// SPDX-License-Identifier: Apache-2.0
//! Queries over UDP at a steady pace that waits for nobody (an open loop), each known by its ID:
//! when it was sent, when it was answered and by whom.
//!
//! The sockets are connected, so that an answer from a wrong address is none. There are several a
//! server, as a pod has that asks from a new port each time: were there only one, conntrack would
//! know its flow already when the kernel hands it over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::thread::set_current_timer_slack;

use crate::host::lock;
use crate::load::now_ns;
use crate::node::space::Door;
use crate::node::{ADDRESS, Server, ZONE};
use crate::query::{AA, Query};

/// A query without an answer for so long is lost. There is no second try.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Sockets for each server.
const SOCKETS: usize = 32;
/// Type A.
const A: u16 = 1;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers, in turn.
    pub servers: Vec<SocketAddr>,
    /// Queries a second, to all of them together.
    pub per_second: u64,
    /// How many different names are asked for, in turn.
    pub names: u32,
}

/// One query.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which of the plan's servers.
    pub server: usize,
    /// When it was sent, in nanoseconds of [`now_ns`].
    pub sent_ns: u64,
    /// The right answer: when it came, and from whom.
    pub answer: Option<(u64, Server)>,
}

/// Queries under way. Stops when dropped.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    is_over: AtomicBool,
    all: Mutex<Vec<Asked>>,
    /// Answers that were no right answer: SERVFAIL, another address.
    wrong: AtomicU64,
    /// Errors of sockets: the kernel said that nobody listens, or that there is no way.
    refused: AtomicU64,
}

impl Flow {
    /// Begins to ask from a namespace.
    ///
    /// # Errors
    /// When a socket or a thread cannot be had.
    pub fn start(space: impl Into<Door>, plan: Plan) -> anyhow::Result<Self> {
        let door = space.into();
        let shared = Arc::new(Shared {
            plan,
            is_over: AtomicBool::new(false),
            all: Mutex::default(),
            wrong: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("flow".to_owned())
            .spawn(move || {
                door.enter()?;
                Asking::new(&ours)?.run().context("ask over UDP")
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Stops asking, waits for the last answers, and gives all.
    ///
    /// # Errors
    /// When the sockets have failed.
    pub fn stop(mut self) -> anyhow::Result<Tally> {
        self.end()?;
        Ok(self.tally())
    }

    /// Queries sent so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        lock(&self.shared.all).len()
    }

    /// What there is so far: queries without an answer may yet get it.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            servers: self.shared.plan.servers.clone(),
            all: lock(&self.shared.all).clone(),
            wrong: self.shared.wrong.load(Relaxed),
            refused: self.shared.refused.load(Relaxed),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.shared.is_over.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its error has no reader any more.
            let _ = thread.join();
        }
    }
}

/// What came of the queries.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The servers that were asked.
    pub servers: Vec<SocketAddr>,
    /// Every query, in the order of sending.
    pub all: Vec<Asked>,
    /// Answers that were no right answer: SERVFAIL, another address.
    pub wrong: u64,
    /// Errors of sockets: the kernel said that nobody listens, or that there is no way.
    pub refused: u64,
}

impl Tally {
    fn between(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Asked> {
        let sent = move |asked: &&Asked| (from_ns..to_ns).contains(&asked.sent_ns);
        self.all.iter().filter(sent)
    }

    /// Queries sent in this span.
    #[must_use]
    pub fn asked(&self, from_ns: u64, to_ns: u64) -> usize {
        self.between(from_ns, to_ns).count()
    }

    /// Queries sent in this span without a right answer within [`PATIENCE`].
    #[must_use]
    pub fn lost(&self, from_ns: u64, to_ns: u64) -> usize {
        let lost = self.between(from_ns, to_ns).filter(|asked| asked.is_lost());
        lost.count()
    }

    /// Queries sent in this span that `server` has answered.
    #[must_use]
    pub fn by(&self, server: Server, from_ns: u64, to_ns: u64) -> usize {
        let by = |asked: &&Asked| asked.answer.is_some_and(|(_, by)| by == server);
        self.between(from_ns, to_ns).filter(by).count()
    }

    /// The longest time in this span in which one of the servers gave no answer at all.
    #[must_use]
    pub fn gap(&self, from_ns: u64, to_ns: u64) -> Duration {
        let gap = |server| {
            let mut moments: Vec<u64> = self
                .all
                .iter()
                .filter(|asked| asked.server == server)
                .filter_map(|asked| asked.answer.map(|(at, _)| at))
                .filter(|at| (from_ns..to_ns).contains(at))
                .collect();
            moments.extend([from_ns, to_ns]);
            moments.sort_unstable();
            let pauses = moments.windows(2).map(|pair| pair[1] - pair[0]);
            pauses.max().unwrap_or(0)
        };
        let longest = (0..self.servers.len()).map(gap).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    /// How long after `event_ns` the first answer of `by` came to a query sent since, on the address
    /// where it took longest; `None` where one of them had none.
    #[must_use]
    pub fn first(&self, by: Server, event_ns: u64) -> Option<Duration> {
        let first = |server| {
            let answers = self.all.iter().filter(|asked| asked.server == server);
            let since = answers.filter(|asked| asked.sent_ns >= event_ns);
            let moments = since.filter_map(|asked| asked.answer);
            let theirs = moments.filter(|&(_, who)| who == by);
            theirs.map(|(at, _)| at - event_ns).min()
        };
        let firsts: Option<Vec<u64>> = (0..self.servers.len()).map(first).collect();
        Some(Duration::from_nanos(firsts?.into_iter().max()?))
    }

    /// The latency that half of the answers to what was sent in this span do not exceed, and the
    /// longest one.
    #[must_use]
    pub fn latency(&self, from_ns: u64, to_ns: u64) -> Option<(Duration, Duration)> {
        let answered = self.between(from_ns, to_ns);
        let mut latencies: Vec<u64> = answered
            .filter_map(|asked| Some(asked.answer?.0 - asked.sent_ns))
            .collect();
        latencies.sort_unstable();
        let middle = *latencies.get(latencies.len() / 2)?;
        let longest = *latencies.last()?;
        Some((Duration::from_nanos(middle), Duration::from_nanos(longest)))
    }
}

impl Asked {
    fn is_lost(&self) -> bool {
        let patience_ns = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        self.answer
            .is_none_or(|(at, _)| at - self.sent_ns > patience_ns)
    }
}

/// The thread that asks.
struct Asking<'a> {
    shared: &'a Shared,
    /// Of each server [`SOCKETS`], one server after the other.
    sockets: Vec<UdpSocket>,
    readable: rustix::fd::OwnedFd,
    /// A query for each name; the ID is filled in.
    queries: Vec<Vec<u8>>,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Shared) -> anyhow::Result<Self> {
        let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut sockets = Vec::new();
        for server in &shared.plan.servers {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            for _ in 0..SOCKETS {
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(server)?;
                socket.set_nonblocking(true)?;
                let place = epoll::EventData::new_u64(sockets.len() as u64);
                epoll::add(&readable, socket.as_fd(), place, epoll::EventFlags::IN)?;
                sockets.push(socket);
            }
        }
        let query = |name| Query::new(&format!("n{name}.{ZONE}"), A).id(0).to_bytes();
        Ok(Self {
            shared,
            sockets,
            readable,
            queries: (0..shared.plan.names.max(1)).map(query).collect(),
        })
    }

    fn run(&self) -> io::Result<()> {
        // Otherwise each pause may be 50 us longer.
        set_current_timer_slack(NonZeroU64::new(1))?;
        let begin = now_ns();
        let pause_ns = 1_000_000_000 / self.shared.plan.per_second.max(1);
        let mut sent = 0_u64;
        while !self.shared.is_over.load(Relaxed) {
            let due = begin + sent * pause_ns;
            let now = now_ns();
            if now >= due {
                self.send(sent);
                sent += 1;
                // What is late is sent at once, with a look at the answers in between.
                self.receive(Duration::ZERO)?;
            } else {
                self.receive(Duration::from_nanos(due - now))?;
            }
        }
        let end = now_ns();
        while now_ns() - end < u64::try_from(PATIENCE.as_nanos()).unwrap_or(0) {
            if !lock(&self.shared.all).iter().any(|a| a.answer.is_none()) {
                break;
            }
            self.receive(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Where query `number` goes: the server, the socket, the ID.
    fn place(&self, number: u64) -> (usize, usize, u16) {
        let servers = self.shared.plan.servers.len() as u64;
        let (round, server) = (number / servers, number % servers);
        let (id, socket) = (round / SOCKETS as u64, round % SOCKETS as u64);
        let server = usize::try_from(server).unwrap_or(0);
        let socket = server * SOCKETS + usize::try_from(socket).unwrap_or(0);
        (server, socket, u16::try_from(id & 0xffff).unwrap_or(0))
    }

    /// The query whose answer came through this socket with this ID; the latest that can be.
    fn number(&self, socket: usize, id: u16, sent: usize) -> Option<usize> {
        let servers = self.shared.plan.servers.len();
        let (server, socket) = (socket / SOCKETS, socket % SOCKETS);
        let number = |id: usize| (id * SOCKETS + socket) * servers + server;
        let mut found = None;
        let mut id = usize::from(id);
        while number(id) < sent {
            found = Some(number(id));
            id += 1 << 16;
        }
        found
    }

    fn send(&self, number: u64) {
        let (server, socket, id) = self.place(number);
        let names = self.queries.len() as u64;
        let mut query = self.queries[usize::try_from(number % names).unwrap_or(0)].clone();
        query[..2].copy_from_slice(&id.to_be_bytes());
        let sent_ns = now_ns();
        lock(&self.shared.all).push(Asked {
            server,
            sent_ns,
            answer: None,
        });
        // A connected socket tells first what became of an earlier datagram; then it sends.
        for _ in 0..3 {
            match self.sockets[socket].send(&query) {
                Ok(_) => return,
                Err(_) => self.shared.refused.fetch_add(1, Relaxed),
            };
        }
    }

    fn receive(&self, wait: Duration) -> io::Result<()> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 64];
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let ready = match epoll::wait(&self.readable, events.as_mut_slice(), Some(&timeout)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut buffer = [0; 1500];
        for event in &events[..ready] {
            let place = usize::try_from(event.data.u64()).unwrap_or(0);
            loop {
                match self.sockets[place].recv(&mut buffer) {
                    Ok(length) => self.judge(place, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.shared.refused.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    fn judge(&self, socket: usize, answer: &[u8]) {
        let at = now_ns();
        let &[high, low, flags_high, flags_low, ..] = answer else {
            self.shared.wrong.fetch_add(1, Relaxed);
            return;
        };
        let flags = u16::from_be_bytes([flags_high, flags_low]);
        // NOERROR, and the address at the end of the last and only record.
        let is_right = flags & 0xf == 0 && answer.ends_with(&ADDRESS);
        let by = if flags & AA == 0 {
            Server::Agent
        } else {
            Server::CoreDns
        };
        let mut all = lock(&self.shared.all);
        let id = u16::from_be_bytes([high, low]);
        let asked = self
            .number(socket, id, all.len())
            .and_then(|number| all.get_mut(number));
        match asked {
            Some(asked) if is_right && asked.answer.is_none() => asked.answer = Some((at, by)),
            _ => {
                self.shared.wrong.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(server: usize, sent_ms: u64, answer: Option<(u64, Server)>) -> Asked {
        Asked {
            server,
            sent_ns: sent_ms * 1_000_000,
            answer: answer.map(|(ms, by)| (ms * 1_000_000, by)),
        }
    }

    #[test]
    fn the_tally_knows_losses_gaps_and_who_came_first() {
        let ms = |ms: u64| ms * 1_000_000;
        let tally = Tally {
            servers: vec![SocketAddr::from(([127, 0, 0, 1], 53)); 2],
            all: vec![
                asked(0, 0, Some((1, Server::Agent))),
                asked(1, 1, Some((2, Server::Agent))),
                asked(0, 10, None),
                asked(1, 11, Some((2_500, Server::CoreDns))),
                asked(0, 20, Some((31, Server::CoreDns))),
                asked(1, 21, Some((42, Server::CoreDns))),
            ],
            wrong: 0,
            refused: 0,
        };
        assert_eq!(tally.asked(0, ms(15)), 4);
        // One never, one too late.
        assert_eq!(tally.lost(0, ms(15)), 2);
        assert_eq!(tally.lost(ms(15), ms(30)), 0);
        assert_eq!(tally.by(Server::Agent, 0, ms(30)), 2);
        assert_eq!(tally.gap(0, ms(50)), Duration::from_millis(40));
        assert_eq!(
            tally.first(Server::CoreDns, ms(10)),
            Some(Duration::from_millis(32))
        );
        assert_eq!(tally.first(Server::Agent, ms(10)), None);
    }
}
