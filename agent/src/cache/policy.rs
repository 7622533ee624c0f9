// SPDX-License-Identifier: Apache-2.0
//! What goes when room is needed: S3-FIFO (Yang et al., SOSP 2023), weighed in octets.
//!
//! New entries wait in a small queue, a tenth of all octets. Those that were hit twice meanwhile
//! go on to the main queue, the others leave and only their tags are remembered for a while; who
//! comes back within that time goes to the main queue at once. So a flood of names that are asked
//! once passes through the small queue and never reaches what is hot.

use std::sync::atomic::Ordering::Relaxed;

use super::cell::{Cell, Handle};
use super::table::fetch;

/// States of a cell.
pub(super) const FREE: u8 = 0;
/// In the small queue.
pub(super) const SMALL: u8 = 1;
/// In the main queue.
pub(super) const MAIN: u8 = 2;
/// In no queue: kept for good.
pub(super) const PINNED: u8 = 3;
/// Out of the table, perhaps still read.
pub(super) const RETIRED: u8 = 4;

/// Hits that let an entry pass from the small queue to the main one.
const PROMOTE_AT: u8 = 2;
/// Entries that are looked at for one that goes: bounds the time of an insert.
const LOOKED_AT: usize = 4096;

/// Whether an entry of the small queue has been hit often enough to pass on from it.
pub(super) fn has_proved_itself(cell: &Cell) -> bool {
    cell.hits.load(Relaxed) >= PROMOTE_AT
}

/// Whether a cell's entry waits in a queue.
pub(super) fn is_queued(cell: &Cell) -> bool {
    matches!(cell.state.load(Relaxed), SMALL | MAIN)
}

/// A cell with what it costs in octets.
pub(super) trait Cells {
    /// The head of a cell.
    fn cell(&self, handle: Handle) -> &Cell;
    /// Its size in octets.
    fn size(&self, handle: Handle) -> usize;
}

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Policy {
    small: Queue,
    main: Queue,
    ghost: Ghost,
    pub(super) ghost_hits: u64,
}

impl Policy {
    /// Octets of all entries in the queues.
    pub(super) fn bytes(&self) -> usize {
        self.small.bytes + self.main.bytes
    }

    /// Octets that the policy itself takes.
    pub(super) fn own_bytes(&self) -> usize {
        self.ghost.tags.len() * size_of::<u32>()
    }

    /// Takes in a new entry.
    pub(super) fn admit(&mut self, handle: Handle, tag: u32, cells: &impl Cells) {
        if self.ghost.forget(tag) {
            self.ghost_hits += 1;
            self.main.push(handle, MAIN, cells);
        } else {
            self.small.push(handle, SMALL, cells);
        }
    }

    /// Puts an entry where another with the same key was, with the hits of that one.
    pub(super) fn inherit(&mut self, old: Handle, fresh: Handle, cells: &impl Cells) {
        let hits = cells.cell(old).hits.load(Relaxed);
        let state = cells.cell(old).state.load(Relaxed);
        self.drop(old, cells);
        cells.cell(fresh).hits.store(hits, Relaxed);
        match state {
            SMALL => self.small.push(fresh, SMALL, cells),
            MAIN => self.main.push(fresh, MAIN, cells),
            other => cells.cell(fresh).state.store(other, Relaxed),
        }
    }

    /// Takes an entry out of its queue.
    pub(super) fn drop(&mut self, handle: Handle, cells: &impl Cells) {
        match cells.cell(handle).state.load(Relaxed) {
            SMALL => self.small.unlink(handle, cells),
            MAIN => self.main.unlink(handle, cells),
            _ => {}
        }
    }

    /// The entry that most likely goes next, where there is one. It stays.
    pub(super) fn likely_next(&self) -> Option<Handle> {
        let queue = if self.next_queue_is_small() {
            &self.small
        } else {
            &self.main
        };
        (queue.first != Handle::NONE).then_some(queue.first)
    }

    /// Has the CPU fetch where `tag` would be remembered.
    pub(super) fn fetch(&self, tag: u32) {
        self.ghost.fetch(tag);
    }

    fn next_queue_is_small(&self) -> bool {
        self.small.bytes * 10 >= self.bytes() || self.main.first == Handle::NONE
    }

    /// Chooses the entry that goes next and takes it out of its queue.
    pub(super) fn evict(&mut self, entries: usize, cells: &impl Cells) -> Option<Handle> {
        for looked_at in 0.. {
            let from_small = self.next_queue_is_small();
            let queue = if from_small {
                &mut self.small
            } else {
                &mut self.main
            };
            let handle = queue.pop(cells)?;
            let cell = cells.cell(handle);
            let hits = cell.hits.load(Relaxed);
            if looked_at < LOOKED_AT && hits >= (if from_small { PROMOTE_AT } else { 1 }) {
                cell.hits
                    .store(if from_small { 0 } else { hits - 1 }, Relaxed);
                self.main.push(handle, MAIN, cells);
                continue;
            }
            if from_small {
                self.ghost.remember(cell.tag.load(Relaxed), entries);
            }
            return Some(handle);
        }
        None
    }
}

