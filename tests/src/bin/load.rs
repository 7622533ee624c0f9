// SPDX-License-Identifier: Apache-2.0
//! The load generator by hand: closed loop or paced, UDP or TCP, every reply verified.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nodens_tests::load::client::{Load, Meanwhile, Outcome, Pace, Spacing, Transport, micros};
use nodens_tests::load::meter::{CpuMeter, Memory};
use nodens_tests::load::names::{Names, Pick};
use nodens_tests::load::question::Expect;
use nodens_tests::load::{Random, cpus};
use serde_json::json;

fn command() -> Command {
    let valued = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("load")
        .about("Asks a DNS server for A records and verifies every reply")
        .arg(
            Arg::new("server")
                .required(true)
                .value_name("ADDRESS:PORT")
                .value_parser(value_parser!(SocketAddr)),
        )
        .arg(
            valued(
                "rate",
                "Q",
                "Paced: queries a second of all clients; without it, closed loop",
            )
            .value_parser(value_parser!(f64)),
        )
        .arg(flag(
            "even",
            "Paced queries at even distances, not at random",
        ))
        .arg(flag(
            "block",
            "Paced clients await each reply before the next query, as stub resolvers do",
        ))
        .arg(
            valued(
                "window",
                "W",
                "Closed loop: queries under way of each client",
            )
            .default_value("64")
            .value_parser(value_parser!(usize)),
        )
        .arg(
            valued("tcp", "N", "Over TCP, with N connections a client")
                .value_parser(value_parser!(usize)),
        )
        .arg(
            valued("clients", "N", "Client threads; one a CPU without it")
                .value_parser(value_parser!(usize)),
        )
        .arg(flag("pin", "Pin the clients, one to each CPU in turn"))
        .arg(
            valued(
                "names",
                "PATTERN",
                "The names: one run of # becomes the number",
            )
            .default_value("n######.bench.cluster.local"),
        )
        .arg(
            valued("count", "N", "How many names there are")
                .default_value("1000")
                .value_parser(value_parser!(u64)),
        )
        .arg(
            valued(
                "pick",
                "RULE",
                "uniform, zipf, once (each in order, then end) or new (never asked before)",
            )
            .default_value("uniform"),
        )
        .arg(
            valued("exponent", "S", "Of zipf")
                .default_value("1.0")
                .value_parser(value_parser!(f64)),
        )
        .arg(
            valued(
                "expect",
                "WHAT",
                "echo, answer (any), or address (the one that the bench's upstream gives)",
            )
            .default_value("answer"),
        )
        .arg(
            valued("seconds", "S", "How long to send")
                .default_value("5")
                .value_parser(value_parser!(f64)),
        )
        .arg(
            valued(
                "timeout",
                "S",
                "A query without a reply for so long is lost",
            )
            .default_value("5")
            .value_parser(value_parser!(f64)),
        )
        .arg(
            valued(
                "seed",
                "N",
                "Picks and pauses follow from it; random without it",
            )
            .value_parser(value_parser!(u64)),
        )
        .arg(
            valued(
                "pid",
                "PID",
                "The server's process: say its CPU time a query and its memory",
            )
            .value_parser(value_parser!(u32)),
        )
        .arg(flag("json", "Print JSON"))
}

fn required<'a, T: Clone + Send + Sync + 'static>(
    arguments: &'a ArgMatches,
    name: &str,
) -> Result<&'a T> {
    arguments
        .get_one(name)
        .with_context(|| format!("--{name} is missing"))
}

fn load(arguments: &ArgMatches) -> Result<Load> {
    let cpus = cpus().context("ask which CPUs we may use")?;
    let clients = arguments.get_one("clients").copied().unwrap_or(cpus.len());
    let pinned = arguments.get_flag("pin");
    let pick = match required::<String>(arguments, "pick")?.as_str() {
        "uniform" => Pick::Uniform,
        "zipf" => Pick::Zipf {
            exponent: *required(arguments, "exponent")?,
        },
        "once" => Pick::Once,
        "new" => Pick::New,
        other => bail!("--pick {other}: uniform, zipf, once or new"),
    };
    let expect = match required::<String>(arguments, "expect")?.as_str() {
        "echo" => Expect::Echo,
        "answer" => Expect::Answer,
        "address" => Expect::Address,
        other => bail!("--expect {other}: echo, answer or address"),
    };
    let seconds = |name| -> Result<Duration> {
        Duration::try_from_secs_f64(*required(arguments, name)?)
            .with_context(|| format!("--{name}"))
    };
    Ok(Load {
        server: *required(arguments, "server")?,
        transport: match arguments.get_one("tcp") {
            Some(&connections) => Transport::Tcp { connections },
            None => Transport::Udp,
        },
        pace: match arguments.get_one("rate") {
            Some(&per_second) => Pace::Paced {
                per_second,
                spacing: if arguments.get_flag("even") {
                    Spacing::Even
                } else {
                    Spacing::Poisson
                },
                meanwhile: if arguments.get_flag("block") {
                    Meanwhile::Block
                } else {
                    Meanwhile::Send
                },
            },
            None => Pace::Closed {
                window: *required(arguments, "window")?,
            },
        },
        names: Names::new(
            required::<String>(arguments, "names")?,
            *required(arguments, "count")?,
            pick,
        )?,
        expect,
        clients: (0..clients)
            .map(|client| pinned.then(|| cpus[client % cpus.len()]))
            .collect(),
        duration: seconds("seconds")?,
        timeout: seconds("timeout")?,
        seed: arguments
            .get_one("seed")
            .copied()
            .unwrap_or_else(Random::seed_of_the_moment),
    })
}

