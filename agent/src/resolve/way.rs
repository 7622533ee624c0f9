// SPDX-License-Identifier: Apache-2.0
//! The way to one server: how a connection to it begins, and what is known of the way itself, such as
//! that the server does not speak TCP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustls::RootCertStore;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::dial::dial;
use super::lock;
use super::loops::Circle;
use super::octets::Stream;
use super::tls::Tls;
use super::udp::{self, Said};
use crate::config::Transport;
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::wire::question::Question;

/// Connections in a row that failed, before the server is asked over UDP whether it lives.
const SUSPICIOUS: u32 = 3;

/// Questions to one server over UDP at one time: each has a socket of its own.
const DATAGRAMS: usize = 1024;

/// A handshake of TLS takes two round trips and the work of a signature.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// How long after one such question comes the next.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The way to a server.
#[derive(Debug)]
pub(super) struct Way {
    server: SocketAddr,
    transport: Transport,
    tls: Option<Tls>,
    /// A permit a question that may be under way over UDP.
    datagrams: Semaphore,
    /// Connections in a row that were refused or not taken.
    failures: AtomicU32,
    /// Whether it was found not to speak TCP.
    is_without_tcp: AtomicBool,
    asked: Mutex<Option<Instant>>,
    /// Whether queries come back.
    pub(super) circle: Circle,
}

impl Way {
    pub(super) fn new(server: SocketAddr, transport: &Transport) -> Self {
        Self {
            server,
            transport: transport.clone(),
            tls: match transport {
                Transport::Tls(tls) => Some(Tls::new(server, tls)),
                Transport::Tcp | Transport::Udp => None,
            },
            datagrams: Semaphore::new(DATAGRAMS),
            failures: AtomicU32::new(0),
            is_without_tcp: AtomicBool::new(false),
            asked: Mutex::new(None),
            circle: Circle::default(),
        }
    }

    /// Whether questions go in datagrams first.
    pub(super) fn is_udp(&self) -> bool {
        self.transport == Transport::Udp
    }

    /// Whether it leads there in this manner.
    pub(super) fn is(&self, transport: &Transport) -> bool {
        self.transport == *transport
    }

    /// Trusts the authorities of this file from now on, where it is theirs.
    pub(super) fn trust(&self, file: &Path, roots: &RootCertStore) {
        if let (Some(tls), Transport::Tls(settings)) = (&self.tls, &self.transport)
            && settings.ca_file == file
        {
            tls.trust(roots.clone());
        }
    }

    /// Opens a TCP connection within `within`, its SYN with company after `race`, or says how that
    /// ended. A handshake of TLS comes on top.
    pub(super) async fn connect(
        &self,
        within: Duration,
        race: Duration,
        cells: &UpstreamCells,
    ) -> Result<Stream, Outcome> {
        if let Some(outcome) = self.tls.as_ref().and_then(Tls::refusal) {
            return Err(outcome);
        }
        let stream = match dial(self.server, within, race).await {
            Ok(stream) => stream,
            Err(outcome) => {
                if outcome != Outcome::Unreachable {
                    self.failures.fetch_add(1, Relaxed);
                }
                return Err(outcome);
            }
        };
        self.failures.store(0, Relaxed);
        if self.is_without_tcp.swap(false, Relaxed) {
            cells.set_without_tcp(false);
            tracing::info!(upstream = %self.server, "an upstream takes TCP connections now");
        }
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
        match timeout(HANDSHAKE, tls.secure(stream)).await {
            Ok(secure) => secure.map(|stream| Stream::Secure(Box::new(stream))),
            Err(_) => Err(Outcome::ConnectTimeout),
        }
    }

    /// Asks over UDP, when others that are asked leave room for it.
    pub(super) async fn ask(
        &self,
        question: &Question,
        patience: Duration,
        cells: &UpstreamCells,
    ) -> Result<Said, Outcome> {
        // It is never closed.
        let place = self.datagrams.acquire().await;
        let said = udp::ask(self.server, question, patience, cells).await;
        drop(place);
        said
    }

    /// Whether it is time to ask the server over UDP if it lives: it takes no TCP connection.
    pub(super) fn is_suspicious(&self, now: Instant) -> bool {
        if self.tls.is_some() || self.failures.load(Relaxed) < SUSPICIOUS {
            return false;
        }
        let mut asked = lock(&self.asked);
        let is_due = asked.is_none_or(|last| now >= last + ASK_AGAIN);
        if is_due {
            *asked = Some(now);
        }
        is_due
    }

    /// It has answered over UDP.
    pub(super) fn answers_over_udp(&self, cells: &UpstreamCells) {
        if self.failures.load(Relaxed) < SUSPICIOUS || self.is_without_tcp.swap(true, Relaxed) {
            return;
        }
        cells.set_without_tcp(true);
        let upstream = self.server;
        if self.is_udp() {
            tracing::warn!(
                %upstream,
                "an upstream answers over UDP and takes no TCP connection: its truncated answers cannot \
                 be had; let TCP to its port through, or have it listen there"
            );
        } else {
            tracing::error!(
                %upstream,
                "an upstream answers over UDP and takes no TCP connection: nothing can be asked; let TCP \
                 to its port through, or set `transport: udp` for its zones"
            );
        }
    }
}
