// SPDX-License-Identifier: Apache-2.0
//! The connections to one server: those that wait for a query, and the queries that wait for one.
//!
//! ```text
//! query ─► idle? ─ the one used longest ago ────────────────► lent ─► answered ─► waiting query, or idle
//!            └ no: waits, and a connection is dialled for it ──┘ ▲          └ failed, too old ─► closed
//!                  (whichever is first: one that comes back) ────┘
//! ```
//!
//! A query never waits for *its* handshake: a connection that comes back is as good, so that a
//! lost SYN costs nothing while others answer. Where several queries may be under way on a connection
//! (`depth`), those of one turn of the thread share one, and so do those that would have to wait while
//! there are as many connections as there may be.

mod lent;
mod waiting;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::lent::Lent;
use self::waiting::Waiting;
use super::connection::Connection;
use super::depth::{Depth, Round};
use super::lock;
use super::upstream::Server;
use crate::config::Limits;
use crate::telemetry::cells::Outcome;
use crate::wire::question::Question;

/// Handshakes under way at one time.
const MOST_DIALS: usize = 32;
/// The same while none succeeds: the dead must not be flooded, nor fill the pool.
const MOST_DIALS_IN_VAIN: usize = 4;
/// Queries that wait for a connection to a server that says nothing.
const MOST_IN_VAIN: usize = 1024;
/// Connections that are kept for traffic that needs fewer at a time. A Service chooses a pod for
/// each connection: among so many each of four pods has its share, within a few hundredths.
const MOST_KEPT: usize = 64;
/// Queries a second that each of them is kept for. CoreDNS has a few kB for each.
const RATE_FOR_ONE: usize = 16;
/// Connections that are opened ahead at one look.
const OPENED_AHEAD: usize = 8;
/// A connection that ends so soon is replaced now.
const SOON: Duration = Duration::from_millis(1500);
/// Without a query for longer than this nothing is opened ahead.
const QUIET: Duration = Duration::from_secs(2);
/// How often the pool is looked after.
const LOOKED_AFTER: Duration = Duration::from_secs(1);
/// CoreDNS closes a connection on which nothing was asked after 3 s.
const UNUSED: Duration = Duration::from_millis(2500);

/// What a query gets that waited: a connection, or how dialling ended.
type Got = Result<Lent, Outcome>;

/// Which connection a query takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Take {
    /// The one used longest ago: so all take turns, and with them the pods behind them. Or one that
    /// others use, where several may.
    Any,
    /// The one used longest ago, and nobody else on it.
    Alone,
    /// One that something came over at this moment or later, the last of them; or a new one.
    HeardSince(Instant),
}

/// The connections to one server.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Those that wait for a query, the one used longest ago in front.
    idle: VecDeque<Arc<Connection>>,
    /// Those with queries, in no order, and where the search for a place on one of them goes on.
    busy: Vec<Arc<Connection>>,
    next: usize,
    /// The one that takes the queries of this turn.
    filling: Weak<Connection>,
    waiting: Waiting,
    /// Queries that have a place on a connection.
    under_way: usize,
    /// How many may have one on the same.
    pub(super) depth: Depth,
    dialling: usize,
    /// Dials in a row that came to nothing.
    in_vain: u32,
    /// `limits.upstreamConnections`, and `limits.connectTimeout`.
    most: usize,
    within: Duration,
    asked: usize,
    rate: usize,
    last_asked: Option<Instant>,
    /// When something was last asked or answered: near enough for what may be a moment late.
    latest: Option<Instant>,
    looked: Option<Instant>,
    opened: u64,
    usual_dial: Duration,
}

/// How a query's place was given back.
#[derive(Clone, Copy, Debug)]
enum End {
    /// What was sent then was answered then.
    Answered(Round, Instant, Instant),
    /// Nobody waits for the answer any more.
    Unanswered(Round),
    /// It was never used, or what came of it was taken in before.
    Known,
}

/// Counts of connections and of who waits for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) idle: usize,
    pub(super) under_way: usize,
    pub(super) dialling: usize,
    pub(super) waiting: usize,
}

