// SPDX-License-Identifier: Apache-2.0
//! Questions under way, each with all who wait for it: identical misses cost one upstream query.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::exchange::Failed;
use super::routes::Route;
use super::{Resolver, To, Waiter, lock};
use crate::telemetry::cells::OverLimit;
use crate::wire::answer::Answer;
use crate::wire::edns::ExtendedError;
use crate::wire::question::Question;

/// Waiters of one question that are looked at for a query that was sent again: bounds what a name
/// that thousands wait for costs.
const LOOKED_AT: usize = 128;

/// Rooms that are kept for flights to come: as many as a burst has.
const ROOMS: usize = 64;

/// The part of all places that one source address may take: a pod that asks for what nobody
/// answers must leave room for the others of its node.
const SHARE: usize = 4;
/// The least that it may take, where there are as many.
const LEAST_SHARE: usize = 256;

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: HashMap<Key, Vec<Waiter>, foldhash::quality::RandomState>,
    /// Room for those who wait, of flights that are over.
    rooms: Vec<Vec<Waiter>>,
    waiters: usize,
    /// Those that began with nobody waiting.
    ahead: usize,
    /// How many of them each source address has.
    of_client: HashMap<IpAddr, usize, foldhash::quality::RandomState>,
}

/// A question that is under way, found by its octets.
#[derive(Debug)]
struct Key(Arc<Question>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_octets()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_octets().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_octets() == other.0.as_octets()
    }
}

impl Eq for Key {}

/// What became of a waiter.
#[derive(Debug)]
pub(super) enum Joined {
    /// Nobody asks this yet: the caller must. With the time of arrival, and who it is for.
    Leads(Arc<Question>, u64, IpAddr),
    /// Somebody does.
    Coalesced,
    /// The same client waits for the same already: it sent its query again.
    Repeated,
    /// As many wait as may.
    Over(Box<Waiter>, OverLimit),
}

impl Flights {
    /// Clients that wait.
    pub(super) fn waiters(&self) -> usize {
        self.waiters
    }

    /// Whether a question is under way.
    pub(super) fn has(&self, question: &Question) -> bool {
        self.flights.contains_key(question.as_octets())
    }

    /// Clients that wait at the source address that has most of them.
    pub(super) fn largest_share(&self) -> usize {
        self.of_client.values().copied().max().unwrap_or_default()
    }

    /// Whether somebody still waits who came before this moment.
    pub(super) fn has_waited_since(&self, moment_ns: u64) -> bool {
        let mut waiters = self.flights.values().flatten();
        waiters.any(|waiter| waiter.arrived_ns < moment_ns)
    }

    /// Has `waiter` wait for the answer to `question`, with at most `limit` clients in total.
    pub(super) fn join(&mut self, question: &Question, waiter: Waiter, limit: usize) -> Joined {
        let others = self.flights.get_mut(question.as_octets());
        if others.as_ref().is_some_and(|others| {
            let recent = others.iter().rev().take(LOOKED_AT);
            recent.into_iter().any(|other| other.is_same_query(&waiter))
        }) {
            return Joined::Repeated;
        }
        if self.waiters >= limit {
            return Joined::Over(Box::new(waiter), OverLimit::InFlight);
        }
        let client = waiter.to.client();
        let own = self.of_client.entry(client).or_default();
        if *own >= limit.min(LEAST_SHARE.max(limit / SHARE)) {
            return Joined::Over(Box::new(waiter), OverLimit::Client);
        }
        *own += 1;
        self.waiters += 1;
        if let Some(others) = others {
            others.push(waiter);
            return Joined::Coalesced;
        }
        let arrived_ns = waiter.arrived_ns;
        let mut waiters = self.rooms.pop().unwrap_or_default();
        waiters.reserve_exact(1);
        waiters.push(waiter);
        let question = Arc::new(*question);
        self.flights.insert(Key(Arc::clone(&question)), waiters);
        Joined::Leads(question, arrived_ns, client)
    }

    /// Begins a flight that nobody waits for, where there are fewer than `most`: `Some(false)` where
    /// the question is under way already, `None` where there are as many.
    pub(super) fn lead_ahead(&mut self, question: &Arc<Question>, most: usize) -> Option<bool> {
        if self.flights.contains_key(question.as_octets()) {
            return Some(false);
        }
        if self.ahead >= most {
            return None;
        }
        self.ahead += 1;
        self.flights.insert(Key(Arc::clone(question)), Vec::new());
        Some(true)
    }

    /// Takes all who wait for a question; it stays under way.
    fn release(&mut self, question: &Question) -> Vec<Waiter> {
        let waiters = self.flights.get_mut(question.as_octets());
        let waiters = waiters.map(std::mem::take).unwrap_or_default();
        self.let_go(&waiters);
        waiters
    }

