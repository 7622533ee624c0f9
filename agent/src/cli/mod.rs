// SPDX-License-Identifier: Apache-2.0
//! The command line: arguments in, exit code out. One file a subcommand. The environment is read
//! here, once, and nowhere else.

mod asking;
pub mod cache;
pub mod chart;
pub mod check;
mod client;
pub mod clients;
pub mod convert;
pub mod exit;
pub mod netsetup;
pub(crate) mod node_cache;
pub mod output;
pub mod retire;
pub mod run;
pub mod status;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::keys::{KEYS, Key};
use crate::config::source::DEFAULT_FILE;
use crate::config::{Loaded, Sources};
use exit::Exit;

/// The flag that asks for JSON.
const JSON: &str = "json";
/// What it is good for.
const JSON_HELP: &str = "Write JSON instead of words";

/// Runs the command that the arguments name, the program's own name first.
#[must_use]
pub fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    start: fn(Loaded, Sources) -> ExitCode,
) -> ExitCode {
    let (arguments, node_cache) = node_cache::take(arguments.into_iter().collect());
    let sources = |matches: &ArgMatches, environment| Sources {
        corefile: node_cache.clone(),
        ..sources(matches, environment)
    };
    let environment = environment.into_iter().collect::<Vec<_>>();
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let text = error.render().to_string();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    output::print(&text);
                    Exit::Done.into()
                }
                _ => {
                    output::complain(&text);
                    Exit::Usage.into()
                }
            };
        }
    };
    match matches.subcommand() {
        Some(("run", matches)) => run::execute(sources(matches, environment), start),
        Some(("check", matches)) => check::execute(sources(matches, environment)),
        Some(("clients", matches)) => clients::execute(matches, &sources(matches, environment)),
        Some(("retire", matches)) => retire::execute(matches, &sources(matches, environment)),
        Some(("convert", matches)) => {
            let file = matches.get_one::<PathBuf>(convert::FILE).cloned();
            convert::execute(file, &sources(matches, environment))
        }
        Some(("status", matches)) => status::execute(matches, &sources(matches, environment)),
        Some(("cache", matches)) => {
            cache::execute(matches, |matches| sources(matches, environment))
        }
        Some(("chart", matches)) => chart::execute(matches, environment),
        Some(("netsetup", matches)) => {
            netsetup::execute(matches, |matches| sources(matches, environment))
        }
        _ => Exit::Bug.into(), // clap requires one of the subcommands
    }
}

/// The whole command line.
fn command() -> Command {
    Command::new("nodens")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A node-local DNS cache for Kubernetes")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_configuration(run::command()))
        .subcommand(with_configuration(check::command()))
        .subcommand(with_configuration(clients::command()))
        .subcommand(convert::command())
        .subcommand(with_configuration(retire::command()))
        .subcommand(with_configuration(status::command()))
        .subcommand(cache::command(with_configuration))
        .subcommand(chart::command())
        .subcommand(netsetup::command(with_configuration))
}

/// Adds `--config` and a flag for each key.
fn with_configuration(command: Command) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!(
            "The configuration file [default: {DEFAULT_FILE}, if it exists]"
        ));
    command
        .arg(file)
        .args(KEYS.iter().filter(|key| key.is_overridable()).map(flag))
        .after_help(
            "Flags are stronger than environment variables (NODENS_LISTEN_PORT for --listen-port), \
             and those than the file. docs/configuration.md explains every key.\n\
             run, check and netsetup take node-cache's flags, too, and --corefile FILE in the place of \
             --config: docs/corefile.md.",
        )
}

fn flag(key: &'static Key) -> Arg {
    // The first sentence; Markdown's quotes say nothing on a terminal.
    let sentence = key.doc.split(". ").next().unwrap_or(key.doc);
    let sentence = sentence.trim_end_matches('.').replace('`', "");
    let default = key.default_text().replace('`', "");
    Arg::new(key.path)
        .long(key.flag())
        .value_name(key.value_name())
        .help_heading("Overrides of the configuration file")
        .help(format!("{sentence} [default: {default}]"))
}

/// What the configuration is loaded from, at start and at every reload.
fn sources(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Sources {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let flags: BTreeMap<_, _> = KEYS
        .iter()
        .filter(|key| key.is_overridable())
        .filter_map(|key| {
            // convert has none of them.
            let value = matches.try_get_one::<String>(key.path).ok()??;
            Some((key.path, value.clone()))
        })
        .collect();
    Sources {
        file: matches
            .try_get_one::<PathBuf>("config")
            .ok()
            .flatten()
            .cloned(),
        environment: environment
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        flags,
        require_upstream: matches
            .try_get_one::<bool>(run::REQUIRE_UPSTREAM)
            .is_ok_and(|given| given.copied().unwrap_or_default()),
        ..Sources::default()
    }
}

/// A flag without a value.
fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Sources, clap::Error> {
        let matches = command().try_get_matches_from(arguments)?;
        let (_, matches) = matches.subcommand().unwrap();
        Ok(sources(matches, []))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_overridable_key_has_its_flag() {
        for key in KEYS.iter().filter(|key| key.is_overridable()) {
            let flag = format!("--{}", key.flag());
            for command in ["run", "check"] {
                let sources = parse(&["nodens", command, &flag, "x"]).unwrap();
                assert_eq!(sources.flags, BTreeMap::from([(key.path, "x".to_owned())]));
            }
        }
    }

    #[test]
    fn require_upstream_belongs_to_run() {
        let run = ["nodens", "run", "--require-upstream"];
        assert!(parse(&run).unwrap().require_upstream);
        assert!(!parse(&["nodens", "run"]).unwrap().require_upstream);
        assert!(!parse(&["nodens", "check"]).unwrap().require_upstream);
        assert!(parse(&["nodens", "check", "--require-upstream"]).is_err());
    }

    #[test]
    fn flags_of_later_versions_are_refused() {
        assert!(parse(&["nodens", "run", "--follow", "x"]).is_err());
        assert!(parse(&["nodens", "run", "--listen-port", "1", "--listen-port", "2"]).is_err());
    }
}
