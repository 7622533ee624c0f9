// SPDX-License-Identifier: Apache-2.0
//! `make e2e`: the chart and the image on a real Kubernetes, as a table with what must come of each
//! scenario; the last line is `N passed, N failed`. Exit code 1 where one failed, 69 where the
//! machine cannot have the cluster.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, Command};
use nodens_tests::acceptance::{self, Scenario, Stage, stage};
use nodens_tests::cluster::{self, Cluster, Options, Proxy};
use nodens_tests::drill::table::{Row, to_markdown, to_text};
use nodens_tests::load::{cpus, now_ns, report};
use nodens_tests::node::sweep;

/// The machine cannot do it: no root, a program that is missing.
const EXIT_UNAVAILABLE: u8 = 69;
/// How much wider bounds are in the short form, which runs on machines that others use.
const LENIENCE: f64 = 3.0;

struct Form {
    scenarios: Vec<&'static Scenario>,
    proxies: Vec<Proxy>,
    attach: bool,
    keep: bool,
    quick: bool,
    markdown: bool,
}

fn main() -> ExitCode {
    match run(&read()) {
        Ok((passed, failed)) => {
            let line = format!("{passed} passed, {failed} failed\n");
            // Nobody listens: the exit code tells.
            let _ = io::stdout().write_all(line.as_bytes());
            ExitCode::from(u8::from(failed > 0))
        }
        Err(error) => {
            say(&format!("e2e: {error:#}\n"));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn read() -> Form {
    let names: Vec<&str> = acceptance::ALL
        .iter()
        .map(|scenario| scenario.name)
        .collect();
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let matches = Command::new("e2e")
        .about("Installs, kills, rolls and removes nodens on a real Kubernetes, and measures what pods notice")
        .arg(
            Arg::new("scenario")
                .num_args(0..)
                .value_parser(names)
                .help("Which scenarios; all without any"),
        )
        .arg(
            Arg::new("proxy")
                .long("proxy")
                .value_parser(["nftables", "iptables", "both"])
                .default_value("nftables")
                .help("How kube-proxy writes its rules"),
        )
        .arg(flag("attach", "On the cluster that `make cluster` has left"))
        .arg(flag("keep", "Leave the cluster up where a scenario fails"))
        .arg(flag("quick", "Shorter, with bounds three times as wide: a look, not a verdict"))
        .arg(flag("markdown", "The table in Markdown"))
        .get_matches();
    let chosen: Vec<&String> = matches.get_many("scenario").into_iter().flatten().collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|one| *one == name);
    Form {
        scenarios: (acceptance::ALL.iter())
            .filter(|scenario| is_chosen(scenario.name))
            .collect(),
        proxies: match matches.get_one::<String>("proxy").map(String::as_str) {
            Some("iptables") => vec![Proxy::Iptables],
            Some("both") => vec![Proxy::Nftables, Proxy::Iptables],
            _ => vec![Proxy::Nftables],
        },
        attach: matches.get_flag("attach"),
        keep: matches.get_flag("keep"),
        quick: matches.get_flag("quick"),
        markdown: matches.get_flag("markdown"),
    }
}

fn run(form: &Form) -> anyhow::Result<(usize, usize)> {
    let image = stage::image()?;
    let (mut passed, mut failed) = (0, 0);
    for &proxy in &form.proxies {
        for is_dual in [false, true] {
            let scenarios = form.scenarios.iter().filter(|one| one.is_dual == is_dual);
            let scenarios: Vec<&Scenario> = scenarios.copied().collect();
            if scenarios.is_empty() {
                continue;
            }
            let options = Options {
                nodes: 2,
                proxy,
                is_dual,
            };
            let cluster = if form.attach {
                Cluster::attach()?
            } else {
                Cluster::up(options, Some(&sweep::mark()), &mut |text| {
                    say(&format!("  {text}\n"));
                })?
            };
            let rows = Stage::new(cluster, &image, form.quick)
                .map(|stage| run_all(form, &stage, &scenarios));
            let is_failed = rows
                .as_ref()
                .map_or(true, |rows| !rows.iter().all(Row::is_passed));
            if !(form.attach || is_failed && form.keep) {
                cluster::down()?;
            }
            let rows = rows?;
            show(form, cluster.options, &rows)?;
            passed += rows.iter().filter(|row| row.is_passed()).count();
            failed += rows.iter().filter(|row| !row.is_passed()).count();
        }
    }
    Ok((passed, failed))
}

fn run_all(form: &Form, stage: &Stage, scenarios: &[&Scenario]) -> Vec<Row> {
    let rows = scenarios.iter().map(|scenario| {
        say(&format!("  {}: {} …", scenario.name, scenario.proves));
        let begin = now_ns();
        let mut row = scenario.run(stage);
        if form.quick {
            let figures = row.figures.into_iter();
            row.figures = figures.map(|one| one.relaxed(LENIENCE)).collect();
        }
        let took = Duration::from_nanos(now_ns() - begin).as_secs_f64();
        if row.is_passed() {
            say(&format!(" done, {took:.0} s\n"));
        } else {
            say(&format!(" MISSED, {took:.0} s\n"));
            row.details.push(match stage.cluster.gather() {
                Ok(dir) => format!("logs in {}", dir.display()),
                Err(error) => format!("logs could not be saved: {error:#}"),
            });
        }
        row
    });
    rows.collect()
}

fn show(form: &Form, options: Options, rows: &[Row]) -> anyhow::Result<()> {
    let table = if form.markdown {
        to_markdown(rows)
    } else {
        to_text(rows)
    };
    let title = format!(
        "{}\nKubernetes {}, {} nodes, kube-proxy in {} mode, {}{}",
        report::machine(cpus()?.len()),
        cluster::components::VERSION,
        options.nodes,
        options.proxy.name(),
        if options.is_dual {
            "IPv4 and IPv6"
        } else {
            "IPv4"
        },
        if form.quick { ", the short form" } else { "" }
    );
    writeln!(io::stdout(), "\n{title}\n\n{table}").context("write the table")
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = io::stderr().write_all(text.as_bytes());
}
