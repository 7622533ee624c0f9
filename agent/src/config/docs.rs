// SPDX-License-Identifier: Apache-2.0
//! Writes the tables of docs/configuration.md from the table of keys, and fails where the two
//! differ. The prose around them is written by hand.

use std::fmt::Write;

use super::keys::{KEYS, Key, SECTIONS};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p nodens --lib config";
const BEGIN: &str = "<!-- keys: generated";
const END: &str = "<!-- keys: end -->";

/// The tables, section by section.
fn tables() -> String {
    let mut tables = String::new();
    for (section, about) in SECTIONS {
        let keys: Vec<_> = KEYS.iter().filter(|key| key.section() == section).collect();
        let _ = writeln!(tables, "\n### {section}\n\n{about}\n");
        tables.push_str("| key | default | bounds | reload | variable | flag | meaning |\n");
        tables.push_str("|---|---|---|---|---|---|---|\n");
        for key in keys {
            tables.push_str(&row(key));
        }
    }
    tables.push('\n');
    tables
}

fn row(key: &Key) -> String {
    let default = key.default_text();
    // What is in words or quoted already stays as it is.
    let default = if default.contains([' ', '`']) {
        default
    } else {
        format!("`{default}`")
    };
    let (variable, flag) = if key.is_overridable() {
        (
            format!("`{}`", key.variable()),
            format!("`--{}`", key.flag()),
        )
    } else {
        ("-".to_owned(), "-".to_owned())
    };
    let reload = match (key.path, key.reload) {
        ("version", _) => "-",
        (_, true) => "yes",
        (_, false) => "restart",
    };
    format!(
        "| `{}` | {default} | {} | {reload} | {variable} | {flag} | {} |\n",
        key.path,
        key.bounds().replace('|', "\\|"),
        key.doc.replace('|', "\\|")
    )
}

/// Holds what stands between two marks of a document against `part`, or writes it there with
/// `UPDATE_DOCS`. The first mark is the beginning of a line that stays, the second that of the first
/// line behind the part; `command` regenerates it.
#[track_caller]
pub(super) fn hold(file: &str, [begin, end]: [&str; 2], part: &str, command: &str) {
    let document = std::fs::read_to_string(file).unwrap();
    let from = document.find(begin).unwrap();
    let from = from + document[from..].find('\n').unwrap() + 1;
    let to = document.find(end).unwrap();
    let wanted = format!("{}{part}{}", &document[..from], &document[to..]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        if wanted != document {
            std::fs::write(file, &wanted).unwrap();
        }
        return;
    }
    let stale = wanted.lines().zip(document.lines()).find(|(a, b)| a != b);
    assert!(
        wanted == document,
        "{file} differs from the tables in agent/src/config; regenerate it with: {command}\n\
         first line that differs (wanted, found): {stale:?}"
    );
}

#[test]
fn the_documentation_lists_every_key_as_the_code_has_it() {
    hold(FILE, [BEGIN, END], &tables(), COMMAND);
}
