// SPDX-License-Identifier: Apache-2.0
//! The interface of node-cache (NodeLocal DNSCache): a dummy of this name, with the link-local address
//! and, where kube-proxy does not run in ipvs mode, the cluster's DNS address on it.

use std::net::IpAddr;

use rustix::io::Errno;

use super::{Address, Kind, addresses, changed, interface, kernel, open, refused};
use crate::error::Error;
use crate::plan::Plan;

/// The name that node-cache gives it (its flag `-interfacename`).
pub const NODE_CACHE: &str = "nodelocaldns";

/// What node-cache's interface has that only node-cache needs.
#[derive(Debug)]
pub(crate) struct Leftover {
    index: u32,
    /// Whether node-cache has made it: it makes dummies.
    is_whole: bool,
    /// Whether the plan's own addresses are on it as well.
    is_used: bool,
    /// The cluster's addresses on it.
    pub(crate) services: Vec<IpAddr>,
    /// Node-local addresses of the plan, where the plan has another interface for them.
    pub(crate) locals: Vec<IpAddr>,
    /// What else is on it, which nobody knows the reason of.
    pub(crate) others: Vec<IpAddr>,
    found: Vec<Address>,
}

impl Leftover {
    /// Whether the interface goes as a whole.
    pub(crate) fn goes(&self) -> bool {
        self.is_whole && !self.is_used && self.others.is_empty()
    }

    /// All addresses on it but the kernel's own.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.found.iter().map(|there| there.ip)
    }

    /// Whether there is anything to remove.
    pub(crate) fn is_any(&self) -> bool {
        self.goes() || !self.services.is_empty() || !self.locals.is_empty()
    }
}

/// What there is of node-cache's interface; `None` where there is none, or it is ours by now.
/// `named` are further addresses that are known to be node-cache's, `kind` is what it makes its
/// interface of.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn leftover(
    plan: &Plan,
    named: &[IpAddr],
    kind: Kind,
) -> Result<Option<Leftover>, Error> {
    let mut kernel = open()?;
    let Some(found) = interface(&mut kernel, NODE_CACHE)? else {
        return Ok(None);
    };
    if found.ours().is_some() {
        return Ok(None);
    }
    let is_used = plan.interface == NODE_CACHE;
    let there = addresses(&mut kernel, found.index, NODE_CACHE)?;
    let mut leftover = Leftover {
        index: found.index,
        is_whole: found.kind.as_deref() == Some(kind.name()),
        is_used,
        services: Vec::new(),
        locals: Vec::new(),
        others: Vec::new(),
        found: Vec::new(),
    };
    let wanted = plan.interface_addresses();
    let is_service = |ip: &IpAddr| plan.captures.iter().any(|one| one.service == *ip);
    for address in there.into_iter().filter(|one| !one.is_link_local()) {
        let ip = address.ip;
        let list = match ip {
            _ if !address.is_single() => &mut leftover.others,
            _ if is_service(&ip) => &mut leftover.services,
            _ if wanted.contains(&ip) && is_used => continue,
            _ if wanted.contains(&ip) => &mut leftover.locals,
            // Its link-local address may have been another.
            _ if named.contains(&ip) && plan.addresses.iter().all(|own| *own != ip) => {
                &mut leftover.services
            }
            _ => &mut leftover.others,
        };
        list.push(ip);
        leftover.found.push(address);
    }
    Ok(Some(leftover))
}

/// Removes it: the interface where node-cache has made it and nothing else is on it, else the
/// addresses on it that are node-cache's alone. An interface that the plan uses is ours from then on.
/// Says what was removed.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn clear_leftover(leftover: &Leftover) -> Result<Vec<String>, Error> {
    let mut kernel = open()?;
    let failed = |what: &str, answer| refused(&format!("remove {what}"), answer);
    if leftover.goes() {
        return match changed(&mut kernel, vec![kernel::unlink(leftover.index)])?.pop() {
            Some(Err(answer)) if answer.errno != Errno::NODEV => {
                Err(failed(&format!("interface {NODE_CACHE}"), answer))
            }
            _ => Ok(vec![format!("interface {NODE_CACHE}")]),
        };
    }
    let goes = |there: &&Address| {
        let lists = [&leftover.services, &leftover.locals];
        lists.iter().any(|list| list.contains(&there.ip)) && there.is_single()
    };
    let going: Vec<&Address> = leftover.found.iter().filter(goes).collect();
    let requests = going.iter().map(|there| kernel::removal(there)).collect();
    let mut removed = Vec::new();
    for (there, answer) in going.iter().zip(changed(&mut kernel, requests)?) {
        let what = format!("address {} on {NODE_CACHE}", there.ip);
        match answer {
            Err(answer) if !matches!(answer.errno, Errno::ADDRNOTAVAIL | Errno::NODEV) => {
                return Err(failed(&what, answer));
            }
            _ => removed.push(what),
        }
    }
    if leftover.is_used && leftover.is_whole && leftover.others.is_empty() {
        // That it was node-cache's is of no more use to anybody.
        let _ = changed(&mut kernel, vec![kernel::marking(leftover.index)])?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::netns::{run, within};
    use crate::plan::Settings;

    /// Bridges stand for dummies, which this kernel may not have.
    fn look(interface: &str) -> Option<Leftover> {
        let plan = Plan::new(&Settings {
            interface: interface.to_owned(),
            listen: vec![IpAddr::from([169, 254, 20, 10])],
            port: 53,
            services: vec![IpAddr::from([10, 96, 0, 10])],
            redirect_to: None,
            fallback: Vec::new(),
            tcp_idle: Duration::from_secs(10),
        });
        leftover(&plan.unwrap(), &[], Kind::Bridge).unwrap()
    }

    #[test]
    fn an_interface_that_node_cache_made_goes_whole() {
        within(|| {
            assert!(look("nodens0").is_none());
            run("ip link add nodelocaldns type bridge");
            run("ip address add 169.254.20.10/32 dev nodelocaldns");
            run("ip address add 10.96.0.10/32 dev nodelocaldns");
            let leftover = look("nodens0").unwrap();
            assert!(leftover.goes() && leftover.is_any());
            assert_eq!(
                clear_leftover(&leftover).unwrap(),
                ["interface nodelocaldns"]
            );
            assert!(look("nodens0").is_none());
            // Whoever was faster did the same.
            clear_leftover(&leftover).unwrap();
        });
    }

    #[test]
    fn one_that_the_plan_uses_becomes_ours_without_the_cluster_address() {
        within(|| {
            run("ip link add nodelocaldns type bridge");
            run("ip address add 169.254.20.10/32 dev nodelocaldns");
            run("ip address add 10.96.0.10/32 dev nodelocaldns");
            let leftover = look("nodelocaldns").unwrap();
            assert!(!leftover.goes() && leftover.is_any());
            let removed = clear_leftover(&leftover).unwrap();
            assert_eq!(removed, ["address 10.96.0.10 on nodelocaldns"]);
            assert!(look("nodelocaldns").is_none());
            assert!(run("ip address show").contains("169.254.20.10/32"));
            assert!(run("ip link show").contains("alias nodens"));
        });
    }
}
