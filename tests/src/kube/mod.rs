// SPDX-License-Identifier: Apache-2.0
//! A Kubernetes API of the tests' own, for the kubernetes plugin of the real CoreDNS: namespaces,
//! Services, EndpointSlices and pods that a test makes, changes and deletes while the plugin watches.
//!
//! ```text
//!   test ──► objects ──► list, watch over HTTP ──► CoreDNS's kubernetes plugin ──► DNS
//! ```
//!
//! It was held beside the API server of Kubernetes 1.34.4 on 2026-11-23 with the same objects in both.
//! Lists, watches, the bookmark that ends the initial events, and refusals have the same shape, and
//! a CoreDNS behind each gave the same answers: 435 of 510 questions alike to the last field, SOA
//! serial aside, the others because that cluster had no IPv6 ClusterIPs and no server outside. Not
//! tried there: the event of code 410 for a version that is gone. It differs where no DNS server
//! looks: no protobuf, no managed fields, no status of a Service, and nothing is made by
//! controllers.

pub mod cluster;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::host::{Host, lock};

/// Objects that are held at most: a test that makes more has gone astray.
const MOST_OBJECTS: usize = 20_000;
/// Changes that are remembered for those who watch; who is further behind must list anew.
const MOST_CHANGES: usize = 4096;

/// Kinds of objects that the plugin watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
}

impl Kind {
    /// Group and version, plural, name.
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Namespace => ["v1", "namespaces", "Namespace"],
            Self::Service => ["v1", "services", "Service"],
            Self::EndpointSlice => ["discovery.k8s.io/v1", "endpointslices", "EndpointSlice"],
            Self::Pod => ["v1", "pods", "Pod"],
        }
    }
}

/// Kind, namespace, name.
type Key = (Kind, String, String);

#[derive(Debug, Default)]
struct Objects {
    /// The version of the last change.
    version: u64,
    held: BTreeMap<Key, Value>,
    changes: VecDeque<Change>,
    /// The last change that is forgotten.
    forgotten: u64,
}

#[derive(Clone, Debug)]
struct Change {
    version: u64,
    kind: Kind,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    what: &'static str,
    object: Value,
}

#[derive(Debug, Default)]
struct Store {
    objects: Mutex<Objects>,
    changed: Condvar,
}

/// The API, on a port of 127.0.0.1. Ends when it is dropped.
#[derive(Debug)]
pub struct KubeApi {
    host: Host,
    store: Arc<Store>,
}

/// A port of a Service: its name, `TCP` or `UDP`, its number.
pub type Port = (&'static str, &'static str, u16);

/// One address behind a headless Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// What a StatefulSet's pod is called below the Service; `None` for one without a name.
    pub hostname: Option<String>,
    /// Whether the pod is ready.
    pub is_ready: bool,
}

impl Endpoint {
    /// A ready one without a name.
    ///
    /// # Panics
    /// When `address` is none.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.parse().expect("an address of the lab"),
            hostname: None,
            is_ready: true,
        }
    }

    /// With a name of its own.
    #[must_use]
    pub fn named(self, hostname: &str) -> Self {
        let hostname = Some(hostname.to_owned());
        Self { hostname, ..self }
    }
}

