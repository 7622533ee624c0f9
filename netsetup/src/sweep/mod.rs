// SPDX-License-Identifier: Apache-2.0
//! What node-cache (NodeLocal DNSCache) has on a node: told, and removed when node-cache has gone.
//!
//! ```text
//!   its rules, its interface ──► does anybody listen there? ── yes ─► they are in use: left alone
//!                                            │ no
//!                                            └─► left over: told, and on request removed
//! ```
//!
//! It takes its rules and its interface away when it is told to end, and at no other end (SIGKILL,
//! out of memory, a panic). What stays then keeps queries to the cluster's DNS address from
//! kube-proxy, at a socket that nobody has. Only what is node-cache's for certain is removed; what is
//! like it is told and left. The rules of the older iptables cannot be read over netlink: where its
//! table `raw` is in use, that is told, with the commands that remove node-cache's.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use crate::check::Difference;
use crate::error::Error;
use crate::firewall::{self, kernel::Kernel};
use crate::link::{self, Kind, Leftover, NODE_CACHE};
use crate::nfnetlink::{Batch, Connection};
use crate::plan::{Plan, Proto};
use crate::sockets::{self, Holder};

use self::rules::{Found, Rules};

/// How often rules are looked for anew where others changed them before they were removed.
const TRIES: u32 = 5;

/// Both ways to have it removed.
const REMEDY: &str = "`nodens netsetup up --sweep` removes it, and so does an agent with \
                      `intercept.sweep: true`";

/// What node-cache has on this node.
#[derive(Debug, Default)]
pub struct Incumbent {
    rules: Rules,
    link: Option<Leftover>,
    /// Who listens where node-cache does, and is no agent.
    users: Vec<Holder>,
    /// Programs of the older iptables that have a table `raw`, for these addresses.
    legacy: Vec<Legacy>,
    /// Node-local addresses: the plan's, and link-local ones.
    locals: BTreeSet<IpAddr>,
    /// Whether it is known where it would be asked: else nothing follows from nobody listening.
    is_told: bool,
}

/// Rules that cannot be read.
#[derive(Debug)]
struct Legacy {
    program: &'static str,
    addresses: Vec<IpAddr>,
    port: u16,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What it has removed.
    pub removed: Vec<String>,
    /// Who listens at node-cache's addresses, so that nothing more was removed.
    pub users: Vec<String>,
    /// What was left because it is not node-cache's for certain, or cannot be read.
    pub left: Vec<Difference>,
}

/// Looks for what node-cache has on this node.
///
/// # Errors
/// [`Error::NotPermitted`] without NET_ADMIN, [`Error::Refused`].
pub fn look(plan: &Plan) -> Result<Incumbent, Error> {
    look_as(plan, Kind::Dummy, &BTreeSet::new())
}

/// As [`look`], where node-cache makes its interface of this kind, and these addresses and ports are known
/// to be its own, whether it still has rules for them or not.
fn look_as(plan: &Plan, kind: Kind, known: &BTreeSet<(IpAddr, u16)>) -> Result<Incumbent, Error> {
    let rules = match Kernel::open().and_then(|mut kernel| rules::look(&mut kernel, plan)) {
        Ok(rules) => rules,
        Err(answer) if firewall::is_absent(&answer) => Rules::default(),
        Err(answer) => {
            let step = "read the rules of iptables".to_owned();
            return Err(Error::refused(step, answer.errno.into(), answer.reason));
        }
    };
    let mut named = rules::addresses(rules.theirs.iter());
    named.extend(known.iter().map(|(ip, _)| *ip));
    let named: Vec<IpAddr> = named.into_iter().collect();
    let link = link::leftover(plan, &named, kind)?;
    let is_link_local = |ip: &&IpAddr| matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    let link_local = named.iter().filter(is_link_local);
    let locals = plan.addresses.iter().chain(link_local).copied().collect();
    let mut incumbent = Incumbent {
        rules,
        locals,
        link,
        users: Vec::new(),
        legacy: legacy(plan),
        is_told: true,
    };
    let mut asked = incumbent.asked(plan.port);
    asked.extend(known);
    incumbent.is_told = !asked.is_empty();
    let ports: BTreeSet<u16> = asked.iter().map(|(_, port)| *port).collect();
    for port in ports {
        let holders = sockets::at(port)?.into_iter().filter(|holder| {
            let mut asked = asked.iter().filter(|(_, asked)| *asked == port);
            asked.any(|(ip, _)| holder.gets(*ip)) && !holder.is_of_an_agent()
        });
        incumbent.users.extend(holders);
    }
    Ok(incumbent)
}

/// Removes what node-cache has left, where nobody listens there any more. It looks anew before each
/// step: a node-cache that has come back meanwhile keeps what is still there.
///
/// # Errors
/// As [`look`]; [`Error::Refused`] where the kernel does not let go of it. What was removed until then
/// is gone.
pub fn sweep(plan: &Plan) -> Result<Swept, Error> {
    sweep_as(plan, Kind::Dummy, || {})
}

