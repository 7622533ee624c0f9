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
//!          cut ─ runs out ─► one full name goes upstream ─ NXDOMAIN ─► cut
//!  any of them ─ it, or a name below it, exists ─► barred for an hour
//! ```
//!
//! RFC 8020 wants an upstream that keeps to the tree of names, and a Corefile need not: a wildcard
//! or `template` below a name that is denied is hidden by a cut. So a cut is made for nothing but
//! such candidates, lives as long as any denial, and is bought anew with a whole name each time.
//!
//! A whole name that is denied says nothing about the others below: the pods of a StatefulSet get
//! ready one after the other. So the candidate is asked for once more with it, where the cut has
//! spared a query since; and a name that was denied by the cut alone for a lifetime is asked for
//! itself the next time, once.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::connection::Exchanged;
use super::routes::Route;
use super::{Resolver, Waiter, keep, lock};
use crate::cache::{DENIAL, Draft, Tick};
use crate::telemetry::cells::Event;
use crate::wire::answer::Answer;
use crate::wire::header::Flags;
use crate::wire::name::{Name, labels};
use crate::wire::question::Question;
use crate::wire::{qtype, rcode};

/// How long a candidate is left alone when it, or a name below it, was seen to exist, in seconds.
const BARRED_SECONDS: u32 = 3600;
/// How long a cut that nobody renews is remembered, in seconds.
const FORGOTTEN_SECONDS: u32 = 3600;
/// How long the answer for a candidate is awaited before it may be asked for again, in seconds.
const ASKED_SECONDS: u32 = 10;
/// Candidates of each kind. Suspects are forgotten all together when there are too many, which is a
/// flood of names; with too many names barred no cut is made, which is no worse than none.
const MOST_SUSPECTS: usize = 1024;
const MOST_CUTS: usize = 1024;
const MOST_BARRED: usize = 8192;
/// Names of which it is known that a cut has denied them. Beyond that the oldest is taken for new.
const MOST_HIDDEN: usize = 64;

type Names<T> = HashMap<Box<[u8]>, T, RandomState>;

/// What is known of candidates.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    suspects: Names<Suspect>,
    cuts: Names<Known>,
    barred: Names<Tick>,
    hasher: RandomState,
}

/// A candidate that was denied.
#[derive(Debug)]
struct Known {
    cut: Arc<Cut>,
    /// Whether it has denied a name since its candidate was last asked for.
    was_used: bool,
    /// Names that it has denied, by their hash: until when the upstream need not be asked for them;
    /// `None` where it was.
    hidden: VecDeque<(u64, Option<Tick>)>,
}

impl Known {
    fn new(cut: &Arc<Cut>) -> Self {
        Self {
            cut: Arc::clone(cut),
            was_used: false,
            hidden: VecDeque::new(),
        }
    }

    /// The denial of this name; `None` where it was the cut's alone before.
    fn deny(&mut self, name: u64, now: Tick) -> Option<Arc<Cut>> {
        match self.hidden.iter().find(|(known, _)| *known == name) {
            Some((_, Some(until))) if *until <= now => return None,
            Some(_) => {}
            None => self.remember(name, Some(self.cut.until)),
        }
        self.was_used = true;
        Some(Arc::clone(&self.cut))
    }

    fn remember(&mut self, name: u64, until: Option<Tick>) {
        if self.hidden.len() >= MOST_HIDDEN {
            self.hidden.pop_front();
        }
        self.hidden.push_back((name, until));
    }

    /// The upstream has denied this name below: the cut lives on. Whether the candidate is to be
    /// asked for.
    fn renew(&mut self, name: u64, cut: &Arc<Cut>) -> bool {
        self.cut = Arc::clone(cut);
        match self.hidden.iter_mut().find(|(known, _)| *known == name) {
            Some((_, until)) => *until = None,
            None => self.remember(name, None),
        }
        std::mem::take(&mut self.was_used)
    }
}

#[derive(Debug)]
enum Suspect {
    /// This name below it was denied.
    Since(Box<[u8]>),
    /// It was asked for at this moment.
    Asked(Tick),
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

    fn answer(&self, now: Tick) -> Answer<'_> {
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

/// The candidates for a cut above a name: what lies one label below a namespace, `svc` or the zone,
/// without an underscore in front of a label, the name itself left out unless it is wanted.
fn candidates<'a>(
    name: &'a [u8],
    zone: &Name,
    with_itself: bool,
) -> impl Iterator<Item = &'a [u8]> {
    let own = labels(name).count();
    // Labels in front of the zone's.
    let count = own.saturating_sub(zone.label_count());
    let is_below = zone.encloses(name);
    let label = move |number: usize| labels(name).nth(number);
    let last = count.checked_sub(1).and_then(label).unwrap_or_default();
    let heights: &[usize] = match last {
        _ if !is_below => &[],
        b"svc" => &[2, 3],
        b"pod" => &[],
        _ => &[1],
    };
    heights.iter().filter_map(move |&height| {
        let skipped = count.checked_sub(height)?;
        let is_meant = skipped > 0 || with_itself;
        let has_underscore = labels(name)
            .skip(skipped)
            .take(height)
            .any(|label| label.first() == Some(&b'_'));
        let at: usize = labels(name)
            .take(skipped)
            .map(|label| label.len() + 1)
            .sum();
        name.get(at..).filter(|_| is_meant && !has_underscore)
    })
}

