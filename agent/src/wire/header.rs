// SPDX-License-Identifier: Apache-2.0
//! The twelve octets in front of every message (RFC 1035 section 4.1.1).
//!
//! ```text
//!   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! |                      ID                       |
//! |QR|   OPCODE  |AA|TC|RD|RA| Z|AD|CD|   RCODE   |
//! |                    QDCOUNT                    |
//! |                    ANCOUNT                    |
//! |                    NSCOUNT                    |
//! |                    ARCOUNT                    |
//! ```

/// Length of a header in octets.
pub const HEADER: usize = 12;

/// The second word of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data (RFC 4035 section 3.2.3).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035 section 3.2.2).
    pub const CD: u16 = 0x0010;
    /// The bits of the opcode.
    pub const OPCODE: u16 = 0x7800;

    /// Whether a bit is set.
    #[must_use]
    pub fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    /// The lower four bits of the response code.
    #[must_use]
    pub fn rcode(self) -> u16 {
        self.0 & 0x000f
    }
}

/// A header as values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's number for the exchange.
    pub id: u16,
    /// Flags, opcode and response code.
    pub flags: Flags,
    /// Entries in the question section.
    pub questions: u16,
    /// Records in the answer section.
    pub answers: u16,
    /// Records in the authority section.
    pub authorities: u16,
    /// Records in the additional section.
    pub additionals: u16,
}

impl Header {
    /// Reads the header of a message; `None` where it is shorter than one.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let &[i, j, f, g, q, r, a, b, n, o, x, y] = message.first_chunk::<HEADER>()?;
        Some(Self {
            id: u16::from_be_bytes([i, j]),
            flags: Flags(u16::from_be_bytes([f, g])),
            questions: u16::from_be_bytes([q, r]),
            answers: u16::from_be_bytes([a, b]),
            authorities: u16::from_be_bytes([n, o]),
            additionals: u16::from_be_bytes([x, y]),
        })
    }

    /// Writes the header in front of a message; nothing where there is no room.
    pub fn write(&self, message: &mut [u8]) {
        let Some(to) = message.first_chunk_mut::<HEADER>() else {
            return;
        };
        let [i, j] = self.id.to_be_bytes();
        let [f, g] = self.flags.0.to_be_bytes();
        let [q, r] = self.questions.to_be_bytes();
        let [a, b] = self.answers.to_be_bytes();
        let [n, o] = self.authorities.to_be_bytes();
        let [x, y] = self.additionals.to_be_bytes();
        *to = [i, j, f, g, q, r, a, b, n, o, x, y];
    }
}
