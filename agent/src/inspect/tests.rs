// SPDX-License-Identifier: Apache-2.0
//! What people are told of what is held.

use super::page::{Entry, Kind};
use super::*;
use crate::cache::Draft;
use crate::config::{Config, Sources};
use crate::resolve::Routes;
use crate::telemetry::clock::Clock;
use crate::wire::answer::{Answer, Standing};
use crate::wire::header::Flags;

/// `A` of 10.0.0.7, its owner a pointer to the question, TTL 30.
const ADDRESS: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x07";

/// An inspector of an agent that has one zone, the root, and holds nothing.
pub(crate) fn inspector() -> Arc<Inspector> {
    let zones = ("NODENS_ZONES", "[{name: ., upstreams: [127.0.0.1:9]}]");
    let sources = Sources {
        default_file: "/nonexistent".into(),
        environment: [zones]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap().config;
    let cache = Cache::new(64 << 20, 2).unwrap();
    let telemetry = Arc::new(Telemetry::new(1));
    let resolver = Resolver::new(
        cache.clone(),
        cache.reader().unwrap(),
        Routes::new(&config.zones, &telemetry, None),
        config.limits.clone(),
        config.cache.clone(),
        1232,
        Arc::clone(&telemetry),
    );
    let health = Arc::new(Health::new(&[], &[0], Clock.now_ns()));
    Arc::new(Inspector::new(cache, resolver, telemetry, health))
}

fn parsed(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// Keeps an answer from so many seconds ago with this lifetime, and an hour as a stale one.
pub(crate) fn keep(
    inspector: &Inspector,
    question: &Question,
    answer: Answer<'_>,
    times: [u32; 2],
) {
    let [age, life] = times;
    let stored = Tick(inspector.now().0.saturating_sub(age * 10));
    let expires = stored.after_seconds(life);
    let draft = Draft {
        dies: expires.after_seconds(3600),
        ..Draft::new(question, answer, 1, [stored, expires])
    };
    inspector.cache.insert(&draft).unwrap();
}

pub(crate) fn address() -> Answer<'static> {
    Answer {
        counts: [1, 0, 0],
        records: ADDRESS,
        ttl_offsets: &[6, 0],
        ..Answer::NOTHING
    }
}

fn denied() -> Answer<'static> {
    Answer {
        flags: Flags(crate::wire::rcode::NXDOMAIN),
        ..Answer::NOTHING
    }
}

fn hows(page: &page::Name) -> Vec<(&str, &str)> {
    let next = page.next.iter();
    next.map(|next| (next.qtype.as_str(), next.how.as_str()))
        .collect()
}

#[test]
fn a_name_shows_every_type_that_is_held_and_how_each_would_be_answered() {
    let inspector = inspector();
    let name = parsed("web.example");
    keep(&inspector, &Question::of(&name, 1), address(), [10, 30]);
    keep(
        &inspector,
        &Question::of(&name, 16),
        Answer::NOTHING,
        [40, 30],
    );
    let page = inspector.name(&name, None);
    assert_eq!(
        (page.name.as_str(), page.zone.as_str()),
        ("web.example.", ".")
    );
    assert_eq!(page.upstreams, ["127.0.0.1:9"]);
    let [first, second] = page.held.as_slice() else {
        panic!("{:?}", page.held);
    };
    assert_eq!(
        (first.qtype.as_str(), first.kind, first.state),
        ("A", Kind::Positive, State::Fresh)
    );
    assert!(
        matches!((first.age, first.ttl), (10 | 11, Some(19 | 20))),
        "{first:?}"
    );
    assert_eq!(first.upstream.as_deref(), Some("127.0.0.1:9"));
    let [record] = first.records.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(
        (record.name.as_str(), record.data.as_str()),
        ("web.example.", "10.0.0.7")
    );
    assert!(matches!(record.ttl, 19 | 20), "{record:?}");
    assert_eq!(
        (second.qtype.as_str(), second.kind, second.state),
        ("TXT", Kind::Nodata, State::Stale)
    );
    assert_eq!(second.ttl, Some(0));
    assert!(matches!(second.stale_for, Some(3588..=3590)), "{second:?}");
    assert_eq!(
        hows(&page),
        [("A", "fresh"), ("TXT", "miss"), ("AAAA", "miss")]
    );
    assert!(
        page.next[1].why.contains("stale where no upstream"),
        "{page:?}"
    );
    // One type alone.
    let page = inspector.name(&name, Some(16));
    assert_eq!(page.held.len(), 1);
    assert_eq!(hows(&page), [("TXT", "miss")]);
}

#[test]
fn a_denial_by_name_and_a_failure_are_told_apart_and_so_are_do_and_cd() {
    let inspector = inspector();
    let gone = parsed("gone.example");
    let denial = Question::of(&gone, 1).with_type(DENIAL);
    keep(&inspector, &denial, denied(), [1, 30]);
    let page = inspector.name(&gone, Some(33));
    assert_eq!(
        (page.held[0].qtype.as_str(), page.held[0].kind),
        ("*", Kind::Denial)
    );
    assert_eq!(hows(&page), [("SRV", "denied_by_name")]);
    let failed = parsed("failed.example");
    let failure = Answer {
        flags: Flags(crate::wire::rcode::SERVFAIL),
        standing: Standing::Failure,
        ..Answer::NOTHING
    };
    let section = [failed.as_wire(), &[0, 1, 0, 1]].concat();
    let signed = Question::read(&section, true, false).unwrap();
    keep(&inspector, &signed, failure, [0, 5]);
    let page = inspector.name(&failed, Some(1));
    let [held] = page.held.as_slice() else {
        panic!("{page:?}");
    };
    assert_eq!(
        (held.kind, &held.upstream, held.dnssec_ok),
        (Kind::Failure, &None, true)
    );
    assert_eq!((held.rcode.as_str(), held.stale_for), ("SERVFAIL", None));
    let next: Vec<_> = page
        .next
        .iter()
        .map(|next| (next.dnssec_ok, next.how.as_str()))
        .collect();
    assert_eq!(next, [(false, "miss"), (true, "failure")]);
}

