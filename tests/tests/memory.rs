// SPDX-License-Identifier: Apache-2.0
//! Resident memory stays within the budget, whatever is asked: ten times the cache of random names
//! of every size, while what is hot stays hot; and a flood of names while no upstream answers.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has its own clock and pauses"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use nodens_tests::agent::Agent;
use nodens_tests::client::Client;
use nodens_tests::dice::Dice;
use nodens_tests::frames::{self, Frames};
use nodens_tests::host::{Door, Host, Service};
use nodens_tests::process::wait_for;
use nodens_tests::query::{Outline, Query};
use nodens_tests::sample::bench_address;

/// Names that are asked all the time.
const HOT: usize = 500;
/// Queries that a client of the flood has under way.
const WINDOW: usize = 48;
/// Type of an answer that is octets and nothing else.
const NULL: u16 = 10;
/// Resident memory allowed beside 1.2 times the budget, in octets.
const BESIDE: u64 = 8_000_000;
/// Resident memory allowed for each miss under way, in octets, beside all else: its client, its
/// question and the task that asks.
const MISS: u64 = 2_560;
/// `limits.inFlight` as nobody sets it.
const IN_FLIGHT: u64 = 10_000;
/// The longest that a flood may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An upstream that answers at once, and as long an answer as the name says:
/// `anything.<octets>.flood.test`. Names below `hot.test` have an address.
struct Sized {
    /// Octets of records for the flood so far.
    flood_octets: Arc<AtomicU64>,
    /// Queries for names below `hot.test`.
    hot: Arc<AtomicU64>,
    /// Answers nothing, for as long as it is set.
    is_silent: Arc<AtomicBool>,
}

impl Sized {
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let outline = Outline::read(query)?;
        let mut message = query[..2].to_vec();
        message.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend(&outline.question);
        if outline.qtype == u16::from(A) {
            if outline.name.ends_with(".hot.test.") {
                self.hot.fetch_add(1, Relaxed);
            }
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
            message.extend(bench_address(&outline.name).octets());
            return Some(message);
        }
        let octets: u16 = outline.name.split('.').nth(1)?.parse().ok()?;
        message.extend([0xc0, 12, 0, 10, 0, 1, 0, 0, 0x0e, 0x10]);
        message.extend(octets.to_be_bytes());
        message.resize(message.len() + usize::from(octets), 7);
        self.flood_octets.fetch_add(u64::from(octets) + 12, Relaxed);
        Some(message)
    }
}

impl Service for Sized {
    fn datagram(&self, _: &[u8], _: SocketAddr, _: &Arc<Door>) {}

    fn connection(&self, stream: Arc<TcpStream>, _: u64, _: &Arc<Door>) {
        let mut frames = Frames::new(Arc::clone(&stream));
        while let Ok(Some(query)) = frames.receive() {
            if self.is_silent.load(Relaxed) {
                continue;
            }
            let Some(answer) = self.answer(&query) else {
                return;
            };
            if frames::write(&stream, &answer).is_err() {
                return;
            }
        }
    }
}

struct Upstream {
    host: Host,
    flood_octets: Arc<AtomicU64>,
    hot: Arc<AtomicU64>,
    is_silent: Arc<AtomicBool>,
}

fn upstream() -> Upstream {
    let (flood_octets, hot) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let is_silent = Arc::<AtomicBool>::default();
    let host = Host::start(Sized {
        flood_octets: Arc::clone(&flood_octets),
        hot: Arc::clone(&hot),
        is_silent: Arc::clone(&is_silent),
    })
    .unwrap();
    Upstream {
        host,
        flood_octets,
        hot,
        is_silent,
    }
}

/// Tells threads to end when it goes, also where the test has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The most resident memory until the end, in octets.
fn watch(agent: &Agent, is_over: &AtomicBool) -> u64 {
    let mut most = 0;
    while !is_over.load(Relaxed) {
        most = most.max(agent.resident_bytes().unwrap());
        thread::sleep(Duration::from_millis(5));
    }
    most
}

/// A name of the flood, and how long its answer is: each power of two is as likely as another.
fn flood_name(dice: &mut Dice, octets: &Range<usize>) -> String {
    let doublings = (octets.end / octets.start).ilog2() as usize + 1;
    let least = octets.start << dice.of(0..doublings);
    let length = dice.of(least..2 * least).min(octets.end);
    format!("{:016x}.{length}.flood.test", dice.number())
}

