// SPDX-License-Identifier: Apache-2.0
//! From node-cache to the agent and back: beside each other, one after the other, and after a
//! node-cache that was killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nodens_tests::client::Client;
use nodens_tests::drill::flow::{Flow, Plan, Tally};
use nodens_tests::drill::stage::describe;
use nodens_tests::load::now_ns;
use nodens_tests::node::incumbent::{INTERFACE, is_answered};
use nodens_tests::node::{Family, From, Incumbent, NAME, Node, NodeAgent, Server, Shape};
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use rustix::process::Signal;

use crate::{PATIENCE, node, said, wait_for_answer};

/// Queries a second, to LOCAL and S in turn.
const PER_SECOND: u64 = 2_000;
/// After nobody has listened so long, what is left goes.
pub(super) const SWEPT: Duration = Duration::from_secs(25);

fn asked() -> [SocketAddr; 2] {
    Family::V4.asked()
}

pub(super) fn flow(node: &Node, from: From, servers: &[SocketAddr]) -> Flow {
    let plan = Plan {
        servers: servers.to_vec(),
        per_second: PER_SECOND,
        names: 10,
    };
    let flow = Flow::start(node.space(from), plan).unwrap();
    pause(1.0);
    flow
}

/// Queries one after the other, each from a socket of its own, as programs have it.
struct Fresh {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Fresh {
    fn start(node: &Node, from: From, server: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (door, told) = (node.space(from).door(), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            door.enter().unwrap();
            let client = Client::new(server).patience(Duration::from_secs(2));
            let mut said = Vec::new();
            while !told.load(Relaxed) {
                let answer = client.udp(&Query::new(NAME, 1_u16));
                said.extend(answer.err().map(|error| format!("{error:#}")));
                pause(0.005);
            }
            said
        });
        Self { is_over, thread }
    }

    #[track_caller]
    fn lost_nothing(self) {
        self.is_over.store(true, Relaxed);
        assert_eq!(self.thread.join().unwrap(), [""; 0]);
    }
}

