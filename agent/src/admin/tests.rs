// SPDX-License-Identifier: Apache-2.0
//! The admin pages over real sockets, with good clients among bad ones.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;

use super::server::Limits;
use super::*;
use crate::config::limits;
use crate::config::{Located, Origin};
use crate::inspect::tests::{address, inspector, keep};
use crate::lifecycle::pulse;
use crate::scratch::Scratch;
use crate::telemetry::clock::Clock;
use crate::telemetry::strict;

/// Short, so that tests need not wait for seconds.
const LIMITS: Limits = Limits {
    connections: 64,
    head_timeout: Duration::from_millis(500),
    lifetime: Duration::from_secs(1),
};

/// A client that waits longer than this has found a fault of the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Set for the process that has few descriptors.
const IS_CHILD: &str = "NODENS_TEST_FEW_DESCRIPTORS";

struct Running {
    address: SocketAddr,
    state: Arc<AdminState>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
    }
}

fn state_of(addresses: &[SocketAddr]) -> Arc<AdminState> {
    Arc::new(AdminState {
        health: Arc::new(Health::new(addresses, &pulse::cpus(), Clock.now_ns())),
        telemetry: Arc::new(Telemetry::new(1)),
        retire: Box::new(|| Box::pin(async { Retired::Done })),
        clients: Box::new(|| page::Clients {
            addresses: vec![
                page::Asked {
                    address: "169.254.20.10:53".to_owned(),
                    service: None,
                    asked: Some(7),
                },
                page::Asked {
                    address: "169.254.20.11:53".to_owned(),
                    service: Some("10.96.0.10".to_owned()),
                    asked: None,
                },
            ],
        }),
        inspector: inspector(),
    })
}

/// Live, since nothing is there that could be silent, and not ready, since nothing is there.
fn listening_nowhere() -> Arc<AdminState> {
    state_of(&[])
}

/// Serves as the cold thread does, on a runtime of one thread.
fn run_with(limits: Limits, pages: Pages, state: Arc<AdminState>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Arc::clone(&state);
    let thread = thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(serve_within(
                [limits, limits],
                Doors {
                    open: vec![(listener, pages)],
                    taken: Vec::new(),
                },
                None,
                serving,
                async {
                    let _ = stopped.await;
                },
            ))
    });
    Running {
        address,
        state,
        stop: Some(stop),
        thread: Some(thread),
    }
}

fn run(pages: Pages) -> Running {
    run_with(LIMITS, pages, listening_nowhere())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes until the server closes; a reset counts as the end.
fn read_all(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8_lossy(&text).into_owned(),
    }
}

/// Sends this and returns what comes back.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    // A server that has had enough may close before it has read everything.
    let _ = stream.write_all(request);
    read_all(&stream)
}

/// Status, head and body of a page.
fn fetch(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    split(&exchange(address, request.as_bytes()))
}

fn split(response: &str) -> (u16, String, String) {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{response:?}"));
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .unwrap_or_else(|| panic!("{head:?}"));
    (
        status[..3].parse().unwrap(),
        head.to_owned(),
        body.to_owned(),
    )
}

#[test]
fn health_is_what_the_pulse_saw_and_a_drain_ends_readiness() {
    let dns = pulse::tests::server("127.0.0.1:0", pulse::tests::GOOD);
    let running = run_with(LIMITS, Pages::Health, state_of(&[dns.address]));
    let (status, _, body) = fetch(running.address, "GET", "/readyz");
    let expected = format!(
        "udp {0}: no answer yet\ntcp {0}: no answer yet\n",
        dns.address
    );
    assert_eq!((status, &body), (503, &expected));
    let (status, _, body) = fetch(running.address, "GET", "/healthz");
    assert_eq!((status, body), (503, expected));

    let health = &running.state.health;
    let pulse = pulse::tests::start(health);
    assert!(pulse::tests::wait_for(health, || health
        .ready(Clock.now_ns())
        .is_ok()));
    let (status, head, body) = fetch(running.address, "GET", "/readyz?verbose");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert!(
        head.contains("content-type: text/plain; charset=utf-8"),
        "{head}"
    );
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert_eq!(fetch(running.address, "GET", "/healthz").0, 200);

    health.begin_drain();
    let (status, _, body) = fetch(running.address, "GET", "/readyz");
    assert_eq!((status, body.as_str()), (503, "draining\n"));
    assert_eq!(fetch(running.address, "GET", "/healthz").0, 200);
    pulse.stop();
}

