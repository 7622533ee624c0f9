// SPDX-License-Identifier: Apache-2.0
//! The API's HTTP: lists and watches in JSON, as client-go asks for them, and nothing else.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Change, Kind, Store};
use crate::host::{Door, Service, lock};

/// The longest line of a request's head, and the most lines.
const MOST_OCTETS: u64 = 8192;
const MOST_LINES: usize = 64;
/// How long a watch lasts that names no time, in seconds.
const WATCH_SECONDS: u64 = 300;
/// How often a watch looks whether the API still stands.
const LOOK: Duration = Duration::from_millis(100);
/// What the plugin asks of pods; no pod of a test is otherwise.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown";

/// Serves what a store holds.
pub(super) struct Server(pub(super) Arc<Store>);

/// What a request wants.
#[derive(Debug, Default)]
struct Wanted {
    kind: Option<Kind>,
    is_watch: bool,
    /// Whether a watch begins with all there is.
    has_initial: bool,
    /// `resourceVersionMatch`, without which the initial events may not be asked for.
    has_match: bool,
    version: Option<u64>,
    seconds: Option<u64>,
    /// What is not understood here.
    strange: Option<String>,
}

impl Service for Server {
    fn datagram(&self, _query: &[u8], _from: SocketAddr, _door: &Arc<Door>) {}

    fn connection(&self, stream: Arc<TcpStream>, _number: u64, door: &Arc<Door>) {
        let mut reader = BufReader::new(&*stream);
        // Ends where the client has gone, which it may at any time.
        while let Ok(Some((target, is_last))) = head(&mut reader) {
            if self.answer(&stream, &target, door).is_err() || is_last {
                return;
            }
        }
    }
}

impl Server {
    fn answer(&self, stream: &TcpStream, target: &str, door: &Arc<Door>) -> io::Result<()> {
        if target == "/version" {
            let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.4"});
            return whole(stream, 200, &version);
        }
        let wanted = Wanted::read(target);
        let Some(kind) = wanted.kind else {
            let status = status(404, "NotFound", "the server could not find the resource");
            return whole(stream, 404, &status);
        };
        if let Some(strange) = wanted.strange {
            let text = format!("this API of the tests does not know {strange}");
            return whole(stream, 400, &status(400, "BadRequest", &text));
        }
        if wanted.is_watch && wanted.has_initial != wanted.has_match {
            let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, \
                        and the other way round";
            return whole(stream, 422, &status(422, "Invalid", text));
        }
        if wanted.is_watch {
            return self.watch(stream, kind, &wanted, door);
        }
        let [group, _, word] = kind.words();
        let list = {
            let objects = lock(&self.0.objects);
            let items = objects.of(kind).into_iter().map(|mut item| {
                // Items of a list do not repeat what kind they are.
                if let Some(fields) = item.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                item
            });
            json!({
                "kind": format!("{word}List"), "apiVersion": group,
                "metadata": {"resourceVersion": objects.version.to_string()},
                "items": items.collect::<Vec<_>>(),
            })
        };
        whole(stream, 200, &list)
    }

    /// Sends what changes, one object in JSON a line, until the time is up.
    fn watch(
        &self,
        stream: &TcpStream,
        kind: Kind,
        wanted: &Wanted,
        door: &Arc<Door>,
    ) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(wanted.seconds.unwrap_or(WATCH_SECONDS));
        (&*stream).write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        let mut seen = {
            let objects = lock(&self.0.objects);
            // A watch from no version begins with all there is, as one that asks for it.
            let is_initial = wanted.has_initial || wanted.version.unwrap_or(0) == 0;
            let held = if is_initial {
                objects.of(kind)
            } else {
                Vec::new()
            };
            let version = if is_initial {
                objects.version
            } else {
                wanted.version.unwrap_or(0)
            };
            drop(objects);
            for object in held {
                event(stream, "ADDED", &object)?;
            }
            version
        };
        if wanted.has_initial {
            let [group, _, word] = kind.words();
            let bookmark = json!({
                "kind": word, "apiVersion": group,
                "metadata": {
                    "resourceVersion": seen.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            });
            event(stream, "BOOKMARK", &bookmark)?;
        }
        while Instant::now() < end && door.wait(Duration::ZERO) {
            let Some(changes) = self.changes(kind, &mut seen) else {
                let text = "too old resource version";
                event(stream, "ERROR", &status(410, "Expired", text))?;
                break;
            };
            for change in changes {
                event(stream, change.what, &change.object)?;
            }
        }
        (&*stream).write_all(b"0\r\n\r\n")
    }

