// SPDX-License-Identifier: Apache-2.0
//! The prober: a thread that asks the agent its own name through the serving sockets and tells
//! [`Health`] what came back; and, where queries are intercepted, the kernel, which steers them
//! here for as long as it hears so.
//!
//! A round every 250 ms asks each listen address over TCP, and over UDP from some of the CPUs:
//! the kernel steers a datagram to the worker of the CPU that sent it, so the thread moves from
//! CPU to CPU and reaches every worker. Four rounds are a turn over all CPUs, however many there
//! are (a CPU or two a round on a small machine, sixteen of 64), so each worker is asked once a
//! second, and in every round while its last probe has failed. All questions of a round are sent
//! before any answer is awaited, and answers are taken in whatever order they come: what does not
//! answer costs the round its patience once, and never holds up the others.
//!
//! Workers are reached through the CPUs this process may run on. Where it may run on a part of
//! the machine only, and the steering maps two of these CPUs to one worker and none to another,
//! that other one is not seen from here; its cells tell
//! ([`progress`](crate::telemetry::cells::WorkerCells::progress)).

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity};
use rustix::time::Timespec;

use super::interception::Interception;
use super::orders::{Order, Orders};
pub use super::probe::{PULSE_NAME, PULSE_TYPE};
use super::ready::Health;
use super::round::{Askers, BLIND, Round, TURN_ROUNDS, Waited};
use crate::telemetry::clock::{Clock, nanoseconds};

/// From the beginning of a round to that of the next.
pub const PERIOD: Duration = Duration::from_millis(250);

/// How long all answers of a round are waited for before the kernel hears of those that came. One
/// that hangs must not hold up the others' sign of life.
const SOON: Duration = Duration::from_millis(20);

/// When, from the beginning of a round, what has not answered over UDP is asked again.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(100)];

/// How long the answers of a round are waited for, together. Below [`PERIOD`], so that a hung
/// worker does not slow the rounds down.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long what others do to our rules goes unseen at most.
const LOOK: Duration = Duration::from_millis(100);

