// SPDX-License-Identifier: Apache-2.0
//! What the pulse does in the kernel: makes the active table, gives it a sign of life for what
//! answers, puts back what others remove, and takes the elements out when we leave.
//!
//! ```text
//! starting ─► steering ─► draining ─► (the process ends, and the table with it)
//!                 │
//!                 └─────► retiring ─► retired
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nodens_netsetup::plan::{Lane, Plan, Proto};
use nodens_netsetup::{Active, Error, Watch, fallback, link};
use tokio::sync::oneshot;

use super::mending::{Found, Mending};
use super::orders::Order;
use super::probe::Origins;
use super::ready;
use super::steering::{Part, Steering};
use super::switch::{Change, Sight, Switch};
use crate::telemetry::clock::{Clock, nanoseconds};

/// How long after the first answer of any address the others are waited for, before those that
/// answer are steered without them.
const ALL_ANSWER: Duration = Duration::from_secs(2);

/// How long the table stays at least when the agent retires: answers that are under way are still
/// renamed by it.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Pause before the kernel is asked again for something that it refused.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Everything that steering takes.
pub struct Interception {
    plan: Plan,
    dead_after: Duration,
    /// How long established connections may still stay where the agent retires.
    farewell: Duration,
    steering: Arc<Steering>,
    sources: Sources,
    switch: Switch,
    /// `None` where others have removed it, and when we have retired.
    active: Option<Active>,
    watch: Option<Watch>,
    links: Mending,
    fallback: Mending,
    phase: Phase,
    /// Hears once that queries are steered here.
    armed: Option<mpsc::Sender<()>>,
    since_ns: u64,
    /// When a lost table is asked for again.
    not_before_ns: u64,
    /// Refreshed in the turn that is under way.
    refreshed: Vec<Lane>,
    has_served: bool,
}

/// Where the agent is looked at from outside of this module.
pub struct Sources {
    /// What workers and the cold thread do.
    pub sight: Box<dyn Fn() -> Sight + Send>,
    /// Clients' TCP connections that are open.
    pub connections: Box<dyn Fn() -> u64 + Send>,
}

/// What is done in a turn.
#[derive(Debug)]
enum Phase {
    /// Nothing is steered before everything has answered.
    Starting,
    /// New queries and connections are steered here.
    Steering,
    /// What is established stays.
    Draining,
    /// As draining, until all connections have ended or this moment; then the table goes.
    Retiring(u64, Vec<oneshot::Sender<()>>),
    /// Nothing of ours is left that steers.
    Retired,
}

/// What an interception is made from.
pub struct Parts {
    /// What is wanted.
    pub plan: Plan,
    /// `intercept.deadAfter`.
    pub dead_after: Duration,
    /// `limits.drainTimeout`.
    pub farewell: Duration,
    /// The table that steers, without elements: nothing is steered yet.
    pub active: Active,
    /// Opened before links and fallback were made.
    pub watch: Watch,
    /// Where the others see what becomes of it.
    pub steering: Arc<Steering>,
    /// Where the agent is looked at.
    pub sources: Sources,
    /// Hears once that queries are steered here.
    pub armed: mpsc::Sender<()>,
}

