// SPDX-License-Identifier: Apache-2.0
//! What is on a node, as far as anything of ours could be: to be compared before and after.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Machine};

/// Lines that say what is on a node, one thing a line.
///
/// Left out is what others change meanwhile: links and routes of pods, kube-proxy's own chains.
///
/// # Errors
/// The node does not tell.
pub fn take(cluster: &Cluster, node: Machine) -> anyhow::Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for command in [
        "ip -oneline link show",
        "ip -oneline address show",
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "ip -6 route show table all",
        "nft --stateless list ruleset",
        // Sockets, state, pid files: whatever the name.
        // What containerd removes while it looks is no error.
        "find /run /var/lib /opt /usr/libexec -ignore_readdir_race -iname *nodens* -not -path *cluster*",
        "find /run/nodens -type f",
    ] {
        // One that looks for what is not there fails.
        let text = match cluster.on(node, command) {
            Err(_) if command.starts_with("find /run/nodens") => String::new(),
            result => result?,
        };
        // A rule is told with where it stands.
        let mut above = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let depth = line.len() - line.trim_start_matches('\t').len();
            above.truncate(depth);
            above.push(line.trim().to_owned());
            let full = format!("{command}: {}", above.join(" > "));
            if is_ours_to_tell(&full) {
                lines.insert(full);
            }
        }
    }
    Ok(lines)
}

/// Whether a line stays the same while nobody but us changes anything.
fn is_ours_to_tell(line: &str) -> bool {
    // kubelet removes the directories of a pod a while after it.
    let of_pods = ["veth", "containerd", "/kubelet/pods/"];
    let is_of_pods = of_pods.iter().any(|word| line.contains(word));
    let is_of_proxy = line.contains("kube-proxy") || line.contains("KUBE-");
    // The directory of the socket: it goes with the next boot, and the documentation says so.
    let is_known = line.ends_with(": /run/nodens");
    !is_of_pods && !is_of_proxy && !is_known
}

/// What is there that was not, and is not there that was; each at most a few lines.
#[must_use]
pub fn differences(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let more = after.difference(before).map(|line| format!("left: {line}"));
    let less = before.difference(after).map(|line| format!("gone: {line}"));
    more.chain(less).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_and_what_is_gone_are_told_and_what_others_change_is_not() {
        let set = |lines: &[&str]| -> BTreeSet<String> {
            lines.iter().map(|&line| line.to_owned()).collect()
        };
        let before = set(&["a", "b"]);
        let after = set(&["b", "c"]);
        assert_eq!(differences(&before, &after), ["left: c", "gone: a"]);
        assert!(differences(&before, &before).is_empty());
        assert!(is_ours_to_tell("nft: table inet nodens-fallback {"));
        assert!(is_ours_to_tell("find: /run/nodens/admin.sock"));
        assert!(!is_ours_to_tell("nft: table ip kube-proxy { > chain x {"));
        assert!(!is_ours_to_tell("find: /run/nodens"));
    }
}
