// SPDX-License-Identifier: Apache-2.0
//! The grammar of single values: numbers, sizes, durations, addresses, names. Text in, value or a
//! sentence about what was expected out; nothing here knows of files or keys.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::limits::Limit;
use crate::wire::name::Name;

/// Why a text is not the value that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was expected, e.g. `a number from 0 to 65535`.
    pub(super) expected: String,
    /// What to do about it, e.g. `write the number of a port, e.g. 53`.
    pub(super) remedy: String,
}

fn wrong(expected: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    Wrong {
        expected: expected.into(),
        remedy: remedy.into(),
    }
}

/// Digits alone, no sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// A whole number within bounds.
pub(super) fn count(text: &str, limit: &Limit<u64>) -> Result<u64, Wrong> {
    digits(text)
        .filter(|value| limit.holds(value))
        .ok_or_else(|| {
            wrong(
                format!("a whole number from {} to {}", limit.min, limit.max),
                format!("write a number like {}", limit.default.max(limit.min)),
            )
        })
}

/// A whole number within bounds, or `auto`: then `None`. `example` stands in the remedy.
pub(super) fn count_or_auto(
    text: &str,
    limit: &Limit<u64>,
    example: &str,
) -> Result<Option<u16>, Wrong> {
    if text == "auto" {
        return Ok(None);
    }
    count(text, limit)
        .map(|number| u16::try_from(number).ok())
        .map_err(|wrong| Wrong {
            expected: format!("auto or {}", wrong.expected),
            remedy: format!("write auto, or {example}"),
        })
}

/// Units of sizes, in the order in which one is chosen to show a size.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("", 1),
];

/// A number of bytes: `64MiB`, `64MB`, or plain bytes.
pub(super) fn size(text: &str, limit: &Limit<u64>) -> Result<u64, Wrong> {
    let expected = format!(
        "a size from {} to {}",
        show_size(limit.min),
        show_size(limit.max)
    );
    let split = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor);
    let (Some(factor), false) = (factor, number.is_empty()) else {
        // Kubernetes writes its quantities `64Mi`, programs like to write `64mb` and `64 MiB`.
        let close = SIZE_UNITS.iter().find(|(name, _)| {
            let (name, unit) = (name.to_ascii_lowercase(), unit.trim().to_ascii_lowercase());
            !unit.is_empty() && (name == unit || name == format!("{unit}b"))
        });
        let remedy = match close {
            Some((name, _)) if !number.is_empty() => format!("write {number}{name}"),
            _ => format!(
                "write it like {}; the units are KiB, MiB, GiB, kB, MB, GB, and none for bytes",
                show_size(limit.default)
            ),
        };
        return Err(wrong(expected, remedy));
    };
    digits::<u64>(number)
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| limit.holds(bytes))
        .ok_or_else(|| wrong(expected, "choose a size within these bounds"))
}

/// A size as the configuration has it, in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Units of durations in milliseconds, the largest first; a duration names each at most once, in
/// this order.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration: `500ms`, `1s`, `1m30s`, `1h`.
pub(super) fn time(text: &str, limit: &Limit<Duration>) -> Result<Duration, Wrong> {
    let expected = || {
        format!(
            "a duration from {} to {}",
            show_time(limit.min),
            show_time(limit.max)
        )
    };
    let Some(value) = milliseconds(text) else {
        let remedy = match digits::<u64>(text) {
            Some(_) if !text.is_empty() => format!("name the unit: {text}s, {text}ms or {text}m"),
            _ => "write it like 500ms, 1s, 1m30s or 1h".to_owned(),
        };
        return Err(wrong(expected(), remedy));
    };
    let value = Duration::from_millis(value);
    if limit.holds(&value) {
        Ok(value)
    } else {
        Err(wrong(expected(), "choose a duration within these bounds"))
    }
}

/// A duration of the command line: written as in the file, and where it is wrong, what is to do in
/// one sentence.
///
/// # Errors
/// It is no duration, or beyond the bounds.
pub fn duration(text: &str, limit: &Limit<Duration>) -> Result<Duration, String> {
    time(text, limit).map_err(|wrong| format!("expected {}; {}", wrong.expected, wrong.remedy))
}

