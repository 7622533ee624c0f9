// SPDX-License-Identifier: Apache-2.0
//! A tap on the way upstream: forwards UDP and TCP to a server and records every DNS message in
//! both directions. What went upstream is what stands here, not what anyone says went.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::frames::{self, Frames};
use crate::host::{self, Door, Host, Service, lock};
use crate::query::Outline;

/// A tap in front of a server, on a port of its own.
#[derive(Debug)]
pub struct Tap {
    host: Host,
    record: Arc<Record>,
}

/// One message that passed.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Which way it went.
    pub direction: Direction,
    /// The TCP connection's number from 0; `None` for UDP.
    pub connection: Option<u64>,
    /// Since the tap was opened.
    pub at: Duration,
    /// Queries without response on this connection, this message counted; of all UDP together.
    pub in_flight: usize,
    /// The message's outline; `None` where it cannot be read.
    pub outline: Option<Outline>,
    /// The message's octets.
    pub bytes: Vec<u8>,
}

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Query,
    /// From the server.
    Response,
}

#[derive(Debug)]
struct Record {
    upstream: SocketAddr,
    opened: Instant,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    passed: Vec<Passed>,
    in_flight: HashMap<Option<u64>, usize>,
}

impl Tap {
    /// Opens a tap in front of `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn open(upstream: SocketAddr) -> anyhow::Result<Self> {
        let record = Arc::new(Record {
            upstream,
            opened: Instant::now(),
            log: Mutex::default(),
        });
        let host = Host::start(Forwarder {
            record: Arc::clone(&record),
            clients: Mutex::default(),
        })?;
        Ok(Self { host, record })
    }

    /// Where to connect in place of the server.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.host.addr()
    }

    /// All messages so far, in the order they passed.
    #[must_use]
    pub fn passed(&self) -> Vec<Passed> {
        lock(&self.record.log).passed.clone()
    }

    /// The queries among them.
    #[must_use]
    pub fn queries(&self) -> Vec<Passed> {
        let mut passed = self.passed();
        passed.retain(|message| message.direction == Direction::Query);
        passed
    }

    /// The responses among them.
    #[must_use]
    pub fn responses(&self) -> Vec<Passed> {
        let mut passed = self.passed();
        passed.retain(|message| message.direction == Direction::Response);
        passed
    }

    /// Queries for this name and type, letter case aside.
    #[must_use]
    pub fn count(&self, name: &str, qtype: impl Into<u16> + Copy) -> usize {
        let queries = self.queries();
        let asks = |message: &&Passed| {
            let outline = message.outline.as_ref();
            outline.is_some_and(|outline| outline.asks(name, qtype))
        };
        queries.iter().filter(asks).count()
    }

    /// All queries.
    #[must_use]
    pub fn total(&self) -> usize {
        self.queries().len()
    }

    /// TCP connections opened since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.host.door().accepted()
    }

    /// TCP connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.host.door().open()
    }

    /// The most queries that were without response at one time on one TCP connection.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        let queries = self.queries();
        let tcp = queries
            .iter()
            .filter(|message| message.connection.is_some());
        tcp.map(|message| message.in_flight).max().unwrap_or(0)
    }

    /// Forgets the messages so far.
    pub fn clear(&self) {
        lock(&self.record.log).passed.clear();
    }

    /// Goes away as a killed pod does, see [`Host::refuse`].
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse(&mut self) -> std::io::Result<()> {
        self.host.refuse()
    }

    /// Comes back on the same port.
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
}

impl Record {
    fn note(&self, direction: Direction, connection: Option<u64>, bytes: &[u8]) {
        let outline = Outline::read(bytes);
        let at = self.opened.elapsed();
        let mut log = lock(&self.log);
        let count = log.in_flight.entry(connection).or_default();
        if direction == Direction::Query {
            *count += 1;
        }
        let in_flight = *count;
        if direction == Direction::Response {
            *count = count.saturating_sub(1);
        }
        log.passed.push(Passed {
            direction,
            connection,
            at,
            in_flight,
            outline,
            bytes: bytes.to_vec(),
        });
    }

    /// Passes whole messages on until one side ends, and hands the end on: FIN as FIN, all else
    /// as RST. A message that ends in the middle is not passed on.
    fn pump(&self, direction: Direction, number: u64, from: Arc<TcpStream>, to: &TcpStream) {
        let mut frames = Frames::new(from);
        loop {
            match frames.receive() {
                Ok(Some(message)) => {
                    self.note(direction, Some(number), &message);
                    if frames::write(to, &message).is_err() {
                        break;
                    }
                }
                Ok(None) => {
                    // Fails where the other side has ended too.
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Err(_) => break,
            }
        }
        host::reset(to);
    }
}

struct Forwarder {
    record: Arc<Record>,
    /// A socket to the server for each UDP client.
    clients: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
}

impl Service for Forwarder {
    fn datagram(&self, query: &[u8], from: SocketAddr, door: &Arc<Door>) {
        let mut clients = lock(&self.clients);
        let socket = match clients.get(&from) {
            Some(socket) => Arc::clone(socket),
            None => match self.open_client(from, door) {
                Ok(socket) => {
                    clients.insert(from, Arc::clone(&socket));
                    socket
                }
                // Out of ports: the datagram is lost, as on any network.
                Err(_) => return,
            },
        };
        self.record.note(Direction::Query, None, query);
        // The server may be away; the client will notice.
        let _ = socket.send(query);
    }

