// SPDX-License-Identifier: Apache-2.0
//! All cells of the process in one place, with the names behind their indices.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::answers::Answers;
use super::cells::{AgentCells, Labels, MAX_UPSTREAMS, ResolveCells, StreamCells, WorkerCells};
use super::counters::{Channel, MAX_ZONES, NO_ZONE};
use super::latency::Distribution;
use super::process;
use super::zone_cells::ZoneTotals;
use crate::wire::fault::Fault;

/// All that is counted, and the names of zones and upstreams.
#[derive(Debug)]
pub struct Telemetry {
    /// One block for each worker, in their order.
    pub workers: Vec<Arc<WorkerCells>>,
    /// Clients over TCP.
    pub stream: Arc<StreamCells>,
    /// Misses and upstreams.
    pub resolve: Arc<ResolveCells>,
    /// The process as a whole.
    pub agent: AgentCells,
    /// Upstream servers by index, as `ADDRESS:PORT`.
    pub upstreams: Labels,
    pub(super) zones: Labels,
    sources: OnceLock<Sources>,
    /// CoreDNS's label `server`, where its names are shown too.
    coredns_server: OnceLock<String>,
}

impl Telemetry {
    /// Cells for so many workers, all at zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            stream: Arc::default(),
            resolve: Arc::default(),
            agent: AgentCells::default(),
            upstreams: Labels::new(&[], MAX_UPSTREAMS),
            // Index 0, NO_ZONE.
            zones: Labels::new(&[""], MAX_ZONES),
            sources: OnceLock::new(),
            coredns_server: OnceLock::new(),
        }
    }

    /// The index of a zone, new or old, with cells for it in every block: call it before any
    /// thread counts under the index. Zone names are in presentation form with the final dot.
    pub fn zone(&self, name: &str) -> u16 {
        let zone = self.zones.index(name);
        for worker in &self.workers {
            worker.answers.open(zone);
        }
        self.stream.answers.open(zone);
        self.resolve.answers.open(zone);
        zone
    }

    /// Has scrapes show CoreDNS's and node-cache's series too, with this address as their `server`.
    /// Once, before the first scrape.
    pub fn show_as_coredns(&self, first: SocketAddr) {
        let _ = self.coredns_server.set(format!("dns://{first}"));
    }

    /// Says where to ask for what is not in cells. Once: a second call changes nothing and
    /// returns false.
    pub fn connect(&self, sources: Sources) -> bool {
        self.sources.set(sources).is_ok()
    }
}

/// Where a scrape asks for what is not in cells. The closures run on the thread that scrapes.
pub struct Sources {
    /// Figures of the answer store.
    pub cache: Source<CacheFigures>,
    /// Datagrams that the kernel dropped at our sockets, by listen address. An address may come
    /// several times, once for each of its sockets.
    pub drops: Source<Vec<(String, u64)>>,
    /// What the health checks say.
    pub health: Source<HealthFigures>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// One figure's source.
pub struct Source<T>(Box<dyn Fn() -> T + Send + Sync>);

impl<T> Source<T> {
    /// Asks this closure.
    pub fn new(ask: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self(Box::new(ask))
    }
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What the answer store says of itself. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Entries held now.
    pub entries: u64,
    /// Bytes that they take, all overhead counted.
    pub used_bytes: u64,
    /// Bytes that they may take.
    pub budget_bytes: u64,
    /// Entries put in.
    pub inserts: u64,
    /// Of these, those that took the place of an entry with the same key.
    pub replaced: u64,
    /// Entries that had to leave for others before their end.
    pub evictions: u64,
    /// Entries that left because their time was over.
    pub expired: u64,
    /// Responses that were not put in: too large, or no room.
    pub refused: u64,
    /// Inserts of a name that was evicted a short while ago.
    pub ghost_hits: u64,
    /// Entries and evictions of each zone by its index, data and denials apart.
    pub zones: Vec<ZoneEntries>,
}

/// What the answer store has of one zone: first data, then denials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneEntries {
    /// Entries held now.
    pub entries: [u64; 2],
    /// Entries that had to leave for others before their end.
    pub evictions: [u64; 2],
}

/// What the health checks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthFigures {
    /// `/healthz` says yes.
    pub is_live: bool,
    /// `/readyz` says yes.
    pub is_ready: bool,
    /// A drain has begun.
    pub is_draining: bool,
    /// What the prober asked and got.
    pub probes: Vec<ProbeFigures>,
    /// What the kernel steers here; `None` where it is not asked to.
    pub steering: Option<SteeringFigures>,
}

/// What the dead-man's switch and the healing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringFigures {
    /// Each address that clients ask, by transport.
    pub lanes: Vec<LaneFigures>,
    /// Times that something of ours was put back, by what it was.
    pub healed: Vec<(&'static str, u64)>,
    /// Refreshes that the kernel took.
    pub refreshed: u64,
    /// Refreshes that it did not take.
    pub refused: u64,
    /// The longest time between two refreshes of one lane.
    pub longest_gap: Duration,
}

/// What the switch did to one address over one transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    /// The address that clients ask.
    pub address: String,
    /// `udp` or `tcp`.
    pub proto: &'static str,
    /// Queries are steered here now.
    pub is_live: bool,
    /// Times that the switch tripped.
    pub trips: u64,
    /// Times that it came back.
    pub returns: u64,
}

