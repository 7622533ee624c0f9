// SPDX-License-Identifier: Apache-2.0
//! The steps of a hit, each for itself: parse, look up, reply. The cache stands beside moka, which
//! has every feature and is what one would take otherwise (ADR 0001). `cargo bench -p nodens`.
//!
//! Whole queries through sockets are measured by `make bench`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nodens::cache::{Cache, Draft, Lookup, Tick};
use nodens::wire::answer::Answer;
use nodens::wire::header::{Flags, HEADER};
use nodens::wire::name::Name;
use nodens::wire::query::Query;
use nodens::wire::question::Question;
use nodens::wire::reply::{self, Shape};

/// An A record at the question's name.
const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1];
const ANSWER: Answer<'_> = Answer {
    flags: Flags(0),
    counts: [1, 0, 0],
    records: &RECORD,
    ttl_offsets: &[6, 0],
    age: 7,
    ..Answer::NOTHING
};
const NOW: Tick = Tick(100);

fn name(number: usize) -> Name {
    Name::parse(&format!("n{number:06}.prod.svc.cluster.local")).expect("a name")
}

fn message(number: usize) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[2] = 1;
    message[5] = 1;
    message.extend(name(number).as_wire());
    message.extend([0, 1, 0, 1]);
    message
}

fn parse(criterion: &mut Criterion) {
    let message = message(7);
    let mut question = Question::new();
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| Query::parse(black_box(&message), &mut question));
    });
}

fn write(criterion: &mut Criterion) {
    let message = message(7);
    let query = Query::parse(&message, &mut Question::new()).expect("a query");
    let shape = Shape {
        limit: 1232,
        udp_size: 1232,
        keepalive: None,
    };
    let mut buffer = vec![0; 1232];
    buffer[..message.len()].copy_from_slice(&message);
    criterion.bench_function("reply", |bencher| {
        bencher.iter(|| reply::answer(&mut buffer, black_box(&query), &ANSWER, &shape));
    });
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look up");
    for count in [1_000, 100_000] {
        let questions: Vec<Question> = (0..count).map(|n| Question::of(&name(n), 1)).collect();
        let cache = Cache::new(64 << 20, 1).expect("memory");
        let reference = moka::sync::Cache::new(1_000_000);
        for question in &questions {
            let draft = Draft::new(question, ANSWER, 1, [NOW, Tick::NEVER]);
            cache.insert(&draft).expect("room");
            let key: Box<[u8]> = question.as_octets().into();
            reference.insert(key, std::sync::Arc::<[u8]>::from(&RECORD[..]));
        }
        // A step that visits all of them in an order that the CPU cannot guess.
        let mut at = 0;
        let mut next = || {
            at = (at + 48_271) % count;
            &questions[at]
        };
        let mut reader = cache.reader().expect("a reader");
        let session = reader.online();
        group.bench_function(BenchmarkId::new("nodens", count), |bencher| {
            bencher.iter(|| matches!(session.get(next(), NOW), Lookup::Hit(_)));
        });
        group.bench_function(BenchmarkId::new("moka", count), |bencher| {
            bencher.iter(|| reference.get(next().as_octets()).is_some());
        });
    }
    group.finish();
}

criterion_group!(benches, parse, write, look_up);
criterion_main!(benches);
