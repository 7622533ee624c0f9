// SPDX-License-Identifier: Apache-2.0
//! Queries that nobody can have in a cache, at a pace that waits for nobody: each for a name of its
//! own, each judged.
//!
//! The moments are set beforehand, at random distances, as many programs together ask. Latency is
//! counted from that moment and not from the sending: a client that is late, because the machine is
//! busy or an answer before was slow, leaves no query out and makes none look fast.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;
use socket2::SockRef;

use super::fleet::ELSEWHERE;
use super::names;
use super::tally::{Answer, Asked, Tally};
use crate::host::lock;
use crate::load::client::{Clock, Spacing};
use crate::load::question::{self, Expect, Wrong};
use crate::load::{Random, now_ns};
use crate::node::space::Door;
use crate::query::Query;

/// A query without an answer for so long is lost: what a stub resolver waits by default
/// (resolv.conf(5), `timeout`). There is no second try.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Sockets of each source address, as a pod asks from a new port each time.
const SOCKETS: usize = 16;
/// Octets of a socket's queues: an answer that was given must not be lost here.
const QUEUE: usize = 4 << 20;
/// Queries sent in a row when late, with no look at the answers in between.
const BURST: usize = 64;
/// Type A.
const A: u16 = 1;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of whom.
    pub server: SocketAddr,
    /// From which addresses, in turn.
    pub sources: Vec<Ipv4Addr>,
    /// Queries a second, on average.
    pub per_second: u32,
}

