// SPDX-License-Identifier: Apache-2.0
//! What the commands have in common that ask the running agent for a page: where it is, what it says,
//! and what it means that it says nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::client::{self, Reply};
use super::exit::Exit;
use super::output;
use crate::config::{Config, Sources};
use crate::inspect::page::Refused;

/// Longest wait for the agent at each step. Its cold thread answers in some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// What to do about an agent that does not answer.
const IF_SILENT: &str = "its log says more, and kubelet restarts it where /healthz is asked";

/// Where the agent's admin socket is.
pub(super) fn socket(sources: &Sources) -> Result<PathBuf, Exit> {
    match Config::load_for(sources, &["admin.socket"]) {
        Ok(config) => Ok(config.admin.socket.value),
        Err(problems) => {
            output::complain_of(&problems);
            Err(Exit::Usage)
        }
    }
}

/// Asks for a page and shows it: as it is, or in words.
pub(super) fn show<P: DeserializeOwned>(
    socket: &Path,
    method: &str,
    page: &str,
    is_json: bool,
    words: impl FnOnce(&P) -> String,
) -> Exit {
    let text = match reply(socket, method, page, is_json).and_then(|it| text(socket, it, is_json)) {
        Ok(text) => text,
        Err(exit) => return exit,
    };
    if is_json {
        output::print(&text);
        return Exit::Done;
    }
    match serde_json::from_str(&text) {
        Ok(page) => {
            output::print(&words(&page));
            Exit::Done
        }
        Err(_) => foreign(socket),
    }
}

/// Reads a page, for a command that judges it. Where no agent runs here it is what the command makes
/// of that.
pub(super) fn judge<P: DeserializeOwned>(
    socket: &Path,
    page: &str,
    words: impl FnOnce(&P) -> Result<String, String>,
    without_an_agent: impl FnOnce(&io::Error) -> Result<String, String>,
) -> Exit {
    let said = match client::ask(socket, "GET", page, PATIENCE) {
        Ok(reply) => good(socket, reply, false)
            .and_then(|reply| text(socket, reply, false))
            .and_then(|text| serde_json::from_str(&text).map_err(|_| foreign(socket)))
            .map(|page| words(&page)),
        Err(error) if client::is_nobody(&error) => Ok(without_an_agent(&error)),
        Err(error) => Err(failed(socket, &error, false)),
    };
    match said {
        Ok(Ok(words)) => {
            output::print(&words);
            Exit::Done
        }
        Ok(Err(words)) => {
            output::complain(&words);
            Exit::Network
        }
        Err(exit) => exit,
    }
}

/// Asks for a page, whose status is then 200.
pub(super) fn reply(socket: &Path, method: &str, page: &str, is_json: bool) -> Result<Reply, Exit> {
    match client::ask(socket, method, page, PATIENCE) {
        Ok(reply) => good(socket, reply, is_json),
        Err(error) => Err(failed(socket, &error, is_json)),
    }
}

/// The whole of a page.
fn text(socket: &Path, reply: Reply, is_json: bool) -> Result<String, Exit> {
    reply
        .text()
        .map_err(|error| failed(socket, &error, is_json))
}

/// A reply whose status is 200.
fn good(socket: &Path, reply: Reply, is_json: bool) -> Result<Reply, Exit> {
    let status = reply.status;
    if status == 200 {
        return Ok(reply);
    }
    let exit = match status {
        400 => Exit::Usage,
        _ => Exit::Network,
    };
    let text = reply.text().unwrap_or_default();
    let path = socket.display();
    let errors = match serde_json::from_str::<Refused>(&text) {
        Ok(refused) => refused.errors,
        // An agent of an earlier version says so in words.
        Err(_) => vec![format!("the agent at {path}: {}", text.trim())],
    };
    complain(&errors, is_json);
    Err(exit)
}

/// Says that the agent could not be asked.
pub(super) fn failed(socket: &Path, error: &io::Error, is_json: bool) -> Exit {
    complain(&[explain(socket, error)], is_json);
    Exit::Network
}

/// Why the agent could not be asked, and what to do.
pub(super) fn explain(socket: &Path, error: &io::Error) -> String {
    client::explain(socket, error, IF_SILENT)
}

/// Says that the agent's answer is not what this program knows.
pub(super) fn foreign(socket: &Path) -> Exit {
    let path = socket.display();
    output::complain(&format!(
        "the agent at {path} is of another version than this program: give --json, or run its own \
         program\n"
    ));
    Exit::Network
}

fn complain(errors: &[String], is_json: bool) {
    if is_json {
        output::print(&format!("{}\n", json!({ "errors": errors })));
    } else {
        let lines: String = errors.iter().map(|error| format!("{error}\n")).collect();
        output::complain(&lines);
    }
}
