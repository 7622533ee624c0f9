// SPDX-License-Identifier: Apache-2.0
//! What pods resolve.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hickory_proto::rr::RData;

use crate::acceptance::objects::{self, CLIENT, HOST_CLIENT, NAMESPACE};
use crate::acceptance::stage::{PATIENCE, Stage};
use crate::client::Response;
use crate::cluster::components::{OUTSIDE_ADDRESS, OUTSIDE_ZONE};
use crate::cluster::pods::Pod;
use crate::cluster::{Cluster, Machine};
use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::node::Family;
use crate::process::wait_for;
use crate::query::AA;

/// Types.
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Installed as docs/install.md says: nothing but `helm install`.
pub(super) fn install(stage: &Stage) -> Outcome {
    let begin = Instant::now();
    stage.upgrade(&[], &[])?;
    stage.wait_until_ready()?;
    let took = begin.elapsed();
    let questions = questions(stage)?;
    let mut tally = Tally::default();
    for node in stage.cluster.options.nodes() {
        for label in [CLIENT, HOST_CLIENT] {
            let client = stage.client_of(label, node)?;
            for server in stage.asked() {
                tally.ask(stage, &client, server, &questions)?;
            }
        }
        let client = stage.client(node)?;
        let resolver = client.read_file("/etc/resolv.conf")?;
        let service = format!("nameserver {}", Family::V4.service());
        ensure!(
            resolver.contains(&service),
            "{node}: resolv.conf is {resolver}"
        );
    }
    Ok((
        vec![
            Figure::time(" ms to ready", Some(took), 60_000.0, 20_000.0),
            Figure::count(" answers wrong", tally.wrong, 0, 0),
            Figure::count(" not by the agent", tally.strange, 0, 0),
        ],
        tally.details(),
    ))
}

/// kubelet's `clusterDNS` is the node-local address, as node-cache has it.
pub(super) fn kubelet(stage: &Stage) -> Outcome {
    let label = "local-client";
    set_cluster_dns(&stage.cluster, Family::local)?;
    let asked = (|| {
        stage.kubectl.apply(&objects::clients(label, ""))?;
        stage.roll_out(NAMESPACE, &format!("ds/{label}"))?;
        let questions = questions(stage)?;
        let mut tally = Tally::default();
        for node in stage.cluster.options.nodes() {
            let client = stage.client_of(label, node)?;
            let resolver = client.read_file("/etc/resolv.conf")?;
            let servers = resolver
                .lines()
                .filter_map(|line| line.strip_prefix("nameserver "));
            let servers: Vec<IpAddr> = servers.map(str::parse).collect::<Result<_, _>>()?;
            ensure!(
                servers.contains(&Family::V4.local()),
                "{node}: resolv.conf is {resolver}"
            );
            for server in servers {
                tally.ask(stage, &client, Family::dns(server), &questions)?;
            }
        }
        Ok(tally)
    })();
    let deleted = stage
        .kubectl
        .run(&format!("-n {NAMESPACE} delete ds {label}"));
    set_cluster_dns(&stage.cluster, Family::service)?;
    let tally: Tally = asked?;
    deleted?;
    Ok((
        vec![
            Figure::count(" answers wrong", tally.wrong, 0, 0),
            Figure::count(" not by the agent", tally.strange, 0, 0),
        ],
        tally.details(),
    ))
}

/// Changes kubelet's configuration on all nodes, and starts it anew.
fn set_cluster_dns(cluster: &Cluster, address: fn(Family) -> IpAddr) -> anyhow::Result<()> {
    let list = cluster
        .options
        .list(|family| format!("'{}'", address(family)));
    for node in cluster.options.nodes() {
        let path = node.home().join("kubelet.yaml");
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().map(|line| match line.split_once(": ") {
            Some(("clusterDNS", _)) => format!("clusterDNS: [{list}]\n"),
            _ => format!("{line}\n"),
        });
        fs::write(&path, lines.collect::<String>())?;
        cluster.stop(node, "kubelet")?;
        cluster.resume(node, "kubelet")?;
    }
    cluster.wait_for_nodes()
}

