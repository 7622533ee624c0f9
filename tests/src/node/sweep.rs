// SPDX-License-Identifier: Apache-2.0
//! Ends programs that a killed run has left: the second line of defence, for the moment between
//! a program's start and its asking the kernel to end it with its parent.
//!
//! Each program of a lab carries its owner in its environment: process ID and start time. One
//! whose owner is gone belongs to nobody; one of a run that goes on is left alone.

use std::fs;
use std::process;

use rustix::process::{Pid, Signal, kill_process};

/// The environment variable that names the owner.
pub const MARK: &str = "LAB_OF";

/// This process as an owner.
#[must_use]
pub fn mark() -> String {
    mark_of(process::id())
}

/// A process as an owner.
#[must_use]
pub fn mark_of(pid: u32) -> String {
    format!("{pid}:{}", started(pid).unwrap_or_default())
}

/// Whether the owner of a mark lives.
#[must_use]
pub fn is_alive(mark: &str) -> bool {
    let owner = mark.split_once(':');
    owner
        .and_then(|(pid, start)| Some((pid.parse().ok()?, start)))
        .is_some_and(|(pid, start)| started(pid).as_deref() == Some(start))
}

/// Processes that carry the mark of this owner.
#[must_use]
pub fn owned_by(owner: &str) -> Vec<u32> {
    let marked = marked().into_iter();
    let owned = marked.filter(|(_, mark)| mark == owner);
    owned.map(|(pid, _)| pid).collect()
}

/// Kills what belongs to owners that have ended. Gives the number of them.
pub fn sweep() -> usize {
    let mut swept = 0;
    for (pid, mark) in marked() {
        let owner = mark.split_once(':');
        let Some((owner, start)) = owner.and_then(|(o, s)| Some((o.parse().ok()?, s))) else {
            continue;
        };
        if started(owner).as_deref() == Some(start) {
            continue;
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // Fails where it has ended meanwhile.
        if pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()) {
            swept += 1;
        }
    }
    swept
}

/// Every process with a mark, and the mark.
fn marked() -> Vec<(u32, String)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let marked = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // Unreadable where the process has ended.
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let mut variables = environment.split(|&octet| octet == 0);
        let mark = variables.find_map(|variable| {
            let value = variable.strip_prefix(MARK.as_bytes())?;
            String::from_utf8(value.strip_prefix(b"=")?.to_vec()).ok()
        })?;
        Some((pid, mark))
    });
    marked.collect()
}

/// When a process began, in ticks since the machine did (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold spaces and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    // A zombie owns nothing.
    (state != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::Duration;

    use crate::process::wait_for;

    fn sleeper(mark: &str) -> Child {
        let mut command = Command::new("sleep");
        command.arg("60").env(MARK, mark).spawn().unwrap()
    }

    #[test]
    fn what_a_dead_run_left_is_ended_and_what_a_live_one_has_is_not() {
        let mut dead = Command::new("true").spawn().unwrap();
        let pid = dead.id();
        dead.wait().unwrap();
        let mut orphan = sleeper(&format!("{pid}:1"));
        // The same process ID, taken by another since.
        let mut stale = sleeper(&format!("{}:1", process::id()));
        let mut ours = sleeper(&mark());
        // The environment of a process is there a moment after the program is.
        let patience = Duration::from_secs(5);
        wait_for("the mark of ours", patience, || {
            Ok(owned_by(&mark()).contains(&ours.id()).then_some(()))
        })
        .unwrap();
        for child in [&mut orphan, &mut stale] {
            // Another test may have swept already.
            let status = wait_for("what is left over to end", patience, || {
                sweep();
                Ok(child.try_wait()?)
            });
            assert!(!status.unwrap().success());
        }
        assert!(ours.try_wait().unwrap().is_none());
        ours.kill().unwrap();
        ours.wait().unwrap();
    }
}
