// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: hosts of a test's own, with their own addresses, ports and rules.
//!
//! A namespace belongs to a thread. What that thread opens and starts is in it: sockets, threads,
//! programs.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does `work` on a thread in a network namespace that is new, in which the loopback interface is
/// up and nothing else is there. The namespace goes with the last thread and program in it.
///
/// # Errors
/// When there can be no namespace (it needs root, and `unshare` and `ip`), and what `work` gives.
///
/// # Panics
/// Where `work` does: the panic goes on in the caller.
pub fn within<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter().context("a network namespace of the test's own needs root")?;
            run("ip link set lo up")?;
            work()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command line, words separated by spaces, in the namespace of the calling thread.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{line}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}`: {said}");
    Ok(())
}

/// Moves the calling thread into a network namespace that is new and empty.
///
/// # Errors
/// When there can be none: it needs root, and `unshare`.
pub(crate) fn enter() -> anyhow::Result<()> {
    // A program makes the namespace, for unshare(2) is not safe in a program of many threads in
    // general; joining one that exists is.
    let mut holder = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", "echo ready; exec sleep 60"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `unshare` (package util-linux)")?;
    let entered = (|| {
        let mut word = [0; 6];
        let ready = holder.stdout.as_mut().context("its output")?;
        if std::io::Read::read_exact(ready, &mut word).is_err() {
            let mut said = String::new();
            let stderr = holder.stderr.as_mut().context("its errors")?;
            std::io::Read::read_to_string(stderr, &mut said)?;
            anyhow::bail!("`unshare --net`: {}", said.trim());
        }
        let path = format!("/proc/{}/ns/net", holder.id());
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("setns")
    })();
    // This thread holds the namespace now. Both fail only where it has ended already.
    let _ = holder.kill();
    let _ = holder.wait();
    entered
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};

    #[test]
    fn a_namespace_has_its_own_addresses_and_leaves_ours_alone() {
        let elsewhere = ("10.99.0.1", 5300);
        within(|| {
            UdpSocket::bind(elsewhere).unwrap_err();
            run("ip address add 10.99.0.1/32 dev lo")?;
            let socket = UdpSocket::bind(elsewhere)?;
            // A thread begun inside is inside.
            thread::spawn(move || TcpStream::connect(elsewhere).unwrap_err())
                .join()
                .unwrap();
            drop(socket);
            Ok(())
        })
        .unwrap();
        UdpSocket::bind(elsewhere).unwrap_err();
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let error = run("ip link show no-such-link").unwrap_err();
        assert!(format!("{error:#}").contains("no-such-link"), "{error:#}");
    }
}
