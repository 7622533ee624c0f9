// SPDX-License-Identifier: Apache-2.0
//! `nodens cache stats|get|dump|flush`: what the agent that runs here holds, and why; over its admin
//! socket. In words, or with `--json` as the agent says it.

use std::io::{BufRead, Read};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgGroup, ArgMatches, Command};

use super::client::{LARGEST_PAGE, encode};
use super::exit::Exit;
use super::words::{count, octets, row, table, time};
use super::{JSON, asking, output};
use crate::admin::{DUMP, FLUSH, GET, STATS};
use crate::config::Sources;
use crate::inspect::page::{self, Entry, Flushed, Kind, State, Stats};
use crate::wire::name::Name;
use crate::wire::presentation::TypeName;

const NAME: &str = "name";
const TYPE: &str = "type";
const ZONE: &str = "zone";
const ALL: &str = "all";

/// The subcommand with its own, each without the flags of the configuration.
pub(super) fn command(with_configuration: fn(Command) -> Command) -> Command {
    let name = || {
        Arg::new(NAME)
            .value_name("NAME")
            .value_parser(name)
            .help("A name, with or without the final dot; letter case does not matter")
    };
    let zone = |help| {
        Arg::new(ZONE)
            .long(ZONE)
            .value_name("ZONE")
            .value_parser(self::name)
            .help(help)
    };
    let qtype = Arg::new(TYPE)
        .value_name("TYPE")
        .value_parser(qtype)
        .help("A type, e.g. AAAA or TYPE65 [default: all]");
    let all = super::switch(ALL, "Everything");
    let what = ArgGroup::new("what").args([NAME, ZONE, ALL]).required(true);
    let subcommands = [
        Command::new("stats").about("The cache in figures: entries by kind, hits by zone"),
        Command::new("get")
            .about("All that is held for a name, and how its next query would be answered")
            .arg(name().required(true))
            .arg(qtype),
        Command::new("dump")
            .about("Every entry, in no order; with --json a line each")
            .arg(zone("Only what lies at and below this name")),
        Command::new("flush")
            .about("Forgets a name, all at and below a zone, or everything")
            .arg(name())
            .arg(zone(
                "What lies at and below this name, which need not be a configured zone",
            ))
            .arg(all)
            .group(what),
    ];
    let subcommands =
        subcommands.map(|one| with_configuration(one.arg(super::switch(JSON, super::JSON_HELP))));
    Command::new("cache")
        .about("What the running agent holds, and why")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(subcommands)
}

/// Reads a name. The words of other scripts have a form in ASCII on the wire, which is not ours to
/// choose.
fn name(text: &str) -> Result<Name, String> {
    if !text.is_ascii() {
        return Err(
            "give it in the form it has on the wire, e.g. xn--bcher-kva.example".to_owned(),
        );
    }
    Name::parse(text).map_err(|error| error.to_string())
}

fn qtype(text: &str) -> Result<TypeName, String> {
    TypeName::parse(text)
        .ok_or_else(|| "give its name (A, AAAA, SRV …) or TYPE and a number from 1 on".to_owned())
}

/// Runs the one that was asked for. `sources` reads its flags.
pub(super) fn execute(
    matches: &ArgMatches,
    sources: impl FnOnce(&ArgMatches) -> Sources,
) -> ExitCode {
    let Some((verb, matches)) = matches.subcommand() else {
        return Exit::Bug.into(); // clap requires one of them
    };
    let socket = match asking::socket(&sources(matches)) {
        Ok(socket) => socket,
        Err(exit) => return exit.into(),
    };
    let given = |name: &str| {
        let known = matches.try_get_one::<Name>(name).ok().flatten();
        known.map(ToString::to_string)
    };
    let is_json = matches.get_flag(JSON);
    let parameter = |key: &str, value: &str| format!("{key}={}", encode(value));
    let exit = match verb {
        "stats" => asking::show(&socket, "GET", STATS, is_json, |page: &Stats| stats(page)),
        "get" => {
            let mut asked = parameter(NAME, &given(NAME).unwrap_or_default());
            if let Some(qtype) = matches.get_one::<TypeName>(TYPE) {
                asked.push_str(&format!("&{}", parameter(TYPE, &qtype.to_string())));
            }
            let page = format!("{GET}?{asked}");
            asking::show(&socket, "GET", &page, is_json, get)
        }
        "flush" => {
            let asked = match (given(NAME), given(ZONE)) {
                (Some(name), _) => parameter(NAME, &name),
                (None, Some(zone)) => parameter(ZONE, &zone),
                (None, None) => ALL.to_owned(),
            };
            let page = format!("{FLUSH}?{asked}");
            asking::show(&socket, "POST", &page, is_json, flushed)
        }
        _ => dump(&socket, given(ZONE), is_json),
    };
    exit.into()
}

