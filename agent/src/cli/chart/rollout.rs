// SPDX-License-Identifier: Apache-2.0
//! How far a hook's DaemonSet has come, read from what the API server says of it and of its pods.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cli::exit::Exit;

/// The exit code with which a command of ours refuses: the message says why.
const REFUSED: u64 = Exit::Network as u64;

/// The exit code of a command that was called wrongly: no try will be another.
const WRONG: u64 = Exit::Usage as u64;

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

/// Reads a page of pods into `pods`, those that the DaemonSet of this `uid` has made.
pub(super) fn read_pods(list: &Value, uid: &str, pods: &mut Pods) {
    let is_its_own = |owner: &Value| owner.get("uid").and_then(Value::as_str) == Some(uid);
    for pod in items(list) {
        // One that goes has a successor, or none is wanted.
        if is_going(pod) || !owners(pod).any(is_its_own) {
            continue;
        }
        if let Some(node) = node(pod) {
            pods.insert(node.to_owned(), stage(pod));
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    let items = list.get("items").and_then(Value::as_array);
    items.into_iter().flatten()
}

fn owners(pod: &Value) -> impl Iterator<Item = &Value> {
    let owners = pod.pointer("/metadata/ownerReferences");
    owners.and_then(Value::as_array).into_iter().flatten()
}

fn is_going(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some()
}

/// The node that a pod runs on, or was made for; else its own name, which tells it from others.
fn node(pod: &Value) -> Option<&str> {
    const TERM: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                        /nodeSelectorTerms/0/matchFields/0/values/0";
    let places = ["/spec/nodeName", TERM, "/metadata/name"];
    let mut names = places.into_iter().map(|place| pod.pointer(place));
    names.find_map(|name| name.and_then(Value::as_str))
}

/// The pods of a DaemonSet that is deleted, by the names of their nodes.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Nobody has told these to end, and kubelet would start them again.
    pub(super) alive: Vec<String>,
    /// These are to end.
    pub(super) ending: Vec<String>,
}

impl Leaving {
    /// Reads a page of pods, those of the DaemonSet of this name.
    pub(super) fn read(&mut self, list: &Value, daemon_set: &str) {
        let is_its_own = |owner: &Value| {
            let text = |key: &str| owner.get(key).and_then(Value::as_str);
            text("kind") == Some("DaemonSet") && text("name") == Some(daemon_set)
        };
        for pod in items(list) {
            if !owners(pod).any(is_its_own) {
                continue;
            }
            let node = node(pod).unwrap_or("a pod").to_owned();
            if is_going(pod) {
                self.ending.push(node);
            } else {
                self.alive.push(node);
            }
        }
    }

    /// Judges. What is still there although it should have ended is on a node that is away, where
    /// `are_away`.
    pub(super) fn judge(self, are_away: bool) -> Verdict {
        let is_waited_for = !self.alive.is_empty() || (!self.ending.is_empty() && !are_away);
        if !is_waited_for {
            return Verdict::Complete(self.ending);
        }
        let say = |node: String, what: &str| format!("{node}: {what}");
        let alive = self.alive.into_iter();
        let alive = alive.map(|node| say(node, "its pod is not told to end yet"));
        let ending = self.ending.into_iter();
        let ending = ending.map(|node| say(node, "its pod has not ended yet"));
        Verdict::Wait(alive.chain(ending).collect())
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
    if pod.pointer("/spec/nodeName").is_none() {
        let is_placed = |condition: &&Value| {
            condition.get("type").and_then(Value::as_str) == Some("PodScheduled")
        };
        let conditions = list("/status/conditions").into_iter().flatten();
        let message = conditions
            .filter(is_placed)
            .find_map(|it| it.get("message"));
        let message = message.and_then(Value::as_str).unwrap_or("nobody says why");
        return Stage::Underway(format!("it has no place there: {message}"));
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
            let message = last_words(container).unwrap_or_else(|| message.to_owned());
            underway = format!("{name}: {reason} {message}").trim_end().to_owned();
            if reason != "PodInitializing" {
                break;
            }
        }
    }
    Stage::Underway(underway)
}

/// How a container has ended that waits to be tried again, and what it said.
fn last_words(container: &Value) -> Option<String> {
    let ended = container.pointer("/lastState/terminated")?;
    let code = ended.get("exitCode")?.as_u64()?;
    let message = ended.get("message").and_then(Value::as_str).unwrap_or("");
    Some(format!("after exit code {code} {}", message.trim()))
}

/// What a container says that has ended with a refusal, be it that it waits to be tried again.
fn refusal(container: &Value) -> Option<Stage> {
    let ended = ["/state/terminated", "/lastState/terminated"];
    let (place, ended) = ended
        .into_iter()
        .find_map(|place| Some((place, container.pointer(place)?)))?;
    let code = ended.get("exitCode")?.as_u64()?;
    if ![REFUSED, WRONG].contains(&code) {
        return None;
    }
    let restarts = container.get("restartCount").and_then(Value::as_u64);
    // While it runs again, its last end is among the restarts.
    let is_running = container.pointer("/state/running").is_some();
    let is_counted = place == "/lastState/terminated" && is_running;
    let times = match code {
        WRONG => u64::MAX,
        _ => restarts.unwrap_or(0) + u64::from(!is_counted),
    };
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
    // All nodes that refuse are named at once; those that hang must not hide them.
    if !underway.is_empty() {
        underway.extend(refused.iter().map(|refusal| format!("refused: {refusal}")));
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
        let owner = json!({ "kind": "DaemonSet", "name": "set", "uid": "u" });
        json!({
            "metadata": { "name": "x", "ownerReferences": [owner] },
            "spec": { "nodeName": node },
            "status": status,
        })
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
        read_pods(&json!({ "items": list }), "u", &mut pods);
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
    fn a_command_that_was_called_wrongly_is_not_tried_again() {
        let mut wrong = backing_off(0);
        wrong["lastState"]["terminated"]["exitCode"] = json!(64);
        let all = pods(&[refusing("node1", wrong), ready("node2")]);
        let expected = vec!["node1: clients ask".to_owned()];
        assert_eq!(judge(TWO, &all, 3, false), Verdict::Refused(expected));
    }

    #[test]
    fn what_a_node_refuses_is_told_also_while_another_hangs() {
        let hangs = pod("node2", json!({ "startTime": "t" }));
        let all = pods(&[refusing("node1", backing_off(0)), hangs]);
        let Verdict::Wait(list) = judge(TWO, &all, 1, false) else {
            panic!("node2 is not done");
        };
        assert_eq!(list[1], "refused: node1: clients ask");
    }

    #[test]
    fn a_pod_without_a_place_is_named_by_the_node_it_was_made_for_and_is_not_away() {
        let mut full = pod(
            "x",
            json!({ "conditions": [{
            "type": "PodScheduled", "status": "False", "message": "Too many pods",
        }] }),
        );
        full["spec"] = json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{
                "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["node1"] }],
            }] },
        } } });
        let expected = vec!["node1: it has no place there: Too many pods".to_owned()];
        let all = pods(&[full, ready("node2")]);
        assert_eq!(judge(TWO, &all, 1, true), Verdict::Wait(expected));
    }

    #[test]
    fn pods_of_the_same_label_that_another_has_made_are_not_counted() {
        let mut other = ready("node1");
        other["metadata"]["ownerReferences"][0]["uid"] = json!("v");
        assert!(pods(&[other]).is_empty());
    }

    #[test]
    fn pods_are_gone_when_none_is_left_but_on_nodes_that_are_away() {
        let leaving = |list: &[Value]| {
            let mut leaving = Leaving::default();
            leaving.read(&json!({ "items": list }), "set");
            leaving
        };
        let none = Verdict::Complete(Vec::new());
        assert_eq!(leaving(&[]).judge(false), none);
        let alive = ready("node1");
        let mut ending = ready("node2");
        ending["metadata"]["deletionTimestamp"] = json!("t");
        let both = leaving(&[alive.clone(), ending.clone()]);
        let Verdict::Wait(list) = both.judge(true) else {
            panic!("node1 is alive");
        };
        assert_eq!(list.len(), 2, "{list:?}");
        let ends = || leaving(std::slice::from_ref(&ending));
        assert!(matches!(ends().judge(false), Verdict::Wait(_)));
        let away = Verdict::Complete(vec!["node2".to_owned()]);
        assert_eq!(ends().judge(true), away);
        let mut other = alive;
        other["metadata"]["ownerReferences"][0]["name"] = json!("else");
        assert_eq!(leaving(&[other]).judge(false), none);
    }

    #[test]
    fn other_ends_are_no_refusals_and_are_waited_for_with_their_reason() {
        let pulling = json!({
            "name": "check",
            "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } },
        });
        let crashed = json!({ "state": { "terminated": { "exitCode": 137 } } });
        let mut again = backing_off(4);
        again["lastState"]["terminated"]["exitCode"] = json!(70);
        let all = pods(&[
            refusing("node1", pulling),
            refusing("node2", crashed),
            refusing("node3", again),
        ]);
        assert_eq!(
            judge(TWO, &all, 1, true),
            Verdict::Wait(vec![
                "node1: check: ErrImagePull not found".to_owned(),
                "node2: it has not started yet".to_owned(),
                "node3: check: CrashLoopBackOff after exit code 70 clients ask".to_owned(),
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
            read_pods(&wrong, "u", &mut pods);
        }
        assert!(pods.is_empty());
    }
}
