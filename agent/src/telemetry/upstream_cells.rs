// SPDX-License-Identifier: Apache-2.0
//! What is counted of each upstream server. The cold thread writes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::counters::{RCODES, add, rcode_index};
use super::latency::{Distribution, Latency};

/// How one try at an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response that belongs to the query, whatever its code.
    Answered,
    /// No response within the attempt's time.
    Timeout,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// The connection was refused.
    Refused,
    /// No route to the address.
    Unreachable,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the response was complete.
    Closed,
    /// A response with another ID.
    WrongId,
    /// A response to another question.
    WrongQuestion,
    /// A response that is malformed, or no response at all (QR clear).
    Malformed,
    /// A response with TC set, over TCP too; or over UDP: TCP follows.
    Truncated,
    /// The same question, asked a second time, was answered first.
    Outpaced,
    /// The server's certificate is not one that it may have.
    Certificate,
    /// The two ends do not agree on how to speak TLS.
    Tls,
    /// Any other failure of the system.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their index, with their label values.
    pub const ALL: [(Self, &str); 15] = [
        (Self::Answered, "answered"),
        (Self::Timeout, "timeout"),
        (Self::ConnectTimeout, "connect_timeout"),
        (Self::Refused, "refused"),
        (Self::Unreachable, "unreachable"),
        (Self::Reset, "reset"),
        (Self::Closed, "closed"),
        (Self::WrongId, "wrong_id"),
        (Self::WrongQuestion, "wrong_question"),
        (Self::Malformed, "malformed"),
        (Self::Truncated, "truncated"),
        (Self::Outpaced, "outpaced"),
        (Self::Certificate, "certificate"),
        (Self::Tls, "tls"),
        (Self::Failed, "failed"),
    ];
}

/// What is counted of one upstream server.
#[derive(Debug, Default)]
pub struct UpstreamCells {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    opened: AtomicU64,
    closed: AtomicU64,
    circles: AtomicU64,
    without_tcp: AtomicU64,
    hedges: AtomicU64,
    moves: AtomicU64,
    is_up: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    depth: AtomicU64,
    smoothed_us: AtomicU64,
    p95_us: AtomicU64,
    /// By response code; made with the first.
    responses: [OnceLock<Box<Latency>>; RCODES.len()],
}

/// How an upstream server stood when it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamGauges {
    /// Whether it is asked, for some zone.
    pub is_up: bool,
    /// Queries under way.
    pub in_flight: u64,
    /// Queries that wait for a connection.
    pub waiting: u64,
    /// Queries that may be under way on one connection.
    pub depth: u64,
    /// The smoothed time of an answer in µs; 0 before the first.
    pub smoothed_us: u64,
    /// The time below which 95 of 100 answers came, in µs; 0 before there were enough.
    pub p95_us: u64,
}

impl UpstreamCells {
    /// Notes how the server stands.
    pub fn show(&self, gauges: &UpstreamGauges) {
        self.is_up.store(gauges.is_up.into(), Relaxed);
        self.in_flight.store(gauges.in_flight, Relaxed);
        self.waiting.store(gauges.waiting, Relaxed);
        self.depth.store(gauges.depth, Relaxed);
        self.smoothed_us.store(gauges.smoothed_us, Relaxed);
        self.p95_us.store(gauges.p95_us, Relaxed);
    }

    /// What [`Self::show`] noted last.
    #[must_use]
    pub fn gauges(&self) -> UpstreamGauges {
        UpstreamGauges {
            is_up: self.is_up.load(Relaxed) == 1,
            in_flight: self.in_flight.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            depth: self.depth.load(Relaxed),
            smoothed_us: self.smoothed_us.load(Relaxed),
            p95_us: self.p95_us.load(Relaxed),
        }
    }

    /// Counts a query that is asked a second time while the first is under way.
    pub fn hedge(&self) {
        add(&self.hedges, 1);
    }

    /// Queries that were asked a second time.
    #[must_use]
    pub fn hedges(&self) -> u64 {
        self.hedges.load(Relaxed)
    }

    /// Counts a response that belongs to its query.
    pub fn respond(&self, rcode: u16, took: Duration) {
        let latency = self.responses[rcode_index(rcode)].get_or_init(Box::default);
        latency.record(took, 1);
    }

    /// How long responses took, with the place of their code in [`RCODES`].
    pub(super) fn responses(&self) -> impl Iterator<Item = (usize, Distribution)> {
        let responses = self.responses.iter().enumerate();
        responses.filter_map(|(rcode, latency)| {
            let mut distribution = Distribution::default();
            distribution.add(latency.get()?);
            Some((rcode, distribution))
        })
    }

    /// Counts a query that is asked again because others hold it up on its connection.
    pub fn move_on(&self) {
        add(&self.moves, 1);
    }

    /// Queries that were asked again because others held them up on their connection.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Counts the end of one try.
    pub fn end(&self, outcome: Outcome) {
        add(&self.outcomes[outcome as usize], 1);
    }

    /// Counts a connection that was opened.
    pub fn open(&self) {
        add(&self.opened, 1);
    }

    /// Counts the end of a connection that was opened.
    pub fn close(&self) {
        add(&self.closed, 1);
    }

    /// Queries come back in so many zones.
    pub fn set_circles(&self, zones: u64) {
        self.circles.store(zones, Relaxed);
    }

    /// Zones in which queries come back.
    #[must_use]
    pub fn circles(&self) -> u64 {
        self.circles.load(Relaxed)
    }

    /// Whether the server answers over UDP and takes no TCP connection.
    pub fn set_without_tcp(&self, is_so: bool) {
        self.without_tcp.store(is_so.into(), Relaxed);
    }

    /// 1 where it was found so.
    #[must_use]
    pub fn without_tcp(&self) -> u64 {
        self.without_tcp.load(Relaxed)
    }

    /// Tries so far, in the order of [`Outcome::ALL`].
    #[must_use]
    pub fn outcomes(&self) -> [u64; Outcome::ALL.len()] {
        self.outcomes.each_ref().map(|cell| cell.load(Relaxed))
    }

    /// Connections opened and connections closed so far.
    #[must_use]
    pub fn connections(&self) -> (u64, u64) {
        // Closed first: one that is opened and closed in between must not make more closed.
        let closed = self.closed.load(Relaxed);
        (self.opened.load(Relaxed), closed)
    }
}
