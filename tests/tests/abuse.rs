// SPDX-License-Identifier: Apache-2.0
//! What strangers do to the agent: random and mutated packets from clients and from upstreams,
//! clients that dawdle, floods of connections, garbage for HTTP. It stays alive and ready, within
//! its memory, answers everybody else truly, and its cache is true afterwards.
//!
//! Everything random comes from one seed, which a failure prints: `NODENS_SEED=… cargo test`.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has its own clock and pauses"
)]

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA, PTR, SRV, TXT};
use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Client, Connection, Response};
use nodens_tests::dice::Dice;
use nodens_tests::fault::{Asked, Fault, Reply, Step};
use nodens_tests::frames::frame;
use nodens_tests::process::wait_for;
use nodens_tests::query::{Outline, Query, wire_name};
use nodens_tests::sample::{Sample, bench_address};

/// Packets of each kind.
const PACKETS: usize = 9_000;
/// Octets of a header.
const HEADER: usize = 12;
/// `cache.size` here, in octets.
const BUDGET: u64 = 4 << 20;
/// Resident memory that is allowed beside 1.2 times the budget, in octets.
const BESIDE: u64 = 8 << 20;

fn agent() -> Builder {
    Agent::builder().cache("4MiB")
}

/// Names of the sample that are asked in between, with their types.
const WELL_KNOWN: [(&str, u16); 6] = [
    ("web.prod.svc.cluster.local", 1),
    ("web.prod.svc.cluster.local", 28),
    ("_http._tcp.web.prod.svc.cluster.local", 33),
    ("dns-version.cluster.local", 16),
    ("nosuch.prod.svc.cluster.local", 1),
    ("www.example.com", 1),
];

/// Asks agent and sample the same and compares all but TTLs, which age.
fn compare(agent: &Agent, sample: &Sample, (name, qtype): (&str, u16), through_tcp: bool) {
    let query = Query::new(name, qtype).edns(1232);
    let ask = |client: Client| {
        if through_tcp {
            client.tcp(&query)
        } else {
            client.udp(&query)
        }
    };
    let ours = ask(agent.client());
    let ours = ours.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", agent.log()));
    let theirs = ask(Client::new(sample.addr())).unwrap();
    assert_eq!(ours.rcode(), theirs.rcode(), "{name} {qtype}");
    assert_eq!(records(&ours), records(&theirs), "{name} {qtype}");
}

/// The records of answer and authority section without their TTLs.
fn records(response: &Response) -> Vec<String> {
    let all = response.answers.iter().chain(&response.authorities);
    let mut all: Vec<String> = all
        .map(|record| {
            let rtype = record.record_type();
            format!("{} {rtype} {}", record.name.to_lowercase(), record.data)
        })
        .collect();
    all.sort();
    all
}

fn compare_all(agent: &Agent, sample: &Sample) {
    for known in WELL_KNOWN {
        for through_tcp in [false, true] {
            compare(agent, sample, known, through_tcp);
        }
    }
}