/// The outcome for people.
fn tell(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "sent {}, right {}, lost {}, wrong {}, stray {}, refused {}",
        outcome.sent, outcome.received, outcome.lost, outcome.wrong, outcome.stray, outcome.refused,
    )?;
    writeln!(
        out,
        "{:.0} q/s over {:.2} s",
        outcome.per_second(),
        outcome.elapsed.as_secs_f64()
    )?;
    for (what, histogram) in [
        ("latency", &outcome.latency),
        ("lateness", &outcome.lateness),
    ] {
        if histogram.total() > 0 {
            writeln!(
                out,
                "{what} p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us",
                micros(histogram.quantile(0.50)),
                micros(histogram.quantile(0.99)),
                micros(histogram.quantile(0.999)),
            )?;
        }
    }
    if let Some(wrong) = &outcome.first_wrong {
        writeln!(out, "{wrong}")?;
    }
    Ok(())
}

fn main() -> Result<ExitCode> {
    let arguments = command().get_matches();
    let load = load(&arguments)?;
    let pid = arguments.get_one::<u32>("pid").copied();
    let meter = pid
        .map(CpuMeter::of)
        .transpose()
        .context("read the CPU time")?;
    let outcome = load.run()?;
    let server = match (&meter, pid) {
        (Some(meter), Some(pid)) => Some((meter.spent()?, Memory::of(pid)?)),
        _ => None,
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "queries are counted far below 2^53"
    )]
    let per_query = |on_cpu: Duration| micros(on_cpu) / outcome.received.max(1) as f64;

    let mut out = io::stdout();
    if arguments.get_flag("json") {
        let mut all = outcome.to_json();
        if let Some((spent, memory)) = server {
            all["server"] = json!({
                "us_per_query": per_query(spent.on_cpu),
                "on_cpu_s": spent.on_cpu.as_secs_f64(),
                "threads_ended": spent.ended,
                "resident_bytes": memory.resident_bytes,
                "anonymous_bytes": memory.anonymous_bytes,
            });
        }
        writeln!(out, "{all}")?;
    } else {
        tell(&outcome, &mut out)?;
        if let Some((spent, memory)) = server {
            writeln!(
                out,
                "server {:.2} us/q on CPU, {} threads ended, {} kB resident, {} kB anonymous",
                per_query(spent.on_cpu),
                spent.ended,
                memory.resident_bytes / 1024,
                memory.anonymous_bytes / 1024,
            )?;
        }
    }
    Ok(if outcome.lost == 0 && outcome.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nodens_tests::load::client::{Meanwhile, Pace, Spacing, Transport};
    use nodens_tests::load::question::Expect;

    use super::{command, load};

    #[test]
    fn every_flag_is_read() {
        let arguments = command().get_matches_from([
            "load",
            "127.0.0.1:53",
            "--rate",
            "1000",
            "--even",
            "--block",
            "--tcp",
            "3",
            "--clients",
            "5",
            "--pin",
            "--names",
            "a##.example",
            "--count",
            "50",
            "--pick",
            "zipf",
            "--exponent",
            "0.9",
            "--expect",
            "address",
            "--seconds",
            "0.5",
            "--timeout",
            "2",
            "--seed",
            "7",
            "--pid",
            "1",
            "--json",
        ]);
        let load = load(&arguments).unwrap();
        assert_eq!(
            load.pace,
            Pace::Paced {
                per_second: 1000.0,
                spacing: Spacing::Even,
                meanwhile: Meanwhile::Block
            }
        );
        assert_eq!(load.transport, Transport::Tcp { connections: 3 });
        assert_eq!(load.clients.len(), 5);
        assert!(load.clients.iter().all(Option::is_some));
        assert_eq!(load.names.count(), 50);
        assert_eq!(load.expect, Expect::Address);
        assert_eq!(load.duration, Duration::from_millis(500));
        assert_eq!((load.timeout, load.seed), (Duration::from_secs(2), 7));
    }

    #[test]
    fn without_flags_the_loop_is_closed_and_over_udp() {
        let load = load(&command().get_matches_from(["load", "127.0.0.1:53"])).unwrap();
        assert_eq!(load.pace, Pace::Closed { window: 64 });
        assert_eq!(load.transport, Transport::Udp);
        assert!(load.clients.iter().all(Option::is_none));
        for wrong in [["--pick", "some"], ["--expect", "all"], ["--seconds", "-1"]] {
            let given = ["load", "127.0.0.1:53", wrong[0], wrong[1]];
            let read = command()
                .try_get_matches_from(given)
                .map(|a| super::load(&a).is_ok());
            assert!(!matches!(read, Ok(true)), "{wrong:?}");
        }
    }
}
