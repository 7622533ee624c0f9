// SPDX-License-Identifier: Apache-2.0
//! A wildcard stands for the addresses of the host, as they come and go.

use std::net::{IpAddr, SocketAddr};

use nodens_tests::agent::Agent;
use nodens_tests::client::Client;
use nodens_tests::netns;
use nodens_tests::process::wait_for;
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;

use crate::{A, DAY, PATIENCE, wait_until_ready};

/// Asks at an address over UDP and TCP. The client's socket is connected, so the answer must come
/// from where it was asked.
fn ask(agent: &Agent, address: &str) -> anyhow::Result<()> {
    let ip: IpAddr = address.parse()?;
    let client = Client::new(SocketAddr::new(ip, agent.addr().port()));
    client.query(DAY, A)?;
    client.tcp(&Query::new(DAY, A))?;
    Ok(())
}

#[test]
fn a_wildcard_answers_on_every_address_of_the_host_and_follows_them() {
    netns::within(|| {
        for address in ["10.11.0.1/32", "10.11.0.2/32", "fd00:11::1/128"] {
            netns::run(&format!("ip address add {address} dev lo"))?;
        }
        let sample = Sample::start()?;
        let agent = Agent::builder()
            .upstream(sample.addr())
            .set("listen.addresses", "['0.0.0.0', '::']")
            .start()?;
        let old = ["127.0.0.1", "10.11.0.1", "10.11.0.2", "fd00:11::1", "::1"];
        for address in old {
            ask(&agent, address)?;
        }
        wait_until_ready(&agent);

        // One goes, two come.
        netns::run("ip address del 10.11.0.2/32 dev lo")?;
        netns::run("ip address add 10.11.0.3/32 dev lo")?;
        netns::run("ip address add fd00:11::2/128 dev lo")?;
        for address in ["10.11.0.3", "fd00:11::2"] {
            wait_for(address, PATIENCE, || Ok(ask(&agent, address).ok()))?;
        }
        agent.wait_for_log("the host has lost an address", PATIENCE)?;
        for address in ["127.0.0.1", "10.11.0.1", "fd00:11::1", "::1"] {
            ask(&agent, address)?;
        }
        wait_until_ready(&agent);
        let gone = SocketAddr::from(([10, 11, 0, 2], agent.addr().port())).to_string();
        assert!(!agent.metrics()?.contains(&gone), "nobody asks there");

        // What is gone can come back.
        netns::run("ip address add 10.11.0.2/32 dev lo")?;
        wait_for("10.11.0.2", PATIENCE, || Ok(ask(&agent, "10.11.0.2").ok()))?;
        wait_until_ready(&agent);
        Ok(())
    })
    .unwrap();
}
