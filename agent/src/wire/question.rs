// SPDX-License-Identifier: Apache-2.0
//! The canonical question: what two queries must share to have the same answer.

use super::cursor::Cursor;
use super::name::{MAX_NAME, Name};

/// Octets behind the name: type and flags.
const SUFFIX: usize = 3;
const DNSSEC_OK: u8 = 1;
const CHECKING_DISABLED: u8 = 2;
const ANY_CLASS: u8 = 4;

/// A question in canonical form: the lower-case name in wire form, the type, and one octet for
/// DO, CD and the class (IN, or ANY). It is the key of the cache and of coalescing.
///
/// RFC 4035 section 3.2: DO and CD change what an upstream answers, so they are part of it.
#[derive(Clone, Copy)]
pub struct Question {
    len: u16,
    octets: [u8; MAX_NAME + SUFFIX],
}

impl Default for Question {
    fn default() -> Self {
        Self::new()
    }
}

impl Question {
    /// A place to parse into.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            len: 0,
            octets: [0; MAX_NAME + SUFFIX],
        }
    }

    /// The question for a name and type, class IN, without DO and CD.
    #[must_use]
    pub fn of(name: &Name, qtype: u16) -> Self {
        let mut question = Self::new();
        question.set(name.as_wire(), qtype, false, false, false);
        question
    }

    /// Takes a question section: a name without compression, a type, class IN or ANY. `None` where
    /// the octets are no such section.
    #[must_use]
    pub fn read(section: &[u8], dnssec_ok: bool, checking_disabled: bool) -> Option<Self> {
        let mut cursor = Cursor::new(section, 0);
        let (name, qtype, qclass) = (cursor.plain_name()?, cursor.u16()?, cursor.u16()?);
        let mut question = Self::new();
        question.set(name, qtype, dnssec_ok, checking_disabled, qclass == 255);
        (cursor.position() == section.len()).then_some(question)
    }

    /// Takes a valid name in wire form and the rest of the question.
    pub(super) fn set(
        &mut self,
        name: &[u8],
        qtype: u16,
        dnssec_ok: bool,
        checking_disabled: bool,
        any_class: bool,
    ) {
        let [high, low] = qtype.to_be_bytes();
        let flags = (if dnssec_ok { DNSSEC_OK } else { 0 })
            | (if checking_disabled {
                CHECKING_DISABLED
            } else {
                0
            })
            | (if any_class { ANY_CLASS } else { 0 });
        let Some((to, rest)) = self.octets.split_at_mut_checked(name.len()) else {
            return;
        };
        to.copy_from_slice(name);
        // A length octet is at most 63, below 'A': lowering every octet leaves it alone.
        to.make_ascii_lowercase();
        if let Some(suffix) = rest.first_chunk_mut::<SUFFIX>() {
            *suffix = [high, low, flags];
        }
        self.len = u16::try_from(name.len().saturating_add(SUFFIX)).unwrap_or(0);
    }

    /// The question as octets: name, type, flags.
    #[must_use]
    pub fn as_octets(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Takes what [`Self::as_octets`] gave.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let (name, suffix) = octets.split_last_chunk::<SUFFIX>()?;
        let name = Name::from_wire(name)?;
        let [high, low, flags] = *suffix;
        let mut question = Self::new();
        question.set(
            name.as_wire(),
            u16::from_be_bytes([high, low]),
            flags & DNSSEC_OK != 0,
            flags & CHECKING_DISABLED != 0,
            flags & ANY_CLASS != 0,
        );
        Some(question)
    }

    /// The lower-case name in wire form.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        Self::name_of(self.as_octets())
    }

    /// The name in what [`Self::as_octets`] gave.
    #[must_use]
    pub fn name_of(octets: &[u8]) -> &[u8] {
        let end = octets.len().saturating_sub(SUFFIX);
        octets.get(..end).unwrap_or(&[])
    }

    /// The name in what [`Self::as_octets`] gave, and the rest: the type's two octets and one for
    /// the flags.
    #[must_use]
    pub fn parts_of(octets: &[u8]) -> (&[u8], [u8; SUFFIX]) {
        match octets.split_last_chunk::<SUFFIX>() {
            Some((name, suffix)) => (name, *suffix),
            None => (&[], [0; SUFFIX]),
        }
    }

    /// This question with another type.
    #[must_use]
    pub fn with_type(&self, qtype: u16) -> Self {
        let mut other = *self;
        let [_, _, flags] = self.suffix();
        let [high, low] = qtype.to_be_bytes();
        let len = usize::from(self.len);
        let suffix = len
            .checked_sub(SUFFIX)
            .and_then(|at| other.octets.get_mut(at..len));
        if let Some(suffix) = suffix {
            suffix.copy_from_slice(&[high, low, flags]);
        }
        other
    }

    /// This question for another name.
    #[must_use]
    pub fn with_name(&self, name: &Name) -> Self {
        let mut other = Self::new();
        let any_class = self.flag(ANY_CLASS);
        let flags = (self.dnssec_ok(), self.checking_disabled());
        other.set(name.as_wire(), self.qtype(), flags.0, flags.1, any_class);
        other
    }

    /// The query type.
    #[must_use]
    pub fn qtype(&self) -> u16 {
        match self.suffix() {
            [high, low, _] => u16::from_be_bytes([high, low]),
        }
    }

    /// The query class: IN or ANY.
    #[must_use]
    pub fn qclass(&self) -> u16 {
        if self.flag(ANY_CLASS) { 255 } else { 1 }
    }

    /// Whether DNSSEC records are wanted.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.flag(DNSSEC_OK)
    }

    /// Whether unvalidated data is wanted.
    #[must_use]
    pub fn checking_disabled(&self) -> bool {
        self.flag(CHECKING_DISABLED)
    }

    fn flag(&self, bit: u8) -> bool {
        let [_, _, flags] = self.suffix();
        flags & bit != 0
    }

    fn suffix(&self) -> [u8; SUFFIX] {
        self.as_octets().last_chunk().copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Name::from_wire(self.name()).unwrap_or(Name::ROOT);
        write!(
            f,
            "Question({name} {} {:03b})",
            self.qtype(),
            self.suffix()[2]
        )
    }
}
