// SPDX-License-Identifier: Apache-2.0
//! The configuration: file, environment and flags over defaults, read once into types that
//! cannot be wrong. What the rest of the agent sees is [`Config`]; it knows nothing of YAML.

pub mod adapt;
pub mod answers;
pub mod ca;
pub mod corefile;
mod cross;
#[cfg(test)]
mod docs;
pub mod host;
mod key;
pub mod keys;
mod kind;
pub mod limits;
mod nearest;
mod read;
mod reader;
pub mod resolv_conf;
mod restart;
mod servers;
pub mod source;
mod spelling;
mod steering;
#[cfg(test)]
mod tests;
mod text;
mod unread;
mod yaml;
mod zones;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nodens_netsetup::plan::{Plan, Settings};
use rustls::pki_types::ServerName;

pub use self::answers::LocalAnswer;
pub use self::source::Sources;
pub use self::text::{duration, show_size, show_time};
use crate::wire::name::Name;

/// A configuration that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is no obstacle and should be known: values without effect, unknown variables.
    pub warnings: Vec<Problem>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What a Corefile was read from; it is followed where there is one.
    pub footprint: Option<corefile::Footprint>,
}

/// What a configuration is made of, read and not yet judged.
#[derive(Debug)]
pub struct Gathered(source::Collected);

impl Gathered {
    /// What a Corefile was read from, good or bad; `None` where there is none.
    #[must_use]
    pub fn footprint(&self) -> Option<&corefile::Footprint> {
        self.0.footprint.as_ref()
    }

    /// The configuration. `sources` are those that it was gathered from.
    ///
    /// # Errors
    /// Every problem there is, as of [`Config::load`].
    pub fn load(self, sources: &Sources) -> Result<Loaded, Vec<Problem>> {
        read::read(sources, self.0, host::addresses)
    }
}

/// Everything the agent is told, complete and within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster that is served.
    pub cluster: Cluster,
    /// Where clients are answered.
    pub listen: Listen,
    /// How the kernel steers queries here.
    pub intercept: Intercept,
    /// Worker threads; `None` is one for each CPU the process may run on, 64 at most.
    pub workers: Option<u16>,
    /// The answer store.
    pub cache: CacheConfig,
    /// Zones with their upstreams: longest name first; the last one is the root. The cluster
    /// zone is always among them: where the file does not name it, it has the upstreams of the
    /// longest zone that encloses it.
    pub zones: Vec<Zone>,
    /// Bounds on work under way.
    pub limits: Limits,
    /// Health, metrics and the admin socket.
    pub admin: Admin,
    /// What is logged.
    pub log: Log,
}

impl Config {
    /// Reads file, environment and flags over the defaults. Flags are stronger than the
    /// environment, the environment than the file.
    ///
    /// # Errors
    /// Every problem there is, never an empty list; the file's come first, line by line.
    pub fn load(sources: &Sources) -> Result<Loaded, Vec<Problem>> {
        Self::gather(sources).load(sources)
    }

    /// Reads what [`Self::load`] reads, and judges nothing yet.
    #[must_use]
    pub fn gather(sources: &Sources) -> Gathered {
        Gathered(source::collect(sources))
    }

    /// As [`Self::load`], for a command that has use for these keys alone: a configuration with which
    /// the agent does not start must not keep it from being asked, or removed. Other keys with a
    /// problem have their defaults.
    ///
    /// # Errors
    /// Every problem of these keys, and what keeps the file from being read at all.
    pub fn load_for(sources: &Sources, keys: &[&str]) -> Result<Self, Vec<Problem>> {
        let (config, mut problems) = read::read_what_is_sound(sources, source::collect(sources));
        // What such a command needs no Corefile says: it has flags for it.
        let is_elsewhere = |problem: &Problem| {
            sources.corefile.is_some() && matches!(problem.origin, Origin::File { .. })
        };
        problems.retain(|problem| {
            !is_elsewhere(problem) && keys.iter().any(|key| problem.origin.concerns(key))
        });
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    /// What the node's network is planned from, whether queries are intercepted or not.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let values = |all: &[Located<IpAddr>]| all.iter().map(|one| one.value).collect::<Vec<_>>();
        let redirect_to = values(&self.intercept.redirect_to);
        Settings {
            interface: self.intercept.interface.clone(),
            listen: values(&self.listen.addresses),
            port: self.listen.port.value,
            services: values(&self.cluster.dns_service),
            redirect_to: (!redirect_to.is_empty()).then_some(redirect_to),
            fallback: values(&self.intercept.fallback),
            tcp_idle: self.listen.tcp_idle,
        }
    }
}

