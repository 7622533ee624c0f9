// SPDX-License-Identifier: Apache-2.0
//! Several questions on one connection: who gets which answer, and what an end means to whom.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::wire::{LIES, PREFIX};
use super::*;
use crate::wire::header::HEADER;
use crate::wire::name::Name;

/// The ID that every question would like to have.
const DRAW: u16 = 7;
/// How long what must not happen is waited for.
const WHILE: Duration = Duration::from_millis(50);

struct Lab {
    telemetry: Arc<Telemetry>,
    connection: Arc<Connection>,
    server: TcpStream,
}

type Asked = JoinHandle<Result<u16, Failure>>;

impl Lab {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = (client.await.unwrap(), listener.accept().await.unwrap().0);
        let telemetry = Arc::new(Telemetry::new(1));
        let index = telemetry.upstreams.index("a");
        let age = Duration::from_secs(30);
        Self {
            connection: Connection::new(Stream::Plain(client), age, &telemetry, index),
            telemetry,
            server,
        }
    }

    /// Asks so many questions in one turn; each task gives the ID of its answer.
    fn ask(&self, count: usize) -> Vec<Asked> {
        (0..count).map(|_| self.ask_one()).collect()
    }

    fn ask_one(&self) -> Asked {
        let telemetry = Arc::clone(&self.telemetry);
        let mut place = Place::on(&self.connection);
        #[expect(clippy::disallowed_methods, reason = "a test waits for each by name")]
        tokio::spawn(async move {
            let question = Question::of(&Name::ROOT, 1);
            place.ask(&question, DRAW, true);
            let cells = telemetry.resolve.upstream(0);
            let (exchanged, _) = place.answer(&question, cells).await?;
            assert_eq!(exchanged.response.rcode, 0);
            Ok(place.id.unwrap())
        })
    }

    /// The messages of one read.
    async fn read(&mut self) -> Vec<Vec<u8>> {
        let mut octets = vec![0; 4096];
        let read = self.server.read(&mut octets).await.unwrap();
        let mut rest = &octets[..read];
        let mut messages = Vec::new();
        while let Some((prefix, behind)) = rest.split_first_chunk::<PREFIX>() {
            let (message, after) = behind.split_at(usize::from(u16::from_be_bytes(*prefix)));
            messages.push(message.to_vec());
            rest = after;
        }
        messages
    }

    async fn answer(&mut self, queries: &[Vec<u8>]) {
        let frames: Vec<u8> = queries
            .iter()
            .flat_map(|query| frame(&response(query)))
            .collect();
        self.server.write_all(&frames).await.unwrap();
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.telemetry.resolve.upstream(0).outcomes()[outcome as usize]
    }
}

