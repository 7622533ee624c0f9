// SPDX-License-Identifier: Apache-2.0
//! The places for clients' connections: how many there may be, and who goes where all are taken.
//!
//! A newcomer is worth more than a connection that rests (RFC 7766 section 6.2.2), and no client
//! keeps others out by holding many: the one that has most gives one up. So a flood of connections
//! takes nothing from those who ask, the agent's own probes among them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::task::AbortHandle;

use crate::lock::lock;
use crate::telemetry::cells::{ConnectionRefusal, StreamCells};
use crate::telemetry::clock::Clock;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    /// Connections at one time.
    most: usize,
    /// Connections of one source address at one time.
    most_of_client: usize,
    cells: Arc<StreamCells>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    guests: HashMap<u64, Arc<Guest>>,
    /// How many each source address has.
    of_client: HashMap<IpAddr, usize>,
}

/// Who has a place, as others see it.
#[derive(Debug)]
pub(super) struct Guest {
    client: IpAddr,
    /// When its last query or answer passed, in nanoseconds of the agent's clock.
    active_ns: AtomicU64,
    is_waiting: AtomicBool,
    task: OnceLock<AbortHandle>,
}

/// One connection's place. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    guest: Arc<Guest>,
}

impl Places {
    pub(super) fn new(most: usize, most_of_client: usize, cells: &Arc<StreamCells>) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_client,
            cells: Arc::clone(cells),
            taken: Mutex::default(),
        })
    }

    /// A place for a connection of this client. Where all are taken another connection ends for
    /// it: one of the client's own where it has as many as it may, else one of the client that has
    /// most. `None` where that would be the client itself and all its connections await answers.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let own = taken.of_client.get(&client).copied().unwrap_or(0);
        if own >= self.most_of_client {
            self.cells.refuse(ConnectionRefusal::Client);
            let (number, _) = taken.longest_idle(client).filter(|(_, idle)| *idle)?;
            taken.end(number, &self.cells);
        } else if taken.guests.len() >= self.most {
            self.cells.refuse(ConnectionRefusal::Total);
            let (&most, &count) = taken.of_client.iter().max_by_key(|(_, count)| **count)?;
            let (number, is_idle) = taken.longest_idle(most)?;
            if !is_idle && count <= own + 1 {
                return None;
            }
            taken.end(number, &self.cells);
        }
        let number = taken.next;
        taken.next += 1;
        let guest = Arc::new(Guest {
            client,
            active_ns: AtomicU64::new(Clock.now_ns()),
            is_waiting: AtomicBool::new(false),
            task: OnceLock::new(),
        });
        taken.guests.insert(number, Arc::clone(&guest));
        *taken.of_client.entry(client).or_default() += 1;
        self.cells.open();
        Some(Place {
            places: Arc::clone(self),
            number,
            guest,
        })
    }
}

impl Taken {
    /// Of a client's connections the one that rests longest, and that it rests; where all await
    /// answers the one that has done so longest.
    fn longest_idle(&self, client: IpAddr) -> Option<(u64, bool)> {
        let own = self
            .guests
            .iter()
            .filter(|(_, guest)| guest.client == client);
        let (&number, guest) = own.min_by_key(|(_, guest)| {
            (
                guest.is_waiting.load(Relaxed),
                guest.active_ns.load(Relaxed),
            )
        })?;
        Some((number, !guest.is_waiting.load(Relaxed)))
    }

    fn remove(&mut self, number: u64, cells: &StreamCells) -> Option<Arc<Guest>> {
        let guest = self.guests.remove(&number)?;
        cells.close();
        if let Some(count) = self.of_client.get_mut(&guest.client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&guest.client);
            }
        }
        Some(guest)
    }

    /// Ends a connection now. Its task has not been run since it was chosen: one thread runs all.
    fn end(&mut self, number: u64, cells: &StreamCells) {
        if let Some(task) = self
            .remove(number, cells)
            .and_then(|guest| guest.task.get().cloned())
        {
            task.abort();
        }
    }
}

impl Place {
    /// Who has the place, for [`Guest::runs_in`].
    pub(super) fn guest(&self) -> Arc<Guest> {
        Arc::clone(&self.guest)
    }

    /// A query or an answer has passed.
    pub(super) fn touch(&self) {
        self.guest.active_ns.store(Clock.now_ns(), Relaxed);
    }

    /// Whether the connection awaits answers from now on.
    pub(super) fn awaits_answers(&self, it_does: bool) {
        self.guest.is_waiting.store(it_does, Relaxed);
    }
}

impl Guest {
    /// Says which task serves the connection.
    pub(super) fn runs_in(&self, task: AbortHandle) {
        // It is said once.
        let _ = self.task.set(task);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It is gone already where the connection had to end for another one.
        lock(&self.places.taken).remove(self.number, &self.places.cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize, most_of_client: usize) -> Arc<Places> {
        Places::new(most, most_of_client, &Arc::default())
    }

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn has(places: &Places, place: &Place) -> bool {
        lock(&places.taken).guests.contains_key(&place.number)
    }

    #[test]
    fn a_place_comes_back_once() {
        let places = places(2, 2);
        let first = places.take(client(1)).unwrap();
        let second = places.take(client(1)).unwrap();
        assert_eq!(places.cells.connections_open(), 2);
        let third = places.take(client(2)).unwrap();
        assert_eq!(places.cells.connections_open(), 2);
        drop((first, second, third));
        assert_eq!(places.cells.connections_open(), 0);
        let taken = lock(&places.taken);
        assert!(taken.guests.is_empty() && taken.of_client.is_empty());
    }

    #[test]
    fn the_client_that_has_most_gives_up_what_rests_longest() {
        let places = places(4, 3);
        let single = places.take(client(1)).unwrap();
        let flood: Vec<_> = (0..3).map(|_| places.take(client(2)).unwrap()).collect();
        flood[0].awaits_answers(true);
        let newcomer = places.take(client(3)).unwrap();
        assert!(has(&places, &flood[0]), "it waits for an answer");
        assert!(!has(&places, &flood[1]) && has(&places, &flood[2]));
        assert!(has(&places, &single) && has(&places, &newcomer));
        assert_eq!(places.cells.connections_refused(), [1, 0]);
    }

    #[test]
    fn where_all_await_answers_the_one_with_most_still_makes_room_for_others() {
        let places = places(3, 3);
        let flood: Vec<_> = (0..3).map(|_| places.take(client(2)).unwrap()).collect();
        for place in &flood {
            place.awaits_answers(true);
        }
        let newcomer = places.take(client(1)).unwrap();
        newcomer.awaits_answers(true);
        assert!(!has(&places, &flood[0]) && has(&places, &flood[1]));
        assert!(places.take(client(2)).is_none(), "it has most itself");
        assert!(places.take(client(1)).is_none(), "it would then have most");
        assert_eq!(places.cells.connections_open(), 3);
    }

    #[test]
    fn a_client_beyond_its_share_gives_up_its_own() {
        let places = places(10, 2);
        let other = places.take(client(1)).unwrap();
        let first = places.take(client(2)).unwrap();
        let second = places.take(client(2)).unwrap();
        let third = places.take(client(2)).unwrap();
        assert!(!has(&places, &first) && has(&places, &second) && has(&places, &third));
        second.awaits_answers(true);
        third.awaits_answers(true);
        assert!(places.take(client(2)).is_none());
        assert!(has(&places, &other));
        assert_eq!(places.cells.connections_refused(), [0, 2]);
    }
}
