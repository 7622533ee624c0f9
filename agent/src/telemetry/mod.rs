// SPDX-License-Identifier: Apache-2.0
//! What the agent says of itself.

pub mod counters;
