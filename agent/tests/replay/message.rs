// SPDX-License-Identifier: Apache-2.0
//! Messages as a scenario writes them: presentation form to octets and back. Nothing of the
//! agent's own reading and writing is used but names.

use std::fmt;

use nodens::wire::name::Name;

pub(super) const QR: u16 = 0x8000;
pub(super) const RD: u16 = 0x0100;
const EDE: u16 = 15;

/// Words of the header's flags.
const FLAGS: [(&str, u16); 7] = [
    ("QR", QR),
    ("AA", 0x0400),
    ("TC", 0x0200),
    ("RD", RD),
    ("RA", 0x0080),
    ("AD", 0x0020),
    ("CD", 0x0010),
];

const RCODES: [&str; 6] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
];

const TYPES: [(&str, u16); 15] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("DNAME", 39),
    ("OPT", 41),
    ("RRSIG", 46),
    ("HTTPS", 65),
    ("AXFR", 252),
    ("ANY", 255),
];

/// A flag's bit.
pub(super) fn flag(word: &str) -> Option<u16> {
    let found = FLAGS.iter().find(|(name, _)| *name == word);
    found.map(|(_, bit)| *bit)
}

/// A response code by its name.
pub(super) fn rcode(word: &str) -> Option<u16> {
    let found = (0..).zip(RCODES).find(|(_, name)| *name == word);
    // RFC 6891 section 9.
    let above = (word == "BADVERS").then_some(16);
    found.map(|(code, _)| code).or(above)
}

fn rtype(word: &str) -> Option<u16> {
    let found = TYPES.iter().find(|(name, _)| *name == word);
    found
        .map(|(_, number)| *number)
        .or_else(|| word.strip_prefix("TYPE")?.parse().ok())
}

fn type_name(rtype: u16) -> String {
    let found = TYPES.iter().find(|(_, number)| *number == rtype);
    found.map_or_else(|| format!("TYPE{rtype}"), |(name, _)| (*name).to_owned())
}

/// A name in wire form, the letters as they are written.
fn wire(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}

/// A question as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: Vec<u8>,
    pub(super) qtype: u16,
    pub(super) qclass: u16,
}

impl Asked {
    /// `www.example. IN A`; the class may be left out.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let qclass = match words.get(1).copied() {
            Some("IN") => Some(1),
            Some("CH") => Some(3),
            _ => None,
        };
        if qclass.is_some() {
            words.remove(1);
        }
        match words[..] {
            [name, qtype] if name.ends_with('.') => Some(Self {
                name: wire(name),
                qtype: rtype(qtype)?,
                qclass: qclass.unwrap_or(1),
            }),
            _ => None,
        }
    }

    pub(super) fn octets(&self) -> Vec<u8> {
        let mut octets = self.name.clone();
        octets.extend(self.qtype.to_be_bytes());
        octets.extend(self.qclass.to_be_bytes());
        octets
    }

    /// Whether it asks the same, letter case aside.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name.eq_ignore_ascii_case(&other.name)
            && (self.qtype, self.qclass) == (other.qtype, other.qclass)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name::from_wire(&self.name).unwrap();
        write!(f, "{name} IN {}", type_name(self.qtype))
    }
}

/// One record, its data without compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    owner: Vec<u8>,
    ttl: u32,
    rtype: u16,
    class: u16,
    data: Vec<u8>,
}