impl Config {
    /// Whether a query to this address would come back to the agent: it listens there, or the
    /// kernel steers it here. Where a wildcard is listened on the host is asked for its addresses.
    #[must_use]
    pub fn asks_itself(&self, upstream: SocketAddr) -> bool {
        let port = self.listen.port.value;
        if upstream.port() != port || port == 0 {
            return false;
        }
        let plan = self.intercept.plan.as_ref();
        let is_captured = plan.is_some_and(|plan| plan.served_by(upstream.ip()).is_some());
        is_captured
            || self.listen.addresses.iter().any(|listen| {
                let is_host = || {
                    let addresses = host::addresses().unwrap_or_default();
                    addresses.contains(&upstream.ip())
                };
                listen.value == upstream.ip()
                    || cross::covers(listen.value, upstream.ip()) && is_host()
            })
    }
}

/// The cluster that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster domain, e.g. `cluster.local`.
    pub domain: Name,
    /// The addresses of the cluster's DNS Service.
    pub dns_service: Vec<Located<IpAddr>>,
}

/// Where clients are answered, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Addresses to listen on, never empty. May hold the wildcards `0.0.0.0` and `::`, which the
    /// daemon expands to the addresses of the host.
    pub addresses: Vec<Located<IpAddr>>,
    /// Addresses that queries are captured for: no wildcard stands for them, on whatever interface
    /// somebody has put them.
    pub captured: Vec<IpAddr>,
    /// Port for UDP and TCP; 0 lets the kernel choose one.
    pub port: Located<u16>,
    /// Largest UDP answer in octets that we send and announce (RFC 6891 section 6.2.5).
    pub udp_size: u16,
    /// A TCP connection without a query this long is closed (RFC 7766 section 6.2.3).
    pub tcp_idle: Duration,
    /// TCP connections at one time, in total.
    pub tcp_connections: usize,
    /// TCP connections at one time, of one source address.
    pub tcp_connections_per_client: usize,
}

/// How the kernel steers queries here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// Whether it does.
    pub enabled: bool,
    /// The interface that holds the node-local addresses.
    pub interface: String,
    /// Node-local addresses for the redirect; empty is `auto`.
    pub redirect_to: Vec<Located<IpAddr>>,
    /// Service addresses of CoreDNS for the fallback alone; empty is `off`.
    pub fallback: Vec<Located<IpAddr>>,
    /// The dead-man's switch trips this long after the last sign of life.
    pub dead_after: Duration,
    /// Whether what node-cache has left is removed.
    pub sweep: bool,
    /// What all of this comes to on the node; `None` where it is not enabled.
    pub plan: Option<Plan>,
}

/// The answer store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Budget in bytes for everything that is kept.
    pub size_bytes: u64,
    /// How long expired answers may be served (RFC 8767); zero is never.
    pub stale_for: Duration,
    /// How long a client waits before it gets one.
    pub stale_after: Duration,
    /// Whether popular entries are refreshed before they end.
    pub prefetch: bool,
}

impl CacheConfig {
    /// [`Self::stale_for`] in whole seconds.
    #[must_use]
    pub fn stale_seconds(&self) -> u32 {
        u32::try_from(self.stale_for.as_secs()).unwrap_or(u32::MAX)
    }
}

/// A zone: names at and below `name` that no longer zone takes, their upstreams and lifetimes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name.
    pub name: Name,
    /// Upstream servers; empty only where there are answers.
    pub upstreams: Vec<Located<SocketAddr>>,
    /// The file that they are read from, and followed in, where they are not written here.
    pub resolv_conf: Option<Located<PathBuf>>,
    /// How the upstreams are spoken to.
    pub transport: Transport,
    /// Queries that may be under way on one connection to a server; `None` is what is found out.
    pub pipeline: Option<u16>,
    /// Longest lifetime of a positive answer, in seconds.
    pub max_ttl: u32,
    /// Longest lifetime of a negative answer, in seconds (RFC 2308 section 5).
    pub max_negative_ttl: u32,
    /// Least TTL of a positive answer, in seconds.
    pub min_ttl: u32,
    /// Least TTL of a negative answer, in seconds.
    pub min_negative_ttl: u32,
    /// The longest that a failure is remembered, in seconds (RFC 9520).
    pub max_failure_ttl: u32,
    /// How long a client waits before it gets a stale answer; `None`: as `cache.staleAfter` says.
    pub stale_after: Option<Duration>,
    /// Whether the servers are asked in their order; else the fastest.
    pub in_order: bool,
    /// Whether the records of address sets take turns on hits.
    pub rotate: bool,
    /// Whether nothing is taken to exist below a name that does not (RFC 8020).
    pub cuts: bool,
    /// Names that are asked under another one; the first that fits counts.
    pub rewrites: Vec<adapt::Rewrite>,
    /// Addresses of IPv6 that are made of those of IPv4 (RFC 6147).
    pub dns64: Option<adapt::Dns64>,
    /// What is answered without asking anybody; the first rule that fits counts.
    pub answers: Arc<[LocalAnswer]>,
}

