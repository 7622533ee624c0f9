// SPDX-License-Identifier: Apache-2.0
//! The upstreams as they stand: looked after once a second, and shown to who asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::in_force::InForce;
use super::upstream::Server;
use super::{Resolver, lock};
use crate::config::Limits;
use crate::telemetry::cells::{Outcome, UpstreamGauges};

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is, and answers as far as is known.
    Up,
    /// It has failed, and is left alone where the zone has others; one query looks whether it is
    /// back.
    Failing,
    /// It has failed while nothing came from it, and has not answered since.
    Down,
}

impl State {
    /// As it is shown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Failing => "failing",
            Self::Down => "down",
        }
    }
}

/// What is known of one server of one zone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The zone's name, with the dot at its end.
    pub zone: String,
    /// The server.
    pub address: SocketAddr,
    /// The index of its address in counters.
    pub index: u16,
    /// Whether it is asked.
    pub state: State,
    /// The smoothed time of an answer; `None` before the first.
    pub smoothed: Option<Duration>,
    /// The time below which 95 of 100 answers came; `None` before there were enough.
    pub p95: Option<Duration>,
    /// Queries under way.
    pub in_flight: usize,
    /// How many of them may be on one connection.
    pub depth: usize,
    /// Queries that wait for a connection.
    pub waiting: usize,
    /// Connections that wait for a query.
    pub idle: usize,
    /// Connections being opened.
    pub dialling: usize,
    /// Ages of the connections that wait for a query: the youngest, the oldest.
    pub ages: Option<(Duration, Duration)>,
    /// How long ago it last answered.
    pub last_answer: Option<Duration>,
    /// Its last failure, and how long ago that was.
    pub last_error: Option<(Outcome, Duration)>,
    /// Tries so far by how they ended, in the order of [`Outcome::ALL`]; those of other zones at the
    /// same address are in it.
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Queries that were asked a second time, with those of other zones at the same address.
    pub hedges: u64,
}

impl Outcome {
    /// What happened, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Answered => "it answered",
            Self::Timeout => "no answer came in time",
            Self::ConnectTimeout => "no connection could be opened in time",
            Self::Refused => "the connection was refused: nobody listens there",
            Self::Unreachable => "there is no route to the address",
            Self::Reset => "the connection was reset",
            Self::Closed => "the connection was closed before the answer was complete",
            Self::WrongId => "an answer with another ID came",
            Self::WrongQuestion => "an answer to another question came",
            Self::Malformed => "what came was no DNS response",
            Self::Truncated => "the answer was cut short over TCP",
            Self::Outpaced => "another connection answered sooner",
            Self::Certificate => "its certificate is not one that it may have",
            Self::Tls => "the two ends do not agree on how to speak TLS",
            Self::Failed => "the system would not open or use the connection",
        }
    }
}

impl Resolver {
    /// Closes upstream connections that wait too long, opens those that will be needed, and brings
    /// the gauges up to date; once a second.
    pub fn look_after_upstreams(&self) {
        let in_force = self.in_force();
        for server in in_force.routes.servers() {
            server.look_after(in_force.limits.upstream_idle);
        }
        let cells = &self.telemetry.resolve;
        let mut all = vec![UpstreamGauges::default(); self.telemetry.upstreams.load().len()];
        for snapshot in self.upstreams() {
            let Some(gauges) = all.get_mut(usize::from(snapshot.index)) else {
                continue;
            };
            // Several zones may have one server, with connections of their own each.
            gauges.is_up |= snapshot.state == State::Up;
            gauges.in_flight += count(snapshot.in_flight);
            gauges.waiting += count(snapshot.waiting);
            gauges.depth = gauges.depth.max(count(snapshot.depth));
            gauges.smoothed_us = gauges.smoothed_us.max(micros(snapshot.smoothed));
            gauges.p95_us = gauges.p95_us.max(micros(snapshot.p95));
        }
        for (index, gauges) in (0..).zip(&all) {
            cells.upstream(index).show(gauges);
        }
        let outgoing = self.outgoing.load(std::sync::atomic::Ordering::Relaxed);
        let largest = lock(&self.flights).largest_share();
        cells.show_queue();
        cells.show_use(count(outgoing), count(largest));
    }

    /// Every server of every zone as it stands.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Snapshot> {
        let now = Instant::now();
        let routes = self.routes();
        let mut all: Vec<Snapshot> = routes
            .by_zone()
            .map(|(zone, server)| Snapshot {
                zone: zone.to_string(),
                ..server.snapshot(now)
            })
            .collect();
        all.sort_by(|one, two| (&one.zone, one.address).cmp(&(&two.zone, two.address)));
        all
    }

    /// Whether a server of the root zone takes a connection, or answers where it is asked over UDP.
    /// Those of other zones say nothing of CoreDNS, and count only where the root zone has none. All are
    /// asked at once.
    pub async fn reaches_an_upstream(self: &Arc<Self>) -> bool {
        let InForce { routes, limits, .. } = InForce::clone(&self.in_force());
        let mut servers = routes.of(&[0]).all_servers().to_vec();
        if servers.is_empty() {
            servers = routes.servers().cloned().collect();
        }
        let mut looks: JoinSet<bool> = servers
            .into_iter()
            .map(|server| {
                let (resolver, limits) = (Arc::clone(self), Arc::clone(&limits));
                async move { resolver.reaches(&server, &limits).await }
            })
            .collect();
        while let Some(reached) = looks.join_next().await {
            if matches!(reached, Ok(true)) {
                return true;
            }
        }
        false
    }

    async fn reaches(&self, server: &Arc<Server>, limits: &Limits) -> bool {
        if server.way().is_udp() {
            return self.answers_over_udp(server, limits).await;
        }
        let connection = server.connect(limits.connect_timeout).await;
        connection.is_ok_and(|connection| {
            server.adopt(&connection);
            true
        })
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn micros(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| {
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    })
}
