// SPDX-License-Identifier: Apache-2.0
//! The program as a user meets it: arguments in, text and exit code out.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

#[path = "../src/scratch.rs"]
mod scratch;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use self::scratch::Scratch;

/// The program with an empty environment.
fn nodens(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    command.args(arguments).env_clear();
    command
}

/// Exit code, standard output, standard error.
fn ends(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn the_version_is_the_one_of_the_package() {
    let (code, out, err) = ends(&mut nodens(&["--version"]));
    let version = format!("nodens {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, version.as_str(), "")
    );
}

#[test]
fn help_ends_well_and_wrong_usage_with_64() {
    for arguments in [
        &["--help"][..],
        &["help"],
        &["run", "--help"],
        &["check", "-h"],
    ] {
        let (code, out, err) = ends(&mut nodens(arguments));
        assert_eq!(code, 0, "{arguments:?}: {err}");
        assert!(out.contains("Usage:"), "{arguments:?}: {out}");
    }
    for arguments in [
        &[][..],
        &["walk"],
        &["--config", "x"],
        &["run", "--corefile"],
        &["run", "--listen-prot", "53"],
        &["check", "--config"],
        &["check", "x"],
        &["cache"],
        &["cache", "stats", "x"],
        &["cache", "get"],
        &["cache", "get", "a..b"],
        &["cache", "get", "a", "NOPE"],
        &["cache", "get", "a", "TYPE0"],
        &["cache", "dump", "--zone"],
        &["cache", "flush"],
        &["cache", "flush", "a", "--all"],
        &["cache", "flush", "--zone", ".", "--all"],
        &["cache", "flush", "b\u{fc}cher.example"],
        &["status", "x"],
    ] {
        let (code, out, err) = ends(&mut nodens(arguments));
        assert_eq!(code, 64, "{arguments:?}");
        assert_eq!(out, "");
        assert!(err.contains("Usage:") || err.contains("error:"), "{err}");
    }
    let (_, _, err) = ends(&mut nodens(&["run", "--listen-prot", "53"]));
    assert!(err.contains("--listen-port"), "{err}");
}

#[test]
fn what_is_wrong_with_a_question_about_the_cache_is_told() {
    for (arguments, told) in [
        (&["cache", "get", "a..b"][..], "a label is empty"),
        (&["cache", "get", "a", "NOPE"], "TYPE and a number"),
        (&["cache", "flush"], "<NAME|--zone <ZONE>|--all>"),
        (&["cache", "flush", "a", "--all"], "cannot be used with"),
        (&["cache", "flush", "b\u{fc}cher.example"], "xn--"),
    ] {
        let (code, _, err) = ends(&mut nodens(arguments));
        assert_eq!(code, 64, "{arguments:?}");
        assert!(err.contains(told), "{arguments:?}: {err}");
    }
}

#[test]
fn a_command_for_the_agent_without_one_names_its_socket_and_the_remedy() {
    let scratch = Scratch::new();
    let socket = scratch.at("admin.sock");
    let socket = socket.to_str().unwrap();
    for verb in [&["status"][..], &["cache", "stats"], &["retire"]] {
        let mut command = nodens(verb);
        command
            .args(["--admin-socket", socket])
            .env("NODENS_ZONES", "[{name: ., upstreams: [192.0.2.1]}]")
            .env("NODENS_LISTEN_ADDRESSES", "127.0.0.1");
        let (code, out, err) = ends(&mut command);
        assert_eq!((code, out.as_str()), (69, ""), "{verb:?}");
        assert!(err.contains(socket), "{err}");
        assert!(err.contains("no agent runs here"), "{err}");
    }
}

#[test]
fn a_good_file_is_ok_and_its_warnings_are_told() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "nodens.yaml",
        "listen: { addresses: [127.0.0.1, '::1'], port: 5300 }\n\
         cache: { size: 1MiB, staleFor: 1h }\n\
         zones:\n  - { name: \".\", upstreams: [10.96.0.50, 10.96.0.50] }\n",
    );
    let path = file.to_str().unwrap();
    let (code, out, err) = ends(&mut nodens(&["check", "--config", path]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        format!("ok: {path} (2 zones, listening on 127.0.0.1, ::1 port 5300, cache 1MiB)\n")
    );
    assert_eq!(
        err,
        format!(
            "warning: {path}:4:42: zones[0].upstreams[1]: found the upstream 10.96.0.50:53 again, it \
             counts once; remove one of the two\n"
        )
    );
}

