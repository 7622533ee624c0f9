// SPDX-License-Identifier: Apache-2.0
//! Several questions on one connection: who gets which answer, and what an end means to whom.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use super::wire::{LIES, PREFIX};
use super::*;
use crate::wire::header::HEADER;
use crate::wire::name::Name;

/// The ID that every question would like to have.
const DRAW: u16 = 7;
/// How long what must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
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
    assert_eq!(lab.connection.usage(20, Instant::now()).places, 2);
    lab.answer(&queries).await;
    assert!(results(asked).await.iter().all(Result::is_ok));
    assert_eq!(lab.count(Outcome::WrongId), 0, "what comes late is no lie");
}

#[tokio::test]
async fn who_gives_up_before_its_answer_comes_does_not_keep_others_from_theirs() {
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

/// What an asker was told.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Answered(u16),
    Failed(Failure),
    Late(u16),
    Dropped,
}

/// Mere data that asks for the root, and passes on what it is told.
#[derive(Debug)]
struct Data {
    question: Question,
    place: Option<Place>,
    told: mpsc::UnboundedSender<Heard>,
}

impl Data {
    fn end(mut self: Box<Self>, heard: impl FnOnce(u16) -> Heard) {
        let place = self.place.take().unwrap();
        self.told.send(heard(place.id.unwrap())).unwrap();
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.told.send(Heard::Dropped).unwrap();
        }
    }
}

impl Asker for Data {
    fn question(&self) -> &Question {
        &self.question
    }

    fn answered(self: Box<Self>, exchanged: Exchanged, _: Instant) {
        assert_eq!(exchanged.response.rcode, 0);
        self.end(Heard::Answered);
    }

    fn failed(self: Box<Self>, failure: Failure) {
        self.end(|_| Heard::Failed(failure));
    }

    fn is_late(self: Box<Self>) {
        self.end(Heard::Late);
    }
}

impl Lab {
    /// Asks so many questions for which no task waits, each for so long; what they are told.
    fn tell(&self, count: usize, patience: Duration) -> mpsc::UnboundedReceiver<Heard> {
        let (told, heard) = mpsc::unbounded_channel();
        for _ in 0..count {
            let question = Question::of(&Name::ROOT, 1);
            let mut place = Place::on(&self.connection);
            place.ask(&question, DRAW, true);
            let id = place.id.unwrap();
            let asker = Data {
                question,
                place: Some(place),
                told: told.clone(),
            };
            let due = Instant::now() + patience;
            Place::tell(&self.connection, id, due, Box::new(asker));
        }
        heard
    }
}

/// All that is said until nobody is left who could say more.
async fn all(mut heard: mpsc::UnboundedReceiver<Heard>) -> Vec<Heard> {
    let mut said = Vec::new();
    while let Some(one) = timeout(PATIENCE, heard.recv()).await.unwrap() {
        said.push(one);
    }
    said
}

#[tokio::test]
async fn those_for_whom_no_task_waits_are_told_their_own_answers_in_any_order() {
    let mut lab = Lab::new().await;
    let heard = lab.tell(20, PATIENCE);
    let mut queries = lab.read().await;
    assert_eq!(queries.len(), 20, "in one segment");
    queries.reverse();
    lab.answer(&queries[..7]).await;
    yield_now().await;
    lab.answer(&queries[7..]).await;
    let ids = queries.iter().map(|query| Heard::Answered(id(query)));
    assert_eq!(all(heard).await, ids.collect::<Vec<_>>());
    assert_eq!(
        (
            lab.connection.usage(20, Instant::now()).places,
            lab.connection.room(20)
        ),
        (0, 20)
    );
}

#[tokio::test]
async fn an_end_is_told_to_those_for_whom_no_task_waits_and_to_one_of_them_as_a_failure() {
    let mut lab = Lab::new().await;
    let heard = lab.tell(3, PATIENCE);
    let waiting = lab.ask(1);
    lab.read().await;
    drop(lab.server);
    let stale = || Heard::Failed(Failure::Stale);
    let first = Heard::Failed(Failure::Outcome(Outcome::Closed));
    assert_eq!(all(heard).await, [first, stale(), stale()]);
    assert_eq!(results(waiting).await, [Err(Failure::Stale)]);
}

#[tokio::test]
async fn whose_time_is_up_is_told_so_once_and_alone() {
    let mut lab = Lab::new().await;
    let (mut late, mut patient) = (lab.tell(2, WHILE), lab.tell(1, PATIENCE));
    let queries = lab.read().await;
    lab.answer(&queries[..1]).await;
    assert_eq!(late.recv().await, Some(Heard::Answered(id(&queries[0]))));
    assert_eq!(late.recv().await, Some(Heard::Late(id(&queries[1]))));
    assert_eq!(late.recv().await, None);
    // It has given its place up: no more is asked there, and what was is answered.
    assert_eq!(lab.connection.room(9), 0);
    lab.answer(&queries[1..]).await;
    assert_eq!(patient.recv().await, Some(Heard::Answered(id(&queries[2]))));
}

