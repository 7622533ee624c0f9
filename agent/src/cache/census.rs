// SPDX-License-Identifier: Apache-2.0
//! How many entries each zone has, kept up to date with each that comes and goes: to count them at
//! a scrape would be a walk through the whole store.

use super::entry::Entry;

/// What the store has of one zone: first data, then denials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFigures {
    /// Entries in the table.
    pub entries: [u64; 2],
    /// Entries that left to make room.
    pub evictions: [u64; 2],
}

/// The figures of all zones, by index. An index is below the number of zones that telemetry tells
/// apart, so this stays small.
#[derive(Debug, Default)]
pub(super) struct Census(Vec<ZoneFigures>);

impl Census {
    /// Counts an entry that came.
    pub(super) fn came(&mut self, entry: &Entry<'_>) {
        let (zone, kind) = self.of(entry);
        zone.entries[kind] += 1;
    }

    /// Counts an entry that went.
    pub(super) fn went(&mut self, entry: &Entry<'_>) {
        let (zone, kind) = self.of(entry);
        zone.entries[kind] = zone.entries[kind].saturating_sub(1);
    }

    /// Counts an entry that went to make room.
    pub(super) fn evicted(&mut self, entry: &Entry<'_>) {
        let (zone, kind) = self.of(entry);
        zone.entries[kind] = zone.entries[kind].saturating_sub(1);
        zone.evictions[kind] += 1;
    }

    /// All zones so far, each at its index.
    pub(super) fn zones(&self) -> &[ZoneFigures] {
        &self.0
    }

    fn of(&mut self, entry: &Entry<'_>) -> (&mut ZoneFigures, usize) {
        let index = usize::from(entry.zone());
        if self.0.len() <= index {
            self.0.resize(index + 1, ZoneFigures::default());
        }
        (&mut self.0[index], usize::from(entry.is_denial()))
    }
}
