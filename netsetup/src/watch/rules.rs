// SPDX-License-Identifier: Apache-2.0
//! Listens to what becomes of nf_tables, and tells of our tables alone. The agent's own refreshes
//! come through the same group: the kernel leaves them out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::parse_string;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{SockFilter, SockRef};

use crate::error::Error;
use crate::nfnetlink::{attributes, messages};
use crate::rules::{active, fallback};

/// `NFNLGRP_NFTABLES` of include/uapi/linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;

/// `NFT_MSG_*` that tell that a table, a chain, a rule or a set was made or deleted. Elements come
/// and go, and a generation (15) ends each transaction.
const TOUCHED: [u8; 8] = [0, 2, 3, 5, 6, 8, 9, 11];

/// The attribute with the table's name is the first of each of these messages (`NFTA_TABLE_NAME`,
/// `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`).
const TABLE: u16 = 1;

/// Room for what others change, until it is read: then the kernel says that it could not tell all.
const RECEIVE_BYTES: usize = 1 << 20;

/// Room for a datagram of notifications (`NLMSG_GOODSIZE`, 8 KiB at most).
const DATAGRAM_BYTES: usize = 32 << 10;

/// Most datagrams that are read in one go; the socket stays readable when there is more.
const MOST: usize = 512;

/// Where a message says by which port the change was made: `nlmsg_pid`.
const PORT_OFFSET: u32 = 12;

/// The socket.
#[derive(Debug)]
pub(super) struct Rules {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Rules {
    /// Begins to listen.
    pub(super) fn new() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        // Beyond the limit of the system where that is permitted.
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.add_membership(GROUP).map_err(failed)?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM_BYTES],
        })
    }

    /// Has the kernel leave out the changes that this port makes. What comes in one datagram was
    /// changed in one transaction, and so by one port.
    pub(super) fn ignore(&self, port_id: u32) -> Result<(), Error> {
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        // The program reads numbers in network order, and this one is in the host's.
        let port_id = u32::from_be_bytes(port_id.to_ne_bytes());
        let program = [
            SockFilter::new(LOAD_WORD, 0, 0, PORT_OFFSET),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, port_id),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        SockRef::from(&self.socket)
            .attach_filter(&program)
            .map_err(failed)
    }

    /// To wait on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether a table of ours was touched since the last call. What the kernel had to drop counts.
    pub(super) fn drain(&mut self) -> bool {
        let mut is_touched = false;
        for _ in 0..MOST {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, whole)) => {
                    is_touched |= whole > length || touches(&self.buffer[..length]);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => is_touched = true,
            }
        }
        is_touched
    }
}

/// Whether a datagram tells of our tables.
fn touches(datagram: &[u8]) -> bool {
    messages(datagram).any(|message| {
        // What cannot be read may have been about us.
        let Ok(message) = message else { return true };
        if !message.inet().is_some_and(|kind| TOUCHED.contains(&kind)) {
            return false;
        }
        let table = attributes(message.attributes()).find(|one| one.kind() == TABLE);
        let name = table.and_then(|table| parse_string(table.value()).ok());
        name.is_some_and(|name| name == active::NAME || name == fallback::NAME)
    })
}

fn failed(source: io::Error) -> Error {
    let step = "listen to changes of nf_tables".to_owned();
    // To hear of rules takes the same capability as to make them.
    if source.kind() == io::ErrorKind::PermissionDenied {
        return Error::NotPermitted { step, source };
    }
    Error::Socket { step, source }
}
