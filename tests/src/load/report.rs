// SPDX-License-Identifier: Apache-2.0
//! The table of `make bench`: what was measured beside what must be and what is aimed at.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// A bound on a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The figure or more.
    AtLeast(f64),
    /// The figure or less.
    AtMost(f64),
    /// 1, or no further from it than this.
    NearOne(f64),
}

impl Goal {
    /// Whether a figure reaches it.
    #[must_use]
    pub fn is_reached(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
            Self::NearOne(distance) => (figure - 1.0).abs() <= distance,
        }
    }

    fn show(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {}", unit.show(bound)),
            Self::AtMost(bound) => format!("<= {}", unit.show(bound)),
            Self::NearOne(distance) => format!("1 ± {distance}"),
        }
    }
}

/// What the figures of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A ratio to the echo in the same round.
    Ratio,
    /// Octets, shown in units of 10^6.
    Megabytes,
    /// Octets.
    Bytes,
    /// Seconds, shown in thousandths.
    Milliseconds,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Ratio => format!("{figure:.3}"),
            Self::Megabytes => format!("{:.2} MB", figure / 1e6),
            Self::Bytes => format!("{figure:.0} B"),
            Self::Milliseconds => format!("{:.2} ms", figure * 1e3),
        }
    }
}

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As good as it is aimed at.
    Aim,
    /// As good as it must be.
    Must,
    /// Worse.
    Missed,
    /// Every round was dropped.
    Unknown,
}

impl Verdict {
    /// As the tables have it.
    #[must_use]
    pub fn show(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::Missed => "MISSED",
            Self::Unknown => "NOT MEASURED",
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is done.
    pub work: &'static str,
    /// What the figures are.
    pub unit: Unit,
    /// What must be reached.
    pub must: Goal,
    /// What is aimed at.
    pub aim: Goal,
    /// One figure a round.
    pub figures: Vec<f64>,
}

impl Row {
    /// The verdict on the median.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match median(&self.figures) {
            None => Verdict::Unknown,
            Some(figure) if self.aim.is_reached(figure) => Verdict::Aim,
            Some(figure) if self.must.is_reached(figure) => Verdict::Must,
            Some(_) => Verdict::Missed,
        }
    }

    fn cells(&self) -> [String; 5] {
        let show = |figure| self.unit.show(figure);
        let measured = median(&self.figures).map_or_else(
            || "-".into(),
            |middle| {
                let low = self.figures.iter().copied().fold(f64::INFINITY, f64::min);
                let high = self
                    .figures
                    .iter()
                    .copied()
                    .fold(f64::NEG_INFINITY, f64::max);
                let count = self.figures.len();
                format!(
                    "{} ({}..{}, n={count})",
                    show(middle),
                    show(low),
                    show(high)
                )
            },
        );
        [
            self.work.into(),
            measured,
            self.must.show(self.unit),
            self.aim.show(self.unit),
            self.verdict().show().into(),
        ]
    }
}

/// All that a run of the benchmark says.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The machine, the kernel, the date.
    pub machine: String,
    /// The table.
    pub rows: Vec<Row>,
    /// What lies behind the rows: absolute figures, one line each.
    pub details: Vec<String>,
    /// What casts doubt: rounds dropped, a machine that is not quiet.
    pub doubts: Vec<String>,
}

/// The head of the table.
const HEAD: [&str; 5] = [
    "work",
    "measured: median (min..max)",
    "must",
    "aim",
    "verdict",
];

impl Report {
    /// Whether every row reached what it must.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        let passed = |row: &Row| matches!(row.verdict(), Verdict::Aim | Verdict::Must);
        self.rows.iter().all(passed)
    }

    /// For a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut lines = vec![HEAD.map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        let widths: [usize; 5] = std::array::from_fn(|column| {
            lines
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let mut out = format!("{}\n\n", self.machine);
        for cells in &lines {
            let padded: Vec<String> = cells
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            _ = writeln!(out, "{}", padded.join("  ").trim_end());
        }
        self.add_notes(&mut out, "  ");
        out
    }

    /// For docs/benchmarks.md.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = format!(
            "{}\n\n| {} |\n|---|---|---|---|---|\n",
            self.machine,
            HEAD.join(" | ")
        );
        for row in &self.rows {
            _ = writeln!(out, "| {} |", row.cells().join(" | "));
        }
        self.add_notes(&mut out, "- ");
        out
    }

    fn add_notes(&self, out: &mut String, mark: &str) {
        for (title, notes) in [("Behind the rows", &self.details), ("Doubts", &self.doubts)] {
            if !notes.is_empty() {
                _ = writeln!(out, "\n{title}:\n");
                for note in notes {
                    _ = writeln!(out, "{mark}{note}");
                }
            }
        }
    }
}

/// The middle one of the figures, or the mean of the middle two.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// The machine on one line: processor, CPUs we may use, kernel, date.
#[must_use]
pub fn machine(cpus: usize) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let virtualised = if info.contains(" hypervisor") {
        " (virtual machine)"
    } else {
        ""
    };
    let system = rustix::system::uname();
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    format!(
        "{model}{virtualised}, {cpus} CPUs, {} {} {}, {}",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy(),
        date(seconds),
    )
}

/// A day of the Gregorian calendar, UTC (the algorithm counts years from March).
fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::{Goal, Report, Row, Unit, Verdict, date, median};

    fn row(figures: &[f64]) -> Row {
        Row {
            work: "hits",
            unit: Unit::Ratio,
            must: Goal::AtLeast(0.90),
            aim: Goal::AtLeast(0.95),
            figures: figures.to_vec(),
        }
    }

    #[test]
    fn the_median_decides() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(row(&[0.1, 0.96, 0.97]).verdict(), Verdict::Aim);
        assert_eq!(row(&[0.91, 0.92, 0.99]).verdict(), Verdict::Must);
        assert_eq!(row(&[0.89, 0.89, 0.99]).verdict(), Verdict::Missed);
        assert_eq!(row(&[]).verdict(), Verdict::Unknown);
        let most = Row {
            must: Goal::AtMost(0.8),
            aim: Goal::AtMost(0.67),
            ..row(&[0.7])
        };
        assert_eq!(most.verdict(), Verdict::Must);
        let near = Row {
            must: Goal::NearOne(0.03),
            aim: Goal::NearOne(0.01),
            ..row(&[1.02])
        };
        assert_eq!(near.verdict(), Verdict::Must);
    }

    #[test]
    fn a_row_that_was_not_measured_does_not_pass() {
        let mut report = Report {
            rows: vec![row(&[0.95])],
            ..Report::default()
        };
        assert!(report.is_passed());
        report.rows.push(row(&[]));
        assert!(!report.is_passed());
    }

    #[test]
    fn both_forms_show_every_row_with_its_goals() {
        let report = Report {
            machine: "a machine".into(),
            rows: vec![row(&[0.9, 0.91, 0.92])],
            details: vec!["4 us".into()],
            doubts: vec![],
        };
        let text = report.to_text();
        assert!(text.starts_with("a machine\n"), "{text}");
        for cell in ["0.910 (0.900..0.920, n=3)", ">= 0.900", ">= 0.950", "must"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        let markdown = report.to_markdown();
        let line = "| hits | 0.910 (0.900..0.920, n=3) | >= 0.900 | >= 0.950 | must |";
        assert!(markdown.contains(line), "{markdown}");
        assert!(!markdown.contains("Doubts"));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(1_772_323_200), "2026-03-01");
    }
}
