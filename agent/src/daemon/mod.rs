// SPDX-License-Identifier: Apache-2.0
//! The only wiring: builds the parts in order, and ends them in order.
//!
//! | thread | runs |
//! |---|---|
//! | main | waits for the end |
//! | worker-N | [`crate::serve`] |
//! | cold | [`crate::resolve`], [`crate::stream`], [`crate::admin`], signals, reload |
//! | pulse | [`crate::lifecycle::pulse`] |
//! | take-over | [`crate::lifecycle::takeover`] |

mod cold;
mod follow;
mod ground;
mod scrape;
mod steer;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;

use self::cold::Cold;
use self::ground::{Ground, Tools};
use crate::admin::{self, Doors};
use crate::cache::{Cache, Draft, Tick};
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::config::{Config, Listen, Loaded, Problem, Sources};
use crate::lifecycle::orders::Orders;
use crate::lifecycle::privileges;
use crate::lifecycle::pulse::{self, PULSE_NAME, PULSE_TYPE, Pulse};
use crate::lifecycle::ready::Health;
use crate::lifecycle::reload::Reload;
use crate::lifecycle::steering::Steering;
use crate::lifecycle::takeover::TakeOver;
use crate::listeners::{self, Bound, Listeners};
use crate::miss;
use crate::resolve::{Resolver, Routes};
use crate::serve::{self, Failed, Seat, Workers};
use crate::stream::Streams;
use crate::telemetry::clock::Clock;
use crate::telemetry::counters::NO_ZONE;
use crate::telemetry::log;
use crate::telemetry::registry::Telemetry;
use crate::wire::answer::Answer;
use crate::wire::name::Name;
use crate::wire::question::Question;

/// Readers of the cache beside the workers: resolver and streams.
const COLD_READERS: usize = 2;

/// The daemon's own end of the command line: starts, waits, says how it ended.
#[must_use]
pub fn run(loaded: Loaded, sources: Sources) -> ExitCode {
    let log = log::init(&loaded.config.log).ok();
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "the configuration has a warning");
    }
    privileges::begin();
    match Running::start(loaded, sources, log) {
        Ok(running) => running.wait().into(),
        Err(error) => error.report().into(),
    }
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something that the configuration asks for cannot be had.
    #[error("the configuration cannot be put in force")]
    Configuration(Vec<Problem>),
    /// The kernel refused what interception takes.
    #[error("set up the node's network")]
    Network(#[source] Box<nodens_netsetup::Error>),
    /// No upstream could be reached, and `--require-upstream` was given.
    #[error("no upstream can be reached")]
    NoUpstream,
    /// A signal asked for the end while an upstream was waited for.
    #[error("stopped before an upstream was reached")]
    Stopped,
    /// The system has no memory, thread or descriptor for us.
    #[error("start: {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    fn report(&self) -> Exit {
        match self {
            Self::Configuration(problems) => {
                output::complain_of(problems);
                Exit::Usage
            }
            Self::Network(error) => {
                output::complain(&format!(
                    "cannot start: {}\n",
                    output::chain(error.as_ref())
                ));
                Exit::Network
            }
            Self::NoUpstream => {
                output::complain(
                    "no upstream took a connection for 10 s, and --require-upstream was given; check the \
                     upstreams of zone . and that CoreDNS runs\n",
                );
                Exit::NoUpstream
            }
            Self::Stopped => {
                output::complain("stopped before an upstream took a connection\n");
                Exit::Done
            }
            Self::System { step, source } => {
                output::complain(&format!("cannot start: {step}: {source}\n"));
                Exit::Bug
            }
        }
    }
}

/// How the daemon came to its end.
#[derive(Debug)]
enum End {
    /// A signal asked for it.
    Drain,
    /// Those who waited have their answers: the workers may end.
    StopWorkers,
    /// A second signal asked for it.
    Now,
    /// A part failed that nothing goes on without.
    Failed(String),
}

/// The running daemon.
#[derive(Debug)]
pub struct Running {
    /// Where DNS is served.
    pub dns: Vec<SocketAddr>,
    /// Where health and metrics are.
    pub admin: Vec<SocketAddr>,
    workers: Workers,
    ends: mpsc::Receiver<End>,
    /// Tells the cold thread that the workers have ended.
    workers_ended: oneshot::Sender<()>,
    cold: JoinHandle<()>,
    _pulse: Pulse,
    _take_over: Option<TakeOver>,
}

impl Running {
    /// Starts everything: what listeners stand on, listeners, those who serve them, those who
    /// watch; and when all of them have answered, the kernel steers queries here.
    ///
    /// # Errors
    /// Says what could not be had; nothing is left running.
    pub fn start(
        loaded: Loaded,
        sources: Sources,
        log: Option<log::LogControl>,
    ) -> Result<Self, StartError> {
        // Nothing else is opened before it.
        let laid = match &loaded.config.intercept.plan {
            Some(plan) => Some(Ground::lay(&steer::beside_others(plan)).map_err(refused)?),
            None => None,
        };
        let (ground, tools) = laid.unzip();
        let started = Self::start_on(ground.as_ref(), tools, loaded, sources, log);
        if started.is_err()
            && let Some(ground) = ground
        {
            ground.take_back();
        }
        // What is left to be done needs no right of the main thread's.
        privileges::drop_all();
        started
    }

