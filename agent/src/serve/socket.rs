// SPDX-License-Identifier: Apache-2.0
//! The sockets of a listen address: one a worker, steered so that a query is answered on the CPU
//! that sent it.

#![expect(
    unsafe_code,
    reason = "the classic BPF program and SO_MEMINFO have no safe wrapper; ADR 0004"
)]

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::telemetry::asked::LastAsked;

/// What the kernel keeps for a worker that is busy, in octets; it may give less.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How long a worker waits at its only socket before it looks for commands that nothing woke it
/// for: a new listener beside it.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The sockets of one listen address, in the order of the workers.
#[derive(Debug)]
pub struct Group {
    /// The address, with the port that was found where 0 was asked for.
    pub address: SocketAddr,
    /// One socket a worker.
    pub sockets: Vec<Arc<UdpSocket>>,
    /// Whether queries go to the worker of their sender's CPU; else the kernel spreads them.
    pub is_steered: bool,
    /// When clients last asked here.
    pub asked: Arc<LastAsked>,
}

impl Group {
    /// Binds `workers` sockets to one address and steers them. Members are never added or taken
    /// away later: the kernel numbers them anew when one closes.
    ///
    /// # Errors
    /// The address cannot be bound; `AddrInUse` also where another process serves it with
    /// SO_REUSEPORT, which would otherwise quietly share the queries with us.
    pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Self> {
        // Without SO_REUSEPORT the kernel refuses an address that anybody has.
        let alone = socket(address)?;
        alone.bind(&address.into())?;
        let address = alone.local_addr()?.as_socket().unwrap_or(address);
        drop(alone);
        Self::bind_beside(address, workers)
    }

    /// As [`Self::bind`], without asking whether anybody has the address already.
    ///
    /// # Errors
    /// The address cannot be bound, for us or beside whoever has it.
    pub fn bind_beside(address: SocketAddr, workers: usize) -> io::Result<Self> {
        let sockets = (0..workers)
            .map(|_| {
                let member = socket(address)?;
                member.set_reuse_port(true)?;
                // More than the system allows is cut to what it allows.
                member.set_recv_buffer_size(RECEIVE_BUFFER)?;
                member.set_read_timeout(Some(LONGEST_WAIT))?;
                member.bind(&address.into())?;
                Ok(Arc::new(member.into()))
            })
            .collect::<io::Result<Vec<Arc<UdpSocket>>>>()?;
        // Also of one socket: whoever binds the same address later gets nothing then.
        let is_steered = match sockets.first() {
            Some(first) => steer(first, workers).is_ok() || workers == 1,
            None => true,
        };
        Ok(Self {
            address,
            sockets,
            is_steered,
            asked: Arc::default(),
        })
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Lets whoever else is bound to the address have what comes from now on, as a node-cache that is to
/// go on after us: it came after our `workers` sockets, and is the next of the group. Where nobody
/// is, the kernel gives it to one of ours.
///
/// # Errors
/// The kernel does not know the option.
pub fn give_way(member: &UdpSocket, workers: usize) -> io::Result<()> {
    let next = u32::try_from(workers).unwrap_or(u32::MAX);
    attach(member.as_fd(), &mut [returns(next)])
}

/// Attaches `ld #cpu; mod #workers; ret a` to the group of `member`: the index of the socket that
/// gets a datagram is the CPU it is received on, which is its sender's on veth and loopback.
fn steer(member: &UdpSocket, workers: usize) -> io::Result<()> {
    let mut program = [
        // BPF_LD | BPF_W | BPF_ABS from the ancillary area: the CPU.
        libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: u32::from_ne_bytes((libc::SKF_AD_OFF + libc::SKF_AD_CPU).to_ne_bytes()),
        },
        // BPF_ALU | BPF_MOD | BPF_K.
        libc::sock_filter {
            code: 0x94,
            jt: 0,
            jf: 0,
            k: u32::try_from(workers).unwrap_or(1),
        },
        // BPF_RET | BPF_A.
        libc::sock_filter {
            code: 0x16,
            jt: 0,
            jf: 0,
            k: 0,
        },
    ];
    attach(member.as_fd(), &mut program)
}

/// Attaches `ret 0` to the group of a listener that is the first of it: whoever listens there later
/// gets no connection while it is there.
///
/// # Errors
/// The kernel does not know the option.
pub fn keep_connections(listener: &TcpListener) -> io::Result<()> {
    attach(listener.as_fd(), &mut [returns(0)])
}

/// `BPF_RET | BPF_K`: always this place in the group.
fn returns(place: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: place,
    }
}

