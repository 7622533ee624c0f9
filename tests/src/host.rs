// SPDX-License-Identifier: Apache-2.0
//! A DNS server's sockets: UDP and TCP on one port of the loopback interface, threads behind
//! them, and the ways a server goes away and comes back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;
use socket2::{Domain, SockRef, Socket, Type};

use crate::process::free_port;

/// What is done with queries.
pub trait Service: Send + Sync + 'static {
    /// One datagram. Runs on the only UDP thread: what waits belongs on a thread of its own.
    fn datagram(&self, query: &[u8], from: SocketAddr, door: &Arc<Door>);

    /// One TCP connection, on a thread of its own; the connection is closed at the return.
    fn connection(&self, stream: Arc<TcpStream>, number: u64, door: &Arc<Door>);
}

/// What a service sees of its host.
#[derive(Debug)]
pub struct Door {
    /// The UDP socket to answer from.
    pub udp: UdpSocket,
    /// TCP connections accepted so far.
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
    closing: Mutex<bool>,
    changed: Condvar,
}

impl Door {
    /// Waits, but not beyond the end of the host. Says whether the host still stands.
    pub fn wait(&self, time: Duration) -> bool {
        let closing = lock(&self.closing);
        let waited = self
            .changed
            .wait_timeout_while(closing, time, |closing| !*closing);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// TCP connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// TCP connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        lock(&self.open).len()
    }
}

/// The sockets and threads of a server. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Host {
    addr: SocketAddr,
    door: Arc<Door>,
    spawn_accept: AcceptSpawner,
    accepting: Option<Thread>,
    answering: Option<Thread>,
    /// Keeps the TCP port while connections are refused: bound, but not listening.
    placeholder: Option<Socket>,
}

struct AcceptSpawner(Box<dyn Fn(TcpListener) -> io::Result<Thread> + Send + Sync>);

impl std::fmt::Debug for AcceptSpawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AcceptSpawner")
    }
}

/// A thread that ends when its wake is written to or dropped.
#[derive(Debug)]
struct Thread {
    wake: UnixStream,
    handle: JoinHandle<()>,
}

impl Thread {
    fn end(self) {
        drop(self.wake);
        // A panic of the service has been printed already; the host's end is no place for another.
        let _ = self.handle.join();
    }
}

impl Host {
    /// Serves on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free for both UDP and TCP, or a thread cannot start.
    pub fn start(service: impl Service) -> anyhow::Result<Self> {
        Self::start_on(service, bind_pair(IpAddr::V4(Ipv4Addr::LOCALHOST))?)
    }

    /// Serves at this address.
    ///
    /// # Errors
    /// When it is not ours or is taken, or a thread cannot start.
    pub fn start_at(service: impl Service, addr: SocketAddr) -> anyhow::Result<Self> {
        let sockets = UdpSocket::bind(addr).and_then(|udp| Ok((udp, TcpListener::bind(addr)?)));
        Self::start_on(service, sockets.with_context(|| format!("bind {addr}"))?)
    }

    fn start_on(
        service: impl Service,
        (udp, tcp): (UdpSocket, TcpListener),
    ) -> anyhow::Result<Self> {
        let service = Arc::new(service);
        let addr = udp.local_addr()?;
        let door = Arc::new(Door {
            udp,
            accepted: AtomicU64::new(0),
            open: Mutex::default(),
            closing: Mutex::new(false),
            changed: Condvar::new(),
        });
        let answering = spawn("lab-udp", {
            let (service, door) = (Arc::clone(&service), Arc::clone(&door));
            move |wake| answer_datagrams(&*service, &door, &wake)
        })?;
        let spawn_accept = AcceptSpawner(Box::new({
            let door = Arc::clone(&door);
            move |listener| {
                let (service, door) = (Arc::clone(&service), Arc::clone(&door));
                spawn("lab-accept", move |wake| {
                    accept_connections(&service, &door, &listener, &wake);
                })
            }
        }));
        let accepting = spawn_accept.0(tcp)?;
        Ok(Self {
            addr,
            door,
            spawn_accept,
            accepting: Some(accepting),
            answering: Some(answering),
            placeholder: None,
        })
    }