/// Still running, ready, and within its memory.
fn is_well(agent: &mut Agent) {
    assert!(agent.is_running().unwrap(), "{}", agent.log());
    wait_until_ready(agent);
    assert!(!agent.log().contains("no longer"), "{}", agent.log());
    let resident = agent.resident_bytes().unwrap();
    let limit = BUDGET * 6 / 5 + BESIDE;
    assert!(resident <= limit, "{resident} octets of at most {limit}");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

/// Queries as clients send them, to be broken.
fn queries(dice: &mut Dice) -> Vec<Vec<u8>> {
    let names = [
        "web.prod.svc.cluster.local",
        "WeB.pRoD.svc.cluster.local",
        "_http._tcp.web.prod.svc.cluster.local",
        "1.0.96.10.in-addr.arpa",
        "a.b.c.d.e.f.example.com",
        "x.bench.cluster.local",
        "com",
        "\\000\\255\\046.example.org",
    ];
    let mut all = Vec::new();
    for name in names {
        for qtype in [A, AAAA, SRV, PTR, TXT]
            .map(u16::from)
            .into_iter()
            .chain([65, 255, 252])
        {
            let plain = Query::new(name, qtype);
            let cookie = dice.octets(8);
            all.push(plain.to_bytes());
            all.push(
                plain
                    .clone()
                    .edns(4096)
                    .dnssec_ok()
                    .cd(true)
                    .ad(true)
                    .to_bytes(),
            );
            all.push(
                plain
                    .clone()
                    .option(10, &cookie)
                    .option(12, &[0; 40])
                    .to_bytes(),
            );
            all.push(
                plain
                    .clone()
                    .option(8, &[0, 1, 24, 0, 192, 0, 2])
                    .option(11, &[])
                    .to_bytes(),
            );
            all.push(plain.class(255).edns_version(1).to_bytes());
        }
    }
    all
}

/// A packet for a client to send: random, or a query broken in some way, or two of them in one.
/// Its ID is this one, where it has one.
fn packet(dice: &mut Dice, queries: &[Vec<u8>], id: u16) -> Vec<u8> {
    let mut packet = match dice.of(0..10) {
        0 => {
            let length = dice.of(0..600);
            dice.octets(length)
        }
        1 => {
            // A header that is none's, and a query's rest.
            let mut bytes = dice.octets(HEADER);
            bytes.extend(&dice.pick(queries)[HEADER..]);
            bytes
        }
        _ => {
            let query = dice.pick(queries).clone();
            dice.mutate(&query, 2)
        }
    };
    for (octet, id) in packet.iter_mut().zip(id.to_be_bytes()) {
        *octet = id;
    }
    packet
}

/// dns.md: what is shorter than a header or a response gets nothing; all else gets one answer.
fn deserves_an_answer(packet: &[u8]) -> bool {
    packet.len() >= HEADER && packet[2] & 0x80 == 0
}

/// An answer to a broken packet: a response that hickory can read, with its ID.
fn judge_answer(packet: &[u8], answer: &[u8]) {
    let context = || format!("{packet:02x?} got {answer:02x?}");
    let message = Message::from_vec(answer).unwrap_or_else(|error| {
        panic!("hickory cannot read it: {error}; {}", context());
    });
    let outline = Outline::read(answer).unwrap_or_else(|| panic!("{}", context()));
    assert!(outline.is_response(), "{}", context());
    assert_eq!(answer[..2], packet[..2], "{}", context());
    // The opcode comes back, whatever it was.
    assert_eq!(answer[2] & 0x78, packet[2] & 0x78, "{}", context());
    let asked = Outline::read(packet);
    if let (Some(asked), [1, ..]) = (&asked, outline.counts) {
        assert_eq!(asked.question, outline.question, "{}", context());
    }
    if message.response_code == ResponseCode::NoError {
        let asked = asked.unwrap_or_else(|| panic!("NOERROR for no query: {}", context()));
        assert_eq!(asked.counts[..3], [1, 0, 0], "{}", context());
    }
}

/// Sends packets over UDP by the batch and awaits exactly the answers that they deserve.
fn throw_datagrams(agent: &Agent, packets: &[Vec<u8>]) -> usize {
    let client = agent.client().patience(Duration::from_secs(6));
    let socket = client.udp_socket().unwrap();
    let mut answered = 0;
    for batch in packets.chunks(30) {
        let mut owed: HashMap<[u8; 2], &Vec<u8>> = HashMap::new();
        for packet in batch {
            socket.send(packet).unwrap();
            if deserves_an_answer(packet) {
                owed.insert([packet[0], packet[1]], packet);
            }
        }
        let mut buffer = vec![0; 65_535];
        while !owed.is_empty() {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{error} while these wait: {owed:02x?}\n{}", agent.log());
            });
            let answer = &buffer[..length];
            let packet = owed.remove(&[answer[0], answer[1]]);
            let packet = packet.unwrap_or_else(|| panic!("nobody asked for {answer:02x?}"));
            judge_answer(packet, answer);
            answered += 1;
        }
    }
    // Nothing more comes, e.g. for what deserved no answer.
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let more = socket.recv(&mut [0; 512]).unwrap_err();
    assert_eq!(more.kind(), ErrorKind::WouldBlock);
    answered
}

