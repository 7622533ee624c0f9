// SPDX-License-Identifier: Apache-2.0
//! The pages of the admin socket as structures: the agent writes them as JSON, the command line
//! reads them again to show them to people. One structure a page. Ages and what is left are in
//! seconds, moments in seconds since 1970, names in presentation form with the final dot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an entry says of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// There is data.
    Positive,
    /// The name has no data of this type (RFC 2308).
    Nodata,
    /// The name does not exist, as far as this type is concerned.
    Nxdomain,
    /// The name does not exist, whatever the type: NXDOMAIN kept by name.
    Denial,
    /// The upstreams failed (RFC 9520).
    Failure,
    /// The agent's own, kept for good.
    Own,
}

/// What an entry is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its lifetime has not ended.
    Fresh,
    /// Its lifetime has ended, and it may be sent where no upstream answers (RFC 8767).
    Stale,
    /// As stale, and put back for a few seconds, as no upstream answered.
    PutBack,
    /// It is not sent any more. A failure still counts for how long the next one is remembered.
    Dead,
}

/// One entry of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name that was asked for.
    pub name: String,
    /// The type that was asked for; `*` where the entry stands for all types.
    #[serde(rename = "type")]
    pub qtype: String,
    /// `IN`, or `ANY` where that was asked for.
    pub class: String,
    /// Asked with DO: with DNSSEC records.
    pub dnssec_ok: bool,
    /// Asked with CD: without validation.
    pub checking_disabled: bool,
    /// What it says.
    pub kind: Kind,
    /// What it is worth now.
    pub state: State,
    /// The response code.
    pub rcode: String,
    /// The zone it counts for.
    pub zone: String,
    /// The upstream that said it; none for failures and what is the agent's own.
    pub upstream: Option<String>,
    /// Since the upstream answered.
    pub age: u32,
    /// Until its lifetime ends; 0 where it has ended, none where it never does.
    pub ttl: Option<u32>,
    /// Until it is of no use any more, as a stale answer; none where it is never one.
    pub stale_for: Option<u32>,
    /// Hits since it was last judged, or last answered. Counting stops at 3.
    pub hits: u8,
    /// Octets of its records as they are kept.
    pub octets: usize,
    /// Its records as they would be sent now.
    pub records: Vec<Record>,
}

/// A record of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `answer`, `authority` or `additional`.
    pub section: String,
    /// Whose it is.
    pub name: String,
    /// What is left of its TTL.
    pub ttl: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Its data, in presentation form.
    pub data: String,
}

/// `GET /cache/get`: all that is known of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The name.
    pub name: String,
    /// The zone that takes it.
    pub zone: String,
    /// The zone's servers.
    pub upstreams: Vec<String>,
    /// None of them has answered since it last failed.
    pub is_down: bool,
    /// Whether NXDOMAIN for type A is taken for all types there.
    pub denies_by_name: bool,
    /// How the next queries would be answered.
    pub next: Vec<Next>,
    /// What is held.
    pub held: Vec<Entry>,
    /// Candidates for a cut above the name, and the name itself (RFC 8020).
    pub candidates: Vec<Candidate>,
}

/// How the next query would be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The type.
    #[serde(rename = "type")]
    pub qtype: String,
    /// Asked with DO.
    pub dnssec_ok: bool,
    /// Asked with CD.
    pub checking_disabled: bool,
    /// `fresh`, `denied_by_name`, `stale`, `failure`, `by_rule`, `below_cut`, `under_way` or `miss`.
    pub how: String,
    /// The same in words, with the reason.
    pub why: String,
}

/// A name that may be a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The name.
    pub name: String,
    /// Everything below it is denied; else it is barred, as it or a name below it exists.
    pub is_cut: bool,
    /// How long that stands.
    pub left: u32,
    /// The upstream that denied it.
    pub upstream: Option<String>,
}

/// `POST /cache/flush`: what went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Entries.
    pub entries: usize,
    /// Cuts and bars.
    pub cuts: usize,
}

/// `GET /cache/stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The store.
    pub store: Store,
    /// Entries that may still be sent as they are, by kind.
    pub fresh: BTreeMap<Kind, u64>,
    /// Entries beyond their lifetime that may stand in where no upstream answers, by kind.
    pub stale: BTreeMap<Kind, u64>,
    /// Entries that wait to be dropped.
    pub dead: u64,
    /// Names that all names below are denied for.
    pub cuts: usize,
    /// Names that are barred from being one.
    pub barred: usize,
    /// By zone.
    pub zones: Vec<Zone>,
}

/// The store as a whole. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Entries held.
    pub entries: u64,
    /// Octets that they take, all overhead counted.
    pub used_bytes: u64,
    /// Octets that they may take (`cache.size`).
    pub budget_bytes: u64,
    /// Entries put in.
    pub inserts: u64,
    /// Of these, in place of an earlier one.
    pub replaced: u64,
    /// Entries that left before their end to make room.
    pub evictions: u64,
    /// Entries that left at their end.
    pub expired: u64,
    /// Responses that were not put in: too large, or no room.
    pub refused: u64,
    /// Entries that came back soon after they had to leave: a sign that the budget is small.
    pub ghost_hits: u64,
}

