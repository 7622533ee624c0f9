// SPDX-License-Identifier: Apache-2.0
//! The table of `make drills`: what was measured beside what must be and what is aimed at.

use std::fmt::Write as _;
use std::time::Duration;

use crate::load::report::{Goal, Verdict, columns};

/// One figure of a drill; less is better, where [`Figure::least`] says nothing else.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What stands behind the number: ` lost`, ` ms gap`.
    pub what: &'static str,
    /// What was measured; `None` when it never happened.
    pub value: Option<f64>,
    /// What it must not exceed; nothing, where it is infinite.
    pub must: f64,
    /// What it is aimed not to exceed.
    pub aim: f64,
    /// Digits behind the point of what is neither whole nor large.
    digits: usize,
    /// Whether the bounds are the least that is enough.
    is_least: bool,
    /// Whether the bounds stay what they are in the short form.
    is_firm: bool,
}

impl Figure {
    /// A number of things.
    #[must_use]
    pub fn count(what: &'static str, value: impl Into<u64>, must: u32, aim: u32) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let value = value.into() as f64;
        Self::new(what, Some(value), must.into(), aim.into())
    }

    /// Any number.
    #[must_use]
    pub fn number(what: &'static str, value: f64, must: f64, aim: f64) -> Self {
        Self::new(what, Some(value), must, aim)
    }

    /// A number of queries, whole or for each look-up, to a thousandth. It does not depend on the
    /// machine's speed: its bounds are the same in every form.
    #[must_use]
    pub fn fixed(what: &'static str, value: f64, must: f64, aim: f64) -> Self {
        Self {
            digits: 3,
            ..Self::new(what, Some(value), must, aim).firm()
        }
    }

    /// A number of hundredths, to a tenth of one.
    #[must_use]
    pub fn percent(what: &'static str, value: f64, must: f64, aim: f64) -> Self {
        Self::new(what, Some((value * 10.0).round() / 10.0), must, aim)
    }

    /// A time in milliseconds; `None` for what never happened.
    #[must_use]
    pub fn time(what: &'static str, value: Option<Duration>, must_ms: f64, aim_ms: f64) -> Self {
        let value = value.map(|time| time.as_secs_f64() * 1e3);
        Self::new(what, value, must_ms, aim_ms)
    }

    fn new(what: &'static str, value: Option<f64>, must: f64, aim: f64) -> Self {
        Self {
            what,
            value,
            must,
            aim,
            digits: 1,
            is_least: false,
            is_firm: false,
        }
    }

    /// More is better: the bounds are the least that is enough.
    #[must_use]
    pub fn least(self) -> Self {
        Self {
            is_least: true,
            ..self
        }
    }

    /// The bounds stay what they are in the short form.
    #[must_use]
    pub fn firm(self) -> Self {
        Self {
            is_firm: true,
            ..self
        }
    }

    /// There is nothing that it must be, only what it is aimed at.
    #[must_use]
    pub fn aim_alone(self) -> Self {
        Self {
            must: f64::INFINITY,
            ..self
        }
    }

    /// With bounds so many times as wide, for a look on a machine that others use; what must not
    /// happen at all still must not.
    #[must_use]
    pub fn relaxed(self, times: f64) -> Self {
        let times = match (self.is_firm, self.is_least) {
            (true, _) => 1.0,
            (false, true) => 1.0 / times,
            (false, false) => times,
        };
        Self {
            must: self.must * times,
            aim: self.aim * times,
            ..self
        }
    }

    fn verdict(&self) -> Verdict {
        let goal = |bound| match self.is_least {
            true => Goal::AtLeast(bound),
            false => Goal::AtMost(bound),
        };
        match self.value {
            Some(value) if goal(self.aim).is_reached(value) => Verdict::Aim,
            Some(value) if goal(self.must).is_reached(value) => Verdict::Must,
            None if self.must.is_infinite() => Verdict::Must,
            _ => Verdict::Missed,
        }
    }

    fn show(&self, value: Option<f64>) -> String {
        match value {
            None => format!("never{}", self.what),
            Some(value) if value.fract() == 0.0 || value >= 100.0 => {
                format!("{value:.0}{}", self.what)
            }
            Some(value) if value < 1.0 => format!("{value:.3}{}", self.what),
            Some(value) => format!("{value:.*}{}", self.digits, self.what),
        }
    }

    fn show_bound(&self, bound: f64) -> String {
        let shown = self.show(Some(bound));
        match (bound, self.is_least) {
            (0.0, _) => shown,
            (_, true) => format!("≥ {shown}"),
            (f64::INFINITY, false) => "-".to_owned(),
            (_, false) => format!("≤ {shown}"),
        }
    }
}

/// A drill and what came of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is done.
    pub drill: &'static str,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What lies behind it.
    pub details: Vec<String>,
    /// Why there are no figures.
    pub failure: Option<String>,
}