/// Shows entries as they come.
fn dump(socket: &Path, zone: Option<String>, is_json: bool) -> Exit {
    let page = match &zone {
        Some(zone) => format!("{DUMP}?{ZONE}={}", encode(zone)),
        None => DUMP.to_owned(),
    };
    let mut reply = match asking::reply(socket, "GET", &page, is_json) {
        Ok(reply) => reply,
        Err(exit) => return exit,
    };
    let mut is_empty = true;
    loop {
        let mut line = String::new();
        match reply.body.by_ref().take(LARGEST_PAGE).read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            // What came is good; that it is not all must not go unsaid.
            Err(error) => return asking::failed(socket, &error, is_json),
        }
        is_empty = false;
        if !is_json {
            let Ok(entry) = serde_json::from_str::<Entry>(&line) else {
                return asking::foreign(socket);
            };
            line = shown(&entry);
        }
        if !output::try_print(&line) {
            return Exit::Done;
        }
    }
    if is_empty && !is_json {
        let below = zone.map_or(String::new(), |zone| format!(" at or below {zone}"));
        output::print(&format!("; nothing is held{below}\n"));
    }
    Exit::Done
}

/// An entry: a comment, and its records as a zone file has them.
fn shown(entry: &Entry) -> String {
    let records = entry.records.iter().map(|record| {
        let page::Record {
            name,
            ttl,
            rtype,
            data,
            section,
        } = record;
        let note = match section.as_str() {
            "answer" => String::new(),
            other => format!("\t; {other}"),
        };
        format!("{name}\t{ttl}\tIN\t{rtype}\t{data}{note}\n")
    });
    let records: String = records.collect();
    format!("; {} {}\n{records}", entry.name, about(entry))
}

/// What there is to say of an entry, but for its name and records.
fn about(entry: &Entry) -> String {
    let mut asked = entry.qtype.clone();
    for (is_so, flag) in [
        (entry.dnssec_ok, " +do"),
        (entry.checking_disabled, " +cd"),
        (entry.class == "ANY", " class ANY"),
    ] {
        if is_so {
            asked.push_str(flag);
        }
    }
    let mut parts = vec![format!("{asked}: {}, {}", kind(entry.kind), entry.rcode)];
    if entry.kind == Kind::Own {
        return format!("{}, kept for good", parts.concat());
    }
    let left = entry.ttl.unwrap_or(0);
    parts.push(match entry.state {
        State::Fresh => format!("fresh for {}", time(left.into())),
        State::PutBack => format!(
            "stale, put back for {} as no upstream answered",
            time(left.into())
        ),
        State::Stale => "stale".to_owned(),
        State::Dead => "no longer sent".to_owned(),
    });
    if let Some(stale) = entry.stale_for.filter(|_| entry.state != State::Dead) {
        parts.push(format!("may be sent stale for {}", time(stale.into())));
    }
    parts.push(format!("age {}", time(entry.age.into())));
    parts.push(match entry.hits {
        3 => "3 hits or more".to_owned(),
        hits => count(usize::from(hits), "hit", "hits"),
    });
    if let Some(upstream) = &entry.upstream {
        parts.push(format!("from {upstream}"));
    }
    parts.push(format!("zone {}", entry.zone));
    parts.join(", ")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Positive => "data",
        Kind::Nodata => "no data of this type",
        Kind::Nxdomain => "denied for this type",
        Kind::Denial => "denied for every type",
        Kind::Failure => "remembered failure",
        Kind::Own => "the agent's own",
    }
}

