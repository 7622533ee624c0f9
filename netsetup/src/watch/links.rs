// SPDX-License-Identifier: Apache-2.0
//! Listens to what becomes of links and addresses, and tells of ours alone. A node makes and
//! removes interfaces with every pod: what is not ours is passed over without a system call but
//! the one that reads it.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::conversation::{DATAGRAM, messages};
use crate::error::Error;
use crate::link::{self, Address, Interface};
use crate::plan::Plan;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Most datagrams that are read in one go, about a millisecond's work; the socket stays readable
/// when there is more.
const MOST: usize = 512;

/// The socket, and what is known of our interface.
#[derive(Debug)]
pub(super) struct Links {
    socket: Socket,
    buffer: Vec<u8>,
    interface: String,
    addresses: HashSet<IpAddr>,
    /// Index of our interface and whether it is up, as last heard.
    known: Option<(u32, bool)>,
}

impl Links {
    /// Begins to listen. It needs no capability.
    pub(super) fn new(plan: &Plan) -> Result<Self, Error> {
        let step = "listen to changes of links and addresses";
        let failed = |source: io::Error| Error::Socket {
            step: step.to_owned(),
            source,
        };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, GROUPS)).map_err(failed)?;
        // Looked at after the ear is open: nothing is missed between the two.
        let found = link::find(&plan.interface)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
            interface: plan.interface.clone(),
            addresses: plan.interface_addresses().into_iter().collect(),
            known: found.map(|found| (found.index, found.is_up)),
        })
    }

    /// To wait on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether our interface or one of our addresses has gone or gone down since the last call. What
    /// the kernel had to drop counts as a change.
    pub(super) fn drain(&mut self) -> bool {
        let mut is_changed = false;
        for _ in 0..MOST {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // ENOBUFS: others made more changes than there was room for.
                Err(_) => {
                    is_changed = true;
                    continue;
                }
            }
            for message in messages(&self.buffer) {
                if let Some(link) = Interface::read(&message) {
                    is_changed |= hear(
                        &mut self.known,
                        &self.interface,
                        &link,
                        message.kind == link::DEL_LINK,
                    );
                } else if message.kind == link::DEL_ADDRESS {
                    let gone = Address::read(&message);
                    is_changed |= gone.is_some_and(|gone| {
                        let is_elsewhere = self.known.is_some_and(|(index, _)| index != gone.index);
                        !is_elsewhere && self.addresses.contains(&gone.ip)
                    });
                }
            }
        }
        is_changed
    }
}

/// Whether this news is bad for our interface.
fn hear(known: &mut Option<(u32, bool)>, ours: &str, link: &Interface, is_gone: bool) -> bool {
    let is_known = known.is_some_and(|(index, _)| index == link.index);
    if !is_known && link.name != ours {
        return false;
    }
    // Renamed counts as gone.
    if is_gone || link.name != ours {
        *known = None;
        return true;
    }
    // An interface is born down; only one that was up has gone down.
    let was_up = *known == Some((link.index, true));
    *known = Some((link.index, link.is_up));
    was_up && !link.is_up
}
