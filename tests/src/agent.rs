// SPDX-License-Identifier: Apache-2.0
//! The agent under test: the real program, with a configuration file, on ports of its own.
//!
//! ```no_run
//! use nodens_tests::agent::Agent;
//! use nodens_tests::sample::Sample;
//! # fn main() -> anyhow::Result<()> {
//! let sample = Sample::start()?;
//! let agent = Agent::builder().upstream(sample.addr()).cache("1MiB").start()?;
//! let response = agent.client().query("web.prod.svc.cluster.local", 1u16)?;
//! assert_eq!(sample.queries("web.prod.svc.cluster.local", 1u16), 1);
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::client::Client;
use crate::process::{Program, TempDir, find_program, free_port, wait_for};
use crate::query::Query;

/// How long it may take until it answers; far above what it needs, for busy machines.
const START: Duration = Duration::from_secs(10);
/// Longest wait for an answer over HTTP.
const HTTP: Duration = Duration::from_secs(5);

/// A running agent. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    program: Program,
    ports: Ports,
    dir: TempDir,
}

/// An agent before it starts.
#[derive(Clone, Debug)]
pub struct Builder {
    keys: BTreeMap<String, String>,
    zones: Vec<(String, Vec<SocketAddr>)>,
    zone_keys: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    descriptors: Option<u32>,
}

/// An answer over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// The body.
    pub body: String,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    dns: u16,
    health: u16,
    metrics: u16,
}

impl Agent {
    /// Starts with this configuration, in which `$PORT`, `$HEALTH`, `$METRICS` and `$SOCKET` stand
    /// for ports that are free and for the path of a socket.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start(config: &str) -> anyhow::Result<Self> {
        Builder::new().launch(config)
    }

    /// For all that is no more than a key or two.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A client of it, over 127.0.0.1.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.addr())
    }

    /// Where it answers over UDP and TCP.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        local(self.ports.dns)
    }

    /// Where `/healthz` and `/readyz` are.
    #[must_use]
    pub fn health_addr(&self) -> SocketAddr {
        local(self.ports.health)
    }

    /// Where `/metrics` is.
    #[must_use]
    pub fn metrics_addr(&self) -> SocketAddr {
        local(self.ports.metrics)
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("nodens.yaml")
    }

    /// The text of its configuration file.
    ///
    /// # Errors
    /// When a test has removed it.
    pub fn config(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.config_path())?)
    }

    /// Writes its configuration file anew, with `$PORT` and so on as in [`Self::start`]. It takes
    /// effect with [`Self::reload`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> anyhow::Result<()> {
        let text = fill(config, self.ports, self.dir.path());
        Ok(fs::write(self.config_path(), text)?)
    }

    /// Makes it read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn reload(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::HUP)
    }

    /// Makes it drain (SIGTERM).
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::TERM)
    }

    /// Sends any signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.program.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.program.wait(patience)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// What the system reports.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.program.status()?.is_none())
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.program.resident_bytes()
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Waits until its log holds `text`.
    ///
    /// # Errors
    /// When it does not within `patience`.
    pub fn wait_for_log(&self, text: &str, patience: Duration) -> anyhow::Result<()> {
        let what = format!("{text:?} in the agent's log");
        let found = wait_for(&what, patience, || {
            Ok(self.log().contains(text).then_some(()))
        });
        found.with_context(|| self.log())
    }

    /// GET from its health listener, e.g. `/readyz`.
    ///
    /// # Errors
    /// As [`http_get`].
    pub fn health(&self, path: &str) -> anyhow::Result<HttpResponse> {
        http_get(self.health_addr(), path)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// As [`http_get`], and when the status is not 200.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let response = http_get(self.metrics_addr(), "/metrics")?;
        ensure!(response.status == 200, "metrics: {response:?}");
        Ok(response.body)
    }

    /// The sum of all samples of a metric that have these labels, whatever others they have; 0
    /// where there is none.
    ///
    /// # Errors
    /// As [`Self::metrics`].
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        Ok(sum_samples(&self.metrics()?, name, labels))
    }
}