    /// Where UDP and TCP are served.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the service sees of its host.
    #[must_use]
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Goes away as a killed pod does: open connections are reset, new ones refused, datagrams
    /// met by ICMP port unreachable. The port stays ours. Without effect when refusing already.
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse(&mut self) -> io::Result<()> {
        if self.accepting.is_some() {
            // A socket connected elsewhere takes no datagrams from anyone here.
            self.door.udp.connect((self.addr.ip(), 9))?;
        }
        self.refuse_tcp()
    }

    /// Refuses TCP alone: open connections are reset, new ones refused.
    ///
    /// # Errors
    /// What the sockets report.
    pub fn refuse_tcp(&mut self) -> io::Result<()> {
        if let Some(accepting) = self.accepting.take() {
            accepting.end();
            let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&self.addr.into())?;
            self.placeholder = Some(socket);
            self.reset_connections();
        }
        Ok(())
    }

    /// Comes back after [`Self::refuse`], on the same port.
    ///
    /// # Errors
    /// What the sockets report.
    pub fn resume(&mut self) -> io::Result<()> {
        if let Some(socket) = self.placeholder.take() {
            rustix::net::connect_unspec(self.door.udp.as_fd())?;
            socket.listen(1024)?;
            self.accepting = Some((self.spawn_accept.0)(socket.into())?);
        }
        Ok(())
    }

    /// Resets every open TCP connection. New ones are accepted as before.
    pub fn reset_connections(&self) {
        for stream in lock(&self.door.open).values() {
            reset(stream);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        *lock(&self.door.closing) = true;
        self.door.changed.notify_all();
        for thread in self
            .accepting
            .take()
            .into_iter()
            .chain(self.answering.take())
        {
            thread.end();
        }
        for stream in lock(&self.door.open).values() {
            close(stream);
        }
    }
}

/// Ends a connection with RST, whoever else still holds the socket.
pub fn reset(stream: &TcpStream) {
    // Connecting to nowhere ends a connection at once with RST (connect(2), AF_UNSPEC), where
    // SO_LINGER needs the last descriptor to be closed. Linux 6.4 to 6.6 refuse that while a
    // thread reads; that thread is then woken, and its close makes the RST.
    if rustix::net::connect_unspec(stream.as_fd()).is_err() {
        // Both fail only where the connection has ended.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        let _ = stream.shutdown(std::net::Shutdown::Read);
    }
}