impl Cuts {
    /// Forgets everything: other servers may have other names.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The cut that a name lies below, where it may be denied without the upstream.
    fn above(&mut self, name: &[u8], zone: &Name, now: Tick) -> Option<Arc<Cut>> {
        let hash = self.hasher.hash_one(name);
        let found = candidates(name, zone, false).find(|&above| {
            let known = self.cuts.get(above);
            known.is_some_and(|known| now < known.cut.until)
        });
        self.cuts.get_mut(found?)?.deny(hash, now)
    }

    /// Takes note that a name exists: so does everything above it.
    fn exists(&mut self, name: &[u8], zone: &Name, now: Tick) {
        for above in candidates(name, zone, true) {
            let was_cut = self.cuts.remove(above).is_some();
            let was_suspect = self.suspects.remove(above).is_some();
            // Of the many names that exist only those are worth a place that could be cut.
            if above == name && !was_cut && !was_suspect {
                continue;
            }
            if self.barred.len() >= MOST_BARRED {
                self.barred.retain(|_, until| now < *until);
            }
            let until = now.after_seconds(BARRED_SECONDS);
            if let Some(known) = self.barred.get_mut(above) {
                *known = until;
            } else if self.barred.len() < MOST_BARRED {
                self.barred.insert(above.into(), until);
            }
        }
        if self.barred.len() >= MOST_BARRED {
            self.cuts.clear();
            self.suspects.clear();
        }
    }

    /// Takes note that a name was denied, with what may be said of all below a candidate. Returns
    /// the candidates that are to be asked for.
    fn denied(&mut self, name: &[u8], zone: &Name, cut: &Arc<Cut>, now: Tick) -> Vec<Name> {
        if self.barred.len() >= MOST_BARRED {
            return Vec::new();
        }
        if matches!(self.suspects.get(name), Some(Suspect::Asked(_))) {
            self.suspects.remove(name);
            self.make(name, cut, now);
        }
        let mut wanted = Vec::new();
        let hash = self.hasher.hash_one(name);
        for above in candidates(name, zone, false) {
            if self.barred.get(above).is_some_and(|until| now < *until) {
                continue;
            }
            if let Some(known) = self.cuts.get_mut(above) {
                if known.renew(hash, cut) {
                    wanted.extend(Name::from_wire(above));
                }
                continue;
            }
            match self.suspects.get_mut(above) {
                Some(Suspect::Asked(at)) if now < at.after_seconds(ASKED_SECONDS) => {}
                Some(Suspect::Since(first)) if **first == *name => {}
                Some(suspect) => {
                    *suspect = Suspect::Asked(now);
                    wanted.extend(Name::from_wire(above));
                }
                None => {
                    if self.suspects.len() >= MOST_SUSPECTS {
                        self.suspects.clear();
                    }
                    self.suspects
                        .insert(above.into(), Suspect::Since(name.into()));
                }
            }
        }
        wanted
    }

    fn make(&mut self, name: &[u8], cut: &Arc<Cut>, now: Tick) {
        // What might be renewed is worth less than what is denied now.
        for seconds in [FORGOTTEN_SECONDS, 0] {
            if self.cuts.len() >= MOST_CUTS {
                self.cuts
                    .retain(|_, known| now < known.cut.until.after_seconds(seconds));
            }
        }
        if self.cuts.len() < MOST_CUTS {
            self.cuts.insert(name.into(), Known::new(cut));
        }
    }
}

