// SPDX-License-Identifier: Apache-2.0
//! The `nodens` program: arguments, configuration, daemon, exit code.

use std::process::ExitCode;

use nodens::{cli, daemon};

fn main() -> ExitCode {
    cli::execute(std::env::args_os(), std::env::vars_os(), daemon::run)
}
