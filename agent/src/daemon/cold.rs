// SPDX-License-Identifier: Apache-2.0
//! The cold thread: one runtime for misses, clients over TCP, admin, signals and the drain.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::follow::Follow;
use super::{End, StartError};
use crate::admin::{self, AdminState, Clients, Doors, Retire};
use crate::cache::{Cache, Tick};
use crate::config::Listen;
use crate::inspect::Inspector;
use crate::lifecycle::drain::{self, DrainEnd};
use crate::lifecycle::files::Files;
use crate::lifecycle::orders::Orders;
use crate::lifecycle::privileges;
use crate::lifecycle::ready::{BEAT_PERIOD, Health};
use crate::lifecycle::reload::Reload;
use crate::lifecycle::signals::{Signal, Signals};
use crate::listeners::{self, Listeners};
use crate::miss::Receiver;
use crate::resolve::Resolver;
use crate::stream::Streams;
use crate::telemetry::asked::LastAsked;
use crate::telemetry::clock::{Clock, nanoseconds};
use crate::telemetry::registry::Telemetry;

/// How often the host's addresses are read where a wildcard is listened on.
const FOLLOW: Duration = Duration::from_secs(2);
/// The part of a drain's grace that is kept for stopping the workers and for what they hand over
/// last.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// How long the kernel may take to steer no more: another program may be changing its rules.
const LET_GO: Duration = Duration::from_secs(2);
/// How often is looked whether something has come to its end.
const LOOK: Duration = Duration::from_millis(5);
/// Beats of the cold thread in a second.
const BEATS_A_SECOND: u32 = 4;
/// How long an upstream is waited for where one is required, and between two looks.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(10);
const UPSTREAM_PAUSE: Duration = Duration::from_millis(200);

/// Everything that the cold thread has.
pub(super) struct Cold {
    pub(super) queue: Receiver,
    pub(super) ear: OwnedFd,
    pub(super) resolver: Arc<Resolver>,
    pub(super) streams: Arc<Streams>,
    pub(super) accepting: Vec<(TcpListener, Arc<LastAsked>)>,
    pub(super) listeners: Listeners,
    pub(super) listen: Listen,
    pub(super) workers: usize,
    pub(super) admin: Doors,
    /// The admin socket, and where it is.
    pub(super) control: Option<(UnixListener, PathBuf)>,
    pub(super) retire: Retire,
    pub(super) clients: Clients,
    pub(super) orders: Arc<Orders>,
    pub(super) health: Arc<Health>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) cache: Cache,
    pub(super) end: mpsc::Sender<End>,
    pub(super) workers_have_ended: oneshot::Receiver<()>,
    pub(super) require_upstream: bool,
    pub(super) reload: Reload,
}

