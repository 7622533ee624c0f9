// SPDX-License-Identifier: Apache-2.0
//! The flags of node-cache, in the forms that Go's package `flag` takes: `-x v`, `-x=v`, `--x=v`; a
//! switch has its value behind `=` alone. They are taken out of the command line before anything else
//! reads it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::corefile::{NodeCache, values};
use crate::config::{Origin, Problem};

/// Where node-cache looks for its template.
const TEMPLATE: &str = "/etc/coredns/Corefile.base";
/// Where it looks for the ConfigMap of kube-dns.
const KUBE_DNS: &str = "/etc/kube-dns";
/// Where its own metrics answer.
const SETUP_METRICS: &str = "0.0.0.0:9353";

/// What a flag takes and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A value that counts.
    Value,
    /// A switch that counts.
    Switch,
    /// A value without effect: why.
    DeadValue(&'static str),
    /// A switch without effect: why.
    DeadSwitch(&'static str),
}

use Use::{DeadSwitch, DeadValue, Switch, Value};

/// Every flag, with what nodens does, in Markdown, for docs/corefile.md.
#[cfg(test)]
pub(crate) const FLAGS: [(&str, &str); 21] = [
    ("localip", "as in node-cache; families may be mixed"),
    ("setupinterface", "both `false`: `intercept.enabled: false`"),
    (
        "interfacename",
        "`intercept.interface`, which is `nodens0` where it is not given",
    ),
    ("setupiptables", "see `-setupinterface`"),
    (
        "syncinterval",
        "without effect: what others change is put back at once",
    ),
    ("metrics-listen-address", "`admin.also`, `[::]:9353`"),
    (
        "prometheus-listen-address",
        "the value of `__PROMETHEUS__ENDPOINT__`",
    ),
    ("basecorefile", "the Corefile that is read, where it exists"),
    (
        "corefile",
        "without effect, as in node-cache; `--corefile` with two dashes names the Corefile",
    ),
    (
        "conf",
        "the Corefile that is read, where there is no template; never written",
    ),
    ("pidfile", "without effect: none is written"),
    (
        "kubednscm",
        "as in node-cache: `/etc/kube-dns` where that exists",
    ),
    ("upstreamsvc", "as in node-cache: `kube-dns`"),
    (
        "health-port",
        "without effect: `health` of the Corefile says where",
    ),
    (
        "skipteardown",
        "without effect: what stays when the agent ends leads to CoreDNS, and gives way to a node-cache",
    ),
    (
        "reloadwithsignal",
        "without effect: there is no second file to be reloaded",
    ),
    ("dns.port", "the port of zones without one, 53"),
    ("p", "as `-dns.port`"),
    ("quiet", "without effect: see `log.level`"),
    (
        "plugins",
        "without effect: the table above has the directives",
    ),
    (
        "setupebtables",
        "without effect, as in node-cache since 2021: no rule of nodens' needs ebtables",
    ),
];

fn use_of(name: &str) -> Option<Use> {
    Some(match name {
        "localip"
        | "interfacename"
        | "metrics-listen-address"
        | "prometheus-listen-address"
        | "basecorefile"
        | "conf"
        | "kubednscm"
        | "upstreamsvc"
        | "dns.port"
        | "p" => Value,
        "setupinterface" | "setupiptables" => Switch,
        "syncinterval" => DeadValue(
            "there is no interval: what others change in the node's network is put back at once",
        ),
        "corefile" => DeadValue("node-cache itself takes the value of -conf in its place"),
        "pidfile" => DeadValue("no process file is written: nothing here waits for one"),
        "health-port" => {
            DeadValue("it was for rules alone: `health` in the Corefile says where health answers")
        }
        "skipteardown" => DeadSwitch(
            "when the agent ends CoreDNS answers; interface and fallback stay, and give way to a node-cache",
        ),
        "reloadwithsignal" => {
            DeadSwitch("no second file is written that would have to be reloaded")
        }
        "quiet" => DeadSwitch("log.level says what is logged"),
        "plugins" => {
            DeadSwitch("docs/corefile.md lists the directives; the agent starts all the same")
        }
        "setupebtables" => {
            DeadSwitch("node-cache has it no more, and no rule of nodens' needs ebtables")
        }
        _ => return None,
    })
}

/// One flag that was given.
struct Given {
    flag: String,
    value: String,
}

/// The arguments without node-cache's flags, and what these say; `None` where there is none.
///
/// A line without a subcommand that begins with one of the flags is one of `nodens run`: the manifest
/// of node-cache has arguments alone.
pub(super) fn take(arguments: Vec<OsString>) -> (Vec<OsString>, Option<NodeCache>) {
    let mut arguments = arguments.into_iter().peekable();
    let mut rest: Vec<OsString> = arguments.next().into_iter().collect();
    let begins_with_flag = arguments.peek().is_some_and(|first| {
        let text = first.to_str().unwrap_or_default();
        let is_double = text.starts_with("--");
        split(text).is_some_and(|(name, _)| match name {
            "corefile" => false,
            "version" => !is_double,
            name => use_of(name).is_some(),
        })
    });
    if begins_with_flag {
        rest.push("run".into());
    } else {
        const OURS: [&str; 4] = ["run", "check", "convert", "netsetup"];
        let is_ours = |command: &OsString| OURS.iter().any(|ours| command == ours);
        if !arguments.peek().is_some_and(is_ours) {
            rest.extend(arguments);
            return (rest, None);
        }
        rest.extend(arguments.next());
    }
    let mut given = Vec::new();
    let mut problems = Vec::new();
    let mut ours = None;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default().to_owned();
        if text == "--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        let is_double = text.starts_with("--");
        let Some((name, value)) = split(&text) else {
            rest.push(argument);
            continue;
        };
        // With two dashes it is nodens' own.
        if name == "corefile" && is_double {
            let next = value.map(OsString::from).or_else(|| arguments.next());
            match next {
                Some(file) if ours.is_none() => ours = Some(PathBuf::from(file)),
                _ => rest.push(argument),
            }
            continue;
        }
        // Behind a subcommand it is known in no form.
        if name == "version" && value.is_none() {
            return (vec![rest.swap_remove(0), "--version".into()], None);
        }
        let Some(use_) = use_of(name) else {
            rest.push(argument);
            continue;
        };
        let takes_next = matches!(use_, Value | DeadValue(_));
        let value = match value {
            Some(value) => Some(value.to_owned()),
            None if takes_next => arguments
                .next()
                .map(|next| next.to_string_lossy().into_owned()),
            None => Some("true".to_owned()),
        };
        let flag = format!("-{name}");
        match value {
            Some(value) => given.push((use_, Given { flag, value })),
            None => problems.push(problem(
                &flag,
                "found nothing behind it, expected a value",
                "write it like -x=VALUE",
            )),
        }
    }
    if given.is_empty() && problems.is_empty() {
        return (rest, ours.map(NodeCache::new));
    }
    (rest, Some(read(given, problems, ours)))
}

