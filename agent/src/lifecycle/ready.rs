// SPDX-License-Identifier: Apache-2.0
//! Whether the agent answers: what the pulse saw at each listen address, whether the cold thread
//! moves, and whether a drain has begun.
//!
//! A UDP query reaches the worker of the CPU it was sent from, so each listen address has a lane
//! for every CPU over UDP: one hung worker is seen however well the others do. Over TCP it has
//! one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::probe::Fault;
use super::steering::Steering;
use crate::lock::lock;
use crate::telemetry::registry::{HealthFigures, ProbeFigures};

/// `/readyz` says yes while the last good answer is not older than this. Every lane is asked once
/// a second (see [`pulse`](super::pulse)): one lost datagram is forgiven, since a lane that
/// failed is asked again every 250 ms.
pub const READY_WINDOW: Duration = Duration::from_secs(2);

/// `/healthz` says yes while the last good answer is not older than this. Being killed costs a
/// node its cache, so it takes five turns in which a lane was asked some twenty times: a worker
/// that is merely flooded answers one of them. The kernel's own switch goes over to CoreDNS long
/// before.
pub const LIVE_WINDOW: Duration = Duration::from_secs(5);

/// How often the cold thread must call [`Health::beat`].
pub const BEAT_PERIOD: Duration = Duration::from_millis(250);

/// How a listen address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// One datagram.
    Udp,
    /// A connection of its own.
    Tcp,
}

impl Proto {
    /// `udp` or `tcp`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Shared by those who find out (pulse, cold thread, drain) and those who ask (admin, metrics).
/// Moments are those of [`Clock::now_ns`](crate::telemetry::clock::Clock::now_ns).
#[derive(Debug)]
pub struct Health {
    targets: ArcSwap<Vec<Target>>,
    /// What the targets were made of. Locked by those who change it, never by those who read.
    plan: Mutex<Plan>,
    cold_ns: AtomicU64,
    is_draining: AtomicBool,
    /// Where the probes under way over TCP come from.
    probing: Mutex<Vec<SocketAddr>>,
    /// Set where queries are to be steered here.
    steering: OnceLock<Arc<Steering>>,
}

#[derive(Debug)]
struct Plan {
    addresses: Vec<SocketAddr>,
    cpus: Vec<usize>,
}

/// A listen address over one transport.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) proto: Proto,
    pub(super) address: SocketAddr,
    /// Over UDP one for each CPU, over TCP one; never empty.
    pub(super) lanes: Vec<Arc<Lane>>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// The way to a listen address from one CPU.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None` over TCP, or where the CPUs are not known.
    pub(super) cpu: Option<usize>,
    /// When we began to ask.
    since_ns: u64,
    /// Whether it was there at the start: then the agent does not live before it has answered.
    is_first: bool,
    /// The last good answer; 0 before the first.
    good_ns: AtomicU64,
    /// Why the last probe failed, as [`Fault::code`]; [`NO_FAULT`] after a good answer.
    fault: AtomicI32,
}

/// No code of a [`Fault`].
const NO_FAULT: i32 = i32::MIN;

impl Health {
    /// Of these listen addresses, each with its port, asked from these CPUs. `now_ns` begins the
    /// grace in which no answer is expected yet.
    #[must_use]
    pub fn new(addresses: &[SocketAddr], cpus: &[usize], now_ns: u64) -> Self {
        let health = Self {
            targets: ArcSwap::from_pointee(Vec::new()),
            plan: Mutex::new(Plan {
                addresses: addresses.to_vec(),
                cpus: cpus.to_vec(),
            }),
            cold_ns: AtomicU64::new(now_ns),
            is_draining: AtomicBool::new(false),
            probing: Mutex::default(),
            steering: OnceLock::new(),
        };
        health.replan(now_ns, |_| {});
        health
    }

