// SPDX-License-Identifier: Apache-2.0
//! Who listens at a port in this network namespace (sock_diag(7), linux/inet_diag.h). Of connections
//! nothing is read: a node has many of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;

use crate::conversation::{Conversation, Message, Question, Refusal};
use crate::error::Error;
use crate::owner::{self, Process};
use crate::plan::{Plan, Proto};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;

/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];

/// States as bits: a TCP socket that listens (`TCP_LISTEN`), a UDP socket that is not connected
/// (`TCP_CLOSE`).
const LISTENS: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;

/// The name of an agent's process (`/proc/PID/comm`).
const AGENT: &str = "nodens";

/// A socket that takes what comes to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Where: one address, or the wildcard of a family.
    pub address: SocketAddr,
    /// Over what.
    pub proto: Proto,
    inode: u64,
}

impl Holder {
    /// Whether it is bound to this address and no other.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.address.ip() == ip
    }

    /// Whether it gets what comes to this address, where no other socket is bound to it more closely.
    #[must_use]
    pub fn gets(&self, ip: IpAddr) -> bool {
        let is_wide = match self.address.ip() {
            IpAddr::V4(any) => any.is_unspecified() && ip.is_ipv4(),
            // It may take IPv4 as well.
            IpAddr::V6(any) => any.is_unspecified(),
        };
        is_wide || self.has(ip)
    }

    /// Whose it is, where that can be seen from here.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        owner::process_with(self.inode, std::process::id())
    }

    /// Whether it is this process', or that of another agent that can be seen from here.
    #[must_use]
    pub fn is_of_an_agent(&self) -> bool {
        let process = self.process();
        process.is_some_and(|one| one.pid == std::process::id() || one.name == AGENT)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process() {
            Some(process) => write!(
                formatter,
                "{} (process {}) at {}",
                process.name, process.pid, self.address
            ),
            None => write!(
                formatter,
                "a process that cannot be seen from here at {}",
                self.address
            ),
        }
    }
}

/// The plan with stand-ins for those listen addresses that another program holds. Another agent is no
/// such program: two cannot be.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn beside_others(plan: &Plan) -> Result<Plan, Error> {
    let holders = at(plan.port)?;
    Ok(plan.standing_in(|ip| {
        let mut of_it = holders.iter().filter(|holder| holder.has(ip));
        of_it.any(|holder| !holder.is_of_an_agent())
    }))
}

/// Everybody who listens at this port, over UDP and TCP.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn at(port: u16) -> Result<Vec<Holder>, Error> {
    let refused = |answer: Refusal| {
        let step = format!("look who listens at port {port}");
        Error::refused(step, answer.errno.into(), answer.reason)
    };
    let mut kernel = Conversation::about_sockets().map_err(refused)?;
    let mut holders = Vec::new();
    for family in FAMILIES {
        for (proto, states) in [(Proto::Udp, UNCONNECTED), (Proto::Tcp, LISTENS)] {
            let question = question(family, proto, states, port);
            let found = kernel.all(&question, |message| read(message, proto));
            match found {
                Ok(found) => holders.extend(found),
                // A kernel without IPv6.
                Err(answer) if answer.errno == Errno::NOENT => {}
                Err(answer) => return Err(refused(answer)),
            }
        }
    }
    // A kernel that knows no such filter gives all of them.
    holders.retain(|holder| holder.address.port() == port);
    Ok(holders)
}

/// `struct inet_diag_req_v2`.
fn question(family: u8, proto: Proto, states: u32, port: u16) -> Question {
    let mut body = vec![family, proto.number(), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(port.to_be_bytes());
    // The other port, both addresses, the interface.
    body.resize(body.len() + 2 + 16 + 16 + 4, 0);
    // `INET_DIAG_NOCOOKIE`, twice.
    body.extend([u8::MAX; 8]);
    Question {
        kind: BY_FAMILY,
        body,
    }
}

/// `struct inet_diag_msg`: the port and the address begin at 4 and 8, the inode at 68.
fn read(message: &Message<'_>, proto: Proto) -> Option<Holder> {
    let body = message.body;
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let ip: IpAddr = match *body.first()? {
        2 => Ipv4Addr::from(*body.get(8..)?.first_chunk::<4>()?).into(),
        10 => Ipv6Addr::from(*body.get(8..)?.first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    Some(Holder {
        address: SocketAddr::new(ip, port),
        proto,
        inode: message.number(68)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::netns::{run, within};

    #[test]
    fn everybody_who_listens_is_seen_and_no_connection() {
        within(|| {
            run("ip -6 address add fd00:20::10/128 dev lo nodad");
            assert_eq!(at(53).unwrap(), []);
            let _udp = UdpSocket::bind("127.0.0.1:53").unwrap();
            let tcp = TcpListener::bind("[fd00:20::10]:53").unwrap();
            let _other = UdpSocket::bind("0.0.0.0:54").unwrap();
            // The kernel sets up the route to a new address in its own time.
            let _client = (0..500)
                .find_map(|_| {
                    std::thread::park_timeout(std::time::Duration::from_millis(10));
                    TcpStream::connect(tcp.local_addr().unwrap()).ok()
                })
                .unwrap();
            let (_taken, _) = tcp.accept().unwrap();
            let holders = at(53).unwrap();
            let seen: Vec<_> = holders
                .iter()
                .map(|one| (one.address.to_string(), one.proto))
                .collect();
            let wanted = [
                ("127.0.0.1:53".to_owned(), Proto::Udp),
                ("[fd00:20::10]:53".to_owned(), Proto::Tcp),
            ];
            assert_eq!(seen, wanted);
            for holder in &holders {
                assert_eq!(holder.process().unwrap().pid, std::process::id());
                assert!(holder.is_of_an_agent());
            }
            let wide = &at(54).unwrap()[0];
            assert!(wide.gets(IpAddr::from([10, 96, 0, 10])));
            assert!(!wide.has(IpAddr::from([10, 96, 0, 10])));
        });
    }
}
