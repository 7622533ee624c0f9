// SPDX-License-Identifier: Apache-2.0
//! The names that are asked for: numbered from a pattern, picked at random or in order.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::Random;

/// Octets of the longest name on the wire (RFC 1035 section 2.3.4).
pub const LONGEST_NAME: usize = 255;

/// Which of the names comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// Any, all alike.
    Uniform,
    /// Any, the k-th most popular with weight k to the power of minus `exponent`.
    Zipf {
        /// 1.0 is about what DNS names have.
        exponent: f64,
    },
    /// Each once, in order; then no more.
    Once,
    /// Always a new one that no earlier run has asked for: nothing can have it in its cache.
    New,
}

/// A set of names with a rule for picking.
#[derive(Clone, Debug)]
pub struct Names {
    /// The name on the wire, with zeros for digits.
    wire: Vec<u8>,
    /// Where the number stands in it.
    digits: Range<usize>,
    count: u64,
    pick: Pick,
    /// For Zipf: the summed weights up to each name, the last being 1.
    cumulative: Arc<[f64]>,
}

impl Names {
    /// The names of `pattern`, in which one run of `#` is replaced by a number below `count`:
    /// `n######.bench.example`. With [`Pick::New`] `count` is ignored, and the label with the
    /// number begins with random digits.
    ///
    /// # Errors
    /// A pattern without a number or with several, a label or name that is too long, more names
    /// than the digits can tell apart.
    pub fn new(pattern: &str, count: u64, pick: Pick) -> Result<Self> {
        let pattern = pattern.trim_end_matches('.');
        let start = pattern.find('#').context("the pattern has no #")?;
        let width = pattern[start..].bytes().take_while(|&c| c == b'#').count();
        let (head, tail) = (&pattern[..start], &pattern[start + width..]);
        ensure!(
            !tail.contains('#'),
            "the pattern has more than one run of #"
        );
        let (head, width, count) = if pick == Pick::New {
            let label = head.rfind('.').map_or(0, |dot| dot + 1);
            let (above, label) = head.split_at(label);
            let run = Random::seed_of_the_moment() >> 24;
            (format!("{above}x{run:010x}{label}"), 10, 10_u64.pow(10))
        } else {
            (head.to_owned(), width, count)
        };
        ensure!(count > 0, "no names");
        ensure!(
            width >= 20 || 10_u128.pow(u32::try_from(width)?) >= u128::from(count),
            "{count} names need more than {width} digits"
        );
        let text = format!("{head}{}{tail}", "0".repeat(width));
        let wire = to_wire(&text)?;
        // A dot of the text is a length octet on the wire, behind the octet of the first label.
        let digits = head.len() + 1..head.len() + 1 + width;
        let cumulative = match pick {
            Pick::Zipf { exponent } => cumulate(count, exponent),
            _ => Arc::new([]),
        };
        Ok(Self {
            wire,
            digits,
            count,
            pick,
            cumulative,
        })
    }

    /// How many names there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Octets of each of the names on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.wire.len()
    }

    /// Writes name number `index` to the beginning of `out`. Returns its octets.
    ///
    /// # Panics
    /// If `out` has less than [`Names::wire_len`] octets.
    #[inline]
    pub fn write(&self, mut index: u64, out: &mut [u8]) -> usize {
        let out = &mut out[..self.wire.len()];
        out.copy_from_slice(&self.wire);
        for digit in out[self.digits.clone()].iter_mut().rev() {
            // A remainder by ten is below ten.
            *digit = b'0' + u8::try_from(index % 10).unwrap_or(0);
            index /= 10;
        }
        out.len()
    }

    /// What picks the names for client `part` of `parts`.
    #[must_use]
    pub fn picker(&self, part: u64, parts: u64, seed: u64) -> Picker {
        Picker {
            random: Random::new(seed.wrapping_add(part.wrapping_mul(0x5851_F42D_4C95_7F2D))),
            pick: self.pick,
            count: self.count,
            next: part,
            step: parts,
            cumulative: Arc::clone(&self.cumulative),
        }
    }
}

/// Picks names for one client.
#[derive(Clone, Debug)]
pub struct Picker {
    random: Random,
    pick: Pick,
    count: u64,
    next: u64,
    step: u64,
    cumulative: Arc<[f64]>,
}

impl Picker {
    /// The number of the next name; nothing after the last one.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "called directly in the hot loop; never adapted"
    )]
    pub fn next(&mut self) -> Option<u64> {
        match self.pick {
            Pick::Uniform => Some(self.random.below(self.count)),
            Pick::Zipf { .. } => {
                let at = self.random.fraction();
                let index = self.cumulative.partition_point(|&sum| sum <= at) as u64;
                Some(index.min(self.count - 1))
            }
            Pick::Once | Pick::New => {
                let index = self.next;
                self.next += self.step;
                (index < self.count).then_some(index)
            }
        }
    }
}

