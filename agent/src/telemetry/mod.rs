// SPDX-License-Identifier: Apache-2.0
//! What the agent says of itself: log, clock, counters and their exposition.
//!
//! ```text
//! worker ──▶ WorkerCells ─┐
//! cold   ──▶ StreamCells  ├─▶ Telemetry::expose ─▶ families (the one table) ─▶ text for /metrics
//! cold   ──▶ ResolveCells │                                 └─▶ docs/metrics.md
//! others ──▶ Sources ─────┘   (closures: cache, sockets, health)
//! ```
//! A thread writes its own cells with plain loads and stores; all adding up happens at a scrape.

pub mod answers;
pub mod asked;
mod cache_families;
pub mod cells;
pub mod clock;
mod coredns;
pub mod counters;
pub mod exposition;
mod families;
mod histogram;
mod labels;
mod latency;
pub mod log;
mod process;
pub mod registry;
mod sizes;
mod steering;
#[cfg(test)]
pub(crate) mod strict;
pub mod summary;
mod upstream_cells;
mod zone_cells;
