// SPDX-License-Identifier: Apache-2.0
//! `nodens chart hold|wait`: what the hooks of the Helm chart run, and nobody else. Not listed in
//! the help; docs/adr/0040 says why they are here.

mod api;
mod hold;
mod rollout;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use super::exit::Exit;

/// The subcommand with its own.
pub(super) fn command() -> Command {
    Command::new("chart")
        .about("What the hooks of the Helm chart run")
        .hide(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(hold::command())
        .subcommand(wait::command())
}

/// Runs the one that was asked for.
pub(super) fn execute(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    match matches.subcommand() {
        Some(("hold", _)) => hold::execute(),
        Some(("wait", matches)) => wait::execute(matches, environment),
        _ => Exit::Bug.into(), // clap requires one of them
    }
}
