// SPDX-License-Identifier: Apache-2.0
//! nodens, a node-local DNS cache for Kubernetes.
//!
//! A query's way:
//!
//! ```text
//!            UDP                                             TCP
//!             │                                               │
//!      serve (a worker a CPU)                           stream (cold)
//!      batch ─► wire::query ─► cache ─ hit ─► wire::reply ◄─ hit ┤
//!                               │                             │
//!                               └ miss ─► miss (queue) ─► resolve (cold) ─► CoreDNS
//!                                                             │
//!                       every waiter ◄─ wire::reply ◄─ insert ┘
//! ```
//!
//! Two straight lines tell the whole program: the loop in `serve/worker.rs` and `resolve` in
//! `resolve/mod.rs`. They never import each other; they meet in [`miss`] and [`cache`].

pub mod admin;
pub mod beside;
pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod inspect;
pub mod lifecycle;
pub mod listeners;
mod lock;
pub mod miss;
pub mod resolve;
#[cfg(test)]
mod scratch;
pub mod serve;
pub mod stream;
pub mod telemetry;
pub mod wire;
