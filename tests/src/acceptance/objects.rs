// SPDX-License-Identifier: Apache-2.0
//! What the scenarios ask from and for: pods that only are there, and Services with every kind of
//! name.

use crate::cluster::components::{OUTSIDE_ZONE, PAUSE};

/// The namespace of all of it.
pub const NAMESPACE: &str = "shop";
/// The label of clients on the pods' network, one a node: `app=` this.
pub const CLIENT: &str = "client";
/// The label of clients on the nodes' own network, one a node.
pub const HOST_CLIENT: &str = "host-client";

/// A pod template of these labels and further lines of its spec.
fn template(label: &str, spec: &str) -> String {
    format!(
        "  selector: {{ matchLabels: {{ app: {label} }} }}\n\
         \x20 template:\n\
         \x20   metadata: {{ labels: {{ app: {label} }} }}\n\
         \x20   spec:\n\
         \x20     terminationGracePeriodSeconds: 0\n\
         {spec}\
         \x20     containers: [{{ name: pause, image: '{PAUSE}', imagePullPolicy: Never }}]\n"
    )
}

/// A DaemonSet of clients: a pod on every node.
#[must_use]
pub fn clients(label: &str, spec: &str) -> String {
    format!(
        "apiVersion: apps/v1\n\
         kind: DaemonSet\n\
         metadata: {{ name: {label}, namespace: {NAMESPACE} }}\n\
         spec:\n{}---\n",
        template(
            label,
            &format!("      tolerations: [{{ operator: Exists }}]\n{spec}")
        )
    )
}

/// Namespace, clients, and the Services `web` (ClusterIP), `db` (headless, with a StatefulSet of two),
/// `away` (ExternalName).
#[must_use]
pub fn all() -> String {
    let mut text =
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n---\n");
    text += &clients(CLIENT, "");
    text += &clients(
        HOST_CLIENT,
        "      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet\n",
    );
    text += &format!(
        "apiVersion: apps/v1\n\
         kind: StatefulSet\n\
         metadata: {{ name: db, namespace: {NAMESPACE} }}\n\
         spec:\n  replicas: 2\n  serviceName: db\n  podManagementPolicy: Parallel\n{}---\n",
        template("db", "")
    );
    text += &service("web", "selector: { app: client }");
    text += &service("db", "clusterIP: None, selector: { app: db }");
    text += &format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{ name: away, namespace: {NAMESPACE} }}\n\
         spec: {{ type: ExternalName, externalName: www.{OUTSIDE_ZONE} }}\n"
    );
    text
}

/// A Service with the port `http`, in as many families as the cluster has.
#[must_use]
pub fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{ name: {name}, namespace: {NAMESPACE} }}\n\
         spec: {{ ipFamilyPolicy: PreferDualStack, {spec}, ports: [{{ name: http, port: 80 }}] }}\n---\n"
    )
}
