// SPDX-License-Identifier: Apache-2.0
//! One upstream server: what is known of it, and one query to it. Its connections are in `pool`.
//!
//! CoreDNS answers a connection strictly in order and closes it after 10 s without a query, so a
//! connection carries one query at a time, or a few where all answers come quickly (`depth`); there are
//! as many connections as are needed at once, and we close them before it does.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::choice::{Health, Standing};
use super::connection::Connection;
use super::message::Exchanged;
use super::pace::Pace;
use super::pool::{Lent, Pool};
use super::snapshot::{Snapshot, State};
use super::udp::Said;
use super::way::Way;
use super::{dial, lock};
use crate::config::{Limits, Transport};
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::telemetry::registry::Telemetry;
use crate::wire::question::Question;

/// Longest life of a connection; it ends up to a fifth earlier or later, so that load moves to
/// servers that came since, and not all of it at once.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Connections that were in use so lately are not taken for dead because another is.
const FRESH: Duration = Duration::from_millis(500);

/// The log is told of a server's failure at most this often: a server that answers every other
/// query would fill it.
const SAID_EVERY: Duration = Duration::from_secs(3);

/// Why a server gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// How the try ended.
    Outcome(Outcome),
    /// The connection had been used before: its server may be well.
    Stale,
    /// The time was up before the server could well have answered.
    Short,
}

impl Failure {
    /// As in the metrics.
    pub(super) fn label(self) -> &'static str {
        let (_, label) = Outcome::ALL[self.outcome() as usize];
        label
    }

    /// How the try ended.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Outcome(outcome) => outcome,
            Self::Stale => Outcome::Closed,
            Self::Short => Outcome::Timeout,
        }
    }

    /// Whether the network said so, rather than nobody anything.
    pub(super) fn is_network(self) -> bool {
        matches!(
            self,
            Self::Outcome(
                Outcome::Refused | Outcome::Unreachable | Outcome::Reset | Outcome::Closed
            )
        )
    }
}

/// An upstream server.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    way: Way,
    index: u16,
    telemetry: Arc<Telemetry>,
    pool: Mutex<Pool>,
    record: Mutex<Record>,
    /// Whether the last word is that it fails.
    is_failing: AtomicBool,
    asked: AtomicU64,
    /// What makes IDs of it.
    dice: foldhash::quality::RandomState,
}

/// What its answers, and those that did not come, say of it.
#[derive(Debug, Default)]
struct Record {
    pace: Pace,
    health: Health,
    words: Words,
}

/// What the log was told, and the last failure.
#[derive(Debug, Default)]
struct Words {
    last_error: Option<(Outcome, Instant)>,
    /// When that was last said.
    said: Option<Instant>,
}

