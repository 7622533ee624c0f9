// SPDX-License-Identifier: Apache-2.0
//! Upstreams that are slow, gone, broken or lying: every client gets the right answer or a failure
//! that says why, in time, and nothing wrong stays behind.
//!
//! One agent meets all faults at once, each in a zone of its own with a server of its own, over
//! UDP and TCP. Then the servers are healed and asked for the same names again.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has its own clock and pauses"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use nodens_tests::agent::{Agent, Builder};
use nodens_tests::client::{Client, Response};
use nodens_tests::fault::{ADDRESS, Asked, Fault, Greeting, Reply, Step};
use nodens_tests::frames::frame;
use nodens_tests::process::wait_for;
use nodens_tests::query::{Query, TC, wire_name};

/// `limits.attemptTimeout` of these tests: three of them fit into [`QUERY`].
const ATTEMPT: Duration = Duration::from_millis(500);
/// `limits.queryTimeout` of these tests.
const QUERY: Duration = Duration::from_secs(3);
/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(2);
/// Tries of one query at one server.
const TRIES: usize = 3;
/// The address in what a healed server says.
const TRUTH: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// Octets of a header, in which the answer count is the eighth.
const HEADER: usize = 12;

fn agent() -> Builder {
    Agent::builder()
        .set("limits.attemptTimeout", "500ms")
        .set("limits.connectTimeout", "300ms")
        .set("limits.queryTimeout", "3s")
        .set("limits.upstreamIdle", "1s")
}

/// A good answer of another address than the lab's own.
fn truth(asked: &Asked) -> Reply {
    let outline = asked.outline.as_ref().unwrap();
    let mut message = asked.bytes[..2].to_vec();
    message.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    message.extend(&outline.question);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
    message.extend(TRUTH.octets());
    Reply::Bytes(message)
}

/// What the client gets while the server is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// The server's answer, after all.
    Answer,
    /// The server's response code.
    Rcode(ResponseCode),
    /// SERVFAIL with this Extended DNS Error: 22 nobody answered in time, 23 the network said no.
    Failure(u16),
    /// TC, over TCP too: the server has no more.
    Truncated,
}
use Gets::{Answer, Failure, Truncated};

type Script = Box<dyn Fn(&Asked) -> Vec<Step> + Send + Sync>;

/// One kind of fault.
struct Case {
    zone: &'static str,
    gets: Gets,
    /// How the tries are counted, at least one each.
    outcome: &'static str,
    greeting: Greeting,
    script: Script,
}

/// What is seen of one kind.
struct Met {
    case: Case,
    fault: Fault,
    is_healed: Arc<AtomicBool>,
}

fn case(zone: &'static str, gets: Gets, outcome: &'static str, steps: Vec<Step>) -> Case {
    Case {
        zone,
        gets,
        outcome,
        greeting: Greeting::Accept,
        script: Box::new(move |_| steps.clone()),
    }
}

fn says(zone: &'static str, gets: Gets, outcome: &'static str, reply: Reply) -> Case {
    case(zone, gets, outcome, vec![Step::Send(reply)])
}

fn greets(zone: &'static str, gets: Gets, outcome: &'static str, greeting: Greeting) -> Case {
    Case {
        greeting,
        ..says(zone, gets, outcome, Reply::Address)
    }
}

fn scripted(
    zone: &'static str,
    gets: Gets,
    outcome: &'static str,
    script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
) -> Case {
    Case {
        script: Box::new(script),
        ..case(zone, gets, outcome, vec![])
    }
}

/// A message to this query with a header, an answer count and a tail of one's own.
fn response(asked: &Asked, flags: [u8; 2], counts: [u8; 3], tail: &[u8]) -> Vec<u8> {
    let [answers, authorities, additionals] = counts;
    let mut message = asked.bytes[..2].to_vec();
    message.extend(flags);
    message.extend([0, 1, 0, answers, 0, authorities, 0, additionals]);
    message.extend(&asked.outline.as_ref().unwrap().question);
    message.extend(tail);
    message
}

