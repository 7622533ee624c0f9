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
mod nfnetlink;
pub mod owner;
pub mod plan;
mod rules;
pub mod sockets;
pub mod sweep;
mod tables;
pub mod watch;

#[cfg(test)]
#[path = "../tests/netns/mod.rs"]
mod netns;

pub use active::{Active, OwnerSocket};
pub use check::Difference;
pub use error::Error;
pub use firewall::Firewall;
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

/// What differs between the plan and the node: interface and addresses, the tables, firewalls of the
/// host that drop what is steered, and what node-cache has left. The last two no `up` mends:
/// [`firewall::check`] and [`sweep::look`] tell them apart.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn check(plan: &Plan) -> Result<Vec<Difference>, Error> {
    let mut differences = link::check(plan)?;
    differences.extend(active::check(plan)?);
    differences.extend(fallback::check(plan)?);
    differences.extend(firewall::check(plan)?.drops);
    differences.extend(sweep::look(plan)?.differences());
    Ok(differences)
}

/// Takes back what outlives the agent: the fallback table, then interface and addresses. What fails
/// does not keep the rest from being taken back.
///
/// # Errors
/// Everything that failed.
pub fn revert(plan: &Plan) -> Result<(), Vec<Error>> {
    let done = [active::revert(), fallback::revert(), link::revert(plan)];
    let failed: Vec<_> = done.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed)
}

fn tables(plan: &Plan) -> Vec<rules::Table> {
    let active = rules::active::table(plan);
    [Some(active), rules::fallback::table(plan)]
        .into_iter()
        .flatten()
        .collect()
}
