// SPDX-License-Identifier: Apache-2.0
//! Workers neither allocate nor free after their start: not for a hit, a rejection, a miss, or a
//! miss that finds the queue full, and not while what they read is replaced and evicted.
//!
//! The allocator of this test counts what threads named `worker-…` do, and nothing else.
#![expect(
    unsafe_code,
    reason = "an allocator that counts is an unsafe trait, and a thread's name must be read without allocating"
)]
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has its own clock and pauses"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nodens::cache::{Cache, Draft, Tick};
use nodens::miss::{self, QUEUE, Receiver};
use nodens::serve::{BATCH, Failed, Group, Seat, Workers};
use nodens::telemetry::clock::Clock;
use nodens::telemetry::registry::Telemetry;
use nodens::wire::answer::Answer;
use nodens::wire::name::Name;
use nodens::wire::question::Question;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Hits that must be answered.
const HITS: u64 = 100_000;
/// Names that are asked for all the time.
const HOT: usize = 200;
/// Octets of the cache: so few that inserts evict from the first second on.
const BUDGET: u64 = 1 << 20;
/// The longest that it may take.
const PATIENCE: Duration = Duration::from_secs(60);

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Known to be a worker. Constant and without a destructor: it costs no allocation itself.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is named `worker-…`. A thread gets its name after its first allocations, so
/// only a yes is remembered.
fn is_worker() -> bool {
    IS_WORKER.with(|known| {
        if !known.get() {
            let mut name = [0_u8; 16];
            // SAFETY: PR_GET_NAME writes at most 16 octets to the buffer, which has as many.
            let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            known.set(result == 0 && name.starts_with(b"worker-"));
        }
        known.get()
    })
}

fn count(counter: &AtomicU64) {
    if is_worker() {
        counter.fetch_add(1, Relaxed);
    }
}

fn counts() -> (u64, u64) {
    (ALLOCATED.load(Relaxed), FREED.load(Relaxed))
}

// SAFETY: every call is handed on as it is to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATED);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATED);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&ALLOCATED);
        count(&FREED);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(&FREED);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Running {
    workers: Workers,
    cache: Cache,
    misses: Receiver,
    _ear: OwnedFd,
    telemetry: Telemetry,
    group: Group,
}

/// Two workers over real sockets, as the daemon starts them.
fn running() -> Running {
    let cache = Cache::new(BUDGET, 2).unwrap();
    let (sender, misses, ear) = miss::queue().unwrap();
    let telemetry = Telemetry::new(2);
    telemetry.zone("example.");
    let seats = telemetry.workers.iter().map(|cells| Seat {
        reader: cache.reader().unwrap(),
        misses: sender.clone(),
        cells: Arc::clone(cells),
    });
    let failed: Failed = Arc::new(|why| panic!("{why}"));
    let workers = Workers::start(seats.collect(), 1232, &failed, || ()).unwrap();
    let group = Group::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
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

impl Running {
    fn hits(&self) -> u64 {
        let mut hits = 0;
        for cells in &self.telemetry.workers {
            cells.answers.visit(|zone, _, _, _, count| {
                hits += if zone == 1 { count } else { 0 };
            });
        }
        hits
    }

    fn sum(&self, of: impl Fn(&nodens::telemetry::cells::WorkerCells) -> u64) -> u64 {
        self.telemetry.workers.iter().map(|cells| of(cells)).sum()
    }
}

/// A client whose queries go to the worker of this CPU.
fn client(group: &Group, cpu: usize) -> UdpSocket {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(group.address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    client
}

/// A query, its letters in any case, with EDNS or without it.
fn query(name: &str, with_edns: bool) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(with_edns)];
    let name = Name::parse(name).unwrap();
    message.extend(name.as_wire().iter().map(u8::to_ascii_uppercase));
    message.extend([0, 1, 0, 1]);
    if with_edns {
        // 1232 octets, DO clear, a cookie.
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        message.extend([7; 8]);
    }
    message
}

/// Keeps an answer of so many A records.
fn keep(cache: &Cache, name: &str, records: usize) {
    let question = Question::of(&Name::parse(name).unwrap(), 1);
    let now = Tick::of(Clock.now());
    let octets = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1].repeat(records);
    let ttls: Vec<u8> = (0..records)
        .flat_map(|record| u16::try_from(record * 16 + 6).unwrap().to_le_bytes())
        .collect();
    // Where there is no room for it, that is the cache's answer to a flood.
    let mut answer = Answer {
        counts: [u16::try_from(records).unwrap(), 0, 0],
        records: &octets,
        ttl_offsets: &ttls,
        ..Answer::NOTHING
    };
    answer.turns = answer.find_turns();
    // Due from its first moment on: the questions that are offered for it cost nothing either.
    let _ = cache.insert(&Draft {
        early: u16::MAX,
        ..Draft::new(&question, answer, 1, [now, now.after_seconds(60)])
    });
}

