// SPDX-License-Identifier: Apache-2.0
//! The hooks that end it deliberately.

use nodens_tests::helm;
use serde_json::{Value, json};

const CHECK: &str = "nodens-uninstall-check";
const RETIRE: &str = "nodens-uninstall-retire";
const REMOVE: &str = "nodens-uninstall-remove";

fn weight(object: &Value) -> i64 {
    let weight = object["metadata"]["annotations"]["helm.sh/hook-weight"].as_str();
    weight.unwrap().parse().unwrap()
}

#[test]
fn nothing_of_the_hooks_is_there_before_or_after() {
    let rendered = helm::with(&[]).unwrap();
    let hooks = rendered.objects.iter().filter(|object| {
        let name = object["metadata"]["name"].as_str().unwrap();
        name.contains("uninstall")
    });
    let mut seen = 0;
    for hook in hooks {
        seen += 1;
        let annotations = &hook["metadata"]["annotations"];
        let events = annotations["helm.sh/hook"].as_str().unwrap();
        let events: Vec<_> = events.split(',').collect();
        let known = |event: &&str| ["pre-delete", "post-delete"].contains(event);
        assert!(events.iter().all(known), "{hook}");
        let policy = annotations["helm.sh/hook-delete-policy"].as_str().unwrap();
        assert_eq!(policy, "before-hook-creation,hook-succeeded", "{hook}");
    }
    assert_eq!(
        seen, 10,
        "account, role, binding, three pairs, the wait between them"
    );
}

