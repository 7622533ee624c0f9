// SPDX-License-Identifier: Apache-2.0
//! Clients over TCP (RFC 7766): many queries on a connection, answered in whatever order their
//! answers come, within limits.

mod connection;
mod places;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::connection::{Came, Connection, Leave};
use self::places::{Place, Places};
use crate::cache::Reader;
use crate::config::Listen;
use crate::lifecycle::drain::{self, DrainEnd, DrainTrigger, DrainWatcher};
use crate::lifecycle::ready::Health;
use crate::lock::lock;
use crate::resolve::Resolver;
use crate::telemetry::asked::LastAsked;
use crate::telemetry::cells::StreamCells;
use crate::wire::MAX_MESSAGE;

/// How long connections are still taken when the drain has begun: the kernel sends no new ones here
/// then, and those whose handshake is under way must not be reset.
const STILL_ACCEPT: Duration = Duration::from_millis(50);
/// Pause after an error of accept: the system is short of something.
const PAUSE: Duration = Duration::from_millis(50);
/// The log is told of such an error at most this often.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What all connections share.
#[derive(Debug)]
pub struct Streams {
    resolver: Arc<Resolver>,
    reader: Mutex<Reader>,
    cells: Arc<StreamCells>,
    health: Arc<Health>,
    limits: Listen,
    places: Arc<Places>,
    /// Room for one message.
    buffer: Mutex<Vec<u8>>,
    /// Lets go of the connections that there are, without an end of the process.
    retire: Mutex<(DrainTrigger, DrainWatcher)>,
}

impl Streams {
    /// Serves within the limits of `listen`.
    #[must_use]
    pub fn new(
        resolver: Arc<Resolver>,
        reader: Reader,
        cells: Arc<StreamCells>,
        health: Arc<Health>,
        listen: &Listen,
    ) -> Arc<Self> {
        let (most, of_client) = (listen.tcp_connections, listen.tcp_connections_per_client);
        Arc::new(Self {
            resolver,
            reader: Mutex::new(reader),
            places: Places::new(most, of_client, &cells),
            cells,
            health,
            limits: listen.clone(),
            buffer: Mutex::new(vec![0; MAX_MESSAGE]),
            retire: Mutex::new(drain::new()),
        })
    }

    /// Takes connections until the drain begins, then waits for those that are left.
    /// Queries are noted in `asked`.
    pub async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        asked: Arc<LastAsked>,
        drain: DrainWatcher,
    ) {
        let mut connections = JoinSet::new();
        let mut said: Option<Instant> = None;
        let begun = drain.clone().begun();
        let over = async {
            let _blocker = begun.await;
            sleep(STILL_ACCEPT).await;
        };
        tokio::pin!(over);
        let mut is_over = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut over, if !is_over => {
                    is_over = true;
                    continue;
                }
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => Some(accepted),
                // What the kernel has ready is taken to the last.
                () = std::future::ready(()), if is_over => None,
            };
            match accepted {
                None => break,
                Some(Ok((stream, peer))) => {
                    let came = Came {
                        stream,
                        peer,
                        asked: Arc::clone(&asked),
                    };
                    self.take(&mut connections, came, drain.clone());
                }
                Some(Err(error)) => {
                    let now = Instant::now();
                    if said.is_none_or(|last| now >= last + SAID_EVERY) {
                        said = Some(now);
                        tracing::warn!(%error, "cannot take a TCP connection");
                    }
                    if is_over {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        drop(drain);
        while connections.join_next().await.is_some() {}
    }

    fn take(self: &Arc<Self>, connections: &mut JoinSet<()>, came: Came, drain: DrainWatcher) {
        let peer = came.peer;
        // The agent's own probe takes no client's place, and finds one always.
        let is_probe = self.health.is_probe(peer);
        let place = if is_probe {
            None
        } else {
            self.places.take(peer.ip())
        };
        if is_probe || place.is_some() {
            let guest = place.as_ref().map(Place::guest);
            let leave = Leave {
                drain,
                retire: lock(&self.retire).1.clone(),
            };
            let connection = Connection::new(self, place, came);
            let task = connections.spawn(connection.live(leave));
            if let Some(guest) = guest {
                guest.runs_in(task);
            }
        }
    }

    /// Lets go of the connections that there are, each after an answer, within `grace`; those
    /// that come later stay.
    pub async fn let_go(&self, grace: Duration) -> DrainEnd {
        let (trigger, watcher) = std::mem::replace(&mut *lock(&self.retire), drain::new());
        drop(watcher);
        trigger.drain(grace).await
    }
}
