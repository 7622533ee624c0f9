// SPDX-License-Identifier: Apache-2.0
//! Answers beyond their lifetime, while no upstream answers (RFC 8767); and questions that are asked
//! upstream though nobody waits.
//!
//! A stale answer that is sent is put back into the cache for a few seconds, marked as stale. So the
//! workers send it to all who ask meanwhile, and the first to come afterwards has it checked again.

use std::sync::Arc;

use tokio::time::Instant;

use super::flights::Flight;
use super::routes::Route;
use super::{Resolver, Waiter, keep, lock};
use crate::cache::{Draft, Entry, Tick};
use crate::telemetry::cells::Event;
use crate::telemetry::clock::nanoseconds;
use crate::wire::answer::{Answer, Standing};
use crate::wire::question::Question;

/// How long a stale answer is sent before the upstreams are asked again, in seconds: the failure
/// recheck timer of RFC 8767 section 5, which is to be no more than 30.
const RECHECK_SECONDS: u32 = 5;
/// Questions that nobody waits for, under way at one time.
const MOST_AHEAD: usize = 256;

impl Resolver {
    /// Answers all of `waiters` with what is held beyond its lifetime; gives them back where
    /// nothing is.
    pub(super) fn answer_stale(
        &self,
        question: &Question,
        route: &Route,
        waiters: Vec<Waiter>,
    ) -> Result<(), Vec<Waiter>> {
        if self.in_force().settings.stale_for.is_zero() {
            return Err(waiters);
        }
        let now = Tick::of(self.now());
        let mut reader = lock(&self.reader);
        let session = reader.online();
        let Some(entry) = session.peek(question) else {
            return Err(waiters);
        };
        if entry.is_fresh(now) {
            self.answer(waiters, question, entry.zone(), &entry.answer(now));
            return Ok(());
        }
        if !self.may_stand_in(question, &entry, route, now) {
            return Err(waiters);
        }
        let answer = Answer {
            standing: Standing::Stale,
            ..entry.answer(now)
        };
        self.answer(waiters, question, entry.zone(), &answer);
        self.put_back(&entry, answer, now);
        Ok(())
    }

    /// Whether an entry may be sent beyond its lifetime, where no upstream answers.
    pub(super) fn may_stand_in(
        &self,
        question: &Question,
        entry: &Entry<'_>,
        route: &Route,
        now: Tick,
    ) -> bool {
        entry.is_stale(now) && !self.is_denied_since(question, entry, route, now)
    }

    /// Lets the workers send a stale answer for a while.
    fn put_back(&self, entry: &Entry<'_>, answer: Answer<'_>, now: Tick) {
        let Some(question) = Question::from_octets(entry.question()) else {
            return;
        };
        let until = now.after_seconds(RECHECK_SECONDS).min(entry.dies());
        let draft = Draft {
            dies: entry.dies(),
            upstream: entry.upstream(),
            ..Draft::new(&question, answer, entry.zone(), [entry.stored(), until])
        };
        if keep::insert(&self.cache, &draft) {
            let cells = &self.telemetry.resolve;
            cells.happened(Event::Stale, entry.zone());
        }
    }

    /// Has a question asked again whose answer is about to end.
    pub fn ask_ahead(self: &Arc<Self>, question: &Question) {
        let in_force = self.in_force();
        if !in_force.settings.prefetch || !self.is_ending(question) {
            return;
        }
        let route = Arc::clone(in_force.routes.of(question.name()));
        let event = if self.refresh(question, &route) {
            Event::Prefetch
        } else {
            Event::PrefetchDropped
        };
        self.telemetry.resolve.happened(event, route.zone);
    }

    /// Whether nobody was faster: two workers may have said so of one answer.
    fn is_ending(&self, question: &Question) -> bool {
        let now = Tick::of(self.now());
        let mut reader = lock(&self.reader);
        let session = reader.online();
        let entry = session.peek(question);
        entry.is_some_and(|entry| entry.is_fresh(now) && entry.is_ending(now))
    }

    /// Asks a question upstream for nobody, unless it is under way; `false` where as many are as may.
    pub(super) fn refresh(self: &Arc<Self>, question: &Question, route: &Arc<Route>) -> bool {
        // No upstream has a say in it.
        if route.answers_here(question) {
            return true;
        }
        let question = Arc::new(*question);
        match lock(&self.flights).lead_ahead(&question, MOST_AHEAD) {
            Some(true) => {}
            Some(false) => return true,
            None => return false,
        }
        let flight = Flight::ahead(self, question, route);
        let now = Instant::now();
        let arrived_ns = nanoseconds(self.timeline.at(now));
        self.launch(flight, arrived_ns, now, &self.in_force());
        true
    }
}
