// SPDX-License-Identifier: Apache-2.0
//! What runs on each machine, and how it is configured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::keys;
use super::plan::{HOME, Machine, Options};
use crate::coredns;
use crate::node::{ADDRESS, Family, ZONE};

/// The version that tests/kubernetes/go.mod pins.
pub const VERSION: &str = "1.34.4";
/// The port of the API server in its namespace.
pub(super) const API_PORT: u16 = 6443;
/// Where containerd listens, in each node's own /run.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// Names below this the resolver outside has, all with [`OUTSIDE_ADDRESS`]; no other.
pub const OUTSIDE_ZONE: &str = "outside.example";
/// Their address.
pub const OUTSIDE_ADDRESS: [u8; 4] = [192, 0, 2, 80];

/// A program of a machine, started again a second after its end.
#[derive(Clone, Debug)]
pub struct Component {
    /// What it is called: its log, and the file that stops it.
    pub name: &'static str,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// It starts once these files are there.
    pub after: Vec<PathBuf>,
    /// Whether it has done its work when it ends well.
    pub is_step: bool,
}

impl Component {
    fn new(name: &'static str, program: impl Into<PathBuf>) -> Self {
        Self {
            name,
            words: vec![program.into().display().to_string()],
            after: Vec::new(),
            is_step: false,
        }
    }

