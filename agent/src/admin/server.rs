// SPDX-License-Identifier: Apache-2.0
//! Connections: taken, bounded, ended.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::{AdminState, Pages, pages};

/// Largest head of a request in octets. Prometheus and kubelet send some 300.
const LARGEST_HEAD: usize = 8 << 10;

/// Most header fields of a request.
const MOST_HEADERS: usize = 64;

/// How long accepting rests when the system has no descriptor or memory for a connection.
const REST: Duration = Duration::from_millis(100);

/// Bounds on what clients may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at one time on one listener: a flood at `/metrics` leaves `/healthz` alone
    /// where they have addresses of their own.
    pub(super) connections: usize,
    /// From the beginning of a connection, or from the last response, to the end of the next
    /// request's head: ends silent clients, slow ones and idle connections alike.
    pub(super) head_timeout: Duration,
    /// A connection as a whole. It may be in the middle of a response then, and has
    /// `head_timeout` once more to finish it.
    pub(super) lifetime: Duration,
}

impl Limits {
    /// For the admin socket, which root and the agent's user alone may open: `POST /retire` takes as
    /// long as `limits.drainTimeout` lets it, and a dump as long as somebody reads it.
    pub(super) fn control() -> Self {
        Self {
            lifetime: Duration::from_secs(600),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head_timeout: Duration::from_secs(5),
            lifetime: Duration::from_secs(60),
        }
    }
}

/// Where connections come from.
pub(super) trait Listener: Send {
    /// One of them.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes connections for ever.
pub(super) async fn accept<L: Listener>(
    listener: L,
    pages: Pages,
    state: Arc<AdminState>,
    limits: Limits,
) {
    let mut connections = Connections::default();
    let mut was_well = true;
    loop {
        let stream = match listener.next().await {
            Ok(stream) => stream,
            // That connection has gone again; the next may be there.
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                if was_well {
                    tracing::warn!(pages = %pages, error = %error, "cannot accept connections");
                }
                was_well = false;
                if connections.drop_oldest() {
                    // Its descriptor is free when its task has been run once more.
                    yield_now().await;
                } else {
                    sleep(REST).await;
                }
                continue;
            }
        };
        was_well = true;
        if connections.count() >= limits.connections {
            connections.drop_oldest();
        }
        connections.add(serve(stream, pages, Arc::clone(&state), limits));
        // Lets it answer before it can become the oldest.
        yield_now().await;
    }
}

/// Whether an error of accept says something of the one connection only (accept(2)).
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

/// Connections of one listener, the oldest first.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(connection);
        self.by_age.push_back(handle);
    }

    /// How many are left, those not counted that have ended.
    fn count(&mut self) -> usize {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|connection| !connection.is_finished());
        self.by_age.len()
    }

    /// Closes the oldest, if there is one.
    fn drop_oldest(&mut self) -> bool {
        self.count();
        let oldest = self.by_age.pop_front();
        if let Some(connection) = &oldest {
            connection.abort();
        }
        oldest.is_some()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    pages: Pages,
    state: Arc<AdminState>,
    limits: Limits,
) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(pages::answer(&request, pages, &state).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(MOST_HEADERS)
            .max_buf_size(LARGEST_HEAD)
            // `printf 'GET …' | nc` ends its side before it reads.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
    );
    // What went wrong is the client's affair in every case: it left, was slow, or spoke no HTTP.
    if timeout(limits.lifetime, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.head_timeout, connection).await;
    }
}
