// SPDX-License-Identifier: Apache-2.0
//! When to put back what others remove: at once, and a little later where somebody removes it
//! again and again. It reads no clock.

use std::time::Duration;

use crate::telemetry::clock::nanoseconds;

/// Repairs in a row that are made at once.
const AT_ONCE: u32 = 5;

/// Pause after the first repair that is not; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause. A look costs some milliseconds of the pulse, and what is missing may be what
/// answers when the agent is dead: no fight is worth more.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Who has left things alone this long does not fight us.
const PEACE: Duration = Duration::from_secs(10);

/// One thing of ours that others may remove, and how often it had to be mended lately.
#[derive(Debug, Default)]
pub(super) struct Mending {
    is_touched: bool,
    in_a_row: u32,
    last_ns: Option<u64>,
    not_before_ns: u64,
}

/// How a look at it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All was there.
    Well,
    /// Something was not, and is now.
    Mended,
    /// Something was not, and the kernel refuses.
    Refused,
}

impl Mending {
    /// Somebody may have touched it.
    pub(super) fn note(&mut self) {
        self.is_touched = true;
    }

    /// Whether to look at it now. [`Self::end`] follows.
    pub(super) fn begins(&mut self, now_ns: u64) -> bool {
        let begins = self.is_touched && now_ns >= self.not_before_ns;
        self.is_touched &= !begins;
        begins
    }

    /// How the look ended. Our own repair tells of a change too, and nothing is found to be mended
    /// then. The pause where there must be one.
    pub(super) fn end(&mut self, found: Found, now_ns: u64) -> Option<Duration> {
        match found {
            Found::Well => None,
            Found::Refused => {
                self.is_touched = true;
                self.not_before_ns = now_ns.saturating_add(nanoseconds(FIRST_PAUSE));
                None
            }
            Found::Mended => {
                let is_peace = self
                    .last_ns
                    .is_none_or(|last| now_ns.saturating_sub(last) > nanoseconds(PEACE));
                self.in_a_row = if is_peace { 1 } else { self.in_a_row + 1 };
                self.last_ns = Some(now_ns);
                let number = self.in_a_row.checked_sub(AT_ONCE + 1)?;
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(number.min(16));
                let pause = pause.min(LONGEST_PAUSE);
                self.not_before_ns = now_ns.saturating_add(nanoseconds(pause));
                Some(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Somebody removes it; says after how many tenths of a second it is mended.
    fn mend(mending: &mut Mending, now_ns: &mut u64) -> u64 {
        let began = *now_ns;
        mending.note();
        while !mending.begins(*now_ns) {
            *now_ns += SECOND / 10;
        }
        mending.end(Found::Mended, *now_ns);
        // The kernel tells of our own change; it is looked at, and is well.
        mending.note();
        if mending.begins(*now_ns) {
            mending.end(Found::Well, *now_ns);
        }
        (*now_ns - began) / (SECOND / 10)
    }

    #[test]
    fn a_few_removals_are_mended_at_once_and_a_fight_a_little_later() {
        let mut mending = Mending::default();
        let mut now_ns = 100 * SECOND;
        let took: Vec<_> = (0..10).map(|_| mend(&mut mending, &mut now_ns)).collect();
        assert_eq!(took, [0, 0, 0, 0, 0, 0, 10, 20, 20, 20]);
        now_ns += 11 * SECOND;
        assert_eq!(mend(&mut mending, &mut now_ns), 0, "after some peace");
    }

    #[test]
    fn who_flushes_everything_now_and_then_is_mended_after_at_once_each_time() {
        let mut mending = Mending::default();
        let mut now_ns = 100 * SECOND;
        for _ in 0..50 {
            assert_eq!(mend(&mut mending, &mut now_ns), 0);
            now_ns += 15 * SECOND;
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_tried_again_after_a_second() {
        let mut mending = Mending::default();
        let now_ns = 100 * SECOND;
        mending.note();
        assert!(mending.begins(now_ns));
        mending.end(Found::Refused, now_ns);
        assert!(!mending.begins(now_ns + SECOND / 2));
        assert!(mending.begins(now_ns + SECOND));
    }

    #[test]
    fn what_nobody_touches_is_not_looked_at() {
        assert!(!Mending::default().begins(u64::MAX));
    }
}