impl Row {
    /// The row of a drill: its figures with the lines that explain them, or why there are none.
    #[must_use]
    pub fn of(drill: &'static str, outcome: anyhow::Result<(Vec<Figure>, Vec<String>)>) -> Self {
        let (figures, details, failure) = match outcome {
            Ok((figures, details)) => (figures, details, None),
            Err(error) => (Vec::new(), Vec::new(), Some(format!("{error:#}"))),
        };
        Self {
            drill,
            figures,
            details,
            failure,
        }
    }

    /// Whether every figure is as it must be.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.verdict() != Verdict::Missed
    }

    fn verdict(&self) -> Verdict {
        let mut verdicts = self.figures.iter().map(Figure::verdict);
        if self.failure.is_some() || verdicts.clone().any(|v| v == Verdict::Missed) {
            Verdict::Missed
        } else if verdicts.any(|v| v == Verdict::Must) {
            Verdict::Must
        } else {
            Verdict::Aim
        }
    }

    /// Its figures, each with what it must be, its details and why it failed: a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let figures = self.figures.iter().map(|figure| {
            let (value, must) = (figure.show(figure.value), figure.show_bound(figure.must));
            format!(
                "{value} (must: {})",
                must.strip_suffix(figure.what).unwrap_or(&must)
            )
        });
        let rest = self.details.iter().chain(&self.failure).cloned();
        figures.chain(rest).collect()
    }

    fn cells(&self) -> [String; 5] {
        let list = |value: fn(&Figure) -> Option<f64>| {
            let shown: Vec<_> = self.figures.iter().map(|f| f.show(value(f))).collect();
            shown.join(", ")
        };
        let bounds = |value: fn(&Figure) -> f64| {
            let shown = (self.figures.iter()).map(|figure| figure.show_bound(value(figure)));
            shown.collect::<Vec<_>>().join(", ")
        };
        [
            self.drill.to_owned(),
            if self.failure.is_some() {
                "failed, see below".to_owned()
            } else {
                list(|figure| figure.value)
            },
            bounds(|figure| figure.must),
            bounds(|figure| figure.aim),
            self.verdict().show().to_owned(),
        ]
    }
}

const HEAD: [&str; 5] = ["drill", "measured", "must", "aim", "verdict"];

/// The table for a terminal, details and failures below it.
#[must_use]
pub fn to_text(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(rows.iter().map(Row::cells));
    let mut out = columns(&lines);
    for row in rows {
        for detail in row.details.iter().chain(&row.failure) {
            _ = writeln!(out, "  {}: {detail}", row.drill);
        }
    }
    out
}

/// The table in Markdown, for the documentation.
#[must_use]
pub fn to_markdown(rows: &[Row]) -> String {
    let mut out = format!("| {} |\n|---|---|---|---|---|\n", HEAD.join(" | "));
    for row in rows {
        _ = writeln!(out, "| {} |", row.cells().join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_good_as_its_worst_figure() {
        let mut row = Row {
            drill: "SIGKILL",
            figures: vec![
                Figure::count(" lost", 3_u64, 50, 5),
                Figure::time(" ms", Some(Duration::from_micros(20_500)), 50.0, 50.0),
            ],
            details: vec!["4711 queries".to_owned()],
            failure: None,
        };
        assert_eq!(row.verdict(), Verdict::Aim);
        let text = to_text(std::slice::from_ref(&row));
        assert!(text.contains("3 lost, 20.5 ms"), "{text}");
        assert!(text.contains("≤ 50 lost, ≤ 50 ms"), "{text}");
        assert!(text.contains("SIGKILL: 4711 queries"), "{text}");
        let lines = [
            "3 lost (must: ≤ 50)",
            "20.5 ms (must: ≤ 50)",
            "4711 queries",
        ];
        assert_eq!(row.lines(), lines);
        row.figures[0].value = Some(6.0);
        assert_eq!(row.verdict(), Verdict::Must);
        row.figures[1].value = None;
        assert!(!row.is_passed());
        assert!(to_text(&[row]).contains("never ms"));
    }

    #[test]
    fn bounds_can_be_the_least_that_is_enough_firm_or_an_aim_alone() {
        let share = Figure::percent(" % by the new pod", 19.96, 15.0, 25.0).least();
        assert_eq!(share.verdict(), Verdict::Must);
        assert_eq!(share.show_bound(share.must), "≥ 15 % by the new pod");
        let relaxed = share.clone().relaxed(3.0);
        assert_eq!(relaxed.verdict(), Verdict::Aim);
        assert!((relaxed.must - 5.0).abs() < 1e-9);
        assert!((share.firm().relaxed(3.0).must - 15.0).abs() < 1e-9);
        let late = Figure::time(" ms", None, 350.0, 350.0);
        assert_eq!(late.verdict(), Verdict::Missed);
        let late = late.aim_alone();
        assert_eq!(late.verdict(), Verdict::Must);
        assert_eq!(late.show_bound(late.must), "-");
        let ratio = Figure::number(" of its time", 0.1849, 0.2, 1.0 / 6.0);
        assert_eq!(ratio.show(ratio.value), "0.185 of its time");
        assert_eq!(ratio.verdict(), Verdict::Must);
    }
}