    /// Queries are to be steered here: readiness asks for it from now on. Whether the process is
    /// worth keeping does not: what is not steered is answered by CoreDNS.
    pub fn set_steering(&self, steering: Arc<Steering>) {
        // It is set once, at the start.
        let _ = self.steering.set(steering);
    }

    /// A figure that changes while the cold thread moves.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.cold_ns.load(Relaxed)
    }

    /// From now on asks at these addresses. What is known of those that stay is kept.
    pub fn set_addresses(&self, addresses: &[SocketAddr], now_ns: u64) {
        self.replan(now_ns, |plan| plan.addresses = addresses.to_vec());
    }

    /// From now on asks from these CPUs.
    pub(super) fn set_cpus(&self, cpus: &[usize], now_ns: u64) {
        self.replan(now_ns, |plan| plan.cpus = cpus.to_vec());
    }

    /// The cold thread moves: it calls this every [`BEAT_PERIOD`], from a timer of its runtime.
    pub fn beat(&self, now_ns: u64) {
        self.cold_ns.store(now_ns, Relaxed);
    }

    /// Whether a TCP connection from there is a probe of our own. Clients' limits are not for it:
    /// clients that use up all connections must not make the agent look dead, and be killed.
    #[must_use]
    pub fn is_probe(&self, peer: SocketAddr) -> bool {
        lock(&self.probing).contains(&peer)
    }

    /// A probe over TCP is about to leave from there.
    pub(super) fn expect_probe(&self, source: SocketAddr) {
        lock(&self.probing).push(source);
    }

    /// The probes of the last round are over.
    pub(super) fn forget_probes(&self) {
        lock(&self.probing).clear();
    }

    /// A drain begins: no longer ready, from this moment on.
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Relaxed);
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Whether the process is worth keeping: not before the first answer at every listen address.
    /// Listen addresses and CPUs that come later have [`LIVE_WINDOW`] for theirs. In a drain the
    /// sockets close one by one, and after `nodens retire` the fallback table answers our questions,
    /// so then only the cold thread is looked at.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn live(&self, now_ns: u64) -> Result<(), Reasons> {
        self.judge_live(now_ns, |lane| lane.is_first)
    }

    /// As [`Self::live`], but at the start everything has [`LIVE_WINDOW`] for its first answer: a
    /// start is not worth a line in the log.
    ///
    /// # Errors
    /// As [`Self::live`].
    pub(super) fn live_or_young(&self, now_ns: u64) -> Result<(), Reasons> {
        self.judge_live(now_ns, |_| false)
    }

    fn judge_live(
        &self,
        now_ns: u64,
        must_have_answered: impl Fn(&Lane) -> bool,
    ) -> Result<(), Reasons> {
        let mut reasons = self.cold(LIVE_WINDOW, now_ns);
        let has_retired = self
            .steering
            .get()
            .is_some_and(|steering| steering.is_retired());
        if !self.is_draining() && !has_retired {
            let targets = self.targets.load();
            reasons.extend(targets.iter().filter_map(|target| {
                target.problem(now_ns, |lane| {
                    let good_ns = lane.good_ns.load(Relaxed);
                    (good_ns == 0 && must_have_answered(lane))
                        || age(now_ns, good_ns.max(lane.since_ns)) > LIVE_WINDOW
                })
            }));
        }
        Reasons::unless_empty(reasons)
    }

    /// Whether queries may be sent here.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn ready(&self, now_ns: u64) -> Result<(), Reasons> {
        if self.is_draining() {
            return Err(Reasons(vec!["draining".to_owned()]));
        }
        let mut reasons = self.cold(READY_WINDOW, now_ns);
        let targets = self.targets.load();
        if targets.is_empty() {
            reasons.push("no listen address".to_owned());
        }
        reasons.extend(targets.iter().filter_map(|target| {
            target.problem(now_ns, |lane| {
                let good_ns = lane.good_ns.load(Relaxed);
                good_ns == 0 || age(now_ns, good_ns) > READY_WINDOW
            })
        }));
        reasons.extend(
            self.steering
                .get()
                .into_iter()
                .flat_map(|steering| steering.reasons()),
        );
        Reasons::unless_empty(reasons)
    }

    /// All of it as metrics show it.
    #[must_use]
    pub fn figures(&self, now_ns: u64) -> HealthFigures {
        let probe = |target: &Target| ProbeFigures {
            address: target.address.to_string(),
            proto: target.proto.label(),
            answered: target.tally.answered.load(Relaxed),
            failed: target.tally.failed.load(Relaxed),
        };
        HealthFigures {
            is_live: self.live(now_ns).is_ok(),
            is_ready: self.ready(now_ns).is_ok(),
            is_draining: self.is_draining(),
            probes: self.targets.load().iter().map(probe).collect(),
            steering: self.steering.get().map(|steering| steering.figures()),
        }
    }

    /// What there is to ask.
    pub(super) fn targets(&self) -> Arc<Vec<Target>> {
        self.targets.load_full()
    }

    fn cold(&self, window: Duration, now_ns: u64) -> Vec<String> {
        let still = age(now_ns, self.cold_ns.load(Relaxed));
        let is_stuck = still > window;
        is_stuck
            .then(|| format!("cold thread: no progress for {}", seconds(still)))
            .into_iter()
            .collect()
    }

    fn replan(&self, now_ns: u64, change: impl FnOnce(&mut Plan)) {
        let mut plan = lock(&self.plan);
        change(&mut plan);
        let old = self.targets.load();
        let target = |proto, address, cpus: &[Option<usize>]| {
            let known = old
                .iter()
                .find(|old| old.proto == proto && old.address == address);
            let lane = |&cpu: &Option<usize>| {
                let known =
                    known.and_then(|target| target.lanes.iter().find(|lane| lane.cpu == cpu));
                known
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Lane::new(cpu, now_ns, old.is_empty())))
            };
            Target {
                proto,
                address,
                lanes: cpus.iter().map(lane).collect(),
                tally: known
                    .map(|target| Arc::clone(&target.tally))
                    .unwrap_or_default(),
            }
        };
        let mut cpus: Vec<_> = plan.cpus.iter().copied().map(Some).collect();
        if cpus.is_empty() {
            // Not known: better one lane than none, which would always be well.
            cpus.push(None);
        }
        let targets = plan.addresses.iter().flat_map(|&address| {
            [
                target(Proto::Udp, address, &cpus),
                target(Proto::Tcp, address, &[None]),
            ]
        });
        self.targets.store(Arc::new(targets.collect()));
    }
}

