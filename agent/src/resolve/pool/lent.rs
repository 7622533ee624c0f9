// SPDX-License-Identifier: Apache-2.0
//! What a query has of the pool.

use std::sync::Arc;

use tokio::time::Instant;

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
}

impl Drop for Lent {
    fn drop(&mut self) {
        let is_unanswered = self.place.leave();
        let unanswered = self.round.filter(|_| is_unanswered);
        self.server.left(self.place.connection(), unanswered);
    }
}

impl Lent {
    pub(super) fn new(server: &Arc<Server>, connection: &Arc<Connection>) -> Self {
        Self {
            place: Place::on(connection),
            server: Arc::clone(server),
            round: None,
        }
    }

    /// Asks.
    pub(in crate::resolve) fn ask(&mut self, question: &Question, now: Instant) {
        let gathers = {
            let mut pool = lock(self.server.pool());
            let under_way = pool.under_way;
            self.round = Some(pool.depth.asked(under_way, now));
            pool.depth.allowed(now) > 1
        };
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
        self.answered(sent, now);
        Ok((exchanged, now))
    }

    /// Takes in that what was asked at `sent` was answered at `now`.
    fn answered(&self, sent: Instant, now: Instant) {
        let mut pool = lock(self.server.pool());
        pool.latest = Some(now);
        if let Some(round) = self.round {
            pool.depth.answered(round, now - sent, now);
        }
    }

    /// The same where somebody else was told: there is nothing left to wait for.
    pub(in crate::resolve) fn was_told(&mut self, sent: Instant, now: Instant) {
        self.place.end();
        self.answered(sent, now);
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
