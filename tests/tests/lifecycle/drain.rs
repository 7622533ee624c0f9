// SPDX-License-Identifier: Apache-2.0
//! SIGTERM.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nodens_tests::client::Response;
use nodens_tests::fault::{ADDRESS, Gate};
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;

use crate::{A, PATIENCE, held, patient, wait_for_metric, wait_until_ready};

const SLOW: &str = "slow.example.org";
const KNOWN: &str = "known.example.org";

#[test]
fn sigterm_answers_what_is_in_flight_refuses_what_is_new_and_ends_with_0() {
    let gate = Gate::new();
    let fault = held(&gate);
    let mut agent = patient().upstream(fault.addr()).start().unwrap();
    let client = agent.client().patience(PATIENCE);
    gate.open();
    client.query(KNOWN, A).unwrap();
    gate.close();
    wait_until_ready(&agent);
    let query = Query::new(SLOW, A);
    let over_udp = client.udp_socket().unwrap();
    over_udp.send(&query.to_bytes()).unwrap();
    let mut over_tcp = client.connect().unwrap();
    over_tcp.send(&query).unwrap();
    let mut idle = client.connect().unwrap();
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 2);

    agent.terminate().unwrap();
    let told = Instant::now();
    wait_for("the drain", PATIENCE, || {
        let ready = agent.health("/readyz")?;
        Ok((ready.status == 503 && ready.body == "draining\n").then_some(()))
    })
    .unwrap();
    // The kubelet is not to kill it for it.
    assert_eq!(agent.health("/healthz").unwrap().status, 200);
    wait_for("new connections to be refused", PATIENCE, || {
        let refused = TcpStream::connect(agent.addr()).err();
        Ok(refused.filter(|error| error.kind() == ErrorKind::ConnectionRefused))
    })
    .unwrap();
    assert!(idle.receive().unwrap().is_none(), "an idle one is closed");
    assert_eq!(agent.metric("nodens_draining", &[]).unwrap(), 1.0);
    // Over UDP nobody can be sent away: whoever asks while others wait is answered too.
    for _ in 0..20 {
        assert_eq!(client.query(KNOWN, A).unwrap().addresses(), [ADDRESS]);
    }
    // The upstream takes 500 ms from then on.
    thread::sleep(Duration::from_millis(500).saturating_sub(told.elapsed()));
    assert!(agent.is_running().unwrap());
    gate.open();

    let mut buffer = [0; 512];
    let length = over_udp.recv(&mut buffer).unwrap();
    let received = [
        buffer[..length].to_vec(),
        over_tcp.receive().unwrap().unwrap(),
    ];
    for bytes in received {
        let response = Response::judge(&query.to_bytes(), bytes, Duration::ZERO).unwrap();
        assert_eq!(response.addresses(), [ADDRESS]);
    }
    assert!(over_tcp.receive().unwrap().is_none());
    let status = agent.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("\"drained\""), "{}", agent.log());
}

#[test]
fn a_drain_ends_with_its_grace_and_tells_those_who_still_wait() {
    let gate = Gate::new();
    let fault = held(&gate);
    let mut agent = patient().upstream(fault.addr()).start().unwrap();
    // The grace as a reload has left it.
    let brief = agent.config().unwrap();
    let brief = brief.replace("drainTimeout: 60s", "drainTimeout: 300ms");
    agent.write_config(&brief).unwrap();
    agent.reload().unwrap();
    let ok = [("result", "ok")];
    wait_for_metric(&agent, "nodens_config_reloads_total", &ok, 1);

    let query = Query::new(SLOW, A).edns(1232);
    let socket = agent.client().patience(PATIENCE).udp_socket().unwrap();
    socket.send(&query.to_bytes()).unwrap();
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 1);
    agent.terminate().unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    let bytes = buffer[..length].to_vec();
    let response = Response::judge(&query.to_bytes(), bytes, Duration::ZERO).unwrap();
    assert_eq!(response.rcode(), ResponseCode::ServFail);
    // Not Ready.
    assert_eq!(response.extended_error(), Some(14));
    let status = agent.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(agent.log().contains("took too long"), "{}", agent.log());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let gate = Gate::new();
    let fault = held(&gate);
    let mut agent = patient().upstream(fault.addr()).start().unwrap();
    let socket = agent.client().udp_socket().unwrap();
    socket.send(&Query::new(SLOW, A).to_bytes()).unwrap();
    wait_for_metric(&agent, "nodens_queries_in_flight", &[], 1);
    agent.terminate().unwrap();
    agent.wait_for_log("draining", PATIENCE).unwrap();
    assert!(agent.is_running().unwrap());
    agent.terminate().unwrap();
    // Its grace is a minute.
    let status = agent.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0));
    let log = agent.log();
    assert!(log.contains("a second signal: ending at once"), "{log}");
}
