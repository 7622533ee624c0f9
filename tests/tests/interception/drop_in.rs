// SPDX-License-Identifier: Apache-2.0
//! The agent in the place of node-cache: its command line, its Corefile and ConfigMaps as the kubelet
//! mounts them, what takes effect while it runs, and what is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nodens_tests::agent::{self, http_get, sum_samples};
use nodens_tests::client::Client;
use nodens_tests::node::{Family, From, Incumbent, Node, Server, Shape};
use nodens_tests::process::{Program, TempDir, wait_for};
use rustix::process::Signal;

use crate::takeover::{SWEPT, flow, lost_nothing, pause};
use crate::{ANSWER, PATIENCE, node, said, wait_for_answer};

/// The Corefile of the official manifest.
const COREFILE: &str = include_str!("../../../agent/tests/corefiles/good/kubernetes.Corefile");
/// How soon a change takes effect.
const SOON: Duration = Duration::from_secs(2);
/// Type A.
const A: u16 = 1;

/// A ConfigMap as the kubelet mounts it: every file is a link into a directory that is swapped whole.
struct ConfigMap(PathBuf);

impl ConfigMap {
    fn new(path: PathBuf, files: &[(&str, &str)]) -> Self {
        fs::create_dir(&path).unwrap();
        let config_map = Self(path);
        config_map.set(files);
        config_map
    }

    fn set(&self, files: &[(&str, &str)]) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let at = |name: &str| self.0.join(name);
        let before = fs::read_link(at("..data"));
        let version = format!("..2026_{}", NUMBER.fetch_add(1, Relaxed));
        fs::create_dir(at(&version)).unwrap();
        for (name, text) in files {
            fs::write(at(&version).join(name), text).unwrap();
        }
        symlink(&version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        for (name, _) in files {
            if fs::symlink_metadata(at(name)).is_err() {
                symlink(Path::new("..data").join(name), at(name)).unwrap();
            }
        }
        if let Ok(before) = before {
            fs::remove_dir_all(at(before.to_str().unwrap())).unwrap();
        }
    }
}

/// What the DaemonSet of node-cache mounts on a node.
struct Mounts {
    dir: TempDir,
    corefile: ConfigMap,
    kube_dns: ConfigMap,
}

/// Servers for the names outside the cluster that nobody is at.
const NOBODY: (&str, &str) = ("upstreamNameservers", "[\"192.168.50.3:5399\"]");

impl Mounts {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let of = |name: &str, files: &[_]| ConfigMap::new(dir.path().join(name), files);
        Self {
            corefile: of("coredns", &[("Corefile.base", COREFILE)]),
            kube_dns: of("kube-dns", &[NOBODY]),
            dir,
        }
    }

    /// The command line of the manifest, with these words before it. Paths are those of the test, and
    /// the admin socket is not the machine's.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = agent::command().unwrap();
        command
            .args(words)
            .args(["-localip", "169.254.20.10,10.96.0.10"])
            .args(["-conf", "/etc/Corefile"])
            .args(["-upstreamsvc", "kube-dns-upstream"])
            .arg("-basecorefile")
            .arg(self.corefile.0.join("Corefile.base"))
            .arg("-kubednscm")
            .arg(&self.kube_dns.0)
            .env("KUBE_DNS_SERVICE_HOST", Family::V4.service().to_string())
            .env(
                "KUBE_DNS_UPSTREAM_SERVICE_HOST",
                Family::V4.upstream().to_string(),
            )
            .env("NODENS_ADMIN_SOCKET", self.dir.path().join("admin.sock"));
        command
    }

    fn start(&self, node: &Node) -> Program {
        let log = self.dir.path().join("log");
        node.host().start(self.command(&[]), log).unwrap()
    }

    /// Runs it to its end.
    fn run(&self, node: &Node, words: &[&str]) -> Output {
        let mut command = self.command(words);
        node.host().within(|| command.output()).unwrap()
    }
}

