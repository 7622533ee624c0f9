// SPDX-License-Identifier: Apache-2.0
//! The cold side: what the cache cannot answer is asked upstream, once for all who wait.
//!
//! ```text
//! miss ─► late hit? ─► stale, if all is down? ─► join in-flight or lead ─► exchange ─► keep ─► settle
//!                      (stale)                   (flights)     (routes, upstream,   (keep,    every
//!                                                               connection)        denial)  waiter
//! ```
//!
//! Everything runs on one thread, so a lock here is never waited for; it only lets the compiler see
//! that nothing is shared by accident.

mod adapt;
mod begun;
mod choice;
mod connection;
mod cuts;
mod denial;
mod depth;
mod dial;
mod exchange;
mod flights;
mod in_force;
mod keep;
mod local;
mod loops;
mod message;
mod octets;
mod outbox;
mod pace;
mod pool;
mod routes;
mod settle;
mod snapshot;
mod stale;
mod timeline;
mod tls;
mod udp;
mod upstream;
mod view;
mod way;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

pub use self::cuts::Known;
use self::cuts::{Cuts, Renewing};
use self::exchange::{Asking, Failed, Start};
use self::flights::{Flight, Flights, Joined};
use self::in_force::InForce;
use self::loops::Loops;
use self::message::Exchanged;
use self::routes::Route;
pub use self::routes::Routes;
use self::settle::Post;
pub use self::settle::Reply;
pub use self::snapshot::{Snapshot, State};
use self::timeline::Timeline;
pub use self::view::{NameView, Prospect, ZoneView};
use crate::cache::{Cache, Lookup, Reader, Tick};
use crate::config::{CacheConfig, Limits};
use crate::lock::lock;
use crate::miss::{Asked, Miss, Receiver};
use crate::telemetry::cells::OverLimit;
use crate::telemetry::counters::add;
use crate::telemetry::registry::Telemetry;
use crate::wire::answer::{Answer, Standing};
use crate::wire::edns::ExtendedError;
use crate::wire::question::Question;
use crate::wire::rcode;

/// Misses that are taken in before other tasks get their turn.
const TURN: usize = 64;

