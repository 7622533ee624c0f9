// SPDX-License-Identifier: Apache-2.0
//! Answers that are held back until the test says so: no test need guess how long something takes.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::host::lock;

/// A gate opens by itself after this long, so that a test that fails leaves nobody waiting.
const LONGEST: Duration = Duration::from_secs(60);

/// A gate in a script of [`super::Fault`]: a query waits at it until the test opens it.
///
/// ```no_run
/// use nodens_tests::fault::{Fault, Gate, Reply, Step};
/// # fn main() -> anyhow::Result<()> {
/// let gate = Gate::new();
/// let held = gate.clone();
/// let fault = Fault::start(move |_| {
///     held.wait();
///     vec![Step::Send(Reply::Address)]
/// })?;
/// // … the query is under way for as long as the test wants
/// gate.open();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all through who wait, and all who come.
    pub fn open(&self) {
        let (is_open, changed) = &*self.0;
        *lock(is_open) = true;
        changed.notify_all();
    }

    /// Holds those who come from now on.
    pub fn close(&self) {
        *lock(&self.0.0) = false;
    }

    /// Waits until it is open, a minute at most.
    pub fn wait(&self) {
        let (is_open, changed) = &*self.0;
        let waited = changed.wait_timeout_while(lock(is_open), LONGEST, |is_open| !*is_open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
