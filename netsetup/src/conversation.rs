// SPDX-License-Identifier: Apache-2.0
//! The conversation with the kernel about links and addresses (rtnetlink(7)), about the rules of
//! others, and about who listens (sock_diag(7)): requests in one datagram, an answer to each. Blocking, for the kernel answers a request
//! before the system call that sent it returns.
//!
//! What others have on the node is read attribute by attribute, never as whole messages: a link of
//! a kind that a decoder does not know must not keep us from seeing our own.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

/// Octets of `struct nlmsghdr`, before every message.
pub(crate) const HEADER: usize = 16;

/// Room for what the kernel answers in one datagram: it fills at most 32 KiB (`netlink_recvmsg`).
pub(crate) const DATAGRAM: usize = 1 << 15;

/// How often a dump is begun anew because the kernel's list changed under it.
pub(crate) const DUMPS: u32 = 20;

/// `NLMSGERR_ATTR_MSG`: the kernel's reason in words.
const REASON: u16 = 1;

/// A request that the kernel refused: its error, and its reason in words where it gave one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The error number.
    pub(crate) errno: Errno,
    /// What the kernel said beside it (`NLMSGERR_ATTR_MSG`), e.g. `Unknown device type`.
    pub(crate) reason: Option<String>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            reason: None,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

