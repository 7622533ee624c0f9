// SPDX-License-Identifier: Apache-2.0
//! What a configuration means and what is said of a wrong one, from file to [`Config`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::keys::{KEYS, Kind};
use super::*;
use crate::scratch::Scratch;

/// A file of its own that goes away with the test.
struct File {
    path: PathBuf,
    _scratch: Scratch,
}

impl File {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let scratch = Scratch::new();
        Self {
            path: scratch.write("nodens.yaml", content),
            _scratch: scratch,
        }
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.path.clone()),
            ..Sources::default()
        }
    }
}

const ROOT: &str = "zones: [{name: ., upstreams: [10.96.0.50]}]\n";
const HOST: [&str; 3] = ["127.0.0.1", "::1", "192.0.2.7"];

fn host() -> std::io::Result<Vec<IpAddr>> {
    Ok(HOST.map(|text| text.parse().unwrap()).to_vec())
}

fn load_from(sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    read::read(sources, source::collect(sources), host)
}

fn load(yaml: impl AsRef<[u8]>) -> Result<Loaded, Vec<Problem>> {
    load_from(&File::new(yaml).sources())
}

/// The configuration of a file that has no problem, with a root zone added.
fn config(yaml: &str) -> Config {
    load(format!("{ROOT}{yaml}")).unwrap().config
}

/// Problems of a file as they are shown, without the directory of the file.
fn problems(yaml: impl AsRef<[u8]>) -> Vec<String> {
    show(&load(yaml).unwrap_err())
}

