// SPDX-License-Identifier: Apache-2.0
//! Health, readiness and metrics over HTTP, on the cold thread; over the admin socket also what is
//! held and how the agent is doing.
//!
//! Whoever reaches these ports must not be able to harm the agent through them: kubelet kills a
//! process whose `/healthz` does not answer. So the number of connections is bounded, every one
//! of them has an end, and at the bound the oldest goes rather than the newest: a page takes a
//! millisecond, so the oldest is one that says nothing, and a probe gets through a crowd of them.

mod ask;
mod body;
pub mod control;
mod pages;
mod server;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use self::ask::{CLIENTS, DUMP, FLUSH, GET, STATS, STATUS};
use crate::beside;
use crate::config;
use crate::inspect::{Inspector, page};
use crate::lifecycle::ready::Health;
use crate::telemetry::registry::Telemetry;

/// How often a port is tried that somebody else has.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The page of the admin socket that ends the steering.
pub const RETIRE: &str = "/retire";

/// Looks who asks.
pub type Clients = Box<dyn Fn() -> page::Clients + Send + Sync>;

/// What came of an order to retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// The kernel has nothing of ours left that steers.
    Done,
    /// It never had.
    WasOff,
    /// It took too long.
    NotYet,
}

/// Has the agent retire; resolves when it has.
pub type Retire = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Retired> + Send>> + Send + Sync>;

/// What the pages tell of.
pub struct AdminState {
    /// For `/healthz` and `/readyz`.
    pub health: Arc<Health>,
    /// For `/metrics`.
    pub telemetry: Arc<Telemetry>,
    /// For `/retire`.
    pub retire: Retire,
    /// For `/clients`.
    pub clients: Clients,
    /// For `/status` and all below `/cache`.
    pub inspector: Arc<Inspector>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// Which pages a listener has, besides `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// `/healthz` and `/readyz`.
    Health,
    /// `/metrics`.
    Metrics,
    /// All of them.
    All,
    /// All of them, and what changes the agent: for the admin socket alone.
    Control,
}

/// An admin address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for {pages} ({origin})")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What would have been found there.
    pub pages: Pages,
    /// Where the address was configured.
    pub origin: config::Origin,
    /// What the system says.
    pub source: io::Error,
}

/// Where the pages are served.
#[derive(Debug, Default)]
pub struct Doors {
    /// With which pages.
    pub open: Vec<(TcpListener, Pages)>,
    /// Somebody else has them: each is tried again until it can be had.
    pub taken: Vec<(SocketAddr, Pages)>,
}

/// Listens on the configured addresses, on each once. `[::]` is all addresses of both families, as in
/// Go. Gives what it has, and every address that the system refuses.
#[must_use]
pub fn bind(admin: &config::Admin) -> (Vec<(TcpListener, Pages)>, Vec<BindError>) {
    bind_with(admin, beside::listen_tcp)
}

/// As [`bind`], with what listens.
fn bind_with(
    admin: &config::Admin,
    listen: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> (Vec<(TcpListener, Pages)>, Vec<BindError>) {
    let mut listeners = Vec::new();
    let mut errors = Vec::new();
    for (address, pages, origin) in wanted(admin) {
        match listen(address) {
            Ok(listener) => listeners.push((listener, pages)),
            // A kernel without IPv6: all addresses are those of IPv4.
            Err(source) if is_without_family(&source) && address.ip().is_unspecified() => {}
            Err(source) => errors.push(BindError {
                address,
                pages,
                origin: origin.clone(),
                source,
            }),
        }
    }
    (listeners, errors)
}

/// Where is listened, for what.
fn wanted(admin: &config::Admin) -> Vec<(SocketAddr, Pages, &config::Origin)> {
    let named = [
        (&admin.health, Pages::Health),
        (&admin.metrics, Pages::Metrics),
    ];
    let also = admin.also.iter().map(|located| (located, Pages::All));
    let mut wanted: Vec<(SocketAddr, Pages, _)> = Vec::new();
    for (located, pages) in named.into_iter().chain(also) {
        let written = located.value;
        // Two sockets: one for both families would be kept away by whoever has either.
        let is_both = written.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && written.port() != 0;
        let of_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, written.port()));
        for address in is_both.then_some(of_v4).into_iter().chain([written]) {
            match wanted.iter_mut().find(|one| one.0 == address) {
                Some(one) if one.1 != pages => one.1 = Pages::All,
                Some(_) => {}
                None => wanted.push((address, pages, &located.origin)),
            }
        }
    }
    wanted
}

/// Whether the kernel does not know the family of an address at all.
fn is_without_family(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

/// Serves the pages until `shutdown` resolves; a drain alone does not end it. Connections still
/// open are then closed.
///
/// # Errors
/// When the runtime does not take a listener. Nothing that a client does ends it.
pub async fn serve(
    doors: Doors,
    control: Option<UnixListener>,
    state: Arc<AdminState>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(
        [server::Limits::default(), server::Limits::control()],
        doors,
        control,
        state,
        shutdown,
    )
    .await
}

async fn serve_within(
    [limits, of_control]: [server::Limits; 2],
    doors: Doors,
    control: Option<UnixListener>,
    state: Arc<AdminState>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut loops = JoinSet::new();
    for (address, pages) in doors.taken {
        let state = Arc::clone(&state);
        loops.spawn(async move {
            let listener = wait_for(address, pages).await;
            server::accept(listener, pages, state, limits).await;
        });
    }
    for (listener, pages) in doors.open {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loops.spawn(server::accept(listener, pages, Arc::clone(&state), limits));
    }
    if let Some(control) = control {
        control.set_nonblocking(true)?;
        let control = tokio::net::UnixListener::from_std(control)?;
        let pages = Pages::Control;
        loops.spawn(server::accept(
            control,
            pages,
            Arc::clone(&state),
            of_control,
        ));
    }
    shutdown.await;
    loops.shutdown().await;
    Ok(())
}

/// Waits until whoever has the address has gone.
async fn wait_for(address: SocketAddr, pages: Pages) -> tokio::net::TcpListener {
    loop {
        sleep(TRY_AGAIN).await;
        let listener = beside::listen_tcp(address).and_then(tokio::net::TcpListener::from_std);
        if let Ok(listener) = listener {
            tracing::info!(%address, %pages, "the port is free: served there from now on");
            return listener;
        }
    }
}

#[cfg(test)]
mod tests;