/// What the agent says of a Service follows what CoreDNS says when what was said before has run out: 5 s
/// for a denial, 30 s for an address (docs/configuration.md, `zones[].maxNegativeTtl` and
/// `zones[].maxTtl`). What CoreDNS itself needs to hear of it is not ours.
pub(super) fn changes(stage: &Stage) -> Outcome {
    let client = stage.client(Machine::Node(1))?;
    let service = Family::dns(Family::V4.service());
    let coredns = Pod::all(&stage.kubectl, "kube-system", "k8s-app=kube-dns")?;
    let coredns: Vec<_> = coredns
        .iter()
        .map(|pod| Family::dns(pod.addresses[0]))
        .collect();
    let name = format!("new.{NAMESPACE}.svc.cluster.local");
    let addresses = |server| anyhow::Ok(stage.ask(&client, server, &name, A)?.addresses());
    // How long after every CoreDNS the agent says it.
    let delay = |what: &str, wanted: &dyn Fn(&[IpAddr]) -> bool| {
        let mut known = vec![false; coredns.len()];
        let mut begin = Instant::now();
        wait_for(what, PATIENCE, || {
            std::thread::sleep(Duration::from_millis(50));
            // It is asked all the time, as a popular name is.
            let is_told = wanted(&addresses(service)?);
            for (server, known) in coredns.iter().zip(&mut known) {
                if !*known {
                    *known = wanted(&addresses(*server)?);
                    begin = Instant::now();
                }
            }
            Ok((is_told && known.iter().all(|&known| known)).then_some(()))
        })?;
        anyhow::Ok(begin.elapsed())
    };
    ensure!(addresses(service)?.is_empty(), "{name} is there already");
    stage
        .kubectl
        .apply(&objects::service("new", "selector: { app: client }"))?;
    let made = delay("the new Service", &|found| found.len() == 1)?;
    // clusterIP cannot be changed: it is another Service of the same name.
    let delete = format!("-n {NAMESPACE} delete service new");
    stage.kubectl.run(&delete)?;
    let headless = objects::service("new", "clusterIP: None, selector: { app: client }");
    stage.kubectl.apply(&headless)?;
    let pods = usize::from(stage.cluster.options.nodes);
    let changed = delay("the headless Service", &|found| {
        found.len() == pods && found.iter().all(|ip| ip.to_string().starts_with("10.244."))
    })?;
    stage.kubectl.run(&delete)?;
    let deleted = delay("the end of the Service", &<[IpAddr]>::is_empty)?;
    // Half a second more: the look every 50 ms, and what is under way.
    let figure = |what, delay, most| Figure::time(what, Some(delay), most, most).firm();
    Ok((
        vec![
            figure(" ms after CoreDNS made", made, 5_500.0),
            figure(" ms headless", changed, 30_500.0),
            figure(" ms deleted", deleted, 30_500.0),
        ],
        vec![format!("{name} was asked for every 50 ms")],
    ))
}

/// A question, and what must be in its answer.
struct Question {
    name: String,
    qtype: u16,
    /// Addresses, or else the end of names that SRV and PTR have.
    wanted: Wanted,
}

enum Wanted {
    Addresses(Vec<IpAddr>),
    Names(Vec<String>),
}

