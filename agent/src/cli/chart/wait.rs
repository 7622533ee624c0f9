// SPDX-License-Identifier: Apache-2.0
//! `nodens chart wait`: waits until a hook's DaemonSet has done its work on every node, as Helm
//! waits for Jobs and not for DaemonSets, or until the pods of one that is deleted have ended. Where
//! nodes refuse it ends with their names and reasons.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::Value;

use super::api::{Api, ApiError};
use super::rollout::{Counts, Leaving, Pods, Verdict, judge, read_pods};
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::config::duration;
use crate::config::limits::{HOOK_AWAY_AFTER, HOOK_PATIENCE, Limit};

/// Between two questions.
const PERIOD: Duration = Duration::from_secs(1);

/// Pods are looked at when so many questions did not find the DaemonSet complete: there may be
/// thousands of them.
const PODS_EVERY: u32 = 4;

/// Pods on a page.
const PAGE: u32 = 100;

/// Pages that are read: 5,000 nodes is the most that Kubernetes is made for.
const PAGES: u32 = 100;

/// Nodes that are named; the rest is counted.
const NAMED: usize = 20;

/// The arguments that say what is waited for.
const DAEMON_SET: &str = "daemonset";
const GONE: &str = "gone";
const EVERYWHERE: &str = "everywhere";

/// The subcommand.
pub(super) fn command() -> Command {
    let name = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("NAME")
            .value_parser(identifier)
            .help(help)
    };
    let time = |name: &'static str, limit: Limit<Duration>, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("DURATION")
            .value_parser(move |text: &str| duration(text, &limit))
            .help(help)
    };
    Command::new("wait")
        .about("Waits until a DaemonSet has done its work on every node")
        .arg(name("namespace", "Its namespace").required(true))
        .arg(
            name(
                DAEMON_SET,
                "Its name, and its pods' label app.kubernetes.io/name",
            )
            .required_unless_present(GONE),
        )
        .arg(
            name(
                GONE,
                "In its place a DaemonSet that is deleted: waits until its pods have ended",
            )
            .conflicts_with(DAEMON_SET),
        )
        .arg(crate::cli::switch(
            EVERYWHERE,
            "That a node is away is an error in the end",
        ))
        .arg(time("patience", HOOK_PATIENCE, "How long [default: 4m]"))
        .arg(time(
            "away-after",
            HOOK_AWAY_AFTER,
            "A node whose kubelet has not touched its pod by then, or not ended it, is away \
             [default: 1m]",
        ))
        .arg(
            Arg::new("tries")
                .long("tries")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64).range(1..=100))
                .default_value("1")
                .help("A node's refusal is final after so many"),
        )
        .arg(
            Arg::new("service-account")
                .long("service-account")
                .value_name("DIRECTORY")
                .value_parser(value_parser!(PathBuf))
                .default_value("/var/run/secrets/kubernetes.io/serviceaccount")
                .help("Where token and ca.crt are"),
        )
}

/// A name of Kubernetes: it goes into a path.
fn identifier(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.is_empty() && text.len() <= 63 && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of 1 to 63 lower case letters, digits and dashes".to_owned())
    }
}

/// What is waited for, and how.
struct Wait {
    namespace: String,
    daemon_set: String,
    /// For the end of its pods.
    is_for_the_end: bool,
    /// Nodes that are away are an error.
    is_everywhere: bool,
    patience: Duration,
    away_after: Duration,
    tries: u64,
}

