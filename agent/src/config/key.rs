// SPDX-License-Identifier: Apache-2.0
//! What is said of a key, and the sections that keys are in.

use super::kind::Kind;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Where it stands in the file, e.g. `cache.size`; `zones[].name` for a key of each zone.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The default where the kind has none of its own, as it would be written.
    pub default: &'static str,
    /// Whether a reload applies it; otherwise a changed value needs a restart.
    pub reload: bool,
    /// What it means, in Markdown. The first sentence stands for itself: it is the help of the flag.
    pub doc: &'static str,
}

/// Sections in the order of the documentation: the word before the first dot, and what is there.
pub const SECTIONS: [(&str, &str); 10] = [
    ("version", "The form of the file."),
    ("cluster", "The cluster that is served."),
    ("listen", "Where clients are answered, over UDP and TCP."),
    (
        "intercept",
        "How the kernel steers queries to the agent, and lets go of it when it dies.",
    ),
    ("workers", "Threads that answer."),
    ("cache", "The store of answers."),
    (
        "zones",
        "Which upstream servers are asked for which names: the zone with the longest matching \
         name is taken. The list must hold the root zone `.`. A zone for the cluster's domain is \
         made where the list has none, with the upstreams of the zone that encloses it, and the \
         shorter of that zone's lifetimes and the cluster's. The list is given as a whole: \
         `NODENS_ZONES` and `--zones` take its YAML text and replace the list of the file.",
    ),
    ("limits", "Bounds on the work under way, and on its time."),
    ("admin", "Health, metrics and the admin socket."),
    ("log", "What is logged, to standard error."),
];

/// A row of the table of keys.
pub(super) const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    reload: bool,
    doc: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        reload,
        doc,
    }
}
