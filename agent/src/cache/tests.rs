// SPDX-License-Identifier: Apache-2.0
//! The store as its two sides see it: what is kept, what goes, what readers may see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::*;
use crate::wire::answer::Answer;
use crate::wire::name::Name;

fn question(name: &str) -> Question {
    Question::of(&Name::parse(name).unwrap(), 1)
}

/// An answer of `len` octets of records that can be told from any other by its first octets.
fn records(mark: u32, len: usize) -> Vec<u8> {
    let mut records = mark.to_be_bytes().to_vec();
    records.resize(len.max(4), u8::try_from(mark % 251).unwrap());
    records
}

fn draft<'a>(question: &'a Question, records: &'a [u8], life: u32) -> Draft<'a> {
    Draft::new(
        question,
        Answer {
            counts: [1, 0, 0],
            records,
            ttl_offsets: &[6, 0],
            ..Answer::NOTHING
        },
        1,
        [Tick(100), Tick(100).after_seconds(life)],
    )
}

fn mark_of(reader: &mut Reader, name: &str, now: Tick) -> Option<u32> {
    let session = reader.online();
    match session.get(&question(name), now) {
        Lookup::Hit(entry) | Lookup::Due(entry) => {
            let records = entry.answer(now).records;
            let mark = u32::from_be_bytes(*records.first_chunk().unwrap());
            let fill = u8::try_from(mark % 251).unwrap();
            assert!(
                records[4..].iter().all(|&octet| octet == fill),
                "torn entry"
            );
            Some(mark)
        }
        Lookup::Miss => None,
    }
}

#[test]
fn an_answer_is_found_until_its_lifetime_ends_and_knows_its_age() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let asked = question("web.prod.svc.cluster.local");
    let said = records(7, 16);
    cache.insert(&draft(&asked, &said, 5)).unwrap();
    let session = reader.online();
    let Lookup::Hit(entry) = session.get(&asked, Tick(149)) else {
        panic!("a miss");
    };
    let answer = entry.answer(Tick(149));
    assert_eq!(
        (answer.age, answer.records, entry.zone()),
        (4, &said[..], 1)
    );
    assert!(matches!(session.get(&asked, Tick(150)), Lookup::Miss));
    assert!(matches!(
        session.get(&question("other"), Tick(100)),
        Lookup::Miss
    ));
}

#[test]
fn the_denial_of_a_name_answers_the_types_that_have_no_entry_of_their_own() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let name = Name::parse("no.example").unwrap();
    let asked = |qtype| Question::of(&name, qtype);
    let (denial, said) = (records(7, 16), records(9, 16));
    let key = asked(1).with_type(DENIAL);
    cache.insert(&draft(&key, &denial, 50)).unwrap();
    cache.insert(&draft(&asked(28), &said, 5)).unwrap();
    let session = reader.online();
    let found = |qtype, now| match session.get(&asked(qtype), Tick(now)) {
        Lookup::Hit(entry) => Some((entry.qtype(), entry.answer(Tick(now)).records.to_vec())),
        _ => None,
    };
    for qtype in [1, 16, 65, 4711] {
        assert_eq!(found(qtype, 120), Some((None, denial.clone())), "{qtype}");
    }
    assert_eq!(found(28, 120), Some((Some(28), said)));
    // What has an entry of its own is not denied when that has expired.
    assert_eq!(found(28, 160), None);
    assert!(session.get(&question("a.no.example"), Tick(120)).is_miss());
    let with_do = Question::read(b"\x02no\x07example\x00\x00\x01\x00\x01", true, false);
    assert!(session.get(&with_do.unwrap(), Tick(120)).is_miss());
}

impl Lookup<'_> {
    fn is_miss(&self) -> bool {
        matches!(self, Self::Miss)
    }
}

