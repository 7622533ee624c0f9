// SPDX-License-Identifier: Apache-2.0
//! Archives of images, made of files at hand: no container engine and no registry is needed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::process::TempDir;

/// A file of an image: where it is here, where it is there.
pub type File<'a> = (&'a Path, &'a str);

/// Writes `archive`, an image of this name with one layer, in the format of `docker save`, which
/// `ctr images import` takes. The same files make the same image.
///
/// # Errors
/// A file is missing, or `tar` and `sha256sum` fail.
pub fn write(archive: &Path, name: &str, files: &[File<'_>], entry: &[&str]) -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let root = dir.path().join("root");
    for (from, to) in files {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file below /")?)?;
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    let image = dir.path().join("image");
    fs::create_dir(&image)?;
    let layer = image.join("layer.tar");
    pack(&layer, &root)?;
    let digest = sha256(&layer)?;
    // As Go names it.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": entry },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(image.join("config.json"), config.to_string())?;
    let digest = sha256(&image.join("config.json"))?;
    fs::rename(
        image.join("config.json"),
        image.join(format!("{digest}.json")),
    )?;
    let manifest = json!([{
        "Config": format!("{digest}.json"),
        "RepoTags": [name],
        "Layers": ["layer.tar"],
    }]);
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    pack(archive, &image)
}

fn pack(archive: &Path, dir: &Path) -> anyhow::Result<()> {
    let output = Command::new("tar")
        .args([
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(dir)
        .arg(".")
        .output()
        .context("run tar")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "write {}: {said}",
        archive.display()
    );
    Ok(())
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    let digest = text.split(' ').next().filter(|digest| digest.len() == 64);
    Ok(digest
        .with_context(|| format!("sum {}", file.display()))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_image_and_its_layer_is_what_it_says() {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/true\n").unwrap();
        let archive = |name: &str| {
            let archive = dir.path().join(name);
            write(
                &archive,
                "it.invalid/it:1",
                &[(&program, "/bin/it")],
                &["/bin/it"],
            )
            .unwrap();
            archive
        };
        let (one, other) = (archive("one"), archive("other"));
        assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
        let image = dir.path().join("image");
        fs::create_dir(&image).unwrap();
        let tar = Command::new("tar")
            .arg("-xf")
            .arg(&one)
            .arg("-C")
            .arg(&image)
            .status();
        assert!(tar.unwrap().success());
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(image.join(name)).unwrap()).unwrap()
        };
        let manifest = read("manifest.json");
        assert_eq!(manifest[0]["RepoTags"][0], "it.invalid/it:1");
        let config = read(manifest[0]["Config"].as_str().unwrap());
        let layer = format!("sha256:{}", sha256(&image.join("layer.tar")).unwrap());
        assert_eq!(config["rootfs"]["diff_ids"][0], layer);
    }
}