/// Ends a connection with FIN, unless it is to be reset.
fn close(stream: &TcpStream) {
    if SockRef::from(stream).linger().ok().flatten() != Some(Duration::ZERO) {
        // Fails only where the peer was faster.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A UDP and a TCP socket on the same port. It is none of those that the kernel gives to clients:
/// one of them could take it while connections are refused.
///
/// # Errors
/// When no port is free, or the address is not ours.
pub fn bind_pair(ip: IpAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    loop {
        let port = free_port()?;
        // UDP first: a server that refuses connections keeps its port by its UDP socket.
        let udp = match UdpSocket::bind((ip, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            udp => udp.with_context(|| format!("bind UDP on {ip}"))?,
        };
        if let Ok(tcp) = TcpListener::bind((ip, port)) {
            // Bursts of a test are not to be lost in the lab's own buffer.
            SockRef::from(&udp).set_recv_buffer_size(4 << 20)?;
            // std listens with a backlog of 128 (and the kernel takes the last word).
            SockRef::from(&tcp).listen(1024)?;
            return Ok((udp, tcp));
        }
    }
}

/// Locks, also after a panic elsewhere: counts of a failed test are still worth reading.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, run: impl FnOnce(UnixStream) + Send + 'static) -> io::Result<Thread> {
    let (wake, far) = UnixStream::pair()?;
    let builder = thread::Builder::new().name(name.to_owned());
    let handle = builder.spawn(move || run(far))?;
    Ok(Thread { wake, handle })
}

/// Waits until `socket` can be read; `false` when the thread is to end.
fn readable(socket: &impl AsFd, wake: &UnixStream) -> bool {
    loop {
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) if !fds[0].revents().is_empty() => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn answer_datagrams(service: &impl Service, door: &Arc<Door>, wake: &UnixStream) {
    let mut buffer = vec![0; 65_535];
    while readable(&door.udp, wake) {
        while let Ok((_, length, Some(from))) =
            rustix::net::recvfrom(&door.udp, buffer.as_mut_slice(), RecvFlags::DONTWAIT)
        {
            if let Ok(from) = SocketAddr::try_from(from) {
                service.datagram(&buffer[..length], from, door);
            }
        }
    }
}

fn accept_connections(
    service: &Arc<impl Service>,
    door: &Arc<Door>,
    listener: &TcpListener,
    wake: &UnixStream,
) {
    while readable(listener, wake) {
        // Fails where the client has gone again, or descriptors have run out; both pass.
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        // Only delays answers where it fails.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let number = door.accepted.fetch_add(1, Relaxed);
        lock(&door.open).insert(number, Arc::clone(&stream));
        let (service, door) = (Arc::clone(service), Arc::clone(door));
        let serve = move || {
            service.connection(Arc::clone(&stream), number, &door);
            // A thread of the service may still hold the stream; the client is told now.
            close(&stream);
            lock(&door.open).remove(&number);
        };
        thread::Builder::new()
            .name(format!("lab-tcp-{number}"))
            .stack_size(256 << 10)
            .spawn(serve)
            .expect("a thread for each connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    struct Echo;

    impl Service for Echo {
        fn datagram(&self, query: &[u8], from: SocketAddr, door: &Arc<Door>) {
            door.udp.send_to(query, from).unwrap();
        }

        fn connection(&self, stream: Arc<TcpStream>, _: u64, _: &Arc<Door>) {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = (&*stream).read(&mut buffer) {
                (&*stream).write_all(&buffer[..n]).unwrap();
            }
        }
    }

    fn udp_echo(addr: SocketAddr) -> io::Result<usize> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(addr)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 16])
    }

    fn tcp_echo(mut stream: &TcpStream) -> io::Result<usize> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"hello")?;
        stream.read(&mut [0; 16])
    }

    #[test]
    fn a_server_goes_away_and_comes_back_on_its_port() {
        let mut host = Host::start(Echo).unwrap();
        let addr = host.addr();
        let old = TcpStream::connect(addr).unwrap();
        for _ in 0..2 {
            assert_eq!(udp_echo(addr).unwrap(), 5);
            let stream = TcpStream::connect(addr).unwrap();
            assert_eq!(tcp_echo(&stream).unwrap(), 5);

            host.refuse().unwrap();
            let error = tcp_echo(&stream).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let error = TcpStream::connect(addr).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            let error = udp_echo(addr).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            host.resume().unwrap();
        }
        tcp_echo(&old).unwrap_err();
        assert_eq!(udp_echo(addr).unwrap(), 5);
        assert_eq!(host.door().accepted(), 3);
    }

    #[test]
    fn nothing_is_left_when_a_host_is_dropped() {
        let host = Host::start(Echo).unwrap();
        let addr = host.addr();
        let stream = TcpStream::connect(addr).unwrap();
        assert_eq!(tcp_echo(&stream).unwrap(), 5);
        drop(host);
        assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0);
        TcpStream::connect(addr).unwrap_err();
    }

    #[test]
    fn a_wait_ends_with_the_host() {
        struct Slow(Mutex<Option<std::sync::mpsc::Sender<bool>>>);
        impl Service for Slow {
            fn datagram(&self, _: &[u8], _: SocketAddr, _: &Arc<Door>) {}
            fn connection(&self, _: Arc<TcpStream>, _: u64, door: &Arc<Door>) {
                let stands = door.wait(Duration::from_secs(60));
                lock(&self.0).take().unwrap().send(stands).unwrap();
            }
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let host = Host::start(Slow(Mutex::new(Some(sender)))).unwrap();
        let _stream = TcpStream::connect(host.addr()).unwrap();
        while host.door().accepted() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(host);
        let stands = receiver.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(!stands);
    }
}