fn hot(number: usize) -> String {
    format!("hot-{}.example", number % HOT)
}

/// The cold side: what the cache holds is never the same for long. Misses are taken in, but not
/// before their queue has been full for a while.
fn churn(running: &Running, is_over: &AtomicBool) {
    let mut turn = 0;
    let mut full = 0;
    while !is_over.load(Relaxed) {
        turn += 1;
        keep(&running.cache, &hot(turn), 1 + turn % 120);
        keep(
            &running.cache,
            &format!("once-{turn}.example"),
            1 + turn % 90,
        );
        if turn % 1000 == 0 {
            running.cache.sweep(Tick::of(Clock.now()));
        }
        if turn % 20_000 == 0 {
            running.cache.set_budget(BUDGET / 2).unwrap();
            running.cache.set_budget(BUDGET).unwrap();
            running.cache.retain(|entry| entry.name().len() % 7 != 0);
        }
        full += u32::from(running.misses.len() == QUEUE);
        if full > 2000 {
            while running.misses.pop().is_some() {}
        }
    }
}

/// Sends batches of everything until there were hits enough; takes what comes back.
fn ask(running: &Running, cpu: usize) {
    let client = client(&running.group, cpu);
    let hits: Vec<_> = (0..HOT).map(|n| query(&hot(n), n % 2 == 0)).collect();
    let misses: Vec<_> = (0..100)
        .map(|n| query(&format!("miss-{n}.example"), true))
        .collect();
    let good = query("a.example", true);
    let bad = |at: usize, octet: u8| {
        let mut bad = good.clone();
        bad[at] = octet;
        bad
    };
    let edns_version = good.len() - 12 - 5;
    let rejected = [
        good[..11].to_vec(),
        bad(2, 0x81),
        bad(2, 0x11),
        bad(5, 2),
        bad(edns_version, 1),
        bad(12, 0xc0),
        good[..20].to_vec(),
    ];
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    let mut round = 0;
    while running.hits() < HITS {
        assert!(begun.elapsed() < PATIENCE, "{} hits", running.hits());
        round += 1;
        for slot in 0..BATCH {
            let number = round * BATCH + slot;
            let message = match slot {
                0 => &rejected[round % rejected.len()],
                1..4 => &misses[number % misses.len()],
                _ => &hits[number % hits.len()],
            };
            client.send(message).unwrap();
        }
        // Misses get no answer here, so it is not known how many come.
        client.set_nonblocking(round % 8 != 0).unwrap();
        while client.recv(&mut buffer).is_ok() {}
    }
}

#[test]
fn workers_neither_allocate_nor_free_after_their_start() {
    the_counter_counts_workers_alone();
    let running = running();
    let mask = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| mask.is_set(cpu))
        .take(2)
        .collect();
    (0..HOT).for_each(|number| keep(&running.cache, &hot(number), 1));
    // Each worker has opened its socket once it has answered.
    thread::scope(|scope| {
        for &cpu in &cpus {
            let running = &running;
            scope.spawn(move || {
                let client = client(&running.group, cpu);
                client
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                client.send(&query(&hot(0), true)).unwrap();
                client.recv(&mut [0; 2048]).unwrap();
            });
        }
    });
    let before = counts();
    assert!(before.0 > 0, "the start of a worker allocates");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| churn(&running, &is_over));
        let clients: Vec<_> = cpus
            .iter()
            .map(|&cpu| {
                let running = &running;
                scope.spawn(move || ask(running, cpu))
            })
            .collect();
        let results: Vec<_> = clients
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let after = counts();
    // All that was meant to happen has happened.
    let figures = running.cache.figures();
    assert!(
        figures.replaced > 1000 && figures.evictions > 1000,
        "{figures:?}"
    );
    assert!(running.sum(|cells| cells.rejected().iter().sum()) > 1000);
    assert!(running.sum(|cells| cells.handed_over.load(Relaxed)) > 1000);
    let refused = running.sum(|cells| cells.refused_queue_full.load(Relaxed));
    assert!(refused > 0, "the queue of {QUEUE} was never full");
    assert_eq!(after, before, "(allocations, frees) of workers");
    running.workers.stop();
}

fn the_counter_counts_workers_alone() {
    let before = counts();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(counts(), before, "this thread is no worker");
    let proof = thread::Builder::new().name("worker-proof".to_owned());
    let proof = proof.spawn(|| {
        let (allocated, freed) = counts();
        let mut octets = std::hint::black_box(vec![1_u8; 100]);
        assert_eq!(counts(), (allocated + 1, freed));
        octets.reserve_exact(1000);
        assert_eq!(counts(), (allocated + 2, freed + 1));
        drop(octets);
        assert_eq!(counts(), (allocated + 2, freed + 2));
    });
    proof.unwrap().join().unwrap();
}
