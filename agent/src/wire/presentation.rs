// SPDX-License-Identifier: Apache-2.0
//! Types, response codes and records as people write them (RFC 1035 section 5.1, RFC 3597). For
//! those who ask what is held, never on a query's way.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::chain::expand;
use super::cursor::{Changing, Cursor};
use super::header::HEADER;
use super::name::Name;
use super::qtype;

/// Types by their names (IANA DNS parameters).
const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (14, "MINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (24, "SIG"),
    (25, "KEY"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (39, "DNAME"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (108, "EUI48"),
    (109, "EUI64"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

/// A type as its name, or `TYPE` and its number (RFC 3597 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeName(pub u16);

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl TypeName {
    /// Reads a name or `TYPE` and a number, whatever its letter case. `None` where it is neither,
    /// or 0, which no question has (RFC 6895 section 3.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let known = TYPES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text));
        if let Some(&(number, _)) = known {
            return Some(Self(number));
        }
        let (head, digits) = text.split_at_checked(4)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !head.eq_ignore_ascii_case("TYPE") || !is_number {
            return None;
        }
        digits.parse().ok().filter(|&number| number != 0).map(Self)
    }
}

/// A response code below 16 as its name (RFC 1035 section 4.1.1, RFC 2136 section 2.2).
#[must_use]
pub fn rcode_name(rcode: u16) -> &'static str {
    const NAMES: [&str; 16] = [
        "NOERROR",
        "FORMERR",
        "SERVFAIL",
        "NXDOMAIN",
        "NOTIMP",
        "REFUSED",
        "YXDOMAIN",
        "YXRRSET",
        "NXRRSET",
        "NOTAUTH",
        "NOTZONE",
        "DSOTYPENI",
        "RESERVED12",
        "RESERVED13",
        "RESERVED14",
        "RESERVED15",
    ];
    NAMES.get(usize::from(rcode)).copied().unwrap_or("RESERVED")
}

/// A record of a message.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Whose it is, in lower case.
    pub owner: Name,
    /// Its type.
    pub rtype: u16,
    /// Its class.
    pub class: u16,
    /// Its TTL in seconds.
    pub ttl: u32,
    message: &'a [u8],
    data_at: usize,
}

/// The records of a message that was checked when it came; the first stands at `start`. Ends early
/// at anything that is no record.
pub fn records(message: &[u8], start: usize) -> impl Iterator<Item = Record<'_>> {
    let mut at = start.max(HEADER);
    std::iter::from_fn(move || {
        let mut cursor = Cursor::new(message, at);
        cursor.name(Changing::NOTHING)?;
        let (rtype, class, ttl) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
        let length = cursor.u16()?;
        let data_at = cursor.position();
        cursor.take(usize::from(length))?;
        let owner = expand(message, at)?;
        at = cursor.position();
        Some(Record {
            owner,
            rtype,
            class,
            ttl,
            message: message.get(..at)?,
            data_at,
        })
    })
}

impl<'a> Record<'a> {
    /// Its data in presentation form; what is not known, or is not as its type has it, as octets
    /// (RFC 3597 section 5).
    #[must_use]
    pub fn data(&self) -> Data<'a> {
        Data {
            rtype: self.rtype,
            message: self.message,
            at: self.data_at,
        }
    }
}

/// The data of a record.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    rtype: u16,
    /// Ends where the data ends.
    message: &'a [u8],
    at: usize,
}

/// A part of data, as a type's format has them one behind the other.
#[derive(Clone, Copy, Debug)]
enum Part {
    Name,
    Byte,
    Short,
    Long,
    /// A length octet and so many octets, in quotes.
    Text,
    /// As many of them as there are, at least one.
    Texts,
    /// A length octet and so many letters, as they are.
    Tag,
    /// The rest, in quotes.
    RestText,
    /// The rest, in hexadecimal digits.
    RestHex,
    V4,
    V6,
}

