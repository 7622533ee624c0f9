// SPDX-License-Identifier: Apache-2.0
//! `make e2e`: the chart and the image on a real Kubernetes, with what came of each scenario and what
//! had to; the last line is `N passed, N failed`. Exit code 1 where one failed, 69 where the
//! machine cannot have the cluster.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, Command};
use nodens_tests::acceptance::{self, Scenario, Stage, stage};
use nodens_tests::cluster::{self, Cluster, Options, Proxy, components};
use nodens_tests::drill::table::{Row, to_markdown};
use nodens_tests::load::{cpus, now_ns, report};
use nodens_tests::node::sweep;

/// The machine cannot do it: no root, a program that is missing.
const EXIT_UNAVAILABLE: u8 = 69;
/// How much wider bounds are in the short form, which runs on machines that others use.
const LENIENCE: f64 = 3.0;

struct Form {
    scenarios: Vec<&'static Scenario>,
    /// `None` for all of them in one mode, and those about rules in the other.
    proxy: Option<Proxy>,
    attach: bool,
    keep: bool,
    quick: bool,
    markdown: bool,
}

/// A cluster that is taken down with its owner.
struct Owned;

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
        let flag = Arg::new(name).long(name);
        flag.action(ArgAction::SetTrue).help(help)
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
                .value_parser(["nftables", "iptables"])
                .help("How kube-proxy writes its rules; without it nftables, and iptables for scenarios about rules"),
        )
        .arg(flag("attach", "On the cluster that `make cluster` has left"))
        .arg(flag("keep", "Leave the cluster up where a scenario fails"))
        .arg(flag("quick", "Shorter, with bounds three times as wide: a look, not a verdict"))
        .arg(flag("markdown", "The figures as tables in Markdown too"))
        .get_matches();
    let chosen: Vec<&String> = matches.get_many("scenario").into_iter().flatten().collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|one| *one == name);
    Form {
        scenarios: (acceptance::ALL.iter())
            .filter(|scenario| is_chosen(scenario.name))
            .collect(),
        proxy: match matches.get_one::<String>("proxy").map(String::as_str) {
            Some("iptables") => Some(Proxy::Iptables),
            Some(_) => Some(Proxy::Nftables),
            None => None,
        },
        attach: matches.get_flag("attach"),
        keep: matches.get_flag("keep"),
        quick: matches.get_flag("quick"),
        markdown: matches.get_flag("markdown"),
    }
}

/// The clusters that are needed, and what runs on each.
fn clusters(form: &Form) -> anyhow::Result<Vec<(Options, Vec<&'static Scenario>)>> {
    let all = |proxy: Proxy, is_dual: bool, only_rules: bool| {
        let wanted = (form.scenarios.iter().copied())
            .filter(|one| one.is_dual == is_dual && (one.is_about_rules || !only_rules));
        let options = Options {
            nodes: 2,
            proxy,
            is_dual,
        };
        (options, wanted.collect::<Vec<_>>())
    };
    let mut clusters = match (form.attach, form.proxy) {
        (true, _) => {
            let options = Cluster::attach()?.options;
            vec![all(options.proxy, options.is_dual, false)]
        }
        (false, Some(proxy)) => vec![all(proxy, false, false), all(proxy, true, false)],
        (false, None) => vec![
            all(Proxy::Nftables, false, false),
            all(Proxy::Nftables, true, false),
            all(Proxy::Iptables, false, true),
        ],
    };
    clusters.retain(|(_, scenarios)| !scenarios.is_empty());
    anyhow::ensure!(
        !clusters.is_empty(),
        "nothing to run: no scenario that was named is for this kind of cluster"
    );
    Ok(clusters)
}

fn run(form: &Form) -> anyhow::Result<(usize, usize)> {
    let image = stage::image()?;
    let (mut passed, mut failed) = (0, Vec::new());
    for (options, scenarios) in clusters(form)? {
        let title = format!(
            "{}, Kubernetes {}, {} nodes, kube-proxy in {} mode, {}{}",
            report::machine(cpus()?.len()),
            components::VERSION,
            options.nodes,
            options.proxy.name(),
            if options.is_dual {
                "IPv4 and IPv6"
            } else {
                "IPv4"
            },
            if form.quick { ", the short form" } else { "" }
        );
        print(&format!("{title}\n"))?;
        let owned = match form.attach {
            true => None,
            false => Some(Owned::up(options)?),
        };
        let rows = run_all(
            form,
            &Stage::new(Cluster::attach()?, &image, form.quick)?,
            &scenarios,
        )?;
        if form.markdown {
            let rows: Vec<Row> = rows.iter().map(|(_, row)| row.clone()).collect();
            print(&format!("\n{title}\n\n{}\n", to_markdown(&rows)))?;
        }
        let is_failed = |row: &Row| !row.is_passed();
        passed += rows.iter().filter(|(_, row)| !is_failed(row)).count();
        let names = rows.iter().filter(|(_, row)| is_failed(row));
        let names: Vec<_> = names
            .map(|(one, _)| format!("{} ({})", one.name, options.proxy.name()))
            .collect();
        if form.keep && !names.is_empty() {
            std::mem::forget(owned);
            print("the cluster stays up: `make cluster-down` takes it down\n")?;
            failed.extend(names);
            break;
        }
        failed.extend(names);
    }
    for name in &failed {
        print(&format!("failed: {name}\n"))?;
    }
    Ok((passed, failed.len()))
}

impl Owned {
    fn up(options: Options) -> anyhow::Result<Self> {
        let mut lap = |text: &str| say(&format!("  {text}\n"));
        Cluster::up(options, Some(&sweep::mark()), &mut lap).map(|_| Self)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = cluster::down() {
            say(&format!("take the cluster down: {error:#}\n"));
        }
    }
}

/// Runs the scenarios one by one and prints what came of each.
fn run_all<'a>(
    form: &Form,
    stage: &Stage,
    scenarios: &[&'a Scenario],
) -> anyhow::Result<Vec<(&'a Scenario, Row)>> {
    let mut rows = Vec::new();
    for &scenario in scenarios {
        let begin = now_ns();
        let mut row = scenario.run(stage);
        if form.quick {
            let figures = row.figures.into_iter();
            row.figures = figures.map(|one| one.relaxed(LENIENCE)).collect();
        }
        let took = Duration::from_nanos(now_ns() - begin).as_secs_f64();
        if !row.is_passed() {
            row.details.push(match stage.cluster.gather() {
                Ok(dir) => format!("logs in {}", dir.display()),
                Err(error) => format!("logs could not be saved: {error:#}"),
            });
        }
        let verdict = if row.is_passed() { "ok" } else { "FAILED" };
        let Scenario { name, proves, .. } = scenario;
        let mut text = format!("{verdict:<7}{name}: {proves} ({took:.0} s)\n");
        for line in row.lines() {
            text += &format!("         {line}\n");
        }
        print(&text)?;
        rows.push((scenario, row));
    }
    Ok(rows)
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("write what came of it")
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = io::stderr().write_all(text.as_bytes());
}
