// SPDX-License-Identifier: Apache-2.0
//! The image that `make image` builds: what is in it, and that it starts from nothing but itself.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nodens_tests::client::Client;
use nodens_tests::helm::said;
use nodens_tests::process::{Program, TempDir, free_port, wait_for};
use nodens_tests::sample::Sample;
use serde_json::Value;

/// What the image may have in octets.
const MOST: u64 = 10 << 20;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The unpacked archive, and the root of a container.
struct Image {
    dir: TempDir,
    config: Value,
    layers: Vec<PathBuf>,
}

fn tar(arguments: &[&str]) -> String {
    let output = Command::new("tar").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

impl Image {
    fn open() -> Self {
        let path = std::env::var_os("NODENS_IMAGE");
        let path = path.expect("build the image with `make image`, and let NODENS_IMAGE name it");
        let path = Path::new(&path);
        let size = fs::metadata(path).unwrap().len();
        assert!(size < MOST, "{size} octets");
        let dir = TempDir::new().unwrap();
        let archive = dir.path().join("archive");
        let root = dir.path().join("root");
        fs::create_dir_all(&archive).unwrap();
        fs::create_dir_all(&root).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        tar(&["-xf", &text(path), "-C", &text(&archive)]);
        let read = |name: &str| -> Value {
            serde_json::from_str(&fs::read_to_string(archive.join(name)).unwrap()).unwrap()
        };
        let manifest = read("manifest.json")[0].clone();
        let config = read(manifest["Config"].as_str().unwrap());
        let layers = manifest["Layers"].as_array().unwrap().iter();
        let layers: Vec<_> = layers
            .map(|layer| archive.join(layer.as_str().unwrap()))
            .collect();
        for layer in &layers {
            tar(&["-xf", &text(layer), "-C", &text(&root)]);
        }
        Self {
            dir,
            config,
            layers,
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A command in a root that has nothing else, not even /proc.
    fn command(&self) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.root()).arg("/nodens").env_clear();
        // Where chroot itself is.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

#[test]
fn it_holds_one_file_and_no_more_octets_than_it_may() {
    let image = Image::open();
    let mut files = Vec::new();
    for layer in &image.layers {
        let list = tar(&["-tf", layer.to_str().unwrap()]);
        files.extend(list.lines().map(str::to_owned));
    }
    assert_eq!(files, ["nodens"]);
}

#[test]
fn its_entry_is_the_program_and_its_labels_say_what_it_is() {
    let config = Image::open().config;
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["os"], "linux");
    let config = &config["config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/nodens"]));
    assert_eq!(config["User"], "0:0");
    assert!(config["Cmd"].is_null() && config["ExposedPorts"].is_null());
    let label = |name: &str| {
        let label = &config["Labels"][format!("org.opencontainers.image.{name}")];
        label.as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(label("title"), "nodens");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "Apache-2.0");
    assert!(!label("revision").is_empty() && !label("source").is_empty());
}

#[test]
fn it_starts_and_answers_from_a_root_without_any_other_file() {
    let image = Image::open();
    let output = image.command().arg("--version").output().unwrap();
    let version = concat!("nodens ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(said(&output), version);

    let sample = Sample::start().unwrap();
    let (port, health) = (free_port().unwrap(), free_port().unwrap());
    let configuration = format!(
        "listen: {{ addresses: [127.0.0.1], port: {port} }}\n\
         admin: {{ health: '127.0.0.1:{health}', metrics: '127.0.0.1:{health}', socket: /admin.sock }}\n\
         zones: [{{ name: '.', upstreams: ['{}'] }}]\n",
        sample.addr()
    );
    fs::write(image.root().join("nodens.yaml"), configuration).unwrap();
    let mut command = image.command();
    command.args(["run", "--config", "/nodens.yaml"]);
    let mut program = Program::start(command, image.dir.path().join("log")).unwrap();
    let client = Client::new(format!("127.0.0.1:{port}").parse().unwrap());
    let name = "web.prod.svc.cluster.local";
    let answered = wait_for("an answer", PATIENCE, || Ok(client.query(name, 1u16).ok()));
    assert!(answered.is_ok(), "{}", program.log());
    let _ = program.signal(rustix::process::Signal::TERM);
    let status = program.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", program.log());
}
