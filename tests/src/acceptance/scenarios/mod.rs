// SPDX-License-Identifier: Apache-2.0
//! The scenarios, one function each. A new one is a function and an entry in [`ALL`].

mod coredns;
mod death;
mod drop_in;
mod libraries;
mod names;
mod release;
mod rollout;

use super::stage::Stage;
use crate::drill::rows::Outcome;
use crate::drill::table::Row;

/// In which state a scenario finds the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Without nodens.
    Bare,
    /// Nodens installed with the default values, all agents answering.
    Installed,
}

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it proves, in the table.
    pub proves: &'static str,
    /// What it finds.
    pub ground: Ground,
    /// Whether it needs a cluster with IPv4 and IPv6.
    pub is_dual: bool,
    /// Whether it is about rules, which kube-proxy writes in two ways.
    pub is_about_rules: bool,
    run: fn(&Stage) -> Outcome,
}

impl Scenario {
    const fn new(
        name: &'static str,
        proves: &'static str,
        ground: Ground,
        run: fn(&Stage) -> Outcome,
    ) -> Self {
        Self {
            name,
            proves,
            ground,
            is_dual: false,
            is_about_rules: false,
            run,
        }
    }

    const fn about_rules(self) -> Self {
        Self {
            is_about_rules: true,
            ..self
        }
    }

    const fn dual(self) -> Self {
        Self {
            is_dual: true,
            ..self
        }
    }

    /// Runs it. What goes wrong is told in the row.
    #[must_use]
    pub fn run(&self, stage: &Stage) -> Row {
        let is_installed = self.ground == Ground::Installed;
        let outcome = stage.settle(is_installed).and_then(|()| (self.run)(stage));
        Row::of(self.proves, outcome)
    }
}

/// All scenarios in the order of the table.
pub const ALL: &[Scenario] = &[
    Scenario::new(
        "install",
        "installed, every pod resolves every kind of name",
        Ground::Bare,
        names::install,
    )
    .about_rules(),
    Scenario::new(
        "kubelet",
        "so do pods whose kubelet names the node-local address",
        Ground::Installed,
        names::kubelet,
    ),
    Scenario::new(
        "kill",
        "the agent is killed: kubelet starts it again",
        Ground::Installed,
        death::kill,
    )
    .about_rules(),
    Scenario::new(
        "back-off",
        "killed again and again, until kubelet backs off",
        Ground::Installed,
        death::back_off,
    ),
    Scenario::new(
        "stop",
        "the agent hangs: CoreDNS answers, kubelet ends it",
        Ground::Installed,
        death::stop,
    )
    .about_rules(),
    Scenario::new(
        "restart",
        "rollout restart of nodens",
        Ground::Installed,
        rollout::restart,
    )
    .about_rules(),
    Scenario::new(
        "coredns-restart",
        "rollout restart of CoreDNS, one pod deleted by force",
        Ground::Installed,
        coredns::restart,
    ),
    Scenario::new(
        "coredns-gone",
        "CoreDNS scaled to 0 for a minute",
        Ground::Installed,
        coredns::gone,
    ),
    Scenario::new(
        "api-gone",
        "the API server stopped for a minute",
        Ground::Installed,
        coredns::api_gone,
    ),
    Scenario::new(
        "services",
        "a Service is made, becomes headless, is deleted",
        Ground::Installed,
        names::changes,
    ),
    Scenario::new(
        "libraries",
        "glibc and musl find what they find by CoreDNS",
        Ground::Installed,
        libraries::same,
    ),
    Scenario::new(
        "upgrade",
        "a bad value stops at one node, which keeps its DNS; rollback",
        Ground::Installed,
        release::upgrade,
    )
    .about_rules(),
    Scenario::new(
        "reboot",
        "a node loses power and comes back",
        Ground::Installed,
        death::reboot,
    ),
    Scenario::new(
        "refusal",
        "not uninstalled while a pod asks the node-local address",
        Ground::Installed,
        release::refusal,
    ),
    Scenario::new(
        "capability",
        "without NET_ADMIN the pod says why and harms nothing",
        Ground::Bare,
        release::capability,
    ),
    Scenario::new(
        "uninstall",
        "uninstalled, nothing is left on any node",
        Ground::Bare,
        release::uninstall,
    )
    .about_rules(),
    Scenario::new(
        "drop-in",
        "node-cache's manifest with another image: there, anew, back, forth",
        Ground::Bare,
        drop_in::image,
    )
    .about_rules(),
    Scenario::new(
        "dual",
        "dual stack: every name by both families",
        Ground::Bare,
        names::install,
    )
    .dual(),
];
