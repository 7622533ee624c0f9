// SPDX-License-Identifier: Apache-2.0
//! Corefiles as a user meets them: those that are in use, and those with slips, through the program.
//! The first lines of each file have the flags it is read with, `# flags:`, the environment, `# env:`,
//! and what is told of it, `# expect:`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::path::Path;
use std::process::{Command, Output};

use scratch::Scratch;

#[path = "../src/scratch.rs"]
mod scratch;

struct Fixture {
    name: String,
    text: String,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    expected: Vec<String>,
}

fn fixtures(kind: &str) -> Vec<Fixture> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefiles");
    let mut all: Vec<_> = std::fs::read_dir(directory.join(kind))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = |start: &str| -> Vec<String> {
                let lines = text.lines().filter_map(|line| line.strip_prefix(start));
                lines.map(str::to_owned).collect()
            };
            let flags = lines("# flags: ").join(" ");
            let pair = |pair: String| {
                let (name, value) = pair.split_once('=').unwrap();
                (name.to_owned(), value.to_owned())
            };
            Fixture {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                flags: flags.split(' ').map(str::to_owned).collect(),
                environment: lines("# env: ").into_iter().map(pair).collect(),
                expected: lines("# expect: "),
                text,
            }
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Runs a subcommand with a fixture's flags; the node's own servers are a file of the test's.
fn run(command: &str, fixture: &Fixture, scratch: &Scratch) -> (i32, String, String) {
    let resolv = scratch.write("resolv.conf", "nameserver 192.0.2.53\n");
    let resolv = resolv.to_str().unwrap();
    scratch.write("upstreamNameservers", "[\"192.0.2.54\"]");
    let text = fixture.text.replace("/etc/resolv.conf", resolv);
    let file = scratch.write(&fixture.name, &text);
    let mut program = Command::new(env!("CARGO_BIN_EXE_nodens"));
    program.env_clear().arg(command).args(&fixture.flags);
    program.arg("-basecorefile").arg(&file);
    program.arg("-kubednscm").arg(scratch.path());
    for service in [
        "KUBE_DNS",
        "KUBE_DNS_UPSTREAM",
        "COREDNS",
        "NODE_LOCAL_DNS_UPSTREAM",
    ] {
        let address = if service == "KUBE_DNS" {
            "10.96.0.10"
        } else {
            "10.96.0.50"
        };
        program.env(format!("{service}_SERVICE_HOST"), address);
    }
    program.envs(fixture.environment.iter().cloned());
    let Output {
        status,
        stdout,
        stderr,
    } = program.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn every_corefile_in_use_is_taken_and_what_it_comes_to_too() {
    let all = fixtures("good");
    assert_eq!(all.len(), 24);
    let scratch = Scratch::new();
    for fixture in all {
        let name = &fixture.name;
        let (code, out, err) = run("check", &fixture, &scratch);
        assert_eq!(code, 0, "{name}: {err}");
        assert!(out.starts_with("ok: "), "{name}: {out}");
        for warning in err.lines() {
            assert!(warning.starts_with("warning: "), "{name}: {warning}");
        }
        let (code, yaml, err) = run("convert", &fixture, &scratch);
        assert_eq!(code, 0, "{name}: {err}");
        let file = scratch.write("nodens.yaml", &yaml);
        let output = Command::new(env!("CARGO_BIN_EXE_nodens"))
            .env_clear()
            .env("KUBE_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.50")
            .env("NODE_LOCAL_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.50")
            .env("COREDNS_SERVICE_HOST", "10.96.0.50")
            .env("KUBE_DNS_SERVICE_HOST", "10.96.0.10")
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{name}: {err}\n{yaml}");
    }
}

#[test]
fn every_slip_is_told_with_its_place_and_ends_with_64() {
    let all = fixtures("bad");
    assert!(all.len() > 80, "{}", all.len());
    let scratch = Scratch::new();
    let mut wrong = Vec::new();
    for fixture in all {
        let name = &fixture.name;
        let path = scratch.at(name);
        for command in ["check", "run"] {
            let (code, out, err) = run(command, &fixture, &scratch);
            if code != 64 || !out.is_empty() {
                wrong.push(format!("{name}: {command} ends with {code}: {err}"));
            }
            for expected in &fixture.expected {
                // A place begins with the file's name.
                let expected = match expected.split_once(':') {
                    Some((line, _)) if line.bytes().all(|byte| byte.is_ascii_digit()) => {
                        format!("{}:{expected}", path.display())
                    }
                    _ => expected.clone(),
                };
                if !err.contains(&expected) {
                    wrong.push(format!("{name}: {command}: no {expected:?} in\n{err}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_corefile_that_is_not_there_is_told() {
    for command in ["check", "run", "convert"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_nodens"));
        let arguments = [command, "--corefile", "/nonexistent/Corefile"];
        let output = program.env_clear().args(arguments).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{err}");
        assert!(
            err.starts_with("/nonexistent/Corefile: found no such file, expected a Corefile"),
            "{err}"
        );
    }
}

#[test]
fn convert_says_where_something_is_different() {
    let scratch = Scratch::new();
    let all = fixtures("good");
    let fixture = all
        .iter()
        .find(|one| one.name == "deckhouse.Corefile")
        .unwrap();
    let (code, yaml, _) = run("convert", fixture, &scratch);
    assert_eq!(code, 0);
    for wanted in [
        "a failure is remembered for 1 s at least (RFC 9520 section 3.2)",
        "minTtl: 5s\n",
        "staleAfter: 0s\n",
        "\ncache:\n",
        "  staleFor: 1h\n",
        "  drainTimeout: 20s\n",
        "- name: \".\"\n",
        "upstreams: [10.222.0.10]\n",
        "enabled: false\n",
    ] {
        // A comment of several lines.
        let flat = yaml.replace("\n# ", " ").replace("\n  # ", " ");
        assert!(
            yaml.contains(wanted) || flat.contains(wanted),
            "{wanted}\n{yaml}"
        );
    }
}

#[test]
fn nodens_own_flags_are_stronger_than_a_corefile() {
    let scratch = Scratch::new();
    let all = fixtures("good");
    let mut fixture = fixtures("good").swap_remove(0);
    fixture.text = all
        .iter()
        .find(|one| one.name == "kops.Corefile")
        .unwrap()
        .text
        .clone();
    fixture.flags = [
        "-localip=169.254.20.10",
        "--upstreamsvc=kube-dns-upstream",
        "--cache-size",
        "5MiB",
    ]
    .map(str::to_owned)
    .to_vec();
    let (code, out, err) = run("check", &fixture, &scratch);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("cache 5MiB"), "{out}");
    fixture.flags.push("--config=x.yaml".to_owned());
    let (code, _, err) = run("check", &fixture, &scratch);
    assert_eq!(code, 64);
    assert!(
        err.contains("found a configuration file beside a Corefile"),
        "{err}"
    );
}