    /// Arguments, with white space in between.
    fn with(mut self, arguments: &str) -> Self {
        self.words
            .extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    fn after(mut self, file: impl Into<PathBuf>) -> Self {
        self.after.push(file.into());
        self
    }

    /// A shell's script that ends.
    fn step(name: &'static str, script: String) -> Self {
        Self {
            name,
            words: vec!["sh".to_owned(), "-ec".to_owned(), script],
            after: Vec::new(),
            is_step: true,
        }
    }
}

/// The directory with the programs of Kubernetes.
///
/// # Errors
/// They are not built.
pub fn kubernetes() -> anyhow::Result<PathBuf> {
    let remedy = "call this by `make cluster` or `make e2e`, which build it";
    let dir = std::env::var_os("NODENS_KUBERNETES").map(PathBuf::from);
    let dir =
        dir.with_context(|| format!("NODENS_KUBERNETES does not name Kubernetes: {remedy}"))?;
    let kubelet = dir.join("kubelet");
    ensure!(
        kubelet.exists(),
        "there is no {}: {remedy}",
        kubelet.display()
    );
    Ok(dir)
}

/// A file that is there once the API server has been ready.
fn api_was_ready() -> PathBuf {
    Path::new(HOME).join("api-was-ready")
}

/// The directory of the archives of images.
#[must_use]
pub fn images() -> PathBuf {
    Path::new(HOME).join("images")
}

/// What runs on this machine. Writes its configuration.
///
/// # Errors
/// A program is missing, or a file cannot be written.
pub fn of(machine: Machine, options: Options) -> anyhow::Result<Vec<Component>> {
    fs::create_dir_all(machine.home())?;
    match machine {
        Machine::Outside => Ok(vec![resolver(options)?]),
        Machine::Control => control(options),
        Machine::Node(_) => node(machine, options),
    }
}

/// Writes a file of this machine and gives its path.
fn write(machine: Machine, file: &str, text: &str) -> anyhow::Result<String> {
    let path = machine.home().join(file);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// The resolver of the nodes.
fn resolver(options: Options) -> anyhow::Result<Component> {
    let [a, b, c, d] = OUTSIDE_ADDRESS;
    let bind = options.list(|family| Machine::Outside.address(family));
    let bind = bind.replace(',', " ");
    let corefile = format!(
        ".:53 {{\n\
         \x20 bind {bind}\n\
         \x20 errors\n\
         \x20 template IN A {OUTSIDE_ZONE} {{\n\
         \x20   answer \"{{{{ .Name }}}} 60 IN A {a}.{b}.{c}.{d}\"\n\
         \x20 }}\n\
         \x20 template ANY ANY {{\n\
         \x20   rcode NXDOMAIN\n\
         \x20   authority \"{{{{ .Zone }}}} 60 IN SOA ns.invalid. root.invalid. 1 60 60 60 60\"\n\
         \x20 }}\n\
         }}\n"
    );
    let corefile = write(Machine::Outside, "Corefile", &corefile)?;
    Ok(Component::new("resolver", coredns::find()?).with(&format!("-conf {corefile}")))
}

fn control(options: Options) -> anyhow::Result<Vec<Component>> {
    let program = |name: &str| kubernetes().map(|dir| dir.join(name));
    let key = |file: &str| keys::path(file).display().to_string();
    let data = Machine::Control.home().join("etcd");
    // What is in it does not outlive the cluster, so it need not reach the disk.
    let etcd = Component::new("etcd", program("etcd")?).with(&format!(
        "--name control --data-dir {} --unsafe-no-fsync --log-level warn
         --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
         --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
         --initial-cluster control=http://127.0.0.1:2380",
        data.display()
    ));
    let api = Component::new("kube-apiserver", program("kube-apiserver")?).with(&format!(
        "--etcd-servers http://127.0.0.1:2379
         --bind-address 0.0.0.0 --secure-port {API_PORT} --advertise-address {address}
         --service-cluster-ip-range {services}
         --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged
         --client-ca-file {ca} --tls-cert-file {certificate} --tls-private-key-file {private}
         --kubelet-client-certificate {kubelet} --kubelet-client-key {kubelet_key}
         --kubelet-preferred-address-types InternalIP
         --service-account-issuer https://kubernetes.default.svc.cluster.local
         --service-account-key-file {tokens} --service-account-signing-key-file {signing}",
        address = Machine::Control.address(Family::V4),
        services = options.list(Family::services),
        ca = key("ca.crt"),
        certificate = key("apiserver.crt"),
        private = key("apiserver.key"),
        kubelet = key("apiserver-kubelet.crt"),
        kubelet_key = key("apiserver-kubelet.key"),
        tokens = key("tokens.pub"),
        signing = key("tokens.key"),
    ));
    let ready = Component::step(
        "ready",
        format!(
            "{kubectl} --kubeconfig {admin} --server https://127.0.0.1:{API_PORT} \
             --request-timeout 5s get --raw /readyz && touch {mark}",
            kubectl = program("kubectl")?.display(),
            admin = key("admin.kubeconfig"),
            mark = api_was_ready().display(),
        ),
    );
    let controllers = Component::new(
        "kube-controller-manager",
        program("kube-controller-manager")?,
    )
    .with(&format!(
        "--kubeconfig {config} --root-ca-file {ca} --service-account-private-key-file {signing}
             --use-service-account-credentials --leader-elect=false --bind-address 127.0.0.1
             --cluster-signing-cert-file {ca} --cluster-signing-key-file {ca_key}
             --flex-volume-plugin-dir {plugins} --node-monitor-grace-period 20s",
        config = key("kube-controller-manager.kubeconfig"),
        ca = key("ca.crt"),
        ca_key = key("ca.key"),
        signing = key("tokens.key"),
        // Its own place is in the machine's /usr.
        plugins = Machine::Control.home().join("plugins").display(),
    ))
    .after(api_was_ready());
    let scheduler = Component::new("kube-scheduler", program("kube-scheduler")?)
        .with(&format!(
            "--kubeconfig {} --leader-elect=false --bind-address 127.0.0.1",
            key("kube-scheduler.kubeconfig")
        ))
        .after(api_was_ready());
    Ok(vec![etcd, api, ready, controllers, scheduler])
}

fn node(machine: Machine, options: Options) -> anyhow::Result<Vec<Component>> {
    let program = |name: &str| kubernetes().map(|dir| dir.join(name));
    let cni = machine.home().join("cni");
    fs::create_dir_all(&cni)?;
    write(
        machine,
        "cni/10-bridge.conflist",
        &conflist(machine, options),
    )?;
    let containerd = write(machine, "containerd.toml", &containerd(machine))?;
    let outside = options.list(|family| format!("nameserver {}", Machine::Outside.address(family)));
    let resolver = write(machine, "resolv.conf", &(outside.replace(',', "\n") + "\n"))?;
    let kubelet = write(
        machine,
        "kubelet.yaml",
        &kubelet(machine, options, &resolver),
    )?;
    let proxy = write(machine, "kube-proxy.yaml", &kube_proxy(machine, options))?;
    // As the node's disk, it outlives a reboot, and images are unpacked once.
    let imported = machine.home().join("images-were-imported");
    let import = format!(
        "[ -e {imported} ] || for image in {images}/*.tar; do ctr -n k8s.io images import $image; done; touch {imported}",
        images = images().display(),
        imported = imported.display(),
    );
    let config = keys::path(&format!("{machine}.kubeconfig"));
    Ok(vec![
        Component::new("containerd", "containerd").with(&format!("--config {containerd}")),
        Component::step("images", import).after(CONTAINERD),
        Component::new("kubelet", program("kubelet")?)
            .with(&format!(
                "--config {kubelet} --kubeconfig {} --hostname-override {machine} --node-ip {}",
                config.display(),
                options.list(|family| machine.address(family)),
            ))
            .after(&imported)
            .after(api_was_ready()),
        Component::new("kube-proxy", program("kube-proxy")?)
            .with(&format!("--config {proxy}"))
            .after(api_was_ready()),
    ])
}

/// The plugins `bridge` and `portmap`, with addresses that are forgotten at a reboot.
fn conflist(machine: Machine, options: Options) -> String {
    let each = |text: fn(Machine, Family) -> String| {
        let texts = options
            .families()
            .iter()
            .map(|&family| text(machine, family));
        texts.collect::<Vec<_>>().join(", ")
    };
    let ranges = each(|machine, family| {
        let subnet = machine.pods(family).unwrap_or_default();
        format!(r#"[{{ "subnet": "{subnet}" }}]"#)
    });
    let routes = each(|_, family| {
        let all = match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        };
        format!(r#"{{ "dst": "{all}" }}"#)
    });
    format!(
        r#"{{ "cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{ "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
    "ipam": {{ "type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [{ranges}], "routes": [{routes}] }} }},
  {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}
] }}
"#
    )
}

/// Without `restrict_oom_score_adj` containers do not start where root lacks CAP_SYS_RESOURCE.
fn containerd(machine: Machine) -> String {
    let home = machine.home();
    format!(
        "version = 2\n\
         root = \"{data}\"\n\
         state = \"/run/containerd\"\n\
         [grpc]\n\
         address = \"{CONTAINERD}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{PAUSE}\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = \"{cni}\"\n",
        data = home.join("containerd").display(),
        cni = home.join("cni").display(),
    )
}

fn kubelet(machine: Machine, options: Options, resolver: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\n\
         kind: KubeletConfiguration\n\
         containerRuntimeEndpoint: unix://{CONTAINERD}\n\
         authentication: {{ anonymous: {{ enabled: false }}, webhook: {{ enabled: true }}, x509: {{ clientCAFile: {ca} }} }}\n\
         authorization: {{ mode: Webhook }}\n\
         clusterDomain: cluster.local\n\
         clusterDNS: [{dns}]\n\
         resolvConf: {resolver}\n\
         cgroupDriver: cgroupfs\n\
         cgroupRoot: /{cgroup}\n\
         failCgroupV1: false\n\
         failSwapOn: false\n\
         # More needs CAP_SYS_RESOURCE.\n\
         oomScoreAdj: 0\n\
         makeIPTablesUtilChains: false\n\
         imageGCHighThresholdPercent: 100\n\
         evictionHard: {{ memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1% }}\n\
         podLogsDir: /var/log/pods\n",
        ca = keys::path("ca.crt").display(),
        dns = options.list(|family| format!("'{}'", family.service())),
        cgroup = machine.namespace(),
    )
}

fn kube_proxy(machine: Machine, options: Options) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         clientConnection: {{ kubeconfig: {config} }}\n\
         mode: {mode}\n\
         hostnameOverride: {machine}\n\
         clusterCIDR: '{pods}'\n\
         # The sizes of connection tracking are the whole machine's.\n\
         conntrack: {{ maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }}\n",
        config = keys::path("kube-proxy.kubeconfig").display(),
        mode = options.proxy.name(),
        pods = options.list(Family::pods),
    )
}

/// The image of pods that only are there, and of every pod's first process.
pub const PAUSE: &str = "cluster.invalid/pause:1";
/// CoreDNS's image.
pub const COREDNS: &str = "cluster.invalid/coredns:1";

/// CoreDNS as kubeadm installs it, and names that the drills ask for.
#[must_use]
pub fn manifest(options: Options) -> String {
    let [a, b, c, d] = ADDRESS;
    let drill = format!(
        "template IN A {ZONE} {{\n  answer \"{{{{ .Name }}}} 30 IN A {a}.{b}.{c}.{d}\"\n}}\n"
    );
    let names = drill + &crate::drill::upstreams::names::plugin(0);
    let names: String = names
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    include_str!("../../kubernetes/coredns.yaml")
        .replace("        # NAMES\n", &names)
        .replace("IMAGE", COREDNS)
        .replace("FIRST", &Family::V4.service().to_string())
        .replace(
            "ADDRESSES",
            &options.list(|family| format!("\"{}\"", family.service())),
        )
}
