// SPDX-License-Identifier: Apache-2.0
//! Random messages: valid ones as hickory writes them, then damaged ones, then octets.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, MX, NS, NULL, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use nodens_tests::oracle::Asked;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Octets of a name's labels: 255 without the root label.
const MAX_LABELS: usize = 254;
/// Labels that a sloppy reader takes for something else.
const ODD_LABELS: &[&[u8]] = &[
    b".",
    b"\\",
    b" ",
    b"\x00",
    b"*",
    b"@",
    b"\xc0\x0c",
    b"a.b\\007",
];
const ZONES: &[&str] = &[
    "",
    "example.org",
    "svc.cluster.local",
    "PROD.svc.cluster.local",
];

fn label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-zA-Z0-9_-]{1,12}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..=63),
        1 => select(ODD_LABELS).prop_map(<[u8]>::to_vec),
        1 => vec(select(b"xX9"), 63),
    ]
}

/// A name: in a zone of the cluster or elsewhere, of any octets, or as long as names can be.
fn name() -> impl Strategy<Value = Name> {
    let usual = (vec(label(), 0..5), select(ZONES)).prop_map(|(mut labels, zone)| {
        let zone = zone.split('.').filter(|label| !label.is_empty());
        labels.extend(zone.map(|label| label.as_bytes().to_vec()));
        while labels.iter().map(|label| label.len() + 1).sum::<usize>() > MAX_LABELS {
            labels.remove(0);
        }
        labels
    });
    prop_oneof![
        20 => usual,
        1 => vec(any::<u8>(), 127).prop_map(|octets| octets.into_iter().map(|o| vec![o]).collect()),
        1 => any::<u8>().prop_map(|o| [63, 63, 63, 61].map(|len| vec![o; len]).to_vec()),
    ]
    .prop_map(|labels: Vec<Vec<u8>>| {
        Name::from_labels(labels.iter().map(Vec::as_slice)).expect("a valid name")
    })
}

fn record_type() -> impl Strategy<Value = u16> {
    prop_oneof![
        9 => select(&[1, 28, 5, 12, 33, 15, 16, 6, 2, 255, 65, 43, 48]),
        1 => any::<u16>(),
    ]
}

fn class() -> impl Strategy<Value = u16> {
    prop_oneof![18 => Just(1), 1 => Just(255), 1 => select(&[3, 4, 254, 0, 7])]
}

/// Data of the types that a cluster uses, and of unknown ones (RFC 3597).
fn data() -> impl Strategy<Value = RData> {
    let octets = || vec(any::<u8>(), 0..40);
    let texts = vec(vec(any::<u8>(), 0..=255), 1..4);
    prop_oneof![
        6 => any::<[u8; 4]>().prop_map(|ip| RData::A(A(ip.into()))),
        3 => any::<[u8; 16]>().prop_map(|ip| RData::AAAA(AAAA(ip.into()))),
        1 => name().prop_map(|name| RData::NS(NS(name))),
        2 => name().prop_map(|name| RData::CNAME(CNAME(name))),
        1 => name().prop_map(|name| RData::PTR(PTR(name))),
        1 => (any::<u16>(), name()).prop_map(|(number, name)| RData::MX(MX::new(number, name))),
        2 => (any::<[u16; 3]>(), name())
            .prop_map(|([a, b, c], name)| RData::SRV(SRV::new(a, b, c, name))),
        1 => texts.prop_map(|texts| {
            RData::TXT(TXT::from_bytes(texts.iter().map(Vec::as_slice).collect()))
        }),
        2 => (name(), name(), any::<[i32; 3]>(), any::<[u32; 2]>()).prop_map(|(a, b, i, u)| {
            RData::SOA(SOA::new(a, b, u[0], i[0], i[1], i[2], u[1]))
        }),
        1 => (octets(), octets())
            .prop_map(|(a, b)| RData::HINFO(HINFO::from_bytes(a.into(), b.into()))),
        1 => (select(&[10, 11, 17, 18, 29, 42, 99, 32_768, 65_280]), vec(any::<u8>(), 1..40))
            .prop_map(|(code, octets)| RData::Unknown {
                code: RecordType::from(code),
                rdata: NULL::with(octets),
            }),
    ]
}

