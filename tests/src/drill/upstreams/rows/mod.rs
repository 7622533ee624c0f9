// SPDX-License-Identifier: Apache-2.0
//! The drills of this group, one function each: what happens to the pods, what must come of it.

mod blackhole;
mod cost;
mod path;
mod silence;
mod spread;

use super::trial::Scene;
use crate::drill::rows::Outcome;
use crate::drill::table::Row;

/// A drill of this group.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is called in the table.
    pub title: &'static str,
    /// Whether the short form has it: what takes as long as a connection lives cannot be short.
    pub is_short: bool,
    run: fn(&Scene) -> Outcome,
}

impl Drill {
    /// Runs it. What goes wrong is told in the row.
    #[must_use]
    pub fn run(&self, scene: &Scene) -> Row {
        Row::of(self.title, (self.run)(scene))
    }
}

/// All of them in the order of the table.
pub const ALL: &[Drill] = &[
    Drill {
        name: "silent",
        title: "three CoreDNS behind a Service, the busiest one silent",
        is_short: true,
        run: silence::behind_service,
    },
    Drill {
        name: "silent-of-three",
        title: "the same with three addresses configured",
        is_short: true,
        run: silence::of_three,
    },
    Drill {
        name: "roll",
        title: "three CoreDNS rolled one by one",
        is_short: true,
        run: silence::roll,
    },
    Drill {
        name: "loss",
        title: "5 % of the upstream's packets lost",
        is_short: true,
        run: path::loss,
    },
    Drill {
        name: "late",
        title: "the upstream answers after 300 ms, 500 a second",
        is_short: true,
        run: path::late,
    },
    Drill {
        name: "late-800",
        title: "the same at 800 a second",
        is_short: true,
        run: path::late_800,
    },
    Drill {
        name: "blackhole",
        title: "no upstream, 20,000 names a second",
        is_short: true,
        run: blackhole::blackhole,
    },
    Drill {
        name: "join",
        title: "a CoreDNS joins behind the Service",
        is_short: false,
        run: spread::join,
    },
    Drill {
        name: "balance",
        title: "three CoreDNS share, 16 connections or more",
        is_short: true,
        run: spread::balance,
    },
    Drill {
        name: "cost",
        title: "CPU a miss against CoreDNS with force_tcp",
        is_short: true,
        run: cost::cost,
    },
];

/// The drill of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.name == name)
}