/// The one problem of a file to which a root zone was added in front.
fn problem(yaml: &str) -> String {
    let mut problems = problems(format!("{ROOT}{yaml}"));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

fn show(problems: &[Problem]) -> Vec<String> {
    let line = |problem: &Problem| {
        let shown = problem.to_string();
        assert!(!shown.contains('\n'), "{shown}");
        match shown.find(".yaml:") {
            Some(at) if shown.starts_with('/') => format!("FILE{}", &shown[at + 5..]),
            _ => shown,
        }
    };
    problems.iter().map(line).collect()
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// Sources without a file.
fn bare(environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        default_file: PathBuf::from("/nonexistent/nodens.yaml"),
        environment: variables(environment),
        flags: flags
            .iter()
            .map(|(path, value)| (*path, (*value).to_owned()))
            .collect(),
        ..Sources::default()
    }
}

fn addresses(items: &[Located<IpAddr>]) -> Vec<String> {
    items.iter().map(|item| item.value.to_string()).collect()
}

fn upstreams(zone: &Zone) -> Vec<String> {
    zone.upstreams
        .iter()
        .map(|up| up.value.to_string())
        .collect()
}

fn documentation() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn everything_but_the_upstreams_has_a_default() {
    let config = config("");
    assert_eq!(config.cluster.domain.to_string(), "cluster.local.");
    assert!(config.cluster.dns_service.is_empty());
    assert_eq!(addresses(&config.listen.addresses), ["169.254.20.10"]);
    assert_eq!(config.listen.port.value, 53);
    assert_eq!(config.listen.udp_size, 1232);
    assert_eq!(config.listen.tcp_idle, Duration::from_secs(10));
    assert_eq!(config.listen.tcp_connections, 1000);
    assert_eq!(config.listen.tcp_connections_per_client, 100);
    assert!(!config.intercept.enabled);
    assert_eq!(config.intercept.interface, "nodens0");
    assert!(config.intercept.redirect_to.is_empty() && config.intercept.fallback.is_empty());
    assert_eq!(config.intercept.dead_after, Duration::from_secs(1));
    assert_eq!(config.workers, None);
    assert_eq!(config.cache.size_bytes, 64 << 20);
    assert_eq!(config.cache.stale_for, Duration::from_secs(3600));
    assert!(config.cache.prefetch);
    assert_eq!(
        config.limits,
        Limits {
            in_flight: 10_000,
            query_timeout: Duration::from_secs(4),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            upstream_connections: 256,
            upstream_idle: Duration::from_secs(8),
            hedge_percent: 5,
            loop_probes: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    );
    assert_eq!(config.admin.health.value.to_string(), "169.254.20.10:9254");
    assert_eq!(config.admin.metrics.value.to_string(), "169.254.20.10:9253");
    assert_eq!(
        config.admin.socket.value,
        Path::new("/run/nodens/admin.sock")
    );
    assert_eq!(config.log.level, tracing::Level::INFO);
    assert_eq!(config.log.json, None);
}

#[test]
fn writing_a_default_changes_nothing() {
    let zones = ("zones", &ROOT["zones: ".len()..]);
    let default = load_from(&bare(&[], &[zones])).unwrap().config;
    let mut written = 0;
    for key in KEYS.iter().filter(|key| key.is_overridable()) {
        let text = key.default_text();
        if text.contains([' ', '`']) {
            continue; // said in words
        }
        let loaded = load_from(&bare(&[], &[zones, (key.path, &text)])).unwrap();
        let config = loaded.config;
        assert_eq!(default.needs_restart(&config), [""; 0], "{}", key.path);
        assert_eq!(
            (&config.cache, &config.limits, &config.log, &config.zones),
            (
                &default.cache,
                &default.limits,
                &default.log,
                &default.zones
            ),
            "{}",
            key.path
        );
        written += 1;
    }
    assert!(written > 20, "{written}");
}

#[test]
fn the_cluster_zone_is_always_there_with_shorter_lifetimes() {
    let zones = config("").zones;
    let shown: Vec<_> = zones
        .iter()
        .map(|zone| (zone.name.to_string(), zone.max_ttl, zone.max_negative_ttl))
        .collect();
    assert_eq!(
        shown,
        [
            ("cluster.local.".to_owned(), 30, 5),
            (".".to_owned(), 3600, 30)
        ]
    );
    assert_eq!(upstreams(&zones[0]), ["10.96.0.50:53"]);
}

#[test]
fn zones_are_ordered_by_length_and_the_cluster_zone_follows_its_enclosing_zone() {
    let zones = load(
        "cluster: {domain: k8s.corp.example}\n\
         zones:\n\
         - {name: ., upstreams: 10.0.0.1, maxTtl: 10s}\n\
         - {name: a.b.c.d, upstreams: ['10.0.0.2:5353', fd00::2]}\n\
         - {name: corp.example, upstreams: [10.0.0.3], maxTtl: 20s, maxNegativeTtl: 1h}\n",
    )
    .unwrap()
    .config
    .zones;
    let names: Vec<_> = zones.iter().map(|zone| zone.name.to_string()).collect();
    assert_eq!(
        names,
        ["a.b.c.d.", "k8s.corp.example.", "corp.example.", "."]
    );
    assert_eq!(upstreams(&zones[0]), ["10.0.0.2:5353", "[fd00::2]:53"]);
    assert_eq!(upstreams(&zones[1]), ["10.0.0.3:53"]);
    assert_eq!((zones[1].max_ttl, zones[1].max_negative_ttl), (20, 5));
    assert_eq!((zones[2].max_ttl, zones[2].max_negative_ttl), (20, 3600));
    assert_eq!((zones[3].max_ttl, zones[3].max_negative_ttl), (10, 30));
}

#[test]
fn a_cluster_zone_that_is_written_is_taken_as_it_is() {
    let zones = load(
        "zones:\n\
         - {name: ., upstreams: [10.0.0.1]}\n\
         - {name: Cluster.Local., upstreams: [10.0.0.2], maxTtl: 1m}\n",
    )
    .unwrap()
    .config
    .zones;
    assert_eq!(zones.len(), 2);
    assert_eq!(upstreams(&zones[0]), ["10.0.0.2:53"]);
    assert_eq!((zones[0].max_ttl, zones[0].max_negative_ttl), (60, 5));
}

#[test]
fn the_example_of_the_documentation_passes_without_a_warning() {
    let document = documentation();
    let example = document
        .split("```yaml\n")
        .find(|block| block.starts_with("version: 1"))
        .and_then(|block| block.split("```").next())
        .unwrap();
    let loaded = load(example).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", show(&loaded.warnings));
    assert_eq!(addresses(&loaded.config.intercept.fallback), ["10.96.0.51"]);
    assert_eq!(
        addresses(&loaded.config.cluster.dns_service),
        ["10.96.0.10"]
    );
}

#[test]
fn the_messages_of_the_documentation_are_those_of_the_program() {
    let file = File::new(
        "zones:\n- {name: ., upstreams: [10.96.0.50]}\nlisten:\n  port: \"dns\"\n\ncache:\n  sice: 1\n",
    );
    let problems = show(&load_from(&file.sources()).unwrap_err());
    let document = documentation();
    for problem in problems {
        let shown = problem.replace("FILE:", "nodens.yaml:");
        assert!(document.contains(&shown), "{shown}");
    }
}

#[test]
fn values_that_ask_for_nothing_missing_give_no_warning() {
    let yaml = "intercept: {enabled: false, redirectTo: auto, fallback: off, deadAfter: 2s}\n\
                cache: {staleFor: 0s, prefetch: false}\n";
    assert!(load(format!("{ROOT}{yaml}")).unwrap().warnings.is_empty());
}

#[test]
fn what_is_intercepted_comes_to_a_plan() {
    let yaml = "cluster: {dnsService: [10.96.0.10, fd00::a]}\n\
                listen: {addresses: [127.0.0.1, 169.254.20.10, 'fd00:1::10']}\n\
                intercept: {enabled: true, fallback: [10.96.0.51, fd00::51]}\n";
    let loaded = load(format!("{ROOT}{yaml}")).unwrap();
    assert_eq!(show(&loaded.warnings), [""; 0]);
    let plan = loaded.config.intercept.plan.unwrap();
    let locals: Vec<_> = plan
        .local_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        locals,
        ["169.254.20.10", "fd00:1::10", "169.254.20.11", "fd00:1::11"]
    );
    let off = format!("{ROOT}{}", yaml.replace("enabled: true", "enabled: false"));
    assert_eq!(load(off).unwrap().config.intercept.plan, None);
}

#[test]
fn what_cannot_be_intercepted_is_told_where_it_was_written() {
    let on = "intercept: {enabled: true, fallback: 10.96.0.51}\n";
    for (yaml, expected) in [
        (
            format!("{on}cluster: {{dnsService: [169.254.20.10]}}\n"),
            "FILE:3:24: cluster.dnsService[0]: 169.254.20.10 among the Service addresses cannot be",
        ),
        (
            format!("{on}cluster: {{dnsService: ['fd00::a']}}\n"),
            "FILE:3:24: cluster.dnsService[0]: the Service address fd00::a has no node-local listen",
        ),
        (
            format!("{on}cluster: {{dnsService: [10.96.0.50]}}\n"),
            "FILE:1:31: zones[0].upstreams[0]: found the upstream 10.96.0.50:53, expected a server \
             whose queries are not steered to the agent",
        ),
        (
            format!("{on}listen: {{port: 0}}\n"),
            "FILE:3:16: listen.port: 0 is no port that clients can ask; take 53",
        ),
        (
            format!("{on}cluster: {{dnsService: [10.96.0.51]}}\n"),
            "FILE:2:38: intercept.fallback: the fallback address 10.96.0.51 is a Service address",
        ),
        (
            "intercept: {enabled: true, redirectTo: 169.254.20.11}\n".to_owned(),
            "FILE:2:40: intercept.redirectTo: 0 IPv4 Service addresses and 1 redirect addresses",
        ),
        (
            "intercept: {enabled: true}\nlisten: {addresses: [127.0.0.1]}\n".to_owned(),
            "FILE:2:22: intercept.enabled: there is nothing to intercept",
        ),
    ] {
        let problems = show(&load(format!("{ROOT}{yaml}")).unwrap_err());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(expected), "{problems:?}");
    }
}

#[test]
fn an_address_that_dies_with_the_agent_gives_a_warning() {
    let yaml = format!("{ROOT}intercept: {{enabled: true}}\n");
    assert_eq!(
        show(&load(yaml).unwrap().warnings),
        [
            "default of listen.addresses: nothing answers at 169.254.20.10 while the agent is dead; \
          name an IPv4 address of a Service of CoreDNS in intercept.fallback"
        ]
    );
}

#[test]
fn quoted_and_bare_scalars_are_the_same() {
    let yaml =
        "listen: {port: \"5300\", udpSize: '512'}\nworkers: \"2\"\ncache: {prefetch: \"false\"}\n";
    let config = config(yaml);
    assert_eq!(config.listen.port.value, 5300);
    assert_eq!(config.listen.udp_size, 512);
    assert_eq!(config.workers, Some(2));
    assert!(!config.cache.prefetch);
}

#[test]
fn anchors_stand_for_what_they_name() {
    let config = load("x: &x 1\n").unwrap_err();
    assert!(show(&config)[0].contains("unknown key \"x\""));
    let zones = load(
        "zones:\n- {name: ., upstreams: &up [10.0.0.1, 10.0.0.2]}\n- {name: a, upstreams: *up}\n",
    )
    .unwrap()
    .config
    .zones;
    assert_eq!(upstreams(&zones[0]), upstreams(&zones[2]));
    assert_eq!(zones[0].name.to_string(), "cluster.local.");
}

