// SPDX-License-Identifier: Apache-2.0
//! What the kernel says of this process, under the names every Prometheus exporter has for it.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::clock::Clock;

/// Ticks a second in the fields of `/proc/PID/stat`: the kernel's USER_HZ, which is 100 for
/// programs on every architecture we build for, whatever CONFIG_HZ is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of this process. What cannot be read is `None` and left out of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) start_time_seconds: Option<f64>,
}

impl Figures {
    pub(crate) fn read() -> Self {
        Self {
            cpu_seconds: Some(Clock.process_cpu().as_secs_f64()),
            resident_bytes: fs::read_to_string("/proc/self/status")
                .ok()
                .as_deref()
                .and_then(rss),
            // The directory being read is open too, and no longer when the scrape is read.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| {
                u64::try_from(entries.count())
                    .unwrap_or(0)
                    .saturating_sub(1)
            }),
            max_fds: getrlimit(Resource::Nofile).current,
            start_time_seconds: start_time(),
        }
    }
}

/// `VmRSS:      4096 kB`, in bytes.
fn rss(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// When the process started, in seconds since 1970.
fn start_time() -> Option<f64> {
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    Some(boot + start_ticks(&own)? / TICKS_PER_SECOND)
}

/// Field 22, in ticks since boot. The second field is the program's name in parentheses, and may
/// itself hold parentheses and spaces: fields are counted behind the last one.
fn start_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_this_process() {
        let page = vec![1u8; 8 << 20];
        let before = Figures::read();
        let files: Vec<_> = (0..10)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let after = Figures::read();
        // Other tests open and close files meanwhile; ten at least are ours.
        assert!(
            after.open_fds.unwrap() >= 10,
            "{before:?} {after:?} {}",
            files.len()
        );
        assert!(after.open_fds.unwrap() < after.max_fds.unwrap());
        let resident = after.resident_bytes.unwrap();
        assert!(
            resident > 8 << 20 && resident < 1 << 34,
            "{resident} {}",
            page[5]
        );
        assert!(after.cpu_seconds >= before.cpu_seconds && after.cpu_seconds.unwrap() > 0.0);
        let age = Clock.wall().as_secs_f64() - after.start_time_seconds.unwrap();
        // btime is in whole seconds.
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let fields: Vec<_> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("17 (a) (b c) {}", fields.join(" "));
        assert_eq!(start_ticks(&stat), Some(22.0));
        assert_eq!(start_ticks("17 (a) 3 4"), None);
        assert_eq!(rss("Name:\ta\nVmRSS:\t    4096 kB\n"), Some(4 << 20));
        assert_eq!(rss("Name:\ta\n"), None);
    }
}
