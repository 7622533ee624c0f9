// SPDX-License-Identifier: Apache-2.0
//! Every field of every answer beside CoreDNS's own. Where they differ docs/differences.md has a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use hickory_proto::rr::{Record, RecordType};
use nodens_tests::client::{Client, Connection, Response};
use nodens_tests::kube::cluster::NAMES;
use nodens_tests::query::{AA, AD, CD, Query, RA, RD, TC};

use crate::{Cluster, NOERROR, NXDOMAIN};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/differences.md");

/// Types that are asked for: A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, HTTPS.
const TYPES: [u16; 10] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 65];
/// Names outside.
const OUTSIDE: &[&str] = &[
    "example.org",
    "www.example.org",
    "chain.example.org",
    "dangling.example.org",
    "text.example.org",
    "big.example.org",
    "many.example.org",
    "missing.example.org",
    "zero.example.org",
    "api.stripe.com",
];

/// How a client may ask.
type Form = (&'static str, bool, fn(Query) -> Query);
const FORMS: [Form; 9] = [
    ("UDP", false, |query| query),
    ("UDP without RD", false, |query| query.rd(false)),
    ("UDP, EDNS 1232", false, |query| query.edns(1232)),
    ("UDP, EDNS 4096", false, |query| query.edns(4096)),
    ("UDP, DO", false, |query| query.edns(1232).dnssec_ok()),
    ("UDP, AD and CD", false, |query| query.ad(true).cd(true)),
    ("UDP, a cookie", false, |query| {
        query.edns(1232).option(COOKIE.0, COOKIE.1)
    }),
    ("TCP", true, |query| query),
    ("TCP, EDNS, DO", true, |query| query.edns(1232).dnssec_ok()),
];

/// The option that a form sends.
const COOKIE: (u16, &[u8]) = (10, b"a cookie");

fn cookie() -> String {
    format!("[{COOKIE:?}]")
}

/// A response as words, one for each field.
fn fields(response: &Response) -> BTreeMap<&'static str, String> {
    let outline = &response.outline;
    let mut fields = BTreeMap::new();
    for (name, bit) in [
        ("AA", AA),
        ("TC", TC),
        ("RD", RD),
        ("RA", RA),
        ("AD", AD),
        ("CD", CD),
    ] {
        fields.insert(name, u16::from(outline.flags & bit != 0).to_string());
    }
    fields.insert("opcode and Z", (outline.flags & 0x7840).to_string());
    fields.insert("response code", outline.rcode().to_string());
    fields.insert("answer", texts(&response.answers).join("; "));
    fields.insert("authority", texts(&response.authorities).join("; "));
    fields.insert("additional", texts(&response.additionals).join("; "));
    let edns = outline.edns.as_ref();
    fields.insert(
        "OPT",
        edns.map_or_else(|| "none".into(), |edns| format!("version {}", edns.version)),
    );
    if let Some(edns) = edns {
        fields.insert("OPT size", edns.size.to_string());
        fields.insert("DO", edns.dnssec_ok.to_string());
        fields.insert("options", format!("{:?}", edns.options));
    }
    fields
}

/// Records without their TTLs, as they came.
fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| {
        let mut timeless = record.clone();
        timeless.ttl = 0;
        timeless.to_string()
    };
    records.iter().map(text).collect()
}

/// Records with TTLs, in an order and letter case of their own.
fn sorted(records: &[Record]) -> Vec<(String, u32)> {
    let lines = texts(records)
        .into_iter()
        .map(|text| text.to_ascii_lowercase());
    let mut lines: Vec<_> = lines.zip(records.iter().map(|record| record.ttl)).collect();
    lines.sort();
    lines
}

fn sections(response: &Response) -> [(&'static str, &[Record]); 3] {
    [
        ("answer", &response.answers),
        ("authority", &response.authorities),
        ("additional", &response.additionals),
    ]
}

/// The differences between our answer and CoreDNS's, by their names in the table; or what is
/// different and has none.
fn differences(
    ours: &Response,
    theirs: &Response,
    whole: &Response,
) -> Result<Vec<&'static str>, String> {
    let mut found = Vec::new();
    let (own, other) = (fields(ours), fields(theirs));
    let names: BTreeSet<&str> = own.keys().chain(other.keys()).copied().collect();
    let is_cut = ours.has(TC) || theirs.has(TC);
    for name in names {
        let (our, their) = (own.get(name), other.get(name));
        if our == their {
            continue;
        }
        let unknown = || format!("{name}: {our:?}, CoreDNS {their:?}");
        match (name, our.map(String::as_str), their.map(String::as_str)) {
            ("AA", Some("0"), Some("1")) => found.push("AA"),
            ("RA", Some("1"), Some("0")) => found.push("RA"),
            ("OPT size", Some("1232"), Some(_)) => found.push("OPT size"),
            ("TC", Some("1"), Some("0")) => found.push("TC"),
            ("additional", Some(""), Some(_)) => found.push("additional"),
            ("authority" | "response code", ..) if is_denied(ours) && is_no(theirs) => {
                found.push("NXDOMAIN");
            }
            // What the client sent.
            ("options", Some("[]"), Some(their)) if their == cookie() => found.push("options"),
            ("answer" | "authority" | "additional", ..) if is_cut => {
                let part_of_whole = |response: &Response| {
                    let all: BTreeSet<_> =
                        sections(whole).iter().flat_map(|(_, s)| keys(s)).collect();
                    let mut own = sections(response).into_iter().flat_map(|(_, s)| keys(s));
                    own.all(|key| all.contains(&key))
                };
                if !part_of_whole(ours) || !part_of_whole(theirs) {
                    return Err(unknown());
                }
                found.push("cut");
            }
            ("answer" | "authority" | "additional", ..) => {
                let of = |response| {
                    let own = sections(response).into_iter();
                    own.filter(|(section, _)| *section == name)
                        .flat_map(|(_, s)| keys(s))
                        .collect::<Vec<_>>()
                };
                if of(ours) != of(theirs) {
                    return Err(unknown());
                }
                let lower = |text: Option<&String>| text.map(|text| text.to_ascii_lowercase());
                let is_case = lower(our) == lower(their);
                found.push(if is_case { "letter case" } else { "order" });
            }
            _ => return Err(unknown()),
        }
    }
    if is_cut {
        return Ok(found);
    }
    for ((_, our), (name, their)) in sections(ours).into_iter().zip(sections(theirs)) {
        for ((record, our), (_, their)) in sorted(our).into_iter().zip(sorted(their)) {
            match our {
                _ if our == their => {}
                _ if our < their => found.push("TTL"),
                _ => return Err(format!("{name}: {record} lives {our} s, not {their}")),
            }
        }
    }
    Ok(found)
}