/// What the data of a type is made of; `None` for those that are shown as octets.
fn format_of(rtype: u16) -> Option<&'static [Part]> {
    use Part::{Byte, Long, Name, RestHex, RestText, Short, Tag, Text, Texts, V4, V6};
    Some(match rtype {
        qtype::A => &[V4],
        qtype::AAAA => &[V6],
        // MD, MF, MB, MG and MR among them.
        qtype::NS | 3 | 4 | qtype::CNAME | 7..=9 | qtype::PTR | qtype::DNAME => &[Name],
        qtype::SOA => &[Name, Name, Long, Long, Long, Long, Long],
        qtype::HINFO => &[Text, Text],
        qtype::MINFO => &[Name, Name],
        qtype::MX => &[Short, Name],
        qtype::TXT | 99 => &[Texts],
        qtype::SRV => &[Short, Short, Short, Name],
        // NAPTR (RFC 3403 section 4.1).
        35 => &[Short, Short, Text, Text, Text, Name],
        // DS and CDS (RFC 4034 section 5.3).
        43 | 59 => &[Short, Byte, Byte, RestHex],
        // TLSA and SMIMEA (RFC 6698 section 2.2).
        52 | 53 => &[Byte, Byte, Byte, RestHex],
        // URI (RFC 7553 section 4.5).
        256 => &[Short, Short, RestText],
        // CAA (RFC 8659 section 4.1).
        257 => &[Byte, Tag, RestText],
        _ => return None,
    })
}

impl fmt::Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tried first: half of a format must not be written in front of the octets.
        if let Some(format) = format_of(self.rtype)
            && self.walk(format, |_| Ok(())) == Some(Ok(()))
        {
            let mut is_first = true;
            let written = self.walk(format, |shown| {
                if !std::mem::take(&mut is_first) {
                    f.write_str(" ")?;
                }
                shown.fmt(f)
            });
            return written.unwrap_or(Ok(()));
        }
        let octets = self.message.get(self.at..).unwrap_or(&[]);
        write!(f, "\\# {}", octets.len())?;
        if octets.is_empty() {
            return Ok(());
        }
        write!(f, " {}", Shown::Hex(octets))
    }
}

impl Data<'_> {
    /// Calls `each` for the parts; `None` where the data is not as its type has it.
    fn walk(
        &self,
        format: &[Part],
        mut each: impl FnMut(Shown<'_>) -> fmt::Result,
    ) -> Option<fmt::Result> {
        let mut cursor = Cursor::new(self.message, self.at);
        let length = |cursor: &Cursor<'_>| self.message.len().saturating_sub(cursor.position());
        for part in format {
            let name;
            let shown = match part {
                Part::Name => {
                    name = expand(self.message, cursor.position())?;
                    cursor.name(Changing::NOTHING)?;
                    Shown::Name(&name)
                }
                Part::Byte => Shown::Number(u32::from(*cursor.take(1)?.first()?)),
                Part::Short => Shown::Number(u32::from(cursor.u16()?)),
                Part::Long => Shown::Number(cursor.u32()?),
                Part::Text => Shown::Quoted(sized(&mut cursor)?),
                Part::Tag => Shown::Letters(sized(&mut cursor)?),
                Part::Texts => {
                    while length(&cursor) > 0 {
                        let text = Shown::Quoted(sized(&mut cursor)?);
                        if let Err(error) = each(text) {
                            return Some(Err(error));
                        }
                    }
                    continue;
                }
                Part::RestText => Shown::Quoted(cursor.take(length(&cursor))?),
                Part::RestHex => Shown::Hex(cursor.take(length(&cursor))?),
                Part::V4 => Shown::V4((*cursor.take(4)?.first_chunk::<4>()?).into()),
                Part::V6 => Shown::V6((*cursor.take(16)?.first_chunk::<16>()?).into()),
            };
            if let Err(error) = each(shown) {
                return Some(Err(error));
            }
        }
        (length(&cursor) == 0).then_some(Ok(()))
    }
}

/// A length octet and so many octets.
fn sized<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let length = *cursor.take(1)?.first()?;
    cursor.take(usize::from(length))
}

/// A part as it is written.
enum Shown<'a> {
    Name(&'a Name),
    Number(u32),
    Quoted(&'a [u8]),
    Letters(&'a [u8]),
    Hex(&'a [u8]),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Quoted(octets) => {
                f.write_str("\"")?;
                escape(f, octets, b' ')?;
                f.write_str("\"")
            }
            // A space would end the part.
            Self::Letters(octets) => escape(f, octets, b'!'),
            Self::Hex(octets) => octets.iter().try_for_each(|octet| write!(f, "{octet:02x}")),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
        }
    }
}

