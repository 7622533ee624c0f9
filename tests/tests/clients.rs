// SPDX-License-Identifier: Apache-2.0
//! `nodens clients`: what an uninstallation asks the agent before it takes an address away.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test pauses, and fails where it is surprised"
)]

use std::path::Path;
use std::time::Duration;

use nodens_tests::agent::{Agent, command};
use nodens_tests::helm::said;
use nodens_tests::process::TempDir;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

/// What the command says of this socket, with its exit code.
fn clients(socket: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command()
        .unwrap()
        .args(["clients", "--admin-socket"])
        .arg(socket)
        .args(["--zones", "[{name: ., upstreams: [192.0.2.1]}]"])
        .args(arguments)
        .output()
        .unwrap();
    (output.status.code(), said(&output))
}

#[test]
fn an_address_is_unused_until_a_client_asks_and_the_agents_own_questions_are_none() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let socket = agent.admin_socket();
    // It has asked itself over UDP and TCP by now: it is ready.
    let (code, text) = clients(&socket, &["--unused-for", "10m"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("never asked since the agent's start"),
        "{text}"
    );

    agent
        .client()
        .query("web.prod.svc.cluster.local", 1u16)
        .unwrap();
    let (code, text) = clients(&socket, &["--unused-for", "10m"]);
    assert_eq!(code, Some(69), "{text}");
    assert!(
        text.contains("clients ask the node-local address"),
        "{text}"
    );
    let (code, text) = clients(&socket, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("node-local  last asked"), "{text}");

    std::thread::sleep(Duration::from_millis(2100));
    let (code, text) = clients(&socket, &["--unused-for", "1s"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn queries_over_tcp_count_as_well() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let socket = agent.admin_socket();
    let query = Query::new("web.prod.svc.cluster.local", 1u16);
    agent.client().tcp(&query).unwrap();
    let (code, text) = clients(&socket, &["--unused-for", "10m"]);
    assert_eq!(code, Some(69), "{text}");
}

#[test]
fn where_no_agent_runs_the_command_says_so() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("admin.sock");
    let (code, text) = clients(&socket, &[]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("no agent runs here"), "{text}");
    let (code, text) = clients(&socket, &["--unused-for", "ten"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("write it like 500ms"), "{text}");
}