#[test]
fn every_problem_of_a_file_is_told_at_once_in_order() {
    let yaml = "\
version: 2
listen:
  addresses: [169.254.20.10, nowhere, 169.254.20.10]
  port: 66000
  udp_size: 1232
cache: {size: 64, staleFor: 30}
zones:
  - name: .
    upstreams: [10.96.0.50, 10.96.0.51:99999]
    transport: dot
  - upstream: 10.0.0.1
lmits: {}
";
    assert_eq!(
        problems(yaml),
        [
            "FILE:1:10: version: found \"2\", expected version 1; \
             write `version: 1`; other forms of the file need another nodens",
            "FILE:3:30: listen.addresses[1]: found \"nowhere\", expected an IPv4 or IPv6 address; \
             write it like 169.254.20.10 or fd00::10; names are not resolved here",
            "FILE:4:9: listen.port: found \"66000\", expected a whole number from 0 to 65535; \
             write a number like 53",
            "FILE:5:3: listen.udp_size: found the unknown key \"udp_size\", expected one of \
             addresses, port, udpSize, tcpIdle, tcpConnections, tcpConnectionsPerClient; \
             did you mean udpSize?",
            "FILE:6:15: cache.size: found \"64\", expected a size from 1MiB to 64GiB; \
             choose a size within these bounds",
            "FILE:6:29: cache.staleFor: found \"30\", expected a duration from 0s to 72h; \
             name the unit: 30s, 30ms or 30m",
            "FILE:9:29: zones[0].upstreams[1]: found \"10.96.0.51:99999\", expected an address, \
             with a port from 1 to 65535 or without one, or env:NAME; write it like 10.96.0.50, \
             10.96.0.50:53, fd00::50 or [fd00::50]:53; names are not resolved here",
            "FILE:10:16: zones[0].transport: found \"dot\", expected one of tcp, udp, tls; \
             choose one of these",
            "FILE:11:5: zones[1].upstream: found the unknown key \"upstream\", expected one of \
             name, upstreams, resolv.conf, transport, pipeline, serverName, caFile, maxTtl, maxNegativeTtl, minTtl, minNegativeTtl, \
             maxFailureTtl, staleAfter, order, rotate, cuts, rewrites, dns64, answers; did you mean upstreams?",
            "FILE:11:5: zones[1]: found a zone without servers, expected upstreams or resolv.conf; \
             add the servers to ask, e.g. `upstreams: [10.96.0.10]`",
            "FILE:11:5: zones[1]: found a zone without a name, expected the key name; \
             add the zone's name; `name: \".\"` is the root, for all names",
            "FILE:12:1: lmits: found the unknown key \"lmits\", expected one of version, cluster, \
             listen, intercept, workers, cache, zones, limits, admin, log; did you mean limits?",
        ]
    );
}

#[test]
fn without_a_root_zone_the_remedy_shows_one() {
    let remedy = "expected at least one zone named \".\" with upstreams; add the two lines \
                  `zones:` and `  - { name: \".\", upstreams: [10.96.0.10] }`, with the address \
                  of the cluster's DNS in place of 10.96.0.10";
    for (yaml, place) in [
        ("", "FILE:1:1"),
        ("# nothing\n", "FILE:1:1"),
        ("version: 1\nzones: []\n", "FILE:2:8"),
        ("version: 1\nzones:\n", "FILE:2:6"),
        ("zones: [{name: a, upstreams: [10.0.0.1]}]", "FILE:1:8"),
    ] {
        let expected = format!("{place}: zones: found no upstream for the root zone, {remedy}");
        assert_eq!(problems(yaml), [expected], "{yaml}");
    }
    let nothing = load_from(&bare(&[], &[])).unwrap_err();
    assert_eq!(
        nothing[0].to_string(),
        format!("default of zones: found no upstream for the root zone, {remedy}")
    );
    // What the remedy shows is a configuration.
    assert!(load("zones:\n  - { name: \".\", upstreams: [10.96.0.10] }\n").is_ok());
}

#[test]
fn wrong_types_are_named() {
    assert!(problem("cache: 64MiB\n").contains(
        "cache: found \"64MiB\", expected a mapping of keys; write its keys below it, indented: size, staleFor, staleAfter, prefetch"
    ));
    assert!(
        problem("workers: [1]\n")
            .contains("workers: found a list, expected auto or a whole number from 1 to 64")
    );
    assert!(problem("listen: {addresses: {a: b}}\n").contains("found a mapping, expected an IPv4"));
    assert!(problem("cache: {size: }\n").contains("cache.size: found nothing, expected a size"));
    assert!(problem("listen: {addresses: }\n").contains("found nothing"));
    assert!(problem("listen: {addresses: []}\n").contains("found 0 addresses, expected 1 to 64"));
    assert!(
        problem("cache: {prefetch: yes}\n")
            .contains("found \"yes\", expected true or false; write true")
    );
    let list = problems("- a\n- b\n");
    assert_eq!(list.len(), 1);
    assert!(list[0].starts_with("FILE:1:1: found a list, expected keys and values;"));
    assert!(
        problems("zones: {name: .}\n")[0].contains("found a mapping, expected a list of zones")
    );
    assert!(problems("zones: [a]\n")[0].contains("zones[0]: found \"a\", expected a mapping"));
    // An empty section is one without keys: charts write it.
    assert_eq!(config("cache:\nlisten: {}\n").cache, config("").cache);
}

#[test]
fn an_unknown_key_names_the_nearest_or_its_right_place() {
    assert!(problem("port: 53\n").ends_with("did you mean port below listen?"));
    assert!(problem("cache.size: 1MiB\n").ends_with("did you mean size below cache?"));
    assert!(
        problem("listen: {workers: 2}\n")
            .ends_with("did you mean workers at the top, without indentation?")
    );
    assert!(problem("cache: {maxTtl: 1h}\n").ends_with("did you mean maxTtl below zones?"));
    assert!(problem("corefile: x\n").ends_with("remove it or correct it"));
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let keys: Vec<_> = (0..2000).map(|n| format!("k{n}: 1\n")).collect();
    let shown = problems(format!("{ROOT}{}", keys.concat()));
    assert_eq!(shown.len(), 501);
    assert!(shown[500].starts_with("FILE:502:1: k500: found 1500 more problems from here on"));
}

#[test]
fn duplicate_keys_are_told_all() {
    let shown = problems("cache: {size: 1MiB, size: 2MiB}\nworkers: 1\nworkers: 2\n");
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with("FILE:1:21: cache.size: found the key again"));
    assert!(
        shown[1].starts_with(
            "FILE:3:1: workers: found the key again, expected it once (first on line 2)"
        )
    );
}

