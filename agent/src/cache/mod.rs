// SPDX-License-Identifier: Apache-2.0
//! The answer store: one budget in bytes for everything, read without locks, written on the cold
//! side alone. It takes `now` and knows no sockets.
//!
//! ```text
//! workers   Reader ─ online ─► Session ─ get(question, now) ─► Lookup     table: lock-free reads
//! cold side Cache ─ insert(draft) ─► store: slab (memory), policy (S3-FIFO), table (publish, limbo)
//! ```
//!
//! A hit allocates nothing, frees nothing, locks nothing and writes no shared line but counters
//! that stop at 3. Only the cold side frees, when no reader can hold what it frees.

mod cell;
mod census;
mod entry;
mod key;
#[cfg_attr(nodens_loom, path = "model_memory.rs")]
mod memory;
mod policy;
mod slab;
mod store;
mod sync;
mod table;
mod walk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::census::ZoneFigures;
pub use self::entry::{Draft, Entry};
pub use self::key::DENIAL;
pub use self::store::Figures;
use self::store::Store;
pub use self::walk::Walk;
use crate::wire::question::Question;

/// A moment on the cache's clock: tenths of a second since some moment before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

impl Tick {
    /// The end of what is kept for good.
    pub const NEVER: Self = Self(u32::MAX);
    const PER_SECOND: u32 = 10;

    /// The tick of a reading of the agent's monotonic clock; 13 years of them fit.
    #[must_use]
    pub fn of(since_start: Duration) -> Self {
        let tenths = since_start.as_millis() / 100;
        Self(u32::try_from(tenths).unwrap_or(Self::NEVER.0 - 1))
    }

    /// This moment and so many seconds; it never reaches [`Self::NEVER`].
    #[must_use]
    pub fn after_seconds(self, seconds: u32) -> Self {
        let later = self
            .0
            .saturating_add(seconds.saturating_mul(Self::PER_SECOND));
        Self(later.min(Self::NEVER.0 - 1))
    }

    /// Whole seconds from `earlier` to this moment.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0) / Self::PER_SECOND
    }
}

/// Why an answer was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Larger than any cell.
    TooLarge,
    /// Everything that could make room is still being read, or the budget is too small.
    NoRoom,
}

