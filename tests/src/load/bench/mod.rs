// SPDX-License-Identifier: Apache-2.0
//! The benchmark: the agent and the echo, side by side, round by round.
//!
//! A round starts both anew. A comparison runs both in turns of a fraction of a second, the
//! first of a turn changing, so that what the host does meanwhile hits both; each turn begins
//! with a warm-up that is not counted and ends when the last reply is in, so that both readings
//! of the meter find an idle server. The figure of a round is the ratio of CPU time a query
//! within it; the table shows the median of the rounds.

mod series;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::series::{Cost, Series, Work, details};
use super::client::{Load, Meanwhile, Outcome, Pace, Spacing, Transport};
use super::echo::Layout;
use super::meter::{CpuMeter, Memory, Others};
use super::names::{Names, Pick};
use super::process::Server;
use super::question::Expect;
use super::report::{Goal, Report, Row, Unit, machine};
use super::upstream::Upstream;
use super::{Random, cpus};

/// The names that hits ask for.
const PATTERN: &str = "n######.bench.example";
/// How many names the agent holds at the end.
const MANY: u64 = 100_000;
/// How many it holds at first.
const FEW: u64 = 1000;
/// Queries under way of each client in a saturated run.
const WINDOW: usize = 128;
/// Misses under way of all clients.
const MISS_WINDOW: usize = 64;
/// Queries a second of all paced clients.
const PACED_PER_SECOND: f64 = 20_000.0;
/// The share of lost queries above which a round is worth nothing.
const MOST_LOSS: f64 = 0.001;
/// The share of the CPUs above which other processes are worth a word.
const MOST_OTHERS: f64 = 0.1;
/// The agent's cache: the default of the agent.
const CACHE: &str = "64MiB";
/// Starts of the agent for the last row, at least.
const STARTS: usize = 20;

/// How the benchmark is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's binary.
    pub agent: PathBuf,
    /// The echo's binary.
    pub echo: PathBuf,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Turns of each side in a comparison.
    pub turns: usize,
    /// How long a turn measures.
    pub turn: Duration,
    /// The echo plays the agent too: the ratios must then be 1. Says how far to trust a run.
    pub control: bool,
    /// Paced clients for each CPU, at least 1.
    pub paced_clients: usize,
    /// Whether the paced clients are pinned, or left to the scheduler.
    pub pin_paced: bool,
    /// How paced queries are spread.
    pub spacing: Spacing,
    /// What paced clients do until their replies come.
    pub meanwhile: Meanwhile,
}

/// One side of a comparison.
struct Side<'a> {
    server: &'a Server,
    load: Load,
}

/// A benchmark under way.
struct Bench<'a> {
    options: &'a Options,
    cpus: Vec<usize>,
    upstream: Upstream,
    progress: &'a mut dyn Write,
    series: [Series; 6],
    idle_bytes: Vec<f64>,
    entry_bytes: Vec<f64>,
    starts: Vec<f64>,
    doubts: Vec<String>,
}

/// Runs the benchmark; what happens meanwhile is told to `progress`.
///
/// # Errors
/// Where a server cannot be started or gives a wrong answer. Lost queries only drop a round.
pub fn run(options: &Options, progress: &mut dyn Write) -> Result<Report> {
    ensure!(
        options.rounds > 0 && options.turns > 0 && options.paced_clients > 0,
        "nothing to do"
    );
    let mut bench = Bench {
        options,
        cpus: cpus().context("ask which CPUs we may use")?,
        upstream: Upstream::start().context("start the upstream")?,
        progress,
        series: Default::default(),
        idle_bytes: Vec::new(),
        entry_bytes: Vec::new(),
        starts: Vec::new(),
        doubts: Vec::new(),
    };
    bench.look_around();
    for round in 1..=options.rounds {
        writeln!(bench.progress, "round {round} of {}", options.rounds)?;
        if options.control {
            bench.control_round()?;
        } else {
            bench.round()?;
        }
    }
    if !options.control {
        bench.measure_starts()?;
    }
    Ok(bench.into_report())
}