/// Asks for random names, `WINDOW` at a time, until the upstream has said enough.
fn flood(agent: &Agent, seed: u64, octets: &Range<usize>, is_enough: impl Fn() -> bool) {
    let mut dice = Dice::with_seed(seed);
    let client = agent.client().patience(Duration::from_secs(1));
    let socket = client.udp_socket().unwrap();
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    while !is_enough() {
        assert!(begun.elapsed() < PATIENCE, "the flood is too slow");
        for _ in 0..WINDOW {
            let query = Query::new(&flood_name(&mut dice, octets), NULL);
            socket.send(&query.to_bytes()).unwrap();
        }
        for _ in 0..WINDOW {
            if socket.recv(&mut buffer).is_err() {
                break;
            }
        }
    }
}

/// Asks for every hot name, once.
fn ask_hot(client: &Client) {
    for number in 0..HOT {
        let name = format!("name-{number}.hot.test");
        let response = client.query(&name, A).unwrap();
        assert_eq!(response.addresses(), [IpAddr::V4(bench_address(&name))]);
    }
}

/// Ten times the budget of random names; what the most resident memory was, in octets.
fn ten_times_the_budget(mib: u64, octets: &Range<usize>) {
    let budget = mib << 20;
    let upstream = upstream();
    let agent = Agent::builder()
        .upstream(upstream.host.addr())
        .cache(&format!("{mib}MiB"))
        .start()
        .unwrap();
    let client = agent.client();
    for _ in 0..4 {
        ask_hot(&client);
    }
    assert_eq!(upstream.hot.load(Relaxed), HOT as u64);
    let dice = Dice::new();
    let is_over = AtomicBool::new(false);
    let is_enough = || upstream.flood_octets.load(Relaxed) >= 10 * budget;
    let (most, asked) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&agent, &is_over));
        let ends = Ends(&is_over);
        let hot = scope.spawn(|| {
            let mut asked = 0;
            while !is_enough() {
                ask_hot(&client);
                asked += HOT;
                thread::sleep(Duration::from_millis(20));
            }
            asked
        });
        let floods = [1, 2].map(|number| {
            let (agent, seed) = (&agent, dice.seed() ^ number);
            scope.spawn(move || flood(agent, seed, octets, is_enough))
        });
        for flood in floods {
            flood.join().unwrap();
        }
        let asked = hot.join().unwrap();
        drop(ends);
        (watch.join().unwrap(), asked)
    });
    let limit = budget * 6 / 5 + BESIDE;
    assert!(
        most <= limit,
        "{most} octets of at most {limit} with a cache of {mib} MiB"
    );
    let misses = upstream.hot.load(Relaxed) - HOT as u64;
    assert!(asked >= 5 * HOT, "{asked}");
    assert!(
        misses * 100 <= asked as u64,
        "{misses} misses of {asked} queries for hot names"
    );
    // It was a flood: the cache has been full and has turned over.
    let evictions = agent.metric("nodens_cache_evictions_total", &[]).unwrap();
    let entries = agent.metric("nodens_cache_entries", &[]).unwrap();
    assert!(
        evictions > 5.0 * entries,
        "{evictions} evictions, {entries} entries"
    );
    let used = agent.metric("nodens_cache_bytes", &[]).unwrap();
    assert!(
        used > 0.7 * budget as f64 && used <= budget as f64,
        "{used} of {budget}"
    );
    report(&format!(
        "{mib} MiB, answers of {octets:?} octets: at most {:.1} MB of {:.1} resident, {misses} of \
         {asked} hot queries missed, {evictions} evictions, {entries} entries",
        most as f64 / 1e6,
        limit as f64 / 1e6
    ));
}

/// A figure for whoever runs the test with `--nocapture`.
#[expect(
    clippy::disallowed_macros,
    reason = "cargo shows it where it is asked to"
)]
fn report(text: &str) {
    println!("{text}");
}

#[test]
fn random_names_of_every_size_neither_pass_the_budget_nor_push_out_what_is_hot() {
    // One after the other: they are about memory, not about the machine's patience.
    ten_times_the_budget(4, &(30..500));
    ten_times_the_budget(16, &(50..30_000));
    ten_times_the_budget(64, &(2_000..16_000));
}

