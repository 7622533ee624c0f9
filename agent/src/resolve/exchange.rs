// SPDX-License-Identifier: Apache-2.0
//! Asks servers for one question until one answers: at the next server, over the next connection,
//! and a second time while the first time is still under way.
//!
//! ```text
//! choose a server ─► a connection ─► ask ─┬─ answered ──────────────────────────► done
//!       ▲                                 ├─ longer than 95 of 100 take ─► ask another too ─► the first wins
//!       └── refused, failed, timed out ◄──┘
//! ```

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::choice::Visited;
use super::message::Exchanged;
use super::pace;
use super::pool::{Lent, Take};
use super::routes::Route;
use super::upstream::{Failure, Server};
use super::{Resolver, lock};
use crate::config::Limits;
use crate::telemetry::cells::{Outcome, Unfit};
use crate::wire::edns::ExtendedError;
use crate::wire::name::Name;
use crate::wire::question::Question;

/// Tries of one query: each at the next server, or at the same on another connection.
const TRIES: usize = 3;
/// How long a query waits for a connection to one of several servers: nothing was asked of it yet,
/// so another costs nothing.
const CONNECT_PATIENCE: Duration = Duration::from_millis(20);
/// Connections of one try that had ended before the query reached the server.
const MOST_STALE: usize = 4;

/// What is asked, for whom, and until when.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) question: &'a Question,
    pub(super) route: &'a Route,
    pub(super) limits: &'a Limits,
    /// Who asked first.
    pub(super) client: IpAddr,
    pub(super) deadline: Instant,
    /// It is what the zone makes of a question, and its answer is not touched.
    pub(super) is_adapted: bool,
    /// When who waits gets an earlier answer, where there is one.
    pub(super) patience: Instant,
    /// A timer is set for it that goes off before anybody's patience is over.
    pub(super) wakes: AtomicBool,
}

impl Asking<'_> {
    /// What comes of `exchange`, or `None` when the patience is over. A timer of its own is set only
    /// where no other goes off before: most queries are answered by then, and each timer costs them.
    pub(super) fn patiently<T>(
        &self,
        mut exchange: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Option<T>> {
        let mut timer = None;
        std::future::poll_fn(move |context| {
            if let Poll::Ready(result) = exchange.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            if self.wakes.load(Relaxed) {
                return Poll::Pending;
            }
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(self.patience)));
            timer.as_mut().poll(context).map(|()| None)
        })
    }
}

/// The beginning of an exchange: its first server was chosen, and has perhaps been asked.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) server: Arc<Server>,
    pub(super) visited: Visited,
    /// On the heap, as the whole: it must not make every query larger.
    pub(super) head: Option<Box<Head>>,
}

/// What came of the first query.
#[derive(Debug)]
pub(super) enum Head {
    /// Nothing yet.
    Sent(Sent),
    /// An answer that may not be the last word. It is counted.
    Said(Exchanged),
    /// It was sent at that moment, and failed. That is counted.
    Failed(Failure, Instant),
}

/// A query that is under way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) lent: Lent,
    pub(super) at: Instant,
    /// When it is asked a second time.
    pub(super) soon: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    /// What an upstream said that could or would not answer.
    pub(super) refusal: Option<Exchanged>,
    /// What it comes down to where none has said anything.
    pub(super) why: ExtendedError,
}

/// How one try ended without an answer.
#[derive(Debug)]
enum Vain {
    /// For this reason.
    Because(ExtendedError),
    /// For none that says more than those before it.
    Nothing,
    /// It had little time.
    Short,
}

/// A query that is under way beside the first one, with its server.
type Rival<'a> = (&'a Arc<Server>, Answering<'a>);
type Answering<'a> = Pin<Box<dyn Future<Output = Result<Exchanged, Failure>> + Send + 'a>>;

/// Times that a query is asked beside the first: where a third of all connections leads into the
/// void, one query in 27 has all three there.
const MOST_RIVALS: u32 = 2;

