// SPDX-License-Identifier: Apache-2.0
//! Answers to those who wait: each gets its own ID, letter case, size and EDNS.

use std::time::Duration;

use super::{Resolver, To, Waiter, lock};
use crate::telemetry::clock::Clock;
use crate::telemetry::counters::Channel;
use crate::wire::answer::Answer;
use crate::wire::edns::ExtendedError;
use crate::wire::query::Query;
use crate::wire::question::Question;
use crate::wire::reply::{self, Shape};
use crate::wire::{MAX_MESSAGE, rcode};

/// Octets of the length in front of a message over TCP (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;
/// Room for a length and the largest message.
pub(super) const BUFFER: usize = PREFIX + MAX_MESSAGE;

impl Resolver {
    /// Answers all of `waiters`.
    pub(super) fn answer(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        zone: u16,
        answer: &Answer<'_>,
    ) {
        self.settle(
            waiters,
            question,
            zone,
            answer.flags.rcode(),
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
            zone,
            rcode::SERVFAIL,
            |message, query, shape| reply::failure(message, query, rcode::SERVFAIL, why, shape),
        );
    }

    fn settle(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        question: &Question,
        zone: u16,
        rcode: u16,
        write: impl Fn(&mut [u8], &Query, &Shape) -> usize,
    ) {
        let mut buffer = lock(&self.buffer);
        let now_ns = Clock.now_ns();
        let cells = &self.telemetry.resolve;
        for waiter in waiters {
            let (prefix, message) = buffer.split_at_mut(PREFIX);
            let query = waiter.asked.restore(message);
            let shape = self.shape(&waiter.to, &query);
            let length = write(message, &query, &shape);
            if length == 0 {
                continue;
            }
            let channel = waiter.to.channel();
            match waiter.to {
                To::Datagram { client, listener } => {
                    if let Some(socket) = lock(&self.listeners).get(&listener)
                        && lock(&self.outbox).put(socket, client, &message[..length])
                    {
                        self.posted.notify_one();
                    }
                }
                To::Stream { replies, .. } => {
                    let prefix_value = u16::try_from(length).unwrap_or(u16::MAX);
                    prefix.copy_from_slice(&prefix_value.to_be_bytes());
                    // It fails only where the connection is gone: it has a place for every query
                    // that it let in.
                    let _ = replies.try_send(buffer[..PREFIX + length].to_vec());
                }
            }
            cells.answers.count(zone, channel, question.qtype(), rcode);
            let took = Duration::from_nanos(now_ns.saturating_sub(waiter.arrived_ns));
            cells.miss_latency.record(took, 1);
        }
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
    /// Transport and family, as counters have it.
    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Datagram { client, .. } => Channel::udp(client.is_ipv6()),
            Self::Stream { is_ipv6, .. } => Channel::tcp(*is_ipv6),
        }
    }
}