#[test]
fn each_listener_has_its_own_pages_and_says_which() {
    for (pages, paths) in [
        (Pages::Health, [200, 503, 404]),
        (Pages::Metrics, [404, 404, 200]),
        (Pages::All, [200, 503, 200]),
    ] {
        let running = run(pages);
        let (status, _, index) = fetch(running.address, "GET", "/");
        assert_eq!(status, 200);
        for (path, expected) in ["/healthz", "/readyz", "/metrics"].into_iter().zip(paths) {
            assert_eq!(
                fetch(running.address, "GET", path).0,
                expected,
                "{pages:?} {path}"
            );
            assert_eq!(index.contains(path), expected != 404, "{index}");
        }
        let (status, _, body) = fetch(running.address, "GET", "/etc/passwd");
        assert_eq!(status, 404);
        assert!(body.contains(index.lines().last().unwrap()), "{body}");
    }
}

#[test]
fn the_admin_socket_alone_tells_who_asks() {
    let control = run(Pages::Control);
    let (status, head, body) = fetch(control.address, "GET", CLIENTS);
    assert_eq!(status, 200);
    assert!(head.contains("application/json"), "{head}");
    assert_eq!(
        body,
        "{\"addresses\":[\
         {\"address\":\"169.254.20.10:53\",\"service\":null,\"asked\":7},\
         {\"address\":\"169.254.20.11:53\",\"service\":\"10.96.0.10\",\"asked\":null}]}\n"
    );
    assert_eq!(fetch(control.address, "GET", "/clients?all").0, 400);
    let all = run(Pages::All);
    assert_eq!(fetch(all.address, "GET", CLIENTS).0, 404);
}

#[test]
fn a_scrape_is_valid_exposition() {
    let running = run(Pages::Metrics);
    running.state.telemetry.zone("cluster.local.");
    let (status, head, body) = fetch(running.address, "GET", "/metrics");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let scrape = strict::parse(&body);
    assert_eq!(
        scrape.sample("nodens_cache_hits_total{zone=\"cluster.local.\"}"),
        0.0
    );
    assert!(scrape.sample("process_open_fds") > 0.0);
}

#[test]
fn head_is_get_without_the_body_and_other_methods_are_refused() {
    let running = run(Pages::All);
    let (status, head, body) = fetch(running.address, "HEAD", "/healthz");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let (status, head, _) = fetch(running.address, method, "/healthz");
        assert_eq!(status, 405, "{method}");
        assert!(head.contains("allow: GET, HEAD"), "{head}");
    }
    assert_eq!(fetch(running.address, "POST", "/nowhere").0, 404);
}

#[test]
fn a_connection_serves_several_requests_and_old_clients_get_their_answer() {
    let running = run(Pages::All);
    let twice = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = exchange(running.address, twice);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert!(exchange(running.address, b"GET /healthz HTTP/1.0\r\n\r\n").ends_with("ok\n"));
    let mut half_open = connect(running.address);
    half_open
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    half_open.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&half_open).ends_with("ok\n"));
}

#[test]
fn garbage_is_refused_and_the_next_client_is_served() {
    let running = run(Pages::All);
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000));
    let long_field = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(100_000));
    let many_fields = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let mut noise = vec![0u8; 64 << 10];
    let mut seed = 1u32;
    for byte in &mut noise {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = seed.to_be_bytes()[0];
    }
    let bad: [&[u8]; 10] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        &noise,
        long_path.as_bytes(),
        long_field.as_bytes(),
        many_fields.as_bytes(),
    ];
    for request in bad {
        let text = exchange(running.address, request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(40)]);
        assert!(!text.contains(" 200 OK"), "{shown:?} got {text}");
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{shown:?} got {text}"
        );
        assert_eq!(
            fetch(running.address, "GET", "/healthz").0,
            200,
            "after {shown:?}"
        );
    }
    let text = exchange(running.address, many_fields.as_bytes());
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[test]
fn a_body_is_not_waited_for() {
    let running = run(Pages::All);
    let claims = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\nsome";
    let text = exchange(running.address, claims);
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok\n"),
        "{text}"
    );
}

