// SPDX-License-Identifier: Apache-2.0
//! The `nodens` program.

fn main() {}