/// The same over TCP: all packets of a batch in one write, cut at any place.
fn throw_frames(agent: &Agent, dice: &mut Dice, packets: &[Vec<u8>]) -> usize {
    let mut answered = 0;
    for batch in packets.chunks(30) {
        let mut connection = agent.client().connect().unwrap();
        let bytes: Vec<u8> = batch.iter().flat_map(|packet| frame(packet)).collect();
        let (first, second) = bytes.split_at(dice.of(0..bytes.len()));
        connection.send_bytes(first).unwrap();
        connection.send_bytes(second).unwrap();
        let deserving = batch.iter().filter(|packet| deserves_an_answer(packet));
        let mut owed: HashMap<[u8; 2], &Vec<u8>> = deserving
            .map(|packet| ([packet[0], packet[1]], packet))
            .collect();
        while !owed.is_empty() {
            let answer = connection.receive().unwrap_or_else(|error| {
                panic!("{error} while these wait: {owed:02x?}\n{}", agent.log());
            });
            let answer = answer.unwrap_or_else(|| panic!("closed; these wait: {owed:02x?}"));
            let packet = owed.remove(&[answer[0], answer[1]]);
            let packet = packet.unwrap_or_else(|| panic!("nobody asked for {answer:02x?}"));
            judge_answer(packet, &answer);
            answered += 1;
        }
        // A stream that is no DNS at all from here on.
        if dice.once_in(2) {
            let length = dice.of(1..3000);
            // It may have been closed: that is the agent's right.
            let _ = connection.send_bytes(&dice.octets(length));
        }
    }
    answered
}

#[test]
fn nine_thousand_broken_queries_leave_the_agent_well_and_its_cache_true() {
    let sample = Sample::start().unwrap();
    let mut agent = agent().upstream(sample.addr()).start().unwrap();
    compare_all(&agent, &sample);
    let mut dice = Dice::new();
    let queries = queries(&mut dice);
    let packets: Vec<Vec<u8>> = (0..PACKETS)
        .map(|number| packet(&mut dice, &queries, u16::try_from(number).unwrap()))
        .collect();
    let (over_udp, over_tcp) = packets.split_at(PACKETS * 2 / 3);
    let mut answered = 0;
    let mut known = WELL_KNOWN.iter().cycle();
    for part in over_udp.chunks(300) {
        answered += throw_datagrams(&agent, part);
        compare(&agent, &sample, *known.next().unwrap(), false);
    }
    for part in over_tcp.chunks(150) {
        answered += throw_frames(&agent, &mut dice, part);
        compare(&agent, &sample, *known.next().unwrap(), true);
    }
    // Most of it was near enough to a query to reach deep into the parser.
    assert!(answered > PACKETS / 2, "{answered}");
    compare_all(&agent, &sample);
    is_well(&mut agent);
    // Each was counted as what it was, also what was not answered. (The comparisons are fewer
    // than the silent ones.)
    let rejected = agent.metric("nodens_queries_rejected_total", &[]).unwrap();
    assert!(rejected > 1000.0, "{rejected}");
    for reason in ["short", "response", "formerr", "notimp", "badvers"] {
        let count = agent.metric("nodens_queries_rejected_total", &[("reason", reason)]);
        assert!(count.unwrap() > 0.0, "{reason}");
    }
}

/// A good response of several records with compressed names and names in data, to be broken.
fn rich_response(asked: &Asked, address: Ipv4Addr) -> Vec<u8> {
    let outline = asked.outline.as_ref().unwrap();
    let mut message = asked.bytes[..2].to_vec();
    message.extend([0x81, 0x80, 0, 1, 0, 4, 0, 1, 0, 3]);
    message.extend(&outline.question);
    let mut record = |owner: &[u8], rtype: u8, data: &[u8]| {
        message.extend(owner);
        message.extend([0, rtype, 0, 1, 0, 0, 0, 30, 0]);
        message.push(u8::try_from(data.len()).unwrap());
        message.extend(data);
    };
    let pointer: &[u8] = &[0xc0, 12];
    record(pointer, 5, b"\x05alias\xc0\x0c");
    record(pointer, 1, &address.octets());
    record(pointer, 16, b"\x04text\x03two");
    record(pointer, 33, b"\x00\x01\x00\x02\x00\x50\x03srv\xc0\x0c");
    let mut soa = wire_name("ns.example.org");
    soa.extend(b"\x0ahostmaster\xc0\x0c");
    soa.extend([0, 0, 0, 9].repeat(5));
    record(pointer, 6, &soa);
    record(pointer, 28, &[0x20; 16]);
    record(&wire_name("mx.example.org"), 15, b"\x00\x0a\x02mx\xc0\x0c");
    message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    message
}

