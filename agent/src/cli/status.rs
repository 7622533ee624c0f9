// SPDX-License-Identifier: Apache-2.0
//! `nodens status`: the agent that runs here on one page, over its admin socket.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use super::words::{ago, count, octets, row, table, time};
use super::{JSON, asking};
use crate::admin::STATUS;
use crate::config::Sources;
use crate::inspect::page::{Route, Status, Steering, Upstream};

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    Command::new("status")
        .about("The running agent on one page: readiness, steering, zones, upstreams, cache")
        .arg(super::switch(JSON, super::JSON_HELP))
}

/// Asks, and shows the page.
pub(super) fn execute(matches: &ArgMatches, sources: &Sources) -> ExitCode {
    let exit = match asking::socket(sources) {
        Ok(socket) => asking::show(&socket, "GET", STATUS, matches.get_flag(JSON), words),
        Err(exit) => exit,
    };
    exit.into()
}

fn words(page: &Status) -> String {
    let mut text = format!(
        "nodens {}, process {}, up {}{}\n",
        page.version,
        page.pid,
        time(page.uptime),
        page.resident_bytes
            .map(|resident| format!(", {} resident", octets(resident)))
            .unwrap_or_default()
    );
    let config = &page.config;
    text.push_str(&format!(
        "configuration: {}, loaded {} ago; {} reloaded since the start, {} refused\n",
        config
            .file
            .as_deref()
            .unwrap_or("defaults, environment and flags"),
        time(config.age),
        config.reloads,
        config.refused
    ));
    text.push_str(match (page.is_ready, page.is_live) {
        (true, _) => "ready: yes\n",
        (false, true) => "ready: no\n",
        (false, false) => "ready: no, and not live\n",
    });
    for reason in &page.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text.push_str(&format!(
        "waiting: {}\n",
        count(
            usize::try_from(page.waiting).unwrap_or(usize::MAX),
            "client",
            "clients"
        )
    ));
    let store = &page.cache;
    text.push_str(&format!(
        "cache: {} entries, {} of {}, {} evicted; `nodens cache stats` has more\n",
        store.entries,
        octets(store.used_bytes),
        octets(store.budget_bytes),
        store.evictions
    ));
    text.push_str("\nlisten (as the agent asks itself)\n");
    let mut rows = vec![row(["address", "transport", "answered", "failed"])];
    rows.extend(page.listen.iter().map(|listen| {
        let (answered, failed) = (listen.answered.to_string(), listen.failed.to_string());
        row([&listen.address, &listen.proto, &answered, &failed])
    }));
    text.push_str(&table("  ", &rows));
    text.push_str(&steering(page.steering.as_ref()));
    text.push_str("\nzones\n");
    let mut rows = vec![row([
        "zone",
        "upstreams",
        "max TTL",
        "negative",
        "rotate",
        "cuts",
        "denied by",
    ])];
    rows.extend(page.zones.iter().map(route));
    text.push_str(&table("  ", &rows));
    text.push_str("\nupstreams\n");
    let mut rows = vec![row([
        "address",
        "zone",
        "state",
        "time / p95",
        "in flight",
        "idle",
        "answered",
        "last error",
        "exchanges",
    ])];
    rows.extend(page.upstreams.iter().map(upstream));
    text.push_str(&table("  ", &rows));
    text
}

fn steering(page: Option<&Steering>) -> String {
    let Some(page) = page else {
        return "\nsteering: off (intercept.enabled is false)\n".to_owned();
    };
    let mut rows = vec![row([
        "address",
        "transport",
        "steered here",
        "trips",
        "returns",
    ])];
    rows.extend(page.lanes.iter().map(|lane| {
        let (trips, returns) = (lane.trips.to_string(), lane.returns.to_string());
        let is_live = if lane.is_live { "yes" } else { "no" };
        row([&lane.address, &lane.proto, is_live, &trips, &returns])
    }));
    let lanes = table("  ", &rows);
    let healed: Vec<_> = page
        .healed
        .iter()
        .filter(|&(_, &times)| times > 0)
        .map(|(part, times)| format!("{part} {times}"))
        .collect();
    let healed = match healed.as_slice() {
        [] => "nothing".to_owned(),
        some => some.join(", "),
    };
    format!(
        "\nsteering (longest gap {:.3} s, put back: {healed})\n{lanes}",
        page.longest_gap
    )
}

