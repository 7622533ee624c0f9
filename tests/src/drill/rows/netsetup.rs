// SPDX-License-Identifier: Apache-2.0
//! How long the node's network takes to set up, to check and to take back.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use nodens_netsetup::active::Active;
use nodens_netsetup::plan::{Plan, Settings};
use nodens_netsetup::{check, fallback, link, revert};

use super::Outcome;
use crate::drill::stage::Stage;
use crate::drill::table::Figure;
use crate::load::now_ns;
use crate::load::report::median;
use crate::node::{Family, addresses::DNS};

/// The whole plan through the library, in both families, beside kube-proxy's rules; the median of
/// some rounds, the first of which does not count.
pub(super) fn times(stage: &Stage<'_>) -> Outcome {
    let both = |address: fn(Family) -> std::net::IpAddr| Family::BOTH.iter().copied().map(address);
    let plan = Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: both(Family::local).collect(),
        port: DNS,
        services: both(Family::service).collect(),
        redirect_to: None,
        fallback: both(Family::fallback).collect(),
        tcp_idle: Duration::from_secs(10),
    })
    .map_err(|errors| anyhow!("{errors:?}"))?;
    let before = stage.node.picture()?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..=stage.pick(20, 5) {
        let taken = stage.node.host().within(|| round_of(&plan))?;
        if round > 0 {
            for (times, time) in times.iter_mut().zip(taken) {
                times.push(time.as_secs_f64());
            }
        }
    }
    let after = stage.node.picture()?;
    ensure!(
        before == after,
        "revert has left something:\n{before}\n{after}"
    );
    let [apply, check, revert] = times.map(|times| median(&times).map(Duration::from_secs_f64));
    Ok((
        vec![
            Figure::time(" ms apply", apply, 20.0, 10.0),
            Figure::time(" ms check", check, 10.0, 5.0),
            Figure::time(" ms revert", revert, 100.0, 60.0),
        ],
        vec!["links, addresses and rules are as before".to_owned()],
    ))
}

fn round_of(plan: &Plan) -> anyhow::Result<[Duration; 3]> {
    let begun = now_ns();
    let socket = Active::open()?;
    fallback::apply(plan)?;
    link::apply(plan)?;
    let active = Active::apply(socket, plan)?;
    let applied = now_ns();
    let differences = check(plan)?;
    let checked = now_ns();
    drop(active);
    let reverted = revert(plan);
    let end = now_ns();
    ensure!(differences.is_empty(), "{differences:?}");
    reverted.map_err(|errors| anyhow!("{errors:?}"))?;
    Ok([applied - begun, checked - applied, end - checked].map(Duration::from_nanos))
}