/// Who waits for an answer, and where it goes.
#[derive(Debug)]
pub struct Waiter {
    /// The query.
    pub asked: Asked,
    /// When it came, in nanoseconds of the agent's clock.
    pub arrived_ns: u64,
    /// Where the answer goes.
    pub to: To,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
pub enum To {
    /// A UDP client.
    Datagram {
        /// Its address.
        client: SocketAddr,
        /// The listener that it asked.
        listener: u32,
    },
    /// A TCP connection.
    Stream {
        /// Takes the answers.
        replies: mpsc::Sender<Reply>,
        /// The client's address.
        client: IpAddr,
        /// The idle timeout in units of 100 ms (RFC 7828 section 3.1).
        keepalive: u16,
    },
}

/// The cold side's state.
#[derive(Debug)]
pub struct Resolver {
    cache: Cache,
    reader: Mutex<Reader>,
    in_force: ArcSwap<InForce>,
    flights: Mutex<Flights>,
    cuts: Mutex<Cuts>,
    loops: Mutex<Loops>,
    post: Mutex<Post>,
    /// Something waits in the outbox.
    posted: Notify,
    /// Octets of answers that wait for TCP connections to take them.
    outgoing: Arc<AtomicUsize>,
    udp_size: u16,
    timeline: Timeline,
    telemetry: Arc<Telemetry>,
}

impl Resolver {
    /// A resolver that keeps its answers in `cache`.
    #[must_use]
    pub fn new(
        cache: Cache,
        reader: Reader,
        routes: Routes,
        limits: Limits,
        settings: CacheConfig,
        udp_size: u16,
        telemetry: Arc<Telemetry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cache,
            reader: Mutex::new(reader),
            in_force: ArcSwap::from_pointee(InForce::new(routes, limits, settings)),
            flights: Mutex::default(),
            cuts: Mutex::default(),
            loops: Mutex::default(),
            post: Mutex::default(),
            posted: Notify::new(),
            outgoing: Arc::default(),
            udp_size,
            timeline: Timeline::new(),
            telemetry,
        })
    }

    /// The time by which answers age and waiters are timed: that of
    /// [`Clock::now`](crate::telemetry::clock::Clock::now), unless somebody holds the runtime's
    /// clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.timeline.now()
    }

    /// Lets answers go out through a listener's socket.
    pub fn open(&self, listener: u32, socket: Arc<UdpSocket>) {
        lock(&self.post).listeners.insert(listener, socket);
    }

    /// Lets go of a listener's socket.
    pub fn close(&self, listener: u32) {
        lock(&self.post).listeners.remove(&listener);
    }

    /// Clients that wait for an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.flights).waiters()
    }

    /// Whether a client still waits that came before this moment of the agent's clock.
    #[must_use]
    pub fn has_waited_since(&self, moment_ns: u64) -> bool {
        lock(&self.flights).has_waited_since(moment_ns)
    }

    /// Takes in what workers hand over, for ever.
    ///
    /// # Errors
    /// The runtime cannot watch the bell.
    pub async fn take_in(self: Arc<Self>, queue: Receiver, ear: OwnedFd) -> std::io::Result<()> {
        let mut ear = pipe::Receiver::from_owned_fd(ear)?;
        loop {
            let mut taken = 0;
            let mut now = Instant::now();
            self.telemetry.resolve.queue(queue.len() as u64);
            while let Some(miss) = queue.pop() {
                self.take(miss, now);
                taken += 1;
                if taken % TURN == 0 {
                    tokio::task::yield_now().await;
                    self.telemetry.resolve.queue(queue.len() as u64);
                    now = Instant::now();
                }
            }
            if queue.sleep() {
                // It brings less than there is room for, so the runtime knows that no more is there.
                let _rings = ear.read(&mut [0; 64]).await?;
            }
        }
    }

    fn take(self: &Arc<Self>, miss: Miss, now: Instant) {
        let Some(client) = miss.client else {
            if let Some(question) = miss.asked.canonical() {
                self.ask_ahead(&question);
            }
            return;
        };
        let to = To::Datagram {
            client,
            listener: miss.listener,
        };
        let waiter = Waiter {
            asked: miss.asked,
            arrived_ns: miss.arrived_ns,
            to,
        };
        self.ask_at(waiter, now);
    }

    /// Sends answers to UDP clients, for ever: each time when all tasks that were ready have run.
    pub async fn send_out(self: Arc<Self>) {
        loop {
            self.posted.notified().await;
            self.send_now();
        }
    }

    /// Sends the answers that wait now.
    pub fn send_now(&self) {
        lock(&self.post).outbox.send();
    }

    /// Answers a waiter, now or later: from the cache where the answer came meanwhile, with an
    /// earlier one where the upstreams are known to be down, with others who ask the same, or by
    /// asking upstream.
    pub fn ask(self: &Arc<Self>, waiter: Waiter) {
        self.ask_at(waiter, Instant::now());
    }

    fn ask_at(self: &Arc<Self>, waiter: Waiter, moment: Instant) {
        let Some(question) = waiter.asked.canonical() else {
            return;
        };
        let Some(waiter) = self.answer_own(&question, waiter) else {
            return;
        };
        let now = Tick::of(self.timeline.at(moment));
        let Some(waiter) = self.answer_late_hit(&question, waiter, now) else {
            return;
        };
        let in_force = self.in_force();
        let route = Arc::clone(in_force.routes.of(question.name()));
        let Some(waiter) = self.answer_here(&question, &route, waiter) else {
            return;
        };
        let Some(waiter) = self.answer_below_cut(&question, &route, waiter, now) else {
            return;
        };
        let Some(waiter) = self.answer_while_down(&question, &route, waiter, &in_force) else {
            return;
        };
        let cells = &self.telemetry.resolve;
        if route.is_overrun() {
            cells.miss(route.zone);
            cells.refuse(OverLimit::Upstream);
            if let Err(waiters) = self.answer_stale(&question, &route, vec![waiter]) {
                let why = Some(ExtendedError::NO_UPSTREAM);
                self.fail(waiters, &question, route.zone, why);
            }
            return;
        }
        let joined = {
            let mut flights = lock(&self.flights);
            let joined = flights.join(&question, waiter, in_force.limits.in_flight);
            cells.in_flight.store(flights.waiters() as u64, Relaxed);
            joined
        };
        if !matches!(joined, Joined::Repeated) {
            // A query that is sent again while it waits gets one answer: it counts once.
            cells.miss(route.zone);
        }
        match joined {
            Joined::Over(waiter, limit) => {
                cells.refuse(limit);
                let why = match limit {
                    OverLimit::Client => ExtendedError::OVER_SHARE,
                    _ => ExtendedError::OVER_LIMIT,
                };
                if let Err(waiters) = self.answer_stale(&question, &route, vec![*waiter]) {
                    self.fail(waiters, &question, route.zone, Some(why));
                }
            }
            Joined::Coalesced => add(&cells.coalesced, 1),
            Joined::Repeated => {}
            Joined::Leads(question, arrived_ns, client) => {
                let flight = Flight::new(self, question, &route, client);
                self.launch(flight, arrived_ns, moment, &in_force);
            }
        }
    }

    /// Asks upstream for all who wait on a flight. The second straight line of the program: at once
    /// where that can be done, else as a task.
    fn launch(self: &Arc<Self>, flight: Flight, arrived_ns: u64, now: Instant, in_force: &InForce) {
        let tick = Tick::of(self.timeline.at(now));
        let renewing = self.renewing(&flight.question, &flight.route, tick);
        let rest = match renewing {
            None => self.begin(flight, arrived_ns, now, in_force),
            Some(_) => Some((flight, None)),
        };
        if let Some((flight, start)) = rest {
            self.spawn(flight, arrived_ns, renewing, start);
        }
    }

    fn spawn(
        self: &Arc<Self>,
        flight: Flight,
        arrived_ns: u64,
        renewing: Option<Renewing>,
        start: Option<Box<Start>>,
    ) {
        let resolving = Arc::clone(self).resolve(flight, arrived_ns, renewing, start);
        #[expect(
            clippy::disallowed_methods,
            reason = "a drain sees it: it waits until no flight has waiters left"
        )]
        tokio::spawn(resolving);
    }

    /// Goes on asking, from `start` on where there is one.
    async fn resolve(
        self: Arc<Self>,
        flight: Flight,
        arrived_ns: u64,
        renewing: Option<Renewing>,
        start: Option<Box<Start>>,
    ) {
        let (limits, stale_after) = {
            let in_force = self.in_force();
            let stale_after = flight.route.stale_after(&in_force.settings);
            (Arc::clone(&in_force.limits), stale_after)
        };
        let mut now = Instant::now();
        let waited = self.waited(arrived_ns, now);
        let deadline = now + limits.query_timeout.saturating_sub(waited);
        let patience = now + stale_after.saturating_sub(waited);
        let _renewal = match renewing {
            None => None,
            Some(Renewing::Lead(renewal)) => Some(renewal),
            Some(Renewing::Wait(is_over)) => {
                // Rare, and on the heap: it must not make every question larger.
                let until = patience.min(now + limits.attempt_timeout);
                let renewed = self.renewed(&flight.question, &flight.route, is_over, until);
                if let Some(cut) = Box::pin(renewed).await {
                    let now = self.now();
                    return flight.settle(&cut.answer(Tick::of(now)), now);
                }
                // What is asked now has not waited for a server yet.
                now = Instant::now();
                None
            }
        };
        let result = {
            let asking = Asking {
                question: &flight.question,
                route: &flight.route,
                limits: &limits,
                client: flight.client,
                deadline,
                patience,
                wakes: AtomicBool::new(false),
                is_adapted: false,
            };
            let exchange = self.exchange(&asking, now, start);
            tokio::pin!(exchange);
            match asking.patiently(exchange.as_mut()).await {
                Some(result) => result,
                None => {
                    flight.settle_stale();
                    exchange.await
                }
            }
        };
        match result {
            Ok((exchanged, upstream)) => {
                self.conclude(flight, &exchanged, upstream, Instant::now());
            }
            Err(failed) => flight.fail(&failed),
        }
    }

    /// Keeps what an upstream has answered by now, gives it to all who wait, and asks what is worth
    /// asking now.
    fn conclude(
        self: &Arc<Self>,
        flight: Flight,
        exchanged: &Exchanged,
        upstream: u16,
        now: Instant,
    ) {
        let route = Arc::clone(&flight.route);
        let now = self.timeline.at(now);
        let tick = Tick::of(now);
        let ahead = self.keep(&flight.question, &route, exchanged, upstream, tick);
        flight.settle(&exchanged.answer(), now);
        for question in ahead {
            self.refresh(&question, &route);
        }
    }

    /// Tells all of `waiters` that the upstreams failed, as they said it where they did, and
    /// remembers it for those who ask next.
    fn fail_all(&self, waiters: Vec<Waiter>, question: &Question, route: &Route, failed: &Failed) {
        let rcode = match &failed.refusal {
            Some(exchanged) => {
                let answer = Answer {
                    standing: Standing::PassedOn,
                    ..exchanged.answer()
                };
                self.answer(waiters, question, route.zone, &answer);
                answer.flags.rcode()
            }
            None => {
                self.fail(waiters, question, route.zone, Some(failed.why));
                rcode::SERVFAIL
            }
        };
        // That we have too much to do ourselves says nothing about the name.
        if failed.why != ExtendedError::OVER_LIMIT && self.in_force().has(question, route) {
            self.remember_failure(question, rcode, route);
        }
    }

    /// Answers at once with an earlier answer where the zone's upstreams are known to be down, or
    /// nobody is to wait for them, and has them asked meanwhile.
    fn answer_while_down(
        self: &Arc<Self>,
        question: &Question,
        route: &Arc<Route>,
        waiter: Waiter,
        in_force: &InForce,
    ) -> Option<Waiter> {
        if !route.is_down() && !route.stale_after(&in_force.settings).is_zero() {
            return Some(waiter);
        }
        if let Err(mut waiters) = self.answer_stale(question, route, vec![waiter]) {
            return waiters.pop();
        }
        self.telemetry.resolve.miss(route.zone);
        self.refresh(question, route);
        None
    }

    /// Answers from the cache where the answer has come since the worker looked.
    fn answer_late_hit(
        self: &Arc<Self>,
        question: &Question,
        waiter: Waiter,
        now: Tick,
    ) -> Option<Waiter> {
        let mut reader = lock(&self.reader);
        let session = reader.online();
        let found = session.get(question, now);
        let is_due = matches!(found, Lookup::Due(_));
        let (Lookup::Hit(entry) | Lookup::Due(entry)) = found else {
            return Some(waiter);
        };
        add(&self.telemetry.resolve.coalesced, 1);
        self.telemetry.resolve.miss(entry.zone());
        self.answer([waiter], question, entry.zone(), &entry.answer(now));
        drop(session);
        drop(reader);
        if is_due {
            self.ask_ahead(question);
        }
        None
    }
}

#[cfg(test)]
mod tests;
