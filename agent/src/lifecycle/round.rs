// SPDX-License-Identifier: Apache-2.0
//! A round of the pulse: every question that is due, sent at once, and their answers in whatever
//! order they come.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::Timespec;

use super::probe::{Fault, Origins, TcpProbe, UdpAsker};
use super::ready::{Health, Lane, Proto, Target};
use crate::telemetry::clock::Clock;

/// Rounds in which every CPU is asked from at least once.
pub(super) const TURN_ROUNDS: usize = 4;

/// How long is waited where the system does not tell when to look.
pub(super) const BLIND: Duration = Duration::from_millis(1);

/// The sockets that ask over UDP, by the address that they ask.
#[derive(Debug, Default)]
pub(super) struct Askers {
    origins: Origins,
    sockets: BTreeMap<SocketAddr, UdpAsker>,
    id: u16,
}

impl Askers {
    /// None yet; those that come leave from these addresses.
    pub(super) fn from(origins: Origins) -> Self {
        Self {
            origins,
            ..Self::default()
        }
    }

    /// Takes another socket for what has not answered: a route that the old one was given while
    /// its address was away is kept for ever. Where there is no descriptor, it stays.
    fn renew(&mut self, target: SocketAddr) {
        if let Ok(asker) = UdpAsker::new(self.origins.towards(target), target) {
            self.sockets.insert(target, asker);
        }
    }

    /// Has a socket for each of these and no other.
    fn fit(&mut self, targets: &[Target]) {
        let is_target = |address: &SocketAddr| targets.iter().any(|one| one.address == *address);
        self.sockets.retain(|address, _| is_target(address));
    }

    fn send(&mut self, target: SocketAddr, id: u16) -> Result<(), Fault> {
        let asker = match self.sockets.entry(target) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(UdpAsker::new(self.origins.towards(target), target)?)
            }
        };
        asker.send(id)
    }

    fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Every question has its answer, or will not get one.
    Settled,
    /// The time is over.
    TimeOver,
    /// Somebody rings: there is something to do at once.
    Called,
}

/// The questions of a round.
#[derive(Debug)]
pub(super) struct Round<'a> {
    targets: Arc<Vec<Target>>,
    askers: &'a mut Askers,
    asked: Vec<Asked>,
    /// CPUs that the thread may use when it does not ask from a certain one.
    cpus: &'a [usize],
}

/// One question to a lane; over UDP it may be asked several times.
#[derive(Debug)]
struct Asked {
    target: usize,
    lane: Arc<Lane>,
    way: Way,
    outcome: Option<Result<(), Fault>>,
}

#[derive(Debug)]
enum Way {
    /// The IDs that it was asked with.
    Udp(Vec<u16>),
    /// `None` where it could not be asked.
    Tcp(Option<TcpProbe>),
}

impl<'a> Round<'a> {
    /// Asks everything that is due in the round with this number: every address over TCP, and
    /// over UDP from some of the CPUs.
    pub(super) fn ask(
        health: &Health,
        askers: &'a mut Askers,
        number: usize,
        cpus: &'a [usize],
    ) -> Self {
        let targets = health.targets();
        askers.fit(&targets);
        let mut round = Self {
            targets: Arc::clone(&targets),
            askers,
            asked: Vec::new(),
            cpus,
        };
        health.forget_probes();
        let mut over_udp: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (at, target) in targets.iter().enumerate() {
            if target.proto == Proto::Udp && target.lanes.iter().any(|lane| lane.is_suspect()) {
                round.askers.renew(target.address);
            }
            let lanes = target.lanes.iter().enumerate();
            for (place, lane) in lanes {
                let way = match target.proto {
                    Proto::Tcp => Way::Tcp(None),
                    Proto::Udp if is_due(place, target.lanes.len(), number) => Way::Udp(Vec::new()),
                    Proto::Udp if lane.is_suspect() => Way::Udp(Vec::new()),
                    Proto::Udp => continue,
                };
                let is_udp = matches!(way, Way::Udp(_));
                if is_udp {
                    over_udp
                        .entry(lane.cpu)
                        .or_default()
                        .push(round.asked.len());
                }
                round.asked.push(Asked {
                    target: at,
                    lane: Arc::clone(lane),
                    way,
                    outcome: None,
                });
            }
        }
        round.send_udp(over_udp);
        for index in 0..round.asked.len() {
            round.connect(health, index);
        }
        round
    }