#[test]
fn silent_slow_and_idle_clients_are_shown_the_door() {
    let running = run(Pages::All);
    let silent = connect(running.address);
    let mut partial = connect(running.address);
    partial.write_all(b"GET /healthz HT").unwrap();
    let mut idle = connect(running.address);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let began = Clock.now();
    assert_eq!(read_all(&silent), "");
    assert!(!read_all(&partial).contains("200 OK"));
    assert_eq!(split(&read_all(&idle)).2, "ok\n");
    let took = Clock.now() - began;
    assert!(
        took >= LIMITS.head_timeout / 2 && took < PATIENCE / 2,
        "{took:?}"
    );

    // An octet at a time does not push the end away.
    let mut slow = connect(running.address);
    let began = Clock.now();
    let mut octets = b"GET /healthz HTTP/1.1\r\nA: "
        .iter()
        .chain(std::iter::repeat(&b'a'));
    while slow.write_all(&[*octets.next().unwrap()]).is_ok() {
        thread::park_timeout(Duration::from_millis(50));
        assert!(Clock.now() - began < PATIENCE, "still there");
    }
}

#[test]
fn a_client_that_does_not_read_its_answers_loses_the_connection() {
    let running = run(Pages::Metrics);
    let mut stream = connect(running.address);
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let began = Clock.now();
    // Until both directions are full, and then until the server has had enough.
    loop {
        match stream.write(&request) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
            Ok(_) => {}
        }
        assert!(Clock.now() - began < PATIENCE, "still there");
    }
    assert_eq!(fetch(running.address, "GET", "/metrics").0, 200);
}

#[test]
fn a_crowd_of_silent_clients_does_not_keep_a_probe_out() {
    let limits = Limits {
        head_timeout: PATIENCE * 2,
        lifetime: PATIENCE * 2,
        ..LIMITS
    };
    let running = run_with(limits, Pages::All, listening_nowhere());
    let address = running.address;
    let crowd: Vec<_> = (0..200).map(|_| connect(address)).collect();
    for _ in 0..5 {
        assert_eq!(fetch(address, "GET", "/healthz").0, 200);
        strict::parse(&fetch(address, "GET", "/metrics").2);
    }
    // The oldest had to go, and no more than that.
    assert_eq!(read_all(&crowd[0]), "");
    let last = crowd.last().unwrap();
    last.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut last = last;
    assert_eq!(
        last.read(&mut [0]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );

    // Good clients at the same time as more bad ones: fewer than the bound, since the scheduler
    // may let all of them in between a good one's connection and its request.
    thread::scope(|scope| {
        let bad = scope.spawn(|| (0..40).map(|_| connect(address)).collect::<Vec<_>>());
        let good: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let (status, _, body) = fetch(address, "GET", "/metrics");
                        assert_eq!(status, 200);
                        strict::parse(&body);
                    }
                })
            })
            .collect();
        assert_eq!(bad.join().unwrap().len(), 40);
        good.into_iter().for_each(|client| client.join().unwrap());
    });
}

