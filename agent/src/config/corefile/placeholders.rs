// SPDX-License-Identifier: Apache-2.0
//! The placeholders of node-cache's template Corefile, which it replaces when it runs.

use super::context::Context;
use super::lexer::Token;
use crate::config::nearest::nearest;
use crate::config::yaml::quote;

/// The upstream Service's address.
const CLUSTER_DNS: &str = "__PILLAR__CLUSTER__DNS__";
/// The servers of the ConfigMap of kube-dns, or the node's own.
const UPSTREAM_SERVERS: &str = "__PILLAR__UPSTREAM__SERVERS__";
/// All values of `-localip`.
const LOCAL_DNS: &str = "__PILLAR__LOCAL__DNS__";
/// Nothing: its value is among those of `-localip`.
const DNS_SERVER: &str = "__PILLAR__DNS__SERVER__";
/// The cluster's domain; put in when the manifest is installed.
const DNS_DOMAIN: &str = "__PILLAR__DNS__DOMAIN__";
/// The value of `-prometheus-listen-address`.
const PROMETHEUS: &str = "__PROMETHEUS__ENDPOINT__";

/// Every placeholder with what it stands for, for docs/corefile.md.
pub(super) const PLACEHOLDERS: [(&str, &str); 6] = [
    (
        LOCAL_DNS,
        "the addresses of `-localip`, separated by spaces",
    ),
    (
        CLUSTER_DNS,
        "the address of the Service that `-upstreamsvc` names, from its environment variable",
    ),
    (
        UPSTREAM_SERVERS,
        "`upstreamNameservers` of the ConfigMap of kube-dns, else `/etc/resolv.conf`",
    ),
    (DNS_SERVER, "nothing; its address is one of `-localip`"),
    (
        PROMETHEUS,
        "the value of `-prometheus-listen-address`, `:9253`",
    ),
    (
        DNS_DOMAIN,
        "refused: the installation puts the cluster's domain in its place",
    ),
];

/// The words that a word stands for; `None` where a placeholder in it cannot be filled. `line` is the
/// first word of its line.
pub(super) fn fill(context: &mut Context<'_>, token: &Token, line: &str) -> Option<Vec<Token>> {
    let Some(found) = find(&token.text) else {
        return Some(vec![token.clone()]);
    };
    let mut text = token.text.clone();
    let mut name = found.to_owned();
    // Each turn takes one placeholder away: the values hold none.
    for _ in 0..8 {
        let value = value(context, token, &name, text == name && line == "forward")?;
        text = text.replace(&name, &value);
        match find(&text) {
            Some(next) => name = next.to_owned(),
            None => break,
        }
    }
    if token.is_quoted {
        return Some(vec![Token {
            text,
            ..token.clone()
        }]);
    }
    let mut starts_line = token.starts_line;
    let words = text.split_whitespace().map(|word| Token {
        text: word.to_owned(),
        starts_line: std::mem::take(&mut starts_line),
        ..token.clone()
    });
    Some(words.collect())
}

/// The first word in a text that looks like a placeholder: capitals between double underscores.
fn find(text: &str) -> Option<&str> {
    let start = text.find("__")?;
    let rest = text.get(start..)?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_uppercase() && letter != '_')
        .unwrap_or(rest.len());
    let name = rest.get(..end)?;
    let has_letters = name.bytes().any(|byte| byte != b'_');
    (has_letters && name.len() > 4).then_some(name)
}

/// `is_server`: it is all there is in the place of a server, where a variable may stand.
fn value(context: &mut Context<'_>, token: &Token, name: &str, is_server: bool) -> Option<String> {
    let node_cache = context.node_cache.clone();
    match name {
        LOCAL_DNS if !node_cache.local_ips.is_empty() => Some(node_cache.local_ips.join(" ")),
        LOCAL_DNS => {
            let remedy = "give the addresses, e.g. -localip 169.254.20.10,10.96.0.10";
            context.wrong(token.place, "", name, "the flag -localip with it", remedy);
            None
        }
        CLUSTER_DNS => {
            let variable = node_cache.upstream_variable();
            if is_server {
                return Some(format!("env:{variable}"));
            }
            match context.environment.get(&variable) {
                Some(value) => Some(value.trim().to_owned()),
                None => {
                    let expected = format!(
                        "the environment variable {variable}, which Kubernetes sets for the Service {}",
                        node_cache.upstream_service
                    );
                    let remedy =
                        "create the Service in the pod's namespace, then start the pod anew";
                    context.wrong(token.place, "", name, &expected, remedy);
                    None
                }
            }
        }
        UPSTREAM_SERVERS => Some(match node_cache.upstream_nameservers.as_slice() {
            [] => "/etc/resolv.conf".to_owned(),
            servers => servers.join(" "),
        }),
        DNS_SERVER => Some(String::new()),
        PROMETHEUS => Some(node_cache.prometheus),
        DNS_DOMAIN => {
            let remedy = "put the cluster's domain in its place, as the manifest's instructions do with sed, \
                          e.g. cluster.local";
            context.wrong(token.place, "", name, "the cluster's domain", remedy);
            None
        }
        other => {
            let known = PLACEHOLDERS.iter().map(|(name, _)| *name);
            let remedy = match nearest(other, known) {
                Some(near) => format!("did you mean {near}?"),
                None => "replace it with its value".to_owned(),
            };
            let found = format!("the unknown placeholder {}", quote(other));
            context.wrong(token.place, "", &found, "one that node-cache has", &remedy);
            None
        }
    }
}
