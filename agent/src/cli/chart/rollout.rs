// SPDX-License-Identifier: Apache-2.0
//! How far a hook's DaemonSet has come, read from what the API server says of it and of its pods.

use std::collections::BTreeMap;

use serde_json::Value;

/// The exit code with which a command of ours refuses (`Exit::Network`): the message says why.
const REFUSED: u64 = 69;

/// What a DaemonSet's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Nodes that are to have a pod.
    pub(super) desired: u64,
    /// Nodes whose pod is ready.
    pub(super) ready: u64,
}

impl Counts {
    /// None while its controller has not looked at it yet.
    pub(super) fn read(daemon_set: &Value) -> Option<Self> {
        let status = daemon_set.get("status")?;
        let number = |name: &str| status.get(name).and_then(Value::as_u64);
        let generation = daemon_set.pointer("/metadata/generation")?.as_u64()?;
        if number("observedGeneration")? < generation {
            return None;
        }
        Some(Self {
            desired: number("desiredNumberScheduled")?,
            ready: number("numberReady").unwrap_or(0),
        })
    }

    /// Ready wherever it is to be.
    pub(super) fn is_complete(self) -> bool {
        self.ready >= self.desired
    }
}

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its work is done.
    Ready,
    /// The node's kubelet has not taken it on.
    Untouched,
    /// On its way, and what it waits for.
    Underway(String),
    /// A command of ours has refused so many times, and says this.
    Refused(u64, String),
}

/// The pods of a DaemonSet by their node.
pub(super) type Pods = BTreeMap<String, Stage>;

/// Reads a page of pods into `pods`.
pub(super) fn read_pods(list: &Value, pods: &mut Pods) {
    let items = list.get("items").and_then(Value::as_array);
    for pod in items.into_iter().flatten() {
        // One that goes has a successor, or none is wanted.
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            continue;
        }
        let name = |path: &str| pod.pointer(path).and_then(Value::as_str);
        // Without a node only its own name tells it from others.
        let node = name("/spec/nodeName").or_else(|| name("/metadata/name"));
        if let Some(node) = node {
            pods.insert(node.to_owned(), stage(pod));
        }
    }
}

fn stage(pod: &Value) -> Stage {
    let list = |path: &str| pod.pointer(path).and_then(Value::as_array);
    let is_ready = |condition: &Value| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    };
    if list("/status/conditions").is_some_and(|all| all.iter().any(is_ready)) {
        return Stage::Ready;
    }
    if pod.pointer("/status/startTime").is_none() {
        return Stage::Untouched;
    }
    let containers = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let containers = containers.into_iter().filter_map(list).flatten();
    let mut underway = "it has not started yet".to_owned();
    for container in containers {
        if let Some(refusal) = refusal(container) {
            return refusal;
        }
        let text = |path: &str| container.pointer(path).and_then(Value::as_str);
        if let Some(reason) = text("/state/waiting/reason") {
            let name = text("/name").unwrap_or("a container");
            let message = text("/state/waiting/message").unwrap_or_default().trim();
            underway = format!("{name}: {reason} {message}").trim_end().to_owned();
            if reason != "PodInitializing" {
                break;
            }
        }
    }
    Stage::Underway(underway)
}

/// What a container says that has ended with a refusal, be it that it waits to be tried again.
fn refusal(container: &Value) -> Option<Stage> {
    let ended = ["/state/terminated", "/lastState/terminated"];
    let (place, ended) = ended
        .into_iter()
        .find_map(|place| Some((place, container.pointer(place)?)))?;
    if ended.get("exitCode")?.as_u64()? != REFUSED {
        return None;
    }
    let restarts = container.get("restartCount").and_then(Value::as_u64);
    // While it runs again, its last end is among the restarts.
    let is_running = container.pointer("/state/running").is_some();
    let is_counted = place == "/lastState/terminated" && is_running;
    let times = restarts.unwrap_or(0) + u64::from(!is_counted);
    let message = ended.get("message").and_then(Value::as_str).unwrap_or("");
    let message = match message.trim() {
        "" => "it did not say why; see the logs of its pod",
        message => message,
    };
    Some(Stage::Refused(times, message.to_owned()))
}

/// What is to be made of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Some nodes are under way still, these, with what they wait for.
    Wait(Vec<String>),
    /// Done on every node that is there; these are not.
    Complete(Vec<String>),
    /// These nodes refuse, each with its reason.
    Refused(Vec<String>),
}