fn keys(records: &[Record]) -> Vec<String> {
    sorted(records).into_iter().map(|(key, _)| key).collect()
}

/// NXDOMAIN or NODATA.
fn is_no(response: &Response) -> bool {
    response.answers.is_empty() && matches!(response.outline.rcode(), NOERROR | NXDOMAIN)
}

/// NXDOMAIN with an SOA and nothing else.
fn is_denied(response: &Response) -> bool {
    let is_soa = |record: &Record| record.record_type() == RecordType::SOA;
    is_no(response)
        && response.outline.rcode() == NXDOMAIN
        && matches!(&response.authorities[..], [soa] if is_soa(soa))
}

/// The names of the table's rows.
fn rows() -> BTreeSet<String> {
    let text = fs::read_to_string(TABLE).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let first = rows.filter_map(|row| Some(row.split_once(" |")?.0.trim().to_owned()));
    first
        .filter(|name| !name.starts_with("difference") && !name.starts_with('-'))
        .collect()
}

#[derive(Default)]
struct Found {
    compared: u32,
    /// By their name: how often, and where first.
    seen: BTreeMap<&'static str, (u32, String)>,
    wrong: Vec<String>,
}

impl Found {
    fn compare(&mut self, sides: &mut Sides, name: &str, qtype: u16, form: Form, turns: &[&str]) {
        let (form, over_tcp, shape) = form;
        let query = shape(Query::new(name, qtype));
        let theirs = Sides::ask(&mut sides.theirs, &query, over_tcp);
        let whole = Sides::ask(&mut sides.theirs, &query, true);
        for turn in turns {
            let ours = Sides::ask(&mut sides.ours, &query, over_tcp);
            self.compared += 1;
            let what = format!("{name} {qtype} over {form}, the {turn}");
            match differences(&ours, &theirs, &whole) {
                Ok(differences) => {
                    for one in differences {
                        let known = self.seen.entry(one).or_insert_with(|| (0, what.clone()));
                        known.0 += 1;
                    }
                }
                Err(why) => self.wrong.push(format!("{what}: {why}")),
            }
        }
    }
}

struct Sides {
    ours: (Client, Connection),
    theirs: (Client, Connection),
}

impl Sides {
    fn ask(
        (client, connection): &mut (Client, Connection),
        query: &Query,
        over_tcp: bool,
    ) -> Response {
        if over_tcp {
            return connection.ask(query).unwrap_or_else(|_| {
                // CoreDNS ends a connection after 10 s and 128 queries; so may we.
                *connection = client.connect().unwrap();
                connection.ask(query).unwrap()
            });
        }
        client.udp(query).unwrap()
    }
}

#[test]
fn every_field_of_every_answer_is_that_of_coredns_but_for_what_is_listed() {
    let cluster = Cluster::start();
    let side = |client: Client| {
        let connection = client.connect().unwrap();
        (client, connection)
    };
    let mut sides = Sides {
        ours: side(cluster.agent.client()),
        theirs: side(Client::new(cluster.coredns.addr())),
    };
    let mut found = Found::default();
    for name in NAMES.iter().chain(OUTSIDE) {
        for qtype in TYPES {
            for form in FORMS {
                found.compare(&mut sides, name, qtype, form, &["first", "second"]);
            }
        }
    }
    // Answers that have aged.
    thread::sleep(Duration::from_secs(2));
    for name in NAMES.iter().chain(OUTSIDE) {
        for qtype in TYPES {
            found.compare(&mut sides, name, qtype, FORMS[2], &["third"]);
        }
    }
    let Found {
        seen,
        wrong,
        compared,
    } = found;
    let few: Vec<_> = wrong.iter().step_by(3).take(30).cloned().collect();
    assert!(
        wrong.is_empty(),
        "{} of {compared}:\n{}",
        wrong.len(),
        few.join("\n")
    );
    let names: BTreeSet<String> = seen.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        names,
        rows(),
        "docs/differences.md lists what there is, and no more; {compared} answers: {seen:#?}"
    );
}
