// SPDX-License-Identifier: Apache-2.0
//! What the chart does not take, and what it says then.

use nodens_tests::helm;
use serde_json::json;

/// What Helm says to values that it refuses.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    match helm::template(arguments) {
        Ok(rendered) => panic!("{arguments:?} is taken: {:?}", rendered.names()),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn refused_with(value: &str) -> String {
    // --set would win over --set-json.
    let service = r#"cluster.dnsService=["10.96.0.10"]"#;
    refused(&["--set-json", service, "--set-json", value])
}

#[test]
fn a_cluster_that_cannot_be_asked_must_be_described() {
    let said = refused(&[]);
    assert!(said.contains("cluster.dnsService is not set"), "{said}");
    assert!(
        said.contains("--set cluster.dnsService={10.96.0.10}"),
        "{said}"
    );
    let said = refused(&["--set", "coredns.service=my-dns"]);
    assert!(said.contains("my-dns"), "{said}");
}

#[test]
fn a_namespace_without_coredns_is_refused_with_the_reason() {
    let said = refused(&["--set", helm::DNS_SERVICE, "--namespace", "dns"]);
    assert!(said.contains(r#"namespace is "dns""#), "{said}");
    assert!(
        said.contains("select pods of their own namespace"),
        "{said}"
    );
    let other = ["--namespace", "dns", "--set", "coredns.namespace=dns"];
    helm::template(&[&["--set", helm::DNS_SERVICE][..], &other].concat()).unwrap();
}

#[test]
fn what_two_places_would_have_to_agree_on_is_refused() {
    let said = refused_with(r#"config={"limits":{"drainTimeout":"30s"}}"#);
    assert!(said.contains("set drainSeconds instead"), "{said}");
    let said = refused_with(r#"config={"admin":{"health":"192.0.2.1"}}"#);
    assert!(said.contains("config.admin.health"), "{said}");
    let said = refused_with(r#"cache.size="512MiB""#);
    assert!(said.contains("resources.limits.memory"), "{said}");
    assert!(said.contains("608Mi"), "{said}");
    for enough in ["640Mi", "1Gi", "1G"] {
        let limit = format!("resources.limits.memory={enough}");
        helm::with(&["cache.size=512MiB", &limit]).unwrap();
    }
    helm::with(&["cache.size=512MiB", "resources.limits.memory=null"]).unwrap();
    let said = refused_with(r#"config={"cache":{"size":"1GiB"}}"#);
    assert!(said.contains("resources.limits.memory"), "{said}");
}

#[test]
fn tls_without_authorities_to_trust_is_refused() {
    for key in ["routes", "config.zones"] {
        let zone = r#"[{"name":"corp.example","upstreams":["192.0.2.53"],"transport":"tls"}]"#;
        let said = refused_with(&format!("{key}={zone}"));
        assert!(said.contains("corp.example"), "{said}");
        assert!(said.contains("extraVolumeMounts"), "{said}");
    }
}

#[test]
fn a_file_that_is_mounted_alone_is_refused_as_it_never_changes() {
    let mount = r#"[{"name":"ca","mountPath":"/etc/ca.crt","subPath":"ca.crt"}]"#;
    let said = refused_with(&format!("extraVolumeMounts={mount}"));
    assert!(said.contains("subPath"), "{said}");
}

#[test]
fn a_misspelt_key_is_refused_by_its_path() {
    let mut wrong = vec![("nodeSelecter", "'nodeSelecter'".to_owned())];
    for section in [
        "cache",
        "cluster",
        "coredns",
        "dashboard",
        "image",
        "intercept",
        "listen",
        "metrics",
        "podMonitor",
        "prometheusRule",
        "resources",
        "uninstall",
        "affinity",
        "seLinuxOptions",
    ] {
        wrong.push((section, format!("/{section}")));
    }
    for (key, path) in wrong {
        let value = match key {
            "nodeSelecter" => json!("x"),
            _ => json!({ "wrong-key": 1 }),
        };
        let said = refused_with(&format!("{key}={value}"));
        assert!(said.contains(&path), "{key}: no {path} in {said}");
        let name = if key == "nodeSelecter" {
            key
        } else {
            "wrong-key"
        };
        assert!(said.contains(name), "{said}");
        assert!(said.contains("additional properties"), "{said}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_by_its_path() {
    for (value, path) in [
        (r#"cache.size="64 megabytes""#, "/cache/size"),
        (r#"cache.size=true"#, "/cache/size"),
        (r#"cluster.dnsService="10.96.0.10""#, "/cluster/dnsService"),
        (
            r#"cluster.dnsService=["kube-dns"]"#,
            "/cluster/dnsService/0",
        ),
        (r#"coredns.port="dns""#, "/coredns/port"),
        (r#"drainSeconds="5s""#, "/drainSeconds"),
        (r#"image.digest="latest""#, "/image/digest"),
        (r#"image.pullPolicy="always""#, "/image/pullPolicy"),
        (r#"intercept.enabled="yes""#, "/intercept/enabled"),
        (r#"listen.addresses=[]"#, "/listen/addresses"),
        (r#"metrics.port=70000"#, "/metrics/port"),
        (r#"routes=[{"upstreams":["192.0.2.1"]}]"#, "/routes/0"),
        (
            r#"routes=[{"name":"x","upstream":["192.0.2.1"]}]"#,
            "/routes/0",
        ),
        (r#"uninstall.unusedFor=10"#, "/uninstall/unusedFor"),
        (r#"config={"cache":{"sice":"1MiB"}}"#, "/config/cache"),
        (r#"config={"cash":{}}"#, "/config"),
        (
            r#"config={"limits":{"inFlight":0}}"#,
            "/config/limits/inFlight",
        ),
        (r#"config={"log":{"level":"loud"}}"#, "/config/log/level"),
        (r#"config={"zones":[{"nome":"."}]}"#, "/config/zones/0"),
    ] {
        let said = refused_with(value);
        assert!(said.contains(&format!("'{path}'")), "{value}: {said}");
    }
}
