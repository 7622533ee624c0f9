// SPDX-License-Identifier: Apache-2.0
//! Tells that somebody has changed nf_tables, by the number of its generation: every transaction of
//! whoever makes the next one. What was changed is for the reader of the tables to find out.
//!
//! It does not listen to the kernel's notifications (`NFNLGRP_NFTABLES`). Where anybody does, the
//! kernel writes one for every rule of every transaction, under the lock that all transactions
//! wait for: 40,000 rules of iptables then hold it for 0.7 to 1.3 s in place of 0.4, and the
//! refreshes of the dead-man's switch with it. Asking for the number takes no lock.

use crate::error::Error;
use crate::nfnetlink::Connection;

/// The number, and how it was come to.
#[derive(Debug)]
pub(super) struct Rules {
    connection: Connection,
    /// The generation at the last look; `None` where the kernel did not say.
    seen: Option<u32>,
    /// Transactions of our own until then.
    own: u64,
}

impl Rules {
    /// Begins with what there is now.
    pub(super) fn new() -> Result<Self, Error> {
        let mut connection = Connection::open()?;
        let seen = Some(connection.generation()?);
        Ok(Self {
            connection,
            seen,
            own: 0,
        })
    }

    /// Whether others have changed anything since the last look; `own` transactions were ours until
    /// now. What the kernel does not say counts.
    pub(super) fn look(&mut self, own: u64) -> bool {
        let before = self.seen;
        // Both count on from wherever they are.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the generation wraps as well"
        )]
        let ours = own.wrapping_sub(self.own) as u32;
        self.own = own;
        self.seen = self.connection.generation().ok();
        let expected = before.map(|before| before.wrapping_add(ours));
        self.seen.is_none() || self.seen != expected
    }
}
