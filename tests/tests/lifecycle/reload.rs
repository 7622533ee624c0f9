// SPDX-License-Identifier: Apache-2.0
//! SIGHUP.

use std::fs;

use nodens_tests::agent::Agent;
use nodens_tests::fault::{self, Fault, Gate, Reply};
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::{A, DAY, PATIENCE, held, patient, wait_for_metric, wait_until_ready};

/// In a zone whose upstream changes.
const MOVED: &str = "api.example.com";

/// Puts `new` in the place of `old` in the configuration file.
#[track_caller]
fn edit(agent: &Agent, old: &str, new: &str) {
    let config = agent.config().unwrap();
    assert!(config.contains(old), "{old} in {config}");
    agent.write_config(&config.replace(old, new)).unwrap();
}

/// Reloads and waits until so many reloads had this result.
#[track_caller]
fn reload(agent: &mut Agent, result: &str, count: u32) {
    agent.reload().unwrap();
    let labels = [("result", result)];
    wait_for_metric(agent, "nodens_config_reloads_total", &labels, count);
}

/// The agent with all zones at the first upstream, and what it knows of two names.
fn start(first: &Sample) -> Agent {
    let agent = Agent::builder()
        .upstream(first.addr())
        .zone("example.com", &[first.addr()])
        .cache("8MiB")
        .set("log.level", "error")
        .start()
        .unwrap();
    let client = agent.client();
    client.query(DAY, A).unwrap();
    client.query(MOVED, A).unwrap();
    agent
}

/// Moves the zone example.com, the last of the file, to another upstream.
fn move_zone(agent: &Agent, from: &Sample, to: &Sample) {
    let zone = |at: &Sample| format!("\"example.com\"\n    upstreams: [\"{}\"]", at.addr());
    edit(agent, &zone(from), &zone(to));
}

#[test]
fn a_good_file_changes_zones_cache_and_log_and_drops_only_what_others_must_answer_now() {
    let (first, second) = (Sample::start().unwrap(), Sample::start().unwrap());
    let mut agent = start(&first);
    let client = agent.client();
    assert_eq!(agent.log(), "");
    move_zone(&agent, &first, &second);
    edit(&agent, "8MiB", "16MiB");
    edit(&agent, "level: error", "level: debug");
    reload(&mut agent, "ok", 1);

    agent
        .wait_for_log("\"configuration reloaded\"", PATIENCE)
        .unwrap();
    let budget = agent.metric("nodens_cache_budget_bytes", &[]).unwrap();
    assert_eq!(budget, f64::from(16 << 20));
    for _ in 0..2 {
        client.query(DAY, A).unwrap();
        client.query(MOVED, A).unwrap();
    }
    assert_eq!(first.queries(DAY, A), 1, "what did not move stays");
    assert_eq!((first.queries(MOVED, A), second.queries(MOVED, A)), (1, 1));
    // From `debug` on the log names what is asked.
    assert!(!agent.log().contains(DAY), "{}", agent.log());
    agent.wait_for_log(MOVED, PATIENCE).unwrap();

    // And back: a size that shrinks, a zone that goes, a log that is silent again.
    let reloaded = "\"configuration reloaded\"";
    let lines = agent.log().matches(reloaded).count();
    let config = agent.config().unwrap();
    let (kept, _) = config.split_once("  - name: \"example.com\"").unwrap();
    let kept = kept.replace("16MiB", "1MiB").replace("debug", "error");
    agent.write_config(&kept).unwrap();
    reload(&mut agent, "ok", 2);
    client.query(MOVED, A).unwrap();
    assert_eq!((first.queries(MOVED, A), second.queries(MOVED, A)), (2, 1));
    client.query(DAY, A).unwrap();
    assert_eq!(first.queries(DAY, A), 1);
    let budget = agent.metric("nodens_cache_budget_bytes", &[]).unwrap();
    assert_eq!(budget, f64::from(1 << 20));
    client.query("text.example.org", A).unwrap();
    let log = agent.log();
    assert_eq!(log.matches(reloaded).count(), lines, "{log}");
    assert!(!log.contains("text.example.org"), "{log}");
}

