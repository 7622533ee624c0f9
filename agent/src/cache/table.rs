// SPDX-License-Identifier: Apache-2.0
//! The table: from a question to its cell, read without locks, written by one thread.
//!
//! 64 shards, each an open-addressed array of 64-bit slots: the question's tag above, the cell's
//! handle below. The upper six bits of the tag name the shard, the lower ones the first slot.
//!
//! ```text
//! reader   online ─ epoch ─► find ─► read cells …                  ─► offline
//! writer   fill cell ─► publish slot … ─► replace or remove slot ─► limbo ─► every reader has been
//!          offline, or came online after that? ─► the cell may be used again
//! ```
//!
//! This is reclamation by quiescence (QSBR): a reader says when it holds nothing, once a batch, and
//! nothing is ever freed by a reader. An array that was outgrown goes the same way as a cell.

#![expect(
    unsafe_code,
    reason = "lock-free reads of memory that one writer reclaims; ADR 0001"
)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::cell::{Cell, Handle};
use super::key;
use super::memory::Memory;
use super::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use super::sync::{AtomicPtr, AtomicU64, AtomicUsize, fence};

/// Shards: an array is rebuilt for 1/64 of the entries at a time.
pub(super) const SHARDS: usize = if cfg!(nodens_loom) { 1 } else { 64 };
const SHARD_SHIFT: u32 = 26;
const FIRST_SLOTS: usize = if cfg!(nodens_loom) { 2 } else { 16 };
const EMPTY: u64 = 0;
/// A slot that held something: the search goes on behind it. No handle is this large.
const REMOVED: u64 = u32::MAX as u64;

/// Shared between the writer and all readers.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) memory: Memory,
    shards: Box<[AtomicPtr<Slots>]>,
    /// Grows with every turn of the limbo; starts at 1, as 0 is "offline".
    epoch: AtomicU64,
    readers: Box<[ReaderPlace]>,
    taken: AtomicUsize,
}

/// What one reader says of itself: the epoch in which it came online, or 0. A cache line of its
/// own, as each reader writes it once a batch.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ReaderPlace(AtomicU64);

#[derive(Debug)]
struct Slots {
    mask: usize,
    slots: Box<[AtomicU64]>,
}

impl Slots {
    fn new(len: usize) -> Box<Self> {
        Box::new(Self {
            mask: len - 1,
            slots: (0..len).map(|_| AtomicU64::new(EMPTY)).collect(),
        })
    }

    /// The slots that a tag may be in, from its first on.
    fn probe(&self, tag: u32) -> impl Iterator<Item = &AtomicU64> {
        let first = home(tag);
        (0..self.slots.len()).map(move |step| &self.slots[(first + step) & self.mask])
    }

    /// Has the CPU fetch the first of them.
    fn fetch(&self, tag: u32) {
        fetch(std::ptr::from_ref(&self.slots[home(tag) & self.mask]).cast());
    }

    fn bytes(&self) -> usize {
        self.slots.len() * size_of::<AtomicU64>()
    }
}

fn pack(tag: u32, handle: Handle) -> u64 {
    u64::from(tag) << 32 | u64::from(handle.0)
}

fn handle_of(slot: u64) -> Option<Handle> {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let handle = slot as u32;
    (slot != EMPTY && slot != REMOVED).then_some(Handle(handle))
}

fn tag_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// Where a tag's search begins: all questions for one name begin at the same slot.
fn home(tag: u32) -> usize {
    key::name_of(tag) as usize
}

fn shard_of(tag: u32) -> usize {
    (tag >> SHARD_SHIFT) as usize % SHARDS
}

impl Table {
    /// A table that at most `readers` readers can come to, and the one right to write it.
    pub(super) fn new(memory: Memory, readers: usize) -> (Arc<Self>, TableWriter) {
        let table = Arc::new(Self {
            memory,
            shards: (0..SHARDS)
                .map(|_| AtomicPtr::new(Box::into_raw(Slots::new(FIRST_SLOTS))))
                .collect(),
            epoch: AtomicU64::new(1),
            readers: (0..readers).map(|_| ReaderPlace::default()).collect(),
            taken: AtomicUsize::new(0),
        });
        let writer = TableWriter {
            table: Arc::clone(&table),
            shards: vec![ShardUse::default(); SHARDS],
            live: 0,
            limbo: VecDeque::new(),
            bytes: SHARDS * FIRST_SLOTS * size_of::<AtomicU64>(),
        };
        (table, writer)
    }

