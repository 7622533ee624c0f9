// SPDX-License-Identifier: Apache-2.0
//! The load generator: one thread a client, every reply verified.
//!
//! *Closed loop*: each client keeps a window of queries under way, in batches, so that it costs
//! less than the server; it finds what a CPU-second of the server is good for. *Paced*: queries
//! are due at their own times; between them the client sleeps in the kernel. It never spins: a
//! spinning client keeps its CPU awake and hides what a wakeup costs.

mod flight;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::set_current_timer_slack;
use serde_json::{Value, json};

use self::flight::Flight;
use super::histogram::Histogram;
use super::link::{Link, Tcp, Udp, Wait};
use super::names::{Names, Picker};
use super::question::{self, Expect, LONGEST_QUERY, Wrong};
use super::{Random, now_ns, pin};

/// Queries that a paced client can have under way; one more has to wait.
const PACED_WINDOW: usize = 1 << 14;

/// How queries travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams from one socket a client.
    Udp,
    /// This many connections a client, with pipelined queries.
    Tcp {
        /// At least 1.
        connections: usize,
    },
}

/// When queries leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each client has this many queries under way.
    Closed {
        /// At least 1, at most 16,384.
        window: usize,
    },
    /// This many queries a second of all clients together.
    Paced {
        /// More than 0.
        per_second: f64,
        /// How they are spread.
        spacing: Spacing,
        /// What a client does until its reply comes.
        meanwhile: Meanwhile,
    },
}

/// What a paced client does between a query and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Blocks in the kernel for the reply alone, then sleeps until the next query is due: a stub
    /// resolver. A slow server delays the queries behind; the lateness tells.
    Block,
    /// Sends the next query when it is due, whatever the server does. Each wait has a timer,
    /// which costs the CPU that the server may share.
    Send,
}

/// The time between two queries of a paced client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Always the same; the clients in turn.
    Even,
    /// Exponential: as many independent programs send.
    Poisson,
}

/// A run of load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Who is asked.
    pub server: SocketAddr,
    /// How.
    pub transport: Transport,
    /// When.
    pub pace: Pace,
    /// What for.
    pub names: Names,
    /// What must come back.
    pub expect: Expect,
    /// One client thread each; pinned to a CPU or left to the scheduler.
    pub clients: Vec<Option<usize>>,
    /// How long queries are sent. With [`super::names::Pick::Once`] the names may end before.
    pub duration: Duration,
    /// A query without a reply for so long is lost.
    pub timeout: Duration,
    /// Picks of names and pauses follow from it.
    pub seed: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Queries sent.
    pub sent: u64,
    /// Right replies.
    pub received: u64,
    /// Queries without a reply within the timeout.
    pub lost: u64,
    /// Replies to a query of ours that were not what they must be.
    pub wrong: u64,
    /// Replies to no query of ours under way: late ones, doubles, other IDs.
    pub stray: u64,
    /// Queries that the kernel could not deliver as no one listened.
    pub refused: u64,
    /// From the first query to the end of the last client.
    pub elapsed: Duration,
    /// From the sending of a query to its right reply.
    pub latency: Histogram,
    /// From the moment a paced query was due to its sending: what the client itself adds.
    pub lateness: Histogram,
    /// The first wrong reply, told.
    pub first_wrong: Option<String>,
}

impl Outcome {
    /// Right replies a second.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "queries are counted far below 2^53"
    )]
    pub fn per_second(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The share of queries that were lost, 0 to 1.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "queries are counted far below 2^53"
    )]
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// Everything as JSON, durations in microseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let quantiles = |histogram: &Histogram| {
            json!({
                "p50_us": micros(histogram.quantile(0.50)),
                "p99_us": micros(histogram.quantile(0.99)),
                "p999_us": micros(histogram.quantile(0.999)),
            })
        };
        json!({
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "wrong": self.wrong,
            "stray": self.stray,
            "refused": self.refused,
            "elapsed_s": self.elapsed.as_secs_f64(),
            "per_second": self.per_second(),
            "latency": quantiles(&self.latency),
            "lateness": quantiles(&self.lateness),
            "first_wrong": self.first_wrong,
        })
    }

    fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.stray += other.stray;
        self.refused += other.refused;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.merge(&other.latency);
        self.lateness.merge(&other.lateness);
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
    }
}

/// Microseconds with the nanoseconds behind the point.
#[must_use]
pub fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

