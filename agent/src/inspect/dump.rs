// SPDX-License-Identifier: Apache-2.0
//! Every entry of the cache, or of what lies at and below a name: a line of JSON each, made piece by
//! piece when whoever reads has taken the last one. Nothing is made ahead, so a reader that stands
//! still holds one piece, and a reader that is fast cannot keep the cold thread: a piece is small.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Inspector, entry};
use crate::cache::Walk;
use crate::wire::name::Name;

/// Octets from which on a piece is large enough. A line may make it longer by itself: one entry with
/// 64 KiB of records.
const PIECE: usize = 16 << 10;
/// Parts of the store that are looked through in vain before others have their turn.
const BARREN: usize = 32;
/// Dumps at one time.
const MOST: usize = 2;

/// A dump under way.
#[derive(Debug)]
pub struct Dump {
    inspector: Arc<Inspector>,
    below: Name,
    walk: Walk,
    /// Lines of the part that was looked at last.
    ready: VecDeque<Vec<u8>>,
    is_over: bool,
}

impl Inspector {
    /// Begins a dump of what lies at and below a name; `None` where as many are under way as may
    /// be.
    #[must_use]
    pub fn dump(self: &Arc<Self>, below: Name) -> Option<Dump> {
        let taken = self.dumps.fetch_update(Relaxed, Relaxed, |dumps| {
            (dumps < MOST).then_some(dumps + 1)
        });
        taken.ok()?;
        Some(Dump {
            inspector: Arc::clone(self),
            below,
            walk: Walk::new(),
            ready: VecDeque::new(),
            is_over: false,
        })
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        self.inspector.dumps.fetch_sub(1, Relaxed);
    }
}

impl Dump {
    /// The next lines; empty where nothing was found for a while, `None` at the end. Takes some
    /// hundred microseconds.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        for _ in 0..BARREN {
            while let Some(line) = self.ready.pop_front() {
                piece.extend(line);
                if piece.len() >= PIECE {
                    return Some(piece);
                }
            }
            if self.is_over {
                break;
            }
            self.fill();
            if !self.ready.is_empty() && !piece.is_empty() {
                return Some(piece);
            }
        }
        (!self.is_over || !piece.is_empty()).then_some(piece)
    }

    /// Takes the next part of the store.
    fn fill(&mut self) {
        let inspector = &self.inspector;
        let context = entry::Context::of(&inspector.telemetry, inspector.now());
        let (below, ready) = (&self.below, &mut self.ready);
        let is_more = inspector.cache.visit(&mut self.walk, |one, hits| {
            if !below.encloses(one.name()) {
                return;
            }
            // It fails for nothing that a page is made of.
            if let Ok(mut line) = serde_json::to_vec(&entry::page(one, hits, &context)) {
                line.push(b'\n');
                ready.push_back(line);
            }
        });
        self.is_over = !is_more;
    }
}
