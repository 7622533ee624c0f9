// SPDX-License-Identifier: Apache-2.0
//! An upstream's response: judged whole before a single octet of it is kept.

use super::answer::Answer;
use super::cursor::Cursor;
use super::header::{Flags, HEADER, Header};
use super::{qtype, rcode};

/// Octets of TTL offsets that the largest message can need: a record has at least 11 octets.
pub const MAX_OFFSETS: usize = 2 * (super::MAX_MESSAGE / 11 + 1);

/// Octets of TTL offsets that reading this message can need.
#[must_use]
pub fn offsets_needed(message: &[u8]) -> usize {
    let Some(header) = Header::read(message) else {
        return 0;
    };
    let records = [header.answers, header.authorities, header.additionals]
        .into_iter()
        .fold(0_usize, |sum, count| sum.saturating_add(count.into()));
    records.saturating_mul(2).min(MAX_OFFSETS)
}

/// What a response must match.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The ID that was sent.
    pub id: u16,
    /// The question section that was sent, octet for octet: letter case too.
    pub question: &'a [u8],
}

/// Why a response is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Shorter than a header, a query, or octets that are no message (RFC 1035 section 4.1).
    #[error("the octets are no response")]
    Malformed,
    /// Another ID than was asked with.
    #[error("the response has another ID")]
    WrongId,
    /// Another question than was asked.
    #[error("the response has another question")]
    WrongQuestion,
}

/// What a response says, with the places of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The flags of its header.
    pub flags: Flags,
    /// The response code with the upper bits of its OPT record.
    pub rcode: u16,
    /// Records in the three sections, OPT and what stood behind it left out.
    pub counts: [u16; 3],
    /// Smallest TTL in the answer section in seconds; `None` where it is empty.
    pub min_ttl: Option<u32>,
    /// RFC 2308 section 5: the smaller of the TTL and MINIMUM of the SOA in the authority section.
    pub negative_ttl: Option<u32>,
    records: (usize, usize),
    offsets: usize,
}

impl Response {
    /// Reads a response and checks all of it: the header, the question, every name and its
    /// pointers, every record's length, the data of the types of RFC 1035, AAAA, SRV and DNAME.
    /// `offsets` (at least [`MAX_OFFSETS`] octets) takes the places of the TTLs. A TTL with the top
    /// bit set becomes 0 in `message` (RFC 2181 section 8).
    ///
    /// Records behind an OPT record are left out: they may point into what is taken away, and
    /// everything in the additional section may be (RFC 2181 section 9).
    ///
    /// # Errors
    /// Says why the response must be thrown away.
    pub fn parse(
        message: &mut [u8],
        expected: &Expected<'_>,
        offsets: &mut [u8],
    ) -> Result<Self, Lie> {
        let header = Header::read(message).ok_or(Lie::Malformed)?;
        if !header.flags.has(Flags::QR) || header.flags.0 & Flags::OPCODE != 0 {
            return Err(Lie::Malformed);
        }
        if header.id != expected.id {
            return Err(Lie::WrongId);
        }
        let start = match header.questions {
            0 if is_bare_failure(&header) => HEADER,
            1 => {
                let end = HEADER.saturating_add(expected.question.len());
                match message.get(HEADER..end) {
                    Some(question) if question == expected.question => end,
                    _ => return Err(Lie::WrongQuestion),
                }
            }
            _ => return Err(Lie::WrongQuestion),
        };
        Self::records(message, &header, start, offsets).ok_or(Lie::Malformed)
    }

    /// The response as it is kept and sent again; `message` and `offsets` are those it was read
    /// from. An RCODE above 15 speaks of our EDNS, cookie or key, not of the question: the client
    /// gets SERVFAIL, never the lower four bits alone (those of BADVERS say NOERROR).
    #[must_use]
    pub fn answer<'a>(&self, message: &'a [u8], offsets: &'a [u8]) -> Answer<'a> {
        let (start, end) = self.records;
        let rcode = if self.rcode > 0x000f {
            rcode::SERVFAIL
        } else {
            self.rcode
        };
        Answer {
            flags: Flags((self.flags.0 & Answer::KEPT_FLAGS & !0x000f) | rcode),
            counts: self.counts,
            records: message.get(start..end).unwrap_or(&[]),
            ttl_offsets: offsets.get(..self.offsets).unwrap_or(&[]),
            age: 0,
        }
    }

