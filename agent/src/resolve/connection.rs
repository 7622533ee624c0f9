// SPDX-License-Identifier: Apache-2.0
//! One connection to an upstream, TCP (RFC 7766) or TLS over it (RFC 7858): one question on it at a
//! time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::upstream::Failure;
use crate::telemetry::cells::{Outcome, UpstreamCells};
use crate::telemetry::registry::Telemetry;
use crate::wire::answer::Answer;
use crate::wire::chain::Chain;
use crate::wire::edns;
use crate::wire::header::{Flags, HEADER, Header};
use crate::wire::plain::PlainRecord;
use crate::wire::question::Question;
use crate::wire::response::{self, Expected, Lie, Response};
use crate::wire::{qtype, rcode};

/// Octets of the length in front of a message (RFC 1035 section 4.2.2).
const PREFIX: usize = 2;
/// Room for most responses; a longer one gets what its length says.
const BUFFER: usize = 1024;
/// Responses that do not belong to the question, before the connection is given up.
const LIES: usize = 8;
/// The UDP size that a question announces in octets. It says nothing about an answer over TCP.
const UDP_SIZE: u16 = 1232;

/// A question as it goes over the wire, with its length in front.
#[derive(Debug)]
pub(super) struct Request {
    id: u16,
    frame: Vec<u8>,
    question_end: usize,
}

impl Request {
    /// `turn` makes the ID: nobody outside sees a connection's octets, so it need only differ from
    /// those before it.
    pub(super) fn new(question: &Question, turn: u64) -> Self {
        let [.., a, b] = turn
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .swap_bytes()
            .to_be_bytes();
        Self::with_id(question, u16::from_be_bytes([a, b]))
    }

    /// With this ID.
    pub(super) fn with_id(question: &Question, id: u16) -> Self {
        let checking_disabled = if question.checking_disabled() {
            Flags::CD
        } else {
            0
        };
        let header = Header {
            id,
            // AD asks to be told whether the data was validated (RFC 6840 section 5.7).
            flags: Flags(Flags::RD | Flags::AD | checking_disabled),
            questions: 1,
            additionals: 1,
            ..Header::default()
        };
        let length = HEADER + question.name().len() + 4 + edns::OPT_LEN;
        let mut frame = Vec::with_capacity(PREFIX + length);
        frame.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        frame.resize(PREFIX + HEADER, 0);
        header.write(&mut frame[PREFIX..]);
        frame.extend(question.name());
        frame.extend(question.qtype().to_be_bytes());
        frame.extend(question.qclass().to_be_bytes());
        let question_end = frame.len();
        let dnssec_ok = if question.dnssec_ok() { edns::DO } else { 0 };
        frame.push(0);
        frame.extend(qtype::OPT.to_be_bytes());
        frame.extend(UDP_SIZE.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(dnssec_ok.to_be_bytes());
        frame.extend([0, 0]);
        Self {
            id,
            frame,
            question_end,
        }
    }

    /// The message alone, as it goes in a datagram.
    pub(super) fn datagram(&self) -> &[u8] {
        &self.frame[PREFIX..]
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            id: self.id,
            question: &self.frame[PREFIX + HEADER..self.question_end],
        }
    }
}

/// A response that belongs to its question.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) response: Response,
    message: Vec<u8>,
    offsets: Vec<u8>,
}

impl Exchanged {
    /// Reads a message that came after a question.
    pub(super) fn read(mut message: Vec<u8>, request: &Request) -> Result<Self, Outcome> {
        let mut offsets = vec![0; response::offsets_needed(&message)];
        match Response::parse(&mut message, &request.expected(), &mut offsets) {
            Ok(mut response) => {
                response.shorten(&mut message, &mut offsets);
                Ok(Self {
                    response,
                    message,
                    offsets,
                })
            }
            Err(Lie::Malformed) => Err(Outcome::Malformed),
            Err(Lie::WrongId) => Err(Outcome::WrongId),
            Err(Lie::WrongQuestion) => Err(Outcome::WrongQuestion),
        }
    }

    /// A message that was made here, as a response to a question section.
    pub(super) fn made(mut message: Vec<u8>, section: &[u8]) -> Option<Self> {
        let mut offsets = vec![0; response::offsets_needed(&message)];
        let expected = Expected {
            id: 0,
            question: section,
        };
        let mut response = Response::parse(&mut message, &expected, &mut offsets).ok()?;
        response.shorten(&mut message, &mut offsets);
        Some(Self {
            response,
            message,
            offsets,
        })
    }

    /// Calls `each(section, record)` for the records of the answer and the authority section.
    pub(super) fn records<'a>(&'a self, each: impl FnMut(usize, &PlainRecord<'a>)) -> Option<()> {
        self.response.plain_records(&self.message, each)
    }

    /// Raises every TTL that is less than `least` seconds to that.
    pub(super) fn raise_ttls(&mut self, least: u32) {
        self.response
            .raise_ttls(&mut self.message, &self.offsets, least);
    }