/// Writes octets with `\DDD` for those below `least` and above 126, and a backslash before quotes
/// and backslashes (RFC 1035 section 5.1).
fn escape(f: &mut fmt::Formatter<'_>, octets: &[u8], least: u8) -> fmt::Result {
    for &octet in octets {
        match octet {
            b'"' | b'\\' => write!(f, "\\{}", char::from(octet))?,
            octet if (least..=0x7e).contains(&octet) => write!(f, "{}", char::from(octet))?,
            other => write!(f, "\\{other:03}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with a question for `a.example.` and one record of it.
    fn message(rtype: u16, data: &[u8]) -> (Vec<u8>, usize) {
        let mut message = vec![0; HEADER];
        message.extend(b"\x01a\x07example\x00\x00\x01\x00\x01");
        let start = message.len();
        message.extend([0xc0, 12]);
        message.extend(rtype.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 30]);
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
        (message, start)
    }

    fn shown(rtype: u16, data: &[u8]) -> String {
        let (message, start) = message(rtype, data);
        let mut all = records(&message, start);
        let record = all.next().unwrap();
        assert!(all.next().is_none());
        assert_eq!(record.owner.to_string(), "a.example.");
        assert_eq!((record.rtype, record.class, record.ttl), (rtype, 1, 30));
        record.data().to_string()
    }

    #[test]
    fn data_is_shown_as_zone_files_have_it() {
        let soa = [
            &b"\x02ns\xc0\x0e\x04host\xc0\x0e"[..],
            &[0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3],
        ]
        .concat();
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        for (rtype, data, text) in [
            (1, &[10, 0, 0, 1][..], "10.0.0.1"),
            (28, &v6, "2001:db8::1"),
            (5, b"\x03www\xc0\x0e", "www.example."),
            (2, b"\x00", "."),
            (6, &soa, "ns.example. host.example. 7 6 5 4 3"),
            (15, b"\x00\x0a\x02mx\xc0\x0e", "10 mx.example."),
            (16, b"\x03a\"b\x04\\\x07\xff ", r#""a\"b" "\\\007\255 ""#),
            (
                33,
                b"\x00\x01\x00\x02\x01\xbb\xc0\x0c",
                "1 2 443 a.example.",
            ),
            (13, b"\x03CPU\x02OS", r#""CPU" "OS""#),
            (
                35,
                b"\x00\x01\x00\x02\x01u\x03sip\x00\x00",
                r#"1 2 "u" "sip" "" ."#,
            ),
            (43, b"\x12\x34\x08\x02\xab\xcd", "4660 8 2 abcd"),
            (257, b"\x00\x05issueca.example", r#"0 issue "ca.example""#),
        ] {
            assert_eq!(shown(rtype, data), text);
        }
    }

    #[test]
    fn what_is_not_known_or_not_as_its_type_has_it_is_shown_as_octets() {
        assert_eq!(shown(65, b"\x00\x01\x00"), r"\# 3 000100");
        assert_eq!(shown(4711, b""), r"\# 0");
        assert_eq!(shown(1, b"\x0a\x00\x00"), r"\# 3 0a0000");
        assert_eq!(shown(16, b"\x05ab"), r"\# 3 056162");
        assert_eq!(shown(15, b"\x00\x0a\xc0\x0cx"), r"\# 5 000ac00c78");
        // A pointer ahead.
        assert_eq!(shown(5, b"\xff\xff"), r"\# 2 ffff");
    }

    #[test]
    fn octets_that_are_no_records_end_them() {
        let (mut message, start) = message(1, &[1, 2, 3, 4]);
        for length in 0..message.len() {
            let short = message.get(..length).unwrap();
            assert_eq!(records(short, start).count(), 0, "{length}");
        }
        message.extend([0xff; 40]);
        assert_eq!(records(&message, start).count(), 1);
    }

    #[test]
    fn types_are_read_as_they_are_written_whatever_their_case() {
        for &(number, name) in TYPES {
            assert_eq!(TypeName(number).to_string(), name);
            assert_eq!(TypeName::parse(name), Some(TypeName(number)));
            let lower = name.to_ascii_lowercase();
            assert_eq!(TypeName::parse(&lower), Some(TypeName(number)));
        }
        assert_eq!(TypeName(4711).to_string(), "TYPE4711");
        assert_eq!(TypeName::parse("type4711"), Some(TypeName(4711)));
        assert_eq!(TypeName::parse("TYPE28"), Some(TypeName(28)));
        for wrong in [
            "",
            "TYPE",
            "TYPE0",
            "TYPE65536",
            "TYPE+1",
            "B",
            "TYP1",
            "типы",
        ] {
            assert_eq!(TypeName::parse(wrong), None, "{wrong}");
        }
    }
}
