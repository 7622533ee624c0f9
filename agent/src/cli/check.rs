// SPDX-License-Identifier: Apache-2.0
//! `nodens check`: reads the configuration as `nodens run` would, and says what is wrong with it.

use std::process::ExitCode;

use clap::Command;

use super::exit::Exit;
use super::output;
use crate::config::{Config, Loaded, Sources, show_size};

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    Command::new("check").about("Checks the configuration without starting anything")
}

/// Says `ok` and what would run, or every problem.
pub(super) fn execute(mut sources: Sources) -> ExitCode {
    if let Some(node_cache) = &mut sources.corefile {
        node_cache.takes_pipes = true;
    }
    match Config::load(&sources) {
        Ok(loaded) => {
            let mut warnings = String::new();
            for warning in &loaded.warnings {
                warnings.push_str(&format!("warning: {warning}\n"));
            }
            output::complain(&warnings);
            output::print(&summary(&loaded));
            Exit::Done.into()
        }
        Err(problems) => {
            output::complain_of(&problems);
            Exit::Usage.into()
        }
    }
}

/// One line: `ok: FILE (2 zones, listening on 169.254.20.10 port 53, cache 64MiB)`.
fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let file = loaded.file.as_ref().map_or_else(
        || "defaults, environment and flags".to_owned(),
        |file| file.display().to_string(),
    );
    let addresses: Vec<_> = config
        .listen
        .addresses
        .iter()
        .map(|address| address.value.to_string())
        .collect();
    let number = config.zones.len();
    let plural = if number == 1 { "" } else { "s" };
    format!(
        "ok: {file} ({number} zone{plural}, listening on {} port {}, cache {})\n",
        addresses.join(", "),
        config.listen.port.value,
        show_size(config.cache.size_bytes)
    )
}