/// 20,000 new names a second, for five seconds, while nobody answers.
#[test]
fn a_flood_into_the_void_costs_bounded_memory_and_ends_with_it() {
    const RATE: u64 = 20_000;
    const TIME: Duration = Duration::from_secs(5);
    let budget: u64 = 16 << 20;
    let upstream = upstream();
    let agent = Agent::builder()
        .upstream(upstream.host.addr())
        .cache("16MiB")
        .start()
        .unwrap();
    let client = agent.client();
    // The cache is full, and the misses under way come on top.
    let dice = Dice::new();
    let is_full = || upstream.flood_octets.load(Relaxed) >= 2 * budget;
    flood(&agent, dice.seed(), &(500..4000), is_full);
    (0..4).for_each(|_| ask_hot(&client));
    upstream.is_silent.store(true, Relaxed);
    let is_over = AtomicBool::new(false);
    // From as many clients as it takes to use up all places: each has a share only.
    let client = client.patience(Duration::from_millis(200));
    let sockets: Vec<_> = (2..10)
        .map(|number| {
            let source = Ipv4Addr::new(127, 0, 0, number);
            client.clone().from(source.into()).udp_socket().unwrap()
        })
        .collect();
    let (most, answered) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&agent, &is_over));
        let ends = Ends(&is_over);
        let answers: Vec<_> = sockets
            .iter()
            .map(|socket| scope.spawn(|| drain(socket, &is_over)))
            .collect();
        let hot = scope.spawn(|| {
            // Hits are answered as ever.
            while !is_over.load(Relaxed) {
                ask_hot(&agent.client());
                thread::sleep(Duration::from_millis(100));
            }
        });
        pour(&sockets, RATE, TIME);
        drop(ends);
        hot.join().unwrap();
        let answered = answers.into_iter().map(|thread| thread.join().unwrap());
        (watch.join().unwrap(), answered.sum::<u64>())
    });
    assert!(answered > 0, "those over the limit are told so at once");
    let in_flight = agent.metric("nodens_queries_in_flight", &[]).unwrap();
    assert!((1.0..=IN_FLIGHT as f64).contains(&in_flight), "{in_flight}");
    let limit = budget * 6 / 5 + BESIDE + IN_FLIGHT * MISS;
    report(&format!(
        "into the void: at most {:.1} MB of {:.1} resident, {answered} answers, {in_flight} wait",
        most as f64 / 1e6,
        limit as f64 / 1e6
    ));
    assert!(most <= limit, "{most} octets of at most {limit}");

    upstream.is_silent.store(false, Relaxed);
    let healed = Instant::now();
    let mut tries = 0;
    wait_for("a new name to be answered", Duration::from_secs(5), || {
        tries += 1;
        let response = agent.client().query(&format!("try-{tries}.hot.test"), A)?;
        Ok((response.rcode() == ResponseCode::NoError).then_some(()))
    })
    .unwrap();
    // The attempts that began in the silence take their second.
    let took = healed.elapsed();
    report(&format!("answered {took:?} after the upstream came back"));
    assert!(took < Duration::from_millis(2500), "{took:?}");
    wait_for("the last of the flood", Duration::from_secs(6), || {
        Ok((agent.metric("nodens_queries_in_flight", &[])? == 0.0).then_some(()))
    })
    .unwrap();
    ask_hot(&agent.client());
}

/// Sends queries for new names at this rate for this time.
fn pour(sockets: &[UdpSocket], rate: u64, time: Duration) {
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < time {
        let due = u64::try_from(begun.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while sent < due {
            let query = Query::new(&format!("{sent}.void.flood.test"), A);
            // A full buffer drops it, as the network would.
            let socket = usize::try_from(sent).unwrap() % sockets.len();
            let _ = sockets[socket].send(&query.to_bytes());
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(sent > 9 * rate * time.as_secs() / 10, "{sent} is no flood");
}

/// How many answers come until the end.
fn drain(socket: &UdpSocket, is_over: &AtomicBool) -> u64 {
    let mut buffer = [0; 2048];
    let mut answers = 0;
    while !is_over.load(Relaxed) {
        answers += u64::from(socket.recv(&mut buffer).is_ok());
    }
    answers
}
