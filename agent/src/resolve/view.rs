// SPDX-License-Identifier: Apache-2.0
//! What the cold side knows, for people who ask: where a name leads, how its next query would be
//! answered, what the zones and their servers are doing. Nothing here changes an answer but
//! [`Resolver::forget`].

use tokio::time::Instant;

use super::cuts::Known;
use super::snapshot::Snapshot;
use super::{Resolver, lock};
use crate::cache::Tick;
use crate::config::Zone;
use crate::wire::answer::Standing;
use crate::wire::name::Name;
use crate::wire::qtype;
use crate::wire::question::Question;

/// How the next query for a question would be answered, by the steps of [`Resolver::ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// With the entry of the very question.
    Fresh,
    /// With the denial of the name.
    DeniedByName,
    /// With a stale answer that was put back for a while.
    StillStale,
    /// With a failure that is remembered (RFC 9520).
    Failed,
    /// By a rule of the zone, `zones[].answers`: nobody is asked.
    ByRule,
    /// As the names below a cut are (RFC 8020).
    BelowCut,
    /// With a stale answer at once, as the zone's upstreams are down; they are asked meanwhile.
    StaleAtOnce,
    /// With what comes of the question, which is under way.
    UnderWay {
        /// There is a stale answer for the case that nothing comes.
        has_stale: bool,
    },
    /// By asking upstream.
    Miss {
        /// There is a stale answer for the case that no upstream answers.
        has_stale: bool,
    },
}

/// Where a name leads.
#[derive(Clone, Debug)]
pub struct NameView {
    /// Its zone, as it was configured.
    pub zone: Zone,
    /// None of the zone's servers has answered since it last failed.
    pub is_down: bool,
    /// An NXDOMAIN for type A speaks of all types there.
    pub denies_by_name: bool,
    /// Candidates for a cut, the name itself among them.
    pub known: Vec<(Name, Known)>,
}

/// A zone and what is known of it.
#[derive(Clone, Debug)]
pub struct ZoneView {
    /// The zone, as it was configured.
    pub zone: Zone,
    /// None of its servers has answered since it last failed.
    pub is_down: bool,
    /// An NXDOMAIN for type A speaks of all types there.
    pub denies_by_name: bool,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Snapshot>,
}

impl Resolver {
    /// Where a name leads.
    #[must_use]
    pub fn view(&self, name: &Name) -> Option<NameView> {
        let now = Tick::of(self.now());
        let routes = self.routes();
        let route = routes.of(name.as_wire());
        let zone = routes.zones().iter().find(|zone| zone.name == route.name)?;
        Some(NameView {
            zone: zone.clone(),
            is_down: route.is_down(),
            denies_by_name: route.trust.denies_by_name(qtype::A, now),
            known: if route.cuts {
                lock(&self.cuts).about(name.as_wire(), &route.name, now)
            } else {
                Vec::new()
            },
        })
    }

    /// How the next query for a question would be answered. No hit is counted.
    #[must_use]
    pub fn prospect(&self, question: &Question) -> Prospect {
        let now = Tick::of(self.now());
        let routes = self.routes();
        let route = routes.of(question.name());
        let mut reader = lock(&self.reader);
        let session = reader.online();
        let entry = session.peek(question);
        if let Some(entry) = entry.filter(|entry| entry.is_fresh(now)) {
            return match entry.standing() {
                Standing::Failure => Prospect::Failed,
                Standing::Stale => Prospect::StillStale,
                _ if entry.qtype().is_none() => Prospect::DeniedByName,
                _ => Prospect::Fresh,
            };
        }
        if route.answers_here(question) {
            return Prospect::ByRule;
        }
        if self.is_below_cut(question, route, now) {
            return Prospect::BelowCut;
        }
        let settings = &self.in_force().settings;
        let is_allowed = !settings.stale_for.is_zero();
        let has_stale = is_allowed
            && entry.is_some_and(|entry| self.may_stand_in(question, &entry, route, now));
        if has_stale && (route.is_down() || route.stale_after(settings).is_zero()) {
            Prospect::StaleAtOnce
        } else if lock(&self.flights).has(question) {
            Prospect::UnderWay { has_stale }
        } else {
            Prospect::Miss { has_stale }
        }
    }

    /// Every zone with its servers, in the order of the configuration.
    #[must_use]
    pub fn zone_views(&self) -> Vec<ZoneView> {
        let now = Tick::of(self.now());
        let instant = Instant::now();
        let routes = self.routes();
        let view = |zone: &Zone| {
            let route = routes.of(zone.name.as_wire());
            let of_zone = |address| {
                let mut servers = routes.by_zone();
                servers.find(|(name, server)| **name == zone.name && server.address() == address)
            };
            let servers = zone.upstreams.iter();
            ZoneView {
                zone: zone.clone(),
                is_down: route.is_down(),
                denies_by_name: route.trust.denies_by_name(qtype::A, now),
                servers: servers
                    .filter_map(|upstream| of_zone(upstream.value))
                    .map(|(_, server)| server.snapshot(instant))
                    .collect(),
            }
        };
        routes.zones().iter().map(view).collect()
    }

    /// Cuts that stand, and names that are barred from being one.
    #[must_use]
    pub fn cut_counts(&self) -> (usize, usize) {
        lock(&self.cuts).counts(Tick::of(self.now()))
    }

    /// Forgets what is known of the candidates for a cut that are meant, lower-case names in wire
    /// form. Returns how many cuts and bars stood there.
    pub fn forget(&self, is_meant: impl Fn(&[u8]) -> bool) -> usize {
        lock(&self.cuts).forget(is_meant, Tick::of(self.now()))
    }
}
