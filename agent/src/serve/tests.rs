// SPDX-License-Identifier: Apache-2.0
//! Workers over real sockets: hits, misses, rejections, listeners that come and go.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::*;
use crate::cache::{Cache, Draft, Tick};
use crate::miss::{self, Receiver};
use crate::telemetry::clock::Clock;
use crate::telemetry::registry::Telemetry;
use crate::wire::answer::Answer;
use crate::wire::header::Header;
use crate::wire::name::Name;
use crate::wire::question::Question;

struct Running {
    workers: Workers,
    cache: Cache,
    misses: Receiver,
    _ear: OwnedFd,
    telemetry: Telemetry,
    group: Group,
}

fn running(count: usize) -> Running {
    let cache = Cache::new(1 << 20, count).unwrap();
    let (sender, misses, ear) = miss::queue().unwrap();
    let telemetry = Telemetry::new(count);
    telemetry.zone("example.");
    let seats = telemetry
        .workers
        .iter()
        .map(|cells| Seat {
            reader: cache.reader().unwrap(),
            misses: sender.clone(),
            cells: Arc::clone(cells),
        })
        .collect();
    let failed: Failed = Arc::new(|why| panic!("{why}"));
    let workers = Workers::start(seats, 1232, &failed, || ()).unwrap();
    let group = Group::bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
    workers.desk().open(&[(0, &group)]);
    Running {
        workers,
        cache,
        misses,
        _ear: ear,
        telemetry,
        group,
    }
}

fn client(group: &Group) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(group.address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    client
}

fn query(name: &str, id: u16) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message.extend(Name::parse(name).unwrap().as_wire());
    message.extend([0, 1, 0, 1]);
    message
}

fn keep(cache: &Cache, name: &str, early: u16) {
    let question = Question::of(&Name::parse(name).unwrap(), 1);
    let now = Tick::of(Clock.now());
    let records = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1];
    let answer = Answer {
        counts: [1, 0, 0],
        records: &records,
        ttl_offsets: &[6, 0],
        ..Answer::NOTHING
    };
    let draft = Draft {
        early,
        ..Draft::new(&question, answer, 1, [now, now.after_seconds(60)])
    };
    cache.insert(&draft).unwrap();
}

#[test]
fn a_hit_that_is_due_is_answered_and_offered_once() {
    let running = running(1);
    keep(&running.cache, "hot.example", u16::MAX);
    let client = client(&running.group);
    let mut buffer = [0; 2000];
    for id in 0..10 {
        client.send(&query("hot.example", id)).unwrap();
        client.recv(&mut buffer).unwrap();
    }
    let due = running.misses.pop().unwrap();
    assert_eq!(due.client, None, "nobody waits for it");
    assert_eq!(due.asked.question(), &query("hot.example", 0)[12..]);
    assert!(running.misses.pop().is_none(), "said once");
}

#[test]
fn a_hit_is_answered_here_and_a_miss_is_handed_over() {
    let running = running(2);
    keep(&running.cache, "hit.example", 0);
    let client = client(&running.group);
    client.send(&query("hit.example", 7)).unwrap();
    let mut buffer = [0; 2000];
    let length = client.recv(&mut buffer).unwrap();
    let header = Header::read(&buffer).unwrap();
    assert_eq!((header.id, header.answers, buffer[length - 1]), (7, 1, 1));
    client.send(&query("miss.example", 8)).unwrap();
    let miss = (0..5000).find_map(|_| {
        std::thread::yield_now();
        running.misses.pop()
    });
    let miss = miss.unwrap();
    assert_eq!((miss.asked.id(), miss.listener), (8, 0));
    assert_eq!(miss.client, client.local_addr().ok());
    running.workers.stop();
    let mut hits = 0;
    for cells in &running.telemetry.workers {
        cells.answers.visit(|zone, _, _, _, count| {
            assert_eq!(zone, 1);
            hits += count;
        });
    }
    assert_eq!(hits, 1);
}

