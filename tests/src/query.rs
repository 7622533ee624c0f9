// SPDX-License-Identifier: Apache-2.0
//! Messages as bytes: a query written octet by octet, and the outline of a message read back.
//!
//! Neither the agent's code nor hickory's is used, so that a test of letter case, flags or EDNS
//! rests on the octets themselves.

/// Header bit: this is a response (RFC 1035 section 4.1.1).
pub const QR: u16 = 0x8000;
/// Header bit: authoritative answer.
pub const AA: u16 = 0x0400;
/// Header bit: truncated.
pub const TC: u16 = 0x0200;
/// Header bit: recursion desired.
pub const RD: u16 = 0x0100;
/// Header bit: recursion available.
pub const RA: u16 = 0x0080;
/// Header bit: authentic data (RFC 4035 section 3.2.3).
pub const AD: u16 = 0x0020;
/// Header bit: checking disabled (RFC 4035 section 3.2.2).
pub const CD: u16 = 0x0010;

/// Type of the pseudo-record of EDNS (RFC 6891 section 6.1.2).
pub const OPT: u16 = 41;

/// A query to be sent, with every octet under control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    id: u16,
    flags: u16,
    name: Vec<u8>,
    qtype: u16,
    qclass: u16,
    edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891 section 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer in octets.
    pub size: u16,
    /// The upper eight bits of the response code.
    pub rcode_high: u8,
    /// Version.
    pub version: u8,
    /// DNSSEC answer OK (RFC 3225).
    pub dnssec_ok: bool,
    /// Options: code and data.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Edns {
    /// Version 0 without options.
    #[must_use]
    pub fn new(size: u16) -> Self {
        Self {
            size,
            rcode_high: 0,
            version: 0,
            dnssec_ok: false,
            options: Vec::new(),
        }
    }

    /// The record's octets.
    ///
    /// # Panics
    /// When the options are above 65,535 octets.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (code, value) in &self.options {
            data.extend_from_slice(&code.to_be_bytes());
            let length = u16::try_from(value.len()).expect("an option's length has 16 bits");
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(value);
        }
        let mut bytes = vec![0];
        bytes.extend_from_slice(&OPT.to_be_bytes());
        bytes.extend_from_slice(&self.size.to_be_bytes());
        let dnssec_ok = if self.dnssec_ok { 0x80 } else { 0 };
        bytes.extend_from_slice(&[self.rcode_high, self.version, dnssec_ok, 0]);
        let length = u16::try_from(data.len()).expect("the length of OPT's data has 16 bits");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&data);
        bytes
    }
}

impl Query {
    /// Class IN, RD set, no EDNS, a new ID. The letter case of `name` goes out as written.
    ///
    /// # Panics
    /// When a label is empty or above 63 octets.
    #[must_use]
    pub fn new(name: &str, qtype: impl Into<u16>) -> Self {
        Self {
            id: fresh_id(),
            flags: RD,
            name: wire_name(name),
            qtype: qtype.into(),
            qclass: 1,
            edns: None,
        }
    }

    /// Sets the ID.
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// Sets all bits of the second header word: QR, opcode, AA, TC, RD, RA, Z, AD, CD, rcode.
    #[must_use]
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Sets or clears RD.
    #[must_use]
    pub fn rd(self, on: bool) -> Self {
        self.flag(RD, on)
    }

    /// Sets or clears CD.
    #[must_use]
    pub fn cd(self, on: bool) -> Self {
        self.flag(CD, on)
    }

    /// Sets or clears AD.
    #[must_use]
    pub fn ad(self, on: bool) -> Self {
        self.flag(AD, on)
    }

    /// Sets the opcode.
    #[must_use]
    pub fn opcode(mut self, opcode: u8) -> Self {
        self.flags = self.flags & 0x87ff | u16::from(opcode & 0xf) << 11;
        self
    }

    /// Sets the class.
    #[must_use]
    pub fn class(mut self, qclass: u16) -> Self {
        self.qclass = qclass;
        self
    }

    /// Adds EDNS with this UDP size in octets.
    #[must_use]
    pub fn edns(mut self, size: u16) -> Self {
        self.edns_mut().size = size;
        self
    }

    /// Adds EDNS where there is none and sets DO.
    #[must_use]
    pub fn dnssec_ok(mut self) -> Self {
        self.edns_mut().dnssec_ok = true;
        self
    }

