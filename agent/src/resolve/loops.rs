// SPDX-License-Identifier: Apache-2.0
//! Queries that go round in a circle: an upstream that forwards, by whatever way, to this agent.
//!
//! Each server is asked now and then, with every zone it serves, for a name that nobody else asks for:
//! 128 random bits below `loop.nodens.internal` in that zone. Where the question comes to a listener of
//! ours, the answer is at hand: the server sends on what we ask it, and it is asked no more in that
//! zone, until such a question does not come back. A worker knows nothing of it: the name is a miss
//! like any other, and recognised on the cold side. One of another agent's is forwarded like any name,
//! so that circles through several agents are found, too.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connection::Place;
use super::in_force::InForce;
use super::upstream::Server;
use super::{Resolver, Routes, Waiter, lock};
use crate::config::{Limits, ca};
use crate::telemetry::cells::MAX_UPSTREAMS;
use crate::telemetry::counters::NO_ZONE;
use crate::wire::answer::Answer;
use crate::wire::header::Flags;
use crate::wire::name::Name;
use crate::wire::question::Question;
use crate::wire::{qtype, rcode};

/// Hexadecimal digits of a token: 128 bits.
const TOKEN: usize = 32;
/// What follows it in a name.
const BELOW: &[u8] = b"\x04loop\x06nodens\x08internal";
/// How long a question is recognised after it was sent: forwarders may try it again for a while.
const RECOGNISED: Duration = Duration::from_secs(60);
/// Questions that are begun in one round, once a second: bounds what many zones cost.
const A_ROUND: usize = 64;
/// The first pause before a server is tried again that sends queries back; each that follows is
/// twice as long, up to `limits.loopProbes`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Whether queries to a server come back, and when that is looked at next.
#[derive(Debug, Default)]
pub(super) struct Circle {
    is_closed: AtomicBool,
    /// `None`: now.
    next: Mutex<Option<Instant>>,
    pause: Mutex<Option<Duration>>,
}

impl Circle {
    /// Whether queries come back: the server must not be asked.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    /// Has it looked at in the next round.
    pub(super) fn hurry(&self) {
        *lock(&self.next) = None;
    }

    /// Whether it is to be looked at now; if so, says when the next time is.
    fn is_due(&self, now: Instant, period: Duration, spread: u8) -> bool {
        let mut next = lock(&self.next);
        if next.is_some_and(|next| now < next) {
            return false;
        }
        let mut pause = lock(&self.pause);
        let wait = if self.is_closed() {
            let wait = pause.map_or(FIRST_PAUSE, |pause| pause * 2).min(period);
            *pause = Some(wait);
            wait
        } else {
            *pause = None;
            // Up to a fifth less, so that a node's agents do not all ask at once.
            period - period / 5 * u32::from(spread) / 256
        };
        *next = Some(now + wait);
        true
    }
}

/// Questions that may come back.
#[derive(Debug, Default)]
pub(super) struct Loops {
    sent: HashMap<[u8; TOKEN], Sent>,
}

#[derive(Debug)]
struct Sent {
    server: Arc<Server>,
    zone: Name,
    at: Instant,
    has_come_back: bool,
}

impl Loops {
    fn send(&mut self, token: [u8; TOKEN], server: &Arc<Server>, zone: Name) {
        let at = Instant::now();
        self.sent.retain(|_, sent| at < sent.at + RECOGNISED);
        let sent = Sent {
            server: Arc::clone(server),
            zone,
            at,
            has_come_back: false,
        };
        self.sent.insert(token, sent);
    }
}

/// The token of a name in wire form, lower case; `None` where it is no name of ours.
fn token(name: &[u8]) -> Option<[u8; TOKEN]> {
    let (&length, rest) = name.split_first()?;
    let (token, rest) = rest.split_first_chunk()?;
    (usize::from(length) == TOKEN && rest.starts_with(BELOW)).then_some(*token)
}

/// The name to ask for in a zone; `None` where that is so long that there is no room below it, or the
/// kernel has no random bits yet.
fn name(zone: &Name) -> Option<(Name, [u8; TOKEN])> {
    let mut bits = [0_u8; TOKEN / 2];
    let filled = getrandom(&mut bits, GetRandomFlags::empty()).ok()?;
    let text: String = bits.iter().map(|octet| format!("{octet:02x}")).collect();
    let token = text.as_bytes().try_into().ok()?;
    let mut wire = vec![u8::try_from(TOKEN).ok()?];
    wire.extend(text.as_bytes());
    wire.extend(BELOW);
    wire.extend(zone.as_wire());
    (filled == bits.len()).then_some((Name::from_wire(&wire)?, token))
}

