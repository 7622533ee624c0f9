// SPDX-License-Identifier: Apache-2.0
//! The one table of keys. The parser's known keys, the environment variables, the flags and
//! docs/configuration.md all come from it.

use super::key::key;
pub use super::key::{Key, SECTIONS};
pub use super::kind::Kind;
use super::limits;

/// Every key, section by section.
pub const KEYS: &[Key] = &[
    key(
        "version",
        Kind::Version,
        "1",
        false,
        "The form of the file. `1` is the only one there is.",
    ),
    key(
        "cluster.domain",
        Kind::Domain,
        "cluster.local",
        false,
        "The cluster's domain, as kubelet's `clusterDomain` has it. Names at and below it get \
         the shorter lifetimes of the cluster zone.",
    ),
    key(
        "cluster.dnsService",
        Kind::Services,
        "`[]`",
        false,
        "The addresses of the cluster's DNS Service, which pods have in their resolv.conf today. \
         They are captured where `intercept.enabled` is true.",
    ),
    key(
        "listen.addresses",
        Kind::Addresses,
        "169.254.20.10",
        false,
        "Addresses of this node to listen on, IPv4 and IPv6. `0.0.0.0` and `::` stand for all \
         addresses of the node, 256 at most; those of Services that others put on it (`kube-ipvs0`, \
         `kube-dummy-if`, and those on `nodelocaldns` that are neither link-local nor of IPv6) are none of them.",
    ),
    key(
        "listen.port",
        Kind::Count(limits::LISTEN_PORT),
        "",
        false,
        "Port for UDP and TCP (RFC 1035 section 4.2). `0` lets the kernel choose one.",
    ),
    key(
        "listen.udpSize",
        Kind::Count(limits::UDP_SIZE),
        "",
        false,
        "Largest answer over UDP in octets that is sent and announced (RFC 6891 section 6.2.5). \
         What is larger is truncated, and the client asks again over TCP.",
    ),
    key(
        "listen.tcpIdle",
        Kind::Time(limits::TCP_IDLE),
        "",
        false,
        "A client's TCP connection without a query this long is closed (RFC 7766 section 6.2.3).",
    ),
    key(
        "listen.tcpConnections",
        Kind::Count(limits::TCP_CONNECTIONS),
        "",
        false,
        "Clients' TCP connections at one time, in total (RFC 7766 section 6.2.2).",
    ),
    key(
        "listen.tcpConnectionsPerClient",
        Kind::Count(limits::TCP_CONNECTIONS_PER_CLIENT),
        "",
        false,
        "Clients' TCP connections at one time, of one source address (RFC 7766 section 6.2.2).",
    ),
    key(
        "intercept.enabled",
        Kind::Switch(false),
        "",
        false,
        "Whether queries to `cluster.dnsService` are steered to the agent. `false` needs no \
         privilege at all: the agent then only listens.",
    ),
    key(
        "intercept.interface",
        Kind::Interface,
        "nodens0",
        false,
        "The interface that holds the node-local addresses. It is made where it is missing.",
    ),
    key(
        "intercept.redirectTo",
        Kind::AddressesOrAuto,
        "auto",
        false,
        "One node-local address for each of `cluster.dnsService`, to which its queries are \
         steered. `auto` takes the addresses after `listen.addresses`.",
    ),
    key(
        "intercept.fallback",
        Kind::ServicesOrOff,
        "off",
        false,
        "The address of a Service of CoreDNS, which may be the one that the agent asks: the kernel \
         sends queries to the node-local addresses there when the agent is dead. One a family.",
    ),
    key(
        "intercept.deadAfter",
        Kind::Time(limits::DEAD_AFTER),
        "",
        false,
        "The kernel leaves queries to CoreDNS this long after the agent's last sign of life.",
    ),
    key(
        "intercept.sweep",
        Kind::Switch(false),
        "",
        false,
        "Whether the agent removes what node-cache (NodeLocal DNSCache) has left on the node: its rules, and \
         the cluster's DNS address on its interface. It does so 10 s after nobody listens there \
         any more, also where node-cache ends later than the agent begins. Without it they are \
         named in the log.",
    ),
    key(
        "workers",
        Kind::CountOrAuto(limits::WORKERS),
        "auto",
        false,
        "Threads that answer from the cache. `auto` is one for each CPU that the process may \
         run on, 64 at most.",
    ),
    key(
        "cache.size",
        Kind::Size(limits::CACHE_SIZE),
        "",
        true,
        "Budget in bytes for everything that is kept, positive and negative answers alike.",
    ),
    key(
        "cache.staleFor",
        Kind::Time(limits::STALE_FOR),
        "",
        true,
        "How long an expired answer may still be served while no upstream answers (RFC 8767): after \
         `cache.staleAfter`, or at once where the upstreams are known to be down. Its TTLs are 30 s. `0s` turns \
         stale answers off.",
    ),
    key(
        "cache.staleAfter",
        Kind::Time(limits::STALE_AFTER),
        "",
        true,
        "How long a client waits for the upstreams before it gets an expired answer. `0s`: not at all; the \
         upstreams are asked meanwhile, and whoever asks within that time is told what may be true no more.",
    ),
    key(
        "cache.prefetch",
        Kind::Switch(true),
        "",
        true,
        "Whether popular entries are refreshed before they expire: those hit twice or more, in the \
         last tenth of their lifetime, at least its last second.",
    ),
    key(
        "zones",
        Kind::Zones,
        "`[]`",
        true,
        "The list of zones. In the file each is a mapping of the keys below.",
    ),
    key(
        "zones[].name",
        Kind::Domain,
        "(must be given)",
        true,
        "The zone's name. `\".\"` is the root: all names that no other zone takes.",
    ),
    key(
        "zones[].upstreams",
        Kind::Upstreams,
        "(this or `resolv.conf`)",
        true,
        "The servers to ask.",
    ),
    key(
        "zones[].resolv.conf",
        Kind::ResolvConf,
        "(this or `upstreams`)",
        true,
        "A file whose `nameserver` lines are the servers to ask, all of them, up to 15. It is \
         followed: a change takes effect at once, and one that cannot be used leaves the last good \
         servers in force. Its other lines are for the resolvers of programs and mean nothing here.",
    ),
    key(
        "zones[].transport",
        Kind::Word(&["tcp", "udp", "tls"]),
        "tcp",
        true,
        "How the servers are spoken to: over one or more TCP connections (RFC 7766), over UDP and, for truncated answers, TCP, or over TLS \
         (RFC 7858). What a server cannot prove over `tls` is not asked in clear text.",
    ),
    key(
        "zones[].pipeline",
        Kind::CountOrAuto(limits::PIPELINE),
        "auto",
        true,
        "Queries that may be under way on one connection to a server (RFC 7766 section 6.2.1.1). `auto` is for servers that answer a \
         connection in order, as CoreDNS does: one, and a few more, up to 32, while many misses come at one time and each is answered \
         within 4 ms; one again with the first that is not. A number is for servers that answer in any order. `1`: never more.",
    ),
    key(
        "zones[].serverName",
        Kind::ServerName,
        "the server's address",
        true,
        "With `transport: tls`, the name that the servers' certificates must have. It is sent to them, too (SNI).",
    ),
    key(
        "zones[].caFile",
        Kind::CaFile,
        "the system's authorities",
        true,
        "With `transport: tls`, a PEM file with the certificates of the authorities that are \
         trusted, and no others. It is followed: a change takes effect for new connections.",
    ),
    key(
        "zones[].maxTtl",
        Kind::Seconds(limits::MAX_TTL),
        "1h; 30s for the cluster's domain",
        true,
        "How long a positive answer is kept at most; a shorter TTL is kept as it is. Answers show \
         the upstream's TTLs, aged. `0s` keeps nothing.",
    ),
    key(
        "zones[].maxNegativeTtl",
        Kind::Seconds(limits::MAX_NEGATIVE_TTL),
        "30s; 5s for the cluster's domain",
        true,
        "How long a negative answer is kept at most (RFC 2308 section 5). `0s` keeps nothing.",
    ),
    key(
        "zones[].minTtl",
        Kind::Seconds(limits::MIN_TTL),
        "",
        true,
        "The least TTL of a positive answer; a shorter one is raised to it, for clients too. `zones[].maxTtl` is \
         stronger. Whoever publishes a short TTL means it: not for zones whose answers change.",
    ),
    key(
        "zones[].minNegativeTtl",
        Kind::Seconds(limits::MIN_TTL),
        "",
        true,
        "The same of a negative answer with an SOA. `zones[].maxNegativeTtl` is stronger.",
    ),
    key(
        "zones[].maxFailureTtl",
        Kind::Seconds(limits::MAX_FAILURE_TTL),
        "",
        true,
        "How long it is remembered at most that no upstream could answer a question (RFC 9520): 1 s the first time, \
         twice as long each time after. It never hides a good answer.",
    ),
    key(
        "zones[].staleAfter",
        Kind::Time(limits::STALE_AFTER),
        "that of `cache.staleAfter`",
        true,
        "`cache.staleAfter` for the names of this zone.",
    ),
    key(
        "zones[].order",
        Kind::Word(&["fastest", "written"]),
        "fastest",
        true,
        "Which server is asked where there are several: the faster one of two that are drawn, or the first as they are written \
         that has not failed.",
    ),
    key(
        "zones[].rotate",
        Kind::Switch(false),
        "false; true for the cluster's domain",
        true,
        "Whether the addresses of a set take turns in coming first in answers from the cache, so \
         that clients of a headless Service spread over its pods.",
    ),
    key(
        "zones[].cuts",
        Kind::Switch(false),
        "false; true for the cluster's domain",
        true,
        "Whether nothing is taken to exist below certain names that were found not to (RFC 8020), \
         such as `com.prod.svc.cluster.local`: it ends what search lists with `ndots:5` cost. A \
         wildcard or `template` below such a name is hidden for one negative lifetime at most.",
    ),
    key(
        "zones[].rewrites",
        Kind::Rewrites,
        "`[]`",
        true,
        "Names that upstreams are asked for under another one; the first rule that fits counts. `exact a.example b.example` is for one name, \
         `suffix .old.example .new.example`, `prefix v1- v2-` and `substring .eu. .us.` for parts of names. Clients get the answer \
         under the name that they asked for, without signatures. `zones[].answers` are for the new name; which zone takes a name is \
         settled before.",
    ),
    key(
        "zones[].dns64",
        Kind::Dns64,
        "off",
        true,
        "The prefix of a NAT64, e.g. `64:ff9b::/96` (RFC 6147): names that have addresses of IPv4 alone get addresses of IPv6 \
         below it. With ` all` behind it every name gets them. Clients over IPv4 get them, too.",
    ),
    key(
        "zones[].answers",
        Kind::Answers,
        "`[]`",
        true,
        "Queries that are answered without asking anybody; the first rule that fits counts. `AAAA example.org NOERROR` answers without a \
         record (also NXDOMAIN, REFUSED, SERVFAIL), `AAAA example.org ASK` has the servers asked, `A example.org 60 10.0.0.1` with addresses and \
         a TTL in seconds (within `zones[].minTtl` and `maxTtl`, unless that is `0s`), `PTR 1.0.0.10.in-addr.arpa 60 example.org` with names. `ANY` is for all types; `*.example.org` is for all \
         names below, `*.*.example.org` for those two labels below or more, `\\*.example.org` for that name alone. A zone with answers needs no \
         servers: what no rule fits gets SERVFAIL.",
    ),
    key(
        "limits.inFlight",
        Kind::Count(limits::IN_FLIGHT),
        "",
        true,
        "Misses under way at one time, waiting clients counted each; a quarter for one source \
         address, at least 256. Beyond it: SERVFAIL with an Extended DNS Error (RFC 8914).",
    ),
    key(
        "limits.queryTimeout",
        Kind::Time(limits::QUERY_TIMEOUT),
        "",
        true,
        "From a query's arrival to its answer, whatever the upstream does. Clients commonly ask \
         again after 5 s. At least `limits.attemptTimeout`.",
    ),
    key(
        "limits.attemptTimeout",
        Kind::Time(limits::ATTEMPT_TIMEOUT),
        "",
        true,
        "One try at one upstream server. At least `limits.connectTimeout`.",
    ),
    key(
        "limits.connectTimeout",
        Kind::Time(limits::CONNECT_TIMEOUT),
        "",
        true,
        "Opening a connection to an upstream server.",
    ),
    key(
        "limits.upstreamConnections",
        Kind::Count(limits::UPSTREAM_CONNECTIONS),
        "",
        true,
        "Connections of one zone to one of its upstream servers at one time; each carries one query, \
         or as many as `zones[].pipeline` allows. So names that nobody answers hold up their own zone alone.",
    ),
    key(
        "limits.upstreamIdle",
        Kind::Time(limits::UPSTREAM_IDLE),
        "",
        true,
        "An upstream connection without a query this long is closed. CoreDNS closes after 10 s.",
    ),
    key(
        "limits.hedgePercent",
        Kind::Count(limits::HEDGE_PERCENT),
        "",
        true,
        "Queries of a hundred that may be asked a second time, of another server or over another connection, while no answer has come in \
         the time that 95 of 100 answers take, at least 20 ms. It hides a pod that died, or a packet that was lost. `0` turns it off.",
    ),
    key(
        "limits.loopProbes",
        Kind::Time(limits::LOOP_PROBES),
        "",
        true,
        "How often each upstream server is asked for a random name that comes back here only where queries go round in a circle; also at \
         start and at each reload. A server that sends it back is asked nothing else until it does not. `0s`: never.",
    ),
    key(
        "limits.drainTimeout",
        Kind::Time(limits::DRAIN_TIMEOUT),
        "",
        true,
        "How long what is in flight may still take after SIGTERM.",
    ),
    key(
        "admin.health",
        Kind::Socket(limits::HEALTH_PORT),
        "first of `listen.addresses`, port 9254",
        false,
        "Where `/healthz` and `/readyz` answer over HTTP. The port may be left out. `[::]` is all addresses \
         of both families, `0.0.0.0` those of IPv4.",
    ),
    key(
        "admin.metrics",
        Kind::Socket(limits::METRICS_PORT),
        "first of `listen.addresses`, port 9253",
        false,
        "Where `/metrics` answers over HTTP. The port may be left out; it may be the same address and port as `admin.health`.",
    ),
    key(
        "admin.corednsNames",
        Kind::Switch(false),
        "",
        false,
        "Whether `/metrics` has the series of CoreDNS and node-cache too, under their names, for \
         dashboards and alerts that know them (docs/metrics.md).",
    ),
    key(
        "admin.also",
        Kind::Sockets,
        "`[]`",
        false,
        "Further addresses where all these pages answer, e.g. for node-cache's port 9353.",
    ),
    key(
        "admin.socket",
        Kind::Path,
        "/run/nodens/admin.sock",
        false,
        "The socket that `nodens retire` and its like talk to. Its directory is made where it is \
         missing; root and the agent's user may open it.",
    ),
    key(
        "log.level",
        Kind::Word(&["error", "warn", "info", "debug", "trace"]),
        "info",
        true,
        "The least severe records that are written. Names of queries appear from `debug` on.",
    ),
    key(
        "log.format",
        Kind::Word(&["auto", "json", "text"]),
        "auto",
        false,
        "The form of the records. `auto` is `text` on a terminal and `json` elsewhere.",
    ),
];

