// SPDX-License-Identifier: Apache-2.0
//! Zones and their servers: the longest zone that encloses a name takes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::denial::Trust;
use super::local::LocalAnswers;
use super::upstream::Server;
use crate::config::adapt::{Dns64, Rewrite};
use crate::config::{CacheConfig, Zone};
use crate::telemetry::registry::Telemetry;
use crate::wire::edns::ExtendedError;
use crate::wire::name::Name;

/// One zone's way upstream.
#[derive(Debug)]
pub(super) struct Route {
    /// The zone's name.
    pub(super) name: Name,
    /// Its index in counters.
    pub(super) zone: u16,
    /// Longest lifetime of a positive answer in seconds.
    pub(super) max_ttl: u32,
    /// Longest lifetime of a negative answer in seconds.
    pub(super) max_negative_ttl: u32,
    /// Least TTLs in seconds, of positive and of negative answers.
    pub(super) least_ttls: [u32; 2],
    /// The longest that a failure is remembered, in seconds.
    pub(super) max_failure_ttl: u32,
    /// How long a client waits before it gets a stale answer, where the zone has a time of its own.
    pub(super) stale_after: Option<Duration>,
    /// Whether the servers are asked in their order.
    pub(super) in_order: bool,
    /// Whether the records of address sets take turns on hits.
    pub(super) rotates: bool,
    /// Whether nothing is taken to exist below a name that does not.
    pub(super) cuts: bool,
    /// What its upstreams have shown of how they deny names.
    pub(super) trust: Trust,
    /// Names that are asked under another one.
    pub(super) rewrites: Vec<Rewrite>,
    /// Addresses that are made of those of IPv4.
    pub(super) dns64: Option<Dns64>,
    /// What is answered without asking anybody.
    pub(super) answers: LocalAnswers,
    servers: Vec<Arc<Server>>,
    /// Whether there are servers that send queries back, and are left out.
    has_loop: bool,
    /// Draws servers: each call the next ones.
    pub(super) next: AtomicUsize,
}

impl Route {
    /// Why nothing is answered where no server has been asked.
    pub(super) fn why_nobody(&self) -> ExtendedError {
        if self.servers.is_empty() && self.has_loop {
            ExtendedError::LOOP
        } else {
            ExtendedError::NO_UPSTREAM
        }
    }

    pub(super) fn server_count(&self) -> usize {
        self.servers.len()
    }

    fn has_servers(&self, servers: &[Arc<Server>]) -> bool {
        self.servers.len() == servers.len()
            && servers
                .iter()
                .all(|server| self.servers.iter().any(|own| Arc::ptr_eq(own, server)))
    }

    /// Whether there are servers, and none has answered since it last failed.
    pub(super) fn is_down(&self) -> bool {
        let has_some = self.has_loop || !self.servers.is_empty();
        has_some && self.servers.iter().all(|server| server.is_down())
    }

    /// How long a client waits before it gets a stale answer. `settings` are those of all zones.
    pub(super) fn stale_after(&self, settings: &CacheConfig) -> Duration {
        self.stale_after.unwrap_or(settings.stale_after)
    }

    /// Its servers, in the order of the configuration.
    pub(super) fn all_servers(&self) -> &[Arc<Server>] {
        &self.servers
    }
}

/// All zones.
#[derive(Debug)]
pub struct Routes {
    by_name: HashMap<Box<[u8]>, Arc<Route>, foldhash::quality::RandomState>,
    root: Arc<Route>,
    /// Octets of the longest zone's name.
    longest: usize,
    /// Each zone has servers of its own, with their connections: where nobody answers the names of
    /// one zone, the names of the others find connections that are free.
    servers: HashMap<(Name, SocketAddr), Arc<Server>>,
    zones: Vec<Zone>,
}