impl Target {
    /// Notes what a probe on one of the lanes came to.
    pub(super) fn record(&self, lane: &Lane, outcome: Result<(), Fault>, now_ns: u64) {
        match outcome {
            Ok(()) => {
                self.tally.answered.fetch_add(1, Relaxed);
                lane.good_ns.store(now_ns, Relaxed);
                lane.fault.store(NO_FAULT, Relaxed);
            }
            Err(fault) => {
                self.tally.failed.fetch_add(1, Relaxed);
                lane.fault.store(fault.code(), Relaxed);
            }
        }
    }

    /// The lanes that are `bad`, in words; `None` when there are none.
    fn problem(&self, now_ns: u64, bad: impl Fn(&Lane) -> bool) -> Option<String> {
        let bad: Vec<_> = self.lanes.iter().filter(|lane| bad(lane)).collect();
        let first = bad.first()?;
        let mut text = format!("{} {}", self.proto.label(), self.address);
        if bad.len() < self.lanes.len() {
            let cpus: Vec<_> = bad
                .iter()
                .filter_map(|lane| lane.cpu)
                .map(|cpu| cpu.to_string())
                .collect();
            text += &format!(" from CPU {}", cpus.join(", "));
        }
        let last = bad
            .iter()
            .map(|lane| lane.good_ns.load(Relaxed))
            .max()
            .unwrap_or(0);
        text += &match last {
            0 => ": no answer yet".to_owned(),
            last => format!(": no answer for {}", seconds(age(now_ns, last))),
        };
        match first.fault.load(Relaxed) {
            NO_FAULT => {}
            code => {
                if let Some(words) = Fault::from_code(code).words() {
                    text += &format!(" ({words})");
                }
            }
        }
        Some(text)
    }
}

