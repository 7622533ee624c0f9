// SPDX-License-Identifier: Apache-2.0
//! The real CoreDNS, at the one version that is used everywhere, serving the sample's zones.
//!
//! `make coredns` builds it from tests/coredns into the user's cache. It differs from a CoreDNS in
//! a cluster in that the names come from files instead of the API server: see the test
//! `coredns_answers_as_the_sample_does` for what that changes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use crate::client::Client;
use crate::process::{Program, TempDir, free_port, wait_for};
use crate::query::Query;
use crate::sample::{Zones, zone_files};

/// The version that tests/coredns/go.mod pins.
pub const VERSION: &str = "1.14.4";
/// How long it may take until it answers: a program of 100 MB on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A running CoreDNS on a port of 127.0.0.1. Killed when dropped.
#[derive(Debug)]
pub struct CoreDns {
    program: Program,
    addr: SocketAddr,
    tls: SocketAddr,
    /// Holds the Corefile and the zones while it runs.
    _dir: TempDir,
}

/// A CoreDNS before it starts.
#[derive(Debug)]
pub struct Builder {
    zones: Option<Zones>,
    plugins: String,
    blocks: Vec<(String, String)>,
    /// Certificate and key.
    tls: Option<(String, String)>,
}

impl CoreDns {
    /// Starts with the sample's zones and the plugins `errors` and `log`.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> anyhow::Result<Self> {
        Self::builder().plugins("log").start()
    }

    /// For further plugins and other zones.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            zones: Some(Zones::default()),
            plugins: String::new(),
            blocks: Vec::new(),
            tls: None,
        }
    }

    /// Where it answers over TLS, after [`Builder::tls`].
    #[must_use]
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls
    }

    /// Where it answers over UDP and TCP.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has written so far; with the plugin `log` one line a query.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Lines of the plugin `log` for this name and type, letter case aside.
    #[must_use]
    pub fn count(&self, name: &str, rtype: RecordType) -> usize {
        let wanted = format!("\"{rtype} IN {} ", crate::query::canonical(name));
        let log = self.log().to_ascii_lowercase();
        log.matches(&wanted.to_ascii_lowercase()).count()
    }

    /// Stops it in mid-work (SIGSTOP), as a node does that has lost its processor.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::STOP)
    }

    /// Lets it go on after [`Self::freeze`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL): its connections are reset, new ones refused.
    ///
    /// # Errors
    /// When it has ended before, or does not end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::KILL)?;
        self.program.wait(START).map(|_| ())
    }
}

impl Builder {
    /// Serves these zones in place of the sample's.
    #[must_use]
    pub fn zones(mut self, zones: Zones) -> Self {
        self.zones = Some(zones);
        self
    }

    /// Serves no zone from files: the plugins do all.
    #[must_use]
    pub fn without_zones(mut self) -> Self {
        self.zones = None;
        self
    }

    /// Adds lines to the server block, e.g. `log`, or
    /// `template IN AAAA . { rcode NXDOMAIN }` on several lines.
    #[must_use]
    pub fn plugins(mut self, lines: &str) -> Self {
        self.plugins.push_str(lines);
        self.plugins.push('\n');
        self
    }

    /// Adds a server block for a zone of its own: a stub domain, e.g. with `forward . 192.0.2.1`.
    #[must_use]
    pub fn block(mut self, zone: &str, plugins: &str) -> Self {
        self.blocks.push((zone.to_owned(), plugins.to_owned()));
        self
    }

    /// Answers over TLS, too, with this certificate and this key, both PEM.
    #[must_use]
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it has not been built, or ends at once, or does not answer within 30 s.
    pub fn start(self) -> anyhow::Result<CoreDns> {
        let binary = find()?;
        // A port can be lost between its choice and its use.
        let mut last = self.try_start(&binary);
        for _ in 0..2 {
            if last.is_ok() {
                break;
            }
            last = self.try_start(&binary);
        }
        last
    }

