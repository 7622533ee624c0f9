// SPDX-License-Identifier: Apache-2.0
//! The cluster's authority, a certificate for everybody in it, and their kubeconfigs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use super::components::API_PORT;
use super::plan::{HOME, Machine, Options};
use crate::node::Family;

/// The first address of the Services' network, which is the API server's own.
const KUBERNETES: &str = "10.96.0.1";

/// The file of a key, certificate or kubeconfig.
#[must_use]
pub fn path(file: &str) -> PathBuf {
    Path::new(HOME).join("keys").join(file)
}

/// The kubeconfig of the administrator. It names the door on 127.0.0.1 (see
/// [`door`](super::door)), so that programs outside of the namespaces can use it.
#[must_use]
pub fn admin() -> PathBuf {
    path("admin.kubeconfig")
}

/// Makes and writes all of them. `door` is the port on 127.0.0.1.
///
/// # Errors
/// When they cannot be made or written.
pub(super) fn write(options: Options, door: u16) -> anyhow::Result<()> {
    fs::create_dir_all(path("")).context("make the directory of the keys")?;
    let authority = Authority::new()?;
    save("ca.crt", &authority.pem)?;
    save("ca.key", &authority.key)?;
    let tokens = KeyPair::generate()?;
    save("tokens.key", &tokens.serialize_pem())?;
    save("tokens.pub", &tokens.public_key_pem())?;
    let control = Machine::Control.address(Family::V4).to_string();
    let names = [
        control.as_str(),
        "127.0.0.1",
        KUBERNETES,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    authority.issue("apiserver", "kube-apiserver", None, &names)?;
    let masters = Some("system:masters");
    authority.issue("apiserver-kubelet", "apiserver-kubelet", masters, &[])?;
    let api = format!("{control}:{API_PORT}");
    let door = format!("127.0.0.1:{door}");
    authority.user("admin", "admin", masters, &door)?;
    for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        authority.user(component, &format!("system:{component}"), None, &api)?;
    }
    for machine in options.machines() {
        if let Machine::Node(_) = machine {
            let name = format!("system:node:{machine}");
            authority.user(&machine.to_string(), &name, Some("system:nodes"), &api)?;
        }
    }
    Ok(())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
}

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "cluster");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let text = key.serialize_pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            key: text,
        })
    }

    /// Writes a key and a certificate: to Kubernetes its common name is the user, its organization
    /// the group.
    fn issue(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        names: &[&str],
    ) -> anyhow::Result<()> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        save(&format!("{file}.crt"), &certificate.pem())?;
        save(&format!("{file}.key"), &key.serialize_pem())
    }

    /// [`Self::issue`], and a kubeconfig for `server`.
    fn user(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        server: &str,
    ) -> anyhow::Result<()> {
        self.issue(file, user, group, &[])?;
        let of = |end: &str| path(&format!("{file}.{end}")).display().to_string();
        let config = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters: [{{ name: it, cluster: {{ server: 'https://{server}', certificate-authority: {ca} }} }}]\n\
             users: [{{ name: it, user: {{ client-certificate: {certificate}, client-key: {key} }} }}]\n\
             contexts: [{{ name: it, context: {{ cluster: it, user: it }} }}]\n\
             current-context: it\n",
            ca = path("ca.crt").display(),
            certificate = of("crt"),
            key = of("key"),
        );
        save(&format!("{file}.kubeconfig"), &config)
    }
}

fn save(file: &str, text: &str) -> anyhow::Result<()> {
    let path = path(file);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
