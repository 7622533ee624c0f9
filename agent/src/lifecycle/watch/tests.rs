// SPDX-License-Identifier: Apache-2.0
//! Files replaced in every way that there is.

use std::os::unix::fs::symlink;

use tokio::time::timeout;

use super::*;
use crate::scratch::Scratch;

/// Longer than a busy machine takes, and shorter than the look that needs no event.
const SOON: Duration = Duration::from_secs(4);

/// Watches one file, whose first change is that it was not known.
async fn watching(file: &Path) -> Watch {
    let mut watch = Watch::new();
    watch.look.reset();
    watch.follow([file.to_owned()]);
    assert_eq!(watch.changed().await, [file]);
    watch.look.reset();
    watch
}

async fn assert_told(watch: &mut Watch, file: &Path, what: &str) {
    watch.look.reset();
    let changed = timeout(SOON, watch.changed()).await;
    assert_eq!(changed.expect(what), [file], "{what}");
}

#[tokio::test]
async fn a_directory_is_told_of_when_something_comes_or_goes_in_it() {
    let dir = Scratch::new();
    let config_map = dir.at("config-map");
    fs::create_dir(&config_map).unwrap();
    let mut watch = watching(&config_map).await;
    fs::write(config_map.join("new"), "x").unwrap();
    assert_told(&mut watch, &config_map, "a file that came").await;
    symlink("elsewhere", config_map.join("..data_tmp")).unwrap();
    fs::rename(config_map.join("..data_tmp"), config_map.join("..data")).unwrap();
    assert_told(&mut watch, &config_map, "a link that came").await;
    fs::remove_file(config_map.join("new")).unwrap();
    assert_told(&mut watch, &config_map, "a file that went").await;
}

#[tokio::test]
async fn a_file_that_is_written_renamed_over_removed_or_made_is_told() {
    let dir = Scratch::new();
    let file = dir.at("resolv.conf");
    dir.write("resolv.conf", "one");
    let mut watch = watching(&file).await;
    dir.write("resolv.conf", "two!");
    assert_told(&mut watch, &file, "written").await;
    dir.write("new", "three");
    fs::rename(dir.at("new"), &file).unwrap();
    assert_told(&mut watch, &file, "renamed over").await;
    fs::remove_file(&file).unwrap();
    assert_told(&mut watch, &file, "removed").await;
    dir.write("resolv.conf", "four");
    assert_told(&mut watch, &file, "made").await;
    dir.write("another", "five");
    let nothing = timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_link_that_points_elsewhere_is_told_wherever_it_is_on_the_way() {
    let dir = Scratch::new();
    // As kubelet mounts a ConfigMap.
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(dir.at(version)).unwrap();
        dir.write(&format!("{version}/resolv.conf"), text);
    }
    symlink("..1", dir.at("..data")).unwrap();
    symlink("..data/resolv.conf", dir.at("resolv.conf")).unwrap();
    let file = dir.at("resolv.conf");
    let mut watch = watching(&file).await;
    symlink("..2", dir.at("..new")).unwrap();
    fs::rename(dir.at("..new"), dir.at("..data")).unwrap();
    fs::remove_dir_all(dir.at("..1")).unwrap();
    assert_told(&mut watch, &file, "..data swapped").await;
    // What the link leads to now is watched, too.
    dir.write("..2/resolv.conf", "three");
    assert_told(&mut watch, &file, "written behind the links").await;
    // As systemd has it: a link into another directory.
    fs::create_dir(dir.at("run")).unwrap();
    dir.write("run/stub", "four");
    symlink(dir.at("run/stub"), dir.at("link")).unwrap();
    fs::rename(dir.at("link"), &file).unwrap();
    assert_told(&mut watch, &file, "a link elsewhere").await;
    dir.write("run/new", "five");
    fs::rename(dir.at("run/new"), dir.at("run/stub")).unwrap();
    assert_told(&mut watch, &file, "replaced elsewhere").await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_told_and_without_events_a_look_finds_it() {
    let dir = Scratch::new();
    let file = dir.at("run/systemd/resolv.conf");
    let mut watch = Watch::new();
    watch.follow([file.clone()]);
    assert_eq!(watch.changed().await, [file.as_path()]);
    fs::create_dir_all(dir.at("run/systemd")).unwrap();
    dir.write("run/systemd/resolv.conf", "one");
    assert_told(&mut watch, &file, "made with its directories").await;
    watch.inotify = None;
    watch.look = interval(Duration::from_millis(100));
    dir.write("run/systemd/resolv.conf", "two!");
    let changed = timeout(SOON, watch.changed()).await.unwrap();
    assert_eq!(changed, [file]);
}

#[test]
fn links_in_a_circle_come_to_an_end() {
    let dir = Scratch::new();
    symlink("b", dir.at("a")).unwrap();
    symlink("a", dir.at("b")).unwrap();
    let found = directories(&dir.at("a"));
    assert_eq!(found, BTreeSet::from([dir.at("")]));
}