impl Record {
    /// `www.example. 300 IN A 10.0.0.1`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [owner, ttl, class, name, data @ ..] = &words[..] else {
            return None;
        };
        let class = match *class {
            "IN" => 1,
            other => other.strip_prefix("CLASS")?.parse().ok()?,
        };
        let rtype = rtype(name)?;
        let octets = match (rtype, data) {
            (1, [address]) => address
                .parse::<std::net::Ipv4Addr>()
                .ok()?
                .octets()
                .to_vec(),
            (28, [address]) => address
                .parse::<std::net::Ipv6Addr>()
                .ok()?
                .octets()
                .to_vec(),
            (2 | 5 | 12 | 39, [target]) => wire(target),
            (6, [primary, mailbox, numbers @ ..]) => {
                let mut octets = [wire(primary), wire(mailbox)].concat();
                for number in numbers {
                    octets.extend(number.parse::<u32>().ok()?.to_be_bytes());
                }
                octets
            }
            (15, [preference, host]) => {
                let mut octets = preference.parse::<u16>().ok()?.to_be_bytes().to_vec();
                octets.extend(wire(host));
                octets
            }
            (33, [a, b, c, host]) => {
                let mut octets = Vec::new();
                for number in [a, b, c] {
                    octets.extend(number.parse::<u16>().ok()?.to_be_bytes());
                }
                octets.extend(wire(host));
                octets
            }
            (16, [text]) => {
                let text = text.trim_matches('"').as_bytes();
                let mut octets = vec![u8::try_from(text.len()).ok()?];
                octets.extend(text);
                octets
            }
            (_, []) => Vec::new(),
            // RFC 3597: \# LENGTH HEX.
            (_, ["\\#", _, hex]) => (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect(),
            _ => return None,
        };
        Some(Self {
            owner: wire(owner),
            ttl: ttl.parse().ok()?,
            rtype,
            class,
            data: octets,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = Name::from_wire(&self.owner).unwrap();
        write!(f, "{owner} {} IN {} ", self.ttl, type_name(self.rtype))?;
        match (self.rtype, &self.data[..]) {
            (1, [a, b, c, d]) => write!(f, "{a}.{b}.{c}.{d}"),
            (2 | 5 | 12 | 39, name) => write!(f, "{}", Name::from_wire(name).unwrap()),
            (_, other) => {
                write!(f, "\\# {} ", other.len())?;
                other.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

/// A message, as a scenario has it or as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) flags: u16,
    pub(super) rcode: u16,
    pub(super) question: Option<Asked>,
    pub(super) sections: [Vec<Record>; 3],
    /// Info codes of its Extended DNS Errors.
    pub(super) errors: Vec<u16>,
    /// The idle timeout of edns-tcp-keepalive in units of 100 ms (RFC 7828).
    pub(super) keepalive: Option<u16>,
    /// The UDP size in its OPT record.
    pub(super) size: Option<u16>,
}

/// A query's EDNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) size: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
    pub(super) options: Vec<u8>,
}

/// A query as octets.
pub(super) fn query(id: u16, flags: u16, asked: &Asked, edns: Option<&Edns>) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend(flags.to_be_bytes());
    octets.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    octets.extend(asked.octets());
    if let Some(edns) = edns {
        octets.extend([0, 0, 41]);
        octets.extend(edns.size.to_be_bytes());
        let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
        octets.extend([0, edns.version, dnssec_ok, 0]);
        octets.extend(u16::try_from(edns.options.len()).unwrap().to_be_bytes());
        octets.extend(&edns.options);
    }
    octets
}

impl Message {
    /// The message as octets: owners that were written before become pointers to them, as servers
    /// do.
    /// With every name in full where it `is_plain`.
    pub(super) fn octets(&self, id: u16, asked: &Asked, is_plain: bool) -> Vec<u8> {
        let mut octets = id.to_be_bytes().to_vec();
        octets.extend((QR | self.flags | self.rcode).to_be_bytes());
        octets.extend([0, 1]);
        for section in &self.sections {
            octets.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
        }
        let mut known = vec![(self.question.as_ref().unwrap_or(asked).name.clone(), 12)];
        octets.extend(self.question.as_ref().unwrap_or(asked).octets());
        for record in self.sections.iter().flatten() {
            let mut known_as = known.iter().filter(|(name, _)| *name == record.owner);
            let place = known_as.next().filter(|_| !is_plain);
            match place {
                Some((_, place)) => octets.extend((0xc000_u16 | place).to_be_bytes()),
                None => {
                    if let Ok(place @ ..0x4000) = u16::try_from(octets.len()) {
                        known.push((record.owner.clone(), place));
                    }
                    octets.extend(&record.owner);
                }
            }
            octets.extend(record.rtype.to_be_bytes());
            octets.extend(record.class.to_be_bytes());
            octets.extend(record.ttl.to_be_bytes());
            octets.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
            if record.rtype == 5
                && let Ok(place @ ..0x4000) = u16::try_from(octets.len())
            {
                known.push((record.data.clone(), place));
            }
            octets.extend(&record.data);
        }
        octets
    }

    /// Reads a message; the ID, and what it says. `None` where it is none.
    pub(super) fn read(octets: &[u8]) -> Option<(u16, Self)> {
        let mut at = 0;
        let half = |at: &mut usize| {
            let value = u16::from_be_bytes([*octets.get(*at)?, *octets.get(*at + 1)?]);
            *at += 2;
            Some(value)
        };
        let (id, flags) = (half(&mut at)?, half(&mut at)?);
        let counts = [
            half(&mut at)?,
            half(&mut at)?,
            half(&mut at)?,
            half(&mut at)?,
        ];
        let mut message = Self {
            flags: flags & 0x7ff0,
            rcode: flags & 15,
            ..Self::default()
        };
        if counts[0] == 1 {
            message.question = Some(Asked {
                name: name(octets, &mut at)?,
                qtype: half(&mut at)?,
                qclass: half(&mut at)?,
            });
        }
        for (section, count) in message.sections.iter_mut().zip(&counts[1..]) {
            for _ in 0..*count {
                let owner = name(octets, &mut at)?.to_ascii_lowercase();
                let (rtype, class) = (half(&mut at)?, half(&mut at)?);
                let ttl = u32::from(half(&mut at)?) << 16 | u32::from(half(&mut at)?);
                let end = usize::from(half(&mut at)?) + at;
                if rtype == 41 {
                    message.size = Some(class);
                    message.rcode |= u16::try_from(ttl >> 24).unwrap() << 4;
                    while at < end {
                        let (code, len) = (half(&mut at)?, usize::from(half(&mut at)?));
                        match code {
                            EDE => message.errors.push(half(&mut at.clone())?),
                            11 => message.keepalive = half(&mut at.clone()),
                            _ => {}
                        }
                        at += len;
                    }
                    continue;
                }
                let fixed = match rtype {
                    2 | 5 | 12 | 39 => Some((0, 1, 0)),
                    6 => Some((0, 2, 20)),
                    15 => Some((2, 1, 0)),
                    33 => Some((6, 1, 0)),
                    _ => None,
                };
                let data = match fixed {
                    Some((before, names, behind)) => {
                        let mut data = octets.get(at..at + before)?.to_vec();
                        at += before;
                        for _ in 0..names {
                            data.extend(name(octets, &mut at)?.to_ascii_lowercase());
                        }
                        data.extend(octets.get(at..at + behind)?);
                        data
                    }
                    None => octets.get(at..end)?.to_vec(),
                };
                at = end;
                section.push(Record {
                    owner,
                    ttl,
                    rtype,
                    class,
                    data,
                });
            }
        }
        (at == octets.len()).then_some((id, message))
    }
}

/// A name with its pointers followed.
fn name(octets: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let (mut from, mut end) = (*at, None);
    loop {
        let len = usize::from(*octets.get(from)?);
        if len >= 0xc0 {
            end.get_or_insert(from + 2);
            from = (len & 0x3f) << 8 | usize::from(*octets.get(from + 1)?);
            continue;
        }
        name.extend(octets.get(from..=from + len)?);
        from += len + 1;
        if len == 0 {
            *at = end.unwrap_or(from);
            return Some(name);
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = RCODES.get(usize::from(self.rcode));
        match code {
            Some(code) => write!(f, "{code}")?,
            None => write!(f, "RCODE {}", self.rcode)?,
        }
        if let Some(size) = self.size {
            write!(f, " OPT {size}")?;
        }
        for (word, bit) in FLAGS {
            if self.flags & bit != 0 {
                write!(f, " {word}")?;
            }
        }
        for error in &self.errors {
            write!(f, " EDE {error}")?;
        }
        for (section, name) in self
            .sections
            .iter()
            .zip(["ANSWER", "AUTHORITY", "ADDITIONAL"])
        {
            if !section.is_empty() {
                write!(f, "\n    SECTION {name}")?;
            }
            for record in section.iter().take(20) {
                write!(f, "\n    {record}")?;
            }
        }
        Ok(())
    }
}
