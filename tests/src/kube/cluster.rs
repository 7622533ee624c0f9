// SPDX-License-Identifier: Apache-2.0
//! A cluster with a name of every kind that Kubernetes' DNS specification 1.1.0 knows: the objects
//! behind the names of the [`sample`](crate::sample), served by the real plugin.

use super::{Endpoint, KubeApi, Port};

/// Names of the cluster, each asked for with every type: what exists, what has no data, what does
/// not exist.
pub const NAMES: &[&str] = &[
    // The zone, its own name, what lies above the Services.
    "cluster.local",
    "ns.dns.cluster.local",
    "dns.cluster.local",
    "dns-version.cluster.local",
    "svc.cluster.local",
    "pod.cluster.local",
    "prod.svc.cluster.local",
    "prod.pod.cluster.local",
    // ClusterIPs of two families, of one, with ports.
    "web.prod.svc.cluster.local",
    "WeB.pRod.SvC.cluster.LOCAL",
    "api.prod.svc.cluster.local",
    "web.staging.svc.cluster.local",
    "kubernetes.default.svc.cluster.local",
    "_http._tcp.web.prod.svc.cluster.local",
    "_tcp.web.prod.svc.cluster.local",
    "_nope._tcp.web.prod.svc.cluster.local",
    "_dns._udp.kube-dns.kube-system.svc.cluster.local",
    "_udp.kube-dns.kube-system.svc.cluster.local",
    // Headless: named pods, nameless ones, more than a datagram, none.
    "db.prod.svc.cluster.local",
    "db-0.db.prod.svc.cluster.local",
    "db-9.db.prod.svc.cluster.local",
    "_postgres._tcp.db.prod.svc.cluster.local",
    "cache.prod.svc.cluster.local",
    "10-244-2-7.cache.prod.svc.cluster.local",
    "wide.prod.svc.cluster.local",
    "_http._tcp.wide.prod.svc.cluster.local",
    "idle.prod.svc.cluster.local",
    "_http._tcp.idle.prod.svc.cluster.local",
    "late.prod.svc.cluster.local",
    // Other names for what is outside, inside, behind a chain, without address, nowhere.
    "outside.prod.svc.cluster.local",
    "inside.prod.svc.cluster.local",
    "far.prod.svc.cluster.local",
    "bare.prod.svc.cluster.local",
    "gone.prod.svc.cluster.local",
    // Pods by their address.
    "10-244-1-5.prod.pod.cluster.local",
    "fd00-10-244-1--5.prod.pod.cluster.local",
    "no-address.prod.pod.cluster.local",
    "10-244-1-5.nowhere.pod.cluster.local",
    // Search lists.
    "com.prod.svc.cluster.local",
    "api.stripe.com.prod.svc.cluster.local",
    "api.stripe.com.svc.cluster.local",
    "api.stripe.com.cluster.local",
    "web.prod.cluster.local",
    "web.nowhere.svc.cluster.local",
    // Addresses.
    "34.12.96.10.in-addr.arpa",
    "20.1.244.10.in-addr.arpa",
    "1.0.0.10.in-addr.arpa",
    "10.in-addr.arpa",
    "2.2.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
    "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
];

const HTTP: &[Port] = &[("http", "TCP", 80)];
const POSTGRES: &[Port] = &[("postgres", "TCP", 5432)];
const REDIS: &[Port] = &[("redis", "TCP", 6379)];
const WIDE: &[Port] = &[("http", "TCP", 8080)];

impl KubeApi {
    /// Starts with the objects behind [`NAMES`].
    ///
    /// # Errors
    /// When no port is free.
    pub fn sample() -> anyhow::Result<Self> {
        let api = Self::start()?;
        for name in ["default", "kube-system", "prod", "staging"] {
            api.namespace(name)?;
        }
        let kubernetes = ["10.96.0.1", "fd00:10:96::1"];
        api.cluster_ip("kubernetes.default", &kubernetes, &[("https", "TCP", 443)])?;
        api.cluster_ip(
            "kube-dns.kube-system",
            &["10.96.0.10", "fd00:10:96::a"],
            &[
                ("dns", "UDP", 53),
                ("dns-tcp", "TCP", 53),
                ("metrics", "TCP", 9153),
            ],
        )?;
        let web = ["10.96.12.34", "fd00:10:96::c22"];
        let ports = [("http", "TCP", 80), ("https", "TCP", 443)];
        api.cluster_ip("web.prod", &web, &ports)?;
        api.cluster_ip("api.prod", &["10.96.12.35"], &[("grpc", "TCP", 9090)])?;
        api.cluster_ip("web.staging", &["10.96.40.2"], HTTP)?;

        api.headless("db.prod", POSTGRES)?;
        let pods: Vec<Endpoint> = (0..3)
            .flat_map(|number| {
                let v4 = format!("10.244.1.{}", 20 + number);
                let v6 = format!("fd00:10:244:1::{}", 20 + number);
                let name = format!("db-{number}");
                [v4, v6].map(|address| Endpoint::new(&address).named(&name))
            })
            .collect();
        api.endpoints("db.prod", &pods, POSTGRES)?;
        api.headless("cache.prod", REDIS)?;
        let pods = ["10.244.2.7", "10.244.2.8", "10.244.3.7", "10.244.3.9"];
        api.endpoints("cache.prod", &pods.map(Endpoint::new), REDIS)?;
        api.headless("wide.prod", WIDE)?;
        let pods: Vec<_> = (1..=120)
            .map(|number| Endpoint::new(&format!("10.244.9.{number}")))
            .collect();
        api.endpoints("wide.prod", &pods, WIDE)?;
        api.headless("idle.prod", WIDE)?;
        // With a pod that is not ready, which is as none.
        api.headless("late.prod", WIDE)?;
        let waiting = Endpoint {
            is_ready: false,
            ..Endpoint::new("10.244.7.1")
        };
        api.endpoints("late.prod", &[waiting], WIDE)?;
        for (service, target) in [
            ("outside.prod", "www.example.org"),
            ("inside.prod", "web.prod.svc.cluster.local"),
            ("far.prod", "chain.example.org"),
            ("bare.prod", "text.example.org"),
            ("gone.prod", "missing.example.org"),
        ] {
            api.external_name(service, target)?;
        }
        Ok(api)
    }
}
