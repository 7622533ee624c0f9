// SPDX-License-Identifier: Apache-2.0
//! Where the node's links and addresses are not as planned, in words.

use std::net::IpAddr;

use super::kernel::{self, Address};
use super::{ALIAS, Kind, LOOPBACK, addresses, index_of, interface, open, refused, wanted};
use crate::check::Difference;
use crate::error::Error;
use crate::plan::Plan;

/// What helps against most of what is found.
const UP: &str = "`nodens netsetup up` puts it right; a running agent does so by itself";

/// Compares the node with the plan: the interface, its state, its addresses. Addresses that are all
/// on `lo`, for want of another interface, are as good.
///
/// # Errors
/// Where the kernel does not answer: [`Error::Refused`].
pub fn check(plan: &Plan) -> Result<Vec<Difference>, Error> {
    let mut kernel = open()?;
    let name = &plan.interface;
    let wanted = wanted(plan);
    let Some(found) = interface(&mut kernel, name)? else {
        let index = index_of(&mut kernel, LOOPBACK)?;
        let there = addresses(&mut kernel, index, LOOPBACK)?;
        let on_loopback = |ip: &IpAddr| there.iter().any(|there| there.ip == *ip);
        if wanted.iter().any(on_loopback) {
            return Ok(missing(&wanted, &there, LOOPBACK));
        }
        return Ok(vec![Difference {
            place: format!("interface {name}"),
            wanted: format!("there, with {}", list(&wanted)),
            found: "no such interface".to_owned(),
            remedy: UP.to_owned(),
        }]);
    };
    let Some(kind) = found.usable() else {
        return Ok(vec![Difference {
            place: format!("interface {name}"),
            wanted: format!("a {} interface with the alias \"{ALIAS}\"", Kind::Dummy),
            found: found.kind_in_words(),
            remedy: format!(
                "give the agent another name in `intercept.interface`, or, if nothing needs it, \
                 remove it: ip link delete {name}"
            ),
        }]);
    };
    let mut differences = Vec::new();
    if !found.is_up {
        differences.push(Difference {
            place: format!("interface {name}"),
            wanted: "up".to_owned(),
            found: "down".to_owned(),
            remedy: UP.to_owned(),
        });
    }
    let there = addresses(&mut kernel, found.index, name)?;
    differences.extend(missing(&wanted, &there, name));
    if matches!(kind, Kind::Loopback | Kind::NodeCache) {
        return Ok(differences);
    }
    let more = there.iter().filter(|there| !wanted.contains(&there.ip));
    for there in more.filter(|there| !there.is_link_local()) {
        differences.push(Difference {
            place: format!("address {} on {name}", there.ip),
            wanted: "no such address: the configuration does not name it".to_owned(),
            found: "there".to_owned(),
            remedy: UP.to_owned(),
        });
    }
    let ports = kernel::ports(&mut kernel, found.index)
        .map_err(|answer| refused(&format!("read the ports of {name}"), answer))?;
    if !ports.is_empty() {
        let first = &ports[0];
        differences.push(Difference {
            place: format!("interface {name}"),
            wanted: "no ports: it goes nowhere".to_owned(),
            found: format!("ports {}", ports.join(", ")),
            remedy: format!("ip link set {first} nomaster"),
        });
    }
    Ok(differences)
}

/// A difference for each address that is not there, or does not answer.
fn missing(wanted: &[IpAddr], there: &[Address], name: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    for &ip in wanted {
        let found = there.iter().filter(|there| there.ip == ip);
        let found = match found.map(Address::is_whole).max() {
            Some(true) => continue,
            Some(false) if name == LOOPBACK => continue,
            Some(false) => "there, but as a network, or still looked for duplicates",
            None => "no such address",
        };
        differences.push(Difference {
            place: format!("address {ip} on {name}"),
            wanted: "there".to_owned(),
            found: found.to_owned(),
            remedy: UP.to_owned(),
        });
    }
    differences
}

fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    words.join(", ")
}
