// SPDX-License-Identifier: Apache-2.0
//! `nodens retire`: has the agent that runs here steer and mend no more, over its admin socket.

use std::process::ExitCode;

use clap::Command;

use super::exit::Exit;
use super::{output, socket};
use crate::admin::RETIRE;
use crate::config::{Config, Sources};

/// The flag that makes it no error that no agent runs here.
pub(super) const IF_RUNNING: &str = "if-running";

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    Command::new("retire")
        .about(
            "Has the running agent steer and mend no more, and go on answering (before netsetup \
             down)",
        )
        .arg(super::switch(
            IF_RUNNING,
            "Where no agent runs here there is nothing to do: exit 0",
        ))
}

/// Asks, and says what came of it.
pub(super) fn execute(sources: &Sources, only_if_running: bool) -> ExitCode {
    let loaded = match Config::load(sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            output::complain_of(&problems);
            return Exit::Usage.into();
        }
    };
    let path = &loaded.config.admin.socket.value;
    match socket::ask(path, "POST", RETIRE) {
        Ok((200, text)) => {
            output::print(&text);
            Exit::Done.into()
        }
        Ok((_, text)) => {
            output::complain(&format!("the agent at {}: {text}", path.display()));
            Exit::Network.into()
        }
        Err(error) if only_if_running && socket::is_nobody(&error) => {
            output::print("nothing to do: no agent runs here\n");
            Exit::Done.into()
        }
        Err(error) => {
            output::complain(&format!("{}\n", socket::explain(path, &error)));
            Exit::Network.into()
        }
    }
}
