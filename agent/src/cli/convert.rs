// SPDX-License-Identifier: Apache-2.0
//! `nodens convert`: a Corefile of node-cache or CoreDNS as a configuration, on standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, Command, value_parser};

use super::exit::Exit;
use super::output;
use crate::config::Sources;
use crate::config::corefile::{NodeCache, convert};

/// The argument that names the Corefile.
pub(super) const FILE: &str = "file";

/// The subcommand.
pub(super) fn command() -> Command {
    let file = Arg::new(FILE)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The Corefile, or node-cache's template of one");
    Command::new("convert")
        .about("Writes what a Corefile comes to as a configuration file")
        .arg(file)
        .after_help(
            "node-cache's flags are taken, too, e.g. -localip 169.254.20.10,10.96.0.10 -upstreamsvc kube-dns-upstream. \
             docs/corefile.md has the table of directives.",
        )
}

/// Writes YAML to standard output, or every problem to standard error.
pub(super) fn execute(file: Option<PathBuf>, sources: &Sources) -> ExitCode {
    let mut node_cache = match (file, &sources.corefile) {
        (Some(file), Some(node_cache)) => NodeCache {
            file,
            ..node_cache.clone()
        },
        (Some(file), None) => NodeCache::new(file),
        (None, Some(node_cache)) => node_cache.clone(),
        (None, None) => {
            output::complain("name the Corefile: nodens convert FILE\n");
            return Exit::Usage.into();
        }
    };
    node_cache.takes_pipes = true;
    match convert(&node_cache, &sources.environment) {
        Ok(yaml) => {
            output::print(&yaml);
            Exit::Done.into()
        }
        Err(problems) => {
            output::complain_of(&problems);
            Exit::Usage.into()
        }
    }
}
