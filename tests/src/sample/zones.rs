// SPDX-License-Identifier: Apache-2.0
//! Zones with their records, and what they answer to a question.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Longest chain of CNAME records that is followed.
const MAX_CHAIN: usize = 8;

/// All zones of a server.
#[derive(Clone, Debug)]
pub struct Zones(Vec<Zone>);

/// One zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name.
    pub origin: Name,
    /// Its SOA record.
    pub soa: Record,
    /// Whether the kubernetes plugin of CoreDNS stands behind it: authoritative, and names that
    /// begin with an underscore do not exist only because others exist below them.
    pub is_cluster: bool,
    /// Records by owner, owners in lower case and in canonical order (RFC 4034 section 6.1), so
    /// that all below a name follow it.
    records: BTreeMap<Name, Vec<Record>>,
}

/// An answer before it is a message.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) rcode: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// The name a literal of the lab stands for, in lower case and complete.
///
/// # Panics
/// When it is no name.
pub(super) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a domain name");
    name.set_fqdn(true);
    name.to_lowercase()
}

impl Zone {
    /// An empty zone with the SOA values of CoreDNS's kubernetes plugin.
    pub(super) fn new(origin: &str, ttl: u32, is_cluster: bool) -> Self {
        let origin = name(origin);
        let below = |label: &str| name(&format!("{label}.{origin}").replace("..", "."));
        let soa = SOA::new(
            below("ns.dns"),
            below("hostmaster"),
            1,
            7200,
            1800,
            86_400,
            ttl,
        );
        let soa = Record::from_rdata(origin.clone(), ttl, RData::SOA(soa));
        Self {
            records: BTreeMap::from([(origin.clone(), vec![soa.clone()])]),
            origin,
            soa,
            is_cluster,
        }
    }

    /// All records, the SOA first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values().flatten()
    }

    /// All names that own records, and all names above them within the zone.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        let mut names = Vec::new();
        for owner in self.records.keys() {
            let mut at = owner.clone();
            while at.num_labels() > self.origin.num_labels() {
                names.push(at.clone());
                at = at.base_name();
            }
        }
        names.push(self.origin.clone());
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn add(&mut self, owner: &str, ttl: u32, data: RData) {
        let owner = name(owner);
        assert!(self.origin.zone_of(&owner), "{owner} is in {}", self.origin);
        let record = Record::from_rdata(owner.clone(), ttl, data);
        let records = self.records.entry(owner).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// Whether the name exists although it owns nothing (RFC 4592 section 2.2.2).
    fn is_empty_non_terminal(&self, qname: &Name) -> bool {
        let hidden = self.is_cluster && qname.iter().next().is_some_and(|l| l.starts_with(b"_"));
        let mut from = self.records.range(qname.clone()..);
        !hidden && from.next().is_some_and(|(owner, _)| qname.zone_of(owner))
    }
}

impl Default for Zones {
    /// The sample cluster and its world.
    fn default() -> Self {
        Self::sample()
    }
}

impl Zones {
    pub(super) fn new(mut zones: Vec<Zone>) -> Self {
        // Longest first, so that the first that fits is the right one.
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.origin.num_labels()));
        Self(zones)
    }

    /// The zones, those with the longest names first.
    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.0.iter()
    }

    /// The zone that a name belongs to. There is always one: the root is among the zones.
    ///
    /// # Panics
    /// Never, see above.
    #[must_use]
    pub fn of(&self, name: &Name) -> &Zone {
        let zone = self.0.iter().find(|zone| zone.origin.zone_of(name));
        zone.expect("the root zone encloses every name")
    }

    fn of_mut(&mut self, name: &Name) -> &mut Zone {
        let zone = self.0.iter_mut().find(|zone| zone.origin.zone_of(name));
        zone.expect("the root zone encloses every name")
    }

    pub(super) fn set(&mut self, owner: &Name, rtype: RecordType, ttl: u32, data: Vec<RData>) {
        let zone = self.of_mut(owner);
        let records = zone.records.entry(owner.clone()).or_default();
        records.retain(|record| record.record_type() != rtype);
        for data in data {
            assert_eq!(
                data.record_type(),
                rtype,
                "a record of the type that is set"
            );
            records.push(Record::from_rdata(owner.clone(), ttl, data));
        }
        if records.is_empty() {
            zone.records.remove(owner);
        }
    }

    pub(super) fn remove(&mut self, owner: &Name) {
        self.of_mut(owner).records.remove(owner);
    }

    /// Answers a question. Owners that are the question's name get its letter case, so that
    /// compression points at the question.
    pub(super) fn find(&self, asked: &Name, qtype: RecordType) -> Found {
        let mut qname = asked.to_lowercase();
        let mut found = Found {
            rcode: ResponseCode::NoError,
            authoritative: self.of(&qname).is_cluster,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        };
        for _ in 0..MAX_CHAIN {
            let zone = self.of(&qname);
            let records = zone.records.get(&qname);
            let is_wanted =
                |record: &&Record| record.record_type() == qtype || qtype == RecordType::ANY;
            let wanted: Vec<Record> = records
                .into_iter()
                .flatten()
                .filter(is_wanted)
                .cloned()
                .collect();
            if !wanted.is_empty() {
                if found.answers.is_empty() {
                    // Behind an alias CoreDNS adds nothing.
                    found.additionals = self.addresses_of_targets(&wanted);
                }
                found.answers.extend(wanted);
                break;
            }
            let alias = records
                .into_iter()
                .flatten()
                .find_map(|record| match &record.data {
                    RData::CNAME(target) => Some((record.clone(), target.0.to_lowercase())),
                    _ => None,
                });
            if let Some((record, target)) = alias {
                found.answers.push(record);
                qname = target;
                continue;
            }
            let is_bench = super::respond::is_bench(&qname.to_ascii());
            if found.authoritative && !found.answers.is_empty() {
                // The kubernetes plugin of CoreDNS gives an alias alone and NOERROR, whatever
                // became of its target, and no SOA.
                break;
            }
            if records.is_none() && !zone.is_empty_non_terminal(&qname) && !is_bench {
                found.rcode = ResponseCode::NXDomain;
            }
            found.authorities.push(zone.soa.clone());
            break;
        }
        let lower = asked.to_lowercase();
        for record in found.answers.iter_mut().filter(|r| r.name == lower) {
            record.name = asked.clone();
        }
        found
    }

    fn addresses_of_targets(&self, records: &[Record]) -> Vec<Record> {
        let mut targets: Vec<&Name> = Vec::new();
        for record in records {
            let target = match &record.data {
                RData::SRV(srv) => &srv.target,
                RData::MX(mx) => &mx.exchange,
                _ => continue,
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let is_address =
            |record: &&Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
        let owned = targets.into_iter().filter_map(|target| {
            let target = target.to_lowercase();
            self.of(&target).records.get(&target)
        });
        owned.flatten().filter(is_address).cloned().collect()
    }
}
