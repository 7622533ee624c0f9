// SPDX-License-Identifier: Apache-2.0
//! The tables and the kernel, each test in a network namespace of its own. What the kernel has is
//! read back with nft, which shares no code with us.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests fail, and wait"
)]

mod netns;

use std::net::IpAddr;
use std::time::Duration;

use netns::{run, run_words, within};
use nodens_netsetup::{Active, Error, Lane, Plan, Proto, Settings, fallback};
use serde_json::Value;

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace()
        .map(|one| one.parse().unwrap())
        .collect()
}

/// Two Services and an address of their own in each family, and a fallback in each.
fn plan() -> Plan {
    planned(
        "169.254.20.10 fd00:20::a",
        "10.96.0.10 10.96.0.9 fd10::a",
        "10.96.0.51 fd10::51",
    )
}

fn planned(listen: &str, services: &str, fallback: &str) -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips(listen),
        port: 53,
        services: ips(services),
        redirect_to: None,
        fallback: ips(fallback),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}

fn apply(plan: &Plan) -> Active {
    Active::apply(Active::open().unwrap(), plan).unwrap()
}

/// The objects of the tables as nft tells them, without what the kernel numbers.
fn nft(table: &str) -> Vec<Value> {
    objects(&run(&format!("nft -j list table inet {table}")))
}

fn objects(json: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(json).unwrap();
    let mut objects = document["nftables"].as_array().unwrap().clone();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        let (kind, inner) = object.as_object_mut().unwrap().iter_mut().next().unwrap();
        let inner = inner.as_object_mut().unwrap();
        inner.remove("handle");
        if kind == "set" {
            // nft 1.0.6 writes no `dynamic`.
            inner.remove("flags");
            inner.remove("elem");
        }
    }
    objects.sort_by_key(|object| {
        // Rules stay in their order.
        let kinds = ["table", "set", "chain", "rule"];
        let kind = kinds
            .iter()
            .position(|kind| object.get(kind).is_some())
            .unwrap();
        let inner = &object[kinds[kind]];
        let name = inner.get("name").map(Value::to_string);
        (
            kind,
            name,
            if kind == 3 {
                inner["chain"].to_string()
            } else {
                String::new()
            },
        )
    });
    objects
}

#[test]
fn the_kernel_has_the_rules_that_print_says() {
    within(|| {
        let plan = plan();
        fallback::apply(&plan).unwrap();
        let active = apply(&plan);
        assert!(active.is_owned());
        let printed = objects(&nodens_netsetup::print_json(&plan));
        let mut found = nft("nodens");
        found.extend(nft("nodens-fallback"));
        found.sort_by_key(|object| object.get("rule").is_some());
        let of = |objects: &[Value], table: &str| -> Vec<Value> {
            let is_of = |object: &&Value| {
                let inner = object.as_object().unwrap().values().next().unwrap();
                inner.get("table").unwrap_or(&inner["name"]) == table
            };
            objects.iter().filter(is_of).cloned().collect()
        };
        for table in ["nodens", "nodens-fallback"] {
            let (printed, found) = (of(&printed, table), of(&found, table));
            for (printed, found) in printed.iter().zip(&found) {
                assert_eq!(printed, found);
            }
            assert_eq!(printed.len(), found.len());
        }
        assert!(run("nft list table inet nodens").contains("flags owner"));
    });
}
