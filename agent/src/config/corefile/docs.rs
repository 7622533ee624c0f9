// SPDX-License-Identifier: Apache-2.0
//! Writes the tables of docs/corefile.md from the tables in the code, and fails where the two differ.

use std::fmt::Write;

use super::directives::{DIRECTIVES, Entry, Fate};
use super::placeholders::PLACEHOLDERS;
use crate::cli::node_cache::FLAGS;
use crate::config::docs::hold;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/corefile.md");
const BEGIN: &str = "<!-- corefile: generated";
const END: &str = "<!-- corefile: end -->";

fn row(table: &mut String, name: &str, entry: &Entry) {
    let fate = match entry.fate {
        Fate::Honoured => "done",
        Fate::Warned => "warning",
        Fate::Refused => "refused",
    };
    let _ = writeln!(
        table,
        "| {name} | {fate} | {} |",
        entry.doc.replace('|', "\\|")
    );
}

fn tables() -> String {
    let mut all = String::from(
        "\n### Directives\n\n| directive, option | | what nodens does |\n|---|---|---|\n",
    );
    for entry in DIRECTIVES {
        row(&mut all, &format!("`{}`", entry.name), entry);
        for option in entry.options {
            row(
                &mut all,
                &format!("`{} {{ {} }}`", entry.name, option.name),
                option,
            );
        }
    }
    all.push_str("\n### Placeholders\n\n| placeholder | stands for |\n|---|---|\n");
    for (name, doc) in PLACEHOLDERS {
        let _ = writeln!(all, "| `{name}` | {doc} |");
    }
    all.push_str("\n### Flags of node-cache\n\n| flag | what nodens does |\n|---|---|\n");
    for (name, doc) in FLAGS {
        let _ = writeln!(all, "| `-{name}` | {doc} |");
    }
    all.push('\n');
    all
}

#[test]
fn the_documentation_lists_every_directive_as_the_code_has_it() {
    hold(FILE, [BEGIN, END], &tables(), "make docs");
}
