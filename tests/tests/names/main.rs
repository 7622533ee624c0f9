// SPDX-License-Identifier: Apache-2.0
//! Names of a cluster as CoreDNS's kubernetes plugin serves them from an API, through the agent.
//!
//! | file | proves |
//! |---|---|
//! | agreement | every field of every answer is CoreDNS's, but for what docs/differences.md lists |
//! | cuts | what could be hidden by a cut and is not, or no longer than a denial lives |
//! | denials | a Corefile that denies AAAA leaves every name resolving |
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

mod agreement;
mod cuts;
mod denials;

use std::time::{Duration, Instant};

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Client, Response};
use nodens_tests::coredns::{self, CoreDns};
use nodens_tests::kube::KubeApi;
use nodens_tests::process::wait_for;
use nodens_tests::tap::Tap;

/// Type A.
const A: u16 = 1;
/// Type AAAA.
const AAAA: u16 = 28;
/// Type SRV.
const SRV: u16 = 33;
/// Response codes.
const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;
/// TTL of the cluster's names and its denials, as kubeadm has it, in seconds: beyond all that is awaited
/// here, so that only the agent's own cap explains what is seen sooner.
const TTL: u32 = 30;
/// How long the agent keeps a denial of the cluster's zone at most.
const NEGATIVE: Duration = Duration::from_secs(5);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);
/// Longest wait for anything, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster with its API, its CoreDNS and an agent in front of it, and the world outside.
struct Cluster {
    api: KubeApi,
    /// Answers as long as it is held.
    _outside: CoreDns,
    coredns: CoreDns,
    tap: Tap,
    agent: Agent,
}

impl Cluster {
    fn start() -> Self {
        Self::with(|coredns, _| coredns, |agent, _| agent)
    }

    /// With changes to CoreDNS and to the agent, who are told where the world outside is.
    fn with(
        corefile: impl FnOnce(coredns::Builder, &CoreDns) -> coredns::Builder,
        config: impl FnOnce(Builder, &CoreDns) -> Builder,
    ) -> Self {
        let api = KubeApi::sample().unwrap();
        let outside = CoreDns::start().unwrap();
        let builder = CoreDns::builder()
            .without_zones()
            .plugins(&api.corefile(TTL))
            .plugins(&format!("forward . {}\nloadbalance", outside.addr()));
        let coredns = corefile(builder, &outside).start().unwrap();
        let tap = Tap::open(coredns.addr()).unwrap();
        let builder = Agent::builder().upstream(tap.addr());
        let agent = config(builder, &outside).start().unwrap();
        Self {
            api,
            _outside: outside,
            coredns,
            tap,
            agent,
        }
    }

    /// Asks the agent.
    #[track_caller]
    fn ask(&self, name: &str, qtype: u16) -> Response {
        self.agent.client().query(name, qtype).unwrap()
    }

    /// Asks the agent; what is asked is denied.
    #[track_caller]
    fn denied(&self, name: &str) {
        let response = self.ask(name, A);
        assert_eq!(response.outline.rcode(), NXDOMAIN, "{name}");
    }

    /// Asks the agent; there is an address.
    #[track_caller]
    fn found(&self, name: &str) {
        let response = self.ask(name, A);
        assert!(!response.addresses().is_empty(), "{name}: {response:?}");
    }

    /// Waits until CoreDNS itself has an address for a name.
    fn wait_for_coredns(&self, name: &str) {
        let client = Client::new(self.coredns.addr());
        wait_for(name, PATIENCE, || {
            let response = client.query(name, A)?;
            Ok((!response.addresses().is_empty()).then_some(()))
        })
        .unwrap();
    }

    /// Makes sure that a candidate is cut: two names below it are denied, and then a third one without
    /// a query. Gives the moment before the denial that the cut lives by.
    fn cut(&self, candidate: &str) -> Instant {
        let before = Instant::now();
        self.denied(&format!("first.{candidate}"));
        self.denied(&format!("second.{candidate}"));
        let mut number = 0;
        wait_for("a cut", PATIENCE, || {
            number += 1;
            let name = format!("more-{number}.{candidate}");
            self.denied(&name);
            Ok((self.tap.count(&name, A) == 0).then_some(()))
        })
        .unwrap();
        assert_eq!(self.tap.count(candidate, A), 1, "{candidate}");
        before
    }

    /// Asks for a name until it has an address; how long that took.
    fn wait_until_found(&self, name: &str) -> Duration {
        let begun = Instant::now();
        wait_for(name, PATIENCE, || {
            let response = self.agent.client().query(name, A)?;
            Ok((!response.addresses().is_empty()).then_some(()))
        })
        .unwrap();
        begun.elapsed()
    }
}
