// SPDX-License-Identifier: Apache-2.0
//! Whether a firewall of the host drops what nodens steers. A table can accept only for itself: what
//! another table drops is dropped, and untracked packets have no connection, so that the rule
//! which lets nearly all in, `ct state established,related accept`, never lets these in.
//!
//! ```text
//!   base chains of others ──► a query, a reply of the plan, rule by rule ──► passes | dropped | unread
//! ```
//!
//! The packets are thought, not sent: of each we know family, our address, ports, protocol, that it is
//! untracked, and whether its interface is `lo`. What a rule asks beyond that (the client's address
//! or interface, marks, rates) is taken as it is best for us: only what is dropped for certain is
//! reported, so that no cluster is told of a problem that it does not have. Rules of iptables are
//! opaque where they hold a match of iptables' own; where the answer hangs on these, that is said,
//! as what it is.

mod judge;
pub(crate) mod kernel;
mod packet;
mod registers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use rustix::io::Errno;

use self::judge::{Judge, Verdict};
use self::kernel::{Chain, Kernel, Path};
use self::packet::Packet;
use crate::check::Difference;
use crate::conversation::{DUMPS, Refusal};
use crate::error::Error;
use crate::plan::{Plan, Proto};

/// The tables that nodens makes itself.
const OURS: [&str; 2] = ["nodens", "nodens-fallback"];

/// What the host's firewalls do with untracked DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Chains that drop it for certain, each with the rules that let it in.
    pub drops: Vec<Difference>,
    /// Chains that may drop it: their policy is drop, and whether a rule lets it in cannot be read.
    pub unread: Vec<Difference>,
}

/// Reads the base chains of others that packets to and from the plan's addresses pass, and what
/// these lead to.
///
/// # Errors
/// [`Error::NotPermitted`] without NET_ADMIN, [`Error::Refused`].
pub fn check(plan: &Plan) -> Result<Firewall, Error> {
    let mut kernel = match Kernel::open() {
        Ok(kernel) => kernel,
        // A kernel without nf_tables has no such chains.
        Err(answer) if is_absent(&answer) => return Ok(Firewall::default()),
        Err(answer) => return Err(refused(answer)),
    };
    let mut chains = match kernel.base_chains() {
        Ok(chains) => chains,
        Err(answer) if is_absent(&answer) => return Ok(Firewall::default()),
        Err(answer) => return Err(refused(answer)),
    };
    chains.retain(|chain| !OURS.contains(&chain.path.table.as_str()));
    let mut judge = Judge::new(&mut kernel);
    let mut firewall = Firewall::default();
    for chain in &chains {
        let mut dropped = BTreeMap::<String, Vec<Packet>>::new();
        let mut unread = Vec::new();
        for packet in packets(plan, chain) {
            match judge.pass(chain, &packet).map_err(refused)? {
                Verdict::Accepted => {}
                Verdict::Dropped(why) => dropped.entry(why).or_default().push(packet),
                Verdict::Unread => unread.push(packet),
            }
        }
        let drops = dropped.iter().map(|(why, packets)| Difference {
            place: place(chain),
            wanted: wanted(packets),
            found: format!("{why}; they are untracked, so `ct state established` is not for them"),
            remedy: rules(chain, packets),
        });
        firewall.drops.extend(drops);
        if !unread.is_empty() {
            firewall.unread.push(Difference {
                place: place(chain),
                wanted: wanted(&unread),
                found: "the end of the chain drops, and rules of iptables before it, which cannot \
                        be read here, may let them pass or not"
                    .to_owned(),
                remedy: format!(
                    "if clients get no answer, or to be sure: {}",
                    rules(chain, &unread)
                ),
            });
        }
    }
    firewall.unread.extend(legacy(plan));
    Ok(firewall)
}

/// The older iptables has a machinery of its own, which netlink does not show.
fn legacy(plan: &Plan) -> Vec<Difference> {
    let programs = [
        ("iptables-legacy", "ip_tables_names", false),
        ("ip6tables-legacy", "ip6_tables_names", true),
    ];
    let mut found = Vec::new();
    for (program, names, is_ipv6) in programs {
        let tables = fs::read_to_string(format!("/proc/thread-self/net/{names}"));
        let mut ours = plan.local_addresses();
        ours.retain(|ip| ip.is_ipv6() == is_ipv6);
        if ours.is_empty() || !tables.is_ok_and(|tables| tables.lines().any(|one| one == "filter"))
        {
            continue;
        }
        let ours: Vec<_> = ours.iter().map(IpAddr::to_string).collect();
        found.push(Difference {
            place: format!("{program}, table filter, chain INPUT"),
            wanted: format!("DNS to {}, which is untracked, to pass", ours.join(", ")),
            found: "rules that cannot be read here".to_owned(),
            remedy: format!(
                "look at `{program} -S INPUT`; should they drop it: `{program} -I INPUT -d ADDRESS \
                 -p PROTOCOL --dport {} -j ACCEPT` for udp and tcp",
                plan.port
            ),
        });
    }
    found
}

