// SPDX-License-Identifier: Apache-2.0
//! One upstream server and its connections.
//!
//! CoreDNS answers a connection strictly in order and closes it after 10 s without a query, so a
//! connection carries one query at a time, there are as many as are needed at once, and we close
//! them before it does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connection::{Connection, Exchanged, Request};
use super::udp::Said;
use super::way::Way;
use super::{Resolver, lock};
use crate::config::{Limits, Transport};
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::telemetry::registry::Telemetry;
use crate::wire::question::Question;

/// Longest life of a connection; it ends up to a fifth earlier or later, so that load moves to
/// servers that came since, and not all of it at once.
const MAX_AGE: Duration = Duration::from_secs(30);

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
}

impl Failure {
    /// As in the metrics.
    pub(super) fn label(self) -> &'static str {
        let outcome = match self {
            Self::Outcome(outcome) => outcome,
            Self::Stale => Outcome::Closed,
        };
        let (_, label) = Outcome::ALL[outcome as usize];
        label
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
    /// Connections that wait for a query, the one used last at the end.
    idle: Mutex<Vec<Connection>>,
    /// One permit a connection that may be in use.
    places: Semaphore,
    permits: Mutex<usize>,
    /// Whether the last word in the log is that it fails.
    is_failing: AtomicBool,
    /// When that was last said.
    said: Mutex<Option<Instant>>,
    asked: AtomicU64,
    /// Whether it has failed and not answered since.
    is_down: AtomicBool,
    /// When it last answered.
    answered: Mutex<Option<Instant>>,
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
            idle: Mutex::default(),
            places: Semaphore::new(0),
            permits: Mutex::new(0),
            is_failing: AtomicBool::new(false),
            said: Mutex::new(None),
            asked: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            answered: Mutex::new(None),
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

