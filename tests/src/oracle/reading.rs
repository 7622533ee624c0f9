// SPDX-License-Identifier: Apache-2.0
//! What hickory reads in a message, and what of the known differences the message holds.

use hickory_proto::op::{Header, Message, Query};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::Difference;

/// Length of a header in octets.
pub(super) const HEADER: usize = 12;
/// A type of the private-use range (RFC 6895 section 3.1): hickory takes any octets as its data.
const OPAQUE: u16 = 65_281;
/// An option code for local use (RFC 6891 section 9).
const LOCAL_OPTION: u16 = 65_001;
const OPT: u16 = 41;
const TSIG: u16 = 250;
const CLIENT_SUBNET: u16 = 8;
/// SIG, NAPTR, CERT, SSHFP, TLSA, SMIMEA, OPENPGPKEY, CSYNC, SVCB, HTTPS, CAA, ANAME: hickory reads
/// their data (SIG: refuses it outside the additional section), nodens does not.
const OPAQUE_TYPES: [u16; 12] = [24, 35, 37, 44, 52, 53, 61, 62, 64, 65, 257, 65_305];
/// Types whose data both read, beside those with names.
const READ_TYPES: [u16; 4] = [1, 13, 16, 28];
/// Where names stand in the data: type, octets in front, names, octets behind.
const NAMES: [(u16, usize, usize, usize); 13] = [
    (2, 0, 1, 0),
    (3, 0, 1, 0),
    (4, 0, 1, 0),
    (5, 0, 1, 0),
    (6, 0, 2, 20),
    (7, 0, 1, 0),
    (8, 0, 1, 0),
    (9, 0, 1, 0),
    (12, 0, 1, 0),
    (14, 0, 2, 0),
    (15, 2, 1, 0),
    (33, 6, 1, 0),
    (39, 0, 1, 0),
];
/// Those of [`NAMES`] that hickory does not read.
const NAMES_UNREAD: [u16; 7] = [3, 4, 7, 8, 9, 14, 39];
/// Types that only a question may have.
const QUESTION_TYPES: [u16; 6] = [0, 251, 252, 253, 254, 255];

/// Which side a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// From a client.
    Query,
    /// From an upstream, or our own reply.
    Response,
}

/// The frame of one record.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// 0 answer, 1 authority, 2 additional.
    pub(super) section: u8,
    pub(super) at: usize,
    pub(super) rtype: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    pub(super) data: std::ops::Range<usize>,
}

impl Frame {
    pub(super) fn len(&self) -> usize {
        self.data.end - self.at
    }
}

/// A message as hickory reads it.
#[derive(Debug)]
pub(super) struct Reading {
    /// As hickory reads it without the lenient differences; `None` where it still refuses it.
    pub(super) message: Option<Message>,
    /// Whether hickory takes the octets as they are.
    pub(super) is_taken_as_is: bool,
    pub(super) frames: Vec<Frame>,
    /// Those that the message holds; a lenient one may be harmless.
    pub(super) differences: Vec<Difference>,
    /// Where the question section ends.
    pub(super) question_end: usize,
    /// Additional records in front of the first OPT or TSIG: those that a reply repeats.
    pub(super) kept_additionals: usize,
}

impl Reading {
    pub(super) fn strict(&self) -> Vec<Difference> {
        let differences = self.differences.iter().copied();
        differences.filter(|kind| kind.is_stricter()).collect()
    }

    pub(super) fn lenient(&self) -> Vec<Difference> {
        let differences = self.differences.iter().copied();
        differences.filter(|kind| !kind.is_stricter()).collect()
    }

    pub(super) fn opt(&self) -> Option<&Frame> {
        self.frames.iter().find(|frame| frame.rtype == OPT)
    }
}

