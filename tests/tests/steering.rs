// SPDX-License-Identifier: Apache-2.0
//! The agent that steers itself, in a network namespace of the test's own: what its threads may do,
//! how it lets connections go, what it does where descriptors run out, how it retires. They need
//! root.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use nodens_tests::agent::{self, Agent, Builder};
use nodens_tests::client::{Client, Connection};
use nodens_tests::netns;
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

const PATIENCE: Duration = Duration::from_secs(10);

/// The name that every agent knows without an upstream.
const OWN: &str = "pulse.nodens.internal";
const TXT: u16 = 16;

/// The Service address that is captured.
const SERVICE: [u8; 4] = [10, 96, 0, 10];

/// A namespace in which Service addresses are routed somewhere, as on a node; there the agent.
fn on_a_node(work: impl FnOnce(&Builder) -> anyhow::Result<()> + Send) {
    netns::within(|| {
        netns::run("ip link add up0 type bridge")?;
        netns::run("ip link set up0 up")?;
        netns::run("ip address add 10.9.9.1/24 dev up0")?;
        netns::run("ip route add default dev up0")?;
        let builder = Agent::builder()
            .upstream(SocketAddr::from(([10, 96, 0, 50], 53)))
            .set("cluster.dnsService", "[10.96.0.10]")
            .set("listen.addresses", "[127.0.0.1, 169.254.20.10]")
            .set("intercept.enabled", "true")
            .set("intercept.fallback", "10.96.0.51");
        work(&builder)
    })
    .unwrap();
}

/// A client on the node that asks the captured address.
fn pod(agent: &Agent) -> Client {
    Client::new(SocketAddr::from((SERVICE, agent.addr().port())))
}

fn own() -> Query {
    Query::new(OWN, TXT)
}

fn wait_until_ready(agent: &Agent) -> anyhow::Result<()> {
    wait_for("readiness", PATIENCE, || {
        let ready = agent.health("/readyz")?;
        Ok((ready.status == 200).then_some(()))
    })
}

/// The fields of each thread's status, by the thread's name.
fn threads(agent: &Agent) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let fields: BTreeMap<String, String> = status
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        threads.insert(fields["Name"].clone(), fields);
    }
    Ok(threads)
}

/// As [`threads`], when the main thread has set everything up: it answers a moment before.
fn threads_at_last(agent: &Agent) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
    wait_for(
        "the main thread to give up what it may do",
        PATIENCE,
        || {
            let threads = threads(agent)?;
            let is_done = threads["nodens"]["CapPrm"] == "0000000000000000";
            Ok(is_done.then_some(threads))
        },
    )
}

#[test]
fn who_looks_after_the_network_may_change_it_and_workers_may_do_nothing() {
    on_a_node(|builder| {
        let agent = builder.start()?;
        let threads = wait_for("all threads", PATIENCE, || {
            let threads = threads_at_last(&agent)?;
            Ok(threads.contains_key("take-over").then_some(threads))
        })?;
        for name in ["nodens", "cold", "pulse", "take-over", "worker-0"] {
            let fields = &threads[name];
            let kept = match name {
                "pulse" | "take-over" => "0000000000001000", // CAP_NET_ADMIN, bit 12
                _ => "0000000000000000",
            };
            for set in ["CapEff", "CapPrm"] {
                assert_eq!(fields[set], kept, "{name} {set}");
            }
            for set in ["CapInh", "CapAmb", "CapBnd"] {
                assert_eq!(fields[set], "0000000000000000", "{name} {set}");
            }
            assert_eq!(fields["NoNewPrivs"], "1", "{name}");
        }
        Ok(())
    });
}

#[test]
fn without_interception_no_thread_may_do_anything() {
    let upstream = SocketAddr::from(([127, 0, 0, 1], 9));
    let agent = Agent::builder().upstream(upstream).start().unwrap();
    for (name, fields) in threads_at_last(&agent).unwrap() {
        assert_eq!(fields["CapPrm"], "0000000000000000", "{name}");
    }
}

#[test]
fn a_connection_that_rests_at_the_end_is_answered_once_more_and_not_reset() {
    on_a_node(|builder| {
        let mut agent = builder.start()?;
        wait_until_ready(&agent)?;
        let client = pod(&agent);
        let mut connections: Vec<Connection> =
            (0..5).map(|_| client.connect()).collect::<Result<_, _>>()?;
        for connection in &mut connections {
            connection.ask(&own())?;
        }
        agent.terminate()?;
        agent.wait_for_log("draining", PATIENCE)?;
        std::thread::park_timeout(Duration::from_millis(300));
        for connection in &mut connections {
            connection.ask(&own())?;
            // Then it ends, and no reset.
            let mut stream = connection.stream();
            assert_eq!(stream.read(&mut [0; 9])?, 0);
        }
        drop(connections);
        // Nobody rests any more: it need not wait for the end of its grace.
        assert_eq!(agent.wait(Duration::from_secs(3))?.code(), Some(0));
        Ok(())
    });
}