/// As [`sweep`], where node-cache makes its interface of this kind, with what happens each time that
/// rules have gone.
fn sweep_as(plan: &Plan, kind: Kind, mut meanwhile: impl FnMut()) -> Result<Swept, Error> {
    let mut incumbent = look_as(plan, kind, &BTreeSet::new())?;
    let mut swept = Swept {
        left: incumbent.unsure(),
        ..Swept::default()
    };
    let mut known = BTreeSet::new();
    for tries in 1.. {
        if incumbent.is_in_use() {
            swept.users = incumbent.users();
            return Ok(swept);
        }
        if incumbent.rules.theirs.is_empty() {
            break;
        }
        if tries > TRIES {
            swept.left.push(put_back());
            return Ok(swept);
        }
        match incumbent.remove_rules() {
            Ok(removed) => {
                swept.removed.extend(removed);
                meanwhile();
            }
            // Somebody was faster.
            Err(_) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
        // Without its rules its addresses may be known to nobody.
        known.extend(incumbent.asked(plan.port));
        incumbent = look_as(plan, kind, &known)?;
    }
    // The rules first: without its address on the node a query that nobody tracks leaves it.
    let link = incumbent.link.as_ref().filter(|link| link.is_any());
    if let Some(link) = link.filter(|_| incumbent.is_told) {
        swept.removed.extend(link::clear_leftover(link)?);
    }
    Ok(swept)
}

/// Its interface without an address, as it is for a moment when node-cache starts.
fn bare_link() -> Difference {
    Difference {
        place: format!("interface {NODE_CACHE}"),
        wanted: "nothing of node-cache's".to_owned(),
        found: "one without an address, which is left alone, as it cannot be told whether anybody is to \
                listen there"
            .to_owned(),
        remedy: format!("`ip link delete {NODE_CACHE}`, when node-cache has gone"),
    }
}

/// Its rules come back as fast as they go, and nobody is seen to listen.
fn put_back() -> Difference {
    Difference {
        place: "rules of node-cache's".to_owned(),
        wanted: "none".to_owned(),
        found: "somebody puts them back as soon as they are removed, so that its interface stays"
            .to_owned(),
        remedy: "find out which program writes them (`nft monitor`), end it, and sweep again"
            .to_owned(),
    }
}

impl Incumbent {
    /// Whether there is nothing of node-cache's here.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.rules.theirs.is_empty() && !self.link.as_ref().is_some_and(Leftover::is_any)
    }

    /// Whether somebody listens at its addresses: it still runs.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        !self.users.is_empty()
    }

    /// Who listens at its addresses, in words.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let words: BTreeSet<_> = self.users.iter().map(ToString::to_string).collect();
        words.into_iter().collect()
    }

    /// All of it in words, each with what it does to queries and what helps.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let (state, remedy) = self.state();
        let mut tables = BTreeMap::<_, Vec<&Found>>::new();
        for found in &self.rules.theirs {
            let place = format!(
                "table {} {} (of {})",
                found.family, found.path.table, found.program
            );
            tables
                .entry((place, found.address))
                .or_default()
                .push(found);
        }
        for ((place, address), rules) in tables {
            let why = if rules.iter().any(|found| found.is_notrack) {
                self.notrack(address)
            } else {
                String::new()
            };
            differences.push(Difference {
                place,
                wanted: format!("no rule of node-cache's for {address}"),
                found: format!("{} of its rules, and {state}{why}", rules.len()),
                remedy: remedy.clone(),
            });
        }
        if let Some(link) = self
            .link
            .as_ref()
            .filter(|link| link.is_any() && self.is_told)
        {
            differences.push(self.link_difference(link, &state, &remedy));
        }
        differences.extend(self.near());
        differences
    }

    /// Who listens, and what helps.
    fn state(&self) -> (String, String) {
        if self.is_in_use() {
            (
                format!("it is in use: {} listens", self.users().join(", ")),
                "remove the DaemonSet of node-cache (kubectl -n kube-system delete daemonset \
                 node-local-dns): it takes them away when it ends"
                    .to_owned(),
            )
        } else {
            (
                "nobody listens there any more".to_owned(),
                REMEDY.to_owned(),
            )
        }
    }

    /// What NOTRACK does to queries for an address.
    fn notrack(&self, address: IpAddr) -> String {
        if self.is_in_use() {
            return String::new();
        }
        let disabled = if self.locals.contains(&address) {
            "NOTRACK on a node-local address disables the fallback"
        } else {
            "NOTRACK on the cluster's DNS address disables kube-proxy and the fallback"
        };
        format!(": {disabled}; without an agent nobody answers there")
    }

    fn link_difference(&self, link: &Leftover, state: &str, remedy: &str) -> Difference {
        let list = |ips: &[IpAddr]| {
            let words: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
            words.join(", ")
        };
        let mut found = Vec::new();
        if !link.services.is_empty() {
            let ends = if self.is_in_use() {
                "whoever has the socket there"
            } else {
                "a socket that nobody has"
            };
            found.push(format!(
                "the cluster's DNS address {}: what the node itself asks there ends at {ends}",
                list(&link.services)
            ));
        }
        if !link.locals.is_empty() {
            found.push(format!("{}, which the agent has too", list(&link.locals)));
        }
        if found.is_empty() {
            found.push("an interface that node-cache alone has a use for".to_owned());
        }
        if !link.others.is_empty() {
            found.push(format!(
                "{}, which is not known to be node-cache's, so that the interface stays",
                list(&link.others)
            ));
        }
        Difference {
            place: format!("interface {NODE_CACHE} (of node-cache)"),
            wanted: "nothing of node-cache's".to_owned(),
            found: format!("{}; {state}", found.join("; ")),
            remedy: remedy.to_owned(),
        }
    }

    /// What is left alone in any case: it is like node-cache's and no more, or cannot be read.
    #[must_use]
    pub fn unsure(&self) -> Vec<Difference> {
        let mut unsure = self.near();
        unsure.extend(self.unread());
        unsure
    }

    /// What may be node-cache's and cannot be read. It is no difference: a table of the older iptables
    /// stays when its last rule has gone.
    #[must_use]
    pub fn unread(&self) -> Vec<Difference> {
        self.legacy.iter().map(Legacy::difference).collect()
    }

    fn near(&self) -> Vec<Difference> {
        let near = self.rules.near.iter().map(|near| Difference {
            place: near.place.clone(),
            wanted: "no rule that is like node-cache's".to_owned(),
            found: format!("one that is left alone, as {}", near.why),
            remedy: "look at it; remove it by hand if nothing needs it".to_owned(),
        });
        let bare = self
            .link
            .as_ref()
            .filter(|link| link.is_any() && !self.is_told);
        near.chain(bare.map(|_| bare_link())).collect()
    }

    /// Every address that is node-cache's with the port it is asked at.
    fn asked(&self, port: u16) -> BTreeSet<(IpAddr, u16)> {
        // Those of the health port are no server of their own.
        let theirs = self.rules.theirs.iter();
        let tells = |found: &&Found| found.proto() == Proto::Udp;
        let mut asked: BTreeSet<_> = theirs
            .filter(tells)
            .map(|found| (found.address, found.port))
            .collect();
        let named = rules::addresses(self.rules.theirs.iter());
        let on_link = self.link.iter().flat_map(Leftover::addresses);
        asked.extend(named.into_iter().chain(on_link).map(|ip| (ip, port)));
        asked
    }

    fn remove_rules(&self) -> Result<Vec<String>, Error> {
        let mut removed = BTreeMap::<String, usize>::new();
        let mut batch = Batch::default();
        for found in &self.rules.theirs {
            let (family, path) = (found.family, &found.path);
            let step = format!(
                "delete rule {} of node-cache's in table {family} {}, chain {}",
                found.handle, path.table, path.name
            );
            let names = [path.table.as_str(), path.name.as_str()];
            batch.delete_rule(path.family, names, found.handle, step);
            let what = format!(
                "rules for {} in table {family} {}",
                found.address, path.table
            );
            *removed.entry(what).or_default() += 1;
        }
        if !batch.is_empty() {
            Connection::open()?.commit(&mut batch, "delete the rules of node-cache")?;
        }
        let words = removed.into_iter();
        Ok(words
            .map(|(what, count)| format!("{count} {what}"))
            .collect())
    }
}