fn get(page: &page::Name) -> String {
    let mut text = format!(
        "{} is of zone {}, asked of {}{}\n",
        page.name,
        page.zone,
        page.upstreams.join(", "),
        if page.is_down { ", which is down" } else { "" }
    );
    if !page.denies_by_name {
        text.push_str(
            "this zone's names are denied type by type: it was seen to contradict itself\n",
        );
    }
    text.push_str("\nnext query\n");
    let next = page.next.iter().map(|next| {
        let mut asked = next.qtype.clone();
        for (is_so, flag) in [(next.dnssec_ok, " +do"), (next.checking_disabled, " +cd")] {
            if is_so {
                asked.push_str(flag);
            }
        }
        row([&asked, &next.how, &next.why])
    });
    text.push_str(&table("  ", &next.collect::<Vec<_>>()));
    if page.held.is_empty() {
        text.push_str("\nnothing is held for this name\n");
    } else {
        text.push_str("\nheld\n");
    }
    for entry in &page.held {
        for line in shown(entry).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    if !page.candidates.is_empty() {
        text.push_str("\ncuts (RFC 8020)\n");
        let candidates = page.candidates.iter().map(|candidate| {
            let what = match (candidate.is_cut, &candidate.upstream) {
                (true, Some(upstream)) => {
                    format!("does not exist, nor does what is below it (from {upstream})")
                }
                (true, None) => "does not exist, nor does what is below it".to_owned(),
                (false, _) => "no cut: it, or a name below it, exists".to_owned(),
            };
            let left = format!("for {}", time(candidate.left.into()));
            row([&candidate.name, &what, &left])
        });
        text.push_str(&table("  ", &candidates.collect::<Vec<_>>()));
    }
    text
}

fn flushed(page: &Flushed) -> String {
    let entries = count(page.entries, "entry", "entries");
    let cuts = match page.cuts {
        0 => String::new(),
        cuts => format!(" and {}", count(cuts, "cut or bar", "cuts or bars")),
    };
    format!("{entries}{cuts} gone\n")
}

fn stats(page: &Stats) -> String {
    let store = &page.store;
    let mut text = format!(
        "{}, {} of {}\n",
        count(
            usize::try_from(store.entries).unwrap_or(usize::MAX),
            "entry",
            "entries"
        ),
        octets(store.used_bytes),
        octets(store.budget_bytes)
    );
    let mut rows = vec![row(["kind", "fresh", "stale"])];
    for one in [
        Kind::Positive,
        Kind::Nodata,
        Kind::Nxdomain,
        Kind::Denial,
        Kind::Failure,
        Kind::Own,
    ] {
        let of = |counts: &std::collections::BTreeMap<Kind, u64>| {
            counts.get(&one).copied().unwrap_or(0).to_string()
        };
        rows.push(row([kind(one), &of(&page.fresh), &of(&page.stale)]));
    }
    text.push_str(&format!("\n{}", table("  ", &rows)));
    let since_start = [
        ("inserted", store.inserts),
        ("  in place of an earlier one", store.replaced),
        ("evicted to make room", store.evictions),
        ("  of these back soon after", store.ghost_hits),
        ("dropped at their end", store.expired),
        ("refused: too large, or no room", store.refused),
    ];
    let mut rows: Vec<_> = since_start
        .iter()
        .map(|(what, number)| row([what, &number.to_string()]))
        .collect();
    rows.push(row(["waiting to be dropped now", &page.dead.to_string()]));
    rows.push(row(["cuts now (RFC 8020)", &page.cuts.to_string()]));
    rows.push(row([
        "barred from being a cut now",
        &page.barred.to_string(),
    ]));
    text.push_str(&format!("\n{}", table("  ", &rows)));
    let mut rows = vec![row([
        "zone",
        "entries",
        "hits",
        "misses",
        "hit rate",
        "stale",
        "failures",
        "prefetches",
        "cuts",
        "contradictions",
    ])];
    for zone in &page.zones {
        let all = zone.hits + zone.misses;
        let rate = match all {
            0 => "-".to_owned(),
            all => format!("{:.1} %", zone.hits as f64 * 100.0 / all as f64),
        };
        let numbers = [
            zone.entries,
            zone.hits,
            zone.misses,
            zone.stale,
            zone.failures,
            zone.prefetches,
            zone.cuts,
            zone.contradictions,
        ]
        .map(|number| number.to_string());
        let [entries, hits, misses, rest @ ..] = numbers;
        let mut cells = vec![zone.zone.clone(), entries, hits, misses, rate];
        cells.extend(rest);
        rows.push(cells);
    }
    text.push_str(&format!("\n{}", table("  ", &rows)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "web.example.".to_owned(),
            qtype: "A".to_owned(),
            class: "IN".to_owned(),
            dnssec_ok: true,
            checking_disabled: false,
            kind: Kind::Positive,
            state: State::Fresh,
            rcode: "NOERROR".to_owned(),
            zone: ".".to_owned(),
            upstream: Some("192.0.2.1:53".to_owned()),
            age: 3,
            ttl: Some(27),
            stale_for: Some(3627),
            hits: 3,
            octets: 16,
            records: vec![page::Record {
                section: "answer".to_owned(),
                name: "web.example.".to_owned(),
                ttl: 27,
                rtype: "A".to_owned(),
                data: "192.0.2.7".to_owned(),
            }],
        }
    }

    #[test]
    fn an_entry_is_a_comment_and_its_records() {
        assert_eq!(
            shown(&entry()),
            "; web.example. A +do: data, NOERROR, fresh for 27 s, may be sent stale for 1 h, \
             age 3 s, 3 hits or more, from 192.0.2.1:53, zone .\n\
             web.example.\t27\tIN\tA\t192.0.2.7\n"
        );
        let stale = Entry {
            state: State::Stale,
            ttl: Some(0),
            hits: 1,
            ..entry()
        };
        assert!(about(&stale).contains("stale, may be sent stale for 1 h, age 3 s, 1 hit,"));
    }

    #[test]
    fn names_are_read_or_told_why_not() {
        assert_eq!(name("WEB.example").unwrap().to_string(), "web.example.");
        assert_eq!(
            name(r"a\.b.example.").unwrap().to_string(),
            r"a\.b.example."
        );
        assert!(name("bücher.example").unwrap_err().contains("xn--"));
        assert_eq!(name("a..b").unwrap_err(), "a label is empty");
        assert!(qtype("nope").unwrap_err().contains("TYPE"));
    }
}
