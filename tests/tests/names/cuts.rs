// SPDX-License-Identifier: Apache-2.0
//! Cuts (RFC 8020) beside a server that does not keep to the tree of names: what exists below a name
//! that is denied is found, at once or when a denial's lifetime is over.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use nodens_tests::client::Client;
use nodens_tests::kube::Endpoint;
use nodens_tests::query::Query;

use crate::{A, AAAA, Cluster, NEGATIVE, NOERROR, NXDOMAIN, SLACK, SRV};

#[test]
fn ports_are_found_though_what_lies_above_them_is_denied() {
    let cluster = Cluster::start();
    let above = "_tcp.web.prod.svc.cluster.local";
    for number in 0..5 {
        cluster.denied(&format!("_nope-{number}.{above}"));
        cluster.denied(above);
        let http = cluster.ask(&format!("_http.{above}"), SRV);
        assert!(!http.answers.is_empty(), "{http:?}");
        cluster.found(&format!("_https.{above}"));
    }
    // Asked for by this test each time it had run out, never by the agent.
    assert_eq!(cluster.tap.count(above, A), 1);
    cluster.found("web.prod.svc.cluster.local");
    let cuts = cluster.agent.metric("nodens_cache_cuts_total", &[]);
    assert_eq!(cuts.unwrap(), 0.0);
}

