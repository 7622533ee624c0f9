// SPDX-License-Identifier: Apache-2.0
//! Where is listened: `bind` of all blocks and `-localip`. An address of the cluster's DNS is captured
//! and never put on the node; the rest is listened on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::context::Context;
use super::lexer::Token;
use super::plugins::{At, BlockRead};
use crate::config::host::OF_SERVICES;
use crate::config::text;
use crate::config::yaml::{Place, quote};

const WORD: &str = "bind";

/// The variable that Kubernetes sets for the cluster's DNS Service in its own namespace.
const DNS_SERVICE: &str = "KUBE_DNS_SERVICE_HOST";

/// Where Go listens for both families.
const EVERYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// What came of all of it.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// Addresses to listen on; wildcards stay wildcards, which the agent expands and follows.
    pub(super) listen: Vec<At<IpAddr>>,
    /// Addresses of the cluster's DNS.
    pub(super) captured: Vec<At<IpAddr>>,
}

impl Listening {
    /// Whether there is anything to steer, or to put on the node.
    pub(super) fn has_work(&self) -> bool {
        let mut listen = self.listen.iter();
        !self.captured.is_empty() || listen.any(|(address, _)| is_node_local(*address))
    }

    fn add(&mut self, context: &mut Context<'_>, address: IpAddr, place: Place) {
        let list = match is_of_cluster(context, address) {
            Some(true) => &mut self.captured,
            Some(false) => &mut self.listen,
            None => {
                let message = format!(
                    "it cannot be told whether {address} is the cluster's or this node's own: the addresses of \
                     this host cannot be listed"
                );
                let remedy = format!(
                    "set the variable {DNS_SERVICE} to it where it is the cluster's; else look why `ip address` \
                     fails here, and start again"
                );
                return context.problem(place, WORD, message, &remedy);
            }
        };
        if !list.iter().any(|(other, _)| *other == address) {
            list.push((address, place));
        }
    }
}

/// Reads what all blocks bind, which must be the same, and adds `-localip`.
pub(super) fn read(
    context: &mut Context<'_>,
    blocks: &[(BlockRead, Place)],
    local_ips: &[At<IpAddr>],
) -> Listening {
    let mut listening = Listening::default();
    let mut first: Option<(Vec<IpAddr>, Place)> = None;
    for (block, place) in blocks {
        let Some(addresses) = of_block(context, block, *place) else {
            continue;
        };
        let mut all: Vec<_> = addresses.iter().map(|(address, _)| *address).collect();
        all.sort();
        all.dedup();
        match &first {
            None => {
                for (address, place) in addresses {
                    listening.add(context, address, place);
                }
                first = Some((all, *place));
            }
            Some((wanted, other)) if *wanted != all => {
                let line = context.texts.line(*other);
                let show = |all: &[IpAddr]| {
                    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                    all.join(" ")
                };
                let place = block.binds.first().map_or(*place, |bind| bind.place);
                let found = match block.binds.as_slice() {
                    [] => "a block without bind, which listens on all addresses".to_owned(),
                    _ => format!("a block that binds {}", show(&all)),
                };
                let expected = format!(
                    "what the block on line {line} binds, {}: every block is served on all addresses",
                    show(wanted)
                );
                let remedy = "write the same bind in every block";
                context.wrong(place, WORD, &found, &expected, remedy);
            }
            Some(_) => {}
        }
    }
    let mut listen = listening.listen.iter();
    let is_wild = listen.any(|(address, _)| address.is_unspecified());
    for (address, place) in local_ips {
        let lists = listening.listen.iter().chain(&listening.captured);
        let is_known = lists.into_iter().any(|(other, _)| other == address);
        if is_wild {
            // Else nobody puts it on the node, and the wildcard takes it where it is there.
            if context.node_cache.sets_up {
                listening.add(context, *address, *place);
            }
        } else if !is_known {
            let message =
                format!("{address} is in no bind of the Corefile: nothing is answered there");
            let remedy = "add it to bind, or take it out of -localip";
            context.note(*place, "", "listen.addresses", message, remedy);
        }
    }
    if context.node_cache.sets_up {
        doubt(context, &listening);
    }
    listening
}

