// SPDX-License-Identifier: Apache-2.0
//! The resolvers of C libraries: glibc's, musl's as it was until 1.2.3, which never asks over TCP, and
//! as it is since. Each must find by nodens what it finds by CoreDNS.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::acceptance::objects::NAMESPACE;
use crate::acceptance::stage::Stage;
use crate::client::Client;
use crate::cluster::components::{OUTSIDE_ZONE, kubernetes};
use crate::cluster::pods::Pod;
use crate::cluster::{Machine, archive};
use crate::drill::rows::Outcome;
use crate::drill::table::Figure;
use crate::node::Family;
use crate::process::TempDir;
use crate::query::{Query, TC};

/// The image of the pods that ask.
const IMAGE: &str = "cluster.invalid/libraries:1";
/// Headless Services, and how many addresses they have: more than 512 octets hold, the most over UDP
/// without EDNS (RFC 1035 section 4.2.1); and more than 1,232 hold, the most with it.
const LARGE: &[(&str, u8)] = &[("forty", 40), ("many", 150)];
/// Type A.
const A: u16 = 1;
/// A C library.
struct Library {
    name: &'static str,
    /// How its program is started in the pod.
    words: &'static [&'static str],
    /// The most addresses it gives a program: where there are more, which ones is chance.
    most: usize,
}

const LIBRARIES: &[Library] = &[
    Library {
        name: "glibc",
        words: &["/glibc/ld.so", "--library-path", "/glibc", "/glibc/resolve"],
        most: usize::MAX,
    },
    Library {
        name: "musl 1.2.3",
        words: &["/musl-old.so", "/musl/resolve"],
        // What a response over UDP without EDNS holds of names of this length.
        most: 29,
    },
    Library {
        name: "musl 1.2.5",
        words: &["/musl-new.so", "/musl/resolve"],
        // Its MAXADDRS.
        most: 48,
    },
];

/// What a library found, in order; or what it said.
type Found = Result<BTreeSet<String>, String>;

/// Every library, by nodens and by CoreDNS, and the responses themselves over UDP and TCP.
pub(super) fn same(stage: &Stage) -> Outcome {
    stage.cluster.load(&image()?.1)?;
    let coredns = Pod::all(&stage.kubectl, "kube-system", "k8s-app=kube-dns")?;
    let coredns = coredns.first().context("a pod of CoreDNS")?.addresses[0];
    stage
        .kubectl
        .apply(&(asker("by-nodens", "") + &asker("by-coredns", &direct(coredns)) + &large()))?;
    for pod in ["by-nodens", "by-coredns"] {
        stage.kubectl.run(&format!(
            "-n {NAMESPACE} wait pod/{pod} --for=condition=Ready --timeout=120s"
        ))?;
    }
    let node = Machine::Node(1);
    let ours = stage.client_of("by-nodens", node)?;
    let theirs = stage.client_of("by-coredns", node)?;
    let outside = format!("www.{OUTSIDE_ZONE}");
    let names = [
        "web",
        "db-0.db",
        "away",
        "kubernetes.default",
        "missing",
        &outside,
    ];
    let names: Vec<&str> = LARGE.iter().map(|large| large.0).chain(names).collect();
    let (mut differ, mut asked) = (0, 0);
    let mut details = Vec::new();
    for library in LIBRARIES {
        for &name in &names {
            let (by_ours, by_theirs) = (find(&ours, library, name)?, find(&theirs, library, name)?);
            asked += 1;
            if !library.takes_for_the_same(&by_ours, &by_theirs) {
                differ += 1;
                let told = format!("{by_ours:?}, by CoreDNS {by_theirs:?}");
                let told = told.get(..300).unwrap_or(&told);
                details.push(format!("{} and {name}: {told}", library.name));
            }
            if let Some((_, all)) = LARGE.iter().find(|large| large.0 == name) {
                let count = |found: &Found| found.as_ref().map_or(0, BTreeSet::len);
                let (ours, theirs) = (count(&by_ours), count(&by_theirs));
                let library = library.name;
                details.push(format!(
                    "{library} finds {ours} of {all}, by CoreDNS {theirs}"
                ));
            }
        }
    }
    for (name, _) in LARGE {
        let name = format!("{name}.{NAMESPACE}.svc.cluster.local");
        for (over_tcp, size) in [(false, None), (false, Some(1_232)), (true, None)] {
            let query = Query::new(&name, A);
            let query = match size {
                None => query,
                Some(size) => query.edns(size),
            };
            let ask = |server| {
                ours.door()?.within(|| {
                    let client = Client::new(server).patience(Duration::from_secs(2));
                    if over_tcp {
                        client.tcp(&query)
                    } else {
                        client.udp(&query)
                    }
                })
            };
            let service = ask(Family::dns(Family::V4.service()))?;
            let direct = ask(Family::dns(coredns))?;
            let [ours, theirs] = [&service, &direct].map(|response| response.addresses().len());
            // What is truncated says so, and holds as much as there is room for.
            differ += u64::from(service.has(TC) != direct.has(TC) || ours < theirs);
            let way = if over_tcp { "TCP" } else { "UDP" };
            details.push(format!(
                "{way}, EDNS {size:?}: {ours} addresses, by CoreDNS {theirs}"
            ));
        }
    }
    stage.kubectl.run(&format!(
        "-n {NAMESPACE} delete pod/by-nodens pod/by-coredns"
    ))?;
    for (name, _) in LARGE {
        let line = format!("-n {NAMESPACE} delete service/{name} endpointslice/{name}");
        stage.kubectl.run(&line)?;
    }
    details.push(format!("{asked} names asked of each"));
    Ok((
        vec![Figure::count(" answers differ", differ, 0, 0)],
        details,
    ))
}