impl Lane {
    fn new(cpu: Option<usize>, since_ns: u64, is_first: bool) -> Self {
        Self {
            cpu,
            since_ns,
            is_first,
            good_ns: AtomicU64::new(0),
            fault: AtomicI32::new(NO_FAULT),
        }
    }

    /// Whether the last probe failed, or there was none yet.
    pub(super) fn is_suspect(&self) -> bool {
        self.fault.load(Relaxed) != NO_FAULT || self.good_ns.load(Relaxed) == 0
    }
}

/// Why a check says no: one line for each cause, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasons(Vec<String>);

impl Reasons {
    /// In one line, for the log.
    #[must_use]
    pub fn line(&self) -> String {
        self.0.join("; ")
    }

    /// One for each cause.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    fn unless_empty(reasons: Vec<String>) -> Result<(), Self> {
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(Self(reasons))
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A moment that another thread has noted after `now_ns` was read is no age at all.
fn age(now_ns: u64, then_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(then_ns))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// The clock does not begin at nought.
    const START: u64 = 1_000 * SECOND;

    fn health() -> Health {
        Health::new(
            &["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()],
            &[0, 3],
            START,
        )
    }

    /// Every lane but one, as (target, lane), answers.
    fn answer_all_but(health: &Health, silent: Option<(usize, usize)>, now_ns: u64) {
        health.beat(now_ns);
        for (at, target) in health.targets().iter().enumerate() {
            for (lane_at, lane) in target.lanes.iter().enumerate() {
                let is_silent = silent == Some((at, lane_at));
                let outcome = if is_silent {
                    Err(Fault::Silent)
                } else {
                    Ok(())
                };
                target.record(lane, outcome, now_ns);
            }
        }
    }

    fn text(verdict: Result<(), Reasons>) -> String {
        verdict.map_or_else(|reasons| reasons.to_string(), |()| "yes".to_owned())
    }

    #[test]
    fn nothing_is_ready_nor_live_before_its_first_answer() {
        let health = health();
        let silence = "udp 127.0.0.1:53: no answer yet\ntcp 127.0.0.1:53: no answer yet\n\
             udp [::1]:53: no answer yet\ntcp [::1]:53: no answer yet";
        assert_eq!(text(health.live(START)), silence);
        assert_eq!(text(health.ready(START)), silence);
        // The log says nothing of it before it has lasted.
        assert_eq!(text(health.live_or_young(START)), "yes");
        let later = START + 6 * SECOND;
        health.beat(later);
        assert_eq!(text(health.live_or_young(later)), silence);
        answer_all_but(&health, Some((1, 0)), later);
        assert_eq!(text(health.live(later)), "tcp 127.0.0.1:53: no answer yet");
        answer_all_but(&health, None, later);
        assert_eq!(text(health.ready(later)), "yes");
        assert_eq!(text(health.live(later)), "yes");
    }

    #[test]
    fn nobody_dies_of_an_address_that_has_just_come() {
        let health = health();
        answer_all_but(&health, None, START);
        let both = ["127.0.0.1:53", "127.0.0.2:53"].map(|text| text.parse().unwrap());
        health.set_addresses(&both, START);
        assert_eq!(text(health.live(START)), "yes");
        let later = START + 6 * SECOND;
        health.beat(later);
        assert!(text(health.live(later)).contains("udp 127.0.0.2:53: no answer yet"));
    }

    #[test]
    fn one_hung_worker_is_enough_to_be_not_ready_and_then_not_live() {
        let health = health();
        answer_all_but(&health, None, START);
        let mut now_ns = START;
        for tenths in 1..=52 {
            now_ns = START + tenths * SECOND / 10;
            answer_all_but(&health, Some((0, 1)), now_ns);
            assert_eq!(health.ready(now_ns).is_ok(), tenths <= 20, "{tenths}");
            assert_eq!(health.live(now_ns).is_ok(), tenths <= 50, "{tenths}");
        }
        assert_eq!(
            text(health.live(now_ns)),
            "udp 127.0.0.1:53 from CPU 3: no answer for 5.2 s"
        );
        answer_all_but(&health, None, now_ns);
        assert_eq!(text(health.ready(now_ns)), "yes");
    }

    #[test]
    fn a_cold_thread_that_stands_still_is_named() {
        let health = health();
        answer_all_but(&health, None, START);
        let later = START + 3 * SECOND;
        answer_all_but(&health, None, later);
        health.beat(START);
        assert_eq!(
            text(health.ready(later)),
            "cold thread: no progress for 3.0 s"
        );
        assert_eq!(text(health.live(later)), "yes");
        assert!(health.live(START + 6 * SECOND).is_err());
    }

    #[test]
    fn in_a_drain_the_agent_is_live_and_not_ready() {
        let health = health();
        answer_all_but(&health, None, START);
        health.begin_drain();
        assert_eq!(text(health.ready(START)), "draining");
        let later = START + 60 * SECOND;
        health.beat(later);
        assert_eq!(text(health.live(later)), "yes");
        assert!(health.figures(later).is_draining);
    }

    #[test]
    fn a_changed_listener_keeps_what_is_known_of_the_others() {
        let health = health();
        answer_all_but(&health, None, START);
        health.set_addresses(
            &[
                "127.0.0.1:53".parse().unwrap(),
                "127.0.0.2:53".parse().unwrap(),
            ],
            START + SECOND,
        );
        assert_eq!(
            text(health.ready(START + SECOND)),
            "udp 127.0.0.2:53: no answer yet\ntcp 127.0.0.2:53: no answer yet"
        );
        health.set_addresses(&["127.0.0.1:53".parse().unwrap()], START + SECOND);
        assert_eq!(text(health.ready(START + SECOND)), "yes");
        let figures = health.figures(START + SECOND);
        assert_eq!(figures.probes.len(), 2);
        assert_eq!(
            (figures.probes[0].answered, figures.probes[0].proto),
            (2, "udp")
        );
        health.set_cpus(&[3, 4], START + SECOND);
        assert_eq!(
            text(health.ready(START + SECOND)),
            "udp 127.0.0.1:53 from CPU 4: no answer yet"
        );
    }

    #[test]
    fn an_agent_that_listens_nowhere_is_not_ready() {
        let health = Health::new(&[], &[0], START);
        assert_eq!(text(health.ready(START)), "no listen address");
    }

    #[test]
    fn without_knowing_the_cpus_each_address_is_still_asked() {
        let health = Health::new(&["127.0.0.1:53".parse().unwrap()], &[], START);
        assert!(text(health.ready(START)).starts_with("udp 127.0.0.1:53: no answer yet\n"));
        answer_all_but(&health, None, START);
        assert_eq!(text(health.ready(START)), "yes");
    }

    #[test]
    fn the_cause_of_the_last_failure_is_told() {
        let health = health();
        answer_all_but(&health, None, START);
        let targets = health.targets();
        let refused = rustix::io::Errno::CONNREFUSED.raw_os_error();
        targets[1].record(&targets[1].lanes[0], Err(Fault::System(refused)), START);
        health.beat(START + 4 * SECOND);
        assert!(
            text(health.ready(START + 4 * SECOND)).contains(
                "tcp 127.0.0.1:53: no answer for 4.0 s (Connection refused (os error 111))"
            )
        );
    }
}
