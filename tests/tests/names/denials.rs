// SPDX-License-Identifier: Apache-2.0
//! `template IN AAAA . { rcode NXDOMAIN }`, which many a Corefile has where IPv6 leads nowhere: it
//! denies names that exist.

use nodens_tests::client::Client;

use crate::{A, AAAA, Cluster, NXDOMAIN};

/// Names with addresses, and how a pod in `prod` comes to them.
const EXISTING: &[&str] = &[
    "web.prod.svc.cluster.local",
    "api.prod.svc.cluster.local",
    "db.prod.svc.cluster.local",
    "db-0.db.prod.svc.cluster.local",
    "cache.prod.svc.cluster.local",
    "kubernetes.default.svc.cluster.local",
    "inside.prod.svc.cluster.local",
    "outside.prod.svc.cluster.local",
    "far.prod.svc.cluster.local",
    "10-244-1-5.prod.pod.cluster.local",
    "example.org",
    "www.example.org",
    "mail.example.org",
    "api.example.com",
];
const SEARCH: [&str; 3] = [
    ".prod.svc.cluster.local",
    ".svc.cluster.local",
    ".cluster.local",
];

fn assert_all_resolve(template: &str) {
    let cluster = Cluster::with(|coredns, _| coredns.plugins(template), |agent, _| agent);
    let direct = Client::new(cluster.coredns.addr());
    for turn in 0..4 {
        for name in EXISTING {
            // Either may come first, and names of a search list before both.
            let mut types = [AAAA, A];
            if turn % 2 == 1 {
                types.reverse();
            }
            for suffix in SEARCH {
                for qtype in types {
                    let full = format!("{name}{suffix}");
                    let rcode = cluster.ask(&full, qtype).outline.rcode();
                    assert_eq!(rcode, NXDOMAIN, "{full}");
                }
            }
            for qtype in types {
                let (ours, theirs) = (cluster.ask(name, qtype), direct.query(name, qtype).unwrap());
                assert_eq!(ours.rcode(), theirs.rcode(), "{name} {qtype}, turn {turn}");
                assert_eq!(ours.addresses(), theirs.addresses(), "{name}, turn {turn}");
                assert_eq!(ours.addresses().is_empty(), qtype == AAAA, "{name}");
            }
        }
    }
}

#[test]
fn every_name_resolves_where_aaaa_is_denied_without_an_soa() {
    assert_all_resolve("template IN AAAA . {\nrcode NXDOMAIN\n}");
}

#[test]
fn every_name_resolves_where_aaaa_is_denied_with_an_soa() {
    let soa = "{{ .Zone }} 60 IN SOA ns.invalid. root.invalid. 1 60 60 60 60";
    assert_all_resolve(&format!(
        "template IN AAAA . {{\nrcode NXDOMAIN\nauthority \"{soa}\"\n}}"
    ));
}