/// A record; half of them have the name that was asked for.
fn record(asked: Name) -> impl Strategy<Value = Record> {
    let owner = prop_oneof![Just(asked), name()];
    let ttl = prop_oneof![4 => 0_u32..600, 1 => any::<u32>()];
    (owner, ttl, data(), class()).prop_map(|(owner, ttl, data, class)| {
        let mut record = Record::from_rdata(owner, ttl, data);
        record.dns_class = DNSClass::from(class);
        record
    })
}

fn option() -> impl Strategy<Value = EdnsOption> {
    prop_oneof![
        2 => vec(any::<u8>(), 8..=8).prop_map(|cookie| EdnsOption::Unknown(10, cookie)),
        2 => Just(EdnsOption::Unknown(11, Vec::new())),
        2 => vec(Just(0), 0..60).prop_map(|padding| EdnsOption::Unknown(12, padding)),
        1 => (any::<[u8; 4]>(), 0..=32_u8)
            .prop_map(|(ip, prefix)| EdnsOption::Subnet(ClientSubnet::new(ip.into(), prefix, 0))),
        1 => (14..=u16::MAX, vec(any::<u8>(), 0..20))
            .prop_map(|(code, octets)| EdnsOption::Unknown(code, octets)),
    ]
}

fn edns(version: impl Strategy<Value = u8>) -> impl Strategy<Value = Option<Edns>> {
    let size = prop_oneof![Just(1232), Just(4096), any::<u16>()];
    let edns = (size, any::<bool>(), version, vec(option(), 0..4)).prop_map(
        |(size, dnssec_ok, version, options)| {
            let mut edns = Edns::new();
            edns.set_max_payload(size)
                .set_dnssec_ok(dnssec_ok)
                .set_version(version);
            for option in options {
                edns.options_mut().insert(option);
            }
            edns
        },
    );
    prop_oneof![1 => Just(None), 2 => edns.prop_map(Some)]
}

fn question() -> impl Strategy<Value = Query> {
    (name(), record_type(), class()).prop_map(|(name, qtype, class)| {
        let mut query = Query::query(name, RecordType::from(qtype));
        query.set_query_class(DNSClass::from(class));
        query
    })
}

/// A query as hickory writes it.
pub(crate) fn query() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![15 => Just(0), 1 => 1_u8..];
    (any::<u16>(), any::<[bool; 3]>(), question(), edns(version)).prop_map(
        |(id, [rd, cd, ad], question, edns)| {
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = rd;
            message.metadata.checking_disabled = cd;
            message.metadata.authentic_data = ad;
            message.add_query(question);
            message.edns = edns;
            message.to_vec().expect("a query")
        },
    )
}

/// A response as hickory writes it, and what it answers.
pub(crate) fn response() -> impl Strategy<Value = (Vec<u8>, Asked)> {
    let sections = |question: Query| {
        let record = || record(question.name.clone());
        let sections = (
            vec(record(), 0..8),
            vec(record(), 0..3),
            vec(record(), 0..6),
        );
        (Just(question.clone()), sections)
    };
    let rcode = prop_oneof![8 => Just(0), 2 => Just(3), 2 => 0..=23_u16];
    let head = (any::<u16>(), any::<[bool; 6]>(), rcode, edns(Just(0)));
    (head, question().prop_flat_map(sections)).prop_map(
        |((id, [aa, tc, rd, ra, ad, cd], rcode, edns), (question, sections))| {
            let mut message = Message::new(id, MessageType::Response, OpCode::Query);
            message.metadata.authoritative = aa;
            message.metadata.truncation = tc;
            message.metadata.recursion_desired = rd;
            message.metadata.recursion_available = ra;
            message.metadata.authentic_data = ad;
            message.metadata.checking_disabled = cd;
            message.metadata.response_code = rcode.into();
            message.add_query(question);
            (message.answers, message.authorities, message.additionals) = sections;
            message.edns = edns;
            let octets = message.to_vec().expect("a response");
            let asked = Asked::claimed_by(&octets);
            (octets, asked)
        },
    )
}

