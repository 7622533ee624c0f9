// SPDX-License-Identifier: Apache-2.0
//! A client's way to the server: one UDP socket, or a few TCP connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use socket2::{Domain, Socket, Type};

use super::mmsg::Batch;
use super::question::LONGEST_QUERY;

/// Datagrams a system call.
const BATCH: usize = 64;
/// Octets of the largest reply over UDP. An odd number of cache lines, see `echo`.
const ROOM: usize = 25 * 64;
/// The receive buffer we ask for: no reply may be lost on our side.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// How long a wait without a limit lasts at most, so that timeouts are seen.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// How long a connection to the server may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until some come, or a little while.
    ForReplies,
    /// As `ForReplies`, but no longer than this.
    AtMost(Duration),
}

/// A way to the server. Queries are put in a queue, which is sent as one.
pub(super) trait Link {
    /// Puts a query in the queue. False if the queue is full; flush then.
    fn queue(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool;
    /// Sends what is in the queue. Returns as `receive` does.
    fn flush(&mut self) -> io::Result<u64>;
    /// Waits, and hands on each reply that is there. Returns how many queries were refused by the
    /// server's host.
    fn receive(&mut self, wait: Wait, each: impl FnMut(&[u8])) -> io::Result<u64>;
}

/// One connected UDP socket.
#[derive(Debug)]
pub(super) struct Udp {
    socket: OwnedFd,
    queries: Batch,
    queued: usize,
    replies: Batch,
}

impl Udp {
    pub(super) fn connect(server: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.connect(&server.into())?;
        let socket: UdpSocket = socket.into();
        socket.set_read_timeout(Some(LONGEST_WAIT))?;
        Ok(Self {
            socket: socket.into(),
            queries: Batch::new(BATCH, LONGEST_QUERY + 45, false),
            queued: 0,
            replies: Batch::new(BATCH, ROOM, false),
        })
    }
}

impl Link for Udp {
    #[inline]
    fn queue(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.queued == self.queries.capacity() {
            return false;
        }
        let len = write(self.queries.buffer(self.queued));
        self.queries.set_len(self.queued, len);
        self.queued += 1;
        true
    }

    fn flush(&mut self) -> io::Result<u64> {
        let mut refused = 0;
        let mut from = 0;
        while from < self.queued {
            match self.queries.send(self.socket.as_fd(), from, self.queued) {
                Ok(sent) => from += sent,
                // The error of an earlier datagram that found no server; it is told once.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
                Err(error) => return Err(error),
            }
        }
        self.queued = 0;
        Ok(refused)
    }

    fn receive(&mut self, wait: Wait, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        let block = match wait {
            Wait::ForReplies => true,
            Wait::AtMost(span) => {
                let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
                if poll(&mut sockets, Some(&timespec(span)))? == 0 {
                    return Ok(0);
                }
                false
            }
        };
        match self.replies.receive(self.socket.as_fd(), block) {
            Ok(received) => {
                for slot in 0..received {
                    each(self.replies.message(slot));
                }
                Ok(0)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(0),
                ErrorKind::ConnectionRefused => Ok(1),
                _ => Err(error),
            },
        }
    }
}

/// Some TCP connections (RFC 1035 section 4.2.2), each with as many queries under way as come.
#[derive(Debug)]
pub(super) struct Tcp {
    connections: Vec<Connection>,
    next: usize,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Tcp {
    pub(super) fn connect(server: SocketAddr, connections: usize) -> io::Result<Self> {
        let connections = (0..connections.max(1))
            .map(|_| {
                let stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Connection {
                    stream,
                    outgoing: Vec::new(),
                    incoming: Vec::new(),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            connections,
            next: 0,
        })
    }
}

impl Link for Tcp {
    fn queue(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let count = self.connections.len();
        let outgoing = &mut self.connections[self.next].outgoing;
        self.next = (self.next + 1) % count;
        let start = outgoing.len();
        outgoing.resize(start + 2 + LONGEST_QUERY, 0);
        let len = write(&mut outgoing[start + 2..]);
        let prefix = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        outgoing[start..start + 2].copy_from_slice(&prefix);
        outgoing.truncate(start + 2 + len);
        true
    }

    fn flush(&mut self) -> io::Result<u64> {
        for connection in &mut self.connections {
            connection.write()?;
        }
        Ok(0)
    }

    fn receive(&mut self, wait: Wait, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        let span = match wait {
            Wait::ForReplies => LONGEST_WAIT,
            Wait::AtMost(span) => span,
        };
        let mut sockets: Vec<PollFd<'_>> = self
            .connections
            .iter()
            .map(|connection| {
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, !connection.outgoing.is_empty());
                PollFd::new(&connection.stream, flags)
            })
            .collect();
        poll(&mut sockets, Some(&timespec(span)))?;
        let ready: Vec<PollFlags> = sockets.iter().map(PollFd::revents).collect();
        for (connection, ready) in self.connections.iter_mut().zip(ready) {
            if ready.contains(PollFlags::OUT) {
                connection.write()?;
            }
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                connection.read(&mut each)?;
            }
        }
        Ok(0)
    }
}

impl Connection {
    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        match self.stream.write(&self.outgoing) {
            Ok(written) => _ = self.outgoing.drain(..written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads what is there and hands on each complete message.
    fn read(&mut self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut octets = [0; 16 << 10];
        match self.stream.read(&mut octets) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(read) => self.incoming.extend_from_slice(&octets[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut rest = &self.incoming[..];
        while let Some((message, behind)) = split_message(rest) {
            each(message);
            rest = behind;
        }
        let used = self.incoming.len() - rest.len();
        self.incoming.drain(..used);
        Ok(())
    }
}

/// The first message of a stream with length prefixes and what follows it, once it is complete.
pub(super) fn split_message(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = stream.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// A span as the kernel has it.
fn timespec(span: Duration) -> Timespec {
    Timespec::try_from(span).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    })
}
