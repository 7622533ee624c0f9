// SPDX-License-Identifier: Apache-2.0
//! The wiring of interception: what the pulse is given, and what gives it orders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nodens_netsetup::plan::{Capture, Plan};
use nodens_netsetup::sockets;

use super::ground::{Ground, Tools};
use crate::admin::{Clients, Retire, Retired, control};
use crate::config::{Config, Listen, Located, Problem};
use crate::inspect::page;
use crate::lifecycle::interception::{Interception, Parts, Sources};
use crate::lifecycle::orders::Orders;
use crate::lifecycle::ready::Health;
use crate::lifecycle::steering::Steering;
use crate::lifecycle::switch::{Sight, WorkerSight};
use crate::listeners::{self, Asked, Sockets};
use crate::stream::Streams;
use crate::telemetry::cells::WorkerCells;
use crate::telemetry::clock::Clock;
use crate::telemetry::registry::Telemetry;

/// How long the start waits for the first answers. It goes on without: they may yet come.
const FIRST_ANSWERS: Duration = Duration::from_secs(10);

/// What an order to retire may take beyond the grace of connections.
const BEYOND: Duration = Duration::from_secs(3);

/// Where interception finds the rest of the agent.
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) health: &'a Arc<Health>,
    pub(super) telemetry: &'a Arc<Telemetry>,
    pub(super) sockets: Sockets,
}

/// Tells once that queries are steered here.
pub(super) type Arming = mpsc::Receiver<()>;

/// The plan, with other addresses to listen on for those that another program holds: node-cache, as
/// long as both are here. Its socket gets nothing from then on, and can go when it likes.
pub(super) fn beside_others(plan: &Plan) -> Plan {
    match sockets::beside_others(plan) {
        Ok(plan) => {
            for stand_in in &plan.stand_ins {
                tracing::info!(
                    address = %stand_in.service,
                    answered_at = %stand_in.local,
                    "another program listens there: its new queries are steered here"
                );
            }
            plan
        }
        Err(error) => {
            tracing::warn!(%error, "cannot see who else listens");
            plan.clone()
        }
    }
}

/// What is listened on: the configured addresses or their stand-ins, and those that Service addresses
/// are steered to.
pub(super) fn listen(config: &Config, plan: Option<&Plan>) -> Listen {
    let mut listen = config.listen.clone();
    if let Some(plan) = plan {
        for address in &mut listen.addresses {
            address.value = plan.stands_for(address.value);
        }
    }
    for capture in plan.iter().flat_map(|plan| &plan.captures) {
        let services = config.cluster.dns_service.iter();
        let origin = services
            .filter(|service| service.value == capture.service)
            .map(|service| service.origin.clone())
            .next();
        listen.addresses.push(Located {
            value: capture.local,
            origin: origin.unwrap_or_else(|| config.listen.port.origin.clone()),
        });
    }
    listen
}

/// The admin socket. Nobody has asked for one where its path is the default and nothing is
/// intercepted: there it may be missing.
pub(super) fn control(config: &Config) -> Result<Option<UnixListener>, Vec<Problem>> {
    let socket = &config.admin.socket;
    match control::bind(&socket.value) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let problem = Problem {
                origin: socket.origin.clone(),
                message: error.to_string(),
                remedy: error.remedy().to_owned(),
            };
            if config.intercept.enabled || config.admin.is_socket_given {
                return Err(vec![problem]);
            }
            tracing::warn!(%problem, "there is no admin socket");
            Ok(None)
        }
    }
}

/// What the pulse needs to steer.
pub(super) fn interception(
    ground: &Ground,
    tools: Tools,
    steering: &Arc<Steering>,
    around: &Around<'_>,
) -> (Interception, Arming) {
    let plan = ground.plan.clone();
    let steering = Arc::clone(steering);
    around.health.set_steering(Arc::clone(&steering));
    let (armed, arming) = mpsc::channel();
    let (health, telemetry) = (Arc::clone(around.health), Arc::clone(around.telemetry));
    let (sockets, stream) = (Arc::clone(&around.sockets), Arc::clone(&telemetry.stream));
    let sight = move || {
        let waiting = listeners::waiting(&sockets, telemetry.workers.len());
        let workers = telemetry.workers.iter().zip(waiting);
        let worker = |(cells, has_waiting): (&Arc<_>, bool)| see(cells, has_waiting);
        Sight {
            workers: workers.map(worker).collect(),
            cold: health.beats(),
        }
    };
    let interception = Interception::new(Parts {
        plan,
        dead_after: around.config.intercept.dead_after,
        farewell: around.config.limits.drain_timeout,
        active: tools.active,
        watch: tools.watch,
        steering,
        sources: Sources {
            sight: Box::new(sight),
            connections: Box::new(move || stream.connections_open()),
        },
        armed,
    });
    (interception, arming)
}

fn see(cells: &Arc<WorkerCells>, has_waiting: bool) -> WorkerSight {
    WorkerSight {
        has_waiting,
        progress: cells.progress.load(Relaxed),
    }
}

/// Waits until queries are steered here.
pub(super) fn wait_until_armed(arming: &Arming) {
    // Where the pulse has ended, whoever waits for the end hears of it.
    if arming.recv_timeout(FIRST_ANSWERS) == Err(RecvTimeoutError::Timeout) {
        tracing::error!("no address answers yet; queries are steered here when one does");
    }
}

/// Who asks where: at the node-local addresses, which pods name in their resolv.conf and lose with
/// the agent, or at a Service's, which somebody else answers then.
pub(super) fn clients(plan: Option<&Plan>, asked: Asked) -> Clients {
    let by_local = |captures: &[Capture]| -> BTreeMap<_, _> {
        let pairs = captures.iter().map(|one| (one.local, one.service));
        pairs.collect()
    };
    let services = by_local(plan.map_or(&[][..], |plan| &plan.captures));
    let stand_ins = by_local(plan.map_or(&[][..], |plan| &plan.stand_ins));
    Box::new(move || {
        let named = |address: SocketAddr| {
            let asked = stand_ins.get(&address.ip()).copied();
            SocketAddr::new(asked.unwrap_or_else(|| address.ip()), address.port())
        };
        let of = |(address, seconds_ago): (SocketAddr, Option<u32>)| page::Asked {
            address: named(address).to_string(),
            service: services.get(&address.ip()).map(ToString::to_string),
            asked: seconds_ago.map(u64::from),
        };
        let asked = listeners::seconds_ago(&asked, Clock.now());
        page::Clients {
            addresses: asked.into_iter().map(of).collect(),
        }
    })
}

/// What the admin socket's order does.
pub(super) fn retire(
    is_steering: bool,
    orders: &Arc<Orders>,
    streams: &Arc<Streams>,
    config: &Config,
) -> Retire {
    let grace = config.limits.drain_timeout;
    let (orders, streams) = (Arc::clone(orders), Arc::clone(streams));
    Box::new(move || {
        let (orders, streams) = (Arc::clone(&orders), Arc::clone(&streams));
        Box::pin(async move {
            if !is_steering {
                return Retired::WasOff;
            }
            // New queries go elsewhere first; then connections are let go, each after an answer.
            let (is_done, _) = tokio::join!(orders.retire(grace + BEYOND), streams.let_go(grace));
            if is_done {
                Retired::Done
            } else {
                Retired::NotYet
            }
        })
    })
}
