// SPDX-License-Identifier: Apache-2.0
//! `make cluster` and `make cluster-down`: a real Kubernetes that stays up until it is taken down.
//! Exit code 69 where the machine cannot have it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nodens_tests::cluster::plan::MOST_NODES;
use nodens_tests::cluster::{
    self, Cluster, Machine, Options, Proxy, components, door, keys, machine,
};

/// The machine cannot do it: no root, a program that is missing.
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    match run(&commands().get_matches()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("cluster: {error:#}"));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn commands() -> Command {
    Command::new("cluster")
        .about("A real Kubernetes in network namespaces of this machine")
        .subcommand_required(true)
        .subcommand(
            Command::new("up")
                .about("Starts it and leaves it running")
                .arg(
                    Arg::new("nodes")
                        .long("nodes")
                        .default_value("2")
                        .value_parser(value_parser!(u8).range(1..=i64::from(MOST_NODES)))
                        .help("How many nodes"),
                )
                .arg(
                    Arg::new("proxy")
                        .long("proxy")
                        .default_value("nftables")
                        .value_parser(["nftables", "iptables"])
                        .help("How kube-proxy writes its rules"),
                )
                .arg(
                    Arg::new("dual")
                        .long("dual")
                        .action(ArgAction::SetTrue)
                        .help("IPv6 beside IPv4, for pods and Services"),
                ),
        )
        .subcommand(Command::new("down").about("Takes it down; nothing is left"))
        .subcommand(Command::new("logs").about("Copies all logs into a directory that stays"))
        .subcommand(
            Command::new("load")
                .about("Loads an archive of an image into all nodes")
                .arg(Arg::new("archive").required(true)),
        )
        .subcommand(
            Command::new("machine")
                .hide(true)
                .arg(Arg::new("name").required(true)),
        )
        .subcommand(
            Command::new("door").hide(true).arg(
                Arg::new("port")
                    .required(true)
                    .value_parser(value_parser!(u16)),
            ),
        )
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("up", arguments)) => up(arguments),
        Some(("down", _)) => cluster::down(),
        Some(("logs", _)) => {
            let dir = Cluster::attach()?.gather()?;
            print(&format!("{}\n", dir.display()))
        }
        Some(("load", arguments)) => {
            let archive = arguments.get_one::<String>("archive");
            Cluster::attach()?.load(archive.map_or("", String::as_str).as_ref())
        }
        Some(("machine", arguments)) => {
            let name = arguments.get_one::<String>("name");
            let name = name.map_or("", String::as_str);
            machine::be(Machine::parse(name)?, Cluster::attach()?.options)
        }
        Some(("door", arguments)) => {
            door::keep(arguments.get_one("port").copied().unwrap_or_default())
        }
        _ => Ok(()),
    }
}

fn up(arguments: &ArgMatches) -> anyhow::Result<()> {
    let options = Options {
        nodes: arguments.get_one("nodes").copied().unwrap_or(2),
        proxy: match arguments.get_one::<String>("proxy").map(String::as_str) {
            Some("iptables") => Proxy::Iptables,
            _ => Proxy::Nftables,
        },
        is_dual: arguments.get_flag("dual"),
    };
    Cluster::up(options, None, &mut say)?;
    print(&format!(
        "export KUBECONFIG={} PATH={}:$PATH\n",
        keys::admin().display(),
        components::kubernetes()?.display()
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}
