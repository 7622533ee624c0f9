// SPDX-License-Identifier: Apache-2.0
//! Checks that look at several values at once. Each speaks only where the values it compares were
//! read without a problem: one mistake, one message.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::reader::{Reader, Reading};
use super::resolv_conf;
use super::source::Spot;
use super::text::{Wrong, show_time};
use super::zones::ZoneReading;

/// Whether a listener on `listen` takes what is sent to `address`.
pub(super) fn covers(listen: IpAddr, address: IpAddr) -> bool {
    listen == address || (listen.is_unspecified() && listen.is_ipv4() == address.is_ipv4())
}

/// A duration is at least the one that happens within it.
pub(super) fn at_least(
    reader: &mut Reader<'_>,
    whole: &Reading<Duration>,
    part: &Reading<Duration>,
) {
    if whole.value >= part.value || !whole.is_sound || !part.is_sound {
        return;
    }
    // Blame what was written, not what was left alone.
    let (blamed, expected) = if whole.is_given {
        let expected = format!(
            "at least {}, which is {}",
            part.spot.key,
            show_time(part.value)
        );
        (whole, expected)
    } else {
        let expected = format!(
            "at most {}, which is {}",
            whole.spot.key,
            show_time(whole.value)
        );
        (part, expected)
    };
    let wrong = Wrong {
        expected,
        remedy: "raise the longer or lower the shorter of the two".to_owned(),
    };
    reader.problem(&blamed.spot, &show_time(blamed.value), &wrong);
}

/// The same address is neither twice in a list, nor in it and among those `before`.
pub(super) fn once<T: PartialEq + Display>(
    reader: &mut Reader<'_>,
    before: &[(T, Spot)],
    list: &Reading<Vec<(T, Spot)>>,
) {
    for (index, (address, spot)) in list.value.iter().enumerate() {
        let mut before = before.iter().chain(list.value.iter().take(index));
        if let Some((_, first)) = before.find(|(other, _)| other == address) {
            let wrong = Wrong {
                expected: format!("each address once (it is {} too)", first.key),
                remedy: "remove one of the two".to_owned(),
            };
            reader.problem(spot, &format!("{address} again"), &wrong);
        }
    }
}

/// Health and metrics do not want the TCP port on which clients are answered.
pub(super) fn admin(
    reader: &mut Reader<'_>,
    addresses: &Reading<Vec<(IpAddr, Spot)>>,
    port: &Reading<u16>,
    sockets: &[&Reading<SocketAddr>],
) {
    if !addresses.is_sound || !port.is_sound || port.value == 0 {
        return;
    }
    for socket in sockets {
        let ip = socket.value.ip();
        // There is listened for both families.
        let is_both = ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let taken = addresses
            .value
            .iter()
            .find(|(listen, _)| is_both || covers(*listen, ip) || covers(ip, *listen));
        if let (Some((listen, _)), true) = (taken, socket.value.port() == port.value) {
            if !socket.is_sound {
                continue;
            }
            let wrong = Wrong {
                expected: format!(
                    "another port than listen.port, since TCP clients are answered on {}",
                    SocketAddr::new(*listen, port.value)
                ),
                remedy: format!("choose another port for {}", socket.spot.key),
            };
            reader.problem(&socket.spot, &socket.value.to_string(), &wrong);
        }
    }
}

/// The sockets of a list, as readings of their own.
pub(super) fn each(list: &Reading<Vec<(SocketAddr, Spot)>>) -> Vec<Reading<SocketAddr>> {
    let all = list.value.iter();
    all.map(|(value, spot)| Reading {
        value: *value,
        spot: spot.clone(),
        is_given: true,
        is_sound: list.is_sound,
    })
    .collect()
}

/// No upstream is one of the agent's own sockets. `host` lists the addresses of this host; it is
/// asked only where a wildcard is listened on.
pub(super) fn own_sockets(
    reader: &mut Reader<'_>,
    addresses: &Reading<Vec<(IpAddr, Spot)>>,
    port: &Reading<u16>,
    zones: &[ZoneReading],
    host: impl FnOnce() -> std::io::Result<Vec<IpAddr>>,
) {
    if !port.is_sound || port.value == 0 {
        return;
    }
    let wildcard = addresses
        .value
        .iter()
        .find(|(address, _)| address.is_unspecified());
    let host = match wildcard.map(|(_, spot)| (spot, host())) {
        None => Vec::new(),
        Some((_, Ok(host))) => host,
        Some((spot, Err(error))) => {
            let warning = spot.problem(
                format!("the addresses of this host cannot be listed ({error})"),
                "check by hand that no upstream is an address of this host",
            );
            reader.collected.warnings.push(warning);
            Vec::new()
        }
    };
    let is_own = |upstream: IpAddr| {
        addresses.value.iter().any(|(listen, _)| {
            *listen == upstream || (covers(*listen, upstream) && host.contains(&upstream))
        })
    };
    for zone in zones {
        for (upstream, spot) in &zone.upstreams {
            if upstream.port() == port.value && is_own(upstream.ip()) {
                let wrong = Wrong {
                    expected:
                        "a server other than the agent, which listens there and would ask itself"
                            .to_owned(),
                    remedy: zone
                        .remedy("write the address of the cluster's DNS, e.g. of its Service"),
                };
                reader.problem(spot, &zone.shown(upstream), &wrong);
            }
        }
    }
}

impl ZoneReading {
    /// An upstream, and the file that has it.
    pub(super) fn shown(&self, upstream: &SocketAddr) -> String {
        match &self.resolv_conf {
            Some((path, _)) => format!("the upstream {upstream} in {}", path.display()),
            None => format!("the upstream {upstream}"),
        }
    }

    /// What to do about an upstream that is written in the configuration; or about the file.
    pub(super) fn remedy(&self, written: &str) -> String {
        let remedy = self.resolv_conf.as_ref().map(|_| resolv_conf::REMEDY);
        remedy.unwrap_or(written).to_owned()
    }
}