#[test]
fn a_name_has_so_many_entries_and_no_more_and_all_of_them_are_found() {
    let cache = Cache::new(4 << 20, 1).unwrap();
    let name = Name::parse("many.example").unwrap();
    let said = records(1, 16);
    let count = || {
        let mut seen = 0;
        cache.family(name.as_wire(), |_| seen += 1);
        seen
    };
    for qtype in 1..1000 {
        let asked = Question::of(&name, qtype);
        cache.insert(&draft(&asked, &said, 50)).unwrap();
        assert!(count() <= 64);
    }
    assert_eq!(count(), 64);
    assert_eq!(
        cache.retain_of(name.as_wire(), |entry| entry.qtype() == Some(999)),
        63
    );
    assert_eq!(cache.figures().entries, 1);
}

#[test]
fn whoever_asks_a_name_for_all_types_does_not_keep_its_addresses_or_its_denial_out() {
    let cache = Cache::new(4 << 20, 1).unwrap();
    let name = Name::parse("many.example").unwrap();
    let said = records(1, 16);
    let insert = |qtype| {
        let asked = Question::of(&name, qtype);
        cache.insert(&draft(&asked, &said, 50))
    };
    for qtype in 100..200 {
        insert(qtype).unwrap();
    }
    for qtype in [1, 28, DENIAL] {
        insert(qtype).unwrap();
    }
    for qtype in 200..300 {
        insert(qtype).unwrap();
    }
    let mut kept = Vec::new();
    cache.family(name.as_wire(), |entry| kept.push(entry.qtype()));
    assert_eq!(kept.len(), 64);
    for wanted in [Some(1), Some(28), None, Some(299)] {
        assert!(kept.contains(&wanted), "{wanted:?}");
    }
}

#[test]
fn an_answer_is_due_once_when_it_was_hit_twice_and_ends_soon() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let (asked, said) = (question("hot"), records(1, 16));
    let insert = |stored| {
        let draft = Draft {
            stored: Tick(stored),
            expires: Tick(stored + 100),
            early: 10,
            ..draft(&asked, &said, 0)
        };
        cache.insert(&draft).unwrap();
    };
    let mut due = |now| matches!(reader.online().get(&asked, Tick(now)), Lookup::Due(_));
    insert(100);
    assert!(!due(150), "the first hit, long before the end");
    assert!(!due(189));
    assert!(due(190));
    assert!(!due(190), "said once");
    insert(200);
    assert!(!due(295), "hit once");
    assert!(due(295));
    assert!(!due(300), "its lifetime has ended");
}

#[test]
fn what_may_be_sent_beyond_its_lifetime_stays_until_it_may_not() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let (asked, said) = (question("old"), records(1, 16));
    let draft = Draft {
        dies: Tick(300),
        ..draft(&asked, &said, 5)
    };
    cache.insert(&draft).unwrap();
    let mut sweep = |now| {
        for _ in 0..64 {
            cache.sweep(Tick(now));
        }
        let session = reader.online();
        session.peek(&asked).map(|entry| entry.is_stale(Tick(now)))
    };
    assert_eq!(sweep(149), Some(false));
    assert_eq!(sweep(150), Some(true));
    assert_eq!(sweep(299), Some(true));
    assert_eq!(sweep(300), None);
}

#[test]
fn a_later_answer_takes_the_place_of_an_earlier_one() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    for (mark, len) in [(1, 16), (2, 2000), (3, 20)] {
        cache
            .insert(&draft(&question("a"), &records(mark, len), 9))
            .unwrap();
        assert_eq!(mark_of(&mut reader, "a", Tick(100)), Some(mark));
    }
    let figures = cache.figures();
    assert_eq!(
        (figures.entries, figures.inserts, figures.replaced),
        (1, 3, 2)
    );
}

