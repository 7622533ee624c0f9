// SPDX-License-Identifier: Apache-2.0
//! `make demo`: what nodens does on a node, and what happens when it dies, in 40 seconds. Needs
//! root; exit code 69 where the machine cannot show it.

use std::io::{self, Write};
use std::process::ExitCode;

use nodens_tests::drill::demo;

/// The machine cannot do it: no root, a program that is missing.
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        say(
            "demo: it makes network namespaces, which needs root. Nothing outside of them is \
             touched. Run: sudo -E make demo\n",
        );
        return ExitCode::from(EXIT_UNAVAILABLE);
    }
    match demo::run(&mut io::stdout(), demo::takes_colours()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo: {error:#}\n"));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = io::stderr().write_all(text.as_bytes());
}
