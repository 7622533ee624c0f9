// SPDX-License-Identifier: Apache-2.0
//! A cheap DNS server over TCP for the misses: one thread, epoll, strictly in order on each
//! connection as CoreDNS does it. Every A question gets the address that follows from its name.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::link::split_message;
use super::names::address_of;
use super::question::HEADER;

/// TTL of every answer, in seconds: no run lasts as long.
pub const TTL_SECONDS: u32 = 3600;
/// What wakes the thread to end it.
const STOP: u64 = 0;
/// A new connection.
const LISTENER: u64 = 1;

/// The upstream, running. Dropping it ends it.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Counts {
    queries: AtomicU64,
    connections: AtomicU64,
    pipelined: AtomicU64,
}

impl Upstream {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the kernel says of sockets, epoll and threads.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        let server = Server {
            epoll,
            listener,
            counts: Arc::clone(&counts),
            connections: HashMap::new(),
            next: LISTENER + 1,
        };
        let thread = thread::Builder::new()
            .name("upstream".into())
            .spawn(move || server.run())?;
        Ok(Self {
            address,
            counts,
            stop,
            thread: Some(thread),
        })
    }

    /// Queries answered.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.counts.queries.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Queries that came before the one in front of them on the connection was answered.
    #[must_use]
    pub fn pipelined(&self) -> u64 {
        self.counts.pipelined.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Fails only if the thread has ended already.
        _ = rustix::io::write(self.stop.as_fd(), &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    counts: Arc<Counts>,
    connections: HashMap<u64, Connection>,
    next: u64,
}

struct Connection {
    stream: TcpStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Whether we wait for room to write.
    blocked: bool,
}

impl Server {
    fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    LISTENER => self.accept(),
                    token => self.serve(token),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let token = self.next;
            self.next += 1;
            let ready = stream
                .set_nodelay(true)
                .and_then(|()| stream.set_nonblocking(true))
                .and_then(|()| {
                    let data = EventData::new_u64(token);
                    Ok(epoll::add(&self.epoll, &stream, data, EventFlags::IN)?)
                });
            if ready.is_ok() {
                self.counts.connections.fetch_add(1, Ordering::Relaxed);
                let connection = Connection {
                    stream,
                    incoming: Vec::new(),
                    outgoing: Vec::new(),
                    blocked: false,
                };
                self.connections.insert(token, connection);
            }
        }
    }

    /// Reads and answers. A connection that ends or fails is dropped, and with it its events.
    fn serve(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let kept = connection.exchange(&self.counts).and_then(|()| {
            let blocked = !connection.outgoing.is_empty();
            if blocked != connection.blocked {
                connection.blocked = blocked;
                let mut flags = EventFlags::IN;
                flags.set(EventFlags::OUT, blocked);
                let data = EventData::new_u64(token);
                epoll::modify(&self.epoll, &connection.stream, data, flags)?;
            }
            Ok(())
        });
        if kept.is_err() {
            self.connections.remove(&token);
        }
    }
}

impl Connection {
    fn exchange(&mut self, counts: &Counts) -> io::Result<()> {
        let mut octets = [0; 4096];
        match self.stream.read(&mut octets) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.incoming.extend_from_slice(&octets[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut rest = &self.incoming[..];
        while let Some((query, behind)) = split_message(rest) {
            counts.queries.fetch_add(1, Ordering::Relaxed);
            if !self.outgoing.is_empty() {
                counts.pipelined.fetch_add(1, Ordering::Relaxed);
            }
            let start = self.outgoing.len();
            self.outgoing.extend_from_slice(&[0, 0]);
            answer(query, &mut self.outgoing).ok_or(ErrorKind::InvalidData)?;
            let len = u16::try_from(self.outgoing.len() - start - 2)
                .map_err(|_| ErrorKind::InvalidData)?;
            self.outgoing[start..start + 2].copy_from_slice(&len.to_be_bytes());
            rest = behind;
        }
        let used = self.incoming.len() - rest.len();
        self.incoming.drain(..used);
        if !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(written) => _ = self.outgoing.drain(..written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Appends the response to `query`: one A record with the name's address, nothing (NODATA) for
/// other types, an OPT where the query has one (RFC 6891 section 6.1.1). Nothing is appended if
/// the query cannot be read.
pub fn answer(query: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let header = query.first_chunk::<HEADER>()?;
    if header[2] & 0xF8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        let length = usize::from(*query.get(end)?);
        end += 1 + length;
        match length {
            0 => break,
            1..=63 => {}
            _ => return None,
        }
    }
    let name = &query[HEADER..end];
    let question = query.get(HEADER..end + 4)?;
    let is_address = question.ends_with(&[0, 1, 0, 1]);
    let has_opt = query.get(end + 4..end + 7) == Some(&[0, 0, 41]);

    out.extend_from_slice(&header[..2]);
    // QR, and RD and CD as they came; RA (RFC 1035 section 4.1.1).
    out.extend_from_slice(&[0x80 | header[2] & 0x01, 0x80 | header[3] & 0x10]);
    out.extend_from_slice(&[0, 1, 0, u8::from(is_address), 0, 0, 0, u8::from(has_opt)]);
    out.extend_from_slice(question);
    if is_address {
        // The name of the question, type A, class IN, TTL, four octets of address.
        out.extend_from_slice(&[0xC0, 0x0C, 0, 1, 0, 1]);
        out.extend_from_slice(&TTL_SECONDS.to_be_bytes());
        out.extend_from_slice(&[0, 4]);
        out.extend_from_slice(&address_of(name).octets());
    }
    if has_opt {
        // The root, type OPT, 1232 octets, no extended RCODE, version 0, no flags, no options.
        out.extend_from_slice(&[0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RData, RecordType};

    use super::super::names::{address_of, to_wire};
    use super::{TTL_SECONDS, answer};

    fn ask(record_type: RecordType, edns: bool) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        let name = Name::from_ascii("N1.bench.example.").unwrap();
        query.add_query(Query::query(name, record_type));
        if edns {
            query.set_edns(Edns::new());
        }
        let mut out = Vec::new();
        answer(&query.to_vec().unwrap(), &mut out).unwrap();
        Message::from_vec(&out).unwrap()
    }

    #[test]
    fn an_address_question_gets_the_address_of_its_name() {
        let response = ask(RecordType::A, false);
        assert_eq!(response.metadata.id, 7);
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert_eq!(response.queries[0].name().to_string(), "N1.bench.example.");
        assert_eq!(response.answers.len(), 1);
        assert_eq!(response.answers[0].ttl, TTL_SECONDS);
        let right = address_of(&to_wire("n1.bench.example").unwrap());
        assert_eq!(response.answers[0].data, RData::A(right.into()));
        assert!(response.edns.is_none());
    }

    #[test]
    fn another_type_gets_no_data_and_edns_gets_edns() {
        let response = ask(RecordType::AAAA, true);
        assert!(response.answers.is_empty());
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.edns.is_some());
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let mut out = Vec::new();
        for message in [
            &b"short"[..],
            b"\x00\x01\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01",
            b"\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01",
            b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xC0\x0C\x00\x01\x00\x01",
            b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05abc",
        ] {
            assert_eq!(answer(message, &mut out), None);
        }
        assert!(out.is_empty());
    }
}
