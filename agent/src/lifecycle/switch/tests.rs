// SPDX-License-Identifier: Apache-2.0
//! The switch on a clock of the tests' own.

use super::*;

const TURN: u64 = 250_000_000;
const START: u64 = 1_000_000_000_000;

const UDP: Lane = lane(Proto::Udp);
const TCP: Lane = lane(Proto::Tcp);

const fn lane(proto: Proto) -> Lane {
    Lane {
        address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10)),
        proto,
    }
}

/// The agent, the kernel and the time.
struct Node {
    switch: Switch,
    now_ns: u64,
    sight: Sight,
    changes: Vec<Change>,
}

impl Node {
    fn new() -> Self {
        let sight = Sight {
            workers: vec![WorkerSight::default(); 2],
            cold: 0,
        };
        Self {
            switch: Switch::new(vec![UDP, TCP], Duration::from_secs(1)),
            now_ns: START,
            sight,
            changes: Vec::new(),
        }
    }

    /// A turn of the pulse in which these lanes answer; the cold thread beats beforehand.
    fn turn(&mut self, answers: &[Lane]) -> Vec<Lane> {
        self.sight.cold += 1;
        self.turn_without_beat(answers)
    }

    fn turn_without_beat(&mut self, answers: &[Lane]) -> Vec<Lane> {
        self.now_ns += TURN;
        self.changes = self.switch.expire(self.now_ns);
        self.switch.look(&self.sight, self.now_ns);
        let has_answered = |lane| answers.contains(&lane);
        let alive = self.switch.alive(has_answered);
        self.changes
            .extend(self.switch.refreshed(&alive, self.now_ns));
        self.changes
            .extend(self.switch.close(has_answered, self.now_ns));
        alive
    }

    fn armed() -> Self {
        let mut node = Self::new();
        assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
        assert_eq!(node.changes, [Change::Armed(UDP), Change::Armed(TCP)]);
        node
    }
}

#[test]
fn the_first_answer_arms_a_lane_and_silence_arms_none() {
    let mut node = Node::new();
    assert_eq!(node.turn(&[]), []);
    assert_eq!(node.turn(&[UDP]), [UDP]);
    assert_eq!(node.changes, [Change::Armed(UDP)]);
    assert!(!node.switch.is_whole());
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    assert_eq!(node.changes, [Change::Armed(TCP)]);
    assert!(node.switch.is_whole());
}

#[test]
fn three_silent_turns_in_a_row_trip_nothing() {
    let mut node = Node::armed();
    for _ in 0..20 {
        for _ in 0..3 {
            assert_eq!(node.turn(&[TCP]), [TCP]);
            assert_eq!(node.changes, []);
        }
        assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
        assert_eq!(node.changes, []);
    }
}

#[test]
fn a_silent_transport_falls_alone_and_returns_after_two_good_turns() {
    let mut node = Node::armed();
    let mut turns = 0;
    while node.changes.is_empty() || node.changes == [Change::Armed(UDP), Change::Armed(TCP)] {
        assert_eq!(node.turn(&[UDP]), [UDP]);
        turns += 1;
        assert!(turns < 10);
    }
    assert_eq!(node.changes, [Change::Tripped(TCP, Cause::NoAnswer)]);
    assert_eq!(turns, 5, "the element lives a second");
    // Now and then is not enough.
    for _ in 0..5 {
        assert_eq!(node.turn(&[UDP, TCP]), [UDP]);
        assert_eq!(node.turn(&[UDP]), [UDP]);
    }
    assert_eq!(node.turn(&[UDP, TCP]), [UDP]);
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    assert_eq!(node.changes, [Change::Returned(TCP)]);
}

