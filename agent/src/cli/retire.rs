// SPDX-License-Identifier: Apache-2.0
//! `nodens retire`: has the agent that runs here steer and mend no more, over its admin socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Command;

use super::exit::Exit;
use super::output;
use crate::admin::RETIRE;
use crate::config::{Config, Sources};

/// Longest wait for the agent's answer: it lets go of its connections first, within
/// `limits.drainTimeout`, which is 120 s at most.
const PATIENCE: Duration = Duration::from_secs(130);

/// Octets of an answer that are read.
const MOST: u64 = 64 << 10;

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    Command::new("retire").about(
        "Has the running agent steer and mend no more, and go on answering (before netsetup down)",
    )
}

/// Asks, and says what came of it.
pub(super) fn execute(sources: &Sources) -> ExitCode {
    let loaded = match Config::load(sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            output::complain_of(&problems);
            return Exit::Usage.into();
        }
    };
    let path = &loaded.config.admin.socket.value;
    match post(path, RETIRE) {
        Ok((200, text)) => {
            output::print(&text);
            Exit::Done.into()
        }
        Ok((_, text)) => {
            output::complain(&format!("the agent at {}: {text}", path.display()));
            Exit::Network.into()
        }
        Err(error) => {
            output::complain(&format!("{}\n", explain(path, &error)));
            Exit::Network.into()
        }
    }
}

/// What it means that the socket cannot be used.
fn explain(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no agent runs here: there is no socket {path}. Where admin.socket is set for the agent, \
             give the same file with --config, or --admin-socket"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "no agent runs here: nobody listens on {path}, which an agent left when it died"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{path} is for root and the agent's own user alone: run this as one of them")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
            "the agent at {path} does not answer: its cold thread may hang; stop it instead, which \
             ends the steering too"
        ),
        _ => format!("cannot speak to the agent at {path}: {error}"),
    }
}

/// Sends a POST without a body; gives back status and text.
fn post(path: &Path, page: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST {page} HTTP/1.1\r\nHost: nodens\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("what it says is no HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_text() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        assert_eq!(parse(answer), Some((200, "ok\n".to_owned())));
        for wrong in ["", "HTTP/1.1 200 OK", "HTTP/1.1 x\r\n\r\n", "SSH\r\n\r\n"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
