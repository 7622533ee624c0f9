// SPDX-License-Identifier: Apache-2.0
//! How many queries may be under way on one connection to a server.
//!
//! CoreDNS answers a connection in order, so a name that takes long holds up all that was written behind
//! it. On the other hand one write and one read for many queries cost hardly more than for one. So it is
//! one a connection, until many are under way at one time and all answers come quickly: then it is a few
//! more with each round of answers, and one again with the first that is late.

use std::time::Duration;

use tokio::time::Instant;

/// Queries under way to a server from which on sharing a connection is worth something: below it a
/// write of its own for each is what nobody notices.
const MANY: usize = 16;
/// So long after there were so many.
const LASTS: Duration = Duration::from_millis(100);
/// An answer that took longer is late: it was not in the server's memory, or the server has much to do.
const LATE: Duration = Duration::from_millis(4);
/// Answers in time for one more query on a connection. What one late answer holds up, and is asked
/// again elsewhere, is so no more than a twentieth of all.
const PRICE: u32 = 20;
/// Queries that may be asked again elsewhere in one go: two of the longest rows that we make.
const MOST_MOVES: u32 = 64;
/// The most that is found out by itself: eight cost a fifth of what one costs each, 32 a tenth.
const MOST: usize = 32;

/// The round in which a query was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round(bool);

/// How many queries may be under way on one connection to one server.
#[derive(Debug)]
pub(super) struct Depth {
    /// What the configuration says.
    fixed: Option<usize>,
    allowed: usize,
    /// Answers in time since the last step.
    credit: u32,
    /// Answers in time that no move was paid with yet.
    savings: u32,
    /// The round that is under way, since when, and the queries of this and the last that are not
    /// answered.
    round: bool,
    since: Option<Instant>,
    open: [usize; 2],
    /// When there were many under way.
    many: Option<Instant>,
}

impl Default for Depth {
    fn default() -> Self {
        Self {
            fixed: None,
            allowed: 1,
            credit: 0,
            savings: 0,
            round: false,
            since: None,
            open: [0; 2],
            many: None,
        }
    }
}

impl Depth {
    /// As many from now on; `None` is what is found out.
    pub(super) fn fix(&mut self, fixed: Option<usize>) {
        self.fixed = fixed;
    }

    /// Whether the configuration says how many: then the server is taken to answer in any order.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// How many there may be now.
    pub(super) fn allowed(&self, now: Instant) -> usize {
        match self.fixed {
            Some(fixed) => fixed,
            None if self.many.is_some_and(|many| now < many + LASTS) => self.allowed,
            None => 1,
        }
    }

    /// Takes in that a query is sent, as one of so many that are under way.
    pub(super) fn asked(&mut self, under_way: usize, now: Instant) -> Round {
        if under_way >= MANY {
            if self.many.is_none_or(|many| now >= many + LASTS) {
                self.fall();
            }
            self.many = Some(now);
        }
        let is_overdue = self.since.is_none_or(|since| now > since + LATE);
        if self.open[usize::from(!self.round)] > 0 {
            // All of the last round were sent before this one began.
            if is_overdue {
                self.fall();
            }
        } else if is_overdue {
            self.turn(now);
        }
        self.open[usize::from(self.round)] += 1;
        Round(self.round)
    }

    /// Takes in the answer to a query of this round, which took so long.
    pub(super) fn answered(&mut self, round: Round, took: Duration, now: Instant) {
        self.ended(round);
        if took > LATE {
            self.fall();
            return;
        }
        self.credit += 1;
        self.savings = (self.savings + 1).min(PRICE * MOST_MOVES);
        let [of_last, of_this] = [!self.round, self.round].map(|one| self.open[usize::from(one)]);
        if of_last == 0 && (self.credit >= PRICE || of_this == 0) {
            let steps = usize::try_from(self.credit / PRICE).unwrap_or(MOST);
            self.allowed = (self.allowed + steps).min(MOST);
            self.credit %= PRICE;
            self.turn(now);
        }
    }

    /// Takes in that a query of this round has got no answer, or not from where it was asked first.
    pub(super) fn failed(&mut self, round: Round) {
        self.ended(round);
        self.fall();
    }

    /// Whether a query that is held up by others on its connection may be asked again elsewhere: one for
    /// twenty answers in time. Where the server as a whole has stopped, all of them would.
    pub(super) fn may_move(&mut self) -> bool {
        let rest = self.savings.checked_sub(PRICE);
        self.savings = rest.unwrap_or(self.savings);
        rest.is_some()
    }

    fn ended(&mut self, Round(round): Round) {
        let open = &mut self.open[usize::from(round)];
        *open = open.saturating_sub(1);
    }

