// SPDX-License-Identifier: Apache-2.0
//! The admin socket: a file that root and the agent's user alone may open. What is asked through it
//! is HTTP, as on the admin ports, and so `curl --unix-socket` is a client of it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;

/// Of the socket: read and write for its owner.
const OWNER_ONLY: u32 = 0o600;

/// Of a directory that is made for it.
const DIRECTORY: u32 = 0o755;

/// There can be no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody answers there.
    #[error("{} is the admin socket of another nodens, which is alive ({who})", path.display())]
    Alive {
        /// Where.
        path: PathBuf,
        /// Its process.
        who: String,
    },
    /// Something else is there.
    #[error("{} is there and is no socket", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{step} {}: {source}", path.display())]
    System {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ControlError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Alive { .. } => "stop it, or choose another admin.socket",
            Self::NotASocket { .. } => "remove it, or choose another admin.socket",
            Self::System { .. } => {
                "choose an admin.socket in a directory that this user may write to"
            }
        }
    }
}

/// Listens at this path. Its directory is made where it is missing; what an agent that has died
/// left there is replaced.
///
/// # Errors
/// Another agent answers there, something else is there, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let refused = |step| {
        let path = path.to_owned();
        move |source| ControlError::System { step, path, source }
    };
    if let Some(directory) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY);
        builder
            .create(directory)
            .map_err(refused("make the directory of"))?;
    }
    clear(path)?;
    let listener = UnixListener::bind(path).map_err(refused("listen on"))?;
    fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))
        .map_err(refused("set the mode of"))?;
    Ok(listener)
}

/// Removes what a dead agent left.
fn clear(path: &Path) -> Result<(), ControlError> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path });
        }
        _ => {}
    }
    match UnixStream::connect(&path) {
        Ok(stream) => {
            let who = who(&stream);
            Err(ControlError::Alive { path, who })
        }
        // Nobody listens any more.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let step = "remove the old socket";
            fs::remove_file(&path).map_err(|source| ControlError::System { step, path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => {
            let step = "look who listens on";
            Err(ControlError::System { step, path, source })
        }
    }
}

/// The process at the other end, as far as it can be told from here.
fn who(stream: &UnixStream) -> String {
    let Ok(peer) = socket_peercred(stream) else {
        return "its process is not known".to_owned();
    };
    let pid = peer.pid.as_raw_nonzero();
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid}, {}", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    /// Where no directory is yet.
    fn socket(scratch: &Scratch) -> PathBuf {
        scratch.at("deep/admin.sock")
    }

    #[test]
    fn the_socket_is_for_its_owner_alone_and_its_directory_is_made() {
        let scratch = Scratch::new();
        let _listener = bind(&socket(&scratch)).unwrap();
        let mode = fs::metadata(socket(&scratch)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
    }

    #[test]
    fn what_a_dead_agent_left_is_replaced() {
        let scratch = Scratch::new();
        drop(bind(&socket(&scratch)).unwrap());
        assert!(socket(&scratch).exists());
        let listener = bind(&socket(&scratch)).unwrap();
        UnixStream::connect(socket(&scratch)).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn an_agent_that_is_alive_is_named_and_keeps_its_socket() {
        let scratch = Scratch::new();
        let _first = bind(&socket(&scratch)).unwrap();
        let error = bind(&socket(&scratch)).unwrap_err();
        let expected = format!(
            "another nodens, which is alive (process {}",
            std::process::id()
        );
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(UnixStream::connect(socket(&scratch)).is_ok());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let scratch = Scratch::new();
        fs::create_dir_all(socket(&scratch).parent().unwrap()).unwrap();
        fs::write(socket(&scratch), "precious").unwrap();
        let error = bind(&socket(&scratch)).unwrap_err();
        assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(socket(&scratch)).unwrap(), "precious");
    }
}
