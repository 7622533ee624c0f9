// SPDX-License-Identifier: Apache-2.0
//! Host networking of nodens as a library: what should be on the node is a [`plan::Plan`], pure data.
//! It speaks netlink itself, never imports the agent and knows no async runtime.

pub mod active;
pub mod check;
mod conversation;
pub mod error;
pub mod fallback;
pub mod firewall;
pub mod link;
pub mod owner;
pub mod plan;
pub mod watch;

#[cfg(test)]
#[path = "../tests/netns/mod.rs"]
mod netns;

pub use active::{Active, OwnerSocket};
pub use check::Difference;
pub use error::Error;
pub use plan::{Capture, Lane, Plan, PlanError, Proto, Settings};
pub use watch::{Changed, Watch};

/// The rules of the plan in nft's own syntax: `nft -f` takes it.
#[must_use]
pub fn print_text(plan: &Plan) -> String {
    let _ = plan;
    todo!()
}

/// The rules of the plan as nft's JSON: `nft -j -f` takes it. That form has no word for the owner
/// flag of the active table.
#[must_use]
pub fn print_json(plan: &Plan) -> String {
    let _ = plan;
    todo!()
}
