// SPDX-License-Identifier: Apache-2.0
//! When `/readyz` and `/healthz` say yes.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nodens_tests::agent::{Agent, HttpResponse, command, http_get};
use nodens_tests::coredns::CoreDns;
use nodens_tests::netns;
use nodens_tests::process::{Program, TempDir, free_port, wait_for};
use nodens_tests::query::Query;

use crate::{A, DAY, PATIENCE, wait_until_ready};

/// Both pages' verdicts, as soon as there is one.
fn verdicts(health: SocketAddr) -> anyhow::Result<[HttpResponse; 2]> {
    wait_for("the health listener", PATIENCE, || {
        let pages = ["/readyz", "/healthz"].map(|path| http_get(health, path));
        let [Ok(ready), Ok(live)] = pages else {
            return Ok(None);
        };
        Ok(Some([ready, live]))
    })
}

#[test]
fn nothing_is_ready_or_live_before_the_first_answer_over_udp_and_tcp() {
    netns::within(|| {
        // The kernel drops the agent's questions to itself, over one transport and then the other.
        let (port, health) = (free_port()?, free_port()?);
        netns::run("nft add table inet lab")?;
        netns::run("nft add chain inet lab in { type filter hook input priority 0 ; }")?;
        let drop_only = |proto: &str| {
            netns::run("nft flush chain inet lab in")?;
            netns::run(&format!(
                "nft add rule inet lab in {proto} dport {port} drop"
            ))
        };
        drop_only("udp")?;

        let dir = TempDir::new()?;
        let path = dir.path().join("nodens.yaml");
        let config = Agent::builder()
            .upstream("127.0.0.1:9".parse()?)
            .config()
            .replace("$PORT", &port.to_string())
            .replace("$HEALTH", &health.to_string())
            .replace("$METRICS", &free_port()?.to_string())
            .replace("$SOCKET", &dir.path().join("socket").display().to_string());
        fs::write(&path, config)?;
        let mut run = command()?;
        run.arg("run").arg("--config").arg(path);
        let _agent = Program::start(run, dir.path().join("log"))?;
        let health = SocketAddr::from(([127, 0, 0, 1], health));

        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            for verdict in verdicts(health)? {
                assert_eq!(verdict.status, 503);
                let reason = format!("udp 127.0.0.1:{port}: no answer yet");
                assert!(verdict.body.contains(&reason), "{verdict:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        // Over UDP it answers now; over TCP it may have before, so that one is made to be old.
        drop_only("tcp")?;
        wait_for("TCP to be missed", PATIENCE, || {
            let [ready, live] = verdicts(health)?;
            let over_tcp = format!("tcp 127.0.0.1:{port}: no answer");
            let is_missed = |verdict: &HttpResponse| {
                verdict.status == 503
                    && verdict.body.contains(&over_tcp)
                    && !verdict.body.contains("udp")
            };
            Ok((is_missed(&ready) && is_missed(&live)).then_some(()))
        })?;
        netns::run("nft flush chain inet lab in")?;
        wait_for("yes", PATIENCE, || {
            let all_well = verdicts(health)?.iter().all(|v| v.status == 200);
            Ok(all_well.then_some(()))
        })
    })
    .unwrap();
}

#[test]
fn an_outage_of_coredns_leaves_the_agent_ready_and_what_it_knows_answered() {
    let mut coredns = CoreDns::builder().start().unwrap();
    let agent = Agent::builder()
        .upstream(coredns.addr())
        .set("limits.queryTimeout", "1s")
        .set("limits.attemptTimeout", "600ms")
        .start()
        .unwrap();
    let client = agent.client();
    let known = client.query(DAY, A).unwrap().addresses();
    assert_eq!(known.len(), 1);
    wait_until_ready(&agent);
    let still_answers = || {
        for response in [
            client.query(DAY, A).unwrap(),
            client.tcp(&Query::new(DAY, A)).unwrap(),
        ] {
            assert_eq!(response.addresses(), known);
        }
    };
    let ask_new = |name: &str| client.udp(&Query::new(name, A).edns(1232)).unwrap();

    // It stands still: connections are taken and nothing is said.
    coredns.freeze().unwrap();
    let frozen = Instant::now();
    let response = ask_new("one.example.org");
    assert_eq!(response.rcode(), ResponseCode::ServFail);
    // No Reachable Authority.
    assert_eq!(response.extended_error(), Some(22));
    still_answers();
    // Longer than either page forgives silence.
    thread::sleep(Duration::from_millis(5500).saturating_sub(frozen.elapsed()));
    wait_until_ready(&agent);
    still_answers();

    coredns.thaw().unwrap();
    wait_for("CoreDNS to be asked again", PATIENCE, || {
        let response = ask_new("mail.example.org");
        Ok((response.addresses().len() == 1).then_some(()))
    })
    .unwrap();

    // It is gone: connections are refused.
    drop(coredns);
    let response = ask_new("two.example.org");
    assert_eq!(response.rcode(), ResponseCode::ServFail);
    // Network Error.
    assert_eq!(response.extended_error(), Some(23));
    thread::sleep(Duration::from_millis(2500));
    wait_until_ready(&agent);
    still_answers();
    let failing = "an upstream does not answer";
    assert_eq!(agent.log().matches(failing).count(), 2, "once an outage");
}