/// Says which addresses are put on the node that might be the cluster's: of IPv4 a range tells, of IPv6
/// the variable alone, and Kubernetes sets that to the Service's first address.
fn doubt(context: &mut Context<'_>, listening: &Listening) {
    let service = context.environment.get(DNS_SERVICE);
    let service = service.and_then(|service| service.trim().parse::<IpAddr>().ok());
    if service.is_some_and(|service| service.is_ipv6()) {
        return;
    }
    let doubtful = listening.listen.iter();
    let doubtful: Vec<_> = doubtful
        .filter(|(address, _)| address.is_ipv6() && is_node_local(*address))
        .collect();
    let Some((_, place)) = doubtful.first() else {
        return;
    };
    let all: Vec<_> = doubtful
        .iter()
        .map(|(address, _)| address.to_string())
        .collect();
    let found = match service {
        Some(service) => format!("{DNS_SERVICE} is {service}"),
        None => format!("{DNS_SERVICE} is not set"),
    };
    let message = format!(
        "{} is put on this node: {found}, so that nothing tells whether it is the cluster's DNS address, which must \
         never be there, for queries of the node would end at the agent, and without it nowhere",
        all.join(", ")
    );
    let remedy = format!(
        "where it is the cluster's set {DNS_SERVICE} to it in the pod's environment; where it is node-local \
         nothing need be done"
    );
    context.note(*place, WORD, "listen.addresses", message, remedy);
}

/// The addresses of one block.
fn of_block(context: &mut Context<'_>, block: &BlockRead, place: Place) -> Option<Vec<At<IpAddr>>> {
    if block.binds.is_empty() {
        return Some(EVERYWHERE.map(|address| (address, place)).to_vec());
    }
    let mut all = Vec::new();
    for bind in &block.binds {
        all.extend(addresses(context, bind)?);
    }
    for except in &block.bind_exceptions {
        let left_out = addresses(context, except)?;
        all.retain(|(address, _)| !left_out.iter().any(|(other, _)| other == address));
    }
    if all.is_empty() {
        let place = block.binds.first().map_or(place, |bind| bind.place);
        let remedy = "leave out less behind except";
        context.wrong(place, WORD, "no address", "one address at least", remedy);
        return None;
    }
    Some(all)
}

/// An address, or those of an interface.
fn addresses(context: &mut Context<'_>, bind: &Token) -> Option<Vec<At<IpAddr>>> {
    let text = bind.text.as_str();
    // A variable may hold several.
    let words: Vec<_> = text
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let mut all: Vec<IpAddr> = Vec::new();
    for word in words {
        if word == "::" || word == "0.0.0.0" {
            // Go listens at either for both families.
            all.extend(EVERYWHERE);
            continue;
        }
        if let Ok(address) = text::address(word) {
            all.push(address);
            continue;
        }
        let interfaces = context.interfaces.iter().flatten();
        let of_interface = interfaces.filter(|(name, _)| name == word);
        let before = all.len();
        all.extend(
            of_interface
                .map(|(_, address)| *address)
                .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())),
        );
        if all.len() == before {
            let Some(interfaces) = &context.interfaces else {
                let message =
                    format!("the addresses of this host cannot be listed, nor those of {word}");
                let remedy = "name addresses instead of interfaces";
                context.problem(bind.place, WORD, message, remedy);
                return None;
            };
            let names: Vec<_> = interfaces.iter().map(|(name, _)| name.clone()).collect();
            let near = crate::config::nearest::nearest(word, names.iter().map(String::as_str));
            let remedy = match near {
                Some(near) => format!("did you mean the interface {near}?"),
                None => "write it like 169.254.20.10".to_owned(),
            };
            let expected = "an address, or an interface of the node that has one";
            context.wrong(bind.place, WORD, &quote(word), expected, &remedy);
            return None;
        }
    }
    Some(
        all.into_iter()
            .map(|address| (address, bind.place))
            .collect(),
    )
}

/// Whether an address is the cluster's, and never the node's own; `None` where that cannot be told.
fn is_of_cluster(context: &Context<'_>, address: IpAddr) -> Option<bool> {
    let service = context.environment.get(DNS_SERVICE);
    if service.is_some_and(|service| service.trim().parse() == Ok(address)) {
        return Some(true);
    }
    let IpAddr::V4(v4) = address else {
        return Some(false);
    };
    if v4.is_unspecified() || v4.is_loopback() || v4.is_link_local() {
        return Some(false);
    }
    // The node's own address, as `bind {$MY_HOST_IP}` has it.
    let named = context.node_cache.interface.as_deref();
    let is_of_services = |name: &str| OF_SERVICES.contains(&name) || named == Some(name);
    let mut own = context.interfaces.as_ref()?.iter();
    Some(!own.any(|(name, own)| *own == address && !is_of_services(name)))
}

/// Whether the node's network would hold it on an interface of our own.
fn is_node_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}
