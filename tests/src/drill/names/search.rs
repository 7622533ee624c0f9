// SPDX-License-Identifier: Apache-2.0
//! Search lists: what a pod's look-up of an external name costs CoreDNS.
//!
//! A look-up is one name and both types, as `getaddrinfo` of glibc does it; a figure is queries upstream
//! by look-up and type, of which one is the query for the name itself. Without a cache it is 4.0: three
//! suffixes, then the name.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Lab, PATIENCE, pick};
use crate::agent::Agent;
use crate::client::{Client, Response};
use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::load::Random;
use crate::query::Query;
use crate::tap::Tap;

/// The search list of a pod in `prod`.
const SUFFIXES: [&str; 3] = [
    "prod.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
];
const TOP_LEVEL: [&str; 5] = ["com", "net", "org", "io", "dev"];
/// Names of a pass.
const NAMES: usize = 200;
/// A and AAAA, in the order of glibc.
const TYPES: [u16; 2] = [1, 28];
const NXDOMAIN: u16 = 3;
/// Clients of the fastest pace: each waits for its own answers alone.
const CLIENTS: usize = 16;

/// Both types at once from one socket, as glibc asks.
fn ask(client: &Client, name: &str) -> anyhow::Result<[Response; 2]> {
    let socket = client.udp_socket()?;
    let begun = Instant::now();
    let queries = TYPES.map(|qtype| Query::new(name, qtype).to_bytes());
    for query in &queries {
        socket.send(query)?;
    }
    let mut answers = [None, None];
    let mut buffer = [0; 1500];
    while answers.iter().any(Option::is_none) {
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("an answer for {name}"))?;
        let own = queries.iter().position(|query| query[..2] == buffer[..2]);
        let own = own.with_context(|| format!("an answer for {name} has another's ID"))?;
        let bytes = buffer[..length].to_vec();
        answers[own] = Some(Response::judge(&queries[own], bytes, begun.elapsed())?);
    }
    answers
        .map(|answer| answer.context("both answers"))
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?
        .try_into()
        .map_err(|_| anyhow::anyhow!("two answers"))
}

/// What `getaddrinfo` does with an external name under `ndots:5`.
fn look_up(client: &Client, name: &str) -> anyhow::Result<()> {
    for suffix in SUFFIXES {
        let full = format!("{name}.{suffix}");
        for answer in ask(client, &full)? {
            ensure!(answer.outline.rcode() == NXDOMAIN, "{full}: {answer:?}");
        }
    }
    for answer in ask(client, name)? {
        ensure!(answer.addresses().len() == 1, "{name}: {answer:?}");
    }
    Ok(())
}

/// One of five top-level domains, by chance; in every run the same.
fn name(of: &str, number: usize) -> String {
    let mut random = Random::new(number as u64);
    let most = TOP_LEVEL.len() as u64;
    let top = TOP_LEVEL[usize::try_from(random.below(most)).unwrap_or(0)];
    format!("api.company-{of}-{number}.{top}")
}

/// Who asks, and where its queries can be counted.
struct Side {
    asked: SocketAddr,
    tap: Tap,
    /// Ends with it.
    _agent: Option<Agent>,
}

impl Side {
    fn plain(lab: &Lab) -> anyhow::Result<Self> {
        let tap = Tap::open(lab.coredns.addr())?;
        Ok(Self {
            asked: tap.addr(),
            tap,
            _agent: None,
        })
    }

    fn agent(lab: &Lab) -> anyhow::Result<Self> {
        let (tap, builder) = lab.agent()?;
        let agent = builder.start()?;
        Ok(Self {
            asked: agent.addr(),
            tap,
            _agent: Some(agent),
        })
    }

    fn client(&self) -> Client {
        Client::new(self.asked).patience(PATIENCE)
    }

