// SPDX-License-Identifier: Apache-2.0
//! Questions that a zone has asked under another name, and answers that it makes others of:
//! `zones[].rewrites` and `zones[].dns64` (RFC 6147). What comes of it is an answer to the question
//! itself, read as one that came from an upstream: the cache, and everything behind it, knows no
//! difference.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

use super::Resolver;
use super::exchange::{Asking, Failed};
use super::message::{Exchanged, Section};
use super::routes::Route;
use crate::config::adapt::{Dns64, Rewrite};
use crate::wire::answer::Answer;
use crate::wire::header::{Flags, HEADER, Header};
use crate::wire::name::Name;
use crate::wire::question::Question;
use crate::wire::{MAX_MESSAGE, qtype, rcode};

/// An exchange on the heap: rare, it must not make every question larger.
pub(super) type Adapted<'a> =
    Pin<Box<dyn Future<Output = Result<(Exchanged, u16), Failed>> + Send + 'a>>;

/// The TTL of an address that is made, at most, where no SOA says how long there is none: RFC 6147
/// section 5.1.7, in seconds.
pub(super) const MADE_TTL: u32 = 600;
/// The section of answers.
const ANSWERS: usize = 0;

impl Resolver {
    /// Asks upstream what the zone makes of a question. The answer is one to the question itself.
    pub(super) fn exchange_adapted<'a>(
        &'a self,
        asking: &'a Asking<'a>,
        began: Instant,
    ) -> Adapted<'a> {
        Box::pin(self.adapted(asking, began))
    }

    async fn adapted(
        &self,
        whole: &Asking<'_>,
        began: Instant,
    ) -> Result<(Exchanged, u16), Failed> {
        let renamed = whole.route.asked(whole.question);
        let question = renamed.as_ref().unwrap_or(whole.question);
        let restore = |exchanged| {
            let asked = renamed.as_ref();
            whole.route.restore(whole.question, asked, exchanged)
        };
        let asking = Asking {
            question,
            is_adapted: true,
            route: whole.route,
            limits: whole.limits,
            client: whole.client,
            deadline: whole.deadline,
            patience: whole.patience,
            // Whoever waits for the whole has a timer of its own.
            wakes: AtomicBool::new(false),
        };
        let asked = self.exchange(&asking, began, None).await;
        let (mut exchanged, upstream) = asked.map_err(|failed| Failed {
            // Its records, too, stand behind the question that was asked.
            refusal: failed.refusal.map(restore),
            ..failed
        })?;
        if let Some(dns64) = wants_addresses(asking.route.dns64, question, &exchanged) {
            let of_v4 = question.with_type(qtype::A);
            // Where they cannot be had, that there are none of IPv6 is the answer.
            let addresses = match whole.route.own(&of_v4) {
                Some(own) => of_rule(&of_v4, &own),
                None => {
                    let asking = Asking {
                        question: &of_v4,
                        ..asking
                    };
                    let asked = self.exchange(&asking, Instant::now(), None).await;
                    asked.ok().map(|(addresses, _)| addresses)
                }
            };
            if let Some(addresses) = addresses
                && let Some(made) = translate(dns64, question, &exchanged, &addresses)
            {
                exchanged = made;
            }
        }
        let mut exchanged = restore(exchanged);
        whole.route.raise_ttls(&mut exchanged);
        Ok((exchanged, upstream))
    }
}

impl Route {
    /// Whether questions or answers are changed on their way.
    pub(super) fn adapts(&self) -> bool {
        self.dns64.is_some() || !self.rewrites.is_empty() || self.least_ttls != [0; 2]
    }

    /// The question as it is asked upstream, and of the zone's own answers, where that is another one.
    pub(super) fn asked(&self, question: &Question) -> Option<Question> {
        if self.rewrites.is_empty() {
            return None;
        }
        let name = Name::from_wire(question.name())?;
        let mut rules = self.rewrites.iter();
        let new = rules.find_map(|rule: &Rewrite| rule.apply(&name))?;
        (new != name).then(|| question.with_name(&new))
    }

    /// An answer to a question that the zone had `asked` in another form, as one to the question itself;
    /// as it is where there was no other, or it has no room.
    fn restore(
        &self,
        question: &Question,
        asked: Option<&Question>,
        exchanged: Exchanged,
    ) -> Exchanged {
        match asked {
            Some(asked) => rename(self, question, asked, &exchanged).unwrap_or(exchanged),
            None => exchanged,
        }
    }
}

/// Whether addresses are to be made: RFC 6147 section 5.1. A name that does not exist has none.
fn wants_addresses(
    dns64: Option<Dns64>,
    question: &Question,
    exchanged: &Exchanged,
) -> Option<Dns64> {
    let dns64 = dns64?;
    let response = &exchanged.response;
    let is_asked =
        question.qtype() == qtype::AAAA && question.qclass() == 1 && !validates(question);
    let lacks = dns64.for_all || !response.has_wanted;
    (is_asked && response.rcode == rcode::NOERROR && lacks).then_some(dns64)
}

