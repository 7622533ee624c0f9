// SPDX-License-Identifier: Apache-2.0
//! Opens connections to upstreams. A lost SYN is repeated by the kernel after a second (RFC 6298
//! section 2.1), to the pod that it was meant for: here the next one leaves sooner, from a port of
//! its own, so that a Service may choose another pod for it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::telemetry::cells::Outcome;

/// A handshake that is not over by then has company, where nobody knows how long one takes: above a
/// round trip within a region.
pub(super) const RACE: Duration = Duration::from_millis(50);
/// It has company no sooner than that, and after four times what others took.
const SOONEST: Duration = Duration::from_millis(10);
/// Handshakes of one connection at one time, the second after one such time, the third after three,
/// the fourth after seven: with one pod in three silent, one in 81 meets it four times.
const ABREAST: u32 = 4;
/// An idle connection is looked after so often, in case its other end went without a word. Less
/// than `limits.upstreamIdle`, or it would never be.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// Between looks that nobody answers; after two of them the connection is over.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// What we sent is acknowledged within that, or the connection is over (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(2);

type Handshake = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// When a handshake has company, by how long others took on average; zero where that is not known.
pub(super) fn race(usual: Duration) -> Duration {
    if usual.is_zero() {
        RACE
    } else {
        (usual * 4).max(SOONEST)
    }
}

/// Opens a connection within `within`, with company after `race`; says how it ended otherwise.
pub(super) async fn dial(
    address: SocketAddr,
    within: Duration,
    race: Duration,
) -> Result<TcpStream, Outcome> {
    let now = Instant::now();
    let end = now + within;
    let mut handshakes: Vec<Handshake> = Vec::new();
    for number in 1..=ABREAST {
        handshakes.push(Box::pin(TcpStream::connect(address)));
        let until = if number == ABREAST {
            end
        } else {
            end.min(now + race * (2_u32.pow(number) - 1))
        };
        match timeout_at(until, first(&mut handshakes)).await {
            Ok(Ok(stream)) => {
                prepare(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => return Err(Outcome::of(&error)),
            Err(_) if until == end => break,
            Err(_) => {}
        }
    }
    Err(Outcome::ConnectTimeout)
}

/// The first that succeeds, or the last that fails.
async fn first(handshakes: &mut Vec<Handshake>) -> io::Result<TcpStream> {
    std::future::poll_fn(|context| {
        let mut at = 0;
        while let Some(handshake) = handshakes.get_mut(at) {
            match handshake.as_mut().poll(context) {
                Poll::Ready(Err(_)) if handshakes.len() > 1 => drop(handshakes.swap_remove(at)),
                Poll::Ready(result) => return Poll::Ready(result),
                Poll::Pending => at += 1,
            }
        }
        Poll::Pending
    })
    .await
}

/// What cannot be set is done without: each of these makes a bad end come sooner, none a good one.
fn prepare(stream: &TcpStream) {
    // A question is one small segment: it must not wait for more (RFC 7766 section 8).
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(2);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    // One small segment under way is a thin stream: what is lost twice is sent again after as long
    // as the first time, not twice as long.
    let _ = socket.set_tcp_thin_linear_timeouts(true);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_refused_says_so_at_once() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let refused = dial(address, Duration::from_secs(30), RACE).await;
        assert_eq!(refused.err(), Some(Outcome::Refused));
    }

    #[tokio::test]
    async fn a_full_backlog_drops_handshakes_and_one_of_the_next_gets_through() {
        // Nobody accepts: with a backlog of 0 the kernel takes one connection and drops the SYNs
        // of all others.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let _first = dial(address, Duration::from_secs(5), RACE).await.unwrap();
        let within = Duration::from_millis(200);
        let dropped = dial(address, within, RACE).await;
        assert_eq!(dropped.err(), Some(Outcome::ConnectTimeout));

        let began = Instant::now();
        let (second, _) = tokio::join!(dial(address, Duration::from_secs(5), RACE), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            listener.accept().unwrap()
        });
        second.unwrap();
        // The kernel would have sent the lost one again after a second.
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "{:?}",
            began.elapsed()
        );
    }
}