/// The command of a hook's only container that works.
fn words(rendered: &helm::Rendered, kind: &str, name: &str) -> Vec<String> {
    let pod = &rendered.one(kind, name)["spec"]["template"]["spec"];
    let list = match kind {
        "Job" => &pod["containers"],
        _ => &pod["initContainers"],
    };
    assert_eq!(list.as_array().unwrap().len(), 1);
    let words = list[0]["args"].as_array().unwrap().iter();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn all_nodes_are_looked_at_before_any_is_changed_and_cleaned_when_no_agent_can_start_again() {
    let rendered = helm::with(&[]).unwrap();
    for (event, order) in [
        (
            "pre-delete",
            &[
                ("RoleBinding", "nodens-uninstall"),
                ("DaemonSet", CHECK),
                ("Job", CHECK),
                ("DaemonSet", RETIRE),
                ("Job", RETIRE),
            ][..],
        ),
        (
            "post-delete",
            &[
                ("RoleBinding", "nodens-uninstall"),
                ("Job", "nodens-uninstall-ended"),
                ("DaemonSet", REMOVE),
                ("Job", REMOVE),
            ],
        ),
    ] {
        let mut weights = Vec::new();
        for (kind, name) in order {
            let object = rendered.one(kind, name);
            let events = object["metadata"]["annotations"]["helm.sh/hook"].as_str();
            assert!(
                events.unwrap().split(',').any(|one| one == event),
                "{object}"
            );
            weights.push(weight(object));
        }
        assert!(weights.is_sorted_by(|a, b| a < b), "{event}: {weights:?}");
    }
    let check = words(&rendered, "DaemonSet", CHECK);
    assert_eq!(check, ["clients", "--unused-for=600s"]);
    assert_eq!(
        words(&rendered, "DaemonSet", RETIRE),
        ["retire", "--if-running"]
    );
    let ended = words(&rendered, "Job", "nodens-uninstall-ended");
    assert!(ended.contains(&"--gone=nodens".to_owned()), "{ended:?}");
    for name in [CHECK, RETIRE, REMOVE] {
        let words = words(&rendered, "Job", name);
        assert!(words.contains(&format!("--daemonset={name}")), "{words:?}");
        // A node that is left as it is must not be passed over in silence.
        let is_last = name == REMOVE;
        assert_eq!(
            words.contains(&"--everywhere".to_owned()),
            is_last,
            "{words:?}"
        );
    }
    for job in rendered.all("Job") {
        assert!(job.to_string().contains("--namespace=kube-system"));
        assert_eq!(job["spec"]["backoffLimit"], 0);
        // What failed must not stay on after an uninstallation that was forced then.
        assert!(job["spec"]["ttlSecondsAfterFinished"].is_u64());
        let logs = &job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"];
        assert_eq!(logs, "hook-failed,hook-succeeded");
    }
}

#[test]
fn what_is_on_the_nodes_is_removed_by_its_names_whatever_the_configuration_says() {
    // The agent takes no such configuration, and is removed all the same.
    let rendered = helm::with(&[
        "config.intercept.interface=dns0",
        "config.limits.queryTimeout=99h",
        "config.intercept.redirectTo={169.254.20.40}",
    ]);
    let rendered = rendered.unwrap();
    let words = words(&rendered, "DaemonSet", REMOVE);
    assert_eq!(
        words,
        [
            "netsetup",
            "down",
            "--listen-addresses=169.254.20.10",
            "--cluster-dns-service=10.96.0.10",
            "--intercept-interface=dns0",
            "--intercept-redirect-to=169.254.20.40",
        ]
    );
    for name in [CHECK, RETIRE, REMOVE] {
        let pod = &rendered.one("DaemonSet", name)["spec"]["template"]["spec"];
        let volumes = json!([{
            "name": "run", "hostPath": { "path": "/run/nodens", "type": "DirectoryOrCreate" },
        }]);
        assert_eq!(pod["volumes"], volumes, "{name}");
    }
    // The real program takes these words; only its words: it changes nothing.
    let mut down = nodens_tests::agent::command().unwrap();
    let output = down.args(&words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{}", helm::said(&output));
}

#[test]
fn hooks_run_wherever_agents_may_have_been() {
    let plain = helm::with(&[]).unwrap();
    let pods = |rendered: &helm::Rendered| -> Vec<(Value, Value)> {
        let sets = rendered.all("DaemonSet").into_iter();
        let hooks = sets.chain(rendered.all("Job"));
        let hooks = hooks.filter(|object| object["metadata"]["name"] != "nodens");
        let pod = |object: &Value| object["spec"]["template"]["spec"].clone();
        hooks
            .map(pod)
            .map(|pod| (pod["nodeSelector"].clone(), pod["affinity"].clone()))
            .collect()
    };
    let agent = &plain.one("DaemonSet", "nodens")["spec"]["template"]["spec"];
    let everywhere = (agent["nodeSelector"].clone(), agent["affinity"].clone());
    let narrow = helm::with(&["nodeSelector.pool=x", "affinity.nodeAffinity=null"]).unwrap();
    for rendered in [&plain, &narrow] {
        let pods = pods(rendered);
        assert_eq!(pods.len(), 7);
        for pod in pods {
            assert_eq!(pod, everywhere);
        }
    }
}

#[test]
fn only_the_job_may_ask_the_api_server_and_for_no_more_than_it_needs() {
    let rendered = helm::with(&[]).unwrap();
    assert!(rendered.all("ClusterRole").is_empty());
    let role = rendered.one("Role", "nodens-uninstall");
    assert_eq!(
        role["rules"],
        json!([
            { "apiGroups": ["apps"], "resources": ["daemonsets"],
              "resourceNames": [CHECK, RETIRE, REMOVE], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] },
        ])
    );
    for (kind, has_token) in [("DaemonSet", false), ("Job", true)] {
        for object in rendered.all(kind) {
            let pod = &object["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], has_token, "{object}");
        }
    }
    for job in rendered.all("Job") {
        let pod = &job["spec"]["template"]["spec"];
        let capabilities = &pod["containers"][0]["securityContext"]["capabilities"];
        assert_eq!(capabilities, &json!({ "drop": ["ALL"] }));
        // It must not land on a node that is away.
        let tolerations = pod["tolerations"].to_string();
        assert!(!tolerations.contains(r#"[{"operator":"Exists"}]"#));
    }
}

#[test]
fn its_pods_are_told_apart_from_the_agents() {
    let rendered = helm::with(&[]).unwrap();
    let agent = &rendered.one("DaemonSet", "nodens")["spec"]["selector"]["matchLabels"];
    for name in [CHECK, RETIRE, REMOVE] {
        let set = &rendered.one("DaemonSet", name)["spec"];
        let own = json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/instance": "nodens" });
        assert_eq!(set["selector"]["matchLabels"], own);
        assert_eq!(set["template"]["metadata"]["labels"], own);
        assert_ne!(&own, agent);
        let job = &rendered.one("Job", name)["spec"]["template"]["metadata"]["labels"];
        assert_ne!(job["app.kubernetes.io/name"], own["app.kubernetes.io/name"]);
    }
}

#[test]
fn force_leaves_the_look_at_clients_out() {
    let rendered = helm::with(&["uninstall.force=true"]).unwrap();
    assert!(!rendered.names().iter().any(|name| name.contains(CHECK)));
    let _ = rendered.one("DaemonSet", REMOVE);
    let _ = rendered.one("Job", REMOVE);
}
