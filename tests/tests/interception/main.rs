// SPDX-License-Identifier: Apache-2.0
//! Interception end to end: the real agent on a node in network namespaces, pods and the host's
//! network around it, the real CoreDNS behind kube-proxy's rules.
//!
//! [`matrix`] asks from every place in every shape, [`drills`] runs the drills in their short form,
//! [`commands`] tries the command line as an operator does, [`refusals`] what must not be taken,
//! [`takeover`] the change from node-cache and back, [`leftovers`] that nothing is left, [`tools`] the lab's own programs.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

mod commands;
mod drills;
mod drop_in;
mod leftovers;
mod matrix;
mod refusals;
mod takeover;
mod tools;

use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nodens_tests::node::{Family, From, Node, Server, Shape};
use nodens_tests::process::wait_for;

/// Longest wait for anything, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(1);

/// One node at a time: two would take each other's CPU.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node, and the right to be the only one.
fn node(shape: Shape) -> (MutexGuard<'static, ()>, Node) {
    let guard = alone();
    (guard, Node::new(shape).unwrap())
}

/// LOCAL and S of both families.
fn asked() -> Vec<SocketAddr> {
    Family::BOTH
        .iter()
        .flat_map(|family| family.asked())
        .collect()
}

/// Waits until `server` answers from a place, over UDP and TCP.
#[track_caller]
fn wait_for_answer(node: &Node, from: From, address: SocketAddr, wanted: Server) {
    for over_tcp in [false, true] {
        let mut last = String::new();
        let answered = wait_for("the answer", PATIENCE, || {
            let answer = node.ask(from, address, over_tcp, ANSWER);
            last = format!("{answer:?}");
            Ok(answer.ok().filter(|by| *by == wanted))
        });
        assert!(
            answered.is_ok(),
            "{address} from {}, TCP {over_tcp}: {last}, not {wanted:?}",
            from.describe()
        );
    }
}

/// What a program has said, both ways.
fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
