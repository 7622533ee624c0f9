// SPDX-License-Identifier: Apache-2.0
//! What each thread may do: after the start the pulse, and the thread that takes over from node-cache,
//! may change the node's network, and workers, which read what strangers send, may do nothing. docs/security.md has the table.
//!
//! A thread gives up what it does not need as its first act. Capabilities belong to a thread, and
//! one that was given up does not come back.

use rustix::process::setpriority_process;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, gettid,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Of the process, from the main thread before there is any other: nothing that is executed can
/// gain what we do not have. Nothing is.
pub fn begin() {
    if let Err(error) = set_no_new_privs(true) {
        tracing::warn!(%error, "cannot forbid new privileges");
    }
    // Both say no where a container has given us neither the right nor the capabilities.
    let _ = clear_ambient_capability_set();
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// Of a worker, and of the main thread when all is set up: nothing.
pub fn drop_all() {
    keep(CapabilitySet::empty());
}

/// Of the pulse: to speak to the kernel of links and rules. It goes before others where it may: its
/// sign of life must not be late because a node is busy.
pub fn keep_network() {
    // Without CAP_SYS_NICE the kernel says no: it is then one thread among many.
    let _ = setpriority_process(Some(gettid()), -20);
    keep_rules();
}

/// Of the thread that takes over from node-cache: as the pulse, without its haste.
pub fn keep_rules() {
    keep(CapabilitySet::NET_ADMIN);
}

/// Of the cold thread, where it has to listen on addresses that the node gets later.
pub fn keep_ports() {
    keep(CapabilitySet::NET_BIND_SERVICE);
}

/// Keeps of what this thread may do no more than these.
fn keep(kept: CapabilitySet) {
    let sets = capabilities(None).and_then(|sets| {
        let permitted = sets.permitted & kept;
        set_capabilities(
            None,
            CapabilitySets {
                effective: permitted,
                permitted,
                inheritable: CapabilitySet::empty(),
            },
        )
    });
    if let Err(error) = sets {
        tracing::warn!(%error, "cannot give up capabilities");
    }
}
