// SPDX-License-Identifier: Apache-2.0
//! What the lab needs to run other programs: directories that vanish, free ports, children that
//! never outlive their test, and their logs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// Pause between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(5);

/// How long a program may take to stop: a machine whose CPUs are all taken.
const STOP: Duration = Duration::from_secs(5);

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new directory, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        // Short: a Unix socket's path has 107 octets.
        let name = format!("nodens-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&path)
            .with_context(|| format!("make directory {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Nothing depends on it: the system cleans its temporary directory itself.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port of 127.0.0.1 that is free for UDP and TCP and that no other call in this process gets.
/// It lies below the ports that the kernel hands out (32768 and up), so that no client's socket
/// takes it before the program it is meant for does.
///
/// # Errors
/// When none is left.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different places.
    let start = u16::try_from(std::process::id().wrapping_mul(613) % u32::from(COUNT))?;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Relaxed);
        let offset = (u32::from(start) + u32::from(step)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset)?;
        if is_free(port) {
            return Ok(port);
        }
    }
    anyhow::bail!("no port of 127.0.0.1 is free")
}

/// Whether a port of 127.0.0.1 can be bound for UDP and TCP.
#[must_use]
pub fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    // UDP first: a server that refuses connections for a while keeps its port by its UDP socket, and
    // must find it without a listener when it comes back.
    UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
}

/// Runs a command to its end with this on its standard input.
///
/// # Errors
/// It cannot be started, or not be waited for. That it fails is told by its status.
pub fn feed(command: &mut Command, input: &str) -> anyhow::Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{program}` (`make deps` installs what is missing)"))?;
    let stdin = child.stdin.take().context("its input")?;
    // On a thread of its own: a program may answer before it has read everything.
    let output = thread::scope(|scope| {
        // It fails where the program has ended early, which its status tells.
        scope.spawn(move || (&stdin).write_all(input.as_bytes()));
        child.wait_with_output()
    })?;
    Ok(output)
}

/// The program named `name`: what the environment variable says, else beside this executable or
/// one directory above it, as cargo lays them out.
///
/// # Errors
/// Where it is not there, with the command that makes it.
pub fn find_program(name: &str, variable: &str, remedy: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        anyhow::ensure!(
            path.is_file(),
            "{variable} names {}, which is no file; {remedy}",
            path.display()
        );
        return Ok(path);
    }
    let here = std::env::current_exe().context("find this executable")?;
    let beside = here.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let mut places = Vec::new();
    for path in beside {
        if path.is_file() {
            return Ok(path);
        }
        places.push(path.display().to_string());
    }
    anyhow::bail!(
        "{name} is neither at {} nor named by {variable}; {remedy}",
        places.join(" nor at ")
    )
}

/// Looks until `found` gives something.
///
/// # Errors
/// What `found` gives as an error ends the wait; so does the end of `patience`, which names
/// `what`.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut found: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = found()? {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < patience, "waited {patience:?} for {what}");
        thread::sleep(LOOK);
    }
}

/// A running program whose output goes to a file. It is killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; standard output and standard error go to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program not started.
    pub fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let name = OsString::from(command.get_program());
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", name.display()))?;
        Ok(Self { child, log })
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What the system reports.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        wait_for("the end of the program", patience, || Ok(child.try_wait()?))
    }

    /// Sends a signal. One that stops it has stopped all its threads when this returns: they go on
    /// for a moment where they run on another CPU.
    ///
    /// # Errors
    /// When it has ended and been waited for, or does not stop.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("{signal:?} for a program that has ended: {status}");
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process ID")?, signal)?;
        if signal == Signal::STOP {
            wait_for("all threads to stop", STOP, || {
                Ok(self.is_stopped()?.then_some(()))
            })?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> anyhow::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // One that has ended meanwhile is no longer there.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            if !status.lines().any(|line| line.starts_with("State:\tT")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Resident memory in bytes (VmRSS).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("VmRSS in /proc/PID/status")?.trim().parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ports_are_free_and_differ() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        let set: HashSet<_> = ports.iter().collect();
        assert_eq!(set.len(), 50);
        let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        assert!(!is_free(ports[0]));
    }

    #[test]
    fn a_program_and_its_directory_end_with_their_owner() {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello; exec sleep 60"]);
        let mut program = Program::start(command, dir.path().join("log")).unwrap();
        wait_for("its word", Duration::from_secs(5), || {
            Ok(program.log().contains("hello").then_some(()))
        })
        .unwrap();
        // While one program takes the place of the other its memory is small.
        wait_for("its memory", Duration::from_secs(5), || {
            Ok((program.resident_bytes()? > 100_000).then_some(()))
        })
        .unwrap();
        assert!(program.status().unwrap().is_none());
        let pid = program.pid();
        let path = dir.path().to_owned();
        drop((program, dir));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!path.exists());
    }

    #[test]
    fn a_signal_ends_a_program_and_its_status_says_so() {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let mut program = Program::start(command, dir.path().join("log")).unwrap();
        program.signal(Signal::TERM).unwrap();
        let status = program.wait(Duration::from_secs(5)).unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(15));
        program.signal(Signal::TERM).unwrap_err();
    }

    #[test]
    fn a_missing_program_is_named_with_its_remedy() {
        let error = find_program("no-such-program", "NO_SUCH_VARIABLE", "run `make it`");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no-such-program") && error.contains("make it"));
    }
}
