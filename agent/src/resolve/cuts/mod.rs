// SPDX-License-Identifier: Apache-2.0
//! Nothing below a name that does not exist (RFC 8020): the end of what search lists cost.
//!
//! With `ndots:5` a pod in `prod` that wants `api.stripe.com` asks for `api.stripe.com.prod.svc.Z`,
//! `api.stripe.com.svc.Z` and `api.stripe.com.Z` before it asks for the name itself, Z being the
//! cluster's domain. All of them lie below `com.prod.svc.Z`, `com.svc.Z` and `com.Z`, and none of
//! these exists.
//!
//! ```text
//! a name below is denied ─► suspect ─ another one is ─► asked for, type A ─ NXDOMAIN ─► cut
//!          cut ─ runs out ─► one full name goes upstream ─ NXDOMAIN ─► cut ─► those who waited
//!  any of them ─ it, or a name below it, exists ─► barred for an hour
//! ```
//!
//! RFC 8020 wants an upstream that keeps to the tree of names, and a Corefile need not: a wildcard
//! or `template` below a name that is denied is hidden by a cut. So a cut is made for nothing but
//! such candidates, lives as long as any denial, and is bought anew with a whole name each time.
//!
//! A whole name that is denied says nothing about the others below: the pods of a StatefulSet get
//! ready one after the other. So the candidate is asked for once more with it, where the cut has
//! denied a name since that the upstream was not asked for; and a name that was denied by the cut
//! alone for a lifetime is asked for itself the next time, and again after a minute.

mod state;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub(super) use self::state::Cuts;
use super::message::Exchanged;
use super::routes::Route;
use super::{Resolver, Waiter, keep, lock};
use crate::cache::{DENIAL, Draft, Tick};
use crate::telemetry::cells::Event;
use crate::wire::answer::Answer;
use crate::wire::header::Flags;
use crate::wire::question::Question;
use crate::wire::{qtype, rcode};

/// A full name below a cut that has run out, under way. When it is dropped those who wait for what
/// it brings are told.
#[derive(Debug)]
pub(super) struct Renewal {
    resolver: Arc<Resolver>,
    above: Box<[u8]>,
    is_over: Arc<Notify>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        lock(&self.resolver.cuts).renewals.remove(&self.above);
        self.is_over.notify_waiters();
    }
}

/// What a cut that has run out has a question do.
#[derive(Debug)]
pub(super) enum Renewing {
    /// Go upstream, and tell others.
    Lead(Box<Renewal>),
    /// Wait for the one that is under way.
    Wait(Arc<Notify>),
}

/// The denial that stands for all names below a candidate.
#[derive(Debug)]
pub(super) struct Cut {
    /// The SOA record, its names in full: it can stand behind any question.
    soa: Vec<u8>,
    /// Where in it the TTL stands.
    ttl_at: [u8; 2],
    upstream: u16,
    stored: Tick,
    until: Tick,
}

impl Cut {
    /// What an upstream's denial has to say; `None` for one without an SOA.
    pub(super) fn of(
        exchanged: &Exchanged,
        upstream: u16,
        [stored, until]: [Tick; 2],
    ) -> Option<Self> {
        let (soa, ttl_at) = exchanged.soa()?;
        Some(Self {
            soa,
            ttl_at: u16::try_from(ttl_at).ok()?.to_le_bytes(),
            upstream,
            stored,
            until,
        })
    }

    /// The zone that the SOA shows.
    fn zone(&self) -> &[u8] {
        // Behind its name come type and class, and then the TTL.
        let end = usize::from(u16::from_le_bytes(self.ttl_at)).saturating_sub(4);
        self.soa.get(..end).unwrap_or_default()
    }

    pub(super) fn answer(&self, now: Tick) -> Answer<'_> {
        Answer {
            flags: Flags(rcode::NXDOMAIN),
            counts: [0, 1, 0],
            records: &self.soa,
            ttl_offsets: &self.ttl_at,
            age: now.seconds_since(self.stored),
            ..Answer::NOTHING
        }
    }
}

/// What is known of a candidate, for people who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Everything below it is denied.
    Cut {
        /// When its denial came.
        stored: Tick,
        /// How long it stands.
        until: Tick,
        /// The upstream that said it, by the index it has in counters.
        upstream: u16,
    },
    /// It, or a name below it, exists: it is no cut until then.
    Barred(Tick),
}

impl Resolver {
    /// Denies a name that lies below a cut.
    pub(super) fn answer_below_cut(
        &self,
        question: &Question,
        route: &Route,
        waiter: Waiter,
        now: Tick,
    ) -> Option<Waiter> {
        let Some(cut) = self.cut_above_of(question, route, now) else {
            return Some(waiter);
        };
        self.telemetry.resolve.miss(route.zone);
        self.answer([waiter], question, route.zone, &cut.answer(now));
        self.keep_denied(question, route, &cut, now);
        None
    }