impl Routes {
    /// Routes for `zones`, of which one is the root. What `former` has alike is taken over: servers
    /// with the same zone, address and transport, with their connections; zones with all of these.
    /// Servers that send queries back are left out.
    #[must_use]
    pub fn new(zones: &[Zone], telemetry: &Arc<Telemetry>, former: Option<&Self>) -> Self {
        let mut servers = HashMap::new();
        let mut by_name = HashMap::with_hasher(foldhash::quality::RandomState::default());
        for zone in zones {
            let mut of_zone = Vec::with_capacity(zone.upstreams.len());
            for upstream in &zone.upstreams {
                let address = upstream.value;
                let key = (zone.name, address);
                let known = former.and_then(|former| former.servers.get(&key));
                let known = known.filter(|server| server.way().is(&zone.transport));
                let server = servers.entry(key).or_insert_with(|| {
                    let new = || Server::new(address, &zone.transport, telemetry);
                    known.map_or_else(new, Arc::clone)
                });
                server.set_pipeline(zone.pipeline);
                if !server.way().circle.is_closed() {
                    of_zone.push(Arc::clone(server));
                }
            }
            let name = zone.name.as_wire();
            let known = former.and_then(|former| {
                let known = former.by_name.get(name)?;
                let is_like = former.zone(&zone.name)?.is_like(zone);
                (is_like && known.has_servers(&of_zone)).then(|| Arc::clone(known))
            });
            let route = known.unwrap_or_else(|| {
                Arc::new(Route {
                    name: zone.name,
                    zone: telemetry.zone(&zone.name.to_string()),
                    max_ttl: zone.max_ttl,
                    max_negative_ttl: zone.max_negative_ttl,
                    least_ttls: [zone.min_ttl, zone.min_negative_ttl],
                    max_failure_ttl: zone.max_failure_ttl,
                    stale_after: zone.stale_after,
                    in_order: zone.in_order,
                    rotates: zone.rotate,
                    cuts: zone.cuts,
                    rewrites: zone.rewrites.clone(),
                    dns64: zone.dns64,
                    answers: LocalAnswers::new(zone),
                    trust: Trust::default(),
                    has_loop: of_zone.len() < zone.upstreams.len(),
                    servers: of_zone,
                    next: AtomicUsize::new(0),
                })
            });
            by_name.insert(name.into(), route);
        }
        let root = by_name.get(Name::ROOT.as_wire()).map_or_else(
            || {
                Arc::new(Route {
                    name: Name::ROOT,
                    zone: telemetry.zone("."),
                    max_ttl: 0,
                    max_negative_ttl: 0,
                    least_ttls: [0; 2],
                    max_failure_ttl: 0,
                    stale_after: None,
                    in_order: false,
                    rotates: false,
                    cuts: false,
                    rewrites: Vec::new(),
                    dns64: None,
                    answers: LocalAnswers::default(),
                    trust: Trust::default(),
                    servers: Vec::new(),
                    has_loop: false,
                    next: AtomicUsize::new(0),
                })
            },
            Arc::clone,
        );
        Self {
            longest: zones
                .iter()
                .map(|zone| zone.name.as_wire().len())
                .max()
                .unwrap_or(0),
            by_name,
            root,
            servers,
            zones: zones.to_vec(),
        }
    }

    /// The route of a lower-case name in wire form.
    pub(super) fn of(&self, name: &[u8]) -> &Arc<Route> {
        let mut rest = name;
        while let Some((&len, tail)) = rest.split_first() {
            // Most labels are in front of all that a zone can be.
            if rest.len() <= self.longest
                && let Some(route) = self.by_name.get(rest)
            {
                return route;
            }
            let Some(parent) = tail.get(usize::from(len)..).filter(|_| len > 0) else {
                break;
            };
            rest = parent;
        }
        &self.root
    }

    /// Whether there is a zone at or below a name.
    pub(super) fn has_zone_below(&self, name: &Name) -> bool {
        let mut zones = self.zones.iter();
        zones.any(|zone| name.encloses(zone.name.as_wire()))
    }

    /// Whether a name would be asked of the same servers under `other`, for the same lifetimes:
    /// then what was cached for it may stay.
    #[must_use]
    pub fn agree_on(&self, other: &Self, name: &[u8]) -> bool {
        match (self.definition(name), other.definition(name)) {
            (Some(own), Some(others)) => own.is_like(others),
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// The zones that these are for.
    #[must_use]
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn zone(&self, name: &Name) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == *name)
    }

    /// Where a server of a zone is written: in a file of its own, or in the configuration.
    pub(super) fn written(&self, zone: &Name, server: SocketAddr) -> String {
        let zone = self.zone(zone);
        let file = zone.and_then(|zone| zone.resolv_conf.as_ref());
        let upstream = || zone?.upstreams.iter().find(|one| one.value == server);
        match (file, upstream()) {
            (Some(file), _) => format!("{} ({})", file.value.display(), file.origin),
            (None, Some(upstream)) => upstream.origin.to_string(),
            (None, None) => String::new(),
        }
    }

    /// What the configuration says of a name.
    fn definition(&self, name: &[u8]) -> Option<&Zone> {
        let enclosing = self.zones.iter().filter(|zone| zone.name.encloses(name));
        enclosing.max_by_key(|zone| zone.name.as_wire().len())
    }

    /// Every server with its zone, those that are left out, too.
    pub(super) fn by_zone(&self) -> impl Iterator<Item = (&Name, &Arc<Server>)> {
        self.servers
            .iter()
            .map(|((zone, _), server)| (zone, server))
    }

    /// Every server, once for each of its zones.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.values()
    }
}
