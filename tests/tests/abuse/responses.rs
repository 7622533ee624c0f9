// SPDX-License-Identifier: Apache-2.0
//! Random and mutated packets from upstreams, most of them with the right ID and question.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType::{A, TXT};
use nodens_tests::agent::Agent;
use nodens_tests::client::Response;
use nodens_tests::dice::Dice;
use nodens_tests::fault::{Asked, Fault, Reply, Step};
use nodens_tests::frames::frame;
use nodens_tests::query::{Outline, Query, wire_name};
use nodens_tests::sample::{Sample, bench_address};

use super::{Ends, HEADER, PACKETS, WELL_KNOWN, agent, compare, compare_all, is_well};

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
    // About one in eleven; a busy machine moves it a little.
    assert!(by_hickory > 5 * by_outline, "{by_hickory} {by_outline}");
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