impl Pool {
    /// Counts of now.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            idle: self.idle.len(),
            under_way: self.under_way,
            dialling: self.dialling,
            waiting: self.waiting.len(),
        }
    }

    /// Ages of connections that wait for a query, the youngest and the oldest.
    pub(super) fn ages(&self, now: Instant) -> Option<(Duration, Duration)> {
        let ages = self.idle.iter().map(|connection| connection.age(now));
        ages.clone().min().zip(ages.max())
    }

    /// Whether so many wait for a connection that more would only cost memory, where none comes.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() >= MOST_IN_VAIN
    }

    /// Whether there are as many connections as there may be, all of them in use.
    pub(super) fn is_full(&self) -> bool {
        self.busy.len() >= self.most
    }

    /// How long a handshake takes, exponentially smoothed; zero before the first.
    pub(super) fn usual_dial(&self) -> Duration {
        self.usual_dial
    }

    /// Counts a connection whose handshake took so long; its number.
    pub(super) fn dialled_one(&mut self, took: Duration) -> u64 {
        self.usual_dial = if self.opened == 0 {
            took
        } else {
            self.usual_dial * 7 / 8 + took / 8
        };
        self.opened += 1;
        self.opened
    }

    /// Takes in that a question is asked; with its round, and whether others of this turn may go with it.
    fn ask(&mut self, now: Instant) -> (Round, bool) {
        let round = self.depth.asked(self.under_way, now);
        (round, self.depth.allowed(now) > 1)
    }

    /// Takes in that what was sent in this round was answered.
    fn answered(&mut self, round: Round, sent: Instant, now: Instant) {
        self.latest = Some(now);
        self.depth.answered(round, now - sent, now);
    }

    fn open(&self) -> usize {
        self.idle.len() + self.busy.len() + self.dialling
    }

    /// A connection for a query, where there is one to the purpose.
    fn take(&mut self, take: Take, now: Instant, idle: Duration) -> Option<Arc<Connection>> {
        let depth = self.depth.allowed(now);
        let may_share = matches!(take, Take::Any) && depth > 1;
        if may_share
            && let Some(filling) = self.filling.upgrade()
            && filling.room_in_turn(depth) > 0
        {
            return Some(filling);
        }
        let connection = self.take_idle(take, now, idle);
        if let Some(connection) = &connection {
            self.busy.push(Arc::clone(connection));
        }
        if !may_share {
            return connection;
        }
        let connection = connection.or_else(|| {
            // Where all are in use, those who wait are offered what comes free before.
            let shares = if self.is_full() {
                self.waiting.len() == 0
            } else {
                self.depth.is_fixed()
            };
            shares.then(|| self.with_room(depth, now)).flatten()
        });
        self.filling = connection.as_ref().map(Arc::downgrade).unwrap_or_default();
        connection
    }

    /// A connection in use that has room for another query.
    fn with_room(&mut self, depth: usize, now: Instant) -> Option<Arc<Connection>> {
        for _ in 0..self.busy.len() {
            self.next = (self.next + 1) % self.busy.len();
            let connection = &self.busy[self.next];
            if !connection.ends_by(now) && connection.room(depth) > 0 {
                return Some(Arc::clone(connection));
            }
        }
        None
    }

    fn take_idle(&mut self, take: Take, now: Instant, idle: Duration) -> Option<Arc<Connection>> {
        loop {
            let connection = match take {
                Take::Any | Take::Alone => self.idle.pop_front()?,
                Take::HeardSince(moment) => {
                    let last = self.idle.pop_back()?;
                    if !last.was_used_since(moment) {
                        self.idle.push_back(last);
                        // It makes room for the new one.
                        if self.open() >= self.most {
                            self.idle.pop_front();
                        }
                        return None;
                    }
                    last
                }
            };
            let most = idle.min(unused(&connection));
            if connection.is_usable(now, most) {
                return Some(connection);
            }
        }
    }

    /// Lets go of a connection that is in use no more; `false` where that was done already: answers
    /// that come together are given back one by one.
    fn remove(&mut self, connection: &Arc<Connection>) -> bool {
        let mut busy = self.busy.iter();
        let at = busy.position(|one| Arc::ptr_eq(one, connection));
        at.map(|at| self.busy.swap_remove(at)).is_some()
    }

    /// Connections to dial now, for those who wait.
    fn dials_wanted(&self) -> usize {
        let most = if self.in_vain == 0 {
            MOST_DIALS
        } else {
            MOST_DIALS_IN_VAIN
        };
        let unserved = self.waiting.len().saturating_sub(self.dialling);
        unserved
            .min(most.saturating_sub(self.dialling))
            .min(self.most.saturating_sub(self.open()))
    }

    /// Closes what has waited too long, and says how many connections to open ahead.
    fn look_after(&mut self, now: Instant, idle: Duration) -> usize {
        self.idle.retain(|connection| {
            let most = idle.min(unused(connection));
            connection.is_usable(now, most)
        });
        let since = self.looked.map_or(LOOKED_AFTER, |looked| now - looked);
        self.looked = Some(now);
        let millis = usize::try_from(since.max(LOOKED_AFTER).as_millis()).unwrap_or(usize::MAX);
        let rate = self.asked.saturating_mul(1000) / millis;
        self.asked = 0;
        self.rate = (self.rate + rate).div_ceil(2);
        if self.last_asked.is_none_or(|last| now > last + QUIET) {
            return 0;
        }
        let wanted = (1 + self.rate / RATE_FOR_ONE).min(MOST_KEPT).min(self.most);
        let lasting = self.idle.iter().filter(|one| !one.ends_by(now + SOON));
        let there = lasting.count() + self.busy.len() + self.dialling;
        let room = self.most.saturating_sub(self.open());
        if self.in_vain > 0 {
            return 0;
        }
        wanted.saturating_sub(there).min(OPENED_AHEAD).min(room)
    }
}

