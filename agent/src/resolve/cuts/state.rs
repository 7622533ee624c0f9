// SPDX-License-Identifier: Apache-2.0
//! What is known of candidates, and when a name is denied for it. It asks nobody.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use tokio::sync::Notify;

use super::{Cut, Known};
use crate::cache::Tick;
use crate::wire::name::{Name, labels};

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
/// How long a name that the upstream has denied itself may be denied by a cut alone, where others
/// renew that, in seconds.
const ASKED_AGAIN_SECONDS: u32 = 60;
/// Names of which it is known that a cut has denied them. Beyond that the oldest is taken for new.
const MOST_HIDDEN: usize = 64;

type Names<T> = HashMap<Box<[u8]>, T, RandomState>;

/// What is known of candidates.
#[derive(Debug, Default)]
pub(in crate::resolve) struct Cuts {
    suspects: Names<Suspect>,
    cuts: Names<Denied>,
    barred: Names<Tick>,
    hasher: RandomState,
    /// Cuts that have run out and for which a full name is under way, with who is to be told.
    pub(super) renewals: Names<Arc<Notify>>,
}

/// A candidate that was denied.
#[derive(Debug)]
struct Denied {
    cut: Arc<Cut>,
    /// Whether it has denied a name that the upstream was not asked for, since its candidate was
    /// asked for last.
    was_used: bool,
    /// Names that it has denied, the oldest first.
    hidden: VecDeque<Hidden>,
}

/// A name that a cut denies.
#[derive(Debug)]
struct Hidden {
    /// Its hash.
    name: u64,
    /// From then on the upstream is asked for it.
    until: Tick,
    /// Whether the upstream has denied it itself.
    was_asked: bool,
}

impl Denied {
    fn new(cut: &Arc<Cut>) -> Self {
        Self {
            cut: Arc::clone(cut),
            was_used: false,
            hidden: VecDeque::new(),
        }
    }

    /// The denial of this name; `None` where it was the cut's alone for long enough.
    fn deny(&mut self, name: u64, now: Tick) -> Option<Arc<Cut>> {
        if self.asks_for(name, now) {
            return None;
        }
        match self.hidden.iter().find(|hidden| hidden.name == name) {
            Some(hidden) => self.was_used |= !hidden.was_asked,
            None => {
                self.was_used = true;
                self.remember(Hidden {
                    name,
                    until: self.cut.until,
                    was_asked: false,
                });
            }
        }
        Some(Arc::clone(&self.cut))
    }

    /// Whether the cut has been all that denies this name for long enough.
    fn asks_for(&self, name: u64, now: Tick) -> bool {
        let mut hidden = self.hidden.iter();
        hidden.any(|hidden| hidden.name == name && hidden.until <= now)
    }

    fn remember(&mut self, hidden: Hidden) {
        if self.hidden.len() >= MOST_HIDDEN {
            self.hidden.pop_front();
        }
        self.hidden.push_back(hidden);
    }

    /// The upstream has denied this name below: the cut lives on. Whether the candidate is to be
    /// asked for.
    fn renew(&mut self, name: u64, cut: &Arc<Cut>) -> bool {
        self.cut = Arc::clone(cut);
        self.hidden.retain(|hidden| hidden.name != name);
        self.remember(Hidden {
            name,
            until: cut.stored.after_seconds(ASKED_AGAIN_SECONDS),
            was_asked: true,
        });
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
    /// Forgets everything: other servers may have other names. Who waits for a renewal is told when
    /// it is over.
    pub(in crate::resolve) fn clear(&mut self) {
        *self = Self {
            renewals: std::mem::take(&mut self.renewals),
            ..Self::default()
        };
    }

    /// What is known of the candidates above a name, and of the name itself.
    pub(in crate::resolve) fn about(
        &self,
        name: &[u8],
        zone: &Name,
        now: Tick,
    ) -> Vec<(Name, Known)> {
        let known = |above: &[u8]| {
            let name = Name::from_wire(above)?;
            if let Some(cut) = self.cut_at(above, now) {
                let (stored, until, upstream) = (cut.stored, cut.until, cut.upstream);
                return Some((
                    name,
                    Known::Cut {
                        stored,
                        until,
                        upstream,
                    },
                ));
            }
            let until = self.barred.get(above).filter(|until| now < **until)?;
            Some((name, Known::Barred(*until)))
        };
        candidates(name, zone, true).filter_map(known).collect()
    }

    /// Forgets the candidates that are meant. Returns how many cuts and bars stood there.
    pub(in crate::resolve) fn forget(
        &mut self,
        is_meant: impl Fn(&[u8]) -> bool,
        now: Tick,
    ) -> usize {
        let mut gone = 0;
        self.suspects.retain(|name, _| !is_meant(name));
        self.cuts.retain(|name, denied| {
            let goes = is_meant(name);
            gone += usize::from(goes && now < denied.cut.until);
            !goes
        });
        self.barred.retain(|name, until| {
            let goes = is_meant(name);
            gone += usize::from(goes && now < *until);
            !goes
        });
        gone
    }

    /// Cuts, and names that are barred, that stand now.
    pub(in crate::resolve) fn counts(&self, now: Tick) -> (usize, usize) {
        let cuts = self.cuts.values().filter(|denied| now < denied.cut.until);
        let barred = self.barred.values().filter(|until| now < **until);
        (cuts.count(), barred.count())
    }

    /// The cut at a candidate, where it stands.
    fn cut_at(&self, above: &[u8], now: Tick) -> Option<&Cut> {
        let denied = self.cuts.get(above)?;
        (now < denied.cut.until).then_some(&*denied.cut)
    }

    /// The cut that a name lies below, where it may be denied without the upstream.
    pub(super) fn above(&mut self, name: &[u8], zone: &Name, now: Tick) -> Option<Arc<Cut>> {
        let hash = self.hasher.hash_one(name);
        let found = candidates(name, zone, false).find(|&above| self.cut_at(above, now).is_some());
        self.cuts.get_mut(found?)?.deny(hash, now)
    }

    /// Whether [`Self::above`] would deny a name.
    pub(super) fn denies(&self, name: &[u8], zone: &Name, now: Tick) -> bool {
        let hash = self.hasher.hash_one(name);
        candidates(name, zone, false)
            .find(|&above| self.cut_at(above, now).is_some())
            .and_then(|above| self.cuts.get(above))
            .is_some_and(|denied| !denied.asks_for(hash, now))
    }

    /// The candidate above a name that has a cut which has run out.
    pub(super) fn run_out_above<'a>(
        &self,
        name: &'a [u8],
        zone: &Name,
        now: Tick,
    ) -> Option<&'a [u8]> {
        candidates(name, zone, false).find(|&above| {
            let denied = self.cuts.get(above);
            denied.is_some_and(|denied| now >= denied.cut.until)
        })
    }

    /// Takes note that a name exists: so does everything above it.
    pub(super) fn exists(&mut self, name: &[u8], zone: &Name, now: Tick) {
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
    pub(super) fn denied(
        &mut self,
        name: &[u8],
        zone: &Name,
        cut: &Arc<Cut>,
        now: Tick,
    ) -> Vec<Name> {
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
            self.cuts.insert(name.into(), Denied::new(cut));
        }
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
