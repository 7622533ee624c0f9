// SPDX-License-Identifier: Apache-2.0
//! What came of queries: how many got data, how late, and from whom.

use std::collections::BTreeMap;
use std::time::Duration;

use super::misses::PATIENCE;

/// SERVFAIL (RFC 1035 section 4.1.1).
const SERVFAIL: u8 = 2;
/// The upper ends of the classes in which latency is told, in milliseconds.
const CLASSES: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000];
/// The step in which [`Tally::recovery`] looks, in nanoseconds.
const STEP: u64 = 10_000_000;
/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The right address, from this pod.
    Data(u8),
    /// A response code other than NOERROR.
    Failure(u8),
}

/// One query.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When it had to be sent, in nanoseconds of [`now_ns`](crate::load::now_ns).
    pub due_ns: u64,
    /// When it was sent.
    pub sent_ns: u64,
    /// When the answer came, and what it was.
    pub answer: Option<(u64, Answer)>,
}

/// What came of queries.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Every query, in the order of sending.
    pub all: Vec<Asked>,
    /// Second answers to a query.
    pub twice: u64,
    /// Answers that were no answer to their question: another address, no record.
    pub wrong: u64,
    /// The first of them, told.
    pub first_wrong: Option<String>,
}

/// Response codes and latencies of the queries due in a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Queries.
    pub asked: u64,
    /// Those with the right address within [`PATIENCE`].
    pub answered: u64,
    /// Those with SERVFAIL.
    pub servfail: u64,
    /// Those with another failure.
    pub other: u64,
    /// Those without an answer, or with one that came too late.
    pub lost: u64,
    /// From the moment a query was due to its right answer, in nanoseconds, rising.
    latencies: Vec<u64>,
    /// From the moment a query was due to its sending, in nanoseconds, rising.
    lateness: Vec<u64>,
}

impl Asked {
    /// How long after its moment the right address came; `None` where it did not in time.
    fn latency(&self) -> Option<u64> {
        match self.answer {
            Some((at, Answer::Data(_))) => {
                let latency = at.saturating_sub(self.due_ns);
                (latency <= patience()).then_some(latency)
            }
            _ => None,
        }
    }
}

impl Tally {
    /// Notes a wrong answer.
    pub(super) fn wrong(&mut self, what: &str) {
        self.wrong += 1;
        self.first_wrong.get_or_insert_with(|| what.to_owned());
    }

    fn between(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Asked> {
        let due = move |asked: &&Asked| (from_ns..to_ns).contains(&asked.due_ns);
        self.all.iter().filter(due)
    }

    /// The queries that were due in a span.
    #[must_use]
    pub fn span(&self, from_ns: u64, to_ns: u64) -> Span {
        let mut span = Span {
            asked: 0,
            answered: 0,
            servfail: 0,
            other: 0,
            lost: 0,
            latencies: Vec::new(),
            lateness: Vec::new(),
        };
        for asked in self.between(from_ns, to_ns) {
            span.asked += 1;
            span.lateness
                .push(asked.sent_ns.saturating_sub(asked.due_ns));
            let in_time = |at: u64| at.saturating_sub(asked.due_ns) <= patience();
            match asked.answer {
                Some((at, Answer::Data(_))) if in_time(at) => {
                    span.answered += 1;
                    span.latencies.push(at.saturating_sub(asked.due_ns));
                }
                Some((at, Answer::Failure(SERVFAIL))) if in_time(at) => span.servfail += 1,
                Some((at, Answer::Failure(_))) if in_time(at) => span.other += 1,
                _ => span.lost += 1,
            }
        }
        span.latencies.sort_unstable();
        span.lateness.sort_unstable();
        span
    }

    /// How many of the answers to what was due in a span each pod gave.
    #[must_use]
    pub fn by_pod(&self, from_ns: u64, to_ns: u64) -> BTreeMap<u8, u64> {
        let mut pods = BTreeMap::new();
        for asked in self.between(from_ns, to_ns) {
            if let Some((_, Answer::Data(pod))) = asked.answer {
                *pods.entry(pod).or_default() += 1;
            }
        }
        pods
    }

    /// The share, 0 to 1, that a pod has of those answers.
    #[must_use]
    pub fn share(&self, pod: u8, from_ns: u64, to_ns: u64) -> f64 {
        let pods = self.by_pod(from_ns, to_ns);
        ratio(pods.get(&pod).copied().unwrap_or(0), pods.values().sum())
    }

    /// The pod that gave most of the answers to what was due since.
    #[must_use]
    pub fn busiest(&self, from_ns: u64) -> Option<u8> {
        let pods = self.by_pod(from_ns, u64::MAX).into_iter();
        pods.max_by_key(|&(_, count)| count).map(|(pod, _)| pod)
    }

    /// How long after `end_ns` the first second begins in which 99 % of the queries that are due
    /// have their right address within a second; `None` where there is none before `last_ns`.
    #[must_use]
    pub fn recovery(&self, end_ns: u64, last_ns: u64) -> Option<Duration> {
        let mut begin = end_ns;
        while begin + SECOND <= last_ns {
            let (mut asked, mut well) = (0_u64, 0_u64);
            for query in self.between(begin, begin + SECOND) {
                asked += 1;
                well += u64::from(query.latency().is_some_and(|latency| latency <= SECOND));
            }
            if asked > 0 && well * 100 >= asked * 99 {
                return Some(Duration::from_nanos(begin - end_ns));
            }
            begin += STEP;
        }
        None
    }
}

impl Span {
    /// The latency that `fraction` of all queries do not exceed. One without the right address
    /// exceeds everything: `None`.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> Option<Duration> {
        let place = rank(self.asked, fraction);
        self.latencies.get(place).copied().map(Duration::from_nanos)
    }

