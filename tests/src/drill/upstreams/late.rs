// SPDX-License-Identifier: Apache-2.0
//! A resolver that answers every query over UDP after a fixed time: what makes a real CoreDNS
//! slow. Behind it CoreDNS still answers each connection strictly in order.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;
use socket2::SockRef;

use super::fleet::ELSEWHERE;
use super::names;
use crate::load::now_ns;
use crate::node::Space;

/// Octets of the queues of a socket.
const QUEUE: usize = 4 << 20;
/// Octets of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// The longest time until an order to stop is heard.
const LOOK: u64 = 20_000_000;

/// The resolver, one socket a pod. Ends when dropped.
#[derive(Debug)]
pub struct Late {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Late {
    /// Answers the pods of these numbers, each on the socket that is its own.
    ///
    /// # Errors
    /// When a socket or a thread cannot be had.
    pub fn start(
        space: &Space,
        pods: &[(u8, SocketAddr)],
        delay: Duration,
    ) -> anyhow::Result<Self> {
        let mut late = Self {
            is_over: Arc::default(),
            threads: Vec::new(),
        };
        for &(pod, address) in pods {
            let socket = space.within(|| UdpSocket::bind(address))?;
            socket.set_nonblocking(true)?;
            SockRef::from(&socket).set_recv_buffer_size(QUEUE)?;
            let is_over = Arc::clone(&late.is_over);
            let thread = thread::Builder::new()
                .name(format!("late-{pod}"))
                .spawn(move || {
                    // The kernel takes a socket from its owner for no reason we know; were it so,
                    // the answers that are missing would tell.
                    let _ = serve(&socket, pod, delay, &is_over);
                })?;
            late.threads.push(thread);
        }
        Ok(late)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, pod: u8, delay: Duration, is_over: &AtomicBool) -> io::Result<()> {
    setpriority_process(None, ELSEWHERE)?;
    let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    let mut waiting: VecDeque<(u64, Vec<u8>, SocketAddr)> = VecDeque::new();
    let mut buffer = [0; 1500];
    while !is_over.load(Relaxed) {
        let now = now_ns();
        while waiting.front().is_some_and(|&(due, ..)| due <= now) {
            if let Some((_, response, to)) = waiting.pop_front() {
                // Who has gone away needs no answer.
                let _ = socket.send_to(&response, to);
            }
        }
        let pause = waiting
            .front()
            .map_or(LOOK, |&(due, ..)| due.saturating_sub(now));
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: pause.min(LOOK).try_into().unwrap_or(0),
        };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout))?;
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(response) = answer(&buffer[..length], pod) {
                waiting.push_back((now_ns() + delay, response, from));
            }
        }
    }
    Ok(())
}

/// The response to a query for a name of [`names`]: its address. NXDOMAIN for all else.
fn answer(query: &[u8], pod: u8) -> Option<Vec<u8>> {
    let header = query.first_chunk::<HEADER>()?;
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = query.get(HEADER..end + 5)?;
    let is_address = question.ends_with(&[0, 1, 0, 1]);
    let number = names::number(&query[HEADER..=end]).filter(|_| is_address);
    let mut response = header[..2].to_vec();
    // QR, RD as it came; RA, and NXDOMAIN where there is no such name.
    let rcode = if number.is_some() { 0 } else { 3 };
    response.extend([0x80 | header[2] & 1, 0x80 | rcode, 0, 1]);
    response.extend([0, u8::from(number.is_some()), 0, 0, 0, 0]);
    response.extend(question);
    if let Some(number) = number {
        // The question's name, type A, class IN, TTL 3600, four octets.
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]);
        response.extend(names::address(pod, number).octets());
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::question::{Expect, Wrong, address, check};
    use crate::query::Query;

    #[test]
    fn names_get_their_address_and_others_do_not_exist() {
        let query = Query::new(&names::text(7, 4_711), 1_u16).to_bytes();
        let response = answer(&query, 3).unwrap();
        assert_eq!(check(&query, &response, Expect::Answer), Ok(()));
        let right = names::address(3, 4_711).octets();
        assert_eq!(address(&query, &response), Some(right));
        for other in [
            Query::new("web.prod", 1_u16),
            Query::new(&names::text(7, 1), 28_u16),
        ] {
            let query = other.to_bytes();
            let response = answer(&query, 3).unwrap();
            let judged = check(&query, &response, Expect::Answer);
            assert_eq!(judged, Err(Wrong::Rcode(3)));
        }
        for end in 0..query.len() {
            assert_eq!(answer(&query[..end], 3), None, "cut at {end}");
        }
    }

    #[test]
    fn an_answer_comes_when_it_is_due_and_not_before() {
        let delay = Duration::from_millis(50);
        let space = Space::new("late").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 5300));
        let late = Late::start(&space, &[(0, address)], delay).unwrap();
        let query = Query::new(&names::text(7, 1), 1_u16).to_bytes();
        let waited = space.within(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let begin = now_ns();
            for _ in 0..3 {
                socket.send_to(&query, address).unwrap();
            }
            let mut buffer = [0; 1500];
            for _ in 0..3 {
                socket.recv(&mut buffer).unwrap();
            }
            Duration::from_nanos(now_ns() - begin)
        });
        assert!(waited >= delay, "{waited:?}");
        drop(late);
    }
}