/// A queue through the cells themselves: the first one goes first.
#[derive(Debug, Default)]
struct Queue {
    first: Handle,
    last: Handle,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, handle: Handle, state: u8, cells: &impl Cells) {
        let cell = cells.cell(handle);
        cell.state.store(state, Relaxed);
        cell.previous.store(self.last.0, Relaxed);
        cell.next.store(Handle::NONE.0, Relaxed);
        if self.last == Handle::NONE {
            self.first = handle;
        } else {
            cells.cell(self.last).next.store(handle.0, Relaxed);
        }
        self.last = handle;
        self.bytes += cells.size(handle);
    }

    fn pop(&mut self, cells: &impl Cells) -> Option<Handle> {
        let first = self.first;
        (first != Handle::NONE).then(|| {
            self.unlink(first, cells);
            first
        })
    }

    fn unlink(&mut self, handle: Handle, cells: &impl Cells) {
        let cell = cells.cell(handle);
        let previous = Handle(cell.previous.load(Relaxed));
        let next = Handle(cell.next.load(Relaxed));
        if previous == Handle::NONE {
            self.first = next;
        } else {
            cells.cell(previous).next.store(next.0, Relaxed);
        }
        if next == Handle::NONE {
            self.last = previous;
        } else {
            cells.cell(next).previous.store(previous.0, Relaxed);
        }
        self.bytes -= cells.size(handle);
    }
}

/// Tags of entries that left the small queue, in groups of four; in each group the next one takes
/// the place of the oldest. About as many as there are entries.
#[derive(Debug, Default)]
struct Ghost {
    tags: Vec<u32>,
    turn: usize,
}

const GROUP: usize = 4;
const SMALLEST_GHOST: usize = 1024;

impl Ghost {
    fn remember(&mut self, tag: u32, entries: usize) {
        let wanted = entries.next_power_of_two().max(SMALLEST_GHOST);
        // Grown only, and emptied by it: a short forgetting, a few times in the life of a cache.
        if self.tags.len() < wanted / 2 || self.tags.is_empty() {
            self.tags = vec![0; wanted];
        }
        let group = self.group(tag);
        if let Some(free) = self.tags[group..group + GROUP]
            .iter_mut()
            .find(|tag| **tag == 0)
        {
            *free = tag;
            return;
        }
        self.turn = (self.turn + 1) % GROUP;
        self.tags[group + self.turn] = tag;
    }

    /// Whether the tag was there; it is not afterwards.
    fn forget(&mut self, tag: u32) -> bool {
        if self.tags.is_empty() {
            return false;
        }
        let group = self.group(tag);
        let found = self.tags[group..group + GROUP]
            .iter_mut()
            .find(|known| **known == tag);
        found.map(|known| *known = 0).is_some()
    }

    fn fetch(&self, tag: u32) {
        if !self.tags.is_empty() {
            fetch(std::ptr::from_ref(&self.tags[self.group(tag)]).cast());
        }
    }

    fn group(&self, tag: u32) -> usize {
        // The tag's upper bits name its shard: mix them in.
        let mixed = tag ^ (tag >> 15);
        (mixed as usize * GROUP) & (self.tags.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pool(Vec<Cell>);

    impl Pool {
        fn new(len: usize) -> Self {
            Self((0..len).map(|_| Cell::default()).collect())
        }
    }

    impl Cells for Pool {
        fn cell(&self, handle: Handle) -> &Cell {
            &self.0[handle.0 as usize]
        }

        fn size(&self, _: Handle) -> usize {
            100
        }
    }

    fn admit(policy: &mut Policy, pool: &Pool, number: u32) {
        let cell = pool.cell(Handle(number));
        cell.tag.store(number, Relaxed);
        cell.hits.store(0, Relaxed);
        policy.admit(Handle(number), number, pool);
    }

    #[test]
    fn names_that_are_asked_once_never_push_out_what_is_hot() {
        let pool = Pool::new(20_000);
        let mut policy = Policy::default();
        for hot in 1..=900 {
            admit(&mut policy, &pool, hot);
            pool.cell(Handle(hot)).hits.store(3, Relaxed);
        }
        let mut gone = Vec::new();
        for once in 1000..19_000 {
            while policy.bytes() >= 100_000 {
                gone.push(policy.evict(1000, &pool).unwrap().0);
            }
            admit(&mut policy, &pool, once);
            for hot in 1..=900 {
                if pool.cell(Handle(hot)).state.load(Relaxed) != FREE && once % 64 == 0 {
                    pool.cell(Handle(hot)).hit();
                }
            }
        }
        assert_eq!(gone.iter().filter(|&&number| number <= 900).count(), 0);
    }

    #[test]
    fn who_comes_back_soon_goes_to_the_main_queue() {
        let pool = Pool::new(3_000);
        let mut policy = Policy::default();
        for number in 1..=1000 {
            admit(&mut policy, &pool, number);
        }
        let first = policy.evict(1000, &pool).unwrap();
        assert_eq!(first, Handle(1));
        admit(&mut policy, &pool, 1);
        assert_eq!(pool.cell(Handle(1)).state.load(Relaxed), MAIN);
        assert_eq!(policy.ghost_hits, 1);
    }

    #[test]
    fn an_eviction_ends_even_where_everything_is_hot() {
        let pool = Pool::new(3_000);
        let mut policy = Policy::default();
        for number in 1..=2000 {
            admit(&mut policy, &pool, number);
            pool.cell(Handle(number)).hits.store(3, Relaxed);
        }
        assert!(policy.evict(2000, &pool).is_some());
        assert_eq!(policy.bytes(), 1999 * 100);
    }

    #[test]
    fn an_entry_that_is_replaced_keeps_its_place_among_the_hot() {
        let pool = Pool::new(10);
        let mut policy = Policy::default();
        admit(&mut policy, &pool, 1);
        policy.ghost.remember(2, 10);
        admit(&mut policy, &pool, 2);
        pool.cell(Handle(2)).hits.store(2, Relaxed);
        policy.inherit(Handle(2), Handle(3), &pool);
        assert_eq!(pool.cell(Handle(3)).state.load(Relaxed), MAIN);
        assert_eq!(pool.cell(Handle(3)).hits.load(Relaxed), 2);
        assert_eq!(policy.bytes(), 200);
    }
}
