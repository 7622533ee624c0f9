// SPDX-License-Identifier: Apache-2.0
//! Host networking of nodens as a library: what should be on the node is a [`plan::Plan`], pure data.
//! It speaks netlink itself, never imports the agent and knows no async runtime.

pub mod active;
pub mod check;
pub mod error;
pub mod fallback;
mod nfnetlink;
pub mod plan;
mod rules;
mod tables;
pub mod watch;

pub use active::{Active, OwnerSocket};
pub use check::Difference;
pub use error::Error;
pub use plan::{Capture, Lane, Plan, PlanError, Proto, Settings};
pub use watch::{Changed, Watch};

/// The rules of the plan in nft's own syntax. (`nft -f` takes it; the active table then goes again
/// with nft, which owned it.)
#[must_use]
pub fn print_text(plan: &Plan) -> String {
    let tables: Vec<_> = tables(plan).iter().map(rules::text::table).collect();
    tables.join("\n")
}

/// The rules of the plan as nft's JSON: `nft -j -f` takes it. That form has no word for the owner
/// flag of the active table.
#[must_use]
pub fn print_json(plan: &Plan) -> String {
    format!("{:#}\n", rules::json(&tables(plan)))
}

fn tables(plan: &Plan) -> Vec<rules::Table> {
    let active = rules::active::table(plan);
    [Some(active), rules::fallback::table(plan)]
        .into_iter()
        .flatten()
        .collect()
}