    /// Has those wait again who were released in vain.
    fn put_back(&mut self, question: &Question, mut waiters: Vec<Waiter>) {
        self.waiters += waiters.len();
        for waiter in &waiters {
            *self.of_client.entry(waiter.to.client()).or_default() += 1;
        }
        // Their own room, which fits: a new one would be made for more.
        if let Some(others) = self.flights.get_mut(question.as_octets()) {
            waiters.append(others);
            *others = waiters;
        }
    }

    fn land(&mut self, question: &Question, was_ahead: bool) -> Vec<Waiter> {
        let waiters = self
            .flights
            .remove(question.as_octets())
            .unwrap_or_default();
        self.ahead -= usize::from(was_ahead);
        self.let_go(&waiters);
        waiters
    }

    /// Takes the room back of those who were answered, for others.
    fn take_back(&mut self, room: Vec<Waiter>) {
        if room.capacity() == 1 && self.rooms.len() < ROOMS {
            self.rooms.push(room);
        }
    }

    fn let_go(&mut self, waiters: &[Waiter]) {
        self.waiters -= waiters.len();
        for waiter in waiters {
            if let Entry::Occupied(mut own) = self.of_client.entry(waiter.to.client()) {
                *own.get_mut() -= 1;
                if *own.get() == 0 {
                    own.remove();
                }
            }
        }
    }
}

impl Waiter {
    /// Whether this is the other one's query once more: same client, port, listener and ID.
    /// A TCP client does not repeat itself on one connection.
    fn is_same_query(&self, other: &Self) -> bool {
        match (&self.to, &other.to) {
            (
                To::Datagram { client, listener },
                To::Datagram {
                    client: other_client,
                    listener: other_listener,
                },
            ) => {
                client == other_client
                    && listener == other_listener
                    && self.asked.id() == other.asked.id()
            }
            _ => false,
        }
    }
}

/// One question under way. Whatever ends it, a panic too, everybody who waits is answered.
#[derive(Debug)]
pub(super) struct Flight {
    /// On the heap: a flight is moved into a task, which would keep room for it twice. And it is found by
    /// it.
    pub(super) question: Arc<Question>,
    /// Who asked first; nobody where that is the unspecified address.
    pub(super) client: IpAddr,
    pub(super) resolver: Arc<Resolver>,
    pub(super) route: Arc<Route>,
    is_ahead: bool,
    is_settled: bool,
}

impl Flight {
    /// A flight that somebody waits for.
    pub(super) fn new(
        resolver: &Arc<Resolver>,
        question: Arc<Question>,
        route: &Arc<Route>,
        client: IpAddr,
    ) -> Self {
        Self {
            question,
            client,
            resolver: Arc::clone(resolver),
            route: Arc::clone(route),
            is_ahead: false,
            is_settled: false,
        }
    }

    /// A flight that nobody waits for yet.
    pub(super) fn ahead(
        resolver: &Arc<Resolver>,
        question: Arc<Question>,
        route: &Arc<Route>,
    ) -> Self {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let mut flight = Self::new(resolver, question, route, nobody);
        flight.is_ahead = true;
        flight
    }

    /// Gives everybody this answer, at a moment of the agent's clock.
    pub(super) fn settle(mut self, answer: &Answer<'_>, now: Duration) {
        let mut waiters = self.land();
        let (question, zone) = (&self.question, self.route.zone);
        self.resolver
            .answer_at(waiters.drain(..), question, zone, answer, now);
        lock(&self.resolver.flights).take_back(waiters);
    }

    /// Gives those who wait by now an earlier answer, where there is one. The flight goes on.
    pub(super) fn settle_stale(&self) {
        let waiters = lock(&self.resolver.flights).release(&self.question);
        if waiters.is_empty() {
            return;
        }
        let (resolver, question) = (&self.resolver, &self.question);
        if let Err(waiters) = resolver.answer_stale(question, &self.route, waiters) {
            lock(&resolver.flights).put_back(question, waiters);
        }
        let in_flight = &resolver.telemetry.resolve.in_flight;
        in_flight.store(resolver.in_flight() as u64, Relaxed);
    }

    /// Gives everybody an earlier answer; where there is none, tells them that the upstreams failed,
    /// and remembers it.
    pub(super) fn fail(mut self, failed: &Failed) {
        let waiters = self.land();
        if waiters.is_empty() {
            return;
        }
        let (resolver, question) = (&self.resolver, &self.question);
        if let Err(waiters) = resolver.answer_stale(question, &self.route, waiters) {
            resolver.fail_all(waiters, question, &self.route, failed);
        }
    }

    fn land(&mut self) -> Vec<Waiter> {
        self.is_settled = true;
        let mut flights = lock(&self.resolver.flights);
        let waiters = flights.land(&self.question, self.is_ahead);
        let in_flight = &self.resolver.telemetry.resolve.in_flight;
        in_flight.store(flights.waiters() as u64, Relaxed);
        waiters
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.is_settled {
            let waiters = self.land();
            let why = Some(if std::thread::panicking() {
                ExtendedError::INTERNAL
            } else {
                ExtendedError::DRAINING
            });
            let zone = self.route.zone;
            self.resolver.fail(waiters, &self.question, zone, why);
        }
    }
}
