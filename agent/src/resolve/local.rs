// SPDX-License-Identifier: Apache-2.0
//! Answers that need no upstream: the rules of a zone, `zones[].answers`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::adapt::{MADE_TTL, validates};
use super::routes::Route;
use super::{Resolver, Waiter};
use crate::cache::{Draft, Tick};
use crate::config::adapt::Dns64;
use crate::config::answers::Says;
use crate::config::{LocalAnswer, Zone};
use crate::wire::answer::Answer;
use crate::wire::header::Flags;
use crate::wire::question::Question;
use crate::wire::{qtype, rcode};

/// How long an answer without a record is kept, in seconds: it only spares the way here.
const KEPT_SECONDS: u32 = 30;

/// A rule as it is looked for, with its answer; none: servers are asked.
#[derive(Debug)]
struct Rule {
    qtype: Option<u16>,
    below: u8,
    made: Option<Made>,
    /// Of addresses of IPv4, those of IPv6 that stand for them (RFC 6147).
    translated: Option<Made>,
}

/// An answer as it is sent, made once.
#[derive(Debug)]
struct Made {
    rcode: u16,
    count: u16,
    records: Vec<u8>,
    ttl_offsets: Vec<u8>,
    /// How long it is kept, in seconds.
    seconds: u32,
}

/// The rules of a zone, found by name.
#[derive(Debug, Default)]
pub(super) struct LocalAnswers {
    rules: Vec<Rule>,
    /// Rules for one name, in their order.
    of_name: HashMap<Box<[u8]>, Vec<usize>, foldhash::quality::RandomState>,
    /// Rules for the names below one, in their order.
    below: HashMap<Box<[u8]>, Vec<usize>, foldhash::quality::RandomState>,
}

impl LocalAnswers {
    /// Takes the rules of a zone.
    pub(super) fn new(zone: &Zone) -> Self {
        let mut all = Self::default();
        for rule in zone.answers.iter() {
            let map = match rule.below {
                0 => &mut all.of_name,
                _ => &mut all.below,
            };
            let index = all.rules.len();
            map.entry(rule.name.clone()).or_default().push(index);
            all.rules.push(Rule {
                qtype: rule.qtype,
                below: rule.below,
                made: Made::new(rule, zone),
                translated: zone
                    .dns64
                    .and_then(|dns64| Made::translated(rule, zone, dns64)),
            });
        }
        all
    }

    /// The first rule for a lower-case name in wire form and a type. A look-up for each label, as rules
    /// may be many and names are not long.
    fn find(&self, name: &[u8], qtype: u16) -> Option<&Rule> {
        let fits = |index: &&usize| {
            let rule = self.rules.get(**index);
            rule.is_some_and(|rule| rule.qtype.is_none_or(|own| own == qtype))
        };
        let mut first = self
            .of_name
            .get(name)
            .and_then(|all| all.iter().find(fits).copied());
        let mut rest = name;
        let mut depth = 0_u8;
        while let Some((&length, tail)) = rest.split_first() {
            let Some(parent) = tail.get(usize::from(length)..).filter(|_| length > 0) else {
                break;
            };
            depth = depth.saturating_add(1);
            rest = parent;
            let is_deep = |index: &&usize| {
                let rule = self.rules.get(**index);
                rule.is_some_and(|rule| rule.below <= depth)
            };
            let found = self.below.get(rest).and_then(|all| {
                let mut deep = all.iter().filter(is_deep);
                deep.find(fits).copied()
            });
            first = match (first, found) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        self.rules.get(first?)
    }
}

impl Made {
    fn new(rule: &LocalAnswer, zone: &Zone) -> Option<Self> {
        let mut made = Self {
            rcode: 0,
            count: 0,
            records: Vec::new(),
            ttl_offsets: Vec::new(),
            seconds: KEPT_SECONDS,
        };
        match &rule.says {
            Says::Ask => return None,
            Says::Rcode(rcode) => made.rcode = *rcode,
            Says::Addresses { ttl, addresses } => {
                made.seconds = ttl_of(*ttl, zone);
                for address in addresses {
                    match address {
                        IpAddr::V4(ip) => made.record(qtype::A, &ip.octets()),
                        IpAddr::V6(ip) => made.record(qtype::AAAA, &ip.octets()),
                    }
                }
            }
            Says::Names { ttl, names } => {
                made.seconds = ttl_of(*ttl, zone);
                for name in names {
                    made.record(qtype::PTR, name);
                }
            }
        }
        Some(made)
    }

