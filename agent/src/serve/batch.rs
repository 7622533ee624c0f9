// SPDX-License-Identifier: Apache-2.0
//! Datagrams by the batch: recvmmsg into fixed buffers, answers written in place, one sendmmsg.

#![expect(
    unsafe_code,
    reason = "recvmmsg and sendmmsg have no safe wrapper; ADR 0004"
)]

use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use libc::{c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};
use rustix::io::Errno;

/// Datagrams in a batch.
pub const BATCH: usize = 32;

/// Room for an address of either family.
#[expect(clippy::cast_possible_truncation, reason = "28")]
const CLIENT_LEN: socklen_t = size_of::<sockaddr_in6>() as socklen_t;

/// Room for a batch of datagrams and their answers.
///
/// Every buffer has an address, a datagram and the length of the answer that was written over it;
/// 0 is no answer. What the kernel reads points into boxes, which stay where they are when the
/// batch moves.
pub struct Batch {
    /// Length of a buffer in octets.
    slot: usize,
    octets: Box<[u8]>,
    clients: Box<[sockaddr_in6; BATCH]>,
    received: [Received; BATCH],
    replies: [usize; BATCH],
    /// How many headers the last receive used; only those are set back.
    used: usize,
    /// For receiving: each header has its address and its vector for good.
    vectors: Box<[iovec; BATCH]>,
    headers: Box<[mmsghdr; BATCH]>,
    /// For sending: as many as there are answers, without gaps.
    answer_vectors: Box<[iovec; BATCH]>,
    answer_headers: Box<[mmsghdr; BATCH]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Received {
    len: usize,
    client_len: socklen_t,
}

/// What became of a batch's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Answers that the kernel took.
    pub sent: usize,
    /// Answers that it would not take.
    pub failed: usize,
}

/// One datagram of a batch.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The whole buffer; the datagram is at its beginning, the answer goes there.
    pub buffer: &'a mut [u8],
    /// The datagram's length in octets, at most the buffer's.
    pub len: usize,
    reply: &'a mut usize,
}

impl Datagram<'_> {
    /// Has the first `len` octets of the buffer sent as the answer.
    pub fn answer(&mut self, len: usize) {
        *self.reply = len.min(self.buffer.len());
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// Room for datagrams and answers of at most `slot` octets.
    #[must_use]
    pub fn new(slot: usize) -> Self {
        // SAFETY: all-zero octets are a valid value of each of these C structs: numbers are 0,
        // pointers are null.
        let (client, vector, header) = unsafe { zeroed::<(sockaddr_in6, iovec, mmsghdr)>() };
        let mut batch = Self {
            slot,
            octets: vec![0; slot * BATCH].into_boxed_slice(),
            clients: Box::new([client; BATCH]),
            received: [Received::default(); BATCH],
            replies: [0; BATCH],
            used: 0,
            vectors: Box::new([vector; BATCH]),
            headers: Box::new([header; BATCH]),
            answer_vectors: Box::new([vector; BATCH]),
            answer_headers: Box::new([header; BATCH]),
        };
        for (index, buffer) in batch.octets.chunks_exact_mut(slot).enumerate() {
            let vector = &mut batch.vectors[index];
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = slot;
            let header = &mut batch.headers[index].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut batch.clients[index]).cast();
            header.msg_namelen = CLIENT_LEN;
            header.msg_iov = std::ptr::from_mut(vector);
            header.msg_iovlen = 1;
        }
        batch
    }

    /// Receives what waits at a UDP socket; returns how many datagrams. Where `wait` is set and
    /// nothing waits, it waits for one, for as long as the socket's timeout allows.
    ///
    /// # Errors
    /// The socket is broken. "Nothing waits" and errors of single datagrams are no errors.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> Result<usize, Errno> {
        let flags = if wait {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_namelen = CLIENT_LEN;
        }
        // SAFETY: `headers` has BATCH entries; each points to one address of `clients`, which has
        // room for the length it names, and to one vector, which describes `slot` octets of
        // `octets` that belong to this index alone. All of it is in boxes that live as long as
        // this value. The timeout is null.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                c_uint::try_from(BATCH).unwrap_or(0),
                flags,
                null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else {
            self.used = 0;
            return match last_error() {
                // What makes a socket useless; anything else concerns a datagram, or passes.
                broken @ (Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::FAULT) => {
                    Err(broken)
                }
                _ => Ok(0),
            };
        };
        self.used = got;
        for index in 0..got {
            let header = &self.headers[index];
            self.received[index] = Received {
                len: (header.msg_len as usize).min(self.slot),
                client_len: header.msg_hdr.msg_namelen,
            };
            self.replies[index] = 0;
        }
        Ok(got)
    }

    /// One datagram of those that [`Self::receive`] got.
    pub fn datagram(&mut self, index: usize) -> Datagram<'_> {
        Datagram {
            buffer: &mut self.octets[index * self.slot..][..self.slot],
            len: self.received[index].len,
            reply: &mut self.replies[index],
        }
    }

    /// The octets of one datagram as it came.
    #[must_use]
    pub fn message(&self, index: usize) -> &[u8] {
        &self.octets[index * self.slot..][..self.received[index].len]
    }

    /// Whether this is a datagram: a socket that was shut down gives back empty ones from nobody.
    #[must_use]
    pub fn is_datagram(&self, index: usize) -> bool {
        self.received[index].client_len > 0
    }

    /// Where a datagram came from.
    #[must_use]
    pub fn client(&self, index: usize) -> Option<SocketAddr> {
        let address = &self.clients[index];
        if self.received[index].client_len as usize == size_of::<sockaddr_in>() {
            // SAFETY: sockaddr_in is shorter than sockaddr_in6, has no stricter alignment, and any
            // octets are a valid value of it; the kernel wrote its whole length.
            let address: &sockaddr_in = unsafe { &*std::ptr::from_ref(address).cast() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            return Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into());
        }
        (self.received[index].client_len as usize == size_of::<sockaddr_in6>()).then(|| {
            SocketAddrV6::new(
                Ipv6Addr::from(address.sin6_addr.s6_addr),
                u16::from_be(address.sin6_port),
                address.sin6_flowinfo,
                address.sin6_scope_id,
            )
            .into()
        })
    }

    /// Sends all answers, without waiting: a full socket buffer drops the rest, as the network
    /// would.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> Sent {
        let mut count = 0;
        for index in (0..self.used).filter(|&index| self.replies[index] != 0) {
            let vector = &mut self.answer_vectors[count];
            vector.iov_base = self.octets[index * self.slot..].as_mut_ptr().cast();
            vector.iov_len = self.replies[index];
            let header = &mut self.answer_headers[count].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.clients[index]).cast();
            header.msg_namelen = self.received[index].client_len;
            header.msg_iov = std::ptr::from_mut(vector);
            header.msg_iovlen = 1;
            count += 1;
        }
        let mut done = Sent::default();
        while done.sent + done.failed < count {
            let rest = &mut self.answer_headers[done.sent + done.failed..count];
            // SAFETY: `rest` has as many entries as are named; each points to the address and the
            // vector of one answered datagram, as in `receive`, and the vector describes the
            // answer's octets, which lie inside the datagram's buffer.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    rest.as_mut_ptr(),
                    c_uint::try_from(rest.len()).unwrap_or(0),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => done.sent += sent,
                _ => match last_error() {
                    Errno::INTR => {}
                    Errno::AGAIN => done.failed = count - done.sent,
                    // The first one cannot be sent: no route to it, or its owner is gone.
                    _ => done.failed += 1,
                },
            }
        }
        done
    }
}

