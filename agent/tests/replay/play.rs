// SPDX-License-Identifier: Apache-2.0
//! Plays a scenario: asks as workers and connections do, against the agent's own parts.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::{Cache, Entry, Lookup, Reader, Tick};
use nodens::miss::{self, Asked as AskedOf, Miss};
use nodens::resolve::{Reply, Resolver, Routes, To, Waiter};
use nodens::telemetry::clock::nanoseconds;
use nodens::telemetry::registry::Telemetry;
use nodens::wire::MAX_MESSAGE;
use nodens::wire::query::Query;
use nodens::wire::question::Question;
use nodens::wire::reply::{self, Shape};
use tokio::sync::mpsc;

use super::config::{SERVERS, load};
use super::message::{Asked, Edns, Message, RD, flag, query};
use super::script::{Scenario, Step};
use super::upstream::{Came, Out, Server};

/// How long something that must happen may take by the wall's clock, and how often it is looked
/// for. The scenario's clock stands still meanwhile.
const PATIENCE: u32 = 20_000;
const PAUSE: Duration = Duration::from_micros(100);
/// Looks for a response to be read: not where its query has been given up.
const READ: u32 = 5000;
/// Looks for something that must not happen.
const LOOKS: u32 = 60;
/// The scenario's clock moves in such steps, so that timers go off in their order.
const STRIDE: Duration = Duration::from_millis(100);
const STRIDES: u32 = 120;

/// Plays it; says where it went another way.
pub(super) fn play(scenario: &Scenario) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut player = Player::new(scenario).await;
        for step in &scenario.steps {
            player.step(step).await.map_err(|why| {
                let (name, line, verb) = (&scenario.name, step.line, step.verb());
                format!("{name}.rpl:{line}: {verb}: {why}")
            })?;
        }
        Ok(())
    })
}

/// A query that was sent and has no answer yet.
struct Sent {
    client: (String, bool),
    id: u16,
    asked: Asked,
}

struct Client {
    name: String,
    socket: UdpSocket,
    replies: mpsc::Sender<Reply>,
    settled: mpsc::Receiver<Reply>,
}

struct Player {
    name: String,
    /// The configuration, with words for the servers.
    config: String,
    is_corefile: bool,
    resolver: Arc<Resolver>,
    cache: Cache,
    reader: Reader,
    telemetry: Arc<Telemetry>,
    misses: miss::Sender,
    udp_size: u16,
    keepalive: u16,
    servers: Vec<Server>,
    came: Came,
    /// Checked, and not yet answered.
    checked: VecDeque<Out>,
    clients: Vec<Client>,
    sent: Vec<Sent>,
    /// Answers that came and are not yet checked, with whose they are.
    answers: VecDeque<((String, bool), Vec<u8>)>,
    next_id: u16,
}

