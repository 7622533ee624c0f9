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
    for (key, value, remedy) in [
        ("admin.health", json!("192.0.2.1"), "leave it out"),
        ("admin.metrics", json!("192.0.2.1"), "set metrics.port"),
        ("admin.socket", json!("/run/nodens/x"), "leave it out"),
        ("cache.size", json!("1GiB"), "set cache.size"),
        (
            "cluster.dnsService",
            json!(["10.96.0.11"]),
            "set cluster.dnsService",
        ),
        ("cluster.domain", json!("x"), "set cluster.domain"),
        ("intercept.enabled", json!(false), "set intercept.enabled"),
        ("intercept.fallback", json!("off"), "set intercept.fallback"),
        ("limits.drainTimeout", json!("30s"), "set drainSeconds"),
        (
            "listen.addresses",
            json!(["192.0.2.1"]),
            "set listen.addresses",
        ),
        ("listen.port", json!(54), "leave it out"),
    ] {
        let (section, name) = key.split_once('.').unwrap();
        let config = json!({ section: { name: value } });
        let said = refused_with(&format!("config={config}"));
        assert!(said.contains(&format!("config.{key}: {remedy}")), "{said}");
    }
    let zones = r#"config={"zones":[{"name":".","upstreams":["192.0.2.1"]}]}"#;
    let routes = r#"routes=[{"name":"x","upstreams":["192.0.2.1"]}]"#;
    let said = refused(&[
        "--set",
        helm::DNS_SERVICE,
        "--set-json",
        zones,
        "--set-json",
        routes,
    ]);
    assert!(said.contains("routes would be dropped"), "{said}");
    helm::template(&["--set", helm::DNS_SERVICE, "--set-json", zones]).unwrap();
}

#[test]
fn a_memory_limit_that_the_cache_does_not_fit_in_is_refused_however_it_is_written() {
    let size = |size: &str, limit: &str| {
        let limit = format!("resources.limits.memory={limit}");
        helm::with(&[&format!("cache.size={size}"), &limit]).map_err(|error| error.to_string())
    };
    for (cache, limit, least) in [
        ("512MiB", "256Mi", "608Mi"),
        ("512MiB", "607.9Mi", "608Mi"),
        ("1073741824", "1Gi", "1120Mi"),
        ("64MiB", "67108864", "160Mi"),
        ("64MiB", "0.1Gi", "160Mi"),
        ("64MiB", "100e6", "160Mi"),
        ("64MiB", "160m", "no amount of memory"),
    ] {
        let said = size(cache, limit).unwrap_err();
        let word = if least.ends_with('i') {
            "resources.limits.memory"
        } else {
            "160m"
        };
        assert!(
            said.contains(word) && said.contains(least),
            "{limit}: {said}"
        );
    }
    for (cache, limit) in [
        ("512MiB", "640Mi"),
        ("512MiB", "1Gi"),
        ("512MiB", "1G"),
        ("64MiB", "268435456"),
        ("64MiB", "0.25Gi"),
        ("1GB", "1.5G"),
        ("512MiB", "null"),
    ] {
        size(cache, limit).unwrap();
    }
    for wrong in ["5kB", "9999GiB"] {
        let said = size(wrong, "null").unwrap_err();
        assert!(said.contains("not between 1MiB and 64GiB"), "{said}");
    }
}

#[test]
fn addresses_that_nothing_could_be_steered_to_are_refused() {
    for (addresses, reason) in [
        ("fe80::1", "can be no node-local address"),
        ("::", "can be no node-local address"),
        ("::1", "can be no node-local address"),
        ("ff02::1", "can be no node-local address"),
        ("0.0.0.0", "can be no node-local address"),
        ("127.0.0.1", "can be no node-local address"),
        ("224.0.0.1", "can be no node-local address"),
        ("10.96.0.10", "is the cluster's DNS Service"),
        (r"169.254.20.10\,169.254.20.20", "is the second of IPv4"),
    ] {
        let list = addresses.replace(r"\,", ",");
        let said = refused(&[
            "--set",
            helm::DNS_SERVICE,
            "--set",
            &format!("listen.addresses={{{list}}}"),
        ]);
        assert!(said.contains(reason), "{addresses}: {said}");
    }
    let said = refused(&["--set", "cluster.dnsService={10.96.0.10,fd00:96::a}"]);
    assert!(
        said.contains("fd00:96::a has no node-local address"),
        "{said}"
    );
    assert!(
        said.contains("listen.addresses, such as fd00:4e4f::10"),
        "{said}"
    );
}

