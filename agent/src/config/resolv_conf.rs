// SPDX-License-Identifier: Apache-2.0
//! Files in the form of resolv.conf(5): the servers in them, and why one cannot be used.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use super::limits;
use super::source::{Unread, read_text};
use super::text;
use super::yaml::quote;

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The servers of its `nameserver` lines, each once, with the line from 1. Never empty.
    pub servers: Vec<(SocketAddr, usize)>,
    /// First words of its other lines, each once: `search`, `options`. They are for the resolvers of
    /// programs, which complete names and choose time-outs; a cache is asked for whole names.
    pub ignored: Vec<String>,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What was found, and what was expected.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// What to do where the servers in the file are the node's own.
pub const REMEDY: &str = "name the file with the real servers, \
     with systemd-resolved /run/systemd/resolve/resolv.conf";

fn unusable(message: impl Into<String>, remedy: impl Into<String>) -> Unusable {
    Unusable {
        message: message.into(),
        remedy: remedy.into(),
    }
}

/// Reads a file. Its servers have `port`.
///
/// # Errors
/// The file cannot be read, has no server or too many, or one that cannot be asked: a word that is
/// no address, a stub of this host (127.0.0.0/8, ::1).
pub fn read(path: &Path, port: u16) -> Result<Found, Unusable> {
    let explain = |reason: Unread| {
        let (message, remedy) = reason.explain("resolv.conf");
        unusable(message, remedy)
    };
    // To open a pipe would wait for whoever writes into it.
    if std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir()) {
        return Err(unusable(
            "found a device, a pipe or a socket, expected a resolv.conf",
            "name a regular file",
        ));
    }
    parse(
        &read_text(path, limits::MAX_RESOLV_CONF_BYTES).map_err(explain)?,
        port,
    )
}

fn parse(text: &str, port: u16) -> Result<Found, Unusable> {
    let mut found = Found {
        servers: Vec::new(),
        ignored: Vec::new(),
    };
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = server(words.next().unwrap_or_default(), number, port)?;
                if !found.servers.iter().any(|(known, _)| *known == server) {
                    found.servers.push((server, number));
                }
            }
            Some(word) if !word.starts_with(['#', ';']) => {
                let word: String = word.chars().take(16).collect();
                if !found.ignored.contains(&word) && found.ignored.len() < 8 {
                    found.ignored.push(word);
                }
            }
            _ => {}
        }
    }
    match found.servers.len() {
        0 => Err(unusable(
            "found no nameserver line, expected at least one",
            "name a file with nameserver lines, or write upstreams",
        )),
        number if number > limits::MAX_UPSTREAMS => Err(unusable(
            format!(
                "found {number} nameservers, expected at most {}",
                limits::MAX_UPSTREAMS
            ),
            "remove some",
        )),
        _ => Ok(found),
    }
}

fn server(word: &str, number: usize, port: u16) -> Result<SocketAddr, Unusable> {
    if let Some((address, zone)) = word.split_once('%')
        && let Ok(address) = address.parse::<Ipv6Addr>()
        && address.is_unicast_link_local()
    {
        let index = interface(zone).ok_or_else(|| {
            unusable(
                format!(
                    "found {} on its line {number}, expected an interface of this host behind the %",
                    quote(word)
                ),
                "correct the name of the interface, or remove the line",
            )
        })?;
        return Ok(SocketAddrV6::new(address, port, 0, index).into());
    }
    let server = text::server(word).map_err(|wrong| {
        unusable(
            format!(
                "found {} on its line {number}, expected {}",
                quote(word),
                wrong.expected
            ),
            if word.parse().is_ok_and(text::is_link_local_v6) {
                format!("add the interface behind it, e.g. {word}%eth0")
            } else {
                wrong.remedy
            },
        )
    })?;
    if server.is_loopback() {
        return Err(unusable(
            format!(
                "found the loopback address {server} on its line {number}, expected a server of the network"
            ),
            format!("it is a stub on this host: {REMEDY}"),
        ));
    }
    Ok(SocketAddr::new(server, port))
}

/// The index of an interface that is given by name or number (RFC 4007 section 11.2).
fn interface(zone: &str) -> Option<u32> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let is_it = |one: &&if_addrs::Interface| {
        one.name == zone || one.index.is_some_and(|index| index.to_string() == zone)
    };
    interfaces.iter().find(is_it)?.index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_taken_once_and_other_lines_are_named() {
        let many: String = (1..=15)
            .map(|n| format!("nameserver 192.0.2.{n}\n"))
            .collect();
        let found = parse(&format!("search a b\noptions ndots:5\n# x\n{many}"), 53).unwrap();
        assert_eq!(found.servers.len(), 15);
        assert_eq!(found.servers[0], ("192.0.2.1:53".parse().unwrap(), 4));
        assert_eq!(found.ignored, ["search", "options"]);
        let twice = parse("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", 53);
        assert_eq!(twice.unwrap().servers.len(), 1);
        let more = parse(&format!("{many}nameserver 192.0.2.16"), 53).unwrap_err();
        assert!(more.message.contains("found 16 nameservers"), "{more:?}");
    }

    #[test]
    fn a_link_local_server_needs_an_interface_of_this_host() {
        let found = parse("nameserver fe80::1%lo\n", 53).unwrap();
        let SocketAddr::V6(server) = found.servers[0].0 else {
            panic!("{found:?}");
        };
        assert_eq!(server.scope_id(), interface("lo").unwrap());
        let by_number = format!("nameserver fe80::1%{}\n", server.scope_id());
        assert_eq!(parse(&by_number, 53).unwrap(), found);
        let missing = parse("nameserver fe80::1%nowhere9\n", 53).unwrap_err();
        assert!(missing.message.contains("on its line 1"), "{missing:?}");
        let bare = parse("nameserver fe80::1\n", 53).unwrap_err();
        assert!(bare.remedy.contains("fe80::1%eth0"), "{bare:?}");
    }

    #[test]
    fn a_stub_of_this_host_is_refused_however_it_is_written() {
        for stub in [
            "127.0.0.1",
            "127.0.0.53",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            let refused = parse(&format!("nameserver 192.0.2.1\nnameserver {stub}\n"), 53);
            let refused = refused.unwrap_err();
            assert!(refused.message.contains("on its line 2"), "{refused:?}");
            assert!(refused.remedy.contains("/run/systemd/resolve/resolv.conf"));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        for path in ["/dev/zero", "/"] {
            read(Path::new(path), 53).unwrap_err();
        }
    }
}