    /// The longest latency of those that got the right address.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        self.latencies.last().copied().map(Duration::from_nanos)
    }

    /// Queries that did not get the right address in time.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.servfail + self.other + self.lost
    }

    /// In words: counts, quantiles.
    #[must_use]
    pub fn describe(&self) -> String {
        let show = |latency: Option<Duration>| {
            latency.map_or_else(|| "never".to_owned(), |l| milliseconds(l.as_secs_f64()))
        };
        format!(
            "{} queries, {} with their address, {} SERVFAIL, {} other failures, {} lost; ms: p50 {}, \
             p99 {}, p99.9 {}, max {}",
            self.asked,
            self.answered,
            self.servfail,
            self.other,
            self.lost,
            show(self.quantile(0.5)),
            show(self.quantile(0.99)),
            show(self.quantile(0.999)),
            show(self.longest()),
        )
    }

    /// How many queries took how long.
    #[must_use]
    pub fn histogram(&self) -> String {
        let mut parts = Vec::new();
        let mut before = 0;
        for class in CLASSES {
            let below = self
                .latencies
                .partition_point(|&ns| ns <= class * 1_000_000);
            if below > before {
                parts.push(format!("≤ {class} ms {}", below - before));
            }
            before = below;
        }
        if before < self.latencies.len() {
            parts.push(format!("more {}", self.latencies.len() - before));
        }
        parts.join(", ")
    }

    /// What the clients themselves were late by: part of every latency.
    #[must_use]
    pub fn lateness(&self) -> String {
        let at = |fraction| {
            let ns = self.lateness.get(rank(self.asked, fraction)).copied();
            milliseconds(Duration::from_nanos(ns.unwrap_or(0)).as_secs_f64())
        };
        format!("p50 {}, p99 {}, max {}", at(0.5), at(0.99), at(1.0))
    }
}

/// `part` of `whole`, 0 to 1; 0 of nothing.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// By how many percent `reached` is more than `asked`; below 0 where it is less.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn excess(reached: u64, asked: u64) -> f64 {
    100.0 * (reached as f64 - asked as f64) / asked.max(1) as f64
}

/// The place of the value that `fraction` of `count` sorted values do not exceed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is far below 2^53 and never negative"
)]
fn rank(count: u64, fraction: f64) -> usize {
    ((fraction * count as f64).ceil() as usize).max(1) - 1
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms >= 100.0 {
        format!("{ms:.0}")
    } else {
        format!("{ms:.2}")
    }
}

