// SPDX-License-Identifier: Apache-2.0
//! The active table: lives and dies with the process that made it.

use std::time::Duration;

use crate::error::Error;
use crate::plan::{Lane, Plan};

/// A netlink socket that can own a table. Open it before anything else in the process: the kernel
/// closes descriptors in order, and the table goes with this one.
#[derive(Debug)]
pub struct OwnerSocket {}

/// The active table, and the socket that owns it: the table goes when this is dropped, and when the
/// process ends in whatever way.
#[derive(Debug)]
pub struct Active {}

impl Active {
    /// Opens the socket that is to own the table. Nothing else happens yet.
    ///
    /// # Errors
    /// When there can be no netlink socket.
    pub fn open() -> Result<OwnerSocket, Error> {
        todo!()
    }

    /// Makes the table with its sets, chains and rules, in one transaction. The sets are empty:
    /// nothing is steered yet.
    ///
    /// # Errors
    /// When the kernel refuses, another process owns such a table, or another program made it.
    pub fn apply(socket: OwnerSocket, plan: &Plan) -> Result<Self, Error> {
        let _ = (socket, plan);
        todo!()
    }

    /// Whether the kernel deletes the table with the process. `false` on kernels before 5.12: then
    /// it is a plain table, which the dead-man's switch alone lets go.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        todo!()
    }

    /// The netlink port that makes the changes: what [`crate::watch::Watch`] need not wake for.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        todo!()
    }

    /// Keeps the lanes of `live` (new queries and connections) and of `serve` (established TCP)
    /// steered for `timeout` from now, in one transaction. Lanes not given are left to expire.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refresh(
        &mut self,
        live: &[Lane],
        serve: &[Lane],
        timeout: Duration,
    ) -> Result<(), Error> {
        let _ = (live, serve, timeout);
        todo!()
    }

    /// Takes lanes out of `live` at once; what is established goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        let _ = lanes;
        todo!()
    }
}
