// SPDX-License-Identifier: Apache-2.0
//! What a process costs, by the kernel's own books.
//!
//! CPU is the first field of `/proc/PID/task/*/schedstat`: nanoseconds on a CPU, all that ran in
//! the thread's name. Without `CONFIG_IRQ_TIME_ACCOUNTING` that includes interrupts and softirqs
//! that hit it. On loopback the softirq of a datagram runs within the *sender's* system call: a
//! server pays for the way of its replies into the client's socket, the client for the way of
//! its queries into the server's. That holds for the echo and the agent alike.
//!
//! A thread that is running has its time booked at the latest tick or switch: read the meter
//! while the server is idle.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The CPU time of a process from a moment on.
#[derive(Clone, Debug)]
pub struct CpuMeter {
    pid: u32,
    /// Nanoseconds of each thread at the beginning.
    threads: BTreeMap<u32, u64>,
}

/// CPU time spent since a [`CpuMeter`] was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Time on a CPU of all threads that live, new ones included.
    pub on_cpu: Duration,
    /// Threads that ended in between. What they spent is not in `on_cpu`: a measurement with
    /// any is too low by an amount that nobody knows.
    pub ended: usize,
}

impl CpuMeter {
    /// Begins to count for process `pid`.
    ///
    /// # Errors
    /// `NotFound` without such a process.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            threads: on_cpu_ns(pid)?,
        })
    }

    /// What was spent since [`CpuMeter::of`].
    ///
    /// # Errors
    /// `NotFound` if the process has ended.
    pub fn spent(&self) -> io::Result<Spent> {
        let now = on_cpu_ns(self.pid)?;
        let before = |thread| self.threads.get(thread).copied().unwrap_or(0);
        let ns = now
            .iter()
            .map(|(thread, ns)| ns.saturating_sub(before(thread)))
            .sum();
        let ended = self.threads.keys().filter(|t| !now.contains_key(t)).count();
        Ok(Spent {
            on_cpu: Duration::from_nanos(ns),
            ended,
        })
    }
}

/// Nanoseconds on a CPU of each thread of a process.
fn on_cpu_ns(pid: u32) -> io::Result<BTreeMap<u32, u64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let Some(thread) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
            continue;
        };
        // A thread may end between the listing and the reading.
        match fs::read_to_string(entry.path().join("schedstat")) {
            Ok(text) => threads.insert(thread, first_number(&text)?),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
    }
    if threads.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(threads)
}

/// Whether an error of reading `/proc` says that the thread has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn first_number(text: &str) -> io::Result<u64> {
    text.split_ascii_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other(format!("schedstat says {text:?}")))
}

/// What others do on the machine meanwhile: the time its CPUs work for other processes.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    all: Duration,
    own: Duration,
    begin_ns: u64,
}

impl Others {
    /// Begins to watch.
    ///
    /// # Errors
    /// Where `/proc/stat` cannot be read.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            all: all_cpus()?,
            own: own_cpu(),
            begin_ns: super::now_ns(),
        })
    }

    /// The share of the time of all CPUs, 0 to 1, that went neither to this process nor to
    /// `server`, the time known to be the server's. Counted in ticks of 10 ms: a hint, no more.
    ///
    /// # Errors
    /// Where `/proc/stat` cannot be read.
    pub fn share(&self, cpus: usize, server: Duration) -> io::Result<f64> {
        let ours = own_cpu().saturating_sub(self.own) + server;
        let others = all_cpus()?.saturating_sub(self.all).saturating_sub(ours);
        let span = Duration::from_nanos(super::now_ns() - self.begin_ns);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Ok(others.as_secs_f64() / (span * cpus).as_secs_f64().max(1e-9))
    }
}

/// The time that all CPUs have worked: user, nice, system, irq, softirq (proc_stat(5)).
fn all_cpus() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _waiting, irq, softirq, ..] = fields[..] else {
        return Err(io::Error::other("/proc/stat has no line of all CPUs"));
    };
    // USER_HZ is 100 on every architecture that we know.
    Ok(Duration::from_millis(
        (user + nice + system + irq + softirq) * 10,
    ))
}

/// The CPU time of this process, ended threads included.
fn own_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Memory of a process, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `VmRSS`: all resident pages, those of the program file included.
    pub resident_bytes: u64,
    /// `RssAnon`: the resident pages that are no file's.
    pub anonymous_bytes: u64,
}

impl Memory {
    /// What process `pid` has now.
    ///
    /// # Errors
    /// `NotFound` without such a process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
                .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .map(|kib| kib * 1024)
                .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no {key}")))
        };
        Ok(Self {
            resident_bytes: bytes("VmRSS")?,
            anonymous_bytes: bytes("RssAnon")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::{CpuMeter, Memory, Others};

    /// Works until the calling thread has been on a CPU for `span` more.
    fn work(span: Duration) {
        let on_cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let until = on_cpu() + span;
        while on_cpu() < until {}
    }

    #[test]
    fn work_of_old_and_new_threads_is_counted_and_ended_ones_are_told() {
        let (end, ended) = mpsc::channel::<()>();
        let waits = thread::spawn(move || _ = ended.recv());
        let meter = CpuMeter::of(std::process::id()).unwrap();
        let (done, is_done) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        let works = thread::spawn(move || {
            work(Duration::from_millis(60));
            done.send(()).unwrap();
            _ = may_leave.recv();
        });
        is_done.recv().unwrap();
        let spent = meter.spent().unwrap();
        // Other tests of this process run beside it, so that there is no upper bound; a tick of
        // 10 ms may not be booked yet.
        assert!(spent.on_cpu >= Duration::from_millis(50), "{spent:?}");
        drop((end, leave));
        waits.join().unwrap();
        works.join().unwrap();
        assert!(meter.spent().unwrap().ended >= 1);
    }

    #[test]
    fn work_of_our_own_is_not_that_of_others() {
        let others = Others::watch().unwrap();
        work(Duration::from_millis(300));
        // One CPU, of which this thread alone had nearly all; were our own work taken for that
        // of others, the share would rise by 1.
        let counted = others.share(1, Duration::ZERO).unwrap();
        let unknown = Others {
            own: super::own_cpu(),
            ..others
        };
        let all = unknown.share(1, Duration::ZERO).unwrap();
        assert!(all > counted + 0.2, "{all} and {counted}");
    }

    #[test]
    fn touched_memory_is_resident_and_anonymous() {
        let before = Memory::of(std::process::id()).unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = Memory::of(std::process::id()).unwrap();
        assert!(touched.iter().step_by(4096).all(|&octet| octet == 1));
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (48 << 20));
        assert!(after.resident_bytes >= after.anonymous_bytes);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // Process numbers end at 2^22 (PID_MAX_LIMIT).
        assert!(CpuMeter::of(1 << 23).is_err());
        assert!(Memory::of(1 << 23).is_err());
    }
}
