// SPDX-License-Identifier: Apache-2.0
//! DNS bytes. No I/O, no clock, no allocation, no panic: everything here reads what strangers sent.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod name;
