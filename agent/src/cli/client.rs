// SPDX-License-Identifier: Apache-2.0
//! Asks the agent that runs here, over its admin socket: HTTP/1.1, one request a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// Longest line of a head, or of a chunk's length, in octets.
const LONGEST: u64 = 8 << 10;
/// Most lines of a head.
const MOST_LINES: usize = 64;
/// Octets of a page that are read. A dump is read line by line.
pub(super) const LARGEST_PAGE: u64 = 16 << 20;

/// What the agent answers.
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The page.
    pub(super) body: BufReader<Body<BufReader<UnixStream>>>,
}

impl Reply {
    /// The whole of a page.
    pub(super) fn text(self) -> io::Result<String> {
        let mut text = String::new();
        self.body.take(LARGEST_PAGE).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// A body as its octets.
#[derive(Debug)]
pub(super) struct Body<R> {
    from: R,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many octets are left.
    Length(u64),
    /// Chunks (RFC 9112 section 7.1); so many octets of this one are left.
    Chunk { left: u64, is_first: bool },
    /// It is over.
    Over,
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunk { left: 0, is_first } = self.framing {
            if !is_first && !line(&mut self.from)?.is_empty() {
                return Err(no_http());
            }
            let head = line(&mut self.from)?;
            let digits = head.split(';').next().unwrap_or_default().trim();
            let left = u64::from_str_radix(digits, 16).map_err(|_| no_http())?;
            self.framing = match left {
                0 => Framing::Over,
                left => Framing::Chunk {
                    left,
                    is_first: false,
                },
            };
        }
        let (Framing::Length(left) | Framing::Chunk { left, .. }) = &mut self.framing else {
            return Ok(0);
        };
        if *left == 0 || to.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(to.len());
        let read = self.from.read(&mut to[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= read as u64;
        Ok(read)
    }
}

/// Sends a request without a body and reads the head of what comes back. `patience` is for each
/// step.
pub(super) fn ask(path: &Path, method: &str, page: &str, patience: Duration) -> io::Result<Reply> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // An agent that hangs takes no connections, and the kernel has no room for more at some point.
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut stream = UnixStream::from(OwnedFd::from(socket));
    let request = format!(
        "{method} {page} HTTP/1.1\r\nHost: nodens\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    read_head(BufReader::new(stream))
}

fn read_head(mut from: BufReader<UnixStream>) -> io::Result<Reply> {
    let (status, framing) = head(&mut from)?;
    let body = BufReader::new(Body { from, framing });
    Ok(Reply { status, body })
}

/// Status, and how the body is framed.
fn head(from: &mut impl BufRead) -> io::Result<(u16, Framing)> {
    let first = line(from)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(no_http)?;
    let mut framing = Framing::Length(0);
    for _ in 0..MOST_LINES {
        let field = line(from)?;
        if field.is_empty() {
            return Ok((status, framing));
        }
        let (name, value) = field.split_once(':').ok_or_else(no_http)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.parse().map_err(|_| no_http())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(no_http());
            }
            framing = Framing::Chunk {
                left: 0,
                is_first: true,
            };
        }
    }
    Err(no_http())
}

/// A line without its end.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    from.take(LONGEST).read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.strip_suffix('\r').unwrap_or(text).to_owned()),
        None if text.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(no_http()),
    }
}

fn no_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it says is no HTTP")
}

/// A value as it may stand in a query string (RFC 3986 section 2.1).
pub(super) fn encode(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(letter).collect()
}

/// Whether it means that no agent runs here.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// What it means that the socket cannot be used, and what to do. `if_silent` is for an agent that
/// does not answer.
pub(super) fn explain(path: &Path, error: &io::Error, if_silent: &str) -> String {
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
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the agent at {path} does not answer: its cold thread may hang; {if_silent}")
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => {
            format!("the agent at {path} ended the connection before it had said all")
        }
        _ => format!("cannot speak to the agent at {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(u16, String)> {
        let mut from = BufReader::with_capacity(3, text.as_bytes());
        let (status, framing) = head(&mut from)?;
        let mut said = String::new();
        Body { from, framing }.read_to_string(&mut said)?;
        Ok((status, said))
    }

    #[test]
    fn a_page_is_status_and_text_however_it_is_framed() {
        for whole in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\nmore",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n2;x=y\r\nk\n\r\n0\r\n\r\n",
        ] {
            assert_eq!(read(whole).unwrap(), (200, "ok\n".to_owned()), "{whole}");
        }
        let empty = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(empty).unwrap(), (404, String::new()));
    }

    #[test]
    fn what_is_cut_off_or_is_no_http_is_an_error() {
        for (wrong, kind) in [
            ("", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\n", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 x\r\n\r\n", io::ErrorKind::InvalidData),
            ("SSH-2.0\r\n\r\n", io::ErrorKind::InvalidData),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok\n",
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nok\n\r\n",
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nok",
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                io::ErrorKind::InvalidData,
            ),
        ] {
            assert_eq!(read(wrong).unwrap_err().kind(), kind, "{wrong:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(1 << 20));
        assert!(read(&endless).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1000));
        assert!(read(&many).is_err());
    }

    #[test]
    fn a_value_is_encoded_so_that_nothing_in_it_ends_it() {
        assert_eq!(encode("a-1._b~"), "a-1._b~");
        assert_eq!(encode(r"a\.b &=%é"), "a%5C.b%20%26%3D%25%C3%A9");
    }
}
