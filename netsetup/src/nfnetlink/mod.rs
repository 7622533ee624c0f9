// SPDX-License-Identifier: Apache-2.0
//! Talks to nf_tables over one netlink socket: a transaction, or a reading.
//!
//! The kernel works on what is sent before `send` returns, and answers into the socket's own queue.
//! So nothing here ever waits for an answer: what is not there is not to come.

mod batch;
pub(crate) mod element;
pub(crate) mod read;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, NetlinkBuffer, NlaBuffer, NlasIterator,
    parse_string,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{
    set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force,
};

pub(crate) use self::batch::Batch;
use crate::error::Error;

/// Room for the largest batch, which goes in one send: some 1,000 rules.
const SEND_BYTES: usize = 1 << 20;

/// Room for the answers to one batch: an error for each of its messages at worst.
const RECEIVE_BYTES: usize = 1 << 20;

/// Room for one datagram: the kernel fills up to 32 KiB of a dump (`NLMSG_GOODSIZE` and what
/// `netlink_recvmsg` has seen us ask for).
const DATAGRAM_BYTES: usize = 32 << 10;

/// Most datagrams that are read in a row: beyond it something is wrong, and not with us.
const MOST_DATAGRAMS: usize = 100_000;

/// How often a reading begins anew when the ruleset changed meanwhile.
const TRIES: u32 = 20;

/// `NLM_F_DUMP_INTR`: what was read does not belong together.
const DUMP_INTERRUPTED: u16 = 0x10;

/// Octets of a netlink header (RFC 3549 section 2.3.2).
const HEADER_BYTES: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words about an error.
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;

/// A netlink socket for nf_tables.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    port_id: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What an answer to a message is.
enum Answer<'a> {
    /// The attributes of an object that was asked for.
    Object(&'a [u8]),
    /// The end: of a dump, or the word that a message was carried out.
    Done,
    /// A message was refused.
    Refused(io::Error, Option<String>),
}

impl Connection {
    /// Opens the socket. It is closed on exec, and never waits.
    pub(crate) fn open() -> Result<Self, Error> {
        let failed = |source: io::Error| {
            let step = "open a netlink socket for nf_tables".to_owned();
            // No such protocol: the kernel was built without nfnetlink.
            match source.raw_os_error() {
                Some(code) if code == Errno::PROTONOSUPPORT.raw_os_error() => {
                    Error::NoNfTables { step, source }
                }
                _ => Error::Socket { step, source },
            }
        };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        let port_id = socket.bind_auto().map_err(failed)?.port_number();
        socket.set_non_blocking(true).map_err(failed)?;
        // Both help errors alone; kernels before 4.12 have neither.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Beyond the limit of the system where that is permitted; else as far as it goes.
        if set_socket_send_buffer_size_force(&socket, SEND_BYTES).is_err() {
            let _ = set_socket_send_buffer_size(&socket, SEND_BYTES);
        }
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
        Ok(Self {
            socket,
            port_id,
            sequence: 0,
            buffer: vec![0; DATAGRAM_BYTES],
        })
    }

    /// The port that the kernel gave the socket.
    pub(crate) const fn port_id(&self) -> u32 {
        self.port_id
    }

    /// The number of the next message.
    const fn next_sequence(&mut self) -> u32 {
        // 0 is what the kernel sends unasked.
        self.sequence = match self.sequence.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        self.sequence
    }

    fn send(&self, bytes: &[u8], step: &str) -> Result<(), Error> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let step = step.to_owned();
                    return Err(Error::Socket { step, source });
                }
            }
        }
    }

    /// Gives every answer that is in the queue to `each`, with the number of its message, and
    /// empties the queue whatever `each` says of it. Says whether answers were lost for want of room.
    fn answers(
        &mut self,
        step: &str,
        mut each: impl FnMut(u32, u16, Answer<'_>) -> Result<(), &'static str>,
    ) -> Result<bool, Error> {
        let mut wrong = None;
        let mut is_short = false;
        for _ in 0..MOST_DATAGRAMS {
            let received =
                rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT);
            let length = match received {
                Ok((length, whole)) if whole <= length => length,
                Ok(_) => {
                    wrong = wrong.or(Some("a datagram longer than there can be"));
                    continue;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => {
                    is_short = true;
                    continue;
                }
                Err(errno) => {
                    return Err(Error::Socket {
                        step: step.to_owned(),
                        source: errno.into(),
                    });
                }
            };
            for message in messages(&self.buffer[..length]) {
                let said = message
                    .and_then(|message| each(message.sequence, message.flags, message.answer()?));
                wrong = wrong.or_else(|| said.err());
            }
        }
        match wrong {
            None => Ok(is_short),
            Some(what) => Err(Error::Reply {
                step: step.to_owned(),
                what,
            }),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One message of the kernel.
pub(crate) struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The octets behind the header of nfnetlink, which the attributes begin at.
    pub(crate) fn attributes(&self) -> &'a [u8] {
        self.payload.get(4..).unwrap_or_default()
    }

    /// Whether it is of nf_tables' family `inet`, and of which of its types.
    #[cfg(test)]
    pub(crate) fn inet(&self) -> Option<u8> {
        let [subsystem, kind] = self.kind.to_be_bytes();
        let is_inet = self.payload.first() == Some(&batch::INET);
        (subsystem == batch::NF_TABLES && is_inet).then_some(kind)
    }

    fn answer(&self) -> Result<Answer<'a>, &'static str> {
        match self.kind {
            NLMSG_DONE | NLMSG_ERROR => {}
            NLMSG_OVERRUN => return Err("an overrun"),
            _ => return Ok(Answer::Object(self.attributes())),
        }
        let (code, rest) = self.payload.split_first_chunk().unwrap_or((&[0; 4], &[]));
        match i32::from_ne_bytes(*code) {
            0 => Ok(Answer::Done),
            code => {
                let error = io::Error::from_raw_os_error(code.wrapping_neg());
                Ok(Answer::Refused(error, self.extended(rest)))
            }
        }
    }

    /// What the kernel says beside the number: behind the header of the refused message, or behind
    /// all of it, where it was not cut off.
    fn extended(&self, rest: &[u8]) -> Option<String> {
        let refused = NetlinkBuffer::new_checked(rest).ok();
        let behind = match refused {
            Some(message) if self.flags & NLM_F_CAPPED == 0 => {
                usize::try_from(message.length()).ok()?.next_multiple_of(4)
            }
            _ => HEADER_BYTES,
        };
        let mut attributes = NlasIterator::new(rest.get(behind..)?).flatten();
        let text = attributes.find(|attribute| attribute.kind() == ERROR_ATTRIBUTE_MESSAGE)?;
        parse_string(text.value()).ok()
    }
}

/// The messages of a datagram.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, &'static str>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = |at: usize| -> Option<[u8; 4]> { rest.get(at..at + 4)?.try_into().ok() };
        let header = (|| {
            let length = usize::try_from(u32::from_ne_bytes(read(0)?)).ok()?;
            let [kind_low, kind_high, flags_low, flags_high] = read(4)?;
            let message = Message {
                kind: u16::from_ne_bytes([kind_low, kind_high]),
                flags: u16::from_ne_bytes([flags_low, flags_high]),
                sequence: u32::from_ne_bytes(read(8)?),
                payload: rest.get(HEADER_BYTES..length)?,
            };
            Some((length, message))
        })();
        let Some((length, message)) = header else {
            rest = &[];
            return Some(Err("a message shorter than it says"));
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    })
}

/// The attributes of a message, or within one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}
