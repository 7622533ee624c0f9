// SPDX-License-Identifier: Apache-2.0
//! Drills: the agent of a [`node`](crate::node) is killed, stopped, drained, starved and flooded
//! while pods go on asking, and what they notice is measured.
//!
//! ```text
//!   flow ───── so many queries a second over UDP ──┐
//!                                                  ├──► LOCAL and S of the node ──► who answered, when
//!   streams ── TCP connections, a query a second ──┘
//! ```
//!
//! [`flow`] and [`streams`] measure, [`rows`] are the drills, each of which runs on a [`stage`],
//! [`names`] those that need no node: what queries cost CoreDNS, and what its absence costs clients.
//! [`table`] is what `make drills` prints, [`demo`] tells a newcomer the story. [`upstreams`] are
//! drills of another kind, on a stage of their own: what becomes of misses when CoreDNS is unwell.

pub mod demo;
pub mod flow;
pub mod names;
pub mod rows;
pub mod stage;
pub mod streams;
pub mod table;
pub mod upstreams;
