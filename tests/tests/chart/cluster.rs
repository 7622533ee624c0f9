// SPDX-License-Identifier: Apache-2.0
//! What the chart makes of what a cluster has already: Helm asks an API server that says what the
//! test has it say.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nodens_tests::helm::{self, Rendered};
use serde_json::{Value, json};

use super::{check, notes_of};

/// An API server on 127.0.0.1 that has some objects, by their paths in kube-system.
pub(super) struct Cluster {
    port: u16,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn resources(group_version: &str, all: &[(&str, &str)]) -> Value {
    let one = |(name, kind): &(&str, &str)| json!({ "name": name, "kind": kind, "namespaced": true, "verbs": ["get", "list"] });
    let all: Vec<_> = all.iter().map(one).collect();
    json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": all })
}

fn answer(objects: &BTreeMap<String, Value>, path: &str) -> (u16, Value) {
    let core = "/api/v1/namespaces/kube-system/";
    let apps = "/apis/apps/v1/namespaces/kube-system/";
    let name = path.strip_prefix(core).or_else(|| path.strip_prefix(apps));
    let found = match path {
        "/version" => json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.0" }),
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/apis" => {
            let version = json!({ "groupVersion": "apps/v1", "version": "v1" });
            let group = json!({
                "name": "apps", "versions": [version], "preferredVersion": version,
            });
            json!({ "kind": "APIGroupList", "groups": [group] })
        }
        "/api/v1" => resources(
            "v1",
            &[("services", "Service"), ("configmaps", "ConfigMap")],
        ),
        "/apis/apps/v1" => resources(
            "apps/v1",
            &[
                ("daemonsets", "DaemonSet"),
                ("controllerrevisions", "ControllerRevision"),
            ],
        ),
        _ => match name.and_then(|name| objects.get(name)) {
            Some(object) => object.clone(),
            None => {
                return (
                    404,
                    json!({ "kind": "Status", "reason": "NotFound", "code": 404 }),
                );
            }
        },
    };
    (200, found)
}

impl Cluster {
    /// `objects` are named like `services/kube-dns`; a kind alone is a list.
    pub(super) fn with(objects: &[(&str, Value)]) -> Self {
        let pairs = objects.iter();
        let objects: BTreeMap<_, _> = pairs
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for socket in listener.incoming() {
                if over.load(Relaxed) {
                    break;
                }
                let mut socket = socket.unwrap();
                let patience = Some(Duration::from_secs(5));
                socket.set_read_timeout(patience).unwrap();
                let mut request = Vec::new();
                let mut octet = [0; 1];
                while !request.ends_with(b"\r\n\r\n") && socket.read(&mut octet).unwrap_or(0) == 1 {
                    request.extend(octet);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let Some(path) = request.split(' ').nth(1) else {
                    continue;
                };
                let path = path.split('?').next().unwrap();
                let (status, body) = answer(&objects, path);
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all((head + &body).as_bytes());
            }
        });
        Self {
            port,
            is_over,
            thread: Some(thread),
        }
    }

    /// What Helm is told to ask it.
    pub(super) fn arguments(&self) -> [String; 3] {
        [
            "--dry-run=server".to_owned(),
            "--kube-apiserver".to_owned(),
            format!("http://127.0.0.1:{}", self.port),
        ]
    }

    fn render(&self, arguments: &[&str]) -> Result<Rendered, String> {
        let ours = self.arguments();
        let mut all: Vec<&str> = ours.iter().map(String::as_str).collect();
        all.extend(arguments);
        helm::template(&all).map_err(|error| error.to_string())
    }
}

fn service(addresses: &[&str]) -> (&'static str, Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kube-dns" },
        "spec": {
            "clusterIPs": addresses,
            "selector": { "app": "the-dns" },
            "ports": [
                { "protocol": "TCP", "port": 9153, "targetPort": 9153 },
                { "protocol": "UDP", "port": 53, "targetPort": 1053 },
                { "protocol": "TCP", "port": 53, "targetPort": "dns-tcp" },
            ],
        },
    });
    ("services/kube-dns", object)
}

fn list(kind: &str, items: &[Value]) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": kind, "items": items })
}

fn daemon_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/part-of": "nodens", "app.kubernetes.io/instance": "first",
            },
        },
        "spec": { "template": { "spec": { "hostNetwork": true } } },
    })
}

#[test]
fn the_cluster_says_where_its_dns_is_and_what_serves_it() {
    let cluster = Cluster::with(&[service(&["10.43.0.10"])]);
    let rendered = cluster.render(&[]).unwrap();
    assert!(rendered.configuration().0.contains("- 10.43.0.10"));
    for name in ["nodens-upstream", "nodens-fallback"] {
        let spec = &rendered.one("Service", name)["spec"];
        assert_eq!(spec["selector"], json!({ "app": "the-dns" }));
        assert_eq!(spec["ports"][0]["targetPort"], 1053);
        assert_eq!(spec["ports"][1]["targetPort"], "dns-tcp");
    }
    // What is given is stronger.
    let given = cluster.render(&["--set", "coredns.selector.x=y,coredns.port=5353"]);
    let given = given.unwrap();
    let spec = &given.one("Service", "nodens-upstream")["spec"];
    assert_eq!(spec["selector"], json!({ "x": "y" }));
    assert_eq!(spec["ports"][1]["targetPort"], 5353);
}