/// A stub domain that leads the name to CoreDNS.
const STUBS: &str = "{\"drill.example\": [\"10.244.9.53\"]}";

/// Waits until a pod's query for the name is answered, and says how long that took.
#[track_caller]
fn until_answered(node: &Node, program: &Program) -> Duration {
    let began = Instant::now();
    let [local, _] = Family::V4.asked();
    let answered = wait_for("an answer", PATIENCE, || {
        let answer = node.ask(From::Veth, local, false, Duration::from_millis(300));
        Ok(answer.ok())
    });
    answered.unwrap_or_else(|error| panic!("{error:#}\n{}", program.log()));
    began.elapsed()
}

/// Waits until the program serves: names that nobody answers get an answer that says so.
#[track_caller]
fn until_it_serves(node: &Node, program: &Program) {
    for server in Family::V4.asked() {
        wait_for("the agent to answer", PATIENCE, || {
            let answer = node.space(From::Veth).within(|| {
                let client = Client::new(server).patience(Duration::from_millis(300));
                client.query("nobody.example", A)
            });
            Ok(answer.ok())
        })
        .unwrap_or_else(|error| panic!("{server}: {error:#}\n{}", program.log()));
    }
}

fn metric(node: &Node, name: &str, labels: &[(&str, &str)]) -> f64 {
    let at = "169.254.20.10:9253".parse().unwrap();
    let page = node.host().within(|| http_get(at, "/metrics")).unwrap();
    sum_samples(&page.body, name, labels)
}

