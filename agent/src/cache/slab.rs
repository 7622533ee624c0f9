// SPDX-License-Identifier: Apache-2.0
//! Which parts of the memory are in use: pages of 64 KiB, each cut into cells of one size.
//!
//! Pure bookkeeping on the cold side. A page whose last cell goes is free for any size again, so
//! that a change of sizes cannot strand memory for long.

use std::sync::atomic::Ordering::Relaxed;

use super::cell::{Cell, Handle};
use super::memory::{CELL_HEAD, PAGE, PAGE_UNITS, UNIT};
use super::policy;

/// No page, no class.
const NONE: u32 = u32::MAX;

/// The pages, and the free cells in them.
#[derive(Debug)]
pub(super) struct Slab {
    /// Cell sizes in octets, ascending.
    sizes: Vec<usize>,
    /// For each size, pages with a free cell.
    partial: Vec<Vec<u32>>,
    pages: Vec<Page>,
    /// Pages that were used before and are not now.
    empty: Vec<u32>,
    /// Most pages that may be in use.
    limit: usize,
    in_use: usize,
    hand: usize,
}

#[derive(Clone, Debug)]
struct Page {
    class: u32,
    /// Cells that were never given out begin here.
    fresh: u32,
    /// First of the cells that came back.
    free: Handle,
    /// Cells that are given out.
    taken: u32,
    /// No cell is given out any more: the page is being emptied.
    closed: bool,
}

impl Slab {
    pub(super) fn new() -> Self {
        let sizes = sizes();
        Self {
            partial: vec![Vec::new(); sizes.len()],
            sizes,
            pages: Vec::new(),
            empty: Vec::new(),
            limit: 0,
            in_use: 0,
            hand: 0,
        }
    }

    /// The size class for an entry of so many octets; `None` where it is larger than a page.
    pub(super) fn class_for(&self, octets: usize) -> Option<usize> {
        let needed = octets + CELL_HEAD;
        let class = self.sizes.partition_point(|&size| size < needed);
        (class < self.sizes.len()).then_some(class)
    }

    /// The class and those above it, up to `factor` times its size.
    pub(super) fn near(&self, class: usize, factor: usize) -> std::ops::Range<usize> {
        let most = self.sizes[class] * factor;
        class..self.sizes.partition_point(|&size| size <= most)
    }

    /// What a cell costs in octets.
    pub(super) fn size(&self, handle: Handle) -> usize {
        self.sizes[self.pages[handle.page()].class as usize]
    }

    /// The class of a cell.
    pub(super) fn class(&self, handle: Handle) -> usize {
        self.pages[handle.page()].class as usize
    }

    pub(super) fn set_limit(&mut self, pages: usize) {
        self.limit = pages;
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(super) fn is_over_limit(&self) -> bool {
        self.in_use > self.limit
    }

    /// Whether more pages were ever touched than may be in use: one that is emptied goes back to
    /// the kernel then.
    pub(super) fn is_too_large(&self) -> bool {
        self.pages.len() > self.limit
    }

    /// Whether a cell of `class` can be taken without anything going first.
    pub(super) fn has_room(&self, class: usize) -> bool {
        !self.partial[class].is_empty() || self.in_use < self.limit
    }

    /// Octets that the bookkeeping takes.
    pub(super) fn own_bytes(&self) -> usize {
        self.pages.len() * size_of::<Page>()
    }

    /// Takes a cell of `class`; `None` where something must go first.
    pub(super) fn take<'c>(
        &mut self,
        class: usize,
        cell: impl Fn(Handle) -> &'c Cell,
    ) -> Option<Handle> {
        if self.partial[class].is_empty() {
            let page = self.open(class)?;
            self.partial[class].push(page);
        }
        let number = *self.partial[class].last()?;
        let per_page = self.per_page(class);
        let step = self.step(class);
        let page = &mut self.pages[number as usize];
        let handle = if page.free == Handle::NONE {
            let handle = Handle(number * u32::try_from(PAGE_UNITS).ok()? + page.fresh * step);
            page.fresh += 1;
            handle
        } else {
            let handle = page.free;
            page.free = Handle(cell(handle).next.load(Relaxed));
            handle
        };
        page.taken += 1;
        if page.free == Handle::NONE && page.fresh == per_page {
            self.partial[class].pop();
        }
        Some(handle)
    }

