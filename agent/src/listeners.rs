// SPDX-License-Identifier: Apache-2.0
//! Listen addresses: from what is configured to bound sockets, UDP and TCP on the same port, and
//! to those who serve them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodens_netsetup::plan::Proto;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::beside;
use crate::config::{Listen, Located, Origin, Problem, host, limits};
use crate::lock::lock;
use crate::resolve::Resolver;
use crate::serve::{Desk, Group, Queue, give_way, keep_connections};
use crate::telemetry::asked::LastAsked;

/// Ports that are tried where the kernel chooses one and TCP has it already.
const PORT_TRIES: usize = 16;

/// A bound address.
#[derive(Debug)]
pub struct Bound {
    /// UDP: a socket a worker.
    pub group: Group,
    /// TCP.
    pub listener: TcpListener,
}

impl Bound {
    /// The address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.group.address
    }
}

/// Binds every address that `listen` means.
///
/// # Errors
/// All problems at once.
pub fn bind_all(listen: &Listen, workers: usize) -> Result<Vec<Bound>, Vec<Problem>> {
    let Expanded { addresses, .. } = expand(listen, &BTreeSet::new()).map_err(|error| {
        vec![Problem {
            origin: listen.port.origin.clone(),
            message: format!("the host's addresses cannot be read: {error}"),
            remedy: "list addresses instead of a wildcard".to_owned(),
        }]
    })?;
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    let is_named = |ip: IpAddr| listen.addresses.iter().any(|named| named.value == ip);
    for address in &addresses {
        match bind(address, &listen.port, workers) {
            Ok(one) => bound.push(one),
            // One of many that a wildcard stands for may not be ready yet (an IPv6 address while
            // others are asked about it): it is tried again.
            Err(problem) if !is_named(address.value) && problem.is_about_the_address => {
                tracing::warn!(problem = %problem.problem, "an address cannot be served yet");
            }
            Err(problem) => problems.push(problem.problem),
        }
    }
    if bound.is_empty() && problems.is_empty() {
        problems.push(Problem {
            origin: listen.port.origin.clone(),
            message: "the host has no address that listen.addresses stands for".to_owned(),
            remedy: "list an address that `ip address` shows".to_owned(),
        });
    }
    if problems.is_empty() {
        Ok(bound)
    } else {
        Err(problems)
    }
}

/// Sockets of each listen address, for those who ask what the kernel dropped.
pub type Sockets = Arc<Mutex<BTreeMap<SocketAddr, Vec<Arc<UdpSocket>>>>>;

/// When clients last asked at each listen address.
pub type Asked = Arc<Mutex<BTreeMap<SocketAddr, Arc<LastAsked>>>>;

/// The addresses that are served.
#[derive(Debug)]
pub struct Listeners {
    next: u32,
    numbers: BTreeMap<SocketAddr, u32>,
    sockets: Sockets,
    asked: Asked,
    desk: Desk,
    resolver: Arc<Resolver>,
}

impl Listeners {
    /// None yet; those that come are served by these workers and this resolver.
    #[must_use]
    pub fn new(desk: Desk, resolver: Arc<Resolver>) -> Self {
        Self {
            next: 0,
            numbers: BTreeMap::new(),
            sockets: Sockets::default(),
            asked: Asked::default(),
            desk,
            resolver,
        }
    }

    /// Has addresses served over UDP; gives back their TCP listeners, each with where its queries
    /// are noted.
    pub fn open(&mut self, bound: Vec<Bound>) -> Vec<(TcpListener, Arc<LastAsked>)> {
        let numbered: Vec<(u32, Bound)> = (self.next..).zip(bound).collect();
        let groups: Vec<(u32, &Group)> = numbered
            .iter()
            .map(|(number, bound)| (*number, &bound.group))
            .collect();
        self.desk.open(&groups);
        numbered
            .into_iter()
            .map(|(number, bound)| self.note(number, bound))
            .collect()
    }

    fn note(&mut self, number: u32, bound: Bound) -> (TcpListener, Arc<LastAsked>) {
        self.next = number + 1;
        let address = bound.address();
        if !bound.group.is_steered {
            tracing::warn!(
                %address,
                "the kernel does not steer queries by CPU; they are answered at a higher price"
            );
        }
        if let Some(socket) = bound.group.sockets.first() {
            self.resolver.open(number, Arc::clone(socket));
        }
        self.numbers.insert(address, number);
        let asked = bound.group.asked;
        lock(&self.asked).insert(address, Arc::clone(&asked));
        lock(&self.sockets).insert(address, bound.group.sockets);
        (bound.listener, asked)
    }