/// The key at a path, e.g. `cache.size` or `zones[].name`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_has_one_path_one_variable_and_one_flag() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path.to_owned()), "{}", key.path);
            if key.is_overridable() {
                assert!(seen.insert(key.flag()) || key.flag() == key.path);
                assert!(seen.insert(key.variable().replace('_', "")), "{}", key.path);
            }
            assert!(!key.default_text().is_empty(), "{}", key.path);
            assert!(!key.bounds().is_empty(), "{}", key.path);
            assert!(
                SECTIONS.iter().any(|(name, _)| *name == key.section()),
                "{}",
                key.path
            );
        }
    }

    #[test]
    fn names_are_split_at_dots_and_capitals() {
        let key = find("listen.tcpConnectionsPerClient").unwrap();
        assert_eq!(key.flag(), "listen-tcp-connections-per-client");
        assert_eq!(key.variable(), "NODENS_LISTEN_TCP_CONNECTIONS_PER_CLIENT");
        assert_eq!(find("workers").unwrap().variable(), "NODENS_WORKERS");
    }

    #[test]
    fn every_default_lies_within_its_bounds() {
        for key in KEYS {
            match key.kind {
                Kind::Count(limit) | Kind::Size(limit) => {
                    assert!(limit.holds(&limit.default), "{}", key.path);
                }
                Kind::Time(limit) | Kind::Seconds(limit) => {
                    assert!(limit.holds(&limit.default), "{}", key.path);
                }
                _ => {}
            }
        }
        assert!(limits::CLUSTER_MAX_TTL.holds(&limits::CLUSTER_MAX_TTL.default));
        assert!(limits::CLUSTER_MAX_NEGATIVE_TTL.holds(&limits::CLUSTER_MAX_NEGATIVE_TTL.default));
    }
}
