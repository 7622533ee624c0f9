// SPDX-License-Identifier: Apache-2.0
//! The drills, one function each: what is done, what must come of it.

mod death;
mod netsetup;
mod pressure;
mod restart;
mod rules;

use super::stage::Stage;
use super::table::{Figure, Row};

/// What a drill gives: its figures, and lines that explain them.
pub(crate) type Outcome = anyhow::Result<(Vec<Figure>, Vec<String>)>;

/// A drill.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is called in the table.
    pub title: &'static str,
    /// Whether it is about CoreDNS answering in the agent's place.
    pub needs_coredns: bool,
    run: fn(&Stage<'_>) -> Outcome,
}

impl Drill {
    /// Runs it. What goes wrong is told in the row.
    #[must_use]
    pub fn run(&self, stage: &Stage<'_>) -> Row {
        Row::of(self.title, (self.run)(stage))
    }
}

/// All drills in the order of the table.
pub const ALL: &[Drill] = &[
    Drill {
        name: "kill",
        title: "SIGKILL, the cache full",
        needs_coredns: true,
        run: death::kill,
    },
    Drill {
        name: "return",
        title: "the agent comes back",
        needs_coredns: true,
        run: death::come_back,
    },
    Drill {
        name: "stop",
        title: "SIGSTOP, then SIGCONT",
        needs_coredns: true,
        run: death::stop,
    },
    Drill {
        name: "restart",
        title: "SIGTERM and a new start, again and again",
        needs_coredns: true,
        run: restart::restart,
    },
    Drill {
        name: "accept",
        title: "TCP accept wedged alone",
        needs_coredns: true,
        run: death::accept,
    },
    Drill {
        name: "conntrack",
        title: "conntrack entries of pod queries",
        needs_coredns: false,
        run: rules::conntrack,
    },
    Drill {
        name: "rules",
        title: "40,000 rules of iptables restored in a loop",
        needs_coredns: false,
        run: rules::restore,
    },
    Drill {
        name: "misses",
        title: "misses at three times what cold can do",
        needs_coredns: false,
        run: pressure::misses,
    },
    Drill {
        name: "flush",
        title: "nft flush ruleset",
        needs_coredns: true,
        run: rules::flush,
    },
    Drill {
        name: "busy",
        title: "all CPUs busy with others",
        needs_coredns: false,
        run: pressure::busy,
    },
    Drill {
        name: "start",
        title: "exec to first answer through the rules",
        needs_coredns: false,
        run: restart::start,
    },
    Drill {
        name: "netsetup",
        title: "apply, check, revert of the plan",
        needs_coredns: false,
        run: netsetup::times,
    },
];

/// The drill of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.name == name)
}
