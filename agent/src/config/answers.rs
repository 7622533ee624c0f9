// SPDX-License-Identifier: Apache-2.0
//! Answers that are given without asking anybody: `zones[].answers`, one rule a line.

use std::net::IpAddr;

use super::limits;
use super::text::{self, Wrong};
use crate::wire::name::Name;
use crate::wire::presentation::TypeName;
use crate::wire::{qtype, rcode};

/// One rule; of those of a zone the first that fits a query answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAnswer {
    /// The type it is for; `None` for all.
    pub qtype: Option<u16>,
    /// The name, or the name above those it is for, in wire form and lower case.
    pub name: Box<[u8]>,
    /// It is for names at least so many labels below the name; 0: for the name alone.
    pub below: u8,
    /// What is said.
    pub says: Says,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing: the zone's servers are asked.
    Ask,
    /// A response code, and no record.
    Rcode(u16),
    /// Address records.
    Addresses {
        /// Their TTL in seconds.
        ttl: u32,
        /// All of the rule's type.
        addresses: Vec<IpAddr>,
    },
    /// PTR records.
    Names {
        /// Their TTL in seconds.
        ttl: u32,
        /// The names they point to, in wire form.
        names: Vec<Box<[u8]>>,
    },
}

/// Response codes that a rule may say.
const CODES: [(&str, u16); 4] = [
    ("NOERROR", rcode::NOERROR),
    ("NXDOMAIN", rcode::NXDOMAIN),
    ("REFUSED", rcode::REFUSED),
    ("SERVFAIL", rcode::SERVFAIL),
];

/// Reads `TYPE NAME RCODE`, `TYPE NAME ASK`, `A|AAAA NAME TTL ADDRESS...` or `PTR NAME TTL NAME...`.
pub(super) fn parse(text: &str) -> Result<LocalAnswer, Wrong> {
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(pattern), Some(says)) = (words.next(), words.next(), words.next()) else {
        return Err(wrong("write a type, a name, and what is answered"));
    };
    let kind = kind.to_ascii_uppercase();
    let qtype = match kind.as_str() {
        "ANY" => None,
        kind => match TypeName::parse(kind) {
            Some(TypeName(qtype)) => Some(qtype),
            None => {
                return Err(wrong(
                    "begin with a type like A or AAAA, or with ANY for all",
                ));
            }
        },
    };
    let (name, below) = pattern_of(pattern)?;
    let rule = |says| LocalAnswer {
        qtype,
        name: name.as_wire().into(),
        below,
        says,
    };
    let rest: Vec<&str> = words.collect();
    let code = CODES
        .iter()
        .find(|(code, _)| says.eq_ignore_ascii_case(code));
    let code = match code {
        Some((_, code)) => Some(Says::Rcode(*code)),
        None => says.eq_ignore_ascii_case("ASK").then_some(Says::Ask),
    };
    if let Some(says) = code {
        if !rest.is_empty() {
            return Err(wrong("write nothing behind the response code"));
        }
        return Ok(rule(says));
    }
    let Some(ttl) = says
        .parse()
        .ok()
        .filter(|ttl| *ttl <= limits::MAX_ANSWER_TTL)
    else {
        return Err(wrong(&format!(
            "write NOERROR, NXDOMAIN, REFUSED, SERVFAIL, ASK, or a TTL in seconds, {} at most, with what has it",
            limits::MAX_ANSWER_TTL
        )));
    };
    if !(1..=limits::MAX_ANSWER_RECORDS).contains(&rest.len()) {
        return Err(wrong(&format!(
            "write 1 to {} addresses or names behind the TTL",
            limits::MAX_ANSWER_RECORDS
        )));
    }
    match qtype {
        Some(kind @ (qtype::A | qtype::AAAA)) => {
            let addresses: Result<Vec<IpAddr>, _> = rest.iter().map(|one| one.parse()).collect();
            let addresses = addresses.ok().filter(|all: &Vec<IpAddr>| {
                all.iter().all(|one| one.is_ipv4() == (kind == qtype::A))
            });
            addresses
                .map(|addresses| rule(Says::Addresses { ttl, addresses }))
                .ok_or_else(|| wrong("write IPv4 addresses with A, IPv6 addresses with AAAA"))
        }
        Some(qtype::PTR) => {
            let names = rest.iter().map(|one| text::domain(one));
            let names: Result<Vec<Box<[u8]>>, Wrong> =
                names.map(|name| Ok(name?.as_wire().into())).collect();
            Ok(rule(Says::Names { ttl, names: names? }))
        }
        _ => Err(wrong("write records with A, AAAA and PTR alone")),
    }
}

fn pattern_of(pattern: &str) -> Result<(Name, u8), Wrong> {
    let mut below = 0_u8;
    let mut rest = pattern;
    while let Some(behind) = rest.strip_prefix('*') {
        below = below.saturating_add(1);
        rest = match behind.strip_prefix('.') {
            Some(behind) => behind,
            None if behind.is_empty() => ".",
            None => return Err(wrong("write * for one label, e.g. *.example.org")),
        };
    }
    let rest = if rest.is_empty() { "." } else { rest };
    Ok((text::domain(rest)?, below))
}

fn wrong(remedy: &str) -> Wrong {
    Wrong {
        expected: "TYPE NAME RCODE|ASK, A|AAAA NAME TTL ADDRESS... or PTR NAME TTL NAME..."
            .to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_a_type_a_name_and_what_it_says() {
        let rule = parse("PTR *.example.org ask").unwrap();
        assert_eq!((rule.below, rule.says), (1, Says::Ask));
        let rule = parse(r"ANY \*.example.org NOERROR").unwrap();
        assert_eq!(
            (rule.below, &*rule.name),
            (0, &b"\x01*\x07example\x03org\x00"[..])
        );
        let rule = parse("a *.*.Example.org 60 10.0.0.1 10.0.0.2").unwrap();
        assert_eq!((rule.qtype, rule.below), (Some(qtype::A), 2));
        assert_eq!(&*rule.name, b"\x07example\x03org\x00");
        assert!(
            matches!(rule.says, Says::Addresses { ttl: 60, ref addresses } if addresses.len() == 2)
        );
        let rule = parse("ANY * NXDOMAIN").unwrap();
        assert_eq!((rule.qtype, rule.below, &*rule.name), (None, 1, &[0][..]));
        let rule = parse("PTR 1.0.0.10.in-addr.arpa 60 a.example").unwrap();
        assert!(matches!(rule.says, Says::Names { ttl: 60, .. }));
    }

    #[test]
    fn what_is_no_rule_says_what_one_is() {
        for text in [
            "",
            "A",
            "A example.org",
            "A example.org 60",
            "A example.org 60 fd00::1",
            "AAAA example.org 60 10.0.0.1",
            "ANY example.org 60 10.0.0.1",
            "TXT example.org 60 x",
            "A example.org NOERROR x",
            "A example.org NOERR",
            "A exa*mple..org NOERROR",
            "A *example.org NOERROR",
            "A example.org 604801 10.0.0.1",
            "TYPO example.org NOERROR",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
