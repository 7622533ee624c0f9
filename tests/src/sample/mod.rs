// SPDX-License-Identifier: Apache-2.0
//! A sample cluster's DNS: every kind of name of Kubernetes' DNS specification 1.1.0 for the
//! domain `cluster.local`, a few names of the world outside, and answers as CoreDNS gives them.
//!
//! It keeps CoreDNS's manners where a client can tell: TTL 5, SOA in negative answers, names that
//! do not exist although something below them does, answers on one TCP connection strictly in
//! order, the connection closed after 10 s without a query (3 s before the first).
//!
//! Names below `bench.cluster.local` all exist with one A record each, see [`bench_address`].

mod data;
mod respond;
mod zonefile;
mod zones;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::rr::{RData, RecordType};

pub use respond::bench_address;
pub use zonefile::zone_files;
pub use zones::{Zone, Zones};

use crate::frames::{self, Frames};
use crate::host::{Door, Host, Service, lock};
use crate::query::{Outline, canonical};

/// A TCP connection without its first query this long is closed, as CoreDNS does.
const FIRST_QUERY: Duration = Duration::from_secs(3);
/// A TCP connection without a further query this long is closed, as CoreDNS does.
const NEXT_QUERY: Duration = Duration::from_secs(10);
/// TTL of the names below `bench.cluster.local` in seconds, unless a test sets another.
const BENCH_TTL: u32 = 30;

/// The sample cluster's DNS server, on UDP and TCP of one port of 127.0.0.1.
#[derive(Debug)]
pub struct Sample {
    host: Host,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    zones: RwLock<Zones>,
    counts: Mutex<HashMap<(String, u16), u64>>,
    total: AtomicU64,
    bench_ttl: AtomicU32,
    delay_ms: AtomicU64,
}

impl Sample {
    /// Starts with the sample cluster's names.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let state = Arc::new(State {
            zones: RwLock::new(Zones::sample()),
            counts: Mutex::default(),
            total: AtomicU64::new(0),
            bench_ttl: AtomicU32::new(BENCH_TTL),
            delay_ms: AtomicU64::new(0),
        });
        let host = Host::start(Answerer(Arc::clone(&state)))?;
        Ok(Self { host, state })
    }

    /// Where it answers.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.host.addr()
    }

    /// Queries received for this name and type. Names below `bench.cluster.local` count in
    /// [`Self::total`] alone, lest a flood of them fill the memory.
    #[must_use]
    pub fn queries(&self, name: &str, qtype: impl Into<u16>) -> u64 {
        let counts = lock(&self.state.counts);
        let key = (canonical(name), qtype.into());
        counts.get(&key).copied().unwrap_or(0)
    }

    /// All queries received.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.state.total.load(Relaxed)
    }

    /// Forgets all counts.
    pub fn reset_counts(&self) {
        lock(&self.state.counts).clear();
        self.state.total.store(0, Relaxed);
    }

    /// TCP connections accepted since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.host.door().accepted()
    }

    /// Replaces the records of a name and type; an empty list removes them.
    ///
    /// # Panics
    /// When `name` is no name, or a record has another type.
    pub fn set(&self, name: &str, rtype: RecordType, ttl: u32, data: Vec<RData>) {
        let mut zones = self.state.zones.write();
        let zones = zones.as_mut().unwrap_or_else(|e| e.get_mut());
        zones.set(&zones::name(name), rtype, ttl, data);
    }

    /// Removes all records of a name.
    ///
    /// # Panics
    /// When `name` is no name.
    pub fn remove(&self, name: &str) {
        let mut zones = self.state.zones.write();
        let zones = zones.as_mut().unwrap_or_else(|e| e.get_mut());
        zones.remove(&zones::name(name));
    }

    /// Sets the TTL of the names below `bench.cluster.local`, in seconds.
    pub fn set_bench_ttl(&self, ttl: u32) {
        self.state.bench_ttl.store(ttl, Relaxed);
    }

    /// Answers each query only after this time; on a TCP connection one after the other.
    pub fn set_delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.state.delay_ms.store(ms, Relaxed);
    }

    /// Goes away as a killed pod does, see [`Host::refuse`].
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse(&mut self) -> std::io::Result<()> {
        self.host.refuse()
    }

    /// Comes back on the same port, see [`Host::resume`].
    ///
    /// # Errors
    /// What the sockets report.
    pub fn resume(&mut self) -> std::io::Result<()> {
        self.host.resume()
    }

    /// Resets every open TCP connection.
    pub fn reset_connections(&self) {
        self.host.reset_connections();
    }

    /// A copy of the zones as they are now.
    #[must_use]
    pub fn zones(&self) -> Zones {
        let zones = self.state.zones.read();
        zones.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Relaxed))
    }

    /// Counts a query and answers it; `None` for what must not be answered.
    fn answer(&self, query: &[u8], udp: bool) -> Option<Vec<u8>> {
        self.total.fetch_add(1, Relaxed);
        let outline = Outline::read(query);
        if let Some(outline) = &outline
            && let Some(response) = respond::bench(query, outline, self.bench_ttl.load(Relaxed))
        {
            return Some(response);
        }
        if let Some(outline) = &outline {
            let key = (outline.name.clone(), outline.qtype);
            *lock(&self.counts).entry(key).or_default() += 1;
        }
        let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
        respond::respond(&zones, query, udp)
    }
}

struct Answerer(Arc<State>);

impl Service for Answerer {
    fn datagram(&self, query: &[u8], from: SocketAddr, door: &Arc<Door>) {
        let delay = self.0.delay();
        // A client that has gone away is no concern of a DNS server, here and below.
        if delay.is_zero() {
            if let Some(response) = self.0.answer(query, true) {
                let _ = door.udp.send_to(&response, from);
            }
            return;
        }
        let (state, door, query) = (Arc::clone(&self.0), Arc::clone(door), query.to_vec());
        std::thread::spawn(move || {
            let response = state.answer(&query, true);
            if let (true, Some(response)) = (door.wait(delay), response) {
                let _ = door.udp.send_to(&response, from);
            }
        });
    }

    fn connection(&self, stream: Arc<TcpStream>, _number: u64, door: &Arc<Door>) {
        let mut frames = Frames::new(Arc::clone(&stream));
        let mut idle = FIRST_QUERY;
        loop {
            let timeout = stream.set_read_timeout(Some(idle));
            // An error here is the end of the connection: idle too long, reset, or closed.
            let (Ok(()), Ok(Some(query))) = (timeout, frames.receive()) else {
                return;
            };
            if idle == FIRST_QUERY {
                idle = NEXT_QUERY;
            }
            let response = self.0.answer(&query, false);
            let delay = self.0.delay();
            if !delay.is_zero() && !door.wait(delay) {
                return;
            }
            if let Some(response) = response
                && frames::write(&stream, &response).is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