impl Player {
    async fn new(scenario: &Scenario) -> Self {
        let came = Came::default();
        let mut text = scenario.config.clone();
        if !scenario.is_corefile && !text.contains("zones:") {
            text += "zones: [{name: ., upstreams: [UPSTREAM]}]\n";
        }
        let mut servers = Vec::new();
        for index in 0..SERVERS.len() {
            servers.push(Server::new(index, &came).await);
        }
        let config = load(&scenario.name, &text, scenario.is_corefile, &servers);
        let cache = Cache::new(config.cache.size_bytes, 2).unwrap();
        let telemetry = Arc::new(Telemetry::new(1));
        let (misses, queue, ear) = miss::queue().unwrap();
        let resolver = Resolver::new(
            cache.clone(),
            cache.reader().unwrap(),
            Routes::new(&config.zones, &telemetry, None),
            config.limits.clone(),
            config.cache.clone(),
            config.listen.udp_size,
            Arc::clone(&telemetry),
        );
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        resolver.open(0, Arc::new(listener));
        tokio::spawn(Arc::clone(&resolver).take_in(queue, ear));
        tokio::spawn(Arc::clone(&resolver).send_out());
        Self {
            name: scenario.name.clone(),
            config: text,
            is_corefile: scenario.is_corefile,
            reader: cache.reader().unwrap(),
            resolver,
            cache,
            telemetry,
            misses,
            udp_size: config.listen.udp_size,
            keepalive: u16::try_from(config.listen.tcp_idle.as_millis() / 100).unwrap(),
            servers,
            came,
            checked: VecDeque::new(),
            clients: Vec::new(),
            sent: Vec::new(),
            answers: VecDeque::new(),
            next_id: 1000,
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step.verb() {
            "QUERY" => self.query(step),
            "CHECK_OUT_QUERY" => {
                let out = self.out(step, &step.questions[0]).await?;
                self.checked.push_back(out);
            }
            "REPLY" => {
                let at = match step.questions.first() {
                    None => 0,
                    Some(wanted) => {
                        let mut checked = self.checked.iter();
                        let found = checked.position(|out| asked(out).is(wanted));
                        found.ok_or("no such query was checked")?
                    }
                };
                let out = self.checked.remove(at).ok_or("no query was checked")?;
                self.reply(&out, step).await;
                if step.has("AGAIN") {
                    self.checked.insert(at, out);
                }
            }
            "EXCHANGE" => {
                let out = self.out(step, &step.questions[0]).await?;
                self.reply(&out, step).await;
            }
            "CHECK_ANSWER" => self.check_answer(step).await?,
            "CHECK_NO_ANSWER" => {
                self.settle().await;
                if let Some(((who, _), octets)) = self.answers.front() {
                    let (_, message) = Message::read(octets).unwrap();
                    return Err(format!("{who} got {message}"));
                }
            }
            "CHECK_NO_QUERY" => {
                self.settle().await;
                if let Some(out) = self.came.lock().unwrap().front() {
                    return Err(format!("upstream was asked {}", asked(out)));
                }
            }
            "TIME_PASSES" => self.time_passes(step.elapse()).await,
            "SERVER_DOWN" => {
                self.servers[step.server("SERVER_DOWN")].down();
                self.settle().await;
            }
            "SERVER_UP" => self.servers[step.server("SERVER_UP")].up(),
            "RELOAD" => self.reload(step)?,
            "CHECK_METRIC" => self.check_metric(step).await?,
            other => return Err(format!("no such step as {other}")),
        }
        Ok(())
    }

    /// Puts another word in the place of one in the configuration, and that in force, as the agent
    /// does.
    fn reload(&mut self, step: &Step) -> Result<(), String> {
        let [_, old, new] = &step.words[..] else {
            return Err("it wants two words".to_owned());
        };
        self.config = self.config.replace(old, new);
        let config = load(&self.name, &self.config, self.is_corefile, &self.servers);
        let old = self.resolver.routes();
        let routes = Routes::new(&config.zones, &self.telemetry, Some(&old));
        self.resolver.reload(routes, config.limits, config.cache);
        let routes = self.resolver.routes();
        let stays = |entry: &Entry<'_>| routes.agree_on(&old, entry.name());
        self.cache.retain(stays);
        Ok(())
    }

    /// One look at whatever moves: tasks, sockets, channels.
    async fn look(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let mut buffer = [0; 4096];
        for client in &mut self.clients {
            while let Ok(length) = client.socket.recv(&mut buffer) {
                let whose = (client.name.clone(), false);
                self.answers.push_back((whose, buffer[..length].to_vec()));
            }
            while let Ok(reply) = client.settled.try_recv() {
                let whose = (client.name.clone(), true);
                self.answers.push_back((whose, reply.frame()[2..].to_vec()));
            }
        }
    }

    /// Answers a query upstream, and waits until the answer has been read.
    async fn reply(&mut self, out: &Out, step: &Step) {
        let before = self.exchanges();
        answer(out, &step.message, step.has("PLAIN"));
        for _ in 0..READ {
            self.look().await;
            if self.exchanges() > before {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        // And for what follows from it.
        self.look().await;
        self.look().await;
    }

    /// Responses that were read from any server, good or bad.
    fn exchanges(&self) -> u64 {
        let servers = (0..4).map(|index| self.telemetry.resolve.upstream(index));
        servers.flat_map(|cells| cells.outcomes()).sum()
    }

    /// Waits for what must not happen.
    async fn settle(&mut self) {
        for _ in 0..LOOKS {
            self.look().await;
            std::thread::sleep(PAUSE);
        }
    }

    async fn time_passes(&mut self, elapse: Duration) {
        // What was sent before must have come before.
        self.settle().await;
        let stride = STRIDE.max(elapse / STRIDES);
        let mut left = elapse;
        while !left.is_zero() {
            let now = left.min(stride);
            tokio::time::advance(now).await;
            left -= now;
            for _ in 0..4 {
                self.look().await;
                std::thread::sleep(PAUSE);
            }
        }
        // As the cold thread does once a second, a part at a time.
        for _ in 0..64 {
            self.cache.sweep(Tick::of(self.resolver.now()));
        }
        self.resolver.look_after_upstreams();
        self.settle().await;
    }

    fn client(&mut self, name: &str) -> usize {
        if let Some(at) = self.clients.iter().position(|client| client.name == name) {
            return at;
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let (replies, settled) = mpsc::channel(1024);
        self.clients.push(Client {
            name: name.to_owned(),
            socket,
            replies,
            settled,
        });
        self.clients.len() - 1
    }

    /// Asks, as a worker does for UDP and a connection for TCP.
    fn query(&mut self, step: &Step) {
        let whose = step.client();
        let client = self.client(&whose.0);
        let mut flags = if step.has("NORD") { 0 } else { RD };
        for word in ["AD", "CD"] {
            if step.has(word) {
                flags |= flag(word).unwrap();
            }
        }
        let edns = (!step.has("NOEDNS")).then(|| Edns {
            size: step.number("SIZE").unwrap_or(1232),
            version: step.number("VERSION").unwrap_or(0),
            dnssec_ok: step.has("DO"),
            options: step.options(),
        });
        for asked in &step.questions {
            let id = step.number("ID").unwrap_or(self.next_id);
            self.next_id += 1;
            self.sent.push(Sent {
                client: whose.clone(),
                id,
                asked: asked.clone(),
            });
            let mut octets = query(id, flags, asked, edns.as_ref());
            step.spoil(&mut octets);
            if let Some(answer) = self.ask(client, whose.1, &octets) {
                self.answers.push_back((whose.clone(), answer));
            }
        }
        self.misses.ring();
    }

    /// The answer, where one is there at once.
    fn ask(&mut self, client: usize, is_tcp: bool, octets: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        buffer[..octets.len()].copy_from_slice(octets);
        let shape = |limit| Shape {
            limit,
            udp_size: self.udp_size,
            keepalive: is_tcp.then_some(self.keepalive),
        };
        let mut question = Question::new();
        let query = match Query::parse(octets, &mut question) {
            Ok(query) => query,
            Err(rejection) => {
                let length = reply::reject(&mut buffer, &rejection, &shape(MAX_MESSAGE));
                return (length > 0).then(|| buffer[..length].to_vec());
            }
        };
        let limit = if is_tcp {
            MAX_MESSAGE
        } else {
            query.udp_limit(self.udp_size)
        };
        let now = self.resolver.now();
        let asked = AskedOf::new(octets, &query);
        let session = self.reader.online();
        let found = session.get(&question, Tick::of(now));
        if matches!(found, Lookup::Due(_)) {
            let asked = asked.clone();
            assert!(self.misses.offer(Miss {
                client: None,
                listener: 0,
                arrived_ns: nanoseconds(now),
                asked,
            }));
        }
        if let Lookup::Hit(entry) | Lookup::Due(entry) = found {
            let answer = entry.answer(Tick::of(now));
            let length = reply::answer(&mut buffer, &query, &answer, &shape(limit));
            return Some(buffer[..length].to_vec());
        }
        drop(session);
        let client = &self.clients[client];
        let address: SocketAddr = client.socket.local_addr().unwrap();
        if is_tcp {
            self.resolver.ask(Waiter {
                asked,
                arrived_ns: nanoseconds(now),
                to: To::Stream {
                    replies: client.replies.clone(),
                    client: address.ip(),
                    keepalive: self.keepalive,
                },
            });
        } else {
            assert!(self.misses.push(Miss {
                client: Some(address),
                listener: 0,
                arrived_ns: nanoseconds(now),
                asked,
            }));
        }
        None
    }

    /// The oldest query that asks this.
    async fn out(&mut self, step: &Step, wanted: &Asked) -> Result<Out, String> {
        for _ in 0..PATIENCE {
            let found = {
                let mut came = self.came.lock().unwrap();
                let at = came.iter().position(|out| asked(out).is(wanted));
                at.and_then(|at| came.remove(at))
            };
            if let Some(out) = found {
                let server = step.value("SERVER").map(|_| step.server("SERVER"));
                if server.is_some_and(|server| server != out.server) {
                    return Err(format!("it came to server {}", out.server + 1));
                }
                let (_, message) = Message::read(&out.octets).unwrap();
                let cd = flag("CD").unwrap();
                let is_checked = message.flags & cd != 0;
                // DO is the top bit of the flags of the OPT record, which ends the query.
                let dnssec_ok = out.octets[out.octets.len() - 4] & 0x80 != 0;
                if is_checked != step.has("CD") || dnssec_ok != step.has("DO") {
                    return Err(format!("its CD is {is_checked}, its DO is {dnssec_ok}"));
                }
                // Nothing that a client says of itself goes upstream.
                if out.octets.len() != 12 + asked(&out).octets().len() + 11 {
                    return Err("there is an option in its OPT record".to_owned());
                }
                return Ok(out);
            }
            self.look().await;
            std::thread::sleep(PAUSE);
        }
        let came = self.came.lock().unwrap();
        let came: Vec<String> = came.iter().map(|out| asked(out).to_string()).collect();
        Err(format!("{wanted} was not asked upstream, but {came:?}"))
    }

    async fn check_answer(&mut self, step: &Step) -> Result<(), String> {
        let whose = step.client();
        let wanted = step.questions.first();
        let at = self.sent.iter().position(|sent| {
            sent.client == whose && wanted.is_none_or(|wanted| sent.asked.is(wanted))
        });
        let sent = self.sent.remove(at.ok_or("nobody has asked that")?);
        let matches = |octets: &[u8]| octets[..2] == sent.id.to_be_bytes();
        for _ in 0..PATIENCE {
            let mut answers = self.answers.iter();
            let at = answers.position(|(who, octets)| *who == sent.client && matches(octets));
            if let Some((_, octets)) = at.and_then(|at| self.answers.remove(at)) {
                return step.compare(&sent.asked, &octets);
            }
            self.look().await;
            std::thread::sleep(PAUSE);
        }
        Err("no answer came".to_owned())
    }

    async fn check_metric(&mut self, step: &Step) -> Result<(), String> {
        let [_, name, labels @ .., value] = &step.words[..] else {
            return Err("it names no metric".to_owned());
        };
        let mut found = String::new();
        for _ in 0..LOOKS {
            self.look().await;
            std::thread::sleep(PAUSE);
            let text = self.telemetry.expose();
            let lines = text.lines().filter(|line| {
                let is_it = line
                    .strip_prefix(name.as_str())
                    .is_some_and(|rest| rest.starts_with(['{', ' ']));
                is_it && labels.iter().all(|label| line.contains(label.as_str()))
            });
            let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
            found = values.sum::<u64>().to_string();
            if found == *value {
                return Ok(());
            }
        }
        Err(format!("{name} {labels:?} is {found}"))
    }
}

fn asked(out: &Out) -> Asked {
    let (_, message) = Message::read(&out.octets).unwrap();
    message.question.unwrap()
}

fn answer(out: &Out, message: &Message, is_plain: bool) {
    let id = u16::from_be_bytes([out.octets[0], out.octets[1]]);
    out.reply(&message.octets(id, &asked(out), is_plain));
}