    /// Addresses of IPv6 for those of IPv4 that a rule has.
    fn translated(rule: &LocalAnswer, zone: &Zone, dns64: Dns64) -> Option<Self> {
        let Says::Addresses { ttl, addresses } = &rule.says else {
            return None;
        };
        let of_v4 = |address: &IpAddr| match address {
            IpAddr::V4(ip) => Some(IpAddr::V6(dns64.of(*ip))),
            IpAddr::V6(_) => None,
        };
        let addresses: Vec<_> = addresses.iter().filter_map(of_v4).collect();
        let rule = LocalAnswer {
            says: Says::Addresses {
                ttl: (*ttl).min(MADE_TTL),
                addresses: addresses.clone(),
            },
            ..rule.clone()
        };
        (!addresses.is_empty()).then(|| Self::new(&rule, zone))?
    }

    /// Adds a record whose owner is the question's name: a pointer to it (RFC 1035 section 4.1.4).
    fn record(&mut self, qtype: u16, data: &[u8]) {
        const OWNER: [u8; 2] = [0xc0, 0x0c];
        const CLASS_IN: [u8; 2] = [0, 1];
        self.records.extend(OWNER);
        self.records.extend(qtype.to_be_bytes());
        self.records.extend(CLASS_IN);
        // 64 records of at most 267 octets fit 16 bits.
        let offset = u16::try_from(self.records.len()).unwrap_or(u16::MAX);
        self.ttl_offsets.extend(offset.to_le_bytes());
        self.records.extend(self.seconds.to_be_bytes());
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        self.records.extend(length.to_be_bytes());
        self.records.extend(data);
        self.count += 1;
    }

    fn answer(&self) -> Answer<'_> {
        Answer {
            flags: Flags(self.rcode),
            counts: [self.count, 0, 0],
            records: &self.records,
            ttl_offsets: &self.ttl_offsets,
            ..Answer::NOTHING
        }
    }
}

/// A TTL within the lifetimes of its zone: those of CoreDNS's `cache` count for its own answers, too.
/// A zone that keeps nothing has none.
fn ttl_of(ttl: u32, zone: &Zone) -> u32 {
    match zone.max_ttl {
        0 => ttl,
        most => ttl.max(zone.min_ttl).min(most),
    }
}

impl Route {
    /// The rule that answers a question, under the name that the zone has it asked.
    fn rule(&self, question: &Question) -> Option<&Made> {
        if self.answers.rules.is_empty() {
            return None;
        }
        let asked = self.asked(question);
        let asked = asked.as_ref().unwrap_or(question);
        let made = self
            .answers
            .find(asked.name(), asked.qtype())?
            .made
            .as_ref()?;
        Some(self.translated(asked, made).unwrap_or(made))
    }

    /// What stands in the place of a rule's answer where that has no address of IPv6.
    fn translated(&self, asked: &Question, made: &Made) -> Option<&Made> {
        let dns64 = self.dns64?;
        let is_asked = asked.qtype() == qtype::AAAA && !validates(asked);
        let lacks = made.rcode == rcode::NOERROR && (made.count == 0 || dns64.for_all);
        let of_v4 = || self.answers.find(asked.name(), qtype::A);
        (is_asked && lacks).then(of_v4)??.translated.as_ref()
    }

    /// What a rule answers to a question in the form in which the zone has it asked.
    pub(super) fn own(&self, asked: &Question) -> Option<Answer<'_>> {
        let found = self.answers.find(asked.name(), asked.qtype())?;
        found.made.as_ref().map(Made::answer)
    }

    /// Whether a rule answers a question.
    pub(super) fn answers_here(&self, question: &Question) -> bool {
        self.rule(question).is_some()
    }
}