impl Load {
    /// Runs the load and returns once every query has its reply or is lost.
    ///
    /// # Errors
    /// A description that makes no sense, and what the kernel says of sockets, threads and
    /// affinity. Lost queries and wrong replies are no error: they are counted.
    pub fn run(&self) -> Result<Outcome> {
        ensure!(!self.clients.is_empty(), "no clients");
        match self.pace {
            Pace::Closed { window } => {
                ensure!((1..=PACED_WINDOW).contains(&window), "window of {window}");
            }
            Pace::Paced { per_second, .. } => {
                ensure!(
                    per_second > 0.0 && per_second.is_finite(),
                    "{per_second} queries a second"
                );
            }
        }
        let start = Barrier::new(self.clients.len());
        let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
            let clients: Vec<_> = self
                .clients
                .iter()
                .enumerate()
                .map(|(number, &place)| {
                    let start = &start;
                    scope.spawn(move || self.run_client(number, place, start))
                })
                .collect();
            clients
                .into_iter()
                .map(|client| {
                    client
                        .join()
                        .unwrap_or_else(|_| Err(anyhow!("client panicked")))
                })
                .collect()
        });
        let mut all = Outcome::default();
        for outcome in outcomes {
            all.merge(outcome?);
        }
        Ok(all)
    }

    fn run_client(&self, number: usize, place: Option<usize>, start: &Barrier) -> Result<Outcome> {
        // Whatever goes wrong here, the others wait at the barrier: arrive first, then fail.
        let placed = place.map_or(Ok(()), pin).context("pin a client");
        let precise = set_current_timer_slack(NonZeroU64::new(1)).context("set the timer slack");
        match self.transport {
            Transport::Udp => {
                let link = Udp::connect(self.server);
                start.wait();
                placed.and(precise)?;
                self.drive(number, link.context("connect over UDP")?)
            }
            Transport::Tcp { connections } => {
                let link = Tcp::connect(self.server, connections);
                start.wait();
                placed.and(precise)?;
                self.drive(number, link.context("connect over TCP")?)
            }
        }
    }

    fn drive(&self, number: usize, link: impl Link) -> Result<Outcome> {
        let begin = now_ns();
        let (part, parts) = (number as u64, self.clients.len() as u64);
        let slots = match self.pace {
            // Room for some lost ones, so that they do not hold up the rest.
            Pace::Closed { window } => (window * 4).next_power_of_two(),
            Pace::Paced { .. } => PACED_WINDOW,
        };
        let mut client = Client {
            link,
            names: &self.names,
            expect: self.expect,
            picker: self.names.picker(part, parts, self.seed),
            flight: Flight::new(slots, nanos(self.timeout)),
            scratch: [0; LONGEST_QUERY],
            outcome: Outcome::default(),
        };
        let end = begin + nanos(self.duration);
        match self.pace {
            Pace::Closed { window } => client.run_closed(window, end),
            Pace::Paced {
                per_second,
                spacing,
                meanwhile,
            } => {
                #[expect(clippy::cast_precision_loss, reason = "a count of threads")]
                let gap_ns = 1e9 * parts as f64 / per_second;
                #[expect(clippy::cast_precision_loss, reason = "counts of threads")]
                let phase = number as f64 / parts as f64;
                let clock = Clock::new(gap_ns, spacing, self.seed ^ (part + 1));
                client.run_paced(clock.starting(begin, phase), meanwhile, end)
            }
        }
        .context("talk to the server")?;
        client.outcome.elapsed = Duration::from_nanos(now_ns() - begin);
        Ok(client.outcome)
    }
}

/// The times at which a paced client sends. They are set beforehand: nothing waits for an answer.
pub(crate) struct Clock {
    /// The next one, in nanoseconds; a fraction is kept, so that the mean is exact.
    due: f64,
    gap_ns: f64,
    spacing: Spacing,
    random: Random,
}

impl Clock {
    /// Distances of `gap_ns`, or of so much on average; the same seed gives the same ones.
    pub(crate) fn new(gap_ns: f64, spacing: Spacing, seed: u64) -> Self {
        Self {
            due: 0.0,
            gap_ns,
            spacing,
            random: Random::new(seed),
        }
    }

