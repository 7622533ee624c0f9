// SPDX-License-Identifier: Apache-2.0
//! The table of exit codes; numbers are those of sysexits(3).

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or drained.
    Done = 0,
    /// The command line or the configuration is wrong (`EX_USAGE`).
    Usage = 64,
    /// The kernel refused the network setup (`EX_UNAVAILABLE`).
    Network = 69,
    /// A bug in this program (`EX_SOFTWARE`).
    Bug = 70,
    /// No upstream could be reached at start, and `--require-upstream` was given
    /// (`EX_TEMPFAIL`).
    NoUpstream = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_that_are_promised() {
        let all = [
            Exit::Done,
            Exit::Usage,
            Exit::Network,
            Exit::Bug,
            Exit::NoUpstream,
        ];
        assert_eq!(all.map(|exit| exit as u8), [0, 64, 69, 70, 75]);
    }
}
