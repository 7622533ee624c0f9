// SPDX-License-Identifier: Apache-2.0
//! What a Corefile comes to; and thousands of Corefiles with slips in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::directives::{DIRECTIVES, find};
use super::{NodeCache, convert, translate};
use crate::config::yaml::{Node, Value};
use crate::config::{Config, Loaded, Problem, Sources};
use crate::scratch::Scratch;

fn environment() -> BTreeMap<String, String> {
    [
        ("KUBE_DNS_SERVICE_HOST", "10.96.0.10"),
        ("KUBE_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.50"),
        ("MY_HOST_IP", "127.0.0.1"),
        ("ADDRESSES", "169.254.20.10 10.96.0.10"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn interfaces() -> Vec<(String, IpAddr)> {
    [
        ("lo", "127.0.0.1"),
        ("eth0", "192.0.2.7"),
        ("nodelocaldns", "10.96.0.10"),
        ("nodelocaldns", "10.96.0.11"),
        ("kube-ipvs0", "10.96.0.12"),
        ("kube-dummy-if", "10.96.0.13"),
    ]
    .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
    .to_vec()
}

fn node_cache(file: PathBuf) -> NodeCache {
    NodeCache {
        local_ips: vec!["169.254.20.10".to_owned(), "10.96.0.10".to_owned()],
        upstream_service: "kube-dns-upstream".to_owned(),
        metrics: Some("0.0.0.0:9353".to_owned()),
        hosts: None,
        ..NodeCache::new(file)
    }
}

/// Keys and values as text; problems as text; warnings as text.
type Outcome = (BTreeMap<&'static str, String>, Vec<String>, Vec<String>);

fn outcome(node_cache: &NodeCache) -> Outcome {
    let translated = translate(node_cache, &environment(), Some(interfaces()));
    let show = |problem: Problem| {
        let shown = problem.to_string();
        let directory = node_cache.file.parent().unwrap().display().to_string();
        shown.replace(&format!("{directory}/"), "")
    };
    let values = translated.values.iter();
    let values = values.map(|(path, node)| (*path, text(node))).collect();
    let warnings = translated.warnings().map(show).collect();
    let problems = translated.problems.iter().cloned().map(show).collect();
    (values, problems, warnings)
}

fn text(node: &Node) -> String {
    match &node.value {
        Value::Nothing => String::new(),
        Value::Text(text) => text.clone(),
        Value::List(nodes) => {
            let all: Vec<_> = nodes.iter().map(text).collect();
            format!("[{}]", all.join(", "))
        }
        Value::Map(entries) => {
            let entry = |entry: &crate::config::yaml::Entry| {
                format!("{}: {}", entry.key, text(&entry.node))
            };
            let all: Vec<_> = entries.iter().map(entry).collect();
            format!("{{{}}}", all.join(", "))
        }
    }
}

fn read(corefile: &str) -> Outcome {
    let scratch = Scratch::new();
    outcome(&node_cache(scratch.write("Corefile", corefile)))
}

fn values(corefile: &str) -> BTreeMap<&'static str, String> {
    let (values, problems, _) = read(corefile);
    assert!(problems.is_empty(), "{problems:#?}");
    values
}

/// The one problem.
fn problem(corefile: &str) -> String {
    let (_, mut problems, _) = read(corefile);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

fn good() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefiles/good");
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    all.sort();
    assert_eq!(all.len(), 24);
    all
}

#[test]
fn the_manifest_of_node_cache_captures_the_cluster_and_listens_beside_it() {
    let (_, corefile) = good()
        .into_iter()
        .find(|(name, _)| name == "kubernetes.Corefile")
        .unwrap();
    let values = values(&corefile);
    assert_eq!(values["listen.addresses"], "[169.254.20.10]");
    assert_eq!(values["cluster.dnsService"], "[10.96.0.10]");
    assert_eq!(values["intercept.enabled"], "true");
    assert_eq!(
        values["intercept.fallback"],
        "env:KUBE_DNS_UPSTREAM_SERVICE_HOST"
    );
    assert_eq!(values["cluster.domain"], "cluster.local");
    assert_eq!(values["admin.health"], "169.254.20.10:8080");
    assert_eq!(values["admin.metrics"], "[::]:9253");
    assert_eq!(values["admin.corednsNames"], "true");
    assert_eq!(values["admin.also"], "[[::]:9353]");
    // 4 blocks of 2 x 9984 entries of 512 bytes.
    assert_eq!(values["cache.size"], "39MiB");
    assert_eq!(
        values["zones"],
        "[{name: cluster.local, upstreams: [env:KUBE_DNS_UPSTREAM_SERVICE_HOST], transport: tcp, maxTtl: 30s, maxNegativeTtl: 5s}, \
         {name: in-addr.arpa, upstreams: [env:KUBE_DNS_UPSTREAM_SERVICE_HOST], transport: tcp, maxTtl: 30s, maxNegativeTtl: 30s}, \
         {name: ip6.arpa, upstreams: [env:KUBE_DNS_UPSTREAM_SERVICE_HOST], transport: tcp, maxTtl: 30s, maxNegativeTtl: 30s}, \
         {name: ., resolv.conf: /etc/resolv.conf, transport: udp, maxTtl: 30s, maxNegativeTtl: 30s}]"
    );
}

#[test]
fn the_upstream_service_answers_at_the_one_node_local_address_while_no_agent_does() {
    let fallback = |bind: &str, service: &str, sets_up: bool| {
        let scratch = Scratch::new();
        let corefile = format!(". {{\nbind {bind}\nforward . 192.0.2.53\n}}");
        let mut node_cache = node_cache(scratch.write("Corefile", &corefile));
        node_cache.upstream_service = service.to_owned();
        node_cache.sets_up = sets_up;
        let (values, problems, _) = outcome(&node_cache);
        assert!(problems.is_empty(), "{problems:#?}");
        values.get("intercept.fallback").cloned()
    };
    let upstream = Some("env:KUBE_DNS_UPSTREAM_SERVICE_HOST".to_owned());
    let both = "169.254.20.10 10.96.0.10";
    assert_eq!(fallback(both, "kube-dns-upstream", true), upstream);
    assert_eq!(
        fallback("169.254.20.10", "kube-dns-upstream", true),
        upstream
    );
    // Where kube-proxy is in ipvs mode node-cache asks the cluster's Service itself.
    let service = Some("env:KUBE_DNS_SERVICE_HOST".to_owned());
    assert_eq!(fallback("169.254.20.10", "kube-dns", true), service);
    for (bind, service, sets_up) in [
        (both, "kube-dns", true),
        (both, "kube-dns-upstream", false),
        (both, "nobody", true),
        ("169.254.20.10 169.254.20.20", "kube-dns-upstream", true),
        ("fd00::10", "kube-dns-upstream", true),
        ("192.0.2.7", "kube-dns-upstream", true),
    ] {
        assert_eq!(fallback(bind, service, sets_up), None, "{bind}, {service}");
    }
}

#[test]
fn an_address_of_the_cluster_is_never_listened_on() {
    let of = |bind: &str| {
        let values = values(&format!(". {{\nbind {bind}\nforward . 192.0.2.53\n}}"));
        let get = |path| values.get(path).cloned().unwrap_or_default();
        (get("listen.addresses"), get("cluster.dnsService"))
    };
    let both = |listen: &str, captured: &str| (listen.to_owned(), captured.to_owned());
    assert_eq!(
        of("169.254.20.10 10.96.0.10"),
        both("[169.254.20.10]", "[10.96.0.10]")
    );
    assert_eq!(of("{$ADDRESSES}"), both("[169.254.20.10]", "[10.96.0.10]"));
    // Not KUBE_DNS_SERVICE_HOST, and no address of the node's own, whatever interface holds it.
    assert_eq!(
        of("169.254.20.10 10.96.0.11 10.96.0.12 10.96.0.13").1,
        "[10.96.0.11, 10.96.0.12, 10.96.0.13]"
    );
    // A name for node-cache's interface that somebody chose.
    let scratch = Scratch::new();
    let corefile = ". {\nbind 169.254.20.10 192.0.2.7\nforward . 192.0.2.53\n}";
    let mut named = node_cache(scratch.write("Corefile", corefile));
    named.interface = Some("eth0".to_owned());
    assert_eq!(outcome(&named).0["cluster.dnsService"], "[192.0.2.7]");
    assert_eq!(of("192.0.2.7"), both("[192.0.2.7]", ""));
    assert_eq!(of("eth0 127.0.0.1"), both("[192.0.2.7, 127.0.0.1]", ""));
    assert_eq!(of("10.96.0.10"), both("[169.254.20.10]", "[10.96.0.10]"));
    assert_eq!(of("fd00::10"), both("[fd00::10]", ""));
    assert_eq!(
        of("0.0.0.0"),
        both("[0.0.0.0, ::, 169.254.20.10]", "[10.96.0.10]")
    );
}

#[test]
fn what_node_cache_left_is_swept_where_the_network_is_set_up_in_its_place() {
    let of = |sweeps, sets_up| {
        let scratch = Scratch::new();
        let corefile = ". {\nbind 169.254.20.10 10.96.0.10\nforward . 192.0.2.53\n}";
        let mut node_cache = node_cache(scratch.write("Corefile", corefile));
        (node_cache.sweeps, node_cache.sets_up) = (sweeps, sets_up);
        outcome(&node_cache).0.get("intercept.sweep").cloned()
    };
    assert_eq!(of(true, true).as_deref(), Some("true"));
    assert_eq!(of(false, true), None);
    assert_eq!(of(true, false), None);
}

#[test]
fn an_ipv6_address_that_may_be_the_clusters_is_told_before_it_is_put_on_the_node() {
    let of = |service: Option<&str>, bind: &str, sets_up: bool| {
        let scratch = Scratch::new();
        let corefile = format!(". {{\nbind {bind}\nforward . 192.0.2.53\n}}");
        let mut node_cache = node_cache(scratch.write("Corefile", &corefile));
        node_cache.local_ips.clear();
        node_cache.sets_up = sets_up;
        let mut environment = environment();
        environment.remove("KUBE_DNS_SERVICE_HOST");
        let service = service.map(|service| ("KUBE_DNS_SERVICE_HOST".to_owned(), service.into()));
        environment.extend(service);
        let translated = translate(&node_cache, &environment, Some(interfaces()));
        assert!(translated.problems.is_empty(), "{:?}", translated.problems);
        let warnings = translated.warnings().map(|one| one.to_string());
        let about = warnings.filter(|one| one.contains("is put on this node"));
        about.collect::<Vec<_>>()
    };
    let both = "169.254.20.10 fd00::10 fd96::a 2001:db8::1 ::1";
    for (service, found) in [
        (None, "is not set"),
        (Some("10.96.0.10"), "is 10.96.0.10"),
        (Some("None"), "is not set"),
    ] {
        let told = of(service, both, true);
        let [told] = &told[..] else {
            panic!("{told:?}");
        };
        for words in [
            "Corefile:2:20: bind: fd00::10, fd96::a is put on this node",
            &format!("KUBE_DNS_SERVICE_HOST {found}"),
            "set KUBE_DNS_SERVICE_HOST to it",
        ] {
            assert!(told.contains(words), "no {words:?} in {told}");
        }
    }
    assert_eq!(of(Some("fd96::a"), both, true), [""; 0]);
    assert_eq!(of(None, "169.254.20.10 10.96.0.10", true), [""; 0]);
    // There nothing is put anywhere.
    assert_eq!(of(None, both, false), [""; 0]);
}

#[test]
fn without_the_addresses_of_the_node_only_what_is_certain_is_captured() {
    let of = |bind: &str| {
        let scratch = Scratch::new();
        let corefile = format!(". {{\nbind {bind}\nforward . 192.0.2.53\n}}");
        let node_cache = node_cache(scratch.write("Corefile", &corefile));
        let translated = translate(&node_cache, &environment(), None);
        let problems = translated.problems.iter().map(ToString::to_string);
        let problems: Vec<_> = problems.collect();
        let get = |path| translated.values.get(path).map(text);
        (problems.join(" "), get("cluster.dnsService"))
    };
    let (problems, captured) = of("169.254.20.10 fd00::10 10.96.0.10");
    assert_eq!(problems, "");
    assert_eq!(captured.as_deref(), Some("[10.96.0.10]"));
    // As `bind {$MY_HOST_IP}` has it.
    let (problems, captured) = of("169.254.20.10 192.0.2.7");
    assert_eq!(captured, None);
    for words in [
        "Corefile:2:20: bind: it cannot be told whether 192.0.2.7 is the cluster's",
        "set the variable KUBE_DNS_SERVICE_HOST",
    ] {
        assert!(problems.contains(words), "{problems}");
    }
    let (problems, _) = of("eth0");
    assert!(problems.contains("cannot be listed"), "{problems}");
}

#[test]
fn names_that_a_forward_leaves_out_get_a_zone_of_their_own() {
    let values = values(
        ". {\nbind 169.254.20.10\ncache 30 {\ndisable denial example.net\n}\n\
         forward a.example 192.0.2.1\nforward . 192.0.2.2 {\nexcept b.example\n}\nforward b.example 192.0.2.3\n\
         hosts {\n10.0.0.1 x.a.example\nfallthrough\n}\n}",
    );
    let zones = &values["zones"];
    for wanted in [
        "{name: ., upstreams: [192.0.2.2], transport: udp, maxTtl: 30s, maxNegativeTtl: 30s, answers: [PTR 1.0.0.10.in-addr.arpa 3600 x.a.example, PTR . ASK, ",
        "{name: a.example, upstreams: [192.0.2.1], transport: udp, maxTtl: 30s, maxNegativeTtl: 30s, answers: [PTR a.example ASK, PTR *.a.example ASK, A x.a.example ",
        "{name: b.example, upstreams: [192.0.2.3], transport: udp, maxTtl: 30s, maxNegativeTtl: 30s}",
        "{name: example.net, upstreams: [192.0.2.2], transport: udp, maxTtl: 30s, maxNegativeTtl: 0s}",
    ] {
        assert!(zones.contains(wanted), "{wanted}\n{zones}");
    }
}

#[test]
fn names_that_nobody_forwards_get_what_coredns_says() {
    let values = values(
        "a.example {\nbind 169.254.20.10\nwhoami\n}\nb.example {\nbind 169.254.20.10\nerrors\n}\n",
    );
    let zones = &values["zones"];
    assert!(
        zones.contains("answers: [ANY a.example NOERROR, ANY *.a.example NOERROR]"),
        "{zones}"
    );
    assert!(
        zones.contains("answers: [ANY b.example SERVFAIL, ANY *.b.example SERVFAIL]"),
        "{zones}"
    );
    assert!(
        zones.contains("answers: [ANY . REFUSED, ANY * REFUSED]"),
        "{zones}"
    );
}

#[test]
fn the_config_map_of_kube_dns_adds_stub_domains_and_servers() {
    let scratch = Scratch::new();
    let corefile = ".:53 {\nbind 169.254.20.10\nforward . __PILLAR__UPSTREAM__SERVERS__\n}";
    let mut node_cache = node_cache(scratch.write("Corefile", corefile));
    node_cache.kube_dns = Some(scratch.path());
    scratch.write(
        "stubDomains",
        "{\n\t\"corp.example\": [\"10.1.0.1\", \"10.1.0.2:5353\"]\n}",
    );
    scratch.write("upstreamNameservers", "[\"9.9.9.9\"]");
    let (values, problems, _) = outcome(&node_cache);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        values["zones"],
        "[{name: ., upstreams: [9.9.9.9], transport: udp, maxTtl: 0s, maxNegativeTtl: 0s}, \
         {name: corp.example, upstreams: [10.1.0.1, 10.1.0.2:5353], transport: udp, maxTtl: 30s, maxNegativeTtl: 30s}]"
    );
    scratch.write("stubDomains", "{\n  \"corp.example\": [\"dns.example\"]}");
    let environment = environment();
    let problems = Config::load(&Sources {
        corefile: Some(node_cache.clone()),
        environment,
        ..Sources::default()
    });
    let problems = problems.unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(
        problems[0]
            .to_string()
            .contains("stubDomains:2:20: stubDomains: found \"dns.example\"")
    );
    scratch.write("stubDomain", "{}");
    let warnings = outcome(&node_cache).2;
    let wanted = "stubDomain:1:1: stubDomain: the key \"stubDomain\" has no effect; did you mean stubDomains?";
    assert!(
        warnings.iter().any(|warning| warning == wanted),
        "{warnings:?}"
    );
    scratch.write("stubDomains", "{\n  \"corp.example\": [\n}");
    assert!(outcome(&node_cache).1[0].starts_with("stubDomains:3:1: found what is not JSON"));
}

#[test]
fn imports_are_files_globs_and_snippets_and_end() {
    let scratch = Scratch::new();
    scratch.write("a.conf", "cache 30\nlgo\n");
    scratch.write("loop.conf", "import loop2.conf\n");
    scratch.write("loop2.conf", "import loop.conf\n");
    let read = |corefile: &str| outcome(&node_cache(scratch.write("Corefile", corefile))).1;
    let block =
        |inner: &str| format!(".:53 {{\nbind 169.254.20.10\nforward . 192.0.2.1\n{inner}\n}}");
    let told = read(&block("import a.conf"));
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("a.conf:2:1: found the unknown directive \"lgo\""),
        "{told:?}"
    );
    assert!(told[0].ends_with("did you mean log?"), "{told:?}");
    assert_eq!(read(&block("import a*.conf")).len(), 1);
    assert!(read(&block("import *.server")).is_empty());
    let told = read(&block("import loop.conf"));
    assert!(
        told[0].starts_with("loop2.conf:1:8: import: found an import of "),
        "{told:?}"
    );
    assert!(told[0].contains("within itself"), "{told:?}");
    let told = read(&format!(
        "(self) {{\nimport self\n}}\n{}",
        block("import self")
    ));
    assert!(
        told[0].starts_with("Corefile:2:8: import: found an import of (self) within itself"),
        "{told:?}"
    );
    assert!(read(&format!("(ok) {{\nerrors\n}}\n{}", block("import ok"))).is_empty());
    let told = read(&format!(
        "(common) {{\nerrors\n}}\n{}",
        block("import comon")
    ));
    assert!(
        told[0].ends_with("did you mean the snippet common?"),
        "{told:?}"
    );
    assert!(read(&block("import a b"))[0].contains("expected one"));
    // Each file takes the one before it twice: 2^16 times the first without a bound.
    scratch.write("0.conf", "errors\n");
    for number in 1..=12 {
        let before = format!("import {}.conf\n", number - 1);
        scratch.write(&format!("{number}.conf"), before.repeat(2));
    }
    let told = read(&block("import 12.conf"));
    assert!(told[0].contains("at most 100 files"), "{told:?}");
}

/// A Corefile that would keep the agent busy for hours: unless it is refused the test does not end.
#[track_caller]
fn refused_soon(node_cache: &NodeCache, wanted: &str) {
    let (_, problems, _) = outcome(node_cache);
    let found = problems.iter().any(|problem| problem.contains(wanted));
    assert!(found, "{wanted}: {problems:#?}");
}

#[test]
fn imports_that_fan_out_are_bounded_though_nothing_comes_of_them() {
    let scratch = Scratch::new();
    let mut corefile = "(s0) {\n}\n".to_owned();
    for number in 1..=13 {
        let before = format!("import s{}\n", number - 1).repeat(10);
        corefile += &format!("(s{number}) {{\n{before}}}\n");
    }
    corefile += ".:53 {\nbind 169.254.20.10\nforward . 192.0.2.1\nimport s13\n}\n";
    let imports = node_cache(scratch.write("Corefile", &corefile));
    refused_soon(&imports, "found one import more, expected at most 1000");
    // A snippet in a snippet: words that are looked at, and never put.
    let words = "errors ".repeat(60_000);
    let corefile = format!("(big) {{\n(x) {{\n{words}\n}}\n}}\nimport big\nimport big\n");
    let words = node_cache(scratch.write("Corefile", &corefile));
    refused_soon(&words, "found one word more, expected at most 100000");
    scratch.write("a.inc", "errors\n");
    let globs = "import *.none\n".repeat(200);
    let corefile = format!(".:53 {{\nbind 169.254.20.10\nforward . 192.0.2.1\n{globs}}}\n");
    let globs = node_cache(scratch.write("Corefile", &corefile));
    refused_soon(&globs, "at most 100 files");
}

#[test]
fn names_that_a_forward_leaves_out_are_bounded() {
    let scratch = Scratch::new();
    let of = |names: usize| {
        let names: String = (0..names)
            .map(|number| format!(" n{number}.example"))
            .collect();
        let corefile =
            format!(".:53 {{\nbind 169.254.20.10\nforward . 192.0.2.1 {{\nexcept{names}\n}}\n}}\n");
        node_cache(scratch.write("Corefile", &corefile))
    };
    let wanted =
        "Corefile:3:1: forward: found 60001 names behind forward and except, expected at most 1000";
    refused_soon(&of(60_000), wanted);
    let corefile = Some(of(900));
    let environment = environment();
    let sources = Sources {
        corefile,
        environment,
        ..Sources::default()
    };
    let problems = Config::load(&sources).unwrap_err();
    assert!(problems[0].message.contains("101 zones"), "{problems:#?}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let scratch = Scratch::new();
    let pipe = scratch.at("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    refused_soon(
        &node_cache(pipe.clone()),
        "found a pipe, a socket or a device",
    );
    let corefile = ".:53 {\nbind 169.254.20.10\nforward . 192.0.2.1\nimport pipe\n}\n";
    let node_cache = node_cache(scratch.write("Corefile", corefile));
    refused_soon(&node_cache, "Corefile:4:8: import: ");
    let file = Sources {
        file: Some(pipe),
        ..Sources::default()
    };
    let problems = Config::load(&file).unwrap_err();
    assert!(
        problems[0].message.contains("found a pipe"),
        "{problems:#?}"
    );
}

#[test]
fn what_a_corefile_was_read_from_is_known_before_it_is_judged() {
    let scratch = Scratch::new();
    for (corefile, is_good) in [
        (
            ".:53 {\nbind 169.254.20.10\nforward . 192.0.2.1\nimport a.inc\n}\n",
            true,
        ),
        (".:53 {\nimport a.inc\nfoward . 192.0.2.1\n}\n", false),
    ] {
        let file = scratch.write("Corefile", corefile);
        let included = scratch.write("a.inc", "errors\n");
        let sources = Sources {
            corefile: Some(node_cache(file)),
            environment: environment(),
            ..Sources::default()
        };
        let gathered = Config::gather(&sources);
        let before = gathered.footprint().cloned().unwrap();
        assert!(before.paths().any(|path| path == included));
        let loaded = gathered.load(&sources);
        assert_eq!(loaded.is_ok(), is_good, "{loaded:?}");
        if let Ok(loaded) = loaded {
            assert_eq!(loaded.footprint.as_ref(), Some(&before));
        }
        scratch.write("a.inc", "loop\n");
        assert_ne!(Config::gather(&sources).footprint(), Some(&before));
    }
}

#[test]
fn what_differs_between_blocks_is_refused_by_name() {
    let two = |first: &str, second: &str| {
        problem(&format!(
            "a.example {{\nforward . 192.0.2.1\n{first}\n}}\n. {{\nforward . 192.0.2.1\n{second}\n}}"
        ))
    };
    let bind = two("bind 169.254.20.10", "bind 169.254.20.11");
    assert!(
        bind.starts_with("Corefile:7:6: bind: found a block that binds 169.254.20.11, expected"),
        "{bind}"
    );
    assert!(
        two("bind 169.254.20.10", "errors")
            .starts_with("Corefile:5:1: bind: found a block without bind")
    );
    let port = problem("a.example:53 {\nforward . 192.0.2.1\n}\n.:54 {\nforward . 192.0.2.1\n}");
    assert!(
        port.starts_with("Corefile:4:1: found the port 54, expected the port 53"),
        "{port}"
    );
}

#[test]
fn health_and_metrics_answer_wherever_a_block_says() {
    let values = values(
        "a.example {\nbind 169.254.20.10\nforward . 192.0.2.1\nhealth :8080\nprometheus :9253\nready\n}\n\
         . {\nbind 169.254.20.10\nforward . 192.0.2.1\nhealth :8081\nprometheus :9253\nready :8080\n}",
    );
    assert_eq!(values["admin.health"], "[::]:8080");
    assert_eq!(values["admin.metrics"], "[::]:9253");
    assert_eq!(values["admin.also"], "[[::]:8081, [::]:8181, [::]:9353]");
}

#[test]
fn families_may_be_mixed_and_a_port_alone_is_one_of_both() {
    let values = values(
        ".:53 {\nbind 169.254.20.10 fd00::10 10.96.0.10\nforward . 192.0.2.1\nprometheus :9253\nhealth\n}",
    );
    assert_eq!(values["listen.addresses"], "[169.254.20.10, fd00::10]");
    assert_eq!(values["cluster.dnsService"], "[10.96.0.10]");
    assert_eq!(values["admin.metrics"], "[::]:9253");
    assert_eq!(values["admin.health"], "[::]:8080");
}

#[test]
fn what_cache_and_forward_say_beside_their_ttl_counts() {
    let corefile = |cache: &str, forward: &str| {
        format!(
            ".:53 {{\nbind 169.254.20.10 10.96.0.10\ncache 30 {{\n{cache}\n}}\nforward . 192.0.2.1 192.0.2.2 {{\n{forward}\n}}\n}}"
        )
    };
    let of = |cache: &str, forward: &str| {
        let (values, problems, warnings) = read(&corefile(cache, forward));
        assert!(problems.is_empty(), "{problems:?}");
        (values, warnings)
    };
    let (values, warnings) = of(
        "success 9984 30 5\ndenial 9984 10 7\nservfail 30s",
        "policy sequential",
    );
    assert_eq!(
        values["zones"],
        "[{name: ., upstreams: [192.0.2.1, 192.0.2.2], transport: udp, order: written, maxTtl: 30s, maxNegativeTtl: 10s, \
         minTtl: 5s, minNegativeTtl: 7s, maxFailureTtl: 30s}]"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("19968 entries together") && warnings[0].contains("10MiB"),
        "{warnings:?}"
    );
    let (values, warnings) = of("servfail 0", "policy random");
    assert!(
        values["zones"].contains("maxFailureTtl: 1s"),
        "{}",
        values["zones"]
    );
    assert!(
        warnings[0].starts_with("Corefile:4:10: cache: a failure is remembered for 1 s at least"),
        "{warnings:?}"
    );
    for (mode, after) in [
        ("serve_stale 1h immediate", Some("0s")),
        ("serve_stale 1h verify", None),
        ("serve_stale 1h verify 500ms", Some("500ms")),
        ("serve_stale", None),
    ] {
        let (values, warnings) = of(mode, "");
        assert_eq!(values["cache.staleFor"], "1h", "{mode}");
        let found = values["zones"].split_once(", staleAfter: ");
        let found = found.and_then(|(_, behind)| behind.split([',', '}']).next());
        assert_eq!(found, after, "{mode}");
        assert!(!values.contains_key("cache.staleAfter"), "{mode}");
        assert!(warnings.is_empty(), "{mode}: {warnings:?}");
    }
    let (values, warnings) = of("serve_stale 1h verify 10s", "");
    assert!(values["zones"].contains("staleAfter: 4s"));
    assert!(warnings[0].contains("10s becomes 4s"), "{warnings:?}");
}

#[test]
fn a_bound_of_one_forward_is_none_of_the_others() {
    let of = |first: &str, second: &str| {
        let (values, problems, warnings) = read(&format!(
            "a.example {{\nbind 169.254.20.10\nforward . 192.0.2.1 {{\n{first}\n}}\n}}\n\
             . {{\nbind 169.254.20.10\nforward . 192.0.2.1 {{\n{second}\n}}\n}}"
        ));
        assert!(problems.is_empty(), "{problems:?}");
        (values.get("limits.inFlight").cloned(), warnings.join("\n"))
    };
    let (most, _) = of("max_concurrent 10", "max_concurrent 20");
    assert_eq!(most.as_deref(), Some("30"));
    for second in ["", "max_concurrent 0"] {
        let (most, warnings) = of("max_concurrent 10", second);
        assert_eq!(most.as_deref(), Some("10000"));
        let wanted = "Corefile:4:16: forward: 10000 misses may be under way at one time, for all zones together, as \
                      those without max_concurrent have no bound";
        assert!(warnings.contains(wanted), "{warnings}");
    }
    let (most, _) = of("max_concurrent 20000", "");
    assert_eq!(most.as_deref(), Some("20000"));
}

#[test]
fn the_upstream_service_is_a_variable_where_servers_stand_and_an_address_elsewhere() {
    let values = values(
        ".:53 {\nbind 169.254.20.10 __PILLAR__CLUSTER__DNS__\nforward . __PILLAR__CLUSTER__DNS__\n\
         hosts {\n__PILLAR__CLUSTER__DNS__ dns.example\nfallthrough\n}\n\
         template IN A a.example {\nanswer \"{{ .Name }} 60 IN A __PILLAR__CLUSTER__DNS__\"\n}\n}",
    );
    assert_eq!(values["cluster.dnsService"], "[10.96.0.50]");
    for wanted in [
        "upstreams: [env:KUBE_DNS_UPSTREAM_SERVICE_HOST]",
        "A dns.example 3600 10.96.0.50",
        "A a.example 60 10.96.0.50",
    ] {
        assert!(
            values["zones"].contains(wanted),
            "{wanted}\n{}",
            values["zones"]
        );
    }
}

#[test]
fn rewrite_and_dns64_become_keys_of_the_zone() {
    let (values, problems, warnings) = read(
        ".:53 {\nbind 169.254.20.10 10.96.0.10\nforward . 192.0.2.1\nrewrite name a.example b.example\n\
         rewrite stop {\nname suffix .old.example .new.example\nanswer auto\n}\n\
         dns64 {\nprefix 2001:db8::/96\ntranslate_all\n}\n}",
    );
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        values["zones"],
        "[{name: ., upstreams: [192.0.2.1], transport: udp, maxTtl: 0s, maxNegativeTtl: 0s, \
         rewrites: [exact a.example b.example, suffix .old.example .new.example], dns64: 2001:db8::/96 all}]"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("Corefile:9:1: dns64: clients over IPv4"),
        "{warnings:?}"
    );
}

#[test]
fn names_of_hosts_come_from_the_file_too_which_need_not_be_there() {
    let scratch = Scratch::new();
    let corefile = ".:53 {\nbind 169.254.20.10 10.96.0.10\nforward . 192.0.2.1\nhosts {\n10.0.0.1 a.example\nfallthrough\n}\n}";
    let mut node_cache = node_cache(scratch.write("Corefile", corefile));
    node_cache.hosts = Some(scratch.at("hosts"));
    let (values, problems, warnings) = outcome(&node_cache);
    assert!(problems.is_empty(), "{problems:?}");
    assert!(values["zones"].contains("A a.example 3600 10.0.0.1"));
    assert!(
        warnings[0].starts_with("Corefile:4:1: hosts: ") && warnings[0].contains("is not there"),
        "{warnings:?}"
    );
    scratch.write("hosts", "10.0.0.2 b.example # a comment\nnot an address\n");
    let before = translate(&node_cache, &environment(), Some(interfaces())).footprint;
    let (values, _, warnings) = outcome(&node_cache);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(
        values["zones"].contains("A b.example 3600 10.0.0.2"),
        "{}",
        values["zones"]
    );
    scratch.write("hosts", "10.0.0.3 b.example\n");
    let after = translate(&node_cache, &environment(), Some(interfaces())).footprint;
    assert_ne!(before, after);
    assert!(after.paths().any(|path| path.ends_with("hosts")));
}

#[test]
fn what_is_more_than_may_be_is_cut_and_told_and_the_corefile_taken() {
    let scratch = Scratch::new();
    let load = |corefile: &str| {
        let sources = Sources {
            corefile: Some(node_cache(scratch.write("Corefile", corefile))),
            environment: environment(),
            ..Sources::default()
        };
        let loaded = Config::load(&sources).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let warnings = loaded.warnings.iter().map(ToString::to_string);
        let warnings: Vec<String> = warnings.collect();
        (loaded.config.zones, warnings.join("\n"))
    };
    let block =
        |inner: &str| format!(".:53 {{\nbind 169.254.20.10\nforward . 192.0.2.1\n{inner}\n}}");
    let (zones, warnings) = load(&block("cache 86400"));
    let root = zones.last().unwrap();
    assert_eq!((root.max_ttl, root.max_negative_ttl), (86_400, 10_800));
    assert!(
        warnings.contains(
            "Corefile:4:7: cache: negative answers are kept for 3h at most, and not 86400 s"
        ),
        "{warnings}"
    );
    let (zones, warnings) = load(&block("cache {\nsuccess 9984 99999999\ndenial 9984 30\n}"));
    let root = zones.last().unwrap();
    assert_eq!((root.max_ttl, root.max_negative_ttl), (604_800, 30));
    assert!(
        warnings.contains("positive answers are kept for 168h at most"),
        "{warnings}"
    );
    // A list of names that lead nowhere, as some have it.
    let names: String = (0..20_000)
        .map(|number| format!("0.0.0.0 n{number}.example\n"))
        .collect();
    scratch.write("blocked", &names);
    let hosts = format!(
        "hosts {}/blocked {{\nfallthrough\n}}",
        scratch.path().display()
    );
    let (zones, warnings) = load(&block(&hosts));
    // A and ANY for each, the one reverse name, and that others go on.
    assert_eq!(zones.last().unwrap().answers.len(), 40_003);
    assert!(
        warnings.contains("the first 64 names of 0.0.0.0 are answered"),
        "{warnings}"
    );
    let addresses: String = (1..=65)
        .map(|number| format!("10.0.0.{number} a.example\n"))
        .collect();
    let (_, warnings) = load(&block(&format!("hosts {{\n{addresses}fallthrough\n}}")));
    assert!(
        warnings.contains("the first 64 addresses of a.example are answered"),
        "{warnings}"
    );
    // Each with an address of its own: three rules a name.
    let names: String = (0..22_000)
        .map(|number| format!("10.1.{}.{} n{number}.example\n", number / 250, number % 250))
        .collect();
    scratch.write("many", &names);
    let hosts = format!(
        "hosts {}/many {{\nfallthrough\n}}",
        scratch.path().display()
    );
    let many = node_cache(scratch.write("Corefile", block(&hosts)));
    let sources = Sources {
        corefile: Some(many),
        environment: environment(),
        ..Sources::default()
    };
    let problems = Config::load(&sources).unwrap_err();
    let told = problems[0].to_string();
    assert!(
        told.contains("expected at most 65536 in all zones"),
        "{told}"
    );
}

#[test]
fn everything_that_a_corefile_is_made_of_belongs_to_its_footprint() {
    let scratch = Scratch::new();
    let corefile =
        ".:53 {\nbind 169.254.20.10\nforward . 192.0.2.1\nimport a.conf\nimport *.inc\n}\n";
    let mut node_cache = node_cache(scratch.write("Corefile", corefile));
    let kube_dns = scratch.at("kube-dns");
    std::fs::create_dir(&kube_dns).unwrap();
    node_cache.kube_dns = Some(kube_dns);
    let now = || translate(&node_cache, &environment(), Some(interfaces())).footprint;
    let mut before = now();
    // What is missing belongs to it, too.
    let paths: Vec<_> = before.paths().map(Path::to_owned).collect();
    for name in ["Corefile", "a.conf", "kube-dns/stubDomains", "kube-dns"] {
        assert!(paths.contains(&scratch.at(name)), "{name}: {paths:?}");
    }
    for (name, text) in [
        ("a.conf", "errors\n"),
        ("new.inc", "loop\n"),
        ("kube-dns/stubDomains", "{\"a.example\": [\"10.0.0.1\"]}"),
        ("kube-dns/upstreamNameservers", "[\"10.0.0.1\"]"),
        ("Corefile", corefile.trim()),
    ] {
        scratch.write(name, text);
        let after = now();
        assert_ne!(before, after, "{name}");
        assert_eq!(after, now(), "{name}");
        before = after;
    }
}

#[test]
fn what_is_converted_reads_back_as_the_same() {
    let scratch = Scratch::new();
    let resolv = scratch.write("resolv.conf", "nameserver 192.0.2.53\n");
    for (name, corefile) in good() {
        let corefile = corefile.replace("/etc/resolv.conf", resolv.to_str().unwrap());
        let mut node_cache = node_cache(scratch.write("Corefile", &corefile));
        node_cache.upstream_nameservers = vec!["192.0.2.54".to_owned()];
        let environment = environment();
        let load = |file, corefile| {
            Config::load(&Sources {
                file,
                corefile,
                environment: environment.clone(),
                ..Sources::default()
            })
        };
        let direct: Loaded =
            load(None, Some(node_cache.clone())).unwrap_or_else(|all| panic!("{name}: {all:#?}"));
        let yaml =
            convert(&node_cache, &environment).unwrap_or_else(|all| panic!("{name}: {all:#?}"));
        let file = scratch.write("nodens.yaml", &yaml);
        let again = load(Some(file), None).unwrap_or_else(|all| panic!("{name}: {all:#?}\n{yaml}"));
        assert!(
            direct.config.needs_restart(&again.config).is_empty(),
            "{name}\n{yaml}"
        );
        assert_eq!(direct.config.cache, again.config.cache, "{name}\n{yaml}");
        assert_eq!(direct.config.limits, again.config.limits, "{name}\n{yaml}");
        let zones = direct.config.zones.iter().zip(&again.config.zones);
        assert_eq!(direct.config.zones.len(), again.config.zones.len());
        for (one, other) in zones {
            assert!(one.is_like(other), "{name}: {one:?} {other:?}");
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same slips at every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(sides.max(1)).unwrap()).unwrap()
    }
}

/// One slip: of a letter, a word or a line.
fn slip(text: &str, dice: &mut Dice) -> String {
    const WORDS: [&str; 14] = [
        "{",
        "}",
        "\"",
        "#",
        "\\",
        "{$HOME}",
        "{%X%}",
        "import",
        "__PILLAR__",
        "0",
        "-1",
        "99999999999",
        "é",
        "..",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        lines.push(String::new());
    }
    let line = dice.roll(lines.len());
    let other = dice.roll(lines.len());
    let word = WORDS[dice.roll(WORDS.len())];
    match dice.roll(8) {
        0 => {
            lines.remove(line);
        }
        1 => lines.insert(line, lines[other].clone()),
        2 => lines.swap(line, other),
        3 => lines.insert(line, word.to_owned()),
        4 => lines[line].push_str(&format!(" {word}")),
        kind => {
            let mut letters: Vec<char> = lines[line].chars().collect();
            let at = dice.roll(letters.len());
            match kind {
                5 if !letters.is_empty() => {
                    letters.remove(at);
                }
                6 if !letters.is_empty() => {
                    let with = dice.roll(letters.len());
                    letters.swap(at, with);
                }
                _ => letters.insert(at, word.chars().next().unwrap()),
            }
            lines[line] = letters.into_iter().collect();
        }
    }
    lines.join("\n")
}

/// Words where a directive stands, read by another way than the parser's: the first of each line that
/// has exactly one brace open before it.
fn directives_of(text: &str) -> BTreeSet<String> {
    let mut depth = 0_i32;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for (index, word) in line.split_whitespace().enumerate() {
            match word {
                "{" => depth += 1,
                "}" => depth -= 1,
                word if index == 0 && depth == 1 => {
                    found.insert(word.to_owned());
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn two_thousand_corefiles_with_slips_neither_panic_nor_pass_with_an_unknown_directive() {
    let good = good();
    let scratch = Scratch::new();
    let mut dice = Dice(1);
    let mut refused = 0;
    for round in 0..2000 {
        let (name, text) = &good[round % good.len()];
        let mut text = text.clone();
        for _ in 0..=dice.roll(3) {
            text = slip(&text, &mut dice);
        }
        let node_cache = node_cache(scratch.write("Corefile", &text));
        let (_, problems, _) = outcome(&node_cache);
        refused += usize::from(!problems.is_empty());
        for problem in &problems {
            assert!(!problem.contains('\n'), "{name}: {problem}");
        }
        if problems.is_empty() && !text.contains('"') {
            let unknown: Vec<_> = directives_of(&text)
                .into_iter()
                .filter(|word| find(word).is_none() && word != "import")
                .collect();
            assert!(
                unknown.is_empty(),
                "{name}, round {round}: {unknown:?} pass\n{text}"
            );
        }
    }
    assert!(
        (400..1900).contains(&refused),
        "{refused} of 2000 refused: is this right?"
    );
}

#[test]
fn every_directive_that_is_misspelt_is_told_by_its_place() {
    let mut dice = Dice(2);
    let mut told = 0;
    for (name, text) in good() {
        for (index, line) in text.lines().enumerate() {
            let word = line.split_whitespace().next().unwrap_or_default();
            let column = line.len() - line.trim_start().len() + 1;
            // Within the braces of a block, and of nothing else.
            let before: String = text
                .lines()
                .take(index)
                .map(|line| format!("{line}\n"))
                .collect();
            let opens = before
                .split_whitespace()
                .filter(|word| *word == "{")
                .count();
            let closes = before
                .split_whitespace()
                .filter(|word| *word == "}")
                .count();
            if find(word).is_none() || opens != closes + 1 {
                continue;
            }
            let at = dice.roll(word.len());
            let misspelt = format!("{}q{}", &word[..at], &word[at..]);
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines[index] = line.replacen(word, &misspelt, 1);
            let (_, problems, _) = read(&lines.join("\n"));
            let wanted = format!(
                "Corefile:{}:{column}: found the unknown directive {misspelt:?}",
                index + 1
            );
            let found = problems.iter().find(|problem| problem.starts_with(&wanted));
            let found = found.unwrap_or_else(|| panic!("{name}: no {wanted} in {problems:#?}"));
            let near = format!("did you mean {word}?");
            assert!(
                found.ends_with(&near) || found.contains("did you mean"),
                "{found}"
            );
            told += 1;
        }
    }
    assert!(told > 300, "{told}");
}

#[test]
fn two_thousand_config_maps_with_slips_do_not_panic() {
    const STUBS: &str = "{\n  \"corp.example\": [\"10.1.0.1\", \"10.1.0.2:5353\"],\n  \"acme.example\": [\"[fd00::1]:53\"]\n}";
    let scratch = Scratch::new();
    let corefile = ".:53 {\nbind 169.254.20.10\nforward . __PILLAR__UPSTREAM__SERVERS__\n}";
    let mut node_cache = node_cache(scratch.write("Corefile", corefile));
    node_cache.kube_dns = Some(scratch.path());
    let mut dice = Dice(3);
    let mut refused = 0;
    for _ in 0..2000 {
        let mut stubs = STUBS.to_owned();
        let mut servers = "[\"9.9.9.9\", \"1.1.1.1:53\"]".to_owned();
        for _ in 0..=dice.roll(2) {
            stubs = slip(&stubs, &mut dice);
            if dice.roll(2) == 0 {
                servers = slip(&servers, &mut dice);
            }
        }
        scratch.write("stubDomains", &stubs);
        scratch.write("upstreamNameservers", &servers);
        let (values, problems, _) = outcome(&node_cache);
        refused += usize::from(!problems.is_empty());
        if problems.is_empty() && stubs.contains("corp.example") {
            assert!(values["zones"].contains("name: "), "{stubs}");
        }
    }
    assert!(
        (500..2000).contains(&refused),
        "{refused} of 2000 refused: is this right?"
    );
}

#[test]
fn every_option_that_is_refused_is_refused_by_name() {
    for entry in DIRECTIVES {
        for option in entry
            .options
            .iter()
            .filter(|one| one.fate == super::directives::Fate::Refused)
        {
            let problem = problem(&format!(
                ". {{\nbind 169.254.20.10\nforward . 192.0.2.1\n}}\na.example {{\nbind 169.254.20.10\n{} . 192.0.2.1 {{\n  {} x\n}}\n}}",
                entry.name, option.name
            ).replace("template . 192.0.2.1", "template IN A"));
            let wanted = format!(
                "Corefile:8:3: {}: found {}, which nodens does not have",
                entry.name, option.name
            );
            assert!(problem.starts_with(&wanted), "{problem}");
        }
    }
}

/// The rules of the first zone of a Corefile without a problem.
fn answers_of(corefile: &str) -> Vec<String> {
    let scratch = Scratch::new();
    let node_cache = node_cache(scratch.write("Corefile", corefile));
    let translated = translate(&node_cache, &environment(), Some(interfaces()));
    assert!(translated.problems.is_empty(), "{:?}", translated.problems);
    let Value::List(zones) = &translated.values["zones"].value else {
        panic!("no list of zones");
    };
    let Value::Map(entries) = &zones[0].value else {
        panic!("no zone");
    };
    let answers = entries.iter().find(|entry| entry.key == "answers");
    match answers.map(|entry| &entry.node.value) {
        Some(Value::List(nodes)) => nodes.iter().map(text).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn so_many_templates_are_read_of_a_block_and_thousands_are_refused() {
    let scratch = Scratch::new();
    let of = |templates: usize, lines: &str| {
        let templates = format!("template IN A {{\n{lines}\n}}\n").repeat(templates);
        let corefile = format!("example.org {{\nbind 169.254.20.10\n{templates}}}\n");
        node_cache(scratch.write("Corefile", corefile))
    };
    let lines = r"match ^a\.example\.org\.$";
    let (_, problems, _) = outcome(&of(64, lines));
    assert!(problems.is_empty(), "{problems:?}");
    let wanted = "Corefile:195:1: template: found more than 64 templates in one block";
    refused_soon(&of(9000, lines), wanted);
    // Each lets the same zone pass: what is behind it is told once, and not twice a template.
    let lines = format!("{lines}\nfallthrough z.example.org");
    let (values, problems, _) = outcome(&of(64, &lines));
    assert!(problems.is_empty(), "{problems:?}");
    assert!(values["zones"].len() < 10_000, "{}", values["zones"]);
}

#[test]
fn a_template_for_names_above_its_zone_is_for_those_in_it() {
    let template = r"template IN A {
        match (^|[.])example[.]org[.]$
        answer '{{ .Name }} 60 IN A 10.0.0.1'
    }"
    .replace('\'', "\"");
    let block = format!("a.b.example.org {{\nbind 169.254.20.10\n{template}\n}}");
    let answers = answers_of(&block);
    let wanted = [
        "A a.b.example.org 60 10.0.0.1",
        "A *.a.b.example.org 60 10.0.0.1",
    ];
    assert_eq!(answers[..2], wanted, "{answers:?}");
}

#[test]
fn rules_of_a_whole_corefile_are_bounded_and_soon() {
    let scratch = Scratch::new();
    let names: String = (0..20_000_u32)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(0x0a01_0000 + number);
            format!("{address} n{number}.example\n")
        })
        .collect();
    let hosts = scratch.write("many", &names);
    let hosts = hosts.display();
    let blocks = |number: usize, what: &str| -> NodeCache {
        let blocks: String = (0..number)
            .map(|number| format!("z{number}.example {{\nbind 169.254.20.10\n{what}\n}}\n"))
            .collect();
        node_cache(scratch.write("Corefile", blocks))
    };
    // Its names are in none of these, and count for none.
    let (_, problems, _) = outcome(&blocks(90, &format!("hosts {hosts}")));
    assert!(problems.is_empty(), "{problems:?}");
    // Any of them may be asked for under another name.
    let renamed = format!(
        "rewrite name exact a.z0.example b.z0.example\nhosts {hosts} .\nforward . 192.0.2.1"
    );
    let wanted = "found more than 65536 answers of template and hosts in all blocks";
    refused_soon(&blocks(90, &renamed), wanted);
    let except: String = (0..90)
        .map(|number| format!(" e{number}.z0.example"))
        .collect();
    let renamed = format!("{renamed} {{\nexcept {except}\n}}");
    refused_soon(&blocks(1, &renamed), wanted);
    let zones = |number: usize| -> String {
        (0..number)
            .map(|number| format!(" y{number}.z0.example"))
            .collect()
    };
    let template = |zones: &str| {
        format!(
            "template IN A {{\nmatch ^x\\.z0\\.example\\.$\nfallthrough{zones}\n}}\nhosts {hosts} ."
        )
    };
    let (_, problems, _) = outcome(&blocks(1, &template(&zones(100))));
    assert!(problems.is_empty(), "{problems:?}");
    let wanted =
        "Corefile:5:13: template: found 101 zones behind fallthrough, expected at most 100";
    refused_soon(&blocks(1, &template(&zones(101))), wanted);
}

#[test]
fn reverse_names_go_on_to_the_next_plugin_where_hosts_does_not_have_them() {
    let answers = answers_of(
        "example.org 10.in-addr.arpa {\nbind 169.254.20.10\nforward . 192.0.2.1\nhosts {\n\
         10.0.0.1 web.example.org web.example.net\n10.0.0.2 web.example.net\n}\n}",
    );
    let wanted = [
        "PTR example.org ASK",
        "PTR *.example.org ASK",
        "A web.example.org 3600 10.0.0.1",
        "ANY web.example.org NOERROR",
        "ANY example.org SERVFAIL",
        "ANY *.example.org SERVFAIL",
    ];
    assert_eq!(answers, wanted);
}

#[test]
fn only_reverse_names_pass_hosts_without_fallthrough() {
    let answers = answers_of(
        "example.org {\nbind 169.254.20.10\nwhoami\nhosts {\n10.0.0.1 web.example.org\n}\n}",
    );
    let wanted = [
        "PTR example.org NOERROR",
        "PTR *.example.org NOERROR",
        "A web.example.org 3600 10.0.0.1",
        "ANY web.example.org NOERROR",
        "ANY example.org SERVFAIL",
        "ANY *.example.org SERVFAIL",
    ];
    assert_eq!(answers, wanted);
}

#[test]
fn a_rewrite_is_refused_where_its_new_names_may_be_anothers_and_else_taken() {
    let refused = |zone: &str, rest: &str| {
        let scratch = Scratch::new();
        let corefile = format!("{zone} {{\nbind 169.254.20.10\n{rest}\n}}");
        let (_, problems, _) = outcome(&node_cache(scratch.write("Corefile", corefile)));
        problems.join("\n").contains("another forward of the block")
    };
    let org = |rest: &str| refused("example.org", rest);
    assert!(!org(
        "rewrite name substring -a- -b-\nforward example.org 192.0.2.1"
    ));
    assert!(org(
        "rewrite name substring -a- -b-\nforward x.example.org 192.0.2.1\nforward . 192.0.2.2"
    ));
    assert!(!org(
        "rewrite name prefix a. b.\nforward example.org 192.0.2.1"
    ));
    // Whole labels, as CoreDNS closes what is written with a dot: these eat of the zone's own name.
    let eats = "rewrite name prefix a.example b\nforward";
    assert!(org(&format!("{eats} example.org 192.0.2.1")));
    assert!(!org(&format!("{eats} . 192.0.2.1")));
    assert!(!org(
        "rewrite name prefix exam sam\nforward example.org 192.0.2.1"
    ));
    let leaves = "rewrite name substring example.org foo.net\nforward";
    assert!(org(&format!("{leaves} example.org 192.0.2.1")));
    assert!(!org(&format!("{leaves} . 192.0.2.1")));
    assert!(!refused(
        ".",
        "rewrite name prefix a.exam b.sam\nforward . 192.0.2.1"
    ));
}

#[test]
fn a_prefix_and_a_substring_end_with_a_label() {
    let scratch = Scratch::new();
    let corefile = ".:53 {\nbind 169.254.20.10\nrewrite name prefix b. x\nrewrite name substring -a- -b-\n\
                    forward . 192.0.2.1\n}";
    let (values, problems, _) = outcome(&node_cache(scratch.write("Corefile", corefile)));
    assert!(problems.is_empty(), "{problems:?}");
    let zones = &values["zones"];
    assert!(
        zones.contains("prefix b. x.") && zones.contains("substring -a-. -b-."),
        "{zones}"
    );
}

#[test]
fn zones_with_escapes_count_for_each_name_of_hosts() {
    let scratch = Scratch::new();
    let names: String = (0..40_000)
        .map(|number| format!("10.0.0.1 n{number}.x\n"))
        .collect();
    scratch.write("many", names);
    let zones: String = (0..1000)
        .map(|number| format!(" \\097x{number}.example"))
        .collect();
    let hosts = format!("hosts {}/many{zones}", scratch.path().display());
    let corefile = format!(".:53 {{\nbind 169.254.20.10\n{hosts}\nforward . 192.0.2.1\n}}");
    refused_soon(
        &node_cache(scratch.write("Corefile", corefile)),
        "answers of template and hosts for very many zones",
    );
}

#[test]
fn of_several_records_the_least_ttl_counts_and_a_mapped_address_is_one_of_ipv4() {
    let answers = answers_of(
        "example.org {\nbind 169.254.20.10\ntemplate IN A {\nmatch ^a\\.example\\.org\\.$\n\
         answer \"{{ .Name }} 5 IN A 10.0.0.1\"\nanswer \"{{ .Name }} 60 IN A 10.0.0.2\"\nfallthrough\n}\n\
         hosts {\n::ffff:10.9.9.9 b.example.org\n}\n}",
    );
    assert!(
        answers.contains(&"A a.example.org 5 10.0.0.1 10.0.0.2".to_owned()),
        "{answers:?}"
    );
    assert!(
        answers.contains(&"A b.example.org 3600 10.9.9.9".to_owned()),
        "{answers:?}"
    );
}
