// SPDX-License-Identifier: Apache-2.0
//! `make bench`: the agent beside the echo, as a table with the goals. Exit code 1 if a row
//! misses what it must reach.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command, value_parser};
use nodens_tests::load::bench::{Options, run};
use nodens_tests::load::client::{Meanwhile, Spacing};

fn main() -> Result<ExitCode> {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let arguments = Command::new("bench")
        .about("Measures the agent beside a bare UDP echo and prints the table of goals")
        .arg(
            Arg::new("agent")
                .long("agent")
                .value_name("PATH")
                .default_value("target/release/nodens")
                .value_parser(value_parser!(PathBuf))
                .help("The agent's binary, built for release"),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .value_name("N")
                .value_parser(value_parser!(u16).range(1..))
                .help("Rounds; 5, or 3 with --quick"),
        )
        .arg(
            Arg::new("markdown")
                .long("markdown")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Also write the table there, for docs/benchmarks.md"),
        )
        .arg(
            Arg::new("paced-clients")
                .long("paced-clients")
                .value_name("N")
                .default_value("1")
                .value_parser(value_parser!(u16).range(1..))
                .help("Paced clients for each CPU, a thread and a socket each"),
        )
        .arg(flag(
            "quick",
            "Shorter turns, fewer rounds: a look, not a verdict",
        ))
        .arg(flag(
            "control",
            "The echo in both roles: every ratio must be 1",
        ))
        .arg(flag("unpinned", "Leave the paced clients to the scheduler"))
        .arg(flag(
            "poisson",
            "Paced queries at random distances, not at even ones",
        ))
        .arg(flag(
            "open",
            "Paced clients send when due, also before the last reply came",
        ))
        .get_matches();
    let quick = arguments.get_flag("quick");
    let rounds = arguments.get_one::<u16>("rounds").copied();
    let options = Options {
        agent: arguments
            .get_one::<PathBuf>("agent")
            .cloned()
            .context("no agent")?,
        echo: std::env::current_exe()
            .context("find this program")?
            .with_file_name("echo"),
        rounds: usize::from(rounds.unwrap_or(if quick { 3 } else { 5 })),
        turns: if quick { 2 } else { 6 },
        turn: Duration::from_millis(if quick { 250 } else { 400 }),
        control: arguments.get_flag("control"),
        paced_clients: arguments
            .get_one::<u16>("paced-clients")
            .map_or(1, |&clients| usize::from(clients)),
        pin_paced: !arguments.get_flag("unpinned"),
        spacing: if arguments.get_flag("poisson") {
            Spacing::Poisson
        } else {
            Spacing::Even
        },
        meanwhile: if arguments.get_flag("open") {
            Meanwhile::Send
        } else {
            Meanwhile::Block
        },
    };
    let report = run(&options, &mut io::stderr())?;
    io::stdout().write_all(report.to_text().as_bytes())?;
    if let Some(file) = arguments.get_one::<PathBuf>("markdown") {
        fs::write(file, report.to_markdown())
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if report.is_passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
