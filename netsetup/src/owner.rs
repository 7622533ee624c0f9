// SPDX-License-Identifier: Apache-2.0
//! Whose socket is it: the process behind the port id that owns a table, or behind a socket that
//! listens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// `NETLINK_NETFILTER` of linux/netlink.h, as /proc/net/netlink prints it.
const NETFILTER: &str = "12";

/// Most descriptors that are looked at, of all processes together: about a second's work.
const LOOKS: usize = 1 << 18;

/// A process on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id, in our pid namespace.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`, at most 15 letters).
    pub name: String,
}

/// The process that has a netfilter netlink socket with this port id, in the network namespace of
/// the calling thread. `None` where it cannot be told: it has ended, it lives in a pid namespace
/// that we do not see, or /proc does not let us look.
#[must_use]
pub fn process_of(port_id: u32) -> Option<Process> {
    // The kernel gives a process' first socket the process' own id: mostly the first look hits.
    process_with(inode_of(port_id)?, port_id)
}

/// The process that has the socket of this inode; `first` is looked at before all others. `None` as
/// in [`process_of`].
pub(crate) fn process_with(inode: u64, first: u32) -> Option<Process> {
    let socket = format!("socket:[{inode}]");
    let mut looks = LOOKS;
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    std::iter::once(first)
        .chain(pids.filter(|&pid| pid != first))
        .find(|&pid| has(pid, &socket, &mut looks))
        .map(|pid| Process {
            pid,
            name: name_of(pid),
        })
}

/// The inode of the socket with this port id, from the table of the thread's own namespace.
fn inode_of(port_id: u32) -> Option<u64> {
    let table = fs::File::open("/proc/thread-self/net/netlink").ok()?;
    let port_id = port_id.to_string();
    BufReader::new(table)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| {
            // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_it = words.get(1) == Some(&NETFILTER) && words.get(2) == Some(&port_id.as_str());
            is_it.then(|| words.get(9)?.parse().ok()).flatten()
        })
}

fn has(pid: u32, socket: &str, looks: &mut usize) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    for descriptor in descriptors.flatten() {
        let Some(left) = looks.checked_sub(1) else {
            return false;
        };
        *looks = left;
        if fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(socket)) {
            return true;
        }
    }
    false
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(
        |_| "a process without a name".to_owned(),
        |name| name.trim_end().to_owned(),
    )
}