/// The packets of the plan that come by a chain.
fn packets(plan: &Plan, chain: &Chain) -> Vec<Packet> {
    let hook = chain.hook;
    // Steered by then: each Service address to the node-local one that answers for it.
    let steered = plan.local_addresses();
    // And renamed back.
    let services = plan.captures.iter().map(|capture| capture.service);
    let renamed: Vec<IpAddr> = plan.addresses.iter().copied().chain(services).collect();
    let mut packets = Vec::new();
    for is_from_here in [false, true] {
        // What a pod asks comes in, and what it is answered goes out. A client on the node sends and
        // gets both over `lo`: what it asks there comes in as from a pod.
        let is_reply = hook.is_inward() == is_from_here;
        let addresses = if is_reply { &renamed } else { &steered };
        for proto in [Proto::Udp, Proto::Tcp] {
            for &ours in addresses.iter().filter(|ours| chain.sees(ours)) {
                packets.push(Packet {
                    hook,
                    is_reply,
                    is_from_here,
                    proto,
                    ours,
                    port: plan.port,
                });
            }
        }
    }
    packets
}

fn place(chain: &Chain) -> String {
    let Chain { path, hook, .. } = chain;
    let Path { table, name, .. } = path;
    let family = chain.family_name();
    format!("table {family} {table}, chain {name} (hook {hook})")
}

fn wanted(packets: &[Packet]) -> String {
    let (mut lanes, mut protos) = (BTreeMap::<_, BTreeSet<_>>::new(), BTreeSet::new());
    for packet in packets {
        let lane = match (packet.is_reply, packet.is_from_here) {
            (false, false) => "queries to",
            (true, false) => "replies from",
            (false, true) => "queries of clients on the node itself to",
            (true, true) => "replies to clients on the node itself from",
        };
        lanes.entry(lane).or_default().insert(packet.ours);
        protos.insert(packet.proto_name());
    }
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|(lane, ips)| {
            let ips: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
            format!("{lane} {}", ips.join(", "))
        })
        .collect();
    let protos: Vec<_> = protos.into_iter().collect();
    let port = packets.first().map_or(0, |packet| packet.port);
    format!(
        "{}, port {port}, over {}, to pass",
        lanes.join(", and "),
        protos.join(" and ")
    )
}

/// The commands that let the packets in, one a family and protocol, and for each way they take.
fn rules(chain: &Chain, packets: &[Packet]) -> String {
    let mut groups = BTreeMap::<_, Vec<&Packet>>::new();
    for packet in packets {
        let group = (packet.is_from_here, packet.family(), packet.proto_name());
        groups.entry(group).or_default().push(packet);
    }
    let commands: Vec<String> = groups
        .into_values()
        .flat_map(|packets| {
            if chain.is_of_iptables() {
                for_iptables(chain, &packets)
            } else {
                vec![for_nft(chain, &packets)]
            }
        })
        .map(|command| format!("`{command}`"))
        .collect();
    format!(
        "add {}, and keep it where that firewall keeps its rules",
        commands.join(" and ")
    )
}

fn for_nft(chain: &Chain, packets: &[&Packet]) -> String {
    let first = packets[0];
    let ip = if first.ours.is_ipv6() { "ip6" } else { "ip" };
    let way = if first.is_reply { 's' } else { 'd' };
    let over = match (first.is_from_here, first.hook.is_inward()) {
        (false, _) => "",
        (true, true) => "iif lo ",
        (true, false) => "oif lo ",
    };
    let addresses: Vec<_> = packets.iter().map(|one| one.ours.to_string()).collect();
    let addresses = match &addresses[..] {
        [alone] => alone.clone(),
        all => format!("{{ {} }}", all.join(", ")),
    };
    let Path { table, name, .. } = &chain.path;
    let (family, proto, port) = (chain.family_name(), first.proto_name(), first.port);
    format!(
        "nft insert rule {family} {table} {name} {over}{ip} {way}addr {addresses} {proto} \
         {way}port {port} accept"
    )
}

/// It does not understand what it finds in its tables that it could not have written.
fn for_iptables(chain: &Chain, packets: &[&Packet]) -> Vec<String> {
    let command = |packet: &&Packet| {
        let program = if packet.ours.is_ipv6() {
            "ip6tables"
        } else {
            "iptables"
        };
        let (address, way) = if packet.is_reply {
            ("-s", 's')
        } else {
            ("-d", 'd')
        };
        let over = match (packet.is_from_here, packet.hook.is_inward()) {
            (false, _) => "",
            (true, true) => "-i lo ",
            (true, false) => "-o lo ",
        };
        let Path { table, name, .. } = &chain.path;
        let (ours, proto, port) = (packet.ours, packet.proto_name(), packet.port);
        format!(
            "{program} -t {table} -I {name} {over}{address} {ours} -p {proto} --{way}port {port} \
             -j ACCEPT"
        )
    };
    packets.iter().map(command).collect()
}

pub(crate) fn is_absent(answer: &Refusal) -> bool {
    // No netfilter netlink at all, or no nf_tables behind it.
    matches!(
        answer.errno,
        Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP
    )
}

fn refused(answer: Refusal) -> Error {
    let step = "read the rules of the host's firewall".to_owned();
    match answer.errno {
        Errno::INTR => Error::Busy { step, tries: DUMPS },
        errno => Error::refused(step, errno.into(), answer.reason),
    }
}
