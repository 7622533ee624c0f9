// SPDX-License-Identifier: Apache-2.0
//! `nodens run`: the daemon.

use std::process::ExitCode;

use clap::Command;

use super::exit::Exit;
use super::output;
use crate::config::{Config, Loaded, Sources};

/// The flag that makes a start fail where no upstream can be reached.
pub(super) const REQUIRE_UPSTREAM: &str = "require-upstream";

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    Command::new("run")
        .about("Answers queries until SIGTERM")
        .arg(super::switch(
            REQUIRE_UPSTREAM,
            "End with exit code 75 where no upstream can be reached within 10 s of the start",
        ))
}

/// Loads the configuration and starts the daemon. A configuration with problems starts nothing.
pub(super) fn execute(sources: Sources, start: fn(Loaded, Sources) -> ExitCode) -> ExitCode {
    match Config::load(&sources) {
        Ok(loaded) => start(loaded, sources),
        Err(problems) => {
            output::complain_of(&problems);
            Exit::Usage.into()
        }
    }
}
