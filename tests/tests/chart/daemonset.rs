// SPDX-License-Identifier: Apache-2.0
//! The agent's pods.

use nodens_tests::helm;
use serde_json::{Value, json};

fn pod(values: &[&str]) -> Value {
    helm::with(values).unwrap().one("DaemonSet", "nodens")["spec"]["template"]["spec"].clone()
}

#[test]
fn it_runs_on_every_node_before_others_and_is_never_there_twice() {
    let rendered = helm::with(&[]).unwrap();
    let set = &rendered.one("DaemonSet", "nodens")["spec"];
    let update = json!({ "maxSurge": 0, "maxUnavailable": 1 });
    assert_eq!(set["updateStrategy"]["rollingUpdate"], update);
    let pod = &set["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["hostNetwork"], true);
    // On the node's network declared ports would be the node's.
    assert!(pod["containers"][0]["ports"].is_null());
}

#[test]
fn it_has_two_capabilities_and_nothing_else_that_it_could_do_without() {
    let pod = pod(&[]);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let security = &pod["containers"][0]["securityContext"];
    let capabilities = json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"] });
    assert_eq!(security["capabilities"], capabilities);
    assert_eq!(security["runAsUser"], 0);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert!(security["privileged"].is_null());
    let resources = &pod["containers"][0]["resources"];
    assert!(resources["limits"]["cpu"].is_null());
    assert!(resources["requests"]["cpu"].is_string());
    assert!(resources["requests"]["memory"].is_string());
}

#[test]
fn its_probes_fit_the_switch_and_ask_where_an_uninstallation_takes_nothing_away() {
    let pod = pod(&[]);
    let container = &pod["containers"][0];
    let number = |probe: &str, key: &str| container[probe][key].as_u64().unwrap();
    for (probe, path) in [
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/healthz"),
    ] {
        let page = &container[probe]["httpGet"];
        assert_eq!(
            page,
            &json!({ "path": path, "host": "127.0.0.1", "port": 9254 })
        );
        assert!(number(probe, "timeoutSeconds") > 1, "{probe}");
    }
    // The start waits up to 10 s for its first answers.
    let start =
        number("startupProbe", "periodSeconds") * number("startupProbe", "failureThreshold");
    assert!(start >= 30, "{start}");
    // Readiness says it soon, a restart comes long after the kernel has turned to CoreDNS.
    let ready =
        number("readinessProbe", "periodSeconds") * number("readinessProbe", "failureThreshold");
    assert!(ready <= 5, "{ready}");
    let dead =
        number("livenessProbe", "periodSeconds") * number("livenessProbe", "failureThreshold");
    assert!(dead >= 20, "{dead}");
    let rendered = helm::with(&[]).unwrap();
    let settle = &rendered.one("DaemonSet", "nodens")["spec"]["minReadySeconds"];
    assert!(settle.as_u64().unwrap() >= 2);
}

#[test]
fn it_takes_no_query_before_it_reaches_an_upstream() {
    let arguments = pod(&[])["containers"][0]["args"].clone();
    let expected = [
        "run",
        "--require-upstream",
        "--config",
        "/etc/nodens/nodens.yaml",
    ];
    assert_eq!(arguments, json!(expected));
}

#[test]
fn its_grace_fits_the_drain() {
    for (values, drain) in [(&[][..], 5), (&["drainSeconds=30"][..], 30)] {
        let rendered = helm::with(values).unwrap();
        let (text, _) = rendered.configuration();
        assert!(text.contains(&format!("drainTimeout: {drain}s")), "{text}");
        let grace = pod(values)["terminationGracePeriodSeconds"]
            .as_u64()
            .unwrap();
        // The kernel lets go first, within 2 s.
        assert!(grace >= drain + 5, "{grace}");
    }
}

#[test]
fn metrics_are_on_the_nodes_own_address() {
    let variable = |values: &[&str]| {
        let pod = pod(values);
        let all = pod["containers"][0]["env"].as_array().unwrap().clone();
        let one = all.iter().find(|one| one["name"] == "NODENS_ADMIN_METRICS");
        one.map(|one| one["value"].as_str().unwrap().to_owned())
    };
    // The node's address need not be of the family of the Service's first.
    assert_eq!(variable(&[]).unwrap(), "$(HOST_IP)");
    assert_eq!(variable(&["metrics.port=9999"]).unwrap(), "$(HOST_IP):9999");
    let v6 = [
        "cluster.dnsService={fd00:96::a}",
        "listen.addresses={fd00:4e4f::10}",
        "metrics.port=9999",
    ];
    assert_eq!(variable(&v6).unwrap(), "[$(HOST_IP)]:9999");
}

#[test]
fn without_interception_it_is_a_pod_like_others() {
    let rendered = helm::with(&["intercept.enabled=false"]).unwrap();
    let pod = &rendered.one("DaemonSet", "nodens")["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], false);
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["capabilities"]["add"], json!(["NET_BIND_SERVICE"]));
    assert!(!pod["volumes"].to_string().contains("hostPath"));
    let page = &pod["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!(page, &json!({ "path": "/readyz", "port": 9254 }));
    assert!(rendered.configuration().0.contains("- 0.0.0.0"));
    // Cilium's LocalRedirectPolicy finds ports by these names (docs/install.md).
    let ports = json!([
        { "name": "dns", "protocol": "UDP", "containerPort": 53 },
        { "name": "dns-tcp", "protocol": "TCP", "containerPort": 53 },
    ]);
    assert_eq!(pod["containers"][0]["ports"], ports);
    let install = std::fs::read_to_string(helm::root().join("docs/install.md")).unwrap();
    for port in [
        "{ name: dns, port: \"53\", protocol: UDP }",
        "{ name: dns-tcp, port: \"53\", protocol: TCP }",
    ] {
        assert!(install.contains(port), "{port}");
    }
    // Nothing is on the node, so nothing is to be removed.
    assert!(
        !rendered
            .names()
            .iter()
            .any(|name| name.contains("uninstall"))
    );
}

#[test]
fn images_are_named_by_tag_or_digest() {
    let image = |values: &[&str]| pod(values)["containers"][0]["image"].clone();
    let version = env!("CARGO_PKG_VERSION");
    let shipped = format!("ghcr.io/nodens-dns/nodens:{version}");
    assert_eq!(image(&[]), shipped);
    let chart = std::fs::read_to_string(helm::chart().join("Chart.yaml")).unwrap();
    assert!(chart.contains(&shipped), "{chart}");
    for key in ["version", "appVersion"] {
        assert!(chart.contains(&format!("\n{key}: {version}\n")), "{chart}");
    }
    assert_eq!(
        image(&["image.repository=r.example/n", "image.tag=x"]),
        "r.example/n:x"
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let value = format!("image.digest={digest}");
    let expected = format!("ghcr.io/nodens-dns/nodens@{digest}");
    assert_eq!(image(&[&value]), expected);
}

#[test]
fn a_release_of_another_name_has_services_and_variables_of_that_name() {
    let rendered = helm::with(&["nameOverride=dns-cache"]).unwrap();
    let _ = rendered.one("Service", "dns-cache-upstream");
    let _ = rendered.one("DaemonSet", "dns-cache");
    let (text, _) = rendered.configuration();
    assert!(
        text.contains("env:DNS_CACHE_UPSTREAM_SERVICE_HOST"),
        "{text}"
    );
}

#[test]
fn files_that_the_configuration_names_are_mounted() {
    let rendered = helm::template(&[
        "--set",
        helm::DNS_SERVICE,
        "--set-json",
        r#"routes=[{"name":"corp.example","upstreams":["192.0.2.53"],"transport":"tls","caFile":"/etc/ca/ca.crt"}]"#,
        "--set-json",
        r#"extraVolumes=[{"name":"ca","configMap":{"name":"corp-ca"}}]"#,
        "--set-json",
        r#"extraVolumeMounts=[{"name":"ca","mountPath":"/etc/ca","readOnly":true}]"#,
    ])
    .unwrap();
    let (text, _) = rendered.configuration();
    assert!(text.contains("caFile: /etc/ca/ca.crt"), "{text}");
    let pod = &rendered.one("DaemonSet", "nodens")["spec"]["template"]["spec"];
    let volume = json!({ "name": "ca", "configMap": { "name": "corp-ca" } });
    assert_eq!(pod["volumes"][2], volume);
    let mount = json!({ "name": "ca", "mountPath": "/etc/ca", "readOnly": true });
    assert_eq!(pod["containers"][0]["volumeMounts"][2], mount);
}

#[test]
fn a_release_of_any_name_has_services_that_may_be_called_so() {
    for (release, name) in [
        ("nodens", "nodens"),
        ("dns", "dns-nodens"),
        ("my.nodens", "my-nodens"),
        ("7nodens", "nodens-7nodens"),
        ("7", "nodens-7"),
    ] {
        let rendered = helm::template_as(release, &["--set", helm::DNS_SERVICE]).unwrap();
        let _ = rendered.one("Service", &format!("{name}-upstream"));
    }
}