impl Resolver {
    /// Looks after the ways to the upstreams, for ever: whether queries come back, and whether a server
    /// that takes no TCP connection answers over UDP.
    pub async fn look_after(self: Arc<Self>) {
        let mut round = interval(Duration::from_secs(1));
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = JoinSet::new();
        loop {
            round.tick().await;
            while looking.try_join_next().is_some() {}
            let now = Instant::now();
            let InForce { routes, limits, .. } = InForce::clone(&self.in_force());
            if limits.loop_probes.is_zero() {
                self.believe_all(&routes);
            }
            for (zone, server) in routes.by_zone() {
                if server.way().is_suspicious(now) {
                    let (resolver, server) = (Arc::clone(&self), Arc::clone(server));
                    let limits = Arc::clone(&limits);
                    looking.spawn(async move { resolver.suspect(&server, &limits).await });
                }
                let period = limits.loop_probes;
                if period.is_zero() || looking.len() >= A_ROUND {
                    continue;
                }
                let spread = server.address().port().to_be_bytes()[1] ^ spread();
                if server.way().circle.is_due(now, period, spread) {
                    let (resolver, server) = (Arc::clone(&self), Arc::clone(server));
                    let limits = Arc::clone(&limits);
                    let zone = *zone;
                    looking.spawn(async move { resolver.go_round(zone, &server, &limits).await });
                }
            }
        }
    }

    /// Nobody looks any more: what was found is not known any more either.
    fn believe_all(&self, routes: &Routes) {
        let opened = routes.by_zone().filter(|(_, server)| {
            let circle = &server.way().circle;
            circle.is_closed.swap(false, Relaxed)
        });
        if opened.count() > 0 {
            self.go_other_ways();
        }
    }

    async fn suspect(&self, server: &Server, limits: &Limits) {
        if self.answers_over_udp(server, limits).await {
            let cells = self.telemetry.resolve.upstream(server.index());
            server.way().answers_over_udp(cells);
        }
    }

    /// Whether a server answers a question over UDP, whatever it says.
    pub(super) async fn answers_over_udp(&self, server: &Server, limits: &Limits) -> bool {
        const NS: u16 = 2;
        let question = Question::of(&Name::ROOT, NS);
        let cells = self.telemetry.resolve.upstream(server.index());
        let patience = limits.attempt_timeout;
        let asked = server.way().ask(&question, patience, cells);
        matches!(timeout(patience, asked).await, Ok(Ok(_)))
    }

    /// Asks a server for a name that only comes back in a circle.
    async fn go_round(&self, zone: Name, server: &Arc<Server>, limits: &Limits) {
        let Some((name, token)) = name(&zone) else {
            return;
        };
        lock(&self.loops).send(token, server, zone);
        let question = Question::of(&name, qtype::TXT);
        let asked = timeout(
            limits.attempt_timeout,
            self.probe(server, &question, limits),
        );
        let is_answered = asked.await == Ok(true);
        let has_come_back = {
            let loops = lock(&self.loops);
            let sent = loops.sent.get(&token);
            sent.is_some_and(|sent| sent.has_come_back)
        };
        if has_come_back || !is_answered || !server.way().circle.is_closed() {
            return;
        }
        server.way().circle.is_closed.store(false, Relaxed);
        let upstream = server.address();
        tracing::info!(%zone, %upstream, "queries to an upstream come back no more: it is asked again");
        self.go_other_ways();
    }

    /// Asks over a connection of its own, so that the queries of clients notice nothing. Whether there
    /// was an answer.
    async fn probe(&self, server: &Server, question: &Question, limits: &Limits) -> bool {
        let cells = self.telemetry.resolve.upstream(server.index());
        if server.way().is_udp() {
            let patience = limits.attempt_timeout;
            return server.way().ask(question, patience, cells).await.is_ok();
        }
        let Ok(connection) = server.connect(limits.connect_timeout).await else {
            return false;
        };
        let mut place = Place::on(&connection);
        place.ask(question, server.draw(), false);
        place.answer(question, cells).await.is_ok()
    }

