// SPDX-License-Identifier: Apache-2.0
//! What search lists with `ndots:5` cost the upstream: next to nothing.

use std::thread;

use nodens_tests::agent::Agent;
use nodens_tests::client::Client;
use nodens_tests::fault::{Fault, Reply, Step};

use crate::support::{A, AAAA};

const SUFFIXES: [&str; 3] = [
    "prod.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
];
const TOP_LEVEL: [&str; 5] = ["com", "net", "org", "io", "dev"];
const NAMES: usize = 200;
const NXDOMAIN: u8 = 3;

/// What the resolver of a pod in `prod` does to find the address of an external name.
fn look_up(client: &Client, name: &str) {
    for suffix in SUFFIXES {
        let full = format!("{name}.{suffix}");
        // Both at once, as glibc and musl do.
        thread::scope(|scope| {
            for qtype in [A, AAAA] {
                let full = &full;
                scope.spawn(move || {
                    let rcode = client.query(full, qtype).unwrap().outline.rcode();
                    assert_eq!(rcode, u16::from(NXDOMAIN), "{full}");
                });
            }
        });
    }
    for qtype in [A, AAAA] {
        assert_eq!(client.query(name, qtype).unwrap().addresses().len(), 1);
    }
}

/// Upstream queries a look-up of one type.
fn pass(client: &Client, fault: &Fault, number: usize) -> f64 {
    let before = fault.total();
    for index in 0..NAMES {
        let top = TOP_LEVEL[index % TOP_LEVEL.len()];
        look_up(client, &format!("api.company-{number}-{index}.{top}"));
    }
    let queries = u32::try_from(fault.total() - before).unwrap();
    f64::from(queries) / f64::from(u32::try_from(2 * NAMES).unwrap())
}

#[test]
fn names_of_a_search_list_cost_hardly_a_query() {
    let fault = Fault::start(|asked| {
        let name = asked.outline.as_ref().map(|outline| outline.name.as_str());
        let reply = match name {
            // A namespace exists, and has no data of its own.
            Some("prod.svc.cluster.local.") => Reply::Negative {
                rcode: 0,
                ttl: 5,
                minimum: 5,
            },
            Some(name) if name.ends_with("cluster.local.") => Reply::Negative {
                rcode: NXDOMAIN,
                ttl: 5,
                minimum: 5,
            },
            _ => Reply::Address,
        };
        vec![Step::Send(reply)]
    })
    .unwrap();
    let agent = Agent::builder().upstream(fault.addr()).start().unwrap();
    let client = Client::new(agent.addr());
    let cold = pass(&client, &fault, 1);
    assert!(cold <= 1.5, "{cold} upstream queries a look-up, cold");
    let warm = pass(&client, &fault, 2);
    assert!(warm <= 1.1, "{warm} upstream queries a look-up, warm");
}
