// SPDX-License-Identifier: Apache-2.0
//! What the chart brings for Prometheus and Grafana: it is off unless asked for, it is well formed,
//! and it asks for metrics and labels that the agent has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use nodens_tests::process::TempDir;
use nodens_tests::{helm, yaml};
use serde_json::Value;

/// Labels that Prometheus, or its operator, adds.
const ADDED: [&str; 5] = ["container", "instance", "job", "le", "quantile"];

/// Every metric with its labels, from docs/metrics.md, which is written from the agent's table.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(helm::root().join("docs/metrics.md")).unwrap();
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            continue;
        };
        if !["counter", "gauge", "histogram"].contains(&kind) {
            continue;
        }
        let name = name.trim_matches('`').to_owned();
        let labels = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned());
        let labels: BTreeSet<_> = labels.filter(|label| !label.is_empty()).collect();
        if kind == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                metrics.insert(format!("{name}{suffix}"), labels.clone());
            }
        } else {
            metrics.insert(name, labels);
        }
    }
    assert!(metrics.len() > 40, "{metrics:?}");
    metrics
}

/// Words of a query that name a metric.
fn named(query: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = query.split(|letter| !is_part(letter));
    words
        .filter(|word| word.starts_with("nodens_") || word.starts_with("process_"))
        .collect()
}

/// Words of a query that name a label: before an operator in braces, or after `by` and `on`.
fn labels(query: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in query.split('{').skip(1) {
        let inside = part.split('}').next().unwrap();
        for matcher in inside.split(',') {
            let name = matcher.split(['=', '!']).next().unwrap();
            found.insert(name.trim().to_owned());
        }
    }
    for word in ["by (", "on ("] {
        for part in query.split(word).skip(1) {
            let list = part.split(')').next().unwrap();
            found.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// Fails where a query asks for what no agent exports.
#[track_caller]
fn assert_exported(query: &str) {
    let metrics = metrics();
    let named = named(query);
    assert!(!named.is_empty(), "{query}");
    let mut known: BTreeSet<String> = ADDED.iter().map(ToString::to_string).collect();
    for name in named {
        let labels = metrics.get(name);
        let labels = labels.unwrap_or_else(|| panic!("no agent exports {name}: {query}"));
        known.extend(labels.clone());
    }
    for label in labels(query) {
        assert!(
            known.contains(&label),
            "no metric there has the label {label}: {query}"
        );
    }
}

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(helm::chart().join("files/alerts.yaml")).unwrap();
    let file = yaml::documents(&text).unwrap().remove(0);
    let rules = file["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() >= 8);
    rules
}

#[test]
fn nothing_of_it_is_there_unless_it_is_asked_for() {
    let names = helm::with(&[]).unwrap().names();
    for kind in ["PodMonitor", "PrometheusRule", "ConfigMap nodens-dashboard"] {
        assert!(
            !names.iter().any(|name| name.starts_with(kind)),
            "{names:?}"
        );
    }
}

#[test]
fn alerts_ask_for_what_the_agent_exports() {
    for rule in rules() {
        assert_exported(rule["expr"].as_str().unwrap());
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str().unwrap();
            for label in text.split("$labels.").skip(1) {
                let label = label.split(' ').next().unwrap();
                let query = rule["expr"].as_str().unwrap();
                let has = labels(query).contains(label)
                    || named(query)
                        .iter()
                        .any(|name| metrics()[*name].contains(label))
                    || ADDED.contains(&label);
                assert!(has, "{label}: {query}");
            }
        }
    }
}

#[test]
fn every_alert_has_its_meaning_in_the_documentation() {
    let text = fs::read_to_string(helm::root().join("docs/install.md")).unwrap();
    let mut documented: BTreeSet<_> = text
        .split('`')
        .filter(|word| word.starts_with("Nodens") && word.chars().all(char::is_alphanumeric))
        .collect();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            documented.remove(name),
            "docs/install.md says nothing of {name}"
        );
    }
    assert!(
        documented.is_empty(),
        "there are no such alerts: {documented:?}"
    );
}

#[test]
fn prometheus_takes_the_rules() {
    let rendered = helm::with(&["prometheusRule.enabled=true"]).unwrap();
    let spec = &rendered.one("PrometheusRule", "nodens")["spec"];
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rules.yaml");
    // JSON is YAML.
    fs::write(&file, spec.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output();
    let output = output.expect("promtool is missing: make deps installs it");
    let said = helm::said(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("{} rules found", rules().len())),
        "{said}"
    );
}

#[test]
fn alerts_fire_when_they_are_meant_to() {
    let dir = TempDir::new().unwrap();
    let rules = fs::read_to_string(helm::chart().join("files/alerts.yaml")).unwrap();
    fs::write(dir.path().join("rules.yaml"), rules).unwrap();
    let tests = fs::read_to_string(helm::root().join("tests/tests/chart/alerts.yaml")).unwrap();
    fs::write(dir.path().join("tests.yaml"), tests).unwrap();
    let output = Command::new("promtool")
        .args(["test", "rules", "tests.yaml"])
        .current_dir(dir.path())
        .output()
        .expect("promtool is missing: make deps installs it");
    assert!(output.status.success(), "{}", helm::said(&output));
}

#[test]
fn the_dashboard_asks_for_what_the_agent_exports() {
    let rendered = helm::with(&["dashboard.enabled=true"]).unwrap();
    let map = rendered.one("ConfigMap", "nodens-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: Value = serde_json::from_str(map["data"]["nodens.json"].as_str().unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            assert_exported(target["expr"].as_str().unwrap());
        }
    }
}

#[test]
fn nodes_without_an_agent_count_among_all_of_the_dashboard() {
    let text = fs::read_to_string(helm::chart().join("files/dashboard.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let all = board["panels"][0]["targets"][1]["expr"].as_str().unwrap();
    let all = all.replace("$node", ".*");
    let series = |metric: &str, instance: &str, values: &str| {
        format!(
            "      - {{ series: '{metric}{{container=\"nodens\",instance=\"{instance}\"}}', values: '{values}' }}\n"
        )
    };
    let test = format!(
        "tests:\n  - interval: 1m\n    input_series:\n{}{}{}    promql_expr_test:\n      - expr: '{all}'\n        \
         eval_time: 5m\n        exp_samples: [{{ value: 2 }}]\n",
        series("up", "good", "1x10"),
        series("nodens_ready", "good", "1x10"),
        series("up", "dead", "0x10"),
    );
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tests.yaml"), &test).unwrap();
    let output = Command::new("promtool")
        .args(["test", "rules", "tests.yaml"])
        .current_dir(dir.path())
        .output()
        .expect("promtool is missing: make deps installs it");
    assert!(output.status.success(), "{}\n{test}", helm::said(&output));
}

#[test]
fn the_monitor_gives_each_pod_the_port_of_its_metrics() {
    let values = [
        "podMonitor.enabled=true",
        "metrics.port=9353",
        "podMonitor.labels.release=p",
    ];
    let rendered = helm::with(&values).unwrap();
    let monitor = rendered.one("PodMonitor", "nodens");
    assert_eq!(monitor["metadata"]["labels"]["release"], "p");
    let selector = &monitor["spec"]["selector"];
    assert_eq!(
        selector,
        &rendered.one("DaemonSet", "nodens")["spec"]["selector"]
    );
    let endpoint = monitor["spec"]["podMetricsEndpoints"][0].to_string();
    assert!(
        endpoint.contains("$1:9353") && endpoint.contains("[$1]:9353"),
        "{endpoint}"
    );
}
