// SPDX-License-Identifier: Apache-2.0
//! The head of a cell of the cache's memory, and the name of its place.

use super::sync::Ordering::Relaxed;
use super::sync::{AtomicU8, AtomicU32};

/// A cell's place, in units from the start of the memory. 0 is no cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handle(pub(super) u32);

impl Handle {
    pub(super) const NONE: Self = Self(0);

    /// The page that the cell lies in.
    pub(super) fn page(self) -> usize {
        self.0 as usize / super::memory::PAGE_UNITS
    }
}

/// The head of a cell.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Cell {
    /// Neighbours in the queue of the replacement policy, or the next free cell. Cold side only.
    pub(super) previous: AtomicU32,
    pub(super) next: AtomicU32,
    /// The tag of the question. Cold side only.
    pub(super) tag: AtomicU32,
    /// Length of the octets.
    pub(super) len: AtomicU32,
    /// Hits since it was last judged, up to 3. This and the next are all that readers write.
    pub(super) hits: AtomicU8,
    /// Hits of this very answer, up to 2; [`ASKED`] when somebody has been told that it is due.
    pub(super) asks: AtomicU8,
    /// What the cell is used for ([`super::policy`]). Cold side only.
    pub(super) state: AtomicU8,
}

impl Cell {
    /// Counts a hit, up to 3: a hot cell is only read, so its line stays in every CPU's cache.
    pub(super) fn hit(&self) {
        let hits = self.hits.load(Relaxed);
        if hits < MOST_HITS {
            self.hits.store(hits + 1, Relaxed);
        }
        let asks = self.asks.load(Relaxed);
        if asks < WORTH_IT {
            self.asks.store(asks + 1, Relaxed);
        }
    }

    /// Whether the answer, at the end of its lifetime, is asked for often enough to be asked for
    /// once more before. Says yes once; two readers at the same moment may both hear it.
    pub(super) fn is_due(&self) -> bool {
        let is_due = self.asks.load(Relaxed) == WORTH_IT;
        if is_due {
            self.asks.store(ASKED, Relaxed);
        }
        is_due
    }

    /// Begins to count anew, for another answer.
    pub(super) fn reset(&self) {
        self.hits.store(0, Relaxed);
        self.asks.store(0, Relaxed);
    }
}

/// Hits of one answer that make it worth another query.
const WORTH_IT: u8 = 2;
/// The next answer is being asked for.
const ASKED: u8 = 3;

/// Where the count of hits stops (S3-FIFO's two bits).
const MOST_HITS: u8 = 3;
