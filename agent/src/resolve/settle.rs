// SPDX-License-Identifier: Apache-2.0
//! Answers to those who wait: each gets its own ID, letter case, size and EDNS.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::outbox::Outbox;
use super::{Resolver, To, Waiter, lock};
use crate::telemetry::cells::OverLimit;
use crate::telemetry::clock::nanoseconds;
use crate::telemetry::counters::{Answered, Channel};
use crate::wire::answer::{Answer, Standing};
use crate::wire::edns::ExtendedError;
use crate::wire::query::Query;
use crate::wire::question::Question;
use crate::wire::reply::{self, Shape};
use crate::wire::{MAX_MESSAGE, rcode};

/// Octets of the length in front of a message over TCP (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;
/// Room for a length and the largest message.
const BUFFER: usize = PREFIX + MAX_MESSAGE;
/// Octets of answers that may wait for TCP connections to take them. All who wait for one answer
/// get it at once: without a bound one question for 65,535 octets could cost as much for each.
const MOST_OUTGOING: usize = 4 << 20;
/// An answer of so many octets goes out beyond the bound; `limits.inFlight` bounds them.
const SMALL: usize = 1232;

/// An answer for a TCP connection, counted for as long as it is kept.
#[derive(Debug)]
pub struct Reply {
    frame: Vec<u8>,
    outgoing: Arc<AtomicUsize>,
}

impl Reply {
    fn new(frame: &[u8], outgoing: &Arc<AtomicUsize>) -> Self {
        outgoing.fetch_add(frame.len(), Relaxed);
        Self {
            frame: frame.to_vec(),
            outgoing: Arc::clone(outgoing),
        }
    }

    /// The message with its length in front (RFC 1035 section 4.2.2).
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.outgoing.fetch_sub(self.frame.len(), Relaxed);
    }
}

/// What answers are written and sent with.
#[derive(Debug)]
pub(super) struct Post {
    /// Room for one reply.
    buffer: Vec<u8>,
    /// The sockets that UDP clients asked.
    pub(super) listeners: HashMap<u32, Arc<UdpSocket>, foldhash::quality::RandomState>,
    pub(super) outbox: Outbox,
}

impl Default for Post {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            listeners: HashMap::default(),
            outbox: Outbox::default(),
        }
    }
}

/// What clients are told, as far as it is counted.
#[derive(Clone, Copy)]
struct Told {
    zone: u16,
    /// At this moment of the agent's clock.
    now: Duration,
    rcode: u16,
    /// There is no record in the answer section.
    is_empty: bool,
    is_stale: bool,
}

impl Told {
    fn failure(zone: u16, now: Duration) -> Self {
        Self {
            zone,
            now,
            rcode: rcode::SERVFAIL,
            is_empty: true,
            is_stale: false,
        }
    }
}

impl Resolver {
    /// Answers all of `waiters`.
    pub(super) fn answer(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        zone: u16,
        answer: &Answer<'_>,
    ) {
        self.answer_at(waiters, question, zone, answer, self.now());
    }

    /// The same, at a moment of the agent's clock that was read already.
    pub(super) fn answer_at(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        zone: u16,
        answer: &Answer<'_>,
        now: Duration,
    ) {
        self.settle(
            waiters,
            question,
            Told {
                zone,
                now,
                rcode: answer.flags.rcode(),
                is_empty: answer.counts[0] == 0,
                is_stale: answer.standing == Standing::Stale,
            },
            |message, query, shape| reply::answer(message, query, answer, shape),
        );
    }

    /// Answers all of `waiters` with SERVFAIL.
    pub(super) fn fail(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        zone: u16,
        why: Option<ExtendedError>,
    ) {
        self.settle(
            waiters,
            question,
            Told::failure(zone, self.now()),
            |message, query, shape| reply::failure(message, query, rcode::SERVFAIL, why, shape),
        );
    }

    fn settle(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        told: Told,
        write: impl Fn(&mut [u8], &Query, &Shape) -> usize,
    ) {
        let Post {
            buffer,
            listeners,
            outbox,
        } = &mut *lock(&self.post);
        let now_ns = nanoseconds(told.now);
        let cells = &self.telemetry.resolve;
        for waiter in waiters {
            let (prefix, message) = buffer.split_at_mut(PREFIX);
            let query = waiter.asked.restore(message);
            let shape = self.shape(&waiter.to, &query);
            let mut length = write(message, &query, &shape);
            let mut told = told;
            if length > SMALL && self.has_too_much_for(&waiter.to, length) {
                let why = Some(ExtendedError::OVER_LIMIT);
                told = Told::failure(told.zone, told.now);
                length = reply::failure(message, &query, told.rcode, why, &shape);
                cells.refuse(OverLimit::Octets);
            }
            if length == 0 {
                continue;
            }
            let channel = waiter.to.channel();
            match waiter.to {
                To::Datagram { client, listener } => {
                    if let Some(socket) = listeners.get(&listener)
                        && outbox.put(socket, client, &message[..length])
                    {
                        self.posted.notify_one();
                    }
                }
                To::Stream { replies, .. } => {
                    let prefix_value = u16::try_from(length).unwrap_or(u16::MAX);
                    prefix.copy_from_slice(&prefix_value.to_be_bytes());
                    // It fails only where the connection is gone: it has a place for every query
                    // that it let in.
                    let reply = Reply::new(&buffer[..PREFIX + length], &self.outgoing);
                    let _ = replies.try_send(reply);
                }
            }
            cells.answers.count(&Answered {
                zone: told.zone,
                channel,
                qtype: question.qtype(),
                rcode: told.rcode,
                is_denial: told.rcode != rcode::NOERROR || told.is_empty,
                is_stale: told.is_stale,
                dnssec_ok: query.wants_dnssec(),
                asked_octets: waiter.asked.octets(),
                sent_octets: length,
            });
            let took = Duration::from_nanos(now_ns.saturating_sub(waiter.arrived_ns));
            cells.answers.took(told.zone, took, 1);
        }
    }

    /// Whether so many octets more would be too many for TCP connections to take.
    fn has_too_much_for(&self, to: &To, length: usize) -> bool {
        let is_kept = matches!(to, To::Stream { .. });
        is_kept && self.outgoing.load(Relaxed) + length > MOST_OUTGOING
    }

    fn shape(&self, to: &To, query: &Query) -> Shape {
        match *to {
            To::Datagram { .. } => Shape {
                limit: query.udp_limit(self.udp_size),
                udp_size: self.udp_size,
                keepalive: None,
            },
            To::Stream { keepalive, .. } => Shape {
                limit: MAX_MESSAGE,
                udp_size: self.udp_size,
                keepalive: Some(keepalive),
            },
        }
    }
}

impl To {
    /// The client's address.
    pub(super) fn client(&self) -> IpAddr {
        match self {
            Self::Datagram { client, .. } => client.ip(),
            Self::Stream { client, .. } => *client,
        }
    }

    /// Transport and family, as counters have it.
    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Datagram { client, .. } => Channel::udp(client.is_ipv6()),
            Self::Stream { client, .. } => Channel::tcp(client.is_ipv6()),
        }
    }
}
