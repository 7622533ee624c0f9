// SPDX-License-Identifier: Apache-2.0
//! No run, failed or killed, leaves a namespace, link, rule or process behind, nor touches those
//! of the machine.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use nodens_tests::node::sweep::{mark, mark_of, owned_by};
use nodens_tests::node::{Family, Node, Shape};
use nodens_tests::process::wait_for;

use crate::{PATIENCE, alone};

/// Every network namespace that a thread is in.
fn namespaces() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let tasks = processes.filter_map(|process| fs::read_dir(process.path().join("task")).ok());
    tasks
        .flat_map(|tasks| tasks.flatten())
        .filter_map(|task| fs::read_link(task.path().join("ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

/// The namespaces of these processes and of their threads.
fn namespaces_of(pids: &[u32]) -> BTreeSet<String> {
    pids.iter()
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

/// What the machine itself has.
fn machine() -> String {
    [
        "ip -oneline link show",
        "ip -oneline address show",
        "nft list ruleset",
    ]
    .iter()
    .map(|line| {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{line}");
        // Lifetimes of addresses run on.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text
            .lines()
            .map(|line| line.split("valid_lft").next().unwrap());
        lines.collect::<Vec<_>>().join("\n")
    })
    .collect()
}

#[test]
fn a_run_that_panics_leaves_nothing() {
    let _alone = alone();
    let before = machine();
    let mut seen = (Vec::new(), BTreeSet::new());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let node = Node::new(Shape::Nftables).unwrap();
        let agent = node.agent(Family::BOTH).start(&node).unwrap();
        let programs = owned_by(&mark());
        assert!(programs.contains(&agent.pid()) && programs.len() >= 3);
        seen = (programs.clone(), namespaces_of(&programs));
        panic!("as a test does that fails");
    }));
    panicked.unwrap_err();
    assert_eq!(owned_by(&mark()), [0; 0]);
    // CoreDNS's and the agent's.
    assert_eq!(seen.1.len(), 2);
    assert!(namespaces().is_disjoint(&seen.1));
    assert_eq!(machine(), before);
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    let _alone = alone();
    let before = machine();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let owner = mark_of(demo.id());
    let started = wait_for("the demo's agent", PATIENCE, || {
        let programs = owned_by(&owner);
        Ok((programs.len() >= 3).then_some(programs))
    });
    let used = started
        .as_ref()
        .ok()
        .map(|programs| namespaces_of(programs));
    demo.kill().unwrap();
    demo.wait().unwrap();
    let (started, used) = (started.unwrap(), used.unwrap());
    assert_eq!(used.len(), 2, "{started:?}");
    wait_for("the end of its programs", PATIENCE, || {
        Ok((owned_by(&owner).is_empty() && namespaces().is_disjoint(&used)).then_some(()))
    })
    .unwrap();
    assert_eq!(machine(), before);
}