#[test]
fn a_service_of_two_families_is_steered_as_far_as_there_are_addresses_and_the_rest_is_told() {
    for addresses in [["10.43.0.10", "fd00:43::a"], ["fd00:43::a", "10.43.0.10"]] {
        let cluster = Cluster::with(&[service(&addresses)]);
        let rendered = cluster.render(&[]).unwrap();
        let (is_taken, said) = check(&rendered);
        assert!(is_taken, "{said}");
        assert!(!said.contains("fd00:43::a"), "{said}");
        let said = notes_of(&cluster.arguments(), &[]);
        let expected = "Queries to fd00:43::a are not steered: listen.addresses has no address of its \
                        family, such as fd00:4e4f::10.";
        assert!(said.contains(expected), "{said}");

        let both = ["--set", "listen.addresses={169.254.20.10,fd00:4e4f::10}"];
        let rendered = cluster.render(&both).unwrap();
        let (is_taken, said) = check(&rendered);
        assert!(is_taken, "{said}");
        assert!(said.contains("fd00:43::a"), "{said}");
        let said = notes_of(&cluster.arguments(), &both);
        assert!(!said.contains("not steered"), "{said}");
    }
}

#[test]
fn a_service_without_an_address_that_could_be_steered_is_refused_with_the_value_to_add() {
    let cluster = Cluster::with(&[service(&["fd00:43::a"])]);
    let said = cluster.render(&[]).unwrap_err();
    assert!(
        said.contains("--set listen.addresses={fd00:4e4f::10}"),
        "{said}"
    );
    let cluster = Cluster::with(&[service(&["None"])]);
    let said = cluster.render(&[]).unwrap_err();
    assert!(said.contains("cluster.dnsService is not set"), "{said}");
}

#[test]
fn configurations_that_revisions_name_are_kept_and_what_is_somebody_elses_is_not_touched() {
    let revision = json!({
        "metadata": { "ownerReferences": [{ "kind": "DaemonSet", "name": "nodens" }] },
        "data": { "spec": { "template": { "spec": { "volumes": [
            { "name": "config", "configMap": { "name": "nodens-config-old" } },
            { "name": "ca", "configMap": { "name": "corp-ca" } },
            { "name": "run", "hostPath": { "path": "/run/nodens" } },
        ] } } } },
    });
    let other = json!({ "metadata": { "name": "other" }, "data": { "raw": "x" } });
    let map = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
            "data": { "nodens.yaml": "version: 1\n# old\n" },
        })
    };
    let cluster = Cluster::with(&[
        service(&["10.96.0.10"]),
        (
            "controllerrevisions",
            list("ControllerRevisionList", &[revision, other]),
        ),
        ("configmaps/nodens-config-old", map("nodens-config-old")),
        ("configmaps/corp-ca", map("corp-ca")),
    ]);
    let rendered = cluster.render(&[]).unwrap();
    let kept = rendered.one("ConfigMap", "nodens-config-old");
    assert_eq!(kept["data"]["nodens.yaml"], "version: 1\n# old\n");
    assert_eq!(kept["immutable"], true);
    assert_eq!(rendered.all("ConfigMap").len(), 2, "{:?}", rendered.names());
}

#[test]
fn services_of_earlier_values_stay_until_the_uninstallation() {
    let there = |instance: &str| {
        let labels = json!({ "app.kubernetes.io/instance": instance });
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "x", "labels": labels }, "spec": {},
        })
    };
    let cluster = Cluster::with(&[
        service(&["10.96.0.10"]),
        ("services/nodens-fallback", there("nodens")),
        ("services/nodens-upstream6", there("nodens")),
        ("services/nodens-fallback6", there("another")),
    ]);
    let rendered = cluster
        .render(&["--set", "intercept.fallback=false"])
        .unwrap();
    let _ = rendered.one("Service", "nodens-upstream");
    let _ = rendered.one("Service", "nodens-fallback");
    let families = &rendered.one("Service", "nodens-upstream6")["spec"]["ipFamilies"];
    assert_eq!(families, &json!(["IPv6"]));
    assert_eq!(rendered.all("Service").len(), 3, "{:?}", rendered.names());
}

#[test]
fn a_second_nodens_on_the_nodes_is_refused_and_so_is_another_name_of_the_first() {
    let sets = |names: &[&str]| {
        let sets: Vec<_> = names.iter().map(|name| daemon_set(name)).collect();
        Cluster::with(&[
            service(&["10.96.0.10"]),
            ("daemonsets", list("DaemonSetList", &sets)),
        ])
    };
    sets(&["nodens"]).render(&[]).unwrap();
    let said = sets(&["first-nodens"]).render(&[]).unwrap_err();
    assert!(
        said.contains("first-nodens is a nodens already (release first)"),
        "{said}"
    );
    let said = sets(&["nodens"]).render(&["--set", "nameOverride=other"]);
    assert!(said.unwrap_err().contains("nameOverride"));
    // Others are none of ours; and ours is found by the label that is looked for.
    let mut other = daemon_set("kube-proxy");
    other["metadata"]["labels"] = json!({ "k8s-app": "kube-proxy" });
    let list = list("DaemonSetList", &[other]);
    let cluster = Cluster::with(&[service(&["10.96.0.10"]), ("daemonsets", list)]);
    let rendered = cluster.render(&[]).unwrap();
    let labels = &rendered.one("DaemonSet", "nodens")["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/part-of"], "nodens");
}

#[test]
fn interception_is_not_taken_away_from_nodes_that_have_it() {
    let sets = list("DaemonSetList", &[daemon_set("nodens")]);
    let cluster = Cluster::with(&[service(&["10.96.0.10"]), ("daemonsets", sets)]);
    let said = cluster.render(&["--set", "intercept.enabled=false"]);
    assert!(said.unwrap_err().contains("Uninstall it first"));
}