/// A socket to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    /// About links and addresses. Looking needs no capability; changes do.
    ///
    /// # Errors
    /// The kernel's, e.g. without descriptors.
    pub(crate) fn about_links() -> Result<Self, Refusal> {
        Self::open(NETLINK_ROUTE)
    }

    /// About rules. Looking, too, needs NET_ADMIN.
    ///
    /// # Errors
    /// The kernel's, e.g. without descriptors, or without nfnetlink.
    pub(crate) fn about_rules() -> Result<Self, Refusal> {
        Self::open(NETLINK_NETFILTER)
    }

    /// About sockets. Looking needs no capability.
    ///
    /// # Errors
    /// The kernel's, e.g. without descriptors, or without sock_diag.
    pub(crate) fn about_sockets() -> Result<Self, Refusal> {
        Self::open(NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> Result<Self, Refusal> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Reasons in words, short answers, and filters that the kernel obeys: each since Linux
        // 4.20 at the latest, and none is needed.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Sends all requests in one datagram, each with its flags (`NLM_F_CREATE` and so on), and
    /// returns the answer to each, in order. The kernel takes them in one system call: no signal
    /// comes between two of them.
    ///
    /// # Errors
    /// Where the conversation itself breaks off; what the kernel refuses stands in the list.
    pub(crate) fn change(
        &mut self,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let begin = self.sequence + 1;
        let mut answers = vec![None; requests.len()];
        if answers.is_empty() {
            return Ok(Vec::new());
        }
        let mut datagram = Vec::new();
        for (message, flags) in requests {
            self.sequence += 1;
            let (kind, length) = (message.message_type(), Emitable::buffer_len(&message));
            let write = |octets: &mut [u8]| message.emit(octets);
            put(
                &mut datagram,
                kind,
                flags | NLM_F_ACK,
                self.sequence,
                length,
                write,
            );
        }
        self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        while answers.iter().any(Option::is_none) {
            self.receive()?;
            for message in messages(&self.buffer) {
                let place = message.sequence.wrapping_sub(begin);
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                if let (NLMSG_ERROR, Some(answer)) = (message.kind, answers.get_mut(place)) {
                    *answer = Some(message.verdict());
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Asks for one object; `None` where there is none (ENODEV, ENOENT).
    ///
    /// # Errors
    /// What the kernel says else.
    pub(crate) fn one<T>(
        &mut self,
        question: &Question,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        self.ask(question, 0)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    return Ok(read(&message));
                }
                return match message.verdict() {
                    Err(refusal) if matches!(refusal.errno, Errno::NODEV | Errno::NOENT) => {
                        Ok(None)
                    }
                    Err(refusal) => Err(refusal),
                    Ok(()) => Ok(None),
                };
            }
        }
    }

    /// Asks for all objects of a kind. Begins anew where the list changed while it was read.
    ///
    /// # Errors
    /// What the kernel says; EINTR where the list never stood still.
    pub(crate) fn all<T>(
        &mut self,
        question: &Question,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMPS {
            self.ask(question, NLM_F_DUMP)?;
            let mut found = Vec::new();
            let mut is_whole = true;
            let mut is_done = false;
            while !is_done {
                self.receive()?;
                for message in messages(&self.buffer) {
                    if message.sequence != self.sequence {
                        continue;
                    }
                    is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                    match message.kind {
                        NLMSG_DONE => is_done = true,
                        NLMSG_ERROR => {
                            message.verdict()?;
                            is_done = true;
                        }
                        _ => found.extend(read(&message)),
                    }
                }
            }
            if is_whole {
                return Ok(found);
            }
        }
        Err(Errno::INTR.into())
    }

    fn ask(&mut self, question: &Question, flags: u16) -> Result<(), Refusal> {
        self.sequence += 1;
        let mut datagram = Vec::new();
        let write = |octets: &mut [u8]| octets.copy_from_slice(&question.body);
        let length = question.body.len();
        put(
            &mut datagram,
            question.kind,
            flags,
            self.sequence,
            length,
            write,
        );
        self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Refusal> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One netlink message, as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`: of the request that it answers.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a family's own header of `skip` octets: kind and value. It ends at
    /// what is no attribute.
    pub(crate) fn attributes(
        &self,
        skip: usize,
    ) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.body.get(skip..).unwrap_or_default())
    }

    /// The 32-bit number at `at` of the body.
    pub(crate) fn number(&self, at: usize) -> Option<u32> {
        number(self.body.get(at..)?)
    }

    /// What an answer of kind `NLMSG_ERROR` says: `struct nlmsgerr`, the request's header or all
    /// of it, then attributes.
    fn verdict(&self) -> Result<(), Refusal> {
        let code = self.number(0).map_or(0, u32::cast_signed);
        if code == 0 {
            return Ok(());
        }
        let request = match self.number(4) {
            Some(length) if self.flags & NLM_F_CAPPED == 0 => length as usize,
            _ => HEADER,
        };
        let said = self.attributes(4 + request.next_multiple_of(4));
        let reason = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| said.into_iter().find(|(kind, _)| *kind == REASON))
            .flatten();
        Err(Refusal {
            errno: Errno::from_raw_os_error(-code),
            reason: reason.map(|(_, value)| text(value)),
        })
    }
}

/// The messages of a datagram; it ends at what is no message.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = number(datagram)? as usize;
        let message = Message {
            kind: half(datagram.get(4..)?)?,
            flags: half(datagram.get(6..)?)?,
            sequence: number(datagram.get(8..)?)?,
            body: datagram.get(HEADER..length)?,
        };
        let end = length.next_multiple_of(4).min(datagram.len());
        datagram = datagram.get(end..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in some octets: kind and value.
pub(crate) fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(octets).map_while(Result::ok).map(|one| {
        let kind = one.kind();
        let length = one.value_length();
        let value = one.into_inner();
        (kind, value.get(4..4 + length).unwrap_or_default())
    })
}

/// The 32-bit number, of the machine's order, that octets begin with.
pub(crate) fn number(octets: &[u8]) -> Option<u32> {
    octets.first_chunk().map(|first| u32::from_ne_bytes(*first))
}

/// A text of the kernel's, without the zero that ends it.
pub(crate) fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|&one| one == 0);
    String::from_utf8_lossy(&octets[..end.unwrap_or(octets.len())]).into_owned()
}

fn half(octets: &[u8]) -> Option<u16> {
    octets.first_chunk().map(|first| u16::from_ne_bytes(*first))
}

/// A question: the kind of message, and what follows the header.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl From<RouteNetlinkMessage> for Question {
    fn from(message: RouteNetlinkMessage) -> Self {
        let mut body = vec![0; Emitable::buffer_len(&message)];
        message.emit(&mut body);
        Self {
            kind: message.message_type(),
            body,
        }
    }
}

/// Writes one more request behind the others of a datagram; `write` fills its body.
fn put(
    datagram: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    length: usize,
    write: impl FnOnce(&mut [u8]),
) {
    let length = HEADER + length;
    let begin = datagram.len();
    // No request of ours comes near what the field holds.
    datagram.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    datagram.extend(kind.to_ne_bytes());
    datagram.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    datagram.extend(sequence.to_ne_bytes());
    // The port of the sender: the kernel fills it in.
    datagram.extend([0; 4]);
    datagram.resize(begin + length.next_multiple_of(4), 0);
    write(&mut datagram[begin + HEADER..begin + length]);
}