#[test]
fn a_clients_query_is_noted_and_what_is_none_is_not() {
    let running = running(1);
    keep(&running.cache, "hit.example", 0);
    let client = client(&running.group);
    let mut buffer = [0; 2000];
    let mut status = query("a.example", 1);
    status[2] |= 0x10;
    client.send(&status).unwrap();
    client.recv(&mut buffer).unwrap();
    // The worker notes before it sends.
    assert_eq!(running.group.asked.seconds_ago(Clock.now()), None);
    client.send(&query("hit.example", 2)).unwrap();
    client.recv(&mut buffer).unwrap();
    assert!(running.group.asked.seconds_ago(Clock.now()) < Some(10));
    running.workers.stop();
}

#[test]
fn what_no_query_is_gets_what_the_rules_say() {
    let running = running(1);
    let client = client(&running.group);
    let mut buffer = [0; 2000];
    client.send(&query("a.example", 1)[..11]).unwrap();
    let mut response = query("a.example", 2);
    response[2] |= 0x80;
    client.send(&response).unwrap();
    let mut status = query("a.example", 3);
    status[2] |= 0x10;
    client.send(&status).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    let header = Header::read(&buffer[..length]).unwrap();
    assert_eq!((header.id, header.flags.rcode(), length), (3, 4, 12));
    running.workers.stop();
    let rejected = running.telemetry.workers[0].rejected();
    assert_eq!(rejected, [1, 1, 0, 1, 0, 0, 0]);
}

#[test]
fn a_full_queue_is_said_at_once_and_why() {
    let running = running(1);
    let client = client(&running.group);
    let mut buffer = [0; 2000];
    for round in 0..=miss::QUEUE / 64 {
        for id in 0..64 {
            client
                .send(&query(&format!("n{round}.example"), id))
                .unwrap();
        }
        let wanted = ((round + 1) * 64).min(miss::QUEUE);
        let all = (0..50_000).any(|_| {
            std::thread::yield_now();
            running.misses.len() >= wanted
        });
        assert!(all, "{} of {wanted}", running.misses.len());
    }
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(Header::read(&buffer[..length]).unwrap().flags.rcode(), 2);
    running.workers.stop();
    let cells = &running.telemetry.workers[0];
    assert_eq!(cells.refused_queue_full.load(Relaxed), 64);
    assert_eq!(cells.handed_over.load(Relaxed), miss::QUEUE as u64);
}

#[test]
fn listeners_come_and_go_while_others_are_served() {
    let running = running(2);
    keep(&running.cache, "hit.example", 0);
    let second = Group::bind("[::1]:0".parse().unwrap(), 2).unwrap();
    running.workers.desk().open(&[(1, &second)]);
    let old = client(&running.group);
    let new = UdpSocket::bind("[::1]:0").unwrap();
    new.connect(second.address).unwrap();
    new.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 2000];
    for client in [&old, &new] {
        client.send(&query("hit.example", 1)).unwrap();
        client.recv(&mut buffer).unwrap();
    }
    let address = second.address;
    drop(second);
    running.workers.desk().close(1);
    // A worker that waits at its only socket hears of others within a second.
    let free = (0..500).any(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        UdpSocket::bind(address).is_ok()
    });
    assert!(free, "the address is let go");
    old.send(&query("hit.example", 2)).unwrap();
    old.recv(&mut buffer).unwrap();
    running.workers.stop();
}

#[test]
fn every_worker_has_a_cpu_whatever_the_mask() {
    let mut odd = CpuSet::new();
    odd.set(1);
    odd.set(3);
    assert_eq!(cpus_of(0, 2, &odd), odd, "none of its own: all");
    assert_eq!(cpus_of(1, 2, &odd), odd);
    let mut only = CpuSet::new();
    only.set(3);
    assert_eq!(cpus_of(3, 4, &odd), only);
}
