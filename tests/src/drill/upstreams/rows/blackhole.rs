// SPDX-License-Identifier: Apache-2.0
//! Nothing comes back from any pod while clients ask for names without end.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::client::Client;
use crate::drill::rows::Outcome;
use crate::drill::stage::ask_for_text;
use crate::drill::table::Figure;
use crate::drill::upstreams::fleet::{CLIENTS, Fleet, Kind, Way};
use crate::drill::upstreams::forwarder::{Forwarder, Kind as Program};
use crate::drill::upstreams::misses::Misses;
use crate::drill::upstreams::names::ZONE;
use crate::drill::upstreams::trial::{PER_SECOND, Scene, To, Watch, judge, plan, upstreams};
use crate::load::now_ns;

/// Different names a second.
const FLOOD: u32 = 20_000;
/// The agent's budget in MiB.
const BUDGET: u64 = 16;
/// Octets of an answer that fills the cache.
const ANSWER: u64 = 1_000;
/// How often the resident memory is read.
const LOOK: Duration = Duration::from_millis(50);

/// The cache is full before it begins, so that what the budget does not cover is all there is to
/// see. The flood ends with the blackhole; then fresh misses come at their pace.
pub(super) fn blackhole(scene: &Scene) -> Outcome {
    let mut fleet = Fleet::new(Kind::THREE)?;
    let keys = [("cache.size", format!("{BUDGET}MiB"))];
    let servers = upstreams(&fleet, To::Service);
    let forwarder = Forwarder::start(&fleet, scene.kind, &servers, &keys)?;
    let idle = forwarder.resident_bytes()?;
    fill(&fleet, &forwarder)?;
    let full = forwarder.resident_bytes()?;
    let budget = match scene.kind {
        Program::Agent => {
            ensure!(
                full > (BUDGET << 20) * 9 / 10,
                "the cache is not full: {full} octets resident"
            );
            BUDGET << 20
        }
        // It has none in octets.
        Program::Incumbent | Program::Bare => 0,
    };
    let watch = Watch::begin(&fleet, &forwarder)?;
    let all = fleet.numbers();
    fleet.set(&all, Way::Silent)?;
    let begin = now_ns();
    let flood = Misses::start(fleet.clients(), plan(&forwarder, FLOOD))?;
    let mut peak = 0;
    watch_memory(&forwarder, scene.pick(60.0, 3.0), &mut peak)?;
    flood.finish();
    // The first of them are asked in the dark, so that none is missing when it ends.
    let fresh = Misses::start(fleet.clients(), plan(&forwarder, PER_SECOND))?;
    thread::sleep(Duration::from_millis(100));
    fleet.set(&all, Way::Open)?;
    let end = now_ns();
    watch_memory(&forwarder, scene.pick(8.0, 4.0), &mut peak)?;
    let last = now_ns();
    let machine = watch.describe()?;
    let (flood, fresh) = (flood.stop()?, fresh.stop()?);
    let flooded = judge(&flood, begin, end)?;
    let span = judge(&fresh, end, last)?;
    let seconds = Duration::from_nanos(end - begin).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let per_second = flooded.asked as f64 / seconds;
    // The share of them that a busy machine must at least manage to send.
    ensure!(
        per_second >= f64::from(FLOOD) * scene.pick(0.9, 0.3),
        "only {per_second:.0} names a second could be asked for: {machine}"
    );
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53")]
    let above = (peak as f64 - budget as f64) / 1e6;
    let recovery = fresh.recovery(end, last);
    Ok((
        vec![
            Figure::number(" MB above the cache's budget", above, 24.0, 16.0),
            Figure::time(" ms until misses were answered", recovery, 2_000.0, 1_000.0),
        ],
        vec![
            format!(
                "resident: {:.1} MB idle, {:.1} full, {:.1} at most",
                megabytes(idle),
                megabytes(full),
                megabytes(peak)
            ),
            format!(
                "in the dark, {per_second:.0} a second: {}",
                flooded.describe()
            ),
            format!("fresh misses afterwards: {}", span.describe()),
            format!("second by second: {}", by_second(&fresh, end, last)),
            format!(
                "{machine}; the clients' own lateness, ms: {}",
                flooded.lateness()
            ),
        ],
    ))
}

/// Answers of a thousand octets until no more of them have room.
fn fill(fleet: &Fleet, forwarder: &Forwarder) -> anyhow::Result<()> {
    let client = Client::new(forwarder.listen())
        .from(CLIENTS[0].into())
        .patience(Duration::from_millis(200));
    let names = 0..(BUDGET << 20) * 5 / 4 / ANSWER;
    fleet
        .clients()
        .within(|| ask_for_text(&client, ZONE, names))
}

/// Reads the resident memory for so many seconds, and keeps the most.
fn watch_memory(forwarder: &Forwarder, seconds: f64, peak: &mut u64) -> anyhow::Result<()> {
    let begin = now_ns();
    while Duration::from_nanos(now_ns() - begin).as_secs_f64() < seconds {
        *peak = (*peak).max(forwarder.resident_bytes()?);
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The share of what was due in each of the first seconds that got its answer.
fn by_second(tally: &crate::drill::upstreams::tally::Tally, from_ns: u64, to_ns: u64) -> String {
    let mut seconds = Vec::new();
    let mut begin = from_ns;
    while begin + 1_000_000_000 <= to_ns && seconds.len() < 8 {
        let span = tally.span(begin, begin + 1_000_000_000);
        seconds.push(format!("{} of {}", span.answered, span.asked));
        begin += 1_000_000_000;
    }
    seconds.join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53")]
fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}
