// SPDX-License-Identifier: Apache-2.0
//! Tells that something of ours was touched: of links and addresses the kernel tells by itself, for
//! nf_tables it is asked.

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
    /// The tables of nf_tables, ours or others'.
    pub rules: bool,
}

/// A multicast netlink socket for links and addresses, and one to ask for nf_tables.
#[derive(Debug)]
pub struct Watch {
    links: Links,
    rules: Rules,
}

impl Watch {
    /// Begins to look at what the plan names.
    ///
    /// # Errors
    /// When there can be no such sockets.
    pub fn new(plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            links: Links::new(plan)?,
            rules: Rules::new()?,
        })
    }

    /// To wait on: readable when there is something to [`Self::look`] at. Of nf_tables nothing
    /// tells: look a few times a second.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.links.as_fd()
    }

    /// What others have changed since the last look, without waiting. `own_commits` is
    /// [`crate::active::Active::commits`]: those are not others'. What the kernel could not tell
    /// counts as a change.
    pub fn look(&mut self, own_commits: u64) -> Changed {
        Changed {
            links: self.links.drain(),
            rules: self.rules.look(own_commits),
        }
    }
}
