// SPDX-License-Identifier: Apache-2.0
//! Files beside the configuration that take effect when they change: a resolv.conf, the authorities of
//! upstreams over TLS; and a Corefile with all that belongs to it, which is a configuration of its own.
//! What cannot be used leaves the last good one in force.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reload::Reload;
use super::watch::Watch;
use crate::config::corefile::Footprint;
use crate::config::resolv_conf::{self, Found};
use crate::config::{Located, Transport, Zone, limits};
use crate::resolve::Routes;

/// The files, and what was said of them last.
#[derive(Debug)]
pub struct Files {
    watch: Watch,
    /// What is wrong with a file: said once.
    said: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Those of the configuration in force. Needs the runtime.
    #[must_use]
    pub fn new(reload: &Reload) -> Self {
        let mut files = Self {
            watch: Watch::new(),
            said: BTreeMap::new(),
        };
        files.follow(reload);
        files
    }

    /// Follows those of the configuration in force.
    pub fn follow(&mut self, reload: &Reload) {
        let of_corefile = reload.footprint.iter().flat_map(Footprint::paths);
        let of_corefile = of_corefile.map(Path::to_owned);
        self.watch
            .follow(reload.files().into_iter().chain(of_corefile));
    }

    /// Waits until files have changed. May be dropped and called again.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        self.watch.changed().await
    }

    /// Puts what they say now in force.
    pub fn read_again(&mut self, changed: &[PathBuf], reload: &mut Reload) {
        // A Corefile names the others: it goes first.
        if reload.reads(changed) {
            reload.run_if_changed();
            self.follow(reload);
        }
        for file in changed {
            for problem in [reload.take_servers(file), reload.take_authorities(file)] {
                match problem {
                    Some(Ok(())) => self.good(file),
                    Some(Err(problem)) => self.bad(file, problem),
                    None => {}
                }
            }
        }
    }

    fn good(&mut self, file: &Path) {
        if self.said.remove(file).is_some() {
            tracing::info!(file = %file.display(), "the file can be used again");
        }
    }

    fn bad(&mut self, file: &Path, problem: String) {
        if self.said.get(file) == Some(&problem) {
            return;
        }
        tracing::error!(
            file = %file.display(), error = problem,
            "the file cannot be used; what it said before stays in force"
        );
        self.said.insert(file.to_owned(), problem);
    }
}

/// Whether the configuration names this file, which is given by its absolute path.
fn is(named: &Path, file: &Path) -> bool {
    std::path::absolute(named).is_ok_and(|named| named == file)
}

impl Reload {
    /// The files that the configuration in force names.
    fn files(&self) -> Vec<PathBuf> {
        let of_zone = |zone: &Zone| {
            let servers = zone.resolv_conf.as_ref().map(|file| file.value.clone());
            let authorities = match &zone.transport {
                Transport::Tls(tls) => Some(tls.ca_file.clone()),
                Transport::Tcp | Transport::Udp => None,
            };
            [servers, authorities]
        };
        let files = self.config.zones.iter().flat_map(of_zone);
        files.flatten().collect()
    }

    /// Whether one of these belongs to the Corefile.
    fn reads(&self, changed: &[PathBuf]) -> bool {
        let mut paths = self.footprint.iter().flat_map(Footprint::paths);
        paths.any(|path| changed.iter().any(|file| is(path, file)))
    }

    /// Has the zones that follow this file ask its servers; `None` where there is no such zone, an
    /// error where it cannot be used.
    fn take_servers(&mut self, file: &Path) -> Option<Result<(), String>> {
        let follows = |zone: &Zone| {
            let named = zone.resolv_conf.as_ref();
            named.is_some_and(|named| is(&named.value, file))
        };
        if !self.config.zones.iter().any(follows) {
            return None;
        }
        let mut zones = self.config.zones.clone();
        for zone in zones.iter_mut().filter(|zone| follows(zone)) {
            let found = match self.servers_of(file, zone) {
                Ok(found) => found,
                Err(problem) => {
                    self.telemetry.agent.file_changed(false);
                    return Some(Err(problem));
                }
            };
            let Some(origin) = zone.resolv_conf.as_ref().map(|file| file.origin.clone()) else {
                continue;
            };
            let servers: Vec<SocketAddr> = found.servers.iter().map(|(one, _)| *one).collect();
            let before = zone.clone();
            zone.upstreams = servers
                .iter()
                .map(|&value| Located {
                    value,
                    origin: origin.clone(),
                })
                .collect();
            let (zone, file) = (zone, file.display());
            if zone.is_like(&before) {
                tracing::debug!(zone = %zone.name, %file, ?servers, ignored = ?found.ignored, "servers as before");
            } else {
                tracing::info!(zone = %zone.name, %file, ?servers, ignored = ?found.ignored, "other servers for a zone");
            }
        }
        let is_new = |(new, old): (&Zone, &Zone)| !new.is_like(old);
        if zones.iter().zip(&self.config.zones).any(is_new) {
            let old = self.resolver.routes();
            let routes = Routes::new(&zones, &self.telemetry, Some(&old));
            self.resolver.reroute(routes);
            let routes = self.resolver.routes();
            self.cache
                .retain(|entry| routes.agree_on(&old, entry.name()));
            self.config.zones = zones;
            self.telemetry.agent.file_changed(true);
        }
        Some(Ok(()))
    }

    fn servers_of(&self, file: &Path, zone: &Zone) -> Result<Found, String> {
        let port = match zone.transport {
            Transport::Tls(_) => limits::UPSTREAM_TLS_PORT,
            Transport::Tcp | Transport::Udp => limits::UPSTREAM_PORT,
        };
        let found = resolv_conf::read(file, port)
            .map_err(|wrong| format!("{}; {}", wrong.message, wrong.remedy))?;
        let own = found
            .servers
            .iter()
            .find(|(server, _)| self.config.asks_itself(*server));
        match own {
            None => Ok(found),
            Some((server, line)) => Err(format!(
                "found {server} on its line {line}, expected a server other than the agent, which would \
                 ask itself; {}",
                resolv_conf::REMEDY
            )),
        }
    }

    /// Trusts the authorities in this file; `None` where no zone does, an error where it cannot be
    /// used.
    fn take_authorities(&self, file: &Path) -> Option<Result<(), String>> {
        let names = |zone: &Zone| match &zone.transport {
            Transport::Tls(tls) => is(&tls.ca_file, file),
            Transport::Tcp | Transport::Udp => false,
        };
        let zone = self.config.zones.iter().find(|zone| names(zone))?;
        let Transport::Tls(tls) = &zone.transport else {
            return None;
        };
        let result = self.resolver.trust_anew(&tls.ca_file);
        self.telemetry.agent.file_changed(result.is_ok());
        if result.is_ok() {
            tracing::info!(file = %file.display(), "authorities of upstreams read");
        }
        Some(result)
    }
}
