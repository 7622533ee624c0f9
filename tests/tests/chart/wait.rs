// SPDX-License-Identifier: Apache-2.0
//! The hook that waits, against an API server that says what the test has it say, over real TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nodens_tests::agent::command;
use nodens_tests::helm::said;
use nodens_tests::process::TempDir;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};

/// What the server says: to a path, a status and a body.
type Say = dyn Fn(&str) -> (u16, Value) + Send + Sync;

/// An API server on 127.0.0.1. Its requests are kept.
struct Server {
    port: u16,
    dir: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

#[track_caller]
fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl is missing: make deps installs it");
    assert!(output.status.success(), "{}", said(&output));
}

/// An authority in `ca.crt`, and in `server.crt` and `server.key` what it vouches for.
fn certify(dir: &Path, address: &str) {
    let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(
        dir,
        &format!("{key} -keyout ca.key -out ca.crt -subj /CN=authority"),
    );
    openssl(
        dir,
        &format!(
            "{key} -keyout server.key -out server.crt -subj /CN=api -CA ca.crt -CAkey ca.key \
             -addext subjectAltName=IP:{address} -addext basicConstraints=CA:FALSE"
        ),
    );
}

impl Server {
    fn start(certified: &str, say: Box<Say>) -> Self {
        let dir = TempDir::new().unwrap();
        certify(dir.path(), certified);
        std::fs::write(dir.path().join("token"), "secret\n").unwrap();
        let chain = CertificateDer::pem_file_iter(dir.path().join("server.crt")).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&requests), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            for socket in listener.incoming() {
                if over.load(Relaxed) {
                    break;
                }
                let mut socket = socket.unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = Stream::new(&mut session, &mut socket);
                let mut request = Vec::new();
                let mut octet = [0; 1];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut octet).unwrap_or(0) == 1 {
                    request.extend(octet);
                }
                let request = String::from_utf8(request).unwrap();
                let Some(path) = request.split(' ').nth(1) else {
                    continue; // It does not trust us.
                };
                let (status, body) = say(path);
                seen.lock().unwrap().push(request.clone());
                let answer = format!("HTTP/1.0 {status} X\r\nContent-Type: x\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
                session.send_close_notify();
                let _ = session.write_tls(&mut socket);
            }
        });
        Self {
            port,
            dir,
            requests,
            is_over,
            thread: Some(thread),
        }
    }

    fn wait(&self, arguments: &[&str]) -> Output {
        self.wait_for("--daemonset=set", arguments)
    }

    fn wait_for(&self, what: &str, arguments: &[&str]) -> Output {
        command()
            .unwrap()
            .args(["chart", "wait", "--namespace=kube-system", what])
            .arg("--service-account")
            .arg(self.dir.path())
            .args(arguments)
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", self.port.to_string())
            .output()
            .unwrap()
    }
}

fn set(desired: u64, ready: u64) -> Value {
    json!({
        "metadata": { "generation": 1, "uid": "u" },
        "status": {
            "observedGeneration": 1, "desiredNumberScheduled": desired, "numberReady": ready,
        },
    })
}

fn pod(node: &str, status: Value) -> Value {
    let owner = json!({ "kind": "DaemonSet", "name": "set", "uid": "u" });
    json!({
        "metadata": { "name": node, "ownerReferences": [owner] },
        "spec": { "nodeName": node },
        "status": status,
    })
}

fn is_set(path: &str) -> bool {
    path.starts_with("/apis/apps/v1/namespaces/kube-system/daemonsets/set")
}

#[test]
fn it_ends_well_when_every_node_is_done() {
    let looks = Mutex::new(0);
    let server = Server::start(
        "127.0.0.1",
        Box::new(move |_| {
            let mut looks = looks.lock().unwrap();
            *looks += 1;
            (200, set(2, *looks - 1))
        }),
    );
    let output = server.wait(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(said(&output), "done on every node\n");
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.len(), 3);
    for request in requests.iter() {
        assert!(
            request.contains("\r\nAuthorization: Bearer secret\r\n"),
            "{request}"
        );
        assert!(is_set(request.strip_prefix("GET ").unwrap()), "{request}");
    }
}