impl Resolver {
    /// Denies a name that lies below a cut. For those who want no DNSSEC records: there are none
    /// that would prove it.
    pub(super) fn answer_below_cut(
        &self,
        question: &Question,
        route: &Route,
        waiter: Waiter,
    ) -> Option<Waiter> {
        let now = Tick::of(self.now());
        if !route.cuts || question.dnssec_ok() || !route.trust.denies_by_name(qtype::A, now) {
            return Some(waiter);
        }
        let Some(cut) = lock(&self.cuts).above(question.name(), &route.name, now) else {
            return Some(waiter);
        };
        if self.holds_data(question, now) {
            return Some(waiter);
        }
        let cells = &self.telemetry.resolve;
        cells.miss(route.zone);
        cells.happened(Event::Cut, route.zone);
        let answer = cut.answer(now);
        self.answer([waiter], question, route.zone, &answer);
        // For those who ask again, at the workers; and no longer than the cut lives.
        let denial = question.with_type(DENIAL);
        let draft = Draft {
            upstream: cut.upstream,
            ..Draft::new(&denial, answer, route.zone, [cut.stored, cut.until])
        };
        keep::insert(&self.cache, &draft);
        None
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
        let routes = self.routes.load();
        wanted
            .iter()
            .filter(|candidate| !routes.has_zone_below(candidate))
            .map(|candidate| Question::of(candidate, qtype::A))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn above(name: &str) -> Vec<String> {
        let zone = Name::parse("cluster.local").unwrap();
        let name = Name::parse(name).unwrap();
        let found = candidates(name.as_wire(), &zone, false);
        found
            .map(|found| Name::from_wire(found).unwrap().to_string())
            .collect()
    }

    #[test]
    fn candidates_lie_one_label_below_a_namespace_svc_or_the_zone() {
        assert_eq!(
            above("api.stripe.com.prod.svc.cluster.local"),
            ["prod.svc.cluster.local.", "com.prod.svc.cluster.local."]
        );
        assert_eq!(
            above("api.stripe.com.svc.cluster.local"),
            ["com.svc.cluster.local.", "stripe.com.svc.cluster.local."]
        );
        assert_eq!(
            above("api.stripe.com.cluster.local"),
            ["com.cluster.local."]
        );
    }

    #[test]
    fn no_name_is_a_candidate_that_a_cluster_has_or_that_begins_with_an_underscore() {
        for name in [
            "cluster.local",
            "svc.cluster.local",
            "prod.svc.cluster.local",
            "pod.cluster.local",
            "10-0-0-1.prod.pod.cluster.local",
            "com.cluster.local",
            "_tcp._srv.cluster.local",
            "web.example",
        ] {
            assert_eq!(above(name), [""; 0], "{name}");
        }
        assert_eq!(
            above("web.prod.svc.cluster.local"),
            ["prod.svc.cluster.local."]
        );
        assert_eq!(
            above("_http._tcp.prod.svc.cluster.local"),
            ["prod.svc.cluster.local."]
        );
        assert_eq!(
            above("_http._tcp.web.prod.svc.cluster.local"),
            ["prod.svc.cluster.local.", "web.prod.svc.cluster.local."]
        );
    }

    #[test]
    fn a_flood_of_names_is_forgotten_and_what_exists_is_not() {
        let mut cuts = Cuts::default();
        let zone = Name::parse("cluster.local").unwrap();
        let cut = Arc::new(Cut {
            soa: Vec::new(),
            ttl_at: [0, 0],
            upstream: 0,
            stored: Tick(0),
            until: Tick(50),
        });
        let wire = |text: &str| Name::parse(text).unwrap();
        for number in 0..20_000 {
            let name = wire(&format!("a.n{number}.cluster.local"));
            let asked = cuts.denied(name.as_wire(), &zone, &cut, Tick(0));
            assert!(asked.is_empty());
        }
        assert!(cuts.suspects.len() <= MOST_SUSPECTS);
        for number in 0..20_000 {
            let name = wire(&format!("web-{number}.prod.svc.cluster.local"));
            cuts.exists(name.as_wire(), &zone, Tick(0));
        }
        assert_eq!(cuts.barred.len(), 1, "the namespace");
        for number in 0..20_000 {
            let name = wire(&format!("a.n{number}.cluster.local"));
            cuts.exists(name.as_wire(), &zone, Tick(0));
        }
        assert_eq!(cuts.barred.len(), MOST_BARRED);
        // More names exist than can be remembered: nothing is cut until some are forgotten.
        for name in ["a.com.cluster.local", "b.com.cluster.local"] {
            let asked = cuts.denied(wire(name).as_wire(), &zone, &cut, Tick(0));
            assert!(asked.is_empty(), "{name}");
        }
    }

    #[test]
    fn cuts_that_nobody_renews_give_way_to_new_ones() {
        let mut cuts = Cuts::default();
        let zone = Name::parse("cluster.local").unwrap();
        let wire = |text: &str| Name::parse(text).unwrap();
        let mut now = Tick(0);
        let cut = |cuts: &mut Cuts, label: &str, now: Tick| {
            let denial = Arc::new(Cut {
                soa: Vec::new(),
                ttl_at: [0, 0],
                upstream: 0,
                stored: now,
                until: now.after_seconds(5),
            });
            for name in [
                format!("a.{label}.cluster.local"),
                format!("b.{label}.cluster.local"),
                format!("{label}.cluster.local"),
            ] {
                cuts.denied(wire(&name).as_wire(), &zone, &denial, now);
            }
            let below = wire(&format!("c.{label}.cluster.local"));
            cuts.above(below.as_wire(), &zone, now).is_some()
        };
        for number in 0..MOST_CUTS {
            assert!(cut(&mut cuts, &format!("n{number}"), now), "{number}");
        }
        assert!(!cut(&mut cuts, "com", now), "all of them are in force");
        now = now.after_seconds(20);
        assert!(cut(&mut cuts, "com", now));
        assert!(cuts.cuts.len() <= MOST_CUTS);
    }
}
