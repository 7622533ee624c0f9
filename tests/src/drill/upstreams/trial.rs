// SPDX-License-Identifier: Apache-2.0
//! What the drills of this group have in common: a fleet, a forwarder, misses, and books on all of
//! them and on the machine.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use super::fleet::{self, CLIENTS, Fleet};
use super::forwarder::{Forwarder, Kind};
use super::misses::{Misses, Plan};
use super::tally::{Span, Tally, excess, ratio};
use crate::load::meter::{CpuMeter, Others};
use crate::load::{cpus, now_ns};
use crate::node::Family;

/// Misses a second, where a drill says nothing else.
pub(super) const PER_SECOND: u32 = 1_000;

/// How the drills are run.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Who stands between the clients and the pods.
    pub kind: Kind,
    /// The short form.
    pub quick: bool,
}

/// Which servers the forwarder is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The address of the Service.
    Service,
    /// The address of each pod.
    Pods,
}

impl Scene {
    /// `long`, or `short` in the short form.
    #[must_use]
    pub fn pick<T>(&self, long: T, short: T) -> T {
        if self.quick { short } else { long }
    }

    /// Sleeps so many seconds, or so many in the short form.
    pub(super) fn wait(&self, long: f64, short: f64) {
        thread::sleep(Duration::from_secs_f64(self.pick(long, short)));
    }
}

/// A drill under way.
pub(super) struct Trial {
    // The misses end first, the fleet last.
    misses: Misses,
    _forwarder: Forwarder,
    pub(super) fleet: Fleet,
    /// Queries that pods had been asked which are gone.
    pub(super) buried: u64,
    asked_before: u64,
    sent_before: u64,
    watch: Watch,
}

/// A drill that is over.
pub(super) struct Ended {
    pub(super) tally: Tally,
    /// Queries that reached a pod.
    pub(super) reached: u64,
    /// Packets with a query that left the node.
    pub(super) sent: u64,
    machine: String,
}

impl Trial {
    /// In front of a fleet; misses are under way, and have been for a while.
    pub(super) fn start(
        scene: &Scene,
        fleet: Fleet,
        to: To,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        let forwarder = Forwarder::start(&fleet, scene.kind, &upstreams(&fleet, to), &[])?;
        let watch = Watch::begin(&fleet, &forwarder)?;
        let (asked_before, sent_before) = (fleet.asked()?, fleet.sent()?);
        let misses = Misses::start(fleet.clients(), plan(&forwarder, per_second))?;
        scene.wait(3.0, 1.0);
        Ok(Self {
            misses,
            _forwarder: forwarder,
            fleet,
            buried: 0,
            asked_before,
            sent_before,
            watch,
        })
    }

    /// What there is so far.
    pub(super) fn tally(&self) -> Tally {
        self.misses.tally()
    }

    /// Ends the misses and closes the books.
    pub(super) fn stop(self) -> anyhow::Result<Ended> {
        let machine = self.watch.describe()?;
        let tally = self.misses.stop()?;
        Ok(Ended {
            tally,
            reached: self.fleet.asked()? + self.buried - self.asked_before,
            sent: self.fleet.sent()? - self.sent_before,
            machine,
        })
    }
}

impl Ended {
    /// The queries of a span, and what is to be said of them and of all.
    ///
    /// # Errors
    /// When an answer was wrong: no figure is worth it.
    pub(super) fn judge(&self, from_ns: u64, to_ns: u64) -> anyhow::Result<(Span, Vec<String>)> {
        let span = judge(&self.tally, from_ns, to_ns)?;
        let asked = self.tally.all.len() as u64;
        let pods: Vec<_> = (self.tally.by_pod(from_ns, to_ns).into_iter())
            .map(|(pod, count)| format!("{pod}: {:.1} %", 100.0 * ratio(count, span.answered)))
            .collect();
        let mut details = vec![
            span.describe(),
            format!("latency: {}", span.histogram()),
            format!(
                "upstream: {} queries reached a pod for {asked} misses ({:+.2} %), {} packets with \
                 one left the node; answers by pod {}",
                self.reached,
                self.extra(),
                self.sent,
                pods.join(", ")
            ),
        ];
        if self.tally.twice > 0 {
            details.push(format!("{} queries were answered twice", self.tally.twice));
        }
        details.push(format!(
            "{}; the clients' own lateness, ms: {}",
            self.machine,
            span.lateness()
        ));
        Ok((span, details))
    }

    /// Queries that reached a pod beyond one for each miss, in percent of the misses.
    pub(super) fn extra(&self) -> f64 {
        excess(self.reached, self.tally.all.len() as u64)
    }
}

/// The queries of a span.
///
/// # Errors
/// When an answer was wrong.
pub(super) fn judge(tally: &Tally, from_ns: u64, to_ns: u64) -> anyhow::Result<Span> {
    ensure!(
        tally.wrong == 0,
        "{} wrong answers; {}",
        tally.wrong,
        tally.first_wrong.as_deref().unwrap_or_default()
    );
    let span = tally.span(from_ns, to_ns);
    ensure!(span.asked > 0, "nothing was asked");
    Ok(span)
}

/// The servers that a forwarder is told.
pub(super) fn upstreams(fleet: &Fleet, to: To) -> Vec<IpAddr> {
    match to {
        To::Service => vec![Family::V4.upstream()],
        To::Pods => {
            let numbers = fleet.numbers().into_iter();
            numbers
                .map(|number| fleet::address(number).into())
                .collect()
        }
    }
}

/// Misses for a forwarder from all clients.
pub(super) fn plan(forwarder: &Forwarder, per_second: u32) -> Plan {
    Plan {
        server: forwarder.listen(),
        sources: CLIENTS.into(),
        per_second,
    }
}

/// What the machine does beside the drill.
pub(super) struct Watch {
    others: Others,
    meters: Vec<CpuMeter>,
    begin_ns: u64,
}

impl Watch {
    pub(super) fn begin(fleet: &Fleet, forwarder: &Forwarder) -> anyhow::Result<Self> {
        let mut meters = fleet.meters()?;
        meters.push(forwarder.meter()?);
        Ok(Self {
            others: Others::watch()?,
            meters,
            begin_ns: now_ns(),
        })
    }

    /// In words. What a pod has spent that has ended since is taken for that of others.
    pub(super) fn describe(&self) -> anyhow::Result<String> {
        let spent = self.meters.iter().filter_map(|meter| meter.spent().ok());
        let spent: Vec<_> = spent.map(|spent| spent.on_cpu).collect();
        let ours: Duration = spent.iter().sum();
        let others = self.others.share(cpus()?.len(), ours)?;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let latest = load.split(' ').next().unwrap_or_default();
        let span = Duration::from_nanos(now_ns() - self.begin_ns);
        let forwarder = spent.last().copied().unwrap_or_default();
        Ok(format!(
            "machine: load average {latest}, others had {:.0} % of the CPUs, the forwarder {:.1} % \
             of one",
            100.0 * others.max(0.0),
            100.0 * forwarder.as_secs_f64() / span.as_secs_f64().max(1e-9)
        ))
    }
}
