// SPDX-License-Identifier: Apache-2.0
//! `nodens clients`: when each listen address was last asked. Before an uninstallation, whether any
//! pod asks the node-local address, which goes with nodens.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use nodens_netsetup::{Error, fallback};
use serde_json::Value;

use super::exit::Exit;
use super::{output, socket};
use crate::admin::CLIENTS;
use crate::config::limits::UNUSED_FOR;
use crate::config::{Config, Sources, duration, show_time};

const FLAG: &str = "unused-for";

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    let unused_for = Arg::new(FLAG)
        .long(FLAG)
        .value_name("DURATION")
        .value_parser(|text: &str| duration(text, &UNUSED_FOR))
        .help(
            "Exit 69 where a client has asked a node-local address in this time: it would lose its \
             DNS with nodens",
        );
    Command::new("clients")
        .about("Says when each listen address was last asked")
        .arg(unused_for)
}

/// A listen address, as the agent tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Listened {
    address: String,
    /// The Service whose queries are steered there.
    service: Option<String>,
    seconds_ago: Option<u64>,
}

/// Asks, and says what there is.
pub(super) fn execute(matches: &ArgMatches, sources: &Sources) -> ExitCode {
    let config = match Config::load(sources) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            output::complain_of(&problems);
            return Exit::Usage.into();
        }
    };
    let path = &config.admin.socket.value;
    let unused_for = matches.get_one::<Duration>(FLAG).copied();
    let said = match socket::ask(path, "GET", CLIENTS) {
        Ok((200, text)) => match read(&text) {
            Some(all) => judge(&all, unused_for),
            None => Err(format!(
                "the agent at {} says what this command does not understand; use the command of \
                 the same version\n",
                path.display()
            )),
        },
        Ok((_, text)) => Err(format!("the agent at {}: {text}", path.display())),
        Err(error) if unused_for.is_some() && socket::is_nobody(&error) => {
            without_an_agent(path, &error, fallback::exists())
        }
        Err(error) => Err(format!("{}\n", socket::explain(path, &error))),
    };
    match said {
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

fn read(text: &str) -> Option<Vec<Listened>> {
    let list: Value = serde_json::from_str(text).ok()?;
    let one = |one: &Value| {
        Some(Listened {
            address: one.get("address")?.as_str()?.to_owned(),
            service: one.get("service")?.as_str().map(str::to_owned),
            seconds_ago: one.get("secondsAgo")?.as_u64(),
        })
    };
    list.as_array()?.iter().map(one).collect()
}

/// The list in words; an error where a node-local address was of use too lately.
fn judge(all: &[Listened], unused_for: Option<Duration>) -> Result<String, String> {
    let mut words = String::new();
    let mut used = Vec::new();
    for one in all {
        let what = match &one.service {
            Some(service) => format!("for {service}"),
            None => "node-local".to_owned(),
        };
        let when = match one.seconds_ago {
            Some(seconds) => format!("last asked {} ago", ago(seconds)),
            None => "never asked since the agent's start".to_owned(),
        };
        words.push_str(&format!("{} ({what}): {when}\n", one.address));
        let is_recent = |seconds: u64| unused_for.is_some_and(|time| seconds < time.as_secs());
        if one.service.is_none() && one.seconds_ago.is_some_and(is_recent) {
            used.push(format!(
                "{}, {} ago",
                one.address,
                ago(one.seconds_ago.unwrap_or(0))
            ));
        }
    }
    if used.is_empty() {
        return Ok(words);
    }
    Err(format!(
        "clients ask the node-local address: {}. They lose their DNS when it goes: give kubelet its \
         old clusterDNS and restart the pods whose /etc/resolv.conf names the address\n",
        used.join("; ")
    ))
}

fn ago(seconds: u64) -> String {
    show_time(Duration::from_secs(seconds))
}

/// Nobody can tell who asks: then it matters whether anybody is answered at the address.
fn without_an_agent(
    path: &Path,
    nobody: &io::Error,
    fallback: Result<bool, Error>,
) -> Result<String, String> {
    match fallback {
        Ok(false) | Err(Error::NoNfTables { .. }) => {
            Ok("no agent runs here, and nothing answers in its place\n".to_owned())
        }
        Ok(true) => Err(format!(
            "{}; and the fallback table is there: clients of the node-local address may be answered \
             by CoreDNS, and nobody can tell. See why the agent does not run, or force the removal\n",
            socket::explain(path, nobody)
        )),
        Err(error) => Err(format!("{}\n", output::chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"address": "169.254.20.10:53", "service": null, "secondsAgo": 75},
        {"address": "169.254.20.11:53", "service": "10.96.0.10", "secondsAgo": 0},
        {"address": "[fd00::10]:53", "service": null, "secondsAgo": null}
    ]"#;

    fn minutes(minutes: u64) -> Option<Duration> {
        Some(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn every_address_is_listed_with_its_last_query() {
        let words = judge(&read(LIST).unwrap(), None).unwrap();
        assert_eq!(
            words,
            "169.254.20.10:53 (node-local): last asked 1m15s ago\n\
             169.254.20.11:53 (for 10.96.0.10): last asked 0s ago\n\
             [fd00::10]:53 (node-local): never asked since the agent's start\n"
        );
    }

    #[test]
    fn a_node_local_address_that_was_asked_lately_is_an_error_that_names_it() {
        let error = judge(&read(LIST).unwrap(), minutes(10)).unwrap_err();
        assert!(error.contains("169.254.20.10:53, 1m15s ago"), "{error}");
        assert!(!error.contains("169.254.20.11"), "{error}");
        assert!(!error.contains("fd00::10"), "{error}");
    }

    #[test]
    fn what_was_asked_before_that_time_or_at_a_service_is_none() {
        assert!(judge(&read(LIST).unwrap(), minutes(1)).is_ok());
        let service = &read(LIST).unwrap()[1..2];
        assert!(judge(service, minutes(10)).is_ok());
    }

    #[test]
    fn what_is_no_such_list_is_not_understood() {
        for text in ["", "{}", "[{}]", r#"[{"address": 1, "service": null}]"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn without_an_agent_the_fallback_decides() {
        let nobody = io::Error::from(io::ErrorKind::NotFound);
        let path = Path::new("/run/nodens/admin.sock");
        assert!(without_an_agent(path, &nobody, Ok(false)).is_ok());
        let error = without_an_agent(path, &nobody, Ok(true)).unwrap_err();
        assert!(error.contains("no agent runs here"), "{error}");
        assert!(error.contains("fallback"), "{error}");
    }
}
