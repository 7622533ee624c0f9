// SPDX-License-Identifier: Apache-2.0
//! Reads the configuration again while everything goes on. A file with a problem is refused whole.

use std::sync::Arc;

use crate::cache::Cache;
use crate::config::{Config, Sources};
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
    /// Reads the configuration and puts what may change while running in force; the rest is
    /// named. A configuration with a problem changes nothing.
    pub fn run(&mut self) {
        let loaded = match Config::load(&self.sources) {
            Ok(loaded) => loaded,
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(%problem, "the configuration has a problem");
                }
                self.refuse("the new configuration is refused whole; the old one stays in force");
                return;
            }
        };
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
        for key in self.config.needs_restart(&new) {
            tracing::warn!(key, "changed in the file; takes effect at the next start");
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

    fn refuse(&self, why: &'static str) {
        self.telemetry.agent.reload_refused();
        tracing::error!("{why}");
    }
}
