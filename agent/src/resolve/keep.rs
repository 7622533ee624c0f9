// SPDX-License-Identifier: Apache-2.0
//! What is kept of an answer, under which question, for how long (RFC 2181 section 8, RFC 2308,
//! RFC 8767, RFC 9520).

use super::cuts::Cut;
use super::message::Exchanged;
use super::routes::Route;
use super::{Resolver, lock};
use crate::cache::{Cache, Draft, Tick};
use crate::telemetry::cells::{Event, Unfit};
use crate::wire::answer::{Answer, Standing};
use crate::wire::chain::Chain;
use crate::wire::header::Flags;
use crate::wire::question::Question;
use crate::wire::rcode;
use crate::wire::response::Response;

/// How long an answer that says "no" without an SOA is kept, in seconds. RFC 2308 section 5 keeps
/// it not at all; a second damps a client that asks again at once.
const DAMPING_SECONDS: u32 = 1;

/// How long the first failure of a question is remembered, in seconds; each that follows twice as
/// long as the one before (RFC 9520 section 3.2).
const FAILURE_SECONDS: u32 = 1;
/// How long after its end a failure counts for the next one, in seconds.
const FAILURE_COUNTS_SECONDS: u32 = 10;

impl Resolver {
    /// Keeps an answer for as long as its records and its zone allow. Returns questions that are
    /// worth asking now that it is known.
    pub(super) fn keep(
        &self,
        question: &Question,
        route: &Route,
        exchanged: &Exchanged,
        upstream: u16,
        now: Tick,
    ) -> Vec<Question> {
        let mut ahead = Vec::new();
        let response = &exchanged.response;
        let cells = &self.telemetry.resolve;
        // Else it is for those who wait, and for nobody after them.
        let in_force = self.in_force();
        if !in_force.has(question, route) {
            return ahead;
        }
        if response.flags.has(Flags::TC) {
            return ahead;
        }
        if response.chain != Chain::Sound {
            cells.unfit(Unfit::OutsideChain);
            return ahead;
        }
        let [answers, ..] = response.counts;
        let is_damped = answers == 0 && response.negative_ttl.is_none();
        let is_open = !response.has_wanted && response.negative_ttl.is_none();
        let key = match (response.rcode, answers) {
            (rcode::NOERROR, _) => {
                self.exists(question, answers > 0, route, now);
                self.cut_nothing_above(question.name(), route, now);
                *question
            }
            (rcode::NXDOMAIN, 0) => {
                let keeps_name = !is_damped && lifetime(response, route).is_some();
                self.denied(question, keeps_name, route, now)
            }
            // It speaks of the chain's target (RFC 6604 section 3), not of this name.
            (rcode::NXDOMAIN, _) => {
                self.cut_nothing_above(question.name(), route, now);
                *question
            }
            _ => return ahead,
        };
        if response.has_foreign_soa {
            cells.unfit(Unfit::ForeignSoa);
        } else if is_damped && response.rcode == rcode::NXDOMAIN {
            cells.unfit(Unfit::NoSoa);
        }
        let Some(seconds) = lifetime(response, route) else {
            // What was true before is not any more.
            let own = question.as_octets();
            self.cache
                .retain_of(question.name(), |entry| entry.question() != own);
            return ahead;
        };
        let settings = &in_force.settings;
        let expires = now.after_seconds(seconds);
        let stale_for = if is_open { 0 } else { settings.stale_seconds() };
        if (response.rcode, answers) == (rcode::NXDOMAIN, 0) {
            // What was asked under another name says nothing of those beside this one.
            if route.rewrites.is_empty() {
                let cut = Cut::of(exchanged, upstream, [now, expires]);
                ahead = self.cut_above(question, route, cut, now);
            }
        }
        let mut answer = exchanged.answer();
        if route.rotates {
            answer.turns = answer.find_turns();
        }
        let draft = Draft {
            dies: expires.after_seconds(stale_for),
            early: if settings.prefetch { early(seconds) } else { 0 },
            upstream,
            ..Draft::new(&key, answer, route.zone, [now, expires])
        };
        // The clients have their answer anyway.
        if self.cache.insert(&draft).is_err() {
            cells.unfit(Unfit::NoRoom);
        }
        ahead
    }