/// Every fault. A lie is told again at every try; the last try ends with the attempt's time.
fn cases() -> Vec<Case> {
    use Step::{Close, Reset, Send, SendHalf, Wait};
    let half = || SendHalf(Reply::Address);
    let late = ATTEMPT + Duration::from_millis(300);
    let silent = [
        case("silence", Failure(22), "timeout", vec![]),
        case(
            "late",
            Failure(22),
            "timeout",
            vec![Wait(late), Send(Reply::Address)],
        ),
        case("half", Failure(22), "timeout", vec![half()]),
        says("longer", Failure(22), "timeout", Reply::Length(1)),
        greets("ignore", Failure(22), "timeout", Greeting::Ignore),
    ];
    let broken = [
        greets("reset-accept", Failure(23), "reset", Greeting::Reset),
        greets("close-accept", Failure(23), "closed", Greeting::Close),
        case("reset-query", Failure(23), "reset", vec![Reset]),
        case("close-query", Failure(23), "closed", vec![Close]),
        case("reset-half", Failure(23), "reset", vec![half(), Reset]),
        case("close-half", Failure(23), "closed", vec![half(), Close]),
    ];
    let lies = [
        says("id", Failure(22), "wrong_id", Reply::WrongId),
        says("unasked", Failure(22), "wrong_id", Reply::Unasked),
        says(
            "question",
            Failure(22),
            "wrong_question",
            Reply::WrongQuestion,
        ),
        says("type", Failure(22), "wrong_question", Reply::WrongType),
        says("case", Failure(22), "wrong_question", Reply::OtherCase),
        says(
            "no-question",
            Failure(22),
            "wrong_question",
            Reply::NoQuestion,
        ),
        says("query", Failure(22), "malformed", Reply::NoResponse),
        says("garbage", Failure(22), "malformed", Reply::Garbage(100)),
        says("empty", Failure(22), "malformed", Reply::Bytes(vec![])),
        says("shorter", Failure(22), "malformed", Reply::Length(-1)),
        says("loops", Failure(22), "malformed", Reply::CompressionLoops),
        says("two-opts", Failure(22), "malformed", Reply::TwoOpts),
        // Eight lies on one connection are enough.
        scripted("liar", Failure(22), "wrong_id", |_| {
            vec![Send(Reply::WrongId); 20]
        }),
        scripted("counts", Failure(22), "malformed", |asked| {
            vec![Send(Reply::Bytes(response(
                asked,
                [0x81, 0x80],
                [255, 0, 0],
                &[],
            )))]
        }),
    ];
    let refusals = [
        ("servfail", ResponseCode::ServFail, 2),
        ("refused", ResponseCode::Refused, 5),
        ("notimp", ResponseCode::NotImp, 4),
        ("formerr", ResponseCode::FormErr, 1),
    ]
    .map(|(zone, rcode, number)| says(zone, Gets::Rcode(rcode), "answered", Reply::Rcode(number)));
    // BADVERS speaks of our EDNS, not of the name; its lower four bits alone would say NOERROR.
    let badvers = scripted(
        "badvers",
        Gets::Rcode(ResponseCode::ServFail),
        "answered",
        |asked| {
            let opt = [0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0];
            vec![Send(Reply::Bytes(response(
                asked,
                [0x81, 0x80],
                [0, 0, 1],
                &opt,
            )))]
        },
    );
    let good = [
        case(
            "delay",
            Answer,
            "answered",
            vec![Wait(Duration::from_millis(50)), Send(Reply::Address)],
        ),
        case(
            "twice",
            Answer,
            "answered",
            vec![Send(Reply::Address), Send(Reply::OtherName)],
        ),
        greets("speak", Answer, "answered", Greeting::Speak),
        // The lie and the answer in one segment: what is behind the lie must not be lost.
        scripted("lie-first", Answer, "answered", |asked| {
            let mut both = frame(&response(&other_id(asked), [0x81, 0x80], [0, 0, 0], &[]));
            both.extend(frame(&good(asked)));
            vec![Send(Reply::Frame(both))]
        }),
        says("opt-middle", Answer, "answered", Reply::OptInTheMiddle),
        says("ttl", Answer, "answered", Reply::AddressWithTtl(u32::MAX)),
        says("many", Answer, "answered", Reply::Many(1500)),
        says("very-many", Answer, "answered", Reply::Many(4000)),
        says("other-name", Answer, "answered", Reply::OtherName),
        says("cut", Truncated, "truncated", Reply::Truncated),
    ];
    let mut all = Vec::new();
    all.extend(silent);
    all.extend(broken);
    all.extend(lies);
    all.extend(refusals);
    all.push(badvers);
    all.extend(good);
    all
}

