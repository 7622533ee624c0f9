// SPDX-License-Identifier: Apache-2.0
//! An upstream that misbehaves as it is told, query by query.
//!
//! ```no_run
//! use nodens_tests::fault::{self, Fault, Reply, Step};
//! # fn main() -> anyhow::Result<()> {
//! // The first query gets half an answer and a reset, all others a good answer.
//! let fault = Fault::start(fault::sequence([
//!     vec![Step::SendHalf(Reply::Address), Step::Reset],
//!     vec![Step::Send(Reply::Address)],
//! ]))?;
//! # Ok(()) }
//! ```

mod gate;
mod reply;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use gate::Gate;
pub use reply::{ADDRESS, ADDRESS6, Reply};

use crate::frames::Frames;
use crate::host::{self, Door, Host, Service, lock};
use crate::query::Outline;

/// A query as the upstream received it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// From 0, of all queries.
    pub number: usize,
    /// The TCP connection's number from 0; `None` for UDP.
    pub connection: Option<u64>,
    /// From 0, of the queries on this connection; 0 for UDP.
    pub in_connection: usize,
    /// What it asks; `None` where it cannot be read.
    pub outline: Option<Outline>,
    /// Its octets.
    pub bytes: Vec<u8>,
}

/// What is done about a query, one step after the other. No step at all: it is never answered.
#[derive(Clone, Debug)]
pub enum Step {
    /// Close the connection with FIN. Nothing over UDP.
    Close,
    /// Close the connection with RST. Nothing over UDP.
    Reset,
    /// Send a message.
    Send(Reply),
    /// Send the first half of a message, its TCP length that of the whole.
    SendHalf(Reply),
    /// Wait.
    Wait(Duration),
}

/// How a TCP connection is met, before any query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Greeting {
    /// Its queries are read and answered.
    #[default]
    Accept,
    /// It is closed with FIN at once.
    Close,
    /// It stays open, and nothing is read from it.
    Ignore,
    /// It is closed with RST at once.
    Reset,
    /// An answer to a question that nobody asked is sent at once, then as [`Self::Accept`].
    Speak,
}

/// A server of faults, on UDP and TCP of one port of 127.0.0.1.
#[derive(Debug)]
pub struct Fault {
    host: Host,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A server of faults before it starts.
#[derive(Debug, Default)]
pub struct Builder {
    at: Option<SocketAddr>,
    greetings: Vec<Greeting>,
    out_of_order: bool,
}

/// Steps for each query in turn; the last stand for all that follow.
///
/// # Panics
/// When there are none.
pub fn sequence(
    steps: impl IntoIterator<Item = Vec<Step>>,
) -> impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static {
    let steps: Vec<_> = steps.into_iter().collect();
    assert!(!steps.is_empty(), "at least one list of steps");
    move |asked| steps[asked.number.min(steps.len() - 1)].clone()
}

/// The same steps for every query.
pub fn always(
    steps: impl IntoIterator<Item = Step>,
) -> impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static {
    let steps: Vec<_> = steps.into_iter().collect();
    move |_| steps.clone()
}

/// Every query gets this reply.
pub fn reply(reply: Reply) -> impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static {
    always([Step::Send(reply)])
}

/// No query is ever answered.
pub fn silence() -> impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static {
    always([])
}

impl Builder {
    /// Serves at this address instead of a free port of 127.0.0.1.
    #[must_use]
    pub fn at(mut self, addr: SocketAddr) -> Self {
        self.at = Some(addr);
        self
    }

    /// How connections are met, one after the other; the last stands for all that follow.
    #[must_use]
    pub fn greetings(mut self, greetings: impl IntoIterator<Item = Greeting>) -> Self {
        self.greetings = greetings.into_iter().collect();
        self
    }

    /// Works on the queries of a TCP connection at the same time; without it one after the other,
    /// as CoreDNS does.
    #[must_use]
    pub fn out_of_order(mut self) -> Self {
        self.out_of_order = true;
        self
    }

    /// Starts; `script` says what is done about each query.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(
        self,
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Fault> {
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let at = self.at;
        let service = Scripted {
            script: Arc::new(script),
            asked: Arc::clone(&asked),
            options: self,
        };
        let host = match at {
            Some(addr) => Host::start_at(service, addr)?,
            None => Host::start(service)?,
        };
        Ok(Fault { host, asked })
    }
}

impl Fault {
    /// Starts with connections accepted and queries answered in order.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::builder().start(script)
    }