#[test]
fn it_names_the_nodes_that_refuse_from_all_pages_and_why() {
    let refusing = |node: &str| {
        pod(
            node,
            json!({
                "startTime": "t",
                "initContainerStatuses": [{
                    "name": "check",
                    "restartCount": 0,
                    "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                    "lastState": { "terminated": {
                        "exitCode": 69, "message": format!("clients ask on {node}\n"),
                    } },
                }],
            }),
        )
    };
    let server = Server::start(
        "127.0.0.1",
        Box::new(move |path| {
            let body = if is_set(path) {
                set(3, 1)
            } else if path.ends_with("&continue=a%2Fb") {
                json!({ "metadata": {}, "items": [refusing("node3")] })
            } else {
                assert!(
                    path.contains("labelSelector=app.kubernetes.io/name%3Dset"),
                    "{path}"
                );
                let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
                json!({
                    "metadata": { "continue": "a/b" },
                    "items": [refusing("node1"), pod("node2", ready)],
                })
            };
            (200, body)
        }),
    );
    let output = server.wait(&[]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert_eq!(
        said(&output),
        "refused:\n  node1: clients ask on node1\n  node3: clients ask on node3\n"
    );
}

#[test]
fn a_node_that_is_away_is_named_and_not_waited_for() {
    let server = Server::start(
        "127.0.0.1",
        Box::new(|path| match is_set(path) {
            true => (200, set(1, 0)),
            false => (200, json!({ "items": [pod("node9", json!({}))] })),
        }),
    );
    let output = server.wait(&["--away-after=1s"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("  node9\n"), "{}", said(&output));
    // Where something is left there the uninstallation must not end as if nothing were.
    let output = server.wait(&["--away-after=1s", "--everywhere"]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    for words in ["  node9\n", "docs/install.md, Uninstall"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn it_waits_until_the_pods_of_a_deleted_daemonset_have_ended() {
    let looks = Mutex::new(0);
    let server = Server::start(
        "127.0.0.1",
        Box::new(move |path| {
            assert!(path.contains("app.kubernetes.io/name%3Dset"), "{path}");
            let mut looks = looks.lock().unwrap();
            *looks += 1;
            let mut ending = pod("node2", json!({}));
            ending["metadata"]["deletionTimestamp"] = json!("t");
            let pods = match *looks {
                1 => vec![pod("node1", json!({})), ending],
                2 => vec![ending],
                _ => Vec::new(),
            };
            (200, json!({ "items": pods }))
        }),
    );
    let output = server.wait_for("--gone=set", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(server.requests.lock().unwrap().len(), 3);
    let output = server.wait_for("--gone=set", &["--daemonset=x"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
}

#[test]
fn it_gives_up_after_its_patience_and_says_what_it_waited_for() {
    let server = Server::start(
        "127.0.0.1",
        Box::new(|_| (403, json!({ "message": "daemonsets is forbidden" }))),
    );
    let output = server.wait(&["--patience=1s"]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    for words in ["after 1 s", "403 daemonsets is forbidden"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn it_sends_its_token_to_no_server_that_the_authority_does_not_vouch_for() {
    let server = Server::start("192.0.2.1", Box::new(|_| (200, set(1, 1))));
    let output = server.wait(&["--patience=1s"]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert!(said(&output).contains("certificate"), "{}", said(&output));
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn outside_a_pod_it_says_so() {
    let dir = TempDir::new().unwrap();
    let run = |host: &str| {
        let output = command()
            .unwrap()
            .args(["chart", "wait", "--namespace=x", "--daemonset=y"])
            .arg("--service-account")
            .arg(dir.path())
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", "443")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        said(&output)
    };
    assert!(run("").contains("KUBERNETES_SERVICE_HOST"));
    let account = run("192.0.2.1");
    assert!(
        account.contains("ca.crt") && account.contains("automount"),
        "{account}"
    );
    std::fs::write(dir.path().join("ca.crt"), "not a certificate").unwrap();
    assert!(run("192.0.2.1").contains("no certificate"));
}