fn unused(connection: &Connection) -> Duration {
    if connection.is_fresh() {
        UNUSED
    } else {
        Duration::MAX
    }
}

impl Server {
    /// Asks over a connection at once, where there is one to the purpose.
    pub(super) fn lend(
        self: &Arc<Self>,
        take: Take,
        question: &Question,
        limits: &Limits,
        now: Instant,
    ) -> Option<Lent> {
        let mut pool = lock(self.pool());
        pool.most = limits.upstream_connections;
        pool.within = limits.connect_timeout;
        pool.last_asked = Some(now);
        pool.latest = Some(now);
        let connection = pool.take(take, now, limits.upstream_idle)?;
        pool.asked += 1;
        pool.under_way += 1;
        let round = pool.ask(now);
        drop(pool);
        Some(Lent::asking(self, &connection, question, round))
    }

    /// Waits for a connection: a new one, or one that comes back. Among clients they go round.
    pub(super) async fn wait(self: &Arc<Self>, client: IpAddr) -> Got {
        let (sender, receiver) = oneshot::channel();
        {
            let mut pool = lock(self.pool());
            pool.asked += 1;
            pool.waiting.push(client, sender);
        }
        self.dial_as_needed();
        // The sender is dropped unused by nobody but the end of the process.
        receiver.await.unwrap_or(Err(Outcome::Failed))
    }

    /// Takes a place back.
    fn left(self: &Arc<Self>, connection: &Arc<Connection>, end: &End) {
        let mut pool = lock(self.pool());
        pool.under_way -= 1;
        match *end {
            End::Answered(round, sent, now) => pool.answered(round, sent, now),
            End::Unanswered(round) => pool.depth.failed(round),
            End::Known => {}
        }
        let now = pool.latest.unwrap_or_else(Instant::now);
        self.offer_from(pool, connection, now);
    }

    /// Gives places on a connection to those who wait for one, or keeps it for who comes, or lets go of
    /// it where it is over.
    fn offer(self: &Arc<Self>, connection: &Arc<Connection>, now: Instant) {
        self.offer_from(lock(self.pool()), connection, now);
    }