    fn try_start(&self, binary: &PathBuf) -> anyhow::Result<CoreDns> {
        let dir = TempDir::new()?;
        let (port, tls_port) = (free_port()?, free_port()?);
        let mut block = format!("bind 127.0.0.1\nerrors\n{}", self.plugins);
        if let Some(zones) = &self.zones {
            for (number, (origin, text)) in zone_files(zones)?.into_iter().enumerate() {
                let path = dir.path().join(format!("zone-{number}"));
                fs::write(&path, text)?;
                // Never re-read: what is served is what was written.
                let path = path.display();
                block.push_str(&format!("file {path} {origin} {{\nreload 0\n}}\n"));
            }
        }
        let mut corefile = format!(
            ".:{port} {{
{block}}}
"
        );
        for (zone, plugins) in &self.blocks {
            corefile.push_str(&format!(
                "{zone}:{port} {{
bind 127.0.0.1
errors
{plugins}
}}
"
            ));
        }
        if let Some((certificate, key)) = &self.tls {
            let paths = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
            let [certificate_path, key_path] = &paths;
            fs::write(certificate_path, certificate)?;
            fs::write(key_path, key)?;
            let (certificate, key) = (certificate_path.display(), key_path.display());
            corefile.push_str(&format!(
                "tls://.:{tls_port} {{
tls {certificate} {key}
{block}}}
"
            ));
        }
        let path = dir.path().join("Corefile");
        fs::write(&path, corefile)?;
        let mut command = Command::new(binary);
        command.arg("-conf").arg(path);
        let mut program = Program::start(command, dir.path().join("log"))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let client = Client::new(addr).patience(Duration::from_secs(1));
        wait_for("CoreDNS to answer", START, || {
            if let Some(status) = program.status()? {
                bail!("CoreDNS ended with {status}:\n{}", program.log());
            }
            // Class CH, so that no count of names is touched; over both transports.
            let query = Query::new("ready.invalid", RecordType::TXT).class(3);
            let answers = client.udp(&query).and_then(|_| client.tcp(&query));
            Ok(answers.ok().map(|_| ()))
        })
        .with_context(|| format!("log of CoreDNS:\n{}", program.log()))?;
        Ok(CoreDns {
            program,
            addr,
            tls: SocketAddr::from((Ipv4Addr::LOCALHOST, tls_port)),
            _dir: dir,
        })
    }
}

