// SPDX-License-Identifier: Apache-2.0
//! What the chart and the agent must do on a real Kubernetes: installed, killed, stopped, rolled,
//! removed, while pods go on asking.
//!
//! ```text
//!   flow, misses ── from a pod's or a node's network ──► Service, node-local address ──► agent | CoreDNS
//!         │                                                                               ▲
//!   scenario ── helm, kubectl, signals, power ───────────────────────────── cluster ──────┘
//! ```
//!
//! A [`scenarios`] entry is one function: it gets a [`Stage`] that is in the state it asks for, and
//! gives figures with what they must be. What a scenario leaves is put right before the next one.
//! The load is that of the drills, so that figures compare; pods themselves only are there.

pub mod objects;
pub mod scenarios;
pub mod snapshot;
pub mod stage;

pub use scenarios::{ALL, Scenario};
pub use stage::Stage;
