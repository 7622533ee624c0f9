// SPDX-License-Identifier: Apache-2.0
//! Reading from the API server as a pod may: over TLS, with the token and the authority that
//! kubelet puts into every pod which has a service account. One question a connection, in HTTP/1.0,
//! whose answers end with the connection: no chunks, no pool, nothing that could be left over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use serde_json::Value;

/// The Service of the API server, which Kubernetes names in every pod's environment.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Longest wait for a connection, and for anything to come or go on it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Octets of an answer that are read: a page of 100 pods has some 10 KiB each.
const MOST: u64 = 16 << 20;

/// The API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// This is no pod, or its service account's token was left out.
    #[error("read the service account from {}: {source}; it needs automountServiceAccountToken", path.display())]
    Account {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Kubernetes sets it in every pod.
    #[error("the environment variable {name} holds no {what}; this runs in a pod alone")]
    Environment {
        /// Its name.
        name: &'static str,
        /// What it should hold.
        what: &'static str,
    },
    /// What is in the file of authorities.
    #[error("read the authorities in {}: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There was no answer, or half of one.
    #[error("ask the API server at {address} for {page}")]
    Exchange {
        /// Where.
        address: SocketAddr,
        /// For what.
        page: String,
        /// What the system, or TLS, said.
        source: io::Error,
    },
    /// It says no.
    #[error("the API server refuses {page}: {status} {message}")]
    Refused {
        /// What was asked for.
        page: String,
        /// The status, e.g. 403.
        status: u16,
        /// Its words.
        message: String,
    },
}

/// The API server, as this pod may ask it.
pub(super) struct Api {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    /// A directory with `token` and `ca.crt`.
    account: PathBuf,
}

impl Api {
    /// What the pod's environment and its service account say.
    ///
    /// # Errors
    /// This is no pod with a service account.
    pub(super) fn of_pod(
        environment: &BTreeMap<String, String>,
        account: &Path,
    ) -> Result<Self, ApiError> {
        let variable = |name| environment.get(name).map_or("", String::as_str);
        let host = variable(HOST).parse::<IpAddr>();
        let host = host.map_err(|_| ApiError::Environment {
            name: HOST,
            what: "address",
        })?;
        let port = variable(PORT).parse::<u16>();
        let port = port.map_err(|_| ApiError::Environment {
            name: PORT,
            what: "port",
        })?;
        Ok(Self {
            address: SocketAddr::new(host, port),
            config: Arc::new(trusting(&account.join("ca.crt"))?),
            account: account.to_owned(),
        })
    }

    /// Asks for a page, e.g. `/api/v1/namespaces/x/pods?limit=100`.
    ///
    /// # Errors
    /// There is no whole answer, it is no JSON, or it says no.
    pub(super) fn get(&self, page: &str) -> Result<Value, ApiError> {
        // Kubelet renews it: read each time.
        let token = read(&self.account.join("token"))?;
        let failed = |source| ApiError::Exchange {
            address: self.address,
            page: page.to_owned(),
            source,
        };
        let answer = self.exchange(page, token.trim()).map_err(failed)?;
        let (status, body) = parse(&answer)
            .ok_or_else(|| failed(io::Error::other("what it says is no whole HTTP answer")))?;
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        if status == 200 && value.is_object() {
            return Ok(value);
        }
        let message = value.get("message").and_then(Value::as_str);
        Err(ApiError::Refused {
            page: page.to_owned(),
            status,
            message: message.unwrap_or("without a word").to_owned(),
        })
    }

    fn exchange(&self, page: &str, token: &str) -> io::Result<Vec<u8>> {
        let name = ServerName::from(self.address.ip());
        let mut session =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut stream = Stream::new(&mut session, &mut socket);
        let host = self.address;
        let request = format!(
            "GET {page} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Accept: application/json\r\nUser-Agent: nodens/{}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        match stream.take(MOST).read_to_end(&mut answer) {
            // The end of TLS was left out: whether anything is missing shows in what came.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    }
}

/// TLS with these authorities and no others.
fn trusting(path: &Path) -> Result<ClientConfig, ApiError> {
    let wrong = |why: String| ApiError::Authorities {
        path: path.to_owned(),
        why,
    };
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        // Others in the file may still be of use.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate that can be used".to_owned()));
    }
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn read(path: &Path) -> Result<String, ApiError> {
    fs::read_to_string(path).map_err(|source| ApiError::Account {
        path: path.to_owned(),
        source,
    })
}

/// Status and body; none where it is not whole.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|four| four == END)?;
    let (head, body) = (&answer[..end], &answer[end + END.len()..]);
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| body.len() < length) {
        return None;
    }
    Some((status.parse().ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_body_and_whole() {
        let parsed = parse(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!(parsed, (200, &b"{}"[..]));
        let parsed = parse(b"HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\nno").unwrap();
        assert_eq!(parsed, (403, &b"no"[..]));
        for wrong in [
            &b""[..],
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.0 2x0 OK\r\n\r\n",
            b"HTTP/1.0\r\n\r\n",
            b"\xff\r\n\r\n",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