/// What the prober asked one listen address over one transport, and got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFigures {
    /// The listen address with its port.
    pub address: String,
    /// `udp` or `tcp`.
    pub proto: &'static str,
    /// Probes answered.
    pub answered: u64,
    /// Probes not answered, or wrongly.
    pub failed: u64,
}

/// Everything one scrape shows, added up over the threads once.
#[derive(Debug)]
pub(super) struct Scrape<'a> {
    pub(super) cells: &'a Telemetry,
    pub(super) zones: Arc<Vec<String>>,
    pub(super) upstreams: Arc<Vec<String>>,
    /// By zone, channel, type index and response code index.
    pub(super) answers: BTreeMap<(u16, Channel, usize, usize), u64>,
    /// Of these, those that an upstream was asked for, by zone and response code index.
    pub(super) fetched: BTreeMap<(u16, usize), u64>,
    /// By zone index, what came from the cache and what did not.
    pub(super) totals: Vec<[ZoneTotals; 2]>,
    /// As [`Telemetry::show_as_coredns`] had it.
    pub(super) server: Option<&'a str>,
    /// By zone index, for every zone that has a name.
    pub(super) hits: Vec<u64>,
    /// Answers a worker, in their order.
    pub(super) worker_answers: Vec<u64>,
    pub(super) hit_latency: Distribution,
    pub(super) miss_latency: Distribution,
    pub(super) rejected_udp: [u64; Fault::ALL.len()],
    pub(super) cache: Option<CacheFigures>,
    /// By listen address.
    pub(super) drops: BTreeMap<String, u64>,
    pub(super) health: Option<HealthFigures>,
    pub(super) process: process::Figures,
}

impl<'a> Scrape<'a> {
    pub(super) fn of(cells: &'a Telemetry) -> Self {
        let zones = Arc::clone(&cells.zones.load());
        let mut scrape = Self {
            cells,
            answers: BTreeMap::new(),
            fetched: BTreeMap::new(),
            totals: vec![Default::default(); zones.len()],
            server: cells.coredns_server.get().map(String::as_str),
            hits: vec![0; zones.len()],
            zones,
            upstreams: Arc::clone(&cells.upstreams.load()),
            worker_answers: Vec::with_capacity(cells.workers.len()),
            hit_latency: Distribution::default(),
            miss_latency: Distribution::default(),
            rejected_udp: Default::default(),
            cache: None,
            drops: BTreeMap::new(),
            health: None,
            process: process::Figures::read(),
        };
        for worker in &cells.workers {
            let answers = scrape.add_hits(&worker.answers);
            scrape.worker_answers.push(answers);
            for (total, count) in scrape.rejected_udp.iter_mut().zip(worker.rejected()) {
                *total += count;
            }
        }
        scrape.add_hits(&cells.stream.answers);
        let mut fetched = BTreeMap::new();
        scrape.add_answers(&cells.resolve.answers, |(zone, rcode), count| {
            *fetched.entry((zone, rcode)).or_default() += count;
        });
        scrape.fetched = fetched;
        scrape.add_cells(&cells.resolve.answers, 1);
        for [hits, misses] in &scrape.totals {
            scrape.hit_latency.merge(&hits.latency);
            scrape.miss_latency.merge(&misses.latency);
        }
        if let Some(sources) = cells.sources.get() {
            scrape.cache = Some((sources.cache.0)());
            scrape.health = Some((sources.health.0)());
            for (address, count) in (sources.drops.0)() {
                *scrape.drops.entry(address).or_default() += count;
            }
        }
        scrape
    }

    /// Adds a block of answers that came from the cache wherever they have a zone; returns how
    /// many answers there were.
    fn add_hits(&mut self, block: &Answers) -> u64 {
        let mut hits = std::mem::take(&mut self.hits);
        let mut all = 0;
        self.add_answers(block, |(zone, _), count| {
            all += count;
            if let (true, Some(total)) = (zone != NO_ZONE, hits.get_mut(usize::from(zone))) {
                *total += count;
            }
        });
        self.hits = hits;
        self.add_cells(block, 0);
        all
    }

    /// Adds what a block counts of each zone beside its answers.
    fn add_cells(&mut self, block: &Answers, source: usize) {
        for (zone, totals) in (0..).zip(&mut self.totals) {
            if let Some(cells) = block.cells(zone) {
                totals[source].add(cells);
            }
        }
    }

    fn add_answers(&mut self, block: &Answers, mut also: impl FnMut((u16, usize), u64)) {
        block.visit(|zone, channel, qtype, rcode, count| {
            *self
                .answers
                .entry((zone, channel, qtype, rcode))
                .or_default() += count;
            also((zone, rcode), count);
        });
    }

    /// The sum of one cell over all workers.
    pub(super) fn sum(&self, cell: impl Fn(&WorkerCells) -> &std::sync::atomic::AtomicU64) -> u64 {
        self.cells
            .workers
            .iter()
            .map(|worker| cell(worker).load(Relaxed))
            .sum()
    }

    /// The name of a zone. One that was opened after the names were read has none yet.
    pub(super) fn zone(&self, index: u16) -> &str {
        self.zones
            .get(usize::from(index))
            .map_or("", String::as_str)
    }
}
