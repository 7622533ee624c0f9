// SPDX-License-Identifier: Apache-2.0
//! `nodens cache` and `nodens status` as an operator uses them: the real program asks the real agent
//! over its admin socket what it holds, and why, while it serves.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nodens_tests::agent::{self, Agent};
use nodens_tests::client::Client;
use nodens_tests::fault::{Fault, Reply, Step, reply};
use nodens_tests::sample::Sample;
use serde_json::Value;

const A: u16 = 1;
const AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;
const WEB: &str = "web.prod.svc.cluster.local";

/// The program with the agent's configuration.
fn command(agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = agent::command().unwrap();
    command
        .args(arguments)
        .arg("--config")
        .arg(agent.config_path());
    command
}

fn ends(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// What a command says that must end well.
#[track_caller]
fn words(agent: &Agent, arguments: &[&str]) -> String {
    let (code, out, err) = ends(&mut command(agent, arguments));
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    out
}

/// The same with `--json`.
#[track_caller]
fn json(agent: &Agent, arguments: &[&str]) -> Value {
    let text = words(agent, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// How the next query of a type would be answered.
fn next(page: &Value, qtype: &str) -> String {
    let all = page["next"].as_array().unwrap();
    let found = all.iter().find(|next| next["type"] == qtype);
    found.unwrap()["how"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_asked_is_shown_with_its_source_age_and_end_and_flushed() {
    let sample = Sample::start().unwrap();
    let agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let client = agent.client();
    client.query(WEB, A).unwrap();
    for _ in 0..5 {
        client.query(WEB, A).unwrap();
    }
    client.query("nobody.example.org", A).unwrap();

    let page = json(&agent, &["cache", "get", "WEB.prod.svc.cluster.local."]);
    assert_eq!(page["name"], "web.prod.svc.cluster.local.");
    assert_eq!(page["zone"], "cluster.local.");
    let upstream = sample.addr().to_string();
    assert_eq!(page["upstreams"][0], upstream.as_str());
    let [held] = page["held"].as_array().unwrap().as_slice() else {
        panic!("{page}");
    };
    assert_eq!(held["type"], "A");
    assert_eq!(held["kind"], "positive");
    assert_eq!(held["state"], "fresh");
    assert_eq!(held["upstream"], upstream.as_str());
    assert_eq!(held["hits"], 3);
    assert_eq!(held["records"][0]["data"], "10.96.12.34");
    assert!(held["ttl"].as_u64().unwrap() <= 5, "{page}");
    assert!(held["stale_for"].as_u64().unwrap() > 3500, "{page}");
    assert_eq!(
        (next(&page, "A"), next(&page, "AAAA")),
        ("fresh".into(), "miss".into())
    );
    let text = words(&agent, &["cache", "get", WEB, "a"]);
    assert!(text.contains("web.prod.svc.cluster.local.\t"), "{text}");
    assert!(text.contains("\tIN\tA\t10.96.12.34"), "{text}");
    assert!(text.contains(&format!("from {upstream}")), "{text}");

    let denied = json(&agent, &["cache", "get", "nobody.example.org", "TYPE33"]);
    assert_eq!(denied["held"][0]["kind"], "denial");
    assert_eq!(denied["held"][0]["records"][0]["type"], "SOA");
    assert_eq!(next(&denied, "SRV"), "denied_by_name");

    // What is not held is no error.
    let text = words(&agent, &["cache", "get", "never.asked.example"]);
    assert!(text.contains("nothing is held for this name"), "{text}");

    let stats = json(&agent, &["cache", "stats"]);
    let zone = &stats["zones"][0];
    assert_eq!(
        (&zone["zone"], &zone["hits"], &zone["misses"]),
        (&"cluster.local.".into(), &5.into(), &1.into())
    );
    assert_eq!(stats["fresh"]["positive"], 1);
    assert_eq!(stats["fresh"]["denial"], 1);
    assert_eq!(stats["fresh"]["own"], 1);
    let table = words(&agent, &["cache", "stats"]);
    assert!(table.contains("83.3 %"), "{table}");

    let gone = words(&agent, &["cache", "flush", "nobody.example.org"]);
    assert_eq!(gone, "1 entry gone\n");
    let gone = json(&agent, &["cache", "flush", "--zone", "svc.cluster.local"]);
    assert_eq!(gone["entries"], 1);
    client.query(WEB, A).unwrap();
    assert_eq!(
        sample.queries(WEB, A),
        2,
        "the flushed name was asked again"
    );
    let gone = json(&agent, &["cache", "flush", "--all"]);
    assert_eq!(gone["entries"], 1);
    // The agent's own name is kept for good.
    let text = words(&agent, &["cache", "dump"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains("pulse.nodens.internal.\t0\tIN\tTXT\t\"alive\""),
        "{text}"
    );
}

#[test]
fn a_stale_answer_a_failure_and_a_dead_upstream_are_told_with_their_reasons() {
    let mut fault = Fault::start(reply(Reply::AddressWithTtl(1))).unwrap();
    let agent = Agent::builder().upstream(fault.addr()).start().unwrap();
    let client = Client::new(agent.addr());
    client.query("warm.example.org", A).unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    let page = json(&agent, &["cache", "get", "warm.example.org"]);
    assert_eq!(page["held"][0]["state"], "stale");
    assert_eq!(page["held"][0]["records"][0]["ttl"], 30);
    assert_eq!(next(&page, "A"), "miss");
    let text = words(&agent, &["cache", "get", "warm.example.org"]);
    assert!(text.contains("stale where no upstream answers"), "{text}");
    fault.refuse().unwrap();
    fault.reset_connections();
    client.query("cold.example.org", A).unwrap();
    let page = json(&agent, &["cache", "get", "warm.example.org"]);
    assert_eq!(next(&page, "A"), "stale");
    assert_eq!(page["is_down"], true);
    client.query("warm.example.org", A).unwrap();
    let page = json(&agent, &["cache", "get", "warm.example.org"]);
    assert_eq!(page["held"][0]["state"], "put_back");

    client.query("cold.example.org", A).unwrap();
    let page = json(&agent, &["cache", "get", "cold.example.org"]);
    assert_eq!(page["held"][0]["kind"], "failure");
    assert_eq!(page["held"][0]["rcode"], "SERVFAIL");
    assert_eq!(page["held"][0]["upstream"], Value::Null);

    let status = json(&agent, &["status"]);
    let upstreams = status["upstreams"].as_array().unwrap();
    let root = upstreams.iter().find(|upstream| upstream["zone"] == ".");
    let root = root.unwrap();
    assert_eq!(root["is_down"], true, "{root}");
    assert_eq!(root["error"], "refused", "{root}");
    assert_eq!(root["exchanges"]["answered"], 1, "{root}");
    let text = words(&agent, &["status"]);
    assert!(text.contains("down"), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_cut_is_shown_and_goes_with_a_flush_of_its_name() {
    let fault = Fault::start(|asked| {
        let name = asked.outline.as_ref().map(|outline| outline.name.as_str());
        let is_below = name.is_some_and(|name| name.ends_with("com.cluster.local."));
        vec![Step::Send(if is_below {
            Reply::Negative {
                rcode: NXDOMAIN,
                ttl: 30,
                minimum: 30,
            }
        } else {
            Reply::Address
        })]
    })
    .unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("cluster.domain", "cluster.local")
        .start()
        .unwrap();
    let client = Client::new(agent.addr());
    for name in ["api.a.com.cluster.local", "api.b.com.cluster.local"] {
        client.query(name, A).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(4);
    while fault.count("com.cluster.local.", A) == 0 {
        assert!(Instant::now() < end, "the candidate is not asked for");
        std::thread::sleep(Duration::from_millis(10));
    }
    let below = || json(&agent, &["cache", "get", "api.c.com.cluster.local"]);
    let mut page = below();
    while page["candidates"] == Value::Array(Vec::new()) {
        assert!(Instant::now() < end, "{page}");
        page = below();
    }
    assert_eq!(page["candidates"][0]["name"], "com.cluster.local.");
    assert_eq!(page["candidates"][0]["is_cut"], true);
    assert_eq!(page["held"], Value::Array(Vec::new()));
    assert_eq!(next(&page, "AAAA"), "below_cut");
    let text = words(&agent, &["cache", "get", "api.c.com.cluster.local"]);
    assert!(
        text.contains("does not exist, nor does what is below it"),
        "{text}"
    );
    assert_eq!(json(&agent, &["cache", "stats"])["cuts"], 1);
    let gone = json(&agent, &["cache", "flush", "com.cluster.local"]);
    assert_eq!((&gone["entries"], &gone["cuts"]), (&1.into(), &1.into()));
    assert_eq!(next(&below(), "AAAA"), "miss");
    let asked = fault.total();
    client.query("api.c.com.cluster.local", AAAA).unwrap();
    assert!(fault.total() > asked);
}

#[test]
fn the_status_is_that_of_the_agent_that_runs() {
    let sample = Sample::start().unwrap();
    let mut agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    agent.client().query(WEB, A).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut status = json(&agent, &["status"]);
    while status["is_ready"] != true {
        assert!(Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(100));
        status = json(&agent, &["status"]);
    }
    assert_eq!(status["pid"], agent.pid());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let file = agent.config_path();
    assert_eq!(status["config"]["file"], file.to_str().unwrap());
    assert_eq!(status["config"]["reloads"], 0);
    assert_eq!(status["steering"], Value::Null);
    let address = agent.addr().to_string();
    let listen = status["listen"].as_array().unwrap();
    for proto in ["udp", "tcp"] {
        let found = listen.iter().find(|listen| listen["proto"] == proto);
        let found = found.unwrap();
        assert_eq!(found["address"], address.as_str());
        assert!(found["answered"].as_u64().unwrap() > 0, "{status}");
    }
    let cluster = &status["upstreams"][0];
    assert_eq!(cluster["zone"], "cluster.local.");
    assert_eq!(cluster["address"], sample.addr().to_string());
    assert_eq!(cluster["exchanges"]["answered"], 1);
    assert_eq!(
        (&cluster["is_down"], &cluster["idle"]),
        (&false.into(), &1.into())
    );

    let text = agent.config().unwrap().replace("version: 1", "version: 7");
    std::fs::write(&file, text).unwrap();
    agent.reload().unwrap();
    agent
        .wait_for_log("refused whole", Duration::from_secs(10))
        .unwrap();
    // The program reads the same file, and needs no more of it than where to ask.
    let (code, _, err) = ends(&mut command(&agent, &["status"]));
    assert_eq!(code, 0, "{err}");
    let mut bare = agent::command().unwrap();
    bare.args(["status", "--config", "/dev/null", "--admin-socket"])
        .arg(agent.admin_socket())
        .args(["--zones", "[{name: ., upstreams: [192.0.2.1]}]"]);
    let (code, out, err) = ends(&mut bare);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("0 reloaded since the start, 1 refused"),
        "{out}"
    );
    assert!(out.contains("ready: yes"), "{out}");
}

#[test]
fn who_cannot_ask_is_told_why_and_what_to_do() {
    let sample = Sample::start().unwrap();
    let mut agent = Agent::builder().upstream(sample.addr()).start().unwrap();
    let socket = agent.admin_socket();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = socket.display().to_string();

    agent.signal(rustix::process::Signal::STOP).unwrap();
    let began = Instant::now();
    let (code, _, err) = ends(&mut command(&agent, &["status"]));
    assert_eq!(code, 69, "{err}");
    assert!(
        err.contains(&path) && err.contains("does not answer"),
        "{err}"
    );
    assert!(began.elapsed() < Duration::from_secs(15));
    agent.signal(rustix::process::Signal::CONT).unwrap();
    words(&agent, &["status"]);

    agent.signal(rustix::process::Signal::KILL).unwrap();
    agent.wait(Duration::from_secs(10)).unwrap();
    let (code, _, err) = ends(&mut command(&agent, &["cache", "stats"]));
    assert_eq!(code, 69, "{err}");
    assert!(
        err.contains("nobody listens on") && err.contains(&path),
        "{err}"
    );
    std::fs::remove_file(&socket).unwrap();
    for arguments in [&["status"][..], &["cache", "dump"], &["cache", "get", "a"]] {
        let (code, out, err) = ends(&mut command(&agent, arguments));
        assert_eq!((code, out.as_str()), (69, ""), "{arguments:?}");
        assert!(err.contains("no agent runs here"), "{err}");
        assert!(
            err.contains(&path) && err.contains("--admin-socket"),
            "{err}"
        );
        let (code, out, err) = ends(&mut command(&agent, &[arguments, &["--json"]].concat()));
        assert_eq!((code, err.as_str()), (69, ""), "{arguments:?}");
        let said: Value = serde_json::from_str(&out).unwrap();
        assert!(said["errors"][0].as_str().unwrap().contains(&path), "{out}");
    }
}

#[test]
fn a_large_cache_is_dumped_while_misses_are_answered_and_a_slow_reader_holds_nothing() {
    const NAMES: usize = 30_000;
    let fault = Fault::start(reply(Reply::AddressWithTtl(3600))).unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .cache("64MiB")
        .start()
        .unwrap();
    let client = Client::new(agent.addr());
    std::thread::scope(|scope| {
        for part in 0..8 {
            let client = &client;
            scope.spawn(move || {
                let mut stream = client.connect().unwrap();
                for number in (part..NAMES).step_by(8) {
                    let query =
                        nodens_tests::query::Query::new(&format!("n-{number}.example.org"), A);
                    stream.ask(&query).unwrap();
                }
            });
        }
    });
    // Somebody begins to read and stops.
    let before = agent.resident_bytes().unwrap();
    let mut slow = UnixStream::connect(agent.admin_socket()).unwrap();
    slow.write_all(b"GET /cache/dump HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    slow.read_exact(&mut [0; 1000]).unwrap();
    let dumping = AtomicBool::new(true);
    let (dumped, longest) = std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            let mut number = 0;
            while dumping.load(Relaxed) {
                let began = Instant::now();
                client
                    .query(&format!("miss-{number}.example.org"), A)
                    .unwrap();
                longest = longest.max(began.elapsed());
                number += 1;
            }
            assert!(number > 10, "only {number} misses meanwhile");
            longest
        });
        let mut dump = command(
            &agent,
            &["cache", "dump", "--zone", "example.org", "--json"],
        );
        let dumped = dump.stdin(Stdio::null()).output().unwrap();
        dumping.store(false, Relaxed);
        (dumped, asks.join().unwrap())
    });
    assert!(dumped.status.success(), "{dumped:?}");
    let mut names = std::collections::BTreeSet::new();
    for line in dumped.stdout.split_inclusive(|&octet| octet == b'\n') {
        let entry: Value = serde_json::from_slice(line).unwrap();
        assert!(names.insert(entry["name"].as_str().unwrap().to_owned()));
    }
    let missing = (0..NAMES).find(|number| !names.contains(&format!("n-{number}.example.org.")));
    assert_eq!(missing, None);
    let grown = agent.resident_bytes().unwrap().saturating_sub(before);
    // Of a dump of some 12 MB; the misses of the while have their entries.
    assert!(grown < 6 << 20, "{grown} octets more");
    // Far above what it is on a machine that does nothing else.
    assert!(
        longest < Duration::from_millis(500),
        "a miss took {longest:?}"
    );
    let gone = json(&agent, &["cache", "flush", "--zone", "example.org"]);
    assert!(gone["entries"].as_u64().unwrap() >= NAMES as u64, "{gone}");
}
