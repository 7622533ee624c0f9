// SPDX-License-Identifier: Apache-2.0
//! An upstream's response: judged whole before a single octet of it is kept.

use super::answer::Answer;
use super::chain::{self, Chain};
use super::cursor::{Changing, Cursor};
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

/// A TTL above the sign bit stands for this many seconds: seven days. RFC 8767 section 4, which
/// updates RFC 2181 section 8, reads it as positive and recommends this cap.
const MAX_TTL: u32 = 604_800;

/// Octets of an SOA record with three names in full: type, class, TTL, length and five numbers.
pub const MAX_SOA: usize = 3 * super::name::MAX_NAME + 10 + 20;

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
    /// Records in the three sections, without those that are left out.
    pub counts: [u16; 3],
    /// Smallest TTL in the answer section in seconds; `None` where it is empty.
    pub min_ttl: Option<u32>,
    /// RFC 2308 section 5: the smaller of the TTL and MINIMUM of the SOA in the authority section,
    /// where that encloses the name at the end of the answer's chain.
    pub negative_ttl: Option<u32>,
    /// Whether there is an SOA that speaks for other names.
    pub has_foreign_soa: bool,
    /// Whether the answer section belongs to the question.
    pub chain: Chain,
    /// Whether the answer section has a record of the type that was asked for; of any for ANY.
    pub has_wanted: bool,
    /// Where the first SOA of the authority section stands; 0 is nowhere.
    pub(super) soa_at: usize,
    pub(super) records: (usize, usize),
    pub(super) offsets: usize,
}

