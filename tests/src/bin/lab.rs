// SPDX-License-Identifier: Apache-2.0
//! `lab run`: what `make run` calls. The agent in front of a sample cluster's DNS, on this
//! machine's loopback interface, without any privilege.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nodens_tests::client::Client;
use nodens_tests::process::{TempDir, find_program, is_free};
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const USAGE: &str = "\
usage: lab run [--release-bin PATH] [--port N] [--health-port N] [--metrics-port N]

Starts a sample cluster's DNS and the agent in front of it, on 127.0.0.1.
  --release-bin PATH   the agent; else NODENS_BIN, else `nodens` beside this program
  --port N             where the agent answers over UDP and TCP (5300)
  --health-port N      where /healthz and /readyz are (9254)
  --metrics-port N     where /metrics is (9253)
";
/// Usage or configuration, as the agent has it.
const EXIT_USAGE: u8 = 64;
/// How long the agent may take until it answers.
const START: Duration = Duration::from_secs(10);

/// What was asked for on the command line.
#[derive(Debug)]
struct Options {
    binary: Option<PathBuf>,
    port: u16,
    health: u16,
    metrics: u16,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = Options::read(&arguments).and_then(|options| run(&options));
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("lab: {error:#}\n"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self {
            binary: None,
            port: 5300,
            health: 9254,
            metrics: 9253,
        };
        let [command, rest @ ..] = arguments else {
            bail!("no command\n{USAGE}");
        };
        ensure!(command == "run", "no such command: {command}\n{USAGE}");
        for pair in rest.chunks(2) {
            let [flag, value] = pair else {
                bail!("{} stands alone\n{USAGE}", pair[0]);
            };
            let port = || -> anyhow::Result<u16> {
                let port = value.parse().ok().filter(|&port| port > 0);
                port.with_context(|| format!("{flag} {value}: no port; 1 to 65535 are"))
            };
            match flag.as_str() {
                "--release-bin" => options.binary = Some(value.into()),
                "--port" => options.port = port()?,
                "--health-port" => options.health = port()?,
                "--metrics-port" => options.metrics = port()?,
                _ => bail!("no such flag: {flag}\n{USAGE}"),
            }
        }
        Ok(options)
    }

    /// # Errors
    /// Names each port that is taken, and how to choose another.
    fn check_ports(&self) -> anyhow::Result<()> {
        let taken: Vec<String> = [
            (self.port, "PORT", "DNS"),
            (self.health, "HEALTH_PORT", "health"),
            (self.metrics, "METRICS_PORT", "metrics"),
        ]
        .into_iter()
        .filter(|&(port, _, _)| !is_free(port))
        .map(|(port, variable, what)| {
            let next = port.checked_add(1).unwrap_or(10_000);
            format!(
                "port {port} of 127.0.0.1 ({what}) is in use; choose another: \
                 make run {variable}={next}"
            )
        })
        .collect();
        ensure!(taken.is_empty(), "{}", taken.join("\n     "));
        Ok(())
    }

    fn config(&self, upstream: SocketAddr) -> String {
        let Self {
            port,
            health,
            metrics,
            ..
        } = self;
        format!(
            "version: 1\n\
             listen:\n  addresses: [127.0.0.1]\n  port: {port}\n\
             intercept:\n  enabled: false\n\
             zones:\n  - name: \".\"\n    upstreams: [\"{upstream}\"]\n\
             admin:\n  health: 127.0.0.1:{health}\n  metrics: 127.0.0.1:{metrics}\n"
        )
    }

