// SPDX-License-Identifier: Apache-2.0
//! `nodens convert`: a Corefile as YAML, with a comment where something means another thing than it
//! did, and why.

use std::collections::BTreeMap;

use super::context::Note;
use super::{NodeCache, Translated, translate};
use crate::config::host::interfaces;
use crate::config::keys::KEYS;
use crate::config::source::{Collected, Given, Source, Sources};
use crate::config::yaml::{Entry, Node, Value};
use crate::config::{Problem, read};

/// Longest line of a comment.
const WIDTH: usize = 100;
/// Stands for what only the cluster knows while the result is checked (RFC 5737).
const STAND_IN: &str = "192.0.2.1";

/// The configuration that a Corefile comes to, as YAML.
///
/// # Errors
/// Every problem of the Corefile.
pub fn convert(
    node_cache: &NodeCache,
    environment: &BTreeMap<String, String>,
) -> Result<String, Vec<Problem>> {
    // The names of the host that converts are not those of the nodes.
    let node_cache = &NodeCache {
        hosts: None,
        ..node_cache.clone()
    };
    let translated = translate(node_cache, environment, interfaces().ok());
    if !translated.problems.is_empty() {
        return Err(translated.problems);
    }
    check(&translated)?;
    let warnings = node_cache.warnings.iter().map(Problem::to_string);
    let mut yaml = format!(
        "# Made by `nodens convert` from {}. Where something means another thing than in CoreDNS, a\n\
         # comment says what and why.\n",
        node_cache.file.display()
    );
    for warning in warnings {
        comment(&mut yaml, "", &warning);
    }
    print_notes(&translated, &mut yaml, "", |note| note.about.is_empty());
    yaml.push_str("version: 1\n");
    let mut section = "";
    for key in KEYS {
        let Some(node) = translated.values.get(key.path) else {
            continue;
        };
        let (own, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if own != section && !own.is_empty() {
            yaml.push_str(&format!("{own}:\n"));
        }
        section = own;
        let indent = if own.is_empty() { "" } else { "  " };
        print_notes(&translated, &mut yaml, indent, |note| {
            note.about == key.path
        });
        yaml.push_str(&format!("{indent}{name}:"));
        print(node, indent, &mut yaml);
    }
    let left = |note: &Note| {
        let keys = translated.values.keys();
        !note.about.is_empty() && !keys.clone().any(|key| *key == note.about)
    };
    print_notes(&translated, &mut yaml, "", left);
    Ok(yaml)
}

/// Reads the result as the agent would, with stand-ins for what is known in the cluster alone.
fn check(translated: &Translated) -> Result<(), Vec<Problem>> {
    let mut sources = Sources::default();
    let mut collected = Collected::default();
    for (path, node) in &translated.values {
        let mut node = node.clone();
        stand_in(&mut node, &mut sources);
        let source = Source::Corefile(std::sync::Arc::clone(&translated.texts));
        collected.values.insert(path, Given { source, node });
    }
    read::read(&sources, collected, || Ok(Vec::new())).map(|_| ())
}

fn stand_in(node: &mut Node, sources: &mut Sources) {
    match &mut node.value {
        Value::Text(text) => {
            if let Some(variable) = text.strip_prefix("env:") {
                let stand_in = STAND_IN.to_owned();
                sources.environment.insert(variable.to_owned(), stand_in);
            }
        }
        Value::List(nodes) => {
            for node in nodes {
                stand_in(node, sources);
            }
        }
        Value::Map(entries) => {
            // The file is the node's, and this is perhaps not the node.
            for entry in entries
                .iter_mut()
                .filter(|entry| entry.key == "resolv.conf")
            {
                entry.key = "upstreams".to_owned();
                entry.node.value = Value::Text(STAND_IN.to_owned());
            }
            // So is the file with the authorities.
            entries.retain(|entry| entry.key != "caFile");
            for Entry { node, .. } in entries {
                stand_in(node, sources);
            }
        }
        Value::Nothing => {}
    }
}

fn print_notes(
    translated: &Translated,
    yaml: &mut String,
    indent: &str,
    is_wanted: impl Fn(&Note) -> bool,
) {
    let mut said: Vec<&str> = Vec::new();
    for note in translated.notes.iter().filter(|note| is_wanted(note)) {
        // A line that is imported into each block says the same each time.
        if said.contains(&note.message.as_str()) {
            continue;
        }
        said.push(&note.message);
        let origin = translated.texts.origin(note.place, &note.word);
        comment(
            yaml,
            indent,
            &format!("{origin}: {}; {}", note.message, note.remedy),
        );
    }
}

/// A comment of several lines where it is long.
fn comment(yaml: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() >= WIDTH {
            yaml.push_str(&line);
            yaml.push('\n');
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    yaml.push_str(&line);
    yaml.push('\n');
}

/// Prints a value behind its key.
fn print(node: &Node, indent: &str, yaml: &mut String) {
    match &node.value {
        Value::Nothing => yaml.push('\n'),
        Value::Text(text) => yaml.push_str(&format!(" {}\n", scalar(text))),
        Value::List(nodes)
            if nodes
                .iter()
                .all(|node| matches!(node.value, Value::Text(_))) =>
        {
            let is_short = nodes.len() <= 4;
            let items: Vec<_> = nodes.iter().map(one_line).collect();
            if is_short && items.iter().map(String::len).sum::<usize>() < 70 {
                yaml.push_str(&format!(" [{}]\n", items.join(", ")));
            } else {
                yaml.push('\n');
                for item in items {
                    yaml.push_str(&format!("{indent}  - {item}\n"));
                }
            }
        }
        Value::List(nodes) => {
            yaml.push('\n');
            for node in nodes {
                let Value::Map(entries) = &node.value else {
                    continue;
                };
                let mut start = format!("{indent}  - ");
                for entry in entries {
                    yaml.push_str(&format!("{start}{}:", entry.key));
                    print(&entry.node, &format!("{indent}    "), yaml);
                    start = format!("{indent}    ");
                }
            }
        }
        Value::Map(_) => yaml.push('\n'),
    }
}

fn one_line(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => scalar(text),
        _ => String::new(),
    }
}

/// A scalar that reads back as the same text: plain where nothing in it means anything to YAML.
fn scalar(text: &str) -> String {
    let is_plain =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '/' | '-' | '_');
    let begins = text.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '/');
    if begins && text.chars().all(is_plain) && !matches!(text, "null" | "Null" | "NULL") {
        return text.to_owned();
    }
    // JSON's quotes are YAML's.
    serde_json::Value::from(text).to_string()
}