fn other_id(asked: &Asked) -> Asked {
    let mut other = asked.clone();
    other.bytes[0] ^= 0xff;
    other
}

fn good(asked: &Asked) -> Vec<u8> {
    let mut record = vec![0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4];
    record.extend(ADDRESS.octets());
    response(asked, [0x81, 0x80], [1, 0, 0], &record)
}

/// Starts the server of a case. Connections are met as it says for the first two queries, in all
/// their tries.
fn meet(case: Case) -> Met {
    let is_healed = Arc::new(AtomicBool::new(false));
    let healed = Arc::clone(&is_healed);
    let mut greetings = vec![case.greeting; 2 * TRIES];
    greetings.push(Greeting::Accept);
    let Case {
        zone,
        gets,
        outcome,
        greeting,
        script,
    } = case;
    let fault = Fault::builder()
        .greetings(greetings)
        .start(move |asked| {
            if healed.load(Relaxed) {
                return vec![Step::Send(truth(asked))];
            }
            script(asked)
        })
        .unwrap();
    let case = Case {
        zone,
        gets,
        outcome,
        greeting,
        script: Box::new(|_| vec![]),
    };
    Met {
        case,
        fault,
        is_healed,
    }
}

fn ask(agent: &Agent, through_tcp: bool, name: &str) -> Response {
    let client = agent.client().patience(QUERY + SLACK + SLACK);
    let query = Query::new(name, A).edns(1232);
    let answer = if through_tcp {
        client.tcp(&query)
    } else {
        client.udp(&query)
    };
    answer.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", agent.log()))
}

fn addresses(response: &Response) -> Vec<IpAddr> {
    response.addresses()
}

fn judge(met: &Met, through_tcp: bool, response: &Response) {
    let zone = met.case.zone;
    let took = response.elapsed;
    assert!(took < QUERY + SLACK, "{zone}: {took:?}");
    match met.case.gets {
        Gets::Rcode(rcode) => assert_eq!(response.rcode(), rcode, "{zone}"),
        Failure(why) => {
            assert_eq!(response.rcode(), ResponseCode::ServFail, "{zone}");
            assert_eq!(response.extended_error(), Some(why), "{zone}");
            assert!(response.answers.is_empty(), "{zone}");
        }
        Truncated => {
            assert_eq!(response.rcode(), ResponseCode::NoError, "{zone}");
            assert!(response.has(TC), "{zone}");
        }
        Answer => {
            assert_eq!(response.rcode(), ResponseCode::NoError, "{zone}");
            judge_answer(zone, through_tcp, response);
        }
    }
    // Nobody has to wait where the server does not make them.
    if matches!(
        met.case.outcome,
        "answered" | "truncated" | "reset" | "closed"
    ) {
        assert!(took < ATTEMPT, "{zone} through TCP {through_tcp}: {took:?}");
    }
}

fn judge_answer(zone: &str, through_tcp: bool, response: &Response) {
    let all = match zone {
        "many" => 1500,
        "very-many" => 4000,
        _ => 1,
    };
    if all > 1 && !through_tcp {
        // As many whole records as fit, and TC.
        let expected = (1232 - response.bytes.len()) < 16;
        assert!(
            response.has(TC) && expected,
            "{zone}: {}",
            response.bytes.len()
        );
        return;
    }
    assert_eq!(response.answers.len(), all, "{zone}");
    match zone {
        // Sent on as the upstream said it: it is a trusted resolver.
        "other-name" => {
            assert_eq!(response.answers[0].name.to_utf8(), "elsewhere.example.net.");
        }
        // RFC 2181 section 8, RFC 8767 section 4: never a lifetime of 136 years.
        "ttl" => assert!(response.ttls()[0] <= 604_800, "{:?}", response.ttls()),
        "many" | "very-many" => {
            let distinct: BTreeSet<_> = addresses(response).into_iter().collect();
            assert_eq!(distinct.len(), all);
        }
        _ => assert_eq!(addresses(response), [IpAddr::V4(ADDRESS)], "{zone}"),
    }
}

