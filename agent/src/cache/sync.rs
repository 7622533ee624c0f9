// SPDX-License-Identifier: Apache-2.0
//! The atomics of the table: the standard library's, or the model checker's when the model is
//! built (`make model`).

#[cfg(nodens_loom)]
pub(super) use loom::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(nodens_loom))]
pub(super) use std::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
