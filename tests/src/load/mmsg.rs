// SPDX-License-Identifier: Apache-2.0
//! The system calls without a safe wrapper: recvmmsg, sendmmsg, the reuseport program.
//!
//! The only file of the tests with `unsafe`. The memory that the kernel is pointed at belongs to
//! [`Batch`] and stays where it is until the batch is dropped.

#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and SO_ATTACH_REUSEPORT_CBPF have no safe wrapper"
)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Octets of the largest socket address we meet (`sockaddr_in6`).
const ADDRESS_BYTES: libc::socklen_t = 28;

/// An array on the heap of which raw pointers may be kept: it never moves and is only reached
/// through its pointer, so that a pointer handed to the kernel stays valid beside our own reads.
struct Fixed<T> {
    first: NonNull<T>,
    len: usize,
}

impl<T> Fixed<T> {
    fn new(values: Vec<T>) -> Self {
        let len = values.len();
        let values = Box::into_raw(values.into_boxed_slice());
        // SAFETY: Box::into_raw never returns null.
        let first = unsafe { NonNull::new_unchecked(values.cast::<T>()) };
        Self { first, len }
    }

    /// The address of element `index`.
    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: index is below len, so the result is inside of the allocation.
        unsafe { self.first.as_ptr().add(index) }
    }
}

impl<T> Drop for Fixed<T> {
    fn drop(&mut self) {
        let values = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len);
        // SAFETY: the pointer and length are those that Box::into_raw gave up in `new`.
        drop(unsafe { Box::from_raw(values) });
    }
}

/// A number of datagrams that are received or sent with one system call.
///
/// Between calls every `iov_len` of a slot is the full room, but where `set_len` or a received
/// datagram about to be answered says otherwise; only slots that were used are set back.
pub struct Batch {
    room: usize,
    data: Fixed<u8>,
    // Read by the kernel through `headers` alone.
    _addresses: Fixed<[u8; ADDRESS_BYTES as usize]>,
    vectors: Fixed<libc::iovec>,
    headers: Fixed<libc::mmsghdr>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("capacity", &self.capacity())
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// A batch of `capacity` datagrams of up to `room` octets. With `addressed`, each datagram
    /// carries its peer's address: received with it, sent to it; without, the socket must be
    /// connected.
    #[must_use]
    pub fn new(capacity: usize, room: usize, addressed: bool) -> Self {
        let data = Fixed::new(vec![0_u8; capacity * room]);
        let addresses = Fixed::new(vec![[0_u8; ADDRESS_BYTES as usize]; capacity]);
        let vectors = Fixed::new(
            (0..capacity)
                .map(|slot| libc::iovec {
                    iov_base: data.at(slot * room).cast(),
                    iov_len: room,
                })
                .collect(),
        );
        let headers = Fixed::new(
            (0..capacity)
                .map(|slot| {
                    // SAFETY: mmsghdr is plain integers and pointers, for which zero is valid;
                    // it has padding on some systems, so that it cannot be written as a literal.
                    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                    header.msg_hdr.msg_iov = vectors.at(slot);
                    header.msg_hdr.msg_iovlen = 1;
                    if addressed {
                        header.msg_hdr.msg_name = addresses.at(slot).cast();
                        header.msg_hdr.msg_namelen = ADDRESS_BYTES;
                    }
                    header
                })
                .collect(),
        );
        Self {
            room,
            data,
            _addresses: addresses,
            vectors,
            headers,
        }
    }

