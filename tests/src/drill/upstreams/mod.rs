// SPDX-License-Identifier: Apache-2.0
//! Drills of the way upstream: CoreDNS pods behind a Service fall silent, are rolled, lose packets,
//! answer late, join, while clients ask for nothing but names that no cache has.
//!
//! ```text
//!   misses ──UDP──► forwarder ──TCP──► Service ─┬─► pod 0: CoreDNS ──► (late)
//!     │             the agent, or               ├─► pod 1: CoreDNS
//!     ▼             CoreDNS in its place        └─► pod 2: CoreDNS
//!   tally                                           fleet
//! ```
//!
//! [`names`] lets every answer be judged, and tells which pod gave it; [`trial`] puts the parts
//! together; [`rows`] are the drills. The same drills run with CoreDNS in the agent's place: what
//! they show of it is known from clusters, which says what they are worth.

pub mod fleet;
pub mod forwarder;
pub mod late;
pub mod misses;
pub mod names;
pub mod rows;
pub mod tally;
pub mod trial;
