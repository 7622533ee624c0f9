// SPDX-License-Identifier: Apache-2.0
//! The conversation with the kernel about links and addresses (rtnetlink, rtnetlink(7)): requests
//! in one datagram, an answer to each. Blocking, for the kernel answers a request before the
//! system call that sent it returns.
//!
//! What others have on the node is read attribute by attribute, never as whole messages: a link of
//! a kind that a decoder does not know must not keep us from seeing our own.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

/// Octets of `struct nlmsghdr`, before every message.
pub(crate) const HEADER: usize = 16;

/// Room for what the kernel answers in one datagram: it fills at most 32 KiB (`netlink_recvmsg`).
pub(crate) const DATAGRAM: usize = 1 << 15;

/// How often a dump is begun anew because the kernel's list changed under it.
const DUMPS: usize = 4;

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

/// A socket to the kernel's routing side, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    /// Opens the socket. It needs no capability; changes do.
    ///
    /// # Errors
    /// The kernel's, e.g. without descriptors.
    pub(crate) fn open() -> Result<Self, Refusal> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
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
            put(&mut datagram, message, flags | NLM_F_ACK, self.sequence);
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

    /// Asks for one object; `None` where there is none (ENODEV).
    ///
    /// # Errors
    /// What the kernel says else.
    pub(crate) fn one<T>(
        &mut self,
        request: RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        self.sequence += 1;
        let mut datagram = Vec::new();
        put(&mut datagram, request, 0, self.sequence);
        self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
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
                    Err(refusal) if refusal.errno == Errno::NODEV => Ok(None),
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
        request: &RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMPS {
            self.sequence += 1;
            let mut datagram = Vec::new();
            put(&mut datagram, request.clone(), NLM_F_DUMP, self.sequence);
            self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
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

/// Writes one more request behind the others of a datagram.
fn put(datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let begin = datagram.len();
    let end = begin + Emitable::buffer_len(&message);
    datagram.resize(end.next_multiple_of(4), 0);
    message.serialize(&mut datagram[begin..end]);
}
