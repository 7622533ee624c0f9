// SPDX-License-Identifier: Apache-2.0
//! Ports that node-cache binds too: for a while both are on the node, and neither may keep the other
//! from starting.
//!
//! node-cache binds with SO_REUSEPORT, often all addresses of the node. The kernel lets two such
//! sockets of one user be, and hands what comes to an address to the one that is bound to it more
//! closely. So ours have the option too, for a node-cache that comes later; but we never share an
//! address that somebody else has as such: who asks would get the one or the other.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use nodens_netsetup::plan::Proto;
use nodens_netsetup::sockets;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// Whether an address that was refused is somebody's only as one of all addresses of the node.
#[must_use]
pub fn is_held_as_one_of_all(address: SocketAddr, proto: Proto, error: &io::Error) -> bool {
    let is_it = |one: &sockets::Holder| one.proto == proto;
    let holders = || sockets::at(address.port()).unwrap_or_default();
    error.kind() == ErrorKind::AddrInUse && address.port() != 0 && {
        let holders: Vec<_> = holders().into_iter().filter(is_it).collect();
        !holders.is_empty() && !holders.iter().any(|one| one.has(address.ip()))
    }
}

/// Listens over TCP.
///
/// # Errors
/// The system's; `AddrInUse` where anybody has this address.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    // Without SO_REUSEPORT the kernel refuses an address that anybody has.
    let alone = socket(address)?;
    let address = match alone.bind(&address.into()) {
        Ok(()) => alone.local_addr()?.as_socket().unwrap_or(address),
        Err(error) if is_held_as_one_of_all(address, Proto::Tcp, &error) => address,
        Err(error) => return Err(error),
    };
    drop(alone);
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an agent before us may still be in TIME_WAIT; a listener is refused anyway.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_somebody_has_as_such_is_not_shared() {
        let first = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let second = listen_tcp(address).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        // Not with a socket that would share it either.
        let other = socket(address).unwrap();
        other.set_reuse_port(true).unwrap();
        drop(first);
        other.bind(&address.into()).unwrap();
        other.listen(1).unwrap();
        let third = listen_tcp(address).unwrap_err();
        assert_eq!(third.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn beside_one_who_has_all_addresses_and_shares_them_ours_gets_what_comes_to_it() {
        let wide = socket("0.0.0.0:0".parse().unwrap()).unwrap();
        wide.set_reuse_port(true).unwrap();
        wide.bind(&"0.0.0.0:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        wide.listen(9).unwrap();
        let port = wide.local_addr().unwrap().as_socket().unwrap().port();
        let ours = listen_tcp(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        for _ in 0..20 {
            let _client = std::net::TcpStream::connect(ours.local_addr().unwrap()).unwrap();
            ours.accept().unwrap();
        }
        // And the other way round: one who comes later for all addresses is not kept away.
        let alone = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = alone.local_addr().unwrap().port();
        let later = socket(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
        later.set_reuse_port(true).unwrap();
        later
            .bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())
            .unwrap();
        later.listen(9).unwrap();
        // Who does not share is refused.
        let wide = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = wide.local_addr().unwrap().port();
        let refused = listen_tcp(SocketAddr::from(([127, 0, 0, 1], port))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    }
}
