// SPDX-License-Identifier: Apache-2.0
//! Single values as CoreDNS and Go write them: durations, numbers, addresses with a port, zones.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::limits;
use crate::config::text;
use crate::wire::name::Name;

/// All addresses of both families. Go listens on those for either family's wildcard.
const EVERYWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Units of Go's durations in nanoseconds (time.ParseDuration).
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A duration as Go writes it, to the millisecond: `5s`, `1h30m`, `1.5h`, `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0.0;
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    while !rest.is_empty() {
        let split = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, behind) = rest.split_at(split);
        let split = behind
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(split);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanoseconds += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    // Go's own bound: 63 bits of nanoseconds, 292 years.
    if !(0.0..9.2e18).contains(&nanoseconds) {
        return None;
    }
    Duration::try_from_secs_f64(nanoseconds / 1e9).ok()
}

/// A number without a sign.
pub(super) fn number(text: &str) -> Option<u32> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

/// Whether Go's strconv.ParseBool takes it, and for what.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An address to listen on with its port: `IP:PORT`, `[v6]:PORT`, `:PORT` for all addresses,
/// `localhost:PORT`.
pub(super) fn listen(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(EVERYWHERE, port_number(port)?));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(SocketAddr::from(([127, 0, 0, 1], port_number(port)?)));
    }
    let mut socket = text.parse::<SocketAddr>().ok()?;
    if socket.ip().is_unspecified() {
        socket.set_ip(EVERYWHERE);
    }
    (socket.port() > 0).then_some(socket)
}

/// A port other than 0.
pub(super) fn port_number(text: &str) -> Option<u16> {
    number(text)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

/// The zones that a name or an address range stands for: CoreDNS takes `10.0.0.0/16` for
/// `0.10.in-addr.arpa`, and a range that ends within a label for all labels in it.
///
/// # Errors
/// What to do about it.
pub(super) fn zones(text: &str) -> Result<Vec<String>, String> {
    if let Some((address, bits)) = text.split_once('/') {
        let ip = address.parse::<IpAddr>().ok();
        let most = if ip.is_some_and(|ip| ip.is_ipv6()) {
            128
        } else {
            32
        };
        let bits = number(bits).filter(|bits| *bits <= most);
        return match (ip, bits) {
            (Some(ip), Some(bits)) => Ok(reverse(ip, bits)),
            _ => Err("write an address range like 10.0.0.0/8".to_owned()),
        };
    }
    let name = match text {
        "." => text,
        text => text.strip_suffix('.').unwrap_or(text),
    };
    match text::domain(name) {
        Ok(_) => Ok(vec![name.to_ascii_lowercase()]),
        Err(wrong) => Err(wrong.remedy),
    }
}

/// The same where each becomes a zone of the configuration, of which there may be no more than so many.
///
/// # Errors
/// What to do about it.
pub(super) fn own_zones(text: &str) -> Result<Vec<String>, String> {
    let zones = zones(text)?;
    let (count, most) = (zones.len(), limits::MAX_ZONES);
    match count > most {
        true => Err(format!(
            "it is {count} zones of reverse names, and {most} may be: write a range one bit longer or shorter"
        )),
        false => Ok(zones),
    }
}

fn reverse(ip: IpAddr, bits: u32) -> Vec<String> {
    // A label is eight bits of IPv4, four of IPv6 (RFC 1035 section 3.5, RFC 3596 section 2.5).
    let (nibbles, each, suffix): (Vec<u32>, u32, &str) = match ip {
        IpAddr::V4(ip) => (
            ip.octets().iter().map(|octet| u32::from(*octet)).collect(),
            8,
            "in-addr.arpa",
        ),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let nibbles = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]);
            (nibbles.map(u32::from).collect(), 4, "ip6.arpa")
        }
    };
    let whole = usize::try_from(bits / each).unwrap_or_default();
    let rest = bits % each;
    let show = |labels: &[u32]| {
        let mut name = String::new();
        for label in labels.iter().rev() {
            match each {
                8 => name.push_str(&format!("{label}.")),
                _ => name.push_str(&format!("{label:x}.")),
            }
        }
        name + suffix
    };
    let labels = nibbles.get(..whole).unwrap_or_default();
    let Some(last) = nibbles.get(whole).filter(|_| rest > 0) else {
        return vec![show(labels)];
    };
    let free = each - rest;
    let first = (last >> free) << free;
    let each_label = first..first + (1 << free);
    each_label
        .map(|label| show(&[labels, &[label]].concat()))
        .collect()
}

/// Whether `outer` is `inner` or above it. Both are names that [`zones`] returned.
pub(super) fn encloses(outer: &str, inner: &str) -> bool {
    // Nearly all: without escapes the texts tell.
    if !outer.contains('\\') && !inner.contains('\\') {
        let rest = inner.strip_suffix(outer);
        let is_above = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        return is_above || outer == ".";
    }
    match (Name::parse(outer), Name::parse(inner)) {
        (Ok(outer), Ok(inner)) => outer.encloses(inner.as_wire()),
        _ => false,
    }
}

/// Zones that names are looked for in, however many there are.
#[derive(Debug, Default)]
pub(super) struct Zones {
    plain: BTreeSet<String>,
    /// Those with escapes, which may be written in several ways.
    escaped: Vec<String>,
}

impl Zones {
    pub(super) fn of<'a>(zones: impl IntoIterator<Item = &'a String>) -> Self {
        let mut all = Self::default();
        for zone in zones {
            all.add(zone);
        }
        all
    }

    pub(super) fn add(&mut self, zone: &str) {
        if zone.contains('\\') {
            self.escaped.push(zone.to_owned());
        } else {
            self.plain.insert(zone.to_owned());
        }
    }

    /// How many of them are looked at for each name: those with escapes. One look-up is for all others.
    pub(super) fn looks(&self) -> usize {
        self.escaped.len()
    }

    /// Whether one of them is the name or above it.
    pub(super) fn enclose(&self, name: &str) -> bool {
        if self.escaped.iter().any(|zone| encloses(zone, name)) {
            return true;
        }
        if name.contains('\\') {
            return self.plain.iter().any(|zone| encloses(zone, name));
        }
        let has = |zone: &str| self.plain.contains(zone);
        let mut parents = name.match_indices('.');
        !self.plain.is_empty()
            && (has(name) || has(".") || parents.any(|(at, _)| name.get(at + 1..).is_some_and(has)))
    }
}

/// Labels of a name that [`zones`] returned.
pub(super) fn labels(name: &str) -> usize {
    Name::parse(name).map_or(0, |name| name.label_count())
}

/// Whether a text is an address, with a port or without, or `env:NAME` out of a placeholder.
pub(super) fn is_server(text: &str) -> bool {
    text.starts_with("env:") || text::upstream(text, limits::UPSTREAM_PORT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, ms) in [
            ("5s", 5000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("0", 0),
            ("3600s", 3_600_000),
            (".5s", 500),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5d",
            "-5s",
            "5 s",
            "5ss",
            "1..5s",
            "99999999999h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn address_ranges_are_zones_of_reverse_names() {
        let of = |text| zones(text).unwrap();
        assert_eq!(of("10.0.0.0/8"), ["10.in-addr.arpa"]);
        assert_eq!(of("10.244.0.0/15").len(), 2);
        assert_eq!(of("10.244.0.0/15")[1], "245.10.in-addr.arpa");
        assert_eq!(of("fd00::/8"), ["d.f.ip6.arpa"]);
        assert_eq!(of("0.0.0.0/0"), ["in-addr.arpa"]);
        assert_eq!(of("Example.ORG."), ["example.org"]);
        assert_eq!(of("."), ["."]);
        assert!(zones("10.0.0.0/33").is_err());
        assert_eq!(of("10.0.0.0/9").len(), 128);
        assert!(
            own_zones("10.0.0.0/9")
                .unwrap_err()
                .starts_with("it is 128 zones")
        );
        assert_eq!(own_zones("10.0.0.0/10").unwrap().len(), 64);
        assert!(zones("a..b").is_err());
    }

    #[test]
    fn a_listen_address_may_be_a_port_alone() {
        let show = |text| listen(text).map(|socket| socket.to_string());
        assert_eq!(show(":9253").as_deref(), Some("[::]:9253"));
        assert_eq!(show("0.0.0.0:9253").as_deref(), Some("[::]:9253"));
        assert_eq!(show("[fd00::a]:80").as_deref(), Some("[fd00::a]:80"));
        assert_eq!(show("localhost:9153").as_deref(), Some("127.0.0.1:9153"));
        for text in ["", "9253", ":0", ":70000", "10.0.0.1", "a:1"] {
            assert_eq!(show(text), None, "{text}");
        }
    }
}
