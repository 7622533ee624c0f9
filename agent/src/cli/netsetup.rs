// SPDX-License-Identifier: Apache-2.0
//! `nodens netsetup up|down|check|print`: the node's network by hand, from an init container or a
//! Job. Each may be repeated; each says what it did in words, or with `--json` for a program.

use std::process::ExitCode;

use clap::{ArgMatches, Command};
use nodens_netsetup::plan::Plan;
use nodens_netsetup::sweep::{self, Swept};
use nodens_netsetup::{Difference, Error, active, fallback, link};
use serde_json::{Value, json};

use super::exit::Exit;
use super::{JSON, output};
use crate::config::{Config, Sources};

const FORCE: &str = "force";
const SWEEP: &str = "sweep";

/// The subcommand with its own, each without the flags of the configuration.
pub(super) fn command(with_configuration: fn(Command) -> Command) -> Command {
    let json = || super::switch(JSON, super::JSON_HELP);
    let force = super::switch(
        FORCE,
        "Remove all but the table of an agent that is alive, which will put back what it misses",
    );
    let sweep = super::switch(
        SWEEP,
        "Remove what node-cache has left here as well, where nobody listens at its addresses",
    );
    let all = [
        Command::new("up")
            .about("Makes what outlives the agent: fallback table, interface and addresses")
            .arg(sweep),
        Command::new("down")
            .about("Removes everything that nodens has put on this node")
            .arg(force),
        Command::new("check").about("Says what differs between the configuration and this node"),
        Command::new("print").about("Writes the rules as nft has them, and changes nothing"),
    ];
    let all = all.map(|one| with_configuration(one.arg(json())));
    Command::new("netsetup")
        .about("The addresses and rules on this node, by hand")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(all)
}

/// What came of a command.
struct Said {
    exit: Exit,
    words: String,
    json: Value,
}

/// Runs the one that was asked for. `sources` reads its flags.
pub(super) fn execute(
    matches: &ArgMatches,
    sources: impl FnOnce(&ArgMatches) -> Sources,
) -> ExitCode {
    let Some((verb, matches)) = matches.subcommand() else {
        return Exit::Bug.into(); // clap requires one of them
    };
    let sources = sources(matches);
    // What is on the node can be removed whatever else the configuration says.
    let config = match verb {
        "down" => Config::load_for(&sources, &["intercept.interface"]),
        _ => Config::load(&sources).map(|loaded| loaded.config),
    };
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            output::complain_of(&problems);
            return Exit::Usage.into();
        }
    };
    let is_json = matches.get_flag(JSON);
    // Beside node-cache the agent has an address more.
    let found = config.intercept.plan.as_ref();
    let found = found.and_then(|plan| link::as_found(plan).ok());
    // What an earlier configuration has made is removed even where this one wants none of it.
    let said = match (verb, found.as_ref().or(config.intercept.plan.as_ref())) {
        ("down", _) => down(&removable(&config), matches.get_flag(FORCE)),
        (_, None) => {
            output::complain(
                "intercept.enabled is false: there is nothing to set up. Set it to true, or leave \
                 this command out\n",
            );
            return Exit::Usage.into();
        }
        ("up", Some(plan)) => {
            let said = up(plan);
            if said.exit == Exit::Done && matches.get_flag(SWEEP) {
                swept(said, plan)
            } else {
                said
            }
        }
        ("check", Some(plan)) => check(plan),
        (_, Some(plan)) => {
            let text = if is_json {
                nodens_netsetup::print_json(plan)
            } else {
                nodens_netsetup::print_text(plan)
            };
            output::print(&text);
            return Exit::Done.into();
        }
    };
    if is_json {
        output::print(&format!("{}\n", said.json));
    } else if said.exit == Exit::Done {
        output::print(&said.words);
    } else {
        output::complain(&said.words);
    }
    said.exit.into()
}

/// What there is to remove: the plan, or its names alone where there can be no plan.
fn removable(config: &Config) -> Plan {
    let settings = config.settings();
    Plan::new(&settings).unwrap_or_else(|_| Plan {
        interface: settings.interface,
        port: settings.port,
        addresses: Vec::new(),
        captures: Vec::new(),
        fallback: Vec::new(),
        probes: Vec::new(),
        remember_tcp: settings.tcp_idle,
        stand_ins: Vec::new(),
    })
}

