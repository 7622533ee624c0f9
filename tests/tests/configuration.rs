// SPDX-License-Identifier: Apache-2.0
//! What the real program says to a configuration that is wrong, or that cannot be had: the place,
//! what was found, what was expected, what to do, and the exit code.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nodens_tests::agent::{Agent, Builder, command};
use nodens_tests::netns;
use nodens_tests::process::{Program, TempDir, free_port, is_free, wait_for};
use nodens_tests::query::Query;
use nodens_tests::sample::Sample;
use rustix::process::Signal;

/// Longest wait for anything, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:9";
/// Usage or configuration.
const USAGE: Option<i32> = Some(64);
/// No upstream at start.
const NO_UPSTREAM: Option<i32> = Some(75);

/// How the program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Ended {
    /// The problems that were told, one a line.
    fn problems(&self) -> Vec<&str> {
        let lines = self.said.lines();
        // Warnings are in the log's form.
        lines.filter(|line| line.contains("; ")).collect()
    }

    /// One problem, with all of these words.
    #[track_caller]
    fn assert_one(&self, words: &[&str]) {
        assert_eq!(self.code, USAGE, "{}", self.said);
        assert!(self.said.ends_with("\n1 problem\n"), "{}", self.said);
        self.assert_said(words);
    }

    #[track_caller]
    fn assert_said(&self, words: &[&str]) {
        for word in words {
            assert!(self.said.contains(word), "no {word:?} in {}", self.said);
        }
    }
}

fn execute(mut command: Command, arguments: &[&str]) -> Ended {
    let dir = TempDir::new().unwrap();
    command.args(arguments);
    let mut program = Program::start(command, dir.path().join("log")).unwrap();
    let status = program.wait(PATIENCE);
    let said = program.log();
    let status = status.unwrap_or_else(|error| panic!("{error}: {said}"));
    Ended {
        code: status.code(),
        said,
    }
}

fn nodens(arguments: &[&str]) -> Ended {
    execute(command().unwrap(), arguments)
}

/// A configuration file, its ports filled in.
struct File {
    dir: TempDir,
    port: u16,
}

impl File {
    fn new(config: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let [port, health, metrics] = [0; 3].map(|_| free_port().unwrap());
        let config = config
            .replace("$PORT", &port.to_string())
            .replace("$HEALTH", &health.to_string())
            .replace("$METRICS", &metrics.to_string())
            .replace("  socket: $SOCKET\n", "");
        fs::write(dir.path().join("nodens.yaml"), config).unwrap();
        Self { dir, port }
    }

