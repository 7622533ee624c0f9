// SPDX-License-Identifier: Apache-2.0
//! A walk through the whole store in small parts, between which the store lives on.
//!
//! A part is what a shard holds of the tags with the same last bits. An entry keeps its tag when it
//! is replaced, moved, or its shard's array is rebuilt. So whatever is in the store from the
//! beginning of a walk to its end is met once, and what comes or goes meanwhile once at most.

use super::cell::Handle;
use super::table::{SHARDS, TableWriter};

/// Entries of a part, about.
const PART: usize = 16;
/// Parts of a shard, at most: the bits of a tag that its first slot is made of are more.
const MOST_PARTS: usize = 1 << 14;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    shard: usize,
    part: usize,
    /// Parts of this shard, a power of two; 0 where the shard has not begun.
    parts: usize,
}

impl Walk {
    /// A walk at its beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cells of the next part; `None` at the end.
    pub(super) fn next(&mut self, table: &TableWriter) -> Option<Vec<Handle>> {
        if self.shard == SHARDS {
            return None;
        }
        if self.parts == 0 {
            let parts = table.live_in(self.shard).div_ceil(PART);
            self.parts = parts.next_power_of_two().min(MOST_PARTS);
        }
        let (part, last) = (self.part, self.parts - 1);
        let handles = table.handles_where(self.shard, |tag| tag as usize & last == part);
        self.part += 1;
        if self.part == self.parts {
            *self = Self {
                shard: self.shard + 1,
                ..Self::default()
            };
        }
        Some(handles)
    }
}
