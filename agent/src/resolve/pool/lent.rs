// SPDX-License-Identifier: Apache-2.0
//! What a query has of the pool.

use std::sync::Arc;

use tokio::time::Instant;

use super::End;
use crate::lock::lock;
use crate::resolve::connection::{Asker, Connection, Place};
use crate::resolve::depth::Round;
use crate::resolve::message::Exchanged;
use crate::resolve::upstream::{Failure, Server};
use crate::wire::question::Question;

/// A query's place on a connection to a server. Dropping it gives the connection back where the query
/// was answered.
#[derive(Debug)]
pub(in crate::resolve) struct Lent {
    place: Place,
    server: Arc<Server>,
    round: Option<Round>,
    /// It was given back already.
    is_back: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_back {
            return;
        }
        let is_unanswered = self.place.leave();
        let end = match self.round {
            Some(round) if is_unanswered => End::Unanswered(round),
            _ => End::Known,
        };
        self.server.left(self.place.connection(), &end);
    }
}

impl Lent {
    pub(super) fn new(server: &Arc<Server>, connection: &Arc<Connection>) -> Self {
        Self {
            place: Place::on(connection),
            server: Arc::clone(server),
            round: None,
            is_back: false,
        }
    }

    /// One that asks at once.
    pub(super) fn asking(
        server: &Arc<Server>,
        connection: &Arc<Connection>,
        question: &Question,
        (round, gathers): (Round, bool),
    ) -> Self {
        Self {
            place: Place::asking(connection, question, server.draw(), gathers),
            server: Arc::clone(server),
            round: Some(round),
            is_back: false,
        }
    }

    /// Asks, where a place was waited for.
    pub(in crate::resolve) fn ask(&mut self, question: &Question, now: Instant) {
        let (round, gathers) = lock(self.server.pool()).ask(now);
        self.round = Some(round);
        self.place.ask(question, self.server.draw(), gathers);
    }

    /// Has `asker`, to whom this is given, told what comes of what was asked in this turn of the thread,
    /// or that nothing has come by `due`.
    pub(in crate::resolve) fn tell<A: Asker + 'static>(
        self,
        due: Instant,
        asker: impl FnOnce(Self) -> A,
    ) {
        let connection = Arc::clone(self.place.connection());
        let id = self.place.id();
        let asker = Box::new(asker(self));
        if let Some(id) = id {
            Place::tell(&connection, id, due, asker);
        }
    }

    /// Waits for the answer to what was asked at `sent`. When it came is told, too.
    pub(in crate::resolve) async fn answer(
        &self,
        question: &Question,
        sent: Instant,
    ) -> Result<(Exchanged, Instant), Failure> {
        let (exchanged, now) = self.place.answer(question, self.server.cells()).await?;
        if let Some(round) = self.round {
            lock(self.server.pool()).answered(round, sent, now);
        }
        Ok((exchanged, now))
    }

    /// Gives the place back where an asker was told at `now` of the answer to what was sent at `sent`.
    pub(in crate::resolve) fn was_told(mut self, sent: Instant, now: Instant) {
        if let Some(round) = self.round {
            self.place.end();
            self.is_back = true;
            let end = End::Answered(round, sent, now);
            self.server.left(self.place.connection(), &end);
        }
    }

    /// Whose connection it is.
    pub(in crate::resolve) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Whether the server may not have come to the query because of others before it.
    pub(in crate::resolve) fn is_behind(&self) -> bool {
        self.place.is_behind()
    }

    /// Whether others have places on the same connection.
    pub(in crate::resolve) fn is_shared(&self) -> bool {
        self.place.is_shared()
    }
}
