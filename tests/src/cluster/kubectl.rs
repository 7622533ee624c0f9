// SPDX-License-Identifier: Apache-2.0
//! The cluster's kubectl and Helm.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{components, keys};
use crate::helm;
use crate::process::{self, TempDir};

/// kubectl with the administrator's rights.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
}

impl Kubectl {
    /// The cluster's.
    ///
    /// # Errors
    /// It is not built.
    pub fn new() -> anyhow::Result<Self> {
        let program = components::kubernetes()?.join("kubectl");
        Ok(Self { program })
    }

    /// Runs it with these words, white space in between, and gives what it printed.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        self.feed(line, "")
    }

    /// The same, with `input` on its standard input.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub fn feed(&self, line: &str, input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(keys::admin())
            .args(line.split_whitespace())
            // Its cache of what the API server knows would stay in the user's home.
            .env(
                "KUBECACHEDIR",
                components::images().with_file_name("kubectl"),
            );
        let output = process::feed(&mut command, input)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {line}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What it prints with `-o json`.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub fn json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.run(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("read what kubectl {line} printed"))
    }

    /// Makes these objects, or changes them.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<()> {
        self.feed("apply -f -", manifest).map(|_| ())
    }
}

/// Runs Helm in kube-system with these arguments.
///
/// # Errors
/// It cannot be run. That it fails is told by its status.
pub fn helm(arguments: &[&str]) -> anyhow::Result<Output> {
    let home = TempDir::new()?;
    helm::helm(&home)?
        .env("KUBECONFIG", keys::admin())
        .args(["--namespace", "kube-system"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("run helm")
}
