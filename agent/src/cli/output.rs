// SPDX-License-Identifier: Apache-2.0
//! What commands say to the terminal. A reader that went away (`nodens check | head -1`) is no
//! reason to fail: errors of writing are dropped.

use std::error::Error;
use std::io::{self, Write};

use crate::config::Problem;

/// Writes to standard output.
pub fn print(text: &str) {
    write(io::stdout().lock(), text);
}

/// Writes to standard output; `false` where nobody reads any more.
#[must_use]
pub fn try_print(text: &str) -> bool {
    io::stdout().lock().write_all(text.as_bytes()).is_ok()
}

/// Writes to standard error.
pub fn complain(text: &str) {
    write(io::stderr().lock(), text);
}

/// Writes problems to standard error, one a line, and their number below them.
pub fn complain_of(problems: &[Problem]) {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&format!("{problem}\n"));
    }
    let number = problems.len();
    let plural = if number == 1 { "" } else { "s" };
    text.push_str(&format!("{number} problem{plural}\n"));
    complain(&text);
}

/// An error and its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

fn write(mut to: impl Write, text: &str) {
    // A newline must not be left in the buffer, and one write keeps lines of processes whole.
    let _gone = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
