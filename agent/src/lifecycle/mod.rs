// SPDX-License-Identifier: Apache-2.0
//! How the process begins to serve, proves that it does, changes, and ends.

pub mod drain;
pub mod files;
pub mod interception;
mod mending;
pub mod orders;
pub mod privileges;
mod probe;
pub mod pulse;
pub mod ready;
pub mod reload;
mod round;
pub mod signals;
pub mod steering;
pub mod switch;
pub mod takeover;
pub mod watch;