impl fmt::Debug for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interception")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Interception {
    /// Everything is there but the elements: those come with the first answers.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            switch: Switch::new(parts.plan.lanes(), parts.dead_after),
            plan: parts.plan,
            dead_after: parts.dead_after,
            farewell: parts.farewell,
            steering: parts.steering,
            sources: parts.sources,
            active: Some(parts.active),
            watch: Some(parts.watch),
            links: Mending::default(),
            fallback: Mending::default(),
            phase: Phase::Starting,
            armed: Some(parts.armed),
            since_ns: Clock.now_ns(),
            not_before_ns: 0,
            refreshed: Vec::new(),
            has_served: false,
        }
    }

    /// Where questions must leave from, for the rules to let them pass.
    pub(super) fn origins(&self) -> Origins {
        Origins::of(&self.plan)
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now_ns: u64) {
        self.refreshed.clear();
        self.has_served = false;
        let changes = self.switch.expire(now_ns);
        self.note(&changes);
        self.switch.look(&(self.sources.sight)(), now_ns);
    }

    /// Gives the kernel a sign of life for every lane that has answered in this turn and has none
    /// yet. What stays established is renewed with the first of them.
    pub(super) fn refresh(&mut self, has_answered: impl Fn(SocketAddr, ready::Proto) -> bool) {
        let answered = self.lanes_of(has_answered);
        let mut live = self.switch.alive(|lane| answered.contains(&lane));
        live.retain(|lane| !self.refreshed.contains(lane));
        match &self.phase {
            Phase::Starting => self.start(&live),
            Phase::Steering => self.renew(&live),
            Phase::Draining => self.renew(&[]),
            Phase::Retiring(until_ns, _) => {
                let asked_ns = until_ns.saturating_sub(nanoseconds(self.farewell));
                let quiet_ns = asked_ns.saturating_add(nanoseconds(LAST_ANSWERS));
                let now_ns = Clock.now_ns();
                let is_quiet = now_ns >= quiet_ns && (self.sources.connections)() == 0;
                let is_over = now_ns >= *until_ns || is_quiet;
                if is_over {
                    self.end_retiring();
                } else {
                    self.renew(&[]);
                }
            }
            Phase::Retired => {}
        }
    }

    /// A turn ends: whoever has been silent too long has tripped.
    pub(super) fn end_turn(&mut self, has_answered: impl Fn(SocketAddr, ready::Proto) -> bool) {
        let answered = self.lanes_of(has_answered);
        let changes = self
            .switch
            .close(|lane| answered.contains(&lane), Clock.now_ns());
        self.note(&changes);
    }

    /// Carries out an order of the cold thread.
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Stop => {}
            Order::Drain(done) => {
                if matches!(self.phase, Phase::Starting | Phase::Steering) {
                    self.let_go();
                    self.phase = Phase::Draining;
                    // The start does not wait any longer.
                    self.armed = None;
                }
                let _ = done.send(());
            }
            Order::Retire(done) => match &mut self.phase {
                Phase::Retired => drop(done.send(())),
                Phase::Retiring(_, waiting) => waiting.push(done),
                Phase::Starting | Phase::Steering | Phase::Draining => {
                    self.let_go();
                    self.steering.retire();
                    tracing::info!("retired: nothing is steered here or mended any more");
                    let until_ns = Clock.now_ns() + nanoseconds(self.farewell);
                    self.phase = Phase::Retiring(until_ns, vec![done]);
                    self.watch = None;
                    self.armed = None;
                }
            },
        }
    }

    /// What to wait on for changes that others make.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Watch::as_fd)
    }

    /// Puts back what is ours where somebody has changed something.
    pub(super) fn mend(&mut self, now_ns: u64) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        let changed = watch.look(self.active.as_ref().map_or(0, Active::commits));
        if changed.links {
            self.links.note();
        }
        if changed.rules {
            self.fallback.note();
        }
        if self.links.begins(now_ns) {
            let found = self.mend_links();
            let pause = self.links.end(found, now_ns);
            slowed("interface or addresses", pause);
        }
        if self.fallback.begins(now_ns) {
            let found = self.mend_fallback();
            let pause = self.fallback.end(found, now_ns);
            slowed("the fallback table", pause);
        }
    }

    /// The lanes whose server has answered.
    fn lanes_of(&self, has_answered: impl Fn(SocketAddr, ready::Proto) -> bool) -> Vec<Lane> {
        self.switch
            .lanes()
            .filter(|lane| {
                let server = self.plan.served_by(lane.address).unwrap_or(lane.address);
                let proto = match lane.proto {
                    Proto::Udp => ready::Proto::Udp,
                    Proto::Tcp => ready::Proto::Tcp,
                };
                has_answered(SocketAddr::new(server, self.plan.port), proto)
            })
            .collect()
    }

    /// When everything has answered, the elements are set.
    fn start(&mut self, live: &[Lane]) {
        let waited_ns = Clock.now_ns().saturating_sub(self.since_ns);
        let is_patient = waited_ns < nanoseconds(ALL_ANSWER);
        if live.is_empty() || (is_patient && live.len() < self.switch.lanes().count()) {
            return;
        }
        self.phase = Phase::Steering;
        self.renew(live);
        if let Some(armed) = self.armed.take() {
            let _ = armed.send(());
        }
    }

    fn make_table(&mut self) -> Result<(), Error> {
        self.active = Some(Active::apply(Active::open()?, &self.plan)?);
        Ok(())
    }

    fn renew(&mut self, live: &[Lane]) {
        let serves = !self.has_served && self.switch.serves();
        let is_tcp = |lane: &Lane| lane.proto == Proto::Tcp;
        let serve: Vec<Lane> = if serves {
            self.switch.lanes().filter(is_tcp).collect()
        } else {
            Vec::new()
        };
        if live.is_empty() && serve.is_empty() {
            return;
        }
        let Some(active) = &mut self.active else {
            // Lost, and not to be had again so far.
            if Clock.now_ns() >= self.not_before_ns {
                self.restore();
            }
            return;
        };
        match active.refresh(live, &serve, self.dead_after) {
            Ok(()) => {
                self.steering.answered(true);
                self.has_served |= serves;
                self.refreshed.extend(live);
                self.is_taken(Part::Active);
                let changes = self.switch.refreshed(live, Clock.now_ns());
                self.steering.waited(self.switch.longest_gap());
                self.note(&changes);
            }
            Err(error) => {
                self.steering.answered(false);
                self.refused(Part::Active, error, "keep the steering alive");
                // Where it is no longer there it is made anew; an owned one cannot be lost.
                if self
                    .active
                    .as_ref()
                    .is_some_and(|active| !active.is_owned())
                {
                    self.restore();
                }
            }
        }
    }

    /// Makes a lost table anew. Its elements come with the next turn.
    fn restore(&mut self) {
        self.active = None;
        match self.make_table() {
            Ok(()) => {
                self.switch.reset();
                self.steering.healed(Part::Active);
                tracing::warn!("the table that steers was gone and is back");
            }
            Err(error) => {
                self.not_before_ns = Clock.now_ns().saturating_add(nanoseconds(AGAIN_AFTER));
                self.refused(Part::Active, error, "make the table that steers anew");
            }
        }
    }

    /// Takes the elements out: the kernel sends new queries elsewhere from now on.
    fn let_go(&mut self) {
        let lanes: Vec<Lane> = self.switch.lanes().collect();
        if let Some(active) = &mut self.active
            && let Err(error) = active.clear(&lanes)
        {
            // They run out by themselves.
            self.refused(Part::Active, error, "end the steering");
        }
        self.switch.reset();
        self.steering.let_go();
        // What is established must not fall while we are at it.
        self.has_served = false;
        self.renew(&[]);
    }

    fn end_retiring(&mut self) {
        self.active = None;
        let phase = std::mem::replace(&mut self.phase, Phase::Retired);
        if let Phase::Retiring(_, waiting) = phase {
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    fn mend_links(&self) -> Found {
        const STEP: &str = "put interface and addresses back";
        let mended = match link::mend(&self.plan) {
            Ok(mended) => mended,
            Err(error) => {
                self.refused(Part::Links, error, STEP);
                return Found::Refused;
            }
        };
        let links = mended.links;
        if !links.made.is_empty() {
            self.steering.healed(Part::Links);
            let parts: Vec<_> = links.made.iter().map(ToString::to_string).collect();
            tracing::warn!(
                interface = links.interface,
                made = parts.join(", "),
                "somebody removed what is ours; it is back"
            );
        }
        match mended.refused {
            Some(error) => {
                self.refused(Part::Links, error, STEP);
                Found::Refused
            }
            None => {
                self.is_taken(Part::Links);
                if links.made.is_empty() {
                    Found::Well
                } else {
                    Found::Mended
                }
            }
        }
    }

    fn mend_fallback(&self) -> Found {
        let found = fallback::check(&self.plan).and_then(|differences| {
            if differences.is_empty() {
                return Ok(Found::Well);
            }
            fallback::apply(&self.plan).map(|()| Found::Mended)
        });
        match found {
            Ok(found) => {
                if found == Found::Mended {
                    self.steering.healed(Part::Fallback);
                    tracing::warn!("somebody removed or changed the fallback table; it is back");
                }
                self.is_taken(Part::Fallback);
                found
            }
            Err(error) => {
                self.refused(Part::Fallback, error, "put the fallback table back");
                Found::Refused
            }
        }
    }

    fn note(&self, changes: &[Change]) {
        if !changes.is_empty() {
            self.steering.note(changes);
        }
    }

    /// The kernel takes again what it may have refused.
    fn is_taken(&self, part: Part) {
        if self.steering.trouble(part, None) {
            let (_, part) = Part::ALL[part as usize];
            tracing::info!(part, "the kernel takes it again");
        }
    }

    /// Says once what the kernel refuses.
    fn refused(&self, part: Part, error: Error, step: &'static str) {
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            words = format!("{words}: {source}");
            cause = source.source();
        }
        if self.steering.trouble(part, Some(words.clone())) {
            tracing::error!(error = words, step, "the kernel refuses");
        }
    }
}

/// Says that somebody fights us.
fn slowed(what: &'static str, pause: Option<Duration>) {
    if let Some(pause) = pause {
        tracing::warn!(
            what,
            pause_seconds = pause.as_secs(),
            "somebody keeps removing what is ours; it is put back more slowly"
        );
    }
}