/// RFC 6147 section 5.5: whoever validates itself translates itself.
pub(super) fn validates(question: &Question) -> bool {
    question.checking_disabled() && question.dnssec_ok()
}

/// What a rule of the zone answers, as if a server had.
fn of_rule(question: &Question, own: &Answer<'_>) -> Option<Exchanged> {
    let mut message = Message::to(question, Flags(0), own.flags.rcode());
    message.octets.extend_from_slice(own.records);
    message.counts[0] = own.counts[0];
    message.read(question)
}

/// The answer for IPv6 out of that for IPv4; `None` where that has no address.
fn translate(
    dns64: Dns64,
    question: &Question,
    none: &Exchanged,
    addresses: &Exchanged,
) -> Option<Exchanged> {
    if addresses.response.rcode != rcode::NOERROR || !addresses.response.has_wanted {
        return None;
    }
    let most = none.response.negative_ttl.unwrap_or(MADE_TTL);
    let mut message = Message::to(question, addresses.response.flags, rcode::NOERROR);
    addresses.records(|section, record| {
        if section != ANSWERS {
            return;
        }
        let address = <[u8; 4]>::try_from(record.tail).map(Ipv4Addr::from);
        match (record.rtype, address) {
            (qtype::A, Ok(address)) => {
                let (ttl, made) = (record.ttl.min(most), dns64.of(address).octets());
                message.put(section, &record.owner, qtype::AAAA, ttl, &[&made]);
            }
            (qtype::CNAME, _) => {
                let target = record.names[0].unwrap_or(Name::ROOT);
                message.put(
                    section,
                    &record.owner,
                    qtype::CNAME,
                    record.ttl,
                    &[target.as_wire()],
                );
            }
            _ => {}
        }
    })?;
    message.read(question)
}

/// An answer to another name as one to the question's. Signatures are left out: they are for the
/// other name.
fn rename(
    route: &Route,
    question: &Question,
    asked: &Question,
    exchanged: &Exchanged,
) -> Option<Exchanged> {
    let own = Name::from_wire(question.name())?;
    let other = Name::from_wire(asked.name())?;
    let flags = Flags(exchanged.response.flags.0 & !Flags::AD);
    let mut message = Message::to(question, flags, exchanged.response.rcode);
    exchanged.records(|section, record| {
        if record.rtype == qtype::RRSIG {
            return;
        }
        let mut owner = record.owner;
        if owner == other {
            owner = own;
        }
        // Else it would say nothing about the name, and the answer be kept for no longer than a second.
        if section != ANSWERS && record.rtype == qtype::SOA && !owner.encloses(own.as_wire()) {
            owner = route.name;
        }
        let names = record.names.iter().flatten().map(Name::as_wire);
        let data: Vec<&[u8]> = std::iter::once(record.head)
            .chain(names)
            .chain([record.tail])
            .collect();
        message.put(section, &owner, record.rtype, record.ttl, &data);
    })?;
    message.read(question)
}

/// A response in the making.
#[derive(Debug)]
struct Message {
    octets: Vec<u8>,
    counts: [u16; 2],
    flags: Flags,
}

impl Message {
    fn to(question: &Question, flags: Flags, rcode: u16) -> Self {
        let mut octets = vec![0; HEADER];
        octets.extend(Section::of(question).octets());
        let kept = flags.0 & (Flags::AD | Flags::TC);
        Self {
            octets,
            counts: [0; 2],
            flags: Flags(Flags::QR | Flags::RA | kept | (rcode & 0x000f)),
        }
    }

    /// Adds a record, its data in parts.
    fn put(&mut self, section: usize, owner: &Name, rtype: u16, ttl: u32, data: &[&[u8]]) {
        const CLASS_IN: [u8; 2] = [0, 1];
        let length: usize = data.iter().map(|part| part.len()).sum();
        let Some(count) = self.counts.get_mut(section) else {
            return;
        };
        *count = count.saturating_add(1);
        self.octets.extend(owner.as_wire());
        self.octets.extend(rtype.to_be_bytes());
        self.octets.extend(CLASS_IN);
        self.octets.extend(ttl.to_be_bytes());
        self.octets
            .extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        for part in data {
            self.octets.extend(*part);
        }
    }

