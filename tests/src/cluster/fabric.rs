// SPDX-License-Identifier: Apache-2.0
//! The network between the machines: a bridge outside, a leg to each, and routes to every node's
//! pods. All of it is in network namespaces that are made here; the machine's own is not touched.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};

use super::plan::{Machine, Options};
use crate::netns::run;
use crate::node::{Family, space::Door};

/// Makes the namespaces and connects them.
///
/// # Errors
/// What `ip` says; and where a namespace of such a name is there already.
pub(super) fn build(options: Options) -> anyhow::Result<()> {
    let outside = Machine::Outside.namespace();
    for machine in options.machines() {
        let name = machine.namespace();
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        tune(machine)?;
        let leg = match machine {
            Machine::Outside => {
                run(&format!("ip -n {name} link add fabric type bridge"))?;
                "fabric"
            }
            _ => {
                run(&format!(
                    "ip -n {name} link add eth0 type veth peer name {machine} netns {outside}"
                ))?;
                run(&format!(
                    "ip -n {outside} link set {machine} master fabric up"
                ))?;
                "eth0"
            }
        };
        for &family in options.families() {
            let (address, prefix) = (machine.address(family), Machine::prefix(family));
            run(&format!(
                "ip -n {name} address add {address}/{prefix} dev {leg}"
            ))?;
        }
        run(&format!("ip -n {name} link set {leg} up"))?;
        for &family in options.families() {
            if machine != Machine::Outside {
                let way = Machine::Outside.address(family);
                run(&format!("ip -n {name} route add default via {way}"))?;
            }
        }
    }
    for node in options.machines() {
        for machine in options.machines().filter(|&machine| machine != node) {
            for &family in options.families() {
                let Some(pods) = node.pods(family) else {
                    continue;
                };
                let (name, via) = (machine.namespace(), node.address(family));
                run(&format!("ip -n {name} route add {pods} via {via}"))?;
            }
        }
    }
    Ok(())
}

/// Kernel parameters of a namespace.
fn tune(machine: Machine) -> anyhow::Result<()> {
    let mut parameters = vec![
        // Addresses can be used at once: there is nobody to share them with.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
    ];
    match machine {
        // What only passes through is nobody's to translate.
        Machine::Outside => parameters.push(("bridge/bridge-nf-call-iptables", "0")),
        Machine::Control => {}
        Machine::Node(_) => parameters.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Else an answer from a pod on the bridge of who asked misses the Service's translation.
            ("bridge/bridge-nf-call-iptables", "1"),
            ("bridge/bridge-nf-call-ip6tables", "1"),
        ]),
    }
    within(machine, || {
        for (name, value) in parameters {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
        }
        Ok(())
    })
}

/// Lets a thread into a machine's network namespace.
///
/// # Errors
/// It is not there.
pub fn door(machine: Machine) -> anyhow::Result<Door> {
    Door::open(&machine.namespace_path())
}

/// Does `work` on a thread in a machine's network namespace.
///
/// # Errors
/// There is no such namespace, and what `work` gives.
pub fn within<T: Send>(
    machine: Machine,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    door(machine)?.within(work)
}

/// The names of namespaces of a cluster that are there.
///
/// # Errors
/// What `ip` says.
pub(super) fn namespaces() -> anyhow::Result<Vec<String>> {
    let output = Command::new("ip").args(["netns", "list"]).output()?;
    ensure!(output.status.success(), "`ip netns list` failed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let ours = names.filter(|name| {
        let machine = name.strip_prefix("nodens-").map(Machine::parse);
        matches!(machine, Some(Ok(_)))
    });
    Ok(ours.map(str::to_owned).collect())
}

/// The address of the control plane's API server.
#[must_use]
pub fn api() -> std::net::SocketAddr {
    (
        Machine::Control.address(Family::V4),
        super::components::API_PORT,
    )
        .into()
}
