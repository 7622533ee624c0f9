// SPDX-License-Identifier: Apache-2.0
//! `nodens chart hold`: does nothing until SIGTERM. The container of a hook's DaemonSet that runs
//! once its init containers have done the work, so that the pod is ready then.

use std::process::ExitCode;

use clap::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::exit::Exit;
use crate::cli::output;

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new("hold").about("Waits for SIGTERM")
}

/// Waits.
pub(super) fn execute() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let held = runtime.and_then(|runtime| {
        runtime.block_on(async {
            // As the first process of a container it would not even be killed without a handler.
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            output::print("done on this node; waiting to be removed\n");
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })
    });
    match held {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            output::complain(&format!("wait for SIGTERM: {error}\n"));
            Exit::Bug.into()
        }
    }
}