    /// Adds EDNS where there is none and sets its version.
    #[must_use]
    pub fn edns_version(mut self, version: u8) -> Self {
        self.edns_mut().version = version;
        self
    }

    /// Adds EDNS where there is none and an option to it.
    #[must_use]
    pub fn option(mut self, code: u16, data: &[u8]) -> Self {
        self.edns_mut().options.push((code, data.to_vec()));
        self
    }

    /// The octets to send.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&self.qtype.to_be_bytes());
        bytes.extend_from_slice(&self.qclass.to_be_bytes());
        if let Some(edns) = &self.edns {
            bytes.extend_from_slice(&edns.to_bytes());
        }
        bytes
    }

    fn flag(mut self, bit: u16, on: bool) -> Self {
        self.flags = if on {
            self.flags | bit
        } else {
            self.flags & !bit
        };
        self
    }

    fn edns_mut(&mut self) -> &mut Edns {
        self.edns.get_or_insert_with(|| Edns::new(1232))
    }
}

/// What a test judges of a message, read from its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The ID.
    pub id: u16,
    /// The second header word.
    pub flags: u16,
    /// Records by section: question, answer, authority, additional.
    pub counts: [u16; 4],
    /// The question's name in lower case with its final dot, odd octets as `\DDD`; empty without
    /// a question.
    pub name: String,
    /// The question's type; 0 without a question.
    pub qtype: u16,
    /// The question's class; 0 without a question.
    pub qclass: u16,
    /// The question section's first entry as it stood: name with its letter case, type, class.
    pub question: Vec<u8>,
    /// The first OPT record of the additional section; `None` also where the records before it
    /// cannot be read.
    pub edns: Option<Edns>,
}

impl Outline {
    /// Reads a message; `None` when it has no whole header or its question cannot be read.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            Some(u16::from_be_bytes([
                *message.get(at)?,
                *message.get(at + 1)?,
            ]))
        };
        let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
        let mut outline = Self {
            id: word(0)?,
            flags: word(2)?,
            counts,
            name: String::new(),
            qtype: 0,
            qclass: 0,
            question: Vec::new(),
            edns: None,
        };
        let mut at = 12;
        for index in 0..counts[0] {
            let end = skip_name(message, at)?;
            if index == 0 {
                outline.name = dotted(message.get(at..end)?)?;
                outline.qtype = word(end)?;
                outline.qclass = word(end + 2)?;
                outline.question = message.get(at..end + 4)?.to_vec();
            }
            at = end + 4;
        }
        let before = usize::from(counts[1]) + usize::from(counts[2]);
        outline.edns = find_opt(message, at, before, usize::from(counts[3]));
        Some(outline)
    }

    /// Whether QR is set.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flags & QR != 0
    }

    /// The response code with the upper bits that EDNS carries.
    #[must_use]
    pub fn rcode(&self) -> u16 {
        let high = self.edns.as_ref().map_or(0, |edns| edns.rcode_high);
        u16::from(high) << 4 | self.flags & 0xf
    }

    /// Whether the question is this one, letter case aside; a final dot may be left out.
    #[must_use]
    pub fn asks(&self, name: &str, qtype: impl Into<u16>) -> bool {
        self.name == canonical(name) && self.qtype == qtype.into()
    }
}

/// The name in lower case with its final dot.
#[must_use]
pub fn canonical(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

/// The name's octets on the wire, letter case kept. `\DDD` stands for an octet, `\.` for a dot
/// inside a label (RFC 1035 section 5.1).
///
/// # Panics
/// When a label is empty or above 63 octets, or an escape is broken.
#[must_use]
pub fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    let mut label = Vec::new();
    let mut rest = name.strip_suffix('.').unwrap_or(name).bytes();
    let mut end = |label: &mut Vec<u8>| {
        let length = u8::try_from(label.len()).expect("a label is at most 63 octets");
        assert!((1..64).contains(&length), "label of {length} octets");
        bytes.push(length);
        bytes.append(label);
    };
    while let Some(byte) = rest.next() {
        match byte {
            b'.' => end(&mut label),
            b'\\' => {
                let first = rest.next().expect("something follows a backslash");
                if first.is_ascii_digit() {
                    let digits = [first, rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                    let number = str::from_utf8(&digits).ok().and_then(|d| d.parse().ok());
                    label.push(number.expect("three digits up to 255 follow a backslash"));
                } else {
                    label.push(first);
                }
            }
            _ => label.push(byte),
        }
    }
    if !label.is_empty() {
        end(&mut label);
    }
    bytes.push(0);
    bytes
}

/// The end of the name at `at`: after its root label or after its first pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return (at + 2 <= message.len()).then_some(at + 2),
            _ => return None,
        }
    }
}