/// What is wrong with a broken response now and then beside its octets: how it is sent.
fn broken_steps(dice: &mut Dice, whole: &[u8]) -> Vec<Step> {
    let broken = match dice.of(0..12) {
        0 => {
            let length = dice.of(0..300);
            dice.octets(length)
        }
        // The ID may be wrong here, elsewhere it is right, and mostly the question too.
        1 => dice.mutate(whole, 0),
        2 => dice.mutate(whole, 2),
        _ => dice.mutate(whole, HEADER),
    };
    let mut bytes = frame(&broken);
    match dice.of(0..8) {
        0 => bytes = dice.mutate(&bytes, 0),
        1 => bytes.extend(frame(&dice.mutate(whole, 2))),
        _ => {}
    }
    // Without an end the agent would wait for more for the time of the attempt.
    match dice.of(0..16) {
        0 => vec![Step::Send(Reply::Frame(bytes))],
        1 => vec![Step::Send(Reply::Frame(bytes)), Step::Reset],
        _ => vec![Step::Send(Reply::Frame(bytes)), Step::Close],
    }
}

/// Types whose data the agent itself reads. Others it sends on as octets (RFC 3597), and hickory,
/// which reads them, may not like them.
const READ_BY_BOTH: [u16; 11] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 41];

/// Whether a response is a chain of whole records, and of types that both read.
fn is_readable(message: &[u8]) -> Option<bool> {
    let outline = Outline::read(message)?;
    let mut at = HEADER + outline.question.len();
    let mut by_both = true;
    for _ in 0..outline.counts[1..]
        .iter()
        .map(|&count| usize::from(count))
        .sum()
    {
        at = skip_name(message, at)?;
        let head = message.get(at..at + 10)?;
        by_both &= READ_BY_BOTH.contains(&u16::from_be_bytes([head[0], head[1]]));
        at += 10 + usize::from(u16::from_be_bytes([head[8], head[9]]));
    }
    (at == message.len()).then_some(by_both)
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += length + 1,
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[test]
fn nine_thousand_broken_responses_leave_the_agent_well_and_its_cache_true() {
    const CLIENTS: usize = 24;
    let sample = Sample::start().unwrap();
    let dice = Arc::new(Mutex::new(Dice::new()));
    let is_healed = Arc::new(AtomicBool::new(false));
    let broken = Arc::new(AtomicUsize::new(0));
    let hostile = {
        let (dice, is_healed, broken) = (
            Arc::clone(&dice),
            Arc::clone(&is_healed),
            Arc::clone(&broken),
        );
        Fault::start(move |asked: &Asked| {
            let outline = asked.outline.as_ref().unwrap();
            let whole = rich_response(asked, bench_address(&outline.name));
            if is_healed.load(Relaxed) {
                return vec![Step::Send(Reply::Bytes(whole))];
            }
            broken.fetch_add(1, Relaxed);
            broken_steps(&mut dice.lock().unwrap(), &whole)
        })
        .unwrap()
    };
    let mut agent = agent()
        .upstream(sample.addr())
        .zone("hostile.test", &[hostile.addr()])
        .set("limits.connectTimeout", "300ms")
        .set("limits.attemptTimeout", "300ms")
        .set("limits.queryTimeout", "3s")
        .start()
        .unwrap();
    compare_all(&agent, &sample);
    // The answers that were judged by hickory, and those by their outline alone.
    let judged = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (agent, broken, judged) = (&agent, &broken, &judged);
                scope.spawn(move || {
                    let mut round = 0;
                    while broken.load(Relaxed) < PACKETS {
                        let name = format!("{round}.{client}.hostile.test");
                        let qtype = if round % 3 == 0 { TXT } else { A };
                        let through_tcp = round % 4 == 3;
                        let by_both = ask_hostile(agent, &name, qtype.into(), through_tcp);
                        judged[usize::from(!by_both)].fetch_add(1, Relaxed);
                        round += 1;
                    }
                })
            })
            .collect();
        let (agent, sample, is_over) = (&agent, &sample, &is_over);
        let ends = Ends(is_over);
        let between = scope.spawn(move || {
            for (number, known) in WELL_KNOWN.iter().cycle().enumerate() {
                compare(agent, sample, *known, number % 5 == 0);
                if is_over.load(Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        for client in clients {
            client.join().unwrap();
        }
        drop(ends);
        between.join().unwrap();
    });
    let [by_hickory, by_outline] = judged.map(AtomicUsize::into_inner);
    assert!(by_hickory > 10 * by_outline, "{by_hickory} {by_outline}");
    // Every kind of lie was met, and answers that were near enough to the truth as well.
    for outcome in [
        "answered",
        "malformed",
        "wrong_id",
        "wrong_question",
        "closed",
    ] {
        let count = agent.metric("nodens_upstream_exchanges_total", &[("outcome", outcome)]);
        assert!(count.unwrap() > 20.0, "{outcome}");
    }
    is_healed.store(true, Relaxed);
    compare_all(&agent, &sample);
    // Names that were not asked before have the truth at once: no connection is out of step.
    for number in 0..200 {
        let name = format!("{number}.healed.hostile.test");
        let response = agent.client().query(&name, A).unwrap();
        assert_eq!(
            response.addresses(),
            [IpAddr::V4(bench_address(&name))],
            "{name}"
        );
    }
    is_well(&mut agent);
}

/// Asks and judges; whether hickory could be the judge.
fn ask_hostile(agent: &Agent, name: &str, qtype: u16, through_tcp: bool) -> bool {
    let query = Query::new(name, qtype).edns(1232).to_bytes();
    let client = agent.client();
    let begun = Instant::now();
    let bytes = if through_tcp {
        let mut connection = client.connect().unwrap();
        connection.send_bytes(&frame(&query)).unwrap();
        connection.receive().unwrap()
    } else {
        client.udp_bytes(&query).unwrap()
    };
    let bytes = bytes.unwrap_or_else(|| panic!("{name} got no answer\n{}", agent.log()));
    let by_both = is_readable(&bytes).unwrap_or_else(|| panic!("{name} got {bytes:02x?}"));
    if by_both {
        Response::judge(&query, bytes, begun.elapsed()).unwrap();
    } else {
        let asked = Outline::read(&query).unwrap();
        let answer = Outline::read(&bytes).unwrap();
        assert_eq!((answer.id, answer.question), (asked.id, asked.question));
    }
    by_both
}

/// 127.0.0.`n`, another client each.
fn source(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, number))
}

