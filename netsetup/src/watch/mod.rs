// SPDX-License-Identifier: Apache-2.0
//! Tells that something of ours was touched, by listening to the kernel's own notifications.

mod links;
mod rules;

use std::os::fd::BorrowedFd;

use self::links::Links;
use self::rules::Rules;
use crate::error::Error;
use crate::plan::Plan;

/// What may have been changed by others since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Links or addresses.
    pub links: bool,
    /// Our tables.
    pub rules: bool,
}

/// Multicast netlink sockets: links and addresses, and nf_tables.
#[derive(Debug)]
pub struct Watch {
    links: Links,
    rules: Rules,
}

impl Watch {
    /// Begins to listen for what the plan names.
    ///
    /// # Errors
    /// When there can be no such sockets.
    pub fn new(plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            links: Links::new(plan)?,
            rules: Rules::new()?,
        })
    }

    /// Does not wake for changes of the tables that this netlink port makes
    /// ([`crate::active::Active::port_id`]): its refreshes.
    ///
    /// # Errors
    /// When the kernel refuses the filter.
    pub fn ignore(&self, port_id: u32) -> Result<(), Error> {
        self.rules.ignore(port_id)
    }

    /// To wait on: readable when there is something to [`Self::drain`].
    #[must_use]
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.as_fd(), self.rules.as_fd()]
    }

    /// Reads all there is, without waiting. What the kernel could not tell counts as a change.
    pub fn drain(&mut self) -> Changed {
        Changed {
            links: self.links.drain(),
            rules: self.rules.drain(),
        }
    }
}
