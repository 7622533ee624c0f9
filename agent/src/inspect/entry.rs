// SPDX-License-Identifier: Apache-2.0
//! An entry of the cache, for people to read.

use std::sync::Arc;

use super::page::{self, Kind, State};
use crate::cache::{Entry, Tick};
use crate::telemetry::registry::Telemetry;
use crate::wire::answer::{Answer, Standing};
use crate::wire::header::HEADER;
use crate::wire::name::Name;
use crate::wire::presentation::{self, TypeName, rcode_name};
use crate::wire::question::Question;
use crate::wire::rcode;

/// The names behind indices, and the time.
pub(super) struct Context {
    pub(super) now: Tick,
    zones: Arc<Vec<String>>,
    upstreams: Arc<Vec<String>>,
}

impl Context {
    pub(super) fn of(telemetry: &Telemetry, now: Tick) -> Self {
        Self {
            now,
            zones: telemetry.zone_names(),
            upstreams: Arc::clone(&telemetry.upstreams.load()),
        }
    }

    pub(super) fn upstream(&self, index: u16) -> Option<String> {
        self.upstreams.get(usize::from(index)).cloned()
    }
}

/// What an entry says.
pub(super) fn kind(entry: &Entry<'_>) -> Kind {
    match (entry.rcode(), entry.has_answers()) {
        _ if entry.expires() == Tick::NEVER => Kind::Own,
        _ if entry.standing() == Standing::Failure => Kind::Failure,
        _ if entry.qtype().is_none() => Kind::Denial,
        (rcode::NXDOMAIN, _) => Kind::Nxdomain,
        (_, true) => Kind::Positive,
        (_, false) => Kind::Nodata,
    }
}

/// What it is worth at `now`.
pub(super) fn state(entry: &Entry<'_>, now: Tick) -> State {
    match entry.standing() {
        Standing::Stale if entry.is_fresh(now) => State::PutBack,
        _ if entry.is_fresh(now) => State::Fresh,
        _ if entry.is_stale(now) => State::Stale,
        _ => State::Dead,
    }
}

/// All of it.
pub(super) fn page(entry: &Entry<'_>, hits: u8, context: &Context) -> page::Entry {
    let now = context.now;
    let question = Question::from_octets(entry.question()).unwrap_or_default();
    let (kind, state) = (kind(entry), state(entry, now));
    let has_upstream = !matches!(kind, Kind::Failure | Kind::Own);
    let may_be_stale = has_upstream && entry.dies() > entry.expires();
    let is_own = kind == Kind::Own;
    page::Entry {
        name: shown(entry.name()),
        qtype: entry
            .qtype()
            .map_or_else(|| "*".to_owned(), |qtype| TypeName(qtype).to_string()),
        class: if question.qclass() == 1 { "IN" } else { "ANY" }.to_owned(),
        dnssec_ok: question.dnssec_ok(),
        checking_disabled: question.checking_disabled(),
        kind,
        state,
        rcode: rcode_name(entry.rcode()).to_owned(),
        zone: context
            .zones
            .get(usize::from(entry.zone()))
            .cloned()
            .unwrap_or_default(),
        upstream: has_upstream
            .then(|| context.upstream(entry.upstream()))
            .flatten(),
        age: if is_own {
            0
        } else {
            now.seconds_since(entry.stored())
        },
        ttl: (!is_own).then(|| left(entry.expires(), now)),
        stale_for: may_be_stale.then(|| left(entry.dies(), now)),
        hits,
        octets: entry.answer(now).records.len(),
        records: records(entry, state, now),
    }
}

/// The records with the TTLs that they would be sent with.
fn records(entry: &Entry<'_>, state: State, now: Tick) -> Vec<page::Record> {
    let answer = entry.answer(now);
    // Compression pointers are from the beginning of a message with one question.
    let mut message = vec![0; HEADER];
    message.extend(entry.name());
    message.extend([0; 4]);
    let start = message.len();
    message.extend(answer.records);
    let [answers, authorities, additionals] = answer.counts.map(usize::from);
    let sections = std::iter::repeat_n("answer", answers)
        .chain(std::iter::repeat_n("authority", authorities))
        .chain(std::iter::repeat_n("additional", additionals));
    let ttl = |own: u32| match state {
        State::Stale | State::PutBack => Answer::STALE_TTL,
        _ => own.saturating_sub(answer.age),
    };
    presentation::records(&message, start)
        .zip(sections)
        .map(|(record, section)| page::Record {
            section: section.to_owned(),
            name: record.owner.to_string(),
            ttl: ttl(record.ttl),
            rtype: TypeName(record.rtype).to_string(),
            data: record.data().to_string(),
        })
        .collect()
}

/// Seconds until a moment, a part of one counted whole: with the age, whose parts are not, it makes
/// the lifetime.
pub(super) fn left(until: Tick, now: Tick) -> u32 {
    const TICKS: u32 = 10;
    until.0.saturating_sub(now.0).div_ceil(TICKS)
}

fn shown(name: &[u8]) -> String {
    Name::from_wire(name).unwrap_or(Name::ROOT).to_string()
}