/// Asks the agent over UDP and over TCP connections, old and new, until told to stop, and at
/// least some times.
fn bystander(agent: &Agent, sample: &Sample, is_over: &AtomicBool) {
    let client = agent.client().from(source(200));
    let mut old = client.connect().unwrap();
    let mut rounds = 0;
    while rounds < 4 || !is_over.load(Relaxed) {
        for (name, qtype) in WELL_KNOWN {
            let query = Query::new(name, qtype).edns(1232);
            let theirs = Client::new(sample.addr()).udp(&query).unwrap();
            let over_udp = client.udp(&query).unwrap();
            let over_new = client
                .tcp(&query)
                .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.log()));
            let over_old = old
                .ask(&query)
                .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.log()));
            for ours in [over_udp, over_new, over_old] {
                assert_eq!(records(&ours), records(&theirs), "{name}");
            }
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(20));
    }
}

/// Tells threads to end when it goes, also where the test has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn wait_until_ready(agent: &Agent) {
    wait_for("readiness", Duration::from_secs(10), || {
        Ok((agent.health("/readyz")?.status == 200).then_some(()))
    })
    .unwrap();
}

/// Runs `abuse` while a bystander asks, the probes go on and everything is well.
fn beside_a_bystander(agent: &Agent, sample: &Sample, abuse: impl FnOnce()) {
    wait_until_ready(agent);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| bystander(agent, sample, &is_over));
        let ready = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let ready = agent.health("/readyz").unwrap();
                assert_eq!(ready.status, 200, "{}\n{}", ready.body, agent.log());
                thread::sleep(Duration::from_millis(50));
            }
        });
        {
            let _ends = Ends(&is_over);
            abuse();
        }
        bystander.join().unwrap();
        ready.join().unwrap();
    });
}