#[test]
fn what_is_not_held_is_a_miss_and_nothing_is_held() {
    let inspector = inspector();
    let page = inspector.name(&parsed("."), None);
    assert_eq!((page.held.len(), page.candidates.len()), (0, 0));
    assert_eq!(hows(&page), [("A", "miss"), ("AAAA", "miss")]);
    assert!(!page.next[0].why.contains("stale"), "{page:?}");
}

#[tokio::test]
async fn a_flush_takes_what_it_names_and_nothing_beside_it() {
    let inspector = inspector();
    let all = ["a.example", "b.a.example", "xa.example", "a.example.org"];
    let fill = || {
        for text in all {
            keep(
                &inspector,
                &Question::of(&parsed(text), 1),
                address(),
                [0, 30],
            );
            keep(
                &inspector,
                &Question::of(&parsed(text), 28),
                Answer::NOTHING,
                [0, 30],
            );
        }
    };
    let held = || all.map(|text| inspector.name(&parsed(text), None).held.len());
    fill();
    let flushed = inspector.flush(Scope::Name(parsed("A.example."))).await;
    assert_eq!((flushed.entries, held()), (2, [0, 2, 2, 2]));
    fill();
    let flushed = inspector.flush(Scope::Zone(parsed("a.example"))).await;
    assert_eq!((flushed.entries, held()), (4, [0, 0, 2, 2]));
    fill();
    let flushed = inspector.flush(Scope::All).await;
    assert_eq!((flushed.entries, held()), (8, [0; 4]));
    assert_eq!(inspector.flush(Scope::All).await, Flushed::default());
}

#[tokio::test]
async fn the_figures_count_entries_by_what_they_say() {
    let inspector = inspector();
    let name = parsed("web.example");
    keep(&inspector, &Question::of(&name, 1), address(), [0, 30]);
    keep(
        &inspector,
        &Question::of(&name, 28),
        Answer::NOTHING,
        [31, 30],
    );
    keep(
        &inspector,
        &Question::of(&parsed("gone"), 1).with_type(DENIAL),
        denied(),
        [0, 30],
    );
    keep(
        &inspector,
        &Question::of(&parsed("old"), 1),
        address(),
        [4000, 30],
    );
    let stats = inspector.stats().await;
    assert_eq!(stats.fresh, [(Kind::Positive, 1), (Kind::Denial, 1)].into());
    assert_eq!(stats.stale, [(Kind::Nodata, 1)].into());
    assert_eq!(stats.dead, 1);
    assert_eq!(
        (stats.zones[0].zone.as_str(), stats.zones[0].entries),
        ("cluster.local.", 4)
    );
}

#[test]
fn a_dump_has_every_entry_once_in_small_pieces_and_two_may_run() {
    let inspector = inspector();
    for number in 0..5_000 {
        let name = parsed(&format!("n-{number}.example"));
        keep(&inspector, &Question::of(&name, 1), address(), [0, 30]);
    }
    let other = parsed("n.example.org");
    keep(&inspector, &Question::of(&other, 1), address(), [0, 30]);
    let mut dump = inspector.dump(parsed("example")).unwrap();
    let second = inspector.dump(Name::ROOT).unwrap();
    assert!(inspector.dump(Name::ROOT).is_none());
    let mut names = std::collections::BTreeSet::new();
    while let Some(piece) = dump.piece() {
        assert!(piece.len() < 64 << 10, "{}", piece.len());
        for line in piece.split_inclusive(|&octet| octet == b'\n') {
            let entry: Entry = serde_json::from_slice(line).unwrap();
            assert!(names.insert(entry.name.clone()), "{} twice", entry.name);
        }
    }
    assert_eq!(names.len(), 5_000);
    assert!(dump.piece().is_none());
    drop((dump, second));
    assert!(inspector.dump(Name::ROOT).is_some());
}

#[test]
fn the_status_names_zones_upstreams_and_why_it_is_not_ready() {
    let inspector = inspector();
    let agent = &inspector.telemetry.agent;
    agent.config_read_from(Some("/etc/nodens/nodens.yaml".into()));
    agent.config_loaded(Clock.wall().as_secs() - 60);
    let status = inspector.status();
    assert_eq!(status.pid, std::process::id());
    assert_eq!(status.reasons, ["no listen address"]);
    assert!(!status.is_ready);
    assert_eq!(
        status.config.file.as_deref(),
        Some("/etc/nodens/nodens.yaml")
    );
    assert!(
        (60..=62).contains(&status.config.age),
        "{:?}",
        status.config
    );
    let zones: Vec<_> = status.zones.iter().map(|zone| zone.zone.as_str()).collect();
    assert_eq!(zones, ["cluster.local.", "."]);
    let upstreams: Vec<_> = status
        .upstreams
        .iter()
        .map(|upstream| {
            (
                upstream.address.as_str(),
                upstream.zone.as_str(),
                upstream.is_down,
            )
        })
        .collect();
    assert_eq!(
        upstreams,
        [
            ("127.0.0.1:9", "cluster.local.", false),
            ("127.0.0.1:9", ".", false)
        ]
    );
    assert_eq!(status.steering, None);
}