    /// A reader of the table; `None` where all places are taken.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let place = self.taken.fetch_add(1, Relaxed);
        (place < self.readers.len()).then(|| Reader {
            table: Arc::clone(self),
            place,
        })
    }

    /// Looks for the cell of `tag` whose octets satisfy `is_it`.
    ///
    /// # Safety
    /// The caller is the writer, or online since before the call and until it has let go of what
    /// it got.
    unsafe fn find(&self, tag: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<Handle> {
        let slots = self.shards[shard_of(tag)].load(Acquire);
        // SAFETY: the array is replaced only by the writer, which frees the old one when every
        // reader that was online at that time has let go.
        let slots = unsafe { &*slots };
        for slot in slots.probe(tag) {
            let slot = slot.load(Acquire);
            if slot == EMPTY {
                return None;
            }
            if tag_of(slot) == tag
                && let Some(handle) = handle_of(slot)
                // SAFETY: the handle was published with Release after its octets were written,
                // and is reclaimed like the array above.
                && is_it(unsafe { self.memory.octets(handle) })
            {
                return Some(handle);
            }
        }
        None
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for shard in &self.shards {
            // SAFETY: nobody refers to the table any more, so nobody reads this array; it came
            // from Box::into_raw and only the current one stands here.
            drop(unsafe { Box::from_raw(shard.load(Relaxed)) });
        }
    }
}

/// One reading thread.
#[derive(Debug)]
pub(super) struct Reader {
    table: Arc<Table>,
    place: usize,
}

impl Reader {
    /// Comes online. The borrow is exclusive: a reader cannot come online twice.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "that is what forbids two sessions"
    )]
    pub(super) fn online(&mut self) -> Online<'_> {
        let place = &self.table.readers[self.place].0;
        place.store(self.table.epoch.load(Acquire), Release);
        // Together with the fence in `TableWriter::collect`: either the writer sees this reader
        // online, or this reader sees what the writer has taken out of the table.
        fence(SeqCst);
        Online {
            table: &self.table,
            place,
        }
    }
}

/// A reader that is online: what it finds stays until this is dropped.
#[derive(Debug)]
pub(super) struct Online<'a> {
    table: &'a Table,
    place: &'a AtomicU64,
}

impl Online<'_> {
    /// The cell of `tag` whose octets satisfy `is_it`, with its octets.
    pub(super) fn find(&self, tag: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<(&Cell, &[u8])> {
        // SAFETY: this reader is online until it is dropped, and what is returned borrows it.
        unsafe {
            let handle = self.table.find(tag, is_it)?;
            Some((
                self.table.memory.cell(handle),
                self.table.memory.octets(handle),
            ))
        }
    }
}

impl Online<'_> {
    /// Has the CPU fetch the slots that `tag` may be in, while other work is done.
    pub(super) fn fetch_slots(&self, tag: u32) {
        self.slots(tag).fetch(tag);
    }

    /// Has the CPU fetch the cell of `tag`, whose slots are near by now. Another cell of the same
    /// tag, one in four thousand million, is fetched in vain.
    pub(super) fn fetch_cell(&self, tag: u32) {
        let slots = self.slots(tag).probe(tag).take(FETCHED_SLOTS);
        let mut values = slots.map(|slot| slot.load(Relaxed));
        let found = values.find(|&slot| slot == EMPTY || tag_of(slot) == tag);
        if let Some(handle) = found.and_then(handle_of) {
            for line in self.table.memory.lines(handle) {
                fetch(line);
            }
        }
    }

    fn slots(&self, tag: u32) -> &Slots {
        let slots = self.table.shards[shard_of(tag)].load(Acquire);
        // SAFETY: as in `Table::find`; this reader is online.
        unsafe { &*slots }
    }
}

/// Slots that are looked through for a cell to fetch: a line of them.
const FETCHED_SLOTS: usize = 8;

/// Has the CPU bring a line near. Only a wish: any address will do.
pub(super) fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see and faults at no address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.place.store(0, Release);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardUse {
    live: usize,
    removed: usize,
}

#[derive(Debug)]
enum Retired {
    Cell(Handle),
    Slots(*mut Slots),
}

/// The one right to write a table. Handles that go in come from the slab of the same memory.
#[derive(Debug)]
pub(super) struct TableWriter {
    table: Arc<Table>,
    shards: Vec<ShardUse>,
    /// Cells in all of them.
    live: usize,
    /// What is out of the table but may still be read, with the epoch it went out in.
    limbo: VecDeque<(u64, Retired)>,
    bytes: usize,
}

