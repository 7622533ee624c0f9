// SPDX-License-Identifier: Apache-2.0
//! Turns what was collected into a [`Config`]: each value read by its key's kind, every problem
//! kept, then the checks that look at several values at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::keys::{self, Kind};
use super::reader::{Reader, Reading, kind, locate, with_environment};
use super::source::{Collected, Sources, Spot};
use super::steering::{self, Wishes};
use super::text::{self, Wrong};
use super::{
    Admin, CacheConfig, Cluster, Config, Intercept, Limits, Listen, Loaded, Log, Problem, cross,
    limits, zones,
};
use crate::wire::name::Name;

/// Where node-local caches listen by custom: node-cache's address.
const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));

/// Builds the configuration.
///
/// # Errors
/// Every problem of every source, those of the file first, line by line.
pub(super) fn read(
    sources: &Sources,
    collected: Collected,
    host: impl FnOnce() -> std::io::Result<Vec<IpAddr>>,
) -> Result<Loaded, Vec<Problem>> {
    let mut reader = Reader { sources, collected };
    let config = reader.config(host);
    let Collected {
        file,
        footprint,
        mut problems,
        mut warnings,
        ..
    } = reader.collected;
    if problems.is_empty() {
        warnings.sort_by_key(|problem| problem.origin.order());
        Ok(Loaded {
            config,
            warnings,
            file,
            footprint,
        })
    } else {
        problems.sort_by_key(|problem| problem.origin.order());
        if let Some(last) = problems.get(limits::MAX_PROBLEMS) {
            let more = Problem {
                origin: last.origin.clone(),
                message: format!(
                    "found {} more problems from here on",
                    problems.len() - limits::MAX_PROBLEMS
                ),
                remedy: "check that it is the right file, and correct those above".to_owned(),
            };
            problems.truncate(limits::MAX_PROBLEMS);
            problems.push(more);
        }
        Err(problems)
    }
}

/// The configuration with the defaults of what has a problem, and every problem.
pub(super) fn read_what_is_sound(
    sources: &Sources,
    collected: Collected,
) -> (Config, Vec<Problem>) {
    let mut reader = Reader { sources, collected };
    // What is an address of this host is asked for the upstreams' sake alone.
    let config = reader.config(|| Ok(Vec::new()));
    (config, reader.collected.problems)
}

/// The default of a key that is written in the table.
fn default_text(path: &str) -> &'static str {
    keys::find(path).map_or("", |key| key.default)
}

