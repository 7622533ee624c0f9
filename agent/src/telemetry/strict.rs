// SPDX-License-Identifier: Apache-2.0
//! A reader of the Prometheus text format for tests, stricter than Prometheus: it refuses what
//! `promtool check metrics` would and what a careless writer gets wrong.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape that kept all rules.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Type of each family.
    pub(crate) families: BTreeMap<String, String>,
    /// Value of each sample by its name and labels, as written.
    pub(crate) samples: BTreeMap<String, f64>,
}

impl Parsed {
    /// The value of a sample that must be there.
    pub(crate) fn sample(&self, sample: &str) -> f64 {
        *self
            .samples
            .get(sample)
            .unwrap_or_else(|| panic!("no {sample} in {self:#?}"))
    }
}

/// Reads a scrape.
///
/// # Panics
/// At the first rule that is broken, with the line.
pub(crate) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    assert!(text.ends_with('\n'), "the last line must end");
    let mut current: Option<(String, String)> = None;
    let mut help: Option<String> = None;
    // Buckets by family and labels without le; sums and counts likewise.
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut sums = BTreeSet::new();
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect(line);
            assert!(!words.trim().is_empty(), "HELP says something: {line}");
            assert!(help.is_none(), "HELP without TYPE before {line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(
                help.take().as_deref(),
                Some(name),
                "HELP goes before {line}"
            );
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(is_name(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let before = parsed.families.insert(name.to_owned(), kind.to_owned());
            assert!(before.is_none(), "a family comes once: {line}");
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            assert!(help.is_none(), "TYPE goes before {line}");
            let (family, kind) = current.as_ref().expect("a sample belongs to a family");
            let (name, labels, value) = sample(line);
            let suffix = name
                .strip_prefix(family.as_str())
                .unwrap_or_else(|| panic!("{line} in {family}"));
            assert!(!value.is_nan() && value >= 0.0, "{line}");
            let written = line.rsplit_once(' ').expect(line).0;
            assert!(
                parsed.samples.insert(written.to_owned(), value).is_none(),
                "twice: {line}"
            );
            let is_plain = suffix.is_empty() && !labels.iter().any(|(label, _)| label == "le");
            if kind != "histogram" {
                assert!(is_plain, "{line}");
                continue;
            }
            let key = format!(
                "{family} {:?}",
                labels
                    .iter()
                    .filter(|(label, _)| label != "le")
                    .collect::<Vec<_>>()
            );
            match suffix {
                "_bucket" => {
                    let (_, le) = labels.iter().find(|(label, _)| label == "le").expect(line);
                    let le = if le == "+Inf" {
                        f64::INFINITY
                    } else {
                        le.parse().expect(line)
                    };
                    buckets.entry(key).or_default().push((le, value));
                }
                "_sum" => assert!(sums.insert(key), "{line}"),
                "_count" => assert!(counts.insert(key, value).is_none(), "{line}"),
                _ => panic!("no part of a histogram: {line}"),
            }
        }
    }
    for (key, buckets) in &buckets {
        assert!(
            buckets.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "bounds rise: {key}"
        );
        assert!(
            buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
            "buckets add up: {key}"
        );
        let &(bound, all) = buckets.last().expect("buckets");
        assert_eq!(bound, f64::INFINITY, "{key}");
        assert_eq!(counts.get(key), Some(&all), "{key}");
        assert!(sums.contains(key), "{key}");
    }
    assert_eq!(counts.len(), buckets.len());
    for (family, _) in parsed.families.iter() {
        assert!(
            parsed
                .samples
                .keys()
                .any(|sample| sample.starts_with(family.as_str())),
            "{family} has no sample"
        );
    }
    parsed
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> (&str, Vec<(String, String)>, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, quoted) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            assert!(labels.iter().all(|(known, _)| known != label), "{line}");
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next().expect(line) {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().expect(line).1 {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        other => panic!("\\{other} in {line}"),
                    }),
                    (_, plain) => value.push(plain),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &quoted[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect(line);
    }
    let number = rest.strip_prefix(' ').expect(line);
    assert!(!number.contains(' '), "no timestamps: {line}");
    (name, labels, number.parse().expect(line))
}

#[test]
fn the_reader_refuses_what_prometheus_would() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"\\\\,}\"} 1\n";
    assert_eq!(parse(good).sample("a_total{b=\"c\\\"\\\\,}\"}"), 1.0);
    for bad in [
        "a_total 1\n",
        "# HELP a_total x\n# TYPE a_total counter\n",
        "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a x\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a x\n# TYPE a gauge\na{b=\"1\",b=\"2\"} 1\n",
        "# HELP a x\n# TYPE a gauge\nc 1\n",
        "# HELP a x\n# TYPE a gauge\na 1",
        "# HELP a x\n# TYPE a gauge\na NaN\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
    ] {
        assert!(std::panic::catch_unwind(|| parse(bad)).is_err(), "{bad}");
    }
}