    fn start_on(
        ground: Option<&Ground>,
        tools: Option<Tools>,
        loaded: Loaded,
        sources: Sources,
        log: Option<log::LogControl>,
    ) -> Result<Self, StartError> {
        let Loaded {
            config,
            file,
            footprint,
            ..
        } = loaded;
        let count = usize::from(config.workers.unwrap_or(0));
        let count = if count == 0 {
            serve::default_workers()
        } else {
            count
        };
        raise_descriptor_limit();
        let listen = steer::listen(&config, ground.map(|ground| &ground.plan));
        let (bound, admin) = bind(&config, &listen, count).map_err(StartError::Configuration)?;
        let control = steer::control(&config).map_err(StartError::Configuration)?;
        let admin_addresses = admin
            .open
            .iter()
            .filter_map(|(listener, _)| listener.local_addr().ok());
        let admin_addresses: Vec<SocketAddr> = admin_addresses.collect();
        let cache = Cache::new(config.cache.size_bytes, count + COLD_READERS)
            .map_err(system("map the cache's memory"))?;
        pin_pulse_name(&cache);
        let telemetry = Arc::new(Telemetry::new(count));
        let routes = Routes::new(&config.zones, &telemetry, None);
        let (sender, queue, ear) = miss::queue().map_err(system("make the queue of misses"))?;
        let seats = telemetry.workers.iter().filter_map(|cells| {
            Some(Seat {
                reader: cache.reader()?,
                misses: sender.clone(),
                cells: Arc::clone(cells),
            })
        });
        let (end, ends) = mpsc::channel();
        let failed: Failed = {
            let end = end.clone();
            Arc::new(move |why| {
                let _ = end.send(End::Failed(format!("a worker ended: {why}")));
            })
        };
        let udp_size = config.listen.udp_size;
        let begin = privileges::drop_all;
        let workers = Workers::start(seats.collect(), udp_size, &failed, begin)
            .map_err(system("start the workers"))?;
        let (Some(resolving), Some(streaming)) = (cache.reader(), cache.reader()) else {
            return Err(StartError::System {
                step: "read the cache",
                source: io::Error::other("no place for a reader"),
            });
        };
        let resolver = Resolver::new(
            cache.clone(),
            resolving,
            routes,
            config.limits.clone(),
            config.cache.clone(),
            config.listen.udp_size,
            Arc::clone(&telemetry),
        );
        let mut listeners = Listeners::new(workers.desk(), Arc::clone(&resolver));
        let accepting = listeners.open(bound);
        let dns = listeners.addresses();
        let health = Arc::new(Health::new(&dns, &pulse::cpus(), Clock.now_ns()));
        let streams = Streams::new(
            Arc::clone(&resolver),
            streaming,
            Arc::clone(&telemetry.stream),
            Arc::clone(&health),
            &config.listen,
        );
        scrape::connect(&telemetry, &config, &cache, &health, &listeners);
        telemetry.agent.config_read_from(file);
        telemetry.agent.config_loaded(Clock.wall().as_secs());
        let (workers_ended, workers_have_ended) = oneshot::channel();
        let (started, has_started) = mpsc::channel();
        let (zones, cache_size) = (config.zones.len(), config.cache.size_bytes);
        let orders = Arc::new(Orders::new().map_err(system("make the pulse's bell"))?);
        let sockets = listeners.sockets();
        let steering = ground.map(|ground| Arc::new(Steering::new(&ground.plan.lanes())));
        let sweep = config.intercept.sweep;
        let steer = ground.zip(tools).zip(steering.as_ref());
        let steer = steer.map(|((ground, tools), steering)| {
            let around = steer::Around {
                config: &config,
                health: &health,
                telemetry: &telemetry,
                sockets,
            };
            steer::interception(ground, tools, steering, &around)
        });
        let (interception, arming) = steer.unzip();
        let clients = steer::clients(ground.map(|ground| &ground.plan), listeners.asked());
        let retire = steer::retire(arming.is_some(), &orders, &streams, &config);
        let cold = Cold {
            queue,
            ear,
            resolver: Arc::clone(&resolver),
            streams,
            accepting,
            listeners,
            listen,
            workers: count,
            admin,
            control: control.map(|listener| (listener, config.admin.socket.value.clone())),
            retire,
            clients,
            orders: Arc::clone(&orders),
            health: Arc::clone(&health),
            telemetry: Arc::clone(&telemetry),
            cache: cache.clone(),
            end,
            workers_have_ended,
            require_upstream: sources.require_upstream,
            reload: Reload {
                sources,
                config,
                footprint,
                cache,
                resolver,
                telemetry,
                log,
            },
        };
        let cold = Builder::new()
            .name("cold".to_owned())
            .spawn(move || cold.live(&started))
            .map_err(system("start the cold thread"))?;
        match has_started.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                workers.stop();
                return Err(error);
            }
            Err(_) => {
                workers.stop();
                return Err(StartError::System {
                    step: "start the cold thread",
                    source: io::Error::other("it ended at once"),
                });
            }
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = count,
            listen = ?dns,
            admin = ?admin_addresses,
            zones,
            cache_size,
            "serving"
        );
        let begin = match interception {
            Some(_) => privileges::keep_network,
            None => privileges::drop_all,
        };
        let pulse =
            Pulse::start(health, orders, interception, begin).map_err(system("start the pulse"))?;
        if let Some(arming) = arming {
            steer::wait_until_armed(&arming);
        }
        let take_over = ground.zip(steering).map(|(ground, steering)| {
            let begin = privileges::keep_rules;
            TakeOver::start(ground.plan.clone(), sweep, steering, begin)
        });
        let take_over = take_over.transpose();
        Ok(Self {
            dns,
            admin: admin_addresses,
            workers,
            ends,
            workers_ended,
            cold,
            _pulse: pulse,
            _take_over: take_over.map_err(system("start the thread take-over"))?,
        })
    }

    /// Waits for the end; drains where that is asked for.
    #[must_use]
    pub fn wait(self) -> Exit {
        let mut workers = Some((self.workers, self.workers_ended));
        let mut is_draining = false;
        loop {
            match self.ends.recv() {
                Ok(End::Drain) => is_draining = true,
                Ok(End::StopWorkers) => {
                    let Some((workers, ended)) = workers.take() else {
                        continue;
                    };
                    // Beside this thread, which must hear a second signal.
                    let stopping = Builder::new().name("drain".to_owned()).spawn(move || {
                        workers.stop();
                        let _ = ended.send(());
                    });
                    if let Err(error) = stopping {
                        tracing::error!(%error, "no thread for the drain");
                        return Exit::Bug;
                    }
                }
                Ok(End::Now) => {
                    tracing::warn!("a second signal: ending at once");
                    return Exit::Done;
                }
                Ok(End::Failed(why)) => {
                    tracing::error!(why, "a part of the agent has failed");
                    return Exit::Bug;
                }
                // The cold thread has let go of its end, and so have the workers.
                Err(_) if is_draining => break,
                Err(_) => {
                    tracing::error!("the cold thread ended by itself");
                    return Exit::Bug;
                }
            }
        }
        if self.cold.join().is_err() {
            tracing::error!("the cold thread has panicked");
            return Exit::Bug;
        }
        Exit::Done
    }
}