/// Queries under way. Stops when dropped.
#[derive(Debug)]
pub struct Misses {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

impl Misses {
    /// Begins to ask from a namespace.
    ///
    /// # Errors
    /// When a socket or a thread cannot be had.
    pub fn start(space: impl Into<Door>, plan: Plan) -> anyhow::Result<Self> {
        let door = space.into();
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("misses".to_owned())
            .spawn(move || {
                door.enter()?;
                Asking::new(&ours, &plan)?.run().context("ask over UDP")
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Asks no more, and does not wait for the last answers.
    pub fn finish(&self) {
        self.shared.is_over.store(true, Relaxed);
    }

    /// Asks no more, waits for the last answers, and gives all.
    ///
    /// # Errors
    /// When the sockets have failed.
    pub fn stop(mut self) -> anyhow::Result<Tally> {
        self.finish();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {}
        }
        Ok(std::mem::take(&mut *lock(&self.shared.tally)))
    }

    /// What there is so far: queries without an answer may yet get it.
    #[must_use]
    pub fn tally(&self) -> Tally {
        lock(&self.shared.tally).clone()
    }
}

impl Drop for Misses {
    fn drop(&mut self) {
        self.finish();
        if let Some(thread) = self.thread.take() {
            // Its error has no reader any more.
            let _ = thread.join();
        }
    }
}

/// The moments at which queries are due: independent of each other, so many a second on average.
fn moments(begin_ns: u64, per_second: u32, seed: u64) -> Clock {
    let pause_ns = 1e9 / f64::from(per_second.max(1));
    Clock::new(pause_ns, Spacing::Poisson, seed).starting(begin_ns, 0.0)
}

/// The thread that asks.
struct Asking<'a> {
    shared: &'a Shared,
    sockets: Vec<UdpSocket>,
    readable: rustix::fd::OwnedFd,
    moments: Clock,
    salt: u32,
    /// The number of the first query that may yet get its answer.
    oldest: usize,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Shared, plan: &Plan) -> anyhow::Result<Self> {
        let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            for &source in &plan.sources {
                let socket = UdpSocket::bind((IpAddr::from(source), 0))?;
                SockRef::from(&socket).set_recv_buffer_size(QUEUE)?;
                socket.connect(plan.server)?;
                socket.set_nonblocking(true)?;
                let place = epoll::EventData::new_u64(sockets.len() as u64);
                epoll::add(&readable, socket.as_fd(), place, epoll::EventFlags::IN)?;
                sockets.push(socket);
            }
        }
        let seed = Random::seed_of_the_moment();
        Ok(Self {
            shared,
            sockets,
            readable,
            moments: moments(now_ns(), plan.per_second, seed),
            salt: u32::try_from(seed >> 32).unwrap_or(0),
            oldest: 0,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        // Otherwise each pause may be 50 us longer.
        set_current_timer_slack(NonZeroU64::new(1))?;
        // Of this thread alone (setpriority(2), "C library/kernel differences").
        setpriority_process(None, ELSEWHERE)?;
        while !self.shared.is_over.load(Relaxed) {
            let mut sent = 0;
            while sent < BURST && self.moments.due() <= now_ns() {
                self.send();
                sent += 1;
            }
            let pause = self.moments.due().saturating_sub(now_ns());
            // So that an order to stop is heard soon.
            self.receive(Duration::from_nanos(pause.min(20_000_000)))?;
        }
        let end = now_ns();
        let patience = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        while now_ns() - end < patience && self.is_waiting() {
            self.receive(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Whether an answer may yet come.
    fn is_waiting(&mut self) -> bool {
        let tally = lock(&self.shared.tally);
        let answered = tally.all[self.oldest..].iter();
        self.oldest += answered.take_while(|asked| asked.answer.is_some()).count();
        self.oldest < tally.all.len()
    }

    fn send(&mut self) {
        let mut tally = lock(&self.shared.tally);
        let number = tally.all.len();
        let (socket, id) = place(number, self.sockets.len());
        let query = self.query(number, id);
        let due_ns = self.moments.due();
        tally.all.push(Asked {
            due_ns,
            sent_ns: now_ns(),
            answer: None,
        });
        drop(tally);
        self.moments.advance();
        // A connected socket tells first what became of an earlier datagram; then it sends.
        for _ in 0..3 {
            if self.sockets[socket].send(&query).is_ok() {
                return;
            }
        }
    }

    /// The octets of query `number`.
    fn query(&self, number: usize, id: u16) -> Vec<u8> {
        // A flow ends long before its names do; were it not so, the answers would say it.
        let number = u32::try_from(number).unwrap_or(u32::MAX) % names::NAMES;
        Query::new(&names::text(self.salt, number), A)
            .id(id)
            .to_bytes()
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
        // To the nanosecond: epoll's own wait is told in milliseconds.
        match poll(
            &mut [PollFd::new(&self.readable, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let at_once = Timespec::default();
        let ready = match epoll::wait(&self.readable, events.as_mut_slice(), Some(&at_once)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut buffer = [0; 1500];
        for event in &events[..ready] {
            let socket = usize::try_from(event.data.u64()).unwrap_or(0);
            // Some of one socket, then some of the next: no socket keeps the others waiting.
            for _ in 0..BURST {
                match self.sockets[socket].recv(&mut buffer) {
                    Ok(length) => self.judge(socket, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Nobody listens: the query has no answer.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn judge(&self, socket: usize, reply: &[u8]) {
        let at = now_ns();
        let mut tally = lock(&self.shared.tally);
        let found = question::id(reply).and_then(|id| {
            // The same ID may have been used before: the question tells.
            let numbers = numbers(socket, id, self.sockets.len(), tally.all.len());
            numbers.rev().find_map(|number| {
                let query = self.query(number, id);
                let answer = judge(&query, number, reply)?;
                Some((number, answer))
            })
        });
        match found {
            Some((number, Ok(answer))) => {
                let asked = &mut tally.all[number];
                if asked.answer.is_some() {
                    tally.twice += 1;
                } else {
                    asked.answer = Some((at, answer));
                }
            }
            Some((number, Err(wrong))) => tally.wrong(&format!("query {number}: {wrong}")),
            None => tally.wrong("an answer to no query of ours"),
        }
    }
}

/// What a reply is worth as the answer to query `number`; `None` where it is that of another.
fn judge(query: &[u8], number: usize, reply: &[u8]) -> Option<Result<Answer, String>> {
    let judged = question::check(query, reply, Expect::Answer);
    Some(match judged {
        Err(Wrong::Question) => return None,
        Err(Wrong::Rcode(rcode)) => Ok(Answer::Failure(rcode)),
        Err(wrong) => Err(wrong.to_string()),
        Ok(()) => {
            let address = question::address(query, reply);
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            match address.map(|address| (address, names::pod(address, number))) {
                Some((_, Some(pod))) => Ok(Answer::Data(pod)),
                Some((address, None)) => Err(Wrong::Address(address).to_string()),
                None => Err(Wrong::Records.to_string()),
            }
        }
    })
}

/// The socket and the ID of query `number`.
fn place(number: usize, sockets: usize) -> (usize, u16) {
    let id = number / sockets % (1 << 16);
    (number % sockets, u16::try_from(id).unwrap_or(0))
}

/// The queries among the first `sent` that [`place`] gives this socket and ID.
fn numbers(
    socket: usize,
    id: u16,
    sockets: usize,
    sent: usize,
) -> impl DoubleEndedIterator<Item = usize> {
    let first = usize::from(id) * sockets + socket;
    let step = sockets << 16;
    let count = sent.saturating_sub(first).div_ceil(step);
    (0..count).map(move |turn| first + turn * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_found_by_its_socket_and_id_also_when_ids_come_again() {
        for sockets in [1, 16, 64] {
            let sent = 3 * (sockets << 16) + 5;
            for number in [0, 4, sockets - 1, sockets << 16, sent - 1] {
                let (socket, id) = place(number, sockets);
                let found: Vec<_> = numbers(socket, id, sockets, sent).collect();
                assert!(found.contains(&number), "{number} of {sockets}");
                assert!(
                    found
                        .iter()
                        .all(|&n| n < sent && place(n, sockets) == (socket, id))
                );
            }
            assert_eq!(numbers(0, 7, sockets, 0).count(), 0);
        }
    }

    #[test]
    fn moments_come_at_their_rate_and_at_random_distances() {
        let mut moments = moments(1_000_000_000, 1_000, 7);
        let mut distances = Vec::new();
        for _ in 0..20_000 {
            let before = moments.due();
            moments.advance();
            distances.push(moments.due() - before);
        }
        let passed = moments.due() - 1_000_000_000;
        assert!(
            (19_000_000_000..21_000_000_000).contains(&passed),
            "{passed}"
        );
        // Of an exponential law: 63 % are below the mean, 5 % above three times the mean.
        let below = distances.iter().filter(|&&d| d < 1_000_000).count();
        let far = distances.iter().filter(|&&d| d > 3_000_000).count();
        assert!((12_200..13_100).contains(&below), "{below}");
        assert!((850..1_150).contains(&far), "{far}");
    }

    fn answered(number: u32, change: impl Fn(&mut Vec<u8>)) -> Option<Result<Answer, String>> {
        let query = Query::new(&names::text(9, number), A).id(5).to_bytes();
        let mut reply = query.clone();
        reply[2] |= 0x80;
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]);
        reply.extend(names::address(2, number).octets());
        change(&mut reply);
        judge(&query, usize::try_from(number).unwrap(), &reply)
    }

    #[test]
    fn every_answer_is_judged() {
        assert_eq!(answered(300, |_| {}), Some(Ok(Answer::Data(2))));
        let servfail = answered(300, |reply| reply[3] |= 2);
        assert_eq!(servfail, Some(Ok(Answer::Failure(2))));
        // The question of another query: perhaps that of an earlier one with this ID.
        assert_eq!(answered(300, |reply| reply[15] ^= 1), None);
        let other = answered(300, |reply| *reply.last_mut().unwrap() ^= 1);
        assert!(
            other
                .unwrap()
                .unwrap_err()
                .contains("the address 13.0.1.45")
        );
        let empty = answered(300, |reply| reply[7] = 0);
        assert!(empty.unwrap().is_err());
    }
}