    /// Answers a question of our own that has come back, and asks its server no more.
    pub(super) fn answer_own(&self, question: &Question, waiter: Waiter) -> Option<Waiter> {
        let Some(token) = token(question.name()) else {
            return Some(waiter);
        };
        let found = {
            let mut loops = lock(&self.loops);
            let sent = loops.sent.get_mut(&token);
            sent.map(|sent| {
                sent.has_come_back = true;
                (Arc::clone(&sent.server), sent.zone)
            })
        };
        let Some((server, zone)) = found else {
            return Some(waiter);
        };
        self.close_circle(&server, &zone);
        let answer = Answer {
            flags: Flags(rcode::NXDOMAIN),
            ..Answer::NOTHING
        };
        self.answer([waiter], question, NO_ZONE, &answer);
        None
    }

    fn close_circle(&self, server: &Server, zone: &Name) {
        if server.way().circle.is_closed.swap(true, Relaxed) {
            return;
        }
        server.way().circle.hurry();
        let upstream = server.address();
        let written = self.in_force().routes.written(zone, upstream);
        tracing::error!(
            %zone, %upstream, written,
            "queries to an upstream come back to this agent: it is not asked any more until they do \
             not; write a server there that does not forward to this agent, or correct what the \
             server forwards to"
        );
        self.go_other_ways();
    }

    /// Leaves out servers that send queries back, and takes in those that no more do.
    fn go_other_ways(&self) {
        let routes = self.routes();
        self.go_by(Routes::new(routes.zones(), &self.telemetry, Some(&routes)));
        self.count_circles();
    }

    /// Counted anew each time: a server may have gone with its zone.
    fn count_circles(&self) {
        let mut zones = [0; MAX_UPSTREAMS];
        for (_, server) in self.in_force().routes.by_zone() {
            if let Some(zones) = zones.get_mut(usize::from(server.index())) {
                *zones += u64::from(server.way().circle.is_closed());
            }
        }
        for (index, zones) in (0..).zip(zones) {
            self.telemetry.resolve.upstream(index).set_circles(zones);
        }
    }

    /// Has every way looked at in the next round.
    pub(super) fn look_soon(&self) {
        for (_, server) in self.in_force().routes.by_zone() {
            server.way().circle.hurry();
        }
        self.count_circles();
    }

    /// Trusts the authorities of a file anew, where it is theirs.
    ///
    /// # Errors
    /// The file cannot be used, in words; the authorities in force stay.
    pub fn trust_anew(&self, file: &Path) -> Result<(), String> {
        let roots =
            ca::read(file).map_err(|wrong| format!("{}; {}", wrong.message, wrong.remedy))?;
        for (_, server) in self.in_force().routes.by_zone() {
            server.way().trust(file, &roots);
        }
        Ok(())
    }
}

/// A random octet; a bad one does no harm.
fn spread() -> u8 {
    let mut octet = [0];
    let _ = getrandom(&mut octet, GetRandomFlags::empty());
    let [octet] = octet;
    octet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_ours_is_known_in_every_zone_and_others_are_not() {
        for zone in [".", "cluster.local.", "corp.example."] {
            let zone = Name::parse(zone).unwrap();
            let (first, sent) = name(&zone).unwrap();
            assert_eq!(token(first.as_wire()), Some(sent));
            assert!(zone.encloses(first.as_wire()));
            let (second, _) = name(&zone).unwrap();
            assert_ne!(first, second);
        }
        for other in ["pulse.nodens.internal.", "loop.nodens.internal.", ".", "a."] {
            assert_eq!(
                token(Name::parse(other).unwrap().as_wire()),
                None,
                "{other}"
            );
        }
        let long = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(30),
        ]
        .join(".");
        assert_eq!(name(&Name::parse(&long).unwrap()), None);
    }

    #[test]
    fn a_circle_is_looked_at_again_after_longer_and_longer_pauses() {
        let period = Duration::from_secs(60);
        let circle = Circle::default();
        let mut now = Instant::now();
        assert!(circle.is_due(now, period, 0));
        assert!(!circle.is_due(now + period / 2, period, 0));
        circle.is_closed.store(true, Relaxed);
        circle.hurry();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(circle.is_due(now, period, 0));
            let began = now;
            while !circle.is_due_peek(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - began).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    impl Circle {
        fn is_due_peek(&self, now: Instant) -> bool {
            lock(&self.next).is_none_or(|next| now >= next)
        }
    }
}