    /// Takes a cell back. Returns the page's number where it was the last one of its page.
    pub(super) fn give(&mut self, handle: Handle, cell: &Cell) -> Option<usize> {
        let number = handle.page();
        let per_page = self.per_page(self.pages[number].class as usize);
        let page = &mut self.pages[number];
        let was_full = page.free == Handle::NONE && page.fresh == per_page;
        cell.state.store(policy::FREE, Relaxed);
        cell.next.store(page.free.0, Relaxed);
        page.free = handle;
        page.taken -= 1;
        let class = page.class as usize;
        let number_u32 = u32::try_from(number).unwrap_or(NONE);
        if page.taken == 0 {
            page.class = NONE;
            if !was_full && !page.closed {
                self.partial[class].retain(|&other| other != number_u32);
            }
            self.empty.push(number_u32);
            self.in_use -= 1;
            return Some(number);
        }
        if was_full && !page.closed {
            self.partial[class].push(number_u32);
        }
        None
    }

    /// The page that costs least to empty, of the next few in turn; `cost` tells what a cell is
    /// worth. It gives out no cells any more.
    pub(super) fn close_cheapest(&mut self, cost: impl Fn(Handle) -> usize) -> Option<usize> {
        const LOOKED_AT: usize = 16;
        let mut best: Option<(usize, usize)> = None;
        let mut looked_at = 0;
        for _ in 0..self.pages.len() {
            self.hand = (self.hand + 1) % self.pages.len();
            let page = &self.pages[self.hand];
            // The first page holds what is kept for good.
            if self.hand == 0 || page.class == NONE || page.closed {
                continue;
            }
            let size = self.sizes[page.class as usize];
            let total = self
                .cells(self.hand)
                .map(|handle| cost(handle) * size)
                .sum();
            if best.is_none_or(|(least, _)| total < least) {
                best = Some((total, self.hand));
            }
            looked_at += 1;
            if looked_at == LOOKED_AT {
                break;
            }
        }
        let (_, number) = best?;
        let page = &mut self.pages[number];
        page.closed = true;
        let class = page.class as usize;
        self.partial[class].retain(|&other| other as usize != number);
        Some(number)
    }

    /// The cells of a page that were ever given out.
    pub(super) fn cells(&self, page: usize) -> impl Iterator<Item = Handle> + use<> {
        let info = &self.pages[page];
        let step = if info.class == NONE {
            0
        } else {
            self.step(info.class as usize)
        };
        let first = u32::try_from(page * PAGE_UNITS).unwrap_or(0);
        let fresh = if info.class == NONE { 0 } else { info.fresh };
        (0..fresh).map(move |number| Handle(first + number * step))
    }

    fn open(&mut self, class: usize) -> Option<u32> {
        if self.in_use >= self.limit {
            return None;
        }
        let page = Page {
            class: u32::try_from(class).ok()?,
            // The first unit of all is no cell: 0 is Handle::NONE.
            fresh: 0,
            free: Handle::NONE,
            taken: 0,
            closed: false,
        };
        // The first page lacks its first cell, as that would be Handle::NONE: a page of one cell
        // cannot be that one.
        let needs_whole_page = self.per_page(class) == 1;
        if needs_whole_page && self.pages.is_empty() {
            self.pages.push(Page {
                class: NONE,
                ..page
            });
            self.empty.push(0);
        }
        let whole = self
            .empty
            .iter()
            .rposition(|&number| !needs_whole_page || number != 0);
        let number = match whole.map(|at| self.empty.remove(at)) {
            Some(number) => number,
            None => {
                self.pages.push(page.clone());
                u32::try_from(self.pages.len() - 1).ok()?
            }
        };
        self.pages[number as usize] = page;
        if number == 0 {
            self.pages[0].fresh = 1;
        }
        self.in_use += 1;
        Some(number)
    }

