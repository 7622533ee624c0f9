// SPDX-License-Identifier: Apache-2.0
//! Who waits for a connection.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use tokio::sync::oneshot;

use super::Got;

/// Queries that wait for a connection. Clients take turns: one that asks for what nobody answers
/// does not stand in front of the others with all its queries.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    of: HashMap<IpAddr, VecDeque<oneshot::Sender<Got>>, foldhash::quality::RandomState>,
    turn: VecDeque<IpAddr>,
    held: usize,
    /// With as many held, those are let go that wait no more.
    clear_at: usize,
}

impl Waiting {
    /// Those that wait; some may have gone.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    pub(super) fn push(&mut self, client: IpAddr, sender: oneshot::Sender<Got>) {
        const FEW: usize = 64;
        if self.held >= self.clear_at.max(FEW) {
            self.clear();
            self.clear_at = self.held * 2;
        }
        self.held += 1;
        let queue = self.of.entry(client).or_default();
        if queue.is_empty() {
            self.turn.push_back(client);
        }
        queue.push_back(sender);
    }

    /// The next one that still waits.
    pub(super) fn pop(&mut self) -> Option<oneshot::Sender<Got>> {
        while let Some(client) = self.turn.pop_front() {
            let Some(queue) = self.of.get_mut(&client) else {
                continue;
            };
            // Those who wait no more take no turn.
            let mut waits = None;
            while let Some(next) = queue.pop_front() {
                self.held -= 1;
                if !next.is_closed() {
                    waits = Some(next);
                    break;
                }
            }
            if queue.is_empty() {
                self.of.remove(&client);
            } else {
                self.turn.push_back(client);
            }
            if waits.is_some() {
                return waits;
            }
        }
        None
    }

    fn clear(&mut self) {
        self.of.retain(|_, queue| {
            queue.retain(|sender| !sender.is_closed());
            !queue.is_empty()
        });
        self.turn.retain(|client| self.of.contains_key(client));
        self.held = self.of.values().map(VecDeque::len).sum();
        self.of.shrink_to_fit();
        self.turn.shrink_to_fit();
    }
}