#[test]
fn every_fault_ends_in_an_answer_in_time_and_leaves_nothing_behind() {
    let mut all: Vec<Met> = cases().into_iter().map(meet).collect();
    let mut refusing = meet(case("gone", Failure(23), "refused", vec![]));
    refusing.fault.refuse().unwrap();
    all.push(refusing);
    let rest = Fault::start(|asked: &Asked| vec![Step::Send(truth(asked))]).unwrap();
    let mut builder = agent().upstream(rest.addr());
    for met in &all {
        builder = builder.zone(&format!("{}.test", met.case.zone), &[met.fault.addr()]);
    }
    let agent = builder.start().unwrap();
    let descriptors = agent.descriptors().unwrap();

    let ask_all = |judge: &(dyn Fn(&Met, bool, &Response) + Sync)| {
        thread::scope(|scope| {
            for met in &all {
                for through_tcp in [false, true] {
                    let agent = &agent;
                    scope.spawn(move || {
                        let transport = if through_tcp { "tcp" } else { "udp" };
                        let name = format!("{transport}.{}.test", met.case.zone);
                        judge(met, through_tcp, &ask(agent, through_tcp, &name));
                    });
                }
            }
        });
    };
    ask_all(&judge);

    let metrics = agent.metrics().unwrap();
    for met in &all {
        let upstream = met.fault.addr().to_string();
        let count = |outcome: &str| {
            let labels = [("upstream", upstream.as_str()), ("outcome", outcome)];
            nodens_tests::agent::sum_samples(&metrics, "nodens_upstream_exchanges_total", &labels)
        };
        let tries = if matches!(met.case.gets, Failure(_)) {
            TRIES
        } else {
            1
        };
        let least = f64::from(u32::try_from(2 * tries).unwrap());
        let Case { zone, outcome, .. } = met.case;
        assert!(
            count(outcome) >= least,
            "{zone}: {} {outcome}",
            count(outcome)
        );
        if matches!(met.case.gets, Failure(_)) {
            assert_eq!(count("answered"), 0.0, "{zone}");
        }
    }

    for met in &all {
        met.is_healed.store(true, Relaxed);
    }
    // What has failed is remembered for a second (RFC 9520 section 3.2).
    thread::sleep(Duration::from_millis(1100));
    let mut all = all;
    all.last_mut().unwrap().fault.resume().unwrap();
    let before: Vec<usize> = all.iter().map(|met| met.fault.total()).collect();
    let all = &all;
    thread::scope(|scope| {
        for met in all {
            for through_tcp in [false, true] {
                let agent = &agent;
                scope.spawn(move || {
                    let transport = if through_tcp { "tcp" } else { "udp" };
                    let name = format!("{transport}.{}.test", met.case.zone);
                    let response = ask(agent, through_tcp, &name);
                    judge_healed(met, through_tcp, &response);
                });
            }
        }
    });
    for (met, before) in all.iter().zip(before) {
        let asked = met.fault.total() - before;
        let is_cached = is_cached(met);
        // One query each: nothing is left of the fault that another try would have to find out.
        let expected = if is_cached { 0 } else { 2 };
        // A TTL above 2^31 may count as 0 (RFC 2181 section 8) or as a week (RFC 8767 section 4).
        if met.case.zone != "ttl" {
            assert_eq!(asked, expected, "{}", met.case.zone);
        }
    }
    // What a server said of another's name was never taken for that name.
    let elsewhere = ask(&agent, false, "elsewhere.example.net");
    assert_eq!(addresses(&elsewhere), [IpAddr::V4(TRUTH)]);

    // Connections go as they came; one descriptor may be the scrape's own.
    wait_for("the connections to end", Duration::from_secs(10), || {
        let open = agent.metric("nodens_upstream_connections_open", &[])?;
        Ok((open == 0.0 && agent.descriptors()? <= descriptors + 1).then_some(()))
    })
    .unwrap();
    assert_eq!(agent.health("/readyz").unwrap().status, 200);
}

/// Whether the first answer may be given again.
fn is_cached(met: &Met) -> bool {
    // Above the largest cell, or with records of another name: sent on and not kept.
    met.case.gets == Answer && !["very-many", "other-name"].contains(&met.case.zone)
}

fn judge_healed(met: &Met, through_tcp: bool, response: &Response) {
    let zone = met.case.zone;
    assert!(response.elapsed < ATTEMPT, "{zone}: {:?}", response.elapsed);
    assert_eq!(response.rcode(), ResponseCode::NoError, "{zone}");
    if zone == "ttl" {
        assert!(response.ttls()[0] <= 604_800, "{:?}", response.ttls());
    } else if is_cached(met) {
        judge_answer(zone, through_tcp, response);
    } else {
        assert_eq!(addresses(response), [IpAddr::V4(TRUTH)], "{zone}");
    }
}