/// `None` where the text is no duration, or one beyond what 64 bits hold.
fn milliseconds(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    let mut units = TIME_UNITS.iter();
    while !rest.is_empty() {
        let split = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, behind) = rest.split_at(split);
        let split = behind
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(split);
        let factor = units.find(|(name, _)| *name == unit)?.1;
        let part = number.parse::<u64>().ok()?.checked_mul(factor)?;
        total = total.checked_add(part)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

/// A duration in whole seconds that fits the 32 bits of a TTL.
pub(super) fn seconds(text: &str, limit: &Limit<Duration>) -> Result<u32, Wrong> {
    let value = time(text, limit)?;
    u32::try_from(value.as_secs())
        .ok()
        .filter(|_| value.subsec_nanos() == 0)
        .ok_or_else(|| {
            wrong(
                "a duration of whole seconds",
                "lifetimes in DNS are whole seconds: round it, e.g. to 1s",
            )
        })
}

/// A duration as the configuration has it, to the millisecond.
#[must_use]
pub fn show_time(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut shown = String::new();
    for (unit, factor) in TIME_UNITS {
        let number = rest / factor;
        rest %= factor;
        if number > 0 {
            shown.push_str(&format!("{number}{unit}"));
        }
    }
    shown
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(wrong(
            "true or false",
            match other.to_ascii_lowercase().as_str() {
                "yes" | "on" | "1" | "true" => "write true",
                "no" | "off" | "0" | "false" => "write false",
                _ => "write true or false",
            },
        )),
    }
}

/// One of a few words.
pub(super) fn word(text: &str, words: &'static [&'static str]) -> Result<&'static str, Wrong> {
    words
        .iter()
        .find(|word| **word == text)
        .copied()
        .ok_or_else(|| {
            let lower = text.to_ascii_lowercase();
            let remedy = match super::nearest::nearest(&lower, words.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => "choose one of these".to_owned(),
            };
            wrong(format!("one of {}", words.join(", ")), remedy)
        })
}

/// An address alone, without a port. IPv4 mapped into IPv6 comes out as IPv4.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    let expected = "an IPv4 or IPv6 address";
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    let remedy = if text.parse::<SocketAddr>().is_ok() {
        "leave the port out".to_owned()
    } else if text.contains('%') {
        "leave the zone index out; link-local addresses are not served".to_owned()
    } else if text.contains('/') {
        "write the address alone, without a prefix length".to_owned()
    } else {
        "write it like 169.254.20.10 or fd00::10; names are not resolved here".to_owned()
    };
    Err(wrong(expected, remedy))
}

/// An address with a port that may be left out: `ADDRESS`, `ADDRESS:PORT`, `[v6]`, `[v6]:PORT`,
/// bare v6.
pub(super) fn socket(text: &str, port: u16, least_port: u16) -> Result<SocketAddr, Wrong> {
    let found = match text.parse::<SocketAddr>() {
        Ok(socket) => Some(SocketAddr::new(socket.ip().to_canonical(), socket.port())),
        Err(_) => address(text).ok().map(|ip| SocketAddr::new(ip, port)),
    };
    found
        .filter(|socket| socket.port() >= least_port && !text.contains('%'))
        .ok_or_else(|| {
            let remedy = if let Some(port) = text.strip_prefix(':').and_then(digits::<u16>) {
                format!("name the address too; 0.0.0.0:{port} stands for all of IPv4")
            } else if text.contains("://") {
                "write the address alone, without a scheme".to_owned()
            } else if text.contains('%') {
                "leave the zone index out; link-local addresses are not spoken to".to_owned()
            } else {
                format!(
                    "write it like 10.96.0.50, 10.96.0.50:{port}, fd00::50 or [fd00::50]:{port}; \
                     names are not resolved here"
                )
            };
            wrong(
                format!("an address, with a port from {least_port} to 65535 or without one"),
                remedy,
            )
        })
}

/// The address of an upstream server: one that can be sent to, at this port where it names none.
pub(super) fn upstream(text: &str, port: u16) -> Result<SocketAddr, Wrong> {
    let socket = socket(text, port, 1)?;
    reachable(socket.ip()).map(|()| socket)
}

/// Where this host listens: as [`socket`], all addresses of a family among them.
pub(super) fn listener(text: &str, port: u16, least_port: u16) -> Result<SocketAddr, Wrong> {
    let socket = socket(text, port, least_port)?;
    if socket.ip().is_unspecified() {
        return Ok(socket);
    }
    reachable(socket.ip()).map(|()| socket)
}