#[test]
fn ten_times_the_budget_of_names_stays_within_it_and_the_hot_ones_stay() {
    let budget = 2 << 20;
    let cache = Cache::new(budget, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let hot: Vec<String> = (0..500)
        .map(|number| format!("hot{number}.example"))
        .collect();
    for (mark, name) in (0..).zip(&hot) {
        cache
            .insert(&draft(&question(name), &records(mark, 16), 9))
            .unwrap();
        for _ in 0..3 {
            mark_of(&mut reader, name, Tick(100));
        }
    }
    for number in 0..200_000_u32 {
        let name = format!("random{number}.flood.example");
        cache
            .insert(&draft(&question(&name), &records(number, 16), 9))
            .unwrap();
        if number % 100 == 0 {
            let again = &hot[number as usize / 100 % hot.len()];
            mark_of(&mut reader, again, Tick(100));
            assert!(cache.figures().bytes <= budget, "{:?}", cache.figures());
        }
    }
    let kept = (0..).zip(&hot).filter(|(mark, name)| {
        mark_of(&mut reader, name, Tick(100)).is_some_and(|found| found == *mark)
    });
    // A hot entry is lost only where its page had to go and no other had room.
    let kept = kept.count();
    assert!(
        kept >= hot.len() * 98 / 100,
        "{kept} of {}: {:?}",
        hot.len(),
        cache.figures()
    );
    let figures = cache.figures();
    assert!(figures.entries > 12_000, "the budget is used: {figures:?}");
    assert_eq!(figures.refused_no_room, 0);
}

#[test]
fn sizes_may_change_without_stranding_memory() {
    let budget = 2 << 20;
    let cache = Cache::new(budget, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    for round in 0..6_u32 {
        for (number, len) in (0..2000).zip([16, 3000, 150, 20_000, 700].into_iter().cycle()) {
            let len = if round % 2 == 0 {
                len
            } else {
                16 + number as usize
            };
            let name = format!("n{number}.r{round}.example");
            cache
                .insert(&draft(&question(&name), &records(number, len), 9))
                .unwrap();
            assert_eq!(mark_of(&mut reader, &name, Tick(100)), Some(number));
        }
    }
    let figures = cache.figures();
    assert!(figures.bytes <= budget, "{figures:?}");
    assert_eq!((figures.refused_no_room, figures.refused_too_large), (0, 0));
}

#[test]
fn an_answer_larger_than_any_cell_is_not_kept() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let large = records(1, 65_500);
    let refused = cache.insert(&draft(&question("a"), &large, 9));
    assert_eq!(refused, Err(Refusal::TooLarge));
    assert_eq!(cache.figures().entries, 0);
}

#[test]
fn what_is_pinned_stays_when_everything_else_goes() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let mut own = draft(&question("own"), &records(1, 16), 0)
        .question
        .to_owned();
    let said = records(1, 16);
    let pinned = Draft {
        expires: Tick::NEVER,
        dies: Tick::NEVER,
        ..draft(&own, &said, 0)
    };
    cache.pin(&pinned).unwrap();
    own = question("flood");
    for number in 0..50_000 {
        let name = format!("n{number}.example");
        cache
            .insert(&draft(&question(&name), &records(number, 60), 9))
            .unwrap();
    }
    cache.insert(&draft(&own, &said, 9)).unwrap();
    cache.retain(|_| false);
    for _ in 0..64 {
        cache.sweep(Tick(1_000_000));
    }
    assert_eq!(mark_of(&mut reader, "own", Tick(2_000_000)), Some(1));
    assert_eq!(cache.figures().entries, 1);
    let session = reader.online();
    let Lookup::Hit(entry) = session.get(&question("own"), Tick(2_000_000)) else {
        panic!("a miss");
    };
    assert_eq!(entry.answer(Tick(2_000_000)).age, 0);
}

