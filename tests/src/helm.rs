// SPDX-License-Identifier: Apache-2.0
//! The real Helm, at the one version that is used everywhere, and what it makes of our chart.
//! `make helm` builds it from tests/helm into the user's cache.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::TempDir;
use crate::yaml;

/// The version that tests/helm/go.mod pins.
pub const VERSION: &str = "3.22.0";

/// What every rendering needs where there is no cluster to ask.
pub const DNS_SERVICE: &str = "cluster.dnsService={10.96.0.10}";

/// The top of the tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The chart.
#[must_use]
pub fn chart() -> PathBuf {
    root().join("charts/nodens")
}

/// A Helm that reaches no cluster and knows no repository.
///
/// # Errors
/// It is not built.
pub fn helm(home: &TempDir) -> anyhow::Result<Command> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.context("find the user's cache: HOME is not set")?;
    let path = cache.join(format!("nodens/helm-{VERSION}/helm"));
    ensure!(
        path.exists(),
        "there is no {}: build it with `make helm`",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .env("KUBECONFIG", "/nonexistent");
    Ok(command)
}

/// What a release comes to.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Every object.
    pub objects: Vec<Value>,
}

impl Rendered {
    /// The objects of a kind.
    #[must_use]
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        let is_of_kind = |object: &&Value| object["kind"] == kind;
        self.objects.iter().filter(is_of_kind).collect()
    }

    /// The object of this kind and name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    #[track_caller]
    pub fn one(&self, kind: &str, name: &str) -> &Value {
        let has_name = |object: &&Value| object["metadata"]["name"] == name;
        let found = self.all(kind).into_iter().find(has_name);
        found.unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.names()))
    }

    /// Kind and name of every object.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let name = |object: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            format!(
                "{} {}",
                text(&object["kind"]),
                text(&object["metadata"]["name"])
            )
        };
        self.objects.iter().map(name).collect()
    }

    /// The agent's configuration, and the environment that Kubernetes would give its container:
    /// a variable for each Service.
    ///
    /// # Panics
    /// There is no ConfigMap of ours.
    #[must_use]
    pub fn configuration(&self) -> (String, Vec<(String, String)>) {
        let is_ours = |map: &&Value| map["data"]["nodens.yaml"].is_string();
        let map = self.all("ConfigMap").into_iter().find(is_ours);
        let text = map.and_then(|map| map["data"]["nodens.yaml"].as_str());
        let text = text.expect("a ConfigMap with nodens.yaml").to_owned();
        let services = self.all("Service").into_iter().zip(50..);
        let variables = services.map(|(service, number)| {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            let name = name.to_ascii_uppercase().replace('-', "_");
            let is_v6 = service["spec"]["ipFamilies"][0] == "IPv6";
            let address = match is_v6 {
                true => format!("fd00:96::{number}"),
                false => format!("10.96.0.{number}"),
            };
            (format!("{name}_SERVICE_HOST"), address)
        });
        let variables = variables.collect();
        (text, variables)
    }
}

/// Renders the chart as release `nodens` in kube-system with these arguments.
///
/// # Errors
/// What Helm says.
pub fn template(arguments: &[&str]) -> anyhow::Result<Rendered> {
    template_as("nodens", arguments)
}

/// As [`template`], as a release of this name.
///
/// # Errors
/// What Helm says.
pub fn template_as(release: &str, arguments: &[&str]) -> anyhow::Result<Rendered> {
    let home = TempDir::new()?;
    let output = helm(&home)?
        .args(["template", release])
        .arg(chart())
        .args(["--namespace", "kube-system"])
        .args(arguments)
        .output()
        .context("run helm")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm template: {said}");
    let objects = yaml::documents(&String::from_utf8_lossy(&output.stdout))?;
    let objects = objects.into_iter().filter(Value::is_object).collect();
    Ok(Rendered { objects })
}

/// Renders with `--set` of each of these, beside [`DNS_SERVICE`].
///
/// # Errors
/// What Helm says.
pub fn with(values: &[&str]) -> anyhow::Result<Rendered> {
    let mut arguments = vec!["--set", DNS_SERVICE];
    for value in values {
        arguments.extend(["--set", value]);
    }
    template(&arguments)
}

/// Everything that a command has said.
#[must_use]
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = write!(text, "{}", String::from_utf8_lossy(&output.stderr));
    text
}
