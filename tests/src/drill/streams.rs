// SPDX-License-Identifier: Apache-2.0
//! Long-lived TCP connections that ask once in a while, and what becomes of them.
//!
//! A server may close a connection between answers at any time, and its client then opens another
//! (RFC 7766 section 6.2.4): that is counted and no fault. A reset, or a connection closed under
//! a query, is one.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::client::{Client, Connection, is_timeout};
use crate::host::lock;
use crate::load::now_ns;
use crate::node::{ADDRESS, NAME, Server, Space};
use crate::query::{AA, Outline, Query};

/// A query without an answer for so long is lost; so is a connection that is not accepted.
const PATIENCE: Duration = Duration::from_secs(2);
/// Type A.
const A: u16 = 1;

/// Connections under way. They stop when dropped.
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    report: Mutex<Report>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Queries sent.
    pub asked: u64,
    /// Answers: when they came, and from whom.
    pub answers: Vec<(u64, Server)>,
    /// Connections that were reset.
    pub resets: u64,
    /// Queries without a right answer in time, and connections not accepted in time or refused.
    pub lost: u64,
    /// Connections that the server closed between answers.
    pub closed: u64,
    /// What went wrong, in words.
    pub faults: Vec<String>,
}

impl Report {
    /// Answers of this server that came in a span.
    #[must_use]
    pub fn by(&self, server: Server, from_ns: u64, to_ns: u64) -> usize {
        let answers = self.answers.iter();
        answers
            .filter(|&&(at, by)| by == server && (from_ns..to_ns).contains(&at))
            .count()
    }
}

impl Streams {
    /// Opens `count` connections from a namespace, to these servers in turn; each asks every
    /// `pause`, all at different moments.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn start(
        space: &Space,
        servers: &[SocketAddr],
        count: u32,
        pause: Duration,
    ) -> anyhow::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut streams = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for (number, &server) in (0..count).zip(servers.iter().cycle()) {
            let (door, shared) = (space.door(), Arc::clone(&shared));
            let thread = thread::Builder::new()
                .name(format!("stream-{number}"))
                .stack_size(256 << 10)
                .spawn(move || {
                    if let Err(error) = door.enter() {
                        lock(&shared.report).fault(format!("{error:#}"));
                        return;
                    }
                    thread::sleep(pause * number / count);
                    Stream::new(&shared, server, number).run(pause);
                })?;
            streams.threads.push(thread);
        }
        Ok(streams)
    }

    /// What has become of them so far.
    #[must_use]
    pub fn report(&self) -> Report {
        lock(&self.shared.report).clone()
    }

    /// Stops asking and gives what became of them.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed, and shows as missing answers.
            let _ = thread.join();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.end();
    }
}

impl Report {
    fn fault(&mut self, text: String) {
        self.lost += 1;
        self.faults.push(text);
    }
}

/// One client and its connection.
struct Stream<'a> {
    shared: &'a Shared,
    client: Client,
    server: SocketAddr,
    number: u32,
    connection: Option<Connection>,
}

impl<'a> Stream<'a> {
    fn new(shared: &'a Shared, server: SocketAddr, number: u32) -> Self {
        Self {
            shared,
            client: Client::new(server).patience(PATIENCE),
            server,
            number,
            connection: None,
        }
    }

    fn run(&mut self, pause: Duration) {
        while !self.shared.is_over.load(Relaxed) {
            let begun = now_ns();
            self.look();
            self.ask();
            // In steps, so that the end is not waited for.
            while !self.shared.is_over.load(Relaxed) {
                let passed = Duration::from_nanos(now_ns() - begun);
                let Some(left) = pause.checked_sub(passed) else {
                    break;
                };
                thread::sleep(left.min(Duration::from_millis(20)));
                self.look();
            }
        }
    }

    /// Sees what the server has done to the connection between answers.
    fn look(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let stream = connection.stream();
        let mut octet = [0];
        let peeked = stream
            .set_nonblocking(true)
            .and_then(|()| stream.peek(&mut octet));
        // Fails only where the next use of the connection fails too.
        let _ = stream.set_nonblocking(false);
        match peeked {
            Err(error) if is_timeout(&error) => {}
            Ok(0) => {
                lock(&self.shared.report).closed += 1;
                self.connection = None;
            }
            Ok(_) => self.fail("an answer that nobody asked for"),
            Err(error) => self.fail_with(&error, "between answers"),
        }
    }

    fn ask(&mut self) {
        lock(&self.shared.report).asked += 1;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.client.connect() {
                Ok(connection) => connection,
                Err(error) => return self.fail(&format!("{error:#}")),
            },
        };
        let connection = self.connection.insert(connection);
        let query = Query::new(NAME, A);
        let sent = connection.send(&query);
        match sent.and_then(|()| connection.receive()) {
            Ok(Some(answer)) => self.judge(&query, &answer),
            Ok(None) => self.fail("closed under a query"),
            Err(error) => self.fail_with(&error, "under a query"),
        }
    }

    fn judge(&mut self, query: &Query, answer: &[u8]) {
        let asked = Outline::read(&query.to_bytes());
        let read = Outline::read(answer).filter(|outline| {
            asked.as_ref().is_some_and(|asked| asked.id == outline.id)
                && outline.rcode() == 0
                && answer.ends_with(&ADDRESS)
        });
        let Some(outline) = read else {
            return self.fail(&format!("a wrong answer: {answer:02x?}"));
        };
        let by = if outline.flags & AA == 0 {
            Server::Agent
        } else {
            Server::CoreDns
        };
        lock(&self.shared.report).answers.push((now_ns(), by));
    }

    fn fail_with(&mut self, error: &io::Error, when: &str) {
        if matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
        ) {
            lock(&self.shared.report).resets += 1;
        }
        self.fail(&format!("{error} {when}"));
    }

    fn fail(&mut self, what: &str) {
        let text = format!("connection {} to {}: {what}", self.number, self.server);
        lock(&self.shared.report).fault(text);
        self.connection = None;
    }
}