/// Reads a message; `None` where not even its header, names and lengths hold for hickory.
pub(super) fn read(bytes: &[u8], role: Role) -> Option<Reading> {
    let mut decoder = BinDecoder::new(bytes);
    let counts = Header::read(&mut decoder).ok()?.counts;
    for _ in 0..counts.queries {
        Query::read(&mut decoder).ok()?;
    }
    let mut walk = Walk {
        bytes,
        role,
        neutral: bytes.to_vec(),
        records: decoder.index(),
        ttls: Vec::new(),
        frames: Vec::new(),
        differences: Vec::new(),
        has_empty: false,
        has_refused: false,
    };
    let mut at = HEADER;
    for _ in 0..counts.queries {
        at = walk.name(at, false)? + 4;
    }
    let sections = [counts.answers, counts.authorities, counts.additionals];
    for (section, count) in (0..).zip(sections) {
        for _ in 0..count {
            at = walk.frame(section, at)?;
        }
    }
    let opts = walk
        .frames
        .iter()
        .filter(|frame| frame.rtype == OPT)
        .count();
    let mut kept_additionals = 0;
    let mut is_cut = counts.queries == 0;
    for index in 0..walk.frames.len() {
        let frame = walk.frames[index].clone();
        is_cut |= matches!(frame.rtype, OPT | TSIG);
        if !is_cut {
            walk.ttls.push(frame.data.start - 6);
            kept_additionals += usize::from(frame.section == 2);
        }
        walk.owner(&frame);
        if frame.rtype == OPT {
            walk.options(&frame, opts);
        } else if role == Role::Query {
            walk.set_opaque(&frame);
        } else {
            walk.data(&frame);
        }
    }
    // A record without data that must have some: hickory refuses it, and so do we.
    if walk.has_empty && !walk.has_refused {
        // It takes the others in an update only (opcode 5).
        walk.neutral[2] = (walk.neutral[2] & 0x87) | (5 << 3);
        walk.differences.push(Difference::EmptyData);
    }
    let mut differences = walk.differences;
    differences.sort_unstable();
    differences.dedup();
    let message = Message::from_vec(&walk.neutral).ok();
    Some(Reading {
        message: message.filter(|_| !walk.has_refused),
        is_taken_as_is: Message::from_vec(bytes).is_ok(),
        frames: walk.frames,
        differences,
        question_end: walk.records,
        kept_additionals,
    })
}

/// The question of a message in octets, where it has one and hickory reads it.
pub(super) fn question(bytes: &[u8]) -> Option<(Query, &[u8])> {
    let mut decoder = BinDecoder::new(bytes);
    Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok()?;
    Some((query, &bytes[HEADER..decoder.index()]))
}

/// Whether a name in a question holds a pointer.
pub(super) fn has_pointer(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&len) = bytes.get(at) {
        match len {
            0 => return false,
            0xc0.. => return true,
            _ => at += usize::from(len) + 1,
        }
    }
    false
}

struct Walk<'a> {
    bytes: &'a [u8],
    role: Role,
    neutral: Vec<u8>,
    /// Where the records begin.
    records: usize,
    /// Where the TTLs stand of the records that are kept.
    ttls: Vec<usize>,
    frames: Vec<Frame>,
    differences: Vec<Difference>,
    has_empty: bool,
    has_refused: bool,
}

