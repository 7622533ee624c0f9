// SPDX-License-Identifier: Apache-2.0
//! When to put back what others remove: at once, and ever more slowly where somebody removes it
//! again and again. It reads no clock.

use std::time::Duration;

use crate::telemetry::clock::nanoseconds;

/// Repairs in a row that are made at once.
const AT_ONCE: u32 = 5;

/// Pause after the first repair that is not; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Who has left things alone this long does not fight us.
const PEACE: Duration = Duration::from_secs(120);

/// What is to be looked at, and how often it had to be mended lately.
#[derive(Debug, Default)]
pub(super) struct Mending {
    links: bool,
    rules: bool,
    in_a_row: u32,
    last_ns: Option<u64>,
    not_before_ns: u64,
}

impl Mending {
    /// Somebody may have touched these.
    pub(super) fn note(&mut self, links: bool, rules: bool) {
        self.links |= links;
        self.rules |= rules;
    }

    /// Whether there is something to look at now.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        (self.links || self.rules) && now_ns >= self.not_before_ns
    }

    /// What to look at: links, rules. [`Self::end`] follows.
    pub(super) fn begin(&mut self, now_ns: u64) -> (bool, bool) {
        // Also where the kernel refuses: the next try waits.
        self.not_before_ns = now_ns.saturating_add(nanoseconds(FIRST_PAUSE));
        (
            std::mem::take(&mut self.links),
            std::mem::take(&mut self.rules),
        )
    }

    /// Whether something had to be put back. Our own repair tells of a change too, and nothing
    /// is found to be mended then.
    pub(super) fn end(&mut self, has_mended: bool, now_ns: u64) {
        if !has_mended && !self.links && !self.rules {
            if self.in_a_row <= AT_ONCE {
                self.not_before_ns = now_ns;
            }
            return;
        }
        let is_peace = self
            .last_ns
            .is_none_or(|last| now_ns.saturating_sub(last) > nanoseconds(PEACE));
        self.in_a_row = if is_peace { 1 } else { self.in_a_row + 1 };
        self.last_ns = Some(now_ns);
        if self.links || self.rules {
            return; // the kernel has refused: the pause of `begin` holds
        }
        let pause = match self.in_a_row.checked_sub(AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(number) => FIRST_PAUSE * 2_u32.saturating_pow((number - 1).min(16)),
        };
        let pause = pause.min(LONGEST_PAUSE);
        self.not_before_ns = now_ns.saturating_add(nanoseconds(pause));
        if pause >= FIRST_PAUSE {
            tracing::warn!(
                pause_seconds = pause.as_secs(),
                times = self.in_a_row,
                "somebody keeps removing what is ours; it is put back more slowly"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Somebody removes our table; says when it is mended.
    fn mend(mending: &mut Mending, now_ns: &mut u64) -> u64 {
        let began = *now_ns;
        mending.note(false, true);
        while !mending.is_due(*now_ns) {
            *now_ns += SECOND / 10;
        }
        assert_eq!(mending.begin(*now_ns), (false, true));
        mending.end(true, *now_ns);
        // The kernel tells of our own change; it is looked at, and is well.
        mending.note(false, true);
        if mending.is_due(*now_ns) {
            mending.begin(*now_ns);
            mending.end(false, *now_ns);
        }
        (*now_ns - began) / (SECOND / 10)
    }

    #[test]
    fn a_few_removals_are_mended_at_once_and_a_fight_ever_more_slowly() {
        let mut mending = Mending::default();
        let mut now_ns = 100 * SECOND;
        let took: Vec<_> = (0..14).map(|_| mend(&mut mending, &mut now_ns)).collect();
        assert_eq!(took[..6], [0; 6]);
        assert_eq!(took[6..], [10, 20, 40, 80, 160, 320, 600, 600]);
        now_ns += 200 * SECOND;
        assert_eq!(mend(&mut mending, &mut now_ns), 0, "after a long peace");
    }

    #[test]
    fn what_the_kernel_refuses_is_tried_again_after_a_second() {
        let mut mending = Mending::default();
        let now_ns = 100 * SECOND;
        mending.note(true, false);
        assert!(mending.is_due(now_ns));
        assert_eq!(mending.begin(now_ns), (true, false));
        mending.note(true, false);
        mending.end(false, now_ns);
        assert!(!mending.is_due(now_ns + SECOND / 2));
        assert!(mending.is_due(now_ns + SECOND));
    }

    #[test]
    fn with_nothing_to_look_at_nothing_is_due() {
        assert!(!Mending::default().is_due(u64::MAX));
    }
}
