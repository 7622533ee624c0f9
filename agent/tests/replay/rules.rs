// SPDX-License-Identifier: Apache-2.0
//! docs/rules.md: which rule stands where, which scenario proves it, which setting moves it. Its
//! table comes from the headers of the scenarios; the words around it are written by hand.

use std::fmt::Write;

use super::script::Scenario;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules.md");
const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p nodens --test replay rules";
const BEGIN: &str = "<!-- rules: generated from tests/replay -->\n";
const END: &str = "<!-- rules: end -->";
/// The parts of the table, in their order.
const PARTS: [&str; 7] = [
    "Serving",
    "Cache",
    "Failures",
    "Stale answers",
    "Prefetch and sharing",
    "Cuts",
    "Bad input",
];

fn tables(scenarios: &[Scenario]) -> String {
    let mut tables = String::new();
    for part in PARTS {
        let _ = writeln!(tables, "\n### {part}\n");
        tables.push_str("| rule | source | scenario | setting |\n|---|---|---|---|\n");
        for scenario in scenarios.iter().filter(|scenario| scenario.part == part) {
            let setting = match scenario.setting.as_str() {
                "-" => "-".to_owned(),
                keys => format!("`{}`", keys.replace(", ", "`, `")),
            };
            let _ = writeln!(
                tables,
                "| {} | {} | [{name}](../tests/replay/{name}.rpl) | {setting} |",
                scenario.rule,
                scenario.rfc,
                name = scenario.name
            );
        }
    }
    tables.push('\n');
    tables
}

#[test]
fn the_table_of_rules_is_that_of_the_scenarios() {
    let scenarios = super::scenarios();
    for scenario in &scenarios {
        let name = &scenario.name;
        assert!(PARTS.contains(&scenario.part.as_str()), "{name}: no part");
        assert!(!scenario.rule.is_empty(), "{name}: no rule");
        assert!(!scenario.rfc.is_empty(), "{name}: no rfc; a dash is none");
        assert!(!scenario.setting.is_empty(), "{name}: no setting");
        assert!(scenario.steps.len() > 1, "{name}: proves nothing");
    }
    let document = std::fs::read_to_string(FILE).unwrap();
    let begin = document.find(BEGIN).unwrap() + BEGIN.len();
    let end = document.find(END).unwrap();
    let table = tables(&scenarios);
    let wanted = format!("{}{table}{}", &document[..begin], &document[end..]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        if wanted != document {
            std::fs::write(FILE, &wanted).unwrap();
        }
        return;
    }
    assert!(
        wanted == document,
        "docs/rules.md differs from the scenarios; regenerate it with: {COMMAND}"
    );
}
