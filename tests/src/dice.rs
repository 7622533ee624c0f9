// SPDX-License-Identifier: Apache-2.0
//! Random octets from a seed, and messages broken at random: a failure can be seen again.

use std::io::Write;
use std::ops::Range;
use std::time::SystemTime;

/// The environment variable that sets the seed.
const SEED: &str = "NODENS_SEED";

/// Random numbers (splitmix64). The seed is a new one at each run, or what `NODENS_SEED` says;
/// a test that fails prints it.
#[derive(Debug)]
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// With a seed of its own.
    ///
    /// # Panics
    /// When `NODENS_SEED` is set and no number.
    #[must_use]
    pub fn new() -> Self {
        let seed = match std::env::var_os(SEED) {
            Some(text) => {
                let number = text.to_str().and_then(|text| text.parse().ok());
                number.expect("NODENS_SEED is a number")
            }
            None => fresh_seed(),
        };
        Self::with_seed(seed)
    }

    /// With this seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of the range.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn of(&mut self, range: Range<usize>) -> usize {
        assert!(!range.is_empty(), "{range:?} has no number");
        let span = (range.end - range.start) as u64;
        range.start + usize::try_from(self.number() % span).unwrap_or(0)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.of(0..times) == 0
    }

    /// Any octet.
    pub fn octet(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    /// So many octets.
    pub fn octets(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.octet()).collect()
    }

    /// One of them.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.of(0..all.len())]
    }

    /// The message with one to four things wrong with it, its first `keep` octets left alone.
    pub fn mutate(&mut self, message: &[u8], keep: usize) -> Vec<u8> {
        let mut bytes = message.to_vec();
        for _ in 0..self.of(1..5) {
            self.mutate_once(&mut bytes, keep);
        }
        bytes
    }

    fn mutate_once(&mut self, bytes: &mut Vec<u8>, keep: usize) {
        if bytes.len() <= keep {
            let more = self.of(1..40);
            return bytes.extend(self.octets(more));
        }
        let at = self.of(keep..bytes.len());
        let end = (at + self.of(1..20)).min(bytes.len());
        match self.of(0..10) {
            0 => bytes[at] ^= 1 << self.of(0..8),
            1 => bytes[at] = self.octet(),
            2 => bytes.truncate(at),
            3 => {
                let more = self.of(1..60);
                bytes.extend(self.octets(more));
            }
            // A compression pointer, to anywhere near.
            4 => {
                bytes[at] = 0xc0;
                if let Some(low) = bytes.get_mut(at + 1) {
                    *low = self.octet();
                }
            }
            // A length that is off by a little, or extreme.
            5 => bytes[at] = bytes[at].wrapping_add(1),
            6 => bytes[at] = *self.pick(&[0, 1, 63, 64, 127, 128, 191, 192, 255]),
            7 => drop(bytes.drain(at..end)),
            8 => {
                let piece = bytes[at..end].to_vec();
                let to = self.of(keep..bytes.len());
                bytes.splice(to..to, piece);
            }
            // A count of the header, where it may be touched; else any octet.
            _ => {
                let count = self.of(4..12);
                let at = if count >= keep && count < bytes.len() {
                    count
                } else {
                    at
                };
                bytes[at] = *self.pick(&[0, 1, 2, 3, 255]);
            }
        }
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Where standard error is gone nobody could read it anyway.
            let _ = writeln!(std::io::stderr(), "see it again with {SEED}={}", self.seed);
        }
    }
}

fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.subsec_nanos());
    u64::from(nanoseconds) << 20 | u64::from(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_breaks_a_message_in_the_same_way() {
        let message: Vec<u8> = (0..40).collect();
        let broken = |seed| {
            let mut dice = Dice::with_seed(seed);
            (0..100)
                .map(|_| dice.mutate(&message, 2))
                .collect::<Vec<_>>()
        };
        assert_eq!(broken(7), broken(7));
        assert_ne!(broken(7), broken(8));
        let all = broken(9);
        assert!(all.iter().filter(|one| **one != message).count() > 90);
        assert!(all.iter().all(|one| one[..2] == [0, 1]));
    }
}