impl Cold {
    pub(super) fn live(self, started: &mpsc::Sender<Result<(), StartError>>) {
        /// Ports below it are for those with a capability.
        const FREE_PORTS: u16 = 1024;
        // Addresses that the node gets later are listened on from here.
        if listeners::has_wildcard(&self.listen) && self.listen.port.value < FREE_PORTS {
            privileges::keep_ports();
        } else {
            privileges::drop_all();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let resolver = Arc::clone(&self.resolver);
                runtime.block_on(self.run(started));
                // Tasks that are left tell their clients so while they are dropped.
                drop(runtime);
                resolver.send_now();
            }
            Err(source) => {
                let step = "start the runtime";
                let _ = started.send(Err(StartError::System { step, source }));
            }
        }
    }

    /// Waits for an upstream: those of a release that was installed a moment ago have a Service before
    /// this node knows the way to it.
    async fn await_an_upstream(&self, signals: &mut Signals) -> Result<(), StartError> {
        let reaching = async {
            if self.resolver.reaches_an_upstream().await {
                return;
            }
            let patience_s = UPSTREAM_PATIENCE.as_secs();
            tracing::info!(patience_s, "no upstream takes a connection yet; waiting");
            loop {
                sleep(UPSTREAM_PAUSE).await;
                if self.resolver.reaches_an_upstream().await {
                    return;
                }
            }
        };
        let reaching = timeout(UPSTREAM_PATIENCE, reaching);
        tokio::pin!(reaching);
        loop {
            tokio::select! {
                reached = &mut reaching => return reached.map_err(|_| StartError::NoUpstream),
                signal = signals.next() => match signal {
                    Signal::Drain | Signal::ExitNow => return Err(StartError::Stopped),
                    // It was read a moment ago.
                    Signal::Reload => {}
                },
            }
        }
    }

    async fn run(mut self, started: &mpsc::Sender<Result<(), StartError>>) {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(source) => {
                let step = "take over the signals";
                let _ = started.send(Err(StartError::System { step, source }));
                return;
            }
        };
        if self.require_upstream
            && let Err(error) = self.await_an_upstream(&mut signals).await
        {
            let _ = started.send(Err(error));
            return;
        }
        let _ = started.send(Ok(()));
        let (trigger, watcher) = drain::new();
        let mut parts = JoinSet::new();
        let resolver = Arc::clone(&self.resolver);
        let end = self.end.clone();
        parts.spawn(async move {
            if let Err(error) = resolver.take_in(self.queue, self.ear).await {
                let _ = end.send(End::Failed(format!("the queue of misses: {error}")));
            }
        });
        parts.spawn(Arc::clone(&self.resolver).send_out());
        parts.spawn(Arc::clone(&self.resolver).look_after());
        let mut follow = Follow {
            is_needed: listeners::has_wildcard(&self.listen),
            listen: self.listen,
            workers: self.workers,
            listeners: self.listeners,
            streams: self.streams,
            watcher,
            accepting: BTreeMap::new(),
            health: Arc::clone(&self.health),
            left_out: 0,
        };
        for listener in self.accepting {
            follow.accept(&mut parts, listener);
        }
        let (stop_admin, admin_stopped) = oneshot::channel::<()>();
        let state = Arc::new(AdminState {
            health: Arc::clone(&self.health),
            telemetry: Arc::clone(&self.telemetry),
            retire: self.retire,
            clients: self.clients,
            inspector: Arc::new(Inspector::new(
                self.cache.clone(),
                Arc::clone(&self.resolver),
                Arc::clone(&self.telemetry),
                Arc::clone(&self.health),
            )),
        });
        let (control, control_path) = self.control.unzip();
        parts.spawn(async move {
            let until = async {
                let _ = admin_stopped.await;
            };
            if let Err(error) = admin::serve(self.admin, control, state, until).await {
                tracing::error!(%error, "health and metrics are not served");
            }
        });
        let house = keep_house(
            Arc::clone(&self.health),
            self.cache.clone(),
            Arc::clone(&self.resolver),
        );
        parts.spawn(house);
        let mut files = Files::new(&self.reload);
        let stop = obey(
            &mut signals,
            &mut self.reload,
            &mut files,
            &mut follow,
            &mut parts,
        );
        let stop = stop.await;
        if let Some(why) = stop {
            let _ = self.end.send(End::Failed(why));
            return;
        }

        tracing::info!("draining");
        self.health.begin_drain();
        // From here on the main thread hears whether a second signal comes.
        let end = self.end.clone();
        let _ = end.send(End::Drain);
        let hurry = self.end.clone();
        parts.spawn(async move {
            while signals.next().await != Signal::ExitNow {}
            let _ = hurry.send(End::Now);
        });
        // As a reload may have left it.
        let grace = self.reload.config.limits.drain_timeout;
        let over_ns = Clock.now_ns().saturating_add(nanoseconds(grace));
        // Nothing new is steered here before we stop to take it.
        if !self.orders.drain(LET_GO.min(grace)).await {
            tracing::warn!("the kernel may still steer queries here until its switch trips");
        }
        let began_ns = Clock.now_ns();
        let grace = Duration::from_nanos(over_ns.saturating_sub(began_ns));
        follow.listeners.give_way();
        drop(follow);
        let resolver = Arc::clone(&self.resolver);
        // Workers go on until those who waited have their answers: what comes meanwhile is not
        // lost while there is time.
        let first = grace.saturating_sub(LAST_WORDS);
        let waited = timeout(first, until(|| !resolver.has_waited_since(began_ns)));
        let (streams, waited) = tokio::join!(trigger.drain(first), waited);
        let _ = end.send(End::StopWorkers);
        drop(end);
        let _ = timeout(LAST_WORDS, self.workers_have_ended).await;
        // What they handed over last: taken in while we wait for the first time.
        let left = Duration::from_nanos(over_ns.saturating_sub(Clock.now_ns()));
        sleep(LOOK).await;
        let _ = timeout(left.max(LAST_WORDS), until(|| resolver.in_flight() == 0)).await;
        resolver.send_now();
        if streams == DrainEnd::TimedOut || waited.is_err() {
            let left = resolver.in_flight();
            tracing::warn!(left, "the drain took too long; the rest gets SERVFAIL");
        } else {
            tracing::info!("drained");
        }
        let _ = stop_admin.send(());
        if let Some(path) = control_path {
            // Who finds it later finds that nobody listens.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(LOOK).await;
    }
}

/// Carries out signals until one asks for the end, or a part ends that must not: then says which.
async fn obey(
    signals: &mut Signals,
    reload: &mut Reload,
    files: &mut Files,
    follow: &mut Follow,
    parts: &mut JoinSet<()>,
) -> Option<String> {
    let mut look = interval(FOLLOW);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => {
                    reload.run();
                    files.follow(reload);
                }
                Signal::Drain | Signal::ExitNow => return None,
            },
            changed = files.changed() => files.read_again(&changed, reload),
            _ = look.tick(), if follow.is_needed => follow.look(parts),
            Some(ended) = parts.join_next() => match ended {
                Err(error) if error.is_panic() => {
                    return Some(format!("a part of the cold thread: {error}"));
                }
                // A listener whose address the host has lost.
                _ => {}
            },
        }
    }
}

/// The cold thread's own rounds: a sign of life, and what nobody else throws away.
async fn keep_house(health: Arc<Health>, cache: Cache, resolver: Arc<Resolver>) {
    let mut beat = interval(BEAT_PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u32.. {
        beat.tick().await;
        let now = Clock.now();
        health.beat(nanoseconds(now));
        if round % BEATS_A_SECOND == 0 {
            cache.sweep(Tick::of(now));
            resolver.look_after_upstreams();
        }
    }
}
