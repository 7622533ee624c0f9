// SPDX-License-Identifier: Apache-2.0
//! The interface that holds the node-local addresses.
//!
//! ```text
//!   dummy  ── the kernel has none ──►  bridge without ports  ── nor that ──►  lo
//! ```
//!
//! What is ours carries a mark, so that a later nodens finds it and nothing else is ever removed:
//! the interface has the alias `nodens`, each address the protocol 110 (Linux 5.18), an IPv4
//! address on `lo` also the label `lo:nodens`.
//!
//! The addresses are for those who ask, never for the node's own way out: IPv4 addresses have scope
//! host, IPv6 addresses no preferred lifetime, so that the kernel chooses neither as the source of
//! a connection to somewhere else, not even on interfaces without an address (as Calico's are).

mod check;
mod kernel;
mod node_cache;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use rustix::io::Errno;

pub use self::check::check;
pub(crate) use self::kernel::{Address, DEL_ADDRESS, DEL_LINK, Interface};
pub use self::node_cache::NODE_CACHE;
pub(crate) use self::node_cache::{Leftover, clear_leftover, leftover};
use crate::conversation::{Conversation, Refusal};
use crate::error::Error;
use crate::plan::Plan;

/// The alias that says that an interface is ours (`IFLA_IFALIAS`).
pub const ALIAS: &str = "nodens";

/// The protocol that says that an address is ours (`IFA_PROTO`); below 4 they are the kernel's.
pub const PROTOCOL: u8 = 110;

/// The interface of last resort.
pub const LOOPBACK: &str = "lo";

/// What is tried before `lo`, in this order.
const KINDS: &[Kind] = &[Kind::Dummy, Kind::Bridge];

/// What the addresses are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An interface that goes nowhere.
    Dummy,
    /// A bridge without ports: the same, where the kernel has no dummy.
    Bridge,
    /// The loopback interface, where the kernel has neither.
    Loopback,
    /// The interface that node-cache made, where the plan names it: it is used as it is, and what
    /// else is on it stays.
    NodeCache,
}

impl Kind {
    /// As the kernel calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Bridge => "bridge",
            Self::Loopback => "loopback",
            Self::NodeCache => "node-cache's",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What [`apply`] found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// What the addresses are on.
    pub kind: Kind,
    /// The name of that interface: the plan's, or `lo`.
    pub interface: String,
    /// What was not there.
    pub made: Vec<Part>,
    /// What was there already, and was left as it is.
    pub adopted: Vec<Part>,
    /// Addresses of an earlier configuration that are gone from our interface.
    pub removed: Vec<IpAddr>,
}

impl Default for Links {
    /// Nothing done yet: `lo` is what there is in any case.
    fn default() -> Self {
        Self {
            kind: Kind::Loopback,
            interface: LOOPBACK.to_owned(),
            made: Vec::new(),
            adopted: Vec::new(),
            removed: Vec::new(),
        }
    }
}

/// A thing on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An interface, by its name.
    Interface(String),
    /// An address on it.
    Address(IpAddr),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Puts every address of the plan on the plan's interface, and makes that interface where it is
/// missing. What is there already stays untouched. On an interface of ours, addresses that the plan
/// does not name are removed; on `lo` and on node-cache's interface nothing is. What a failed call has
/// made is gone again.
///
/// # Errors
/// [`Error::NotPermitted`], [`Error::InterfaceTaken`], [`Error::NoIpv6`], [`Error::Refused`].
pub fn apply(plan: &Plan) -> Result<Links, Error> {
    apply_as(plan, KINDS)
}

/// As [`apply`], with the kinds to try in this order before `lo`.
fn apply_as(plan: &Plan, kinds: &[Kind]) -> Result<Links, Error> {
    let mut kernel = open()?;
    let mut links = Links::default();
    let index = place(&mut kernel, plan, kinds, &mut links)?;
    let done = furnish(&mut kernel, plan, index, &mut links)
        .and_then(|()| settle(&mut kernel, &links, kernel::SETTLES));
    if let Err(error) = done {
        take_back(&mut kernel, index, &links);
        return Err(error);
    }
    Ok(links)
}

/// What [`mend`] found and did.
#[derive(Debug)]
pub struct Mended {
    /// As after [`apply`], as far as it went.
    pub links: Links,
    /// What the kernel did not take, the first of it.
    pub refused: Option<Error>,
}

/// As [`apply`], for addresses that are in use: what succeeds stays, whatever else fails, and
/// routes are waited for 10 ms at most. A node whose IPv6 has been switched off gets its IPv4 addresses back.
///
/// # Errors
/// As [`apply`], where nothing could be done at all.
pub fn mend(plan: &Plan) -> Result<Mended, Error> {
    let mut kernel = open()?;
    let mut links = Links::default();
    let index = place(&mut kernel, plan, KINDS, &mut links)?;
    let refused = furnish(&mut kernel, plan, index, &mut links);
    let settled = settle(&mut kernel, &links, kernel::FEW_SETTLES);
    let refused = refused.and(settled).err();
    Ok(Mended { links, refused })
}