impl Resolver {
    /// Answers what a rule of the zone answers, and keeps it for the workers.
    pub(super) fn answer_here(
        &self,
        question: &Question,
        route: &Route,
        waiter: Waiter,
    ) -> Option<Waiter> {
        let Some(made) = route.rule(question) else {
            return Some(waiter);
        };
        let answer = made.answer();
        self.telemetry.resolve.miss(route.zone);
        self.answer([waiter], question, route.zone, &answer);
        if made.seconds > 0 {
            let now = Tick::of(self.now());
            let expires = now.after_seconds(made.seconds);
            // Where there is no room the next query comes here again: no harm.
            let _ = self
                .cache
                .insert(&Draft::new(question, answer, route.zone, [now, expires]));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};
    use crate::wire::name::Name;

    fn answers(rules: &[&str]) -> LocalAnswers {
        answers_within("maxTtl: 7200s", rules)
    }

    fn answers_within(keys: &str, rules: &[&str]) -> LocalAnswers {
        let rules: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
        let zones = format!(
            "[{{name: ., upstreams: [192.0.2.1], {keys}, answers: [{}]}}]",
            rules.join(", ")
        );
        let loaded = Config::load(&Sources {
            default_file: "/nonexistent/nodens.yaml".into(),
            flags: [("zones", zones)].into(),
            ..Sources::default()
        });
        let zones = loaded.unwrap().config.zones;
        LocalAnswers::new(zones.last().unwrap())
    }

    fn found(answers: &LocalAnswers, name: &str, qtype: u16) -> Option<(u16, u16)> {
        let name = Name::parse(name).unwrap();
        let made = answers.find(name.as_wire(), qtype)?.made.as_ref()?;
        Some((made.rcode, made.count))
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let answers = answers(&[
            "AAAA *.example.org NOERROR",
            "A web.example.org 60 10.0.0.1 10.0.0.2",
            "MX web.example.org ASK",
            "ANY web.example.org NOERROR",
            "ANY *.*.*.example.net NXDOMAIN",
            "ANY *.example.org SERVFAIL",
        ]);
        let found = |name, qtype| found(&answers, name, qtype);
        assert_eq!(found("web.example.org", qtype::AAAA), Some((0, 0)));
        assert_eq!(found("web.example.org", qtype::A), Some((0, 2)));
        assert_eq!(found("web.example.org", qtype::TXT), Some((0, 0)));
        assert_eq!(found("web.example.org", qtype::MX), None);
        assert_eq!(found("a.b.example.org", qtype::A), Some((2, 0)));
        assert_eq!(found("example.org", qtype::AAAA), None);
        assert_eq!(found("b.c.example.net", qtype::A), None);
        assert_eq!(found("a.b.c.example.net", qtype::A), Some((3, 0)));
        assert_eq!(found("x.a.b.c.example.net", qtype::A), Some((3, 0)));
    }

    #[test]
    fn one_of_many_rules_is_found_without_looking_at_all() {
        let rules: Vec<String> = (0..40_000)
            .map(|number| format!("A n{number}.example.org 60 10.0.0.1"))
            .collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let answers = answers(&rules);
        // Each look-up at all rules would be 1,600 million.
        for number in 0..40_000 {
            let name = format!("n{number}.example.org");
            assert_eq!(found(&answers, &name, qtype::A), Some((0, 1)));
        }
        assert_eq!(found(&answers, "x.n1.example.org", qtype::A), None);
    }

    #[test]
    fn records_point_to_the_question_and_their_ttls_are_found() {
        let answers = answers(&[
            "AAAA a.example 60 fd00::1 fd00::2",
            "PTR b.example 30 c.example",
        ]);
        let name = Name::parse("a.example").unwrap();
        let found = |name: &Name, qtype| answers.find(name.as_wire(), qtype).unwrap();
        let made = found(&name, qtype::AAAA).made.as_ref().unwrap();
        let answer = made.answer();
        assert_eq!(answer.records.len(), 2 * 28);
        assert_eq!(answer.offsets().collect::<Vec<_>>(), [6, 34]);
        for offset in answer.offsets() {
            assert_eq!(answer.records[offset..offset + 4], [0, 0, 0, 60]);
        }
        let name = Name::parse("b.example").unwrap();
        let made = found(&name, qtype::PTR).made.as_ref().unwrap();
        assert_eq!(made.seconds, 30);
        assert!(made.records.ends_with(b"\x01c\x07example\x00"));
    }

    #[test]
    fn the_lifetimes_of_the_zone_count_for_its_own_answers_unless_it_keeps_none() {
        let ttls = |keys| {
            let rules = ["A a.example 3600 10.0.0.1", "A b.example 1 10.0.0.1"];
            let answers = answers_within(keys, &rules);
            let ttl = |name| {
                let name = Name::parse(name).unwrap();
                let rule = answers.find(name.as_wire(), qtype::A).unwrap();
                let made = rule.made.as_ref().unwrap();
                let sent = made.records[6..10].try_into().unwrap();
                assert_eq!(u32::from_be_bytes(sent), made.seconds);
                made.seconds
            };
            [ttl("a.example"), ttl("b.example")]
        };
        assert_eq!(ttls("maxTtl: 30s, minTtl: 5s"), [30, 5]);
        assert_eq!(ttls("maxTtl: 30s"), [30, 1]);
        assert_eq!(ttls("maxTtl: 0s, minTtl: 5s"), [3600, 1]);
    }

    #[test]
    fn addresses_of_ipv4_stand_for_those_of_ipv6_that_a_rule_does_not_have() {
        let rules = [
            "A a.example 3600 10.0.0.1 10.0.0.2",
            "ANY a.example NOERROR",
        ];
        let answers = answers_within("dns64: 64:ff9b::/96", &rules);
        let name = Name::parse("a.example").unwrap();
        let rule = answers.find(name.as_wire(), qtype::A).unwrap();
        let made = rule.translated.as_ref().unwrap();
        assert_eq!((made.count, made.seconds), (2, MADE_TTL));
        let address: [u8; 16] = made.records[12..28].try_into().unwrap();
        let address = std::net::Ipv6Addr::from(address);
        assert_eq!(address.to_string(), "64:ff9b::a00:1");
    }
}