/// Gives its place away when it is late.
#[derive(Debug)]
struct Late(Question, Place, mpsc::UnboundedSender<Place>);
impl Asker for Late {
    fn question(&self) -> &Question {
        &self.0
    }

    fn answered(self: Box<Self>, _: Exchanged, _: Instant) {}

    fn failed(self: Box<Self>, _: Failure) {}

    fn is_late(self: Box<Self>) {
        let Self(_, place, told) = *self;
        told.send(place).unwrap();
    }
}

#[tokio::test]
async fn a_late_one_may_be_waited_on_from_then_on() {
    let mut lab = Lab::new().await;
    let question = Question::of(&Name::ROOT, 1);
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut place = Place::on(&lab.connection);
    place.ask(&question, DRAW, false);
    let (id, due) = (place.id.unwrap(), Instant::now() + WHILE);
    let asker = Box::new(Late(question, place, told));
    Place::tell(&lab.connection, id, due, asker);
    let place = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    let telemetry = Arc::clone(&lab.telemetry);
    let cells = telemetry.resolve.upstream(0);
    let (answer, ()) = tokio::join!(place.answer(&question, cells), async {
        let queries = lab.read().await;
        lab.answer(&queries).await;
    });
    answer.unwrap();
}

#[tokio::test]
async fn lies_are_counted_and_reach_none_of_those_for_whom_no_task_waits() {
    let mut lab = Lab::new().await;
    let heard = lab.tell(1, PATIENCE);
    let queries = lab.read().await;
    let right = response(&queries[0]);
    let (mut foreign, mut other) = (right.clone(), right.clone());
    foreign[0] ^= 0x80;
    other[HEADER + 2] = 28;
    let frames = [frame(&foreign), frame(&other), frame(&right)].concat();
    lab.server.write_all(&frames).await.unwrap();
    assert_eq!(all(heard).await, [Heard::Answered(id(&queries[0]))]);
    assert_eq!(lab.count(Outcome::WrongId), 1);
    assert_eq!(lab.count(Outcome::WrongQuestion), 1);
}

#[test]
fn those_for_whom_no_task_waits_go_with_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let (lab, mut heard) = runtime.block_on(async {
        let mut lab = Lab::new().await;
        let heard = lab.tell(2, PATIENCE);
        lab.read().await;
        (lab, heard)
    });
    drop(runtime);
    assert_eq!(heard.try_recv(), Ok(Heard::Dropped));
    assert_eq!(heard.try_recv(), Ok(Heard::Dropped));
    assert_eq!(lab.connection.room(9), 0);
}

#[tokio::test]
async fn a_connection_that_nobody_has_any_more_is_closed() {
    let mut lab = Lab::new().await;
    let heard = lab.tell(1, PATIENCE);
    let queries = lab.read().await;
    lab.answer(&queries).await;
    assert_eq!(all(heard).await.len(), 1);
    drop(lab.connection);
    let end = timeout(PATIENCE, lab.server.read(&mut [0; 9])).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}

/// Waits until a connection is found unusable.
async fn until_unusable(connection: &Connection) {
    let watching = async {
        while connection.is_usable(Instant::now(), PATIENCE) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, watching).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_usable_until_its_end_or_what_nobody_asked_for_comes() {
    for octets in [&[][..], &[0], &[0, 1, 7], &[0, 3, 1, 2, 3]] {
        let mut lab = Lab::new().await;
        let asked = lab.ask(1);
        let queries = lab.read().await;
        lab.answer(&queries).await;
        assert!(results(asked).await[0].is_ok());
        assert!(lab.connection.is_usable(Instant::now(), PATIENCE));
        lab.server.write_all(octets).await.unwrap();
        if octets.is_empty() {
            drop(lab.server);
        }
        until_unusable(&lab.connection).await;
        assert_eq!(lab.connection.usage(20, Instant::now()).places, 0);
    }
}

#[tokio::test]
async fn an_asker_that_was_told_takes_nothing_from_who_has_its_id_now() {
    let lab = Lab::new().await;
    let question = Question::of(&Name::ROOT, 1);
    let mut told = Place::on(&lab.connection);
    told.ask(&question, DRAW, false);
    lock(&lab.connection.wire).answered(DRAW, Instant::now());
    let heard = lab.tell(1, PATIENCE);
    told.end();
    drop(told);
    assert_eq!(lab.connection.room(9), 8, "still in use, with one on it");
    drop(lab);
    assert_eq!(all(heard).await, [Heard::Failed(Failure::Stale)]);
}