#[test]
fn a_headless_service_is_found_when_it_gets_endpoints() {
    let cluster = Cluster::start();
    let service = "idle.prod.svc.cluster.local";
    let pods = [Endpoint::new("10.244.5.1").named("pod-0")];
    cluster.cut(service);
    cluster.api.endpoints("idle.prod", &pods, &[]).unwrap();
    let pod = format!("pod-0.{service}");
    cluster.wait_for_coredns(&pod);
    let hidden = cluster.wait_until_found(&pod);
    assert!(hidden < NEGATIVE + SLACK, "hidden for {hidden:?}");
    let hidden = cluster.wait_until_found(service);
    assert!(hidden < NEGATIVE + SLACK, "hidden for {hidden:?}");
    // They stay, whatever else is denied beside them.
    let end = Instant::now() + NEGATIVE + Duration::from_secs(1);
    for number in 0.. {
        cluster.denied(&format!("none-{number}.{service}"));
        cluster.found(&pod);
        cluster.found(service);
        if Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_namespace_that_was_denied_is_found_when_it_is_made() {
    let cluster = Cluster::start();
    cluster.cut("late.svc.cluster.local");
    cluster.api.namespace("late").unwrap();
    cluster
        .api
        .cluster_ip("web.late", &["10.96.7.7"], &[])
        .unwrap();
    let name = "web.late.svc.cluster.local";
    cluster.wait_for_coredns(name);
    let hidden = cluster.wait_until_found(name);
    assert!(hidden < NEGATIVE + SLACK, "hidden for {hidden:?}");
    // A Service of a second ago beside names that are denied, in a namespace of a second ago.
    for number in 0..10 {
        cluster.denied(&format!("none-{number}.late.svc.cluster.local"));
        let service = format!("new-{number}.late");
        cluster
            .api
            .cluster_ip(&service, &["10.96.7.8"], &[])
            .unwrap();
        let name = format!("{service}.svc.cluster.local");
        cluster.wait_for_coredns(&name);
        cluster.found(&name);
    }
}

#[test]
fn a_service_of_a_second_ago_is_found_at_once_where_nobody_asked_for_it_before() {
    let cluster = Cluster::start();
    for number in 0..10 {
        cluster.denied(&format!("none-{number}.prod.svc.cluster.local"));
        let space = format!("new-{number}");
        cluster.api.namespace(&space).unwrap();
        for service in ["prod".to_owned(), space] {
            let service = format!("fresh-{number}.{service}");
            cluster
                .api
                .cluster_ip(&service, &["10.96.7.9"], &[])
                .unwrap();
            let name = format!("{service}.svc.cluster.local");
            cluster.wait_for_coredns(&name);
            cluster.found(&name);
        }
    }
}

/// What a test must see of a cut that hides something: for one negative lifetime, once.
fn assert_hidden_once(cluster: &Cluster, candidate: &str, name: impl Fn(usize) -> String) {
    cluster.cut(candidate);
    let first = name(0);
    cluster.wait_for_coredns(&first);
    let hidden = cluster.wait_until_found(&first);
    assert!(hidden < NEGATIVE + SLACK, "hidden for {hidden:?}");
    // From now on names below are found at once, for longer than two denials live, though others
    // beside them are denied all the time.
    let end = Instant::now() + 2 * NEGATIVE + Duration::from_secs(1);
    for number in 1.. {
        cluster.denied(&format!("other-{number}.{candidate}"));
        cluster.found(&name(number));
        if Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(cluster.tap.count(candidate, A), 1, "{candidate}");
}

#[test]
fn a_template_below_a_name_that_is_denied_is_hidden_once_for_a_denials_lifetime() {
    let pattern = "template IN A cluster.local {\nmatch ^a[0-9]+\\.com\\.cluster\\.local\\.$\nanswer \
                   \"{{ .Name }} 5 IN A 10.9.9.9\"\nfallthrough\n}";
    let cluster = Cluster::with(|coredns, _| coredns.plugins(pattern), |agent, _| agent);
    assert_hidden_once(&cluster, "com.cluster.local", |number| {
        format!("a{number}.com.cluster.local")
    });
}

#[test]
fn a_stub_domain_of_coredns_inside_the_zone_is_hidden_once_for_a_denials_lifetime() {
    let answers = "template IN A {\nanswer \"{{ .Name }} 5 IN A 10.9.9.8\"\n}";
    let cluster = Cluster::with(
        |coredns, _| coredns.block("corp.com.cluster.local", answers),
        |agent, _| agent,
    );
    assert_hidden_once(&cluster, "com.cluster.local", |number| {
        format!("host-{number}.corp.com.cluster.local")
    });
}

#[test]
fn a_zone_with_servers_of_its_own_inside_the_zone_is_never_hidden() {
    let answers = "template IN A {\nanswer \"{{ .Name }} 5 IN A 10.9.9.7\"\n}";
    let cluster = Cluster::with(
        |coredns, _| coredns.block("corp.com.cluster.local", answers),
        // Another tap would tell who was asked; here it matters that it is a route.
        |agent, outside| agent.zone("corp.com.cluster.local", &[outside.addr()]),
    );
    for number in 0..10 {
        cluster.denied(&format!("none-{number}.com.cluster.local"));
        let name = format!("host-{number}.corp.com.cluster.local");
        let response = cluster.ask(&name, A);
        // The world outside, which denies it: CoreDNS, which has it, was not asked.
        assert_eq!(response.outline.rcode(), NXDOMAIN, "{response:?}");
        assert_eq!(cluster.tap.count(&name, A), 0);
    }
    assert_eq!(cluster.tap.count("com.cluster.local", A), 0);
}

#[test]
fn the_names_of_search_lists_are_cut_and_every_service_beside_them_is_found() {
    let cluster = Cluster::start();
    for candidate in [
        "com.prod.svc.cluster.local",
        "com.svc.cluster.local",
        "com.cluster.local",
    ] {
        cluster.cut(candidate);
        for qtype in [A, AAAA, SRV] {
            let before = cluster.tap.total();
            let name = format!("typed-{qtype}.{candidate}");
            assert_eq!(cluster.ask(&name, qtype).outline.rcode(), NXDOMAIN);
            assert_eq!(cluster.tap.total(), before, "{name}");
        }
        // Who wants proof gets what CoreDNS has.
        let query = Query::new(&format!("proof.{candidate}"), A).dnssec_ok();
        cluster.agent.client().udp(&query).unwrap();
        assert_eq!(cluster.tap.count(&format!("proof.{candidate}"), A), 1);
    }
    for name in [
        "web.prod.svc.cluster.local",
        "db-0.db.prod.svc.cluster.local",
        "cache.prod.svc.cluster.local",
        "web.staging.svc.cluster.local",
        "kubernetes.default.svc.cluster.local",
        "inside.prod.svc.cluster.local",
        "10-244-1-5.prod.pod.cluster.local",
        "www.example.org",
    ] {
        cluster.found(name);
    }
    for name in ["svc.cluster.local", "prod.svc.cluster.local"] {
        assert_eq!(cluster.ask(name, A).outline.rcode(), NOERROR, "{name}");
    }
}

#[test]
fn the_pods_of_a_headless_service_take_turns_and_fit_as_they_do_from_coredns() {
    let cluster = Cluster::start();
    let mut firsts = BTreeSet::new();
    for _ in 0..40 {
        let response = cluster.ask("cache.prod.svc.cluster.local", A);
        assert_eq!(response.answers.len(), 4);
        firsts.insert(response.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 4, "{firsts:?}");
    // Over TCP CoreDNS compresses no names; over UDP it does, and so do we.
    let wide = "wide.prod.svc.cluster.local";
    let theirs = Client::new(cluster.coredns.addr()).query(wide, A).unwrap();
    let ours = cluster.ask(wide, A);
    assert_eq!(ours.answers.len(), theirs.answers.len());
    assert_eq!(ours.bytes.len(), theirs.bytes.len());
}