fn up(plan: &Plan) -> Said {
    let is_new = fallback::exists().is_ok_and(|was_there| !was_there);
    let links = match fallback::apply(plan).and_then(|()| link::apply(plan)) {
        Ok(links) => links,
        Err(error) => {
            // A table without its addresses leads nowhere; one that was there before stays.
            let taken_back = if is_new { fallback::revert() } else { Ok(()) };
            let mut errors = vec![error];
            errors.extend(taken_back.err());
            return refused(&errors);
        }
    };
    let list = |parts: &[link::Part]| parts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (made, adopted) = (list(&links.made), list(&links.adopted));
    let removed: Vec<_> = links.removed.iter().map(ToString::to_string).collect();
    let fallback: Vec<_> = plan.fallback.iter().map(ToString::to_string).collect();
    let mut words = format!("{} ({})\n", links.interface, links.kind);
    for (what, which) in [
        ("made", &made),
        ("was there", &adopted),
        ("removed", &removed),
        ("fallback", &fallback),
    ] {
        if !which.is_empty() {
            words.push_str(&format!("  {what}: {}\n", which.join(", ")));
        }
    }
    Said {
        exit: Exit::Done,
        words,
        json: json!({
            "interface": links.interface,
            "kind": links.kind.to_string(),
            "made": made,
            "adopted": adopted,
            "removed": removed,
            "fallback": fallback,
        }),
    }
}

/// Adds to what `up` has said what came of the sweep. Rules that cannot be read, or that are not
/// node-cache's for certain, were asked to be removed and are not: that is no success. What is in use is
/// none of the sweep's business.
fn swept(mut said: Said, plan: &Plan) -> Said {
    let Swept {
        removed,
        users,
        left,
    } = match sweep::sweep(plan) {
        Ok(swept) => swept,
        Err(error) => return refused(&[error]),
    };
    for one in &removed {
        said.words.push_str(&format!("  swept: {one}\n"));
    }
    if !users.is_empty() {
        let users = users.join(", ");
        said.words.push_str(&format!(
            "  not swept: node-cache's rules and interface are in use: {users} listens\n"
        ));
    }
    for one in &left {
        said.words.push_str(&format!("  not swept: {one}\n"));
    }
    if !left.is_empty() {
        said.exit = Exit::Network;
    }
    let left: Vec<_> = left.iter().map(in_json).collect();
    said.json["swept"] = json!({ "removed": removed, "users": users, "left": left });
    said
}

fn down(plan: &Plan, is_forced: bool) -> Said {
    let mut failed = Vec::new();
    match active::revert() {
        Ok(()) => {}
        Err(error @ Error::TableOwned { .. }) if !is_forced => {
            let error = output::chain(&error);
            let remedy = "run `nodens retire` first: a running agent puts back what is removed. \
                          Queries to its node-local addresses are lost from then on, so make sure \
                          that no pod asks them";
            return Said {
                exit: Exit::Network,
                words: format!("{error}; nothing was removed. {remedy}\n"),
                json: json!({ "removed": false, "errors": [error], "remedy": remedy }),
            };
        }
        Err(Error::TableOwned { .. }) => {}
        Err(error) => failed.push(error),
    }
    failed.extend(
        [fallback::revert_in_use(), link::revert(plan)]
            .into_iter()
            .filter_map(Result::err),
    );
    // A kernel without nf_tables has no table of ours either.
    failed.retain(|error| !matches!(error, Error::NoNfTables { .. }));
    if !failed.is_empty() {
        return refused(&failed);
    }
    Said {
        exit: Exit::Done,
        words: "nothing of nodens is left on this node\n".to_owned(),
        json: json!({ "removed": true, "errors": [] }),
    }
}

fn check(plan: &Plan) -> Said {
    let found = nodens_netsetup::check(plan).map(|differences| {
        let (steering, rest): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(is_steering_absent);
        (steering.is_empty(), rest)
    });
    let (is_steering, differences) = match found {
        Ok(found) => found,
        Err(error) => return refused(&[error]),
    };
    let unread = sweep::look(plan).map(|incumbent| incumbent.unread());
    let unread = unread.unwrap_or_default();
    let mut words: String = differences.iter().map(|one| format!("{one}\n")).collect();
    for one in &unread {
        words.push_str(&format!("to be looked at: {one}\n"));
    }
    if differences.is_empty() {
        words.push_str("this node is as the configuration wants it\n");
    }
    if !is_steering {
        words.push_str("no agent steers queries here at this moment\n");
    }
    let list: Vec<_> = differences.iter().map(in_json).collect();
    Said {
        exit: if list.is_empty() {
            Exit::Done
        } else {
            Exit::Network
        },
        words,
        json: json!({
            "steering": is_steering,
            "differences": list,
            "unread": unread.iter().map(in_json).collect::<Vec<_>>(),
        }),
    }
}

fn in_json(one: &Difference) -> Value {
    json!({
        "place": one.place,
        "wanted": one.wanted,
        "found": one.found,
        "remedy": one.remedy,
    })
}

/// Whether it says that no agent has its table there, which is no fault of the node.
fn is_steering_absent(difference: &Difference) -> bool {
    difference.place == "table inet nodens" && difference.found == "none"
}

fn refused(errors: &[Error]) -> Said {
    let errors: Vec<_> = errors.iter().map(|error| output::chain(error)).collect();
    Said {
        exit: Exit::Network,
        words: errors.iter().map(|error| format!("{error}\n")).collect(),
        json: json!({ "errors": errors }),
    }
}
