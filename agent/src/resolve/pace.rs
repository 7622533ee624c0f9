// SPDX-License-Identifier: Apache-2.0
//! How fast a server answers, and how many of its queries may be asked twice.

use std::time::Duration;

/// Nobody is asked a second time before that.
pub(super) const SOONEST: Duration = Duration::from_millis(20);
/// Answers before their times say anything.
const ENOUGH: u32 = 16;
/// Answers that are looked back on: with as many, each counts half from then on.
const WINDOW: u32 = 512;
/// After so many answers the quantile is worked out anew.
const EVERY: u32 = 16;
/// Four buckets an octave, from 64 µs to 16 s: a quantile is wrong by a quarter at most.
const BUCKETS: usize = 72;
/// The upper end of the first octave below which nothing is told apart, as a power of two, in µs.
const FIRST_OCTAVE: u32 = 6;
/// Second queries that may be saved up for bad times. A silent pod holds a query on each of its
/// connections before it is found out.
const MOST_SAVED: u32 = 64;
/// Those there are to begin with.
const SAVED_AT_START: u32 = 8;
/// What a second query costs; each query brings in the percentage that is allowed.
const PRICE: u32 = 100;

/// Times of one server's answers.
#[derive(Debug)]
pub(super) struct Pace {
    /// Exponentially smoothed, in µs; 0 before the first answer.
    smoothed_us: u32,
    buckets: [u32; BUCKETS],
    seen: u32,
    since_worked_out: u32,
    p95_us: u32,
    saved: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            smoothed_us: 0,
            buckets: [0; BUCKETS],
            seen: 0,
            since_worked_out: 0,
            p95_us: 0,
            saved: SAVED_AT_START * PRICE,
        }
    }
}

impl Pace {
    /// Takes in the time of an answer.
    pub(super) fn record(&mut self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.smoothed_us = match self.smoothed_us {
            0 => us.max(1),
            smoothed => (smoothed - smoothed / 8).saturating_add(us / 8).max(1),
        };
        self.buckets[bucket(us)] += 1;
        self.seen += 1;
        self.since_worked_out += 1;
        if self.since_worked_out >= EVERY || self.seen == ENOUGH {
            self.work_out();
        }
    }

    fn work_out(&mut self) {
        self.since_worked_out = 0;
        let mut above = self.seen / 20;
        let mut index = BUCKETS - 1;
        while index > 0 && self.buckets[index] <= above {
            above -= self.buckets[index];
            index -= 1;
        }
        self.p95_us = upper_us(index);
        if self.seen >= WINDOW {
            self.seen = 0;
            for count in &mut self.buckets {
                *count /= 2;
                self.seen += *count;
            }
        }
    }

    /// The smoothed time of an answer; zero before the first.
    pub(super) fn smoothed(&self) -> Duration {
        Duration::from_micros(self.smoothed_us.into())
    }

    /// The time below which 95 of 100 answers came; `None` before there were enough.
    pub(super) fn p95(&self) -> Option<Duration> {
        (self.p95_us > 0).then(|| Duration::from_micros(self.p95_us.into()))
    }

    /// How long a query waits before it is asked a second time; `None` while nobody knows.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.p95().map(|p95| p95.max(SOONEST))
    }

    /// Counts a query, which lets `percent` of a hundredth of a second one be asked.
    pub(super) fn earn(&mut self, percent: u32) {
        self.saved = (self.saved + percent).min(MOST_SAVED * PRICE);
    }

    /// Whether a query may be asked a second time: then that is counted.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(PRICE);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

fn bucket(us: u32) -> usize {
    let us = us.max(1 << FIRST_OCTAVE);
    let octave = us.ilog2() - FIRST_OCTAVE;
    let quarter = (us >> (octave + FIRST_OCTAVE - 2)) & 3;
    let index = usize::try_from(octave * 4 + quarter).unwrap_or(BUCKETS);
    index.min(BUCKETS - 1)
}

/// The upper end of a bucket in µs.
fn upper_us(index: usize) -> u32 {
    let index = u32::try_from(index).unwrap_or(0);
    (5 + index % 4) << (index / 4 + FIRST_OCTAVE - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(times: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        for ms in times {
            pace.record(Duration::from_millis(ms));
        }
        pace
    }

    #[test]
    fn every_time_lies_below_the_end_of_its_bucket_and_not_by_more_than_a_quarter() {
        for us in (1_u32..2000).chain([9999, 20_000, 300_000, 4_000_000]) {
            let upper = upper_us(bucket(us));
            assert!(
                upper > us && (us < 64 || upper <= us + us / 4 + 1),
                "{us} {upper}"
            );
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
    }

    #[test]
    fn nobody_is_asked_twice_before_enough_is_known_nor_before_twenty_milliseconds() {
        assert_eq!(pace([1; 15]).patience(), None);
        assert_eq!(pace([1; 16]).patience(), Some(SOONEST));
        let slow = pace([300; 100]).patience().unwrap();
        assert!(slow > Duration::from_millis(300) && slow < Duration::from_millis(376));
    }

    #[test]
    fn one_slow_answer_of_thirty_does_not_count_and_one_of_ten_does() {
        let rare = pace((0..300).map(|n| if n % 30 == 0 { 500 } else { 1 }));
        assert_eq!(rare.patience(), Some(SOONEST));
        let often = pace((0..300).map(|n| if n % 10 == 0 { 500 } else { 1 }));
        assert!(often.patience().unwrap() >= Duration::from_millis(500));
    }

    #[test]
    fn a_server_that_turns_slow_is_taken_for_slow_within_a_tenth_of_what_is_looked_back_on() {
        let mut pace = pace([1; 2000]);
        for _ in 0..WINDOW / 10 {
            pace.record(Duration::from_millis(300));
        }
        assert!(pace.patience().unwrap() >= Duration::from_millis(300));
    }

    #[test]
    fn five_of_a_hundred_queries_may_be_asked_twice_and_some_are_saved_up() {
        let mut pace = Pace::default();
        while pace.spend() {}
        let mut spent = 0;
        for _ in 0..1000 {
            pace.earn(5);
            spent += u32::from(pace.spend());
        }
        assert_eq!(spent, 50);
        for _ in 0..100_000 {
            pace.earn(5);
        }
        assert_eq!((0..1000).filter(|_| pace.spend()).count(), 64);
    }
}
