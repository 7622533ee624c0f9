// SPDX-License-Identifier: Apache-2.0
//! What hickory reads in a message, and what of the known differences the message holds.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::Difference;

/// Length of a header in octets.
pub(super) const HEADER: usize = 12;
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
    /// As hickory reads it without the lenient differences, the data that they hide being octets;
    /// `None` where it still refuses it.
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
    let header = Header::read(&mut decoder).ok()?;
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata = header.metadata;
    for _ in 0..header.counts.queries {
        message.add_query(Query::read(&mut decoder).ok()?);
    }
    let mut walk = Walk {
        bytes,
        role,
        records: decoder.index(),
        ttls: Vec::new(),
        differences: Vec::new(),
    };
    let sections = [
        header.counts.answers,
        header.counts.authorities,
        header.counts.additionals,
    ];
    let mut frames = Vec::new();
    let mut at = walk.records;
    for (section, count) in (0..).zip(sections) {
        for _ in 0..count {
            let frame = walk.frame(section, at)?;
            at = frame.data.end;
            frames.push(frame);
        }
    }
    let mut kept_additionals = 0;
    let mut is_cut = header.counts.queries == 0;
    let mut is_taken = true;
    for frame in &frames {
        is_cut |= matches!(frame.rtype, OPT | TSIG);
        if !is_cut {
            walk.ttls.push(frame.data.start - 6);
            kept_additionals += usize::from(frame.section == 2);
        }
        is_taken &= walk.record(frame, &mut message).is_some();
    }
    if let Some(edns) = &message.edns {
        message.metadata.merge_response_code(edns.rcode_high());
    }
    let mut differences = walk.differences;
    differences.sort_unstable();
    differences.dedup();
    let is_taken_as_is = Message::from_vec(bytes).is_ok();
    assert!(is_taken || !is_taken_as_is, "the oracle is no oracle");
    Some(Reading {
        message: is_taken.then_some(message),
        is_taken_as_is,
        frames,
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
    /// Where the records begin.
    records: usize,
    /// Where the TTLs stand of the records that are kept.
    ttls: Vec<usize>,
    differences: Vec<Difference>,
}

impl<'a> Walk<'a> {
    fn decoder(&self, at: usize) -> Option<BinDecoder<'a>> {
        self.bytes.get(at..)?;
        Some(BinDecoder::new(self.bytes).clone(u16::try_from(at).ok()?))
    }

    /// Passes a record's owner, fixed fields and data.
    fn frame(&self, section: u8, at: usize) -> Option<Frame> {
        let mut decoder = self.decoder(at)?;
        Name::read(&mut decoder).ok()?;
        let mut word = || decoder.read_u16().ok().map(|word| word.unverified());
        let (rtype, class, high, low) = (word()?, word()?, word()?, word()?);
        let length = usize::from(word()?);
        let start = decoder.index();
        self.bytes.get(start..start + length)?;
        Some(Frame {
            section,
            at,
            rtype,
            class,
            ttl: u32::from(high) << 16 | u32::from(low),
            data: start..start + length,
        })
    }

    /// Adds a record to the message as hickory reads it; `None` where it refuses it.
    fn record(&mut self, frame: &Frame, message: &mut Message) -> Option<()> {
        self.judge_name(frame.at);
        if frame.rtype == OPT {
            return self.opt(frame, message);
        }
        let record = if self.is_opaque(frame)? {
            self.differences.push(Difference::OpaqueData);
            self.opaque(frame)?
        } else {
            Record::read(&mut self.decoder(frame.at)?).ok()?
        };
        if frame.data.is_empty() {
            self.differences.push(Difference::EmptyData);
        }
        match frame.section {
            0 => message.add_answer(record),
            1 => message.add_authority(record),
            _ => message.add_additional(record),
        };
        Some(())
    }

    /// The record with its data as octets, which hickory does not look into.
    fn opaque(&self, frame: &Frame) -> Option<Record> {
        let owner = Name::read(&mut self.decoder(frame.at)?).ok()?;
        let code = RecordType::from(frame.rtype);
        let data = if frame.data.is_empty() {
            RData::Update0(code)
        } else {
            let rdata = NULL::with(self.bytes[frame.data.clone()].to_vec());
            RData::Unknown { code, rdata }
        };
        let mut record = Record::from_rdata(owner, frame.ttl, data);
        record.dns_class = DNSClass::from(frame.class);
        Some(record)
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

    /// Whether the data of a record is nothing but octets to us, and to hickory is not. `None`
    /// where the data is none of its type; hickory refuses it, or the difference is noted.
    fn is_opaque(&mut self, frame: &Frame) -> Option<bool> {
        if self.role == Role::Query {
            return Some(true);
        }
        let is_empty = frame.data.is_empty();
        if let Some(&(rtype, front, count, behind)) =
            NAMES.iter().find(|names| names.0 == frame.rtype)
        {
            let end = self.names(frame, front, count);
            if end != Some(frame.data.end.saturating_sub(behind)) {
                if is_empty || !NAMES_UNREAD.contains(&rtype) {
                    return None;
                }
                self.differences.push(Difference::NamesUnread);
            }
        }
        match frame.rtype {
            253 | 254 if !is_empty => self.differences.push(Difference::QuestionType),
            0 | 251..=255 => return None,
            TSIG if frame.section < 2 => return None,
            read if is_empty && READ_TYPES.contains(&read) => return None,
            _ => {}
        }
        Some(frame.rtype == TSIG || OPAQUE_TYPES.contains(&frame.rtype))
    }

    /// Passes the names in a record's data; the end of the last, where hickory takes them all.
    fn names(&mut self, frame: &Frame, front: usize, count: usize) -> Option<usize> {
        let mut at = frame.data.start + front;
        for _ in 0..count {
            let mut decoder = self.decoder(at)?;
            Name::read(&mut decoder).ok()?;
            self.judge_name(at);
            at = decoder.index();
        }
        Some(at)
    }

    /// Adds an OPT record as EDNS, client subnets hidden; `None` where hickory refuses it.
    fn opt(&mut self, frame: &Frame, message: &mut Message) -> Option<()> {
        let owner = Name::read(&mut self.decoder(frame.at)?).ok()?;
        if frame.section != 2 || message.edns.is_some() || !owner.is_root() {
            return None;
        }
        if self.bytes[frame.at] != 0 {
            self.differences.push(Difference::OptOwner);
        }
        let mut data = self.bytes[frame.data.clone()].to_vec();
        let [_, version, ..] = frame.ttl.to_be_bytes();
        if version != 0 && self.role == Role::Query {
            self.differences.push(Difference::OtherVersion);
            data.clear();
        }
        let mut at = 0;
        while let Some(option) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
            let [a, b, c, d] = *option;
            if u16::from_be_bytes([a, b]) == CLIENT_SUBNET {
                option[..2].copy_from_slice(&LOCAL_OPTION.to_be_bytes());
                self.differences.push(Difference::ClientSubnet);
            }
            at += 4 + usize::from(u16::from_be_bytes([c, d]));
        }
        if at != data.len() {
            self.differences.push(Difference::BrokenOptions);
        }
        let mut alone = vec![0];
        alone.extend(OPT.to_be_bytes());
        alone.extend(frame.class.to_be_bytes());
        alone.extend(frame.ttl.to_be_bytes());
        alone.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        alone.extend(data);
        let record = Record::read(&mut BinDecoder::new(&alone)).ok()?;
        message.edns = Some(Edns::from(&record));
        Some(())
    }
}