/// Whether the server has closed a connection.
fn is_closed(connection: &Connection) -> bool {
    let mut stream = connection.stream();
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn clients_that_dawdle_over_tcp_are_let_go_and_hold_nobody_up() {
    let sample = Sample::start().unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .set("listen.tcpIdle", "1s")
        .start()
        .unwrap();
    let query = frame(&Query::new("web.prod.svc.cluster.local", A).to_bytes());
    let longest = [0xff; 2];
    beside_a_bystander(&agent, &sample, || {
        let client = agent.client().from(source(2));
        let begun = Instant::now();
        // An octet at a time, of a good query, of one of 65,535 octets, and lengths alone.
        let kinds: [Vec<u8>; 4] = [
            query.clone(),
            longest.iter().chain(&query).copied().collect(),
            longest.to_vec(),
            vec![],
        ];
        let mut slow: Vec<(Connection, &[u8])> = kinds
            .iter()
            .cycle()
            .take(80)
            .map(|kind| {
                (
                    client.connect().unwrap(),
                    &kind[..kind.len().saturating_sub(1)],
                )
            })
            .collect();
        while begun.elapsed() < Duration::from_millis(2500) {
            for (connection, rest) in &mut slow {
                if let Some((octet, behind)) = rest.split_first() {
                    // Closed by the agent meanwhile, most likely.
                    let _ = connection.send_bytes(&[*octet]);
                    *rest = behind;
                }
            }
            thread::sleep(Duration::from_millis(60));
        }
        let left = slow
            .iter()
            .filter(|(connection, _)| !is_closed(connection))
            .count();
        assert_eq!(left, 0, "of {}", slow.len());
    });
    let idle = agent
        .metric("nodens_tcp_connections_idle_closed_total", &[])
        .unwrap();
    assert!(idle >= 80.0, "{idle}");
    is_well(&mut agent);
}

#[test]
fn frames_of_any_length_are_read_as_they_are_and_leave_no_memory_behind() {
    let sample = Sample::start().unwrap();
    let mut agent = agent().upstream(sample.addr()).start().unwrap();
    let query = Query::new("web.prod.svc.cluster.local", A);
    beside_a_bystander(&agent, &sample, || {
        let client = agent.client().from(source(2));
        let mut connections: Vec<_> = (0..100).map(|_| client.connect().unwrap()).collect();
        for connection in &mut connections {
            // Nothing, many times; then a query with all that a frame can have behind it.
            connection.send_bytes(&[0; 2000]).unwrap();
            let mut longest = query.to_bytes();
            longest.resize(65_535, 0);
            connection.send_bytes(&frame(&longest)).unwrap();
            let answer = connection.receive().unwrap().unwrap();
            let answer = Response::judge(&query.to_bytes(), answer, Duration::ZERO).unwrap();
            assert_eq!(answer.rcode(), ResponseCode::NoError);
            // And most of one more, so that its room is still needed, but for the last ones.
            connection.send_bytes(&[0xff, 0xff, 0]).unwrap();
        }
        for connection in &mut connections {
            let mut rest = vec![0; 65_534];
            // A response, to which nothing is owed.
            rest[1] = 0x80;
            connection.send_bytes(&rest).unwrap();
            connection.ask(&query).unwrap();
        }
        let resident = agent.resident_bytes().unwrap();
        let limit = BUDGET * 6 / 5 + BESIDE;
        assert!(resident <= limit, "{resident} octets of at most {limit}");
    });
    is_well(&mut agent);
}

#[test]
fn a_flood_of_connections_takes_no_place_from_those_who_ask() {
    let sample = Sample::start().unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .set("listen.tcpConnections", "100")
        .set("listen.tcpConnectionsPerClient", "40")
        .start()
        .unwrap();
    let descriptors = agent.descriptors().unwrap();
    beside_a_bystander(&agent, &sample, || {
        let begun = Instant::now();
        let mut held = Vec::new();
        // More than are allowed in all, from clients with as many as each may have and more, the
        // agent's own probes' among them; held open, some with half a query.
        while begun.elapsed() < Duration::from_secs(7) {
            for number in 1..10 {
                for _ in 0..10 {
                    let client = agent.client().from(source(number));
                    let Ok(mut connection) = client.connect() else {
                        continue;
                    };
                    if held.len() % 2 == 0 {
                        let _ = connection.send_bytes(&[0, 40, 1]);
                    }
                    held.push(connection);
                }
            }
            if held.len() > 600 {
                held.drain(..200);
            }
            let open = agent.metric("nodens_tcp_connections_open", &[]).unwrap();
            assert!(open <= 100.0, "{open}");
            thread::sleep(Duration::from_millis(100));
        }
    });
    let health = agent.health("/healthz").unwrap();
    assert_eq!(health.status, 200, "{}", health.body);
    let refused = agent
        .metric("nodens_tcp_connections_refused_total", &[])
        .unwrap();
    assert!(refused > 100.0, "{refused}");
    wait_for(
        "the descriptors to come back",
        Duration::from_secs(15),
        || Ok((agent.descriptors()? <= descriptors + 3).then_some(())),
    )
    .unwrap();
    is_well(&mut agent);
}

/// A client that asks for much, and reads none of it.
#[test]
fn clients_that_never_read_cost_a_bounded_amount_of_memory() {
    let sample = Sample::start().unwrap();
    // 60,000 octets to each query, all at once: the worst that one question can set off.
    let heavy = Fault::start(|asked: &Asked| {
        let mut message = asked.bytes[..2].to_vec();
        message.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend(&asked.outline.as_ref().unwrap().question);
        message.extend([0xc0, 12, 0, 10, 0, 1, 0, 0, 0, 0, 0xea, 0x60]);
        message.resize(message.len() + 60_000, 7);
        vec![
            Step::Wait(Duration::from_millis(700)),
            Step::Send(Reply::Bytes(message)),
        ]
    })
    .unwrap();
    let mut agent = agent()
        .upstream(sample.addr())
        .zone("heavy.test", &[heavy.addr()])
        .set("listen.tcpIdle", "2s")
        .start()
        .unwrap();
    let most = AtomicUsize::new(0);
    beside_a_bystander(&agent, &sample, || {
        let mut connections = Vec::new();
        for number in 0..60 {
            let mut connection = agent.client().from(source(2)).connect().unwrap();
            for _ in 0..120 {
                connection
                    .send(&Query::new("all.heavy.test", 10u16))
                    .unwrap();
            }
            if number % 20 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            connections.push(connection);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            let resident = usize::try_from(agent.resident_bytes().unwrap()).unwrap();
            most.fetch_max(resident, Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
    });
    // 7,200 answers of 60,000 octets would be 430 MB.
    let most = most.into_inner();
    assert!(most < 64 << 20, "{most} octets");
    assert!(agent.is_running().unwrap());
    assert_eq!(agent.health("/readyz").unwrap().status, 200);
}

#[test]
fn garbage_for_the_admin_ports_leaves_them_and_dns_alone() {
    let sample = Sample::start().unwrap();
    let mut agent = agent().upstream(sample.addr()).start().unwrap();
    let mut dice = Dice::new();
    let ports = [agent.health_addr(), agent.metrics_addr()];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| bystander(&agent, &sample, &is_over));
        let ends = Ends(&is_over);
        let begun = Instant::now();
        let mut held = Vec::new();
        while begun.elapsed() < Duration::from_secs(3) {
            for port in ports {
                let mut stream = TcpStream::connect(port).unwrap();
                let bytes = garbage_for_http(&mut dice);
                // The agent may have closed it in the middle.
                let _ = stream.write_all(&bytes);
                held.push(stream);
            }
            if held.len() > 300 {
                held.drain(..50);
            }
            thread::sleep(Duration::from_millis(2));
        }
        // Those that are held are more than may be open: it is they who make room.
        for _ in 0..5 {
            assert_eq!(agent.health("/readyz").unwrap().status, 200);
            assert!(agent.metrics().unwrap().contains("nodens_ready 1"));
        }
        drop(ends);
        bystander.join().unwrap();
    });
    is_well(&mut agent);
}

