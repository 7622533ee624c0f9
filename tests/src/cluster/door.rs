// SPDX-License-Identifier: Apache-2.0
//! The way into the cluster: connections to a port of 127.0.0.1 become connections to the API server
//! from inside its namespace, for nothing else leads there.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::Context;

use super::fabric;
use super::plan::Machine;
use crate::node::space::Door;

/// Connections at a time; more are for a kubectl that has gone mad.
const MOST: usize = 256;

/// Passes connections on, for ever.
///
/// # Errors
/// The port is taken, or there is no control plane.
pub fn keep(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("listen on 127.0.0.1:{port}"))?;
    let door = Arc::new(fabric::door(Machine::Control)?);
    loop {
        let (client, _) = listener.accept().context("accept a connection")?;
        if Arc::strong_count(&door) > MOST {
            continue;
        }
        let door = Arc::clone(&door);
        thread::Builder::new()
            .name("door".to_owned())
            .spawn(move || {
                // What went wrong is seen by the client, whose connection ends.
                let _ = pass(&client, &door, fabric::api());
            })?;
    }
}

fn pass(client: &TcpStream, door: &Door, server: SocketAddr) -> io::Result<()> {
    let server = door.within(|| TcpStream::connect(server))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        let back = scope.spawn(|| pump(&server, client));
        let forth = pump(client, &server);
        // It has no panic of its own.
        let back = back.join().unwrap_or(Ok(()));
        forth.and(back)
    })
}

/// Everything from one end to the other, then its end.
fn pump(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    // Where it is closed already there is nothing to tell.
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
    copied.map(|_| ())
}
