// SPDX-License-Identifier: Apache-2.0
//! Answers on their way to UDP clients: gathered while tasks run, sent together when all that were
//! ready have had their turn. So a burst of answers wakes its clients once, and what they ask next
//! comes as a burst too.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg, sendmmsg,
};

/// Answers that wait at most; then they go at once.
const MOST: usize = 64;
/// Octets that wait at most; then they go at once.
const MOST_OCTETS: usize = 64 << 10;

/// Answers that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    octets: Vec<u8>,
    letters: Vec<Letter>,
}

#[derive(Debug)]
struct Letter {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    client: SocketAddrAny,
    octets: Range<usize>,
}

impl Outbox {
    /// Takes an answer. Whether it is the first that waits: then somebody must see to its going.
    pub(super) fn put(
        &mut self,
        socket: &Arc<UdpSocket>,
        client: SocketAddr,
        message: &[u8],
    ) -> bool {
        if self.letters.len() >= MOST || self.octets.len() + message.len() > MOST_OCTETS {
            self.send();
        }
        let start = self.octets.len();
        self.octets.extend_from_slice(message);
        self.letters.push(Letter {
            socket: Arc::clone(socket),
            to: client,
            client: client.as_any(),
            octets: start..self.octets.len(),
        });
        self.letters.len() == 1
    }

    /// Sends what waits, to one client after the other: who was woken on another CPU takes its answers while
    /// others get theirs. What the kernel will not take is lost, as on the network: the client asks
    /// again.
    pub(super) fn send(&mut self) {
        self.letters
            .sort_by_key(|letter| (Arc::as_ptr(&letter.socket).addr(), letter.to));
        let mut from = 0;
        while let Some(first) = self.letters.get(from) {
            let same = |letter: &&Letter| Arc::ptr_eq(&letter.socket, &first.socket);
            let count = self.letters[from..].iter().take_while(same).count();
            self.send_from_one_socket(from..from + count);
            from += count;
        }
        self.letters.clear();
        self.octets.clear();
    }

    fn send_from_one_socket(&self, letters: Range<usize>) {
        let letters = &self.letters[letters];
        let Some(first) = letters.first() else {
            return;
        };
        let parts: Vec<[IoSlice<'_>; 1]> = letters
            .iter()
            .map(|letter| [IoSlice::new(&self.octets[letter.octets.clone()])])
            .collect();
        let mut nothing: Vec<SendAncillaryBuffer<'_, '_, '_>> = letters
            .iter()
            .map(|_| SendAncillaryBuffer::default())
            .collect();
        let mut headers: Vec<MMsgHdr<'_>> = letters
            .iter()
            .zip(&parts)
            .zip(&mut nothing)
            .map(|((letter, part), nothing)| MMsgHdr::new_with_addr(&letter.client, part, nothing))
            .collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut rest = &mut headers[..];
        while !rest.is_empty() {
            let done = match sendmmsg(&first.socket, rest, flags) {
                Ok(sent) if sent > 0 => sent,
                Err(Errno::INTR) => 0,
                Err(Errno::AGAIN) => return,
                // The first one cannot be sent: no route to it, or its owner is gone.
                _ => 1,
            };
            rest = &mut rest[done..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn socket() -> Arc<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        Arc::new(socket)
    }

    #[test]
    fn every_answer_leaves_from_the_socket_it_belongs_to() {
        let (one, two, client) = (socket(), socket(), socket());
        let to = client.local_addr().unwrap();
        let mut outbox = Outbox::default();
        assert!(outbox.put(&one, to, b"a"));
        assert!(!outbox.put(&one, to, b"bb"));
        assert!(!outbox.put(&two, to, b"ccc"));
        assert!(!outbox.put(&one, to, b"dddd"));
        outbox.send();
        let (one_at, two_at) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let mut got: Vec<_> = (0..4)
            .map(|_| client.recv_from(&mut [0; 9]).unwrap())
            .collect();
        got.sort_unstable();
        assert_eq!(got, [(1, one_at), (2, one_at), (3, two_at), (4, one_at)]);
        assert!(outbox.put(&one, to, b"e"), "empty again");
    }

    #[test]
    fn answers_to_one_client_stay_in_their_order() {
        let (server, one, two) = (socket(), socket(), socket());
        let mut outbox = Outbox::default();
        for len in 1..=4 {
            for client in [&one, &two] {
                outbox.put(&server, client.local_addr().unwrap(), &[0; 9][..len]);
            }
        }
        outbox.send();
        for client in [&one, &two] {
            let lens = (0..4).map(|_| client.recv(&mut [0; 9]).unwrap());
            assert_eq!(lens.collect::<Vec<_>>(), [1, 2, 3, 4]);
        }
    }

    #[test]
    fn one_that_cannot_be_sent_does_not_hold_up_the_others() {
        let (one, client) = (socket(), socket());
        let to = client.local_addr().unwrap();
        let mut outbox = Outbox::default();
        outbox.put(&one, to, b"a");
        outbox.put(&one, SocketAddr::from(([127, 0, 0, 1], 0)), b"no port");
        outbox.put(&one, to, b"bb");
        outbox.send();
        for len in 1..=2 {
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), len);
        }
    }

    #[test]
    fn more_than_may_wait_goes_at_once() {
        let (one, client) = (socket(), socket());
        let to = client.local_addr().unwrap();
        let mut outbox = Outbox::default();
        for _ in 0..=MOST {
            outbox.put(&one, to, &[0; 10]);
        }
        assert_eq!(outbox.letters.len(), 1);
        assert_eq!(client.recv(&mut [0; 99]).unwrap(), 10);
        outbox.put(&one, to, &[0; MOST_OCTETS]);
        assert_eq!(outbox.letters.len(), 1);
    }
}
