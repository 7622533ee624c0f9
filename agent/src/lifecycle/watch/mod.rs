// SPDX-License-Identifier: Apache-2.0
//! Files that others replace: whoever waits here hears of it when one has changed.
//!
//! A file is replaced by renaming another over it, by pointing a symbolic link elsewhere (systemd's
//! /etc/resolv.conf; `..data` of a ConfigMap) or by writing into it. Only directories see all of these,
//! so inotify(7) watches each directory whose entries decide what a path leads to. It says that
//! something happened; what a path leads to now is looked at then. Some changes it cannot see, such as
//! those behind a network file system, and its instances are few: so there is a look every few
//! seconds, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

/// How long a change may go on before it is looked at: a file that is written in pieces.
const SETTLE: Duration = Duration::from_millis(50);
/// How often is looked without having been told.
const LOOK: Duration = Duration::from_secs(5);
/// The same where nobody will tell.
const LOOK_ALONE: Duration = Duration::from_secs(1);
/// Symbolic links in one path; the kernel gives up at as many.
const MOST_LINKS: usize = 40;

/// What happens in a directory when what a path leads to changes.
const EVENTS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What is behind a path: device, inode, size, and when it was changed. `None`: nothing.
type Behind = Option<(u64, u64, u64, i64, i64)>;

/// Files that are watched.
#[derive(Debug)]
pub struct Watch {
    files: BTreeMap<PathBuf, Behind>,
    /// Read like a pipe, and waited for like one. `None` where the kernel gives none.
    inotify: Option<pipe::Receiver>,
    watched: BTreeSet<i32>,
    look: Interval,
    is_due: bool,
}

impl Watch {
    /// Watches nothing yet. Needs the runtime.
    #[must_use]
    pub fn new() -> Self {
        let open = || {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            pipe::Receiver::from_owned_fd_unchecked(inotify)
        };
        let inotify = open().map_err(|error: io::Error| {
            tracing::warn!(
                %error,
                "no inotify: files are looked at every second; raise fs.inotify.max_user_instances"
            );
        });
        let mut look = interval(if inotify.is_ok() { LOOK } else { LOOK_ALONE });
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            files: BTreeMap::new(),
            inotify: inotify.ok(),
            watched: BTreeSet::new(),
            look,
            is_due: false,
        }
    }

    /// Watches these files, and directories for what comes and goes there, and no others. One that was not watched before has changed: nobody knows
    /// when it was read.
    pub fn follow(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let mut before = std::mem::take(&mut self.files);
        for file in files {
            let Ok(file) = std::path::absolute(&file) else {
                continue;
            };
            // No file has this inode.
            let known = before.remove(&file);
            self.files
                .insert(file, known.unwrap_or(Some((u64::MAX, 0, 0, 0, 0))));
        }
        self.watch();
        self.is_due = true;
    }

    /// Waits until files have changed, and says which. May be dropped and called again: nothing is
    /// lost.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            if self.files.is_empty() {
                std::future::pending::<()>().await;
            }
            if self.is_due {
                sleep(SETTLE).await;
                self.drain();
                self.is_due = false;
                let changed = self.compare();
                if !changed.is_empty() {
                    return changed;
                }
            }
            tokio::select! {
                () = told(self.inotify.as_ref()) => {}
                _ = self.look.tick() => {}
            }
            self.is_due = true;
        }
    }

    /// Takes notice of what was told.
    fn drain(&mut self) {
        let mut events = [0_u8; 4096];
        if let Some(inotify) = &self.inotify {
            while matches!(inotify.try_read(&mut events), Ok(1..)) {}
        }
        self.watch();
    }

    fn compare(&mut self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (file, before) in &mut self.files {
            let now = behind(file);
            if now != *before {
                *before = now;
                changed.push(file.clone());
            }
        }
        changed
    }

    /// Watches the directories that matter now.
    fn watch(&mut self) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let directories: BTreeSet<_> = self
            .files
            .keys()
            .flat_map(|file| directories(file))
            .collect();
        // To watch one again gives the number that it has.
        let numbers: BTreeSet<i32> = directories
            .iter()
            .filter_map(|directory| inotify::add_watch(inotify, directory, EVENTS).ok())
            .collect();
        for &gone in self.watched.difference(&numbers) {
            // The kernel has done so itself where the directory is gone.
            let _: Result<(), Errno> = inotify::remove_watch(inotify, gone);
        }
        self.watched = numbers;
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

async fn told(inotify: Option<&pipe::Receiver>) {
    match inotify {
        // It cannot fail while the runtime lives.
        Some(inotify) if inotify.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

fn behind(file: &Path) -> Behind {
    let data = fs::metadata(file).ok()?;
    let changed = data.ctime();
    Some((
        data.dev(),
        data.ino(),
        data.size(),
        changed,
        data.ctime_nsec(),
    ))
}

/// Directories whose entries decide what an absolute path leads to: those that hold a symbolic link on
/// the way, the last one, and where there is nothing the one in which something is missing. Where it
/// leads to a directory that one, too: what comes and goes there changes it.
fn directories(file: &Path) -> BTreeSet<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        let parts = path.components().map(Component::as_os_str);
        parts.map(OsString::from).collect()
    };
    let mut found = BTreeSet::new();
    let mut links = 0;
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(file).into();
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::Normal(name)) => {
                let next = at.join(name);
                let Ok(data) = fs::symlink_metadata(&next) else {
                    found.insert(at);
                    break;
                };
                if data.is_symlink() {
                    found.insert(at.clone());
                    links += 1;
                    let target = fs::read_link(&next).unwrap_or_default();
                    if links > MOST_LINKS {
                        break;
                    }
                    for part in parts(&target).into_iter().rev() {
                        rest.push_front(part);
                    }
                    continue;
                }
                if rest.is_empty() {
                    found.insert(at.clone());
                    if data.is_dir() {
                        found.insert(next.clone());
                    }
                }
                at = next;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
