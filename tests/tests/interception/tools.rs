// SPDX-License-Identifier: Apache-2.0
//! The lab's own programs where they cannot run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nodens_tests::process::TempDir;

use crate::said;

#[test]
fn demo_and_drills_without_root_say_so_and_how_to_get_it() {
    for program in [env!("CARGO_BIN_EXE_demo"), env!("CARGO_BIN_EXE_drills")] {
        // Where everybody may run it, whoever has built it.
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let copy = dir.path().join("program");
        fs::copy(program, &copy).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(copy)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(69), "{}", said(&output));
        assert!(said(&output).contains("sudo"), "{}", said(&output));
    }
}