    fn offer_from<'a>(
        self: &'a Arc<Self>,
        mut pool: MutexGuard<'a, Pool>,
        connection: &Arc<Connection>,
        now: Instant,
    ) {
        loop {
            let usage = connection.usage(pool.depth.allowed(now), now);
            if usage.is_over {
                if usage.places == 0 {
                    pool.remove(connection);
                }
                drop(pool);
                return self.dial_as_needed();
            }
            if usage.room == 0 {
                return;
            }
            let Some(waiter) = pool.waiting.pop() else {
                if usage.places == 0 && pool.remove(connection) {
                    if connection.is_fresh() {
                        // The other end does not wait long for the first query.
                        pool.idle.push_front(Arc::clone(connection));
                    } else {
                        pool.idle.push_back(Arc::clone(connection));
                    }
                }
                return;
            };
            pool.under_way += 1;
            drop(pool);
            // Who has gone meanwhile gives it back by dropping it.
            let _ = waiter.send(Ok(Lent::new(self, connection)));
            pool = lock(self.pool());
        }
    }

    /// Dials as many connections as are waited for and may be there.
    pub(super) fn dial_as_needed(self: &Arc<Self>) {
        let wanted = {
            let mut pool = lock(self.pool());
            let wanted = pool.dials_wanted();
            pool.dialling += wanted;
            wanted
        };
        for _ in 0..wanted {
            self.dial_one(Duration::ZERO);
        }
    }

    /// Dials a connection that is counted already.
    fn dial_one(self: &Arc<Self>, pause: Duration) {
        let server = Arc::clone(self);
        let dialling = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let began = Instant::now();
            let within = lock(server.pool()).within;
            let dialled = server.connect(within).await;
            server.dialled(dialled, began);
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody waits for a handshake alone, a drain neither"
        )]
        tokio::spawn(dialling);
    }

    fn dialled(self: &Arc<Self>, dialled: Result<Arc<Connection>, Outcome>, began: Instant) {
        let now = Instant::now();
        match dialled {
            Ok(connection) => {
                {
                    let mut pool = lock(self.pool());
                    pool.dialling -= 1;
                    pool.in_vain = 0;
                }
                self.adopt(&connection);
                self.dial_as_needed();
            }
            Err(outcome) => {
                self.failed(outcome, began, now);
                // While other connections answer, who waits gets one of them, or a new one soon.
                let is_alone = !self.has_answered_lately(now);
                let (waiter, pause) = {
                    let mut pool = lock(self.pool());
                    pool.dialling -= 1;
                    pool.in_vain = pool.in_vain.saturating_add(1);
                    let is_alone = is_alone || pool.busy.is_empty();
                    let waiter = is_alone.then(|| pool.waiting.pop()).flatten();
                    (
                        waiter,
                        Duration::from_millis(1) * 2_u32.pow(pool.in_vain.min(6)),
                    )
                };
                match waiter {
                    Some(waiter) => {
                        let _ = waiter.send(Err(outcome));
                        self.dial_as_needed();
                    }
                    None => {
                        let wanted = {
                            let mut pool = lock(self.pool());
                            let wanted = pool.dials_wanted().min(1);
                            pool.dialling += wanted;
                            wanted
                        };
                        if wanted > 0 {
                            self.dial_one(pause);
                        }
                    }
                }
            }
        }
    }

    /// Closes connections that have waited too long, and opens those that will be needed.
    pub(super) fn look_after(self: &Arc<Self>, idle: Duration) {
        let wanted = {
            let mut pool = lock(self.pool());
            let wanted = pool.look_after(Instant::now(), idle);
            pool.dialling += wanted;
            wanted
        };
        for _ in 0..wanted {
            self.dial_one(Duration::ZERO);
        }
    }

    /// Closes idle connections that nothing has come over since `moment`.
    pub(super) fn close_unheard(&self, moment: Instant) {
        lock(self.pool())
            .idle
            .retain(|connection| connection.was_used_since(moment));
    }

    /// Takes in a connection that was opened.
    pub(super) fn adopt(self: &Arc<Self>, connection: &Arc<Connection>) {
        lock(self.pool()).busy.push(Arc::clone(connection));
        self.offer(connection, Instant::now());
    }
}

#[cfg(test)]
mod tests;
