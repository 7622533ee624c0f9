// SPDX-License-Identifier: Apache-2.0
//! The hot side: one pinned thread and one socket a listen address for each CPU. No async
//! runtime, no log, no allocation after the start but for long names that are handed over.
//!
//! ```text
//! socket of this CPU ─► batch ─► parse ─► cache ─┬─ hit ──► answer in place ─► send batch
//!                                                └─ miss ─► queue to the cold side
//! ```

mod batch;
mod socket;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub use self::batch::{BATCH, Batch, Datagram, Sent};
pub use self::socket::{Group, Queue, give_way, keep_connections};
use self::worker::{Command, GROUP, Mailbox, Parsed, Worker};
use crate::cache::Reader;
use crate::miss::Sender;
use crate::telemetry::answers::Hits;
use crate::telemetry::cells::WorkerCells;

/// Most workers.
pub const MAX_WORKERS: usize = 64;

/// Stack of a worker in octets: its buffers are on the heap.
const STACK: usize = 128 << 10;

/// CPUs that the process may run on, as many as there may be workers.
#[must_use]
pub fn default_workers() -> usize {
    let cpus = sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    cpus.clamp(1, MAX_WORKERS)
}

/// What one worker is made from.
#[derive(Debug)]
pub struct Seat {
    /// Its way into the cache.
    pub reader: Reader,
    /// Where its misses go.
    pub misses: Sender,
    /// What it counts in.
    pub cells: Arc<WorkerCells>,
}

/// Called with what ended a worker that was not told to end.
pub type Failed = Arc<dyn Fn(&str) + Send + Sync>;

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    desk: Desk,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("count", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts a worker a seat, each on its CPU. They serve nothing yet. `udp_size` is the largest
    /// answer in octets; `begin` is each thread's first act.
    ///
    /// # Errors
    /// The system has no thread or no descriptor for us.
    pub fn start(
        seats: Vec<Seat>,
        udp_size: u16,
        failed: &Failed,
        begin: fn(),
    ) -> io::Result<Self> {
        let count = seats.len();
        let mask = sched_getaffinity(None).ok();
        let mut workers = Self {
            threads: Vec::with_capacity(count),
            desk: Desk::default(),
        };
        for (number, seat) in seats.into_iter().enumerate() {
            let mailbox = Arc::new(Mailbox::new()?);
            let worker = Worker {
                reader: seat.reader,
                misses: seat.misses,
                cells: seat.cells,
                mailbox: Arc::clone(&mailbox),
                udp_size,
                sockets: BTreeMap::new(),
                batch: Batch::new(usize::from(udp_size)),
                group: Box::new([Parsed::NONE; GROUP]),
                hits: Hits::with_capacity(BATCH),
            };
            let cpus = mask.map(|mask| cpus_of(number, count, &mask));
            let failed = Arc::clone(failed);
            let thread = Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(STACK)
                .spawn(move || {
                    begin();
                    live(worker, cpus, &failed);
                })?;
            workers.threads.push(thread);
            workers.desk.mailboxes.push(mailbox);
        }
        Ok(workers)
    }

    /// Where commands to the workers go.
    #[must_use]
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Has every worker answer what waits, and waits until all have ended.
    pub fn stop(self) {
        for mailbox in &self.desk.mailboxes {
            mailbox.send([Command::Stop]);
        }
        for sockets in self.desk.served().values() {
            wake(sockets);
        }
        for thread in self.threads {
            // A worker that panicked has said so through `failed`.
            let _ = thread.join();
        }
    }
}

/// Tells the workers what to serve.
#[derive(Clone, Default)]
pub struct Desk {
    mailboxes: Vec<Arc<Mailbox>>,
    /// The sockets of each listener, in the order of the workers.
    served: Arc<Mutex<BTreeMap<u32, Sockets>>>,
}

/// One socket a worker.
type Sockets = Vec<Arc<UdpSocket>>;

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Has every worker serve its member of each group, under the group's number.
    pub fn open(&self, groups: &[(u32, &Group)]) {
        for (number, group) in groups {
            self.served().insert(*number, group.sockets.clone());
        }
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            mailbox.send(groups.iter().filter_map(|(number, group)| {
                Some(Command::Open {
                    listener: *number,
                    socket: Arc::clone(group.sockets.get(worker)?),
                    asked: Arc::clone(&group.asked),
                })
            }));
        }
    }

    /// Has every worker answer what waits at a listener and let go of it.
    pub fn close(&self, listener: u32) {
        let sockets = self.served().remove(&listener);
        for mailbox in &self.mailboxes {
            mailbox.send([Command::Close { listener }]);
        }
        wake(&sockets.unwrap_or_default());
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<u32, Sockets>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes workers that wait in a receiving call, for good: Linux wakes them even though it says that
/// a UDP socket is not connected. One that is not woken looks by itself within a second.
fn wake(sockets: &[Arc<UdpSocket>]) {
    for socket in sockets {
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
    }
}

fn live(worker: Worker, cpus: Option<CpuSet>, failed: &Failed) {
    if let Some(cpus) = cpus {
        // Where it is refused the worker runs wherever the scheduler has it: slower, not wrong.
        let _ = sched_setaffinity(None, &cpus);
    }
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed(&error.to_string()),
        Err(_) => failed("panicked"),
    }
}

/// The CPUs whose queries come to worker `number` of `count` (the BPF program takes the CPU's
/// number modulo the count); all of the mask where that is none.
fn cpus_of(number: usize, count: usize, mask: &CpuSet) -> CpuSet {
    let mut cpus = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu) && cpu % count == number) {
        cpus.set(cpu);
    }
    if cpus.count() == 0 { *mask } else { cpus }
}

#[cfg(test)]
mod tests;
