// SPDX-License-Identifier: Apache-2.0
//! What the signals of the system mean: SIGTERM and SIGINT drain and, the second time, end the
//! process at once; SIGHUP reloads, and so does SIGUSR1, which is node-cache's signal for it.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop gracefully.
    Drain,
    /// Stop at once: a drain was already asked for.
    ExitNow,
    /// Read the configuration again.
    Reload,
}

/// The signals of this process from now on. Once made, none of them kills it by default any more.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    user: unix::Signal,
    is_draining: bool,
}

impl Signals {
    /// Takes over the signals. Needs the tokio runtime that will wait for them.
    ///
    /// # Errors
    /// When the system does not let us handle one of them.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
            user: unix::signal(SignalKind::user_defined1())?,
            is_draining: false,
        })
    }

    /// The next signal. Signals of one kind that come faster than they are taken become one.
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Signal {
        // A stop goes before a reload that came at the same time.
        tokio::select! {
            biased;
            Some(()) = self.terminate.recv() => self.stop(),
            Some(()) = self.interrupt.recv() => self.stop(),
            Some(()) = self.hangup.recv() => Signal::Reload,
            Some(()) = self.user.recv() => Signal::Reload,
            // Each stream ends only with the runtime.
            else => std::future::pending().await,
        }
    }

    fn stop(&mut self) -> Signal {
        if std::mem::replace(&mut self.is_draining, true) {
            Signal::ExitNow
        } else {
            Signal::Drain
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn the_first_stop_drains_the_second_exits_and_a_hangup_reloads() {
        let mut signals = Signals::new().unwrap();
        for (number, expected) in [
            (Number::HUP, Signal::Reload),
            (Number::TERM, Signal::Drain),
            (Number::USR1, Signal::Reload),
            (Number::INT, Signal::ExitNow),
            (Number::TERM, Signal::ExitNow),
        ] {
            kill_process(getpid(), number).unwrap();
            assert_eq!(signals.next().await, expected, "{number:?}");
        }
    }
}
