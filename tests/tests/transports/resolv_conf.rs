// SPDX-License-Identifier: Apache-2.0
//! The servers of a resolv.conf, replaced in every way while clients ask.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use nodens_tests::agent::{Agent, command};
use nodens_tests::client::Client;
use nodens_tests::fault::{self, Fault, Reply};
use nodens_tests::netns;
use nodens_tests::process::{Program, TempDir, wait_for};

use crate::{A, PATIENCE, said, wait_for_metric, with_zones};

/// Servers of a network (RFC 5737, RFC 3849), at port 53.
const SERVERS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::3"];

/// Servers in a network namespace, with a resolv.conf.
struct Network {
    servers: Vec<Fault>,
    dir: TempDir,
}

impl Network {
    fn new() -> Self {
        let mut servers = Vec::new();
        for server in SERVERS {
            let ip: IpAddr = server.parse().unwrap();
            netns::run(&format!("ip address add {ip} dev lo nodad")).unwrap();
            let addr = SocketAddr::new(ip, 53);
            let started = Fault::builder()
                .at(addr)
                .start(fault::reply(Reply::Address));
            servers.push(started.unwrap());
        }
        let dir = TempDir::new().unwrap();
        Self { servers, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    /// Lines that name these servers.
    fn text(numbers: &[usize]) -> String {
        let lines = numbers.iter().map(|&number| {
            let server = SERVERS[number];
            format!("nameserver {server}\n")
        });
        format!("search example.org\n{}", lines.collect::<String>())
    }

    fn agent(&self) -> Agent {
        let path = self.path();
        let path = path.display();
        let fixed = SERVERS[2];
        let zones = format!(
            "[{{ name: ., resolv.conf: {path} }}, {{ name: fixed.example, upstreams: ['{fixed}'] }}]"
        );
        with_zones(&zones).start().unwrap()
    }

    /// Waits until this server alone is asked, with names that are new.
    #[track_caller]
    fn wait_until_asked(&self, agent: &Agent, number: usize, what: &str) {
        let reached = wait_for(what, PATIENCE, || {
            let before: Vec<_> = self.servers.iter().map(Fault::total).collect();
            for _ in 0..3 {
                agent.client().query(&fresh(), A)?;
            }
            let grew = self.servers.iter().zip(before);
            let grew: Vec<_> = grew
                .map(|(server, before)| server.total() > before)
                .collect();
            let wanted: Vec<_> = (0..self.servers.len()).map(|one| one == number).collect();
            Ok((grew == wanted).then_some(()))
        });
        assert!(reached.is_ok(), "{what}: {reached:?}: {}", agent.log());
    }

    fn replace(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

fn fresh() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("n{}.example.org", NUMBER.fetch_add(1, Relaxed))
}

fn relink(target: &Path, link: &Path) {
    let new = link.with_file_name("new-link");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn a_file_that_is_replaced_in_whatever_way_takes_effect_while_clients_ask() {
    netns::within(|| {
        let network = Network::new();
        fs::write(network.path(), Network::text(&[0])).unwrap();
        let agent = network.agent();
        network.wait_until_asked(&agent, 0, "the first server");
        let is_over = AtomicBool::new(false);
        let kept = "kept.fixed.example";
        agent.client().query(kept, A).unwrap();
        let fixed = network.servers[2].count(kept, A);
        std::thread::scope(|scope| {
            // A step that fails must not leave the other thread asking for ever.
            let over = Over(&is_over);
            let asking = scope.spawn(|| {
                let client = agent.client().patience(PATIENCE);
                let mut asked = 0;
                while !is_over.load(Relaxed) {
                    let answer = client.query(&fresh(), A).unwrap();
                    assert_eq!(answer.addresses().len(), 1, "{answer:?}");
                    asked += 1;
                }
                asked
            });
            network.replace(&Network::text(&[1]));
            network.wait_until_asked_among(&agent, 1, "renamed over");
            fs::write(network.path(), Network::text(&[2])).unwrap();
            network.wait_until_asked_among(&agent, 2, "written into");
            // As kubelet swaps a ConfigMap, and systemd its file.
            let dir = network.dir.path();
            for (version, number) in [("..1", 0), ("..2", 1)] {
                fs::create_dir(dir.join(version)).unwrap();
                fs::write(
                    dir.join(version).join("resolv.conf"),
                    Network::text(&[number]),
                )
                .unwrap();
            }
            symlink("..1", dir.join("..data")).unwrap();
            relink(Path::new("..data/resolv.conf"), &network.path());
            network.wait_until_asked_among(&agent, 0, "a link in its place");
            relink(Path::new("..2"), &dir.join("..data"));
            network.wait_until_asked_among(&agent, 1, "..data swapped");
            drop(over);
            assert!(asking.join().unwrap() > 0);
        });
        // What does not follow the file has kept what it knew.
        agent.client().query(kept, A)?;
        assert_eq!(network.servers[2].count(kept, A), fixed);
        Ok(())
    })
    .unwrap();
}

/// Says at its end that the test is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Network {
    /// Waits until this server is asked, with others who ask meanwhile.
    #[track_caller]
    fn wait_until_asked_among(&self, agent: &Agent, number: usize, what: &str) {
        let before = self.servers[number].total();
        let reached = wait_for(what, PATIENCE, || {
            Ok((self.servers[number].total() > before).then_some(()))
        });
        assert!(reached.is_ok(), "{what}: {}", agent.log());
    }
}

#[test]
fn what_cannot_be_used_leaves_the_last_good_servers_in_force_and_is_said_once() {
    netns::within(|| {
        let network = Network::new();
        fs::write(network.path(), Network::text(&[0])).unwrap();
        let agent = network.agent();
        network.wait_until_asked(&agent, 0, "the first server");
        let stays = "what it said before stays in force";
        for (number, (bad, told)) in [
            ("", "found no nameserver line"),
            (
                "nameserver 127.0.0.53\n",
                "/run/systemd/resolve/resolv.conf",
            ),
            ("nameserver 192.0.2.9%\n", "192.0.2.9%"),
        ]
        .into_iter()
        .enumerate()
        {
            network.replace(bad);
            agent.wait_for_log(told, PATIENCE)?;
            network.wait_until_asked(&agent, 0, told);
            assert_eq!(said(&agent, &["ERROR", stays, "resolv.conf"]), number + 1);
            // The same again is no news.
            network.replace(bad);
            let refused = u32::try_from(2 * number + 2)?;
            let labels = [("result", "refused")];
            wait_for_metric(&agent, "nodens_file_changes_total", &labels, refused);
            assert_eq!(
                said(&agent, &["ERROR", stays]),
                number + 1,
                "{}",
                agent.log()
            );
        }
        fs::remove_file(network.path())?;
        agent.wait_for_log("found no such file", PATIENCE)?;
        network.wait_until_asked(&agent, 0, "the file is gone");

        network.replace(&Network::text(&[1]));
        network.wait_until_asked(&agent, 1, "a good one");
        assert_eq!(said(&agent, &["the file can be used again"]), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_file_that_comes_to_name_the_agent_itself_is_refused_while_it_runs_and_at_its_start() {
    netns::within(|| {
        let network = Network::new();
        netns::run("ip address add 192.0.2.77 dev lo")?;
        fs::write(network.path(), Network::text(&[0]))?;
        let dir = network.dir.path();
        let file = dir.join("nodens.yaml");
        let resolv_conf = network.path();
        let config = format!(
            "version: 1\nlisten:\n  addresses: [192.0.2.77]\nadmin: {{ socket: {} }}\n\
             limits: {{ loopProbes: 0s }}\nzones: [{{ name: ., resolv.conf: {} }}]\n",
            dir.join("admin.sock").display(),
            resolv_conf.display()
        );
        fs::write(&file, config)?;
        let run = |log: &str| {
            let mut command = command()?;
            command.arg("run").arg("--config").arg(&file);
            Program::start(command, dir.join(log))
        };
        let agent = run("first")?;
        let client = Client::new("192.0.2.77:53".parse()?);
        wait_for("an answer", PATIENCE, || Ok(client.query(&fresh(), A).ok()))?;
        network.replace("nameserver 192.0.2.2\nnameserver 192.0.2.77\n");
        let told = "found 192.0.2.77:53 on its line 2, expected a server other than the agent";
        wait_for("the refusal", PATIENCE, || {
            Ok(agent.log().contains(told).then_some(()))
        })?;
        let before = network.servers[0].total();
        client.query(&fresh(), A)?;
        assert_eq!(network.servers[0].total(), before + 1);
        drop(agent);

        let mut second = run("second")?;
        assert_eq!(second.wait(PATIENCE)?.code(), Some(64));
        let said = second.log();
        for word in [
            &format!("{}:6:", file.display()),
            "zones[0].resolv.conf: found the upstream 192.0.2.77:53 in ",
            "which listens there and would ask itself",
            "/run/systemd/resolve/resolv.conf",
        ] {
            assert!(said.contains(word), "{word} in {said}");
        }
        Ok(())
    })
    .unwrap();
}
