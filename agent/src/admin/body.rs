// SPDX-License-Identifier: Apache-2.0
//! Bodies of answers: a page, or a dump that is made as fast as it is read and no faster.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::task::yield_now;

use crate::inspect::dump::Dump;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// A page.
    Page(Full<Bytes>),
    /// A dump.
    Dump(Box<Lines>),
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Page(Full::new(Bytes::from(text)))
    }
}

/// The lines of a dump.
pub(super) struct Lines {
    dump: Dump,
    /// Everybody else's turn: the runtime looks for what has come on its sockets before this ends.
    rest: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("dump", &self.dump).finish()
    }
}

impl Lines {
    pub(super) fn of(dump: Dump) -> Box<Self> {
        Box::new(Self { dump, rest: None })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Page(page) => Pin::new(page).poll_frame(context),
            Self::Dump(lines) => loop {
                if let Some(rest) = &mut lines.rest {
                    ready!(rest.as_mut().poll(context));
                }
                lines.rest = Some(Box::pin(yield_now()));
                match lines.dump.piece() {
                    None => return Poll::Ready(None),
                    Some(piece) if piece.is_empty() => {}
                    Some(piece) => return Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Dump(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Dump(_) => SizeHint::default(),
        }
    }
}