/// What was counted of a zone since the start, as in the metrics, and its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name.
    pub zone: String,
    /// Entries held.
    pub entries: u64,
    /// `nodens_cache_hits_total`.
    pub hits: u64,
    /// `nodens_cache_misses_total`.
    pub misses: u64,
    /// `nodens_cache_stale_total`.
    pub stale: u64,
    /// `nodens_cache_failures_total`.
    pub failures: u64,
    /// `nodens_cache_prefetches_total`.
    pub prefetches: u64,
    /// `nodens_cache_cuts_total`.
    pub cuts: u64,
    /// `nodens_cache_contradictions_total`.
    pub contradictions: u64,
}

/// `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since its start.
    pub uptime: u64,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// The configuration in force.
    pub config: Configuration,
    /// Whether queries may be sent here (`/readyz`).
    pub is_ready: bool,
    /// Whether the process is worth keeping (`/healthz`).
    pub is_live: bool,
    /// A drain has begun.
    pub is_draining: bool,
    /// Why it is not ready, one cause each.
    pub reasons: Vec<String>,
    /// Clients that wait for an answer.
    pub waiting: u64,
    /// Every listen address by transport.
    pub listen: Vec<Listen>,
    /// What the kernel steers here; none where `intercept.enabled` is false.
    pub steering: Option<Steering>,
    /// Every zone.
    pub zones: Vec<Route>,
    /// Every upstream.
    pub upstreams: Vec<Upstream>,
    /// The store.
    pub cache: Store,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its file; none where there are only defaults, environment and flags.
    pub file: Option<String>,
    /// When it was loaded.
    pub loaded: u64,
    /// How long ago that was.
    pub age: u64,
    /// Reloads that took effect.
    pub reloads: u64,
    /// Reloads that were refused, the old configuration kept.
    pub refused: u64,
}

/// A listen address over one transport, as the agent asks itself there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Address and port.
    pub address: String,
    /// `udp` or `tcp`.
    pub proto: String,
    /// Questions of our own that were answered.
    pub answered: u64,
    /// And those that were not.
    pub failed: u64,
}

/// What the kernel steers here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    /// Each address that clients ask, by transport.
    pub lanes: Vec<Lane>,
    /// Times that something of ours was gone and was put back, by what it was.
    pub healed: BTreeMap<String, u64>,
    /// The longest time between two signs of life, in seconds.
    pub longest_gap: f64,
}

/// An address that clients ask, over one transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The address.
    pub address: String,
    /// `udp` or `tcp`.
    pub proto: String,
    /// Queries are steered here now.
    pub is_live: bool,
    /// Times that the switch tripped.
    pub trips: u64,
    /// Times that it came back.
    pub returns: u64,
}

/// A zone and where its names are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub zone: String,
    /// Its servers.
    pub upstreams: Vec<String>,
    /// Rules that answer without asking them.
    #[serde(default)]
    pub answers: usize,
    /// Longest lifetime of a positive answer, in seconds.
    pub max_ttl: u32,
    /// Longest lifetime of a negative answer, in seconds.
    pub max_negative_ttl: u32,
    /// Address records take turns.
    pub rotates: bool,
    /// Nothing is taken to exist below a name that does not.
    pub cuts: bool,
    /// NXDOMAIN for type A is taken for all types.
    pub denies_by_name: bool,
    /// None of its servers has answered since it last failed.
    pub is_down: bool,
}

/// A server of a zone. Each zone has connections of its own to a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Address and port.
    pub address: String,
    /// The zone that it serves.
    pub zone: String,
    /// `up`, `failing` (others are asked first), `down` (it has not answered since it failed) or
    /// `not asked`.
    pub state: String,
    /// It has failed and not answered since.
    pub is_down: bool,
    /// The smoothed time of an answer, in seconds.
    pub smoothed: Option<f64>,
    /// The time below which 95 of 100 answers came, in seconds.
    pub p95: Option<f64>,
    /// Queries that it is being asked.
    pub in_flight: usize,
    /// How many of them may be on one connection.
    pub depth: usize,
    /// Queries that wait for a connection.
    pub waiting: usize,
    /// Connections that wait for a query.
    pub idle: usize,
    /// Connections that are being opened.
    pub dialling: usize,
    /// The age of the youngest connection that waits, in seconds.
    pub youngest: Option<f64>,
    /// The age of the oldest, in seconds.
    pub oldest: Option<f64>,
    /// How long ago it last answered.
    pub answered: Option<f64>,
    /// How long ago it last failed.
    pub failed: Option<f64>,
    /// How that was, as in the metrics.
    pub error: Option<String>,
    /// The same in words.
    pub words: Option<String>,
    /// Queries that were asked a second time at this address, as the first took long.
    pub hedges: u64,
    /// How tries at this address ended so far, those of its other zones among them.
    pub exchanges: BTreeMap<String, u64>,
}

/// `GET /clients`: who asks, as far as the agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Every listen address.
    pub addresses: Vec<Asked>,
}

/// A listen address, and when it was of use. The agent's own questions do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Address and port.
    pub address: String,
    /// The Service whose queries are steered there; none for a node-local address of its own.
    pub service: Option<String>,
    /// How long ago a client last asked there; none where nobody has since the start.
    pub asked: Option<u64>,
}

/// What a page says instead where it cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, and what to do.
    pub errors: Vec<String>,
}
