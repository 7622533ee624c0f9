// SPDX-License-Identifier: Apache-2.0
//! What the agent puts on the node before it listens: the table that steers, which steers nothing
//! yet; the table that answers when the agent is dead; the interface and its addresses. Found from
//! an earlier agent, they are taken as they are.
//!
//! The first comes first: it tells when another agent is alive, before anything of its is touched,
//! and its rules let our own questions pass, which the fallback would send to CoreDNS.

use nodens_netsetup::link::{Kind, Links, Part};
use nodens_netsetup::plan::Plan;
use nodens_netsetup::{Active, Error, Watch, fallback, link};

/// The ground that listeners stand on.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) plan: Plan,
    made: Made,
}

/// What is used up when the pulse begins.
#[derive(Debug)]
pub(super) struct Tools {
    /// The table that steers.
    pub(super) active: Active,
    /// Tells when others touch what is ours.
    pub(super) watch: Watch,
}

/// What this start has made, and a failed one takes back.
#[derive(Debug, Default)]
struct Made {
    fallback: bool,
    links: Option<Links>,
}

impl Ground {
    /// Lays it.
    ///
    /// # Errors
    /// The kernel refuses; what had been made is gone again.
    pub(super) fn lay(plan: &Plan) -> Result<(Self, Tools), Error> {
        // The kernel closes descriptors in their order, and the table that steers goes with this
        // one: the lower it is, the sooner queries of a killed agent go to CoreDNS.
        let owner = Active::open()?;
        let active = Active::apply(owner, plan)?;
        // Before the rest is made, so that nothing goes unseen.
        let watch = Watch::new(plan)?;
        if !active.is_owned() {
            tracing::warn!(
                "this kernel has no owned tables (Linux 5.12 has): when the agent dies, queries \
                 are lost for intercept.deadAfter instead of milliseconds"
            );
        }
        let mut ground = Self {
            plan: plan.clone(),
            made: Made::default(),
        };
        match ground.make() {
            Ok(()) => Ok((ground, Tools { active, watch })),
            Err(error) => {
                ground.take_back();
                Err(error)
            }
        }
    }

    fn make(&mut self) -> Result<(), Error> {
        let was_there = fallback::exists()?;
        fallback::apply(&self.plan)?;
        self.made.fallback = !was_there;
        let links = link::apply(&self.plan)?;
        if links.kind != Kind::Dummy {
            tracing::info!(
                kind = %links.kind,
                interface = links.interface,
                "the kernel has no dummy interface; the addresses are on this"
            );
        }
        let words = |parts: &[Part]| {
            let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
            parts.join(", ")
        };
        tracing::info!(
            interface = links.interface,
            made = words(&links.made),
            adopted = words(&links.adopted),
            removed = ?links.removed,
            fallback = ?self.plan.fallback,
            "node-local addresses"
        );
        self.made.links = Some(links);
        Ok(())
    }

    /// Removes what this start has made, and nothing that was there before. Errors are logged: the
    /// one that made the start fail is told.
    pub(super) fn take_back(self) {
        let links = self
            .made
            .links
            .map_or(Ok(()), |links| unmake(&self.plan, &links));
        let fallback = match self.made.fallback {
            true => fallback::revert(),
            false => Ok(()),
        };
        for error in [links, fallback].into_iter().filter_map(Result::err) {
            tracing::error!(%error, "cannot take back what this start has made");
        }
    }
}

fn unmake(plan: &Plan, links: &Links) -> Result<(), Error> {
    let addresses_of = |parts: &[Part]| {
        let addresses = parts.iter().filter_map(|part| match part {
            Part::Address(address) => Some(*address),
            Part::Interface(_) => None,
        });
        Plan {
            addresses: addresses.collect(),
            captures: Vec::new(),
            probes: Vec::new(),
            stand_ins: Vec::new(),
            ..plan.clone()
        }
    };
    let is_new = links
        .made
        .iter()
        .any(|part| matches!(part, Part::Interface(_)));
    if is_new {
        link::revert(plan)
    } else if matches!(links.kind, Kind::Loopback | Kind::NodeCache) {
        link::revert(&addresses_of(&links.made))
    } else if links.made.is_empty() {
        Ok(())
    } else {
        // On an interface of ours, what a plan does not name goes.
        link::apply(&addresses_of(&links.adopted)).map(drop)
    }
}
