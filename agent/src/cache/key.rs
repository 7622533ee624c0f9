// SPDX-License-Identifier: Apache-2.0
//! Where a question stands in the table.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use crate::wire::question::Question;

/// Hashes questions with a seed of this process, so that nobody outside can aim at one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Hasher(RandomState);

impl Hasher {
    /// The question's tag: its shard, its first slot, and what tells most other questions from it.
    pub(super) fn tag(&self, question: &Question) -> u32 {
        let [a, b, c, d, ..] = self.0.hash_one(question.as_octets()).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}