    fn per_page(&self, class: usize) -> u32 {
        u32::try_from(PAGE / self.sizes[class]).unwrap_or(1)
    }

    fn step(&self, class: usize) -> u32 {
        u32::try_from(self.sizes[class] / UNIT).unwrap_or(1)
    }
}

/// Cell sizes: every unit up to 256 octets, then about an eighth more each, chosen so that a page
/// is filled to its end.
fn sizes() -> Vec<usize> {
    let mut sizes: Vec<usize> = (4..=16).map(|units| units * UNIT).collect();
    let mut size = 256;
    while size < PAGE {
        let per_page = (PAGE * 8 / (size * 9)).max(1);
        size = (PAGE / per_page) / UNIT * UNIT;
        sizes.push(size);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_by_little_and_end_with_a_page() {
        let sizes = sizes();
        assert_eq!(sizes.first(), Some(&64));
        assert_eq!(sizes.last(), Some(&PAGE));
        for pair in sizes.windows(2) {
            assert!(pair[0] < pair[1] && pair[0] % UNIT == 0, "{pair:?}");
            let page_holds_few = pair[1] > PAGE / 5;
            assert!(page_holds_few || pair[1] * 4 <= pair[0] * 5, "{pair:?}");
        }
    }

    #[test]
    fn cells_never_overlap_and_come_back() {
        let cells: Vec<Cell> = (0..4 * PAGE_UNITS).map(|_| Cell::default()).collect();
        let cell = |handle: Handle| &cells[handle.0 as usize];
        let mut slab = Slab::new();
        slab.set_limit(4);
        let class = slab.class_for(100).unwrap();
        let mut taken = Vec::new();
        while let Some(handle) = slab.take(class, cell) {
            taken.push(handle);
        }
        let step = slab.step(class);
        assert!(taken.windows(2).all(|two| two[1].0 >= two[0].0 + step));
        assert!(taken[0].0 > 0, "0 is no cell");
        assert_eq!(slab.in_use(), 4);
        let other = slab.class_for(5000).unwrap();
        assert!(slab.take(other, cell).is_none());
        let emptied: Vec<usize> = taken
            .iter()
            .filter_map(|&handle| slab.give(handle, cell(handle)))
            .collect();
        assert_eq!(emptied.len(), 4);
        assert!(slab.take(other, cell).is_some());
        assert_eq!(slab.in_use(), 1);
    }

    #[test]
    fn a_cell_as_large_as_a_page_is_never_the_first_one() {
        let cells: Vec<Cell> = (0..3 * PAGE_UNITS).map(|_| Cell::default()).collect();
        let cell = |handle: Handle| &cells[handle.0 as usize];
        let mut slab = Slab::new();
        slab.set_limit(3);
        let class = slab.class_for(60_000).unwrap();
        let large = slab.take(class, cell).unwrap();
        assert_eq!(large.page(), 1);
        let small = slab.class_for(100).unwrap();
        assert_eq!(slab.take(small, cell).unwrap().page(), 0);
        slab.give(large, cell(large));
        assert_eq!(slab.take(class, cell), Some(large));
    }

    #[test]
    fn a_page_that_was_full_is_used_again_when_one_cell_comes_back() {
        let cells: Vec<Cell> = (0..2 * PAGE_UNITS).map(|_| Cell::default()).collect();
        let cell = |handle: Handle| &cells[handle.0 as usize];
        let mut slab = Slab::new();
        slab.set_limit(1);
        let class = slab.class_for(1000).unwrap();
        let mut taken = Vec::new();
        while let Some(handle) = slab.take(class, cell) {
            taken.push(handle);
        }
        assert_eq!(slab.give(taken[3], cell(taken[3])), None);
        assert_eq!(slab.take(class, cell), Some(taken[3]));
        assert_eq!(slab.take(class, cell), None);
    }
}
