// SPDX-License-Identifier: Apache-2.0
//! Random and mutated packets from clients, over UDP and TCP.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA, PTR, SRV, TXT};
use nodens_tests::agent::Agent;
use nodens_tests::dice::Dice;
use nodens_tests::frames::frame;
use nodens_tests::query::{Outline, Query};
use nodens_tests::sample::Sample;

use super::{HEADER, PACKETS, WELL_KNOWN, agent, compare, compare_all, is_well};

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