/// Removes what is ours: the plan's interface with all on it, and of the plan's addresses on `lo`, or on
/// node-cache's interface, those that carry our mark. It is no error when nothing is there.
///
/// # Errors
/// [`Error::InterfaceTaken`] where the interface is not ours, [`Error::InterfaceHasPorts`] where
/// others have plugged something into our bridge; the addresses on `lo` are gone even so.
/// [`Error::NotPermitted`], [`Error::Refused`].
pub fn revert(plan: &Plan) -> Result<(), Error> {
    let mut kernel = open()?;
    let addresses = clear(&mut kernel, plan, LOOPBACK);
    remove_interface(&mut kernel, plan).and(addresses)
}

/// The plan with the stand-ins that an agent has put on this node.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn as_found(plan: &Plan) -> Result<Plan, Error> {
    let mut kernel = open()?;
    let mut there = Vec::new();
    for name in [plan.interface.as_str(), LOOPBACK] {
        if let Some(found) = interface(&mut kernel, name)? {
            there.extend(addresses(&mut kernel, found.index, name)?);
        }
    }
    Ok(plan.as_found(|ip| there.iter().any(|there| there.ip == ip)))
}

/// The interface of this name, whoever made it.
pub(crate) fn find(name: &str) -> Result<Option<Interface>, Error> {
    interface(&mut open()?, name)
}

fn open() -> Result<Conversation, Error> {
    Conversation::about_links()
        .map_err(|answer| refused("open a socket for links and addresses", answer))
}

/// The index of the interface that the addresses go on; made where it is missing.
fn place(
    kernel: &mut Conversation,
    plan: &Plan,
    kinds: &[Kind],
    links: &mut Links,
) -> Result<u32, Error> {
    let name = &plan.interface;
    if let Some(found) = interface(kernel, name)? {
        links.kind = found.usable().ok_or_else(|| taken(&found))?;
        links.interface.clone_from(name);
        if !found.is_up {
            kernel::set_up(kernel, found.index)
                .map_err(|answer| refused(&format!("set {name} up"), answer))?;
        }
        links.adopted.push(Part::Interface(name.clone()));
        return Ok(found.index);
    }
    for &kind in kinds {
        match kernel::make(kernel, name, kind) {
            Ok(()) => {
                links.made.push(Part::Interface(name.clone()));
                links.kind = kind;
                links.interface.clone_from(name);
                return index_of(kernel, name);
            }
            Err(answer) if answer.errno == Errno::OPNOTSUPP => {}
            Err(answer) => {
                return Err(refused(&format!("make {name}, a {kind} interface"), answer));
            }
        }
    }
    index_of(kernel, LOOPBACK)
}

fn index_of(kernel: &mut Conversation, name: &str) -> Result<u32, Error> {
    let found = interface(kernel, name)?;
    let gone = || refused(&format!("look at {name}"), Errno::NODEV.into());
    found.map(|found| found.index).ok_or_else(gone)
}

