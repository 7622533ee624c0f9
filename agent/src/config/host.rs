// SPDX-License-Identifier: Apache-2.0
//! Addresses of this host, and those among them that a wildcard stands for.

use std::io;
use std::net::IpAddr;

/// node-cache's interface.
pub const NODE_CACHE: &str = "nodelocaldns";

/// Interfaces that others put addresses of Services on: node-cache, kube-proxy in mode IPVS, which has
/// all of them there, and kube-router, which does the same.
pub const OF_SERVICES: [&str; 3] = [NODE_CACHE, "kube-ipvs0", "kube-dummy-if"];

/// An address, and the interface that has it.
pub type Own = (String, IpAddr);

/// The addresses of this host with their interfaces.
///
/// # Errors
/// The system cannot list them.
pub fn interfaces() -> io::Result<Vec<Own>> {
    let interfaces = if_addrs::get_if_addrs()?.into_iter();
    Ok(interfaces.map(|one| (one.name.clone(), one.ip())).collect())
}

/// Those of them that a wildcard stands for.
///
/// # Errors
/// As [`interfaces`].
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let own = interfaces()?.into_iter().filter(is_the_nodes);
    Ok(own.map(|(_, ip)| ip).collect())
}

/// Whether an address is the node's own, and one to listen on: not a Service's, and no IPv6 link-local
/// one, which needs a zone.
#[must_use]
pub fn is_the_nodes((interface, ip): &Own) -> bool {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => false,
        // Beside the cluster's it has node-cache's own: link-local, or unique-local as a Service's may be.
        IpAddr::V4(ip) if interface == NODE_CACHE => ip.is_link_local(),
        _ if interface == NODE_CACHE => true,
        _ => !OF_SERVICES.contains(&interface.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_services_are_not_the_nodes() {
        for (interface, ip, is_own) in [
            ("lo", "127.0.0.1", true),
            ("lo", "::1", true),
            ("eth0", "192.0.2.7", true),
            ("eth0", "2001:db8::7", true),
            ("eth0", "fe80::7", false),
            ("nodelocaldns", "169.254.20.10", true),
            ("nodelocaldns", "10.96.0.10", false),
            ("nodelocaldns", "fd00::10", true),
            ("kube-ipvs0", "10.96.0.1", false),
            ("kube-ipvs0", "fd96::1", false),
            ("kube-dummy-if", "10.96.0.1", false),
        ] {
            let own = (interface.to_owned(), ip.parse().unwrap());
            assert_eq!(is_the_nodes(&own), is_own, "{own:?}");
        }
    }
}