#[test]
fn a_bad_file_is_refused_whole_and_the_old_one_goes_on() {
    let (first, second) = (Sample::start().unwrap(), Sample::start().unwrap());
    let mut agent = start(&first);
    let client = agent.client();
    let good = agent.config().unwrap();
    move_zone(&agent, &first, &second);
    edit(&agent, "size: 8MiB", "size: 16MiB\n  sice: 3");
    edit(&agent, "level: error", "level: loud");
    reload(&mut agent, "refused", 1);

    let log = agent.log();
    let path = agent.config_path();
    for told in [
        &format!("{}:", path.display()),
        "cache.sice",
        "did you mean size?",
        "log.level",
        "loud",
        "the new configuration is refused whole; the old one stays in force",
    ] {
        assert!(log.contains(told), "{told} in {log}");
    }
    let assert_old = |agent: &Agent, number: u32| {
        let budget = agent.metric("nodens_cache_budget_bytes", &[]).unwrap();
        assert_eq!(budget, f64::from(8 << 20));
        client.query(DAY, A).unwrap();
        client.query(MOVED, A).unwrap();
        client
            .query(&format!("new-{number}.example.com"), A)
            .unwrap();
        assert_eq!((first.queries(DAY, A), first.queries(MOVED, A)), (1, 1));
        assert_eq!((first.total(), second.total()), (2 + u64::from(number), 0));
    };
    assert_old(&agent, 1);
    // A file that is gone, and one that asks for what cannot be.
    fs::remove_file(&path).unwrap();
    agent.reload().unwrap();
    let refused = [("result", "refused")];
    wait_for_metric(&agent, "nodens_config_reloads_total", &refused, 2);
    assert_old(&agent, 2);
    wait_until_ready(&agent);

    agent.write_config(&good).unwrap();
    reload(&mut agent, "ok", 1);
}

#[test]
fn what_needs_a_restart_is_named_at_each_reload_and_the_rest_takes_effect() {
    let sample = Sample::start().unwrap();
    let mut agent = Agent::builder()
        .upstream(sample.addr())
        .cache("8MiB")
        .workers(2)
        .start()
        .unwrap();
    let port = agent.addr().port();
    edit(&agent, &format!("port: {port}"), "port: 1");
    edit(&agent, "addresses: [127.0.0.1]", "addresses: [127.0.0.3]");
    edit(&agent, "workers: 2", "workers: 3");
    edit(&agent, "size: 8MiB", "size: 16MiB");
    for number in 1..=2 {
        reload(&mut agent, "ok", number);
        for key in ["listen.addresses", "listen.port", "workers"] {
            let log = agent.log();
            let named = log.lines().filter(|line| {
                line.contains("takes effect at the next start")
                    && line.contains(&format!("\"key\":\"{key}\""))
            });
            assert_eq!(
                named.count(),
                usize::try_from(number).unwrap(),
                "{key}: {log}"
            );
        }
    }
    let named = agent
        .log()
        .matches("takes effect at the next start")
        .count();
    assert_eq!(named, 6, "{}", agent.log());
    agent.client().query(DAY, A).unwrap();
    wait_until_ready(&agent);
    let budget = agent.metric("nodens_cache_budget_bytes", &[]).unwrap();
    assert_eq!(budget, f64::from(16 << 20));
}

#[test]
fn what_a_replaced_upstream_says_after_the_reload_is_passed_on_and_not_kept() {
    let gate = Gate::new();
    let old = held(&gate);
    let new = Fault::start(fault::reply(Reply::Many(3))).unwrap();
    let mut agent = patient().upstream(old.addr()).start().unwrap();
    let client = agent.client().patience(PATIENCE);
    let query = Query::new(DAY, A);
    let mut waiting = client.connect().unwrap();
    waiting.send(&query).unwrap();
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 1);
    edit(&agent, &old.addr().to_string(), &new.addr().to_string());
    reload(&mut agent, "ok", 1);
    gate.open();
    let answer = waiting.receive().unwrap().unwrap();
    assert_eq!(answer[7], 1, "one address, as the old one has it");
    assert_eq!(client.udp(&query).unwrap().addresses().len(), 3);
    assert_eq!(client.tcp(&query).unwrap().addresses().len(), 3);
    assert_eq!((old.count(DAY, A), new.count(DAY, A)), (1, 1));
}