#[test]
fn a_bad_file_ends_with_64_and_every_problem() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "nodens.yaml",
        "listen: { port: dns }\nzones:\n  - { name: \".\", upstream: [10.0.0.1] }\n",
    );
    let path = file.to_str().unwrap();
    let expected = format!(
        "{path}:1:17: listen.port: found \"dns\", expected a whole number from 0 to 65535; \
         write a number like 53\n\
         {path}:3:5: zones[0]: found a zone without servers, expected upstreams or resolv.conf; \
         add the servers to ask, e.g. `upstreams: [10.96.0.10]`\n\
         {path}:3:18: zones[0].upstream: found the unknown key \"upstream\", expected one of name, \
         upstreams, resolv.conf, transport, pipeline, serverName, caFile, maxTtl, maxNegativeTtl, minTtl, minNegativeTtl, \
         maxFailureTtl, staleAfter, order, rotate, cuts, rewrites, dns64, answers; did you mean \
         upstreams?\n\
         3 problems\n"
    );
    for command in ["check", "run"] {
        let (code, out, err) = ends(&mut nodens(&[command, "--config", path]));
        assert_eq!((code, out.as_str()), (64, ""), "{command}");
        assert_eq!(err, expected, "{command}");
    }
}

#[test]
fn one_problem_is_counted_as_one() {
    let missing = "/nonexistent/nodens.yaml";
    let (code, _, err) = ends(&mut nodens(&["check", "--config", missing]));
    assert_eq!(code, 64);
    assert_eq!(
        err,
        format!(
            "{missing}: found no such file, expected a configuration file; create it, or correct \
             the path\n1 problem\n"
        )
    );
}

#[test]
fn the_environment_and_the_flags_are_read() {
    let zones = "[{name: ., upstreams: ['env:KUBE_DNS_UPSTREAM_SERVICE_HOST']}]";
    let check = || {
        let mut command = nodens(&["check", "--listen-port", "5301", "--cache-size=2MiB"]);
        command
            .env("NODENS_ZONES", zones)
            .env("NODENS_LISTEN_ADDRESSES", "127.0.0.1")
            .env("NODENS_LISTEN_PORT", "5302")
            .env("NODENS_UPSTREAM_PORT_53_TCP_ADDR", "10.96.0.50");
        command
    };
    let (code, out, err) = ends(check().env("KUBE_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.50"));
    assert_eq!(code, 0, "{err}");
    assert!(
        out.ends_with("(2 zones, listening on 127.0.0.1 port 5301, cache 2MiB)\n"),
        "{out}"
    );
    assert_eq!(err, "");

    let (code, _, err) = ends(&mut check());
    assert_eq!(code, 64);
    assert!(
        err.starts_with("environment variable NODENS_ZONES: zones[0].upstreams[0] (line 1, column 24 of the value)"),
        "{err}"
    );
    assert!(err.contains("Service kube-dns-upstream"), "{err}");
}

#[test]
fn a_directory_and_a_file_without_permission_say_so() {
    let directory = std::env::temp_dir();
    let (code, _, err) = ends(&mut nodens(&[
        "check",
        "--config",
        directory.to_str().unwrap(),
    ]));
    assert_eq!(code, 64);
    assert!(
        err.contains("found a directory, expected a configuration file"),
        "{err}"
    );

    // Root reads everything: as another user this is a plain file without read permission.
    let scratch = Scratch::new();
    let file = scratch.write("nodens.yaml", "version: 1\n");
    set_mode(&file, 0o000);
    let arguments = ["check", "--config", file.to_str().unwrap()];
    let mut command = nodens(&arguments);
    if rustix::process::geteuid().is_root() {
        // Where the test runs as root, nobody must reach the program.
        let program = scratch.at("nodens");
        set_mode(&scratch.at(""), 0o755);
        // By another process: a program that is open for writing here, or in a child that another
        // test forks meanwhile, cannot be run (ETXTBSY).
        let mut cp = Command::new("cp");
        cp.arg(env!("CARGO_BIN_EXE_nodens")).arg(&program);
        assert!(cp.status().unwrap().success());
        set_mode(&program, 0o755);
        command = Command::new(&program);
        command.args(arguments).env_clear().uid(65_534).gid(65_534);
    }
    let (code, _, err) = ends(&mut command);
    assert_eq!(code, 64);
    assert!(
        err.contains("found a file that this user may not read"),
        "{err}"
    );
}

fn set_mode(file: &Path, mode: u32) {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(file, permissions).unwrap();
}

#[test]
fn a_corefile_out_of_a_pipe_is_checked_and_converted_and_nothing_runs_with_it() {
    let of = |arguments: &str, writer: &str| {
        let script = format!("{writer} | '{}' {arguments}", env!("CARGO_BIN_EXE_nodens"));
        ends(Command::new("sh").args(["-c", &script]))
    };
    let corefile = r"printf '.:53 {\nbind 127.0.0.1\nforward . 192.0.2.1\n}\n'";
    let (code, out, err) = of("check --corefile /dev/stdin", corefile);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("ok: /dev/stdin (2 zones"), "{out}");
    let (code, out, err) = of("convert /dev/stdin", corefile);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("upstreams: [192.0.2.1]"), "{out}");
    // One that does not end.
    let (code, _, err) = of("check --corefile /dev/stdin", "yes");
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("found more than 1048576 bytes"), "{err}");
    let (code, _, err) = of("run --corefile /dev/stdin", corefile);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("found a pipe, a socket or a device"), "{err}");
}
