// SPDX-License-Identifier: Apache-2.0
//! The house's arrows: which module may know which, read from the source itself, and the rules of
//! CONTRIBUTING.md that a compiler does not check. docs/architecture.md has the table of arrows;
//! these tests read it there.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The only files of the agent that may hold `unsafe`, with what for.
const UNSAFE: [(&str, &str); 5] = [
    ("cache/memory.rs", "cells shared by one writer and readers"),
    ("cache/model_memory.rs", "the same, for the model checker"),
    ("cache/table.rs", "lock-free reads and their reclamation"),
    ("serve/batch.rs", "recvmmsg and sendmmsg"),
    ("serve/socket.rs", "the BPF program and SO_MEMINFO"),
];

/// Crates that have no place on the way of a hit.
const COLD: [&str; 8] = [
    "http_body_util",
    "hyper",
    "hyper_util",
    "prometheus",
    "rustls",
    "tokio",
    "tracing",
    "tracing_subscriber",
];

/// Longest file before its tests, in lines that are not blank.
const LONGEST: usize = 500;

#[test]
fn serve_and_resolve_never_import_each_other() {
    let house = House::read();
    house.forbid("serve", "resolve", "they meet in `miss` and `cache`");
    house.forbid("resolve", "serve", "they meet in `miss` and `cache`");
}

#[test]
fn wire_imports_nothing_of_the_crate() {
    House::read().allow("wire", &["wire"]);
}

#[test]
fn cache_imports_wire_alone() {
    House::read().allow("cache", &["cache", "wire"]);
}

#[test]
fn the_counters_of_workers_import_nothing_of_the_crate() {
    House::read().allow("telemetry::counters", &["telemetry::counters"]);
}

#[test]
fn nothing_on_the_way_of_a_hit_names_the_runtime_http_or_the_log() {
    let house = House::read();
    for module in ["wire", "cache", "serve", "miss"] {
        let named = house.named(module, &COLD);
        fail(named, "belongs to the cold side and must not be named here");
    }
}

#[test]
fn the_second_opinion_on_messages_is_named_in_tests_alone() {
    let named = House::read().named("", &["hickory_proto"]);
    fail(
        named,
        "judges the agent in tests, and is no part of it: docs/adr/0002",
    );
}

#[test]
fn unsafe_stands_in_the_listed_files_alone() {
    let mut found = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in sources(&agent()) {
        let path = file.path_in(&agent());
        for token in file.tokens.iter().filter(|token| token.text == "unsafe") {
            if UNSAFE.iter().any(|(allowed, _)| *allowed == path) {
                found.insert(path.clone());
            } else {
                wrong.push(file.at(token.line, "unsafe"));
            }
        }
    }
    fail(
        wrong,
        "must not be here; agent/tests/arrows.rs has the list",
    );
    let listed: BTreeSet<_> = UNSAFE.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, listed, "files that no longer need it leave the list");
}

#[test]
fn a_module_imports_what_the_architecture_says_and_no_more() {
    let document = root().join("docs/architecture.md");
    let allowed = arrows(&document);
    let mut unused = allowed.clone();
    let mut wrong = Vec::new();
    for import in &House::read().imports {
        let (Some(from), Some(to)) = (import.from.first(), import.to.first()) else {
            continue;
        };
        if from == to {
            continue;
        }
        if let Some(targets) = unused.get_mut(from) {
            targets.remove(to);
        }
        if !allowed.get(from).is_some_and(|to_all| to_all.contains(to)) {
            wrong.push(format!("{}: `{from}` imports `{to}`", import.place));
        }
    }
    fail(
        wrong,
        "is no arrow of docs/architecture.md; draw it there if it is meant",
    );
    unused.retain(|_, targets| !targets.is_empty());
    assert!(
        unused.is_empty(),
        "docs/architecture.md has arrows that nothing uses: {unused:?}"
    );
}

#[test]
fn every_dependency_says_why() {
    let path = root().join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap();
    let mut in_table = false;
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('[') {
            in_table = line == "[workspace.dependencies]";
            continue;
        }
        let is_dependency = in_table && line.contains(" = ") && !line.starts_with('#');
        // Our own packages explain themselves.
        if !is_dependency || line.contains("path = ") {
            continue;
        }
        seen += 1;
        let why = line.rsplit_once(" # ").map_or("", |(_, why)| why.trim());
        if why.split_whitespace().count() < 2 {
            wrong.push(format!("{}:{number}: {line}", path.display()));
        }
    }
    assert!(seen > 20, "only {seen} dependencies found: is this right?");
    fail(wrong, "needs a comment on its line: what for, why this one");
}

