// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with the settings, each with its remedy.

use std::net::{IpAddr, Ipv6Addr};

use super::{Family, MOST_ADDRESSES};

/// One reason why there can be no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An address stands twice in one list.
    #[error("{address} stands twice among {of}: name it once")]
    Duplicate {
        /// The list.
        of: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// A fallback, and nothing of its family to answer for.
    #[error(
        "the fallback address {0} has no node-local listen address of its family to answer for: \
         add one to the listen addresses (169.254.0.0/16 or fc00::/7), or take the fallback out"
    )]
    FallbackAlone(IpAddr),
    /// The fallback's answers do not tell which address was asked.
    #[error(
        "the fallback address {address} can answer for one node-local listen address of its family, \
         and there are {number}: take the others out, or the fallback"
    )]
    FallbackForMany {
        /// The fallback address.
        address: IpAddr,
        /// Node-local listen addresses of its family.
        number: usize,
    },
    /// The fallback would send queries back to the agent.
    #[error(
        "the fallback address {0} is a listen address: it must be that of another Service of \
         CoreDNS, made for this purpose"
    )]
    FallbackIsListen(IpAddr),
    /// The fallback would rename answers of the Service itself.
    #[error(
        "the fallback address {0} is a Service address that pods ask: it must be that of another \
         Service of CoreDNS, made for this purpose"
    )]
    FallbackIsService(IpAddr),
    /// No name for an interface.
    #[error(
        "`{0}` cannot be the name of an interface: take 1 to 15 letters without space, `/` and `:`"
    )]
    InterfaceName(String),
    /// fe80:: needs an interface with every use and cannot be a resolver's address.
    #[error(
        "{0} cannot be a listen address, because fe80::/10 is not routed: take one of fc00::/7"
    )]
    LinkLocal6(Ipv6Addr),
    /// The addresses behind the last listen address are not free, or none are left.
    #[error(
        "no node-local address is free behind {last} to steer the Service {service} to: name one in \
         the redirect addresses"
    )]
    NoFreeAddress {
        /// The Service address.
        service: IpAddr,
        /// The last node-local listen address of its family.
        last: IpAddr,
    },
    /// A Service of a family in which nothing node-local is listened on.
    #[error(
        "the Service address {0} has no node-local listen address of its family: add one to the \
         listen addresses (169.254.0.0/16 or fc00::/7), or name where to steer it in the redirect \
         addresses"
    )]
    NoListenAddress(IpAddr),
    /// The agent has nowhere to ask itself from.
    #[error(
        "no node-local address is free behind {0} for the agent's questions to itself: listen on a \
         lower address of the range"
    )]
    NoProbeAddress(IpAddr),
    /// Port 0.
    #[error("0 is no port that clients can ask: take 53")]
    NoPort,
    /// An address that no Service can have.
    #[error("{address} among {of} cannot be the address of a Service: take its cluster IP")]
    NoServiceAddress {
        /// The list.
        of: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// Answers could not be told apart.
    #[error(
        "the redirect address {0} is a listen address: answers to its own clients would be renamed. \
         Take another of the range"
    )]
    RedirectIsListen(IpAddr),
    /// A Service address on the node black-holes it when the agent is gone.
    #[error(
        "the redirect address {0} is the address of a Service: take one of 169.254.0.0/16 or \
         fc00::/7 that nothing else has"
    )]
    RedirectIsService(IpAddr),
    /// An address that is not ours to take.
    #[error("the redirect address {0} is not node-local: take one of 169.254.0.0/16 or fc00::/7")]
    RedirectNotNodeLocal(IpAddr),
    /// A node-local address with another meaning.
    #[error("{address} cannot be taken, because {why}: take another of the range")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// Who has it.
        why: &'static str,
    },
    /// More than one fallback of a family.
    #[error("the fallback address {0} is the second of its family: name one a family")]
    SecondFallback(IpAddr),
    /// A Service address on the node black-holes it when the agent is gone.
    #[error(
        "the Service address {0} is also a listen address: listen on a node-local one \
         (169.254.0.0/16 or fc00::/7), to which the Service is steered"
    )]
    ServiceIsListen(IpAddr),
    /// Rules for so many addresses would slow down every packet.
    #[error(
        "{number} {family} addresses for clients, and {MOST_ADDRESSES} are the most: every packet of \
         the node passes the rules of each. Take some out"
    )]
    TooMany {
        /// The family.
        family: Family,
        /// How many there are.
        number: usize,
    },
    /// Not one redirect address for each Service.
    #[error(
        "{services} {family} Service addresses and {locals} redirect addresses: name one redirect \
         address for each Service address, or leave them all out"
    )]
    Unpaired {
        /// The family.
        family: Family,
        /// Service addresses of it.
        services: usize,
        /// Redirect addresses of it.
        locals: usize,
    },
}
