// SPDX-License-Identifier: Apache-2.0
//! Where the tokens of a Corefile stand. A Corefile may be made of many texts (imports, the
//! ConfigMap of kube-dns, flags): their lines are numbered through, so that a place alone says in
//! which of them it is.

use std::path::PathBuf;

use crate::config::Origin;
use crate::config::yaml::Place;

/// A text that belongs to the Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Text {
    /// A file, as it was named.
    File(PathBuf),
    /// The value of a flag of the command line.
    Flag(String),
}

/// All texts, each with the number of the line before its first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct Texts {
    all: Vec<(usize, Text)>,
    next: usize,
}

impl Texts {
    /// Adds a text; its first line has the number after the one that is returned.
    pub(super) fn add(&mut self, text: Text, lines: usize) -> usize {
        let before = self.next;
        self.all.push((before, text));
        self.next += lines + 1;
        before
    }

    fn at(&self, line: usize) -> Option<&(usize, Text)> {
        let behind = self.all.partition_point(|(before, _)| *before < line);
        self.all.get(behind.checked_sub(1)?)
    }

    /// The line of its own text, from 1.
    pub(super) fn line(&self, place: Place) -> usize {
        let before = self.at(place.line).map_or(0, |(before, _)| *before);
        place.line - before.min(place.line)
    }

    /// The text, line and column of a place; `word` is what stands there.
    pub(in crate::config) fn origin(&self, place: Place, word: &str) -> Origin {
        match self.at(place.line) {
            Some((before, Text::File(path))) => Origin::File {
                path: path.clone(),
                line: place.line - before,
                column: place.column,
                key: word.to_owned(),
            },
            Some((_, Text::Flag(flag))) => Origin::Flag { flag: flag.clone() },
            None => Origin::Default {
                key: word.to_owned(),
            },
        }
    }
}
