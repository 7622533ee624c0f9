// SPDX-License-Identifier: Apache-2.0
//! Hosts of a test's own: network namespaces, with pods behind veth pairs. Nothing of the machine's
//! own network is touched.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test takes what it needs of it, and may wait"
)]

pub(crate) mod node_cache;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does `work` on a thread in a new network namespace in which `lo` is up. The namespace goes with
/// the last thread and program in it.
pub(crate) fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_a_thread(|| {
        Holder::new().enter();
        run("ip link set lo up");
        work()
    })
}

/// Runs a command line, words separated by spaces, in the namespace of the calling thread; returns
/// what it wrote.
#[track_caller]
pub(crate) fn run(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    run_words(&words, "")
}

/// As [`run`], with the words given apart, and with input.
#[track_caller]
pub(crate) fn run_words(words: &[&str], input: &str) -> String {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("start `{}`: {error} (make deps)", words[0]));
    let mut pipe = child.stdin.take().expect("its input");
    std::io::Write::write_all(&mut pipe, input.as_bytes()).expect("write its input");
    drop(pipe);
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{}`: {said}", words.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

/// A host behind a veth pair: the node has `vethN` with 10.9.N.1 and fd09:N::1, the pod `eth0`
/// with 10.9.N.2 and fd09:N::2, and its default routes go to the node.
pub(crate) struct Pod {
    holder: Holder,
}

impl Pod {
    /// Makes the pod, of a number of its own.
    pub(crate) fn new(number: u8) -> Self {
        let holder = Holder::new();
        let pod = Self { holder };
        let (pid, n) = (pod.holder.0.id(), number);
        run(&format!(
            "ip link add veth{n} type veth peer name eth0 netns {pid}"
        ));
        run(&format!("ip address add 10.9.{n}.1/24 dev veth{n}"));
        run(&format!("ip address add fd09:{n}::1/64 dev veth{n} nodad"));
        run(&format!("ip link set veth{n} addrgenmode none"));
        run(&format!("ip link set veth{n} up"));
        pod.within(|| {
            run("ip link set lo up");
            run("ip link set eth0 addrgenmode none");
            run("ip link set eth0 up");
            run(&format!("ip address add 10.9.{n}.2/24 dev eth0"));
            run(&format!("ip address add fd09:{n}::2/64 dev eth0 nodad"));
            run(&format!("ip route add default via 10.9.{n}.1"));
            run(&format!("ip route add default via fd09:{n}::1"));
        });
        pod
    }

    /// Does `work` on a thread in the pod.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            self.holder.enter();
            work()
        })
    }
}

/// A program that holds a namespace while it is being entered: unshare(2) is not safe in a program
/// of many threads in general, joining a namespace is.
struct Holder(Child);

impl Holder {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec sleep 120"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start `unshare` (package util-linux)");
        let mut word = [0; 6];
        let ready = holder.stdout.as_mut().expect("its output");
        let is_ready = ready.read_exact(&mut word).is_ok();
        let holder = Self(holder);
        assert!(is_ready, "a network namespace of the test's own needs root");
        holder
    }

    fn enter(&self) {
        let path = format!("/proc/{}/ns/net", self.0.id());
        let namespace = File::open(path).expect("the holder's namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("setns, which needs root");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
