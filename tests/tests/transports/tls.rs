// SPDX-License-Identifier: Apache-2.0
//! Upstreams over TLS: whom the agent believes, what it tells, and that it never asks in clear text
//! instead.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use nodens_tests::agent::Agent;
use nodens_tests::coredns::CoreDns;
use nodens_tests::process::{TempDir, wait_for};
use nodens_tests::query::Query;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::{A, NO_AUTHORITY, PATIENCE, said, with_zones};

/// The name in the upstream's certificate.
const NAME: &str = "dns.nodens.test";

/// An authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// CoreDNS with a certificate for these names.
    fn coredns(&self, names: &[&str]) -> CoreDns {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let builder = CoreDns::builder().plugins("log");
        let builder = builder.tls(&certificate.pem(), &key.serialize_pem());
        builder.start().unwrap()
    }

    fn write(&self, dir: &TempDir) -> PathBuf {
        let path = dir.path().join("ca.pem");
        fs::write(&path, &self.pem).unwrap();
        path
    }
}

fn over_tls(upstream: SocketAddr, ca: &Path, name: Option<&str>) -> Agent {
    let name = name.map_or_else(String::new, |name| format!(", serverName: {name}"));
    let ca = ca.display();
    let zones =
        format!("[{{ name: ., upstreams: ['{upstream}'], transport: tls, caFile: {ca}{name} }}]");
    with_zones(&zones).start().unwrap()
}

fn addresses(agent: &Agent, name: &str) -> usize {
    agent.client().query(name, A).unwrap().addresses().len()
}

/// Whether the upstream says something of a name: that it does not exist, for one.
fn is_answered(agent: &Agent, name: &str) -> bool {
    const SERVFAIL: u16 = 2;
    u16::from(agent.client().query(name, A).unwrap().rcode()) != SERVFAIL
}

/// A name that nobody has asked for, so that no failure of it is remembered.
fn fresh(number: usize) -> String {
    format!("n{number}.bench.cluster.local")
}

#[test]
fn a_server_that_proves_its_name_is_asked_over_connections_that_are_used_again() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    let coredns = authority.coredns(&[NAME]);
    let agent = over_tls(coredns.tls_addr(), &authority.write(&dir), Some(NAME));
    // Of one zone: each has connections of its own.
    for name in ["day.example.org", "text.example.org", "host.example.org"] {
        agent.client().query(name, A).unwrap();
    }
    assert_eq!(addresses(&agent, "day.example.org"), 1);
    let opened = agent.metric("nodens_upstream_connections_opened_total", &[]);
    assert_eq!(
        opened.unwrap(),
        1.0,
        "tickets for the next handshake end no connection"
    );
    let answered = [("outcome", "answered")];
    let answered = agent.metric("nodens_upstream_exchanges_total", &answered);
    assert_eq!(answered.unwrap(), 3.0);
}

#[test]
fn without_a_name_the_certificate_must_have_the_servers_address() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    let coredns = authority.coredns(&["127.0.0.1"]);
    let agent = over_tls(coredns.tls_addr(), &authority.write(&dir), None);
    assert_eq!(addresses(&agent, "web.prod.svc.cluster.local"), 1);
}

#[test]
fn a_server_with_another_name_is_not_asked_and_both_names_are_told() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    let coredns = authority.coredns(&["other.nodens.test", "third.nodens.test"]);
    let agent = over_tls(coredns.tls_addr(), &authority.write(&dir), Some(NAME));
    for number in 0..3 {
        let query = Query::new(&fresh(number), A).edns(1232);
        let answer = agent.client().udp(&query).unwrap();
        assert_eq!(u16::from(answer.rcode()), 2);
        assert_eq!(answer.extended_error(), Some(NO_AUTHORITY));
        let text = b"the upstreams could not prove over TLS who they are";
        let edns = answer.outline.edns.as_ref().unwrap();
        let (_, error) = edns.options.iter().find(|(code, _)| *code == 15).unwrap();
        assert_eq!(&error[2..], text);
    }
    let words = [
        "ERROR",
        &coredns.tls_addr().to_string(),
        "\"expected\":\"dns.nodens.test\"",
        "other.nodens.test",
        "third.nodens.test",
        "not in clear text",
    ];
    assert_eq!(said(&agent, &words), 1, "once: {}", agent.log());
    let failed = [("outcome", "certificate")];
    let failed = agent.metric("nodens_upstream_exchanges_total", &failed);
    assert!(failed.unwrap() >= 3.0);
    assert_eq!(
        coredns.count(&fresh(0), hickory_proto::rr::RecordType::A),
        0
    );
}

#[test]
fn whatever_happens_nothing_is_sent_in_clear_text() {
    let dir = TempDir::new().unwrap();
    let ca = Authority::new().write(&dir);
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(addr).unwrap();
    udp.set_nonblocking(true).unwrap();
    let zones = format!(
        "[{{ name: ., upstreams: ['{addr}'], transport: tls, caFile: {}, serverName: {NAME} }}]",
        ca.display()
    );
    let agent = with_zones(&zones)
        .set("limits.loopProbes", "1s")
        .start()
        .unwrap();
    // Talks of something else than TLS, as a DNS server at that port would.
    let serving = std::thread::spawn(move || {
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = tcp.accept().unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            firsts.push(first[0]);
        }
        firsts
    });
    let answer = agent
        .client()
        .udp(&Query::new("secret.example.org", A).edns(1232));
    assert_eq!(u16::from(answer.unwrap().rcode()), 2);
    const HANDSHAKE: u8 = 22;
    assert_eq!(serving.join().unwrap(), [HANDSHAKE; 3]);
    let datagram = udp.recv(&mut [0; 512]).unwrap_err();
    assert_eq!(datagram.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn authorities_are_followed_and_a_file_that_is_none_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let coredns = new.coredns(&[NAME]);
    let ca = old.write(&dir);
    let agent = over_tls(coredns.tls_addr(), &ca, Some(NAME));
    assert!(!is_answered(&agent, &fresh(0)));
    assert_eq!(
        said(&agent, &["ERROR", "has not proved over TLS", NAME]),
        1,
        "{}",
        agent.log()
    );

    let replace = |text: &str| {
        fs::write(dir.path().join("new"), text).unwrap();
        fs::rename(dir.path().join("new"), &ca).unwrap();
    };
    replace(&format!("{}{}", old.pem, new.pem));
    let mut number = 1;
    wait_for("the new authority to count", PATIENCE, || {
        number += 1;
        Ok(is_answered(&agent, &fresh(number)).then_some(()))
    })
    .unwrap();

    replace("no certificate at all");
    agent
        .wait_for_log("found no PEM certificate", PATIENCE)
        .unwrap();
    assert_eq!(
        said(&agent, &["what it said before stays in force", "ca.pem"]),
        1
    );
    assert_eq!(addresses(&agent, "web.prod.svc.cluster.local"), 1);
    let refused = agent.metric("nodens_file_changes_total", &[("result", "refused")]);
    assert_eq!(refused.unwrap(), 1.0);
}