/// An empty answer.
fn response(query: &[u8]) -> Vec<u8> {
    let mut message = query[..HEADER + 5].to_vec();
    message[2] |= 0x80;
    message[10..HEADER].fill(0);
    message
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

async fn results(asked: Vec<Asked>) -> Vec<Result<u16, Failure>> {
    let mut results = Vec::new();
    for one in asked {
        results.push(one.await.unwrap());
    }
    results
}

#[tokio::test]
async fn questions_of_one_turn_go_out_in_one_write_and_each_gets_its_own_answer_in_any_order() {
    let mut lab = Lab::new().await;
    let asked = lab.ask(20);
    let mut queries = lab.read().await;
    assert_eq!(queries.len(), 20, "in one segment");
    let mut ids: Vec<u16> = queries.iter().map(|query| id(query)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20, "no two have the same ID");
    queries.reverse();
    lab.answer(&queries[..7]).await;
    yield_now().await;
    lab.answer(&queries[7..]).await;
    let got: Vec<u16> = results(asked)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(got, (DRAW..DRAW + 20).collect::<Vec<_>>());
    assert_eq!(lab.connection.room(20), 20);
}

#[tokio::test]
async fn what_is_asked_while_others_wait_is_written_at_once() {
    let mut lab = Lab::new().await;
    let first = lab.ask(1);
    let before = lab.read().await;
    let second = lab.ask(2);
    let behind = lab.read().await;
    assert_eq!((before.len(), behind.len()), (1, 2));
    lab.answer(&behind).await;
    assert!(results(second).await.iter().all(Result::is_ok));
    lab.answer(&before).await;
    assert!(results(first).await[0].is_ok());
}

#[tokio::test]
async fn an_end_amid_many_fails_those_who_still_wait_and_is_no_failure_of_a_server_that_answered() {
    let mut lab = Lab::new().await;
    let asked = lab.ask(5);
    let queries = lab.read().await;
    lab.answer(&queries[..2]).await;
    drop(lab.server);
    let results = results(asked).await;
    assert!(results[..2].iter().all(Result::is_ok), "{results:?}");
    assert_eq!(results[2..], [Err(Failure::Stale); 3]);
    assert_eq!(lab.connection.room(5), 0);
}

#[tokio::test]
async fn an_end_without_any_answer_is_one_failure_however_many_wait() {
    let mut lab = Lab::new().await;
    let asked = lab.ask(5);
    lab.read().await;
    drop(lab.server);
    let mut results = results(asked).await;
    results.retain(|result| *result != Err(Failure::Stale));
    assert_eq!(results, [Err(Failure::Outcome(Outcome::Closed))]);
}

#[tokio::test]
async fn answers_with_foreign_ids_reach_nobody_and_eight_of_them_end_the_connection() {
    let mut lab = Lab::new().await;
    let asked = lab.ask(3);
    let queries = lab.read().await;
    let mut foreign = response(&queries[0]);
    foreign[0] ^= 0x80;
    let foreign = frame(&foreign);
    for _ in 1..LIES {
        lab.server.write_all(&foreign).await.unwrap();
    }
    lab.answer(&queries[..1]).await;
    timeout(WHILE, lab.server.readable()).await.unwrap_err();
    assert_eq!(lab.count(Outcome::WrongId), LIES as u64 - 1);

    // An answer lets it begin anew.
    for _ in 1..LIES {
        lab.server.write_all(&foreign).await.unwrap();
    }
    timeout(WHILE, lab.server.readable()).await.unwrap_err();
    lab.server.write_all(&foreign).await.unwrap();
    let results = results(asked).await;
    assert!(results[0].is_ok());
    let wrong = results
        .iter()
        .filter(|result| **result == Err(Failure::Outcome(Outcome::WrongId)));
    let stale = results
        .iter()
        .filter(|result| **result == Err(Failure::Stale));
    assert_eq!((wrong.count(), stale.count()), (1, 1), "{results:?}");
}

#[tokio::test]
async fn an_answer_to_another_question_is_dropped_though_its_id_is_right() {
    let mut lab = Lab::new().await;
    let asked = lab.ask(1);
    let queries = lab.read().await;
    let mut other = response(&queries[0]);
    other[HEADER + 2] = 28;
    // Both in one segment.
    let both = [frame(&other), frame(&response(&queries[0]))].concat();
    lab.server.write_all(&both).await.unwrap();
    assert!(results(asked).await[0].is_ok());
    assert_eq!(lab.count(Outcome::WrongQuestion), 1);
}

#[tokio::test]
async fn who_gives_up_lets_the_others_have_their_answers_and_nobody_asks_there_any_more() {
    let mut lab = Lab::new().await;
    let mut asked = lab.ask(3);
    let queries = lab.read().await;
    // The one that reads for all.
    let first = asked.remove(0);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(lab.connection.room(9), 0);
    assert_eq!(lab.connection.places(), 2);
    lab.answer(&queries).await;
    assert!(results(asked).await.iter().all(Result::is_ok));
    assert_eq!(lab.count(Outcome::WrongId), 0, "what comes late is no lie");
}

#[tokio::test]
async fn who_was_woken_to_read_and_gives_up_before_it_runs_lets_the_next_one_read() {
    let mut lab = Lab::new().await;
    let question = Question::of(&Name::ROOT, 1);
    let telemetry = Arc::clone(&lab.telemetry);
    let cells = telemetry.resolve.upstream(0);
    let (mut one, mut two) = (Place::on(&lab.connection), Place::on(&lab.connection));
    one.ask(&question, DRAW, false);
    two.ask(&question, DRAW, false);
    let mut first = Box::pin(one.answer(&question, cells));
    let mut second = Box::pin(two.answer(&question, cells));
    poll_fn(|context| {
        // The first reads for all from now on.
        assert!(first.as_mut().poll(context).is_pending());
        assert!(second.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    let third = lab.ask_one();
    yield_now().await;
    let mut queries = lab.read().await;
    lab.answer(&queries[..1]).await;
    first.await.unwrap();
    drop(second);
    drop(two);
    if queries.len() < 3 {
        queries.extend(lab.read().await);
    }
    lab.answer(&queries[2..]).await;
    let third = timeout(Duration::from_secs(5), third).await;
    assert!(third.expect("an answer").unwrap().is_ok());
}

#[tokio::test]
async fn a_question_is_behind_others_until_they_are_answered() {
    let mut lab = Lab::new().await;
    let question = Question::of(&Name::ROOT, 1);
    let telemetry = Arc::clone(&lab.telemetry);
    let cells = telemetry.resolve.upstream(0);
    let (mut one, mut two) = (Place::on(&lab.connection), Place::on(&lab.connection));
    assert!(one.is_shared());
    one.ask(&question, DRAW, false);
    two.ask(&question, DRAW, false);
    assert!(!one.is_behind() && two.is_behind());
    let (first, ()) = tokio::join!(one.answer(&question, cells), async {
        let queries = lab.read().await;
        lab.answer(&queries[..1]).await;
    });
    first.unwrap();
    assert!(!two.is_behind());
}