#[test]
fn yaml_that_is_none_has_a_line_and_a_column() {
    let shown = problems("version: 1\nlisten: {port: 53\ncache:\n");
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with("FILE:"), "{shown:?}");
    assert!(shown[0].contains("found what is no YAML"));
    let tab = problems("listen:\n  port: 53\n\tudpSize: 512\n");
    assert_eq!(
        tab,
        ["FILE:3:1: found a tab, expected spaces; indent with spaces: YAML takes no tabs there"]
    );
    let two = problems("version: 1\n---\nversion: 1\n");
    assert!(two[0].starts_with("FILE:2:1: found a second YAML document"));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let only = |sources: &Sources| {
        let problems = load_from(sources).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    };
    let missing = Sources {
        file: Some(PathBuf::from("/nonexistent/nodens.yaml")),
        ..Sources::default()
    };
    assert_eq!(
        only(&missing),
        "/nonexistent/nodens.yaml: found no such file, expected a configuration file; \
         create it, or correct the path"
    );
    let directory = Sources {
        file: Some(std::env::temp_dir()),
        ..Sources::default()
    };
    assert!(only(&directory).contains("found a directory"));

    let bytes = File::new(b"version: 1\nlog: {level: \xff}\n");
    assert!(only(&bytes.sources()).contains(":2:14: found bytes that are no UTF-8"));
    let large = File::new(vec![b'#'; (1 << 20) + 1]);
    assert!(only(&large.sources()).contains("found more than 1048576 bytes"));
    let full = format!("{ROOT}{}", "#".repeat((1 << 20) - ROOT.len()));
    assert!(load(full).is_ok());
}

#[test]
fn without_a_name_the_default_file_is_read_if_it_exists() {
    let file = File::new(format!("{ROOT}workers: 3\n"));
    let sources = Sources {
        default_file: file.path.clone(),
        ..Sources::default()
    };
    let loaded = load_from(&sources).unwrap();
    assert_eq!(loaded.config.workers, Some(3));
    assert_eq!(loaded.file.as_ref(), Some(&file.path));

    let none = load_from(&bare(
        &[("NODENS_ZONES", "[{name: ., upstreams: 10.0.0.1}]")],
        &[],
    ));
    assert_eq!(none.unwrap().file, None);
    // A default file that is there and cannot be used is no reason to go on without it.
    let sources = Sources {
        default_file: std::env::temp_dir(),
        ..Sources::default()
    };
    assert!(load_from(&sources).is_err());
}

#[test]
fn flags_override_variables_and_those_the_file() {
    let file = File::new(format!(
        "{ROOT}listen: {{port: 1001, udpSize: 1001}}\nworkers: 1\n"
    ));
    let mut sources = file.sources();
    sources.environment = variables(&[("NODENS_LISTEN_PORT", "1002"), ("NODENS_WORKERS", "2")]);
    sources.flags = BTreeMap::from([("workers", "3".to_owned())]);
    let config = load_from(&sources).unwrap().config;
    assert_eq!(config.listen.udp_size, 1001);
    assert_eq!(config.listen.port.value, 1002);
    assert_eq!(
        config.listen.port.origin.to_string(),
        "environment variable NODENS_LISTEN_PORT"
    );
    assert_eq!(config.workers, Some(3));
}

#[test]
fn lists_of_variables_and_flags_are_separated_by_commas() {
    let zones = ("NODENS_ZONES", "- name: .\n  upstreams: [10.0.0.1]\n");
    let sources = bare(
        &[zones, ("NODENS_LISTEN_ADDRESSES", "127.0.0.1, ::1")],
        &[("cluster.dnsService", "10.96.0.10,fd00::a")],
    );
    let config = load_from(&sources).unwrap().config;
    assert_eq!(addresses(&config.listen.addresses), ["127.0.0.1", "::1"]);
    assert_eq!(
        addresses(&config.cluster.dns_service),
        ["10.96.0.10", "fd00::a"]
    );
    assert_eq!(config.admin.health.value.to_string(), "127.0.0.1:9254");

    let file = File::new(format!("{ROOT}cluster: {{dnsService: 10.96.0.10}}\n"));
    let mut sources = file.sources();
    assert_eq!(
        load_from(&sources)
            .unwrap()
            .config
            .cluster
            .dns_service
            .len(),
        1
    );
    sources.flags = BTreeMap::from([("cluster.dnsService", String::new())]);
    assert!(
        load_from(&sources)
            .unwrap()
            .config
            .cluster
            .dns_service
            .is_empty()
    );
}

#[test]
fn problems_of_variables_and_flags_name_them_and_the_key() {
    let sources = bare(
        &[
            ("NODENS_CACHE_SIZE", "64Mi"),
            ("NODENS_LISTEN_ADDRESSES", "127.0.0.1,x"),
            (
                "NODENS_ZONES",
                "- name: .\n  upstreams: [10.0.0.1]\n  transprot: tcp\n",
            ),
        ],
        &[("listen.port", "dns")],
    );
    assert_eq!(
        show(&load_from(&sources).unwrap_err()),
        [
            "environment variable NODENS_LISTEN_ADDRESSES: listen.addresses[1]: found \"x\", \
             expected an IPv4 or IPv6 address; write it like 169.254.20.10 or fd00::10; \
             names are not resolved here",
            "environment variable NODENS_ZONES: zones[0].transprot (line 3, column 3 of the \
             value): found the unknown key \"transprot\", expected one of name, upstreams, \
             resolv.conf, transport, pipeline, serverName, caFile, maxTtl, maxNegativeTtl, minTtl, minNegativeTtl, maxFailureTtl, staleAfter, \
             order, rotate, cuts, rewrites, dns64, answers; did you mean transport?",
            "environment variable NODENS_CACHE_SIZE: cache.size: found \"64Mi\", expected a size \
             from 1MiB to 64GiB; write 64MiB",
            "flag --listen-port: listen.port: found \"dns\", expected a whole number from 0 to \
             65535; write a number like 53",
        ]
    );
    let broken = bare(&[("NODENS_ZONES", "[{name: .")], &[]);
    let shown = show(&load_from(&broken).unwrap_err());
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with("environment variable NODENS_ZONES: zones (line 2, column 1 of"));
}