impl Zone {
    /// Whether names of both zones are asked of the same servers in the same way, and kept alike. The
    /// order of the servers says nothing where they are not asked in it, nor where they were written.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let addresses = |zone: &Self| {
            let upstreams = zone.upstreams.iter().map(|upstream| upstream.value);
            let mut all: Vec<_> = upstreams.collect();
            if !zone.in_order {
                all.sort();
                all.dedup();
            }
            all
        };
        self.name == other.name
            && addresses(self) == addresses(other)
            && self.transport == other.transport
            && self.max_ttl == other.max_ttl
            && self.max_negative_ttl == other.max_negative_ttl
            && self.min_ttl == other.min_ttl
            && self.min_negative_ttl == other.min_negative_ttl
            && self.max_failure_ttl == other.max_failure_ttl
            && self.stale_after == other.stale_after
            && self.in_order == other.in_order
            && self.rotate == other.rotate
            && self.cuts == other.cuts
            && self.rewrites == other.rewrites
            && self.dns64 == other.dns64
            && self.answers == other.answers
    }
}

/// How upstreams are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// DNS over TCP (RFC 7766).
    Tcp,
    /// DNS over UDP, and over TCP for answers that are truncated (RFC 1035 section 4.2).
    Udp,
    /// DNS over TLS (RFC 7858).
    Tls(Tls),
}

/// Whom to trust with queries over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The name that a server's certificate must have; `None`: the server's address.
    pub server_name: Option<ServerName<'static>>,
    /// The file with the authorities' certificates, PEM.
    pub ca_file: PathBuf,
}

/// Bounds on work under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Misses under way at one time, clients that wait counted each.
    pub in_flight: usize,
    /// From a query's arrival to its answer, whatever the upstream does.
    pub query_timeout: Duration,
    /// One try at one upstream.
    pub attempt_timeout: Duration,
    /// Opening a connection to an upstream.
    pub connect_timeout: Duration,
    /// Connections of one zone to one upstream server.
    pub upstream_connections: usize,
    /// An upstream connection without a query this long is closed; CoreDNS does so after 10 s.
    pub upstream_idle: Duration,
    /// Queries of a hundred that may be asked a second time while the first is under way.
    pub hedge_percent: u32,
    /// How often upstreams are asked for a name that comes back only in a loop; zero is never.
    pub loop_probes: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// Health, metrics and the admin socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where `/healthz` and `/readyz` answer.
    pub health: Located<SocketAddr>,
    /// Where `/metrics` answers. May be the same as `health`.
    pub metrics: Located<SocketAddr>,
    /// `/metrics` has CoreDNS's series too.
    pub coredns_names: bool,
    /// Further addresses where all pages answer.
    pub also: Vec<Located<SocketAddr>>,
    /// The admin socket.
    pub socket: Located<PathBuf>,
    /// Somebody asked for a socket there.
    pub is_socket_given: bool,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// JSON lines; `None`: where standard error is no terminal.
    pub json: Option<bool>,
}

/// A value and where it was written, so that an error found much later still names the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default {
        /// The key's path, e.g. `listen.port`.
        key: String,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The file as a whole, where it could not be read at all.
    WholeFile {
        /// The file as it was named.
        path: PathBuf,
    },
    /// A line of the file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The key's path, e.g. `zones[1].upstreams[0]`.
        key: String,
    },
    /// A flag of the command line.
    Flag {
        /// Its name with the dashes.
        flag: String,
    },
}

impl Origin {
    /// Whether what is wrong here may keep the value of this key from being known.
    fn concerns(&self, path: &str) -> bool {
        let key = keys::find(path);
        match self {
            Self::WholeFile { .. } => true,
            Self::File { key, .. } | Self::Default { key } => {
                let rest = key.strip_prefix(path);
                key.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
            }
            Self::Environment { variable } => key.is_some_and(|key| key.variable() == *variable),
            Self::Flag { flag } => {
                key.is_some_and(|key| flag.strip_prefix("--") == Some(&*key.flag()))
            }
        }
    }

    /// Problems are shown in this order: the file line by line, then the rest.
    fn order(&self) -> (u8, usize, usize) {
        match self {
            Self::WholeFile { .. } => (0, 0, 0),
            Self::File { line, column, .. } => (1, *line, *column),
            Self::Environment { .. } => (2, 0, 0),
            Self::Flag { .. } => (3, 0, 0),
            Self::Default { .. } => (4, 0, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { key } => write!(f, "default of {key}"),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::File {
                path,
                line,
                column,
                key,
            } => {
                write!(f, "{}:{line}:{column}", path.display())?;
                if key.is_empty() {
                    return Ok(());
                }
                write!(f, ": {key}")
            }
            Self::WholeFile { path } => write!(f, "{}", path.display()),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong: where, what was found, what was expected, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What is wrong, with what was found and what was expected.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.origin, self.message, self.remedy)
    }
}