    fn advice(&self, upstream: SocketAddr, config: &Path) -> String {
        let Self { port, metrics, .. } = self;
        let dig = format!("dig @127.0.0.1 -p {port}");
        format!(
            "\nnodens answers on 127.0.0.1:{port}, UDP and TCP, in front of a sample cluster's DNS \
             on {upstream}.\n\n\
             Type in another terminal:\n\
             \x20 {dig} web.prod.svc.cluster.local               # a Service; twice, and watch the TTL\n\
             \x20 {dig} web.prod.svc.cluster.local AAAA +tcp     # IPv6, over TCP\n\
             \x20 {dig} db.prod.svc.cluster.local                # headless: the pods' addresses\n\
             \x20 {dig} _http._tcp.web.prod.svc.cluster.local SRV\n\
             \x20 {dig} -x 10.96.12.34                           # from address to name\n\
             \x20 {dig} outside.prod.svc.cluster.local           # ExternalName: a chain of CNAME\n\
             \x20 {dig} dns-version.cluster.local TXT\n\
             \x20 {dig} com.prod.svc.cluster.local               # NXDOMAIN, remembered too\n\
             \x20 curl -s http://127.0.0.1:{metrics}/metrics | grep ^nodens_\n\
             \x20 curl -s http://127.0.0.1:{}/readyz\n\n\
             Its configuration: {}\n\
             Ctrl-C ends it.\n\n",
            self.health,
            config.display()
        )
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let remedy = "build it with `cargo build --release -p nodens`";
    let binary = match &options.binary {
        Some(path) => {
            ensure!(path.is_file(), "no program at {}; {remedy}", path.display());
            path.clone()
        }
        None => find_program("nodens", "NODENS_BIN", remedy)?,
    };
    options.check_ports()?;
    let sample = Sample::start()?;
    let dir = TempDir::new()?;
    let config = dir.path().join("nodens.yaml");
    fs::write(&config, options.config(sample.addr()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the signal loop")?;
    // Before the child starts, so that no signal is lost between the two.
    let entered = runtime.enter();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    drop(entered);
    let child = Command::new(&binary)
        .args(["run", "--config"])
        .arg(&config)
        // In a group of its own: Ctrl-C reaches this program alone, which passes it on once.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("a process ID")?;
    let mut ended = watch(child);
    let advice = options.advice(sample.addr(), &config);
    announce(options.port, advice);
    let status = runtime.block_on(async {
        loop {
            let signal = tokio::select! {
                status = &mut ended => return status.context("wait for the agent")?,
                _ = interrupts.recv() => Signal::INT,
                _ = terminations.recv() => Signal::TERM,
            };
            // Fails only where it has ended, which the next turn sees.
            let _ = kill_process(pid, signal);
        }
    })?;
    Ok(exit_code(status))
}

/// Waits for the child's end on a thread.
fn watch(mut child: Child) -> oneshot::Receiver<anyhow::Result<ExitStatus>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let status = child.wait().context("wait for the agent");
        // The receiver is gone only when this program ends.
        let _ = sender.send(status);
    });
    receiver
}

/// Says what to do once the agent answers.
fn announce(port: u16, advice: String) {
    std::thread::spawn(move || {
        let client = Client::new(([127, 0, 0, 1], port).into());
        let client = client.patience(Duration::from_millis(200));
        // A name that the agent owns: answered without an upstream.
        let query = Query::new("pulse.nodens.internal", 16u16);
        let answered =
            nodens_tests::process::wait_for("an answer", START, || Ok(client.udp(&query).ok()));
        match answered {
            Ok(_) => say(&advice),
            Err(error) => say(&format!("lab: the agent does not answer: {error:#}\n")),
        }
    });
}

/// The child's own code, or 128 and the signal's number, as shells have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

fn say(text: &str) {
    // A closed terminal is no reason to stop.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> anyhow::Result<Options> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::read(&arguments)
    }

    #[test]
    fn ports_come_from_the_command_line() {
        let options = read("run --port 5301 --metrics-port 9353").unwrap();
        assert_eq!(
            (options.port, options.health, options.metrics),
            (5301, 9254, 9353)
        );
        for wrong in [
            "",
            "walk",
            "run --port",
            "run --port 0",
            "run --port x",
            "run --colour 1",
        ] {
            read(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let options = read(&format!("run --port {port}")).unwrap();
        let error = options.check_ports().unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} of 127.0.0.1 (DNS) is in use")));
        assert!(error.contains("make run PORT="), "{error}");
    }
}