    /// Whether it is known to be down: a connection to it failed, or a try was over without a word
    /// from it to anybody; and it has not answered since.
    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Waits for a place: the right to use one connection. Who came first gets it first.
    pub(super) async fn place(&self, limits: &Limits) -> Option<SemaphorePermit<'_>> {
        self.allow(limits.upstream_connections);
        // The semaphore is never closed.
        self.places.acquire().await.ok()
    }

    /// Asks the server one question. Dropping the future ends the connection that it used.
    pub(super) async fn ask(
        &self,
        question: &Question,
        limits: &Limits,
        _place: Option<SemaphorePermit<'_>>,
    ) -> Result<Exchanged, Failure> {
        if self.way.is_udp() {
            let patience = limits.attempt_timeout;
            match self.way.ask(question, patience, self.cells()).await {
                Ok(Said::Whole(exchanged)) => return Ok(self.lives(exchanged)),
                Ok(Said::Truncated) => {}
                Err(outcome) => return Err(self.failed(Failure::Outcome(outcome))),
            }
        }
        let request = Request::new(question, self.asked.fetch_add(1, Relaxed));
        while let Some(idle) = self.take_idle(limits) {
            match idle.exchange(&request, self.cells()).await {
                Ok((connection, exchanged)) => return Ok(self.answered(connection, exchanged)),
                // It ended while it waited, most likely: at once on another.
                Err(Failure::Stale) => {}
                Err(failure) => return Err(self.failed(failure)),
            }
            // One that had been idle has failed: the others may be as old.
            lock(&self.idle).clear();
        }
        let fresh = match self.connect(limits).await {
            Ok(fresh) => fresh,
            Err(outcome) => return Err(self.failed(Failure::Outcome(outcome))),
        };
        match fresh.exchange(&request, self.cells()).await {
            Ok((connection, exchanged)) => Ok(self.answered(connection, exchanged)),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// Opens a connection, or says how that ended.
    pub(super) async fn connect(&self, limits: &Limits) -> Result<Connection, Outcome> {
        let within = limits.connect_timeout;
        let stream = self.way.connect(within, self.cells()).await?;
        let turn = self.asked.load(Relaxed);
        let spread = u32::try_from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0);
        let max_age = MAX_AGE * 4 / 5 + MAX_AGE * 2 / 5 * spread / 256;
        Ok(Connection::new(
            stream,
            max_age,
            &self.telemetry,
            self.index,
        ))
    }

    /// Counts a failed try and says so once.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        let outcome = match failure {
            Failure::Outcome(outcome) => outcome,
            Failure::Stale => Outcome::Closed,
        };
        self.cells().end(outcome);
        // A timeout may be that of one name: `timed_out` judges it.
        if failure.is_network() || outcome.is_of_tls() || outcome == Outcome::ConnectTimeout {
            self.is_down.store(true, Relaxed);
        }
        if self.may_say() {
            self.is_failing.store(true, Relaxed);
            let (_, error) = Outcome::ALL[outcome as usize];
            tracing::warn!(upstream = %self.address, error, "an upstream does not answer");
        }
        Failure::Outcome(outcome)
    }

    /// Counts a try that began at `since` and got no answer in time. Connections that nothing has
    /// come over since then may lead to where this one led: into the void, when a server's host
    /// has died without a word. The next try must not be spent on another of them.
    pub(super) fn timed_out(&self, since: Instant) {
        lock(&self.idle).retain(|connection| connection.was_used_since(since));
        if lock(&self.answered).is_none_or(|answered| answered < since) {
            self.is_down.store(true, Relaxed);
        }
        self.failed(Failure::Outcome(Outcome::Timeout));
    }

    fn may_say(&self) -> bool {
        if self.is_failing.load(Relaxed) {
            return false;
        }
        let now = Instant::now();
        let mut said = lock(&self.said);
        let is_due = said.is_none_or(|last| now >= last + SAID_EVERY);
        if is_due {
            *said = Some(now);
        }
        is_due
    }

    /// Closes connections that have waited for `idle` without a query.
    pub(super) fn close_idle(&self, idle: Duration) {
        let now = Instant::now();
        lock(&self.idle).retain_mut(|connection| connection.is_usable(now, idle));
    }

    fn answered(&self, connection: Connection, exchanged: Exchanged) -> Exchanged {
        lock(&self.idle).push(connection);
        self.lives(exchanged)
    }

    fn lives(&self, exchanged: Exchanged) -> Exchanged {
        self.cells().end(exchanged.outcome());
        self.is_down.store(false, Relaxed);
        *lock(&self.answered) = Some(Instant::now());
        if self.is_failing.swap(false, Relaxed) {
            tracing::info!(upstream = %self.address, "an upstream answers again");
        }
        exchanged
    }

    /// The connection that was used last: those used least go unused and end.
    fn take_idle(&self, limits: &Limits) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
            if connection.is_usable(now, limits.upstream_idle) {
                return Some(connection);
            }
        }
        None
    }

    /// Follows the limit on connections as it is configured.
    fn allow(&self, connections: usize) {
        let wanted = connections;
        let mut permits = lock(&self.permits);
        if *permits < wanted {
            self.places.add_permits(wanted - *permits);
            *permits = wanted;
        } else if *permits > wanted {
            // What is in use now is taken away when it comes back.
            *permits -= self.places.forget_permits(*permits - wanted);
        }
    }

    fn cells(&self) -> &UpstreamCells {
        self.telemetry.resolve.upstream(self.index)
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

impl Resolver {
    /// Closes upstream connections that wait too long; once a second.
    pub fn close_idle(&self) {
        let idle = self.limits.load().upstream_idle;
        for server in self.routes.load().servers() {
            server.close_idle(idle);
        }
    }

    /// Whether any server of any zone takes a connection, or answers where it is asked over UDP.
    pub async fn reaches_an_upstream(&self) -> bool {
        let limits = self.limits.load_full();
        let routes = self.routes.load_full();
        for server in routes.servers() {
            if server.way().is_udp() {
                if self.answers_over_udp(server, &limits).await {
                    return true;
                }
                continue;
            }
            if let Ok(connection) = server.connect(&limits).await {
                lock(&server.idle).push(connection);
                return true;
            }
        }
        false
    }
}
