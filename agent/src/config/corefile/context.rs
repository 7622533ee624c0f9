// SPDX-License-Identifier: Apache-2.0
//! What is known while a Corefile is read: its texts, the environment, and what was said so far.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::hosts::Lines;
use super::stages::Budget;
use super::texts::Texts;
use super::{Footprint, NodeCache};
use crate::config::host::Own;
use crate::config::source::{Unread, read_text, read_text_or_pipe};
use crate::config::yaml::Place;
use crate::config::{Problem, limits};

/// Entries of a directory that are looked at.
const MOST_LISTED: usize = 10_000;

/// Something that a reader of the Corefile should know although it is no obstacle.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) place: Place,
    /// The directive that it is about.
    pub(super) word: String,
    /// The key of the configuration that it is about, e.g. `cache.size`.
    pub(super) about: String,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// Everything at hand while a Corefile is read.
pub(super) struct Context<'a> {
    pub(super) node_cache: NodeCache,
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Addresses of the node with their interfaces; `None` where they cannot be listed.
    pub(super) interfaces: Option<Vec<Own>>,
    /// Where the Corefile itself begins.
    pub(super) start: Place,
    /// A placeholder or a variable has no value: what it stands for cannot be judged.
    pub(super) is_unfilled: bool,
    pub(super) texts: Texts,
    /// Files of hosts by path: each is read once.
    pub(super) hosts: BTreeMap<PathBuf, Lines>,
    /// What may still be answered without a server.
    pub(super) budget: Budget,
    /// That it is too much has been said.
    pub(super) is_too_much: bool,
    /// What was read.
    pub(super) footprint: Footprint,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Note>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        node_cache: NodeCache,
        environment: &'a BTreeMap<String, String>,
        interfaces: Option<Vec<Own>>,
    ) -> Self {
        Self {
            node_cache,
            environment,
            interfaces,
            start: Place::START,
            is_unfilled: false,
            texts: Texts::default(),
            hosts: BTreeMap::new(),
            budget: Budget::default(),
            is_too_much: false,
            footprint: Footprint::default(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The text of a file.
    pub(super) fn read(&mut self, path: &Path) -> Result<String, Unread> {
        let text = read_text(path, limits::MAX_FILE_BYTES);
        let content = text.as_ref().map(String::as_str);
        self.footprint.saw(path, content.ok());
        text
    }

    /// The text of the Corefile itself, which may come out of a pipe.
    pub(super) fn read_corefile(&mut self, path: &Path) -> Result<String, Unread> {
        if !self.node_cache.takes_pipes {
            return self.read(path);
        }
        let text = read_text_or_pipe(path, limits::MAX_FILE_BYTES);
        let content = text.as_ref().map(String::as_str);
        self.footprint.saw(path, content.ok());
        text
    }

    /// What is in a directory, by name; nothing where there is none.
    pub(super) fn list(&mut self, directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .map(|entry| entry.path())
            .take(MOST_LISTED)
            .collect();
        found.sort();
        let names: Vec<_> = found.iter().map(|path| path.to_string_lossy()).collect();
        self.footprint.saw(directory, Some(&names.join("\n")));
        found
    }

    /// Keeps a problem: where, in which directive, what was found and what was expected instead.
    pub(super) fn wrong(
        &mut self,
        place: Place,
        word: &str,
        found: &str,
        expected: &str,
        remedy: &str,
    ) {
        let message = format!("found {found}, expected {expected}");
        self.problem(place, word, message, remedy);
    }

    /// Refuses more answers of `template` and `hosts` than there may be in all blocks, once.
    pub(super) fn too_many_answers(&mut self, place: Place, word: &str) {
        if self.is_too_much {
            return;
        }
        self.is_too_much = true;
        let (found, expected) = self.budget.explain();
        let remedy =
            "have a server answer these names, and forward them there; or name fewer zones";
        self.wrong(place, word, &found, &expected, remedy);
    }

    pub(super) fn problem(&mut self, place: Place, word: &str, message: String, remedy: &str) {
        // A file of another program must not take memory for each of its lines.
        if self.problems.len() <= limits::MAX_PROBLEMS {
            self.problems.push(Problem {
                origin: self.texts.origin(place, word),
                message,
                remedy: remedy.to_owned(),
            });
        }
    }

    /// Keeps a note.
    pub(super) fn note(
        &mut self,
        place: Place,
        word: &str,
        about: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.notes.len() <= limits::MAX_PROBLEMS {
            self.notes.push(Note {
                place,
                word: word.to_owned(),
                about: about.to_owned(),
                message: message.into(),
                remedy: remedy.into(),
            });
        }
    }
}
