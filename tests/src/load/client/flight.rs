// SPDX-License-Identifier: Apache-2.0
//! The queries of a client that are under way.

/// A query under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// When it was sent, in nanoseconds of the monotonic clock.
    pub(super) sent_ns: u64,
    /// The number of its name.
    pub(super) index: u64,
}

/// The queries under way, found by ID. The ID is the low 16 bits of a count, the slot its low
/// bits: both are reused only when the query that had them has ended.
pub(super) struct Flight {
    slots: Vec<Option<Begun>>,
    /// The count of the next query.
    next: u64,
    /// The count of the oldest query that may be under way.
    oldest: u64,
    /// How many are under way.
    pub(super) under_way: usize,
    timeout_ns: u64,
}

impl Flight {
    /// `slots`: a power of two, 65,536 at most.
    pub(super) fn new(slots: usize, timeout_ns: u64) -> Self {
        Self {
            slots: vec![None; slots],
            next: 0,
            oldest: 0,
            under_way: 0,
            timeout_ns,
        }
    }

    fn slot(&self, count: u64) -> usize {
        usize::try_from(count % self.slots.len() as u64).unwrap_or(0)
    }

    /// Whether one more can be under way.
    pub(super) fn has_room(&self) -> bool {
        self.next - self.oldest < self.slots.len() as u64
    }

    /// Notes a query for name `index`, sent `now`. Returns its ID.
    pub(super) fn start(&mut self, now: u64, index: u64) -> u16 {
        let slot = self.slot(self.next);
        debug_assert!(self.slots[slot].is_none(), "slot {slot} is taken");
        self.slots[slot] = Some(Begun {
            sent_ns: now,
            index,
        });
        let id = u16::try_from(self.next & 0xFFFF).unwrap_or(0);
        self.next += 1;
        self.under_way += 1;
        id
    }

    /// Ends the query with this ID; nothing if none is under way.
    pub(super) fn finish(&mut self, id: u16) -> Option<Begun> {
        // The latest count that has this ID: it is under way, or nothing with this ID is.
        let behind = u64::from(
            u16::try_from(self.next & 0xFFFF)
                .unwrap_or(0)
                .wrapping_sub(id),
        );
        let count = self
            .next
            .checked_sub(if behind == 0 { 1 << 16 } else { behind })?;
        if count < self.oldest {
            return None;
        }
        let slot = self.slot(count);
        let begun = self.slots[slot].take()?;
        self.under_way -= 1;
        self.skip_ended();
        Some(begun)
    }

    fn skip_ended(&mut self) {
        while self.oldest < self.next && self.slots[self.slot(self.oldest)].is_none() {
            self.oldest += 1;
        }
    }

    /// Gives up the queries that are too old. Returns how many.
    pub(super) fn expire(&mut self, now: u64) -> u64 {
        let mut lost = 0;
        while self.oldest < self.next {
            let slot = self.slot(self.oldest);
            match self.slots[slot] {
                Some(begun) if now.saturating_sub(begun.sent_ns) < self.timeout_ns => break,
                Some(_) => {
                    self.slots[slot] = None;
                    self.under_way -= 1;
                    lost += 1;
                }
                None => {}
            }
            self.oldest += 1;
        }
        lost
    }
}
