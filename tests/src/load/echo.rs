// SPDX-License-Identifier: Apache-2.0
//! A bare UDP echo: what the socket itself costs, and so the limit of every server.
//!
//! It sets the QR bit, so that the reply is a response, and does nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::mmsg::{Batch, steer_by_cpu};
use super::{cpus, pin};

/// Datagrams a system call.
const BATCH: usize = 32;
/// Octets of the largest datagram. An odd number of cache lines, so that the first lines of the
/// slots do not fall into few sets of the cache.
const ROOM: usize = 21 * 64;
/// The receive buffer we ask for.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// How the work is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One thread, one socket, pinned to the first CPU: half of its queries come from another one,
    /// as for every server of one thread whose clients are everywhere.
    OneThread,
    /// One thread, one socket, placed by the scheduler: on an idle machine it is woken beside the
    /// client that asks, on a busy one it is not.
    OneLooseThread,
    /// One pinned thread and one socket a CPU; a query is answered on the CPU that sent it.
    /// This is how the agent does it.
    PerCpu,
}

/// Starts the echo on a free port of `address`. Its threads end with the process.
///
/// # Errors
/// What the kernel says of sockets, steering, affinity and threads.
pub fn start(layout: Layout, address: IpAddr) -> io::Result<SocketAddr> {
    let places: Vec<Option<usize>> = match layout {
        Layout::OneThread => cpus()?.into_iter().take(1).map(Some).collect(),
        Layout::OneLooseThread => vec![None],
        Layout::PerCpu => cpus()?.into_iter().map(Some).collect(),
    };
    let mut bound = SocketAddr::new(address, 0);
    let mut sockets = Vec::with_capacity(places.len());
    for _ in &places {
        let socket = bind(bound, places.len() > 1)?;
        bound = socket.local_addr()?;
        sockets.push(socket);
    }
    if let ([first, _, ..], Ok(members)) = (&sockets[..], u32::try_from(places.len())) {
        steer_by_cpu(first.as_fd(), members)?;
    }
    for (socket, place) in sockets.into_iter().zip(places) {
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name("echo".into())
            .stack_size(128 << 10)
            .spawn(move || {
                let pinned = place.map_or(Ok(()), pin);
                let go = pinned.is_ok();
                if ready.send(pinned).is_ok() && go {
                    answer_for_ever(&socket);
                }
            })?;
        started
            .recv()
            .map_err(|_| io::Error::other("echo thread ended at its start"))??;
    }
    Ok(bound)
}

/// A socket on `address`, one of a group if `shared`.
fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Receives, sets QR (RFC 1035 section 4.1.1), sends back, until the socket fails.
fn answer_for_ever(socket: &UdpSocket) {
    let mut batch = Batch::new(BATCH, ROOM, true);
    while let Ok(received) = batch.receive(socket.as_fd(), true) {
        for slot in 0..received {
            if let Some(flags) = batch.message(slot).get_mut(2) {
                *flags |= 0x80;
            }
        }
        batch.send_back(socket.as_fd(), received);
    }
}