#[test]
fn every_file_begins_with_its_licence_and_what_it_is() {
    let mut wrong = Vec::new();
    for package in ["agent", "netsetup", "tests"] {
        for file in sources(&root().join(package)) {
            let mut lines = file.text.lines();
            if lines.next() != Some("// SPDX-License-Identifier: Apache-2.0") {
                wrong.push(file.at(1, "no line `// SPDX-License-Identifier: Apache-2.0`"));
            }
            if !lines.next().is_some_and(|line| line.starts_with("//! ")) {
                wrong.push(file.at(2, "no `//!` that says what the file is"));
            }
        }
    }
    fail(wrong, "is missing");
}

#[test]
fn no_file_is_longer_than_can_be_read() {
    let mut wrong = Vec::new();
    for file in sources(&agent()) {
        let before_tests = file.text.lines().take(file.tests_from - 1);
        let length = before_tests.filter(|line| !line.trim().is_empty()).count();
        if length > LONGEST && !file.is_test {
            wrong.push(file.at(1, &format!("{length} lines, without blank ones and tests")));
        }
    }
    fail(wrong, &format!("is more than {LONGEST}; split the file"));
}

#[test]
fn the_reader_of_these_tests_sees_code_and_nothing_else() {
    let file = Source::new(
        PathBuf::from("serve/worker.rs"),
        r##"//! See [`crate::resolve`].
use crate::cache::{self, Lookup};
use crate::{miss::Miss, wire::{query::Query, rcode}};
use super::batch as tokio_free;
/* crate::stream /* nested */ crate::admin */
const A: (&str, &str, char) = ("crate::cli \" tokio", r#"crate::config"#, '"');
fn f<'a>(_: &'a str) -> super::super::telemetry::Cells { self::g() }
#[cfg(test)]
use crate::daemon;
fn g() { crate::listeners::bind() }
#[cfg(test)]
#[expect(dead_code, reason = "a test")]
mod tests { use crate::lifecycle; }
"##
        .to_owned(),
    );
    let seen: Vec<String> = file
        .imports(&["serve".to_owned(), "worker".to_owned()])
        .map(|import| import.to.join("::"))
        .collect();
    assert_eq!(
        seen,
        [
            "cache",
            "cache::Lookup",
            "miss::Miss",
            "wire::query::Query",
            "wire::rcode",
            "serve::batch",
            "telemetry::Cells",
            "serve::worker::g",
            "listeners::bind",
        ]
    );
    assert_eq!(file.tests_from, 11);
    assert!(!file.tokens.iter().any(|token| token.text == "tokio"));
    let house = House::read();
    assert!(house.imports.len() > 100, "{} imports", house.imports.len());
    assert!(house.files.iter().any(|(file, _)| file.is_test));
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_owned()
}

fn agent() -> PathBuf {
    root().join("agent/src")
}

fn fail(wrong: Vec<String>, why: &str) {
    let places = wrong.join("\n  ");
    assert!(wrong.is_empty(), "{why}:\n  {places}");
}