impl Resolver {
    /// Asks servers until one answers, none is left to try, or the time is up; `start` is what was done
    /// already. The answer comes with the index of its server.
    pub(super) async fn exchange(
        &self,
        asking: &Asking<'_>,
        began: Instant,
        start: Option<Box<Start>>,
    ) -> Result<(Exchanged, u16), Failed> {
        if !asking.is_adapted && asking.route.adapts() {
            return self.exchange_adapted(asking, began).await;
        }
        let mut failed = Failed {
            refusal: None,
            why: asking.route.why_nobody(),
        };
        let mut visited = Visited::default();
        let (mut first, mut head) = (None, None);
        if let Some(start) = start {
            visited = start.visited;
            first = asking.route.same(&start.server);
            head = start.head;
        }
        let tries = TRIES.max(asking.route.server_count());
        for number in 0..tries {
            let now = if number == 0 { began } else { Instant::now() };
            // What is sent already is looked at: how it ended is to be known.
            if now >= asking.deadline && head.is_none() {
                break;
            }
            let chosen = first.take();
            let Some(server) = chosen.or_else(|| asking.route.choose(&mut visited, now)) else {
                break;
            };
            let is_last = number + 1 == tries;
            match try_once(asking, server, &mut visited, now, is_last, head.take()).await {
                Ok((exchanged, _)) if exchanged.is_refusal() || exchanged.is_loop() => {
                    // CoreDNS sheds load with REFUSED: another server may do better. Passed on only
                    // where all say so.
                    if exchanged.is_loop() {
                        self.telemetry.resolve.unfit(Unfit::Loop);
                        failed.why = ExtendedError::CNAME_LOOP;
                    } else {
                        failed.refusal = Some(exchanged);
                    }
                    if asking.route.server_count() == 1 {
                        break;
                    }
                }
                Ok(answered) => return Ok(answered),
                // Most of the time went by before anything was asked: that is ours to answer for.
                Err(Vain::Short) if number == 0 => failed.why = ExtendedError::OVER_LIMIT,
                Err(Vain::Because(why)) => failed.why = why,
                Err(Vain::Nothing | Vain::Short) => {}
            }
        }
        Err(failed)
    }
}

/// Asks one server, and another connection or server a second time where that takes long.
async fn try_once(
    asking: &Asking<'_>,
    server: &Arc<Server>,
    visited: &mut Visited,
    began: Instant,
    is_last: bool,
    mut head: Option<Box<Head>>,
) -> Result<(Exchanged, u16), Vain> {
    if server.way().is_udp() {
        // Rare, and on the heap: it must not make every query larger.
        let said = Box::pin(in_datagrams(asking, server, began)).await;
        match said {
            Ok(Some(exchanged)) => return Ok((exchanged, server.index())),
            Ok(None) => {}
            Err(failure) => return Err(why(failure)),
        }
    }
    let (mut take, mut now) = (Take::Any, began);
    for attempt in 1..=MOST_STALE {
        let begun = match head.take().map(|head| *head) {
            Some(Head::Sent(sent)) => Some(sent),
            Some(Head::Said(exchanged)) => return Ok((exchanged, server.index())),
            Some(Head::Failed(Failure::Stale, at)) => {
                take = Take::HeardSince(at);
                continue;
            }
            Some(Head::Failed(failure, _)) => return Err(why(failure)),
            None => None,
        };
        let Sent {
            lent,
            at: sent,
            soon,
        } = match begun {
            Some(begun) => begun,
            None => {
                let (lent, at) = match server.lend(take, asking.question, asking.limits, now) {
                    Some(lent) => (lent, now),
                    None => {
                        let mut lent = wait(asking, server, is_last, now).await?;
                        let now = Instant::now();
                        lent.ask(asking.question, now);
                        (lent, now)
                    }
                };
                sent(asking.limits, asking.deadline, lent, at)
            }
        };
        let until = asking.deadline.min(sent + asking.limits.attempt_timeout);
        let mut first = pin!(server.answer(&lent, asking.question, sent));
        asking.wakes.store(soon < asking.patience, Relaxed);
        let answered = timeout_at(soon, first.as_mut()).await;
        asking.wakes.store(false, Relaxed);
        let result = match answered {
            Ok(result) => result.map(|exchanged| (exchanged, server)),
            // The last attempt stays: moving on must not be what a query fails of.
            Err(_)
                if attempt < MOST_STALE
                    && soon < until
                    && lent.is_behind()
                    && server.may_move() =>
            {
                Err(Failure::Stale)
            }
            // Rare, and on the heap: it must not make every query larger.
            Err(_) => Box::pin(insist(asking, server, visited, [sent, until], first)).await,
        };
        match result {
            Ok((exchanged, by)) => {
                note(asking.question, by, Ok(&exchanged), sent);
                return Ok((exchanged, by.index()));
            }
            // It ended while it waited, most likely, or others hold it up: at once over another.
            Err(Failure::Stale) => {
                take = Take::HeardSince(sent);
                now = Instant::now();
            }
            Err(failure) => {
                note(asking.question, server, Err(failure.label()), sent);
                return Err(why(failure));
            }
        }
    }
    Err(Vain::Because(ExtendedError::NETWORK))
}