    /// Remembers that the upstreams failed a question, for a short while. An answer that could
    /// still be sent stays in its place.
    pub(super) fn remember_failure(&self, question: &Question, rcode: u16, route: &Route) {
        let now = Tick::of(self.now());
        let mut seconds = FAILURE_SECONDS;
        {
            let mut reader = lock(&self.reader);
            let session = reader.online();
            if let Some(entry) = session.peek(question) {
                if entry.is_fresh(now) {
                    return;
                }
                if entry.standing() == Standing::Failure && now < entry.dies() {
                    let last = entry.expires().seconds_since(entry.stored());
                    let longest = route.max_failure_ttl.max(FAILURE_SECONDS);
                    seconds = (last * 2).clamp(FAILURE_SECONDS, longest);
                }
            }
        }
        let expires = now.after_seconds(seconds);
        let answer = Answer {
            flags: Flags(rcode),
            standing: Standing::Failure,
            ..Answer::NOTHING
        };
        let draft = Draft {
            dies: expires.after_seconds(FAILURE_COUNTS_SECONDS),
            ..Draft::new(question, answer, route.zone, [now, expires])
        };
        let cells = &self.telemetry.resolve;
        if insert(&self.cache, &draft) {
            cells.happened(Event::Failure, route.zone);
        }
    }
}

impl Route {
    /// Raises the TTLs of an answer to the least that the zone wants.
    pub(super) fn raise_ttls(&self, exchanged: &mut Exchanged) {
        let [least, least_negative] = self.least_ttls;
        let least = match exchanged.response.rcode {
            rcode::NOERROR if exchanged.response.has_wanted => least.min(self.max_ttl),
            _ => least_negative.min(self.max_negative_ttl),
        };
        if least > 0 {
            exchanged.raise_ttls(least);
        }
    }
}

/// Where there is no room the next client asks upstream again: no harm.
pub(super) fn insert(cache: &Cache, draft: &Draft<'_>) -> bool {
    cache.insert(draft).is_ok()
}

/// How long before its end an answer of so many seconds is due, in ticks: a tenth of its life and
/// at least a second of it, but never more than half of it, or a short-lived name would be asked
/// for without a pause.
fn early(seconds: u32) -> u16 {
    const TICKS: u32 = 10;
    let life = seconds.saturating_mul(TICKS);
    let early = (life / 10).max(TICKS).min(life / 2);
    u16::try_from(early).unwrap_or(u16::MAX)
}

/// How long an answer may be kept, in seconds; `None` is not at all.
pub(super) fn lifetime(response: &Response, route: &Route) -> Option<u32> {
    if response.flags.has(Flags::TC) {
        return None;
    }
    let denied = response
        .negative_ttl
        .map(|seconds| seconds.min(route.max_negative_ttl));
    let [answers, ..] = response.counts;
    let seconds = match (response.rcode, answers) {
        // A chain of CNAMEs that ends in nothing has both.
        (rcode::NOERROR | rcode::NXDOMAIN, 1..) => {
            let positive = response.min_ttl.unwrap_or(0).min(route.max_ttl);
            let undenied = match response.rcode {
                rcode::NXDOMAIN => DAMPING_SECONDS,
                _ if response.has_wanted => positive,
                // Its target has no such data, or could not be resolved: it does not say. CoreDNS
                // answers so for the AAAA of an ExternalName.
                _ => route.max_negative_ttl,
            };
            positive.min(denied.unwrap_or(undenied))
        }
        (rcode::NOERROR | rcode::NXDOMAIN, 0) => denied.unwrap_or(DAMPING_SECONDS),
        _ => 0,
    };
    (seconds > 0).then_some(seconds)
}
