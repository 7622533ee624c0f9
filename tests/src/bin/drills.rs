// SPDX-License-Identifier: Apache-2.0
//! `make drills`: the agent is killed, stopped, drained, starved and flooded, as a table with what
//! must come of it. Exit code 1 where a row misses what it must, 69 where the machine cannot run
//! the drills.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, Command, value_parser};
use nodens_tests::coredns;
use nodens_tests::drill::names;
use nodens_tests::drill::rows::{self, Drill};
use nodens_tests::drill::stage::Stage;
use nodens_tests::drill::table::{Row, to_markdown, to_text};
use nodens_tests::drill::upstreams::forwarder::Kind;
use nodens_tests::drill::upstreams::rows as upstreams;
use nodens_tests::drill::upstreams::trial::Scene;
use nodens_tests::load::{cpus, now_ns, report};
use nodens_tests::node::{Family, From, Node, Shape};

/// The machine cannot do it: no root, a program that is missing.
const EXIT_UNAVAILABLE: u8 = 69;

/// How much wider bounds are in the short form, which runs on machines that others use.
const LENIENCE: f64 = 3.0;

/// What stands on the command line for all drills of a kind.
const NODE: &str = "node";
/// The same for those of names, which need no node.
const NAMES: &str = "names";
/// The same for those of the way upstream.
const UPSTREAMS: &str = "upstreams";

struct Options {
    names: Vec<&'static names::Drill>,
    drills: Vec<&'static Drill>,
    upstreams: Vec<&'static upstreams::Drill>,
    kind: Kind,
    shapes: Vec<Shape>,
    families: &'static [Family],
    clients: Vec<From>,
    per_second: u64,
    quick: bool,
    markdown: bool,
}

fn main() -> ExitCode {
    let options = read();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("drills: {error:#}\n"));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn read() -> Options {
    let mut names: Vec<&str> = names::ALL.iter().map(|drill| drill.name).collect();
    names.extend(rows::ALL.iter().map(|drill| drill.name));
    names.extend(upstreams::ALL.iter().map(|drill| drill.name));
    names.extend([NAMES, NODE, UPSTREAMS]);
    let choice = |name: &'static str, values: &'static [&'static str], help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_parser(values.to_vec())
            .default_value(values[0])
            .help(help)
    };
    let matches = Command::new("drills")
        .about("Measures what names cost CoreDNS; kills, stops, drains, starves and floods the agent of a node in namespaces, and measures what pods notice; makes its CoreDNS unwell, and measures what becomes of misses")
        .arg(
            Arg::new("drill")
                .num_args(0..)
                .value_parser(names)
                .help("Which drills; `names`, `node` or `upstreams` for all of a kind; all without any"),
        )
        .arg(choice("shape", &["a", "b", "c", "all"], "Kube-proxy in iptables mode, in nftables mode, none, or one after the other"))
        .arg(choice("family", &["4", "6", "both"], "IPv4, IPv6, or both at once"))
        .arg(choice("client", &["veth", "bridge", "host", "all"], "Where queries come from"))
        .arg(
            Arg::new("rate")
                .long("rate")
                .default_value("5000")
                .value_parser(value_parser!(u64).range(1..=50_000))
                .help("Queries a second, over all addresses together"),
        )
        .arg(Arg::new("incumbent").long("incumbent").action(ArgAction::SetTrue).help("The drills of the way upstream with CoreDNS, `forward` and `force_tcp`, in the agent's place: no verdict on us, but on the drills"))
        .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("Shorter, with bounds three times as wide: a look, not a verdict"))
        .arg(Arg::new("markdown").long("markdown").action(ArgAction::SetTrue).help("The tables in Markdown"))
        .get_matches();
    let word = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let chosen: Vec<&str> = matches
        .get_many::<String>("drill")
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let is_chosen =
        |name, group| chosen.is_empty() || chosen.contains(&name) || chosen.contains(&group);
    let incumbent = matches.get_flag("incumbent");
    let quick = matches.get_flag("quick");
    Options {
        names: (names::ALL.iter())
            .filter(|drill| !incumbent && is_chosen(drill.name, NAMES))
            .collect(),
        drills: (rows::ALL.iter())
            .filter(|drill| !incumbent && is_chosen(drill.name, NODE))
            .collect(),
        // One that has no short form runs where it is named.
        upstreams: (upstreams::ALL.iter())
            .filter(|drill| is_chosen(drill.name, UPSTREAMS))
            .filter(|drill| !quick || drill.is_short || chosen.contains(&drill.name))
            .collect(),
        kind: if incumbent {
            Kind::Incumbent
        } else {
            Kind::Agent
        },
        shapes: match word("shape").as_str() {
            "a" => vec![Shape::Iptables],
            "b" => vec![Shape::Nftables],
            "c" => vec![Shape::Absent],
            _ => Shape::ALL.to_vec(),
        },
        families: match word("family").as_str() {
            "4" => &[Family::V4],
            "6" => &[Family::V6],
            _ => Family::BOTH,
        },
        clients: match word("client").as_str() {
            "veth" => vec![From::Veth],
            "bridge" => vec![From::Bridge],
            "host" => vec![From::Host],
            _ => From::ALL.to_vec(),
        },
        per_second: matches.get_one("rate").copied().unwrap_or(5_000),
        quick,
        markdown: matches.get_flag("markdown"),
    }
}

