// SPDX-License-Identifier: Apache-2.0
//! nodens, a node-local DNS cache for Kubernetes.

pub mod admin;
pub mod config;
pub mod lifecycle;
pub mod telemetry;
pub mod wire;