/// What was sent over a connection at `at`: says when it is asked a second time.
pub(super) fn sent(limits: &Limits, deadline: Instant, lent: Lent, at: Instant) -> Sent {
    let server = lent.server();
    let patience = match server.patience(limits) {
        None if server.shares_by_itself() && lent.is_shared() => Some(pace::SOONEST),
        patience => patience,
    };
    let until = deadline.min(at + limits.attempt_timeout);
    let soon = patience.map_or(until, |patience| until.min(at + patience));
    Sent { lent, at, soon }
}

/// Asks one server over UDP; `None` where TCP has to follow.
async fn in_datagrams(
    asking: &Asking<'_>,
    server: &Server,
    began: Instant,
) -> Result<Option<Exchanged>, Failure> {
    let patience = asking.limits.attempt_timeout;
    let until = asking.deadline.min(began + patience);
    let said = server.ask_in_datagrams(asking.question, patience, began);
    let result = match timeout_at(until, said).await {
        Ok(result) => result,
        Err(_) => Err(time_is_up(asking, server, began)),
    };
    match &result {
        Ok(Some(exchanged)) => note(asking.question, server, Ok(exchanged), began),
        Ok(None) => note(asking.question, server, Err("truncated"), began),
        Err(failure) => note(asking.question, server, Err(failure.label()), began),
    }
    result
}

/// Goes on waiting for a query that takes longer than `patience`, and asks it again where it may.
/// With the server that answered.
async fn insist<'a>(
    asking: &'a Asking<'a>,
    server: &'a Arc<Server>,
    visited: &mut Visited,
    [sent, until]: [Instant; 2],
    mut first: Pin<&mut (impl Future<Output = Result<Exchanged, Failure>> + Send)>,
) -> Result<(Exchanged, &'a Arc<Server>), Failure> {
    let patience = sent.elapsed();
    let mut rivals = Vec::new();
    let mut failure = None;
    let mut now = sent + patience;
    for number in 1..=MOST_RIVALS {
        if now >= until {
            break;
        }
        rivals.extend(again(asking, server, visited, sent));
        let end = if number == MOST_RIVALS || rivals.is_empty() {
            until
        } else {
            until.min(now + patience * 2)
        };
        let race = outlast(first.as_mut(), &mut rivals, &mut failure);
        match timeout_at(end, race).await {
            Ok(Ok((exchanged, None))) => return Ok((exchanged, server)),
            Ok(Ok((exchanged, Some(other)))) => {
                note(asking.question, server, Err("outpaced"), sent);
                server.outpaced(sent);
                return Ok((exchanged, other));
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => now = Instant::now(),
        }
    }
    for (other, _) in &rivals {
        if !Arc::ptr_eq(other, server) {
            other.timed_out(sent);
        }
    }
    Err(time_is_up(asking, server, sent))
}

/// Waits for a connection to a server.
async fn wait(
    asking: &Asking<'_>,
    server: &Arc<Server>,
    is_last: bool,
    now: Instant,
) -> Result<Lent, Vain> {
    let until = asking.deadline.min(now + asking.limits.attempt_timeout);
    // Waiting for a place among our own connections says nothing about the server.
    let is_full = lock(server.pool()).is_full();
    let end = match (is_full, is_last || asking.route.server_count() == 1) {
        (_, false) => until.min(now + CONNECT_PATIENCE),
        (true, true) => asking.deadline,
        (false, true) => until,
    };
    match timeout_at(end, server.wait(asking.client)).await {
        Ok(Ok(lent)) => Ok(lent),
        Ok(Err(outcome)) => Err(why(Failure::Outcome(outcome))),
        Err(_) if lock(server.pool()).is_full() => Err(Vain::Because(ExtendedError::OVER_LIMIT)),
        Err(_) => {
            server.is_late(now);
            Err(Vain::Because(ExtendedError::NO_UPSTREAM))
        }
    }
}

/// Has a question asked again that was asked at `sent`: of another server, or over another
/// connection. Not where that would add to what is too much already.
fn again<'a>(
    asking: &'a Asking<'a>,
    server: &'a Arc<Server>,
    visited: &mut Visited,
    sent: Instant,
) -> Option<Rival<'a>> {
    let is_off = asking.limits.hedge_percent == 0;
    if is_off || lock(server.pool()).is_full() || !server.may_ask_again() {
        return None;
    }
    let other = asking.route.other(visited, Instant::now());
    let (other, take) = match other {
        Some(other) if !Arc::ptr_eq(other, server) => (other, Take::Alone),
        _ => (server, Take::HeardSince(sent)),
    };
    let answering = async move {
        let mut now = Instant::now();
        let lent = match other.lend(take, asking.question, asking.limits, now) {
            Some(lent) => lent,
            None => {
                let waited = other.wait(asking.client).await;
                let mut lent = waited.map_err(Failure::Outcome)?;
                now = Instant::now();
                lent.ask(asking.question, now);
                lent
            }
        };
        other.answer(&lent, asking.question, now).await
    };
    Some((other, Box::pin(answering)))
}