fn run(options: &Options) -> anyhow::Result<bool> {
    let needs_root = !(options.drills.is_empty() && options.upstreams.is_empty());
    anyhow::ensure!(
        needs_root || !options.names.is_empty(),
        "nothing to run: --incumbent is for the drills of the way upstream alone"
    );
    anyhow::ensure!(
        !needs_root || rustix::process::geteuid().is_root(),
        "network namespaces need root: run it again with sudo, or name drills that need none: names"
    );
    coredns::find()?;
    let mut is_passed = true;
    let machine = report::machine(cpus()?.len());
    if !options.names.is_empty() {
        let form = form(options);
        let title = format!("{machine}\nnames, on the loopback interface{form}");
        say(&format!("{title}\n"));
        let rows = run_names(options);
        is_passed &= rows.iter().all(Row::is_passed);
        show(options, &title, &rows)?;
    }
    for &shape in &options.shapes {
        for &from in &options.clients {
            if options.drills.is_empty() {
                continue;
            }
            let families: Vec<_> = options.families.iter().map(|f| format!("{f:?}")).collect();
            let title = format!(
                "{machine}\n({}) {}, {}, {}, {} queries a second{}",
                shape.letter(),
                shape.describe(),
                from.describe(),
                families.join(" and ").replace('V', "IPv"),
                options.per_second,
                form(options)
            );
            say(&format!("{title}\n"));
            let rows = run_all(options, shape, from)?;
            is_passed &= rows.iter().all(Row::is_passed);
            show(options, &title, &rows)?;
        }
    }
    if !options.upstreams.is_empty() {
        let title = format!(
            "{machine}\nthe way upstream, {}{}",
            options.kind.describe(),
            form(options)
        );
        say(&format!("{title}\n"));
        let rows = run_upstreams(options);
        // What another program misses is no failure of ours.
        is_passed &= options.kind == Kind::Incumbent || rows.iter().all(Row::is_passed);
        show(options, &title, &rows)?;
    }
    Ok(is_passed)
}

fn form(options: &Options) -> &'static str {
    if options.quick {
        ", the short form"
    } else {
        ""
    }
}

fn show(options: &Options, title: &str, rows: &[Row]) -> anyhow::Result<()> {
    let table = if options.markdown {
        to_markdown(rows)
    } else {
        to_text(rows)
    };
    writeln!(io::stdout(), "{title}\n\n{table}").context("write the table")
}

/// The drills that need no node.
fn run_names(options: &Options) -> Vec<Row> {
    let drills = options.names.iter().map(|drill| {
        say(&format!("  {} …", drill.title));
        let row = finish(drill.run(options.quick), options);
        say("\n");
        row
    });
    drills.collect()
}

fn run_upstreams(options: &Options) -> Vec<Row> {
    let scene = Scene {
        kind: options.kind,
        quick: options.quick,
    };
    let drills = options.upstreams.iter().map(|drill| {
        say(&format!("  {} …", drill.title));
        let begin = now_ns();
        let row = finish(drill.run(&scene), options);
        let took = Duration::from_nanos(now_ns() - begin);
        say(&format!(", {:.0} s\n", took.as_secs_f64()));
        row
    });
    drills.collect()
}

/// The row with the bounds of the form that was run, and a word on how it ended.
fn finish(mut row: Row, options: &Options) -> Row {
    if options.quick {
        let figures = row.figures.into_iter();
        row.figures = figures.map(|one| one.relaxed(LENIENCE)).collect();
    }
    say(if row.is_passed() { " done" } else { " MISSED" });
    row
}

fn run_all(options: &Options, shape: Shape, from: From) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for drill in &options.drills {
        if drill.needs_coredns && shape == Shape::Absent {
            continue;
        }
        say(&format!("  {} …", drill.title));
        // A node of its own: no drill finds what another has left.
        let node = Node::new(shape)?;
        let row = drill.run(&Stage {
            node: &node,
            families: options.families,
            from,
            per_second: options.per_second,
            quick: options.quick,
        });
        rows.push(finish(row, options));
        say("\n");
    }
    Ok(rows)
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = io::stderr().write_all(text.as_bytes());
}
