// SPDX-License-Identifier: Apache-2.0
//! The lab: what the end-to-end tests, `make run` and `make bench` are built from.
//!
//! ```text
//!   client ──► agent ──► tap ──► sample | coredns | fault
//! ```
//!
//! [`client`] asks, [`agent`] is the real program under test, [`tap`] records what went upstream,
//! and behind it stands one of three upstreams: [`sample`], a cluster DNS of our own with every
//! kind of name; [`coredns`], the real CoreDNS with the same names; [`fault`], which misbehaves as
//! it is told. All of it stays on the loopback interface.
//!
//! Interception has a lab of its own: [`node`], a node of a cluster in network namespaces, and
//! [`drill`], what is done to its agent and what pods notice. [`cluster`] is a real Kubernetes, and
//! [`acceptance`] what chart and agent must do on it.
#![expect(
    clippy::disallowed_methods,
    reason = "the lab is no part of the agent: it owns its clock, its waits and its environment"
)]

pub mod acceptance;
pub mod agent;
pub mod client;
pub mod cluster;
pub mod coredns;
pub mod dice;
pub mod drill;
pub mod fault;
pub mod frames;
pub mod helm;
pub mod host;
pub mod kube;
pub mod load;
pub mod netns;
pub mod node;
pub mod oracle;
pub mod process;
pub mod query;
pub mod sample;
pub mod tap;
pub mod yaml;
