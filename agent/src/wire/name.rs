// SPDX-License-Identifier: Apache-2.0
//! A domain name in wire form, held inline (RFC 1035 section 3.1).

use std::fmt;

/// Longest name on the wire in octets, with its final root label (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label in octets (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A domain name: uncompressed labels, lower-case (RFC 4343), ending in the root label.
#[derive(Clone, Copy)]
pub struct Name {
    len: u8,
    octets: [u8; MAX_NAME],
}

impl Name {
    /// The root, `.`.
    pub const ROOT: Self = Self {
        len: 1,
        octets: [0; MAX_NAME],
    };

    /// Reads presentation form: labels separated by dots, `\.` and `\DDD` escapes (RFC 1035
    /// section 5.1). The final dot may be left out. Letters become lower-case.
    ///
    /// # Errors
    /// Says in words what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text == "." {
            return Ok(Self::ROOT);
        }
        let mut name = Builder::new();
        let mut bytes = text.bytes().peekable();
        if bytes.peek().is_none() {
            return Err(NameError::Empty);
        }
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => {
                    name.end_label()?;
                    if bytes.peek().is_none() {
                        return name.finish();
                    }
                }
                b'\\' => {
                    let first = bytes.next().ok_or(NameError::Escape)?;
                    if !first.is_ascii_digit() {
                        name.push(first)?;
                        continue;
                    }
                    let mut value = u16::from(first.wrapping_sub(b'0'));
                    for _ in 0..2 {
                        let digit = bytes
                            .next()
                            .filter(u8::is_ascii_digit)
                            .ok_or(NameError::Escape)?;
                        value = value
                            .saturating_mul(10)
                            .saturating_add(u16::from(digit.wrapping_sub(b'0')));
                    }
                    name.push(u8::try_from(value).map_err(|_| NameError::Escape)?)?;
                }
                other => name.push(other)?,
            }
        }
        name.end_label()?;
        name.finish()
    }

    /// Takes a name in wire form: uncompressed, without anything behind the root label.
    /// `None` where the octets are no such name.
    #[must_use]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        if wire.is_empty() || wire.len() > MAX_NAME {
            return None;
        }
        let mut rest = wire;
        while let Some((&len, tail)) = rest.split_first() {
            if len == 0 {
                if !tail.is_empty() {
                    return None;
                }
                let mut name = Self::ROOT;
                name.len = u8::try_from(wire.len()).ok()?;
                for (to, from) in name.octets.iter_mut().zip(wire) {
                    // A length octet is at most 63, below 'A': lowering every octet leaves it alone.
                    *to = from.to_ascii_lowercase();
                }
                return Some(name);
            }
            if usize::from(len) > MAX_LABEL {
                return None;
            }
            rest = tail.get(usize::from(len)..)?;
        }
        None
    }

    /// The name in wire form, with its root label.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or(&[0])
    }

    /// Labels, the root not counted.
    #[must_use]
    pub fn label_count(&self) -> usize {
        labels(self.as_wire()).count()
    }

    /// Whether `wire`, a lower-case name in wire form, is this name or lies below it.
    #[must_use]
    pub fn encloses(&self, wire: &[u8]) -> bool {
        let own = self.as_wire();
        let mut rest = wire;
        loop {
            if rest.len() == own.len() {
                return rest == own;
            }
            let Some((&len, tail)) = rest.split_first() else {
                return false;
            };
            if len == 0 {
                return false;
            }
            let Some(parent) = tail.get(usize::from(len)..) else {
                return false;
            };
            rest = parent;
        }
    }
}

/// The labels of a name in wire form, first one first, without the root. Ends early at anything
/// that is no plain label.
pub fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (&len, tail) = rest.split_first()?;
        if len == 0 || usize::from(len) > MAX_LABEL {
            return None;
        }
        let (label, parent) = tail.split_at_checked(usize::from(len))?;
        rest = parent;
        Some(label)
    })
}

impl fmt::Display for Name {
    /// Presentation form, with the final dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for label in labels(self.as_wire()) {
            any = true;
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if any { Ok(()) } else { f.write_str(".") }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_wire() == other.as_wire()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_wire().hash(state);
    }
}

