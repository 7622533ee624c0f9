// SPDX-License-Identifier: Apache-2.0
//! `lab run` as a parent: signals go to the agent, and the agent's exit code comes back. A shell
//! script stands in for the agent, for what is judged here is the parent alone.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nodens_tests::process::{Program, TempDir, free_port, wait_for};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(10);

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("agent");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn lab(dir: &Path, agent: &Path) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg("run").arg("--release-bin").arg(agent);
    for flag in ["--port", "--health-port", "--metrics-port"] {
        command.arg(flag).arg(free_port().unwrap().to_string());
    }
    command.env("TMPDIR", dir);
    Program::start(command, dir.join("log")).unwrap()
}

fn wait_for_log(program: &Program, text: &str) {
    wait_for(text, PATIENCE, || {
        Ok(program.log().contains(text).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_agents_exit_code_comes_back_and_nothing_is_left() {
    let dir = TempDir::new().unwrap();
    // The configuration is there when the agent starts.
    let agent = script(
        dir.path(),
        "[ \"$1 $2\" = 'run --config' ] && cat \"$3\" && exit 70",
    );
    let mut program = lab(dir.path(), &agent);
    let status = program.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(70), "{}", program.log());
    let log = program.log();
    assert!(log.contains("upstreams: [\"127.0.0.1:"), "{log}");
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["agent", "log"]);
}

#[test]
fn each_signal_reaches_the_agent_once() {
    let dir = TempDir::new().unwrap();
    let text = "trap 'echo got TERM' TERM; trap 'echo got INT; exit 3' INT\n\
                echo started; while :; do sleep 0.05; done";
    let agent = script(dir.path(), text);
    let mut program = lab(dir.path(), &agent);
    wait_for_log(&program, "started");
    program.signal(Signal::TERM).unwrap();
    wait_for_log(&program, "got TERM");
    program.signal(Signal::INT).unwrap();
    let status = program.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(3));
    assert_eq!(program.log().matches("got").count(), 2);
}

#[test]
fn a_missing_agent_is_named_with_the_command_that_builds_it() {
    let dir = TempDir::new().unwrap();
    let mut program = lab(dir.path(), Path::new("/nowhere/nodens"));
    let status = program.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(64));
    let log = program.log();
    assert!(
        log.contains("/nowhere/nodens") && log.contains("cargo build"),
        "{log}"
    );
}
