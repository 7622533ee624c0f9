// SPDX-License-Identifier: Apache-2.0
//! What a zone makes of questions and answers on their way: `zones[].rewrites`, `zones[].dns64`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::text::{self, Wrong};
use crate::wire::name::Name;

/// Which part of a name a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Exact,
    /// Its beginning.
    Prefix,
    /// Its end.
    Suffix,
    /// Whatever is alike within it.
    Substring,
}

/// Words for them, in a rule.
const PARTS: [(&str, Part); 4] = [
    ("exact", Part::Exact),
    ("prefix", Part::Prefix),
    ("suffix", Part::Suffix),
    ("substring", Part::Substring),
];

/// Another name that is asked for upstream in the place of one. Texts are in lower case; names have
/// their final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    part: Part,
    from: String,
    to: String,
}

impl Rewrite {
    /// The name in the place of this one; `None` where the rule is not for it, or what it gives is
    /// no name.
    #[must_use]
    pub fn apply(&self, name: &Name) -> Option<Name> {
        let text = name.to_string().to_ascii_lowercase();
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let new = match self.part {
            Part::Exact if text == from => to.to_owned(),
            Part::Prefix => format!("{to}{}", text.strip_prefix(from)?),
            Part::Suffix => format!("{}{to}", text.strip_suffix(from)?),
            Part::Substring if text.contains(from) => text.replace(from, to),
            Part::Exact | Part::Substring => return None,
        };
        Name::parse(&new).ok()
    }
}

/// Reads `exact|prefix|suffix|substring FROM TO`.
pub(super) fn rewrite(text: &str) -> Result<Rewrite, Wrong> {
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_ascii_whitespace().collect();
    let [part, from, to] = words.as_slice() else {
        return Err(wrong(
            "write three words, e.g. suffix .old.example .new.example",
        ));
    };
    let Some((_, part)) = PARTS.iter().find(|(word, _)| word == part) else {
        return Err(wrong("begin with exact, prefix, suffix or substring"));
    };
    let ends = |text: &str| match text.ends_with('.') {
        true => text.to_owned(),
        false => format!("{text}."),
    };
    let (from, to) = match part {
        Part::Exact => {
            text::domain(from)?;
            text::domain(to)?;
            (ends(from), ends(to))
        }
        // What is left of a name in front of them is a name with them: so they are, without a dot
        // in front.
        Part::Suffix => {
            for one in [from, to] {
                text::domain(one.strip_prefix('.').unwrap_or(one))?;
            }
            (ends(from), ends(to))
        }
        Part::Prefix | Part::Substring => ((*from).to_owned(), (*to).to_owned()),
    };
    Ok(Rewrite {
        part: *part,
        from,
        to,
    })
}

fn wrong(remedy: &str) -> Wrong {
    Wrong {
        expected: "exact|prefix|suffix|substring FROM TO".to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Addresses of IPv6 that stand for those of IPv4 (RFC 6147), for clients behind a NAT64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dns64 {
    prefix: Ipv6Addr,
    bits: u8,
    /// Names that have addresses of IPv6 get these in their place, too.
    pub for_all: bool,
}

impl Dns64 {
    /// The address that stands for one of IPv4 (RFC 6052 section 2.2).
    #[must_use]
    pub fn of(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.octets();
        let mut at = usize::from(self.bits / 8);
        for octet in address.octets() {
            // Bits 64 to 71 are zero.
            at += usize::from(at == 8);
            if let Some(place) = octets.get_mut(at) {
                *place = octet;
            }
            at += 1;
        }
        octets.into()
    }
}

/// Reads `off`, `PREFIX` or `PREFIX all`.
pub(super) fn dns64(text: &str) -> Result<Option<Dns64>, Wrong> {
    let wrong = |remedy: &str| Wrong {
        expected: "off, or a prefix of IPv6 for NAT64".to_owned(),
        remedy: remedy.to_owned(),
    };
    if text == "off" {
        return Ok(None);
    }
    let (prefix, for_all) = match text.strip_suffix(" all") {
        Some(prefix) => (prefix.trim_end(), true),
        None => (text, false),
    };
    let remedy = "write it like 64:ff9b::/96";
    let (address, bits) = prefix.split_once('/').ok_or_else(|| wrong(remedy))?;
    let address: Ipv6Addr = address.parse().map_err(|_| wrong(remedy))?;
    let bits = bits.parse().ok();
    let Some(bits) = bits.filter(|bits| [32, 40, 48, 56, 64, 96].contains(bits)) else {
        return Err(wrong(
            "write a length of 32, 40, 48, 56, 64 or 96 (RFC 6052 section 2.2)",
        ));
    };
    let beyond = u128::from(address) << bits;
    if beyond != 0 {
        return Err(wrong("write zeros behind the length of the prefix"));
    }
    Ok(Some(Dns64 {
        prefix: address,
        bits,
        for_all,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_changes_the_names_that_it_is_for() {
        let apply = |rule: &str, name: &str| {
            let name = Name::parse(name).unwrap();
            let new = rewrite(rule).unwrap().apply(&name)?;
            Some(new.to_string())
        };
        for (rule, name, new) in [
            ("exact a.example b.example", "A.example", Some("b.example.")),
            ("exact a.example b.example", "x.a.example", None),
            (
                "suffix .old.example .new.example",
                "x.y.old.example",
                Some("x.y.new.example."),
            ),
            ("suffix .old.example. .new.example", "old.example", None),
            (
                "suffix old.example new.example",
                "veryold.example",
                Some("verynew.example."),
            ),
            ("prefix v1- v2-", "v1-web.example", Some("v2-web.example.")),
            (
                "substring .eu. .us.",
                "a.eu.b.eu.example",
                Some("a.us.b.us.example."),
            ),
            ("prefix a .", "a.example", None),
        ] {
            assert_eq!(apply(rule, name).as_deref(), new, "{rule} {name}");
        }
        for rule in [
            "",
            "exact a",
            "exact a b c",
            "regex a b",
            "exact a..b c",
            "suffix .a ..b",
        ] {
            assert!(rewrite(rule).is_err(), "{rule}");
        }
    }

    #[test]
    fn addresses_are_those_of_rfc_6052() {
        // Section 2.4, for 192.0.2.33.
        for (prefix, wanted) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96 all", "64:ff9b::192.0.2.33"),
        ] {
            let dns64 = dns64(prefix).unwrap().unwrap();
            assert_eq!(
                dns64.of([192, 0, 2, 33].into()),
                wanted.parse::<Ipv6Addr>().unwrap()
            );
            assert_eq!(dns64.for_all, prefix.ends_with("all"));
        }
        assert_eq!(dns64("off").unwrap(), None);
        for text in [
            "",
            "on",
            "64:ff9b::",
            "64:ff9b::/95",
            "64:ff9b::1/96",
            "10.0.0.0/96",
        ] {
            assert!(dns64(text).is_err(), "{text}");
        }
    }
}
