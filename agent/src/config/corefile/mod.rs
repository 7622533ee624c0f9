// SPDX-License-Identifier: Apache-2.0
//! Corefiles of node-cache: read as CoreDNS reads them, and translated into the keys of the
//! configuration, each value with its place in the Corefile. What reads the keys does not know where
//! they came from: there is one way through the program.
//!
//! ```text
//! text ─► lexer ─► expand (import, placeholders, variables) ─► parser ─► plugins ─► translate ─► keys
//! ```

mod adapt;
mod cache;
mod context;
mod convert;
mod directives;
#[cfg(test)]
mod docs;
mod expand;
mod footprint;
mod forward;
mod hosts;
mod kube_dns;
mod lexer;
mod listen;
mod local;
mod parser;
mod placeholders;
mod plugins;
mod stages;
#[cfg(test)]
mod tests;
pub(super) mod texts;
mod translate;
pub mod values;
mod zones;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use self::context::Context;
pub use self::convert::convert;
pub use self::footprint::Footprint;
use super::host::{Own, interfaces};
use super::source::{Collected, Given, Source};
use super::yaml::Node;
use super::{Origin, Problem};

/// The file that `hosts` reads where none is named.
const HOSTS: &str = "/etc/hosts";

/// What the command line of node-cache says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCache {
    /// The Corefile, or the template of one.
    pub file: PathBuf,
    /// The Corefile may be a pipe, which is waited for and can be read once: not where it is read again.
    pub takes_pipes: bool,
    /// `-localip`: addresses, as they were written.
    pub local_ips: Vec<String>,
    /// `-upstreamsvc`: the Service whose address is in an environment variable.
    pub upstream_service: String,
    /// The directory of the ConfigMap of kube-dns, where there is one.
    pub kube_dns: Option<PathBuf>,
    /// `-dns.port`: the port of zones without one.
    pub port: u16,
    /// `-interfacename`, where it was given.
    pub interface: Option<String>,
    /// Neither `-setupinterface=false` nor `-setupiptables=false`, or one of them alone.
    pub sets_up: bool,
    /// What a killed node-cache has left goes: whoever has its command line is in its place.
    pub sweeps: bool,
    /// `-metrics-listen-address`; `None` where the Corefile is all there is of node-cache.
    pub metrics: Option<String>,
    /// `-prometheus-listen-address`.
    pub prometheus: String,
    /// The node's own names, which `hosts` without a file has; `None` where this is another node.
    pub hosts: Option<PathBuf>,
    /// `upstreamNameservers` of the ConfigMap of kube-dns; read with the Corefile.
    pub upstream_nameservers: Vec<String>,
    /// What should be known of the flags that were given.
    pub warnings: Vec<Problem>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

impl NodeCache {
    /// A Corefile, and node-cache's defaults.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            takes_pipes: false,
            local_ips: Vec::new(),
            upstream_service: "kube-dns".to_owned(),
            kube_dns: None,
            port: 53,
            interface: None,
            sets_up: true,
            sweeps: false,
            metrics: None,
            prometheus: ":9253".to_owned(),
            hosts: Some(PathBuf::from(HOSTS)),
            upstream_nameservers: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The variable that Kubernetes sets for the upstream Service in its own namespace.
    pub(super) fn upstream_variable(&self) -> String {
        let service = self.upstream_service.to_ascii_uppercase().replace('-', "_");
        format!("{service}_SERVICE_HOST")
    }
}

/// A Corefile as keys of the configuration.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) texts: Arc<texts::Texts>,
    /// Keys with their values, once each.
    pub(super) values: BTreeMap<&'static str, Node>,
    notes: Vec<context::Note>,
    problems: Vec<Problem>,
    footprint: Footprint,
}

/// Reads a Corefile and what belongs to it. `interfaces` are the node's, with their addresses; `None`
/// where they cannot be listed.
pub(super) fn translate(
    node_cache: &NodeCache,
    environment: &BTreeMap<String, String>,
    interfaces: Option<Vec<Own>>,
) -> Translated {
    let mut context = Context::new(node_cache.clone(), environment, interfaces);
    context.problems.extend(node_cache.problems.iter().cloned());
    let stubs = kube_dns::read(&mut context);
    let values = translate::translate(&mut context, &stubs);
    Translated {
        values,
        texts: Arc::new(context.texts),
        notes: context.notes,
        problems: context.problems,
        footprint: context.footprint,
    }
}

impl Translated {
    fn warnings(&self) -> impl Iterator<Item = Problem> + '_ {
        self.notes.iter().map(|note| Problem {
            origin: self.texts.origin(note.place, &note.word),
            message: note.message.clone(),
            remedy: note.remedy.clone(),
        })
    }
}

/// Takes in a Corefile in the place of a configuration file.
pub(super) fn collect(
    collected: &mut Collected,
    node_cache: &NodeCache,
    environment: &BTreeMap<String, String>,
) {
    collected.file = Some(node_cache.file.clone());
    let interfaces = interfaces().inspect_err(|error| {
        collected.warnings.push(Problem {
            origin: Origin::WholeFile {
                path: node_cache.file.clone(),
            },
            message: format!("the addresses of this host cannot be listed ({error})"),
            remedy: "name addresses instead of interfaces in bind".to_owned(),
        });
    });
    let translated = translate(node_cache, environment, interfaces.ok());
    collected
        .warnings
        .extend(node_cache.warnings.iter().cloned());
    collected.warnings.extend(translated.warnings());
    // Else what does not follow from a Corefile that could not be read is told as missing.
    collected.is_broken = !translated.problems.is_empty();
    collected.problems.extend(translated.problems);
    collected.footprint = Some(translated.footprint);
    for (path, node) in translated.values {
        let source = Source::Corefile(Arc::clone(&translated.texts));
        collected.values.insert(path, Given { source, node });
    }
}