    /// The response as it is kept and sent on.
    pub(super) fn answer(&self) -> Answer<'_> {
        self.response.answer(&self.message, &self.offsets)
    }

    /// How the try ended. Over TCP nothing has to be cut, so a server that does it is to be seen.
    pub(super) fn outcome(&self) -> Outcome {
        if self.response.flags.has(Flags::TC) {
            Outcome::Truncated
        } else {
            Outcome::Answered
        }
    }

    /// The SOA that it denies with, its names in full, and where in it the TTL stands.
    pub(super) fn soa(&self) -> Option<(Vec<u8>, usize)> {
        let (octets, length, ttl_at) = self.response.plain_soa(&self.message)?;
        Some((octets.get(..length)?.to_vec(), ttl_at))
    }

    /// Whether its CNAMEs lead nowhere.
    pub(super) fn is_loop(&self) -> bool {
        self.response.chain == Chain::Loop
    }

    /// Whether the server could or would not answer: another may.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.response.rcode,
            rcode::SERVFAIL | rcode::REFUSED | rcode::NOTIMP
        ) || self.response.rcode > 15
    }
}

/// What octets go over.
#[derive(Debug)]
pub(super) enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS, its handshake done. On the heap: its state is a kilobyte and more.
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// What it is at the bottom.
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(stream) => stream.get_ref().0,
        }
    }

    /// Whether nothing has come that nobody asked for, nor the end. What TLS itself has to say, such
    /// as tickets for the next handshake, is none of it.
    pub(super) fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                let read = stream.try_read(&mut [0]);
                matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Secure(stream) => {
                let mut octet = [0];
                let mut octet = ReadBuf::new(&mut octet);
                let mut context = Context::from_waker(Waker::noop());
                let read = Pin::new(stream).poll_read(&mut context, &mut octet);
                read.is_pending()
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// An open connection. It moves from hand to hand: on the heap, so that futures stay small.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    opened: Instant,
    /// When it should end.
    ends: Instant,
    used: Instant,
    is_fresh: bool,
    /// A question is under way on it.
    is_asked: bool,
    _count: Count,
}

impl Drop for Connection {
    /// One that may lead into the void ends at once: the kernel would keep it, and its port, for
    /// minutes, to say goodbye.
    fn drop(&mut self) {
        if self.is_asked {
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}

/// Counts a connection from its beginning to its end.
#[derive(Debug)]
struct Count(Arc<Telemetry>, u16);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.resolve.upstream(self.1).close();
    }
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        max_age: Duration,
        telemetry: &Arc<Telemetry>,
        index: u16,
    ) -> Box<Self> {
        telemetry.resolve.upstream(index).open();
        let now = Instant::now();
        Box::new(Self {
            stream,
            opened: now,
            ends: now + max_age,
            used: now,
            is_fresh: true,
            is_asked: false,
            _count: Count(Arc::clone(telemetry), index),
        })
    }

    /// Whether a question may go over it: not too old, and nothing came that nobody asked for, nor
    /// its end.
    pub(super) fn is_usable(&mut self, now: Instant, idle: Duration) -> bool {
        now < self.ends && now < self.used + idle && self.stream.is_silent()
    }

    /// Whether it was used at this moment or later.
    pub(super) fn was_used_since(&self, moment: Instant) -> bool {
        self.used >= moment
    }

    /// Whether nothing was asked on it yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether it has to end by this moment.
    pub(super) fn ends_by(&self, moment: Instant) -> bool {
        self.ends <= moment
    }

    /// How long it has been open.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now - self.opened
    }

    /// Asks and waits for the answer; gives the connection back with it. What does not belong to
    /// the question is dropped and counted.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        request: &Request,
        cells: &UpstreamCells,
    ) -> Result<(Box<Self>, Exchanged), Failure> {
        self.is_asked = true;
        let result = self.ask(request, cells).await;
        match result {
            Ok(exchanged) => {
                self.is_asked = false;
                self.is_fresh = false;
                self.used = Instant::now();
                Ok((self, exchanged))
            }
            // The last two are how the kernel's own patience ends.
            Err(
                Outcome::Reset | Outcome::Closed | Outcome::ConnectTimeout | Outcome::Unreachable,
            ) if !self.is_fresh => Err(Failure::Stale),
            Err(outcome) => Err(Failure::Outcome(outcome)),
        }
    }

    async fn ask(
        &mut self,
        request: &Request,
        cells: &UpstreamCells,
    ) -> Result<Exchanged, Outcome> {
        let written = self.stream.write_all(&request.frame).await;
        written.map_err(|error| Outcome::of(&error))?;
        // TLS may keep what the socket had no room for.
        let flushed = self.stream.flush().await;
        flushed.map_err(|error| Outcome::of(&error))?;
        // One read has both length and message, where the server wrote both at once.
        let mut inbox = Vec::with_capacity(BUFFER);
        let mut lies = 0;
        loop {
            let read = self.read(&mut inbox).await;
            let message = read.map_err(|error| Outcome::of(&error))?;
            match Exchanged::read(message, request) {
                Ok(exchanged) => {
                    if !inbox.is_empty() {
                        // More than one question has answers: nobody knows what comes next.
                        self.ends = self.used;
                    }
                    return Ok(exchanged);
                }
                Err(lie) => {
                    lies += 1;
                    if lies == LIES {
                        return Err(lie);
                    }
                    cells.end(lie);
                }
            }
        }
    }

    /// Reads one message. What came behind it stays in `inbox`, for the next call.
    async fn read(&mut self, inbox: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        loop {
            if let Some((prefix, rest)) = inbox.split_first_chunk::<PREFIX>() {
                let length = usize::from(u16::from_be_bytes(*prefix));
                if rest.len() >= length {
                    let behind = inbox.split_off(PREFIX + length);
                    let mut message = std::mem::replace(inbox, behind);
                    message.drain(..PREFIX);
                    return Ok(message);
                }
                inbox.reserve(PREFIX + length - inbox.len());
            }
            if self.stream.read_buf(inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
