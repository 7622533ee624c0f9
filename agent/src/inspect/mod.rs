// SPDX-License-Identifier: Apache-2.0
//! What people ask of the running agent: what is held for a name and why, how the cache and the
//! upstreams are doing, what is to be forgotten. On the cold thread, which goes on serving: whatever
//! looks at the whole store does it in small parts and lets others have their turn in between.

pub mod dump;
mod entry;
pub mod page;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::task::yield_now;

use self::page::{Candidate, Flushed, Next, State, Stats, Store, Zone};
use crate::cache::{Cache, DENIAL, Tick, Walk};
use crate::lifecycle::ready::Health;
use crate::resolve::{Known, Prospect, Resolver};
use crate::telemetry::registry::{CacheFigures, Telemetry};
use crate::wire::name::Name;
use crate::wire::presentation::TypeName;
use crate::wire::qtype;
use crate::wire::question::Question;

/// Everything that is asked about.
#[derive(Debug)]
pub struct Inspector {
    /// What is held.
    pub cache: Cache,
    /// Zones, upstreams, cuts.
    pub resolver: Arc<Resolver>,
    /// What was counted.
    pub telemetry: Arc<Telemetry>,
    /// Whether it answers.
    pub health: Arc<Health>,
    /// Dumps under way.
    pub(crate) dumps: AtomicUsize,
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All about this name.
    Name(Name),
    /// All at and below this name.
    Zone(Name),
    /// Everything.
    All,
}

impl Scope {
    fn has(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(own) => own.as_wire() == name,
            Self::Zone(zone) => zone.encloses(name),
            Self::All => true,
        }
    }
}

impl Inspector {
    /// Of these parts of the agent.
    #[must_use]
    pub fn new(
        cache: Cache,
        resolver: Arc<Resolver>,
        telemetry: Arc<Telemetry>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            cache,
            resolver,
            telemetry,
            health,
            dumps: AtomicUsize::new(0),
        }
    }

    /// All that is known of a name, of one type or of every type. What is held is in the order of
    /// types, the denial of the name first.
    #[must_use]
    pub fn name(&self, name: &Name, wanted: Option<u16>) -> page::Name {
        let now = self.now();
        let context = entry::Context::of(&self.telemetry, now);
        let mut questions = Vec::new();
        let mut held = Vec::new();
        self.cache.family_and_hits(name.as_wire(), |entry, hits| {
            let is_wanted =
                entry.qtype().is_none() || wanted.is_none_or(|one| entry.qtype() == Some(one));
            if is_wanted {
                questions.extend(Question::from_octets(entry.question()));
                held.push((
                    entry.question().to_vec(),
                    entry::page(entry, hits, &context),
                ));
            }
        });
        held.sort_by(|(one, _), (other, _)| one.cmp(other));
        let view = self.resolver.view(name);
        let known = view.iter().flat_map(|view| &view.known);
        let upstreams = view.iter().flat_map(|view| &view.zone.upstreams);
        page::Name {
            name: name.to_string(),
            zone: view
                .as_ref()
                .map(|view| view.zone.name.to_string())
                .unwrap_or_default(),
            upstreams: upstreams.map(|one| one.value.to_string()).collect(),
            is_down: view.as_ref().is_some_and(|view| view.is_down),
            denies_by_name: view.as_ref().is_none_or(|view| view.denies_by_name),
            next: self.next(name, wanted, &questions),
            held: held.into_iter().map(|(_, page)| page).collect(),
            candidates: known.map(|one| candidate(one, &context)).collect(),
        }
    }

    /// How the next queries would be answered: of the type that is wanted, or of those that are asked
    /// most and those that are held, with DO and CD as they are held.
    fn next(&self, name: &Name, wanted: Option<u16>, held: &[Question]) -> Vec<Next> {
        let usual = match wanted {
            Some(qtype) => vec![qtype],
            None => vec![qtype::A, qtype::AAAA],
        };
        let mut questions: Vec<_> = usual
            .iter()
            .map(|&qtype| Question::of(name, qtype))
            .collect();
        for question in held {
            let types = match question.qtype() {
                DENIAL => usual.clone(),
                qtype => vec![qtype],
            };
            questions.extend(types.iter().map(|&qtype| question.with_type(qtype)));
        }
        questions.sort_by(|one, other| one.as_octets().cmp(other.as_octets()));
        questions.dedup_by(|one, other| one.as_octets() == other.as_octets());
        questions
            .iter()
            .map(|question| self.prospect(question))
            .collect()
    }

    fn prospect(&self, question: &Question) -> Next {
        let (how, why) = words(self.resolver.prospect(question));
        Next {
            qtype: TypeName(question.qtype()).to_string(),
            dnssec_ok: question.dnssec_ok(),
            checking_disabled: question.checking_disabled(),
            how: how.to_owned(),
            why: why.to_owned(),
        }
    }

    /// Forgets entries, cuts and bars; what is kept for good stays. Answers that come meanwhile may
    /// go too.
    pub async fn flush(&self, scope: Scope) -> Flushed {
        let cuts = self.resolver.forget(|name| scope.has(name));
        let entries = match scope {
            Scope::Name(name) => self.cache.retain_of(name.as_wire(), |_| false),
            _ => {
                let (mut walk, mut gone) = (Walk::new(), 0);
                let keep = |entry: &crate::cache::Entry<'_>| !scope.has(entry.name());
                while let Some(dropped) = self.cache.retain_next(&mut walk, keep) {
                    gone += dropped;
                    yield_now().await;
                }
                gone
            }
        };
        tracing::info!(entries, cuts, "flushed by order of the admin socket");
        Flushed { entries, cuts }
    }

    /// The cache in figures.
    pub async fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let mut by_zone = std::collections::HashMap::<u16, u64>::new();
        let mut walk = Walk::new();
        let now = self.now();
        while self.cache.visit(&mut walk, |entry, _| {
            let kind = entry::kind(entry);
            *by_zone.entry(entry.zone()).or_default() += 1;
            match entry::state(entry, now) {
                State::Fresh => *stats.fresh.entry(kind).or_default() += 1,
                State::Stale | State::PutBack => *stats.stale.entry(kind).or_default() += 1,
                State::Dead => stats.dead += 1,
            }
        }) {
            yield_now().await;
        }
        let summary = self.telemetry.summary();
        (stats.cuts, stats.barred) = self.resolver.cut_counts();
        stats.store = store(summary.cache);
        // Index 0 is no zone.
        stats.zones = (1..)
            .zip(summary.zones)
            .map(|(index, zone)| Zone {
                entries: by_zone.get(&index).copied().unwrap_or(0),
                zone: zone.zone,
                hits: zone.hits,
                misses: zone.misses,
                stale: zone.stale,
                failures: zone.failures,
                prefetches: zone.prefetches,
                cuts: zone.cuts,
                contradictions: zone.contradictions,
            })
            .collect();
        stats
    }

    fn now(&self) -> Tick {
        Tick::of(self.resolver.now())
    }
}