/// Waits for the first answer of several, with its server where it is not that of the first query;
/// or for all to fail: then says how the first did, which `failure` keeps.
async fn outlast<'a>(
    mut first: Pin<&mut impl Future<Output = Result<Exchanged, Failure>>>,
    rivals: &mut Vec<Rival<'a>>,
    failure: &mut Option<Failure>,
) -> Result<(Exchanged, Option<&'a Arc<Server>>), Failure> {
    std::future::poll_fn(|context| {
        if failure.is_none() {
            match first.as_mut().poll(context) {
                Poll::Ready(Ok(exchanged)) => return Poll::Ready(Ok((exchanged, None))),
                Poll::Ready(Err(why)) => *failure = Some(why),
                Poll::Pending => {}
            }
        }
        let mut at = 0;
        while let Some((other, rival)) = rivals.get_mut(at) {
            match rival.as_mut().poll(context) {
                Poll::Ready(Ok(exchanged)) => return Poll::Ready(Ok((exchanged, Some(*other)))),
                Poll::Ready(Err(_)) => drop(rivals.swap_remove(at)),
                Poll::Pending => at += 1,
            }
        }
        match *failure {
            Some(why) if rivals.is_empty() => Poll::Ready(Err(why)),
            _ => Poll::Pending,
        }
    })
    .await
}

fn time_is_up(asking: &Asking<'_>, server: &Server, sent: Instant) -> Failure {
    if sent.elapsed() < asking.limits.attempt_timeout / 2 {
        server.cut_short();
        return Failure::Short;
    }
    server.timed_out(sent);
    Failure::Outcome(Outcome::Timeout)
}

fn why(failure: Failure) -> Vain {
    match failure {
        Failure::Short => Vain::Short,
        Failure::Outcome(Outcome::Timeout) => Vain::Because(ExtendedError::NO_UPSTREAM),
        Failure::Outcome(outcome) if outcome.is_of_tls() => Vain::Because(ExtendedError::NO_PROOF),
        failure if failure.is_network() => Vain::Because(ExtendedError::NETWORK),
        _ => Vain::Nothing,
    }
}

/// One line a try, where the log wants names (`log.level: debug`).
pub(super) fn note(
    question: &Question,
    server: &Server,
    result: Result<&Exchanged, &str>,
    sent: Instant,
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let ms = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (upstream, qtype) = (server.address(), question.qtype());
    let qname = Name::from_wire(question.name()).unwrap_or(Name::ROOT);
    match result {
        Ok(exchanged) => {
            let rcode = exchanged.response.rcode;
            tracing::debug!(%qname, qtype, %upstream, rcode, ms, "an upstream has answered");
        }
        Err(error) => {
            tracing::debug!(%qname, qtype, %upstream, error, ms, "an upstream has not answered");
        }
    }
}