impl Bench<'_> {
    /// Notes what on this machine makes figures doubtful.
    fn look_around(&mut self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let latest = load.split(' ').next().and_then(|n| n.parse::<f64>().ok());
        if let Some(latest) = latest.filter(|&latest| latest > 0.5) {
            self.doubts.push(format!(
                "the machine was not quiet: load average {latest} before the first round"
            ));
        }
        let queues = "/sys/class/net/lo/queues/rx-0/rps_cpus";
        let steered = std::fs::read_to_string(queues).unwrap_or_default();
        if steered.contains(|c: char| c.is_ascii_hexdigit() && c != '0') {
            self.doubts.push(format!(
                "receive packet steering is on ({queues}): queries change their CPU"
            ));
        }
    }

    fn round(&mut self) -> Result<()> {
        let echo = Server::echo(&self.options.echo, Layout::PerCpu)?;
        let echo_one = Server::echo(&self.options.echo, Layout::OneThread)?;
        let echo_loose = Server::echo(&self.options.echo, Layout::OneLooseThread)?;
        let agent = Server::agent(&self.options.agent, self.upstream.address, CACHE)?;
        let idle = Memory::of(agent.pid())?.resident_bytes;

        self.fill(&agent, FEW)?;
        self.compare(Work::Few, &echo, &agent)?;
        self.compare(Work::Paced, &echo_one, &agent)?;
        self.compare(Work::Loose, &echo_loose, &agent)?;
        self.fill(&agent, MANY)?;
        let full = Memory::of(agent.pid())?.resident_bytes;
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53")]
        {
            self.idle_bytes.push(idle as f64);
            self.entry_bytes
                .push((full as f64 - idle as f64) / MANY as f64);
        }
        self.compare(Work::Many, &echo, &agent)?;
        self.compare(Work::Miss, &echo, &agent)
    }

    /// The echo against itself.
    fn control_round(&mut self) -> Result<()> {
        for (work, layout) in [
            (Work::Few, Layout::PerCpu),
            (Work::Paced, Layout::OneThread),
            (Work::Many, Layout::PerCpu),
        ] {
            let echo = Server::echo(&self.options.echo, layout)?;
            let other = Server::echo(&self.options.echo, layout)?;
            self.compare(work, &echo, &other)?;
        }
        let one = Server::echo(&self.options.echo, Layout::OneThread)?;
        let all = Server::echo(&self.options.echo, Layout::PerCpu)?;
        self.compare(Work::Layout, &one, &all)
    }

    fn pinned(&self) -> Vec<Option<usize>> {
        self.cpus.iter().copied().map(Some).collect()
    }

    /// A saturated run of A queries that asks for any of `count` names.
    fn saturated(&self, server: SocketAddr, count: u64, expect: Expect) -> Result<Load> {
        Ok(Load {
            server,
            transport: Transport::Udp,
            pace: Pace::Closed { window: WINDOW },
            names: Names::new(PATTERN, count, Pick::Uniform)?,
            expect,
            clients: self.pinned(),
            duration: self.options.turn,
            timeout: Duration::from_secs(5),
            seed: Random::seed_of_the_moment(),
        })
    }

    fn load(&self, work: Work, server: SocketAddr, is_echo: bool) -> Result<Load> {
        let expect = if is_echo {
            Expect::Echo
        } else {
            Expect::Address
        };
        let count = if work == Work::Many { MANY } else { FEW };
        let saturated = self.saturated(server, count, expect)?;
        Ok(match work {
            Work::Few | Work::Many => saturated,
            Work::Paced | Work::Loose | Work::Layout => Load {
                pace: Pace::Paced {
                    per_second: PACED_PER_SECOND,
                    spacing: self.options.spacing,
                    meanwhile: self.options.meanwhile,
                },
                clients: if self.options.pin_paced {
                    self.pinned().repeat(self.options.paced_clients)
                } else {
                    vec![None; self.cpus.len() * self.options.paced_clients]
                },
                ..saturated
            },
            // The echo has no misses: it stands for the price of the socket, saturated.
            Work::Miss if is_echo => saturated,
            Work::Miss => Load {
                pace: Pace::Closed {
                    window: MISS_WINDOW.div_ceil(self.cpus.len()),
                },
                names: Names::new("n#.bench.example", 1, Pick::New)?,
                ..saturated
            },
        })
    }

    /// Asks for each of the first `count` names until none of them goes upstream any more.
    fn fill(&self, agent: &Server, count: u64) -> Result<()> {
        let load = Load {
            pace: Pace::Closed {
                window: MISS_WINDOW.div_ceil(self.cpus.len()),
            },
            names: Names::new(PATTERN, count, Pick::Once)?,
            duration: Duration::from_secs(120),
            ..self.saturated(agent.address, count, Expect::Address)?
        };
        for _ in 0..5 {
            let before = self.upstream.queries();
            let outcome = load.run()?;
            ensure_right(&outcome)?;
            if self.upstream.queries() == before && outcome.lost == 0 {
                return Ok(());
            }
        }
        bail!("the agent does not keep {count} names: it asks upstream again and again")
    }

    /// One round of a comparison.
    fn compare(&mut self, work: Work, echo: &Server, agent: &Server) -> Result<()> {
        let control = self.options.control;
        let mut costs = [Cost::default(), Cost::default()];
        for turn in 0..self.options.turns {
            for side in [turn % 2, 1 - turn % 2] {
                let is_agent = side == 1;
                let server = if is_agent { agent } else { echo };
                let load = self.load(work, server.address, control || !is_agent)?;
                let side = Side { server, load };
                let judged = is_agent && !control;
                if let Err(why) =
                    self.turn(work, &side, judged, &mut costs[usize::from(is_agent)])?
                {
                    let doubt = format!("a round of {work:?} was dropped: {why}");
                    writeln!(self.progress, "  DROPPED: {doubt}")?;
                    self.doubts.push(doubt);
                    return Ok(());
                }
            }
        }
        let [echo, agent] = costs;
        let (limit, cost) = (echo.us_per_query(), agent.us_per_query());
        let ratio = match work {
            Work::Few | Work::Many => limit / cost,
            Work::Paced | Work::Loose | Work::Miss | Work::Layout => cost / limit,
        };
        writeln!(
            self.progress,
            "  {work:?}: echo {limit:.2} us/q, agent {cost:.2} us/q, ratio {ratio:.3}, others \
             {:.0} %",
            100.0 * echo.others.max(agent.others)
        )?;
        let series = &mut self.series[work as usize];
        series.ratios.push(ratio);
        series.echo.push(echo);
        series.agent.push(agent);
        Ok(())
    }

    /// One turn of one side. The inner error says why its round is worth nothing.
    fn turn(
        &self,
        work: Work,
        side: &Side<'_>,
        is_agent: bool,
        cost: &mut Cost,
    ) -> Result<Result<(), String>> {
        let warm_up = Load {
            duration: side.load.duration / 4,
            ..side.load.clone()
        };
        ensure_right(&warm_up.run()?)?;
        // Misses of the warm-up must not be asked for again.
        let load = match work {
            Work::Miss => self.load(work, side.load.server, !is_agent)?,
            _ => side.load.clone(),
        };

        let asked = self.upstream.queries();
        let others = Others::watch()?;
        let meter = CpuMeter::of(side.server.pid())?;
        let outcome = load.run()?;
        let spent = meter.spent()?;
        let others = others.share(self.cpus.len(), spent.on_cpu)?;
        let asked = self.upstream.queries() - asked;

        ensure_right(&outcome)?;
        cost.on_cpu += spent.on_cpu;
        cost.received += outcome.received;
        cost.elapsed += outcome.elapsed;
        cost.latency.merge(&outcome.latency);
        cost.lateness.merge(&outcome.lateness);
        cost.others = cost.others.max(others);
        if outcome.loss() > MOST_LOSS {
            return Ok(Err(format!("{} of {} lost", outcome.lost, outcome.sent)));
        }
        if spent.ended > 0 {
            return Ok(Err(format!("{} threads of the server ended", spent.ended)));
        }
        if matches!(work, Work::Paced | Work::Loose | Work::Layout)
            && (outcome.per_second() / PACED_PER_SECOND) < 0.95
        {
            return Ok(Err(format!(
                "only {:.0} q/s were sent",
                outcome.per_second()
            )));
        }
        let expected = if is_agent && work == Work::Miss {
            outcome.sent
        } else {
            0
        };
        // A query repeated after a failure is honest work, a hundredth of them is not.
        if asked < expected || asked > expected + expected / 100 {
            return Ok(Err(format!(
                "{asked} queries went upstream, not {expected}"
            )));
        }
        Ok(Ok(()))
    }

    /// The last row: starts, each answered by way of the upstream.
    fn measure_starts(&mut self) -> Result<()> {
        writeln!(self.progress, "{STARTS} starts")?;
        for _ in 0..STARTS {
            let agent = Server::agent(&self.options.agent, self.upstream.address, CACHE)?;
            self.starts.push(agent.started_in.as_secs_f64());
        }
        Ok(())
    }

    fn into_report(mut self) -> Report {
        if self.upstream.pipelined() > 0 {
            self.doubts.push(format!(
                "{} of {} queries upstream came before the one in front of them was answered",
                self.upstream.pipelined(),
                self.upstream.queries()
            ));
        }
        let noisy = self.series.iter().flat_map(|series| {
            let both = series.echo.iter().zip(&series.agent);
            both.filter(|(echo, agent)| echo.others.max(agent.others) > MOST_OTHERS)
        });
        let noisy = noisy.count();
        if noisy > 0 {
            self.doubts.push(format!(
                "in {noisy} comparisons other processes had more than {:.0} % of the CPUs",
                100.0 * MOST_OTHERS
            ));
        }
        let details = Work::ALL
            .iter()
            .flat_map(|&work| details(work, &self.series[work as usize]))
            .collect();
        let mut rows: Vec<Row> = Work::ALL
            .iter()
            .zip(self.series)
            .filter_map(|(&work, series)| {
                let (must, aim) = work.goals(self.options.control)?;
                Some(Row {
                    work: work.title(),
                    unit: Unit::Ratio,
                    must,
                    aim,
                    figures: series.ratios,
                })
            })
            .collect();
        if !self.options.control {
            rows.push(Row {
                work: "resident memory, idle after one query",
                unit: Unit::Megabytes,
                must: Goal::AtMost(8e6),
                aim: Goal::AtMost(6e6),
                figures: self.idle_bytes,
            });
            rows.push(Row {
                work: "resident memory a cached A record, at 100,000",
                unit: Unit::Bytes,
                must: Goal::AtMost(240.0),
                aim: Goal::AtMost(160.0),
                figures: self.entry_bytes,
            });
            rows.push(Row {
                work: "exec to the first answer, by way of the upstream",
                unit: Unit::Milliseconds,
                must: Goal::AtMost(0.010),
                aim: Goal::AtMost(0.005),
                figures: self.starts,
            });
        }
        Report {
            machine: machine(self.cpus.len()),
            rows,
            details,
            doubts: self.doubts,
        }
    }
}

/// A wrong reply is a bug of the server, or of this program: no figure is worth it.
fn ensure_right(outcome: &Outcome) -> Result<()> {
    if let Some(wrong) = &outcome.first_wrong {
        bail!(
            "{} wrong replies of {}; {wrong}",
            outcome.wrong,
            outcome.sent
        );
    }
    Ok(())
}
