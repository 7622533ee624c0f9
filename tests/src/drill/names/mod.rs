// SPDX-License-Identifier: Apache-2.0
//! Drills of names: what queries cost CoreDNS, and what clients notice when it is gone. All of it on
//! the loopback interface, so that no root is needed.
//!
//! ```text
//!   client ──► agent ──► tap ──► CoreDNS, its kubernetes plugin ──► CoreDNS, the world outside
//!                                        │ watches
//!                                     KubeApi
//! ```

mod hot;
mod outage;
mod search;

use std::fmt::Write as _;
use std::time::Duration;

use super::rows::Outcome;
use super::table::Row;
use crate::agent::{Agent, Builder};
use crate::coredns::CoreDns;
use crate::kube::KubeApi;
use crate::tap::Tap;

/// A drill.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is called in the table.
    pub title: &'static str,
    run: fn(bool) -> Outcome,
}

impl Drill {
    /// Runs it, in its short form where that is wanted. What goes wrong is told in the row.
    #[must_use]
    pub fn run(&self, is_quick: bool) -> Row {
        Row::of(self.title, (self.run)(is_quick))
    }
}

/// All drills in the order of the table.
pub const ALL: &[Drill] = &[
    Drill {
        name: "search",
        title: "upstream queries a look-up, ndots:5, three suffixes",
        run: search::passes,
    },
    Drill {
        name: "pace",
        title: "the same, paced",
        run: search::paces,
    },
    Drill {
        name: "share",
        title: "500 identical concurrent misses, UDP and TCP",
        run: hot::share,
    },
    Drill {
        name: "hot",
        title: "100 queries a second for one name, 10 TTLs",
        run: hot::hot,
    },
    Drill {
        name: "frozen",
        title: "CoreDNS stopped (SIGSTOP), 1,000 warm names, 2,000 q/s",
        run: outage::frozen,
    },
    Drill {
        name: "gone",
        title: "CoreDNS killed (SIGKILL), 1,000 warm names, 2,000 q/s",
        run: outage::gone,
    },
];

/// The drill of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.name == name)
}

/// A cluster's DNS as kubeadm sets it up, without its `cache`, which would raise every TTL to 5 s; and a
/// world outside in which every name exists.
struct Lab {
    _api: KubeApi,
    _outside: CoreDns,
    coredns: CoreDns,
}

impl Lab {
    /// With this TTL of the cluster's names in seconds, and so many Services `s0000.prod`.
    fn start(ttl: u32, services: usize) -> anyhow::Result<Self> {
        let api = KubeApi::sample()?;
        for number in 0..services {
            let address = format!("10.97.{}.{}", number >> 8, number & 0xff);
            let name = format!("s{number:04}.prod");
            api.cluster_ip(&name, &[&address], &[("http", "TCP", 80)])?;
        }
        let mut answers = String::new();
        for (rtype, data) in [("A", "192.0.2.80"), ("AAAA", "2001:db8::80")] {
            _ = write!(
                answers,
                "template IN {rtype} {{\nanswer \"{{{{ .Name }}}} 300 IN {rtype} {data}\"\n}}\n"
            );
        }
        let outside = CoreDns::builder()
            .without_zones()
            .plugins(&answers)
            .start()?;
        let coredns = CoreDns::builder()
            .without_zones()
            .plugins(&api.corefile(ttl))
            .plugins(&format!("forward . {}\nloadbalance", outside.addr()))
            .start()?;
        Ok(Self {
            _api: api,
            _outside: outside,
            coredns,
        })
    }

    /// An agent before it starts, and the tap between it and CoreDNS.
    fn agent(&self) -> anyhow::Result<(Tap, Builder)> {
        let tap = Tap::open(self.coredns.addr())?;
        let builder = Agent::builder().upstream(tap.addr());
        Ok((tap, builder))
    }
}

/// `long`, or `short` in the short form.
fn pick<T>(is_quick: bool, long: T, short: T) -> T {
    if is_quick { short } else { long }
}

/// Longest wait for what must happen, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);