    fn connection(&self, stream: Arc<TcpStream>, number: u64, _door: &Arc<Door>) {
        let Ok(upstream) = TcpStream::connect(self.record.upstream) else {
            host::reset(&stream);
            return;
        };
        // Only delays messages where it fails.
        let _ = upstream.set_nodelay(true);
        let upstream = Arc::new(upstream);
        let back = {
            let (record, stream, upstream) = (
                Arc::clone(&self.record),
                Arc::clone(&stream),
                Arc::clone(&upstream),
            );
            move || record.pump(Direction::Response, number, upstream, &stream)
        };
        let back = std::thread::spawn(back);
        self.record
            .pump(Direction::Query, number, stream, &upstream);
        // A panic there has been printed.
        let _ = back.join();
    }
}

impl Forwarder {
    fn open_client(&self, from: SocketAddr, door: &Arc<Door>) -> std::io::Result<Arc<UdpSocket>> {
        /// A client that has been silent this long gets no more answers.
        const FORGET: Duration = Duration::from_secs(10);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.record.upstream)?;
        socket.set_read_timeout(Some(FORGET))?;
        let socket = Arc::new(socket);
        let (record, door, near) = (
            Arc::clone(&self.record),
            Arc::clone(door),
            Arc::clone(&socket),
        );
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while let Ok(length) = near.recv(&mut buffer) {
                record.note(Direction::Response, None, &buffer[..length]);
                // A client that has gone away is its own affair.
                let _ = door.udp.send_to(&buffer[..length], from);
            }
        });
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::query::Query;
    use crate::sample::Sample;
    use hickory_proto::rr::RecordType::{A, AAAA};

    const WEB: &str = "web.prod.svc.cluster.local";

    #[test]
    fn messages_pass_unchanged_and_are_recorded_with_their_letter_case() {
        let sample = Sample::start().unwrap();
        let tap = Tap::open(sample.addr()).unwrap();
        let query = Query::new("WeB.prod.svc.cluster.local", A)
            .id(7)
            .cd(true)
            .edns(1400)
            .option(10, b"cookie!!");
        for through_tcp in [false, true] {
            tap.clear();
            let direct = Client::new(sample.addr());
            let tapped = Client::new(tap.addr());
            let (expected, response) = if through_tcp {
                (direct.tcp(&query).unwrap(), tapped.tcp(&query).unwrap())
            } else {
                (direct.udp(&query).unwrap(), tapped.udp(&query).unwrap())
            };
            assert_eq!(response.bytes, expected.bytes);
            let passed = tap.passed();
            assert_eq!(passed.len(), 2);
            assert_eq!(passed[0].direction, Direction::Query);
            assert_eq!(passed[0].bytes, query.to_bytes());
            assert_eq!(passed[0].connection.is_some(), through_tcp);
            let outline = passed[0].outline.as_ref().unwrap();
            assert_eq!((outline.id, outline.flags), (7, 0x0110));
            assert_eq!(&outline.question[..4], b"\x03WeB");
            assert_eq!(outline.edns.as_ref().unwrap().size, 1400);
            assert_eq!(passed[1].direction, Direction::Response);
            assert_eq!(tap.count(WEB, A), 1);
            assert_eq!(tap.count(WEB, AAAA), 0);
        }
        assert_eq!(tap.connections(), 1);
    }

    #[test]
    fn queries_in_flight_are_counted_on_each_connection() {
        let sample = Sample::start().unwrap();
        sample.set_delay(Duration::from_millis(100));
        let tap = Tap::open(sample.addr()).unwrap();
        let client = Client::new(tap.addr());
        let mut alone = client.connect().unwrap();
        let mut pipelined = client.connect().unwrap();
        alone.send(&Query::new(WEB, A)).unwrap();
        for _ in 0..3 {
            pipelined.send(&Query::new(WEB, AAAA)).unwrap();
        }
        alone.receive().unwrap().unwrap();
        for _ in 0..3 {
            pipelined.receive().unwrap().unwrap();
        }
        assert_eq!(tap.most_in_flight(), 3);
        assert_eq!(tap.open_connections(), 2);
        alone.ask(&Query::new(WEB, A)).unwrap();
        let last = tap.queries().pop().unwrap();
        assert_eq!(last.in_flight, 1);
        assert_eq!(tap.total(), 5);
    }

    #[test]
    fn a_server_that_is_away_is_away_through_the_tap() {
        let mut sample = Sample::start().unwrap();
        let tap = Tap::open(sample.addr()).unwrap();
        let client = Client::new(tap.addr());
        let mut connection = client.connect().unwrap();
        connection.ask(&Query::new(WEB, A)).unwrap();
        sample.refuse().unwrap();
        let error = connection.receive().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        client.tcp(&Query::new(WEB, A)).unwrap_err();
        sample.resume().unwrap();
        client.tcp(&Query::new(WEB, A)).unwrap();
    }
}