#[test]
fn connections_that_never_ask_again_end_with_the_grace_and_not_with_a_reset() {
    on_a_node(|builder| {
        let builder = builder.clone().set("limits.drainTimeout", "1s");
        let mut agent = builder.start()?;
        wait_until_ready(&agent)?;
        let mut connection = pod(&agent).connect()?;
        connection.ask(&own())?;
        agent.terminate()?;
        let mut stream = connection.stream();
        assert_eq!(stream.read(&mut [0; 9])?, 0);
        drop(connection);
        assert_eq!(agent.wait(PATIENCE)?.code(), Some(0));
        Ok(())
    });
}

#[test]
fn where_descriptors_run_out_tcp_falls_and_udp_stays() {
    on_a_node(|builder| {
        let agent = builder.start()?;
        wait_until_ready(&agent)?;
        let pid = Pid::from_raw(agent.pid().try_into()?).unwrap();
        let few = Rlimit {
            current: Some(agent.descriptors()?.try_into()?),
            ..getrlimit(Resource::Nofile)
        };
        let before = prlimit(Some(pid), Resource::Nofile, few)?;
        let steered = |proto| agent_steered(&agent, proto);
        // Metrics cannot be asked for while there are no descriptors: the log tells.
        agent.wait_for_log("has tripped", PATIENCE)?;
        for _ in 0..20 {
            pod(&agent).udp(&own())?;
            std::thread::park_timeout(Duration::from_millis(100));
        }
        prlimit(Some(pid), Resource::Nofile, before)?;
        agent.wait_for_log("steering again", PATIENCE)?;
        wait_until_ready(&agent)?;
        assert_eq!((steered("udp")?, steered("tcp")?), ([2.0, 0.0], [2.0, 2.0]));
        pod(&agent).tcp(&own())?;
        Ok(())
    });
}

/// How many addresses are steered over this transport, and how often their switches tripped.
fn agent_steered(agent: &Agent, proto: &str) -> anyhow::Result<[f64; 2]> {
    let labels = [("proto", proto)];
    Ok([
        agent.metric("nodens_steered", &labels)?,
        agent.metric("nodens_switch_trips_total", &labels)?,
    ])
}

#[test]
fn a_retired_agent_answers_steers_nothing_and_lives() {
    on_a_node(|builder| {
        let agent = builder.start()?;
        wait_until_ready(&agent)?;
        let mut rests = pod(&agent).connect()?;
        rests.ask(&own())?;
        let mut retire = agent::command()?;
        let path = agent.config_path();
        retire.args(["retire", "--config"]).arg(&path);
        let asks = std::thread::spawn(move || retire.output());
        agent.wait_for_log("retired", PATIENCE)?;
        // What is established goes on, once.
        rests.ask(&own())?;
        assert_eq!(rests.stream().read(&mut [0; 9])?, 0);
        drop(rests);
        let output = asks.join().unwrap()?;
        assert!(output.status.success(), "{output:?}");
        let ready = agent.health("/readyz")?;
        assert_eq!(ready.status, 503);
        assert!(ready.body.contains("retired"), "{}", ready.body);
        let mut down = agent::command()?;
        let down = down
            .args(["netsetup", "down", "--config"])
            .arg(&path)
            .output()?;
        assert!(down.status.success(), "{down:?}");
        // Longer than it would take to be found dead.
        std::thread::park_timeout(Duration::from_secs(6));
        assert_eq!(agent.health("/healthz")?.status, 200);
        agent.client().udp(&own())?;
        netns::run("ip link show nodens0").unwrap_err();
        Ok(())
    });
}

#[test]
fn an_agent_that_was_stopped_is_steered_to_again_when_it_goes_on() {
    on_a_node(|builder| {
        let mut agent = builder.start()?;
        wait_until_ready(&agent)?;
        agent.signal(Signal::STOP)?;
        std::thread::park_timeout(Duration::from_secs(3));
        pod(&agent)
            .patience(Duration::from_millis(300))
            .udp(&own())
            .unwrap_err();
        agent.signal(Signal::CONT)?;
        agent.wait_for_log("steering again", PATIENCE)?;
        pod(&agent).udp(&own())?;
        assert_eq!(agent_steered(&agent, "udp")?, [2.0, 2.0]);
        Ok(())
    });
}
