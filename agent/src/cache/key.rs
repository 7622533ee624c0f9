// SPDX-License-Identifier: Apache-2.0
//! Where a question stands in the table.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use crate::wire::qtype;
use crate::wire::question::Question;

/// Hashes questions with a seed of this process, so that nobody outside can aim at one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Hasher(RandomState);

impl Hasher {
    /// The question's tag: its shard, its first slot, and what tells most other questions from it.
    /// All questions for one name have the same shard and first slot, so that whoever has looked
    /// for one of them has the others near; two bits tell the types apart that are asked most.
    pub(super) fn tag(&self, question: &Question) -> u32 {
        let kind = match question.qtype() {
            DENIAL => 0,
            qtype::A => 1,
            qtype::AAAA => 2,
            _ => OTHER,
        };
        self.name_tag(question.name()) | kind << KIND_SHIFT
    }

    /// The tag of a name's denial, which all its questions share but for [`KIND`].
    pub(super) fn name_tag(&self, name: &[u8]) -> u32 {
        let [a, b, c, d, ..] = self.0.hash_one(name).to_be_bytes();
        name_of(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The type of the question that stands for all types of a name: no query may have it.
pub const DENIAL: u16 = 0;

/// Where the bits of a tag are that tell types apart: below the shard's, above any slot's index.
const KIND_SHIFT: u32 = 24;
const KIND: u32 = 3;
/// Neither an address nor a denial.
const OTHER: u32 = 3;

/// Whether a tag is that of a type that few ask for.
pub(super) fn is_rare(tag: u32) -> bool {
    tag >> KIND_SHIFT & KIND == OTHER
}

/// A tag without what tells the types of a name apart.
pub(super) fn name_of(tag: u32) -> u32 {
    tag & !(KIND << KIND_SHIFT)
}