fn store(figures: Option<CacheFigures>) -> Store {
    let figures = figures.unwrap_or_default();
    Store {
        entries: figures.entries,
        used_bytes: figures.used_bytes,
        budget_bytes: figures.budget_bytes,
        inserts: figures.inserts,
        replaced: figures.replaced,
        evictions: figures.evictions,
        expired: figures.expired,
        refused: figures.refused,
        ghost_hits: figures.ghost_hits,
    }
}

fn candidate((name, known): &(Name, Known), context: &entry::Context) -> Candidate {
    let (until, upstream) = match known {
        Known::Cut {
            until, upstream, ..
        } => (until, context.upstream(*upstream)),
        Known::Barred(until) => (until, None),
    };
    Candidate {
        name: name.to_string(),
        is_cut: matches!(known, Known::Cut { .. }),
        left: entry::left(*until, context.now),
        upstream,
    }
}

/// How, for programs, and why, for people.
fn words(prospect: Prospect) -> (&'static str, &'static str) {
    match prospect {
        Prospect::Fresh => ("fresh", "from the cache"),
        Prospect::DeniedByName => (
            "denied_by_name",
            "NXDOMAIN from the cache: the name was denied for every type (RFC 8020)",
        ),
        Prospect::StillStale => (
            "stale",
            "from the cache: no upstream answered, so a stale answer was put back for 5 s (RFC 8767)",
        ),
        Prospect::Failed => (
            "failure",
            "an error from the cache: the upstreams failed a moment ago (RFC 9520)",
        ),
        Prospect::ByRule => (
            "by_rule",
            "by a rule of the zone: nobody is asked (zones[].answers)",
        ),
        Prospect::BelowCut => (
            "below_cut",
            "NXDOMAIN: a name above it does not exist (RFC 8020, zones[].cuts)",
        ),
        Prospect::StaleAtOnce => (
            "stale",
            "with a stale answer at once: the zone's upstreams are down, or staleAfter is 0s; they are asked meanwhile",
        ),
        Prospect::UnderWay { has_stale: false } => {
            ("under_way", "with the answer that is being asked for now")
        }
        Prospect::UnderWay { has_stale: true } => (
            "under_way",
            "with the answer that is being asked for now; stale where none comes in time (cache.staleAfter)",
        ),
        Prospect::Miss { has_stale: false } => ("miss", "by asking upstream"),
        Prospect::Miss { has_stale: true } => (
            "miss",
            "by asking upstream; stale where no upstream answers in time (RFC 8767, cache.staleAfter)",
        ),
    }
}

#[cfg(test)]
pub(crate) mod tests;
