// SPDX-License-Identifier: Apache-2.0
//! How the process begins to serve, proves that it does, changes, and ends.

pub mod drain;
mod probe;
pub mod pulse;
pub mod ready;
pub mod reload;
pub mod signals;