    fn of(builder: &Builder) -> Self {
        Self::new(&builder.config())
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("nodens.yaml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// Where a word of the file stands, as problems tell it: `FILE:LINE:COLUMN: `.
    fn place_of(&self, word: &str) -> String {
        let text = self.text();
        let at = text.find(word).expect(word);
        let line = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |end| end + 1) + 1;
        format!("{}:{line}:{column}: ", self.path().display())
    }

    fn run(&self) -> Ended {
        nodens(&["run", "--config", path(&self.path())])
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn builder() -> Builder {
    Agent::builder().upstream(NOWHERE.parse().unwrap())
}

#[test]
fn a_port_that_another_has_is_named_with_the_way_to_find_out_who() {
    let file = File::of(&builder());
    let at = (Ipv4Addr::LOCALHOST, file.port);
    let assert_taken = |proto: &str| {
        file.run().assert_one(&[
            &file.place_of("127.0.0.1]"),
            "listen.addresses",
            &format!("cannot listen on 127.0.0.1:{} over {proto}: ", file.port),
            "another program, or another nodens, has this port; ",
            &format!("find it with `ss -lnp 'sport = :{}'`", file.port),
            "or choose another listen.port",
        ]);
    };
    let udp = UdpSocket::bind(at).unwrap();
    assert_taken("UDP");
    drop(udp);
    let tcp = TcpListener::bind(at).unwrap();
    assert_taken("TCP");
    drop(tcp);
}

#[test]
fn a_second_agent_does_not_start_and_takes_no_query_from_the_first() {
    let sample = Sample::start().unwrap();
    let first = Agent::builder().upstream(sample.addr()).start().unwrap();
    let file = File::of(&builder().set("listen.port", &first.addr().port().to_string()));
    file.run().assert_one(&["over UDP", "another nodens"]);
    for number in 0..50 {
        let name = format!("n{number}.bench.cluster.local");
        assert_eq!(first.client().query(&name, 1_u16).unwrap().answers.len(), 1);
    }
    assert_eq!(sample.total(), 50);
}

#[test]
fn an_address_that_is_not_on_this_host_is_named_with_the_way_to_give_it() {
    // RFC 5737: on no host.
    let file = File::of(&builder().set("listen.addresses", "[127.0.0.1, 203.0.113.251]"));
    file.run().assert_one(&[
        &file.place_of("203.0.113.251"),
        "listen.addresses[1]",
        &format!("cannot listen on 203.0.113.251:{}", file.port),
        "this host does not have the address; ",
        "`ip address add 203.0.113.251 dev lo`",
        "an address that `ip address` shows",
    ]);
    assert!(is_free(file.port), "the other address is let go of");
}

#[test]
fn without_the_right_to_bind_port_53_the_capability_is_named() {
    netns::within(|| {
        // A namespace of its own, for hosts may allow the port to everyone.
        let file = File::of(&builder().set("listen.port", "53"));
        let agent = command()?;
        // As a container has it whose capabilities are dropped.
        let mut without = Command::new("setpriv");
        without.arg("--bounding-set=-net_bind_service");
        without.arg(agent.get_program());
        let file_path = file.path();
        let ended = execute(without, &["run", "--config", path(&file_path)]);
        ended.assert_one(&[
            &file.place_of("127.0.0.1]"),
            "cannot listen on 127.0.0.1:53 over UDP",
            "this user may not bind a port below 1024; ",
            "the capability NET_BIND_SERVICE",
            "or choose a listen.port of 1024 or more",
        ]);
        // With the right it starts there.
        let sample = Sample::start()?;
        let agent = Agent::builder()
            .upstream(sample.addr())
            .set("admin.health", "127.0.0.1:$PORT")
            .set("admin.metrics", "127.0.0.1:$PORT")
            .set("listen.port", "53");
        let file = File::new(&agent.config());
        let mut command = command()?;
        command.arg("run").arg("--config").arg(file.path());
        let dir = TempDir::new()?;
        let program = Program::start(command, dir.path().join("log"))?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        let client = nodens_tests::client::Client::new(at);
        wait_for("port 53", PATIENCE, || {
            Ok(client.tcp(&Query::new("day.example.org", 1_u16)).ok())
        })
        .map_err(|error| error.context(program.log()))?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_upstream_that_is_the_agent_itself_is_refused_however_it_is_written() {
    let itself = |listen: &str, upstream: &str| {
        let zones = format!("[{{ name: \".\", upstreams: ['{upstream}:$PORT'] }}]");
        let config = Agent::builder().set("listen.addresses", listen);
        File::of(&config.set("zones", &zones))
    };
    for file in [
        itself("[127.0.0.1]", "127.0.0.1"),
        itself("[127.0.0.2, '::1']", "[::1]"),
        // A wildcard has every address of the host.
        itself("['0.0.0.0']", "127.0.0.1"),
        itself("['::']", "[::1]"),
    ] {
        let upstream = if file.text().contains("'[::1]:") {
            "'[::1]:"
        } else {
            "'127.0.0.1:"
        };
        file.run().assert_one(&[
            &file.place_of(upstream),
            "zones[0].upstreams[0]: found the upstream ",
            "expected a server other than the agent, which listens there and would ask itself; ",
            "write the address of the cluster's DNS",
        ]);
    }
    let file = File::of(&builder());
    let zones = format!("[{{ name: ., upstreams: [127.0.0.1:{}] }}]", file.port);
    let mut from_environment = command().unwrap();
    from_environment.env("NODENS_ZONES", zones);
    let file_path = file.path();
    execute(from_environment, &["run", "--config", path(&file_path)])
        .assert_one(&["environment variable NODENS_ZONES: ", "would ask itself"]);
}

#[test]
fn require_upstream_ends_with_75_where_none_takes_a_connection() {
    // That of another zone says nothing of the cluster's DNS.
    let sample = Sample::start().unwrap();
    let file = File::of(&builder().zone("example.org", &[sample.addr()]));
    let file_path = file.path();
    let ended = nodens(&["run", "--config", path(&file_path), "--require-upstream"]);
    assert_eq!(ended.code, NO_UPSTREAM, "{}", ended.said);
    ended.assert_said(&[
        "no upstream took a connection for 10 s",
        "--require-upstream was given",
        "check the upstreams of zone . and that CoreDNS runs",
    ]);
    assert!(is_free(file.port), "nothing is left running");
    // One that answers is enough, and without the flag none is needed.
    let nowhere: SocketAddr = NOWHERE.parse().unwrap();
    let one = Agent::builder()
        .zone(".", &[nowhere, sample.addr()])
        .arg("--require-upstream");
    one.start().unwrap();
    builder().start().unwrap();
}

#[test]
fn a_required_upstream_that_comes_late_is_waited_for_and_a_stop_meanwhile_obeyed() {
    let late = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let start = || {
        let file = File::of(&Agent::builder().zone(".", &[late]));
        let dir = TempDir::new().unwrap();
        let mut command = command().unwrap();
        command.args(["run", "--config", path(&file.path()), "--require-upstream"]);
        let program = Program::start(command, dir.path().join("log")).unwrap();
        said(&program, "no upstream takes a connection yet");
        (program, file, dir)
    };
    let (mut program, ..) = start();
    program.signal(Signal::TERM).unwrap();
    let status = program.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", program.log());
    let (program, _file, _dir) = start();
    let _upstream = TcpListener::bind(late).unwrap();
    said(&program, "serving");
}

/// Waits until the program has said this.
#[track_caller]
fn said(program: &Program, text: &str) {
    wait_for(text, PATIENCE, || {
        Ok(program.log().contains(text).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", program.log()));
}

#[test]
fn all_problems_of_a_file_come_in_one_go_with_their_places() {
    let file = File::new(
        "version: 1\n\
         listen:\n  port: dns\n  adresses: [127.0.0.1]\n  addresses: [10.0.0.256, here]\n\
         cache: { size: 1KiB, staleFor: 4 }\n\
         workers: many\n\
         zones:\n  - name: \".\"\n    upstreams: [localhost, 10.96.0.10:99999]\n  \
         - { name: a..b, upstreams: [10.96.0.10] }\n  - { name: example.org }\n\
         limits: { queryTimeout: 5, attemptTimeout: 1h }\n\
         metrics: on\n",
    );
    let expected = [
        ("dns", "listen.port: found \"dns\", expected a whole number"),
        ("adresses", "unknown key \"adresses\", expected one of "),
        (
            "10.0.0.256",
            "listen.addresses[0]: found \"10.0.0.256\", expected ",
        ),
        ("here", "listen.addresses[1]: found \"here\", expected "),
        (
            "1KiB",
            "cache.size: found \"1KiB\", expected a size from 1MiB to 64GiB; ",
        ),
        (
            "4 }",
            "cache.staleFor: found \"4\", expected a duration from 0s to 72h; ",
        ),
        ("many", "workers: found \"many\", expected "),
        (
            "localhost",
            "zones[0].upstreams[0]: found \"localhost\", expected ",
        ),
        (
            "10.96.0.10:99999",
            "zones[0].upstreams[1]: found \"10.96.0.10:99999\", ",
        ),
        ("a..b", "zones[1].name: found \"a..b\", expected "),
        (
            "{ name: example.org",
            "zones[2]: found a zone without servers, expected ",
        ),
        (
            "5, att",
            "limits.queryTimeout: found \"5\", expected a duration from 100ms to 30s; ",
        ),
        (
            "1h",
            "limits.attemptTimeout: found \"1h\", expected a duration from 50ms to 10s; ",
        ),
        (
            "metrics",
            "found the unknown key \"metrics\", expected one of ",
        ),
    ];
    let ran = file.run();
    assert_eq!(ran.code, USAGE);
    let problems = ran.problems();
    for (at, (word, said)) in expected.into_iter().enumerate() {
        let problem = problems[at];
        assert!(problem.starts_with(&file.place_of(word)), "{problem}");
        assert!(problem.contains(said), "{said} in {problem}");
        // The remedy.
        let (_, remedy) = problem.rsplit_once("; ").unwrap();
        assert!(remedy.len() > 8, "{problem}");
    }
    let count = expected.len();
    assert_eq!(problems.len(), count, "{}", ran.said);
    ran.assert_said(&["did you mean addresses?", &format!("\n{count} problems\n")]);
    // `check` says the same, word for word.
    let file_path = file.path();
    let checked = nodens(&["check", "--config", path(&file_path)]);
    assert_eq!((checked.code, checked.said), (ran.code, ran.said));
}

#[test]
fn all_that_the_system_refuses_comes_in_one_go_and_an_admin_port_that_is_taken_too() {
    let holders = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = holders
        .each_ref()
        .map(|h| h.local_addr().unwrap().to_string());
    let admin = builder()
        .set("admin.health", &taken[0])
        .set("admin.metrics", &taken[1]);
    let file = File::of(&admin.set("listen.addresses", "[203.0.113.251, 203.0.113.252]"));
    let ended = file.run();
    assert_eq!(ended.code, USAGE);
    ended.assert_said(&[
        &file.place_of("203.0.113.251"),
        &file.place_of("203.0.113.252"),
        &file.place_of(&taken[0]),
        &file.place_of(&taken[1]),
        &format!("admin.health: cannot listen on {} over TCP: ", taken[0]),
        &format!("admin.metrics: cannot listen on {} over TCP: ", taken[1]),
        "another program, or another nodens, has this port; find it with `ss -lnp",
        "or choose another port there",
        "\n4 problems\n",
    ]);
    drop(holders);
    // Where the admin ports are the only problem, DNS is not served without them.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let file = File::of(&builder().set("admin.metrics", &taken));
    file.run().assert_one(&["admin.metrics: cannot listen on "]);
    assert!(is_free(file.port));
}

#[test]
fn every_source_of_a_problem_is_named() {
    let file = File::of(&builder());
    let file_path = file.path();
    let mut command = command().unwrap();
    command.env("NODENS_CACHE_SIZE", "lots");
    let arguments = ["run", "--config", path(&file_path), "--workers", "0"];
    let ended = execute(command, &arguments);
    assert_eq!(ended.code, USAGE);
    ended.assert_said(&[
        "environment variable NODENS_CACHE_SIZE: cache.size: found \"lots\", expected ",
        "flag --workers: workers: found \"0\", expected auto or a whole number from 1 to 64; ",
        "\n2 problems\n",
    ]);
    let missing = file.dir.path().join("missing.yaml");
    nodens(&["run", "--config", path(&missing)]).assert_one(&[
        path(&missing),
        "found no such file, expected a configuration file; ",
    ]);
    nodens(&["run", "--config", path(file.dir.path())])
        .assert_one(&["found a directory, expected a configuration file; "]);
    let upstream = "zones: [{ name: ., upstreams: ['env:NO_SUCH_SERVICE_HOST'] }]\n";
    File::new(upstream)
        .run()
        .assert_one(&["env:NO_SUCH_SERVICE_HOST", "zones[0].upstreams[0]"]);
    File::new("listen: { port: 53\n")
        .run()
        .assert_said(&["nodens.yaml:"]);
    let empty = File::new("");
    empty.run().assert_one(&[
        "no upstream for the root zone",
        "add the two lines `zones:`",
    ]);
}

#[test]
fn a_wrong_command_line_ends_with_64_and_the_nearest_word() {
    for (arguments, words) in [
        (
            &["run", "--listen-prot", "5"][..],
            &["'--listen-prot'", "'--listen-port'"][..],
        ),
        (&["run", "--listen-port"], &["'--listen-port <NUMBER>'"]),
        (
            &["run", "--cache-size", "1MiB", "--cache-size", "2MiB"],
            &["--cache-size"],
        ),
        (&["run", "surplus"], &["'surplus'"]),
        (&["runn"], &["'runn'", "'run'"]),
        (&["check", "--require-upstream"], &["--require-upstream"]),
        (&[], &["Usage: nodens <COMMAND>", "run", "check"]),
    ] {
        let ended = nodens(arguments);
        assert_eq!(ended.code, USAGE, "{arguments:?}: {}", ended.said);
        ended.assert_said(words);
    }
}

#[test]
fn check_says_what_would_run_and_version_what_is_there() {
    let file = File::of(&builder().cache("8MiB"));
    let file_path = file.path();
    let ended = nodens(&["check", "--config", path(&file_path)]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let port = file.port;
    ended.assert_said(&[
        &format!("ok: {}", file_path.display()),
        &format!("listening on 127.0.0.1 port {port}, cache 8MiB"),
    ]);
    // It starts nothing, so it does not mind who has the port.
    let _holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let ended = nodens(&["check", "--config", path(&file_path)]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let version = nodens(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.said,
        concat!("nodens ", env!("CARGO_PKG_VERSION"), "\n")
    );
}