/// What the store knows of a question.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// An answer whose lifetime has not ended.
    Hit(Entry<'a>),
    /// The same, and it ends soon and is asked for often: the caller has it asked for again. Said
    /// once for each answer.
    Due(Entry<'a>),
    /// Nothing that can be sent.
    Miss,
}

/// The store, as the cold side has it.
#[derive(Clone, Debug)]
pub struct Cache {
    table: Arc<table::Table>,
    store: Arc<Mutex<Store>>,
    hasher: key::Hasher,
}

impl Cache {
    /// A store that keeps at most `budget_bytes` and can be read by `readers` threads.
    ///
    /// # Errors
    /// The kernel refused to map the memory.
    pub fn new(budget_bytes: u64, readers: usize) -> std::io::Result<Self> {
        let (table, writer) = table::Table::new(memory::Memory::new(), readers);
        let hasher = key::Hasher::default();
        let store = Store::new(writer, hasher.clone(), budget_bytes)?;
        Ok(Self {
            table,
            store: Arc::new(Mutex::new(store)),
            hasher,
        })
    }

    /// A reader for one thread; `None` where there are as many as the store was made for.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        Some(Reader {
            reader: self.table.reader()?,
            hasher: self.hasher.clone(),
        })
    }

    /// Keeps an answer, in place of an earlier one to the same question. One to
    /// [`Question::with_type`] of [`DENIAL`] denies its name for every type that has no entry of its
    /// own.
    ///
    /// # Errors
    /// Says why it is not kept; everything else stays as it was, or made room in vain.
    pub fn insert(&self, draft: &Draft<'_>) -> Result<(), Refusal> {
        self.store().insert(draft)
    }

    /// Keeps an answer for good: it neither expires nor leaves. For the few that the agent owns,
    /// at the start.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn pin(&self, draft: &Draft<'_>) -> Result<(), Refusal> {
        self.store().pin(draft)
    }

    /// Changes the budget; what is too much goes.
    ///
    /// # Errors
    /// The kernel refused to map more memory; the old budget stays.
    pub fn set_budget(&self, budget_bytes: u64) -> std::io::Result<()> {
        self.store().set_budget(budget_bytes)
    }

    /// Drops what has expired in the next part of the table; called once a second it has seen
    /// everything about once a minute. Returns how many entries went.
    pub fn sweep(&self, now: Tick) -> usize {
        self.store().sweep(now)
    }

    /// Drops every entry that `keep` says no to, but for those that are kept for good. Returns how
    /// many went.
    pub fn retain(&self, keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        self.store().retain(keep)
    }

    /// Calls `visit` for every entry about a lower-case name in wire form, whatever its type.
    pub fn family(&self, name: &[u8], mut visit: impl FnMut(&Entry<'_>)) {
        self.store().family(name, |entry, _| visit(entry));
    }

    /// As [`Self::family`], with the hits of each entry since it was last judged, 3 at most.
    pub fn family_and_hits(&self, name: &[u8], visit: impl FnMut(&Entry<'_>, u8)) {
        self.store().family(name, visit);
    }

    /// Drops the entries about a name that `keep` says no to. Returns how many went.
    pub fn retain_of(&self, name: &[u8], keep: impl FnMut(&Entry<'_>) -> bool) -> usize {
        self.store().retain_of(name, keep)
    }

    /// Calls `visit` for every entry of the next part of `walk`, with its hits since it was last
    /// judged, 3 at most; `false` when the walk is over. Nothing is inserted meanwhile, so a part
    /// is small: whoever walks lets others have their turn in between.
    pub fn visit(&self, walk: &mut Walk, visit: impl FnMut(&Entry<'_>, u8)) -> bool {
        self.store().visit(walk, visit)
    }

    /// As [`Self::retain`], for the next part of `walk` alone; `None` when the walk is over.
    pub fn retain_next(
        &self,
        walk: &mut Walk,
        keep: impl FnMut(&Entry<'_>) -> bool,
    ) -> Option<usize> {
        self.store().retain_next(walk, keep)
    }

    /// What the store holds and did.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.store().figures()
    }

    /// What the store has of each zone, by the index that it has in counters.
    #[must_use]
    pub fn zones(&self) -> Vec<ZoneFigures> {
        self.store().zones().to_vec()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Only the cold thread and rare calls of the admin side come here. A panic in between
        // leaves nothing half done that another insert could not go on with.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's way into the store.
#[derive(Debug)]
pub struct Reader {
    reader: table::Reader,
    hasher: key::Hasher,
}

impl Reader {
    /// Comes online, for a batch. Nothing that was found in it is freed until the session ends;
    /// so a session must not be held while waiting.
    pub fn online(&mut self) -> Session<'_> {
        Session {
            online: self.reader.online(),
            hasher: &self.hasher,
        }
    }
}

/// A reader while it is online.
#[derive(Debug)]
pub struct Session<'a> {
    online: table::Online<'a>,
    hasher: &'a key::Hasher,
}

impl Session<'_> {
    /// What the store knows of `question` at `now`.
    #[must_use]
    pub fn get(&self, question: &Question, now: Tick) -> Lookup<'_> {
        self.get_at(self.hasher.tag(question), question, now)
    }

    /// Where `question` stands in the table; the first slots are fetched meanwhile. For a batch:
    /// [`Self::approach`] each question, then [`Self::reach`] each, then [`Self::get_at`] each, so
    /// that the memory's latency is waited for once and not once a question.
    #[must_use]
    pub fn approach(&self, question: &Question) -> u32 {
        let tag = self.hasher.tag(question);
        self.online.fetch_slots(tag);
        tag
    }

    /// Has the entry at `tag` fetched, if there is one.
    pub fn reach(&self, tag: u32) {
        self.online.fetch_cell(tag);
    }

    /// As [`Self::get`], with the tag that [`Self::approach`] gave.
    #[must_use]
    pub fn get_at(&self, tag: u32, question: &Question, now: Tick) -> Lookup<'_> {
        let wanted = question.as_octets();
        match self.find(tag, wanted) {
            Some((cell, entry)) if entry.is_fresh(now) => {
                cell.hit();
                if entry.is_ending(now) && cell.is_due() {
                    Lookup::Due(entry)
                } else {
                    Lookup::Hit(entry)
                }
            }
            _ => Lookup::Miss,
        }
    }

    /// The entry that answers `question`, fresh or not, without counting a hit.
    #[must_use]
    pub fn peek(&self, question: &Question) -> Option<Entry<'_>> {
        let found = self.find(self.hasher.tag(question), question.as_octets());
        found.map(|(_, entry)| entry)
    }

    /// The entry of the very question; where there is none, fresh or not, the denial of its name.
    fn find(&self, tag: u32, wanted: &[u8]) -> Option<(&cell::Cell, Entry<'_>)> {
        let exact = |octets: &[u8]| entry::is_for(octets, wanted);
        let denial = |octets: &[u8]| entry::is_denial_for(octets, wanted);
        let found = self.online.find(tag, exact);
        let (cell, octets) = found.or_else(|| self.online.find(key::name_of(tag), denial))?;
        Some((cell, Entry::read(octets)?))
    }
}

#[cfg(test)]
#[cfg(not(nodens_loom))]
mod tests;

#[cfg(test)]
#[cfg(nodens_loom)]
mod model;
