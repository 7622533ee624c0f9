// SPDX-License-Identifier: Apache-2.0
//! The Helm chart, rendered by the real Helm: what its objects are, what it refuses, and that the
//! real agent takes every configuration that comes out of it.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod cluster;
mod daemonset;
mod monitoring;
mod refusals;
mod schema;
mod uninstall;
mod wait;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nodens_tests::agent::command;
use nodens_tests::helm::{self, Rendered};
use nodens_tests::process::TempDir;

/// The files with values of one kind of cluster each.
fn scenarios() -> Vec<PathBuf> {
    let entries = fs::read_dir(helm::chart().join("ci")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    files
}

fn render(scenario: &std::path::Path) -> Rendered {
    helm::template(&["--values", scenario.to_str().unwrap()]).unwrap()
}

/// What `nodens check` says of the configuration that is rendered, in the environment that its
/// container would have.
fn check(rendered: &Rendered) -> (bool, String) {
    let dir = TempDir::new().unwrap();
    let (text, services) = rendered.configuration();
    let file = dir.path().join("nodens.yaml");
    fs::write(&file, &text).unwrap();
    let container = &rendered.one("DaemonSet", "nodens")["spec"]["template"]["spec"]["containers"];
    let mut agent = command().unwrap();
    agent.args(["check", "--config"]).arg(&file).envs(services);
    for variable in container[0]["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        if let Some(value) = variable["value"].as_str() {
            // As kubelet would, from the field above it.
            let ip = if value.contains('[') || value == "$(HOST_IP)" {
                "fd00:9::1"
            } else {
                "192.0.2.9"
            };
            agent.env(name, value.replace("$(HOST_IP)", ip));
        }
    }
    let output = agent.output().unwrap();
    let said = format!("{}\n{text}", helm::said(&output));
    (output.status.success(), said)
}

#[test]
fn helm_finds_nothing_to_complain_of_in_any_scenario() {
    for scenario in scenarios() {
        let home = TempDir::new().unwrap();
        let output = helm::helm(&home)
            .unwrap()
            .args(["lint", "--strict", "--namespace", "kube-system", "--values"])
            .arg(&scenario)
            .arg(helm::chart())
            .output()
            .unwrap();
        let said = helm::said(&output);
        assert!(output.status.success(), "{}: {said}", scenario.display());
    }
}

#[test]
fn the_agent_takes_the_configuration_of_every_scenario_without_a_warning() {
    for scenario in scenarios() {
        let (is_taken, said) = check(&render(&scenario));
        let name = scenario.display();
        assert!(is_taken, "{name}: {said}");
        // There the agent rightly says that nobody answers in its place.
        let is_meant = scenario.ends_with("no-fallback-values.yaml");
        assert_eq!(said.contains("warning"), is_meant, "{name}: {said}");
    }
}

#[test]
fn every_object_is_in_no_other_namespace_and_carries_the_labels_of_the_release() {
    for scenario in scenarios() {
        for object in &render(&scenario).objects {
            let metadata = &object["metadata"];
            assert!(metadata["namespace"].is_null(), "{object}");
            let labels = &metadata["labels"];
            assert_eq!(labels["app.kubernetes.io/instance"], "nodens", "{object}");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{object}");
        }
    }
}

#[test]
fn a_configuration_that_changes_is_another_object_and_none_is_ever_changed() {
    let name = |rendered: &Rendered| {
        let map = rendered.all("ConfigMap")[0].clone();
        assert_eq!(map["immutable"], true);
        let name = map["metadata"]["name"].as_str().unwrap().to_owned();
        let set = rendered.one("DaemonSet", "nodens").to_string();
        assert!(set.contains(&name), "{set}");
        name
    };
    let before = name(&helm::with(&[]).unwrap());
    assert_eq!(name(&helm::with(&["cache.size=64MiB"]).unwrap()), before);
    assert_ne!(name(&helm::with(&["cache.size=65MiB"]).unwrap()), before);
    let other = name(&helm::with(&["config.log.level=debug"]).unwrap());
    assert_ne!(other, before);
    // What the agent is not told of does not make it start anew.
    let same = name(&helm::with(&["uninstall.force=true", "podMonitor.enabled=true"]).unwrap());
    assert_eq!(same, before);
}