#[test]
fn every_key_is_read_from_file_variable_and_flag() {
    for key in KEYS {
        // No key takes this: each must speak up.
        let bad = "\u{1}?";
        if key.is_overridable() {
            let flag = load_from(&bare(&[], &[(key.path, bad)])).unwrap_err();
            assert!(
                flag.iter()
                    .any(|problem| problem.message.starts_with(key.path)),
                "{}: {flag:?}",
                key.path
            );
            let variable = load_from(&bare(&[(&key.variable(), bad)], &[])).unwrap_err();
            let origin = Origin::Environment {
                variable: key.variable(),
            };
            assert!(
                variable.iter().any(|problem| problem.origin == origin),
                "{}: {variable:?}",
                key.path
            );
        }
        let yaml = match key.path.strip_prefix("zones[].") {
            Some(name) => format!("zones: [{{{name}: \"?..?\"}}]\n"),
            None => match key.path.split_once('.') {
                Some((section, name)) => format!("{section}: {{{name}: \"? \\\\\"}}\n"),
                None => format!("{}: \"?\"\n", key.path),
            },
        };
        let path = key.path.replace("[]", "[0]");
        let found = load(&yaml).unwrap_err();
        let names =
            |problem: &Problem| matches!(&problem.origin, Origin::File { key, .. } if *key == path);
        assert!(found.iter().any(names), "{}: {found:?}", key.path);
    }
}

#[test]
fn both_bounds_of_every_number_are_accepted_and_what_lies_beyond_is_not() {
    for key in KEYS {
        let (inside, outside) = match key.kind {
            Kind::Count(limit) | Kind::CountOrAuto(limit) => (
                [limit.min.to_string(), limit.max.to_string()],
                [
                    limit.min.wrapping_sub(1).to_string(),
                    (limit.max + 1).to_string(),
                ],
            ),
            Kind::Size(limit) => (
                [show_size(limit.min), show_size(limit.max)],
                [(limit.min - 1).to_string(), (limit.max + 1).to_string()],
            ),
            Kind::Time(limit) => {
                let ms = Duration::from_millis(1);
                let below = limit
                    .min
                    .checked_sub(ms)
                    .map_or_else(|| "-1s".to_owned(), show_time);
                (
                    [show_time(limit.min), show_time(limit.max)],
                    [below, show_time(limit.max + ms)],
                )
            }
            _ => continue,
        };
        let load = |value: &str| {
            if let Some(name) = key.path.strip_prefix("zones[].") {
                let zones = format!("[{{name: \".\", upstreams: [10.96.0.10], {name}: {value}}}]");
                return load_from(&bare(&[], &[("zones", &zones)]));
            }
            let mut flags = vec![(key.path, value), ("zones", &ROOT["zones: ".len()..])];
            // The three timeouts hold each other: move the others out of the way.
            let timeouts = [
                "limits.connectTimeout",
                "limits.attemptTimeout",
                "limits.queryTimeout",
            ];
            if let Some(at) = timeouts.iter().position(|path| *path == key.path) {
                let low = |path| {
                    (
                        path,
                        if path == "limits.attemptTimeout" {
                            "50ms"
                        } else {
                            "10ms"
                        },
                    )
                };
                let high = |path| {
                    (
                        path,
                        if path == "limits.attemptTimeout" {
                            "10s"
                        } else {
                            "30s"
                        },
                    )
                };
                flags.extend(timeouts[..at].iter().map(|path| low(*path)));
                flags.extend(timeouts[at + 1..].iter().map(|path| high(*path)));
            }
            load_from(&bare(&[], &flags))
        };
        for value in &inside {
            let problems = load(value).err();
            assert!(problems.is_none(), "{} = {value}: {problems:?}", key.path);
        }
        for value in &outside {
            assert!(load(value).is_err(), "{} = {value}", key.path);
        }
    }
}

#[test]
fn timeouts_hold_each_other() {
    assert!(problem("limits: {queryTimeout: 900ms}\n").contains(
        "limits.queryTimeout: found 900ms, expected at least limits.attemptTimeout, which is 1s"
    ));
    assert!(problem("limits: {connectTimeout: 2s}\n").contains(
        "limits.connectTimeout: found 2s, expected at most limits.attemptTimeout, which is 1s"
    ));
    config("limits: {queryTimeout: 100ms, attemptTimeout: 100ms, connectTimeout: 100ms}\n");
    // One mistake, one message: a duration that cannot be read is not compared.
    assert!(
        problem("limits: {attemptTimeout: 2, queryTimeout: 200ms}\n").contains("name the unit")
    );
}

#[test]
fn an_upstream_that_is_the_agent_is_refused() {
    let with = |listen: &str, upstream: &str| {
        load(format!(
            "listen: {{addresses: [{listen}]}}\nzones: [{{name: ., upstreams: ['{upstream}']}}]\n"
        ))
    };
    for (listen, upstream) in [
        ("169.254.20.10", "169.254.20.10"),
        ("169.254.20.10", "169.254.20.10:53"),
        ("0.0.0.0", "192.0.2.7"),
        ("0.0.0.0", "127.0.0.1:53"),
        ("'::'", "::1"),
        ("'fd00::1'", "[fd00::1]:53"),
    ] {
        let shown = show(&with(listen, upstream).unwrap_err());
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with("FILE:2:31: zones[0].upstreams[0]: found the upstream"));
        assert!(shown[0].contains("would ask itself"), "{shown:?}");
    }
    for (listen, upstream) in [
        ("169.254.20.10", "169.254.20.10:5353"),
        ("169.254.20.10", "192.0.2.7"),
        ("0.0.0.0", "192.0.2.8"),
        ("0.0.0.0", "::1"),
        ("'::'", "192.0.2.7"),
    ] {
        let loaded = with(listen, upstream);
        assert!(loaded.is_ok(), "{listen} {upstream}: {loaded:?}");
    }
}

#[test]
fn the_addresses_of_this_host_are_known() {
    let file =
        File::new("listen: {addresses: [0.0.0.0]}\nzones: [{name: ., upstreams: [127.0.0.1]}]\n");
    let problems = Config::load(&file.sources()).unwrap_err();
    assert!(
        problems[0].message.contains("would ask itself"),
        "{problems:?}"
    );
}

#[test]
fn addresses_to_listen_on_are_those_of_hosts() {
    for (address, reason) in [
        ("fe80::1", "link-local"),
        ("224.0.0.251", "multicast"),
        ("ff02::fb", "multicast"),
        ("255.255.255.255", "broadcast"),
    ] {
        let shown = problem(&format!("listen: {{addresses: ['{address}']}}\n"));
        assert!(
            shown.contains("expected an address of this host") && shown.contains(reason),
            "{shown}"
        );
    }
    let twice = problem("listen: {addresses: ['::1', '0:0::1']}\n");
    assert!(twice.contains("listen.addresses[1]: found ::1 again, expected each address once (it is listen.addresses[0] too)"));
    config("listen: {addresses: [0.0.0.0, '::']}\n");
}

