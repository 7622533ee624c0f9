// SPDX-License-Identifier: Apache-2.0
//! What strangers do to the agent: random and mutated packets from clients ([`queries`]) and from
//! upstreams ([`responses`]), clients over TCP that dawdle, flood or never read ([`streams`]),
//! garbage for HTTP and too many misses ([`floods`]). It stays alive and ready, within its memory,
//! answers everybody else truly, and its cache is true afterwards.
//!
//! Everything random comes from one seed, which a failure prints: `NODENS_SEED=… cargo test`.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has its own clock and pauses"
)]

mod floods;
mod queries;
mod responses;
mod streams;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Client, Response};
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

/// Packets of each kind.
const PACKETS: usize = 9_000;
/// Octets of a header.
const HEADER: usize = 12;
/// `cache.size` here, in octets.
const BUDGET: u64 = 4 << 20;
/// Resident memory that is allowed beside 1.2 times the budget, in octets.
const BESIDE: u64 = 8 << 20;

fn agent() -> Builder {
    Agent::builder().cache("4MiB")
}

/// Names of the sample that are asked in between, with their types.
const WELL_KNOWN: [(&str, u16); 6] = [
    ("web.prod.svc.cluster.local", 1),
    ("web.prod.svc.cluster.local", 28),
    ("_http._tcp.web.prod.svc.cluster.local", 33),
    ("dns-version.cluster.local", 16),
    ("nosuch.prod.svc.cluster.local", 1),
    ("www.example.com", 1),
];

/// Asks agent and sample the same and compares all but TTLs, which age.
fn compare(agent: &Agent, sample: &Sample, (name, qtype): (&str, u16), through_tcp: bool) {
    let query = Query::new(name, qtype).edns(1232);
    let ask = |client: Client| {
        if through_tcp {
            client.tcp(&query)
        } else {
            client.udp(&query)
        }
    };
    let ours = ask(agent.client());
    let ours = ours.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", agent.log()));
    let theirs = ask(Client::new(sample.addr())).unwrap();
    assert_eq!(ours.rcode(), theirs.rcode(), "{name} {qtype}");
    assert_eq!(records(&ours), records(&theirs), "{name} {qtype}");
}

/// The records of answer and authority section without their TTLs.
fn records(response: &Response) -> Vec<String> {
    let all = response.answers.iter().chain(&response.authorities);
    let mut all: Vec<String> = all
        .map(|record| {
            let rtype = record.record_type();
            format!("{} {rtype} {}", record.name.to_lowercase(), record.data)
        })
        .collect();
    all.sort();
    all
}

fn compare_all(agent: &Agent, sample: &Sample) {
    for known in WELL_KNOWN {
        for through_tcp in [false, true] {
            compare(agent, sample, known, through_tcp);
        }
    }
}

/// Still running, ready, and within its memory.
fn is_well(agent: &mut Agent) {
    assert!(agent.is_running().unwrap(), "{}", agent.log());
    wait_until_ready(agent);
    assert!(!agent.log().contains("no longer"), "{}", agent.log());
    let resident = agent.resident_bytes().unwrap();
    let limit = BUDGET * 6 / 5 + BESIDE;
    assert!(resident <= limit, "{resident} octets of at most {limit}");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

/// 127.0.0.`n`, another client each.
fn source(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, number))
}

/// Asks the agent over UDP and over TCP connections, old and new, until told to stop, and at
/// least some times.
fn bystander(agent: &Agent, sample: &Sample, is_over: &AtomicBool) {
    let client = agent.client().from(source(200));
    let mut old = client.connect().unwrap();
    let mut rounds = 0;
    while rounds < 4 || !is_over.load(Relaxed) {
        for (name, qtype) in WELL_KNOWN {
            let query = Query::new(name, qtype).edns(1232);
            let theirs = Client::new(sample.addr()).udp(&query).unwrap();
            let over_udp = client.udp(&query).unwrap();
            let over_new = client
                .tcp(&query)
                .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.log()));
            let over_old = old
                .ask(&query)
                .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.log()));
            for ours in [over_udp, over_new, over_old] {
                assert_eq!(records(&ours), records(&theirs), "{name}");
            }
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(20));
    }
}

/// Tells threads to end when it goes, also where the test has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn wait_until_ready(agent: &Agent) {
    wait_for("readiness", Duration::from_secs(10), || {
        Ok((agent.health("/readyz")?.status == 200).then_some(()))
    })
    .unwrap();
}

/// Runs `abuse` while a bystander asks, the probes go on and everything is well.
fn beside_a_bystander(agent: &Agent, sample: &Sample, abuse: impl FnOnce()) {
    wait_until_ready(agent);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| bystander(agent, sample, &is_over));
        let ready = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let ready = agent.health("/readyz").unwrap();
                assert_eq!(ready.status, 200, "{}\n{}", ready.body, agent.log());
                thread::sleep(Duration::from_millis(50));
            }
        });
        {
            let _ends = Ends(&is_over);
            abuse();
        }
        bystander.join().unwrap();
        ready.join().unwrap();
    });
}
