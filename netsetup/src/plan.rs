// SPDX-License-Identifier: Apache-2.0
//! What the node's network should look like, as data: the addresses that nodens owns and the
//! Service addresses that it steers to them. Nothing here touches the kernel.

use std::net::IpAddr;

/// The whole of what nodens wants on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The interface that holds the addresses, e.g. `nodens0`.
    pub interface: String,
    /// Node-local addresses that the agent listens on (RFC 3927 for IPv4, a ULA for IPv6).
    pub addresses: Vec<IpAddr>,
    /// Service addresses of the cluster's DNS, each with the node-local address it is steered to.
    pub captures: Vec<Capture>,
    /// A Service address of CoreDNS that answers for the link-local addresses while no agent lives.
    pub fallback: Vec<IpAddr>,
}

/// One Service address and where its queries go: only the address is rewritten, never the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The cluster's DNS address that pods ask.
    pub service: IpAddr,
    /// The node-local address, of the same family, that answers instead.
    pub local: IpAddr,
}
