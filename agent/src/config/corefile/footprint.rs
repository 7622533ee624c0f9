// SPDX-License-Identifier: Apache-2.0
//! What a Corefile was read from, so that it can be told whether it is another one now.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Every file and directory that was looked at, there or not, and a digest of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    paths: BTreeSet<PathBuf>,
    digest: u64,
}

impl Footprint {
    /// Files and directories: where one of them changes, the Corefile may say something else.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().map(PathBuf::as_path)
    }

    /// Notes what was found at a path; `None` where nothing could be read.
    pub(super) fn saw(&mut self, path: &Path, content: Option<&str>) {
        // The same in one process: it is compared with nothing else.
        let mut hasher = DefaultHasher::new();
        (self.digest, path, content).hash(&mut hasher);
        self.digest = hasher.finish();
        self.paths.insert(path.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_text_or_another_file_is_another_footprint() {
        let of = |all: &[(&str, Option<&str>)]| {
            let mut footprint = Footprint::default();
            for (path, content) in all {
                footprint.saw(Path::new(path), *content);
            }
            footprint
        };
        let one = of(&[("/a", Some("x")), ("/b", None)]);
        assert_eq!(one, of(&[("/a", Some("x")), ("/b", None)]));
        assert_ne!(one, of(&[("/a", Some("y")), ("/b", None)]));
        assert_ne!(one, of(&[("/a", Some("x")), ("/b", Some(""))]));
        assert_ne!(one, of(&[("/a", Some("x"))]));
        assert_eq!(one.paths().count(), 2);
    }
}
