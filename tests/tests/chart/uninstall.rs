// SPDX-License-Identifier: Apache-2.0
//! The hooks that end it deliberately.

use nodens_tests::helm;
use serde_json::{Value, json};

const CHECK: &str = "nodens-uninstall-check";
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
        assert_eq!(annotations["helm.sh/hook"], "pre-delete", "{hook}");
        let policy = annotations["helm.sh/hook-delete-policy"].as_str().unwrap();
        assert_eq!(policy, "before-hook-creation,hook-succeeded", "{hook}");
    }
    assert_eq!(seen, 7, "account, role, binding, two pairs");
}

#[test]
fn all_nodes_are_looked_at_before_any_is_changed_and_each_step_is_waited_for() {
    let rendered = helm::with(&[]).unwrap();
    let order = [
        weight(rendered.one("RoleBinding", "nodens-uninstall")),
        weight(rendered.one("DaemonSet", CHECK)),
        weight(rendered.one("Job", CHECK)),
        weight(rendered.one("DaemonSet", REMOVE)),
        weight(rendered.one("Job", REMOVE)),
    ];
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    let steps = |name: &str| -> Vec<Vec<String>> {
        let set = rendered.one("DaemonSet", name);
        let steps = set["spec"]["template"]["spec"]["initContainers"]
            .as_array()
            .unwrap();
        let words = |step: &Value| -> Vec<String> {
            let words = step["args"].as_array().unwrap().iter();
            words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect()
        };
        steps.iter().map(words).collect()
    };
    let config = ["--config", "/etc/nodens/nodens.yaml"];
    assert_eq!(
        steps(CHECK),
        [[&["clients", "--unused-for", "10m"][..], &config].concat()]
    );
    assert_eq!(
        steps(REMOVE),
        [
            [&["retire", "--if-running"][..], &config].concat(),
            [&["netsetup", "down"][..], &config].concat(),
        ]
    );
    for name in [CHECK, REMOVE] {
        let job = rendered.one("Job", name);
        let words = job["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        assert!(words.contains(&format!("--daemonset={name}")), "{words}");
        assert!(words.contains("--namespace=kube-system"), "{words}");
        assert_eq!(job["spec"]["backoffLimit"], 0);
        // What failed must not stay on after an uninstallation that was forced then.
        assert!(job["spec"]["ttlSecondsAfterFinished"].is_u64());
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
              "resourceNames": [CHECK, REMOVE], "verbs": ["get"] },
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
    for name in [CHECK, REMOVE] {
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
fn it_reads_the_configuration_that_the_agent_runs_with() {
    let rendered = helm::with(&["config.admin.socket=/run/nodens/other.sock"]).unwrap();
    let map = rendered.all("ConfigMap")[0]["metadata"]["name"].clone();
    for name in ["nodens", CHECK, REMOVE] {
        let pod = &rendered.one("DaemonSet", name)["spec"]["template"]["spec"];
        assert_eq!(pod["volumes"][0]["configMap"]["name"], map, "{name}");
        assert_eq!(
            pod["volumes"][1]["hostPath"]["path"], "/run/nodens",
            "{name}"
        );
    }
}

#[test]
fn force_leaves_the_look_at_clients_out() {
    let rendered = helm::with(&["uninstall.force=true"]).unwrap();
    assert!(!rendered.names().iter().any(|name| name.contains(CHECK)));
    let _ = rendered.one("DaemonSet", REMOVE);
    let _ = rendered.one("Job", REMOVE);
}