    /// As an upstream's answer; `None` where it has grown too large.
    fn read(mut self, question: &Question) -> Option<Exchanged> {
        if self.octets.len() > MAX_MESSAGE {
            return None;
        }
        let [answers, authorities] = self.counts;
        let header = Header {
            flags: self.flags,
            questions: 1,
            answers,
            authorities,
            ..Header::default()
        };
        header.write(&mut self.octets);
        Exchanged::read(&self.octets, question, 0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn answer(question: &Question, records: &[(usize, &str, u16, u32, &[u8])]) -> Exchanged {
        let mut message = Message::to(question, Flags(0), rcode::NOERROR);
        for (section, owner, rtype, ttl, data) in records {
            message.put(*section, &name(owner), *rtype, *ttl, &[data]);
        }
        message.read(question).unwrap()
    }

    type Shown = Vec<(usize, String, u16, u32, Vec<u8>)>;

    fn shown(exchanged: &Exchanged) -> Shown {
        let mut all = Shown::new();
        let read = exchanged.records(|section, record| {
            let mut data = record.head.to_vec();
            for name in record.names.iter().flatten() {
                data.extend(name.as_wire());
            }
            data.extend(record.tail);
            let owner = record.owner.to_string();
            all.push((section, owner, record.rtype, record.ttl, data));
        });
        read.unwrap();
        all
    }

    fn route(keys: &str) -> std::sync::Arc<Route> {
        let zones = format!("[{{name: ., upstreams: [192.0.2.1], {keys}}}]");
        let loaded = Config::load(&Sources {
            default_file: "/nonexistent/nodens.yaml".into(),
            flags: [("zones", zones)].into(),
            ..Sources::default()
        });
        let telemetry = crate::telemetry::registry::Telemetry::new(1);
        let routes = super::super::Routes::new(
            &loaded.unwrap().config.zones,
            &std::sync::Arc::new(telemetry),
            None,
        );
        std::sync::Arc::clone(routes.of(b"\x00"))
    }

    #[test]
    fn an_answer_to_another_name_becomes_one_to_the_question() {
        let route = route("rewrites: [\"suffix .old.example .new.example\"]");
        let question = Question::of(&name("web.old.example"), qtype::A);
        let asked = route.asked(&question).unwrap();
        assert_eq!(asked.name(), name("web.new.example").as_wire());
        assert_eq!(asked.qtype(), qtype::A);
        let target = name("a.new.example");
        let exchanged = answer(
            &asked,
            &[
                (0, "web.new.example", qtype::CNAME, 60, target.as_wire()),
                (0, "a.new.example", qtype::A, 30, &[10, 0, 0, 1]),
            ],
        );
        let restored = route.restore(&question, Some(&asked), exchanged);
        assert_eq!(
            shown(&restored),
            [
                (
                    0,
                    "web.old.example.".to_owned(),
                    qtype::CNAME,
                    60,
                    target.as_wire().to_vec()
                ),
                (
                    0,
                    "a.new.example.".to_owned(),
                    qtype::A,
                    30,
                    vec![10, 0, 0, 1]
                ),
            ]
        );
        assert!(restored.response.has_wanted);
        // A denial is one of the question's zone.
        let soa = [&[0, 0][..], &[0; 16], &[0, 0, 0, 7]].concat();
        let exchanged = answer(&asked, &[(1, "new.example", qtype::SOA, 60, &soa)]);
        let restored = route.restore(&question, Some(&asked), exchanged);
        assert_eq!(restored.response.negative_ttl, Some(7));
        // What no rule is for stays.
        let other = Question::of(&name("web.example"), qtype::A);
        assert!(route.asked(&other).is_none());
    }

    #[test]
    fn addresses_of_ipv4_become_those_of_the_prefix() {
        let route = route("dns64: \"64:ff9b::/96\"");
        let question = Question::of(&name("a.example"), qtype::AAAA);
        let soa = [&[0, 0][..], &[0; 16], &[0, 0, 0, 20]].concat();
        let none = answer(&question, &[(1, "example", qtype::SOA, 60, &soa)]);
        let dns64 = wants_addresses(route.dns64, &question, &none).unwrap();
        let of_v4 = question.with_type(qtype::A);
        let target = name("b.example");
        let v4 = answer(
            &of_v4,
            &[
                (0, "a.example", qtype::CNAME, 60, target.as_wire()),
                (0, "b.example", qtype::A, 300, &[192, 0, 2, 33]),
            ],
        );
        let made = translate(dns64, &question, &none, &v4).unwrap();
        let wanted: std::net::Ipv6Addr = "64:ff9b::192.0.2.33".parse().unwrap();
        assert_eq!(
            shown(&made),
            [
                (
                    0,
                    "a.example.".to_owned(),
                    qtype::CNAME,
                    60,
                    target.as_wire().to_vec()
                ),
                (
                    0,
                    "b.example.".to_owned(),
                    qtype::AAAA,
                    20,
                    wanted.octets().to_vec()
                ),
            ]
        );
        // Who has addresses of IPv6, or no name at all, needs none.
        let has = answer(&question, &[(0, "a.example", qtype::AAAA, 60, &[0; 16])]);
        assert!(wants_addresses(route.dns64, &question, &has).is_none());
        assert!(wants_addresses(route.dns64, &of_v4, &v4).is_none());
        assert!(translate(dns64, &question, &none, &none).is_none());
    }
}