    /// For faults of connections and answers out of order.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.host.addr()
    }

    /// All queries so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }

    /// How many queries there were.
    #[must_use]
    pub fn total(&self) -> usize {
        lock(&self.asked).len()
    }

    /// How many of them asked this, letter case aside.
    #[must_use]
    pub fn count(&self, name: &str, qtype: impl Into<u16> + Copy) -> usize {
        let asks = |asked: &&Asked| {
            let outline = asked.outline.as_ref();
            outline.is_some_and(|outline| outline.asks(name, qtype))
        };
        lock(&self.asked).iter().filter(asks).count()
    }

    /// TCP connections accepted since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.host.door().accepted()
    }

    /// TCP connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.host.door().open()
    }

    /// Refuses TCP connections and datagrams, see [`Host::refuse`].
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse(&mut self) -> std::io::Result<()> {
        self.host.refuse()
    }

    /// Refuses TCP connections alone.
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse_tcp(&mut self) -> std::io::Result<()> {
        self.host.refuse_tcp()
    }

    /// Takes them again.
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

struct Scripted<F> {
    script: Arc<F>,
    asked: Arc<Mutex<Vec<Asked>>>,
    options: Builder,
}

impl<F: Fn(&Asked) -> Vec<Step> + Send + Sync + 'static> Scripted<F> {
    fn note(&self, bytes: &[u8], connection: Option<u64>, in_connection: usize) -> Asked {
        let mut all = lock(&self.asked);
        let asked = Asked {
            number: all.len(),
            connection,
            in_connection,
            outline: Outline::read(bytes),
            bytes: bytes.to_vec(),
        };
        all.push(asked.clone());
        asked
    }

    fn greeting(&self, connection: u64) -> Greeting {
        let greetings = &self.options.greetings;
        let at = usize::try_from(connection).unwrap_or(usize::MAX);
        let at = at.min(greetings.len().saturating_sub(1));
        greetings.get(at).copied().unwrap_or_default()
    }
}

impl<F: Fn(&Asked) -> Vec<Step> + Send + Sync + 'static> Service for Scripted<F> {
    fn datagram(&self, query: &[u8], from: SocketAddr, door: &Arc<Door>) {
        let asked = self.note(query, None, 0);
        let (script, door) = (Arc::clone(&self.script), Arc::clone(door));
        std::thread::spawn(move || {
            for step in script(&asked) {
                // A client that has gone away is what some faults are made for, here and below.
                match step {
                    Step::Send(reply) => {
                        let _ = door.udp.send_to(&reply.message(&asked), from);
                    }
                    Step::SendHalf(reply) => {
                        let message = reply.message(&asked);
                        let _ = door.udp.send_to(&message[..message.len() / 2], from);
                    }
                    Step::Wait(time) if !door.wait(time) => return,
                    Step::Wait(_) | Step::Close | Step::Reset => {}
                }
            }
        });
    }

    fn connection(&self, stream: Arc<TcpStream>, number: u64, door: &Arc<Door>) {
        match self.greeting(number) {
            Greeting::Accept => {}
            Greeting::Close => return,
            Greeting::Reset => return host::reset(&stream),
            Greeting::Ignore => {
                door.wait(Duration::MAX);
                return;
            }
            Greeting::Speak => {
                let _ = (&*stream).write_all(&reply::unasked());
            }
        }
        let mut frames = Frames::new(Arc::clone(&stream));
        let mut in_connection = 0;
        while let Ok(Some(query)) = frames.receive() {
            let asked = self.note(&query, Some(number), in_connection);
            in_connection += 1;
            let steps = (self.script)(&asked);
            if self.options.out_of_order {
                let (stream, door) = (Arc::clone(&stream), Arc::clone(door));
                std::thread::spawn(move || walk(&steps, &asked, &stream, &door));
            } else if !walk(&steps, &asked, &stream, door) {
                return;
            }
        }
    }
}

/// Takes the steps for a query on a TCP connection; `false` when the connection is over.
fn walk(steps: &[Step], asked: &Asked, mut stream: &TcpStream, door: &Door) -> bool {
    for step in steps {
        let goes_on = match step {
            Step::Send(reply) => stream.write_all(&reply.frame(asked)).is_ok(),
            Step::SendHalf(reply) => {
                let frame = reply.frame(asked);
                stream.write_all(&frame[..frame.len() / 2]).is_ok()
            }
            Step::Wait(time) => door.wait(*time),
            Step::Close => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                false
            }
            Step::Reset => {
                host::reset(stream);
                false
            }
        };
        if !goes_on {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