fn garbage_for_http(dice: &mut Dice) -> Vec<u8> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
    match dice.of(0..8) {
        0 => {
            let length = dice.of(0..5000);
            dice.octets(length)
        }
        1 => [b"GET /".as_slice(), &vec![b'a'; 100_000]].concat(),
        2 => {
            let fields = "X-A: b\r\n".repeat(1000);
            format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes()
        }
        3 => b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
        4 => b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
        5 => request.repeat(50),
        6 => frame(&Query::new("web.prod.svc.cluster.local", A).to_bytes()),
        _ => dice.mutate(request, 0),
    }
}

/// What is asked twice in one second by nobody: names that exist nowhere, each from a client of its
/// own, while others ask what they always ask.
#[test]
fn a_client_that_repeats_itself_without_end_is_one_who_waits() {
    let fault = Fault::start(nodens_tests::fault::silence()).unwrap();
    let agent = agent()
        .upstream(fault.addr())
        .set("limits.queryTimeout", "1500ms")
        .set("limits.inFlight", "100")
        .start()
        .unwrap();
    let socket = agent.client().udp_socket().unwrap();
    let query = Query::new("web.example.org", A).to_bytes();
    for _ in 0..1000 {
        socket.send(&query).unwrap();
    }
    let waiting = wait_for("the queries", Duration::from_secs(1), || {
        let waiting = agent.metric("nodens_queries_in_flight", &[])?;
        Ok((waiting > 0.0).then_some(waiting))
    });
    assert_eq!(waiting.unwrap(), 1.0);
    let mut answers = HashSet::new();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    answers.insert(buffer[..length].to_vec());
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket.recv(&mut buffer).unwrap_err();
}