    /// The cut that denies a question.
    fn cut_above_of(&self, question: &Question, route: &Route, now: Tick) -> Option<Arc<Cut>> {
        if !may_be_cut(question, route, now) {
            return None;
        }
        let cut = lock(&self.cuts).above(question.name(), &route.name, now)?;
        (!self.holds_data(question, now)).then_some(cut)
    }

    /// Keeps what a cut has denied, for those who ask again, at the workers; and no longer than the
    /// cut lives.
    fn keep_denied(&self, question: &Question, route: &Route, cut: &Cut, now: Tick) {
        self.telemetry.resolve.happened(Event::Cut, route.zone);
        let denial = question.with_type(DENIAL);
        let times = [cut.stored, cut.until];
        let draft = Draft {
            upstream: cut.upstream,
            ..Draft::new(&denial, cut.answer(now), route.zone, times)
        };
        keep::insert(&self.cache, &draft);
    }

    /// Waits for what a full name brings that is under way, until then. The cut that it has renewed,
    /// which denies this question too: the twin question for the other family is the rule, not the
    /// exception.
    pub(super) async fn renewed(
        &self,
        question: &Question,
        route: &Route,
        is_over: Arc<Notify>,
        until: Instant,
    ) -> Option<Arc<Cut>> {
        // One that takes too long is not waited for: all go upstream then.
        let _ = timeout_at(until, is_over.notified()).await;
        let now = Tick::of(self.now());
        let cut = self.cut_above_of(question, route, now)?;
        self.keep_denied(question, route, &cut, now);
        Some(cut)
    }

    /// Has one question at a time go upstream below a cut that has run out; `None` where there is
    /// none.
    pub(super) fn renewing(
        self: &Arc<Self>,
        question: &Question,
        route: &Route,
        now: Tick,
    ) -> Option<Renewing> {
        if !route.cuts || question.dnssec_ok() {
            return None;
        }
        let mut cuts = lock(&self.cuts);
        let above = cuts.run_out_above(question.name(), &route.name, now)?;
        if let Some(is_over) = cuts.renewals.get(above) {
            return Some(Renewing::Wait(Arc::clone(is_over)));
        }
        // Who is not believed renews nothing.
        if !route.trust.denies_by_name(question.qtype(), now) {
            return None;
        }
        let is_over = Arc::<Notify>::default();
        cuts.renewals.insert(above.into(), Arc::clone(&is_over));
        Some(Renewing::Lead(Box::new(Renewal {
            resolver: Arc::clone(self),
            above: above.into(),
            is_over,
        })))
    }

    /// Whether a cut would deny a question.
    pub(super) fn is_below_cut(&self, question: &Question, route: &Route, now: Tick) -> bool {
        may_be_cut(question, route, now)
            && lock(&self.cuts).denies(question.name(), &route.name, now)
            && !self.holds_data(question, now)
    }

    /// Takes note of a name that exists.
    pub(super) fn cut_nothing_above(&self, name: &[u8], route: &Route, now: Tick) {
        if route.cuts {
            lock(&self.cuts).exists(name, &route.name, now);
        }
    }

    /// Takes note of a name that does not exist. Returns the questions that are worth asking now.
    pub(super) fn cut_above(
        &self,
        question: &Question,
        route: &Route,
        cut: Option<Cut>,
        now: Tick,
    ) -> Vec<Question> {
        let is_believed = route.trust.denies_by_name(question.qtype(), now);
        if let Some(cut) = &cut {
            // A zone below a candidate, of servers that only the upstream knows of.
            self.cut_nothing_above(cut.zone(), route, now);
        }
        let Some(cut) = cut.filter(|_| route.cuts && is_believed && !question.dnssec_ok()) else {
            return Vec::new();
        };
        let wanted = lock(&self.cuts).denied(question.name(), &route.name, &Arc::new(cut), now);
        // A zone with servers of its own below a candidate is not its to deny.
        let in_force = self.in_force();
        wanted
            .iter()
            .filter(|candidate| !in_force.routes.has_zone_below(candidate))
            .map(|candidate| Question::of(candidate, qtype::A))
            .collect()
    }
}

/// Whether a question may be denied by a cut: where those who ask want no DNSSEC records, for there
/// are none that would prove it.
fn may_be_cut(question: &Question, route: &Route, now: Tick) -> bool {
    route.cuts && !question.dnssec_ok() && route.trust.denies_by_name(qtype::A, now)
}
