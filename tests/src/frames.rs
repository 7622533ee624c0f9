// SPDX-License-Identifier: Apache-2.0
//! DNS messages on a TCP stream: two octets of length, then the message (RFC 1035 section 4.2.2).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Cuts a stream into messages. Keeps what it read ahead.
#[derive(Debug)]
pub struct Frames {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
}

impl Frames {
    /// Reads from `stream`, whose read timeout applies to every wait for bytes.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next message without its length; `None` when the peer closed between two messages.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closed in mid-message, `WouldBlock` at the read timeout, and
    /// what the socket reports.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let mut chunk = [0; 16_384];
            match (&*self.stream).read(&mut chunk) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes([
            *self.buffer.first()?,
            *self.buffer.get(1)?,
        ]));
        let message = self.buffer.get(2..2 + length)?.to_vec();
        self.buffer.drain(..2 + length);
        Some(message)
    }
}

/// The message with its length before it.
///
/// # Panics
/// When the message is above 65,535 octets.
#[must_use]
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a DNS message is at most 65,535 octets");
    let mut bytes = Vec::with_capacity(message.len() + 2);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// Writes one message in a single write.
///
/// # Errors
/// What the socket reports.
pub fn write(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&frame(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, Frames) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, Frames::new(Arc::new(far)))
    }

    #[test]
    fn messages_are_found_however_the_bytes_arrive() {
        let (mut near, mut frames) = pair();
        let bytes = [frame(b"first"), frame(b""), frame(b"third")].concat();
        let writer = std::thread::spawn(move || {
            near.set_nodelay(true).unwrap();
            for byte in bytes {
                near.write_all(&[byte]).unwrap();
            }
        });
        assert_eq!(frames.receive().unwrap().unwrap(), b"first");
        assert_eq!(frames.receive().unwrap().unwrap(), b"");
        assert_eq!(frames.receive().unwrap().unwrap(), b"third");
        assert!(frames.receive().unwrap().is_none());
        writer.join().unwrap();
    }

    #[test]
    fn an_end_in_mid_message_is_an_error() {
        let (mut near, mut frames) = pair();
        near.write_all(&[0, 5, b'h', b'a']).unwrap();
        drop(near);
        let error = frames.receive().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