/// Every kind of name that a cluster has, with what the API server says of it.
fn questions(stage: &Stage) -> anyhow::Result<Vec<Question>> {
    let domain = format!("{NAMESPACE}.svc.cluster.local");
    let web = stage
        .kubectl
        .json(&format!("-n {NAMESPACE} get service web"))?;
    let web = web["spec"]["clusterIPs"]
        .as_array()
        .context("addresses of the Service web")?;
    let web: Vec<IpAddr> = web
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect();
    let db = Pod::all(&stage.kubectl, NAMESPACE, "app=db")?;
    ensure!(db.len() == 2, "{} pods of the StatefulSet run", db.len());
    let mut all = Vec::new();
    let mut addresses = |name: String, family: Family, of: &[IpAddr]| {
        let (qtype, is_of) = match family {
            Family::V4 => (A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            Family::V6 => (AAAA, IpAddr::is_ipv6 as fn(&IpAddr) -> bool),
        };
        let mut wanted: Vec<IpAddr> = of.iter().copied().filter(is_of).collect();
        wanted.sort();
        all.push(Question {
            name,
            qtype,
            wanted: Wanted::Addresses(wanted),
        });
    };
    for &family in Family::BOTH {
        // In a cluster of one family the other has no data.
        addresses(format!("web.{domain}"), family, &web);
        let pods: Vec<IpAddr> = db.iter().flat_map(|pod| pod.addresses.clone()).collect();
        addresses(format!("db.{domain}"), family, &pods);
        for pod in &db {
            addresses(format!("{}.db.{domain}", pod.name), family, &pod.addresses);
        }
    }
    let outside = [IpAddr::from(OUTSIDE_ADDRESS)];
    addresses(format!("away.{domain}"), Family::V4, &outside);
    addresses(format!("www.{OUTSIDE_ZONE}"), Family::V4, &outside);
    let dashed = db[0].addresses[0].to_string().replace('.', "-");
    addresses(
        format!("{dashed}.{NAMESPACE}.pod.cluster.local"),
        Family::V4,
        &db[0].addresses[..1],
    );
    all.push(Question {
        name: format!("_http._tcp.web.{domain}"),
        qtype: SRV,
        wanted: Wanted::Names(vec![format!("web.{domain}.")]),
    });
    all.push(Question {
        name: format!("_http._tcp.db.{domain}"),
        qtype: SRV,
        wanted: Wanted::Names(
            db.iter()
                .map(|pod| format!("{}.db.{domain}.", pod.name))
                .collect(),
        ),
    });
    for address in &web {
        all.push(Question {
            name: reverse(*address),
            qtype: PTR,
            wanted: Wanted::Names(vec![format!("web.{domain}.")]),
        });
    }
    all.push(Question {
        name: reverse(db[0].addresses[0]),
        qtype: PTR,
        wanted: Wanted::Names(vec![format!("{}.db.{domain}.", db[0].name)]),
    });
    Ok(all)
}

/// The name by which an address is asked for (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let digits = octets
                .iter()
                .rev()
                .flat_map(|octet| [octet & 0xf, octet >> 4]);
            let labels: String = digits.map(|digit| format!("{digit:x}.")).collect();
            format!("{labels}ip6.arpa")
        }
    }
}

#[derive(Default)]
struct Tally {
    asked: u64,
    wrong: u64,
    strange: u64,
    first: Vec<String>,
}

impl Tally {
    fn ask(
        &mut self,
        stage: &Stage,
        client: &Pod,
        server: SocketAddr,
        questions: &[Question],
    ) -> anyhow::Result<()> {
        for question in questions {
            let response = stage.ask(client, server, &question.name, question.qtype)?;
            self.asked += 1;
            let told = || {
                format!(
                    "{} asks {server} for {} type {}: {} {:?}",
                    client.name,
                    question.name,
                    question.qtype,
                    response.rcode(),
                    response.answers
                )
            };
            if !question.is_answered_by(&response) {
                self.wrong += 1;
                self.first.push(told());
            } else if response.has(AA) {
                self.strange += 1;
                self.first.push(told());
            }
        }
        Ok(())
    }

    fn details(mut self) -> Vec<String> {
        self.first.truncate(5);
        self.first.push(format!("{} questions", self.asked));
        self.first
    }
}

impl Question {
    fn is_answered_by(&self, response: &Response) -> bool {
        match &self.wanted {
            Wanted::Addresses(wanted) => response.addresses() == *wanted,
            Wanted::Names(wanted) => {
                let name = |record: &hickory_proto::rr::Record| match &record.data {
                    RData::PTR(ptr) => Some(ptr.0.to_string()),
                    RData::SRV(srv) => Some(srv.target.to_string()),
                    _ => None,
                };
                let mut found: Vec<String> = response.answers.iter().filter_map(name).collect();
                let mut wanted = wanted.clone();
                found.sort();
                wanted.sort();
                found == wanted
            }
        }
    }
}