#[test]
fn a_worker_that_stands_still_over_its_queue_takes_udp_along_and_tcp_not() {
    let mut node = Node::armed();
    node.sight.workers[1].has_waiting = true;
    let alive: Vec<_> = (0..4).map(|_| node.turn(&[UDP, TCP]).len()).collect();
    assert_eq!(
        alive,
        [2, 2, 1, 1],
        "still for 0.75 s from the third turn on"
    );
    for _ in 0..2 {
        assert_eq!(node.turn(&[UDP, TCP]), [TCP]);
        assert_eq!(node.changes, []);
    }
    assert_eq!(node.turn(&[UDP, TCP]), [TCP]);
    assert_eq!(node.changes, [Change::Tripped(UDP, Cause::Worker(1))]);
}

#[test]
fn a_worker_that_moves_again_in_time_has_never_been_gone() {
    let mut node = Node::armed();
    node.sight.workers[0].has_waiting = true;
    for _ in 0..5 {
        node.turn(&[UDP, TCP]);
        assert_eq!(node.changes, []);
    }
    node.sight.workers[0].progress += 1;
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    assert_eq!(node.changes, []);
}

#[test]
fn an_idle_worker_may_sleep_for_ever() {
    let mut node = Node::armed();
    for _ in 0..100 {
        assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    }
}

#[test]
fn a_busy_worker_always_has_something_waiting() {
    let mut node = Node::armed();
    node.sight.workers[0].has_waiting = true;
    for _ in 0..100 {
        node.sight.workers[0].progress += 1;
        assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    }
}

#[test]
fn a_cold_thread_that_stands_still_takes_udp_along_and_lets_connections_go() {
    let mut node = Node::armed();
    for turn in 1..=8 {
        let alive = node.turn_without_beat(&[UDP]);
        let is_still = turn >= 4;
        assert_eq!(alive.is_empty(), is_still, "{turn}");
        assert_eq!(node.switch.serves(), !is_still, "{turn}");
    }
    assert_eq!(node.changes, [Change::Tripped(UDP, Cause::Cold)]);
    assert!(node.turn(&[UDP, TCP]).is_empty(), "it has just come back");
    assert!(node.switch.serves());
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
}

#[test]
fn who_was_stopped_itself_accuses_nobody() {
    let mut node = Node::armed();
    node.sight.workers[0].has_waiting = true;
    // SIGSTOP for ten seconds; nobody has moved when the pulse does again.
    node.now_ns += 10_000_000_000;
    node.sight.cold -= 1;
    assert_eq!(
        node.turn(&[UDP, TCP]),
        [],
        "the first turn after it tripped"
    );
    assert_eq!(
        node.changes,
        [
            Change::Tripped(UDP, Cause::Late),
            Change::Tripped(TCP, Cause::Late)
        ]
    );
    node.sight.workers[0] = WorkerSight::default();
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    assert_eq!(node.changes, [Change::Returned(UDP), Change::Returned(TCP)]);
}

#[test]
fn one_refresh_that_the_kernel_holds_up_trips_nothing() {
    let mut node = Node::armed();
    for _ in 0..20 {
        // Another program's transaction holds the kernel's lock for 0.4 s; the next turn follows
        // at once.
        node.now_ns += 400_000_000;
        assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
        assert_eq!(node.changes, []);
    }
    assert_eq!(node.switch.longest_gap(), Duration::from_millis(650));
}

#[test]
fn after_a_reset_lanes_arm_as_at_the_start() {
    let mut node = Node::armed();
    node.switch.reset();
    assert!(!node.switch.is_whole());
    assert_eq!(node.turn(&[UDP, TCP]), [UDP, TCP]);
    assert_eq!(node.changes, [Change::Armed(UDP), Change::Armed(TCP)]);
}

#[test]
fn a_refresh_that_the_kernel_took_too_late_is_a_trip_and_a_return() {
    let mut node = Node::armed();
    // Between the look and the kernel's answer.
    let late = node.now_ns + 5 * TURN;
    assert_eq!(
        node.switch.refreshed(&[UDP], late),
        [Change::Tripped(UDP, Cause::Late), Change::Returned(UDP)]
    );
    // In time, it is nothing.
    assert_eq!(node.switch.refreshed(&[UDP], late + 4 * TURN), []);
}
