// SPDX-License-Identifier: Apache-2.0
//! The cold thread: one runtime for misses, clients over TCP, admin, signals and the drain.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::follow::Follow;
use super::{End, StartError};
use crate::admin::{self, AdminState, Pages};
use crate::cache::{Cache, Tick};
use crate::config::Listen;
use crate::lifecycle::drain::{self, DrainEnd};
use crate::lifecycle::ready::{BEAT_PERIOD, Health};
use crate::lifecycle::reload::Reload;
use crate::lifecycle::signals::{Signal, Signals};
use crate::listeners::{self, Listeners};
use crate::miss::Receiver;
use crate::resolve::Resolver;
use crate::stream::Streams;
use crate::telemetry::clock::{Clock, nanoseconds};
use crate::telemetry::registry::Telemetry;

/// How often the host's addresses are read where a wildcard is listened on.
const FOLLOW: Duration = Duration::from_secs(2);
/// Beats of the cold thread in a second.
const BEATS_A_SECOND: u32 = 4;

/// Everything that the cold thread has.
pub(super) struct Cold {
    pub(super) queue: Receiver,
    pub(super) ear: OwnedFd,
    pub(super) resolver: Arc<Resolver>,
    pub(super) streams: Arc<Streams>,
    pub(super) accepting: Vec<TcpListener>,
    pub(super) listeners: Listeners,
    pub(super) listen: Listen,
    pub(super) workers: usize,
    pub(super) admin: Vec<(TcpListener, Pages)>,
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.run(started)),
            Err(source) => {
                let step = "start the runtime";
                let _ = started.send(Err(StartError::System { step, source }));
            }
        }
    }

    async fn run(mut self, started: &mpsc::Sender<Result<(), StartError>>) {
        if self.require_upstream && !self.resolver.reaches_an_upstream().await {
            let _ = started.send(Err(StartError::NoUpstream));
            return;
        }
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(source) => {
                let step = "take over the signals";
                let _ = started.send(Err(StartError::System { step, source }));
                return;
            }
        };
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
        let mut follow = Follow {
            is_needed: listeners::has_wildcard(&self.listen),
            listen: self.listen,
            workers: self.workers,
            listeners: self.listeners,
            streams: self.streams,
            watcher,
            accepting: BTreeMap::new(),
            health: Arc::clone(&self.health),
        };
        for listener in self.accepting {
            follow.accept(&mut parts, listener);
        }
        let (stop_admin, admin_stopped) = oneshot::channel::<()>();
        let state = Arc::new(AdminState {
            health: Arc::clone(&self.health),
            telemetry: Arc::clone(&self.telemetry),
        });
        parts.spawn(async move {
            let until = async {
                let _ = admin_stopped.await;
            };
            if let Err(error) = admin::serve(self.admin, state, until).await {
                tracing::error!(%error, "health and metrics are not served");
            }
        });
        let house = keep_house(
            Arc::clone(&self.health),
            self.cache.clone(),
            Arc::clone(&self.resolver),
        );
        parts.spawn(house);
        obey(&mut signals, &mut self.reload, &mut follow, &mut parts).await;

        tracing::info!("draining");
        self.health.begin_drain();
        let end = self.end.clone();
        parts.spawn(async move {
            while signals.next().await != Signal::ExitNow {}
            let _ = end.send(End::Now);
        });
        // As a reload may have left it.
        let grace = self.reload.config.limits.drain_timeout;
        let deadline = Instant::now() + grace;
        let resolver = Arc::clone(&self.resolver);
        let answered = async {
            // While others wait for their answers the workers go on: a socket that nobody reads
            // neither answers a client nor sends it elsewhere.
            let _ = timeout(grace * 3 / 4, settled(&resolver)).await;
            let _ = self.end.send(End::Drain);
            let _ = self.workers_have_ended.await;
            drop(follow);
            // What they have handed over at the last.
            let _ = timeout_at(deadline, settled(&resolver)).await;
        };
        let (end, ()) = tokio::join!(trigger.drain(grace), answered);
        let left = resolver.in_flight();
        if end == DrainEnd::TimedOut || left > 0 {
            tracing::warn!(left, "the drain took too long; the rest gets SERVFAIL");
        } else {
            tracing::info!("drained");
        }
        let _ = stop_admin.send(());
    }
}

/// Waits until nobody waits for an answer.
async fn settled(resolver: &Resolver) {
    while resolver.in_flight() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Carries out signals until one asks for the end.
async fn obey(
    signals: &mut Signals,
    reload: &mut Reload,
    follow: &mut Follow,
    parts: &mut JoinSet<()>,
) {
    let mut look = interval(FOLLOW);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reload.run(),
                Signal::Drain | Signal::ExitNow => return,
            },
            _ = look.tick(), if follow.is_needed => follow.look(parts),
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
            resolver.close_idle();
        }
    }
}