/// The server ends a connection at every other query: with the answer, just before the next query,
/// or on its arrival.
#[test]
fn a_connection_that_ended_while_it_was_idle_is_never_noticed() {
    let endings = AtomicU64::new(0);
    let fault = Fault::start(move |asked: &Asked| {
        let answer = Step::Send(truth(asked));
        match asked.in_connection {
            0 if asked.number.is_multiple_of(3) => vec![answer, Step::Close],
            0 => vec![answer],
            _ if endings.fetch_add(1, Relaxed).is_multiple_of(2) => vec![Step::Close],
            _ => vec![Step::Reset],
        }
    })
    .unwrap();
    let agent = agent().upstream(fault.addr()).start().unwrap();
    let rounds = |client: usize| {
        for round in 0..50 {
            let name = format!("{round}.{client}.example.org");
            let response = ask(&agent, round % 2 == 0, &name);
            assert_eq!(response.rcode(), ResponseCode::NoError, "{name}");
            assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)]);
            // Resets hit the connections that wait, in no order with the queries.
            if round % 5 == 0 {
                fault.reset_connections();
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| (0..4).for_each(rounds));
    });
    let ended = |outcome| {
        let labels = [("outcome", outcome)];
        agent
            .metric("nodens_upstream_exchanges_total", &labels)
            .unwrap()
    };
    // It is no fault of the server's, so it is not counted against it.
    assert_eq!(ended("answered"), 200.0);
    assert_eq!((ended("closed"), ended("reset")), (0.0, 0.0));
}

/// A CoreDNS whose node lost its power: what was open goes silent without an end, new connections
/// reach another pod behind the same address.
#[test]
fn connections_into_the_void_are_given_up_together_when_one_has_run_out_of_time() {
    let first = into_the_void("0");
    assert!(first >= ATTEMPT, "{first:?}");
}

/// The same, where a query is asked a second time: the answer does not wait for the attempt's end.
#[test]
fn a_query_into_the_void_is_answered_over_another_connection_while_it_waits() {
    let first = into_the_void("5");
    assert!(first < ATTEMPT, "{first:?}");
}

/// How long the first query took that went into the void.
fn into_the_void(hedge_percent: &str) -> Duration {
    const IDLE: usize = 30;
    let dead_below = Arc::new(AtomicU64::new(0));
    let below = Arc::clone(&dead_below);
    let fault = Fault::start(move |asked: &Asked| {
        if asked
            .connection
            .is_some_and(|number| number < below.load(Relaxed))
        {
            return vec![];
        }
        vec![
            Step::Wait(Duration::from_millis(50)),
            Step::Send(truth(asked)),
        ]
    })
    .unwrap();
    let agent = agent()
        .set("limits.upstreamIdle", "60s")
        .set("limits.hedgePercent", hedge_percent)
        .upstream(fault.addr())
        .start()
        .unwrap();
    thread::scope(|scope| {
        for number in 0..IDLE {
            let agent = &agent;
            scope.spawn(move || ask(agent, false, &format!("before-{number}.example.org")));
        }
    });
    assert!(fault.open_connections() > 4, "{}", fault.open_connections());
    // The connections have been idle for longer than an attempt takes.
    thread::sleep(ATTEMPT + Duration::from_millis(100));
    dead_below.store(fault.connections(), Relaxed);
    let first = ask(&agent, false, "first.example.org");
    assert_eq!(addresses(&first), [IpAddr::V4(TRUTH)], "after one attempt");
    for number in 0..5 {
        let next = ask(&agent, false, &format!("next-{number}.example.org"));
        assert_eq!(addresses(&next), [IpAddr::V4(TRUTH)]);
        assert!(next.elapsed < ATTEMPT, "{:?}", next.elapsed);
    }
    first.elapsed
}