    /// From this moment on, in nanoseconds of [`now_ns`], and so much of a distance later.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of uptime are below 2^53 for 104 days, and then right to 2 ns"
    )]
    pub(crate) fn starting(mut self, begin: u64, phase: f64) -> Self {
        self.due = begin as f64 + phase * self.gap_ns;
        if self.spacing == Spacing::Poisson {
            self.advance();
        }
        self
    }

    /// When the next one is due.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time in nanoseconds is positive and fits"
    )]
    pub(crate) fn due(&self) -> u64 {
        self.due as u64
    }

    /// Goes on to the next one.
    pub(crate) fn advance(&mut self) {
        self.due += match self.spacing {
            Spacing::Even => self.gap_ns,
            Spacing::Poisson => -(1.0 - self.random.fraction()).ln() * self.gap_ns,
        };
    }
}

/// One client thread.
struct Client<'a, L> {
    link: L,
    names: &'a Names,
    expect: Expect,
    picker: Picker,
    flight: Flight,
    /// The query that a reply must answer, written anew for the check.
    scratch: [u8; LONGEST_QUERY],
    outcome: Outcome,
}

impl<L: Link> Client<'_, L> {
    fn run_closed(&mut self, window: usize, end: u64) -> io::Result<()> {
        let mut sending = true;
        loop {
            let now = now_ns();
            sending = sending && now < end;
            while sending && self.flight.under_way < window && self.flight.has_room() {
                sending = self.send_next(now)?;
            }
            self.outcome.refused += self.link.flush()?;
            if !sending && self.flight.under_way == 0 {
                return Ok(());
            }
            self.receive(Wait::ForReplies)?;
        }
    }

    fn run_paced(&mut self, mut clock: Clock, meanwhile: Meanwhile, end: u64) -> io::Result<()> {
        let window = match meanwhile {
            Meanwhile::Block => 1,
            Meanwhile::Send => PACED_WINDOW,
        };
        let mut sending = true;
        loop {
            let now = now_ns();
            // Also when late: what was due and not sent by then is not sent.
            sending = sending && now < end && clock.due() < end;
            while sending
                && clock.due() <= now
                && self.flight.under_way < window
                && self.flight.has_room()
            {
                sending = self.send_next(now)?;
                self.outcome.lateness.record(now - clock.due());
                clock.advance();
                sending = sending && clock.due() < end;
            }
            self.outcome.refused += self.link.flush()?;
            if !sending && self.flight.under_way == 0 {
                return Ok(());
            }
            self.receive(if sending && self.flight.under_way < window {
                Wait::AtMost(Duration::from_nanos(clock.due().saturating_sub(now_ns())))
            } else {
                Wait::ForReplies
            })?;
        }
    }

    /// Puts the next query on its way. False if there are no more names.
    fn send_next(&mut self, now: u64) -> io::Result<bool> {
        let Some(index) = self.picker.next() else {
            return Ok(false);
        };
        let id = self.flight.start(now, index);
        let names = self.names;
        let write = |out: &mut [u8]| question::write(names, index, id, out);
        if !self.link.queue(write) {
            self.outcome.refused += self.link.flush()?;
            self.link.queue(write);
        }
        self.outcome.sent += 1;
        Ok(true)
    }

    fn receive(&mut self, wait: Wait) -> io::Result<()> {
        let Self {
            link,
            names,
            expect,
            flight,
            scratch,
            outcome,
            ..
        } = self;
        let mut now = 0;
        let refused = link.receive(wait, |reply| {
            if now == 0 {
                now = now_ns();
            }
            let Some((id, begun)) =
                question::id(reply).and_then(|id| Some((id, flight.finish(id)?)))
            else {
                outcome.stray += 1;
                return;
            };
            let len = question::write(names, begun.index, id, scratch);
            match question::check(&scratch[..len], reply, *expect) {
                Ok(()) => {
                    outcome.received += 1;
                    outcome.latency.record(now.saturating_sub(begun.sent_ns));
                }
                Err(wrong) => {
                    outcome.wrong += 1;
                    outcome
                        .first_wrong
                        .get_or_insert_with(|| tell(&scratch[..len], wrong, reply));
                }
            }
        })?;
        outcome.refused += refused;
        outcome.lost += flight.expire(if now == 0 { now_ns() } else { now });
        Ok(())
    }
}

/// A wrong reply for people.
fn tell(query: &[u8], wrong: Wrong, reply: &[u8]) -> String {
    let name = String::from_utf8_lossy(&query[question::HEADER..query.len() - 4]);
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '.' })
        .collect();
    let shown = &reply[..reply.len().min(64)];
    format!("the reply for {name} is {wrong}: {shown:02x?}")
}

/// A span in nanoseconds.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
