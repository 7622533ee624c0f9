// SPDX-License-Identifier: Apache-2.0
//! node-cache beside the agent, or gone: a thread that looks for what it has left on the node, says
//! so, and removes it where that is wanted. It looks on, for node-cache may end, or begin, while the
//! agent lives.
//!
//! ```text
//! nothing there ◄──────────── removed
//!       │                        ▲
//!       ▼                        │ nobody has listened for a while, intercept.sweep
//!     in use ───────────────► left over ── else ──► named in the log, once
//! ```

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nodens_netsetup::Difference;
use nodens_netsetup::plan::Plan;
use nodens_netsetup::sweep::{self, Incumbent};

use super::steering::Steering;

/// Pause between two looks. A look reads the rules of two small tables, and who listens at one port.
const LOOK: Duration = Duration::from_secs(2);

/// Looks in a row at which nobody listened, before anything is removed: a node-cache that starts puts
/// its address on the node some time before it listens there.
const QUIET_LOOKS: u32 = 5;

/// What is known of node-cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    InUse,
    /// So many looks ago somebody listened.
    Left(u32),
    /// Told, or removed as far as can be.
    Settled,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rest,
    SayInUse,
    SayLeft,
    Sweep,
    SayGone,
}

/// The running thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct TakeOver {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TakeOver {
    /// Starts the thread `take-over`; `begin` runs on it first of all. It ends by itself when the
    /// agent retires.
    ///
    /// # Errors
    /// When the system has no thread for us.
    pub fn start(
        plan: Plan,
        is_sweeping: bool,
        steering: Arc<Steering>,
        begin: fn(),
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("take-over".to_owned())
            .spawn(move || {
                begin();
                say_unsure(&plan);
                let mut seen = Seen::Nothing;
                let mut refused = String::new();
                while !steering.is_retired() {
                    look(&plan, is_sweeping, &mut seen, &mut refused);
                    if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for TakeOver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread take-over has panicked");
        }
    }
}

/// What is never removed, whoever wants it: named at the start.
fn say_unsure(plan: &Plan) {
    let unsure = sweep::look(plan).map(|incumbent| incumbent.unsure());
    let unsure = unsure.unwrap_or_default();
    say(
        &unsure,
        "there may be something of node-cache's on this node",
    );
}

fn say(differences: &[Difference], what: &str) {
    for Difference {
        place,
        found,
        remedy,
        ..
    } in differences
    {
        tracing::warn!(place, found, remedy, "{what}");
    }
}

fn look(plan: &Plan, is_sweeping: bool, seen: &mut Seen, refused: &mut String) {
    let incumbent = match sweep::look(plan) {
        Ok(incumbent) => incumbent,
        Err(error) => return say_refused(&error, refused),
    };
    let (next, step) = seen.next(&Sight::of(&incumbent), is_sweeping);
    *seen = next;
    match step {
        Step::Rest => {}
        Step::SayInUse => say_in_use(&incumbent.users()),
        Step::SayGone => tracing::info!("nothing of node-cache is on this node any more"),
        Step::SayLeft => say(
            &incumbent.differences(),
            "node-cache has left something on this node",
        ),
        Step::Sweep => match sweep::sweep(plan) {
            Ok(swept) => {
                if !swept.removed.is_empty() {
                    let removed = swept.removed.join(", ");
                    tracing::info!(removed, "removed what node-cache had left");
                }
                if !swept.users.is_empty() {
                    *seen = Seen::InUse;
                    say_in_use(&swept.users);
                }
                say(&swept.left, "not removed");
                refused.clear();
            }
            Err(error) => {
                *seen = Seen::Left(QUIET_LOOKS);
                say_refused(&error, refused);
            }
        },
    }
}

fn say_in_use(users: &[String]) {
    tracing::info!(
        by = users.join(", "),
        "node-cache's rules and addresses are in use on this node: they are left alone"
    );
}

/// Once for each thing that the kernel says.
fn say_refused(error: &nodens_netsetup::Error, refused: &mut String) {
    let words = error.to_string();
    if *refused != words {
        tracing::warn!(%error, "cannot look after what node-cache has on this node");
        *refused = words;
    }
}

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Absent,
    InUse,
    LeftOver,
}

impl Sight {
    fn of(incumbent: &Incumbent) -> Self {
        match (incumbent.is_absent(), incumbent.is_in_use()) {
            (true, _) => Self::Absent,
            (_, true) => Self::InUse,
            _ => Self::LeftOver,
        }
    }
}

impl Seen {
    fn next(self, sight: &Sight, is_sweeping: bool) -> (Self, Step) {
        match (self, sight) {
            (Self::Nothing, Sight::Absent) => (Self::Nothing, Step::Rest),
            (_, Sight::Absent) => (Self::Nothing, Step::SayGone),
            (Self::InUse, Sight::InUse) => (Self::InUse, Step::Rest),
            (_, Sight::InUse) => (Self::InUse, Step::SayInUse),
            (Self::Settled, Sight::LeftOver) => (Self::Settled, Step::Rest),
            (Self::Left(looks), Sight::LeftOver) if looks + 1 < QUIET_LOOKS => {
                (Self::Left(looks + 1), Step::Rest)
            }
            (Self::Left(_), Sight::LeftOver) => {
                let step = if is_sweeping {
                    Step::Sweep
                } else {
                    Step::SayLeft
                };
                (Self::Settled, step)
            }
            (_, Sight::LeftOver) => (Self::Left(0), Step::Rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(sights: &[Sight], is_sweeping: bool) -> Vec<Step> {
        let mut seen = Seen::Nothing;
        let step = |sight| {
            let (next, step) = seen.next(sight, is_sweeping);
            seen = next;
            step
        };
        let steps: Vec<_> = sights.iter().map(step).collect();
        steps
            .into_iter()
            .filter(|step| *step != Step::Rest)
            .collect()
    }

    #[test]
    fn what_is_left_over_is_removed_after_a_while_and_told_where_that_is_not_wanted() {
        use Sight::{Absent, InUse, LeftOver};
        let quiet = [LeftOver; 5];
        assert_eq!(steps(&quiet, true), []);
        let over = [LeftOver; 12];
        assert_eq!(steps(&over, true), [Step::Sweep]);
        assert_eq!(steps(&over, false), [Step::SayLeft]);
        // One that starts is not taken for one that has ended.
        let starts = [LeftOver, LeftOver, InUse, LeftOver, LeftOver, InUse];
        assert_eq!(steps(&starts, true), [Step::SayInUse, Step::SayInUse]);
        let ends = [&[InUse][..], &over, &[Absent, Absent]].concat();
        let all = [Step::SayInUse, Step::Sweep, Step::SayGone];
        assert_eq!(steps(&ends, true), all);
        assert_eq!(steps(&[Absent; 3], true), []);
    }
}
