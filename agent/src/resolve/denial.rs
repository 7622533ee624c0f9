// SPDX-License-Identifier: Apache-2.0
//! When an NXDOMAIN denies a name and when only one type of it.
//!
//! RFC 2308 section 5 and RFC 8020 have NXDOMAIN speak of the name, for every type. Servers do not
//! keep to it: `template IN AAAA . { rcode NXDOMAIN }` is found in many a Corefile, and denies names
//! that have addresses. So a zone is believed no further than what was seen of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::Resolver;
use super::routes::Route;
use crate::cache::{DENIAL, Entry, Tick};
use crate::telemetry::cells::Event;
use crate::wire::answer::Standing;
use crate::wire::question::Question;
use crate::wire::{qtype, rcode};

/// Two answers about one name within so many ticks are of one mind of the server: nobody has made
/// or deleted the name in between.
const AT_ONCE: u32 = 10;
/// How long a zone that was caught is denied type by type, in seconds.
const DISTRUST_SECONDS: u32 = 3600;

/// What a zone's upstreams have shown of how they deny names.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// A name was seen that exists for A and for AAAA.
    is_vouched: AtomicBool,
    /// Until when names are denied type by type alone; 0 is not at all.
    distrusted_until: AtomicU32,
}

impl Trust {
    /// Whether an NXDOMAIN for this type speaks of all types. What is denied for A is taken for
    /// gone. One for another type counts only where the zone was seen to let AAAA exist beside A:
    /// until then it may be one that denies AAAA for every name there is.
    pub(super) fn denies_by_name(&self, qtype: u16, now: Tick) -> bool {
        let is_trusted = now.0 >= self.distrusted_until.load(Relaxed);
        is_trusted && (qtype == qtype::A || self.is_vouched.load(Relaxed))
    }

    fn vouch(&self) {
        self.is_vouched.store(true, Relaxed);
    }

    fn distrust(&self, now: Tick) {
        self.is_vouched.store(false, Relaxed);
        let until = now.after_seconds(DISTRUST_SECONDS);
        self.distrusted_until.store(until.0, Relaxed);
    }
}

/// What is held of a name for one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kin {
    /// `None` for the name's denial.
    qtype: Option<u16>,
    rcode: u16,
    has_answers: bool,
    is_fresh: bool,
    stored: Tick,
}

impl Kin {
    fn of(entry: &Entry<'_>, now: Tick) -> Self {
        Self {
            qtype: entry.qtype(),
            rcode: entry.rcode(),
            has_answers: entry.has_answers(),
            is_fresh: entry.is_fresh(now),
            stored: entry.stored(),
        }
    }

    fn exists(&self) -> bool {
        self.rcode == rcode::NOERROR
    }

    fn has_data(&self) -> bool {
        self.exists() && self.has_answers
    }

    fn is_denial(&self) -> bool {
        self.rcode == rcode::NXDOMAIN && !self.has_answers
    }

    fn is_new(&self, now: Tick) -> bool {
        now.0.saturating_sub(self.stored.0) <= AT_ONCE
    }
}

impl Resolver {
    /// All that is held of a question's name and may still be sent, the question itself left out.
    pub(super) fn kin(&self, question: &Question, now: Tick) -> Vec<Kin> {
        let mut kin = Vec::new();
        self.cache.family(question.name(), |entry| {
            if entry.question() != question.as_octets() && now < entry.dies() {
                kin.push(Kin::of(entry, now));
            }
        });
        kin
    }

    /// Whether anything that exists is held for a question's name, fresh or not.
    pub(super) fn holds_data(&self, question: &Question, now: Tick) -> bool {
        let mut holds = false;
        self.cache.family(question.name(), |entry| {
            holds |= now < entry.dies() && Kin::of(entry, now).exists();
        });
        holds
    }

    /// Takes note that a question's name exists: nothing denies it any more.
    pub(super) fn exists(&self, question: &Question, has_data: bool, route: &Route, now: Tick) {
        let kin = self.kin(question, now);
        let denied = |kin: &Kin| kin.is_denial() && kin.is_new(now);
        if has_data && kin.iter().any(denied) {
            self.contradicted(route, now);
        }
        let pair = match question.qtype() {
            qtype::A => Some(qtype::AAAA),
            qtype::AAAA => Some(qtype::A),
            _ => None,
        };
        let vouches = |kin: &Kin| {
            let is_pair = pair.is_some() && kin.qtype == pair;
            is_pair && kin.exists() && kin.is_fresh && (has_data || kin.has_answers)
        };
        if kin.iter().any(vouches) {
            route.trust.vouch();
        }
        if kin.iter().any(|kin| kin.qtype.is_none()) {
            let name = question.name();
            self.cache.retain_of(name, |entry| entry.qtype().is_some());
        }
    }

    /// What an NXDOMAIN for a question is kept under: the denial of its name, or the question
    /// alone. What it takes the place of goes.
    pub(super) fn denied(
        &self,
        question: &Question,
        keeps_name: bool,
        route: &Route,
        now: Tick,
    ) -> Question {
        let kin = self.kin(question, now);
        if kin.iter().any(|kin| kin.has_data() && kin.is_new(now)) {
            self.contradicted(route, now);
        }
        // The root exists, and so does a zone that has servers, whatever they say of a type there.
        let is_apex = question.name() == route.name.as_wire() || question.name() == [0];
        if is_apex || !route.trust.denies_by_name(question.qtype(), now) {
            return *question;
        }
        // What is being sent stale was true before the upstream was back.
        let name = question.name();
        self.cache
            .retain_of(name, |entry| entry.standing() != Standing::Stale);
        if !keeps_name {
            // Nothing will be there to say that what has expired is not to be sent any more.
            self.cache.retain_of(question.name(), |entry| {
                entry.is_fresh(now) || entry.question() == question.as_octets()
            });
            return *question;
        }
        if kin.iter().any(Kin::exists) {
            return *question;
        }
        let denial = question.with_type(DENIAL);
        let own = question.as_octets();
        self.cache.retain_of(question.name(), |entry| {
            let is_likewise = entry.question().last() == own.last();
            let is_replaced = entry.rcode() != rcode::NOERROR || entry.question() == own;
            !(is_likewise && is_replaced && entry.qtype().is_some())
        });
        denial
    }

    /// Whether an upstream has denied a question's name since it gave this entry.
    pub(super) fn is_denied_since(
        &self,
        question: &Question,
        entry: &Entry<'_>,
        route: &Route,
        now: Tick,
    ) -> bool {
        entry.rcode() == rcode::NOERROR
            && self.kin(question, now).iter().any(|kin| {
                let qtype = kin.qtype.unwrap_or(qtype::A);
                kin.is_denial()
                    && kin.stored > entry.stored()
                    && route.trust.denies_by_name(qtype, now)
            })
    }

    /// Data and its denial at the same moment: the zone denies types, not names.
    fn contradicted(&self, route: &Route, now: Tick) {
        if !route.trust.denies_by_name(qtype::A, now) {
            return;
        }
        route.trust.distrust(now);
        let cells = &self.telemetry.resolve;
        cells.happened(Event::Contradiction, route.zone);
        self.cache
            .retain(|entry| entry.qtype().is_some() || entry.zone() != route.zone);
    }
}