#[test]
fn health_and_metrics_keep_off_the_port_of_the_clients() {
    let shown = problem("listen: {port: 5300}\nadmin: {metrics: '169.254.20.10:5300'}\n");
    assert!(
        shown.contains(
            "admin.metrics: found 169.254.20.10:5300, expected another port than listen.port"
        ),
        "{shown}"
    );
    assert!(problem("admin: {health: '0.0.0.0:53'}\n").contains("admin.health"));
    assert!(problem("admin: {health: '[::]:53'}\n").contains("admin.health"));
    assert_eq!(problems(format!("{ROOT}listen: {{port: 9254}}\n")).len(), 1);
    config("admin: {health: '127.0.0.1:53'}\n");
    config("admin: {health: '169.254.20.10:9000', metrics: '169.254.20.10:9000'}\n");
    config("listen: {port: 0}\nadmin: {health: '169.254.20.10:0', metrics: '169.254.20.10:0'}\n");
    let alone = config("admin: {metrics: 192.0.2.7, health: 'fd00::7'}\n").admin;
    assert_eq!(alone.metrics.value.to_string(), "192.0.2.7:9253");
    assert_eq!(alone.health.value.to_string(), "[fd00::7]:9254");
    let wildcard = config("listen: {addresses: ['::']}\n").admin;
    assert_eq!(wildcard.health.value.to_string(), "[::]:9254");
}

#[test]
fn further_addresses_are_others_than_those_of_health_and_metrics() {
    for (admin, shown) in [
        (
            "also: [127.0.0.1:9353, 127.0.0.1:9353]",
            "admin.also[1]: found 127.0.0.1:9353 again, expected each address once (it is admin.also[0] too)",
        ),
        (
            "also: ['[::1]:9353'], metrics: '[::1]:9353'",
            "admin.also[0]: found [::1]:9353 again, expected each address once (it is admin.metrics too)",
        ),
        (
            "also: 169.254.20.10:9254",
            "admin.also: found 169.254.20.10:9254 again, expected each address once (it is admin.health too)",
        ),
    ] {
        let problem = problem(&format!("admin: {{{admin}}}\n"));
        assert!(problem.contains(shown), "{problem}");
    }
    // The kernel gives what comes to an address to whoever has it more closely.
    config("admin: {also: [0.0.0.0:9353], metrics: 127.0.0.1:9353}\n");
}

#[test]
fn zones_are_distinct_and_their_upstreams_counted() {
    let shown = problems(
        "zones:\n- {name: ., upstreams: [10.0.0.1]}\n- {name: a.B, upstreams: [10.0.0.1]}\n- {name: A.b., upstreams: [10.0.0.2]}\n",
    );
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with("FILE:4:10: zones[2].name: found the zone a.b. again, expected each zone once (it is zones[1] too)"));

    let many: Vec<_> = (1..=16).map(|last| format!("10.0.0.{last}")).collect();
    let zones =
        |list: &[String]| format!("zones: [{{name: ., upstreams: [{}]}}]\n", list.join(", "));
    assert!(problems(zones(&many))[0].contains("found 16 upstreams, expected 1 to 15"));
    assert!(load(zones(&many[..15])).is_ok());
    assert!(problems(zones(&[]))[0].contains("found 0 upstreams, expected 1 to 15"));

    let list: Vec<_> = (0..101)
        .map(|n| format!("- {{name: z{n}, upstreams: [10.0.0.1]}}\n"))
        .collect();
    let shown = problems(format!(
        "zones:\n- {{name: ., upstreams: [10.0.0.1]}}\n{}",
        list.concat()
    ));
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].contains("found 102 zones, expected at most 100"));

    let twice = load("zones: [{name: ., upstreams: [10.0.0.1, '10.0.0.1:53']}]\n").unwrap();
    assert_eq!(twice.config.zones[1].upstreams.len(), 1);
    assert!(twice.warnings[0].message.contains("counts once"));
}

#[test]
fn an_upstream_is_one_server_that_can_be_sent_to() {
    for upstream in [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "fe80::1",
        "dns.example",
        "10.0.0.1:0",
    ] {
        let shown = problems(format!("zones: [{{name: ., upstreams: ['{upstream}']}}]\n"));
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(
            shown[0].contains("zones[0].upstreams[0]: found"),
            "{shown:?}"
        );
    }
}

/// A certificate of an authority, PEM.
fn authority() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn a_transport_is_tcp_udp_or_tls_with_its_port_name_and_authorities() {
    let ca = File::new(authority());
    let path = ca.path.display();
    let loaded = load(format!(
        "zones:\n  - {{name: ., upstreams: [10.0.0.1]}}\n  \
         - {{name: u, upstreams: [10.0.0.1], transport: udp}}\n  \
         - {{name: t, upstreams: [10.0.0.1, '10.0.0.2:8853'], transport: tls, caFile: {path}, \
         serverName: dns.example.}}\n  \
         - {{name: a, upstreams: [10.0.0.1], transport: tls, caFile: {path}}}\n"
    ));
    let config = loaded.unwrap().config;
    let zone = |name: &str| {
        let mut zones = config.zones.iter();
        zones.find(|zone| zone.name.to_string() == name).unwrap()
    };
    assert_eq!(zone(".").transport, Transport::Tcp);
    assert_eq!(zone("u.").transport, Transport::Udp);
    assert_eq!(upstreams(zone("u.")), ["10.0.0.1:53"]);
    assert_eq!(upstreams(zone("t.")), ["10.0.0.1:853", "10.0.0.2:8853"]);
    let tls = |name: Option<&str>| {
        Transport::Tls(Tls {
            server_name: name.map(|name| name.to_owned().try_into().unwrap()),
            ca_file: ca.path.clone(),
        })
    };
    assert_eq!(zone("t.").transport, tls(Some("dns.example")));
    assert_eq!(zone("a.").transport, tls(None));
}