impl Builder {
    fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
            zones: Vec::new(),
            zone_keys: Vec::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            descriptors: None,
        }
    }

    /// Sends all queries to this server.
    #[must_use]
    pub fn upstream(self, server: SocketAddr) -> Self {
        self.zone(".", &[server])
    }

    /// Gives every zone a key, its value as YAML writes it.
    #[must_use]
    pub fn each_zone(mut self, key: &str, value: &str) -> Self {
        self.zone_keys.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sends the queries of a zone to these servers.
    #[must_use]
    pub fn zone(mut self, zone: &str, servers: &[SocketAddr]) -> Self {
        self.zones.push((zone.to_owned(), servers.to_vec()));
        self
    }

    /// The budget of the cache, e.g. `1MiB`.
    #[must_use]
    pub fn cache(self, size: &str) -> Self {
        self.set("cache.size", size)
    }

    /// The number of worker threads.
    #[must_use]
    pub fn workers(self, count: u16) -> Self {
        self.set("workers", &count.to_string())
    }

    /// Sets any key by its path, e.g. `limits.queryTimeout`, to a value as YAML writes it.
    #[must_use]
    pub fn set(mut self, path: &str, value: &str) -> Self {
        self.keys.insert(path.to_owned(), value.to_owned());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, variable: &str, value: &str) -> Self {
        let pair = (variable.to_owned(), value.to_owned());
        self.environment.push(pair);
        self
    }

    /// Starts it with this soft limit on file descriptors, as some container runtimes do; the hard
    /// limit stays.
    #[must_use]
    pub fn descriptors(mut self, soft: u32) -> Self {
        self.descriptors = Some(soft);
        self
    }

    /// Adds an argument after `run --config FILE`.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The configuration as YAML, ports still as `$PORT` and so on.
    #[must_use]
    pub fn config(&self) -> String {
        let mut keys = self.keys.clone();
        for (path, value) in [
            ("version", "1"),
            ("listen.addresses", "[127.0.0.1]"),
            ("listen.port", "$PORT"),
            ("intercept.enabled", "false"),
            // Tests count what comes to the upstreams: nothing must that no client asked for.
            ("limits.loopProbes", "0s"),
            ("admin.health", "127.0.0.1:$HEALTH"),
            ("admin.metrics", "127.0.0.1:$METRICS"),
            ("admin.socket", "$SOCKET"),
        ] {
            keys.entry(path.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        let mut text = yaml(&keys);
        if !self.zones.is_empty() {
            text.push_str("zones:\n");
        }
        for (zone, servers) in &self.zones {
            let servers: Vec<_> = servers
                .iter()
                .map(|s| format!("{:?}", s.to_string()))
                .collect();
            let servers = servers.join(", ");
            text.push_str(&format!("  - name: {zone:?}\n    upstreams: [{servers}]\n"));
            for (key, value) in &self.zone_keys {
                text.push_str(&format!("    {key}: {value}\n"));
            }
        }
        text
    }

    /// Starts it and waits until it answers over UDP and TCP, without a query to an upstream.
    ///
    /// # Errors
    /// When the program is missing (with the command that makes it), ends, or does not answer
    /// within 10 s; its log is part of the error.
    pub fn start(&self) -> anyhow::Result<Agent> {
        self.launch(&self.config())
    }

    fn launch(&self, config: &str) -> anyhow::Result<Agent> {
        let mut last = self.try_launch(config);
        // A port can be lost between its choice and its use.
        for _ in 0..2 {
            match &last {
                Err(error) if format!("{error:#}").contains("in use") => {
                    last = self.try_launch(config);
                }
                _ => break,
            }
        }
        last
    }

    fn try_launch(&self, config: &str) -> anyhow::Result<Agent> {
        let dir = TempDir::new()?;
        let ports = Ports {
            dns: free_port()?,
            health: free_port()?,
            metrics: free_port()?,
        };
        let path = dir.path().join("nodens.yaml");
        fs::write(&path, fill(config, ports, dir.path()))?;
        let mut command = command()?;
        if let Some(soft) = self.descriptors {
            let script = format!("ulimit -Sn {soft} && exec \"$0\" \"$@\"");
            let program = command.get_program().to_owned();
            command = Command::new("sh");
            command.arg("-c").arg(script).arg(program);
        }
        command.arg("run").arg("--config").arg(path);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        let mut program = Program::start(command, dir.path().join("log"))?;
        let client = Client::new(local(ports.dns)).patience(Duration::from_millis(500));
        let answered = wait_for("the agent to answer", START, || {
            if let Some(status) = program.status()? {
                bail!("the agent ended with {status}");
            }
            // A name that the agent owns: answered without an upstream.
            let query = Query::new("pulse.nodens.internal", 16u16);
            let answers = client.udp(&query).and_then(|_| client.tcp(&query));
            Ok(answers.ok().map(|_| ()))
        });
        answered.with_context(|| format!("log of the agent:\n{}", program.log()))?;
        Ok(Agent {
            program,
            ports,
            dir,
        })
    }
}

/// A command of the program under test, to be given arguments.
///
/// # Errors
/// When the program is missing, with the command that makes it.
pub fn command() -> anyhow::Result<Command> {
    let remedy = "build it with `cargo build -p nodens`, or let NODENS_BIN name it";
    let mut command = Command::new(find_program("nodens", "NODENS_BIN", remedy)?);
    // The variables of whoever runs the tests are no configuration of an agent under test.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODENS_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// GET over HTTP/1.1, one request a connection.
///
/// # Errors
/// When there is no whole response within 5 s.
pub fn http_get(server: SocketAddr, path: &str) -> anyhow::Result<HttpResponse> {
    let mut stream = TcpStream::connect_timeout(&server, HTTP)
        .with_context(|| format!("connect to http://{server}{path}"))?;
    stream.set_read_timeout(Some(HTTP))?;
    // In one piece, as clients send it.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("read from http://{server}{path}"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("an end of the head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let is_chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if is_chunked {
        unchunked(body)?
    } else {
        body.to_owned()
    };
    Ok(HttpResponse {
        status,
        head: head.to_owned(),
        body,
    })
}

/// A body that came in chunks (RFC 9112 section 7.1).
fn unchunked(mut rest: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    loop {
        let (size, behind) = rest.split_once("\r\n").context("a chunk's size")?;
        let size = usize::from_str_radix(size, 16).with_context(|| format!("size {size:?}"))?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(behind.get(..size).context("a whole chunk")?);
        rest = behind.get(size + 2..).context("an end of the chunk")?;
    }
}

/// The sum of the samples of a metric, in Prometheus' text format, that have all these labels.
#[must_use]
pub fn sum_samples(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (set, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest),
        };
        let has = |(key, value): &(&str, &str)| {
            let wanted = format!("{key}=\"{value}\"");
            set.match_indices(&wanted)
                .any(|(at, _)| at == 0 || set[..at].ends_with(','))
        };
        let value = value.strip_prefix(' ')?;
        labels.iter().all(has).then(|| value.parse::<f64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn fill(config: &str, ports: Ports, dir: &Path) -> String {
    config
        .replace("$PORT", &ports.dns.to_string())
        .replace("$HEALTH", &ports.health.to_string())
        .replace("$METRICS", &ports.metrics.to_string())
        .replace("$SOCKET", &dir.join("admin.sock").display().to_string())
}

/// Paths like `listen.port` as nested YAML. Their order puts all that is under one key together.
fn yaml(keys: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (path, value) in keys {
        let mut parents: Vec<&str> = path.split('.').collect();
        let key = parents.pop().unwrap_or_default();
        let shared = open
            .iter()
            .zip(&parents)
            .take_while(|(a, b)| a == b)
            .count();
        for (depth, parent) in parents.iter().enumerate().skip(shared) {
            text.push_str(&format!("{}{parent}:\n", "  ".repeat(depth)));
        }
        text.push_str(&format!("{}{key}: {value}\n", "  ".repeat(parents.len())));
        open = parents;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_builder_writes_the_configuration_it_was_told() {
        let servers = ["127.0.0.1:1053", "[::1]:1053"].map(|s| s.parse().unwrap());
        let config = Agent::builder()
            .upstream(servers[0])
            .zone("example.org", &servers)
            .cache("1MiB")
            .set("listen.addresses", "[127.0.0.1, '::1']")
            .config();
        assert_eq!(
            config,
            "admin:\n  health: 127.0.0.1:$HEALTH\n  metrics: 127.0.0.1:$METRICS\n  socket: \
             $SOCKET\ncache:\n  size: 1MiB\nintercept:\n  enabled: false\nlimits:\n  loopProbes: 0s\nlisten:\n  addresses: \
             [127.0.0.1, '::1']\n  port: $PORT\nversion: 1\nzones:\n  - name: \".\"\n    \
             upstreams: [\"127.0.0.1:1053\"]\n  - name: \"example.org\"\n    upstreams: \
             [\"127.0.0.1:1053\", \"[::1]:1053\"]\n"
        );
    }

    #[test]
    fn deep_keys_are_nested_each_under_its_own() {
        let keys = ["a.b.c", "a.b.d", "a.e", "f"].map(|k| (k.to_owned(), k.to_owned()));
        assert_eq!(
            yaml(&keys.into()),
            "a:\n  b:\n    c: a.b.c\n    d: a.b.d\n  e: a.e\nf: f\n"
        );
    }

    #[test]
    fn samples_are_summed_by_their_labels() {
        let text = "# HELP x_total a{b=\"c\"} 9\nx_total{zone=\".\",proto=\"udp\"} 3\n\
                    x_total{zone=\".\",proto=\"tcp\"} 4\nx_total_more 5\nplain 1.5e3\n\
                    x_total{subzone=\".\"} 100\n";
        assert_eq!(sum_samples(text, "x_total", &[("zone", ".")]), 7.0);
        assert_eq!(sum_samples(text, "x_total", &[("proto", "tcp")]), 4.0);
        assert_eq!(sum_samples(text, "plain", &[]), 1500.0);
        assert_eq!(sum_samples(text, "absent", &[]), 0.0);
    }

    #[test]
    fn http_is_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream
                .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nnope")
                .unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let response = http_get(addr, "/readyz").unwrap();
        assert_eq!((response.status, response.body.as_str()), (503, "nope"));
        assert!(
            server
                .join()
                .unwrap()
                .starts_with("GET /readyz HTTP/1.1\r\n")
        );
    }
}
