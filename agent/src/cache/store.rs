// SPDX-License-Identifier: Apache-2.0
//! The writing side: finds room, lets go of what must go, and keeps to the budget.

use std::sync::atomic::Ordering::Relaxed;

use super::cell::{Cell, Handle};
use super::census::{Census, ZoneFigures};
use super::entry::{self, Draft, Entry};
use super::key::{self, Hasher};
use super::memory::PAGE;
use super::policy::{self, Cells, Policy};
use super::slab::Slab;
use super::table::{SHARDS, TableWriter};
use super::walk::Walk;
use super::{Refusal, Tick};

/// Evictions that one insert may wait for before it empties a whole page instead.
const EVICTIONS: usize = 4;
/// How many times its size a new entry may take where its own has no room.
const NEAR: usize = 2;
/// The same for one that has proved itself, when its page is emptied.
const FAR: usize = 8;
/// What an entry of the main queue is worth, in entries of the small one, when a page is chosen.
const WORTH_OF_MAIN: usize = 16;
/// Cells that may be waiting for readers before nothing more is evicted.
const LIMBO: usize = 4096;
/// Entries about one name, all types together: whoever asks one name for every type there is must
/// not make a search of thousands of slots of it.
const FAMILY: usize = 64;
/// The least budget in pages: room for a few sizes of answers.
const LEAST_PAGES: usize = 4;

/// What the store holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Entries in the table.
    pub entries: u64,
    /// Octets in use: pages, arrays, the policy's memory.
    pub bytes: u64,
    /// Octets that may be used.
    pub budget_bytes: u64,
    /// Answers that were kept, replacements included.
    pub inserts: u64,
    /// Answers that took the place of an earlier one.
    pub replaced: u64,
    /// Entries that left to make room.
    pub evictions: u64,
    /// Entries that were dropped when their lifetime had ended.
    pub expired: u64,
    /// Answers that were not kept: larger than any cell.
    pub refused_too_large: u64,
    /// Answers that were not kept: no room.
    pub refused_no_room: u64,
    /// Entries that came back soon after they had left.
    pub ghost_hits: u64,
}

/// The writer of the store.
#[derive(Debug)]
pub(super) struct Store {
    table: TableWriter,
    slab: Slab,
    policy: Policy,
    hasher: Hasher,
    budget_bytes: u64,
    scratch: Vec<u8>,
    figures: Figures,
    census: Census,
    next_shard: usize,
}

/// What the policy sees of a cell.
struct View<'a>(&'a TableWriter, &'a Slab);

impl Cells for View<'_> {
    fn cell(&self, handle: Handle) -> &Cell {
        self.0.cell(handle)
    }

    fn size(&self, handle: Handle) -> usize {
        self.1.size(handle)
    }
}

impl Store {
    pub(super) fn new(
        table: TableWriter,
        hasher: Hasher,
        budget_bytes: u64,
    ) -> std::io::Result<Self> {
        let mut store = Self {
            table,
            slab: Slab::new(),
            policy: Policy::default(),
            hasher,
            budget_bytes,
            scratch: Vec::new(),
            figures: Figures::default(),
            census: Census::default(),
            next_shard: 0,
        };
        store.set_budget(budget_bytes)?;
        Ok(store)
    }

    pub(super) fn set_budget(&mut self, budget_bytes: u64) -> std::io::Result<()> {
        let pages = usize::try_from(budget_bytes).unwrap_or(usize::MAX) / PAGE;
        self.table.memory().grow(pages.max(LEAST_PAGES))?;
        self.budget_bytes = budget_bytes;
        self.keep_to_budget();
        Ok(())
    }