/// One kind of damage.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Word(Index, u16),
    Truncate(Index),
    Remove(Index, usize),
    Copy(Index, Index, usize),
    Insert(Index, Vec<u8>),
    /// A pointer to a place in the message.
    Point(Index, Index),
    /// One of the four counts, by one.
    Count(usize, bool),
}

/// One to three kinds of damage.
pub(crate) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<Index>;
    let damage = prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => (at(), select(&[0, 1, 2, 4, 12, 41, 63, 64, 250, 255]))
            .prop_map(|(at, octet)| Damage::Set(at, octet)),
        2 => (at(), any::<u16>()).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => at().prop_map(Damage::Truncate),
        1 => (at(), 1..20_usize).prop_map(|(at, len)| Damage::Remove(at, len)),
        2 => (at(), at(), 1..40_usize).prop_map(|(from, to, len)| Damage::Copy(from, to, len)),
        1 => (at(), vec(any::<u8>(), 1..12)).prop_map(|(at, octets)| Damage::Insert(at, octets)),
        4 => (at(), at()).prop_map(|(at, to)| Damage::Point(at, to)),
        1 => (0..4_usize, any::<bool>()).prop_map(|(which, up)| Damage::Count(which, up)),
    ];
    vec(damage, 1..4)
}

/// The message with its damage.
pub(crate) fn damage(mut octets: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if octets.is_empty() {
            return octets;
        }
        let len = octets.len();
        match *damage {
            Damage::Flip(ref at, bit) => octets[at.index(len)] ^= 1 << bit,
            Damage::Set(ref at, octet) => octets[at.index(len)] = octet,
            Damage::Word(ref at, word) => write_word(&mut octets, at.index(len), word),
            Damage::Truncate(ref at) => octets.truncate(at.index(len)),
            Damage::Remove(ref at, count) => {
                let at = at.index(len);
                octets.drain(at..(at + count).min(len));
            }
            Damage::Copy(ref from, ref to, count) => {
                let from = from.index(len);
                let piece = octets[from..(from + count).min(len)].to_vec();
                let to = to.index(len);
                octets.splice(to..to, piece);
            }
            Damage::Insert(ref at, ref piece) => {
                let at = at.index(len);
                octets.splice(at..at, piece.iter().copied());
            }
            Damage::Point(ref at, ref to) => {
                let target = u16::try_from(to.index(len.min(0x4000))).expect("14 bits");
                write_word(&mut octets, at.index(len), 0xc000 | target);
            }
            Damage::Count(which, up) => {
                let at = 4 + 2 * which;
                if let Some(&[high, low]) = octets.get(at..).and_then(<[u8]>::first_chunk) {
                    let count = u16::from_be_bytes([high, low]);
                    let count = if up {
                        count.wrapping_add(1)
                    } else {
                        count.wrapping_sub(1)
                    };
                    write_word(&mut octets, at, count);
                }
            }
        }
    }
    octets
}

fn write_word(octets: &mut [u8], at: usize, word: u16) {
    for (octet, value) in octets[at..].iter_mut().zip(word.to_be_bytes()) {
        *octet = value;
    }
}

/// Any octets, half of them behind a header with likely flags and counts.
pub(crate) fn octets(flags: u16) -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![
        vec(any::<u8>(), 0..600),
        vec(select(&[0, 0, 0, 1, 1, 2, 4, 12, 41, 0xc0, b'a']), 0..200),
    ];
    (any::<bool>(), 0..3_u8, 0..3_u8, tail).prop_map(move |(has_header, n, m, tail)| {
        if !has_header {
            return tail;
        }
        let [high, low] = flags.to_be_bytes();
        let answers = if high & 0x80 == 0 { 0 } else { n };
        let mut octets = vec![7, 7, high, low, 0, 1, 0, answers, 0, 0, 0, m];
        octets.extend(tail);
        octets
    })
}