    /// Lets go of an address.
    pub fn close(&mut self, address: SocketAddr) {
        if let Some(number) = self.numbers.remove(&address) {
            self.desk.close(number);
            self.resolver.close(number);
            lock(&self.sockets).remove(&address);
            lock(&self.asked).remove(&address);
        }
    }

    /// Lets others who listen at the same addresses have what comes from now on: we are about to go.
    pub fn give_way(&self) {
        for members in lock(&self.sockets).values() {
            if let Some(first) = members.first() {
                // Older kernels cannot: then we get it until the end.
                let _ = give_way(first, members.len());
            }
        }
    }

    /// The addresses, with their ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.numbers.keys().copied().collect()
    }

    /// The sockets of each address, now and later.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        Arc::clone(&self.sockets)
    }

    /// When clients last asked at each address, now and later.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Arc::clone(&self.asked)
    }
}

/// Datagrams that the kernel dropped at our sockets so far, by listen address.
#[must_use]
pub fn drops(sockets: &Sockets) -> Vec<(String, u64)> {
    let sockets = lock(sockets);
    let of = |(address, members): (&SocketAddr, &Vec<Arc<UdpSocket>>)| {
        let queues = members
            .iter()
            .filter_map(|socket| Queue::of(socket.as_fd()).ok());
        let dropped = queues.map(|queue| u64::from(queue.dropped)).sum();
        (address.to_string(), dropped)
    };
    sockets.iter().map(of).collect()
}

/// How long ago clients asked at each listen address; none where nobody has yet. `now` is a reading
/// of [`Clock::now`](crate::telemetry::clock::Clock::now).
#[must_use]
pub fn seconds_ago(asked: &Asked, now: Duration) -> Vec<(SocketAddr, Option<u32>)> {
    let asked = lock(asked);
    let of = |(address, asked): (&SocketAddr, &Arc<LastAsked>)| (*address, asked.seconds_ago(now));
    asked.iter().map(of).collect()
}

/// Which workers, by their number, have something in a receive queue. Asked of poll(2) rather than
/// of the queue's size: it counts what a worker would get, and not datagrams with a wrong checksum.
#[must_use]
pub fn waiting(sockets: &Sockets, workers: usize) -> Vec<bool> {
    let mut waiting = vec![false; workers];
    for members in lock(sockets).values() {
        let mut fds: Vec<_> = members
            .iter()
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&now)).is_ok() {
            for (waits, fd) in waiting.iter_mut().zip(&fds) {
                *waits |= fd.revents().contains(PollFlags::IN);
            }
        }
    }
    waiting
}

/// Whether any of the addresses is a wildcard, which stands for those that the host has.
#[must_use]
pub fn has_wildcard(listen: &Listen) -> bool {
    listen
        .addresses
        .iter()
        .any(|address| address.value.is_unspecified())
}

/// What `listen` means on this host.
#[derive(Debug)]
pub struct Expanded {
    /// The addresses, each with the entry that it comes from.
    pub addresses: Vec<Located<IpAddr>>,
    /// How many more a wildcard stands for: above [`limits::MAX_HOST_ADDRESSES`] none is served.
    pub left_out: usize,
}

/// The addresses that `listen` means now: wildcards are those of the host of their family, but for
/// Services' and for IPv6 link-local ones, which need a zone. Where they are more than are served,
/// those that are `served` already stay.
///
/// # Errors
/// The host's addresses cannot be read.
pub fn expand(listen: &Listen, served: &BTreeSet<IpAddr>) -> io::Result<Expanded> {
    let host = if has_wildcard(listen) {
        host::addresses()?
    } else {
        Vec::new()
    };
    Ok(expand_on(listen, &host, served))
}

