// SPDX-License-Identifier: Apache-2.0
//! Everything that stands for other words: `import` of files and snippets, node-cache's placeholders,
//! and `{$VARIABLE}` and `{%VARIABLE%}`. Depth, number and size are bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::lexer::{OpenQuote, Token, lex};
use super::placeholders;
use super::texts::Text;
use crate::config::yaml::{Place, quote};

/// Imports within imports.
const MAX_DEPTH: usize = 16;
/// Files of one Corefile, the first one counted.
const MAX_FILES: usize = 100;
/// Imports of one Corefile, those of what is imported counted each time.
const MAX_IMPORTS: usize = 1000;
/// Words of one Corefile, those of its imports counted each time.
const MAX_TOKENS: usize = 100_000;

/// All words of a Corefile with everything put in place; `None` where nothing can be said of the rest.
pub(super) fn read(context: &mut Context<'_>, path: &Path) -> Option<Vec<Token>> {
    let mut expansion = Expansion {
        context,
        snippets: BTreeMap::new(),
        stack: Vec::new(),
        files: 0,
        imports: 0,
        line: String::new(),
        taken: 0,
        depth: 0,
        out: Vec::new(),
    };
    expansion.file(path, None)?;
    let tokens = expansion.out;
    Some(tokens)
}

struct Expansion<'a, 'b> {
    context: &'a mut Context<'b>,
    snippets: BTreeMap<String, Vec<Token>>,
    /// What is being imported, from the outside in: files by their path, snippets in brackets.
    stack: Vec<String>,
    files: usize,
    imports: usize,
    /// The first word of the line.
    line: String,
    /// Words that were looked at, whether they came to anything or not.
    taken: usize,
    /// Braces that are open where the next word goes.
    depth: usize,
    out: Vec<Token>,
}

impl Expansion<'_, '_> {
    /// Takes in a file; `by` is the word that names it, none for the first.
    fn file(&mut self, path: &Path, by: Option<&Token>) -> Option<()> {
        let word = if by.is_some() { "import" } else { "" };
        self.count_file(by)?;
        let text = match by {
            Some(_) => self.context.read(path),
            None => self.context.read_corefile(path),
        };
        let text = match text {
            Ok(text) => text,
            Err(reason) => {
                let (message, remedy) = reason.explain("Corefile");
                match by {
                    Some(by) => {
                        let message = format!("{}: {message}", path.display());
                        self.context.problem(by.place, word, message, &remedy);
                    }
                    None => self.context.problems.push(crate::config::Problem {
                        origin: reason.origin(path),
                        message,
                        remedy,
                    }),
                }
                return None;
            }
        };
        let lines = text.split('\n').count();
        let before = self.context.texts.add(Text::File(path.to_owned()), lines);
        if by.is_none() {
            self.context.start.line = before + 1;
        }
        let tokens = match lex(&text, before) {
            Ok(tokens) => tokens,
            Err(OpenQuote(place)) => {
                let remedy = "close it, or write \\\" for a quote within quotes";
                self.context
                    .wrong(place, "", "a quote", "the quote that closes it", remedy);
                return None;
            }
        };
        // A file that holds itself is found whatever path it is named by.
        let known_as = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.enter(known_as.display().to_string(), by, tokens, path)
    }

    fn enter(
        &mut self,
        name: String,
        by: Option<&Token>,
        tokens: Vec<Token>,
        file: &Path,
    ) -> Option<()> {
        if let (Some(by), true) = (by, self.stack.contains(&name)) {
            let way: Vec<_> = self.stack.iter().map(String::as_str).collect();
            let found = format!("an import of {name} within itself ({})", way.join(" -> "));
            let remedy = "remove one of the imports in this circle";
            self.context
                .wrong(by.place, "import", &found, "no circle", remedy);
            return None;
        }
        if let (Some(by), true) = (by, self.stack.len() >= MAX_DEPTH) {
            let expected = format!("at most {MAX_DEPTH} of them");
            let remedy = "import fewer files within files";
            self.context.wrong(
                by.place,
                "import",
                "imports within imports",
                &expected,
                remedy,
            );
            return None;
        }
        self.taken = self.taken.saturating_add(tokens.len());
        if let (Some(by), true) = (by, self.taken > MAX_TOKENS) {
            self.too_many_words(by.place);
            return None;
        }
        self.stack.push(name);
        let done = self.take_in(tokens, file);
        self.stack.pop();
        done
    }