    fn records(
        message: &mut [u8],
        header: &Header,
        start: usize,
        offsets: &mut [u8],
    ) -> Option<Self> {
        let mut response = Self {
            flags: header.flags,
            rcode: header.flags.rcode(),
            counts: [header.answers, header.authorities, header.additionals],
            min_ttl: None,
            negative_ttl: None,
            records: (start, start),
            offsets: 0,
        };
        let mut at = start;
        let mut opt_at = None;
        for (section, count) in (0_u8..).zip(response.counts) {
            for number in 0..count {
                let record = Record::read(message, at)?;
                if record.rtype == qtype::OPT {
                    let is_root = message.get(at) == Some(&0);
                    if section != 2 || opt_at.is_some() || !is_root {
                        return None;
                    }
                    opt_at = Some(at);
                    let [upper, ..] = record.ttl.to_be_bytes();
                    response.rcode |= u16::from(upper) << 4;
                    let [_, _, additionals] = &mut response.counts;
                    *additionals = number;
                } else if opt_at.is_none() {
                    response.keep(message, &record, section, offsets)?;
                }
                at = record.end;
            }
        }
        response.records = (start, opt_at.unwrap_or(at));
        Some(response)
    }

    /// Notes the place of a record's TTL and what it means for the whole.
    fn keep(
        &mut self,
        message: &mut [u8],
        record: &Record,
        section: u8,
        offsets: &mut [u8],
    ) -> Option<()> {
        let (start, _) = self.records;
        let place = u16::try_from(record.ttl_at.checked_sub(start)?).ok()?;
        let end = self.offsets.checked_add(2)?;
        offsets
            .get_mut(self.offsets..end)?
            .copy_from_slice(&place.to_le_bytes());
        self.offsets = end;
        let mut ttl = record.ttl;
        if ttl > i32::MAX.unsigned_abs() {
            ttl = 0;
            let ttl_end = record.ttl_at.checked_add(4)?;
            message.get_mut(record.ttl_at..ttl_end)?.fill(0);
        }
        match section {
            0 => self.min_ttl = Some(self.min_ttl.map_or(ttl, |least| least.min(ttl))),
            1 if record.rtype == qtype::SOA && self.negative_ttl.is_none() => {
                let minimum = message.get(..record.end)?.last_chunk::<4>()?;
                self.negative_ttl = Some(ttl.min(u32::from_be_bytes(*minimum)));
            }
            _ => {}
        }
        Some(())
    }
}

/// A server that could not read the question may leave it out of its answer.
fn is_bare_failure(header: &Header) -> bool {
    let failed = matches!(
        header.flags.rcode(),
        rcode::FORMERR | rcode::SERVFAIL | rcode::NOTIMP | rcode::REFUSED
    );
    failed && header.answers == 0 && header.authorities == 0
}

/// The frame of one record.
struct Record {
    rtype: u16,
    ttl: u32,
    ttl_at: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let mut cursor = Cursor::new(message, at);
        cursor.name()?;
        let rtype = cursor.u16()?;
        let _class = cursor.u16()?;
        let ttl_at = cursor.position();
        let ttl = cursor.u32()?;
        let length = cursor.u16()?;
        let data_at = cursor.position();
        cursor.take(usize::from(length))?;
        let end = cursor.position();
        check_data(message.get(..end)?, data_at, rtype)?;
        Some(Self {
            rtype,
            ttl,
            ttl_at,
            end,
        })
    }
}

/// Checks the data of a record that `message` ends with: names in it must be whole and end where
/// the data ends. Types that nodens does not know are octets (RFC 3597).
fn check_data(message: &[u8], at: usize, rtype: u16) -> Option<()> {
    /// Mailbox types of RFC 1035 that hold one name: MD, MF, MB, MG, MR; and DNAME (RFC 6672).
    const ONE_NAME: [u16; 9] = [qtype::NS, 3, 4, qtype::CNAME, 7, 8, 9, qtype::PTR, 39];
    let mut data = Cursor::new(message, at);
    let length = message.len().saturating_sub(at);
    match rtype {
        qtype::A => return (length == 4).then_some(()),
        qtype::AAAA => return (length == 16).then_some(()),
        qtype::OPT => {
            while data.position() < message.len() {
                let _code = data.u16()?;
                let size = data.u16()?;
                data.take(usize::from(size))?;
            }
        }
        qtype::TXT => {
            if length == 0 {
                return None;
            }
            while data.position() < message.len() {
                let size = *data.take(1)?.first()?;
                data.take(usize::from(size))?;
            }
        }
        qtype::SOA => {
            data.name()?;
            data.name()?;
            data.take(20)?;
        }
        qtype::MX => {
            data.take(2)?;
            data.name()?;
        }
        qtype::SRV => {
            data.take(6)?;
            data.name()?;
        }
        one if ONE_NAME.contains(&one) => data.name()?,
        _ => return Some(()),
    }
    (data.position() == message.len()).then_some(())
}