#[test]
fn what_is_wrong_with_tls_is_told_with_its_place_and_all_in_one_go() {
    let garbage = File::new("not a certificate");
    let cut = File::new("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (garbage, cut) = (garbage.path.display(), cut.path.display());
    let shown = problems(format!(
        "zones:\n  - {{name: ., transport: tls, upstreams: [10.0.0.1], caFile: {garbage}}}\n  \
         - {{name: b, transport: tls, upstreams: [10.0.0.1], caFile: {cut}}}\n  \
         - {{name: c, transport: tls, upstreams: [10.0.0.1], caFile: /nonexistent/ca.pem}}\n  \
         - {{name: d, transport: udp, upstreams: [10.0.0.1], serverName: dns.example}}\n  \
         - {{name: e, transport: tls, upstreams: [10.0.0.1], serverName: a b, caFile: /dev/zero}}\n"
    ));
    for (told, words) in shown.iter().zip([
        [
            "FILE:2:62: zones[0].caFile: ",
            "found no PEM certificate",
            "-----BEGIN CERTIFICATE",
        ],
        [
            "FILE:3:62: zones[1].caFile: ",
            "a certificate that cannot be read",
            "openssl x509",
        ],
        [
            "FILE:4:62: zones[2].caFile: ",
            "found no such file",
            "correct the path",
        ],
        [
            "FILE:5:66: zones[3].serverName: ",
            "`transport: tls` alone",
            "remove the key",
        ],
        [
            "FILE:6:66: zones[4].serverName: ",
            "the name in the servers' certificates",
            "dns.example.org",
        ],
        ["FILE:6:79: zones[4].caFile: ", "a device", "regular file"],
    ]) {
        for word in words {
            assert!(told.contains(word), "{word} in {told}");
        }
    }
    assert_eq!(shown.len(), 6, "{shown:?}");
}

#[test]
fn addresses_come_from_variables_by_name() {
    let file = File::new(
        "cluster: {dnsService: ['env:KUBE_DNS_SERVICE_HOST']}\n\
         intercept: {fallback: 'env:NODENS_FALLBACK_SERVICE_HOST'}\n\
         zones: [{name: ., upstreams: ['env:KUBE_DNS_UPSTREAM_SERVICE_HOST', 'env:OTHER']}]\n",
    );
    let mut sources = file.sources();
    assert_eq!(
        show(&load_from(&sources).unwrap_err())[2..],
        [
            "FILE:3:31: zones[0].upstreams[0]: found \"env:KUBE_DNS_UPSTREAM_SERVICE_HOST\", \
             expected the environment variable KUBE_DNS_UPSTREAM_SERVICE_HOST, which Kubernetes \
             sets for the Service kube-dns-upstream, and it is not set; create the Service \
             kube-dns-upstream in the pod's namespace, then start the pod anew: the Service must \
             exist before the pod starts, and the pod's enableServiceLinks must not be false",
            "FILE:3:69: zones[0].upstreams[1]: found \"env:OTHER\", expected the environment \
             variable OTHER, and it is not set; set OTHER, or write the address itself",
        ]
    );
    sources.environment = variables(&[
        ("KUBE_DNS_SERVICE_HOST", "10.96.0.10"),
        ("NODENS_FALLBACK_SERVICE_HOST", "10.96.0.51"),
        ("KUBE_DNS_UPSTREAM_SERVICE_HOST", "10.96.0.50"),
        ("OTHER", "[fd00::50]:5353"),
    ]);
    let loaded = load_from(&sources).unwrap();
    assert_eq!(
        addresses(&loaded.config.cluster.dns_service),
        ["10.96.0.10"]
    );
    assert_eq!(addresses(&loaded.config.intercept.fallback), ["10.96.0.51"]);
    let root = loaded.config.zones.last().unwrap();
    assert_eq!(upstreams(root), ["10.96.0.50:53", "[fd00::50]:5353"]);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);

    sources
        .environment
        .insert("OTHER".to_owned(), "nowhere".to_owned());
    let shown = show(&load_from(&sources).unwrap_err());
    assert!(
        shown[0].contains("in the environment variable OTHER, which holds \"nowhere\""),
        "{shown:?}"
    );
}

#[test]
fn upstreams_come_from_the_nameservers_of_a_resolv_conf() {
    let with = |content: &str| {
        let resolv = File::new(content);
        let path = resolv.path.display();
        load(format!("zones: [{{name: ., resolv.conf: {path}}}]\n"))
    };
    let good = with(
        "# made by hand\nsearch example\nnameserver 192.0.2.53\n nameserver\tfd00::53 # two\n\
         nameserver 192.0.2.53\noptions edns0\n;nameserver 192.0.2.54\n",
    );
    let config = good.unwrap().config;
    let root = config.zones.last().unwrap();
    assert_eq!(upstreams(root), ["192.0.2.53:53", "[fd00::53]:53"]);
    let origin = root.upstreams[0].origin.to_string();
    assert!(origin.ends_with(":1:32: zones[0].resolv.conf"), "{origin}");

    for (content, message) in [
        ("search example\n", "found no nameserver line"),
        (
            "nameserver 127.0.0.53\n",
            "found the loopback address 127.0.0.53 on its line 1",
        ),
        (
            "\nnameserver ::1\n",
            "found the loopback address ::1 on its line 2",
        ),
        ("nameserver 169.254.20.10\n", "would ask itself"),
        (
            "nameserver dns.example\n",
            "found \"dns.example\" on its line 1",
        ),
        ("nameserver\n", "found \"\" on its line 1"),
        ("nameserver fe80::1%none0\n", "found \"fe80::1%none0\""),
    ] {
        let shown = show(&with(content).unwrap_err());
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].contains(message), "{shown:?}");
        assert!(shown[0].contains("zones[0].resolv.conf"), "{shown:?}");
    }
    let missing = problems("zones: [{name: ., resolv.conf: /nonexistent/resolv.conf}]\n");
    assert_eq!(
        missing,
        [
            "FILE:1:32: zones[0].resolv.conf: /nonexistent/resolv.conf: found no such file, \
          expected a resolv.conf; create it, or correct the path"
        ]
    );
    let both =
        problems("zones: [{name: ., upstreams: [10.0.0.1], resolv.conf: /etc/resolv.conf}]\n");
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0].contains("found upstreams and resolv.conf in one zone, expected one of the two")
    );
}

#[test]
fn lifetimes_of_zero_and_words_of_the_log_are_taken() {
    let config = load("zones: [{name: ., upstreams: [10.0.0.1], maxTtl: 0s, maxNegativeTtl: 0s}]\nlog: {level: debug, format: json}\n")
        .unwrap()
        .config;
    assert_eq!(
        (config.zones[0].max_ttl, config.zones[1].max_negative_ttl),
        (0, 0)
    );
    assert_eq!(
        config.log,
        Log {
            level: tracing::Level::DEBUG,
            json: Some(true)
        }
    );
    assert!(problem("log: {level: INFO}\n").ends_with("did you mean info?"));
}

