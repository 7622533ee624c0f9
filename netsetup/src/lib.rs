// SPDX-License-Identifier: Apache-2.0
//! Host networking of nodens as a library: what should be on the node is a [`plan::Plan`], pure data.
//! It never imports the agent and knows no async runtime.

pub mod plan;