pub(super) fn pause(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

#[track_caller]
pub(super) fn lost_nothing(tally: &Tally) {
    let mut all = describe(tally, 0, u64::MAX);
    let begin = tally.all.first().map_or(0, |asked| asked.sent_ns);
    for (number, server) in tally.servers.iter().enumerate() {
        let of_it = tally.all.iter().filter(|asked| asked.server == number);
        let lost = of_it.filter(|asked| asked.answer.is_none());
        let lost: Vec<_> = lost
            .map(|asked| (asked.sent_ns - begin) / 1_000_000)
            .collect();
        if let [first, .., last] = lost[..] {
            all += &format!("; {server}: {} lost from {first} to {last} ms", lost.len());
        }
    }
    assert_eq!(tally.lost(0, u64::MAX), 0, "{all}");
    assert_eq!((tally.wrong, tally.refused), (0, 0), "{all}");
}

/// Leaves the node to others, as `helm uninstall` does.
fn uninstall(node: &Node, agent: &mut NodeAgent) {
    for words in [&["retire"][..], &["netsetup", "down"]] {
        let output = agent.command(node, words).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    agent.signal(Signal::TERM).unwrap();
    let status = agent.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.log());
}

#[test]
fn beside_each_other_no_query_is_lost_there_and_back() {
    for (shape, from, iptables) in [
        (Shape::Iptables, From::Bridge, "iptables-nft"),
        (Shape::Nftables, From::Veth, "iptables-legacy"),
        (Shape::Nftables, From::Host, "iptables-nft"),
    ] {
        let (_alone, node) = node(shape);
        let node_cache = Incumbent::start(&node, iptables).unwrap();
        for address in asked() {
            wait_for_answer(&node, from, address, Server::CoreDns);
        }
        let local = Client::new(asked()[0]);
        let mut connection = node.space(from).within(|| local.connect()).unwrap();
        connection.ask(&Query::new(NAME, 1_u16)).unwrap();
        // A socket on the node that was connected to the Service while node-cache had its address
        // there has it as its source, and nothing to get answers at when node-cache goes.
        let servers = if from == From::Host {
            &asked()[..1]
        } else {
            &asked()[..]
        };
        let flow = flow(&node, from, servers);
        let fresh = Fresh::start(&node, from, asked()[1]);
        let began = now_ns();

        let mut agent = node.agent(&[Family::V4]).start(&node).unwrap();
        for address in asked() {
            wait_for_answer(&node, from, address, Server::Agent);
        }
        // It may look after its own every minute.
        node_cache.sync(&node).unwrap();
        pause(1.0);
        // A connection stays where it began.
        let answer = connection.ask(&Query::new(NAME, 1_u16));
        assert!(answer.is_ok(), "{answer:?}");
        let check = agent.command(&node, &["netsetup", "check"]).unwrap();
        assert!(said(&check).contains("it is in use: "), "{}", said(&check));
        let alone = now_ns();
        node_cache.end(&node).unwrap();
        pause(1.5);
        let check = agent.command(&node, &["netsetup", "check"]).unwrap();
        assert_eq!(check.status.code(), Some(0), "{}", said(&check));
        // The agent is replaced meanwhile, and now has the address itself.
        agent.signal(Signal::TERM).unwrap();
        agent.wait(PATIENCE).unwrap();
        agent.start_again(&node).unwrap();
        agent.wait_until_it_answers(&node).unwrap();
        pause(0.5);
        let alone = alone..now_ns();

        let mut node_cache = Incumbent::start(&node, iptables).unwrap();
        pause(1.5);
        let status = node_cache.status().unwrap();
        assert!(status.is_none(), "{status:?}: {}", node_cache.log());
        let beside = now_ns();
        // On a machine with other work the agent may be too late for its own switch.
        let trips = agent.metric(&node, "nodens_switch_trips_total", &[]);
        let has_tripped = trips.unwrap() > 0.0;
        uninstall(&node, &mut agent);
        for address in asked() {
            wait_for_answer(&node, from, address, Server::CoreDns);
        }
        let tally = flow.stop().unwrap();
        lost_nothing(&tally);
        fresh.lost_nothing();
        assert!(tally.by(Server::Agent, began, alone.start) > 0);
        let meanwhile = tally.by(Server::Agent, alone.end, beside);
        let all = tally.asked(alone.end, beside);
        assert!(
            meanwhile == all || has_tripped,
            "node-cache got {} queries beside the agent: {}",
            all - meanwhile,
            agent.log()
        );
        node_cache.end(&node).unwrap();
        // What iptables makes for its rules stays: empty tables.
        let after = node.picture().unwrap();
        for ours in [INTERFACE, "nodens0", "table inet nodens", "NOTRACK"] {
            assert!(!after.contains(ours), "{ours} in {after}");
        }
    }
}

#[test]
fn one_after_the_other_no_query_to_the_service_is_lost() {
    let (_alone, node) = node(Shape::Iptables);
    let node_cache = Incumbent::start(&node, "iptables-nft").unwrap();
    for address in asked() {
        wait_for_answer(&node, From::Veth, address, Server::CoreDns);
    }
    let flow = flow(&node, From::Veth, &asked()[1..]);
    node_cache.end(&node).unwrap();
    pause(0.5);
    let mut agent = node.agent(&[Family::V4]).start(&node).unwrap();
    pause(1.0);
    agent.signal(Signal::TERM).unwrap();
    assert_eq!(agent.wait(PATIENCE).unwrap().code(), Some(0));
    let down = agent.command(&node, &["netsetup", "down"]).unwrap();
    assert_eq!(down.status.code(), Some(0), "{}", said(&down));
    pause(0.5);
    lost_nothing(&flow.stop().unwrap());
}

#[test]
fn what_a_killed_node_cache_left_disables_kube_proxy_and_the_fallback_until_it_is_swept() {
    let (_alone, node) = node(Shape::Nftables);
    let service = Family::V4.service();
    Incumbent::start(&node, "iptables-nft")
        .unwrap()
        .kill()
        .unwrap();
    assert!(!is_answered(&node, From::Veth, service));
    // The agent answers all the same. It says what is there, and removes nothing unasked.
    let mut agent = node.agent(&[Family::V4]).start(&node).unwrap();
    let check = agent.command(&node, &["netsetup", "check"]).unwrap();
    let told = said(&check);
    assert_eq!(check.status.code(), Some(69), "{told}");
    for words in [
        "NOTRACK on the cluster's DNS address disables kube-proxy and the fallback",
        "NOTRACK on a node-local address disables the fallback",
        "the cluster's DNS address 10.96.0.10: what the node itself asks there",
        "nodens netsetup up --sweep",
    ] {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    agent.signal(Signal::KILL).unwrap();
    agent.wait(PATIENCE).unwrap();
    assert!(!is_answered(&node, From::Veth, service));

    let up = agent
        .command(&node, &["netsetup", "up", "--sweep"])
        .unwrap();
    assert_eq!(up.status.code(), Some(0), "{}", said(&up));
    for from in From::ALL {
        for address in asked() {
            wait_for_answer(&node, from, address, Server::CoreDns);
        }
    }
    let addresses = node.host().run("ip address show").unwrap();
    assert!(!addresses.contains("10.96.0.10"), "{addresses}");
    let check = agent.command(&node, &["netsetup", "check"]).unwrap();
    assert_eq!(check.status.code(), Some(0), "{}", said(&check));
}

#[test]
fn an_agent_that_sweeps_waits_for_the_end_of_node_cache() {
    let (_alone, node) = node(Shape::Iptables);
    let node_cache = Incumbent::start(&node, "iptables-nft").unwrap();
    let builder = node.agent(&[Family::V4]).set("intercept.sweep", "true");
    let agent = builder.start(&node).unwrap();
    let flow = flow(&node, From::Veth, &asked());
    let rules = || node.host().run("iptables-nft-save").unwrap();
    let before = rules().matches("NodeLocal DNS Cache").count();
    assert_eq!(before, 24);
    pause(12.0);
    assert_eq!(rules().matches("NodeLocal DNS Cache").count(), before);
    node_cache.kill().unwrap();
    wait_for("the sweep", SWEPT, || {
        let is_swept = !rules().contains("NodeLocal DNS Cache");
        let there = node.host().run("ip address show")?;
        Ok((is_swept && !there.contains("10.96.0.10")).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", agent.log()));
    let log = agent.log();
    assert!(log.contains("removed what node-cache had left"), "{log}");
    lost_nothing(&flow.stop().unwrap());
}

#[test]
fn an_interface_that_goes_with_node_cache_is_back_within_a_second() {
    let (_alone, node) = node(Shape::Nftables);
    let node_cache = Incumbent::start(&node, "iptables-nft").unwrap();
    let builder = node
        .agent(&[Family::V4])
        .set("intercept.interface", INTERFACE);
    let agent = builder.start(&node).unwrap();
    let flow = flow(&node, From::Veth, &asked());
    let began = now_ns();
    node_cache.end(&node).unwrap();
    pause(2.0);
    for address in asked() {
        wait_for_answer(&node, From::Veth, address, Server::Agent);
    }
    let over = now_ns();
    let tally = flow.stop().unwrap();
    let gap = tally.gap(began, over);
    assert!(gap < Duration::from_secs(1), "{gap:?}: {}", agent.log());
}

#[test]
fn a_metrics_port_that_is_taken_is_served_when_it_is_free() {
    let (_alone, node) = node(Shape::Absent);
    let local = Family::V4.local();
    // It shares the port with nobody.
    node.host()
        .ip("address add 169.254.20.10/32 dev lo\n")
        .unwrap();
    let taken = node
        .host()
        .within(|| std::net::TcpListener::bind((local, 9253)).unwrap());
    let agent = node.agent(&[Family::V4]).start(&node).unwrap();
    agent.health(&node, "/readyz").unwrap();
    assert!(agent.log().contains("another program"), "{}", agent.log());
    drop(taken);
    wait_for("the metrics", PATIENCE, || {
        Ok(agent.metric(&node, "nodens_steered", &[]).ok())
    })
    .unwrap();
}