impl Server {
    pub(super) fn new(
        address: SocketAddr,
        transport: &Transport,
        telemetry: &Arc<Telemetry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            way: Way::new(address, transport),
            index: telemetry.upstreams.index(&address.to_string()),
            telemetry: Arc::clone(telemetry),
            pool: Mutex::default(),
            record: Mutex::default(),
            is_failing: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            dice: foldhash::quality::RandomState::default(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is reached.
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// The index that its address has in counters.
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn pool(&self) -> &Mutex<Pool> {
        &self.pool
    }

    /// Whether it is known to be down: it has failed, nothing came from it at that time, and it
    /// has not answered since.
    pub(super) fn is_down(&self) -> bool {
        lock(&self.record).health.is_down()
    }

    /// Whether it is asked now.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        lock(&self.record).health.standing(now)
    }

    /// Notes that a query looks whether it is back.
    pub(super) fn look(&self, now: Instant) {
        lock(&self.record).health.look(now);
    }

    /// Whether it answered a moment ago.
    pub(super) fn has_answered_lately(&self, now: Instant) -> bool {
        lock(&self.record).health.has_answered_lately(now)
    }

    /// Whether many queries wait for it, and nothing comes from it.
    pub(super) fn is_overrun(&self) -> bool {
        lock(&self.pool).is_crowded() && !self.has_answered_lately(Instant::now())
    }

    /// What one more query would have to wait for, about: a query on each connection is one that
    /// the server works on.
    pub(super) fn burden(&self) -> u64 {
        let us = lock(&self.record).pace.smoothed().as_micros().max(100);
        let counts = lock(&self.pool).counts();
        let queries = counts.under_way + counts.waiting + 1;
        u64::try_from(us)
            .unwrap_or(u64::MAX)
            .saturating_mul(queries as u64)
    }

    /// An ID for a query: nobody outside can tell it from those before it.
    pub(super) fn draw(&self) -> u16 {
        let turn = self.asked.fetch_add(1, Relaxed);
        let [high, low, ..] = self.dice.hash_one(turn).to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Waits for the answer to a question that was asked over a connection.
    pub(super) async fn answer(
        &self,
        lent: &Lent,
        question: &Question,
        sent: Instant,
    ) -> Result<Exchanged, Failure> {
        match lent.answer(question, sent).await {
            Ok((exchanged, now)) => {
                self.answered(&exchanged, now - sent, now);
                Ok(exchanged)
            }
            Err(failure) => {
                self.failed_by(failure, sent);
                Err(failure)
            }
        }
    }

    /// Counts how a query that was sent at `sent` ended without an answer.
    pub(super) fn failed_by(&self, failure: Failure, sent: Instant) {
        if let Failure::Outcome(outcome) = failure {
            self.failed(outcome, sent, Instant::now());
        }
    }

    /// Asks one question over UDP; `None` where the answer was cut short: TCP has all of it.
    pub(super) async fn ask_in_datagrams(
        &self,
        question: &Question,
        patience: Duration,
        began: Instant,
    ) -> Result<Option<Exchanged>, Failure> {
        let said = self.way.ask(question, patience, self.cells()).await;
        let now = Instant::now();
        match said {
            Ok(Said::Whole(exchanged)) => {
                self.answered(&exchanged, now - began, now);
                Ok(Some(exchanged))
            }
            Ok(Said::Truncated) => Ok(None),
            Err(outcome) => {
                self.failed(outcome, began, now);
                Err(Failure::Outcome(outcome))
            }
        }
    }

    /// Opens a connection, or says how that ended.
    pub(super) async fn connect(&self, within: Duration) -> Result<Arc<Connection>, Outcome> {
        let began = Instant::now();
        let race = dial::race(lock(&self.pool).usual_dial());
        let stream = self.way.connect(within, race, self.cells()).await?;
        let turn = self.asked.load(Relaxed) + lock(&self.pool).dialled_one(began.elapsed());
        let spread = u32::try_from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0);
        let max_age = MAX_AGE * 4 / 5 + MAX_AGE * 2 / 5 * spread / 256;
        Ok(Connection::new(
            stream,
            max_age,
            &self.telemetry,
            self.index,
        ))
    }

    /// Counts a try that failed and says so once.
    pub(super) fn failed(&self, outcome: Outcome, began: Instant, now: Instant) {
        self.cells().end(outcome);
        let mut record = lock(&self.record);
        record.words.last_error = Some((outcome, now));
        let failure = Failure::Outcome(outcome);
        let is_late = matches!(outcome, Outcome::ConnectTimeout | Outcome::Timeout);
        if failure.is_network() || outcome.is_of_tls() || is_late {
            record.health.failed(began, now);
        }
        let is_said = !record.health.has_answered_since(began)
            && !self.is_failing.load(Relaxed)
            && record.words.may_say(now);
        drop(record);
        if is_said {
            self.is_failing.store(true, Relaxed);
            let error = failure.label();
            tracing::warn!(upstream = %self.address, error, "an upstream does not answer");
        }
    }

    /// Counts a try that got no answer in time. Connections that nothing has come over since it
    /// began may lead to where this one led: into the void, when a server's host has died without a
    /// word. The next try must not be spent on another of them.
    pub(super) fn timed_out(&self, began: Instant) {
        self.close_unheard(began);
        self.failed(Outcome::Timeout, began, Instant::now());
    }

    /// Counts a try that ended before the server could well have answered.
    pub(super) fn cut_short(&self) {
        self.cells().end(Outcome::Timeout);
    }

    /// Notes that no connection was to be had since `began`, nor an end of the attempts.
    pub(super) fn is_late(&self, began: Instant) {
        lock(&self.record).health.failed(began, Instant::now());
    }

    /// Says how many queries may be under way on a connection; `None` is as many as is found out.
    pub(super) fn set_pipeline(&self, pipeline: Option<u16>) {
        lock(&self.pool).depth.fix(pipeline.map(usize::from));
    }

    /// Whether the configuration leaves it to us how many queries are on one connection.
    pub(super) fn shares_by_itself(&self) -> bool {
        !lock(&self.pool).depth.is_fixed()
    }

    /// Whether a query that others hold up on its connection may be asked again over another one. What
    /// we put behind each other ourselves is paid for with quick answers; where the configuration
    /// says so, it counts among those that are asked twice.
    pub(super) fn may_move(&self) -> bool {
        let may = if self.shares_by_itself() {
            lock(&self.pool).depth.may_move()
        } else {
            self.may_ask_again()
        };
        if may {
            self.cells().move_on();
        }
        may
    }

    /// How long a query waits before it is asked a second time; `None` is that it is not. Counts
    /// the query.
    pub(super) fn patience(&self, limits: &Limits) -> Option<Duration> {
        if limits.hedge_percent == 0 {
            return None;
        }
        let pace = &mut lock(&self.record).pace;
        pace.earn(limits.hedge_percent);
        pace.patience()
    }

    /// Whether a query may be asked a second time: then that is counted.
    pub(super) fn may_ask_again(&self) -> bool {
        let may = lock(&self.record).pace.spend();
        if may {
            self.cells().hedge();
        }
        may
    }

    /// Notes that a query was answered elsewhere that this server had got at `began`. Of several
    /// pods behind one address one may be silent: only what was idle for long goes with it.
    pub(super) fn outpaced(&self, began: Instant) {
        let now = Instant::now();
        if let Some(moment) = now.checked_sub(FRESH) {
            self.close_unheard(began.min(moment));
        }
        lock(&self.record).health.failed(began, now);
        self.cells().end(Outcome::Outpaced);
    }

    /// Takes in an answer that took so long.
    pub(super) fn answered(&self, exchanged: &Exchanged, took: Duration, now: Instant) {
        self.cells().end(exchanged.outcome());
        self.cells().respond(exchanged.response.rcode, took);
        {
            let mut record = lock(&self.record);
            record.health.answered(now);
            record.pace.record(took);
        }
        if self.is_failing.load(Relaxed) && self.is_failing.swap(false, Relaxed) {
            tracing::info!(upstream = %self.address, "an upstream answers again");
        }
    }

    /// What is known of it, for those who look on. The zone's name is theirs to fill in.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let (counts, ages, depth) = {
            let pool = lock(&self.pool);
            (pool.counts(), pool.ages(now), pool.depth.allowed(now))
        };
        let record = lock(&self.record);
        let Record {
            pace,
            health,
            words,
        } = &*record;
        let (smoothed, p95) = (pace.smoothed(), pace.p95());
        Snapshot {
            zone: String::new(),
            address: self.address,
            index: self.index,
            state: match health.standing(now) {
                _ if health.is_down() => State::Down,
                Standing::Up => State::Up,
                Standing::Due | Standing::Away(_) => State::Failing,
            },
            smoothed: (!smoothed.is_zero()).then_some(smoothed),
            p95,
            in_flight: counts.under_way,
            depth,
            waiting: counts.waiting,
            idle: counts.idle,
            dialling: counts.dialling,
            ages,
            last_answer: health.last_answer().map(|answered| now - answered),
            last_error: words
                .last_error
                .map(|(outcome, when)| (outcome, now - when)),
            outcomes: self.cells().outcomes(),
            hedges: self.cells().hedges(),
        }
    }

    pub(super) fn cells(&self) -> &UpstreamCells {
        self.telemetry.resolve.upstream(self.index)
    }
}

impl Words {
    fn may_say(&mut self, now: Instant) -> bool {
        let is_due = self.said.is_none_or(|last| now >= last + SAID_EVERY);
        if is_due {
            self.said = Some(now);
        }
        is_due
    }
}

impl Outcome {
    /// Whether the server could not prove who it is.
    pub(super) fn is_of_tls(self) -> bool {
        matches!(self, Self::Certificate | Self::Tls)
    }

    /// How a try ended that the system ended.
    pub(super) fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            ErrorKind::TimedOut => Self::ConnectTimeout,
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Failed,
        }
    }
}