/// The summed weights of Zipf's law.
#[expect(
    clippy::cast_precision_loss,
    reason = "names are counted far below 2^53"
)]
fn cumulate(count: u64, exponent: f64) -> Arc<[f64]> {
    let mut sums: Vec<f64> = (1..=count)
        .scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-exponent);
            Some(*sum)
        })
        .collect();
    let total = sums.last().copied().unwrap_or(1.0);
    for sum in &mut sums {
        *sum /= total;
    }
    sums.into()
}

/// A name in text as it is on the wire (RFC 1035 section 3.1). No escapes.
///
/// # Errors
/// An empty label, a label above 63 octets, a name above 255.
pub fn to_wire(text: &str) -> Result<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).unwrap_or(u8::MAX);
        if len == 0 || len > 63 {
            bail!("label {label:?} of {text} has {} octets", label.len());
        }
        wire.push(len);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    ensure!(wire.len() <= LONGEST_NAME, "{text} is too long");
    Ok(wire)
}

/// The address that the upstream gives a name: 10/8 with 24 bits of a hash (FNV-1a) of the
/// lower-case name on the wire. So every answer can be checked without a list.
#[must_use]
pub fn address_of(wire: &[u8]) -> Ipv4Addr {
    let hash = wire.iter().fold(0x811C_9DC5_u32, |hash, octet| {
        (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    });
    let [high, a, b, c] = hash.to_be_bytes();
    Ipv4Addr::new(10, a, b, c ^ high)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{LONGEST_NAME, Names, Pick, address_of, to_wire};

    fn name(names: &Names, index: u64) -> Vec<u8> {
        let mut out = [0; LONGEST_NAME];
        let len = names.write(index, &mut out);
        out[..len].to_vec()
    }

    #[test]
    fn a_number_takes_the_place_of_the_pattern() {
        let names = Names::new("a.n######.bench.example.", 1_000_000, Pick::Uniform).unwrap();
        assert_eq!(
            name(&names, 123),
            to_wire("a.n000123.bench.example").unwrap()
        );
        assert_eq!(
            name(&names, 999_999),
            b"\x01a\x07n999999\x05bench\x07example\x00"
        );
    }

    #[test]
    fn a_pattern_that_cannot_be_is_refused() {
        let long = format!("{}#", "a".repeat(63));
        for (pattern, count) in [
            ("n.example", 1),
            ("n#.n#.example", 1),
            ("n##.example", 101),
            ("n#..example", 1),
            (&long[..], 1),
            ("n#.example", 0),
        ] {
            assert!(
                Names::new(pattern, count, Pick::Uniform).is_err(),
                "{pattern}"
            );
        }
    }

    #[test]
    fn once_takes_each_name_once_over_all_clients() {
        let names = Names::new("n###.example", 100, Pick::Once).unwrap();
        let mut seen = HashSet::new();
        for part in 0..3 {
            let mut picker = names.picker(part, 3, 1);
            while let Some(index) = picker.next() {
                assert!(seen.insert(index), "{index} twice");
            }
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn new_names_are_new_in_every_run() {
        let mut seen = HashSet::new();
        for _ in 0..2 {
            let names = Names::new("n#.bench.example", 1, Pick::New).unwrap();
            for part in 0..2 {
                let mut picker = names.picker(part, 2, 1);
                for _ in 0..100 {
                    let name = name(&names, picker.next().unwrap());
                    assert!(name.ends_with(b"\x05bench\x07example\x00"));
                    assert!(seen.insert(name));
                }
            }
        }
    }

    #[test]
    fn zipf_prefers_the_first_names_by_their_rank() {
        let pick = Pick::Zipf { exponent: 1.0 };
        let names = Names::new("n###.example", 1000, pick).unwrap();
        let mut picker = names.picker(0, 1, 1);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..200_000 {
            counts[usize::try_from(picker.next().unwrap()).unwrap()] += 1;
        }
        // The weights are 1 : 1/2 : 1/10 over a sum of 7.485.
        for (rank, share) in [(0, 26_720.0), (1, 13_360.0), (9, 2_672.0)] {
            let found = f64::from(counts[rank]);
            assert!((found / share - 1.0).abs() < 0.1, "rank {rank}: {found}");
        }
        assert!(counts[999] < 200);
    }

    #[test]
    fn letter_case_does_not_change_an_address() {
        let lower = to_wire("n000001.bench.example").unwrap();
        let upper = to_wire("N000001.BENCH.example").unwrap();
        assert_eq!(address_of(&lower), address_of(&upper));
        assert_ne!(
            address_of(&lower),
            address_of(&to_wire("n000002.bench.example").unwrap())
        );
    }
}
