// SPDX-License-Identifier: Apache-2.0
//! `nodens retire`: has the agent that runs here steer and mend no more, over its admin socket.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command};

use super::exit::Exit;
use super::{asking, client, output};
use crate::admin::RETIRE;
use crate::config::Sources;

/// The flag that makes it no error that no agent runs here.
const IF_RUNNING: &str = "if-running";

/// Longest wait for the agent's answer: it lets go of its connections first, within
/// `limits.drainTimeout`, which is 120 s at most.
const PATIENCE: Duration = Duration::from_secs(130);

/// What to do about an agent that does not answer.
const IF_SILENT: &str = "stop it instead, which ends the steering too";

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
pub(super) fn execute(matches: &ArgMatches, sources: &Sources) -> ExitCode {
    let path = match asking::socket(sources) {
        Ok(path) => path,
        Err(exit) => return exit.into(),
    };
    let said = client::ask(&path, "POST", RETIRE, PATIENCE).and_then(|reply| {
        let status = reply.status;
        Ok((status, reply.text()?))
    });
    match said {
        Ok((200, text)) => {
            output::print(&text);
            Exit::Done.into()
        }
        Ok((_, text)) => {
            output::complain(&format!("the agent at {}: {text}", path.display()));
            Exit::Network.into()
        }
        Err(error) if matches.get_flag(IF_RUNNING) && client::is_nobody(&error) => {
            output::print("nothing to do: no agent runs here\n");
            Exit::Done.into()
        }
        Err(error) => {
            let why = client::explain(&path, &error, IF_SILENT);
            output::complain(&format!("{why}\n"));
            Exit::Network.into()
        }
    }
}