fn route(route: &Route) -> Vec<String> {
    let on_or_off = |is_on: bool| if is_on { "on" } else { "off" };
    let mut upstreams = route.upstreams.join(", ");
    if route.is_down {
        upstreams.push_str(" (down)");
    }
    if route.answers > 0 {
        let separator = if upstreams.is_empty() { "" } else { ", " };
        upstreams.push_str(separator);
        upstreams.push_str(&count(route.answers, "rule", "rules"));
    }
    row([
        &route.zone,
        &upstreams,
        &time(route.max_ttl.into()),
        &time(route.max_negative_ttl.into()),
        on_or_off(route.rotates),
        on_or_off(route.cuts),
        if route.denies_by_name { "name" } else { "type" },
    ])
}

fn upstream(upstream: &Upstream) -> Vec<String> {
    let error = match (&upstream.words, upstream.failed) {
        (Some(words), Some(failed)) => format!("{}: {words}", ago(failed)),
        _ => "-".to_owned(),
    };
    let ages = match (upstream.youngest, upstream.oldest) {
        (Some(youngest), Some(oldest)) => format!(" ({youngest:.0} to {oldest:.0} s old)"),
        _ => String::new(),
    };
    let mut under_way = upstream.in_flight.to_string();
    if upstream.depth > 1 {
        under_way.push_str(&format!(" (up to {} a connection)", upstream.depth));
    }
    if upstream.waiting > 0 {
        under_way.push_str(&format!(", {} wait", upstream.waiting));
    }
    row([
        &upstream.address,
        &upstream.zone,
        &upstream.state,
        &format!("{} / {}", span(upstream.smoothed), span(upstream.p95)),
        &under_way,
        &format!("{}{ages}", upstream.idle),
        &upstream.answered.map_or_else(|| "-".to_owned(), ago),
        &error,
        &exchanges(&upstream.exchanges, upstream.hedges),
    ])
}

/// A time of milliseconds.
fn span(seconds: Option<f64>) -> String {
    seconds.map_or_else(
        || "-".to_owned(),
        |seconds| format!("{:.1} ms", seconds * 1e3),
    )
}

fn exchanges(counts: &BTreeMap<String, u64>, hedges: u64) -> String {
    let mut counts: Vec<_> = counts
        .iter()
        .map(|(outcome, count)| format!("{outcome} {count}"))
        .collect();
    if hedges > 0 {
        counts.push(format!("asked twice {hedges}"));
    }
    match counts.as_slice() {
        [] => "-".to_owned(),
        some => some.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_anything_on_it_has_words_for_it() {
        let text = words(&Status::default());
        for told in [
            "configuration: defaults, environment and flags",
            "ready: no, and not live",
            "steering: off",
            "waiting: 0 clients",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }

    #[test]
    fn an_upstream_says_how_it_is_and_what_was_wrong_last() {
        let mut page = Upstream {
            address: "192.0.2.1:53".to_owned(),
            zone: ".".to_owned(),
            ..Upstream::default()
        };
        page.state = "not asked".to_owned();
        assert_eq!(
            upstream(&page)[2..],
            ["not asked", "- / -", "0", "0", "-", "-", "-"]
        );
        page.state = "down".to_owned();
        (page.smoothed, page.p95) = (Some(0.001_24), Some(0.02));
        (page.in_flight, page.depth, page.waiting) = (3, 8, 2);
        (page.idle, page.youngest, page.oldest) = (4, Some(1.2), Some(29.0));
        page.answered = Some(75.0);
        page.failed = Some(0.5);
        page.words = Some("no answer came in time".to_owned());
        page.exchanges = BTreeMap::from([("answered".to_owned(), 7), ("timeout".to_owned(), 1)]);
        page.hedges = 2;
        assert_eq!(
            upstream(&page)[2..],
            [
                "down",
                "1.2 ms / 20.0 ms",
                "3 (up to 8 a connection), 2 wait",
                "4 (1 to 29 s old)",
                "1 min 15 s ago",
                "0.5 s ago: no answer came in time",
                "answered 7, timeout 1, asked twice 2"
            ]
        );
    }
}