impl Response {
    /// Reads a response and checks all of it: the header, the question, every name and its
    /// pointers, every record's length, the data of the types of RFC 1035 that have a format,
    /// AAAA, SRV and DNAME. `offsets` (at least [`MAX_OFFSETS`] octets) takes the places of the
    /// TTLs. A TTL with the top bit set becomes seven days in `message` (RFC 8767 section 4).
    ///
    /// OPT and TSIG belong to the exchange with the upstream and are left out. So are the records
    /// behind them, as they may point into what is taken away, and all records of a failure without
    /// a question, as they stand in another place in a reply: everything in the additional section
    /// may be left out (RFC 2181 section 9).
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
            ..Answer::NOTHING
        }
    }

    /// Raises every TTL that is less than `least` seconds to that, in `message` too.
    pub fn raise_ttls(&mut self, message: &mut [u8], offsets: &[u8], least: u32) {
        let (start, end) = self.records;
        let offsets = offsets.get(..self.offsets).unwrap_or(&[]);
        let records = message.get_mut(start..end).unwrap_or(&mut []);
        for &pair in offsets.as_chunks::<2>().0 {
            let at = usize::from(u16::from_le_bytes(pair));
            let ttl = records.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>);
            if let Some(ttl) = ttl {
                *ttl = u32::from_be_bytes(*ttl).max(least).to_be_bytes();
            }
        }
        self.min_ttl = self.min_ttl.map(|ttl| ttl.max(least));
        self.negative_ttl = self.negative_ttl.map(|ttl| ttl.max(least));
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
            has_foreign_soa: false,
            chain: Chain::Sound,
            has_wanted: false,
            soa_at: 0,
            records: (start, start),
            offsets: 0,
        };
        let mut at = start;
        let mut has_opt = false;
        // Where the records end that are kept, once something is left out.
        let mut kept_end = None;
        if header.questions == 0 {
            response.leave_out(&mut kept_end, start, 0);
        }
        for (section, count) in
            (0_u8..).zip([header.answers, header.authorities, header.additionals])
        {
            for number in 0..count {
                let record = Record::read(message, at, response.changing(offsets))?;
                if record.rtype == qtype::OPT {
                    let is_root = message.get(at) == Some(&0);
                    if section != 2 || has_opt || !is_root {
                        return None;
                    }
                    has_opt = true;
                    let [upper, ..] = record.ttl.to_be_bytes();
                    response.rcode |= u16::from(upper) << 4;
                }
                if matches!(record.rtype, qtype::OPT | qtype::TSIG) {
                    // RFC 8945 section 5.1: TSIG, too, stands in the additional section only.
                    if section != 2 {
                        return None;
                    }
                    response.leave_out(&mut kept_end, at, number);
                }
                if kept_end.is_none() {
                    response.keep(message, at, &record, section, offsets)?;
                }
                let data = message.get(..record.end)?;
                check_data(
                    data,
                    record.data_at,
                    record.rtype,
                    response.changing(offsets),
                )?;
                at = record.end;
            }
        }
        response.records = (start, kept_end.unwrap_or(at));
        if header.questions == 1 {
            response.judge(message, start)?;
        }
        Some(response)
    }

    /// The SOA of the authority section as a record whose names are in full, so that it can stand
    /// behind any question: its octets and their number, with the place of the TTL. `None` where
    /// there is none, or it is another zone's. `message` is what the response was read from.
    #[must_use]
    pub fn plain_soa(&self, message: &[u8]) -> Option<([u8; MAX_SOA], usize, usize)> {
        self.negative_ttl?;
        let record = Record::read(message, self.soa_at, Changing::NOTHING)?;
        let owner = chain::expand(message, self.soa_at)?;
        let mut data = Cursor::new(message, record.data_at);
        let primary = chain::expand(message, data.position())?;
        data.name(Changing::NOTHING)?;
        let mailbox = chain::expand(message, data.position())?;
        data.name(Changing::NOTHING)?;
        let numbers = data.take(20)?;
        let [primary, mailbox] = [primary.as_wire(), mailbox.as_wire()];
        let length = [primary, mailbox, numbers]
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let mut soa = [0; MAX_SOA];
        let mut end = 0_usize;
        let ttl_at = owner.as_wire().len().saturating_add(4);
        for part in [
            owner.as_wire(),
            &qtype::SOA.to_be_bytes(),
            &[0, 1],
            &record.ttl.to_be_bytes(),
            &u16::try_from(length).ok()?.to_be_bytes(),
            primary,
            mailbox,
            numbers,
        ] {
            let start = end;
            end = start.checked_add(part.len())?;
            soa.get_mut(start..end)?.copy_from_slice(part);
        }
        Some((soa, end, ttl_at))
    }

    /// Follows the chain of the answer; an SOA that does not enclose its end denies nothing.
    fn judge(&mut self, message: &[u8], start: usize) -> Option<()> {
        let [answers, ..] = self.counts;
        let (judgement, end) = chain::judge(message, start, answers)?;
        self.chain = judgement;
        if self.soa_at > 0 && !chain::expand(message, self.soa_at)?.encloses(end.as_wire()) {
            self.negative_ttl = None;
            self.has_foreign_soa = true;
        }
        Some(())
    }

    /// What changes of the records that were kept until now.
    fn changing<'a>(&self, offsets: &'a [u8]) -> Changing<'a> {
        Changing {
            records: self.records.0,
            ttls: offsets.get(..self.offsets).unwrap_or(&[]),
        }
    }

    /// Keeps nothing from `at` on, where additional record `number` begins.
    fn leave_out(&mut self, kept_end: &mut Option<usize>, at: usize, number: u16) {
        if kept_end.is_none() {
            *kept_end = Some(at);
            let [_, _, additionals] = &mut self.counts;
            *additionals = number;
        }
    }

    /// Notes the place of a record's TTL and what it means for the whole.
    fn keep(
        &mut self,
        message: &mut [u8],
        at: usize,
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
            ttl = MAX_TTL;
            let ttl_end = record.ttl_at.checked_add(4)?;
            message
                .get_mut(record.ttl_at..ttl_end)?
                .copy_from_slice(&ttl.to_be_bytes());
        }
        match section {
            0 => {
                self.min_ttl = Some(self.min_ttl.map_or(ttl, |least| least.min(ttl)));
                // The question ends with type and class where the records begin.
                let question = message.get(..start)?.last_chunk::<4>()?;
                let [high, low, ..] = *question;
                let wanted = u16::from_be_bytes([high, low]);
                self.has_wanted |= wanted == record.rtype || wanted == qtype::ANY;
            }
            1 if record.rtype == qtype::SOA && self.negative_ttl.is_none() => {
                let minimum = message.get(..record.end)?.last_chunk::<4>()?;
                self.negative_ttl = Some(ttl.min(u32::from_be_bytes(*minimum)));
                self.soa_at = at;
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
pub(super) struct Record {
    pub(super) rtype: u16,
    pub(super) ttl: u32,
    ttl_at: usize,
    pub(super) data_at: usize,
    pub(super) end: usize,
}

impl Record {
    pub(super) fn read(message: &[u8], at: usize, changing: Changing<'_>) -> Option<Self> {
        let mut cursor = Cursor::new(message, at);
        cursor.name(changing)?;
        let rtype = cursor.u16()?;
        let _class = cursor.u16()?;
        let ttl_at = cursor.position();
        let ttl = cursor.u32()?;
        let length = cursor.u16()?;
        let data_at = cursor.position();
        cursor.take(usize::from(length))?;
        Some(Self {
            rtype,
            ttl,
            ttl_at,
            data_at,
            end: cursor.position(),
        })
    }
}

/// Checks the data of a record that `message` ends with: names in it must be whole and end where
/// the data ends. Types that nodens does not know are octets (RFC 3597); those that only a question
/// may have are refused (RFC 6895 section 3.1).
fn check_data(message: &[u8], at: usize, rtype: u16, changing: Changing<'_>) -> Option<()> {
    /// Mailbox types of RFC 1035 that hold one name: MD, MF, MB, MG, MR; and DNAME (RFC 6672).
    const ONE_NAME: [u16; 9] = [
        qtype::NS,
        3,
        4,
        qtype::CNAME,
        7,
        8,
        9,
        qtype::PTR,
        qtype::DNAME,
    ];
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
        qtype::HINFO => {
            for _ in 0..2 {
                let size = *data.take(1)?.first()?;
                data.take(usize::from(size))?;
            }
        }
        qtype::MINFO => {
            data.name(changing)?;
            data.name(changing)?;
        }
        qtype::SOA => {
            data.name(changing)?;
            data.name(changing)?;
            data.take(20)?;
        }
        qtype::MX => {
            data.take(2)?;
            data.name(changing)?;
        }
        qtype::SRV => {
            data.take(6)?;
            data.name(changing)?;
        }
        0 | qtype::IXFR..=qtype::ANY => return None,
        one if ONE_NAME.contains(&one) => data.name(changing)?,
        _ => return Some(()),
    }
    (data.position() == message.len()).then_some(())
}
