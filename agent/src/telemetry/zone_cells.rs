// SPDX-License-Identifier: Apache-2.0
//! What is counted of a zone's answers beside how many there were: the figures that CoreDNS has by
//! zone. One thread writes a block of them, as with all cells.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::counters::{Answered, add};
use super::latency::{Distribution, Latency};
use super::sizes::{SizeDistribution, Sizes};

/// The cells of one zone and one writing thread.
#[derive(Debug, Default)]
pub(super) struct ZoneCells {
    /// How long answers took.
    pub(super) latency: Latency,
    denials: AtomicU64,
    stale: AtomicU64,
    dnssec_ok: AtomicU64,
    /// Over UDP, over TCP.
    asked: [Sizes; 2],
    sent: [Sizes; 2],
}

impl ZoneCells {
    pub(super) fn count(&self, answered: &Answered) {
        let proto = usize::from(answered.channel.is_tcp());
        self.asked[proto].record(answered.asked_octets);
        self.sent[proto].record(answered.sent_octets);
        if answered.is_denial {
            add(&self.denials, 1);
        }
        if answered.is_stale {
            add(&self.stale, 1);
        }
        if answered.dnssec_ok {
            add(&self.dnssec_ok, 1);
        }
    }
}

/// Several [`ZoneCells`] added up.
#[derive(Clone, Debug, Default)]
pub(super) struct ZoneTotals {
    pub(super) latency: Distribution,
    pub(super) denials: u64,
    pub(super) stale: u64,
    pub(super) dnssec_ok: u64,
    /// Queries over UDP, over TCP.
    pub(super) asked: [SizeDistribution; 2],
    /// Answers over UDP, over TCP.
    pub(super) sent: [SizeDistribution; 2],
}

impl ZoneTotals {
    /// Adds what one thread counted.
    pub(super) fn add(&mut self, cells: &ZoneCells) {
        self.latency.add(&cells.latency);
        self.denials += cells.denials.load(Relaxed);
        self.stale += cells.stale.load(Relaxed);
        self.dnssec_ok += cells.dnssec_ok.load(Relaxed);
        let sizes = |totals: &mut [SizeDistribution; 2], cells: &[Sizes; 2]| {
            for (total, cell) in totals.iter_mut().zip(cells) {
                total.add(cell);
            }
        };
        sizes(&mut self.asked, &cells.asked);
        sizes(&mut self.sent, &cells.sent);
    }
}
