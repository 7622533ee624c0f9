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
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let config = directory.join("config.yaml");
        fs::write(
            &config,
            configuration(address, upstream, cache, &directory)?,
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
    directory: &Path,
) -> Result<String> {
    Ok(format!(
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
admin:
  health: 127.0.0.1:{health}
  metrics: 127.0.0.1:{metrics}
  socket: {directory}/admin.sock
"#,
        address = listen.ip(),
        port = listen.port(),
        health = free_port()?,
        metrics = free_port()?,
        directory = directory.display(),
    ))
}

/// A port of 127.0.0.1 that was free for UDP and TCP a moment ago.
///
/// # Errors
/// Where none is found.
pub fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free for both UDP and TCP")
}