/// Takes as many file descriptors as the hard limit allows. Container runtimes start with a soft
/// limit of 1024, for the sake of programs that use select(2): clients' connections alone could use
/// that up, and no upstream could be reached any more.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft = ?limit.current, "cannot raise the limit on file descriptors");
    }
}

/// Binds all that is listened on, or names all that cannot be. Where queries are intercepted, health
/// and metrics wait for a port that somebody has, as node-cache has some beside us: a node without a
/// page is better off than one without an agent.
fn bind(
    config: &Config,
    listen: &Listen,
    workers: usize,
) -> Result<(Vec<Bound>, Doors), Vec<Problem>> {
    let dns = listeners::bind_all(listen, workers);
    let (open, refused) = admin::bind(&config.admin);
    let mut doors = Doors {
        open,
        ..Doors::default()
    };
    let mut problems = Vec::new();
    for error in refused {
        let key = "port there";
        let problem = listeners::problem(&error.origin, error.address, "TCP", key, &error.source);
        if config.intercept.enabled && error.source.kind() == io::ErrorKind::AddrInUse {
            tracing::warn!(%problem, pages = %error.pages, "it is tried again");
            doors.taken.push((error.address, error.pages));
        } else {
            problems.push(problem);
        }
    }
    match dns {
        Ok(dns) if problems.is_empty() => Ok((dns, doors)),
        dns => {
            let mut all = dns.err().unwrap_or_default();
            all.extend(problems);
            Err(all)
        }
    }
}

/// Puts the name that the pulse asks for into the cache for good: it is answered on the path of
/// every other hit, and by no upstream.
fn pin_pulse_name(cache: &Cache) {
    /// A TXT record at the question's name: one string.
    const RECORD: &[u8] = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x06\x05alive";
    const TTL_AT: [u8; 2] = [6, 0];
    let name = Name::parse(PULSE_NAME).unwrap_or(Name::ROOT);
    // Without it the agent would never be ready, and say so.
    let _ = cache.pin(&Draft::new(
        &Question::of(&name, PULSE_TYPE),
        Answer {
            counts: [1, 0, 0],
            records: RECORD,
            ttl_offsets: &TTL_AT,
            ..Answer::NOTHING
        },
        NO_ZONE,
        [Tick(0), Tick::NEVER],
    ));
}

fn refused(error: nodens_netsetup::Error) -> StartError {
    StartError::Network(Box::new(error))
}

fn system(step: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { step, source }
}
