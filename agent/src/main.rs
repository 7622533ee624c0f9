// SPDX-License-Identifier: Apache-2.0
//! The `nodens` program: arguments, configuration, daemon, exit code.

use std::process::ExitCode;

use nodens::cli::{self, exit::Exit, output};

fn main() -> ExitCode {
    cli::execute(
        std::env::args_os(),
        std::env::vars_os(),
        |_loaded, _sources| {
            output::complain("nodens run: the daemon is not wired\n");
            Exit::Bug.into()
        },
    )
}