    pub(super) fn insert(&mut self, draft: &Draft<'_>) -> Result<(), Refusal> {
        let wanted = draft.question.as_octets();
        let tag = self.hasher.tag(draft.question);
        // What leaves for it stands where nothing was looked at for long: memory is waited for now
        // and at the end, while other work is done.
        self.policy.fetch(tag);
        if let Some(next) = self.policy.likely_next() {
            let tag = self.table.cell(next).tag.load(Relaxed);
            self.table.fetch_slots(tag);
            self.policy.fetch(tag);
        }
        let known = self.table.find(tag, |octets| entry::is_for(octets, wanted));
        if known.is_none() && !self.has_room_in_family(tag) {
            self.figures.refused_no_room += 1;
            return Err(Refusal::NoRoom);
        }
        let (tag, fresh) = self.place(draft)?;
        let view = &View(&self.table, &self.slab);
        view.cell(fresh).reset();
        // To find room the known one may have gone.
        let old = known.and_then(|_| {
            let table = &self.table;
            table.find(tag, |octets| entry::is_for(octets, wanted))
        });
        if let Some(came) = Entry::read(&self.scratch) {
            self.census.came(&came);
        }
        if let Some(old) = old {
            if let Some(went) = Entry::read(self.table.octets(old)) {
                self.census.went(&went);
            }
            self.policy.inherit(old, fresh, view);
            view.cell(old).state.store(policy::RETIRED, Relaxed);
            self.table.replace(tag, old, fresh, &self.scratch);
            self.figures.replaced += 1;
        } else {
            self.policy.admit(fresh, tag, view);
            self.table.publish(tag, fresh, &self.scratch);
        }
        self.figures.inserts += 1;
        let class = self.slab.class(fresh);
        self.keep_to_budget();
        self.make_ready(class);
        if let Some(next) = self.policy.likely_next() {
            self.table.fetch_cell(next);
        }
        Ok(())
    }

    /// Whether a name may have one more entry. Where it has as many as may be, the oldest of a type
    /// that few ask for goes: nobody is to keep a name's addresses out by asking for all its types.
    fn has_room_in_family(&mut self, tag: u32) -> bool {
        if self.table.family(tag).take(FAMILY).count() < FAMILY {
            return true;
        }
        if self.table.in_limbo() > LIMBO {
            return false;
        }
        let rare = self.table.family(tag).filter(|&handle| {
            let cell = self.table.cell(handle);
            key::is_rare(cell.tag.load(Relaxed)) && policy::is_queued(cell)
        });
        let stored =
            |&handle: &Handle| Entry::read(self.table.octets(handle)).map(|entry| entry.stored());
        let oldest = rare.min_by_key(stored);
        oldest.map(|oldest| self.let_go(oldest)).is_some()
    }

    pub(super) fn pin(&mut self, draft: &Draft<'_>) -> Result<(), Refusal> {
        let (tag, fresh) = self.place(draft)?;
        let cell = self.table.cell(fresh);
        cell.reset();
        cell.state.store(policy::PINNED, Relaxed);
        if let Some(came) = Entry::read(&self.scratch) {
            self.census.came(&came);
        }
        self.table.publish(tag, fresh, &self.scratch);
        Ok(())
    }

    pub(super) fn sweep(&mut self, now: Tick) -> usize {
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % SHARDS;
        let gone = self.drop_unless(shard, |entry| now < entry.dies());
        self.figures.expired += gone as u64;
        self.keep_to_budget();
        gone
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        (0..SHARDS)
            .map(|shard| self.drop_unless(shard, &mut keep))
            .sum()
    }

