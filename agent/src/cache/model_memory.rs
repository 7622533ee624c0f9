// SPDX-License-Identifier: Apache-2.0
//! Memory for the model checker: the same questions and promises as `memory.rs`, but every read and
//! every fill is watched, so that a cell which is used anew while a reader holds it is found.

#![expect(unsafe_code, reason = "the model of memory.rs")]

use loom::cell::UnsafeCell;

use super::cell::{Cell, Handle};

pub(super) const UNIT: usize = 16;
pub(super) const PAGE: usize = 64 << 10;
pub(super) const PAGE_UNITS: usize = PAGE / UNIT;
pub(super) const CELL_HEAD: usize = 20;

/// Cells of the model: handles 1 to 7.
const CELLS: usize = 8;

#[derive(Debug)]
pub(super) struct Memory {
    cells: Vec<(Cell, UnsafeCell<Vec<u8>>)>,
}

// SAFETY: the model checker watches every access to the octets.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            cells: (0..CELLS)
                .map(|_| (Cell::default(), UnsafeCell::new(Vec::new())))
                .collect(),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as memory.rs")]
    pub(super) fn grow(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "as memory.rs")]
    pub(super) fn lines(&self, _: Handle) -> [*const u8; 0] {
        []
    }

    pub(super) unsafe fn cell(&self, handle: Handle) -> &Cell {
        &self.cells[handle.0 as usize].0
    }

    pub(super) unsafe fn octets(&self, handle: Handle) -> &[u8] {
        // SAFETY: the checker reports a fill that is not ordered before or after this read.
        self.cells[handle.0 as usize]
            .1
            .with(|octets| unsafe { (*octets).as_slice() })
    }

    pub(super) unsafe fn fill(&self, handle: Handle, octets: &[u8]) {
        // SAFETY: as above.
        self.cells[handle.0 as usize]
            .1
            .with_mut(|to| unsafe { *to = octets.to_vec() });
    }

    pub(super) unsafe fn release(&self, _: usize) {}
}
