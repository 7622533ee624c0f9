// SPDX-License-Identifier: Apache-2.0
//! `make demo`: two pods ask without a pause while the agent is started, killed, stopped and
//! replaced, and each second is told.
//!
//! What happens happens on the second; what is told of it comes [`PATIENCE`] later, for so long an
//! answer may take.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use super::flow::{Flow, PATIENCE, Plan, Tally};
use crate::load::now_ns;
use crate::node::{Family, From, Node, NodeAgent, Server, Shape};

/// Queries a second of each pod.
const PER_SECOND: u64 = 500;
/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Cells of a bar.
const CELLS: usize = 8;

/// What is done, and at which second.
const SCRIPT: [(u64, Act); 7] = [
    (0, Act::Nothing),
    (4, Act::Start),
    (9, Act::Kill),
    (14, Act::StartAgain),
    (19, Act::Stop),
    (25, Act::Continue),
    (30, Act::Replace),
];
/// The second at which it is over.
const END: u64 = 35;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Start,
    Kill,
    StartAgain,
    Stop,
    Continue,
    Replace,
}

impl Act {
    fn title(self) -> &'static str {
        match self {
            Self::Nothing => {
                "no nodens yet; `nodens netsetup up` has led 169.254.20.10 to CoreDNS, for good"
            }
            Self::Start => "nodens starts: it answers on the node, no pod is told",
            Self::Kill => "kill -9 nodens: the kernel drops its rules with it",
            Self::StartAgain => "nodens is started again",
            Self::Stop => "kill -STOP nodens: it hangs, but it is not dead",
            Self::Continue => "kill -CONT nodens: it goes on where it stood",
            Self::Replace => "nodens is replaced, as an update does it: SIGTERM, and a new start",
        }
    }

    fn run(self, node: &Node, agent: &mut Option<NodeAgent>) -> anyhow::Result<()> {
        match (self, agent.as_mut()) {
            (Self::Start, _) => *agent = Some(node.agent(&[Family::V4]).launch(node)?),
            (Self::Kill, Some(agent)) => agent.signal(Signal::KILL)?,
            (Self::StartAgain, Some(agent)) => agent.start_again(node)?,
            (Self::Stop, Some(agent)) => agent.signal(Signal::STOP)?,
            (Self::Continue, Some(agent)) => agent.signal(Signal::CONT)?,
            (Self::Replace, Some(agent)) => {
                agent.signal(Signal::TERM)?;
                agent.wait(Duration::from_secs(10))?;
                agent.start_again(node)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Tells the story. `is_terminal` allows colours.
///
/// # Errors
/// Where the node cannot be built: without root, or without a program (`make deps`,
/// `make coredns`). And when nobody reads any more.
pub fn run(out: &mut dyn Write, is_terminal: bool) -> anyhow::Result<()> {
    let node = Node::new(Shape::Nftables)?;
    let up = node.agent(&[Family::V4]).run(&node, &["netsetup", "up"])?;
    ensure!(
        up.status.success(),
        "nodens netsetup up: {}",
        String::from_utf8_lossy(&up.stderr)
    );
    out.write_all(HEAD.as_bytes())?;
    let mut flows = Vec::new();
    for (from, server) in [
        (From::Veth, Family::V4.local()),
        (From::Bridge, Family::V4.service()),
    ] {
        let plan = Plan {
            servers: vec![Family::dns(server)],
            per_second: PER_SECOND,
            names: 20,
        };
        flows.push(Flow::start(node.space(from), plan)?);
    }
    let paint = Paint(is_terminal);
    let begin = now_ns();
    let mut agent = None;
    let mut moments = vec![begin];
    let mut told = 0;
    let late = PATIENCE.as_secs();
    for second in 0..END + late + 1 {
        wait_until(begin + second * SECOND);
        if let Some((_, act)) = SCRIPT.iter().find(|(at, _)| *at == second) {
            if second > 0 {
                moments.push(now_ns());
            }
            act.run(&node, &mut agent)?;
        }
        // The second that ended so long ago that nothing of it can still come.
        let Some(shown) = second.checked_sub(late + 1) else {
            continue;
        };
        let tallies: Vec<Tally> = flows.iter().map(Flow::tally).collect();
        if let Some(place) = SCRIPT.iter().position(|(at, _)| *at == shown) {
            if place > 0 {
                writeln!(
                    out,
                    "{}",
                    sum_up(SCRIPT[place - 1].1, &tallies, &moments, told)
                )?;
                told += 1;
            }
            writeln!(out, "\n{}", paint.bold(SCRIPT[place].1.title()))?;
            writeln!(out, "{}", paint.faint(COLUMNS))?;
        }
        let span = (begin + shown * SECOND, begin + (shown + 1) * SECOND);
        writeln!(out, "{}", line(shown, &tallies, span, &paint))?;
        out.flush()?;
    }
    let tallies: Vec<Tally> = flows.iter().map(Flow::tally).collect();
    moments.push(begin + END * SECOND);
    let (_, last) = SCRIPT[SCRIPT.len() - 1];
    writeln!(out, "{}", sum_up(last, &tallies, &moments, told))?;
    let end = begin + END * SECOND;
    let asked: usize = tallies.iter().map(|tally| tally.asked(begin, end)).sum();
    let lost: usize = tallies.iter().map(|tally| tally.lost(begin, end)).sum();
    writeln!(
        out,
        "\n{}\nNothing is left on this machine: the namespaces end with this program. What must hold, \
         and holds:\n`make drills`.",
        paint.bold(&format!(
            "{asked} queries in {END} s, {lost} lost. No pod was touched or told anything."
        ))
    )?;
    Ok(())
}

const HEAD: &str = "
nodens on a node of a cluster, made of network namespaces on this machine

  pod A asks 169.254.20.10 ─┐  the kernel's rules   ┌─► nodens, a cache on this node
                            ├─► while it lives ─────┘        │ what it does not know
  pod B asks 10.96.0.10 ────┘   else: kube-proxy ────────────┴─► CoreDNS on another node

Each pod asks 500 times a second. A query without an answer within 2 s is lost; nobody asks twice.
█ answered by nodens   ▒ by CoreDNS   · by nobody
";

/// What has come of an act, in a line.
fn sum_up(act: Act, tallies: &[Tally], moments: &[u64], place: usize) -> String {
    let (from, to) = (moments[place], moments[place + 1]);
    let lost: usize = tallies.iter().map(|tally| tally.lost(from, to)).sum();
    let slowest = |by| {
        let firsts: Option<Vec<_>> = tallies.iter().map(|tally| tally.first(by, from)).collect();
        firsts.and_then(|firsts| firsts.into_iter().max())
    };
    let after = |by, who: &str| {
        slowest(by).map_or_else(
            || format!("{who} has not answered"),
            |time| format!("{who} answers after {:.0} ms", time.as_secs_f64() * 1e3),
        )
    };
    let what = match act {
        Act::Nothing => "CoreDNS answers".to_owned(),
        Act::Kill => after(Server::CoreDns, "CoreDNS"),
        Act::Stop => format!(
            "{}: the kernel had no sign of life from nodens and let go",
            after(Server::CoreDns, "CoreDNS")
        ),
        Act::Replace => "CoreDNS answers in between".to_owned(),
        Act::Start | Act::StartAgain | Act::Continue => after(Server::Agent, "nodens"),
    };
    format!("        => {lost} lost; {what}")
}

/// The heads of the columns of [`line`].
const COLUMNS: &str =
    "         pod A     nodens CoreDNS     pod B     nodens CoreDNS    latency   lost";

fn line(second: u64, tallies: &[Tally], (from, to): (u64, u64), paint: &Paint) -> String {
    let mut line = format!("  {second:>3} s  ");
    let mut lost = 0;
    for tally in tallies {
        let agent = tally.by(Server::Agent, from, to);
        let coredns = tally.by(Server::CoreDns, from, to);
        lost += tally.lost(from, to);
        let bar = paint.bar(agent, coredns, tally.asked(from, to));
        line.push_str(&format!("{bar}  {agent:>6} {coredns:>7}     "));
    }
    let latencies = tallies.iter().filter_map(|tally| tally.latency(from, to));
    let latency = latencies.map(|(middle, _)| middle).max();
    let latency = latency.map_or_else(
        || "-".to_owned(),
        |latency| format!("{:.2} ms", latency.as_secs_f64() * 1e3),
    );
    let lost = match lost {
        0 => format!("{lost:>6}"),
        _ => paint.red(&format!("{lost:>6}")),
    };
    format!("{line}{latency:>7} {lost}")
}

/// Colours, or none.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn faint(&self, text: &str) -> String {
        self.with("2", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("31;1", text)
    }

    /// The shares of a second: full cells for the agent, light ones for CoreDNS, dots for nobody.
    fn bar(&self, agent: usize, coredns: usize, asked: usize) -> String {
        let cells = |part: usize| (part * CELLS + asked / 2) / asked.max(1);
        let full = cells(agent).min(CELLS);
        let light = cells(coredns).min(CELLS - full);
        let rest = CELLS - full - light;
        format!(
            "{}{}{}",
            self.with("32", &"█".repeat(full)),
            self.with("33", &"▒".repeat(light)),
            self.with("31", &"·".repeat(rest))
        )
    }
}

fn wait_until(moment_ns: u64) {
    let left = moment_ns.saturating_sub(now_ns());
    thread::sleep(Duration::from_nanos(left));
}

/// Whether standard output is a terminal that takes colours (<https://no-color.org>).
#[must_use]
pub fn takes_colours() -> bool {
    io::IsTerminal::is_terminal(&io::stdout()) && std::env::var_os("NO_COLOR").is_none()
}
