// SPDX-License-Identifier: Apache-2.0
//! A bare UDP echo, the limit of every server. Says its address; ends with standard input.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use clap::{Arg, Command, value_parser};
use nodens_tests::load::echo::{Layout, start};

fn main() -> Result<()> {
    let arguments = Command::new("echo")
        .about("A bare UDP echo: sets QR, sends back. Ends when standard input does.")
        .arg(
            Arg::new("layout")
                .long("layout")
                .value_name("LAYOUT")
                .default_value("one-thread")
                .help(
                    "one-thread, on the first CPU; one-loose-thread, placed by the scheduler; or \
                     per-cpu: a pinned thread and a steered socket for each CPU",
                ),
        )
        .arg(
            Arg::new("address")
                .long("address")
                .value_name("IP")
                .default_value("127.0.0.1")
                .value_parser(value_parser!(IpAddr))
                .help("Where to listen; the port is chosen by the kernel"),
        )
        .get_matches();
    let layout = match arguments.get_one::<String>("layout").map(String::as_str) {
        Some("one-thread") => Layout::OneThread,
        Some("one-loose-thread") => Layout::OneLooseThread,
        Some("per-cpu") => Layout::PerCpu,
        other => bail!("no layout {other:?}: one-thread, one-loose-thread or per-cpu"),
    };
    let address = *arguments
        .get_one::<IpAddr>("address")
        .context("no address")?;
    let bound = start(layout, address).context("start the echo")?;
    let mut out = io::stdout();
    writeln!(out, "{bound}")?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