/// The table below `## Arrows`: a module in the first column, what it may import in the second.
fn arrows(document: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(document).unwrap();
    let (_, section) = text.split_once("\n## Arrows\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let names = |cell: &str| -> BTreeSet<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    };
    let rows = section.lines().filter_map(|line| {
        let (module, targets) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((module.to_owned(), names(targets)))
    });
    let table: BTreeMap<_, _> = rows.collect();
    assert!(table.len() > 10, "the table of arrows is not found");
    table
}

/// The agent's source, with who imports whom. Tests are left out.
struct House {
    files: Vec<(Source, Vec<String>)>,
    imports: Vec<Import>,
}

/// One path that code names.
struct Import {
    from: Vec<String>,
    to: Vec<String>,
    place: String,
}

impl House {
    fn read() -> Self {
        let files: Vec<_> = sources(&agent())
            .into_iter()
            .map(|file| {
                let module = module_of(&file.path_in(&agent()));
                (file, module)
            })
            .collect();
        let code = files.iter().filter(|(file, _)| !file.is_test);
        let imports = code
            .flat_map(|(file, module)| file.imports(module).collect::<Vec<_>>())
            .collect();
        Self { files, imports }
    }

    fn of<'a>(&'a self, module: &'a str) -> impl Iterator<Item = &'a Import> {
        let found = self
            .imports
            .iter()
            .filter(move |import| is_at_or_below(&import.from, module));
        assert!(
            self.files.iter().any(|(_, at)| is_at_or_below(at, module)),
            "there is no module {module}"
        );
        found
    }

    fn forbid(&self, from: &str, to: &str, why: &str) {
        let wrong = self
            .of(from)
            .filter(|import| is_at_or_below(&import.to, to));
        fail(wrong.map(Import::show).collect(), why);
    }

    fn allow(&self, from: &str, to: &[&str]) {
        let is_allowed = |import: &&Import| to.iter().any(|to| is_at_or_below(&import.to, to));
        let wrong = self.of(from).filter(|import| !is_allowed(import));
        fail(
            wrong.map(Import::show).collect(),
            &format!("`{from}` may import {to:?} alone"),
        );
    }

    /// Where code below a module names one of these words.
    fn named(&self, module: &str, words: &[&str]) -> Vec<String> {
        let below = self
            .files
            .iter()
            .filter(|(file, at)| !file.is_test && is_at_or_below(at, module));
        below
            .flat_map(|(file, _)| {
                let code = file.tokens.iter().filter(|token| !token.is_test);
                code.filter(|token| words.contains(&token.text.as_str()))
                    .map(|token| file.at(token.line, &token.text))
            })
            .collect()
    }
}

impl Import {
    fn show(&self) -> String {
        format!("{}: {}", self.place, self.to.join("::"))
    }
}

/// Whether a path is that of `module`, written with `::`, or goes on below it.
fn is_at_or_below(path: &[String], module: &str) -> bool {
    module.is_empty()
        || module
            .split("::")
            .enumerate()
            .all(|(at, part)| path.get(at).is_some_and(|own| own == part))
}

/// `serve/worker.rs` is `serve::worker`, `serve/mod.rs` is `serve`, `lib.rs` is the crate.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let parts = path.split('/').map(str::to_owned);
    parts
        .filter(|part| !matches!(part.as_str(), "mod" | "lib" | "main"))
        .collect()
}

/// A file of Rust, cut into tokens.
struct Source {
    path: PathBuf,
    text: String,
    tokens: Vec<Token>,
    /// The whole file is a test.
    is_test: bool,
    /// The line where its tests begin; one behind the last where it has none.
    tests_from: usize,
    /// Modules in files of their own that are tests.
    test_modules: Vec<String>,
}

/// A word, or a sign. What stands in comments and strings is no token.
struct Token {
    text: String,
    line: usize,
    is_test: bool,
}

/// Every file of Rust below a directory, but for what is built or found by a fuzzer.
fn sources(directory: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let is_built = ["target", "artifacts", "corpus"]
                .iter()
                .any(|name| path.ends_with(name));
            if path.is_dir() && !is_built {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push(Source::new(path, text));
            }
        }
    }
    assert!(!files.is_empty(), "no source below {}", directory.display());
    let tests: BTreeSet<PathBuf> = files
        .iter()
        .flat_map(|file| {
            let stem = file.path.file_stem().unwrap();
            let beside = file.path.parent().unwrap();
            let beside = match stem.to_str() {
                Some("mod" | "lib" | "main") => beside.to_owned(),
                _ => beside.join(stem),
            };
            let modules = file.test_modules.iter();
            modules.map(move |module| beside.join(format!("{module}.rs")))
        })
        .collect();
    for file in &mut files {
        file.is_test = tests.contains(&file.path);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

impl Source {
    fn new(path: PathBuf, text: String) -> Self {
        let mut tokens = tokens(&text);
        let mut tests_from = text.lines().count() + 1;
        let mut test_modules = Vec::new();
        let words: Vec<String> = tokens.iter().map(|token| token.text.clone()).collect();
        let mut at = 0;
        while at < words.len() {
            if words[at..]
                .iter()
                .take(7)
                .ne(["#", "[", "cfg", "(", "test", ")", "]"])
            {
                at += 1;
                continue;
            }
            let begin = at;
            while words.get(at).is_some_and(|word| word == "#") {
                at = behind(&words, at + 1);
            }
            let is_module = words[at..].iter().take(5).position(|word| word == "mod");
            // An item ends with its first semicolon, or with its braces.
            let mut end = at;
            while end < words.len() && !matches!(words[end].as_str(), ";" | "{") {
                end += 1;
            }
            let has_body = words.get(end).is_some_and(|word| word == "{");
            if let Some(keyword) = is_module {
                if has_body {
                    tests_from = tests_from.min(tokens[begin].line);
                } else if let Some(name) = words.get(at + keyword + 1) {
                    test_modules.push(name.clone());
                }
            }
            at = if has_body {
                behind(&words, end)
            } else {
                end + 1
            };
            for token in tokens.iter_mut().take(at).skip(begin) {
                token.is_test = true;
            }
        }
        Self {
            path,
            text,
            tokens,
            is_test: false,
            tests_from,
            test_modules,
        }
    }

    fn path_in(&self, directory: &Path) -> String {
        let path = self.path.strip_prefix(directory).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }

    /// Every path from the root of the crate that the code names, tests left out.
    fn imports<'a>(&'a self, module: &'a [String]) -> impl Iterator<Item = Import> + 'a {
        let code: Vec<&Token> = self.tokens.iter().filter(|token| !token.is_test).collect();
        let mut found = Vec::new();
        for at in 0..code.len() {
            let is_inside = at > 0 && code[at - 1].text == "::";
            let leads_on = code.get(at + 1).is_some_and(|next| next.text == "::");
            let root = match code[at].text.as_str() {
                "crate" | "nodens" => Vec::new(),
                "self" => module.to_vec(),
                "super" => module[..module.len().saturating_sub(1)].to_vec(),
                _ => continue,
            };
            if !is_inside && leads_on {
                let mut paths = Vec::new();
                expand(&code, at + 2, root, &mut paths);
                found.extend(paths.into_iter().map(|path| (path, code[at].line)));
            }
        }
        found.into_iter().map(|(to, line)| Import {
            from: module.to_vec(),
            to,
            place: format!("{}:{line}", self.path.display()),
        })
    }
}

/// Reads on from behind a `::`, into the branches of a group; returns where the path ends.
fn expand(
    code: &[&Token],
    mut at: usize,
    mut path: Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    while let Some(token) = code.get(at) {
        match token.text.as_str() {
            "{" => {
                at += 1;
                while code.get(at).is_some_and(|token| token.text != "}") {
                    at = expand(code, at, path.clone(), paths);
                    // To the next branch, past `as name`.
                    while code
                        .get(at)
                        .is_some_and(|token| !matches!(token.text.as_str(), "," | "}"))
                    {
                        at += 1;
                    }
                    if code.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "super" => {
                path.pop();
            }
            "self" => {}
            word if word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_') => {
                path.push(word.to_owned());
            }
            _ => break,
        }
        at += 1;
        if code.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    paths.push(path);
    at
}

/// The place behind the bracket that closes the one at `at`.
fn behind(words: &[String], at: usize) -> usize {
    let mut depth = 0_usize;
    for (place, word) in words.iter().enumerate().skip(at) {
        match word.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return place + 1;
                }
            }
            _ => {}
        }
    }
    words.len()
}