    /// How many datagrams fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.headers.len
    }

    /// Receives up to `capacity` datagrams; with `wait` blocks for the first one (as long as the
    /// socket's receive timeout says), else takes what is there. Returns how many.
    ///
    /// # Errors
    /// What recvmmsg says; `WouldBlock` where nothing came.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        let flags = if wait {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        loop {
            // SAFETY: headers holds `capacity` headers whose vectors and addresses point into
            // memory of ours that outlives the call; we hold no reference into it (&mut self).
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.at(0),
                    length(self.capacity()),
                    flags.cast_unsigned() as _,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(received) {
                Ok(received) => return Ok(received),
                Err(_) => interrupted_or(io::Error::last_os_error())?,
            }
        }
    }

    /// Datagram `slot` of those just received.
    #[must_use]
    pub fn message(&mut self, slot: usize) -> &mut [u8] {
        // SAFETY: the header is ours, initialised in `new`, and the kernel writes it only during
        // a call that has ended.
        let len = unsafe { (*self.headers.at(slot)).msg_len };
        let len = usize::try_from(len).map_or(self.room, |len| len.min(self.room));
        self.slice(slot, len)
    }

    /// The room of datagram `slot`, to write a message into; see [`Batch::set_len`].
    #[must_use]
    pub fn buffer(&mut self, slot: usize) -> &mut [u8] {
        self.slice(slot, self.room)
    }

    fn slice(&mut self, slot: usize, len: usize) -> &mut [u8] {
        debug_assert!(len <= self.room, "{len} octets of {}", self.room);
        assert!(slot < self.capacity(), "slot {slot}");
        // SAFETY: slots are disjoint parts of `data`, all of it initialised; slot < capacity and
        // len <= room keep the slice inside; &mut self makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.at(slot * self.room), len) }
    }

    /// Says how many octets of datagram `slot` are to be sent.
    pub fn set_len(&mut self, slot: usize, len: usize) {
        assert!(len <= self.room, "{len} octets of {}", self.room);
        // SAFETY: the vector is ours; no call of the kernel is under way (&mut self).
        unsafe { (*self.vectors.at(slot)).iov_len = len };
    }

    /// Sends datagrams `from..to` with one call. Returns how many went out: at least one.
    ///
    /// # Errors
    /// What sendmmsg says of datagram `from`.
    pub fn send(&mut self, socket: BorrowedFd<'_>, from: usize, to: usize) -> io::Result<usize> {
        assert!(from < to && to <= self.capacity(), "{from}..{to}");
        loop {
            // SAFETY: as for recvmmsg; from..to are headers of ours.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.at(from),
                    length(to - from),
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => interrupted_or(io::Error::last_os_error())?,
            }
        }
    }

    /// Sends the first `count` datagrams, just received, back to where they came from, each as
    /// long as it was, and makes the batch ready to receive again. A datagram that cannot be sent
    /// is dropped, as the network might.
    pub fn send_back(&mut self, socket: BorrowedFd<'_>, count: usize) {
        for slot in 0..count {
            let len = self.message(slot).len();
            self.set_len(slot, len);
        }
        let mut from = 0;
        while from < count {
            from += self.send(socket, from, count).unwrap_or(1);
        }
        for slot in 0..count {
            self.set_len(slot, self.room);
            // SAFETY: the header is ours; no call of the kernel is under way (&mut self).
            unsafe { (*self.headers.at(slot)).msg_hdr.msg_namelen = ADDRESS_BYTES };
        }
    }
}

/// A count for the kernel.
fn length(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count).unwrap_or(libc::c_uint::MAX)
}

/// Nothing for a call that a signal interrupted, which is then made again; else the error.
fn interrupted_or(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted {
        Ok(())
    } else {
        Err(error)
    }
}

/// Steers the reuseport group of `socket`: a datagram goes to the member of the group whose place
/// is the number of the CPU that handles it, modulo `members`. Members have the order in which
/// they were bound.
///
/// # Errors
/// What setsockopt says.
pub fn steer_by_cpu(socket: BorrowedFd<'_>, members: u32) -> io::Result<()> {
    // Opcodes of linux/bpf_common.h, each class | size or operation | mode.
    const LOAD_WORD_ABSOLUTE: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const MODULO_CONSTANT: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
    const RETURN_ACCUMULATOR: u16 = 0x16; // BPF_RET | BPF_A
    // SKF_AD_OFF + SKF_AD_CPU: the place outside of the packet that reads as the CPU's number.
    const CPU: i32 = -0x1000 + 36;
    let instruction = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let mut code = [
        instruction(LOAD_WORD_ABSOLUTE, CPU.cast_unsigned()),
        instruction(MODULO_CONSTANT, members),
        instruction(RETURN_ACCUMULATOR, 0),
    ];
    let program = libc::sock_fprog {
        len: 3,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the option wants a sock_fprog and its size; the kernel copies the three
    // instructions before it returns, and they live until then.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length(size_of::<libc::sock_fprog>()),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::Batch;

    #[test]
    fn datagrams_of_every_length_come_back_to_their_own_senders() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients: Vec<UdpSocket> = (0..3)
            .map(|_| {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(server.local_addr().unwrap()).unwrap();
                client
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                client
            })
            .collect();
        let mut batch = Batch::new(8, 96, true);
        // Twice, and shorter the second time: the slots must have been set back in between.
        for length in [90_usize, 7] {
            for (tag, client) in (0_u8..).zip(&clients) {
                client.send(&vec![tag; length + usize::from(tag)]).unwrap();
            }
            let mut left = clients.len();
            while left > 0 {
                let received = batch.receive(server.as_fd(), true).unwrap();
                batch.send_back(server.as_fd(), received);
                left -= received;
            }
            for (tag, client) in (0_u8..).zip(&clients) {
                let mut reply = [0; 200];
                let len = client.recv(&mut reply).unwrap();
                assert_eq!(reply[..len], vec![tag; length + usize::from(tag)]);
            }
        }
    }

    #[test]
    fn nothing_to_receive_is_would_block() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new(2, 64, true);
        let error = batch.receive(server.as_fd(), false).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}
