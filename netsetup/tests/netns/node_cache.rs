// SPDX-License-Identifier: Apache-2.0
//! What node-cache puts on a node: rules by the real iptables, an interface, and somebody who
//! listens.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{run, run_words};

/// Its link-local address.
pub(crate) const LOCAL: &str = "169.254.20.10";
/// The cluster's DNS address.
pub(crate) const SERVICE: &str = "10.96.0.10";

/// A line for each of its rules for an address.
const RULES: &str = include_str!("node-cache.rules");

/// `iptables -I` for each rule that node-cache has for an address, in its order; `with_comment` as
/// since 2023.
pub(crate) fn rules(program: &str, address: &str, with_comment: bool) {
    for line in RULES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.splitn(7, ' ').collect();
        let [table, chain, proto, side, port, target, comment] = words[..] else {
            panic!("{line}");
        };
        let (side, port_side) = (format!("-{side}"), format!("--{side}port"));
        let comment = format!("NodeLocal DNS Cache: {comment}");
        let mut words = vec![
            program, "-w", "5", "-t", table, "-I", chain, "-p", proto, &side, address, &port_side,
            port, "-j", target,
        ];
        if with_comment {
            words.extend(["-m", "comment", "--comment", &comment]);
        }
        run_words(&words, "");
    }
}

/// Its interface, as a kernel without dummies can have it.
pub(crate) fn interface() {
    run("ip link add nodelocaldns type bridge");
    run(&format!("ip address add {LOCAL}/32 dev nodelocaldns"));
    run(&format!("ip address add {SERVICE}/32 dev nodelocaldns"));
}

/// A program in the namespace of the calling thread that listens. Killed when dropped.
pub(crate) struct Listener(Child);

impl Listener {
    /// Starts it, and returns when it listens.
    pub(crate) fn start(proto: &str, at: &str) -> Self {
        let mut words = vec!["s_server", "-nocert", "-psk", "00", "-quiet", "-accept", at];
        words.extend((proto == "udp").then_some("-dtls"));
        let child = Command::new("openssl")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("start `openssl` (make deps)");
        let started = Self(child);
        for _ in 0..500 {
            if !run_words(&["ss", "-Hlnut", "sport = :53"], "").is_empty() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        started
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
