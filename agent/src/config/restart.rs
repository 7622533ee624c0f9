// SPDX-License-Identifier: Apache-2.0
//! What a reload does not apply: two configurations compared, key by key.

use super::{Config, Located};

impl Config {
    /// Paths of the keys whose value differs from `new` and that a reload does not apply.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        compare(self, new)
            .iter()
            .filter(|(_, differs)| *differs)
            .map(|(path, _)| *path)
            .collect()
    }
}

/// Whether two lists hold other values, wherever those were written.
fn differ<T: PartialEq>(old: &[Located<T>], new: &[Located<T>]) -> bool {
    !old.iter()
        .map(|item| &item.value)
        .eq(new.iter().map(|item| &item.value))
}

/// Every key of the table that a reload does not apply, but `version`; and whether it differs.
pub(super) fn compare(old: &Config, new: &Config) -> [(&'static str, bool); 21] {
    let (was, is) = (&old.listen, &new.listen);
    let tcp_per_client = was.tcp_connections_per_client != is.tcp_connections_per_client;
    let (from, to) = (&old.intercept, &new.intercept);
    [
        ("cluster.domain", old.cluster.domain != new.cluster.domain),
        (
            "cluster.dnsService",
            differ(&old.cluster.dns_service, &new.cluster.dns_service),
        ),
        ("listen.addresses", differ(&was.addresses, &is.addresses)),
        ("listen.port", was.port.value != is.port.value),
        ("listen.udpSize", was.udp_size != is.udp_size),
        ("listen.tcpIdle", was.tcp_idle != is.tcp_idle),
        (
            "listen.tcpConnections",
            was.tcp_connections != is.tcp_connections,
        ),
        ("listen.tcpConnectionsPerClient", tcp_per_client),
        ("intercept.enabled", from.enabled != to.enabled),
        ("intercept.interface", from.interface != to.interface),
        (
            "intercept.redirectTo",
            differ(&from.redirect_to, &to.redirect_to),
        ),
        ("intercept.fallback", differ(&from.fallback, &to.fallback)),
        ("intercept.deadAfter", from.dead_after != to.dead_after),
        ("intercept.sweep", from.sweep != to.sweep),
        ("workers", old.workers != new.workers),
        (
            "admin.health",
            old.admin.health.value != new.admin.health.value,
        ),
        (
            "admin.metrics",
            old.admin.metrics.value != new.admin.metrics.value,
        ),
        ("admin.also", differ(&old.admin.also, &new.admin.also)),
        (
            "admin.corednsNames",
            old.admin.coredns_names != new.admin.coredns_names,
        ),
        (
            "admin.socket",
            old.admin.socket.value != new.admin.socket.value,
        ),
        ("log.format", old.log.json != new.log.json),
    ]
}
