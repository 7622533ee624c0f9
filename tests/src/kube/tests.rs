// SPDX-License-Identifier: Apache-2.0
//! The API beside the real plugin: what is made is served, what is deleted is gone.

use std::time::Duration;

use super::*;
use crate::agent::http_get;
use crate::client::Client;
use crate::coredns::CoreDns;
use crate::process::wait_for;

const PATIENCE: Duration = Duration::from_secs(20);
/// Types.
const A: u16 = 1;
const SRV: u16 = 33;

fn start() -> (KubeApi, CoreDns) {
    let api = KubeApi::start().unwrap();
    for name in ["default", "kube-system", "prod"] {
        api.namespace(name).unwrap();
    }
    api.cluster_ip("web.prod", &["10.96.12.34"], &[("http", "TCP", 80)])
        .unwrap();
    let coredns = CoreDns::builder()
        .without_zones()
        .plugins(&api.corefile(5))
        .start()
        .unwrap();
    (api, coredns)
}

#[track_caller]
fn wait_for_rcode(client: &Client, name: &str, rcode: u16) {
    let mut last = None;
    let reached = wait_for(name, PATIENCE, || {
        let response = client.query(name, A)?;
        last = Some(response.outline.rcode());
        Ok((last == Some(rcode)).then_some(()))
    });
    assert!(reached.is_ok(), "{name}: {last:?}, not {rcode}");
}

#[test]
fn the_plugin_serves_what_is_made_changed_and_deleted() {
    let (api, coredns) = start();
    let client = Client::new(coredns.addr());
    let web = client.query("web.prod.svc.cluster.local", A).unwrap();
    assert_eq!(web.addresses()[0].to_string(), "10.96.12.34");
    let srv = client.query("_http._tcp.web.prod.svc.cluster.local", SRV);
    assert_eq!(srv.unwrap().answers.len(), 1);
    assert_eq!(
        client
            .query("com.prod.svc.cluster.local", A)
            .unwrap()
            .outline
            .rcode(),
        3
    );
    assert_eq!(
        client
            .query("prod.svc.cluster.local", A)
            .unwrap()
            .outline
            .rcode(),
        0
    );

    api.headless("db.prod", &[("sql", "TCP", 5432)]).unwrap();
    wait_for_rcode(&client, "db.prod.svc.cluster.local", 3);
    let pods = [Endpoint::new("10.244.1.20").named("db-0")];
    api.endpoints("db.prod", &pods, &[("sql", "TCP", 5432)])
        .unwrap();
    wait_for_rcode(&client, "db-0.db.prod.svc.cluster.local", 0);
    api.endpoints("db.prod", &[], &[]).unwrap();
    wait_for_rcode(&client, "db-0.db.prod.svc.cluster.local", 3);

    api.namespace("late").unwrap();
    api.cluster_ip("web.late", &["10.96.12.35"], &[]).unwrap();
    wait_for_rcode(&client, "web.late.svc.cluster.local", 0);
    api.delete_namespace("late").unwrap();
    wait_for_rcode(&client, "web.late.svc.cluster.local", 3);
    wait_for_rcode(&client, "late.svc.cluster.local", 3);

    let log = coredns.log();
    assert!(
        !log.contains("unsynced") && !log.contains("Failed to"),
        "{log}"
    );
}

#[test]
fn a_watch_goes_on_where_the_api_was_away() {
    let (mut api, coredns) = start();
    let client = Client::new(coredns.addr());
    api.host.refuse().unwrap();
    api.cluster_ip("late.prod", &["10.96.12.36"], &[]).unwrap();
    api.host.resume().unwrap();
    wait_for_rcode(&client, "late.prod.svc.cluster.local", 0);
}

#[test]
fn what_is_not_known_here_is_refused_and_not_made_up() {
    let api = KubeApi::start().unwrap();
    api.namespace("prod").unwrap();
    let status = |path: &str| http_get(api.addr(), path).unwrap().status;
    assert_eq!(status("/version"), 200);
    assert_eq!(status("/api/v1/secrets"), 404);
    assert_eq!(status("/api/v1/services?labelSelector=a%3Db"), 400);
    assert_eq!(
        status("/api/v1/services?watch=true&sendInitialEvents=true"),
        422
    );
    let list = http_get(api.addr(), "/api/v1/namespaces?limit=500&resourceVersion=0").unwrap();
    let list: Value = serde_json::from_str(&list.body).unwrap();
    assert_eq!(list["kind"], "NamespaceList");
    assert_eq!(list["metadata"]["resourceVersion"], "1");
    assert_eq!(list["items"][0]["metadata"]["name"], "prod");
    let error = api
        .cluster_ip("web.nowhere", &["10.96.0.9"], &[])
        .unwrap_err();
    assert!(
        error.to_string().contains("no namespace nowhere"),
        "{error}"
    );
}
