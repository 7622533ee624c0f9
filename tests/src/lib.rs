// SPDX-License-Identifier: Apache-2.0
//! The lab: what the end-to-end tests, `make run` and `make bench` are built from.

pub mod oracle;
