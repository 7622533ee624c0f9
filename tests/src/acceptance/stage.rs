// SPDX-License-Identifier: Apache-2.0
//! Where a scenario runs: a cluster, with nodens or without, and clients that ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use hickory_proto::op::ResponseCode;
use rustix::process::{Signal, kill_process};

use super::objects;
use crate::client::{Client, Response};
use crate::cluster::kubectl::{Kubectl, helm};
use crate::cluster::pods::{self, Pod};
use crate::cluster::{Cluster, Machine};
use crate::drill::flow::{Flow, Plan, Tally};
use crate::drill::upstreams::misses::{self, Misses};
use crate::helm::{chart, said};
use crate::load::now_ns;
use crate::node::{Family, NAME, Server};
use crate::process::wait_for;
use crate::query::{AA, Query};

/// The name of the release, and of what is named after it.
pub const RELEASE: &str = "nodens";
/// Names that a flow asks for in turn.
const NAMES: u32 = 100;
/// How long anything of Kubernetes may take: a machine whose CPUs are all taken.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Type A.
const A: u16 = 1;

/// Values of every installation here. The check of an uninstallation, whether clients of the
/// node-local address would lose their DNS, looks back 3 s and not 10 minutes.
const VALUES: &[&str] = &["uninstall.unusedForSeconds=3"];

/// What a scenario needs to know.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// Its kubectl.
    pub kubectl: Kubectl,
    /// The short form.
    pub quick: bool,
}

impl Stage {
    /// A cluster with the image in all nodes and the clients running.
    ///
    /// # Errors
    /// A node does not take the image, or the clients do not start.
    pub fn new(cluster: Cluster, image: &Path, quick: bool) -> anyhow::Result<Self> {
        cluster.load(image)?;
        let stage = Self {
            cluster,
            kubectl: Kubectl::new()?,
            quick,
        };
        stage.kubectl.apply(&objects::all())?;
        for set in ["ds/client", "ds/host-client", "sts/db"] {
            stage.roll_out(objects::NAMESPACE, set)?;
        }
        Ok(stage)
    }

    /// `long`, or `short` in the short form.
    #[must_use]
    pub fn pick<T>(&self, long: T, short: T) -> T {
        if self.quick { short } else { long }
    }

    /// Sleeps so many seconds.
    pub fn wait(&self, seconds: f64) {
        thread::sleep(Duration::from_secs_f64(seconds));
    }

    /// Waits until a DaemonSet, Deployment or StatefulSet is rolled out.
    ///
    /// # Errors
    /// It is not in time.
    pub fn roll_out(&self, namespace: &str, set: &str) -> anyhow::Result<()> {
        let seconds = PATIENCE.as_secs();
        let line = format!("-n {namespace} rollout status {set} --timeout={seconds}s");
        self.kubectl.run(&line).map(|_| ())
    }

    /// The node-local address and the Service's, which clients ask, in the cluster's families.
    #[must_use]
    pub fn asked(&self) -> Vec<SocketAddr> {
        let families = self.cluster.options.families().iter();
        families.flat_map(|family| family.asked()).collect()
    }

    /// The Service's addresses.
    #[must_use]
    pub fn services(&self) -> Vec<SocketAddr> {
        let families = self.cluster.options.families().iter();
        families
            .map(|family| Family::dns(family.service()))
            .collect()
    }

    //--- Nodens

    /// Whether the release is installed.
    ///
    /// # Errors
    /// Helm does not tell.
    pub fn is_installed(&self) -> anyhow::Result<bool> {
        let output = helm(&["list", "--all", "--short"])?;
        ensure!(output.status.success(), "helm list: {}", said(&output));
        Ok(said(&output).lines().any(|name| name == RELEASE))
    }

    /// `helm upgrade --install` with these values (`key=value`) and further arguments; waits for
    /// nothing.
    ///
    /// # Errors
    /// What Helm says.
    pub fn upgrade(&self, values: &[&str], arguments: &[&str]) -> anyhow::Result<()> {
        let chart = chart().display().to_string();
        let mut words = vec!["upgrade", "--install", RELEASE, &chart];
        let local = self.cluster.options.list(|family| family.local());
        let local = format!("listen.addresses={{{local}}}");
        for value in VALUES.iter().chain(values).chain([&local.as_str()]) {
            words.extend(["--set", value]);
        }
        words.extend(arguments);
        let output = helm(&words)?;
        ensure!(output.status.success(), "helm upgrade: {}", said(&output));
        Ok(())
    }