#[test]
fn routes_that_lead_nowhere_or_twice_are_refused() {
    for (routes, reason) in [
        (
            json!([{ "name": ".", "upstreams": ["192.0.2.1"] }]),
            "config.zones",
        ),
        (
            json!([
                { "name": "corp.example", "upstreams": ["192.0.2.1"] },
                { "name": "Corp.Example.", "upstreams": ["192.0.2.2"] },
            ]),
            "Corp.Example. is there already",
        ),
        (
            json!([{ "name": "corp.example", "upstreams": ["10.96.0.10:53"] }]),
            "env:NODENS_UPSTREAM_SERVICE_HOST",
        ),
    ] {
        let said = refused_with(&format!("routes={routes}"));
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_route_to_the_clusters_dns_is_told_the_service_that_there_is() {
    let said = refused(&[
        "--set-json",
        r#"cluster.dnsService=["fd00:96::a"]"#,
        "--set-json",
        r#"listen.addresses=["fd00:4e4f::10"]"#,
        "--set-json",
        r#"routes=[{"name":"corp.example","upstreams":["[fd00:96::a]:53"]}]"#,
    ]);
    assert!(said.contains("env:NODENS_UPSTREAM6_SERVICE_HOST"), "{said}");
}

#[test]
fn a_value_that_is_null_is_missed_by_its_path() {
    for (key, path) in [
        ("cache.size", "at '/cache': missing property 'size'"),
        (
            "uninstall.unusedForSeconds",
            "at '/uninstall': missing property",
        ),
        ("drainSeconds", "at '': missing property 'drainSeconds'"),
        ("listen", "at '': missing property 'listen'"),
        ("config.log.level", "at '/config/log/level'"),
        ("podLabels.x", "at '/podLabels/x'"),
    ] {
        let null = format!("{key}=null");
        let said = refused(&["--set", helm::DNS_SERVICE, "--set", &null]);
        assert!(said.contains(path), "{key}: {said}");
    }
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
fn labels_by_which_the_pods_are_found_cannot_be_given_anew() {
    let labels = r#"podLabels={"app.kubernetes.io/name":"x"}"#;
    let said = refused_with(labels);
    assert!(said.contains("app.kubernetes.io/name"), "{said}");
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
        (r#"routes=[{"name":"x"}]"#, "/routes/0"),
        (
            r#"routes=[{"name":"x","upstreams":["abc"]}]"#,
            "/routes/0/upstreams/0",
        ),
        (
            r#"routes=[{"name":"x","upstreams":[]}]"#,
            "/routes/0/upstreams",
        ),
        (r#"cluster.domain="foo..bar""#, "/cluster/domain"),
        (r#"cluster.domain=".""#, "/cluster/domain"),
        (r#"listen.addresses=["999.1.1.1"]"#, "/listen/addresses/0"),
        (r#"listen.addresses=["1:2:3"]"#, "/listen/addresses/0"),
        (r#"resources.limits={"memroy":"1Gi"}"#, "/resources/limits"),
        (
            r#"resources.limits={"memory":"foo"}"#,
            "/resources/limits/memory",
        ),
        (
            r#"affinity={"nodeAffinity":{"required":[]}}"#,
            "/affinity/nodeAffinity",
        ),
        (
            r#"extraVolumes=[{"name":"x","configmap":{"name":"y"}}]"#,
            "/extraVolumes/0",
        ),
        (
            r#"extraVolumes=[{"name":"config","emptyDir":{}}]"#,
            "/extraVolumes/0/name",
        ),
        (r#"podMonitor.interval="30""#, "/podMonitor/interval"),
        (
            r#"uninstall.unusedForSeconds="10m""#,
            "/uninstall/unusedForSeconds",
        ),
        (
            r#"uninstall.unusedForSeconds=90000"#,
            "/uninstall/unusedForSeconds",
        ),
        (
            r#"uninstall.patienceSeconds=60"#,
            "/uninstall/patienceSeconds",
        ),
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