impl Library {
    /// Whether a program gets the same: the same addresses, or as many where it gets some of many.
    fn takes_for_the_same(&self, ours: &Found, theirs: &Found) -> bool {
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if theirs.len() >= self.most => ours.len() >= theirs.len(),
            _ => ours == theirs,
        }
    }
}

/// Asks a library in a pod.
fn find(pod: &Pod, library: &Library, name: &str) -> anyhow::Result<Found> {
    let output = Command::new("nsenter")
        .args(["-t", &pod.pid.to_string(), "-m", "-n", "--"])
        .args(library.words)
        .arg(name)
        .output()
        .context("run nsenter")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Ok(Err(said.trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Ok(text.lines().map(str::to_owned).collect()))
}

/// A pod on the first node, with further lines of its spec.
fn asker(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Pod\n\
         metadata: {{ name: {name}, namespace: {NAMESPACE}, labels: {{ app: {name} }} }}\n\
         spec:\n\
         \x20 nodeName: node1\n\
         \x20 terminationGracePeriodSeconds: 0\n\
         {spec}\
         \x20 containers: [{{ name: it, image: '{IMAGE}', imagePullPolicy: Never }}]\n---\n"
    )
}

/// What kubelet would write to resolv.conf, with a pod of CoreDNS for the server.
fn direct(coredns: std::net::IpAddr) -> String {
    format!(
        "  dnsPolicy: None\n\
         \x20 dnsConfig:\n\
         \x20   nameservers: ['{coredns}']\n\
         \x20   searches: [{NAMESPACE}.svc.cluster.local, svc.cluster.local, cluster.local]\n\
         \x20   options: [{{ name: ndots, value: '5' }}]\n"
    )
}

/// Headless Services of many endpoints, which need no pods.
fn large() -> String {
    let mut text = String::new();
    for (name, count) in LARGE {
        let endpoints = (1..=*count).map(|number| {
            format!("{{ addresses: ['198.18.0.{number}'], conditions: {{ ready: true }} }}")
        });
        let endpoints: Vec<String> = endpoints.collect();
        text += &format!(
            "apiVersion: v1\n\
             kind: Service\n\
             metadata: {{ name: {name}, namespace: {NAMESPACE} }}\n\
             spec: {{ clusterIP: None, ports: [{{ name: http, port: 80 }}] }}\n\
             ---\n\
             apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata: {{ name: {name}, namespace: {NAMESPACE}, labels: {{ kubernetes.io/service-name: {name} }} }}\n\
             addressType: IPv4\n\
             ports: [{{ name: http, port: 80 }}]\n\
             endpoints: [{}]\n---\n",
            endpoints.join(", ")
        );
    }
    text
}

/// Builds the program against both libraries, and the image with them and it.
fn image() -> anyhow::Result<(TempDir, PathBuf)> {
    let musl = std::env::var_os("NODENS_MUSL").map(PathBuf::from);
    let musl =
        musl.context("NODENS_MUSL names no musl: call this by `make e2e`, which fetches it")?;
    let dir = TempDir::new()?;
    let source = crate::helm::root().join("tests/kubernetes/resolve.c");
    let build = |compiler: &str, name: &str| -> anyhow::Result<PathBuf> {
        let program = dir.path().join(name);
        let output = Command::new(compiler)
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .args([&program, &source])
            .output()
            .with_context(|| format!("run {compiler} (`make cluster-deps` installs it)"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{compiler}: {said}");
        Ok(program)
    };
    let glibc = build("gcc", "glibc")?;
    let (loader, library) = libraries(&glibc)?;
    let image = dir.path().join("image.tar");
    let files: &[archive::File<'_>] = &[
        (&kubernetes()?.join("pause"), "/pause"),
        (&glibc, "/glibc/resolve"),
        (&loader, "/glibc/ld.so"),
        (&library, "/glibc/libc.so.6"),
        (&build("musl-gcc", "musl")?, "/musl/resolve"),
        (&musl.join("bookworm/libc.so"), "/musl-old.so"),
        (&musl.join("trixie/libc.so"), "/musl-new.so"),
    ];
    archive::write(&image, IMAGE, files, &["/pause"])?;
    Ok((dir, image))
}

/// The loader and the library of a program, as ldd(1) tells them.
fn libraries(program: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |word: &str| {
        let line = text.lines().find(|line| line.contains(word))?;
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    };
    let found = path("ld-linux").zip(path("libc.so"));
    found.with_context(|| format!("ldd tells of no glibc: {text}"))
}