    /// Calls `visit` for every entry about a name, with its hits since it was last judged.
    pub(super) fn family(&self, name: &[u8], visit: impl FnMut(&Entry<'_>, u8)) {
        self.show(&self.relatives(name), visit);
    }

    /// Drops the entries about a name that `keep` says no to.
    pub(super) fn retain_of(&mut self, name: &[u8], keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        let family = self.relatives(name);
        self.drop_of(family, keep)
    }

    fn relatives(&self, name: &[u8]) -> Vec<Handle> {
        let family = self.table.family(self.hasher.name_tag(name));
        family
            .filter(|&handle| entry::is_about(self.table.octets(handle), name))
            .collect()
    }

    /// Calls `visit` for the next part of a walk; `false` at its end.
    pub(super) fn visit(&self, walk: &mut Walk, visit: impl FnMut(&Entry<'_>, u8)) -> bool {
        let Some(handles) = walk.next(&self.table) else {
            return false;
        };
        self.show(&handles, visit);
        true
    }

    /// Drops what `keep` says no to of the next part of a walk; `None` at its end.
    pub(super) fn retain_next(
        &mut self,
        walk: &mut Walk,
        keep: impl FnMut(&Entry<'_>) -> bool,
    ) -> Option<usize> {
        let handles = walk.next(&self.table)?;
        Some(self.drop_of(handles, keep))
    }

    fn show(&self, handles: &[Handle], mut visit: impl FnMut(&Entry<'_>, u8)) {
        for &handle in handles {
            let hits = self.table.cell(handle).hits.load(Relaxed);
            if let Some(entry) = Entry::read(self.table.octets(handle)) {
                visit(&entry, hits);
            }
        }
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            entries: self.table.live() as u64,
            bytes: (self.slab.in_use() * PAGE + self.own_bytes()) as u64,
            budget_bytes: self.budget_bytes,
            ghost_hits: self.policy.ghost_hits,
            ..self.figures
        }
    }

    pub(super) fn zones(&self) -> &[ZoneFigures] {
        self.census.zones()
    }

    /// Writes the draft's octets and finds them a cell.
    fn place(&mut self, draft: &Draft<'_>) -> Result<(u32, Handle), Refusal> {
        let Some(class) = self.slab.class_for(draft.len()) else {
            self.figures.refused_too_large += 1;
            return Err(Refusal::TooLarge);
        };
        let Some(fresh) = self.find_room(class) else {
            self.figures.refused_no_room += 1;
            return Err(Refusal::NoRoom);
        };
        draft.write(&mut self.scratch);
        Ok((self.hasher.tag(draft.question), fresh))
    }

    /// A free cell of `class`; lets others go for it where needed.
    fn find_room(&mut self, class: usize) -> Option<Handle> {
        if let Some(cell) = self.take(class) {
            return Some(cell);
        }
        self.collect();
        for _ in 0..EVICTIONS {
            if let Some(cell) = self.take(class) {
                return Some(cell);
            }
            if self.table.in_limbo() > LIMBO {
                return None;
            }
            self.evict();
            self.collect();
        }
        if let Some(cell) = self.take_near(class, NEAR) {
            return Some(cell);
        }
        // What left had other sizes: take a page from them.
        self.empty_a_page();
        self.take(class)
    }

    /// A cell of `class`, or of a size up to `factor` times as large: better some octets lost than a
    /// page for a size that few have, which would be the cheapest to empty ever after.
    fn take_near(&mut self, class: usize, factor: usize) -> Option<Handle> {
        let classes = self.slab.near(class, factor);
        classes.into_iter().find_map(|class| self.take(class))
    }

    /// Where no cell of the size just used is left, lets one entry go now, so that
    /// readers have let go of it by the next insert.
    fn make_ready(&mut self, class: usize) {
        self.collect();
        if !self.slab.has_room(class) && self.table.in_limbo() == 0 {
            self.evict();
        }
    }

    fn take(&mut self, class: usize) -> Option<Handle> {
        let table = &self.table;
        self.slab.take(class, |handle| table.cell(handle))
    }

    fn evict(&mut self) {
        let view = &View(&self.table, &self.slab);
        if let Some(handle) = self.policy.evict(self.table.live(), view) {
            self.evicted(handle);
        }
    }

    /// Empties the page that costs least: what waits in the small queue leaves, what has proved
    /// itself, there or before, moves to another page while there is room.
    fn empty_a_page(&mut self) {
        let table = &self.table;
        let cost = |handle| match table.cell(handle).state.load(Relaxed) {
            policy::SMALL if !policy::has_proved_itself(table.cell(handle)) => 1,
            policy::SMALL | policy::MAIN => WORTH_OF_MAIN,
            _ => 0,
        };
        let Some(page) = self.slab.close_cheapest(cost) else {
            return;
        };
        let mut proved = Vec::new();
        for handle in self.slab.cells(page) {
            let cell = self.table.cell(handle);
            match cell.state.load(Relaxed) {
                policy::SMALL if !policy::has_proved_itself(cell) => self.let_go(handle),
                policy::SMALL | policy::MAIN => proved.push(handle),
                _ => {}
            }
        }
        for handle in proved {
            // Another may have left its queue meanwhile to make room.
            if policy::is_queued(self.table.cell(handle)) && !self.relocate(handle) {
                self.let_go(handle);
            }
        }
        self.collect();
    }

    /// Moves an entry to another cell of its size; `false` where there is none.
    fn relocate(&mut self, old: Handle) -> bool {
        let class = self.slab.class(old);
        let mut fresh = self.take_near(class, FAR);
        for _ in 0..EVICTIONS {
            if fresh.is_some() {
                break;
            }
            self.evict();
            self.collect();
            fresh = self.take_near(class, FAR);
        }
        let cell = self.table.cell(old);
        let gone = !policy::is_queued(cell);
        let Some(fresh) = fresh else { return gone };
        if gone {
            // It was itself what left: the new cell goes back unused.
            self.slab.give(fresh, self.table.cell(fresh));
            return true;
        }
        let tag = cell.tag.load(Relaxed);
        self.scratch.clear();
        self.scratch.extend_from_slice(self.table.octets(old));
        let view = &View(&self.table, &self.slab);
        self.policy.inherit(old, fresh, view);
        // It is the same answer, so it is due as before.
        let asks = cell.asks.load(Relaxed);
        view.cell(fresh).asks.store(asks, Relaxed);
        view.cell(old).state.store(policy::RETIRED, Relaxed);
        self.table.replace(tag, old, fresh, &self.scratch);
        true
    }

    /// Evicts this one, whatever its turn.
    fn let_go(&mut self, handle: Handle) {
        let view = &View(&self.table, &self.slab);
        self.policy.drop(handle, view);
        self.evicted(handle);
    }

    /// Counts one that leaves to make room, and has it leave.
    fn evicted(&mut self, handle: Handle) {
        if let Some(entry) = Entry::read(self.table.octets(handle)) {
            self.census.evicted(&entry);
        }
        self.figures.evictions += 1;
        self.retire(handle);
    }

    fn drop_unless(&mut self, shard: usize, keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        let handles = self.table.handles(shard);
        self.drop_of(handles, keep)
    }

    fn drop_of(&mut self, handles: Vec<Handle>, mut keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        let mut gone = 0;
        for handle in handles {
            let state = self.table.cell(handle).state.load(Relaxed);
            let entry = Entry::read(self.table.octets(handle));
            let kept = entry.as_ref().is_some_and(&mut keep);
            if kept || state == policy::PINNED {
                continue;
            }
            if let Some(entry) = &entry {
                self.census.went(entry);
            }
            let view = &View(&self.table, &self.slab);
            self.policy.drop(handle, view);
            self.retire(handle);
            gone += 1;
        }
        self.collect();
        gone
    }

    /// Out of the table, of which the census knows; free when no reader holds it.
    fn retire(&mut self, handle: Handle) {
        let cell = self.table.cell(handle);
        cell.state.store(policy::RETIRED, Relaxed);
        let tag = cell.tag.load(Relaxed);
        self.table.remove(tag, handle);
    }

    fn collect(&mut self) {
        let slab = &mut self.slab;
        self.table.collect(|table, handle| {
            if let Some(page) = slab.give(handle, table.cell(handle))
                && slab.is_too_large()
            {
                table.release(page);
            }
        });
    }

    fn own_bytes(&self) -> usize {
        self.table.bytes() + self.policy.own_bytes() + self.slab.own_bytes()
    }

    /// Arrays and pages share one budget: when the arrays grow, pages go.
    fn keep_to_budget(&mut self) {
        let budget = usize::try_from(self.budget_bytes).unwrap_or(usize::MAX);
        let pages = budget.saturating_sub(self.own_bytes()) / PAGE;
        self.slab.set_limit(pages.max(LEAST_PAGES));
        let mut tries = self.slab.in_use();
        while self.slab.is_over_limit() && tries > 0 && self.table.in_limbo() <= LIMBO {
            tries -= 1;
            self.empty_a_page();
        }
    }
}