    /// Installs it, as a user would, and waits until every client is answered by its agent.
    ///
    /// # Errors
    /// What Helm says; an agent does not get ready.
    pub fn install(&self) -> anyhow::Result<()> {
        self.upgrade(&[], &[])?;
        self.wait_until_ready()
    }

    /// `helm uninstall`.
    ///
    /// # Errors
    /// What Helm says.
    pub fn uninstall(&self) -> anyhow::Result<()> {
        let output = helm(&["uninstall", RELEASE, "--wait", "--timeout", "5m"])?;
        ensure!(output.status.success(), "helm uninstall: {}", said(&output));
        Ok(())
    }

    /// Waits until nodens is rolled out and every client is answered by its node's agent, whatever it
    /// asks.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.roll_out("kube-system", &format!("ds/{RELEASE}"))?;
        for node in self.cluster.options.nodes() {
            self.wait_until_answered_by(node, Server::Agent)?;
        }
        Ok(())
    }

    /// Waits until the client of a node is answered by agent or CoreDNS, on every address.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_until_answered_by(&self, node: Machine, wanted: Server) -> anyhow::Result<()> {
        let client = self.client(node)?;
        for server in self.asked() {
            wait_for(
                &format!("{wanted:?} to answer {server} on {node}"),
                PATIENCE,
                || {
                    Ok(self
                        .who_answers(&client, server)
                        .ok()
                        .filter(|by| *by == wanted))
                },
            )?;
        }
        Ok(())
    }

    /// Puts right what a scenario has left: CoreDNS as it was, nodens installed with the default values
    /// and fresh pods, or not installed.
    ///
    /// # Errors
    /// It cannot be put right.
    pub fn settle(&self, is_wanted: bool) -> anyhow::Result<()> {
        self.kubectl
            .run("-n kube-system scale deployment/coredns --replicas=2")?;
        self.roll_out("kube-system", "deployment/coredns")?;
        match (is_wanted, self.is_installed()?) {
            (true, true) => {
                self.upgrade(&[], &[])?;
                // A container that was killed is started again later each time.
                let pods = Pod::all(&self.kubectl, "kube-system", &label())?;
                for pod in pods.iter().filter(|pod| pod.restarts > 0) {
                    self.kubectl
                        .run(&format!("-n kube-system delete pod {}", pod.name))?;
                }
                self.wait_until_ready()?;
            }
            (true, false) => self.install()?,
            (false, true) => {
                // Fails where a scenario has left it half uninstalled: then the other half is next. An
                // agent that starts while it is uninstalled has the uninstallation refused.
                if self.upgrade(&["uninstall.force=true"], &[]).is_ok() {
                    self.wait_until_ready()?;
                }
                self.uninstall()?;
            }
            (false, false) => {}
        }
        self.wait_until_looked_up()
    }

    /// Waits until every node's client is told what nobody had asked before. Pods are ready some time
    /// before kube-proxy knows of them, and what is in a cache says nothing of that.
    fn wait_until_looked_up(&self) -> anyhow::Result<()> {
        for node in self.cluster.options.nodes() {
            let client = self.client(node)?;
            let is_told = |server| {
                let name = format!("n{}.{}.svc.cluster.local", now_ns(), objects::NAMESPACE);
                let response = self.ask(&client, server, &name, A);
                response.is_ok_and(|it| it.rcode() == ResponseCode::NXDomain)
            };
            for server in self.services() {
                let what = format!("CoreDNS to be asked by way of {server} on {node}");
                wait_for(&what, PATIENCE, || Ok(is_told(server).then_some(())))?;
            }
        }
        Ok(())
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// None runs there.
    pub fn agent(&self, node: Machine) -> anyhow::Result<Pod> {
        let pods = Pod::all(&self.kubectl, "kube-system", &label())?;
        pods::only(&pods, node).cloned()
    }

    /// Sends the process of an agent a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, agent: &Pod, signal: Signal) -> anyhow::Result<()> {
        kill_process(agent.pid, signal).with_context(|| format!("{signal:?} to {}", agent.name))
    }

    //--- Clients

    /// The client on a node's pod network.
    ///
    /// # Errors
    /// None runs there.
    pub fn client(&self, node: Machine) -> anyhow::Result<Pod> {
        self.client_of(objects::CLIENT, node)
    }

    /// The client of this label on a node.
    ///
    /// # Errors
    /// None runs there.
    pub fn client_of(&self, label: &str, node: Machine) -> anyhow::Result<Pod> {
        let label = format!("app={label}");
        let pods = Pod::all(&self.kubectl, objects::NAMESPACE, &label)?;
        pods::only(&pods, node).cloned()
    }

    /// Asks from a pod, over TCP too where the answer is cut short.
    ///
    /// # Errors
    /// No answer, or none to this question.
    pub fn ask(
        &self,
        from: &Pod,
        server: SocketAddr,
        name: &str,
        qtype: u16,
    ) -> anyhow::Result<Response> {
        from.door()?.within(|| {
            let client = Client::new(server).patience(Duration::from_secs(2));
            client.resolve(name, qtype)
        })
    }

    /// Who answers a pod.
    ///
    /// # Errors
    /// Nobody, or not with the address.
    pub fn who_answers(&self, from: &Pod, server: SocketAddr) -> anyhow::Result<Server> {
        let response = from.door()?.within(|| {
            let client = Client::new(server).patience(Duration::from_millis(500));
            client.udp(&Query::new(NAME, A))
        })?;
        let address = IpAddr::from(crate::node::ADDRESS);
        ensure!(
            response.addresses() == [address],
            "{server} answers {response:?}"
        );
        Ok(if response.has(AA) {
            Server::CoreDns
        } else {
            Server::Agent
        })
    }

    /// Queries from a pod to all addresses in turn, so many a second together. Returns once all names
    /// are in the cache.
    ///
    /// # Errors
    /// As [`Flow::start`].
    pub fn flow(&self, from: &Pod, per_second: u64) -> anyhow::Result<Flow> {
        self.flow_to(from, self.asked(), per_second)
    }

    /// The same, to these addresses.
    ///
    /// # Errors
    /// As [`Flow::start`].
    pub fn flow_to(
        &self,
        from: &Pod,
        servers: Vec<SocketAddr>,
        per_second: u64,
    ) -> anyhow::Result<Flow> {
        let plan = Plan {
            servers,
            per_second,
            names: NAMES,
        };
        let flow = Flow::start(from.door()?, plan)?;
        self.wait(2.0);
        Ok(flow)
    }

    /// Queries from a pod to the Service for names that nobody has in a cache.
    ///
    /// # Errors
    /// As [`Misses::start`].
    pub fn misses(&self, from: &Pod, per_second: u32) -> anyhow::Result<Misses> {
        let plan = misses::Plan {
            server: Family::dns(Family::V4.service()),
            sources: vec![Ipv4Addr::UNSPECIFIED],
            per_second,
        };
        Misses::start(from.door()?, plan)
    }
}

/// The label of the agents.
#[must_use]
pub fn label() -> String {
    format!("app.kubernetes.io/name={RELEASE}")
}

/// When queries were lost after an event, in steps of 100 ms.
#[must_use]
pub fn losses(tally: &Tally, event_ns: u64) -> String {
    const STEP: u64 = 100_000_000;
    let last = tally.all.last().map_or(event_ns, |asked| asked.sent_ns);
    let mut steps = Vec::new();
    for step in 0..=last.saturating_sub(event_ns) / STEP {
        let begin = event_ns + step * STEP;
        let lost = tally.lost(begin, begin + STEP);
        if lost > 0 {
            steps.push(format!("{lost} at {}.{} s", step / 10, step % 10));
        }
    }
    // Of a long silence the begin is enough.
    steps.truncate(12);
    steps.join(", ")
}

/// The archive that `make image` writes.
///
/// # Errors
/// It is not named.
pub fn image() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("NODENS_IMAGE").map(PathBuf::from);
    path.filter(|path| path.is_file())
        .context("NODENS_IMAGE names no image: call this by `make e2e`, which builds it")
}