/// One of three pods behind one address falls silent, with the connections that lead to it: who
/// asks meanwhile is answered over the others, and hardly any query is asked twice.
#[test]
fn a_pod_that_falls_silent_among_three_keeps_nobody_waiting() {
    const QUERIES: usize = 1200;
    let silent_below = Arc::new(AtomicU64::new(0));
    let below = Arc::clone(&silent_below);
    let fault = Fault::start(move |asked: &Asked| {
        let below = below.load(Relaxed);
        let is_silent = |number: u64| number.is_multiple_of(3) && number < below;
        if asked.connection.is_some_and(is_silent) {
            vec![]
        } else {
            vec![Step::Send(truth(asked))]
        }
    })
    .unwrap();
    let agent = agent().upstream(fault.addr()).start().unwrap();
    let mut slowest = Duration::ZERO;
    for number in 0..QUERIES {
        if number == QUERIES / 3 {
            silent_below.store(fault.connections(), Relaxed);
        }
        // Eight at a time now and then, so that there are connections to all of the pods.
        let at_a_time = if number % 100 == 0 { 8 } else { 1 };
        let took = thread::scope(|scope| {
            let asking: Vec<_> = (0..at_a_time)
                .map(|part| {
                    let (agent, name) = (&agent, format!("{number}-{part}.example.org"));
                    scope.spawn(move || ask(agent, false, &name))
                })
                .collect();
            asking
                .into_iter()
                .map(|asking| {
                    let response = asking.join().unwrap();
                    assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)]);
                    response.elapsed
                })
                .max()
                .unwrap()
        });
        slowest = slowest.max(took);
    }
    // It is 20 ms on a machine with nothing else to do.
    assert!(slowest < ATTEMPT, "{slowest:?}");
    let outpaced = [("outcome", "outpaced")];
    let exchanges = "nodens_upstream_exchanges_total";
    assert!(agent.metric(exchanges, &outpaced).unwrap() >= 1.0);
    let hedges = agent.metric("nodens_upstream_hedges_total", &[]).unwrap();
    assert!(hedges <= 8.0 + 0.05 * 2000.0, "{hedges}");
}

/// A server that needs long for everything is not asked everything twice.
#[test]
fn a_server_that_has_become_slow_is_asked_hardly_more_than_it_was() {
    const QUERIES: usize = 300;
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let fault = Fault::start(move |asked: &Asked| {
        let wait = Duration::from_millis(if slow.load(Relaxed) { 200 } else { 0 });
        vec![Step::Wait(wait), Step::Send(truth(asked))]
    })
    .unwrap();
    let agent = agent().upstream(fault.addr()).start().unwrap();
    let ask_many = |kind: &str| {
        thread::scope(|scope| {
            for part in 0..10 {
                let agent = &agent;
                scope.spawn(move || {
                    for number in 0..QUERIES / 10 {
                        let response = ask(agent, false, &format!("{kind}-{number}-{part}.test"));
                        assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)]);
                    }
                });
            }
        });
    };
    ask_many("fast");
    is_slow.store(true, Relaxed);
    ask_many("slow");
    // Those that were saved up to begin with, and five of a hundred.
    let most = 2 * QUERIES + 8 + 2 * QUERIES / 20;
    assert!(fault.total() <= most, "{} of {most}", fault.total());
}

/// One client asks for what nobody answers, more of it than there may be connections: another one
/// has its turn as soon as a connection is free, not behind all of that.
#[test]
fn a_client_with_many_slow_queries_does_not_stand_in_front_of_another() {
    const SLOW: usize = 60;
    let fault = Fault::start(|asked: &Asked| {
        let outline = asked.outline.as_ref();
        let is_slow = outline.is_some_and(|outline| outline.name.ends_with(".slow.test."));
        let wait = Duration::from_millis(if is_slow { 250 } else { 0 });
        vec![Step::Wait(wait), Step::Send(truth(asked))]
    })
    .unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("limits.upstreamConnections", "4")
        .set("limits.queryTimeout", "10s")
        .set("listen.addresses", "[0.0.0.0]")
        .start()
        .unwrap();
    let port = agent.addr().port();
    let ask_from = |source: [u8; 4], name: &str| {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::from(source), 0)).unwrap();
        socket.set_read_timeout(Some(QUERY + QUERY)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let began = Instant::now();
        socket.send(&Query::new(name, A).to_bytes()).unwrap();
        socket.recv(&mut [0; 512]).unwrap();
        began.elapsed()
    };
    thread::scope(|scope| {
        for number in 0..SLOW {
            let ask_from = &ask_from;
            scope.spawn(move || ask_from([127, 0, 0, 1], &format!("{number}.slow.test")));
        }
        wait_for("the slow ones to wait", SLACK, || {
            let waiting = agent.metric("nodens_queries_in_flight", &[])?;
            Ok((waiting >= 40.0).then_some(()))
        })
        .unwrap();
        for number in 0..3 {
            let took = ask_from([127, 0, 0, 2], &format!("{number}.quick.test"));
            // Behind all the others it would be seconds.
            assert!(took < Duration::from_millis(900), "{took:?}");
        }
    });
}

