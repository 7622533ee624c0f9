// SPDX-License-Identifier: Apache-2.0
//! What several of these tests do.

use std::time::Duration;

use hickory_proto::rr::Record;
use nodens_tests::agent::Agent;
use nodens_tests::client::Response;
use nodens_tests::coredns::CoreDns;
use nodens_tests::process::wait_for;
use nodens_tests::query::{AA, CD, Outline, Query, RA, RD};
use nodens_tests::tap::Tap;

/// Longest wait for anything, on the busiest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Type A.
pub(crate) const A: u16 = 1;
/// Type AAAA.
pub(crate) const AAAA: u16 = 28;
/// Type TXT.
pub(crate) const TXT: u16 = 16;
/// Lives for a day: no test sees it expire.
pub(crate) const DAY: &str = "day.example.org";

/// The agent in front of a tap in front of the real CoreDNS.
pub(crate) struct Cluster {
    pub(crate) tap: Tap,
    pub(crate) agent: Agent,
    pub(crate) coredns: CoreDns,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let coredns = CoreDns::builder().start().unwrap();
        let tap = Tap::open(coredns.addr()).unwrap();
        let agent = Agent::builder().upstream(tap.addr()).start().unwrap();
        Self {
            tap,
            agent,
            coredns,
        }
    }
}

/// Waits until a metric has this value.
#[track_caller]
pub(crate) fn wait_for_metric(agent: &Agent, name: &str, labels: &[(&str, &str)], value: u32) {
    let mut last = 0.0;
    let reached = wait_for(name, PATIENCE, || {
        last = agent.metric(name, labels)?;
        Ok((last == f64::from(value)).then_some(()))
    });
    assert!(reached.is_ok(), "{name} {labels:?} is {last}, not {value}");
}

/// The name with some of its letters in upper case; another number, other letters.
pub(crate) fn with_case(name: &str, number: usize) -> String {
    let turn = |(at, letter): (usize, char)| {
        if number >> (at % 11) & 1 == 1 {
            letter.to_ascii_uppercase()
        } else {
            letter
        }
    };
    name.chars().enumerate().map(turn).collect()
}

/// What every answer owes its query (RFC 1035 section 4.1.1, RFC 6891 sections 6.1.1 and 7):
/// [`Response::judge`] has seen to the ID and the question's letter case.
#[track_caller]
pub(crate) fn assert_echo(query: &Query, response: &Response) {
    let asked = Outline::read(&query.to_bytes()).unwrap();
    let got = &response.outline;
    assert_eq!(got.flags & (RD | CD), asked.flags & (RD | CD), "{query:?}");
    assert_eq!(got.flags & (AA | RA), RA, "{query:?} got {got:?}");
    assert_eq!(got.flags & 0x7840, 0, "opcode and Z of {got:?}");
    match (&asked.edns, &got.edns) {
        (None, None) => {}
        (Some(asked), Some(got)) => {
            assert_eq!(got.dnssec_ok, asked.dnssec_ok, "{query:?}");
            assert_eq!((got.size, got.version), (1232, 0), "{query:?}");
        }
        _ => panic!("{query:?} got {got:?}"),
    }
}

/// Records as text without their TTL, with it beside; sorted, letter case aside.
pub(crate) fn section(records: &[Record]) -> Vec<(String, u32)> {
    let text = |record: &Record| {
        let mut timeless = record.clone();
        timeless.ttl = 0;
        (timeless.to_string().to_ascii_lowercase(), record.ttl)
    };
    let mut lines: Vec<_> = records.iter().map(text).collect();
    lines.sort();
    lines
}
