// SPDX-License-Identifier: Apache-2.0
//! The comparisons of the benchmark: what they are called, what they must reach, what was seen.

use std::time::Duration;

use super::super::client::micros;
use super::super::histogram::Histogram;
use super::super::report::{Goal, median};

/// What one side cost in a round.
#[derive(Default)]
pub(super) struct Cost {
    /// CPU time of the server.
    pub(super) on_cpu: Duration,
    /// Right replies.
    pub(super) received: u64,
    /// Time of the clients.
    pub(super) elapsed: Duration,
    /// From query to reply.
    pub(super) latency: Histogram,
    /// What the clients themselves add.
    pub(super) lateness: Histogram,
    /// The largest share of the CPUs that other processes had in a turn.
    pub(super) others: f64,
}

impl Cost {
    /// CPU time of the server a query, in microseconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "queries are counted far below 2^53"
    )]
    pub(super) fn us_per_query(&self) -> f64 {
        micros(self.on_cpu) / self.received.max(1) as f64
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "queries are counted far below 2^53"
    )]
    pub(super) fn per_second(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The comparisons that are made in every round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Saturated hits, few names.
    Few,
    /// Saturated hits, many names.
    Many,
    /// Hits at a rate, against the echo's one pinned thread.
    Paced,
    /// As `Paced`, against an echo that the scheduler places. It has no goal: on an idle machine
    /// the kernel moves that thread beside the client that asks, so the figure says how busy the
    /// machine was.
    Loose,
    /// Saturated misses.
    Miss,
    /// As `Paced`, of a control: the echo in the agent's layout against the one-thread echo.
    /// What the layout alone is worth on this machine, and so how low `Paced` can get.
    Layout,
}

impl Work {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 6] = [
        Self::Few,
        Self::Many,
        Self::Paced,
        Self::Loose,
        Self::Miss,
        Self::Layout,
    ];

    /// What must be reached and what is aimed at; `None` for what is no row of the table.
    pub(super) fn goals(self, control: bool) -> Option<(Goal, Goal)> {
        let goals = match (control, self) {
            (_, Self::Loose) | (true, Self::Miss) | (false, Self::Layout) => return None,
            // What the agent must reach, the bare echo in its layout must be able to.
            (false, Self::Paced) | (true, Self::Layout) => (Goal::AtMost(0.80), Goal::AtMost(0.67)),
            // A control only says how far a run can be trusted.
            (true, _) => (Goal::NearOne(0.03), Goal::NearOne(0.01)),
            (false, Self::Few) => (Goal::AtLeast(0.90), Goal::AtLeast(0.95)),
            (false, Self::Many) => (Goal::AtLeast(0.85), Goal::AtLeast(0.92)),
            (false, Self::Miss) => (Goal::AtMost(4.5), Goal::AtMost(3.5)),
        };
        Some(goals)
    }

    /// What the row is called.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Few => "saturated hits, 1,000 names: q/CPU-s against the echo",
            Self::Many => "saturated hits, 100,000 names: q/CPU-s against the echo",
            Self::Paced => "20,000 q/s paced, blocking clients: CPU/q against the one-thread echo",
            Self::Loose => "20,000 q/s paced: CPU/q against an echo that the scheduler places",
            Self::Miss => "miss over TCP, one query a connection: CPU/q against the echo",
            Self::Layout => "20,000 q/s paced: the echo in the agent's layout against one thread",
        }
    }
}

/// What has been measured of one comparison.
#[derive(Default)]
pub(super) struct Series {
    /// One figure a round.
    pub(super) ratios: Vec<f64>,
    /// What the echo cost, round by round.
    pub(super) echo: Vec<Cost>,
    /// What the agent cost, round by round.
    pub(super) agent: Vec<Cost>,
}

/// Absolute figures of a comparison: one line a side.
pub(super) fn details(work: Work, series: &Series) -> Vec<String> {
    [("echo", &series.echo), ("agent", &series.agent)]
        .into_iter()
        .filter_map(|(side, costs)| {
            let of = |figure: fn(&Cost) -> f64| {
                median(&costs.iter().map(figure).collect::<Vec<_>>())
            };
            let (us, rate) = (of(Cost::us_per_query)?, of(Cost::per_second)?);
            let mut latency = Histogram::default();
            let mut lateness = Histogram::default();
            for cost in costs {
                latency.merge(&cost.latency);
                lateness.merge(&cost.lateness);
            }
            let us_at = |fraction| micros(latency.quantile(fraction));
            let late = match work {
                Work::Paced | Work::Loose | Work::Layout => format!(
                    "; the clients' own lateness p50 {:.0} p99 {:.0} us",
                    micros(lateness.quantile(0.5)),
                    micros(lateness.quantile(0.99))
                ),
                _ => String::new(),
            };
            Some(format!(
                "{work:?}, {side}: {us:.2} us/q on CPU, {rate:.0} q/s, latency p50 {:.0} p99 {:.0} p99.9 {:.0} us{late}",
                us_at(0.5),
                us_at(0.99),
                us_at(0.999),
            ))
        })
        .collect()
}