impl Legacy {
    fn difference(&self) -> Difference {
        let Self { program, port, .. } = self;
        let list: Vec<_> = self.addresses.iter().map(IpAddr::to_string).collect();
        let (list, shown) = (list.join(" "), list.join(", "));
        Difference {
            place: format!("{program}, table raw"),
            wanted: format!("no NOTRACK of node-cache's for {shown}"),
            found:
                "rules that cannot be read here; should node-cache's be among them, they disable \
                    kube-proxy and the fallback for the cluster's DNS address"
                    .to_owned(),
            remedy: format!(
                "look at `{program}-save | grep 'NodeLocal DNS Cache: '`; when node-cache has gone, \
                 `{program}-save -c | grep -v 'NodeLocal DNS Cache: ' | {program}-restore -c -w` removes \
                 them (versions before 2023 give no comment: look for {list} with --dport {port})"
            ),
        }
    }
}

/// The older iptables has a machinery of its own; which of its tables are in use it tells.
fn legacy(plan: &Plan) -> Vec<Legacy> {
    let programs = [
        ("iptables-legacy", "ip_tables_names", false),
        ("ip6tables-legacy", "ip6_tables_names", true),
    ];
    let mut found = Vec::new();
    for (program, names, is_ipv6) in programs {
        let services = plan.captures.iter().map(|capture| capture.service);
        let mut addresses: Vec<IpAddr> = plan.addresses.iter().copied().chain(services).collect();
        addresses.retain(|ip| ip.is_ipv6() == is_ipv6);
        let tables = fs::read_to_string(format!("/proc/thread-self/net/{names}"));
        let has_raw = tables.is_ok_and(|tables| tables.lines().any(|one| one == "raw"));
        if has_raw && !addresses.is_empty() {
            found.push(Legacy {
                program,
                addresses,
                port: plan.port,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests;