/// Judges. A refusal is final after `tries` of them. Nodes whose kubelet has not taken their pod on
/// are away where `are_away`: nothing can be done there now.
pub(super) fn judge(counts: Counts, pods: &Pods, tries: u64, are_away: bool) -> Verdict {
    let (mut away, mut refused, mut underway) = (Vec::new(), Vec::new(), Vec::new());
    for (node, stage) in pods {
        match stage {
            Stage::Ready => {}
            Stage::Untouched if are_away => away.push(node.clone()),
            Stage::Untouched => underway.push(format!("{node}: its kubelet has not started it")),
            Stage::Refused(times, why) if *times >= tries => refused.push(format!("{node}: {why}")),
            Stage::Refused(_, why) | Stage::Underway(why) => {
                underway.push(format!("{node}: {why}"));
            }
        }
    }
    let known = u64::try_from(pods.len()).unwrap_or(u64::MAX);
    if known < counts.desired {
        underway.push(format!("{} nodes: no pod yet", counts.desired - known));
    }
    // All nodes that refuse are named at once.
    if !underway.is_empty() {
        Verdict::Wait(underway)
    } else if !refused.is_empty() {
        Verdict::Refused(refused)
    } else {
        Verdict::Complete(away)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, status: Value) -> Value {
        json!({ "metadata": { "name": "x" }, "spec": { "nodeName": node }, "status": status })
    }

    fn ready(node: &str) -> Value {
        pod(
            node,
            json!({ "startTime": "t", "conditions": [{ "type": "Ready", "status": "True" }] }),
        )
    }

    fn refusing(node: &str, container: Value) -> Value {
        pod(
            node,
            json!({ "startTime": "t", "initContainerStatuses": [container] }),
        )
    }

    fn backing_off(restarts: u64) -> Value {
        json!({
            "name": "check",
            "restartCount": restarts,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 69, "message": "clients ask\n" } },
        })
    }

    fn pods(list: &[Value]) -> Pods {
        let mut pods = Pods::new();
        read_pods(&json!({ "items": list }), &mut pods);
        pods
    }

    const TWO: Counts = Counts {
        desired: 2,
        ready: 1,
    };

    #[test]
    fn counts_are_believed_once_the_controller_has_looked() {
        let set = |generation: u64, observed: u64| {
            json!({
                "metadata": { "generation": generation },
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": 2, "numberReady": 2,
                },
            })
        };
        assert_eq!(Counts::read(&set(2, 1)), None);
        assert_eq!(Counts::read(&json!({ "metadata": {} })), None);
        assert!(Counts::read(&set(2, 2)).unwrap().is_complete());
        let mut some = set(1, 1);
        some["status"]["numberReady"] = json!(1);
        assert!(!Counts::read(&some).unwrap().is_complete());
    }

    #[test]
    fn a_refusal_is_told_with_its_node_once_all_others_have_spoken() {
        let refused = refusing("node1", backing_off(0));
        let all = pods(&[refused.clone(), ready("node2")]);
        let expected = vec!["node1: clients ask".to_owned()];
        assert_eq!(judge(TWO, &all, 1, false), Verdict::Refused(expected));

        let starting = pod("node2", json!({ "startTime": "t" }));
        let all = pods(&[refused.clone(), starting]);
        assert!(matches!(judge(TWO, &all, 1, false), Verdict::Wait(_)));
        let missing = pods(&[refused]);
        assert!(matches!(judge(TWO, &missing, 1, false), Verdict::Wait(_)));
    }

    #[test]
    fn a_refusal_counts_once_for_every_time_it_ended_so() {
        let times = |container: Value| match stage(&refusing("n", container)) {
            Stage::Refused(times, _) => times,
            other => panic!("{other:?}"),
        };
        assert_eq!(times(backing_off(0)), 1);
        assert_eq!(times(backing_off(2)), 3);
        let mut running = backing_off(1);
        running["state"] = json!({ "running": {} });
        assert_eq!(times(running), 1);
        let ended = json!({ "restartCount": 1, "state": { "terminated": { "exitCode": 69 } } });
        assert_eq!(times(ended), 2);

        let all = pods(&[refusing("node1", backing_off(1)), ready("node2")]);
        assert!(matches!(judge(TWO, &all, 3, false), Verdict::Wait(_)));
        assert!(matches!(judge(TWO, &all, 2, false), Verdict::Refused(_)));
    }

    #[test]
    fn other_ends_are_no_refusals_and_are_waited_for_with_their_reason() {
        let pulling = json!({
            "name": "check",
            "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } },
        });
        let crashed = json!({ "state": { "terminated": { "exitCode": 137 } } });
        let all = pods(&[refusing("node1", pulling), refusing("node2", crashed)]);
        assert_eq!(
            judge(TWO, &all, 1, true),
            Verdict::Wait(vec![
                "node1: check: ErrImagePull not found".to_owned(),
                "node2: it has not started yet".to_owned(),
            ])
        );
    }

    #[test]
    fn a_node_whose_kubelet_is_silent_is_away_after_a_while() {
        let all = pods(&[pod("node1", json!({ "phase": "Pending" })), ready("node2")]);
        assert!(matches!(judge(TWO, &all, 1, false), Verdict::Wait(_)));
        let away = vec!["node1".to_owned()];
        assert_eq!(judge(TWO, &all, 1, true), Verdict::Complete(away));
    }

    #[test]
    fn a_pod_that_goes_is_not_counted() {
        let mut going = ready("node1");
        going["metadata"]["deletionTimestamp"] = json!("t");
        assert!(pods(&[going]).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let mut pods = Pods::new();
        for wrong in [
            json!(null),
            json!({ "items": 3 }),
            json!({ "items": [3, {}] }),
        ] {
            read_pods(&wrong, &mut pods);
        }
        assert!(pods.is_empty());
    }
}