/// Serves until standard input ends.
fn serve_with_few_descriptors() {
    let running = run_with(Limits::default(), Pages::All, state_of(&[]));
    let limit = Rlimit {
        current: Some(32),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    // Past the capture of the test harness.
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(format!("\naddress {}\n", running.address).as_bytes())
        .unwrap();
    stdout.flush().unwrap();
    drop(stdout);
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn without_descriptors_the_server_rests_and_goes_on() {
    // A process of its own serves, because the limit holds for all tests of this one: this test again.
    if std::env::var_os(IS_CHILD).is_some() {
        serve_with_few_descriptors();
        return;
    }
    let name = "admin::tests::without_descriptors_the_server_rests_and_goes_on";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(IS_CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = lines
        .find_map(|line| Some(line.unwrap().strip_prefix("address ")?.parse().unwrap()))
        .unwrap();
    let mut crowd: Vec<_> = (0..60).map(|_| connect(address)).collect();
    // How many descriptors are open says nothing: one goes for each that comes, and those that
    // this process inherited above the limit do not count. That the oldest has gone does, and
    // before its time is over.
    let sooner_than_silence_ends = Limits::default().head_timeout - Duration::from_secs(1);
    crowd[0]
        .set_read_timeout(Some(sooner_than_silence_ends))
        .unwrap();
    assert_eq!(crowd[0].read(&mut [0]).unwrap(), 0);
    // One is dropped for each that comes.
    let (status, _, body) = fetch(address, "GET", "/metrics");
    assert_eq!(status, 200);
    assert_eq!(strict::parse(&body).sample("process_max_fds"), 32.0);
    drop(crowd);
    assert_eq!(fetch(address, "GET", "/healthz").0, 200);
    drop(child.stdin.take());
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn equal_addresses_share_a_listener_and_a_taken_one_names_its_origin() {
    let located = |value: &str| Located {
        value: value.parse().unwrap(),
        origin: Origin::Flag {
            flag: "--admin-metrics".to_owned(),
        },
    };
    let admin = |health, metrics| config::Admin {
        coredns_names: false,
        also: Vec::new(),
        health: located(health),
        metrics: located(metrics),
        socket: Located {
            value: "/run/nodens/admin.sock".into(),
            origin: Origin::Default {
                key: "admin.socket".to_owned(),
            },
        },
        is_socket_given: false,
    };
    let pages = |admin: &config::Admin| {
        let (bound, errors) = bind(admin);
        assert!(errors.is_empty(), "{errors:?}");
        bound
            .into_iter()
            .map(|(_, pages)| pages)
            .collect::<Vec<_>>()
    };
    assert_eq!(pages(&admin("127.0.0.1:0", "127.0.0.1:0")), [Pages::All]);
    assert_eq!(
        pages(&admin("127.0.0.1:0", "127.0.0.2:0")),
        [Pages::Health, Pages::Metrics]
    );

    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let (bound, errors) = bind(&admin("127.0.0.1:0", &taken));
    assert_eq!(bound.len(), 1);
    let expected = format!("listen on {taken} for /metrics (flag --admin-metrics)");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].to_string(), expected);
    assert_eq!(errors[0].source.kind(), io::ErrorKind::AddrInUse);

    // 192.0.2.1 is on no host (RFC 5737): both are told, not one after the other.
    let (_, errors) = bind(&admin(&taken, "192.0.2.1:0"));
    let kinds: Vec<_> = errors.iter().map(|error| error.source.kind()).collect();
    let both = [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable];
    assert_eq!(kinds, both);
}

/// Serves on a socket of its own with what a connection there may take.
struct Control {
    path: std::path::PathBuf,
    _scratch: Scratch,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Control {
    fn run(of_control: Limits, state: Arc<AdminState>) -> Self {
        let scratch = Scratch::new();
        let path = scratch.at("admin.sock");
        let control = control::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(serve_within(
                    [LIMITS, of_control],
                    Doors::default(),
                    Some(control),
                    state,
                    async {
                        let _ = stopped.await;
                    },
                ))
        });
        Self {
            path,
            _scratch: scratch,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn connect(&self) -> std::os::unix::net::UnixStream {
        let stream = std::os::unix::net::UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn fetch(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = self.connect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        split(&text)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
    }
}

#[test]
fn what_is_held_is_told_over_the_admin_socket_and_nowhere_else() {
    let pages = [
        ("GET", "/status"),
        ("GET", "/cache/stats"),
        ("GET", "/cache/get?name=web.example&type=a"),
        ("GET", "/cache/dump"),
        ("POST", "/cache/flush?name=web.example"),
        ("POST", "/retire"),
    ];
    for listener in [Pages::Health, Pages::Metrics, Pages::All] {
        let running = run(listener);
        for (method, page) in pages {
            let (status, _, body) = fetch(running.address, method, page);
            assert_eq!(status, 404, "{listener:?} {page}: {body}");
        }
    }
    let control = Control::run(LIMITS, listening_nowhere());
    for (method, page) in pages {
        let (status, head, body) = control.fetch(method, page);
        assert_eq!(status, 200, "{page}: {body}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let (status, head, _) = control.fetch(if method == "GET" { "POST" } else { "GET" }, page);
        assert_eq!(status, 405, "{page}");
        assert!(head.contains(&format!("allow: {method}")), "{head}");
    }
}

#[test]
fn a_page_of_the_cache_that_is_asked_wrongly_says_how_to() {
    let control = Control::run(LIMITS, listening_nowhere());
    for (method, page, told) in [
        ("GET", "/cache/get", "nothing is given"),
        ("GET", "/cache/get?name=a..b", "a label is empty"),
        ("GET", "/cache/get?name=a&type=TYPE0", "is no type"),
        ("GET", "/cache/get?name=a&zone=b", "it takes name, type"),
        ("GET", "/cache/dump?all", "it takes zone"),
        ("GET", "/status?verbose", "does not know"),
        ("POST", "/cache/flush", "nothing is given"),
        ("POST", "/cache/flush?all&name=a", "only one"),
    ] {
        let (status, _, body) = control.fetch(method, page);
        assert_eq!(status, 400, "{page}: {body}");
        let refused: page::Refused = serde_json::from_str(&body).unwrap();
        assert!(refused.errors[0].contains(told), "{page}: {body}");
    }
}

#[test]
fn an_order_to_retire_may_take_longer_than_connections_elsewhere() {
    let longest = Limits::control().lifetime;
    assert!(longest > limits::DRAIN_TIMEOUT.max + PATIENCE);
    let state = AdminState {
        retire: Box::new(|| {
            Box::pin(async {
                sleep(LIMITS.lifetime + LIMITS.head_timeout * 2).await;
                Retired::Done
            })
        }),
        ..Arc::into_inner(listening_nowhere()).unwrap()
    };
    let of_control = Limits {
        lifetime: PATIENCE,
        ..LIMITS
    };
    let control = Control::run(of_control, Arc::new(state));
    let (status, _, body) = control.fetch("POST", "/retire");
    assert_eq!(status, 200, "{body}");
}

#[test]
fn a_dump_waits_for_its_reader_and_keeps_nobody_else_waiting() {
    let state = listening_nowhere();
    for number in 0..40_000 {
        let name = crate::wire::name::Name::parse(&format!("n-{number}.example")).unwrap();
        let asked = crate::wire::question::Question::of(&name, 1);
        keep(&state.inspector, &asked, address(), [0, 30]);
    }
    let of_control = Limits {
        lifetime: PATIENCE * 3,
        ..LIMITS
    };
    let control = Control::run(of_control, state);
    let mut slow = control.connect();
    slow.write_all(b"GET /cache/dump HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    slow.read_exact(&mut [0; 100]).unwrap();
    // The slow one has its piece and waits: others are answered, and the store is not locked.
    for _ in 0..20 {
        let (status, _, body) = control.fetch("GET", "/cache/get?name=n-7.example");
        assert_eq!(status, 200);
        assert!(body.contains("10.0.0.7"), "{body}");
    }
    let (_, _, body) = control.fetch("POST", "/cache/flush?zone=example");
    assert!(body.contains("\"entries\":40000"), "{body}");
    // What it had not been given is gone: nothing was made ahead but what the socket holds.
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    let lines = rest.iter().filter(|&&octet| octet == b'\n').count();
    assert!(lines < 20_000, "{lines} of 40,000 had been made");
    assert!(rest.ends_with(b"0\r\n\r\n"));
}

/// Pages at these addresses, and nothing else.
fn at(health: &str, metrics: &str, also: &[&str]) -> config::Admin {
    fn located<T>(value: T) -> Located<T> {
        let flag = "--admin".to_owned();
        Located {
            value,
            origin: Origin::Flag { flag },
        }
    }
    config::Admin {
        health: located(health.parse().unwrap()),
        metrics: located(metrics.parse().unwrap()),
        coredns_names: false,
        also: also
            .iter()
            .map(|text| located(text.parse().unwrap()))
            .collect(),
        socket: located(std::path::PathBuf::new()),
        is_socket_given: false,
    }
}

/// What was bound.
fn bound(listeners: &[(TcpListener, Pages)]) -> Vec<(String, Pages)> {
    let one = |(listener, pages): &(TcpListener, Pages)| {
        (listener.local_addr().unwrap().to_string(), *pages)
    };
    listeners.iter().map(one).collect()
}

#[test]
fn all_addresses_of_both_families_are_listened_on_at_the_unspecified_one_of_ipv6() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let written = format!("[::]:{port}");
    let (listeners, errors) = bind(&at("127.0.0.1:0", &written, &[]));
    assert!(errors.is_empty(), "{errors:?}");
    for client in ["127.0.0.1", "::1"] {
        let client: IpAddr = client.parse().unwrap();
        TcpStream::connect((client, port)).unwrap();
    }
    drop(listeners);
    // One page more there, or written twice: the same sockets.
    let (listeners, errors) = bind(&at(&written, &format!("0.0.0.0:{port}"), &[&written]));
    assert!(errors.is_empty(), "{errors:?}");
    let both = [
        (format!("0.0.0.0:{port}"), Pages::All),
        (written, Pages::All),
    ];
    assert_eq!(bound(&listeners), both);
}

#[test]
fn without_ipv6_all_addresses_are_those_of_ipv4() {
    let listen = |address: SocketAddr| match address {
        SocketAddr::V4(_) => beside::listen_tcp(address),
        SocketAddr::V6(_) => Err(Errno::AFNOSUPPORT.into()),
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let written = format!("[::]:{port}");
    let (listeners, errors) = bind_with(&at(&written, &written, &[]), listen);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(bound(&listeners), [(format!("0.0.0.0:{port}"), Pages::All)]);
    let (_, errors) = bind_with(&at("127.0.0.1:0", "[::1]:0", &[]), listen);
    assert_eq!(errors.len(), 1, "an address that was asked for by name");
}