/// As [`expand`], on a host that has these.
fn expand_on(listen: &Listen, host: &[IpAddr], served: &BTreeSet<IpAddr>) -> Expanded {
    let is_named = |ip: &IpAddr| listen.addresses.iter().any(|entry| entry.value == *ip);
    let stands_for = |wildcard: IpAddr| {
        let of_family = host.iter().copied();
        of_family
            .filter(move |ip| ip.is_ipv4() == wildcard.is_ipv4())
            .filter(|ip| !listen.captured.contains(ip) && !is_named(ip))
    };
    let wildcards = listen.addresses.iter().map(|entry| entry.value);
    let wildcards: BTreeSet<_> = wildcards.filter(IpAddr::is_unspecified).collect();
    let mut meant: Vec<_> = wildcards.into_iter().flat_map(stands_for).collect();
    meant.sort_by_key(|ip| !served.contains(ip));
    let mut known = BTreeSet::new();
    meant.retain(|ip| known.insert(*ip));
    let left_out: BTreeSet<_> = meant.into_iter().skip(limits::MAX_HOST_ADDRESSES).collect();
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::new();
    for entry in &listen.addresses {
        let all: Vec<_> = match entry.value.is_unspecified() {
            true => stands_for(entry.value).collect(),
            false => vec![entry.value],
        };
        for value in all {
            if !left_out.contains(&value) && seen.insert(value) {
                let origin = entry.origin.clone();
                addresses.push(Located { value, origin });
            }
        }
    }
    Expanded {
        addresses,
        left_out: left_out.len(),
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong and what to do.
    pub problem: Problem,
    /// The host does not have the address, or not yet.
    pub is_about_the_address: bool,
}

/// Binds UDP and TCP at an address.
///
/// # Errors
/// Says in words what is wrong and what to do, with the place in the configuration.
pub fn bind(
    address: &Located<IpAddr>,
    port: &Located<u16>,
    workers: usize,
) -> Result<Bound, Refused> {
    let wanted = SocketAddr::new(address.value, port.value);
    let tries = if port.value == 0 { PORT_TRIES } else { 1 };
    let mut result = Err(io::Error::from(ErrorKind::AddrInUse));
    let mut proto = "UDP";
    for _ in 0..tries {
        proto = "UDP";
        let group = bind_udp(wanted, workers);
        let listener = group.as_ref().ok().map(|group| {
            proto = "TCP";
            listen_tcp(group.address)
        });
        result = match (group, listener) {
            (Ok(group), Some(Ok(listener))) => return Ok(Bound { group, listener }),
            (Err(error), _) | (_, Some(Err(error))) => Err(error),
            (Ok(_), None) => Err(io::Error::other("no listener")),
        };
    }
    match result {
        Ok(bound) => Ok(bound),
        Err(error) => Err(Refused {
            is_about_the_address: error.kind() == ErrorKind::AddrNotAvailable,
            problem: problem(&address.origin, wanted, proto, "listen.port", &error),
        }),
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = beside::listen_tcp(address)?;
    // Older kernels cannot: then a node-cache that comes later gets some of the connections.
    let _ = keep_connections(&listener);
    Ok(listener)
}

/// UDP sockets for the workers; beside somebody who has all addresses of the node where that can be.
fn bind_udp(address: SocketAddr, workers: usize) -> io::Result<Group> {
    match Group::bind(address, workers) {
        Err(error) if beside::is_held_as_one_of_all(address, Proto::Udp, &error) => {
            Group::bind_beside(address, workers)
        }
        done => done,
    }
}

/// What it means that an address cannot be listened on, and what to do.
#[must_use]
pub fn problem(
    origin: &Origin,
    at: SocketAddr,
    proto: &str,
    port_key: &str,
    error: &io::Error,
) -> Problem {
    let (found, remedy) = match error.kind() {
        ErrorKind::AddrInUse => (
            "another program, or another nodens, has this port".to_owned(),
            format!(
                "find it with `ss -lnp 'sport = :{}'` and stop it, or choose another {port_key}",
                at.port()
            ),
        ),
        ErrorKind::AddrNotAvailable => (
            "this host does not have the address".to_owned(),
            format!(
                "give it to an interface (`ip address add {} dev lo`), or list an address that \
                 `ip address` shows",
                at.ip()
            ),
        ),
        ErrorKind::PermissionDenied => (
            "this user may not bind a port below 1024".to_owned(),
            format!(
                "start as root or with the capability NET_BIND_SERVICE, or choose a {port_key} of \
                 1024 or more"
            ),
        ),
        _ => (error.to_string(), "see the system's error above".to_owned()),
    };
    Problem {
        origin: origin.clone(),
        message: format!("cannot listen on {at} over {proto}: {found}"),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn located<T>(value: T) -> Located<T> {
        Located {
            value,
            origin: Origin::Flag {
                flag: "--listen-addresses".to_owned(),
            },
        }
    }

    #[test]
    fn udp_and_tcp_have_the_same_port_and_a_second_agent_is_told_who_has_it() {
        let ip = located(IpAddr::from([127, 0, 0, 1]));
        let first = bind(&ip, &located(0), 2).unwrap();
        assert_eq!(first.listener.local_addr().unwrap(), first.address());
        let port = located(first.address().port());
        let second = bind(&ip, &port, 2).unwrap_err().problem.to_string();
        assert!(
            second.contains("--listen-addresses: cannot listen on 127.0.0.1:"),
            "{second}"
        );
        assert!(
            second.contains("another nodens") && second.contains("ss -lnp"),
            "{second}"
        );
        drop(first.group);
        let third = bind(&ip, &port, 2).unwrap_err().problem.to_string();
        assert!(third.contains("over TCP"), "{third}");
    }

    /// What these entries mean on a host that has `host`.
    fn meant(entries: &[&str], captured: &[&str], host: &[IpAddr]) -> (Vec<String>, usize) {
        meant_beside(entries, captured, host, &[])
    }

    /// The same where some are served already.
    fn meant_beside(
        entries: &[&str],
        captured: &[&str],
        host: &[IpAddr],
        served: &[IpAddr],
    ) -> (Vec<String>, usize) {
        let ip = |text: &&str| text.parse::<IpAddr>().unwrap();
        let listen = Listen {
            addresses: entries.iter().map(|text| located(ip(text))).collect(),
            captured: captured.iter().map(ip).collect(),
            port: located(53),
            udp_size: 1232,
            tcp_idle: Duration::from_secs(10),
            tcp_connections: 1,
            tcp_connections_per_client: 1,
        };
        let served = served.iter().copied().collect();
        let expanded = expand_on(&listen, host, &served);
        let addresses = expanded.addresses.iter();
        let addresses = addresses.map(|one| one.value.to_string()).collect();
        (addresses, expanded.left_out)
    }

    #[test]
    fn a_wildcard_stands_for_the_addresses_of_its_family_that_are_not_captured() {
        let host = ["127.0.0.1", "::1", "192.0.2.7", "10.96.0.10", "fd00::7"];
        let host = host.map(|text| text.parse().unwrap());
        let meant = |entries: &[&str]| meant(entries, &["10.96.0.10"], &host).0;
        assert_eq!(meant(&["0.0.0.0"]), ["127.0.0.1", "192.0.2.7"]);
        assert_eq!(meant(&["::"]), ["::1", "fd00::7"]);
        let named = ["0.0.0.0", "192.0.2.7", "169.254.20.10"];
        assert_eq!(meant(&named), ["127.0.0.1", "192.0.2.7", "169.254.20.10"]);
        // Captured, and by name all the same: that is checked elsewhere.
        assert_eq!(meant(&["10.96.0.10"]), ["10.96.0.10"]);
    }

    #[test]
    fn of_very_many_addresses_a_wildcard_stands_for_so_many_and_names_are_kept() {
        let host: Vec<IpAddr> = (0..300_u32)
            .map(|number| std::net::Ipv4Addr::from(0xc612_0000 + number).into())
            .collect();
        let (addresses, left_out) = meant(&["0.0.0.0", "::"], &[], &host);
        assert_eq!((addresses.len(), left_out), (256, 44));
        let last = host.last().unwrap().to_string();
        assert!(!addresses.contains(&last));
        let (addresses, left_out) = meant(&["0.0.0.0", &last], &[], &host);
        assert_eq!((addresses.len(), left_out), (257, 43));
        assert!(addresses.contains(&last));
        // What is served stays, whatever comes before it in the system's order.
        let served = &host[44..];
        let (addresses, left_out) = meant_beside(&["0.0.0.0"], &[], &host, served);
        assert_eq!((addresses.len(), left_out), (256, 44));
        assert!(served.iter().all(|ip| addresses.contains(&ip.to_string())));
    }

    #[test]
    fn who_has_something_waiting_is_known_by_worker() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let ip = located(IpAddr::from([127, 0, 0, 1]));
        let bound = bind(&ip, &located(0), cpus).unwrap();
        let address = bound.address();
        let sockets = Sockets::default();
        lock(&sockets).insert(address, bound.group.sockets);
        assert_eq!(waiting(&sockets, cpus), vec![false; cpus]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[1], address).unwrap();
        let having = waiting(&sockets, cpus).iter().filter(|has| **has).count();
        assert_eq!(having, 1);
    }

    #[test]
    fn an_address_of_another_host_is_named_with_the_remedy() {
        let ip = located(IpAddr::from([192, 0, 2, 1]));
        let refused = bind(&ip, &located(0), 1).unwrap_err().problem.to_string();
        assert!(refused.contains("does not have the address"), "{refused}");
        assert!(refused.contains("ip address add 192.0.2.1"), "{refused}");
    }
}
