// SPDX-License-Identifier: Apache-2.0
//! Names that many ask for at once, and names that are asked for all the time.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Lab, PATIENCE, pick};
use crate::client::{Client, Response};
use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::frames;
use crate::process::wait_for;
use crate::query::Query;

/// Clients that ask at once, and how many of them a TCP connection carries.
const ASKING: usize = 500;
const PIPELINED: usize = 25;
const NAME: &str = "web.prod.svc.cluster.local";
const A: u16 = 1;

/// Identical misses at once, while CoreDNS stands still until all of them wait.
pub(super) fn share(_is_quick: bool) -> Outcome {
    let mut lab = Lab::start(30, 0)?;
    let (tap, builder) = lab.agent()?;
    // Nobody is to try again before all of them wait, on however busy a machine.
    let agent = builder
        .set("limits.queryTimeout", "30s")
        .set("limits.attemptTimeout", "10s")
        .start()?;
    let client = agent.client().patience(PATIENCE);
    lab.coredns.freeze()?;
    let query = |number: usize| -> anyhow::Result<Query> {
        let id = u16::try_from(number * 127 + 7)?;
        Ok(Query::new(NAME, A).id(id))
    };
    let mut sockets = Vec::new();
    for number in 0..ASKING / 2 {
        let bytes = query(number)?.to_bytes();
        let socket = client.udp_socket()?;
        socket.send(&bytes)?;
        sockets.push((bytes, socket));
    }
    let mut connections = Vec::new();
    for first in (ASKING / 2..ASKING).step_by(PIPELINED) {
        let mut connection = client.connect()?;
        for number in first..first + PIPELINED {
            connection.send_bytes(&frames::frame(&query(number)?.to_bytes()))?;
        }
        connections.push(connection);
    }
    let all = f64::from(u32::try_from(ASKING)?);
    wait_for("all to wait", PATIENCE, || {
        let waiting = agent.metric("nodens_queries_in_flight", &[])?;
        Ok((waiting == all).then_some(()))
    })?;
    lab.coredns.thaw()?;
    let mut answered = 0;
    let mut buffer = [0; 1500];
    for (bytes, socket) in sockets {
        let length = socket.recv(&mut buffer)?;
        let answer = Response::judge(&bytes, buffer[..length].to_vec(), Duration::ZERO)?;
        answered += u32::from(answer.addresses().len() == 1);
    }
    for connection in &mut connections {
        for _ in 0..PIPELINED {
            let bytes = connection.receive()?.unwrap_or_default();
            // NOERROR with one record.
            let is_right = bytes.get(3).is_some_and(|flags| flags & 0xf == 0)
                && bytes.get(6..8) == Some(&[0, 1]);
            answered += u32::from(is_right);
        }
    }
    let queries = f64::from(u32::try_from(tap.total())?);
    let unanswered = ASKING as u64 - u64::from(answered);
    Ok((
        vec![
            Figure::fixed(" upstream queries", queries, 1.0, 1.0),
            Figure::count(" without data", unanswered, 0, 0),
        ],
        vec![format!(
            "{} over UDP, {} over TCP; CoreDNS stood still until all waited",
            ASKING / 2,
            ASKING - ASKING / 2
        )],
    ))
}

/// One name all the time, over ten of its lifetimes.
pub(super) fn hot(is_quick: bool) -> Outcome {
    let ttl = pick(is_quick, 5, 1);
    let lifetimes = pick(is_quick, 10, 4);
    let lab = Lab::start(ttl, 0)?;
    let (tap, builder) = lab.agent()?;
    let agent = builder.start()?;
    let client: Client = agent.client();
    let pause = Duration::from_millis(10);
    let begun = Instant::now();
    let end = Duration::from_secs(u64::from(ttl)) * lifetimes;
    let (mut asked, mut slowest) = (0_u32, Duration::ZERO);
    while begun.elapsed() < end {
        let answer = client.query(NAME, A)?;
        ensure!(answer.addresses().len() == 1, "{answer:?}");
        if asked > 0 {
            slowest = slowest.max(answer.elapsed);
        }
        asked += 1;
        std::thread::sleep((pause * asked).saturating_sub(begun.elapsed()));
    }
    let misses = agent.metric("nodens_cache_misses_total", &[])?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a counter"
    )]
    let misses = misses as u64;
    ensure!(misses > 0, "the first query was no miss");
    Ok((
        vec![Figure::count(" misses after the first", misses - 1, 0, 0)],
        vec![format!(
            "{asked} queries in {lifetimes} lifetimes of {ttl} s, {} upstream; the slowest hit took \
             {:.1} ms",
            tap.total(),
            slowest.as_secs_f64() * 1e3
        )],
    ))
}
