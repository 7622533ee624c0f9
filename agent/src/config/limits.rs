// SPDX-License-Identifier: Apache-2.0
//! Every bounded number of the configuration: what it is when nobody says, and how far it goes.

use std::time::Duration;

/// A number's default and the bounds it must lie in, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T> {
    /// What it is when nobody gives it.
    pub default: T,
    /// The least that is accepted.
    pub min: T,
    /// The most that is accepted.
    pub max: T,
}

impl<T: PartialOrd> Limit<T> {
    /// Whether a value lies within the bounds.
    pub fn holds(&self, value: &T) -> bool {
        *value >= self.min && *value <= self.max
    }
}

const fn count(default: u64, min: u64, max: u64) -> Limit<u64> {
    Limit { default, min, max }
}

const fn millis(default: u64, min: u64, max: u64) -> Limit<Duration> {
    Limit {
        default: Duration::from_millis(default),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    }
}

const fn secs(default: u64, min: u64, max: u64) -> Limit<Duration> {
    Limit {
        default: Duration::from_secs(default),
        min: Duration::from_secs(min),
        max: Duration::from_secs(max),
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `listen.port`, a port number (RFC 1035 section 4.2). 0 lets the kernel choose.
pub const LISTEN_PORT: Limit<u64> = count(53, 0, 65_535);
/// `listen.udpSize`, octets of a UDP answer. 1232 fits the least MTU of IPv6 with its headers
/// (1280 - 40 - 8, RFC 9715); 512 is RFC 1035 section 4.2.1, 4096 RFC 6891 section 6.2.5.
pub const UDP_SIZE: Limit<u64> = count(1232, 512, 4096);
/// `listen.tcpIdle` (RFC 7766 section 6.2.3). The upper bound fits the 16 bits of tenths of a
/// second in which edns-tcp-keepalive announces it (RFC 7828 section 3.1).
pub const TCP_IDLE: Limit<Duration> = secs(10, 1, 3600);
/// `listen.tcpConnections`, connections in total (RFC 7766 section 6.2.2).
pub const TCP_CONNECTIONS: Limit<u64> = count(1000, 1, 65_535);
/// `listen.tcpConnectionsPerClient`, connections a source address (RFC 7766 section 6.2.2).
pub const TCP_CONNECTIONS_PER_CLIENT: Limit<u64> = count(100, 1, 65_535);

/// `intercept.deadAfter`. The sign of life is renewed every 250 ms: less than two of them would
/// trip on a single late one.
pub const DEAD_AFTER: Limit<Duration> = millis(1000, 500, 30_000);

/// `workers`, threads; the default of 0 stands for `auto`, one for each CPU.
pub const WORKERS: Limit<u64> = count(0, 1, 64);

/// `cache.size`, bytes for everything that is kept.
pub const CACHE_SIZE: Limit<u64> = count(64 * MIB, MIB, 64 * GIB);
/// `cache.staleFor`; 0 s is off. RFC 8767 section 5 finds one to three days useful.
pub const STALE_FOR: Limit<Duration> = secs(3600, 0, 72 * 3600);

/// `cache.staleAfter`: the client response timer of RFC 8767 section 5, which has 1.8 s. Above that
/// clients ask again.
pub const STALE_AFTER: Limit<Duration> = millis(1800, 0, 4000);
/// `zones[].minTtl` and `zones[].minNegativeTtl`, whole seconds. Every second is one for which clients
/// may be told what is true no more.
pub const MIN_TTL: Limit<Duration> = secs(0, 0, 3600);
/// `zones[].maxFailureTtl`, whole seconds: RFC 9520 section 3.2 has one second as the least and five
/// minutes as the most.
pub const MAX_FAILURE_TTL: Limit<Duration> = secs(5, 1, 300);

/// `zones[].maxTtl` of every zone but the cluster's, whole seconds. RFC 8767 section 4 caps TTLs
/// at seven days.
pub const MAX_TTL: Limit<Duration> = secs(3600, 0, 7 * 24 * 3600);
/// `zones[].maxTtl` of the cluster zone: 30 s is what CoreDNS itself puts on cluster names.
pub const CLUSTER_MAX_TTL: Limit<Duration> = secs(30, 0, 7 * 24 * 3600);
/// `zones[].maxNegativeTtl` of every zone but the cluster's, whole seconds. RFC 2308 section 5
/// has one to three hours as the most that works well.
pub const MAX_NEGATIVE_TTL: Limit<Duration> = secs(30, 0, 3 * 3600);
/// `zones[].maxNegativeTtl` of the cluster zone: a Service just made is found within 5 s.
pub const CLUSTER_MAX_NEGATIVE_TTL: Limit<Duration> = secs(5, 0, 3 * 3600);

/// `zones[].pipeline`, queries on one connection; the default of 0 stands for `auto`. Servers that answer
/// in any order commonly work on some tens of queries of one connection at a time.
pub const PIPELINE: Limit<u64> = count(0, 1, 64);

/// `limits.inFlight`, misses under way at one time.
pub const IN_FLIGHT: Limit<u64> = count(10_000, 1, 1_000_000);
/// `limits.queryTimeout`: below the 5 s after which the resolvers of glibc and musl ask again.
pub const QUERY_TIMEOUT: Limit<Duration> = millis(4000, 100, 30_000);
/// `limits.attemptTimeout`, one try at one server.
pub const ATTEMPT_TIMEOUT: Limit<Duration> = millis(1000, 50, 10_000);
/// `limits.connectTimeout`: above one round trip, below the kernel's first repeat of a SYN
/// after 1 s (RFC 6298 section 2.1).
pub const CONNECT_TIMEOUT: Limit<Duration> = millis(500, 10, 10_000);
/// `limits.upstreamConnections`, connections a zone and server: CoreDNS answers one connection in order,
/// so this many queries can be under way at once.
pub const UPSTREAM_CONNECTIONS: Limit<u64> = count(256, 1, 1024);
/// `limits.upstreamIdle`: below the 10 s after which CoreDNS closes.
pub const UPSTREAM_IDLE: Limit<Duration> = secs(8, 1, 300);
/// `limits.hedgePercent`, queries of a hundred; 0 is off. Above 20 a server that has too much to do
/// would get a good deal more.
pub const HEDGE_PERCENT: Limit<u64> = count(5, 0, 20);
/// `limits.loopProbes`; 0 s is never. A loop costs no more than one query a name until it is found.
pub const LOOP_PROBES: Limit<Duration> = secs(60, 0, 3600);
/// `limits.drainTimeout`: below the 30 s of grace that Kubernetes gives a pod by default.
pub const DRAIN_TIMEOUT: Limit<Duration> = secs(5, 0, 120);

/// Upstream servers of one zone; as many as CoreDNS's `forward` takes.
pub const MAX_UPSTREAMS: usize = 15;
/// Zones in one configuration. Zones of earlier configurations keep their counters, and 256 in
/// all are told apart over the life of a process.
pub const MAX_ZONES: usize = 100;
/// Addresses to listen on; each has a UDP socket a worker.
pub const MAX_LISTEN_ADDRESSES: usize = 64;
/// Addresses of the host that wildcards stand for, all together: with a UDP socket a worker, of whom there are
/// 64 at most, some 16,000 descriptors.
pub const MAX_HOST_ADDRESSES: usize = 256;
/// Bytes of a configuration file: the most that a ConfigMap holds.
pub const MAX_FILE_BYTES: u64 = MIB;
/// Rules in `zones[].rewrites` of one zone: each is tried for each miss.
pub const MAX_REWRITES: usize = 64;
/// Rules in `zones[].answers` of all zones: three for each name of a file of hosts with 20,000 of them,
/// some 300 bytes each with what finds them.
pub const MAX_ANSWERS: usize = 65_536;
/// Records of one of them: they fit a message over TCP many times.
pub const MAX_ANSWER_RECORDS: usize = 64;
/// The TTL of one of them in seconds, a week.
pub const MAX_ANSWER_TTL: u32 = 604_800;
/// Addresses in `admin.also`.
pub const MAX_ALSO: usize = 8;
/// Bytes of a resolv.conf.
pub const MAX_RESOLV_CONF_BYTES: u64 = 64 << 10;
/// Bytes of a file of authorities' certificates; those of systems have some 200 kB.
pub const MAX_CA_FILE_BYTES: u64 = 4 * MIB;

/// Problems that are told of one configuration: a file of another program must not flood the log.
pub const MAX_PROBLEMS: usize = 500;

/// Port of `admin.health` where none is given.
pub const HEALTH_PORT: u16 = 9254;
/// Port of `admin.metrics` where none is given; node-cache's.
pub const METRICS_PORT: u16 = 9253;
/// Port of an upstream where none is given (RFC 1035 section 4.2).
pub const UPSTREAM_PORT: u16 = 53;
/// The same over TLS (RFC 7858 section 3.1).
pub const UPSTREAM_TLS_PORT: u16 = 853;

/// `nodens clients --unused-for`: a client that asks at all asks within a minute or so, once its own
/// answers have expired; beyond a day the agent has seldom run so long.
pub const UNUSED_FOR: Limit<Duration> = secs(600, 1, 86_400);
/// `nodens chart wait --patience`: Helm gives a hook five minutes unless it is told otherwise.
pub const HOOK_PATIENCE: Limit<Duration> = secs(240, 1, 86_400);
/// `nodens chart wait --away-after`: kubelet takes a pod on within seconds, of a loaded node within
/// tens of them.
pub const HOOK_AWAY_AFTER: Limit<Duration> = secs(60, 1, 86_400);
