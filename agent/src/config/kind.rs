// SPDX-License-Identifier: Apache-2.0
//! What keys of the configuration hold.

use std::time::Duration;

use super::limits::Limit;

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The version of the file's form: 1.
    Version,
    /// A domain name.
    Domain,
    /// Addresses of this host.
    Addresses,
    /// Addresses of Services: `ADDRESS` or `env:NAME`.
    Services,
    /// As `Services`, or `off`.
    ServicesOrOff,
    /// Addresses, or `auto`.
    AddressesOrAuto,
    /// A number.
    Count(Limit<u64>),
    /// A number, or `auto`.
    CountOrAuto(Limit<u64>),
    /// Bytes.
    Size(Limit<u64>),
    /// A duration.
    Time(Limit<Duration>),
    /// A duration of whole seconds.
    Seconds(Limit<Duration>),
    /// `true` or `false`.
    Switch(bool),
    /// One of a few words.
    Word(&'static [&'static str]),
    /// The name of a network interface.
    Interface,
    /// A file.
    Path,
    /// A file in the form of resolv.conf(5).
    ResolvConf,
    /// The name in a certificate: a host name or an address.
    ServerName,
    /// A file with certificates, PEM.
    CaFile,
    /// An address and a port; the port where none is given.
    Socket(u16),
    /// The list of zones.
    Zones,
    /// Upstream servers: `ADDRESS`, `ADDRESS:PORT`, `[v6]:PORT` or `env:NAME`.
    Upstreams,
    /// Rules that answer without an upstream.
    Answers,
    /// Rules that have names asked under another one.
    Rewrites,
    /// A prefix of NAT64, or `off`.
    Dns64,
    /// Addresses, each with a port.
    Sockets,
}