/// The running thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Pulse {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Starts the thread `pulse`. Where queries are intercepted it keeps the switch; `begin` runs
    /// on it first of all.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor for us.
    pub fn start(
        health: Arc<Health>,
        orders: Arc<Orders>,
        interception: Option<Interception>,
        begin: fn(),
    ) -> io::Result<Self> {
        let origins = interception.as_ref().map(Interception::origins);
        let beat = Beat {
            health,
            orders: Arc::clone(&orders),
            askers: Askers::from(origins.unwrap_or_default()),
            interception,
            verdict: Verdict::default(),
        };
        let thread = thread::Builder::new()
            .name("pulse".to_owned())
            .spawn(move || {
                begin();
                beat.until_told();
            })?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Stops the thread and waits for it. What it owned in the kernel goes with it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.orders.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the pulse thread has panicked");
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

/// The CPUs that this process may run on. Workers and the pulse bind themselves to single ones,
/// so the main thread is asked, which does not.
#[must_use]
pub fn cpus() -> Vec<usize> {
    sched_getaffinity(Some(getpid()))
        .map(|set| {
            (0..CpuSet::MAX_CPU)
                .filter(|&cpu| set.is_set(cpu))
                .collect()
        })
        .unwrap_or_default()
}

/// All that the thread has.
struct Beat {
    health: Arc<Health>,
    orders: Arc<Orders>,
    interception: Option<Interception>,
    askers: Askers,
    verdict: Verdict,
}

impl Beat {
    fn until_told(mut self) {
        let mut known_cpus = Vec::new();
        let mut number = 0usize;
        loop {
            let began_ns = Clock.now_ns();
            if number.is_multiple_of(TURN_ROUNDS) {
                // A cpuset may change at any time.
                let cpus = cpus();
                if cpus != known_cpus {
                    self.health.set_cpus(&cpus, began_ns);
                    known_cpus = cpus;
                }
            }
            self.round(number, &known_cpus, began_ns);
            self.verdict.log_changes(&self.health, Clock.now_ns());
            number = number.wrapping_add(1);
            if self.rest_until(began_ns.saturating_add(nanoseconds(PERIOD))) {
                return;
            }
        }
    }

    /// Asks everything that is due, and gives the kernel a sign of life for what answers, as soon
    /// as it does.
    fn round(&mut self, number: usize, cpus: &[usize], began_ns: u64) {
        if let Some(interception) = &mut self.interception {
            interception.begin_turn(began_ns);
        }
        let mut round = Round::ask(&self.health, &mut self.askers, number, cpus);
        let at = |after: Duration| began_ns.saturating_add(nanoseconds(after));
        let moments = [
            (SOON, false),
            (AGAIN[0], true),
            (AGAIN[1], true),
            (PATIENCE, false),
        ];
        let mut waited = Waited::TimeOver;
        for (moment, is_repeated) in moments {
            waited = round.wait(at(moment), self.orders.bell());
            if let Some(interception) = &mut self.interception {
                interception.refresh(|address, proto| round.has_answered(address, proto));
            }
            if waited != Waited::TimeOver {
                break;
            }
            if is_repeated {
                round.ask_again();
            }
        }
        if let Some(interception) = &mut self.interception {
            interception.end_turn(|address, proto| round.has_answered(address, proto));
        }
        // Who had no time to answer has not failed.
        if waited != Waited::Called {
            round.finish();
        }
    }

    /// Carries out orders and mends what others break until this moment; true when asked to stop.
    fn rest_until(&mut self, moment_ns: u64) -> bool {
        loop {
            for order in self.orders.take() {
                match (order, &mut self.interception) {
                    (Order::Stop, _) => return true,
                    (order, Some(interception)) => interception.obey(order),
                    // Nothing is steered: done already.
                    (_, None) => {}
                }
            }
            let left = Duration::from_nanos(moment_ns.saturating_sub(Clock.now_ns()));
            if left.is_zero() {
                return false;
            }
            let watched = self.interception.as_ref().and_then(Interception::watched);
            let wait = watched.map_or(left, |_| left.min(LOOK));
            let bell = self.orders.bell();
            let mut fds = vec![PollFd::new(&bell, PollFlags::IN)];
            fds.extend(watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let timeout = Timespec::try_from(wait).ok();
            let is_told = poll(&mut fds, timeout.as_ref()).is_ok();
            drop(fds);
            if !is_told {
                // A limit on descriptors below their number.
                thread::park_timeout(left.min(BLIND));
            }
            if let Some(interception) = &mut self.interception {
                interception.mend(Clock.now_ns());
            }
        }
    }
}

/// What was last said in the log.
#[derive(Debug, Default)]
struct Verdict {
    is_ready: bool,
    is_dead: bool,
}

impl Verdict {
    /// Logs when the agent becomes ready, is so no longer, or is no longer live. A drain has
    /// lines of its own.
    fn log_changes(&mut self, health: &Health, now_ns: u64) {
        if health.is_draining() {
            return;
        }
        let ready = health.ready(now_ns);
        match &ready {
            Ok(()) if !self.is_ready => tracing::info!("ready"),
            Err(reasons) if self.is_ready => {
                tracing::warn!(reason = reasons.line(), "no longer ready");
            }
            _ => {}
        }
        self.is_ready = ready.is_ok();
        let live = health.live_or_young(now_ns);
        if let (Err(reasons), false) = (&live, self.is_dead) {
            tracing::error!(reason = reasons.line(), "no longer live");
        }
        self.is_dead = live.is_err();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, UdpSocket};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A server for UDP and TCP on one port, on threads that end with the test process.
    pub(crate) struct Server {
        pub(crate) address: SocketAddr,
        /// UDP queries: source and the CPU that they came from.
        seen: mpsc::Receiver<(SocketAddr, usize)>,
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Manner {
        /// Over UDP answers only what was sent from this CPU.
        only_cpu: Option<usize>,
        /// Over TCP sends an octet every so often, and all at once when zero.
        drip: Duration,
        /// Answers with this in the last four bits of the flags.
        rcode: u8,
    }

    pub(crate) const GOOD: Manner = Manner {
        only_cpu: None,
        drip: Duration::ZERO,
        rcode: 0,
    };

    /// The query with QR set, ANCOUNT 1 and a TXT record behind it.
    fn answer(query: &[u8], rcode: u8) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer[3] |= rcode;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x03\x02ok");
        answer
    }

    /// A member of a group of sockets that gets what is sent from this CPU: as workers have it,
    /// by other means (SO_INCOMING_CPU steers a group from Linux 6.1 on).
    fn steered(address: SocketAddr, cpu: usize) -> (usize, UdpSocket) {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_cpu_affinity(cpu).unwrap();
        socket.bind(&address.into()).unwrap();
        (cpu, socket.into())
    }

    pub(crate) fn server(address: &str, manner: Manner) -> Server {
        // Another test may hold the TCP port with the number that we get for UDP.
        let wanted: SocketAddr = address.parse().unwrap();
        let bind_both = || {
            let (_, udp) = steered(wanted, cpus()[0]);
            let address = udp.local_addr().unwrap();
            Some((TcpListener::bind(address).ok()?, address, udp))
        };
        let (tcp, address, first) = std::iter::repeat_with(bind_both).flatten().next().unwrap();
        let others = cpus().into_iter().skip(1).map(|cpu| steered(address, cpu));
        let (sender, seen) = mpsc::channel();
        for (cpu, udp) in others.chain([(cpus()[0], first)]) {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut query = [0; 512];
                while let Ok((len, from)) = udp.recv_from(&mut query) {
                    let _ = sender.send((from, cpu));
                    if manner.only_cpu.is_none_or(|only| only == cpu) {
                        udp.send_to(&answer(&query[..len], manner.rcode), from)
                            .unwrap();
                    }
                }
            });
        }
        thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut len = [0; 2];
                if stream.read_exact(&mut len).is_err() {
                    continue;
                }
                let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut query).unwrap();
                let answer = answer(&query, manner.rcode);
                let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let message = [&len, answer.as_slice()].concat();
                if manner.drip.is_zero() {
                    let _ = stream.write_all(&message);
                } else {
                    for octet in message.chunks(1) {
                        if stream.write_all(octet).is_err() {
                            break;
                        }
                        thread::park_timeout(manner.drip);
                    }
                }
            }
        });
        Server { address, seen }
    }

    fn health_of(addresses: &[SocketAddr]) -> Arc<Health> {
        Arc::new(Health::new(addresses, &cpus(), Clock.now_ns()))
    }

    /// A pulse that only asks.
    pub(crate) fn start(health: &Arc<Health>) -> Pulse {
        let orders = Arc::new(Orders::new().unwrap());
        Pulse::start(Arc::clone(health), orders, None, || ()).unwrap()
    }

    /// Waits until the check says so, five seconds at most, and keeps the cold thread alive.
    pub(crate) fn wait_for(health: &Health, check: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            health.beat(Clock.now_ns());
            thread::park_timeout(Duration::from_millis(10));
            check()
        })
    }

    fn not_ready(health: &Health) -> String {
        health
            .ready(Clock.now_ns())
            .map_or_else(|reasons| reasons.to_string(), |()| String::new())
    }

    #[test]
    fn good_answers_over_both_families_make_the_agent_ready() {
        let servers = [
            server("127.0.0.1:0", GOOD),
            server("127.0.0.3:0", GOOD),
            server("[::1]:0", GOOD),
        ];
        let health = health_of(&servers.each_ref().map(|server| server.address));
        let pulse = start(&health);
        assert!(
            wait_for(&health, || health.ready(Clock.now_ns()).is_ok()),
            "{}",
            not_ready(&health)
        );
        pulse.stop();
        let figures = health.figures(Clock.now_ns());
        assert!(figures.is_ready && figures.is_live);
        assert_eq!(figures.probes.len(), 6);
        assert!(figures.probes.iter().all(|probe| probe.answered > 0));
        for server in &servers {
            let (source, _) = server.seen.recv().unwrap();
            let loopback = if source.is_ipv4() { "127.0.0.1" } else { "::1" };
            assert_eq!(source.ip().to_string(), loopback);
        }
    }

    #[test]
    fn the_question_comes_from_every_cpu() {
        let server = server("127.0.0.1:0", GOOD);
        let health = health_of(&[server.address]);
        let pulse = start(&health);
        assert!(
            wait_for(&health, || health.ready(Clock.now_ns()).is_ok()),
            "{}",
            not_ready(&health)
        );
        drop(pulse);
        let seen: BTreeSet<_> = server.seen.try_iter().map(|(_, cpu)| cpu).collect();
        assert_eq!(seen, cpus().into_iter().collect());
    }

    #[test]
    fn a_worker_that_hangs_is_seen_while_the_others_answer() {
        let cpus = cpus();
        let [first, .., last] = cpus[..] else {
            panic!("this test needs two CPUs");
        };
        let server = server(
            "127.0.0.1:0",
            Manner {
                only_cpu: Some(first),
                ..GOOD
            },
        );
        let health = health_of(&[server.address]);
        let pulse = start(&health);
        let hung: Vec<_> = cpus
            .iter()
            .filter(|&&cpu| cpu != first)
            .map(ToString::to_string)
            .collect();
        let expected = format!(
            "udp {} from CPU {}: no answer yet",
            server.address,
            hung.join(", ")
        );
        assert!(
            wait_for(&health, || not_ready(&health) == expected),
            "{}",
            not_ready(&health)
        );
        // What has failed is asked in every round, the others in every second one at most.
        server.seen.try_iter().for_each(drop);
        let failed = |health: &Health| health.figures(Clock.now_ns()).probes[0].failed;
        let before = failed(&health);
        assert!(wait_for(&health, || failed(&health) >= before + 8));
        let seen: Vec<_> = server.seen.try_iter().map(|(_, cpu)| cpu).collect();
        let from = |cpu| seen.iter().filter(|&&from| from == cpu).count();
        assert!(from(last) >= from(first) + 2, "{seen:?}");
        pulse.stop();
    }

    #[test]
    fn a_target_that_never_answers_neither_wedges_the_others_nor_the_stop() {
        // Sockets that take everything and read nothing; a TCP queue that is full.
        let udp = UdpSocket::bind("127.0.0.4:0").unwrap();
        let hung = udp.local_addr().unwrap();
        let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        tcp.bind(&hung.into()).unwrap();
        tcp.listen(0).unwrap();
        let drips = server(
            "127.0.0.1:0",
            Manner {
                drip: Duration::from_millis(30),
                ..GOOD
            },
        );
        let good = server("127.0.0.1:0", GOOD);
        let health = health_of(&[hung, drips.address, good.address]);
        let pulse = start(&health);
        // Until the queue of the hung listener is full and connections time out.
        wait_for(&health, || {
            health.figures(Clock.now_ns()).probes[1].failed >= 6
        });
        let reasons = not_ready(&health);
        assert!(
            reasons.contains(&format!("udp {hung}: no answer yet")),
            "{reasons}"
        );
        assert!(
            reasons.contains(&format!("tcp {hung}: no answer yet")),
            "{reasons}"
        );
        assert!(
            reasons.contains(&format!("tcp {}: no answer yet", drips.address)),
            "{reasons}"
        );
        assert!(!reasons.contains(&good.address.to_string()), "{reasons}");
        let before = Clock.now();
        pulse.stop();
        let took = Clock.now() - before;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn a_closed_port_and_an_error_answer_are_told_apart() {
        let closed = {
            let socket = UdpSocket::bind("127.0.0.5:0").unwrap();
            socket.local_addr().unwrap()
        };
        let server = server("127.0.0.1:0", Manner { rcode: 2, ..GOOD });
        let health = health_of(&[closed, server.address]);
        let _pulse = start(&health);
        let failed = || {
            health
                .figures(Clock.now_ns())
                .probes
                .iter()
                .all(|probe| probe.failed >= 4)
        };
        assert!(wait_for(&health, failed));
        let reasons = not_ready(&health);
        for part in [
            format!("udp {closed}: no answer yet (Connection refused (os error 111))"),
            format!("tcp {closed}: no answer yet (Connection refused (os error 111))"),
            format!(
                "udp {}: no answer yet (answered with response code 2)",
                server.address
            ),
            format!(
                "tcp {}: no answer yet (answered with response code 2)",
                server.address
            ),
        ] {
            assert!(reasons.contains(&part), "{part} in {reasons}");
        }
    }

    #[test]
    fn a_server_that_comes_back_is_believed_at_once() {
        let is_up = Arc::new(AtomicBool::new(false));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let up = Arc::clone(&is_up);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = udp.recv_from(&mut query) {
                if up.load(Relaxed) {
                    udp.send_to(&answer(&query[..len], 0), from).unwrap();
                }
            }
        });
        let health = health_of(&[address]);
        let _pulse = start(&health);
        let silent = format!("udp {address}: no answer yet");
        assert!(wait_for(&health, || health.figures(Clock.now_ns()).probes
            [0]
        .failed
            >= 4));
        assert!(not_ready(&health).contains(&silent));
        is_up.store(true, Relaxed);
        assert!(
            wait_for(&health, || !not_ready(&health).contains("udp")),
            "{}",
            not_ready(&health)
        );
    }
}
