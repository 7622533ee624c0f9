// SPDX-License-Identifier: Apache-2.0
//! Who gets the next connection, and how many are dialled.

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Transport;
use crate::resolve::octets::Stream;
use crate::telemetry::registry::Telemetry;

fn client(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// Waits once for each of these clients, in this order.
fn waiting(clients: &[u8]) -> (Waiting, Vec<oneshot::Receiver<Got>>) {
    let mut waiting = Waiting::default();
    let receivers = clients
        .iter()
        .map(|&number| {
            let (sender, receiver) = oneshot::channel();
            waiting.push(client(number), sender);
            receiver
        })
        .collect();
    (waiting, receivers)
}

/// The places in the queue of those who are served one after the other.
fn served(waiting: &mut Waiting, receivers: &mut [oneshot::Receiver<Got>]) -> Vec<usize> {
    let mut order = Vec::new();
    while let Some(sender) = waiting.pop() {
        let _ = sender.send(Err(Outcome::Failed));
        let next = receivers.iter_mut().position(|one| one.try_recv().is_ok());
        order.push(next.unwrap());
    }
    order
}

#[test]
fn clients_take_turns_whatever_number_of_queries_each_has() {
    let (mut waiting, mut receivers) = waiting(&[1, 1, 1, 1, 2, 3, 2]);
    assert_eq!(served(&mut waiting, &mut receivers), [0, 4, 5, 1, 6, 2, 3]);
    assert_eq!(waiting.len(), 0);
}

#[test]
fn who_waits_no_more_is_passed_over_and_let_go() {
    let (mut waiting, mut receivers) = waiting(&[1, 1, 2]);
    drop(receivers.remove(0));
    assert_eq!(served(&mut waiting, &mut receivers), [0, 1]);

    // Many give up, while nobody is ever served.
    for _ in 0..100_000 {
        let (sender, _) = oneshot::channel();
        waiting.push(client(1), sender);
    }
    assert!(waiting.len() <= 64, "{}", waiting.len());
}

#[test]
fn as_many_are_dialled_as_are_waited_for_and_few_while_none_succeeds() {
    let (waiting, _receivers) = waiting(&[1; 100]);
    let mut pool = Pool {
        waiting,
        most: 256,
        ..Pool::default()
    };
    assert_eq!(pool.dials_wanted(), MOST_DIALS);
    pool.dialling = MOST_DIALS;
    assert_eq!(pool.dials_wanted(), 0);
    pool.dialling = 0;
    pool.in_vain = 1;
    assert_eq!(pool.dials_wanted(), MOST_DIALS_IN_VAIN);
    pool.most = 2;
    assert_eq!(pool.dials_wanted(), 2, "no more than there may be");
}

#[tokio::test(start_paused = true)]
async fn connections_are_opened_ahead_for_the_rate_of_queries_and_not_without_any() {
    let idle = Duration::from_secs(8);
    let mut pool = Pool {
        most: 256,
        ..Pool::default()
    };
    let mut now = Instant::now();
    let mut look = |pool: &mut Pool, asked: usize| {
        now += LOOKED_AFTER;
        pool.asked = asked;
        if asked > 0 {
            pool.last_asked = Some(now);
        }
        pool.look_after(now, idle)
    };
    assert_eq!(look(&mut pool, 0), 0);
    assert_eq!(look(&mut pool, 1), 1, "one is kept warm");
    for _ in 0..10 {
        look(&mut pool, 100);
    }
    assert_eq!(look(&mut pool, 100), 1 + 100 / RATE_FOR_ONE);
    for _ in 0..10 {
        look(&mut pool, 5000);
    }
    assert_eq!(look(&mut pool, 5000), OPENED_AHEAD);
    pool.dialling = MOST_KEPT;
    assert_eq!(look(&mut pool, 5000), 0);
    pool.dialling = 0;
    pool.in_vain = 1;
    assert_eq!(look(&mut pool, 5000), 0, "not while nobody takes one");
    pool.in_vain = 0;
    look(&mut pool, 0);
    look(&mut pool, 0);
    assert_eq!(look(&mut pool, 0), 0);
}

#[tokio::test]
async fn a_place_that_was_never_used_gives_the_connection_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let telemetry = Arc::new(Telemetry::new(1));
    let server = Server::new(address, &Transport::Tcp, &telemetry);
    let stream = Stream::Plain(TcpStream::connect(address).await.unwrap());
    let connection = Connection::new(stream, Duration::from_secs(30), &telemetry, server.index());
    let waiting = server.wait(client(1));
    let (lent, ()) = tokio::join!(waiting, async { server.adopt(&connection) });
    let counts = || {
        let counts = lock(server.pool()).counts();
        (counts.idle, counts.under_way)
    };
    assert_eq!(counts(), (0, 1));
    drop(lent);
    assert_eq!(counts(), (1, 0));
}
