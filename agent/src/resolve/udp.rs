// SPDX-License-Identifier: Apache-2.0
//! Questions to upstreams over UDP (RFC 1035 section 4.2.1).
//!
//! Who cannot see a question and would answer it in the server's stead must guess its port and its ID
//! (RFC 5452 section 9): each datagram leaves from a socket of its own, at a port of the kernel's
//! choice and connected to the server, so that nothing from elsewhere comes in, with an ID out of the
//! kernel's generator. The question must come back octet for octet.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::message::{self, Exchanged};
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::wire::question::Question;

/// Octets of the largest datagram that an upstream may send: more than the question announces, for
/// servers that do not keep to it.
const LARGEST: usize = 4096;

/// Datagrams that do not belong to the question, before the answer is had over TCP: somebody
/// guesses (RFC 5452 section 9.2 counts them, too).
const LIES: usize = 8;

/// What came of a question.
#[derive(Debug)]
pub(super) enum Said {
    /// An answer that fits.
    Whole(Exchanged),
    /// One that is truncated, or too much that is none: TCP must be asked.
    Truncated,
}

/// Asks one question: once more from another port where nothing has come for half of `patience`; an
/// answer to either counts. The caller ends it when its time is over.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    patience: Duration,
    cells: &UpstreamCells,
) -> Result<Said, Outcome> {
    let began = Instant::now();
    let first = Try::send(server, question).await?;
    let mut lies = 0;
    let again = sleep_until(began + patience / 2);
    tokio::pin!(again);
    let second = loop {
        tokio::select! {
            said = first.receive() => {
                if let Some(said) = judge(said?, &mut lies, cells) {
                    return Ok(said);
                }
            }
            () = again.as_mut() => break Try::send(server, question).await?,
        }
    };
    loop {
        let said = tokio::select! {
            said = first.receive() => said?,
            said = second.receive() => said?,
        };
        if let Some(said) = judge(said, &mut lies, cells) {
            return Ok(said);
        }
    }
}

fn judge(said: Result<Said, Outcome>, lies: &mut usize, cells: &UpstreamCells) -> Option<Said> {
    match said {
        Ok(Said::Truncated) => {
            cells.end(Outcome::Truncated);
            Some(Said::Truncated)
        }
        Ok(said) => Some(said),
        Err(lie) => {
            cells.end(lie);
            *lies += 1;
            (*lies >= LIES).then_some(Said::Truncated)
        }
    }
}

/// One datagram on its way, and its socket.
#[derive(Debug)]
struct Try<'a> {
    socket: UdpSocket,
    question: &'a Question,
    id: u16,
}

impl<'a> Try<'a> {
    async fn send(server: SocketAddr, question: &'a Question) -> Result<Self, Outcome> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let id = id()?;
        let mut query = Vec::new();
        message::write(question, id, &mut query);
        let sent = async {
            let socket = UdpSocket::bind(any).await?;
            socket.connect(server).await?;
            socket.send(&query).await?;
            Ok(socket)
        };
        let socket = sent.await.map_err(|error| Outcome::of(&error))?;
        Ok(Self {
            socket,
            question,
            id,
        })
    }

    /// The next datagram: an answer, or why it is none.
    async fn receive(&self) -> Result<Result<Said, Outcome>, Outcome> {
        let mut message = Vec::with_capacity(LARGEST);
        let received = self.socket.recv_buf(&mut message).await;
        received.map_err(|error| Outcome::of(&error))?;
        Ok(match Exchanged::read(&message, self.question, self.id) {
            Ok(exchanged) if exchanged.outcome() == Outcome::Truncated => Ok(Said::Truncated),
            Ok(exchanged) => Ok(Said::Whole(exchanged)),
            Err(lie) => Err(lie),
        })
    }
}

/// An ID that nobody can foretell.
fn id() -> Result<u16, Outcome> {
    let mut octets = [0; 2];
    // So few octets come whole or not at all.
    match getrandom(&mut octets, GetRandomFlags::empty()) {
        Ok(2) => Ok(u16::from_be_bytes(octets)),
        _ => Err(Outcome::Failed),
    }
}