    fn turn(&mut self, now: Instant) {
        self.round = !self.round;
        self.since = Some(now);
    }

    fn fall(&mut self) {
        self.allowed = 1;
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(5);

    /// Sends so many at `now`, all of which are answered a millisecond later, and returns that moment.
    fn round(depth: &mut Depth, queries: usize, now: Instant) -> Instant {
        let rounds: Vec<_> = (1..=queries).map(|one| depth.asked(one, now)).collect();
        for round in rounds {
            depth.answered(round, QUICK, now + QUICK);
        }
        now + QUICK
    }

    /// A depth that has been well for so many rounds of 64 queries, and the moment after.
    fn grown(rounds: usize) -> (Depth, Instant) {
        let mut depth = Depth::default();
        let mut now = Instant::now();
        for _ in 0..rounds {
            now = round(&mut depth, 64, now);
        }
        (depth, now)
    }

    #[test]
    fn it_is_one_at_first_and_however_often_few_are_asked_and_answered_quickly() {
        let mut depth = Depth::default();
        let mut now = Instant::now();
        for _ in 0..1000 {
            assert_eq!(depth.allowed(now), 1);
            now = round(&mut depth, MANY - 1, now);
        }
        assert_eq!(depth.allowed(now), 1);
    }

    #[test]
    fn it_grows_by_one_for_twenty_quick_answers_while_many_are_under_way_up_to_its_bound() {
        let mut answers = 0;
        let (mut depth, mut now) = grown(0);
        while depth.allowed(now) < MOST {
            now = round(&mut depth, 64, now);
            answers += 64;
            assert!(depth.allowed(now) <= 1 + answers / 20);
        }
        assert!(answers < 20 * MOST + 64, "{answers}");
        for _ in 0..100 {
            now = round(&mut depth, 64, now);
        }
        assert_eq!(depth.allowed(now), MOST);
    }

    #[test]
    fn one_late_answer_or_one_failure_makes_it_one_at_once() {
        let (mut depth, now) = grown(20);
        let late = depth.asked(64, now);
        depth.answered(late, SLOW, now + SLOW);
        assert_eq!(depth.allowed(now + SLOW), 1);

        let (mut depth, now) = grown(20);
        let lost = depth.asked(64, now);
        depth.failed(lost);
        assert_eq!(depth.allowed(now), 1);
    }

    #[test]
    fn an_answer_that_is_late_is_noticed_before_it_comes_and_nothing_grows_until_then() {
        let (mut depth, mut now) = grown(20);
        let slow = depth.asked(64, now);
        let began = now;
        while depth.allowed(now) > 1 {
            now = round(&mut depth, 64, now);
            assert!(now < began + LATE * 3, "not noticed");
        }
        // All others are answered quickly for a second.
        while now < began + Duration::from_secs(1) {
            now = round(&mut depth, 64, now);
            assert_eq!(depth.allowed(now), 1);
        }
        depth.answered(slow, now - began, now);
        for _ in 0..20 {
            now = round(&mut depth, 64, now);
        }
        assert!(depth.allowed(now) > 8);
    }

    #[test]
    fn a_move_costs_twenty_answers_in_time_and_so_many_are_paid_for_at_most() {
        let mut depth = Depth::default();
        assert!(!depth.may_move());
        let mut now = Instant::now();
        for _ in 0..PRICE {
            assert!(!depth.may_move());
            now = round(&mut depth, 1, now);
        }
        assert!(depth.may_move() && !depth.may_move());
        let late = depth.asked(1, now);
        depth.answered(late, SLOW, now + SLOW);
        assert!(!depth.may_move());
        for _ in 0..10_000 {
            now = round(&mut depth, 1, now);
        }
        let moves = (0..1000).take_while(|_| depth.may_move()).count();
        assert_eq!(moves, 64);
    }

    #[test]
    fn where_few_are_under_way_for_a_while_it_has_to_grow_anew() {
        let (mut depth, now) = grown(20);
        assert!(depth.allowed(now) > 1);
        let later = now + LASTS * 2;
        assert_eq!(depth.allowed(later), 1);
        let later = round(&mut depth, 20, later);
        assert!(depth.allowed(later) <= 2);
    }

    #[test]
    fn what_the_configuration_says_is_neither_grown_nor_taken_back() {
        let mut depth = Depth::default();
        let now = Instant::now();
        depth.fix(Some(64));
        assert_eq!(depth.allowed(now), 64);
        let late = depth.asked(1, now);
        depth.answered(late, SLOW, now + SLOW);
        assert_eq!(depth.allowed(now), 64);
        depth.fix(None);
        assert_eq!(depth.allowed(now), 1);
    }
}