fn patience() -> u64 {
    u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A query due at a millisecond, sent one later, answered so much later.
    fn asked(due_ms: u64, answer: Option<(u64, Answer)>) -> Asked {
        Asked {
            due_ns: due_ms * MS,
            sent_ns: (due_ms + 1) * MS,
            answer: answer.map(|(after, answer)| ((due_ms + after) * MS, answer)),
        }
    }

    fn tally(all: Vec<Asked>) -> Tally {
        Tally {
            all,
            ..Tally::default()
        }
    }

    #[test]
    fn every_query_is_in_one_class_and_latency_is_from_its_moment() {
        let tally = tally(vec![
            asked(0, Some((3, Answer::Data(0)))),
            asked(1, Some((30, Answer::Data(1)))),
            asked(2, Some((1, Answer::Failure(2)))),
            asked(3, Some((1, Answer::Failure(5)))),
            asked(4, None),
            asked(5, Some((6_000, Answer::Data(1)))),
            asked(6, Some((1, Answer::Data(1)))),
        ]);
        let span = tally.span(0, 6 * MS);
        assert_eq!((span.asked, span.answered), (6, 2));
        assert_eq!((span.servfail, span.other, span.lost), (1, 1, 2));
        assert_eq!(span.failed(), 4);
        assert_eq!(span.quantile(1.0 / 6.0), Some(Duration::from_millis(3)));
        assert_eq!(span.quantile(2.0 / 6.0), Some(Duration::from_millis(30)));
        // Who got no address waits for ever, however soon it was told so.
        assert_eq!(span.quantile(0.5), None);
        assert_eq!(span.longest(), Some(Duration::from_millis(30)));
        assert_eq!(span.histogram(), "≤ 5 ms 1, ≤ 50 ms 1");
        assert!(span.describe().contains("p50 never"), "{}", span.describe());
        assert!(span.lateness().starts_with("p50 1.00,"));
        assert_eq!(tally.busiest(0), Some(1));
        assert_eq!(tally.by_pod(0, 6 * MS), BTreeMap::from([(0, 1), (1, 2)]));
        assert!((tally.share(1, 0, 2 * MS) - 0.5).abs() < 1e-9);
        assert!(tally.share(1, 90 * MS, 91 * MS).abs() < 1e-9);
    }

    #[test]
    fn the_99th_percentile_of_a_hundred_is_exceeded_by_one() {
        let all = (0..100).map(|n| asked(n, Some((n + 1, Answer::Data(0)))));
        let mut tally = tally(all.collect());
        let p99 = |tally: &Tally| tally.span(0, u64::MAX).quantile(0.99);
        assert_eq!(p99(&tally), Some(Duration::from_millis(99)));
        tally.all[99].answer = None;
        assert_eq!(p99(&tally), Some(Duration::from_millis(99)));
        tally.all[98].answer = None;
        assert_eq!(p99(&tally), None);
        assert_eq!(Tally::default().span(0, 1).quantile(0.99), None);
    }

    #[test]
    fn the_excess_is_in_percent() {
        assert!((excess(1_050, 1_000) - 5.0).abs() < 1e-9);
        assert!((excess(900, 1_000) + 10.0).abs() < 1e-9);
        assert!(excess(0, 0).abs() < 1e-9);
        assert!((ratio(1, 4) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn recovery_is_the_begin_of_the_first_good_second() {
        // A query a millisecond; from 1,500 ms on they are answered, one of them late.
        let all = (0..5_000).map(|n| {
            let after = if n == 1_700 { 1_200 } else { 2 };
            asked(n, (n >= 1_500).then_some((after, Answer::Data(0))))
        });
        let tally = tally(all.collect());
        let at = |end: u64, last: u64| tally.recovery(end * MS, last * MS);
        // Ten of a thousand may fail, and the late one is one of them.
        assert_eq!(at(1_000, 5_000), Some(Duration::from_millis(500)));
        assert_eq!(at(2_000, 5_000), Some(Duration::ZERO));
        assert_eq!(at(1_000, 2_400), None);
        assert_eq!(at(6_000, 9_000), None);
    }
}