// SAFETY: the raw pointers in the limbo are arrays that the table has let go of; nothing about them
// belongs to a thread.
unsafe impl Send for TableWriter {}

impl TableWriter {
    /// Octets that the arrays take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Cells in the table.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.table.memory
    }

    pub(super) fn cell(&self, handle: Handle) -> &Cell {
        // SAFETY: the writer holds every cell: none is used anew but by itself.
        unsafe { self.table.memory.cell(handle) }
    }

    pub(super) fn octets(&self, handle: Handle) -> &[u8] {
        // SAFETY: as above; the writer asks only for cells that it has filled.
        unsafe { self.table.memory.octets(handle) }
    }

    /// The cell of `tag` whose octets satisfy `is_it`.
    pub(super) fn find(&self, tag: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<Handle> {
        // SAFETY: this is the writer.
        unsafe { self.table.find(tag, is_it) }
    }

    /// Every cell that may be about the name of `tag`: those with its tag, types aside.
    pub(super) fn family(&self, tag: u32) -> impl Iterator<Item = Handle> {
        self.slots(shard_of(tag))
            .probe(tag)
            .map(|slot| slot.load(Relaxed))
            .take_while(|&slot| slot != EMPTY)
            .filter(move |&slot| key::name_of(tag_of(slot)) == key::name_of(tag))
            .filter_map(handle_of)
    }

    /// Has the CPU fetch the slots that `tag` may be in.
    pub(super) fn fetch_slots(&self, tag: u32) {
        self.slots(shard_of(tag)).fetch(tag);
    }

    /// Has the CPU fetch a cell, or its head and the beginning of its octets.
    pub(super) fn fetch_cell(&self, handle: Handle) {
        self.memory().lines(handle).into_iter().for_each(fetch);
    }

    /// Fills a fresh cell and makes it findable. Nothing in the table has the same key.
    pub(super) fn publish(&mut self, tag: u32, fresh: Handle, octets: &[u8]) {
        self.fill(tag, fresh, octets);
        self.make_room(shard_of(tag));
        let slots = self.slots(shard_of(tag));
        let free = slots
            .probe(tag)
            .find(|slot| handle_of(slot.load(Relaxed)).is_none());
        // There is room: make_room keeps a fifth of the slots empty.
        if let Some(slot) = free {
            let was_removed = slot.load(Relaxed) == REMOVED;
            slot.store(pack(tag, fresh), Release);
            let shard = &mut self.shards[shard_of(tag)];
            shard.live += 1;
            self.live += 1;
            shard.removed -= usize::from(was_removed);
        }
    }

    /// Fills a fresh cell and puts it in the place of `old`, which has the same key.
    pub(super) fn replace(&mut self, tag: u32, old: Handle, fresh: Handle, octets: &[u8]) {
        self.fill(tag, fresh, octets);
        if let Some(slot) = self.slot(tag, old) {
            slot.store(pack(tag, fresh), Release);
            self.retire(Retired::Cell(old));
        }
    }

    /// Takes a cell out of the table.
    pub(super) fn remove(&mut self, tag: u32, old: Handle) {
        let index = shard_of(tag);
        let Some(slot) = self.slot(tag, old) else {
            return;
        };
        slot.store(REMOVED, Release);
        let freed = self.tidy(tag);
        let shard = &mut self.shards[index];
        shard.live -= 1;
        self.live -= 1;
        shard.removed = (shard.removed + 1).saturating_sub(freed);
        self.retire(Retired::Cell(old));
    }

    /// Hands every cell that no reader can hold any more to `free`.
    pub(super) fn collect(&mut self, mut free: impl FnMut(&Self, Handle)) {
        if self.limbo.is_empty() {
            return;
        }
        let now = self.table.epoch.load(Relaxed);
        self.table.epoch.store(now + 1, Release);
        fence(SeqCst);
        // The oldest epoch that a reader may still be in; what went out before it is free.
        let oldest = self
            .table
            .readers
            .iter()
            .map(|reader| reader.0.load(Acquire))
            .filter(|&epoch| epoch != 0)
            .min()
            .unwrap_or(u64::MAX);
        while let Some(&(epoch, _)) = self.limbo.front()
            && epoch < oldest
            && let Some((_, retired)) = self.limbo.pop_front()
        {
            match retired {
                Retired::Cell(handle) => free(self, handle),
                Retired::Slots(slots) => {
                    // SAFETY: it came from Box::into_raw, stands nowhere any more, and every
                    // reader that could have seen it has been offline since.
                    let slots = unsafe { Box::from_raw(slots) };
                    self.bytes -= slots.bytes();
                }
            }
        }
    }

    /// Gives the kernel back a page of which no cell is in use.
    pub(super) fn release(&self, page: usize) {
        // SAFETY: the slab says so when the page's last cell came back, and a cell comes back only
        // when no reader holds it.
        unsafe { self.table.memory.release(page) };
    }

    /// Cells that are out of the table but not free yet.
    pub(super) fn in_limbo(&self) -> usize {
        self.limbo.len()
    }

    /// Every cell of a shard.
    pub(super) fn handles(&self, shard: usize) -> Vec<Handle> {
        self.handles_where(shard, |_| true)
    }

    /// The cells of a shard whose tags are `wanted`.
    pub(super) fn handles_where(&self, shard: usize, wanted: impl Fn(u32) -> bool) -> Vec<Handle> {
        self.slots(shard)
            .slots
            .iter()
            .map(|slot| slot.load(Relaxed))
            .filter(|&slot| wanted(tag_of(slot)))
            .filter_map(handle_of)
            .collect()
    }

    /// Cells of a shard.
    pub(super) fn live_in(&self, shard: usize) -> usize {
        self.shards[shard].live
    }

    fn fill(&self, tag: u32, fresh: Handle, octets: &[u8]) {
        // SAFETY: the slab has just given the cell out for these octets; nobody else knows it.
        unsafe { self.table.memory.fill(fresh, octets) };
        self.cell(fresh).tag.store(tag, Relaxed);
    }

    fn retire(&mut self, retired: Retired) {
        let epoch = self.table.epoch.load(Relaxed);
        self.limbo.push_back((epoch, retired));
    }

    fn slots(&self, shard: usize) -> &Slots {
        // SAFETY: only the writer replaces the array, and frees it only when it is retired.
        unsafe { &*self.table.shards[shard].load(Relaxed) }
    }

    fn slot(&self, tag: u32, handle: Handle) -> Option<&AtomicU64> {
        let wanted = pack(tag, handle);
        self.slots(shard_of(tag))
            .probe(tag)
            .take_while(|slot| slot.load(Relaxed) != EMPTY)
            .find(|slot| slot.load(Relaxed) == wanted)
    }

    /// Where the slot behind a removed one is empty, no search goes on past it: the removed slots
    /// before it become empty too. Returns how many.
    fn tidy(&self, tag: u32) -> usize {
        let slots = self.slots(shard_of(tag));
        let first = home(tag) & slots.mask;
        let place = |step: usize| &slots.slots[(first + step) & slots.mask];
        let len = slots.slots.len();
        let Some(empty) = (0..len).find(|&step| place(step).load(Relaxed) == EMPTY) else {
            return 0;
        };
        let mut freed = 0;
        let mut step = empty + len - 1;
        while freed < len && place(step).load(Relaxed) == REMOVED {
            place(step).store(EMPTY, Release);
            freed += 1;
            step -= 1;
        }
        freed
    }

    /// Rebuilds a shard's array where more than four fifths of it are used: twice as large, or as
    /// large as it was where most of the use is removed slots.
    fn make_room(&mut self, shard: usize) {
        let usage = self.shards[shard];
        let old = self.slots(shard);
        let len = old.slots.len();
        if (usage.live + usage.removed + 1) * 5 <= len * 4 {
            return;
        }
        let double = (usage.live + 1) * 5 > len * 2;
        let new = Slots::new(if double { len * 2 } else { len });
        for slot in &old.slots {
            let value = slot.load(Relaxed);
            if handle_of(value).is_some()
                && let Some(to) = new
                    .probe(tag_of(value))
                    .find(|slot| slot.load(Relaxed) == EMPTY)
            {
                to.store(value, Relaxed);
            }
        }
        self.bytes += new.bytes();
        self.shards[shard].removed = 0;
        let old = self.table.shards[shard].swap(Box::into_raw(new), SeqCst);
        self.retire(Retired::Slots(old));
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        // Cells go with the memory; arrays in limbo go when no reader is online. A reader that
        // outlives the writer must not see them freed, so one that is online keeps them.
        self.collect(|_, _| {});
    }
}