#[test]
fn a_sweep_of_all_shards_drops_what_expired_and_nothing_else() {
    let cache = Cache::new(4 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    for number in 0..1000 {
        let name = format!("n{number}.example");
        let life = if number % 2 == 0 { 5 } else { 500 };
        cache
            .insert(&draft(&question(&name), &records(number, 16), life))
            .unwrap();
    }
    let gone: usize = (0..table::SHARDS).map(|_| cache.sweep(Tick(200))).sum();
    assert_eq!((gone, cache.figures().entries), (500, 500));
    assert_eq!(mark_of(&mut reader, "n1.example", Tick(200)), Some(1));
    assert_eq!(cache.figures().expired, 500);
}

#[test]
fn a_smaller_budget_is_kept_at_once_and_a_larger_one_is_used() {
    let cache = Cache::new(8 << 20, 1).unwrap();
    let fill = |from: u32, to: u32| {
        for number in from..to {
            let name = format!("n{number}.example");
            cache
                .insert(&draft(&question(&name), &records(number, 16), 9))
                .unwrap();
        }
    };
    fill(0, 100_000);
    assert!(cache.figures().bytes > 7 << 20);
    cache.set_budget(2 << 20).unwrap();
    assert!(cache.figures().bytes <= 2 << 20, "{:?}", cache.figures());
    fill(100_000, 120_000);
    assert!(cache.figures().bytes <= 2 << 20);
    cache.set_budget(16 << 20).unwrap();
    fill(200_000, 400_000);
    let figures = cache.figures();
    assert!(
        figures.bytes > 15 << 20 && figures.bytes <= 16 << 20,
        "{figures:?}"
    );
}

#[test]
fn a_reader_may_outlive_the_store() {
    let cache = Cache::new(1 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let said = records(7, 16);
    cache.insert(&draft(&question("a"), &said, 9)).unwrap();
    drop(cache);
    assert_eq!(mark_of(&mut reader, "a", Tick(100)), Some(7));
}

#[test]
fn there_are_only_as_many_readers_as_were_asked_for() {
    let cache = Cache::new(1 << 20, 2).unwrap();
    let (one, two) = (cache.reader(), cache.reader());
    assert!(one.is_some() && two.is_some() && cache.reader().is_none());
}

/// Two readers against a writer that replaces, evicts and drops all the time: no entry is ever torn
/// or another's. Under AddressSanitizer (make asan) a read of what was given back is found.
#[test]
fn readers_never_see_what_was_taken_away() {
    let cache = Cache::new(1 << 20, 2).unwrap();
    let stop = AtomicBool::new(false);
    let hits = AtomicU64::new(0);
    let names: Vec<String> = (0..64).map(|number| format!("n{number}.example")).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut reader = cache.reader().unwrap();
            let (names, stop, hits) = (&names, &stop, &hits);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    for (number, name) in (0_u32..).zip(names) {
                        if let Some(mark) = mark_of(&mut reader, name, Tick(100)) {
                            assert_eq!(mark % 64, number, "another name's entry");
                            hits.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
        for round in 0..20_000_000_u32 {
            // Enough rounds, and readers that came to see some of them.
            if round > 40_000 && hits.load(Relaxed) > 10_000 {
                break;
            }
            let number = round % 64;
            let name = &names[number as usize];
            let said = records(round / 64 * 64 + number, 16 + round as usize % 900);
            let _ = cache.insert(&draft(&question(name), &said, 9));
            let flood = format!("f{round}.example");
            let _ = cache.insert(&draft(&question(&flood), &records(round, 600), 9));
            if round % 1000 == 0 {
                cache.retain(|entry| entry.question().len() % 2 == 0);
            }
        }
        stop.store(true, Relaxed);
    });
    assert!(hits.load(Relaxed) > 10_000);
}

#[test]
fn a_few_hot_names_of_a_rare_size_outlive_a_flood_of_other_sizes() {
    let cache = Cache::new(4 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    // The first page is never emptied: it must not be that of the hot names.
    let own = records(1, 300);
    cache.pin(&draft(&question("own"), &own, 500)).unwrap();
    let hot: Vec<String> = (0..10).map(|number| format!("hot-{number}")).collect();
    for name in &hot {
        cache
            .insert(&draft(&question(name), &records(7, 16), 500))
            .unwrap();
    }
    let mut missed = 0;
    for number in 0..60_000_u32 {
        let name = format!("a-longer-name-{number}.of.the.flood.example");
        let len = 60 + usize::try_from(number.wrapping_mul(2_654_435_761) % 400).unwrap();
        let said = records(number, len);
        let _ = cache.insert(&draft(&question(&name), &said, 500));
        // Now and then, as long as the small queue takes to pass.
        if number % 1000 == 0 {
            for name in &hot {
                if mark_of(&mut reader, name, Tick(101)).is_none() {
                    missed += 1;
                    let again = records(7, 16);
                    let _ = cache.insert(&draft(&question(name), &again, 500));
                }
            }
        }
    }
    assert_eq!(missed, 0);
}

#[test]
fn an_entry_that_is_moved_is_due_as_it_was_where_it_stood() {
    let cache = Cache::new(8 << 20, 1).unwrap();
    let mut reader = cache.reader().unwrap();
    let names: Vec<String> = (0..10_000).map(|number| format!("n{number}")).collect();
    let is_hot = |number: usize| number.is_multiple_of(100);
    for (number, name) in names.iter().enumerate() {
        let (asked, said) = (question(name), records(7, 16));
        let draft = Draft {
            early: 10,
            ..draft(&asked, &said, 500)
        };
        cache.insert(&draft).unwrap();
        for _ in 0..if is_hot(number) { 3 } else { 0 } {
            assert!(mark_of(&mut reader, name, Tick(101)).is_some());
        }
    }
    // Pages are emptied, and what is hot moves to others.
    cache.set_budget(1 << 20).unwrap();
    let (mut due, mut hits) = (0, 0);
    for (number, name) in names.iter().enumerate() {
        if is_hot(number) {
            let session = reader.online();
            match session.get(&question(name), Tick(100).after_seconds(499)) {
                Lookup::Due(_) => due += 1,
                Lookup::Hit(_) => hits += 1,
                Lookup::Miss => {}
            }
        }
    }
    assert_eq!((due, hits), (100, 0));
}

#[test]
fn a_walk_meets_once_whatever_stays_though_others_come_and_go() {
    let cache = Cache::new(64 << 20, 1).unwrap();
    let said = records(1, 16);
    let stay = |number: u32| format!("stay-{number}.example");
    for number in 0..20_000 {
        let asked = question(&stay(number));
        cache.insert(&draft(&asked, &said, 50)).unwrap();
    }
    let mut walk = Walk::new();
    let mut met = std::collections::BTreeMap::<Vec<u8>, u32>::new();
    let (mut parts, mut largest) = (0_u32, 0);
    loop {
        let mut here = 0;
        let is_more = cache.visit(&mut walk, |entry, _| {
            here += 1;
            *met.entry(entry.name().to_vec()).or_default() += 1;
        });
        if !is_more {
            break;
        }
        largest = largest.max(here);
        // Arrays are rebuilt meanwhile, entries replaced and dropped.
        for number in 0..20 {
            let asked = question(&format!("come-{parts}-{number}.example"));
            cache.insert(&draft(&asked, &said, 50)).unwrap();
            let again = question(&stay(parts * 20 % 20_000 + number));
            cache.insert(&draft(&again, &said, 50)).unwrap();
        }
        parts += 1;
    }
    assert_eq!(cache.figures().evictions, 0);
    for number in 0..20_000 {
        let name = Name::parse(&stay(number)).unwrap();
        assert_eq!(met.get(name.as_wire()), Some(&1), "{name}");
    }
    assert!(met.values().all(|&times| times == 1));
    // The shards at the end have more in them than when they began: four times, at most.
    assert!(largest < 200, "{largest} entries in one part");
    assert!(parts > 256, "{parts} parts");
}

#[test]
fn a_walk_that_drops_leaves_what_is_to_stay_and_what_is_kept_for_good() {
    let cache = Cache::new(16 << 20, 1).unwrap();
    let said = records(1, 16);
    for number in 0..5_000 {
        let asked = question(&format!("n-{number}.example"));
        cache.insert(&draft(&asked, &said, 50)).unwrap();
    }
    let own = question("pulse.internal");
    cache.pin(&draft(&own, &said, 50)).unwrap();
    let kept = Name::parse("n-7.example").unwrap();
    let mut walk = Walk::new();
    let mut gone = 0;
    while let Some(dropped) = cache.retain_next(&mut walk, |entry| entry.name() == kept.as_wire()) {
        gone += dropped;
    }
    assert_eq!(gone, 4_999);
    assert_eq!(cache.figures().entries, 2);
    let mut reader = cache.reader().unwrap();
    let session = reader.online();
    assert!(session.peek(&own).is_some());
    assert!(session.peek(&question("n-7.example")).is_some());
}