    /// Asks once more over UDP whoever has not answered.
    pub(super) fn ask_again(&mut self) {
        let mut silent: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (index, asked) in self.asked.iter().enumerate() {
            if asked.outcome.is_none() && matches!(asked.way, Way::Udp(_)) {
                silent.entry(asked.lane.cpu).or_default().push(index);
            }
        }
        self.send_udp(silent);
    }

    /// Sends questions, each from its CPU.
    fn send_udp(&mut self, by_cpu: BTreeMap<Option<usize>, Vec<usize>>) {
        if by_cpu.is_empty() {
            return;
        }
        for (cpu, questions) in by_cpu {
            // A CPU that was taken from us between two turns is asked from another, once.
            run_on(cpu.as_slice());
            for index in questions {
                let id = self.askers.next_id();
                let Some(asked) = self.asked.get_mut(index) else {
                    continue;
                };
                let Some(target) = self.targets.get(asked.target) else {
                    continue;
                };
                if let Way::Udp(ids) = &mut asked.way {
                    ids.push(id);
                }
                if let Err(fault) = self.askers.send(target.address, id) {
                    asked.outcome = Some(Err(fault));
                }
            }
        }
        run_on(self.cpus);
    }

    fn connect(&mut self, health: &Health, index: usize) {
        let id = self.askers.next_id();
        let Some(asked) = self.asked.get_mut(index) else {
            return;
        };
        let (Way::Tcp(probe), Some(target)) = (&mut asked.way, self.targets.get(asked.target))
        else {
            return;
        };
        let source = self.askers.origins.towards(target.address);
        let leave = |source| health.expect_probe(source);
        match TcpProbe::start(source, target.address, id, leave) {
            Ok(started) => *probe = Some(started),
            Err(fault) => asked.outcome = Some(Err(fault)),
        }
    }