    /// Runs some look-ups; queries upstream by look-up and type.
    fn measure(
        &self,
        count: usize,
        run: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<f64> {
        let before = self.tap.total();
        run()?;
        // What is asked in the background belongs to it.
        thread::sleep(Duration::from_millis(200));
        let queries = u32::try_from(self.tap.total() - before)?;
        let look_ups = u32::try_from(count * TYPES.len())?;
        Ok(f64::from(queries) / f64::from(look_ups))
    }

    /// So many look-ups one after the other, as fast as it goes.
    fn pass(&self, of: &str) -> anyhow::Result<f64> {
        let client = self.client();
        self.measure(NAMES, || {
            (0..NAMES).try_for_each(|number| look_up(&client, &name(of, number)))
        })
    }

    /// A pass that is not counted, behind a look-up of a Service: that the zone lets AAAA exist beside A
    /// is seen within seconds on any node.
    fn warm(&self) -> anyhow::Result<f64> {
        ask(&self.client(), "web.prod.svc.cluster.local")?;
        self.pass("before")
    }

    /// Look-ups at even distances, each by the first of some clients that is free for it.
    fn pace(&self, of: &str, count: usize, pause: Duration, clients: usize) -> anyhow::Result<f64> {
        self.measure(count, || {
            let begin = Instant::now();
            let run = |first: usize| {
                let client = self.client();
                for number in (first..count).step_by(clients) {
                    let due = pause * u32::try_from(number)?;
                    thread::sleep(due.saturating_sub(begin.elapsed()));
                    look_up(&client, &name(of, number))?;
                }
                anyhow::Ok(())
            };
            thread::scope(|scope| {
                let run = &run;
                let threads: Vec<_> = (0..clients).map(|n| scope.spawn(move || run(n))).collect();
                threads.into_iter().try_for_each(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })
        })
    }
}

/// Two passes of other names in the same top-level domains.
pub(super) fn passes(_is_quick: bool) -> Outcome {
    let lab = Lab::start(30, 0)?;
    let plain = Side::plain(&lab)?.pass("plain")?;
    let side = Side::agent(&lab)?;
    let cold = side.pass("cold")?;
    let warm = side.pass("warm")?;
    Ok((
        vec![
            Figure::fixed(" cold", cold, 1.5, 1.2),
            Figure::fixed(" in a second pass", warm, 1.1, 1.02),
        ],
        vec![format!(
            "{NAMES} names in {} top-level domains, A and AAAA; plain forwarding {plain:.3}",
            TOP_LEVEL.len()
        )],
    ))
}

/// At three paces, after a pass that is not counted. The short form has all times a fifth as long, the
/// lifetime of a denial as well.
pub(super) fn paces(is_quick: bool) -> Outcome {
    let lab = Lab::start(pick(is_quick, 30, 1), 0)?;
    let scale = pick(is_quick, 1, 5);
    let pauses = [10, 1].map(|seconds| Duration::from_secs(seconds) / scale);
    let counts = pick(is_quick, [20, 200], [4, 40]);
    let [slow, steady] = thread::scope(|scope| {
        let lab = &lab;
        let threads = [0, 1].map(|at| {
            let (count, pause) = (counts[at], pauses[at]);
            scope.spawn(move || {
                let side = Side::agent(lab)?;
                side.warm()?;
                side.pace("paced", count, pause, 1)
            })
        });
        threads.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let side = Side::agent(&lab)?;
    side.warm()?;
    let count = pick(is_quick, 10_000, 1_000);
    let fast = side.pace("paced", count, Duration::from_millis(1), CLIENTS)?;
    let plain = Side::plain(&lab)?.pass("plain")?;
    Ok((
        vec![
            Figure::fixed(" at one in 10 s", slow?, plain, 2.5),
            Figure::fixed(" at one in 1 s", steady?, plain, 1.2),
            Figure::fixed(" at 1,000 a second", fast, plain, 1.02),
        ],
        vec![format!(
            "{}, {} and {count} look-ups; plain forwarding {plain:.3}{}",
            counts[0],
            counts[1],
            if is_quick {
                "; all times a fifth, denials live for 1 s"
            } else {
                "; denials live for 5 s"
            }
        )],
    ))
}
