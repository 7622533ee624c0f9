// SPDX-License-Identifier: Apache-2.0
//! Why the kernel's network could not be made, read or taken back. Each message says the step, and
//! what to do; the kernel's own answer is the source.

use std::fmt;
use std::io;
use std::net::IpAddr;

/// One failure.
#[expect(
    clippy::error_impl_error,
    reason = "it is the one error of the crate: nodens_netsetup::Error"
)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other programs change the ruleset all the time, and a whole picture could not be had.
    #[error(
        "{step}: the ruleset changed during each of {tries} readings; another program writes it \
         without a pause. Try again"
    )]
    Busy {
        /// The step attempted.
        step: String,
        /// How often it was tried.
        tries: u32,
    },
    /// Others have plugged something into our bridge: removing it would cut them off.
    #[error(
        "remove {name}: it has ports that nodens did not give it ({ports}); it is left alone. Take \
         them out (ip link set PORT nomaster) and try again"
    )]
    InterfaceHasPorts {
        /// Its name.
        name: String,
        /// The names of the ports.
        ports: String,
    },
    /// An interface of the name that we want, which we did not make.
    #[error(
        "interface {name} exists and was not made by nodens ({kind}); it is left alone. Choose \
         another name for ours, or, if nothing needs it, remove it with `ip link delete {name}`"
    )]
    InterfaceTaken {
        /// Its name.
        name: String,
        /// What it is, in words.
        kind: String,
    },
    /// IPv6 is switched off where an IPv6 address is to be.
    #[error(
        "put {address} on {interface}: IPv6 is disabled: {remedy}, or leave IPv6 addresses out"
    )]
    NoIpv6 {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// What switches it on.
        remedy: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has no nf_tables.
    #[error(
        "{step}: this kernel has no nf_tables: load its module (modprobe nf_tables), or take a \
         kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET; or run without interception"
    )]
    NoNfTables {
        /// The step attempted.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has nf_tables, and not all of it that we need.
    #[error(
        "{step}: this kernel lacks a part of nf_tables: load the modules nft_ct, nft_masq and \
         nft_chain_nat, or take a kernel that has them (CONFIG_NFT_CT, CONFIG_NFT_MASQ, \
         CONFIG_NFT_NAT, CONFIG_NF_TABLES_INET); or run without interception"
    )]
    NoKernelPart {
        /// The step attempted.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No CAP_NET_ADMIN in the user namespace of the network namespace.
    #[error(
        "{step}: not permitted: run as root with the capability NET_ADMIN \
         (in Kubernetes: securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NotPermitted {
        /// The step attempted.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error(
        "{step}: the kernel refused{}; nothing of this step was done. Its log may say more (dmesg)",
        Extended(.extended)
    )]
    Refused {
        /// The step attempted.
        step: String,
        /// The kernel's own words, where it had any (extended acknowledgement).
        extended: Option<String>,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("{step}: the kernel's answer was not understood: {what}. This is a bug of nodens")]
    Reply {
        /// The step attempted.
        step: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A netlink socket could not be made or used.
    #[error("{step}: the netlink socket failed")]
    Socket {
        /// The step attempted.
        step: String,
        /// What it said.
        source: io::Error,
    },
    /// A table of our name that we did not make.
    #[error(
        "table inet {table} exists and was not made by nodens ({what}); it is left alone. Look at it \
         with `nft list table inet {table}`; if nothing needs it, remove it with \
         `nft delete table inet {table}`"
    )]
    TableForeign {
        /// Its name.
        table: &'static str,
        /// What is in it that nodens never makes.
        what: String,
    },
    /// A table of our name that a living process owns.
    #[error(
        "table inet {table} is owned by {} (netlink port {port_id}): another nodens is alive on this \
         node. End it first",
        Owner(.process)
    )]
    TableOwned {
        /// Its name.
        table: &'static str,
        /// The netlink port that owns it.
        port_id: u32,
        /// The process that has that port, where it can be seen.
        process: Option<String>,
    },
}

impl Error {
    /// What the kernel's answer to a step means.
    pub(crate) fn refused(step: String, source: io::Error, extended: Option<String>) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { step, source },
            _ => Self::Refused {
                step,
                extended,
                source,
            },
        }
    }
}

struct Extended<'a>(&'a Option<String>);

impl fmt::Display for Extended<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(formatter, " ({text})"),
            None => Ok(()),
        }
    }
}

struct Owner<'a>(&'a Option<String>);

impl fmt::Display for Owner<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(process) => formatter.write_str(process),
            None => formatter.write_str("a process that cannot be seen from here"),
        }
    }
}