/// Makes the addresses on the interface those of the plan.
fn furnish(
    kernel: &mut Conversation,
    plan: &Plan,
    index: u32,
    links: &mut Links,
) -> Result<(), Error> {
    let name = links.interface.clone();
    let present = addresses(kernel, index, &name)?;
    let wanted = wanted(plan);
    let is_good = |there: &Address| wanted.contains(&there.ip) && there.is_whole();
    // An address that cannot be used as it is, e.g. one that waits for duplicates to answer on an
    // interface that goes nowhere, is made anew. What is on `lo` may be anybody's.
    let is_ours_to_clear = |there: &Address| match links.kind {
        Kind::Dummy | Kind::Bridge => !there.is_link_local(),
        Kind::NodeCache => wanted.contains(&there.ip),
        Kind::Loopback => false,
    };
    let wrong: Vec<&Address> = present
        .iter()
        .filter(|there| is_ours_to_clear(there) && !is_good(there))
        .collect();
    let requests = wrong.iter().map(|there| kernel::removal(there)).collect();
    let mut failed = None;
    for (there, answer) in wrong.iter().zip(changed(kernel, requests)?) {
        match answer {
            // Whoever removed it in between did the same.
            Err(answer) if answer.errno != Errno::ADDRNOTAVAIL => {
                let step = format!("remove {} from {name}", there.ip);
                failed = failed.or_else(|| Some(refused(&step, answer)));
            }
            _ if !wanted.contains(&there.ip) => links.removed.push(there.ip),
            _ => {}
        }
    }
    let has = |ip: IpAddr| present.iter().any(|there| there.ip == ip && is_good(there));
    let (there, missing): (Vec<IpAddr>, Vec<IpAddr>) = wanted.iter().partition(|&&ip| has(ip));
    links.adopted.extend(there.into_iter().map(Part::Address));
    let requests = missing
        .iter()
        .map(|&ip| kernel::addition(ip, index, links.kind))
        .collect();
    for (&ip, answer) in missing.iter().zip(changed(kernel, requests)?) {
        match answer {
            Ok(()) => links.made.push(Part::Address(ip)),
            Err(answer) if answer.errno == Errno::EXIST => links.adopted.push(Part::Address(ip)),
            Err(answer) => failed = failed.or_else(|| Some(unaddressed(ip, links, answer))),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Waits until what was made is there for those who ask.
fn settle(kernel: &mut Conversation, links: &Links, looks: usize) -> Result<(), Error> {
    let made: Vec<IpAddr> = links
        .made
        .iter()
        .filter_map(|part| match part {
            Part::Address(ip) => Some(*ip),
            Part::Interface(_) => None,
        })
        .collect();
    let step = || format!("look at the routes to the addresses on {}", links.interface);
    kernel::settle(kernel, &made, looks).map_err(|answer| refused(&step(), answer))
}

/// Undoes what a call that failed has made. That the first error is told matters more than one of
/// these.
fn take_back(kernel: &mut Conversation, index: u32, links: &Links) {
    let mut requests = Vec::new();
    for part in &links.made {
        match part {
            Part::Interface(_) => {
                requests = vec![kernel::unlink(index)];
                break;
            }
            Part::Address(ip) => requests.push(kernel::removal(&Address::planned(*ip, index))),
        }
    }
    let _ = kernel.change(requests);
}

fn remove_interface(kernel: &mut Conversation, plan: &Plan) -> Result<(), Error> {
    let name = &plan.interface;
    let Some(found) = interface(kernel, name)?.filter(|_| name != LOOPBACK) else {
        return Ok(());
    };
    if found.usable().ok_or_else(|| taken(&found))? == Kind::NodeCache {
        return clear(kernel, plan, name);
    }
    let step = format!("remove {name}");
    let ports = kernel::ports(kernel, found.index).map_err(|answer| refused(&step, answer))?;
    if !ports.is_empty() {
        return Err(Error::InterfaceHasPorts {
            name: name.clone(),
            ports: ports.join(", "),
        });
    }
    match changed(kernel, vec![kernel::unlink(found.index)])?.pop() {
        Some(Err(answer)) if answer.errno != Errno::NODEV => Err(refused(&step, answer)),
        _ => Ok(()),
    }
}

/// Removes the plan's addresses that carry our mark from an interface that is not ours.
fn clear(kernel: &mut Conversation, plan: &Plan, name: &str) -> Result<(), Error> {
    let index = index_of(kernel, name)?;
    let wanted = wanted(plan);
    let ours: Vec<Address> = addresses(kernel, index, name)?
        .into_iter()
        .filter(|there| there.is_marked && wanted.contains(&there.ip))
        .collect();
    let requests = ours.iter().map(kernel::removal).collect();
    let mut failed = None;
    for (there, answer) in ours.iter().zip(changed(kernel, requests)?) {
        match answer {
            Err(answer) if answer.errno != Errno::ADDRNOTAVAIL => {
                let step = format!("remove {} from {name}", there.ip);
                failed = failed.or_else(|| Some(refused(&step, answer)));
            }
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The plan's addresses, each once, in the plan's order.
fn wanted(plan: &Plan) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let mut addresses = plan.interface_addresses();
    addresses.retain(|&ip| seen.insert(ip));
    addresses
}

fn interface(kernel: &mut Conversation, name: &str) -> Result<Option<Interface>, Error> {
    kernel::interface(kernel, name).map_err(|answer| refused(&format!("look at {name}"), answer))
}

fn addresses(kernel: &mut Conversation, index: u32, name: &str) -> Result<Vec<Address>, Error> {
    kernel::addresses(kernel, index)
        .map_err(|answer| refused(&format!("read the addresses of {name}"), answer))
}

fn changed(
    kernel: &mut Conversation,
    requests: Vec<kernel::Request>,
) -> Result<Vec<Result<(), Refusal>>, Error> {
    kernel
        .change(requests)
        .map_err(|answer| refused("change links and addresses", answer))
}

/// The error for an address that the kernel does not take.
fn unaddressed(ip: IpAddr, links: &Links, answer: Refusal) -> Error {
    let interface = &links.interface;
    let remedy = match answer.errno {
        Errno::ACCESS if ip.is_ipv6() => {
            // One that was made a moment ago is gone when the message is read.
            let is_new = links.made.contains(&Part::Interface(interface.clone()));
            let conf = if is_new { "default" } else { interface };
            format!("set net.ipv6.conf.{conf}.disable_ipv6=0")
        }
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT if ip.is_ipv6() => {
            "start the kernel without ipv6.disable=1".to_owned()
        }
        _ => return refused(&format!("put {ip} on {interface}"), answer),
    };
    Error::NoIpv6 {
        address: ip,
        interface: interface.clone(),
        remedy,
        source: answer.errno.into(),
    }
}

fn taken(found: &Interface) -> Error {
    Error::InterfaceTaken {
        name: found.name.clone(),
        kind: found.kind_in_words(),
    }
}

fn refused(step: &str, answer: Refusal) -> Error {
    Error::refused(step.to_owned(), answer.errno.into(), answer.reason)
}