/// Where an attacker fills the room for misses, what is cached is answered as ever.
#[test]
fn misses_beyond_the_limit_are_refused_at_once_and_hits_are_not() {
    const LIMIT: usize = 100;
    let sample = Sample::start().unwrap();
    sample.set_bench_ttl(30);
    let silent = Fault::start(nodens_tests::fault::silence()).unwrap();
    let agent = agent()
        .upstream(sample.addr())
        .zone("silent.test", &[silent.addr()])
        .set("limits.inFlight", &LIMIT.to_string())
        .set("limits.queryTimeout", "2s")
        .start()
        .unwrap();
    let hot = "hot.bench.cluster.local";
    assert_eq!(
        agent.client().query(hot, A).unwrap().rcode(),
        ResponseCode::NoError
    );
    let socket = agent
        .client()
        .patience(Duration::from_secs(6))
        .udp_socket()
        .unwrap();
    let begun = Instant::now();
    let mut by_reason: HashMap<Option<u16>, usize> = HashMap::new();
    let slowest_hit = thread::scope(|scope| {
        let hits = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while begun.elapsed() < Duration::from_millis(1500) {
                let hit = agent.client().query(hot, A).unwrap();
                assert_eq!(hit.addresses(), [IpAddr::V4(bench_address(hot))]);
                slowest = slowest.max(hit.elapsed);
                thread::sleep(Duration::from_millis(10));
            }
            slowest
        });
        scope.spawn(|| {
            for number in 0..5 * LIMIT {
                let query = Query::new(&format!("{number}.silent.test"), A).edns(1232);
                let query = query.id(u16::try_from(number).unwrap());
                socket.send(&query.to_bytes()).unwrap();
                if number % 10 == 9 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let mut buffer = [0; 512];
        for number in 0..5 * LIMIT {
            let length = socket.recv(&mut buffer).unwrap();
            let outline = Outline::read(&buffer[..length]).unwrap();
            assert_eq!(outline.rcode(), 2);
            let option = outline.edns.and_then(|edns| edns.options.first().cloned());
            let code = option.map(|(_, data)| u16::from_be_bytes([data[0], data[1]]));
            *by_reason.entry(code).or_default() += 1;
            if number < 4 * LIMIT {
                assert!(begun.elapsed() < Duration::from_millis(1900), "{number}");
            }
        }
        hits.join().unwrap()
    });
    assert_eq!(by_reason[&Some(0)], 4 * LIMIT, "over the limit");
    assert_eq!(
        by_reason[&Some(22)],
        LIMIT,
        "in time, and without an answer"
    );
    assert!(slowest_hit < Duration::from_millis(500), "{slowest_hit:?}");
    let over = agent.metric("nodens_queries_over_limit_total", &[("limit", "in_flight")]);
    assert_eq!(over.unwrap(), 400.0);
    let waiting = agent.metric("nodens_queries_in_flight", &[]).unwrap();
    assert_eq!(waiting, 0.0);
    let _: SocketAddr = agent.addr();
}
