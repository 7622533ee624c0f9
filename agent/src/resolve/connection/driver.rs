// SPDX-License-Identifier: Apache-2.0
//! The task of a connection: it writes what was asked in one turn of the thread together, reads what
//! has come, and tells those who are mere data what became of their questions.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::{Told, Wire};
use super::{Connection, lock};
use crate::telemetry::cells::Outcome;

/// Runs for as long as there is the connection. Dropped before, as at the end of the runtime, it drops
/// those who wait with it.
#[derive(Debug)]
pub(super) struct Driver {
    connection: Weak<Connection>,
    /// Goes off when the first of those who are mere data has waited for long enough, or before.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(super) fn of(connection: &Arc<Connection>) -> Self {
        Self {
            connection: Arc::downgrade(connection),
            timer: None,
        }
    }

    /// Tells those whose time is up, and sets the timer for the next.
    fn keep_time(&mut self, wire: &mut Wire, context: &mut Context<'_>) {
        loop {
            let Some(due) = wire.earliest() else {
                self.timer = None;
                return;
            };
            let mut timer = self
                .timer
                .take()
                .unwrap_or_else(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(context).is_pending() {
                self.timer = Some(timer);
                return;
            }
            wire.dismiss_late(Instant::now());
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let Some(connection) = driver.connection.upgrade() else {
            return Poll::Ready(());
        };
        let told = {
            let mut wire = lock(&connection.wire);
            if wire.driver.is_none() {
                wire.driver = Some(context.waker().clone());
            }
            wire.work(context, connection.cells());
            driver.keep_time(&mut wire, context);
            // Its room goes, too: there may be hundreds of connections.
            std::mem::take(&mut wire.told)
        };
        told.into_iter().for_each(Told::tell);
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Some(connection) = self.connection.upgrade() else {
            return;
        };
        let left = {
            let mut wire = lock(&connection.wire);
            wire.end(Outcome::Failed);
            std::mem::take(&mut wire.told)
        };
        drop(left);
    }
}