impl KubeApi {
    /// Starts without objects.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let store = Arc::<Store>::default();
        let host = Host::start(serve::Server(Arc::clone(&store)))?;
        Ok(Self { host, store })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.host.addr()
    }

    /// The block of a Corefile that has the plugin watch this API, as kubeadm writes it, with a TTL
    /// in seconds (kubeadm's is 30).
    #[must_use]
    pub fn corefile(&self, ttl: u32) -> String {
        format!(
            "kubernetes cluster.local in-addr.arpa ip6.arpa {{\nendpoint http://{}\npods insecure\n\
             fallthrough in-addr.arpa ip6.arpa\nttl {ttl}\n}}",
            self.addr()
        )
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// When there are too many objects.
    pub fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let labels = json!({"kubernetes.io/metadata.name": name});
        let object = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        self.put(Kind::Namespace, "", name, object)
    }

    /// Deletes a namespace, and before it what it holds, as the namespace controller does.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        let inside: Vec<Key> = {
            let objects = lock(&self.store.objects);
            let keys = objects.held.keys();
            keys.filter(|(_, space, _)| space == name)
                .cloned()
                .collect()
        };
        for (kind, space, name) in inside {
            self.delete(kind, &space, &name)?;
        }
        self.delete(Kind::Namespace, "", name)
    }

    /// Makes or changes a Service `<name>.<namespace>` with these ClusterIPs.
    ///
    /// # Errors
    /// When its namespace does not exist.
    pub fn cluster_ip(
        &self,
        service: &str,
        addresses: &[&str],
        ports: &[Port],
    ) -> anyhow::Result<()> {
        let first = addresses.first().context("a ClusterIP")?;
        let families: Vec<_> = addresses
            .iter()
            .map(|ip| family(ip.contains(':')))
            .collect();
        let spec = json!({
            "type": "ClusterIP", "clusterIP": first, "clusterIPs": addresses,
            "ipFamilies": families, "ports": service_ports(ports),
        });
        self.service(service, spec)
    }

    /// Makes or changes a headless Service; it has no name until it has [`Self::endpoints`].
    ///
    /// # Errors
    /// When its namespace does not exist.
    pub fn headless(&self, service: &str, ports: &[Port]) -> anyhow::Result<()> {
        let spec = json!({
            "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ports": service_ports(ports),
        });
        self.service(service, spec)
    }

    /// Makes or changes a Service that is another name.
    ///
    /// # Errors
    /// When its namespace does not exist.
    pub fn external_name(&self, service: &str, target: &str) -> anyhow::Result<()> {
        let spec = json!({"type": "ExternalName", "externalName": target});
        self.service(service, spec)
    }

    /// Deletes a Service and its endpoints.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_service(&self, service: &str) -> anyhow::Result<()> {
        let (name, space) = split(service)?;
        self.endpoints(service, &[], &[])?;
        self.delete(Kind::Service, space, name)
    }

    /// Puts these endpoints in place of a Service's, in one slice for each family.
    ///
    /// # Errors
    /// When its namespace does not exist.
    pub fn endpoints(
        &self,
        service: &str,
        endpoints: &[Endpoint],
        ports: &[Port],
    ) -> anyhow::Result<()> {
        let (name, space) = split(service)?;
        for is_v6 in [false, true] {
            let slice = format!("{name}-{}", family(is_v6).to_ascii_lowercase());
            let own = endpoints
                .iter()
                .filter(|one| one.address.is_ipv6() == is_v6);
            let list: Vec<Value> = own.map(Endpoint::to_json).collect();
            if list.is_empty() {
                let key = (Kind::EndpointSlice, space.to_owned(), slice.clone());
                if lock(&self.store.objects).held.contains_key(&key) {
                    self.delete(Kind::EndpointSlice, space, &slice)?;
                }
                continue;
            }
            let ports = ports.iter().map(
                |(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}),
            );
            let labels = json!({"kubernetes.io/service-name": name});
            let object = json!({
                "metadata": {"name": slice, "namespace": space, "labels": labels},
                "addressType": family(is_v6), "endpoints": list,
                "ports": ports.collect::<Vec<_>>(),
            });
            self.put(Kind::EndpointSlice, space, &slice, object)?;
        }
        Ok(())
    }

    /// Makes or changes a pod `<name>.<namespace>`; looked at by `pods verified` alone.
    ///
    /// # Errors
    /// When its namespace does not exist.
    pub fn pod(&self, pod: &str, address: &str) -> anyhow::Result<()> {
        let (name, space) = split(pod)?;
        let object = json!({
            "metadata": {"name": name, "namespace": space},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        });
        self.put(Kind::Pod, space, name, object)
    }

    fn service(&self, service: &str, spec: Value) -> anyhow::Result<()> {
        let (name, space) = split(service)?;
        let object = json!({"metadata": {"name": name, "namespace": space}, "spec": spec});
        self.put(Kind::Service, space, name, object)
    }

    fn put(&self, kind: Kind, space: &str, name: &str, mut object: Value) -> anyhow::Result<()> {
        let mut objects = lock(&self.store.objects);
        let home = (Kind::Namespace, String::new(), space.to_owned());
        ensure!(
            space.is_empty() || objects.held.contains_key(&home),
            "make {kind:?} {name}: there is no namespace {space}"
        );
        ensure!(
            objects.held.len() < MOST_OBJECTS,
            "make {kind:?} {name}: there are {MOST_OBJECTS} objects already"
        );
        let [group, _, word] = kind.words();
        object["kind"] = word.into();
        object["apiVersion"] = group.into();
        let key = (kind, space.to_owned(), name.to_owned());
        let what = match objects.held.get(&key) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        let object = objects.note(kind, what, object);
        objects.held.insert(key, object);
        self.store.changed.notify_all();
        Ok(())
    }

    fn delete(&self, kind: Kind, space: &str, name: &str) -> anyhow::Result<()> {
        let mut objects = lock(&self.store.objects);
        let key = (kind, space.to_owned(), name.to_owned());
        let object = objects.held.remove(&key);
        let object = object.with_context(|| format!("delete {kind:?} {name}: there is none"))?;
        objects.note(kind, "DELETED", object);
        self.store.changed.notify_all();
        Ok(())
    }
}

impl Endpoint {
    fn to_json(&self) -> Value {
        let ready = self.is_ready;
        let mut object = json!({
            "addresses": [self.address],
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
        });
        if let Some(hostname) = &self.hostname {
            object["hostname"] = hostname.as_str().into();
        }
        object
    }
}

impl Objects {
    /// Gives an object the next version and remembers its change.
    fn note(&mut self, kind: Kind, what: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.changes.push_back(Change {
            version: self.version,
            kind,
            what,
            object: object.clone(),
        });
        while self.changes.len() > MOST_CHANGES {
            self.forgotten = self.changes.pop_front().map_or(0, |change| change.version);
        }
        object
    }

    fn of(&self, kind: Kind) -> Vec<Value> {
        let own = self.held.iter().filter(|((own, ..), _)| *own == kind);
        own.map(|(_, object)| object.clone()).collect()
    }
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "IPv6" } else { "IPv4" }
}

fn service_ports(ports: &[Port]) -> Vec<Value> {
    let port = |&(name, protocol, port): &Port| json!({"name": name, "protocol": protocol, "port": port, "targetPort": port});
    ports.iter().map(port).collect()
}

/// `<name>.<namespace>`.
fn split(full: &str) -> anyhow::Result<(&str, &str)> {
    let parts = full.split_once('.');
    parts.with_context(|| format!("{full}: expected <name>.<namespace>"))
}

#[cfg(test)]
mod tests;
