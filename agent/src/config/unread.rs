// SPDX-License-Identifier: Apache-2.0
//! Texts of files, of a bounded size; and in words why one cannot be had.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::Origin;
use super::yaml::Place;

/// Why a file gave no text.
#[derive(Debug)]
pub(super) enum Unread {
    Missing,
    Forbidden,
    Directory,
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

/// The text of a file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, Unread> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Unread::Missing,
            ErrorKind::PermissionDenied => Unread::Forbidden,
            ErrorKind::IsADirectory => Unread::Directory,
            _ => Unread::Failed(error),
        })?;
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
