// SPDX-License-Identifier: Apache-2.0
//! Zones and their servers: the longest zone that encloses a name takes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::denial::Trust;
use super::upstream::Server;
use crate::config::Zone;
use crate::telemetry::registry::Telemetry;
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
    /// Whether the records of address sets take turns on hits.
    pub(super) rotates: bool,
    /// Whether nothing is taken to exist below a name that does not.
    pub(super) cuts: bool,
    /// What its upstreams have shown of how they deny names.
    pub(super) trust: Trust,
    servers: Vec<Arc<Server>>,
    /// Draws servers: each call the next ones.
    pub(super) next: AtomicUsize,
}

impl Route {
    pub(super) fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// Whether none of the servers has answered since it last failed.
    pub(super) fn is_down(&self) -> bool {
        self.servers.iter().all(|server| server.is_down())
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
    /// Each zone has servers of its own, with their connections: where nobody answers the names of
    /// one zone, the names of the others find connections that are free.
    servers: HashMap<(Name, SocketAddr), Arc<Server>>,
    zones: Vec<Zone>,
}

impl Routes {
    /// Routes for `zones`, of which one is the root. Servers of `former` with the same zone and
    /// address are taken over with their connections.
    #[must_use]
    pub fn new(zones: &[Zone], telemetry: &Arc<Telemetry>, former: Option<&Self>) -> Self {
        let mut servers = HashMap::new();
        let mut by_name = HashMap::with_hasher(foldhash::quality::RandomState::default());
        for zone in zones {
            let of_zone = zone.upstreams.iter().map(|upstream| {
                let address = upstream.value;
                let key = (zone.name, address);
                let known = former.and_then(|former| former.servers.get(&key));
                let server = servers.entry(key).or_insert_with(|| {
                    known.map_or_else(|| Server::new(address, telemetry), Arc::clone)
                });
                Arc::clone(server)
            });
            let route = Arc::new(Route {
                name: zone.name,
                zone: telemetry.zone(&zone.name.to_string()),
                max_ttl: zone.max_ttl,
                max_negative_ttl: zone.max_negative_ttl,
                rotates: zone.rotate,
                cuts: zone.cuts,
                trust: Trust::default(),
                servers: of_zone.collect(),
                next: AtomicUsize::new(0),
            });
            by_name.insert(zone.name.as_wire().into(), route);
        }
        let root = by_name.get(Name::ROOT.as_wire()).map_or_else(
            || {
                Arc::new(Route {
                    name: Name::ROOT,
                    zone: telemetry.zone("."),
                    max_ttl: 0,
                    max_negative_ttl: 0,
                    rotates: false,
                    cuts: false,
                    trust: Trust::default(),
                    servers: Vec::new(),
                    next: AtomicUsize::new(0),
                })
            },
            Arc::clone,
        );
        Self {
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
            if let Some(route) = self.by_name.get(rest) {
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
            (Some(own), Some(others)) => {
                let upstreams = own.upstreams.iter().map(|upstream| upstream.value);
                upstreams.eq(others.upstreams.iter().map(|upstream| upstream.value))
                    && own.name == others.name
                    && own.max_ttl == others.max_ttl
                    && own.max_negative_ttl == others.max_negative_ttl
                    && own.rotate == others.rotate
                    && own.cuts == others.cuts
            }
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// What the configuration says of a name.
    fn definition(&self, name: &[u8]) -> Option<&Zone> {
        let enclosing = self.zones.iter().filter(|zone| zone.name.encloses(name));
        enclosing.max_by_key(|zone| zone.name.as_wire().len())
    }

    /// Every zone, as it was configured.
    pub(super) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Every server with the zone that it serves.
    pub(super) fn by_zone(&self) -> impl Iterator<Item = (&Name, &Arc<Server>)> {
        self.servers
            .iter()
            .map(|((zone, _), server)| (zone, server))
    }

    /// Every server, once for each of its zones.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.values()
    }

    /// Every server with its zone.
    pub(super) fn zones_and_servers(&self) -> impl Iterator<Item = (&Name, &Arc<Server>)> {
        self.servers
            .iter()
            .map(|((zone, _), server)| (zone, server))
    }
}
