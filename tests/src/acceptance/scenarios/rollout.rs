// SPDX-License-Identifier: Apache-2.0
//! Every agent is replaced.

use std::time::Duration;

use crate::acceptance::stage::{RELEASE, Stage, losses};
use crate::drill::rows::Outcome;
use crate::drill::stage::describe;
use crate::drill::table::Figure;
use crate::load::now_ns;

/// Queries a second of a pod on each node.
const RATE: u64 = 1_000;

/// `kubectl rollout restart`, five times.
pub(super) fn restart(stage: &Stage) -> Outcome {
    let mut flows = Vec::new();
    for node in stage.cluster.options.nodes() {
        flows.push((node, stage.flow(&stage.client(node)?, RATE)?));
    }
    let rounds = stage.pick(5, 1);
    let begin = now_ns();
    let mut begun = Vec::new();
    for _ in 0..rounds {
        begun.push(Duration::from_nanos(now_ns() - begin).as_secs());
        stage
            .kubectl
            .run(&format!("-n kube-system rollout restart ds/{RELEASE}"))?;
        stage.roll_out("kube-system", &format!("ds/{RELEASE}"))?;
    }
    stage.wait(2.0);
    let (mut lost, mut wrong) = (0, 0);
    let mut details = vec![format!("rounds begun after s: {begun:?}")];
    for (node, flow) in flows {
        let tally = flow.stop()?;
        lost += tally.lost(0, u64::MAX) as u64;
        wrong += tally.wrong;
        details.push(format!("{node}: {}", describe(&tally, 0, u64::MAX)));
        details.push(format!("{node}, lost: {}", losses(&tally, begin)));
    }
    Ok((
        vec![
            Figure::count(" lost", lost, 0, 0),
            Figure::count(" wrong", wrong, 0, 0),
        ],
        details,
    ))
}
