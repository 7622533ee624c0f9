// SPDX-License-Identifier: Apache-2.0
//! Locks whose content is whole between two calls, whoever panicked while holding one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, also where a thread or a task has panicked with it: one that is lost must not
/// take the others along.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
