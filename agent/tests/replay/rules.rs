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

/// A rule that no scenario can show, for it is about sockets, memory or the command line: what it is,
/// where it comes from, the file and the name of its test, and its setting.
type Elsewhere = [&'static str; 5];
const ELSEWHERE: [Elsewhere; 8] = [
    [
        "Every configured address answers over UDP and TCP, IPv4 and IPv6 in one process, a wildcard on each address of the host",
        "RFC 7766 section 5",
        "tests/tests/lifecycle/addresses.rs",
        "a_wildcard_answers_on_every_address_of_the_host_and_follows_them",
        "`listen.addresses`",
    ],
    [
        "Queries that follow one another over a connection are all answered",
        "RFC 7766 section 6.2.1.1",
        "tests/tests/query_path/streams.rs",
        "three_hundred_queries_in_one_write_are_all_answered_each_with_its_own_answer",
        "-",
    ],
    [
        "An answer over TCP waits for none before it",
        "RFC 7766 section 7",
        "tests/tests/query_path/streams.rs",
        "a_slow_miss_holds_up_nothing_behind_it_on_its_connection",
        "-",
    ],
    [
        "A connection without a query is closed, and one that waits for an answer is not",
        "RFC 7766 section 6.2.3; RFC 7828",
        "tests/tests/query_path/streams.rs",
        "an_idle_connection_is_closed_after_tcp_idle_and_one_that_waits_is_not",
        "`listen.tcpIdle`",
    ],
    [
        "Beyond the limits a new connection takes the place of one that rests",
        "RFC 7766 section 6.2.3",
        "tests/tests/query_path/streams.rs",
        "a_newcomer_over_the_limits_takes_the_place_of_one_that_rests_and_the_agent_stays_ready",
        "`listen.tcpConnections`, `listen.tcpConnectionsPerClient`",
    ],
    [
        "One budget in octets for everything; random names do not push out what is hot",
        "[ADR 1](adr/0001-own-answer-store.md)",
        "tests/tests/memory.rs",
        "random_names_of_every_size_neither_pass_the_budget_nor_push_out_what_is_hot",
        "`cache.size`",
    ],
    [
        "Questions that wait at the same time, over UDP and TCP, cost one query upstream",
        "-",
        "tests/tests/query_path/sharing.rs",
        "five_hundred_identical_concurrent_misses_cost_one_upstream_query",
        "-",
    ],
    [
        "What is held for a name is shown with its source, age and end, and can be flushed",
        "-",
        "tests/tests/inspection.rs",
        "what_was_asked_is_shown_with_its_source_age_and_end_and_flushed",
        "`admin.socket`",
    ],
];

fn elsewhere() -> String {
    let mut table = "\n### Shown by other tests\n\n".to_owned();
    table.push_str("| rule | source | test | setting |\n|---|---|---|---|\n");
    for [rule, source, file, name, setting] in ELSEWHERE {
        let _ = writeln!(
            table,
            "| {rule} | {source} | [{name}](../{file}) | {setting} |"
        );
    }
    table
}

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
    tables.push_str(&elsewhere());
    tables.push('\n');
    tables
}

#[test]
fn every_test_that_a_rule_is_shown_by_is_there() {
    for [rule, _, file, name, _] in ELSEWHERE {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = format!("#[test]\nfn {name}()");
        assert!(text.contains(&wanted), "{rule}: no {name} in {file}");
    }
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