    /// Takes answers until all are there, this moment has come, or `bell` rings.
    pub(super) fn wait(&mut self, until_ns: u64, bell: BorrowedFd<'_>) -> Waited {
        loop {
            if self.is_settled() {
                return Waited::Settled;
            }
            // Even where the round ran late, what is there already is taken.
            let left = Duration::from_nanos(until_ns.saturating_sub(Clock.now_ns()));
            let (is_called, ready) = self.poll(left, bell);
            self.take(&ready);
            if is_called {
                return Waited::Called;
            }
            if left.is_zero() && !self.is_settled() {
                return Waited::TimeOver;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.asked.iter().all(|asked| asked.outcome.is_some())
    }

    /// Waits for any of the open questions; says which have something.
    fn poll(&self, left: Duration, bell: BorrowedFd<'_>) -> (bool, Vec<Ready>) {
        let mut waiting = Vec::new();
        let mut fds = vec![PollFd::new(&bell, PollFlags::IN)];
        for (address, asker) in &self.askers.sockets {
            waiting.push(Ready::Udp(*address));
            fds.push(PollFd::new(asker, PollFlags::IN));
        }
        for (index, asked) in self.asked.iter().enumerate() {
            if let (None, Way::Tcp(Some(probe))) = (asked.outcome, &asked.way) {
                waiting.push(Ready::Tcp(index));
                fds.push(PollFd::new(probe, probe.wants()));
            }
        }
        let timeout = Timespec::try_from(left).ok();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // A limit on descriptors below their number: what is there is looked at all the same.
            thread::park_timeout(left.min(BLIND));
            return (false, waiting);
        }
        let is_called = fds.first().is_some_and(|bell| !bell.revents().is_empty());
        let ready = fds.iter().skip(1).zip(waiting);
        let ready = ready.filter(|(fd, _)| !fd.revents().is_empty());
        (is_called, ready.map(|(_, ready)| ready).collect())
    }

    fn take(&mut self, ready: &[Ready]) {
        for ready in ready {
            match *ready {
                Ready::Tcp(index) => {
                    let outcome = match self.asked.get_mut(index).map(|asked| &mut asked.way) {
                        Some(Way::Tcp(Some(probe))) => probe.go_on(),
                        _ => None,
                    };
                    if let Some(outcome) = outcome {
                        self.settle(index, outcome);
                    }
                }
                Ready::Udp(address) => self.take_datagrams(address),
            }
        }
    }

    fn take_datagrams(&mut self, address: SocketAddr) {
        while let Some(asker) = self.askers.sockets.get(&address) {
            let (id, outcome) = match asker.receive() {
                Ok(None) => return,
                Ok(Some(answer)) => (Some(answer.id), answer.outcome),
                // Not of one answer: of all.
                Err(fault) => (None, Err(fault)),
            };
            let targets = Arc::clone(&self.targets);
            let is_of = |asked: &Asked| {
                let target = targets.get(asked.target);
                let Way::Udp(ids) = &asked.way else {
                    return false;
                };
                asked.outcome.is_none()
                    && target.is_some_and(|target| target.address == address)
                    && id.is_none_or(|id| ids.contains(&id))
            };
            let all: Vec<_> = (0..self.asked.len())
                .filter(|&index| self.asked.get(index).is_some_and(is_of))
                .collect();
            for index in all {
                self.settle(index, outcome);
            }
        }
    }

    fn settle(&mut self, index: usize, outcome: Result<(), Fault>) {
        let Some(asked) = self.asked.get_mut(index) else {
            return;
        };
        asked.outcome = Some(outcome);
        // Its descriptor goes with the answer.
        if let Way::Tcp(probe) = &mut asked.way {
            *probe = None;
        }
        if let (Ok(()), Some(target)) = (outcome, self.targets.get(asked.target)) {
            target.record(&asked.lane, outcome, Clock.now_ns());
        }
    }

    /// Whether the address has given a good answer over this transport, from whatever CPU.
    pub(super) fn has_answered(&self, address: SocketAddr, proto: Proto) -> bool {
        self.asked.iter().any(|asked| {
            let target = self.targets.get(asked.target);
            asked.outcome == Some(Ok(()))
                && target.is_some_and(|target| target.address == address && target.proto == proto)
        })
    }

    /// The round is over: whoever has not answered has failed.
    pub(super) fn finish(self) {
        let now_ns = Clock.now_ns();
        for asked in &self.asked {
            let outcome = asked.outcome.unwrap_or(Err(Fault::Silent));
            // Good answers are noted as they come.
            if let (Err(_), Some(target)) = (outcome, self.targets.get(asked.target)) {
                target.record(&asked.lane, outcome, now_ns);
            }
        }
    }
}

/// Who has something to read.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Udp(SocketAddr),
    Tcp(usize),
}

/// Whether the round with this number asks on the lane at this place: as many lanes a round as it
/// takes to come round in a turn, one after the other.
fn is_due(at: usize, lanes: usize, number: usize) -> bool {
    let a_round = lanes.div_ceil(TURN_ROUNDS);
    let first = number.wrapping_mul(a_round) % lanes;
    (at + lanes - first) % lanes < a_round
}

/// Binds this thread to these CPUs. Where the system refuses, it stays where it is.
fn run_on(cpus: &[usize]) {
    if !cpus.is_empty() {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu);
        }
        let _ = sched_setaffinity(None, &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_is_asked_within_a_turn_and_none_twice_as_often() {
        for lanes in (1..=70).chain([128, 255]) {
            let mut asked = vec![Vec::new(); lanes];
            for number in 0..100 {
                let due: Vec<_> = (0..lanes).filter(|&at| is_due(at, lanes, number)).collect();
                assert_eq!(due.len(), lanes.div_ceil(TURN_ROUNDS), "{lanes}");
                due.iter().for_each(|&at| asked[at].push(number));
            }
            for rounds in &asked {
                assert!(rounds[0] < TURN_ROUNDS, "{lanes}");
                assert!(
                    rounds
                        .windows(2)
                        .all(|pair| pair[1] - pair[0] <= TURN_ROUNDS),
                    "{lanes}"
                );
            }
        }
    }
}