// SAFETY: the raw pointers point into boxes of this very value and are used by its methods alone.
unsafe impl Send for Batch {}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair(any: &str) -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind(any).unwrap();
        let client = UdpSocket::bind(any).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        (server, client)
    }

    /// Receives until `wanted` datagrams came, for at most some seconds.
    fn receive(batch: &mut Batch, server: &UdpSocket, wanted: usize) {
        for _ in 0..2000 {
            if batch.receive(server.as_fd(), false).unwrap() == wanted {
                return;
            }
            std::thread::yield_now();
        }
        panic!("the datagrams did not come together");
    }

    #[test]
    fn answers_go_to_who_asked_and_the_unanswered_get_nothing() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (server, client) = pair(any);
            let mut batch = Batch::new(64);
            for octet in 0..5_u8 {
                client.send(&[octet; 10]).unwrap();
            }
            receive(&mut batch, &server, 5);
            for index in 0..5 {
                assert_eq!(batch.client(index), Some(client.local_addr().unwrap()));
                let mut datagram = batch.datagram(index);
                assert_eq!(datagram.len, 10);
                datagram.buffer[0] += 100;
                if index % 2 == 0 {
                    datagram.answer(index + 1);
                }
            }
            assert_eq!(batch.send(server.as_fd()), Sent { sent: 3, failed: 0 });
            let mut buffer = [0; 64];
            for (octet, len) in [(100, 1), (102, 3), (104, 5)] {
                assert_eq!(client.recv(&mut buffer).unwrap(), len);
                assert_eq!(buffer[0], octet);
            }
        }
    }

    #[test]
    fn nothing_that_waits_is_no_error_and_a_long_datagram_is_cut() {
        let (server, client) = pair("127.0.0.1:0");
        let mut batch = Batch::new(64);
        assert_eq!(batch.receive(server.as_fd(), false), Ok(0));
        client.send(&[7; 1000]).unwrap();
        receive(&mut batch, &server, 1);
        assert_eq!(batch.datagram(0).len, 64);
        batch.datagram(0).answer(1000);
        assert_eq!(batch.send(server.as_fd()).sent, 1);
        assert_eq!(client.recv(&mut [0; 2000]).unwrap(), 64);
    }
}
