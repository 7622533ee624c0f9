// SPDX-License-Identifier: Apache-2.0
//! The agent on one page.

use super::page::{Configuration, Lane, Listen, Route, Status, Steering, Upstream};
use super::{Inspector, store};
use crate::resolve::{Snapshot, State, ZoneView};
use crate::telemetry::cells::Outcome;
use crate::telemetry::clock::Clock;
use crate::telemetry::registry::{HealthFigures, SteeringFigures};

impl Inspector {
    /// The agent on one page.
    #[must_use]
    pub fn status(&self) -> Status {
        let summary = self.telemetry.summary();
        let agent = &self.telemetry.agent;
        let wall = Clock.wall();
        let (reloads, refused) = agent.reloads();
        let loaded = agent.last_reload_success_seconds();
        let started = summary.start_time_seconds.unwrap_or(wall.as_secs_f64());
        let reasons = match self.health.ready(Clock.now_ns()) {
            Ok(()) => Vec::new(),
            Err(reasons) => reasons.lines().to_vec(),
        };
        let health = summary.health.unwrap_or_default();
        let zones = self.resolver.zone_views();
        let upstreams = zones.iter().flat_map(|zone| {
            let servers = zone.servers.iter();
            servers.map(|server| self.upstream(zone, server))
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: whole_seconds(wall.as_secs_f64() - started),
            resident_bytes: summary.resident_bytes,
            config: Configuration {
                file: agent.config_file().map(|file| file.display().to_string()),
                loaded,
                age: wall.as_secs().saturating_sub(loaded),
                reloads,
                refused,
            },
            is_ready: reasons.is_empty(),
            is_live: health.is_live,
            is_draining: health.is_draining,
            reasons,
            waiting: summary.in_flight,
            listen: listen(&health),
            steering: health.steering.as_ref().map(steering),
            upstreams: upstreams.collect(),
            zones: zones.iter().map(route).collect(),
            cache: store(summary.cache),
        }
    }

    fn upstream(&self, zone: &ZoneView, server: &Snapshot) -> Upstream {
        let exchanges = self.telemetry.exchanges(server.index).into_iter();
        Upstream {
            address: server.address.to_string(),
            zone: zone.zone.name.to_string(),
            state: match (server.state, server.last_answer) {
                (State::Up, None) => "not asked".to_owned(),
                (state, _) => state.label().to_owned(),
            },
            is_down: server.state == State::Down,
            smoothed: server.smoothed.map(|time| time.as_secs_f64()),
            p95: server.p95.map(|time| time.as_secs_f64()),
            in_flight: server.in_flight,
            depth: server.depth,
            waiting: server.waiting,
            idle: server.idle,
            dialling: server.dialling,
            youngest: server.ages.map(|(youngest, _)| youngest.as_secs_f64()),
            oldest: server.ages.map(|(_, oldest)| oldest.as_secs_f64()),
            answered: server.last_answer.map(|ago| ago.as_secs_f64()),
            failed: server.last_error.map(|(_, ago)| ago.as_secs_f64()),
            error: server.last_error.map(|(outcome, _)| {
                let (_, label) = Outcome::ALL[outcome as usize];
                label.to_owned()
            }),
            words: server
                .last_error
                .map(|(outcome, _)| outcome.words().to_owned()),
            hedges: server.hedges,
            exchanges: exchanges
                .map(|(label, count)| (label.to_owned(), count))
                .collect(),
        }
    }
}

fn listen(health: &HealthFigures) -> Vec<Listen> {
    let probes = health.probes.iter();
    probes
        .map(|probe| Listen {
            address: probe.address.clone(),
            proto: probe.proto.to_owned(),
            answered: probe.answered,
            failed: probe.failed,
        })
        .collect()
}

fn steering(figures: &SteeringFigures) -> Steering {
    let lanes = figures.lanes.iter();
    let healed = figures.healed.iter();
    Steering {
        lanes: lanes
            .map(|lane| Lane {
                address: lane.address.clone(),
                proto: lane.proto.to_owned(),
                is_live: lane.is_live,
                trips: lane.trips,
                returns: lane.returns,
            })
            .collect(),
        healed: healed
            .map(|(part, count)| ((*part).to_owned(), *count))
            .collect(),
        longest_gap: figures.longest_gap.as_secs_f64(),
    }
}

fn route(view: &ZoneView) -> Route {
    let zone = &view.zone;
    Route {
        zone: zone.name.to_string(),
        upstreams: zone
            .upstreams
            .iter()
            .map(|upstream| upstream.value.to_string())
            .collect(),
        answers: zone.answers.len(),
        max_ttl: zone.max_ttl,
        max_negative_ttl: zone.max_negative_ttl,
        rotates: zone.rotate,
        cuts: zone.cuts,
        denies_by_name: view.denies_by_name,
        is_down: view.is_down,
    }
}

/// The wall clock may have been set back since the start.
fn whole_seconds(seconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(seconds).map_or(0, |duration| duration.as_secs())
}
