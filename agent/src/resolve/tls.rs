// SPDX-License-Identifier: Apache-2.0
//! TLS to upstreams (RFC 7858): whom to trust, and what to say where a server is not whom it should
//! be. It is then asked nothing: queries that were meant to be private never go in clear text
//! instead, nor to somebody who only has the address.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::lock;
use crate::config::{self, ca};
use crate::telemetry::cells::Outcome;

/// Sessions that are kept to be taken up again, of one server: each connection that ends leaves one
/// or two.
const SESSIONS: usize = 8;

/// The same refusal is told at most this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// A server that has not proved who it is is not tried again for so long: the handshakes of a flood of
/// names would cost more than their answers.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// How one server is spoken to over TLS.
#[derive(Debug)]
pub(super) struct Tls {
    server: SocketAddr,
    name: ServerName<'static>,
    config: ArcSwap<ClientConfig>,
    /// What was said last of why it is not asked, and when.
    said: Mutex<Option<(String, Instant)>>,
    /// How the last handshake ended, where it proved nothing, and when.
    refused: Mutex<Option<(Outcome, Instant)>>,
}

impl Tls {
    /// As configured. Where the authorities cannot be read by now, nobody is trusted.
    pub(super) fn new(server: SocketAddr, tls: &config::Tls) -> Self {
        let name = tls.server_name.clone();
        Self {
            server,
            name: name.unwrap_or_else(|| server.ip().into()),
            config: ArcSwap::from_pointee(client(ca::read(&tls.ca_file).unwrap_or_else(|wrong| {
                // It was good a moment ago, when the configuration was read, and is followed.
                let (file, error) = (tls.ca_file.display(), wrong.message);
                tracing::error!(upstream = %server, %file, error, "no authority is trusted");
                RootCertStore::empty()
            }))),
            said: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Trusts these authorities from the next handshake on. No session of an earlier one is taken up.
    pub(super) fn trust(&self, roots: RootCertStore) {
        self.config.store(Arc::new(client(roots)));
        *lock(&self.refused) = None;
    }

    /// Why there is no use in a connection now.
    pub(super) fn refusal(&self) -> Option<Outcome> {
        let (outcome, at) = (*lock(&self.refused))?;
        (Instant::now() < at + REFUSED_FOR).then_some(outcome)
    }

    /// The handshake.
    pub(super) async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Outcome> {
        let connector = TlsConnector::from(self.config.load_full());
        match connector.connect(self.name.clone(), stream).await {
            Ok(stream) => {
                *lock(&self.said) = None;
                *lock(&self.refused) = None;
                Ok(stream)
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &io::Error) -> Outcome {
        let reason = error.get_ref().and_then(|error| error.downcast_ref());
        let (outcome, presented) = match reason {
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) => (Outcome::Certificate, presented.join(", ")),
            Some(rustls::Error::InvalidCertificate(_)) => (Outcome::Certificate, String::new()),
            Some(_) => (Outcome::Tls, String::new()),
            None => return Outcome::of(error),
        };
        let text = error.to_string();
        let now = Instant::now();
        *lock(&self.refused) = Some((outcome, now));
        let mut said = lock(&self.said);
        let is_told = said
            .as_ref()
            .is_some_and(|(last, at)| *last == text && now < *at + SAID_EVERY);
        if is_told {
            return outcome;
        }
        *said = Some((text.clone(), now));
        let (upstream, expected) = (self.server, self.name.to_str());
        if presented.is_empty() {
            tracing::error!(
                %upstream, %expected, error = text,
                "an upstream has not proved over TLS who it is; it is not asked, and not in clear text either"
            );
        } else {
            tracing::error!(
                %upstream, %expected, presented,
                "an upstream's certificate has another name; it is not asked, and not in clear text \
                 either: correct zones[].serverName, or the server's certificate"
            );
        }
        outcome
    }
}

fn client(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    config
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::HandshakeKind;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server with a certificate for these names, that sends back what it gets.
    async fn echo(names: &[&str]) -> (SocketAddr, RootCertStore) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(params.self_signed(&key).unwrap().der().clone())
            .unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut octets = [0; 4];
                while stream.read_exact(&mut octets).await.is_ok() {
                    stream.write_all(&octets).await.unwrap();
                }
            }
        });
        (addr, roots)
    }

    fn tls(server: SocketAddr, roots: RootCertStore, name: &str) -> Tls {
        Tls {
            server,
            name: name.to_owned().try_into().unwrap(),
            config: ArcSwap::from_pointee(client(roots)),
            said: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// One round over a connection of its own; how its handshake was made.
    async fn round(tls: &Tls) -> HandshakeKind {
        let stream = TcpStream::connect(tls.server).await.unwrap();
        let mut stream = tls.secure(stream).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut octets = [0; 4];
        stream.read_exact(&mut octets).await.unwrap();
        assert_eq!(&octets, b"ping");
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        let more = timeout(Duration::from_millis(50), stream.read(&mut octets));
        assert!(more.await.is_err(), "tickets are no answer");
        kind
    }

    #[tokio::test]
    async fn the_second_connection_takes_up_the_session_of_the_first() {
        let (server, roots) = echo(&["dns.test"]).await;
        let tls = tls(server, roots.clone(), "dns.test");
        assert_eq!(round(&tls).await, HandshakeKind::Full);
        assert_eq!(round(&tls).await, HandshakeKind::Resumed);
        tls.trust(roots);
        assert_eq!(round(&tls).await, HandshakeKind::Full, "a matter of trust");
    }

    #[tokio::test]
    async fn who_has_another_name_or_another_authority_is_not_talked_to() {
        let (server, roots) = echo(&["dns.test"]).await;
        for (roots, name) in [(roots, "other.test"), (RootCertStore::empty(), "dns.test")] {
            let tls = tls(server, roots.clone(), name);
            assert_eq!(tls.refusal(), None);
            let stream = TcpStream::connect(server).await.unwrap();
            assert_eq!(tls.secure(stream).await.unwrap_err(), Outcome::Certificate);
            assert_eq!(tls.refusal(), Some(Outcome::Certificate), "for a while");
            tls.trust(roots);
            assert_eq!(tls.refusal(), None, "others may prove it");
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_other_end_has_closed_is_seen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tls = tls(
            listener.local_addr().unwrap(),
            RootCertStore::empty(),
            "dns.test",
        );
        let stream = TcpStream::connect(tls.server).await.unwrap();
        drop(listener);
        let outcome = tls.secure(stream).await.unwrap_err();
        assert!(matches!(outcome, Outcome::Reset | Outcome::Closed));
    }
}