/// The program that `make coredns` has built, or that NODENS_COREDNS names.
///
/// # Errors
/// When it is not there, with the command that makes it.
pub fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("NODENS_COREDNS") {
        return Ok(path.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = cache.or_else(home).context("HOME is not set")?;
    let path = cache.join(format!("nodens/coredns-{VERSION}/coredns"));
    anyhow::ensure!(
        path.is_file(),
        "CoreDNS {VERSION} is not at {}; run `make coredns` (about 4 minutes, needs Go), or let \
         NODENS_COREDNS name it",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Response;
    use crate::query::AA;
    use crate::sample::Sample;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::Record;

    /// Records as text, sorted: order and letter case are free.
    fn section(records: &[Record]) -> Vec<String> {
        let text = |record: &Record| record.to_string().to_ascii_lowercase();
        let mut lines: Vec<_> = records.iter().map(text).collect();
        lines.sort();
        lines
    }

    /// Where the two may differ: in CoreDNS the plugin `file` says NOERROR for an empty name that
    /// begins with an underscore and has something below it, and NXDOMAIN for an alias whose
    /// target does not exist; the plugin `kubernetes`, and so the sample, say the opposite.
    fn differs(name: &str, coredns: &Response, sample: &Response) -> bool {
        let hidden = name.starts_with('_') && coredns.answers.is_empty();
        let dangling = name.starts_with("gone.prod.") && coredns.answers.len() == 1;
        let rcodes = (coredns.rcode(), sample.rcode());
        hidden && rcodes == (ResponseCode::NoError, ResponseCode::NXDomain)
            || dangling && rcodes == (ResponseCode::NXDomain, ResponseCode::NoError)
    }

    #[test]
    fn coredns_answers_as_the_sample_does() {
        let sample = Sample::start().unwrap();
        let coredns = CoreDns::start().unwrap();
        let ours = Client::new(sample.addr());
        let theirs = Client::new(coredns.addr());
        let zones = sample.zones();
        let mut names: Vec<String> = zones
            .iter()
            .flat_map(|zone| {
                let names = zone.names().into_iter();
                names.map(|name| name.to_ascii()).collect::<Vec<_>>()
            })
            .collect();
        names.extend(
            [
                "com.prod.svc.cluster.local.",
                "com.svc.cluster.local.",
                "com.cluster.local.",
                "idle.prod.svc.cluster.local.",
                "_nope._tcp.web.prod.svc.cluster.local.",
                "1.0.0.10.in-addr.arpa.",
                "missing.example.org.",
                "api.stripe.com.",
            ]
            .map(str::to_owned),
        );
        let mut compared = 0;
        let mut ours_tcp = ours.connect().unwrap();
        let mut theirs_tcp = theirs.connect().unwrap();
        // CoreDNS denies the root itself.
        names.retain(|name| name != ".");
        // The 120 pods of one Service are all alike: the first of them stands for all.
        names.retain(|name| !name.contains("10-244-9-") || name.contains("10-244-9-1."));
        names.retain(|name| !name.ends_with("9.244.10.in-addr.arpa.") || name.starts_with("1."));
        for name in names {
            for rtype in [
                RecordType::A,
                RecordType::AAAA,
                RecordType::SRV,
                RecordType::TXT,
                RecordType::PTR,
                RecordType::CNAME,
                RecordType::MX,
                RecordType::SOA,
            ] {
                let query = Query::new(&name, rtype);
                let sample = ours_tcp.ask(&query).unwrap();
                let coredns = theirs_tcp.ask(&query).unwrap();
                if differs(&name, &coredns, &sample) {
                    continue;
                }
                let context = format!("{name} {rtype}");
                assert_eq!(sample.rcode(), coredns.rcode(), "{context}");
                assert_eq!(
                    section(&sample.answers),
                    section(&coredns.answers),
                    "{context}"
                );
                if sample.answers.is_empty() {
                    assert_eq!(
                        section(&sample.authorities),
                        section(&coredns.authorities),
                        "{context}"
                    );
                }
                // The plugin `file` repeats a target's addresses for each SRV record that has it;
                // `kubernetes` does not.
                let mut additionals = section(&coredns.additionals);
                additionals.dedup();
                assert_eq!(section(&sample.additionals), additionals, "{context}");
                if sample.has(AA) {
                    assert!(coredns.has(AA), "{context}");
                }
                compared += 1;
            }
        }
        assert!(compared > 500, "{compared} answers compared");
    }

    #[test]
    fn plugins_are_added_and_queries_counted() {
        let coredns = CoreDns::builder()
            .plugins("log")
            .plugins("template IN AAAA . {\nrcode NXDOMAIN\n}")
            .start()
            .unwrap();
        let client = Client::new(coredns.addr());
        let name = "web.prod.svc.cluster.local";
        let v4 = client.query("WEB.prod.svc.cluster.local", RecordType::A);
        assert_eq!(v4.unwrap().rcode(), ResponseCode::NoError);
        let v6 = client.query(name, RecordType::AAAA).unwrap();
        assert_eq!(v6.rcode(), ResponseCode::NXDomain);
        wait_for("the log", Duration::from_secs(5), || {
            let counts = [RecordType::A, RecordType::AAAA].map(|t| coredns.count(name, t));
            Ok((counts == [1, 1]).then_some(()))
        })
        .unwrap();
    }

    #[test]
    fn a_corefile_that_is_wrong_is_shown_with_the_reason() {
        let error = CoreDns::builder().plugins("no_such_plugin").start();
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("no_such_plugin"), "{error}");
    }

    #[test]
    fn the_program_has_the_pinned_version() {
        let output = Command::new(find().unwrap())
            .arg("-version")
            .output()
            .unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        assert!(
            version.starts_with(&format!("CoreDNS-{VERSION}\n")),
            "{version}"
        );
    }
}
