// SPDX-License-Identifier: Apache-2.0
//! nodens, a node-local DNS cache for Kubernetes.

pub mod cache;
pub mod cli;
pub mod config;
pub mod lifecycle;
pub mod miss;
pub mod resolve;
pub mod serve;
pub mod telemetry;
pub mod wire;