/// The name of a question in presentation form; `None` where it holds a pointer.
fn dotted(mut name: &[u8]) -> Option<String> {
    let mut text = String::new();
    while let Some((&length, rest)) = name.split_first() {
        if length == 0 {
            break;
        }
        for &byte in rest.get(..usize::from(length))? {
            match byte.to_ascii_lowercase() {
                b'.' => text.push_str("\\."),
                b'\\' => text.push_str("\\\\"),
                byte @ b'!'..=b'~' => text.push(char::from(byte)),
                byte => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
        name = rest.get(usize::from(length)..)?;
    }
    if text.is_empty() {
        text.push('.');
    }
    Some(text)
}

fn find_opt(message: &[u8], mut at: usize, before: usize, additional: usize) -> Option<Edns> {
    for index in 0..before + additional {
        let fixed = skip_name(message, at)?;
        let head = message.get(fixed..fixed + 10)?;
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let data = message.get(fixed + 10..fixed + 10 + length)?;
        if index >= before && u16::from_be_bytes([head[0], head[1]]) == OPT {
            return Some(Edns {
                size: u16::from_be_bytes([head[2], head[3]]),
                rcode_high: head[4],
                version: head[5],
                dnssec_ok: head[6] & 0x80 != 0,
                options: options(data),
            });
        }
        at = fixed + 10 + length;
    }
    None
}

fn options(mut data: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while let [c0, c1, l0, l1, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*l0, *l1])).min(rest.len());
        options.push((u16::from_be_bytes([*c0, *c1]), rest[..length].to_vec()));
        data = &rest[length..];
    }
    options
}

/// An ID that differs from that of the calls before it.
fn fresh_id() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    // An odd factor visits every value once and looks nothing like a counter to a reader of logs.
    NEXT.fetch_add(1, Relaxed).wrapping_mul(40_503)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;

    #[test]
    fn hickory_reads_the_query_that_was_written() {
        let query = Query::new("WeB.Prod.svc.cluster.local", RecordType::SRV)
            .id(0x1234)
            .cd(true)
            .edns(4096)
            .dnssec_ok()
            .option(10, b"12345678");
        let message = Message::from_vec(&query.to_bytes()).unwrap();
        assert_eq!(message.id, 0x1234);
        assert!(message.checking_disabled && message.recursion_desired);
        assert_eq!(
            message.queries[0].name.to_ascii(),
            "WeB.Prod.svc.cluster.local."
        );
        assert_eq!(message.queries[0].query_type, RecordType::SRV);
        let edns = message.edns.unwrap();
        assert_eq!(edns.max_payload(), 4096);
        assert!(edns.flags().dnssec_ok);
        assert_eq!(edns.options().options.len(), 1);
    }

    #[test]
    fn an_outline_gives_back_what_the_query_said() {
        let bytes = Query::new("a\\.b.\\000x.Example.", 255u16)
            .flags(QR | TC)
            .opcode(2)
            .class(3)
            .option(15, &[0, 22, b'!'])
            .to_bytes();
        let outline = Outline::read(&bytes).unwrap();
        assert_eq!(outline.name, "a\\.b.\\000x.example.");
        assert_eq!((outline.qtype, outline.qclass), (255, 3));
        assert_eq!(outline.flags, QR | TC | 2 << 11);
        assert_eq!(&outline.question[..4], b"\x03a.b");
        assert!(outline.question.windows(7).any(|w| w == b"Example"));
        assert_eq!(outline.edns.unwrap().options, [(15, vec![0, 22, b'!'])]);
    }

    #[test]
    fn an_outline_of_rubbish_is_none_or_harmless() {
        let bytes = Query::new("web.prod", 1u16).edns(1232).to_bytes();
        assert!(Outline::read(&[]).is_none());
        for end in 0..bytes.len() {
            if let Some(outline) = Outline::read(&bytes[..end]) {
                assert!(outline.edns.is_none(), "cut at {end}");
            }
        }
    }

    #[test]
    fn ids_do_not_repeat_soon() {
        let ids: std::collections::HashSet<u16> = (0..1000).map(|_| fresh_id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