#[test]
fn a_second_server_takes_over_whatever_ails_the_first() {
    let ails: [(&str, Vec<Step>); 7] = [
        ("silence", vec![]),
        ("refused", vec![Step::Send(Reply::Rcode(5))]),
        ("servfail", vec![Step::Send(Reply::Rcode(2))]),
        ("notimp", vec![Step::Send(Reply::Rcode(4))]),
        ("reset", vec![Step::Reset]),
        ("close", vec![Step::SendHalf(Reply::Address), Step::Close]),
        ("gone", vec![]),
    ];
    let well = Fault::start(|asked: &Asked| vec![Step::Send(truth(asked))]).unwrap();
    let mut ill: Vec<Fault> = ails
        .iter()
        .map(|(_, steps)| Fault::start(nodens_tests::fault::always(steps.clone())).unwrap())
        .collect();
    ill.last_mut().unwrap().refuse().unwrap();
    let mut builder = agent().upstream(well.addr());
    for ((zone, _), ill) in ails.iter().zip(&ill) {
        builder = builder.zone(&format!("{zone}.test"), &[ill.addr(), well.addr()]);
    }
    let agent = builder.start().unwrap();
    thread::scope(|scope| {
        for (zone, _) in &ails {
            for through_tcp in [false, true] {
                let agent = &agent;
                scope.spawn(move || {
                    for round in 0..4 {
                        let name = format!("{round}-{through_tcp}.{zone}.test");
                        let response = ask(agent, through_tcp, &name);
                        assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)], "{name}");
                        assert!(response.elapsed < QUERY, "{name}: {:?}", response.elapsed);
                    }
                });
            }
        }
    });
    // The ill ones were asked as well: it is they who were stood in for.
    for ((zone, _), ill) in ails.iter().zip(&ill) {
        let upstream = ill.addr().to_string();
        let labels = [("upstream", upstream.as_str())];
        let tries = agent
            .metric("nodens_upstream_exchanges_total", &labels)
            .unwrap();
        assert!(tries >= 1.0, "{zone}");
    }
}

#[test]
fn all_servers_refusing_is_said_as_the_servers_said_it() {
    let one = Fault::start(nodens_tests::fault::reply(Reply::Rcode(5))).unwrap();
    let two = Fault::start(nodens_tests::fault::reply(Reply::Rcode(5))).unwrap();
    let agent = agent()
        .zone(".", &[one.addr(), two.addr()])
        .start()
        .unwrap();
    for through_tcp in [false, true] {
        let response = ask(&agent, through_tcp, "web.example.org");
        assert_eq!(response.rcode(), ResponseCode::Refused);
        assert!(response.elapsed < ATTEMPT);
    }
    assert!(one.total() >= 1 && two.total() >= 1);
}

#[test]
fn a_slow_server_gets_no_more_connections_than_it_may_have() {
    const MOST: usize = 8;
    let fault = Fault::start(|asked: &Asked| {
        vec![
            Step::Wait(Duration::from_millis(40)),
            Step::Send(truth(asked)),
        ]
    })
    .unwrap();
    let agent = Agent::builder()
        .upstream(fault.addr())
        .set("limits.upstreamConnections", &MOST.to_string())
        .start()
        .unwrap();
    let is_over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Relaxed) {
                most = most.max(fault.open_connections());
                thread::sleep(Duration::from_millis(1));
            }
            most
        });
        let clients: Vec<_> = (0..60)
            .map(|number| {
                let agent = &agent;
                scope.spawn(move || ask(agent, number % 2 == 0, &format!("{number}.example.org")))
            })
            .collect();
        for client in clients {
            assert_eq!(addresses(&client.join().unwrap()), [IpAddr::V4(TRUTH)]);
        }
        is_over.store(true, Relaxed);
        watch.join().unwrap()
    });
    // One that has just been closed may still be counted by the server.
    assert!((2..=MOST + 1).contains(&most), "{most}");
}