#[test]
fn what_a_reload_does_not_apply_needs_a_restart() {
    let mut in_table: Vec<_> = KEYS
        .iter()
        .filter(|key| !key.reload && key.path != "version")
        .map(|key| key.path)
        .collect();
    let old = config("");
    let mut compared: Vec<_> = restart::compare(&old, &old).map(|(path, _)| path).to_vec();
    in_table.sort_unstable();
    compared.sort_unstable();
    assert_eq!(in_table, compared);

    for (yaml, expected) in [
        (
            "cluster: {domain: a.b, dnsService: 10.96.0.10}\n",
            &["cluster.domain", "cluster.dnsService"][..],
        ),
        (
            "listen: {addresses: [127.0.0.1]}\n",
            &["listen.addresses", "admin.health", "admin.metrics"],
        ),
        (
            "listen: {port: 54, udpSize: 512, tcpIdle: 1s}\n",
            &["listen.port", "listen.udpSize", "listen.tcpIdle"],
        ),
        (
            "listen: {tcpConnections: 1, tcpConnectionsPerClient: 1}\n",
            &["listen.tcpConnections", "listen.tcpConnectionsPerClient"],
        ),
        (
            "intercept: {enabled: true, interface: x, fallback: 10.0.0.1, deadAfter: 2s}\n",
            &[
                "intercept.enabled",
                "intercept.interface",
                "intercept.fallback",
                "intercept.deadAfter",
            ],
        ),
        (
            "intercept: {redirectTo: 169.254.20.20}\n",
            &["intercept.redirectTo"],
        ),
        ("workers: 1\n", &["workers"]),
        (
            "admin: {health: 127.0.0.1, metrics: 127.0.0.1, socket: /x}\n",
            &["admin.health", "admin.metrics", "admin.socket"],
        ),
        ("log: {format: json, level: debug}\n", &["log.format"]),
        (
            "cache: {size: 1MiB, staleFor: 0s, prefetch: false}\nlimits: {inFlight: 1}\n",
            &[],
        ),
        // The same value, written where there was a default.
        (
            "\n\nlisten: {addresses: [169.254.20.10], port: 53}\nadmin: {health: '169.254.20.10:9254'}\n",
            &[],
        ),
    ] {
        assert_eq!(old.needs_restart(&config(yaml)), expected, "{yaml}");
    }
}

/// The example of the documentation with bytes changed, removed and repeated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let example = "version: 1\ncluster:\n  domain: cluster.local\n  dnsService: [10.96.0.10]\n\
        listen:\n  addresses: [169.254.20.10, '::1']\n  port: 53\nworkers: auto\n\
        cache: { size: 64MiB, staleFor: 1h, prefetch: true }\nzones:\n  - name: \".\"\n    \
        upstreams: &up [10.96.0.50, 'env:X']\n    transport: tcp\n  - {name: a, upstreams: *up}\n";
    let edit = (any::<prop::sample::Index>(), 0..4u8, any::<u8>());
    prop::collection::vec(edit, 1..12).prop_map(move |edits| {
        let mut bytes = example.as_bytes().to_vec();
        for (index, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = b"-:[]{}&*!|>'\"%@` \t\n#,?"[usize::from(byte) % 22],
                1 => bytes[at] = byte,
                2 => {
                    bytes.remove(at);
                }
                _ => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.extend(part);
                }
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_mutated_file_is_loaded_or_refused_with_places(bytes in mutated()) {
        if let Err(problems) = load(&bytes) {
            prop_assert!(!problems.is_empty());
            for problem in &problems {
                prop_assert!(!problem.to_string().contains('\n'));
                if let Origin::File { line, column, .. } = problem.origin {
                    prop_assert!(line >= 1 && column >= 1, "{}", problem);
                    prop_assert!(line <= bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count() + 1);
                }
            }
        }
    }

    #[test]
    fn random_bytes_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = load(&bytes);
    }
}

#[test]
fn a_command_that_needs_few_keys_is_kept_by_problems_of_these_alone() {
    let file = File::new(
        "admin: {socket: /x/a.sock}\nintercept: {interface: 'a b', fallback: no}\nlimits: {x: 1}\n",
    );
    assert!(Config::load(&file.sources()).is_err());
    let config = Config::load_for(&file.sources(), &["admin.socket"]).unwrap();
    assert_eq!(config.admin.socket.value, Path::new("/x/a.sock"));
    let problems = Config::load_for(&file.sources(), &["intercept.interface"]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].to_string().contains("intercept.interface"),
        "{problems:?}"
    );
    let mut sources = file.sources();
    sources.flags.insert("admin.socket", "relative".to_owned());
    assert!(Config::load_for(&sources, &["admin.socket"]).is_err());
    let broken = File::new("admin: {socket: /x/a.sock\n");
    assert!(Config::load_for(&broken.sources(), &["admin.socket"]).is_err());
    // No file, no zone: enough for a command by hand.
    assert!(Config::load_for(&Sources::default(), &["admin.socket"]).is_ok());
}

#[test]
fn what_is_wrong_in_a_corefile_keeps_no_command_that_needs_nothing_of_it() {
    let scratch = Scratch::new();
    let file = scratch.write("Corefile", ".:53 {\n  file /x\n  forward . 10.0.0.1\n}\n");
    let sources = |node_cache| Sources {
        corefile: Some(node_cache),
        ..Sources::default()
    };
    let node_cache = corefile::NodeCache {
        local_ips: vec!["169.254.20.10".to_owned()],
        interface: Some("cache0".to_owned()),
        ..corefile::NodeCache::new(file)
    };
    assert!(Config::load(&sources(node_cache.clone())).is_err());
    let config = Config::load_for(&sources(node_cache), &["intercept.interface"]).unwrap();
    assert_eq!(config.intercept.interface, "cache0");
    let absent = corefile::NodeCache::new(scratch.at("absent"));
    assert!(Config::load_for(&sources(absent), &["intercept.interface"]).is_err());
}

#[test]
fn more_rules_than_may_be_are_refused_with_a_number_that_explains_it() {
    let zone = |name: &str, rules: usize| {
        let rules = vec!["\"A a.example NOERROR\""; rules].join(", ");
        format!("{{name: {name}, upstreams: [192.0.2.1], answers: [{rules}]}}")
    };
    let problems = |zones: &[String]| {
        let sources = Sources {
            default_file: "/nonexistent/nodens.yaml".into(),
            flags: [("zones", format!("[{}]", zones.join(", ")))].into(),
            ..Sources::default()
        };
        let problems = Config::load(&sources).unwrap_err();
        problems.iter().map(ToString::to_string).collect::<String>()
    };
    let told = problems(&[zone(".", 65_537)]);
    assert!(
        told.contains("found 65537 rules, expected at most 65536 in all zones"),
        "{told}"
    );
    let told = problems(&[zone(".", 65_500), zone("a.example", 37)]);
    let wanted = "found 37 rules behind 65500 of other zones, expected at most 65536 in all zones";
    assert!(told.contains(wanted), "{told}");
}
