// SPDX-License-Identifier: Apache-2.0
//! The configuration of a scenario, with its servers' addresses in it.

use std::path::PathBuf;

use nodens::config::corefile::NodeCache;
use nodens::config::{Config, Sources};

use super::upstream::Server;

/// What stands for a server's address in a configuration.
pub(super) const SERVERS: [&str; 3] = ["UPSTREAM", "UPSTREAM2", "UPSTREAM3"];

/// The configuration as the agent itself reads it.
pub(super) fn load(name: &str, text: &str, is_corefile: bool, servers: &[Server]) -> Config {
    let mut text = text.to_owned();
    for (word, server) in SERVERS.iter().zip(servers).rev() {
        text = text.replace(word, &server.address.to_string());
    }
    let mut file: PathBuf = env!("CARGO_TARGET_TMPDIR").into();
    file.push(format!("{name}.{}.yaml", std::process::id()));
    std::fs::write(&file, &text).unwrap();
    let sources = if is_corefile {
        let mut corefile = NodeCache::new(file.clone());
        // Those of the machine are none of the scenario's.
        corefile.hosts = None;
        Sources {
            corefile: Some(corefile),
            ..Sources::default()
        }
    } else {
        Sources {
            file: Some(file.clone()),
            ..Sources::default()
        }
    };
    let loaded = Config::load(&sources);
    std::fs::remove_file(&file).unwrap();
    match loaded {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{name}.rpl: {problems:?}\n{text}"),
    }
}