/// Names outside of the cluster that nobody answers, and as many as there may be connections: names
/// of the cluster are asked of the same server, over connections of their own.
#[test]
fn a_zone_that_nobody_answers_takes_no_connections_from_another() {
    let fault = Fault::start(|asked: &Asked| {
        let is_slow = asked
            .outline
            .as_ref()
            .is_some_and(|outline| outline.name.ends_with(".slow.test."));
        if is_slow {
            vec![]
        } else {
            vec![Step::Send(truth(asked))]
        }
    })
    .unwrap();
    let agent = agent()
        .upstream(fault.addr())
        .set("limits.upstreamConnections", "4")
        .start()
        .unwrap();
    thread::scope(|scope| {
        for number in 0..24 {
            let agent = &agent;
            scope.spawn(move || {
                let response = ask(agent, number % 2 == 0, &format!("{number}.slow.test"));
                assert_eq!(response.rcode(), ResponseCode::ServFail);
            });
        }
        wait_for("the slow ones to be asked", SLACK, || {
            Ok((fault.total() >= 4).then_some(()))
        })
        .unwrap();
        for round in 0..10 {
            let response = ask(
                &agent,
                round % 2 == 0,
                &format!("{round}.svc.cluster.local"),
            );
            assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)]);
            assert!(response.elapsed < ATTEMPT, "{:?}", response.elapsed);
        }
    });
}

/// Many clients of one name, which nobody answers: each is told so, in time.
#[test]
fn everyone_who_waits_for_one_name_is_told_that_there_is_no_answer() {
    let fault = Fault::start(nodens_tests::fault::silence()).unwrap();
    let agent = agent().upstream(fault.addr()).start().unwrap();
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..40 {
            let agent = &agent;
            scope.spawn(move || {
                let response = ask(agent, number % 4 == 0, "web.example.org");
                assert_eq!(response.rcode(), ResponseCode::ServFail);
                assert_eq!(response.extended_error(), Some(22));
            });
        }
    });
    assert!(begun.elapsed() < QUERY + SLACK);
    // One query a try, not one a client; those who came after its end had one more of their own.
    assert!(fault.total() <= 2 * TRIES, "{}", fault.total());
}

/// A true answer that comes too late for its query is never taken for the next one's.
#[test]
fn an_answer_that_comes_too_late_is_nobodys() {
    let fault = Fault::builder()
        .out_of_order()
        .start(|asked: &Asked| {
            let is_late = asked
                .outline
                .as_ref()
                .is_some_and(|o| o.name.starts_with("late"));
            let wait = if is_late {
                ATTEMPT + Duration::from_millis(200)
            } else {
                Duration::ZERO
            };
            vec![Step::Wait(wait), Step::Send(Reply::Address)]
        })
        .unwrap();
    let agent = agent().upstream(fault.addr()).start().unwrap();
    let client = Client::new(agent.addr()).patience(QUERY + SLACK);
    thread::scope(|scope| {
        let late = scope.spawn(|| ask(&agent, false, "late.example.org"));
        let begun = Instant::now();
        let mut round = 0;
        while begun.elapsed() < QUERY {
            round += 1;
            let name = format!("{round}.example.org");
            let response = client.udp(&Query::new(&name, A)).unwrap();
            // `Response::judge` has compared the questions.
            assert_eq!(addresses(&response), [IpAddr::V4(ADDRESS)], "{name}");
            thread::sleep(Duration::from_millis(5));
        }
        let late = late.join().unwrap();
        assert_eq!(late.rcode(), ResponseCode::ServFail);
        assert_eq!(late.extended_error(), Some(22));
    });
}

#[test]
fn the_lab_asks_what_it_means_to_ask() {
    // The question of a query as the cases above copy it.
    let fault = Fault::start(|asked: &Asked| vec![Step::Send(truth(asked))]).unwrap();
    let addr: SocketAddr = fault.addr();
    let response = Client::new(addr).query("web.example.org", A).unwrap();
    assert_eq!(addresses(&response), [IpAddr::V4(TRUTH)]);
    let asked = fault.asked();
    assert_eq!(asked[0].bytes[HEADER..][..17], wire_name("web.example.org"));
}