#[test]
fn coredns_is_selected_by_a_service_of_each_use_and_family() {
    let families = |rendered: &Rendered| -> Vec<(String, String)> {
        let services = rendered.all("Service").into_iter();
        let of = |service: &serde_json::Value| {
            assert_eq!(service["spec"]["selector"]["k8s-app"], "kube-dns");
            assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
            let ports = service["spec"]["ports"].to_string();
            assert!(ports.contains("UDP") && ports.contains("TCP"), "{ports}");
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let family = text(&service["spec"]["ipFamilies"][0]);
            (text(&service["metadata"]["name"]), family)
        };
        services.map(of).collect()
    };
    let pair = |name: &str, family: &str| (name.to_owned(), family.to_owned());
    assert_eq!(
        families(&helm::with(&[]).unwrap()),
        [
            pair("nodens-upstream", "IPv4"),
            pair("nodens-fallback", "IPv4")
        ]
    );
    let dual = ["listen.addresses={169.254.20.10,fd00:4e4f::10}"];
    assert_eq!(
        families(&helm::with(&dual).unwrap()),
        [
            pair("nodens-upstream", "IPv4"),
            pair("nodens-fallback", "IPv4"),
            pair("nodens-fallback6", "IPv6"),
        ]
    );
    let without = ["intercept.fallback=false"];
    assert_eq!(
        families(&helm::with(&without).unwrap()),
        [pair("nodens-upstream", "IPv4")]
    );
    let other = helm::with(&["coredns.selector.app=dns"]);
    let other = other.unwrap();
    let selector = &other.one("Service", "nodens-upstream")["spec"]["selector"];
    assert_eq!(selector, &serde_json::json!({ "app": "dns" }));
}

#[test]
fn the_values_come_to_what_they_are_named_for() {
    let file = |values: &[&str]| {
        let (text, _) = helm::with(values).unwrap().configuration();
        nodens_tests::yaml::documents(&text).unwrap().remove(0)
    };
    let plain = file(&[]);
    assert_eq!(plain["cluster"]["dnsService"][0], "10.96.0.10");
    let upstream = &plain["zones"][0]["upstreams"][0];
    assert_eq!(upstream, "env:NODENS_UPSTREAM_SERVICE_HOST");
    let fallback = &plain["intercept"]["fallback"][0];
    assert_eq!(fallback, "env:NODENS_FALLBACK_SERVICE_HOST");
    assert_eq!(
        file(&["intercept.fallback=false"])["intercept"]["fallback"],
        "off"
    );
    assert_eq!(
        file(&["cluster.domain=k.example"])["cluster"]["domain"],
        "k.example"
    );
    let routes = file(&[
        "routes[0].name=corp.example",
        "routes[0].upstreams={192.0.2.53}",
    ]);
    assert_eq!(routes["zones"][0]["name"], ".");
    assert_eq!(routes["zones"][1]["name"], "corp.example");
    // The free form is merged over all of them, key by key.
    let free = file(&["config.cache.prefetch=false", "config.log.level=debug"]);
    assert_eq!(
        free["cache"],
        serde_json::json!({ "prefetch": false, "size": "64MiB" })
    );
    assert_eq!(free["log"]["level"], "debug");
}

/// What Helm prints at the end. Rendering alone leaves it out, so in a copy of the chart it is
/// rendered into an object.
fn notes(values: &[&str]) -> String {
    let mut arguments = vec!["--set", helm::DNS_SERVICE];
    for value in values {
        arguments.extend(["--set", value]);
    }
    notes_of(&[], &arguments)
}

fn notes_of(cluster: &[String], arguments: &[&str]) -> String {
    const OBJECT: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: notes }\ndata:\n  \
                          notes: |-\n    {{- tpl (.Files.Get \"NOTES\") . | nindent 4 }}\n";
    let dir = TempDir::new().unwrap();
    let chart = dir.path().join("nodens");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(helm::chart())
        .arg(&chart)
        .status();
    assert!(copied.unwrap().success());
    fs::rename(chart.join("templates/NOTES.txt"), chart.join("NOTES")).unwrap();
    fs::write(chart.join("templates/notes.yaml"), OBJECT).unwrap();
    let home = TempDir::new().unwrap();
    let mut helm = helm::helm(&home).unwrap();
    helm.args(["template", "nodens", "--namespace", "kube-system"])
        .args(["--show-only", "templates/notes.yaml"])
        .args(cluster)
        .args(arguments)
        .arg(&chart);
    let output = helm.output().unwrap();
    assert!(output.status.success(), "{}", helm::said(&output));
    let objects = nodens_tests::yaml::documents(&String::from_utf8_lossy(&output.stdout)).unwrap();
    objects[0]["data"]["notes"].as_str().unwrap().to_owned()
}

#[test]
fn it_prints_what_to_run_next() {
    let said = notes(&[]);
    for line in [
        "kubectl -n kube-system rollout status daemonset/nodens",
        "-- /nodens status",
        "netsetup check",
        "clusterDNS: [\"169.254.20.10\"]",
        "helm -n kube-system uninstall nodens",
    ] {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
    assert!(!said.contains("uninstall.force"), "{said}");
    // Before the first pods are ready there is nothing that a roll could wait for.
    assert!(said.contains("on all nodes at once"), "{said}");
    assert!(notes(&["uninstall.force=true"]).contains("uninstall.force"));
    let without = notes(&["intercept.enabled=false"]);
    assert!(without.contains("LocalRedirectPolicy"), "{without}");
    assert!(!without.contains("netsetup"), "{without}");
}