fn attach(member: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option takes a sock_fprog of this size, which names so many instructions that live
    // until the call returns; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            member.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&program).cast(),
            libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the kernel holds for a socket (SO_MEMINFO, Linux 4.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Octets of datagrams that wait to be received.
    pub waiting_bytes: u32,
    /// Datagrams that the kernel dropped because the queue was full.
    pub dropped: u32,
}

impl Queue {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel does not know the option.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC is the first, SK_MEMINFO_DROPS the ninth.
        const SO_MEMINFO: libc::c_int = 55;
        let mut figures = [0_u32; 9];
        let mut len = libc::socklen_t::try_from(size_of_val(&figures)).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` octets to `figures`, and how many to `len`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            waiting_bytes: figures[0],
            dropped: figures[8],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_to_the_worker_of_the_cpu_that_sent_it() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let group = Group::bind("127.0.0.1:0".parse().unwrap(), cpus).unwrap();
        assert!(group.is_steered);
        let mask = rustix::thread::sched_getaffinity(None).unwrap();
        for cpu in (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)) {
            let mut only = rustix::thread::CpuSet::new();
            only.set(cpu);
            rustix::thread::sched_setaffinity(None, &only).unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(&[1], group.address).unwrap();
            let socket = &group.sockets[cpu % cpus];
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let (_, from) = socket.recv_from(&mut [0; 9]).unwrap();
            assert_eq!(from, client.local_addr().unwrap());
        }
    }

    #[test]
    fn who_binds_the_address_later_gets_nothing_until_we_give_way() {
        for workers in [1, 2] {
            let group = Group::bind("127.0.0.1:0".parse().unwrap(), workers).unwrap();
            let later = socket(group.address).unwrap();
            later.set_reuse_port(true).unwrap();
            later.bind(&group.address.into()).unwrap();
            let later: UdpSocket = later.into();
            later.set_nonblocking(true).unwrap();
            let ask = || {
                for _ in 0..50 {
                    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                    client.send_to(&[1], group.address).unwrap();
                }
                std::iter::from_fn(|| later.recv_from(&mut [0; 9]).ok()).count()
            };
            assert_eq!(ask(), 0);
            give_way(&group.sockets[0], workers).unwrap();
            assert_eq!(ask(), 50);
        }
        // Alone we go on.
        let group = Group::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        give_way(&group.sockets[0], 1).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[1], group.address).unwrap();
        group.sockets[0].recv_from(&mut [0; 9]).unwrap();
    }

    #[test]
    fn an_address_that_is_served_already_is_refused() {
        let group = Group::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let second = Group::bind(group.address, 2).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn what_waits_and_what_was_dropped_is_known() {
        let group = Group::bind("[::1]:0".parse().unwrap(), 1).unwrap();
        let socket = &group.sockets[0];
        assert_eq!(Queue::of(socket.as_fd()).unwrap(), Queue::default());
        let client = UdpSocket::bind("[::1]:0").unwrap();
        for _ in 0..20_000 {
            client.send_to(&[0; 500], group.address).unwrap();
        }
        let queue = Queue::of(socket.as_fd()).unwrap();
        assert!(queue.waiting_bytes > 0 && queue.dropped > 0, "{queue:?}");
    }
}