    /// What has changed of a kind since a version, or nothing after a while; `None` where that is
    /// no longer known.
    fn changes(&self, kind: Kind, seen: &mut u64) -> Option<Vec<Change>> {
        let objects = lock(&self.0.objects);
        let waited = self
            .0
            .changed
            .wait_timeout_while(objects, LOOK, |objects| objects.version <= *seen);
        let (objects, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *seen < objects.forgotten {
            return None;
        }
        let new = objects.changes.iter().filter(|one| one.version > *seen);
        let own = new.filter(|one| one.kind == kind).cloned().collect();
        *seen = objects.version.max(*seen);
        Some(own)
    }
}

impl Wanted {
    fn read(target: &str) -> Self {
        let (path, options) = target.split_once('?').unwrap_or((target, ""));
        let mut wanted = Self::default();
        for kind in [
            Kind::Namespace,
            Kind::Service,
            Kind::EndpointSlice,
            Kind::Pod,
        ] {
            let [group, plural, _] = kind.words();
            let root = if group == "v1" { "api" } else { "apis" };
            if path == format!("/{root}/{group}/{plural}") {
                wanted.kind = Some(kind);
            }
        }
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "watch" => wanted.is_watch = matches!(value, "true" | "1"),
                "sendInitialEvents" => wanted.has_initial = value == "true",
                "resourceVersionMatch" => wanted.has_match = true,
                "resourceVersion" => wanted.version = value.parse().ok(),
                "timeoutSeconds" => wanted.seconds = value.parse().ok(),
                // Lists are never so long as to be cut, and what could be told more often need not.
                "limit" | "allowWatchBookmarks" | "timeout" => {}
                "fieldSelector" if wanted.kind == Some(Kind::Pod) && decode(value) == RUNNING => {}
                _ => wanted.strange = Some(decode(option)),
            }
        }
        wanted
    }
}

/// The target of the next request, and whether it is the connection's last; `None` when the client
/// has closed it.
fn head(reader: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut first = None;
    let mut is_last = false;
    for _ in 0..MOST_LINES {
        let mut line = String::new();
        io::Read::take(&mut *reader, MOST_OCTETS).read_line(&mut line)?;
        let line = line.trim_end();
        match (&first, line) {
            (None, "") => return Ok(None),
            (None, _) => first = Some(line.to_owned()),
            (Some(first), "") => {
                let mut words = first.split(' ');
                let is_get = words.next() == Some("GET");
                let target = words.next().filter(|_| is_get);
                return target
                    .map(|target| Some((target.to_owned(), is_last)))
                    .ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            _ => is_last |= line.eq_ignore_ascii_case("connection: close"),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn whole(mut stream: &TcpStream, code: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {code} {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        if code == 200 { "OK" } else { "Refused" }
    );
    stream.write_all(answer.as_bytes())
}

fn event(mut stream: &TcpStream, what: &str, object: &Value) -> io::Result<()> {
    let line = format!("{}\n", json!({"type": what, "object": object}));
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// Undoes `%2C` and the like; what is none stays as it is.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octet = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            Some(octet) => {
                out.push(char::from(octet));
                out.push_str(&part[2..]);
            }
            None => {
                out.push('%');
                out.push_str(part);
            }
        }
    }
    out
}
