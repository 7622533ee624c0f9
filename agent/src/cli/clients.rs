// SPDX-License-Identifier: Apache-2.0
//! `nodens clients`: when each listen address was last asked. Before an uninstallation, whether any
//! pod asks the node-local address, which goes with nodens.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use nodens_netsetup::{Error, fallback};

use super::words::{row, table, time};
use super::{JSON, asking, output};
use crate::admin::CLIENTS;
use crate::config::limits::UNUSED_FOR;
use crate::config::{Sources, duration};
use crate::inspect::page::Clients;

const FLAG: &str = "unused-for";

/// The subcommand, without the flags of the configuration.
pub(super) fn command() -> Command {
    let unused_for = Arg::new(FLAG)
        .long(FLAG)
        .value_name("DURATION")
        .value_parser(|text: &str| duration(text, &UNUSED_FOR))
        .conflicts_with(JSON)
        .help(
            "Exit 69 where a client has asked a node-local address in this time: it would lose its \
             DNS with nodens",
        );
    Command::new("clients")
        .about("Says when each listen address was last asked")
        .arg(unused_for)
        .arg(super::switch(JSON, super::JSON_HELP))
}

/// Asks, and says what there is.
pub(super) fn execute(matches: &ArgMatches, sources: &Sources) -> ExitCode {
    let socket = match asking::socket(sources) {
        Ok(socket) => socket,
        Err(exit) => return exit.into(),
    };
    let exit = match matches.get_one::<Duration>(FLAG) {
        None => asking::show(&socket, "GET", CLIENTS, matches.get_flag(JSON), words),
        Some(&unused_for) => asking::judge(
            &socket,
            CLIENTS,
            |page| judge(page, unused_for),
            |nobody| without_an_agent(&socket, nobody, fallback::exists()),
        ),
    };
    exit.into()
}

fn words(page: &Clients) -> String {
    let rows: Vec<_> = page
        .addresses
        .iter()
        .map(|one| {
            let what = match &one.service {
                Some(service) => format!("for {service}"),
                None => "node-local".to_owned(),
            };
            let when = match one.asked {
                Some(seconds) => format!("last asked {} ago", time(seconds)),
                None => "never asked since the agent's start".to_owned(),
            };
            row([&one.address, &what, &when])
        })
        .collect();
    table("", &rows)
}

/// The list in words; an error where a node-local address was of use too lately.
fn judge(page: &Clients, unused_for: Duration) -> Result<String, String> {
    let lately = |seconds: &u64| *seconds < unused_for.as_secs();
    let used: Vec<_> = page
        .addresses
        .iter()
        .filter(|one| one.service.is_none())
        .filter_map(|one| {
            let seconds = one.asked.filter(lately)?;
            Some(format!("{}, {} ago", one.address, time(seconds)))
        })
        .collect();
    if used.is_empty() {
        return Ok(words(page));
    }
    Err(format!(
        "clients ask the node-local address: {}. They lose their DNS when it goes: give kubelet its \
         old clusterDNS and restart the pods whose /etc/resolv.conf names the address\n",
        used.join("; ")
    ))
}

/// Nobody can tell who asks: then it matters whether anybody is answered at the address.
fn without_an_agent(
    socket: &Path,
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
            asking::explain(socket, nobody)
        )),
        Err(error) => Err(format!("{}\n", output::chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::page::Asked;

    fn page() -> Clients {
        let of = |(address, service, asked): (&str, Option<&str>, Option<u64>)| Asked {
            address: address.to_owned(),
            service: service.map(str::to_owned),
            asked,
        };
        let addresses = [
            ("169.254.20.10:53", None, Some(75)),
            ("169.254.20.11:53", Some("10.96.0.10"), Some(0)),
            ("[fd00::10]:53", None, None),
        ];
        Clients {
            addresses: addresses.map(of).to_vec(),
        }
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn every_address_is_listed_with_its_last_query() {
        assert_eq!(
            words(&page()),
            "169.254.20.10:53  node-local      last asked 1 min 15 s ago\n\
             169.254.20.11:53  for 10.96.0.10  last asked 0 s ago\n\
             [fd00::10]:53     node-local      never asked since the agent's start\n"
        );
    }

    #[test]
    fn a_node_local_address_that_was_asked_lately_is_an_error_that_names_it() {
        let error = judge(&page(), minutes(10)).unwrap_err();
        assert!(
            error.contains("169.254.20.10:53, 1 min 15 s ago"),
            "{error}"
        );
        assert!(!error.contains("169.254.20.11"), "{error}");
        assert!(!error.contains("fd00::10"), "{error}");
    }

    #[test]
    fn what_was_asked_before_that_time_or_at_a_service_is_none() {
        assert_eq!(judge(&page(), minutes(1)), Ok(words(&page())));
        let mut service = page();
        service.addresses.remove(0);
        assert!(judge(&service, minutes(10)).is_ok());
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
