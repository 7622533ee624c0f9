// SPDX-License-Identifier: Apache-2.0
//! Addresses that come and go while the agent runs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use crate::config::{Listen, limits};
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
    /// Addresses of the host that are above the bound.
    pub(super) left_out: usize,
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
        let before = self.listeners.addresses();
        let served = before.iter().map(SocketAddr::ip).collect();
        let wanted = match listeners::expand(&self.listen, &served) {
            Ok(expanded) => {
                self.say_left_out(expanded.left_out);
                expanded.addresses
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the host's addresses");
                return;
            }
        };
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

    /// Once, until it is another number.
    fn say_left_out(&mut self, left_out: usize) {
        let before = std::mem::replace(&mut self.left_out, left_out);
        if left_out > 0 && left_out != before {
            tracing::warn!(
                left_out,
                served = limits::MAX_HOST_ADDRESSES,
                remedy = "name the addresses that are to be served in place of the wildcard",
                "this host has more addresses than a wildcard stands for: those are not served"
            );
        }
    }
}
