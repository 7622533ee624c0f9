// SPDX-License-Identifier: Apache-2.0
//! The near end of the admin socket: one question, one answer.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the agent's answer: to retire it lets go of its connections first, within
/// `limits.drainTimeout`, which is 120 s at most.
const PATIENCE: Duration = Duration::from_secs(130);

/// Octets of an answer that are read.
const MOST: u64 = 64 << 10;

/// Asks for a page without a body; gives back status and text.
pub(super) fn ask(path: &Path, method: &str, page: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "{method} {page} HTTP/1.1\r\nHost: nodens\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("what it says is no HTTP"))
}

/// Whether it means that no agent runs here.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// What it means that the socket cannot be used.
pub(super) fn explain(path: &Path, error: &io::Error) -> String {
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