/// The address of one server, without a port.
pub(super) fn server(text: &str) -> Result<IpAddr, Wrong> {
    let address = address(text)?;
    reachable(address).map(|()| address)
}

/// Whether an address can be one server's: not the wildcard, not multicast, no IPv6 link-local.
pub(super) fn reachable(ip: IpAddr) -> Result<(), Wrong> {
    let refusal = if ip.is_unspecified() {
        "the unspecified address stands for no server"
    } else if ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255]) {
        "a multicast or broadcast address stands for no single server"
    } else if is_link_local_v6(ip) {
        "a link-local IPv6 address means nothing without an interface"
    } else {
        return Ok(());
    };
    Err(wrong(
        "the address of one server",
        format!("write the address of a server; {refusal}"),
    ))
}

/// `fe80::/10` (RFC 4291 section 2.5.6).
pub(super) fn is_link_local_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if Ipv6Addr::is_unicast_link_local(&ip))
}

/// A domain name in ASCII.
pub(super) fn domain(text: &str) -> Result<Name, Wrong> {
    let remedy = if !text.is_ascii() {
        "write the form that DNS carries, which begins with xn-- (RFC 5890)".to_owned()
    } else if text
        .bytes()
        .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
    {
        "names hold no spaces".to_owned()
    } else {
        match Name::parse(text) {
            Ok(name) => return Ok(name),
            Err(reason) => reason.to_string(),
        }
    };
    Err(wrong("a domain name", remedy))
}