    /// Takes in words that stand in `file`, or in a snippet of it.
    fn take_in(&mut self, tokens: Vec<Token>, file: &Path) -> Option<()> {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let opens = tokens.peek().is_some_and(|next| next.is("{"));
            if self.depth == 0 && token.starts_line && opens && is_snippet(&token) {
                let place = token.place;
                tokens.next();
                let mut body = Vec::new();
                let mut open = 1_usize;
                for token in tokens.by_ref() {
                    open = match () {
                        () if token.is("{") => open + 1,
                        () if token.is("}") => open - 1,
                        () => open,
                    };
                    if open == 0 {
                        break;
                    }
                    body.push(token);
                }
                if open > 0 {
                    let remedy = "close the snippet with } on a line of its own";
                    self.context
                        .wrong(place, "", &token.text, "a } that closes it", remedy);
                    return None;
                }
                let name = token.text.trim_matches(['(', ')']).to_owned();
                if self.snippets.insert(name, body).is_some() {
                    let found = format!("the snippet {} again", token.text);
                    let remedy = "remove or rename one of the two";
                    self.context
                        .wrong(place, "", &found, "each snippet once", remedy);
                }
                continue;
            }
            if token.is("import") && token.starts_line {
                let mut arguments = Vec::new();
                while let Some(argument) = tokens.next_if(|next| !next.starts_line) {
                    arguments.push(argument);
                }
                self.import(&token, arguments, file)?;
                continue;
            }
            if token.is("{") {
                self.depth += 1;
            } else if token.is("}") {
                self.depth = self.depth.saturating_sub(1);
            }
            self.put(token)?;
        }
        Some(())
    }

    fn import(&mut self, import: &Token, arguments: Vec<Token>, file: &Path) -> Option<()> {
        self.imports += 1;
        if self.imports > MAX_IMPORTS {
            let expected = format!("at most {MAX_IMPORTS}");
            let remedy = "import less, or write what is imported in its place";
            let found = "one import more";
            self.context
                .wrong(import.place, "import", found, &expected, remedy);
            return None;
        }
        let [argument] = arguments.as_slice() else {
            let found = format!("{} words behind it", arguments.len());
            let remedy = "write `import FILE` or `import SNIPPET`, one a line";
            self.context
                .wrong(import.place, "import", &found, "one", remedy);
            return Some(());
        };
        let Some(name) = self.variables(argument) else {
            self.context.is_unfilled = true;
            return Some(());
        };
        if let Some(body) = self.snippets.get(&name).cloned() {
            return self.enter(format!("({name})"), Some(argument), body, file);
        }
        let base = file.parent().unwrap_or_else(|| Path::new("."));
        let path = base.join(&name);
        if !name.contains(['*', '?', '[']) {
            if name.is_empty() || !path.exists() {
                self.context.footprint.saw(&path, None);
                let known: Vec<_> = self.snippets.keys().map(String::as_str).collect();
                let near = crate::config::nearest::nearest(&name, known.into_iter());
                let remedy = match near {
                    Some(near) => format!("did you mean the snippet {near}?"),
                    None => format!(
                        "create it, or correct the path, which begins in {}",
                        base.display()
                    ),
                };
                let expected = "a file, or a snippet that stands above";
                self.context
                    .wrong(argument.place, "import", &quote(&name), expected, &remedy);
                return Some(());
            }
            return self.file(&path, Some(argument));
        }
        // A directory is as much work, whether it has such files or not.
        self.count_file(Some(argument))?;
        let Some(files) = matches(self.context, &path) else {
            let remedy = "write one * in the last part of the path";
            let expected = "one wildcard, * or ?, behind the last slash";
            self.context
                .wrong(argument.place, "import", &quote(&name), expected, remedy);
            return Some(());
        };
        if files.is_empty() {
            let message = format!("found no file for {}", quote(&name));
            let remedy = "remove the import where none is expected";
            self.context
                .note(argument.place, "import", "zones", message, remedy);
        }
        for path in files {
            self.file(&path, Some(argument))?;
        }
        Some(())
    }

    /// Puts a word behind those before it, with what it stands for.
    fn put(&mut self, token: Token) -> Option<()> {
        if token.starts_line {
            self.line.clone_from(&token.text);
        }
        let filled = placeholders::fill(self.context, &token, &self.line).unwrap_or_else(|| {
            self.context.is_unfilled = true;
            vec![token]
        });
        for token in filled {
            let text = self.variables(&token).unwrap_or_else(|| {
                self.context.is_unfilled = true;
                token.text.clone()
            });
            if self.out.len() >= MAX_TOKENS {
                self.too_many_words(token.place);
                return None;
            }
            self.out.push(Token { text, ..token });
        }
        Some(())
    }

    fn count_file(&mut self, by: Option<&Token>) -> Option<()> {
        self.files += 1;
        if let (true, Some(by)) = (self.files > MAX_FILES, by) {
            let expected = format!("at most {MAX_FILES} files");
            let remedy = "join files";
            let found = "one import more";
            self.context
                .wrong(by.place, "import", found, &expected, remedy);
            return None;
        }
        Some(())
    }

    fn too_many_words(&mut self, place: Place) {
        let expected = format!("at most {MAX_TOKENS}");
        let remedy = "check that it is the right file, and import less";
        self.context
            .wrong(place, "", "one word more", &expected, remedy);
    }

    /// The word with the values of its variables. What a value holds is not looked at again.
    fn variables(&mut self, token: &Token) -> Option<String> {
        let mut text = String::new();
        let mut rest = token.text.as_str();
        while let Some(at) = rest.find("{$").into_iter().chain(rest.find("{%")).min() {
            let (before, reference) = rest.split_at(at);
            let end = if reference.starts_with("{$") {
                "}"
            } else {
                "%}"
            };
            let inner = reference.get(2..).unwrap_or_default();
            let Some((name, behind)) = inner.split_once(end).filter(|(name, _)| !name.is_empty())
            else {
                break;
            };
            text.push_str(before);
            match self.context.environment.get(name) {
                Some(value) => text.push_str(value.trim()),
                None => {
                    let found = quote(&format!("{{${name}}}"));
                    let expected = format!("the environment variable {name}, and it is not set");
                    let remedy = format!("set {name}, or write its value here");
                    self.context
                        .wrong(token.place, "", &found, &expected, &remedy);
                    return None;
                }
            }
            rest = behind;
        }
        text.push_str(rest);
        Some(text)
    }
}

fn is_snippet(token: &Token) -> bool {
    !token.is_quoted
        && token.text.len() > 2
        && token.text.starts_with('(')
        && token.text.ends_with(')')
}

/// Files that a path with one wildcard stands for, by name; `None` where there are more wildcards, or
/// one in a directory.
fn matches(context: &mut Context<'_>, path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let directory = path.parent()?;
    let is_wild = |letter: char| matches!(letter, '*' | '?' | '[');
    if directory.to_str()?.contains(is_wild) || name.matches(is_wild).count() != 1 {
        return None;
    }
    let at = name.find(['*', '?'])?;
    let (before, behind) = name.split_at(at);
    let (wild, behind) = behind.split_at(1);
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let rest = name
            .and_then(|name| name.strip_prefix(before))
            .and_then(|rest| rest.strip_suffix(behind));
        rest.is_some_and(|rest| wild == "*" || rest.chars().count() == 1)
    };
    let all = context.list(directory).into_iter();
    let found = all
        .filter(fits)
        // A ConfigMap's directory has directories of its own, `..data`.
        .filter(|path| !path.is_dir())
        .take(MAX_FILES + 1);
    Some(found.collect())
}