impl Walk<'_> {
    /// Passes a name with hickory; notes what is known of it where `judge` says so.
    fn name(&mut self, at: usize, judge: bool) -> Option<usize> {
        self.bytes.get(at..)?;
        let mut decoder = BinDecoder::new(self.bytes).clone(u16::try_from(at).ok()?);
        Name::read(&mut decoder).ok()?;
        if judge {
            self.judge_name(at);
        }
        Some(decoder.index())
    }

    /// Notes the differences in a name that hickory takes.
    fn judge_name(&mut self, mut at: usize) {
        let mut pointers = 0;
        let mut start = at;
        loop {
            let len = self.bytes[at];
            let behind = at + if len < 0xc0 { 1 } else { 2 };
            if (len == 0 || len >= 0xc0) && pointers > 0 {
                let reads_ttl = |&ttl: &usize| ttl < behind && ttl + 4 > start;
                let in_question = len >= 0xc0 && at < self.records;
                let changes = in_question || self.ttls.iter().any(reads_ttl);
                if changes && self.role == Role::Response {
                    self.differences.push(Difference::ChangingName);
                }
            }
            match len {
                0 => return,
                0xc0.. => {
                    pointers += 1;
                    at = usize::from(len & 0x3f) << 8 | usize::from(self.bytes[at + 1]);
                    start = at;
                    if at < HEADER {
                        self.differences.push(Difference::HeaderPointer);
                    }
                    if pointers > 126 {
                        self.differences.push(Difference::PointerChain);
                    }
                }
                _ => at = behind + usize::from(len),
            }
        }
    }

    fn frame(&mut self, section: u8, at: usize) -> Option<usize> {
        let fixed = self.name(at, false)?;
        let u16_at = |at: usize| Some(u16::from_be_bytes(*self.bytes.get(at..)?.first_chunk()?));
        let start = fixed + 10;
        let end = start + usize::from(u16_at(fixed + 8)?);
        let ttl = u32::from(u16_at(fixed + 4)?) << 16 | u32::from(u16_at(fixed + 6)?);
        let frame = Frame {
            section,
            at,
            rtype: u16_at(fixed)?,
            class: u16_at(fixed + 2)?,
            ttl,
            data: start..end,
        };
        self.bytes.get(start..end)?;
        self.frames.push(frame);
        Some(end)
    }

    fn owner(&mut self, frame: &Frame) {
        self.judge_name(frame.at);
        if frame.rtype == OPT && self.bytes[frame.at] >= 0xc0 {
            self.differences.push(Difference::OptOwner);
        }
    }

    /// Hides a record's data from hickory.
    fn set_opaque(&mut self, frame: &Frame) {
        let at = frame.data.start - 10;
        self.neutral[at..at + 2].copy_from_slice(&OPAQUE.to_be_bytes());
        self.differences.push(Difference::OpaqueData);
        self.has_empty |= frame.data.is_empty();
    }

    fn data(&mut self, frame: &Frame) {
        let names = NAMES.iter().find(|names| names.0 == frame.rtype);
        if QUESTION_TYPES.contains(&frame.rtype) {
            // Hickory takes the two between; `has_refused` would hide that.
            if matches!(frame.rtype, 253 | 254) {
                self.differences.push(Difference::QuestionType);
                self.has_empty |= frame.data.is_empty();
            } else {
                self.has_refused = true;
            }
        } else if let Some(&(rtype, front, count, behind)) = names {
            let end = self.names(frame, front, count);
            if end != Some(frame.data.end.saturating_sub(behind)) {
                if NAMES_UNREAD.contains(&rtype) && !frame.data.is_empty() {
                    self.differences.push(Difference::NamesUnread);
                } else {
                    self.has_refused = true;
                }
            }
        } else if READ_TYPES.contains(&frame.rtype) {
            self.has_refused |= frame.data.is_empty();
        } else if frame.rtype == TSIG && frame.section < 2 {
            self.has_refused = true;
        } else if frame.rtype == TSIG || OPAQUE_TYPES.contains(&frame.rtype) {
            self.set_opaque(frame);
        } else {
            self.has_empty |= frame.data.is_empty();
        }
    }

    /// Passes the names in a record's data; the end of the last, where hickory takes them all.
    fn names(&mut self, frame: &Frame, front: usize, count: usize) -> Option<usize> {
        let mut at = frame.data.start + front;
        for _ in 0..count {
            at = self.name(at, true)?;
        }
        Some(at)
    }

    /// Notes broken options, and hides those that hickory should not look into.
    fn options(&mut self, frame: &Frame, opts: usize) {
        let [_, version, ..] = frame.ttl.to_be_bytes();
        let is_alone = opts == 1 && self.bytes[frame.at] == 0;
        if version != 0 && is_alone && self.role == Role::Query {
            let at = frame.data.start - 10;
            self.neutral[at..at + 2].copy_from_slice(&OPAQUE.to_be_bytes());
            self.differences.push(Difference::OtherVersion);
            self.has_empty |= frame.data.is_empty();
            return;
        }
        let mut at = frame.data.start;
        while at < frame.data.end {
            let Some(&[a, b, c, d]) = self.bytes[at..frame.data.end].first_chunk() else {
                break;
            };
            if u16::from_be_bytes([a, b]) == CLIENT_SUBNET {
                self.neutral[at..at + 2].copy_from_slice(&LOCAL_OPTION.to_be_bytes());
                self.differences.push(Difference::ClientSubnet);
            }
            at += 4 + usize::from(u16::from_be_bytes([c, d]));
        }
        if at != frame.data.end {
            self.differences.push(Difference::BrokenOptions);
        }
    }
}