/// A name that Linux takes for an interface: 1 to 15 octets, no slash, colon or space
/// (`dev_valid_name` in the kernel).
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let is_valid = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'));
    is_valid.then(|| text.to_owned()).ok_or_else(|| {
        wrong(
            "the name of an interface: 1 to 15 characters without space, slash or colon",
            "write a name like nodens0",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits;
    use proptest::prelude::*;

    const ANY_SIZE: Limit<u64> = Limit {
        default: 1 << 26,
        min: 0,
        max: u64::MAX,
    };
    const ANY_TIME: Limit<Duration> = Limit {
        default: Duration::from_secs(1),
        min: Duration::ZERO,
        max: Duration::from_millis(u64::MAX),
    };

    #[test]
    fn sizes_have_binary_decimal_and_no_units() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("3KiB", 3 << 10),
            ("64MB", 64_000_000),
            ("2GB", 2_000_000_000),
            ("7kB", 7000),
            ("1048577", 1_048_577),
        ] {
            assert_eq!(size(text, &ANY_SIZE), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "64 MiB",
            "64mib",
            "6.4MiB",
            "-1",
            "64MiBx",
            "18446744073709551616",
        ] {
            assert!(size(text, &ANY_SIZE).is_err(), "{text}");
        }
        assert!(size("99999999999GiB", &ANY_SIZE).is_err());
        assert_eq!(size("64Mi", &ANY_SIZE).unwrap_err().remedy, "write 64MiB");
        assert_eq!(size("64 mb", &ANY_SIZE).unwrap_err().remedy, "write 64MB");
        let out = size("1GiB", &Limit { max: 5, ..ANY_SIZE }).unwrap_err();
        assert_eq!(out.expected, "a size from 0 to 5");
    }

    #[test]
    fn durations_name_their_units_the_largest_first() {
        for (text, ms) in [
            ("500ms", 500),
            ("1s", 1000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1h1m1s1ms", 3_661_001),
            ("0s", 0),
        ] {
            assert_eq!(
                time(text, &ANY_TIME),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "",
            "1",
            "s",
            "1s1h",
            "1s1s",
            "1.5s",
            "-1s",
            "1 s",
            "1d",
            "1S",
            "99999999999999h",
        ] {
            assert!(time(text, &ANY_TIME).is_err(), "{text}");
        }
        assert_eq!(
            time("30", &ANY_TIME).unwrap_err().remedy,
            "name the unit: 30s, 30ms or 30m"
        );
        assert_eq!(
            time("5s", &limits::CONNECT_TIMEOUT),
            Ok(Duration::from_secs(5))
        );
        assert_eq!(
            time("11s", &limits::CONNECT_TIMEOUT).unwrap_err().expected,
            "a duration from 10ms to 10s"
        );
    }

    #[test]
    fn lifetimes_are_whole_seconds() {
        assert_eq!(seconds("1m", &limits::MAX_TTL), Ok(60));
        assert!(seconds("1500ms", &limits::MAX_TTL).is_err());
        assert!(seconds("169h", &limits::MAX_TTL).is_err());
    }

    #[test]
    fn numbers_are_digits_within_bounds() {
        assert_eq!(count("53", &limits::LISTEN_PORT), Ok(53));
        for text in [
            "",
            "+53",
            "-1",
            "65536",
            "0x35",
            "5_3",
            "53.0",
            "99999999999999999999999",
        ] {
            assert!(count(text, &limits::LISTEN_PORT).is_err(), "{text}");
        }
    }

    #[test]
    fn upstreams_have_four_forms_and_a_default_port() {
        for (text, expected) in [
            ("10.96.0.50", "10.96.0.50:53"),
            ("10.96.0.50:5353", "10.96.0.50:5353"),
            ("[fd00::50]:5353", "[fd00::50]:5353"),
            ("[fd00::50]", "[fd00::50]:53"),
            ("fd00::50", "[fd00::50]:53"),
            ("::ffff:10.96.0.50", "10.96.0.50:53"),
        ] {
            assert_eq!(upstream(text, 53), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "dns.example",
            "10.96.0",
            "10.96.0.50:",
            "10.96.0.50:0",
            "10.96.0.50:65536",
            ":53",
            "tcp://10.96.0.50",
            "0.0.0.0",
            "::",
            "224.0.0.251",
            "ff02::fb",
            "255.255.255.255",
            "fe80::1",
            "fe80::1%eth0",
            "[fe80::1%2]:53",
        ] {
            assert!(upstream(text, 53).is_err(), "{text}");
        }
        assert!(
            upstream("dns.example", 53)
                .unwrap_err()
                .remedy
                .contains("not resolved")
        );
    }

    #[test]
    fn an_address_has_no_port_prefix_or_index() {
        assert_eq!(address("127.0.0.1"), Ok(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(address("[::1]"), Ok("::1".parse().unwrap()));
        for (text, remedy) in [
            ("127.0.0.1:53", "leave the port out"),
            ("fe80::1%eth0", "zone index"),
            ("10.0.0.0/8", "prefix length"),
            ("localhost", "not resolved"),
        ] {
            assert!(address(text).unwrap_err().remedy.contains(remedy), "{text}");
        }
    }

    #[test]
    fn names_are_ascii_without_spaces() {
        assert_eq!(domain("."), Ok(Name::ROOT));
        assert!(domain("Cluster.Local.").is_ok());
        for text in ["", "a..b", "bücher.example", "a b", "a\tb"] {
            assert!(domain(text).is_err(), "{text}");
        }
        assert!(
            domain("bücher.example")
                .unwrap_err()
                .remedy
                .contains("xn--")
        );
    }

    #[test]
    fn interfaces_are_named_as_the_kernel_takes_them() {
        assert!(interface("nodens0").is_ok());
        for text in ["", "a123456789012345", "a b", "a/b", "a:b", "."] {
            assert!(interface(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches_and_words_are_spelt_out() {
        assert_eq!(switch("true"), Ok(true));
        assert_eq!(switch("yes").unwrap_err().remedy, "write true");
        assert_eq!(word("warn", &["warn", "info"]), Ok("warn"));
        assert_eq!(
            word("Info", &["warn", "info"]).unwrap_err().remedy,
            "did you mean info?"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64, ms in 0u64..1 << 50) {
            prop_assert_eq!(size(&show_size(bytes), &ANY_SIZE), Ok(bytes));
            let value = Duration::from_millis(ms);
            prop_assert_eq!(time(&show_time(value), &ANY_TIME), Ok(value));
        }

        #[test]
        fn no_text_panics(text in any::<String>(), digits in "[0-9]{0,25}[a-zA-Z]{0,4}[0-9]{0,25}[a-z]{0,3}") {
            for text in [&text, &digits] {
                let _ = count(text, &ANY_SIZE);
                let _ = size(text, &ANY_SIZE);
                let _ = time(text, &ANY_TIME);
                let _ = seconds(text, &limits::MAX_TTL);
                let _ = upstream(text, 53);
                let _ = address(text);
                let _ = domain(text);
                let _ = interface(text);
            }
        }
    }
}
