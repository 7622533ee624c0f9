// SPDX-License-Identifier: Apache-2.0
//! Reads the configuration again while everything goes on. A file with a problem is refused whole.

use std::sync::Arc;

use crate::cache::Cache;
use crate::config::corefile::Footprint;
use crate::config::{Config, Gathered, Problem, Sources};
use crate::resolve::{Resolver, Routes};
use crate::telemetry::clock::Clock;
use crate::telemetry::log::LogControl;
use crate::telemetry::registry::Telemetry;

/// What a reload changes.
#[derive(Debug)]
pub struct Reload {
    /// Where the configuration came from at start; it is read from there again.
    pub sources: Sources,
    /// The configuration in force.
    pub config: Config,
    /// What a Corefile was last read from, good or bad. `None`: there is none, and nothing but a
    /// signal has the configuration read again.
    pub footprint: Option<Footprint>,
    /// Its budget may change, and answers that other servers gave go.
    pub cache: Cache,
    /// Its zones, servers and limits may change.
    pub resolver: Arc<Resolver>,
    /// Counts reloads.
    pub telemetry: Arc<Telemetry>,
    /// Its level may change; `None` where somebody else has set up the log.
    pub log: Option<LogControl>,
}

impl Reload {
    /// Reads the configuration again where it comes from a Corefile, and that or what belongs to it
    /// has changed since.
    pub fn run_if_changed(&mut self) {
        if self.footprint.is_none() {
            return;
        }
        let gathered = Config::gather(&self.sources);
        if gathered.footprint() != self.footprint.as_ref() {
            self.put_in_force(gathered);
        }
    }

    /// Reads the configuration and puts what may change while running in force; the rest is
    /// named. A configuration with a problem changes nothing.
    pub fn run(&mut self) {
        self.put_in_force(Config::gather(&self.sources));
    }

    fn put_in_force(&mut self, gathered: Gathered) {
        // What has changed since is found at the next look.
        let footprint = gathered.footprint().cloned();
        let before = std::mem::replace(&mut self.footprint, footprint);
        let loaded = match gathered.load(&self.sources) {
            Ok(loaded) => loaded,
            Err(problems) => return self.refuse_for(&problems),
        };
        if let Some(problem) = self.asks_itself_in(&loaded.config) {
            return self.refuse_for(&[problem]);
        }
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "the configuration has a warning");
        }
        let new = loaded.config;
        let size = new.cache.size_bytes;
        if size != self.config.cache.size_bytes
            && let Err(error) = self.cache.set_budget(size)
        {
            tracing::warn!(%error, cache_size = size, "the kernel gives no memory for cache.size");
            self.refuse("the new configuration is refused whole; the old one stays in force");
            // Nothing is wrong with it: there may be memory at the next look.
            self.footprint = before;
            return;
        }
        let old = self.resolver.routes();
        let routes = Routes::new(&new.zones, &self.telemetry, Some(&old));
        self.resolver
            .reload(routes, new.limits.clone(), new.cache.clone());
        let routes = self.resolver.routes();
        let dropped = self
            .cache
            .retain(|entry| routes.agree_on(&old, entry.name()));
        if let Some(log) = &self.log {
            log.set_level(new.log.level);
        }
        let waiting = self.config.needs_restart(&new);
        if self.footprint.is_some() && !waiting.is_empty() {
            // Who edits a Corefile of node-cache's sees every change take effect.
            tracing::error!(
                keys = waiting.join(", "),
                "changed in the Corefile, and cannot take effect while the agent runs: the old values \
                 stay until the pod is started anew"
            );
        } else {
            for key in waiting {
                tracing::warn!(key, "changed in the file; takes effect at the next start");
            }
        }
        tracing::info!(
            zones = new.zones.len(),
            cache_size = size,
            dropped,
            "configuration reloaded"
        );
        // What needs a restart stays as it is: the next reload still sees the difference.
        self.config.zones = new.zones;
        self.config.cache = new.cache;
        self.config.limits = new.limits;
        self.config.log.level = new.log.level;
        self.telemetry.agent.config_read_from(loaded.file);
        self.telemetry.agent.reload_ok(Clock.wall().as_secs());
    }

    /// A server of another configuration that is the agent as it runs: other addresses to listen on
    /// wait for the next start, and until then it would ask itself.
    fn asks_itself_in(&self, new: &Config) -> Option<Problem> {
        let mut servers = new.zones.iter().flat_map(|zone| &zone.upstreams);
        let own = servers.find(|server| self.config.asks_itself(server.value))?;
        Some(Problem {
            origin: own.origin.clone(),
            message: format!(
                "found {}, where the agent answers until it is started anew",
                own.value
            ),
            remedy: "start the agent anew, or name another server".to_owned(),
        })
    }

    /// Refuses a configuration for its problems. Of a Corefile there is one line, as whoever edits
    /// many nodes' reads it many times; `nodens check` has them all.
    fn refuse_for(&self, problems: &[Problem]) {
        if let (Some(_), Some((first, others))) = (&self.footprint, problems.split_first()) {
            self.telemetry.agent.reload_refused();
            tracing::error!(
                problem = %first, others = others.len(),
                "the new Corefile is refused whole; the old one stays in force"
            );
            return;
        }
        for problem in problems {
            tracing::error!(%problem, "the configuration has a problem");
        }
        self.refuse("the new configuration is refused whole; the old one stays in force");
    }

    fn refuse(&self, why: &'static str) {
        self.telemetry.agent.reload_refused();
        tracing::error!("{why}");
    }
}