/// What is wrong with a name as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty (the root is written \".\")")]
    Empty,
    /// Two dots in a row, or a dot in front.
    #[error("a label is empty")]
    EmptyLabel,
    /// A backslash without `DDD` from 000 to 255 or a character behind it.
    #[error("a backslash must be followed by a character or three digits up to 255")]
    Escape,
    /// RFC 1035 section 2.3.4.
    #[error("a label is longer than 63 octets")]
    LongLabel,
    /// RFC 1035 section 2.3.4.
    #[error("the name is longer than 255 octets")]
    LongName,
}

struct Builder {
    name: Name,
    /// Where the length octet of the label under way stands.
    start: usize,
    /// Where the next octet goes.
    at: usize,
}

impl Builder {
    fn new() -> Self {
        Self {
            name: Name::ROOT,
            start: 0,
            at: 1,
        }
    }

    fn push(&mut self, byte: u8) -> Result<(), NameError> {
        let slot = self
            .name
            .octets
            .get_mut(self.at)
            .ok_or(NameError::LongName)?;
        *slot = byte.to_ascii_lowercase();
        self.at = self.at.saturating_add(1);
        Ok(())
    }

    fn end_label(&mut self) -> Result<(), NameError> {
        let len = self.at.saturating_sub(self.start).saturating_sub(1);
        if len == 0 {
            return Err(NameError::EmptyLabel);
        }
        if len > MAX_LABEL {
            return Err(NameError::LongLabel);
        }
        if let Some(slot) = self.name.octets.get_mut(self.start) {
            *slot = u8::try_from(len).map_err(|_| NameError::LongLabel)?;
        }
        self.start = self.at;
        self.at = self.at.saturating_add(1);
        Ok(())
    }

    /// The root label stands at `start`, where the next label would have begun.
    fn finish(mut self) -> Result<Name, NameError> {
        let root = self
            .name
            .octets
            .get_mut(self.start)
            .ok_or(NameError::LongName)?;
        *root = 0;
        self.name.len =
            u8::try_from(self.start.saturating_add(1)).map_err(|_| NameError::LongName)?;
        Ok(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_wire_are_the_same_name() {
        let name = Name::parse("Web.Prod.SVC.cluster.local").unwrap();
        assert_eq!(
            name.as_wire(),
            b"\x03web\x04prod\x03svc\x07cluster\x05local\x00"
        );
        assert_eq!(name.to_string(), "web.prod.svc.cluster.local.");
        assert_eq!(Name::parse("web.prod.svc.cluster.local.").unwrap(), name);
        assert_eq!(Name::from_wire(name.as_wire()), Some(name));
        assert_eq!(name.label_count(), 5);
    }

    #[test]
    fn the_root_encloses_everything_and_a_zone_only_what_is_below_it() {
        let zone = Name::parse("cluster.local").unwrap();
        let below = Name::parse("a.cluster.local").unwrap();
        let beside = Name::parse("xcluster.local").unwrap();
        assert!(Name::ROOT.encloses(below.as_wire()));
        assert!(Name::ROOT.encloses(Name::ROOT.as_wire()));
        assert!(zone.encloses(below.as_wire()));
        assert!(zone.encloses(zone.as_wire()));
        assert!(!zone.encloses(beside.as_wire()));
        assert!(!below.encloses(zone.as_wire()));
    }

    #[test]
    fn escapes_survive_the_round_trip() {
        let name = Name::parse(r"a\.b\\\007.x").unwrap();
        assert_eq!(name.as_wire(), b"\x05a.b\\\x07\x01x\x00");
        assert_eq!(Name::parse(&name.to_string()).unwrap(), name);
    }

    #[test]
    fn text_that_is_no_name_says_why() {
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(Name::parse(".a"), Err(NameError::EmptyLabel));
        assert_eq!(Name::parse("\\"), Err(NameError::Escape));
        assert_eq!(Name::parse("\\256"), Err(NameError::Escape));
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::LongLabel));
        let long = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(62),
        ]
        .join(".");
        assert_eq!(Name::parse(&long), Err(NameError::LongName));
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        assert_eq!(Name::parse(&longest).unwrap().as_wire().len(), 255);
    }
}
