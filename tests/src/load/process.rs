// SPDX-License-Identifier: Apache-2.0
//! The servers under test as processes of their own, so that the kernel keeps their books.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::echo::Layout;
use super::names::{Names, Pick};
use super::question::{self, Expect, LONGEST_QUERY};
use super::{Random, now_ns};

/// How often a server that starts is asked.
const ASK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000,
};
/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    /// Where it answers over UDP (and TCP, the agent).
    pub address: SocketAddr,
    /// From just before exec to the first right answer; for an echo to its address.
    pub started_in: Duration,
    child: Child,
    directory: Option<PathBuf>,
}

impl Server {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts the echo: `program` is the binary `echo` of this package.
    ///
    /// # Errors
    /// Where the program cannot be run or does not say its address.
    pub fn echo(program: &Path, layout: Layout) -> Result<Self> {
        let begin = now_ns();
        let layout = match layout {
            Layout::OneThread => "one-thread",
            Layout::OneLooseThread => "one-loose-thread",
            Layout::PerCpu => "per-cpu",
        };
        let mut child = Command::new(program)
            .args(["--layout", layout])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let mut line = String::new();
        let said = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).read_line(&mut line),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let mut server = Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            started_in: Duration::from_nanos(now_ns() - begin),
            child,
            directory: None,
        };
        said.context("read the echo's address")?;
        server.address = line
            .trim()
            .parse()
            .with_context(|| format!("the echo said {line:?}"))?;
        Ok(server)
    }

    /// Starts the agent, `program`, on 127.0.0.1 in front of `upstream`, and asks it for a new
    /// name every 200 us until the right address comes back.
    ///
    /// # Errors
    /// Where the program cannot be run, ends, or does not answer within ten seconds; with what it
    /// wrote to standard error.
    pub fn agent(program: &Path, upstream: SocketAddr, cache: &str) -> Result<Self> {
        let run = Random::seed_of_the_moment();
        let directory = std::env::temp_dir().join(format!("nodens-bench-{run:016x}"));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let [port, health, metrics] = free_ports()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let admin = [health, metrics];
        let config = directory.join("config.yaml");
        fs::write(
            &config,
            configuration(address, upstream, cache, admin, &directory),
        )?;
        let log = directory.join("stderr");
        let names = Names::new("n#.bench.example", 1, Pick::New)?;

        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let begin = now_ns();
        let child = command
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let mut server = Self {
            address,
            started_in: Duration::ZERO,
            child,
            directory: Some(directory),
        };
        server.started_in = server.await_answer(&names, begin).with_context(|| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("{} did not start; it said:\n{said}", program.display())
        })?;
        Ok(server)
    }

    /// Asks for the first of `names` until the right answer comes. Returns the time since `begin`.
    fn await_answer(&mut self, names: &Names, begin: u64) -> Result<Duration> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.address)?;
        socket.set_nonblocking(true)?;
        let mut query = [0; LONGEST_QUERY];
        let len = question::write(names, 0, 0x4E53, &mut query);
        let query = &query[..len];
        let mut reply = [0; 2048];
        loop {
            // Refused until the server has its socket.
            _ = socket.send(query);
            poll(
                &mut [PollFd::new(&socket.as_fd(), PollFlags::IN)],
                Some(&ASK_EVERY),
            )?;
            if let Ok(len) = socket.recv(&mut reply) {
                let right = question::id(&reply[..len]) == question::id(query)
                    && question::check(query, &reply[..len], Expect::Address).is_ok();
                if right {
                    return Ok(Duration::from_nanos(now_ns() - begin));
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            let waited = Duration::from_nanos(now_ns() - begin);
            if waited > START_TIMEOUT {
                return Err(anyhow!("no right answer within {waited:?}"));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
        if let Some(directory) = &self.directory {
            _ = fs::remove_dir_all(directory);
        }
    }
}

/// The agent's file.
fn configuration(
    listen: SocketAddr,
    upstream: SocketAddr,
    cache: &str,
    [health, metrics]: [u16; 2],
    directory: &Path,
) -> String {
    format!(
        r#"version: 1
listen:
  addresses: [{address}]
  port: {port}
intercept:
  enabled: false
cache:
  size: {cache}
zones:
  - name: "."
    upstreams: ["{upstream}"]
    pipeline: 1
admin:
  health: 127.0.0.1:{health}
  metrics: 127.0.0.1:{metrics}
  socket: {directory}/admin.sock
"#,
        address = listen.ip(),
        port = listen.port(),
        directory = directory.display(),
    )
}

/// Ports of 127.0.0.1, all different, that were free for UDP and TCP a moment ago.
///
/// # Errors
/// Where none are found.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    // All are held until the last is found, so that none comes twice.
    let mut held = Vec::with_capacity(COUNT);
    for _ in 0..100 + COUNT {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = tcp.local_addr()?.port();
        if let Ok(udp) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, tcp, udp));
        }
        if held.len() == COUNT {
            return Ok(std::array::from_fn(|place| held[place].0));
        }
    }
    bail!("{COUNT} ports that are free for both UDP and TCP were not found")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
    use std::path::Path;

    use super::{Server, free_ports};

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports = free_ports::<8>().unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 8);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn an_agent_that_ends_at_its_start_is_told_with_its_last_words() {
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        // Reads `run` as the name of a script that is not there.
        let error = Server::agent(Path::new("/bin/sh"), upstream, "64MiB").unwrap_err();
        let told = format!("{error:#}");
        assert!(told.contains("/bin/sh did not start"), "{told}");
        assert!(told.contains("run"), "{told}");
        assert!(told.contains("ended with exit status"), "{told}");
    }
}