/// The name of a flag and what stands behind `=`.
fn split(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument
        .strip_prefix("--")
        .or_else(|| argument.strip_prefix('-'))?;
    match name.split_once('=') {
        Some((name, value)) => Some((name, Some(value))),
        None => Some((name, None)),
    }
}

fn problem(flag: &str, message: &str, remedy: &str) -> Problem {
    Problem {
        origin: Origin::Flag {
            flag: flag.to_owned(),
        },
        message: message.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// What the flags say together.
fn read(given: Vec<(Use, Given)>, problems: Vec<Problem>, ours: Option<PathBuf>) -> NodeCache {
    let mut node_cache = NodeCache::new(PathBuf::new());
    node_cache.problems = problems;
    node_cache.metrics = Some(SETUP_METRICS.to_owned());
    let mut template = None;
    let mut output = None;
    let mut kube_dns = None;
    let mut sets_up = [true, true];
    for (use_, Given { flag, value }) in given {
        let switch = matches!(use_, Switch | DeadSwitch(_)).then(|| values::boolean(&value));
        if switch == Some(None) {
            let message = format!("found {value:?}, expected true or false");
            let remedy = format!("write {flag}=true or {flag}=false");
            node_cache.problems.push(problem(&flag, &message, &remedy));
            continue;
        }
        let on = switch.flatten().unwrap_or_default();
        match (flag.as_str(), use_) {
            (_, DeadValue(why) | DeadSwitch(why)) => {
                let message = format!("it has no effect: {why}");
                node_cache
                    .warnings
                    .push(problem(&flag, &message, "leave it out"));
            }
            ("-localip", _) => {
                node_cache.local_ips = value.split(',').map(str::to_owned).collect();
            }
            ("-setupinterface", _) => sets_up[0] = on,
            ("-setupiptables", _) => sets_up[1] = on,
            ("-interfacename", _) => node_cache.interface = Some(value),
            ("-metrics-listen-address", _) => {
                node_cache.metrics = Some(value).filter(|value| !value.is_empty());
            }
            ("-prometheus-listen-address", _) => node_cache.prometheus = value,
            ("-basecorefile", _) => template = Some(PathBuf::from(value)),
            ("-conf", _) => output = Some(PathBuf::from(value)),
            ("-kubednscm", _) => kube_dns = Some(PathBuf::from(value)),
            ("-upstreamsvc", _) => node_cache.upstream_service = value,
            _ => match value.parse().ok() {
                Some(port) if port > 0 => node_cache.port = port,
                _ => {
                    let message = format!("found {value:?}, expected a port from 1 to 65535");
                    node_cache.problems.push(problem(
                        &flag,
                        &message,
                        "write it like -dns.port=53",
                    ));
                }
            },
        }
    }
    if sets_up[0] != sets_up[1] {
        let flag = if sets_up[0] {
            "-setupiptables"
        } else {
            "-setupinterface"
        };
        let message = "it has no effect without the other of -setupinterface and -setupiptables: addresses and rules go \
                       together, in a table of nodens' own that lets go when the agent dies";
        let remedy = "give both, or none";
        node_cache.warnings.push(problem(flag, message, remedy));
    }
    node_cache.sets_up = sets_up[0] || sets_up[1];
    node_cache.sweeps = node_cache.sets_up;
    node_cache.kube_dns = kube_dns
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| Some(PathBuf::from(KUBE_DNS)).filter(|path| path.is_dir()));
    node_cache.file = file(ours, template, output);
    node_cache
}

/// The Corefile that is read: nodens' own flag, the template, or what node-cache would have written,
/// where charts mount it already filled in.
fn file(ours: Option<PathBuf>, template: Option<PathBuf>, output: Option<PathBuf>) -> PathBuf {
    let default = Path::new(TEMPLATE);
    match (ours, template, output) {
        (Some(file), _, _) | (None, Some(file), _) => file,
        (None, None, Some(file)) if !default.exists() => file,
        (None, None, _) => default.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(arguments: &[&str]) -> (Vec<String>, Option<NodeCache>) {
        let arguments = arguments.iter().map(OsString::from).collect();
        let (rest, node_cache) = super::take(arguments);
        let rest = rest.into_iter().map(|one| one.into_string().unwrap());
        (rest.collect(), node_cache)
    }

    #[test]
    fn every_form_of_go_is_taken() {
        for arguments in [
            &[
                "nodens",
                "run",
                "-localip",
                "a,b",
                "-conf=/etc/x",
                "--upstreamsvc",
                "up",
            ][..],
            &[
                "nodens",
                "run",
                "--localip=a,b",
                "-conf",
                "/etc/x",
                "-upstreamsvc=up",
            ],
            // The manifest has arguments alone.
            &[
                "node-cache",
                "-localip",
                "a,b",
                "-conf",
                "/etc/x",
                "-upstreamsvc",
                "up",
            ],
        ] {
            let (rest, node_cache) = take(arguments);
            let node_cache = node_cache.unwrap();
            assert_eq!(rest[1..], ["run"], "{arguments:?}");
            assert_eq!(node_cache.local_ips, ["a", "b"]);
            assert_eq!(node_cache.upstream_service, "up");
            assert_eq!(node_cache.file, Path::new("/etc/x"));
            assert_eq!(node_cache.metrics.as_deref(), Some("0.0.0.0:9353"));
            assert!(node_cache.problems.is_empty() && node_cache.warnings.is_empty());
        }
    }

    #[test]
    fn what_is_nodens_own_stays() {
        let (rest, node_cache) = take(&["nodens", "run", "--listen-port", "53", "--config=x"]);
        assert_eq!(rest, ["nodens", "run", "--listen-port", "53", "--config=x"]);
        assert_eq!(node_cache, None);
        let (rest, node_cache) = take(&["nodens", "check", "--corefile", "F", "--log-level=debug"]);
        assert_eq!(rest, ["nodens", "check", "--log-level=debug"]);
        assert_eq!(node_cache, Some(NodeCache::new("F".into())));
        let (rest, node_cache) = take(&["nodens", "status", "-localip", "x"]);
        assert_eq!((rest.len(), node_cache), (4, None));
        for version in ["-version", "--version"] {
            let (rest, node_cache) = take(&["nodens", version]);
            assert_eq!(rest, ["nodens", "--version"]);
            assert_eq!(node_cache, None);
        }
        let (rest, node_cache) = take(&["nodens", "netsetup", "up", "-localip=x", "--json"]);
        assert_eq!(rest, ["nodens", "netsetup", "up", "--json"]);
        assert_eq!(node_cache.unwrap().local_ips, ["x"]);
    }

    #[test]
    fn flags_without_effect_say_why() {
        for (name, doc) in FLAGS {
            let use_ = use_of(name).unwrap();
            let argument = format!("-{name}=1");
            let (_, node_cache) = take(&["nodens", "run", &argument]);
            let node_cache = node_cache.unwrap();
            let is_dead = matches!(use_, DeadValue(_) | DeadSwitch(_));
            assert_eq!(node_cache.warnings.len(), usize::from(is_dead), "{name}");
            assert_eq!(doc.starts_with("without effect"), is_dead, "{name}");
            assert!(
                node_cache.problems.is_empty(),
                "{name}: {:?}",
                node_cache.problems
            );
        }
    }

    #[test]
    fn wrong_values_are_told_with_their_flag() {
        for (argument, found) in [
            (
                "-setupinterface=maybe",
                "flag -setupinterface: found \"maybe\", expected true or false",
            ),
            (
                "-dns.port=0",
                "flag -dns.port: found \"0\", expected a port",
            ),
            ("-p=dns", "flag -p: found \"dns\", expected a port"),
            ("-localip", "flag -localip: found nothing behind it"),
        ] {
            let (_, node_cache) = take(&["nodens", "run", argument]);
            let problems = node_cache.unwrap().problems;
            assert_eq!(problems.len(), 1, "{argument}");
            assert!(
                problems[0].to_string().starts_with(found),
                "{}",
                problems[0]
            );
        }
    }

    #[test]
    fn interface_and_rules_go_together() {
        let sets_up = |arguments: &[&str]| {
            let arguments = [&["nodens", "run"], arguments].concat();
            let node_cache = take(&arguments).1.unwrap();
            (node_cache.sets_up, node_cache.warnings.len())
        };
        assert_eq!(sets_up(&["-setupiptables=false"]), (true, 1));
        assert_eq!(
            sets_up(&["-setupiptables=false", "-setupinterface=f"]),
            (false, 0)
        );
        assert_eq!(sets_up(&["-setupinterface"]), (true, 0));
    }

    #[test]
    fn with_node_caches_command_line_what_it_has_left_goes() {
        let sweeps = |arguments: &[&str]| {
            let arguments = [&["nodens", "run"], arguments].concat();
            take(&arguments).1.unwrap().sweeps
        };
        assert!(sweeps(&["-localip", "169.254.20.10"]));
        assert!(!sweeps(&["-setupiptables=false", "-setupinterface=false"]));
        assert!(!sweeps(&["--corefile", "/etc/Corefile"]));
    }
}