/// Waits, and says what came of it.
pub(super) fn execute(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let time = |name: &str, limit: Limit<Duration>| {
        let given = matches.get_one::<Duration>(name).copied();
        given.unwrap_or(limit.default)
    };
    let is_for_the_end = matches.contains_id(GONE);
    let wait = Wait {
        namespace: text("namespace"),
        daemon_set: text(if is_for_the_end { GONE } else { DAEMON_SET }),
        is_for_the_end,
        is_everywhere: matches.get_flag(EVERYWHERE),
        patience: time("patience", HOOK_PATIENCE),
        away_after: time("away-after", HOOK_AWAY_AFTER),
        tries: matches.get_one::<u64>("tries").copied().unwrap_or(1),
    };
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let environment: BTreeMap<_, _> = environment
        .into_iter()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect();
    let account = matches.get_one::<PathBuf>("service-account");
    let account = account.cloned().unwrap_or_default();
    let api = match Api::of_pod(&environment, &account) {
        Ok(api) => api,
        Err(error) => {
            output::complain(&format!("{}\n", output::chain(&error)));
            return Exit::Usage.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let waited = match runtime {
        Ok(runtime) => runtime.block_on(wait.until_complete(&api)),
        Err(error) => Err(format!("start the runtime: {error}\n")),
    };
    match waited {
        Ok(words) => {
            output::print(&words);
            Exit::Done.into()
        }
        Err(words) => {
            output::complain(&words);
            Exit::Network.into()
        }
    }
}

impl Wait {
    async fn until_complete(&self, api: &Api) -> Result<String, String> {
        let began = tokio::time::Instant::now();
        let mut last = "nothing was seen of it yet".to_owned();
        for round in 0_u32.. {
            let waited = began.elapsed();
            let look = match self.is_for_the_end {
                true => self.look_for_the_end(api, waited),
                false => self.look(api, round, waited),
            };
            match look {
                Ok(Some(Verdict::Complete(away))) => return self.complete(&away),
                Ok(Some(Verdict::Refused(nodes))) => {
                    return Err(format!("refused:\n{}", list(&nodes)));
                }
                Ok(Some(Verdict::Wait(nodes))) => last = list(&nodes),
                Ok(None) => {}
                // The API server may be away for a while, as at its own update.
                Err(error) => last = format!("  {}\n", output::chain(&error)),
            }
            if waited > self.patience {
                break;
            }
            tokio::time::sleep(PERIOD).await;
        }
        let what = match self.is_for_the_end {
            true => "has pods",
            false => "is not done everywhere",
        };
        Err(format!(
            "daemonset {} {what} after {} s:\n{last}",
            self.daemon_set,
            self.patience.as_secs()
        ))
    }

    fn look_for_the_end(&self, api: &Api, waited: Duration) -> Result<Option<Verdict>, ApiError> {
        let mut leaving = Leaving::default();
        self.pages(api, |list| leaving.read(list, &self.daemon_set))?;
        Ok(Some(leaving.judge(waited >= self.away_after)))
    }

    fn complete(&self, away: &[String]) -> Result<String, String> {
        match (away, self.is_everywhere) {
            ([], _) => Ok("done on every node\n".to_owned()),
            (away, false) => Ok(format!(
                "done on every node but these, whose kubelet does not answer:\n{}",
                list(away)
            )),
            (away, true) => Err(format!(
                "done on every node but these, whose kubelet does not answer; when they come back, \
                 remove there what is left (docs/install.md, Uninstall):\n{}",
                list(away)
            )),
        }
    }

    /// None where it is too early to look at pods.
    fn look(&self, api: &Api, round: u32, waited: Duration) -> Result<Option<Verdict>, ApiError> {
        let (namespace, name) = (&self.namespace, &self.daemon_set);
        let set = api.get(&format!(
            "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        ))?;
        let Some(counts) = Counts::read(&set) else {
            return Ok(None);
        };
        if counts.is_complete() {
            return Ok(Some(Verdict::Complete(Vec::new())));
        }
        if round % PODS_EVERY != PODS_EVERY - 1 {
            return Ok(None);
        }
        let uid = set.pointer("/metadata/uid").and_then(|uid| uid.as_str());
        let mut pods = Pods::new();
        self.pages(api, |list| {
            read_pods(list, uid.unwrap_or_default(), &mut pods);
        })?;
        let are_away = waited >= self.away_after;
        Ok(Some(judge(counts, &pods, self.tries, are_away)))
    }

    /// Reads the pods, page by page.
    fn pages(&self, api: &Api, mut read: impl FnMut(&Value)) -> Result<(), ApiError> {
        let (namespace, name) = (&self.namespace, &self.daemon_set);
        let first = format!(
            "/api/v1/namespaces/{namespace}/pods?limit={PAGE}&labelSelector=app.kubernetes.io/name%3D{name}"
        );
        let mut page = first.clone();
        for _ in 0..PAGES {
            let list = api.get(&page)?;
            read(&list);
            let next = list
                .pointer("/metadata/continue")
                .and_then(|next| next.as_str());
            match next {
                Some(next) if !next.is_empty() => {
                    page = format!("{first}&continue={}", quoted(next))
                }
                _ => break,
            }
        }
        Ok(())
    }
}

/// As a value in a query (RFC 3986 section 2.3).
fn quoted(text: &str) -> String {
    let quote = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

/// A line each, the first of them.
fn list(nodes: &[String]) -> String {
    let mut text: String = nodes
        .iter()
        .take(NAMED)
        .map(|node| format!("  {node}\n"))
        .collect();
    if nodes.len() > NAMED {
        text.push_str(&format!("  and {} more\n", nodes.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_or_refused() {
        assert_eq!(identifier("nodens-check"), Ok("nodens-check".to_owned()));
        for wrong in ["", "a/b", "A", "a?b", "a.b", &"a".repeat(64)] {
            assert!(identifier(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_in_a_list_is_quoted() {
        assert_eq!(quoted("eyJ2+/=~"), "eyJ2%2B%2F%3D~");
    }

    #[test]
    fn many_nodes_are_counted() {
        let nodes: Vec<_> = (0..25).map(|number| format!("node{number}")).collect();
        let text = list(&nodes);
        assert!(text.ends_with("  node19\n  and 5 more\n"), "{text}");
    }
}
