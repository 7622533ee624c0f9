// SPDX-License-Identifier: Apache-2.0
//! Texts of files, of a bounded size; and in words why one cannot be had.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_setfl};

use super::Origin;
use super::yaml::Place;

/// Why a file gave no text.
#[derive(Debug)]
pub(super) enum Unread {
    Missing,
    Forbidden,
    Directory,
    /// A pipe, a socket or a disk: nobody knows whether it ends, or when.
    Endless,
    Large(u64),
    NotUtf8(Place),
    Failed(std::io::Error),
}

impl Unread {
    /// Message and remedy; `what` is e.g. `configuration file`.
    pub(super) fn explain(&self, what: &str) -> (String, String) {
        let (message, remedy) = match self {
            Self::Missing => (
                format!("found no such file, expected a {what}"),
                "create it, or correct the path".to_owned(),
            ),
            Self::Forbidden => (
                format!("found a file that this user may not read, expected a {what}"),
                "grant read permission on the file and its directories".to_owned(),
            ),
            Self::Directory => (
                format!("found a directory, expected a {what}"),
                "name the file in it".to_owned(),
            ),
            Self::Endless => (
                format!("found a pipe, a socket or a device, expected a {what}"),
                "name a file".to_owned(),
            ),
            Self::Large(limit) => (
                format!("found more than {limit} bytes, expected a {what}"),
                "check that it is the right file".to_owned(),
            ),
            Self::NotUtf8(_) => (
                format!("found bytes that are no UTF-8, expected a {what}"),
                "save it as UTF-8".to_owned(),
            ),
            Self::Failed(error) => (
                format!("found a file that cannot be read ({error}), expected a {what}"),
                "check the file and its file system".to_owned(),
            ),
        };
        (message, remedy)
    }

    pub(super) fn origin(&self, path: &Path) -> Origin {
        let path = path.to_owned();
        match self {
            Self::NotUtf8(place) => Origin::File {
                path,
                line: place.line,
                column: place.column,
                key: String::new(),
            },
            _ => Origin::WholeFile { path },
        }
    }
}

/// The text of a file of at most `limit` bytes. It never waits for a writer.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, Unread> {
    read(path, limit, false)
}

/// As [`read_text`], or what comes out of a pipe until its writer ends: for who waits for it by hand.
pub(super) fn read_text_or_pipe(path: &Path, limit: u64) -> Result<String, Unread> {
    read(path, limit, true)
}

fn read(path: &Path, limit: u64, takes_pipes: bool) -> Result<String, Unread> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Unread::Missing,
        ErrorKind::PermissionDenied => Unread::Forbidden,
        ErrorKind::IsADirectory => Unread::Directory,
        // A socket, or a pipe that is none.
        ErrorKind::WouldBlock => Unread::Endless,
        _ => Unread::Failed(error),
    };
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(without_waiting);
    let file = options.open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    let is_taken = takes_pipes && kind.is_fifo();
    if is_taken {
        fcntl_setfl(&file, OFlags::empty()).map_err(|error| failed(error.into()))?;
    }
    // Who has no file names /dev/null.
    if !is_taken && !kind.is_file() && !kind.is_dir() && !kind.is_char_device() {
        return Err(Unread::Endless);
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Unread::Large(limit));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = good.split('\n').count();
        let last = good.rsplit('\n').next().unwrap_or_default();
        Unread::NotUtf8(Place {
            line,
            column: last.chars().count() + 1,
        })
    })
}
