// SPDX-License-Identifier: Apache-2.0
//! Orders to the pulse thread, which alone may speak to the kernel: given by others, carried out
//! between two of its questions.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Something that the pulse is told to do. The sender is used, or dropped, when it is done.
#[derive(Debug)]
pub(super) enum Order {
    /// End.
    Stop,
    /// Take the elements out: no new queries from now on.
    Drain(oneshot::Sender<()>),
    /// As drain, and then neither steer nor mend any more.
    Retire(oneshot::Sender<()>),
}

/// Orders that wait, and the bell that wakes the pulse for them.
#[derive(Debug)]
pub struct Orders {
    bell: OwnedFd,
    waiting: Mutex<Vec<Order>>,
}

impl Orders {
    /// None yet.
    ///
    /// # Errors
    /// The system has no descriptor for us.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            waiting: Mutex::default(),
        })
    }

    /// Has the kernel steer no new queries here; returns when that is so, or after `patience`.
    /// True where it is so.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.give(Order::Drain, patience).await
    }

    /// Has the pulse steer and mend no more; returns when the kernel has nothing of ours left that
    /// steers, or after `patience`. True where it is so.
    pub async fn retire(&self, patience: Duration) -> bool {
        self.give(Order::Retire, patience).await
    }

    async fn give(&self, order: fn(oneshot::Sender<()>) -> Order, patience: Duration) -> bool {
        let (done, is_done) = oneshot::channel();
        self.put(order(done));
        // A sender that is dropped unused: there was nothing to do.
        timeout(patience, is_done).await.is_ok()
    }

    pub(super) fn stop(&self) {
        self.put(Order::Stop);
    }

    fn put(&self, order: Order) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(order);
        drop(waiting);
        // It fails only where the bell rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// What waits; the bell is still then.
    pub(super) fn take(&self) -> Vec<Order> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
    }

    /// Readable while orders wait.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
