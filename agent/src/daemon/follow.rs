// SPDX-License-Identifier: Apache-2.0
//! Addresses that come and go while the agent runs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use crate::config::Listen;
use crate::lifecycle::drain::DrainWatcher;
use crate::lifecycle::ready::Health;
use crate::listeners::{self, Listeners};
use crate::stream::Streams;
use crate::telemetry::asked::LastAsked;
use crate::telemetry::clock::Clock;

/// Keeps the served addresses those of the configuration, and of the host where that has a
/// wildcard.
pub(super) struct Follow {
    pub(super) is_needed: bool,
    pub(super) listen: Listen,
    pub(super) workers: usize,
    pub(super) listeners: Listeners,
    pub(super) streams: Arc<Streams>,
    pub(super) watcher: DrainWatcher,
    pub(super) accepting: BTreeMap<SocketAddr, AbortHandle>,
    pub(super) health: Arc<Health>,
}

impl Follow {
    /// Serves over TCP what is served over UDP already.
    pub(super) fn accept(
        &mut self,
        parts: &mut JoinSet<()>,
        (listener, asked): (TcpListener, Arc<LastAsked>),
    ) {
        let Ok(address) = listener.local_addr() else {
            return;
        };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let accepting =
                    Arc::clone(&self.streams).accept(listener, asked, self.watcher.clone());
                self.accepting.insert(address, parts.spawn(accepting));
            }
            Err(error) => tracing::error!(%address, %error, "cannot serve over TCP"),
        }
    }

    /// Opens what the host has got since, closes what it has lost.
    pub(super) fn look(&mut self, parts: &mut JoinSet<()>) {
        let wanted = match listeners::expand(&self.listen) {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!(%error, "cannot read the host's addresses");
                return;
            }
        };
        let before = self.listeners.addresses();
        let is_wanted = |address: &SocketAddr| wanted.iter().any(|one| one.value == address.ip());
        for &gone in before.iter().filter(|address| !is_wanted(address)) {
            tracing::info!(address = %gone, "the host has lost an address");
            self.listeners.close(gone);
            if let Some(accepting) = self.accepting.remove(&gone) {
                accepting.abort();
            }
        }
        for new in &wanted {
            if before.iter().any(|address| address.ip() == new.value) {
                continue;
            }
            match listeners::bind(new, &self.listen.port, self.workers) {
                Ok(bound) => {
                    tracing::info!(address = %bound.address(), "the host has a new address");
                    for listener in self.listeners.open(vec![bound]) {
                        self.accept(parts, listener);
                    }
                }
                Err(refused) => {
                    tracing::warn!(problem = %refused.problem, "a new address cannot be served");
                }
            }
        }
        let now = self.listeners.addresses();
        if now != before {
            self.health.set_addresses(&now, Clock.now_ns());
        }
    }
}