/// Cuts a text into words and signs, and leaves comments and strings out.
fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let letter = |at: usize| letters.get(at).copied().unwrap_or('\0');
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < letters.len() {
        let begin = at;
        match (letter(at), letter(at + 1)) {
            ('/', '/') => at += letters[at..].iter().take_while(|&&one| one != '\n').count(),
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (letter(at), letter(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 || at >= letters.len() {
                        break;
                    }
                }
            }
            ('"', _) => at = behind_string(&letters, at + 1),
            // A character; else a lifetime, whose name is a word as any other.
            ('\'', '\\') => {
                let rest = letters[at + 3..].iter().take_while(|&&one| one != '\'');
                at += 4 + rest.count();
            }
            ('\'', _) if letter(at + 2) == '\'' => at += 3,
            (one, _) if is_word(one) => {
                at += letters[at..]
                    .iter()
                    .take_while(|&&one| is_word(one))
                    .count();
                let word: String = letters[begin..at].iter().collect();
                let hashes = letters[at..].iter().take_while(|&&one| one == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && letter(at + hashes) == '"' {
                    let end: Vec<char> = std::iter::once('"')
                        .chain(std::iter::repeat_n('#', hashes))
                        .collect();
                    let rest = &letters[at + hashes + 1..];
                    let length = rest.windows(end.len()).position(|part| part == end);
                    at += hashes + 1 + length.unwrap_or(rest.len()) + end.len();
                } else {
                    tokens.push(Token {
                        text: word,
                        line,
                        is_test: false,
                    });
                }
            }
            (':', ':') => {
                at += 2;
                tokens.push(Token {
                    text: "::".to_owned(),
                    line,
                    is_test: false,
                });
            }
            (sign, _) => {
                at += 1;
                if !sign.is_whitespace() {
                    tokens.push(Token {
                        text: sign.to_string(),
                        line,
                        is_test: false,
                    });
                }
            }
        }
        let passed = &letters[begin..at.min(letters.len())];
        line += passed.iter().filter(|&&one| one == '\n').count();
    }
    tokens
}

/// The place behind the quote that ends a string whose first letter stands at `at`.
fn behind_string(letters: &[char], mut at: usize) -> usize {
    while let Some(&letter) = letters.get(at) {
        at += 1;
        match letter {
            '\\' => at += 1,
            '"' => break,
            _ => {}
        }
    }
    at
}
