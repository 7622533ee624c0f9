// SPDX-License-Identifier: Apache-2.0
//! A DNS client that blocks, for tests: UDP and TCP, octets or messages, every wait bounded.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use socket2::{Domain, Socket, Type};

use crate::frames::{self, Frames};
use crate::query::{Outline, Query, TC};

/// Longest wait for an answer, unless the test sets another.
const PATIENCE: Duration = Duration::from_secs(6);
/// Code of an Extended DNS Error option (RFC 8914 section 2).
const EDE: u16 = 15;

/// Asks one server.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
    source: Option<IpAddr>,
    patience: Duration,
}

/// A response, with its octets. Dereferences to hickory's message.
#[derive(Clone, Debug)]
pub struct Response {
    /// The octets as they came.
    pub bytes: Vec<u8>,
    /// The octets' outline, read without hickory.
    pub outline: Outline,
    /// What hickory read.
    pub message: Message,
    /// From the query's sending to this response.
    pub elapsed: Duration,
}

impl Client {
    /// Asks `server` from any address, and waits at most 6 s.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            source: None,
            patience: PATIENCE,
        }
    }

    /// Asks from this address, e.g. 127.0.0.2.
    #[must_use]
    pub fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Waits at most this long.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks over UDP with RD and without EDNS.
    ///
    /// # Errors
    /// As [`Self::udp`].
    pub fn query(&self, name: &str, qtype: impl Into<u16>) -> anyhow::Result<Response> {
        self.udp(&Query::new(name, qtype))
    }

    /// Asks over UDP; over TCP when the answer is truncated, as stub resolvers do.
    ///
    /// # Errors
    /// As [`Self::udp`].
    pub fn resolve(&self, name: &str, qtype: impl Into<u16>) -> anyhow::Result<Response> {
        let query = Query::new(name, qtype);
        let response = self.udp(&query)?;
        if response.outline.flags & TC != 0 {
            return self.tcp(&query);
        }
        Ok(response)
    }

    /// Asks over UDP.
    ///
    /// # Errors
    /// No answer in time, or one that is no response to this query: ID, QR, or question, letter
    /// case included.
    pub fn udp(&self, query: &Query) -> anyhow::Result<Response> {
        let sent = query.to_bytes();
        let start = Instant::now();
        let bytes = self.udp_bytes(&sent)?.with_context(|| {
            let name = Outline::read(&sent).map(|outline| outline.name);
            format!("{} left {name:?} without answer over UDP", self.server)
        })?;
        Response::judge(&sent, bytes, start.elapsed())
    }

    /// Sends one datagram and gives what comes back; `None` when nothing came in time.
    ///
    /// # Errors
    /// What the socket reports; refused by ICMP is one of them.
    pub fn udp_bytes(&self, datagram: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let socket = self.udp_socket()?;
        socket.send(datagram).context("send a datagram")?;
        let mut buffer = vec![0; 65_535];
        match socket.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("ask {} over UDP", self.server)),
        }
    }

    /// A UDP socket connected to the server, its read timeout set.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn udp_socket(&self) -> anyhow::Result<UdpSocket> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((self.source.unwrap_or(any), 0))?;
        socket.connect(self.server)?;
        socket.set_read_timeout(Some(self.patience))?;
        Ok(socket)
    }

    /// Asks over a TCP connection of its own.
    ///
    /// # Errors
    /// As [`Self::udp`], and when the connection is refused or ends.
    pub fn tcp(&self, query: &Query) -> anyhow::Result<Response> {
        self.connect()?.ask(query)
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// When it is refused, or not accepted in time.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket
            .connect_timeout(&self.server.into(), self.patience)
            .with_context(|| format!("connect to {} over TCP", self.server))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        let stream = Arc::new(stream);
        Ok(Connection {
            frames: Frames::new(Arc::clone(&stream)),
            stream,
        })
    }
}

/// A TCP connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: Arc<TcpStream>,
    frames: Frames,
}

impl Connection {
    /// Asks and waits for the next message, which must be the answer.
    ///
    /// # Errors
    /// As [`Client::udp`], and when the connection ends.
    pub fn ask(&mut self, query: &Query) -> anyhow::Result<Response> {
        let sent = query.to_bytes();
        let start = Instant::now();
        self.send_bytes(&frames::frame(&sent))?;
        let received = self.receive().context("wait for an answer over TCP")?;
        let bytes = received.context("the server closed the connection without an answer")?;
        Response::judge(&sent, bytes, start.elapsed())
    }

    /// Sends a query and does not wait.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn send(&mut self, query: &Query) -> io::Result<()> {
        self.send_bytes(&frames::frame(&query.to_bytes()))
    }

    /// Sends octets as they are: the caller writes the length.
    ///
    /// # Errors
    /// What the socket reports.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.stream).write_all(bytes)
    }

    /// The next message; `None` when the server closed the connection.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came in time, and what the socket reports: `ConnectionReset` is
    /// one of them.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.frames.receive()
    }

    /// The stream itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Response {
    /// Takes octets for the answer to `query`.
    ///
    /// # Errors
    /// When ID, QR or question (letter case included) do not fit, or hickory cannot read it.
    pub fn judge(query: &[u8], bytes: Vec<u8>, elapsed: Duration) -> anyhow::Result<Self> {
        let Some(outline) = Outline::read(&bytes) else {
            bail!("the response cannot be read: {bytes:02x?}");
        };
        ensure!(outline.is_response(), "QR is clear in {outline:?}");
        if let Some(asked) = Outline::read(query) {
            ensure!(
                asked.id == outline.id,
                "asked {asked:?}, got ID of {outline:?}"
            );
            ensure!(
                asked.question == outline.question,
                "asked {asked:?}, got the question of {outline:?}"
            );
        }
        let message = Message::from_vec(&bytes)
            .with_context(|| format!("hickory cannot read the response {outline:?}"))?;
        Ok(Self {
            bytes,
            outline,
            message,
            elapsed,
        })
    }

    /// The response code, upper bits included. Hickory reads 16 as BADSIG: for BADVERS look at
    /// the outline's.
    #[must_use]
    pub fn rcode(&self) -> ResponseCode {
        self.message.response_code
    }

    /// Whether a header bit of [`crate::query`] is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.outline.flags & flag != 0
    }

    /// Addresses of the answer section, sorted.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let address = |record: &Record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let mut addresses: Vec<_> = self.answers.iter().filter_map(address).collect();
        addresses.sort();
        addresses
    }

    /// TTLs of the answer section in its order, in seconds.
    #[must_use]
    pub fn ttls(&self) -> Vec<u32> {
        self.answers.iter().map(|record| record.ttl).collect()
    }

    /// The INFO-CODE of the Extended DNS Error (RFC 8914), if there is one.
    #[must_use]
    pub fn extended_error(&self) -> Option<u16> {
        let mut options = self.outline.edns.iter().flat_map(|edns| &edns.options);
        let (_, data) = options.find(|(code, _)| *code == EDE)?;
        Some(u16::from_be_bytes([*data.first()?, *data.get(1)?]))
    }
}

impl Deref for Response {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// Whether an error is a read timeout.
#[must_use]
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
