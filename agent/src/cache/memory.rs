// SPDX-License-Identifier: Apache-2.0
//! The cache's memory: anonymous pages, mapped once and touched as they are needed, huge where the
//! kernel has them, so that a SIGKILL need not tear down a small page at a time before it closes
//! the sockets.
//!
//! Memory is handed out in cells. A cell has a head of atomics, which the cold side and readers
//! may touch at any time, and octets behind it, which are written before the cell is published and
//! not again until every reader has let go of it ([`super::table`]).

#![expect(
    unsafe_code,
    reason = "cells are shared between one writer and lock-free readers; ADR 0001"
)]

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::cell::{Cell, Handle};

/// Cells start at multiples of this many octets; a [`Handle`] counts in it.
pub(super) const UNIT: usize = 16;
/// A page, the unit in which memory goes to a size class, in octets.
pub(super) const PAGE: usize = 64 << 10;
/// Units in a page.
pub(super) const PAGE_UNITS: usize = PAGE / UNIT;
/// A chunk, the unit in which memory is mapped: a huge page.
const CHUNK: usize = 2 << 20;
/// Pages in a chunk.
const CHUNK_PAGES: usize = CHUNK / PAGE;
/// Most chunks: 64 GiB.
const MAX_CHUNKS: usize = 32 << 10;
/// The head of a cell in octets; the cell's octets follow.
pub(super) const CELL_HEAD: usize = size_of::<Cell>();

/// Memory for cells. Grows by whole regions, never moves, is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    /// Where each chunk begins; null where there is none yet.
    chunks: Box<[AtomicPtr<u8>]>,
    /// The mappings behind the chunks. Only the cold side maps, but they must live as long as
    /// anybody can read.
    regions: Mutex<Regions>,
}

#[derive(Debug, Default)]
struct Regions {
    regions: Vec<MmapMut>,
    chunks: usize,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            chunks: (0..MAX_CHUNKS)
                .map(|_| AtomicPtr::new(std::ptr::null_mut()))
                .collect(),
            regions: Mutex::default(),
        }
    }

    /// Maps memory until there are `pages`; touches none of it.
    ///
    /// # Errors
    /// The kernel refused the mapping.
    pub(super) fn grow(&self, pages: usize) -> std::io::Result<()> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = pages.div_ceil(CHUNK_PAGES).min(MAX_CHUNKS);
        let Some(more) = chunks.checked_sub(regions.chunks).filter(|&more| more > 0) else {
            return Ok(());
        };
        // One chunk more than needed, so that the first can begin where a huge page begins.
        let mut region = MmapOptions::new()
            .len((more + 1) * CHUNK)
            .no_reserve_swap()
            .map_anon()?;
        let skip = region.as_ptr().align_offset(CHUNK);
        // The very first chunk stays on small pages: an idle agent would pay 2 MiB for one entry.
        let small = if regions.chunks == 0 { CHUNK } else { 0 };
        if more * CHUNK > small {
            // Huge pages are a wish: a kernel without them answers with an error.
            let _ = region.advise_range(Advice::HugePage, skip + small, more * CHUNK - small);
        }
        let first = region.as_mut_ptr().wrapping_add(skip);
        for number in 0..more {
            let chunk = first.wrapping_add(number * CHUNK);
            self.chunks[regions.chunks + number].store(chunk, Ordering::Release);
        }
        regions.chunks += more;
        regions.regions.push(region);
        Ok(())
    }

    /// Where a cell begins.
    fn address(&self, handle: Handle) -> *mut u8 {
        let unit = handle.0 as usize;
        let chunk = self.chunks[unit / (CHUNK / UNIT)].load(Ordering::Relaxed);
        debug_assert!(!chunk.is_null(), "a handle from outside of the memory");
        chunk.wrapping_add(unit % (CHUNK / UNIT) * UNIT)
    }

    /// The cache lines that a small cell lies in, for fetching.
    pub(super) fn lines(&self, handle: Handle) -> [*const u8; 2] {
        const LINE: usize = 64;
        let first = self.address(handle).cast_const();
        [first, first.wrapping_add(LINE)]
    }

    /// The head of a cell.
    ///
    /// # Safety
    /// `handle` comes from the slab, and the cell is held: by the cold side, or by a reader that
    /// found it in the table since it came online.
    pub(super) unsafe fn cell(&self, handle: Handle) -> &Cell {
        let address = self.address(handle).cast::<Cell>();
        // SAFETY: the slab gives out places inside mapped chunks, aligned to UNIT, which suits
        // Cell, and no octets of another cell overlap the head. Fresh memory is zero, which is a
        // Cell; all its fields are atomics, so it may be shared. The regions are unmapped only with
        // this Memory, which is borrowed.
        unsafe { &*address }
    }

    /// The octets of a cell.
    ///
    /// # Safety
    /// As [`Self::cell`], and the cell was published with these octets: its length was stored
    /// before.
    pub(super) unsafe fn octets(&self, handle: Handle) -> &[u8] {
        // SAFETY: as the caller promises.
        let len = unsafe { self.cell(handle) }.len.load(Ordering::Relaxed) as usize;
        let address = self.address(handle).wrapping_add(CELL_HEAD);
        // SAFETY: the cold side wrote `len` octets here before it published the cell, and writes
        // them again only after every reader let go of it; they end inside the cell, and so
        // inside the mapping.
        unsafe { std::slice::from_raw_parts(address, len) }
    }

    /// Fills a cell that nobody else can reach yet.
    ///
    /// # Safety
    /// `handle` was just given out by the slab, for at least `CELL_HEAD + octets.len()` octets,
    /// and is not published.
    pub(super) unsafe fn fill(&self, handle: Handle, octets: &[u8]) {
        // SAFETY: as the caller promises; nobody else reads or writes the cell.
        let cell = unsafe { self.cell(handle) };
        let len = u32::try_from(octets.len()).unwrap_or(u32::MAX);
        cell.len.store(len, Ordering::Relaxed);
        let address = self.address(handle).wrapping_add(CELL_HEAD);
        // SAFETY: the cell has room for the octets and nobody else reaches it.
        unsafe { std::ptr::copy_nonoverlapping(octets.as_ptr(), address, octets.len()) };
    }

    /// Gives the kernel back what a page holds; the page reads as zero afterwards.
    ///
    /// # Safety
    /// No cell of the page is published or held.
    pub(super) unsafe fn release(&self, page: usize) {
        let Ok(unit) = u32::try_from(page * PAGE_UNITS) else {
            return;
        };
        let address = self.address(Handle(unit));
        // SAFETY: the page lies inside a mapping of ours, at a multiple of the kernel's page
        // size, and nothing refers into it. Failure leaves the memory as it was: harmless.
        let _ =
            unsafe { rustix::mm::madvise(address.cast(), PAGE, rustix::mm::Advice::LinuxDontNeed) };
    }
}
