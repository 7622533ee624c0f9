// SPDX-License-Identifier: Apache-2.0
//! Tables, times and sizes for people.

/// Rows with their columns below each other, two spaces apart, each line with this in front.
pub(super) fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Cells of a row.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Seconds in the two largest units that fit.
pub(super) fn time(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts
        .iter()
        .position(|&(number, _)| number > 0)
        .unwrap_or(3);
    let shown = parts.iter().skip(first).take(2);
    let shown: Vec<_> = shown
        .enumerate()
        .filter(|&(at, &(number, _))| at == 0 || number > 0)
        .map(|(_, (number, unit))| format!("{number} {unit}"))
        .collect();
    shown.join(" ")
}

/// Seconds ago, with tenths while they matter.
pub(super) fn ago(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s ago");
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    format!("{} ago", time(whole.as_secs()))
}

/// Octets in the largest unit that fits.
pub(super) fn octets(octets: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = octets as f64;
    if value < 1024.0 {
        return format!("{octets} octets");
    }
    let mut unit = "octets";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A number and its noun.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [row(["a", "bb", "c"]), row(["aaa", "b", ""])];
        assert_eq!(table(" ", &rows), " a    bb  c\n aaa  b\n");
        assert_eq!(table("", &[]), "");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3725, "1 h 2 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(time(seconds), text);
        }
        assert_eq!(ago(0.25), "0.2 s ago");
        assert_eq!(ago(75.9), "1 min 15 s ago");
        for (number, text) in [
            (0, "0 octets"),
            (1023, "1023 octets"),
            (1024, "1.0 KiB"),
            (64 << 20, "64.0 MiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(octets(number), text);
        }
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(0, "entry", "entries"), "0 entries");
    }
}