#[test]
fn node_caches_own_command_line_serves_and_follows_its_config_maps() {
    let (_alone, node) = node(Shape::Iptables);
    let mounts = Mounts::new();
    let program = mounts.start(&node);
    until_it_serves(&node, &program);

    // Ports and paths are node-cache's.
    for (address, path) in [
        ("169.254.20.10:8080", "/health"),
        ("169.254.20.10:9253", "/metrics"),
        ("169.254.20.10:9353", "/metrics"),
    ] {
        let at = address.parse().unwrap();
        // What asks for health is told of it with the first look of the agent's own, a moment later.
        let mut said = String::new();
        wait_for("a good answer", PATIENCE, || {
            let page = node.host().within(|| http_get(at, path))?;
            said = format!("{} {}", page.status, page.body);
            Ok((page.status == 200).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{address}{path}: {error:#}, {said}"));
    }
    // The cluster's address is steered, and on no interface.
    let addresses = node.host().run("ip -oneline address show").unwrap();
    assert!(addresses.contains("169.254.20.10"), "{addresses}");
    assert!(!addresses.contains("10.96.0.10"), "{addresses}");

    // A stub domain that comes with the ConfigMap leads the name to CoreDNS.
    let [local, service] = Family::V4.asked();
    node.ask(From::Veth, local, false, ANSWER).unwrap_err();
    mounts.kube_dns.set(&[NOBODY, ("stubDomains", STUBS)]);
    let took = until_answered(&node, &program);
    assert!(took < SOON, "{took:?}");
    wait_for_answer(&node, From::Veth, service, Server::Agent);

    // From here on no query is lost whatever is done to the files.
    let is_over = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0_u32;
            while !is_over.load(Relaxed) {
                for (server, over_tcp) in [
                    (local, false),
                    (service, false),
                    (local, true),
                    (service, true),
                ] {
                    let answer = node.ask(From::Veth, server, over_tcp, ANSWER);
                    let answer = answer.unwrap_or_else(|error| panic!("{error:#}"));
                    assert_eq!(answer, Server::Agent);
                    asked += 1;
                }
            }
            asked
        });
        let refused = [("result", "refused")];
        let reloads = |labels: &[_]| metric(&node, "nodens_config_reloads_total", labels);
        let wait_for_refusal = |number: f64, told: &str| {
            let began = Instant::now();
            wait_for("the refusal", PATIENCE, || {
                Ok((reloads(&refused) >= number).then_some(()))
            })
            .unwrap();
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            wait_for("the line", PATIENCE, || {
                Ok(program.log().contains(told).then_some(()))
            })
            .unwrap_or_else(|error| panic!("{told}: {error:#}\n{}", program.log()));
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // One line each, and the old one stays.
            mounts
                .kube_dns
                .set(&[NOBODY, ("stubDomains", "{\n  \"drill.example\": [\"x\"]}")]);
            wait_for_refusal(1.0, "stubDomains:2:21: stubDomains: found ");
            mounts.kube_dns.set(&[NOBODY, ("stubDomains", STUBS)]);
            let bad = COREFILE.replacen("reload", "relaod", 1);
            mounts.corefile.set(&[("Corefile.base", &bad)]);
            wait_for_refusal(2.0, "did you mean reload?");
            let lines = program.log();
            let lines: Vec<_> = lines
                .lines()
                .filter(|line| line.contains("refused whole"))
                .collect();
            assert_eq!(lines.len(), 2, "{lines:?}");

            // A restart says the same, and ends with 64.
            for words in [&[][..], &["check"], &["netsetup", "up"]] {
                let output = mounts.run(&node, words);
                assert_eq!(output.status.code(), Some(64), "{}", said(&output));
                let told = said(&output);
                let told = told.lines().next().unwrap();
                let place = told.split(": found").next().unwrap_or_default();
                assert!(place.contains("Corefile.base:"), "{told}");
                assert!(lines[1].contains(place), "{told} in {lines:?}");
            }

            // A rule of its own, and a lifetime that is another.
            let template = "template IN A here.example {\n answer \"{{ .Name }} 60 IN A 192.0.2.9\"\n }\n loop";
            let good = COREFILE.replace("loop", template);
            mounts.corefile.set(&[("Corefile.base", &good)]);
            let began = Instant::now();
            wait_for("the new rule", PATIENCE, || {
                // Until then nobody knows it, and to find that out takes long.
                let client = Client::new(local).patience(Duration::from_millis(300));
                let query = || client.query("here.example", A);
                let answer = node.space(From::Veth).within(query).ok();
                let wanted = [std::net::IpAddr::from([192, 0, 2, 9])];
                Ok(answer.filter(|answer| answer.addresses() == wanted))
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", program.log()));
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

            // What cannot change while it runs is told loudly.
            let elsewhere = good.replace("169.254.20.10", "169.254.20.11");
            let elsewhere = elsewhere.replace("__PILLAR__LOCAL__DNS__", "169.254.20.11 10.96.0.10");
            mounts.corefile.set(&[("Corefile.base", &elsewhere)]);
            wait_for("the line", PATIENCE, || {
                let log = program.log();
                let told =
                    log.contains("cannot take effect while") && log.contains("listen.addresses");
                Ok(told.then_some(()))
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", program.log()));
        }));
        is_over.store(true, Relaxed);
        let asked = asking.join();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(asked > 100, "{asked}");
}

/// Ends it as a DaemonSet does whose pods are replaced.
#[track_caller]
fn end(mut program: Program) {
    program.signal(Signal::TERM).unwrap();
    let status = program.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", program.log());
}

#[test]
fn one_pod_after_the_other_the_node_local_address_answers_all_along_and_is_node_caches_on_its_return()
 {
    for (from, iptables) in [
        (From::Bridge, "iptables-nft"),
        (From::Veth, "iptables-legacy"),
        (From::Host, "iptables-nft"),
    ] {
        let (_alone, node) = node(Shape::Iptables);
        let mounts = Mounts::new();
        mounts.kube_dns.set(&[NOBODY, ("stubDomains", STUBS)]);
        let [local, service] = Family::V4.asked();
        let program = mounts.start(&node);
        wait_for_answer(&node, from, local, Server::Agent);
        wait_for_answer(&node, from, service, Server::Agent);

        // Another version of nodens; killed, too.
        let both = flow(&node, from, &[local, service]);
        end(program);
        pause(0.5);
        wait_for_answer(&node, from, local, Server::CoreDns);
        let mut program = mounts.start(&node);
        wait_for_answer(&node, from, local, Server::Agent);
        wait_for_answer(&node, from, service, Server::Agent);
        lost_nothing(&both.stop().unwrap());
        program.signal(Signal::KILL).unwrap();
        program.wait(PATIENCE).unwrap();
        wait_for_answer(&node, from, local, Server::CoreDns);
        let program = mounts.start(&node);
        wait_for_answer(&node, from, local, Server::Agent);

        // Back to node-cache, and forth again.
        // A program of the node's own whose socket is connected to the Service while that is on the
        // node goes with the address.
        let stays = [local, service];
        let stays = if from == From::Host {
            &stays[..1]
        } else {
            &stays
        };
        let there_and_back = flow(&node, from, stays);
        end(program);
        pause(0.5);
        let node_cache = Incumbent::start(&node, iptables).unwrap();
        pause(0.5);
        let answered = || metric(&node, "coredns_dns_requests_total", &[("proto", "udp")]);
        let before = answered();
        let asked = there_and_back.asked();
        pause(1.0);
        let (asked, answered) = (there_and_back.asked() - asked, answered() - before);
        #[expect(clippy::cast_precision_loss, reason = "a second's queries")]
        let share = answered / asked as f64;
        assert!(share > 0.9, "node-cache answered {answered} of {asked}");
        wait_for_answer(&node, from, local, Server::CoreDns);
        node_cache.end(&node).unwrap();
        pause(0.5);
        let program = mounts.start(&node);
        wait_for_answer(&node, from, local, Server::Agent);
        lost_nothing(&there_and_back.stop().unwrap());
        end(program);

        // What is left goes by hand.
        let down = mounts.run(&node, &["netsetup", "down"]);
        assert_eq!(down.status.code(), Some(0), "{}", said(&down));
        node.ask(from, local, false, ANSWER).unwrap_err();
    }
}

#[test]
fn what_a_killed_node_cache_left_goes_where_nodens_has_its_command_line() {
    let (_alone, node) = node(Shape::Iptables);
    let node_cache = Incumbent::start(&node, "iptables-nft").unwrap();
    node_cache.kill().unwrap();
    let mounts = Mounts::new();
    mounts.kube_dns.set(&[NOBODY, ("stubDomains", STUBS)]);
    let program = mounts.start(&node);
    until_answered(&node, &program);
    wait_for("the sweep", SWEPT, || {
        let rules = node.host().run("iptables-nft-save")?;
        let addresses = node.host().run("ip address show")?;
        let is_left = rules.contains("NodeLocal DNS Cache") || addresses.contains("10.96.0.10");
        Ok((!is_left).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", program.log()));
    // Whatever becomes of the agent, CoreDNS answers at both.
    end(program);
    for from in From::ALL {
        for address in Family::V4.asked() {
            wait_for_answer(&node, from, address, Server::CoreDns);
        }
    }
}

#[test]
fn netsetup_reads_node_caches_flags() {
    let (_alone, node) = node(Shape::Iptables);
    let mounts = Mounts::new();
    let before = node.picture().unwrap();
    for words in [
        ["netsetup", "up"],
        ["netsetup", "print"],
        ["netsetup", "check"],
    ] {
        let output = mounts.run(&node, &words);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{words:?}: {}",
            said(&output)
        );
    }
    let addresses = node.host().run("ip -oneline address show").unwrap();
    assert!(addresses.contains("169.254.20.10"), "{addresses}");
    assert!(!addresses.contains("10.96.0.10"), "{addresses}");
    let output = mounts.run(&node, &["netsetup", "down"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(node.picture().unwrap(), before);
}