impl Reader<'_> {
    fn config(&mut self, host: impl FnOnce() -> std::io::Result<Vec<IpAddr>>) -> Config {
        self.version();
        let domain = self.domain();
        let dns_service = self.services("cluster.dnsService", None);
        let addresses = self.listen_addresses();
        let port = self.count::<u16>("listen.port");
        let health = self.socket("admin.health", &addresses);
        let metrics = self.socket("admin.metrics", &addresses);
        let also = self.also();
        let zones = zones::read(self);

        let tcp_idle = self.time("listen.tcpIdle");
        let enabled = self.switch("intercept.enabled");
        let interface = default_text("intercept.interface").to_owned();
        let interface = self.scalar("intercept.interface", interface, text::interface);
        let redirect_to = self.redirect_to();
        let fallback = self.services("intercept.fallback", Some("off"));
        let sweep = self.switch("intercept.sweep");
        let stale_for = self.time("cache.staleFor");
        let stale_after = self.time("cache.staleAfter");
        let prefetch = self.switch("cache.prefetch");
        let socket = self.path("admin.socket");

        cross::once(self, &[], &addresses);
        cross::admin(self, &addresses, &port, &[&health, &metrics]);
        let others = cross::each(&also);
        cross::admin(self, &addresses, &port, &others.iter().collect::<Vec<_>>());
        let sockets = [&health, &metrics].into_iter().filter(|one| one.is_sound);
        let sockets: Vec<_> = sockets.map(|one| (one.value, one.spot.clone())).collect();
        cross::once(self, &sockets, &also);
        cross::own_sockets(self, &addresses, &port, &zones, host);
        let wishes = Wishes {
            enabled: &enabled,
            interface: &interface,
            addresses: &addresses,
            port: &port,
            services: &dns_service,
            redirect_to: &redirect_to,
            fallback: &fallback,
            tcp_idle: &tcp_idle,
        };
        let plan = steering::plan(self, &wishes, &zones);
        let captures = plan.iter().flat_map(|plan| &plan.captures);
        let captured: Vec<IpAddr> = captures.map(|capture| capture.service).collect();

        Config {
            cluster: Cluster {
                domain: domain.value,
                dns_service: locate(dns_service.value),
            },
            listen: Listen {
                addresses: locate(addresses.value),
                captured,
                port: port.located(),
                udp_size: self.count("listen.udpSize").value,
                tcp_idle: tcp_idle.value,
                tcp_connections: self.count("listen.tcpConnections").value,
                tcp_connections_per_client: self.count("listen.tcpConnectionsPerClient").value,
            },
            intercept: Intercept {
                enabled: enabled.value,
                interface: interface.value,
                redirect_to: locate(redirect_to.value),
                fallback: locate(fallback.value),
                dead_after: self.time("intercept.deadAfter").value,
                sweep: sweep.value,
                plan,
            },
            workers: self.workers(),
            cache: CacheConfig {
                size_bytes: self.size("cache.size"),
                stale_for: stale_for.value,
                stale_after: stale_after.value,
                prefetch: prefetch.value,
            },
            zones: zones::finish(zones, &domain.value),
            limits: self.limits(),
            admin: Admin {
                health: health.located(),
                metrics: metrics.located(),
                coredns_names: self.switch("admin.corednsNames").value,
                also: locate(also.value),
                is_socket_given: socket.is_given,
                socket: socket.located(),
            },
            log: self.log(),
        }
    }

    fn version(&mut self) {
        self.scalar("version", (), |text| match text {
            "1" => Ok(()),
            _ => Err(Wrong {
                expected: "version 1".to_owned(),
                remedy: "write `version: 1`; other forms of the file need another nodens"
                    .to_owned(),
            }),
        });
    }

    fn domain(&mut self) -> Reading<Name> {
        // The default is a name: parsed, so that the table's text is what counts.
        let default = Name::parse(default_text("cluster.domain")).unwrap_or(Name::ROOT);
        self.scalar("cluster.domain", default, |text| {
            text::domain(text).and_then(|name| match name {
                name if name == Name::ROOT => Err(Wrong {
                    expected: "a domain below the root".to_owned(),
                    remedy: "write the cluster's domain, e.g. cluster.local".to_owned(),
                }),
                name => Ok(name),
            })
        })
    }

    fn listen_addresses(&mut self) -> Reading<Vec<(IpAddr, Spot)>> {
        let path = "listen.addresses";
        let mut reading = self.list(path, None, |text| {
            let address = text::address(text)?;
            if address.is_unspecified() {
                return Ok(address);
            }
            text::reachable(address)
                .map(|()| address)
                .map_err(|wrong| Wrong {
                    expected: "an address of this host".to_owned(),
                    remedy: wrong.remedy.replace("of a server", "of this host"),
                })
        });
        let number = reading.value.len();
        if !reading.is_given {
            let spot = reading.spot.clone();
            reading.value.push((DEFAULT_ADDRESS, spot));
        } else if reading.is_sound && !(1..=limits::MAX_LISTEN_ADDRESSES).contains(&number) {
            reading.is_sound = false;
            self.problem(
                &reading.spot,
                &format!("{number} addresses"),
                &Wrong {
                    expected: format!("1 to {}", limits::MAX_LISTEN_ADDRESSES),
                    remedy: "name the addresses to listen on; 0.0.0.0 and :: stand for all"
                        .to_owned(),
                },
            );
        }
        reading
    }

    fn redirect_to(&mut self) -> Reading<Vec<(IpAddr, Spot)>> {
        self.list("intercept.redirectTo", Some("auto"), text::server)
    }

    fn services(
        &mut self,
        path: &'static str,
        nothing: Option<&str>,
    ) -> Reading<Vec<(IpAddr, Spot)>> {
        let environment = &self.sources.environment;
        self.list(path, nothing, |text| {
            with_environment(environment, text, text::server)
        })
    }

    fn also(&mut self) -> Reading<Vec<(SocketAddr, Spot)>> {
        let mut reading = self.list("admin.also", None, |text| text::listener(text, 0, 1));
        let number = reading.value.len();
        if number > limits::MAX_ALSO {
            reading.is_sound = false;
            let wrong = Wrong {
                expected: format!("at most {}", limits::MAX_ALSO),
                remedy: "leave some out".to_owned(),
            };
            self.problem(&reading.spot, &format!("{number} addresses"), &wrong);
        }
        reading
    }

    fn workers(&mut self) -> Option<u16> {
        let Kind::CountOrAuto(limit) = kind("workers") else {
            unreachable!("workers is a number or auto");
        };
        self.scalar("workers", None, |text| {
            text::count_or_auto(text, &limit, "a number of threads like 2")
        })
        .value
    }

    fn limits(&mut self) -> Limits {
        let query = self.time("limits.queryTimeout");
        let attempt = self.time("limits.attemptTimeout");
        let connect = self.time("limits.connectTimeout");
        cross::at_least(self, &query, &attempt);
        cross::at_least(self, &attempt, &connect);
        Limits {
            in_flight: self.count("limits.inFlight").value,
            query_timeout: query.value,
            attempt_timeout: attempt.value,
            connect_timeout: connect.value,
            upstream_connections: self.count("limits.upstreamConnections").value,
            upstream_idle: self.time("limits.upstreamIdle").value,
            hedge_percent: self.count("limits.hedgePercent").value,
            loop_probes: self.time("limits.loopProbes").value,
            drain_timeout: self.time("limits.drainTimeout").value,
        }
    }

    fn log(&mut self) -> Log {
        let level = match self.word("log.level") {
            "error" => tracing::Level::ERROR,
            "warn" => tracing::Level::WARN,
            "debug" => tracing::Level::DEBUG,
            "trace" => tracing::Level::TRACE,
            _ => tracing::Level::INFO,
        };
        let json = match self.word("log.format") {
            "json" => Some(true),
            "text" => Some(false),
            _ => None,
        };
        Log { level, json }
    }

    fn word(&mut self, path: &'static str) -> &'static str {
        let Kind::Word(words) = kind(path) else {
            unreachable!("{path} is a word");
        };
        self.scalar(path, "", |text| text::word(text, words)).value
    }

    /// `T` holds every number within the key's bounds.
    fn count<T: TryFrom<u64> + Default>(&mut self, path: &'static str) -> Reading<T> {
        let Kind::Count(limit) = kind(path) else {
            unreachable!("{path} is a number");
        };
        let fit = |number| T::try_from(number).unwrap_or_default();
        self.scalar(path, fit(limit.default), |text| {
            text::count(text, &limit).map(fit)
        })
    }

    fn size(&mut self, path: &'static str) -> u64 {
        let Kind::Size(limit) = kind(path) else {
            unreachable!("{path} is a size");
        };
        self.scalar(path, limit.default, |text| text::size(text, &limit))
            .value
    }

    fn time(&mut self, path: &'static str) -> Reading<Duration> {
        let Kind::Time(limit) = kind(path) else {
            unreachable!("{path} is a duration");
        };
        self.scalar(path, limit.default, |text| text::time(text, &limit))
    }

    fn switch(&mut self, path: &'static str) -> Reading<bool> {
        let Kind::Switch(default) = kind(path) else {
            unreachable!("{path} is true or false");
        };
        self.scalar(path, default, text::switch)
    }

    fn path(&mut self, path: &'static str) -> Reading<PathBuf> {
        let default = default_text(path);
        self.scalar(path, PathBuf::from(default), |text| {
            Some(PathBuf::from(text))
                .filter(|path| path.is_absolute())
                .ok_or_else(|| Wrong {
                    expected: "an absolute path".to_owned(),
                    remedy: format!("write it like {default}"),
                })
        })
    }

    /// The default's address is the first that is listened on.
    fn socket(
        &mut self,
        path: &'static str,
        addresses: &Reading<Vec<(IpAddr, Spot)>>,
    ) -> Reading<SocketAddr> {
        let Kind::Socket(port) = kind(path) else {
            unreachable!("{path} is an address with a port");
        };
        let first = addresses.value.first();
        let first = first.map_or(DEFAULT_ADDRESS, |(address, _)| *address);
        let mut reading = self.scalar(path, SocketAddr::new(first, port), |text| {
            text::listener(text, port, 0)
        });
        // A default that follows from a wrong address says nothing.
        reading.is_sound &= reading.is_given || addresses.is_sound;
        reading
    }
}
