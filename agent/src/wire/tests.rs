// SPDX-License-Identifier: Apache-2.0
//! Messages octet by octet: what is taken, what is refused, what goes back.

use super::answer::{Answer, Standing};
use super::chain::Chain;
use super::edns::ExtendedError;
use super::fault::Fault;
use super::header::{Flags, Header};
use super::name::Name;
use super::query::Query;
use super::question::Question;
use super::reply::{self, Shape};
use super::response::{Expected, Lie, MAX_OFFSETS, Response};
use super::{qtype, rcode};

const UDP: Shape = Shape {
    limit: 1232,
    udp_size: 1232,
    keepalive: None,
};

/// A query for `name` with the octets of its OPT record, if any.
fn query(name: &str, qtype: u16, flags: u16, opt: &[u8]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd];
    message.extend(flags.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())]);
    message.extend(Name::parse(name).unwrap().as_wire());
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message.extend(opt);
    message
}

const OPT_4096_DO: [u8; 11] = [0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0];

fn parse(message: &[u8]) -> (Query, Question) {
    let mut question = Question::new();
    let query = Query::parse(message, &mut question).unwrap();
    (query, question)
}

fn fault(message: &[u8]) -> Fault {
    Query::parse(message, &mut Question::new())
        .unwrap_err()
        .fault
}

#[test]
fn letter_case_and_edns_size_share_a_question_but_do_and_cd_do_not() {
    let mut mixed = query("web.prod.svc.cluster.local", 1, 0x0100, &[]);
    for byte in &mut mixed[13..20] {
        byte.make_ascii_uppercase();
    }
    let (plain, question) = parse(&query("web.prod.svc.cluster.local", 1, 0x0100, &[]));
    assert_eq!(parse(&mixed).1.as_octets(), question.as_octets());
    assert_eq!((plain.id, plain.question_end), (0xabcd, 44));
    let (with_do, signed) = parse(&query(
        "web.prod.svc.cluster.local",
        1,
        0x0100,
        &OPT_4096_DO,
    ));
    assert_ne!(signed.as_octets(), question.as_octets());
    assert!(signed.dnssec_ok() && with_do.edns.unwrap().dnssec_ok);
    let (_, unchecked) = parse(&query("web.prod.svc.cluster.local", 1, 0x0110, &[]));
    assert!(unchecked.checking_disabled());
    assert_ne!(unchecked.as_octets(), question.as_octets());
    assert_eq!(
        Question::from_octets(signed.as_octets())
            .unwrap()
            .as_octets(),
        signed.as_octets()
    );
}

#[test]
fn what_is_no_query_is_named() {
    let good = query("a.example", 1, 0x0100, &[]);
    assert_eq!(fault(&good[..11]), Fault::Short);
    assert_eq!(fault(&good[..15]), Fault::FormErr);
    assert_eq!(fault(&query("a.example", 1, 0x8100, &[])), Fault::Response);
    assert_eq!(fault(&query("a.example", 1, 0x2800, &[])), Fault::NotImp);
    assert_eq!(fault(&query("a.example", 252, 0, &[])), Fault::Type);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(fault(&two), Fault::FormErr);
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(fault(&chaos), Fault::Class);
    let mut version = OPT_4096_DO;
    version[6] = 1;
    assert_eq!(fault(&query("a.example", 1, 0, &version)), Fault::BadVers);
    let mut options = OPT_4096_DO.to_vec();
    options[10] = 3; // three octets of options that are not there
    assert_eq!(fault(&query("a.example", 1, 0, &options)), Fault::FormErr);
    let mut pointer = good;
    pointer[12] = 0xc0;
    assert_eq!(fault(&pointer), Fault::FormErr);
}

/// A response to [`query`] with the given records behind the question.
fn response(query: &[u8], flags: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
    let end = parse(query).0.question_end;
    let mut message = query[..end].to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    for (at, count) in (6..).step_by(2).zip(counts) {
        message[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    message.extend(records);
    message
}

fn a_record(ttl: u32, last: u8) -> Vec<u8> {
    let mut record = vec![0xc0, 12, 0, 1, 0, 1];
    record.extend(ttl.to_be_bytes());
    record.extend([0, 4, 10, 0, 0, last]);
    record
}

fn read(message: &mut [u8], query: &[u8]) -> Result<(Response, Vec<u8>), Lie> {
    let end = parse(query).0.question_end;
    let mut offsets = vec![0; MAX_OFFSETS];
    let expected = Expected {
        id: 0xabcd,
        question: &query[12..end],
    };
    Response::parse(message, &expected, &mut offsets).map(|response| (response, offsets))
}

#[test]
fn every_ttl_ages_for_itself() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let mut said = response(
        &asked,
        0x8180,
        [2, 0, 0],
        &[a_record(300, 1), a_record(5, 2)].concat(),
    );
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!((response.min_ttl, response.rcode), (Some(5), 0));
    let mut answer = response.answer(&said, &offsets);
    answer.age = 7;
    let (query, _) = parse(&asked);
    let mut buffer = [0; 1232];
    buffer[..asked.len()].copy_from_slice(&asked);
    let length = reply::answer(&mut buffer, &query, &answer, &UDP);
    assert_eq!(length, asked.len() + 32);
    let ttl = |at: usize| u32::from_be_bytes(*buffer[at..].first_chunk().unwrap());
    assert_eq!((ttl(asked.len() + 6), ttl(asked.len() + 22)), (293, 0));
    let header = Header::read(&buffer).unwrap();
    assert_eq!((header.id, header.flags.0), (0xabcd, 0x8180));
    assert_eq!((header.answers, header.additionals), (2, 0));
}

#[test]
fn what_does_not_fit_is_cut_between_records_and_marked() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let records: Vec<u8> = (0..100).flat_map(|last| a_record(30, last)).collect();
    let mut said = response(&asked, 0x8180, [100, 0, 0], &records);
    let (response, offsets) = read(&mut said, &asked).unwrap();
    let (query, _) = parse(&asked);
    let mut buffer = [0; 1232];
    buffer[..asked.len()].copy_from_slice(&asked);
    let shape = Shape { limit: 512, ..UDP };
    let length = reply::answer(
        &mut buffer,
        &query,
        &response.answer(&said, &offsets),
        &shape,
    );
    let header = Header::read(&buffer).unwrap();
    assert!(header.flags.has(Flags::TC));
    assert_eq!(usize::from(header.answers), (512 - asked.len()) / 16);
    assert_eq!(length, asked.len() + usize::from(header.answers) * 16);
}

#[test]
fn the_reply_has_an_opt_record_only_where_the_query_had_one() {
    let asked = query("a.example", 1, 0x0100, &OPT_4096_DO);
    let mut records = a_record(30, 1);
    records.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    let mut said = response(&asked, 0x81a0, [1, 0, 1], &records);
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(response.counts, [1, 0, 0]);
    let answer = response.answer(&said, &offsets);
    for opt in [&OPT_4096_DO[..], &[]] {
        let asked = query("a.example", 1, 0x0100, opt);
        let (query, _) = parse(&asked);
        let mut buffer = [0; 1232];
        buffer[..asked.len()].copy_from_slice(&asked);
        let length = reply::answer(&mut buffer, &query, &answer, &UDP);
        let header = Header::read(&buffer).unwrap();
        assert_eq!(header.additionals, u16::from(!opt.is_empty()));
        assert_eq!(header.flags.has(Flags::AD), !opt.is_empty());
        assert_eq!(length, query.question_end + 16 + opt.len());
        if !opt.is_empty() {
            assert_eq!(
                buffer[length - 11..length],
                [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]
            );
        }
    }
}

#[test]
fn a_failure_says_why_to_a_client_with_edns() {
    let asked = query("a.example", 1, 0x0110, &OPT_4096_DO);
    let (query, _) = parse(&asked);
    let mut buffer = [0; 1232];
    buffer[..asked.len()].copy_from_slice(&asked);
    let why = ExtendedError::NO_UPSTREAM;
    let length = reply::failure(&mut buffer, &query, rcode::SERVFAIL, Some(why), &UDP);
    let header = Header::read(&buffer).unwrap();
    assert_eq!(header.flags.0, 0x8192);
    let option = &buffer[query.question_end + 11..length];
    assert_eq!(option[..6], [0, 15, 0, option[3], 0, 22]);
    assert_eq!(&option[6..], why.text.as_bytes());
    assert_eq!(usize::from(buffer[query.question_end + 10]), option.len());
}

#[test]
fn a_lie_is_told_from_an_answer() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let good = response(&asked, 0x8180, [1, 0, 0], &a_record(30, 1));
    assert!(read(&mut good.clone(), &asked).is_ok());
    let mut id = good.clone();
    id[0] ^= 1;
    assert_eq!(read(&mut id, &asked).unwrap_err(), Lie::WrongId);
    let mut case = good.clone();
    case[13].make_ascii_uppercase();
    assert_eq!(read(&mut case, &asked).unwrap_err(), Lie::WrongQuestion);
    let mut is_query = good.clone();
    is_query[2] &= 0x7f;
    assert_eq!(read(&mut is_query, &asked).unwrap_err(), Lie::Malformed);
    for length in 0..good.len() {
        assert!(
            read(&mut good[..length].to_vec(), &asked).is_err(),
            "{length}"
        );
    }
    let mut loops = good.clone();
    let at = asked.len();
    loops[at..at + 2].copy_from_slice(&[0xc0, u8::try_from(at).unwrap()]);
    assert_eq!(read(&mut loops, &asked).unwrap_err(), Lie::Malformed);
    let mut long = good;
    let length_at = asked.len() + 11;
    long[length_at] = 3;
    assert_eq!(read(&mut long, &asked).unwrap_err(), Lie::Malformed);
}

#[test]
fn a_ttl_above_the_sign_bit_is_seven_days() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let mut said = response(&asked, 0x8180, [1, 0, 0], &a_record(0x8000_0001, 1));
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(response.min_ttl, Some(604_800));
    assert_eq!(
        response.answer(&said, &offsets).records[6..10],
        604_800_u32.to_be_bytes()
    );
}

#[test]
fn a_negative_answer_lives_as_long_as_its_soa_says() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let mut soa = vec![0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0];
    soa.extend([0; 16]);
    soa.extend(20_u32.to_be_bytes());
    let mut said = response(&asked, 0x8183, [0, 1, 0], &soa);
    let (response, _) = read(&mut said, &asked).unwrap();
    assert_eq!(
        (response.rcode, response.negative_ttl),
        (rcode::NXDOMAIN, Some(20))
    );
    assert_eq!(response.min_ttl, None);
}

#[test]
fn records_behind_an_opt_record_are_left_out() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let mut records = a_record(30, 1);
    records.extend([0, 0, 41, 4, 0xd0, 1, 0, 0, 0, 0, 0]);
    records.extend(a_record(30, 9));
    let mut said = response(&asked, 0x8180, [1, 0, 2], &records);
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(
        (response.counts, response.rcode),
        ([1, 0, 0], rcode::BADVERS)
    );
    let answer: Answer<'_> = response.answer(&said, &offsets);
    assert_eq!((answer.records.len(), answer.offsets().count()), (16, 1));
}

#[test]
fn a_refused_query_gets_its_own_question_back_where_one_was_read() {
    let asked = query("a.example", 252, 0x0100, &[]);
    let rejection = Query::parse(&asked, &mut Question::new()).unwrap_err();
    let mut buffer = [0; 1232];
    buffer[..asked.len()].copy_from_slice(&asked);
    assert_eq!(reply::reject(&mut buffer, &rejection, &UDP), asked.len());
    assert_eq!(Header::read(&buffer).unwrap().flags.0, 0x8105);
    let mut two = asked;
    two[5] = 2;
    let rejection = Query::parse(&two, &mut Question::new()).unwrap_err();
    buffer[..two.len()].copy_from_slice(&two);
    assert_eq!(reply::reject(&mut buffer, &rejection, &UDP), 12);
    let header = Header::read(&buffer).unwrap();
    assert_eq!(
        (header.flags.rcode(), header.questions),
        (rcode::FORMERR, 0)
    );
    assert_eq!(qtype::AXFR, 252);
}

#[test]
fn a_query_has_two_additional_records_at_most() {
    let mut three = query("a.example", 1, 0x0100, &OPT_4096_DO);
    three.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0].repeat(2));
    three[11] = 2;
    assert!(parse(&three).0.edns.is_some());
    three[11] = 3;
    assert_eq!(fault(&three), Fault::FormErr);
}

#[test]
fn options_of_another_version_are_answered_with_badvers() {
    let mut version = OPT_4096_DO.to_vec();
    version[6] = 1;
    version[10] = 1; // one octet that is no option of version 0
    version.push(7);
    assert_eq!(fault(&query("a.example", 1, 0, &version)), Fault::BadVers);
    version[6] = 0;
    assert_eq!(fault(&query("a.example", 1, 0, &version)), Fault::FormErr);
}

/// A record whose owner and data are given as octets; its TTL is 300.
fn record(owner: &[u8], rtype: u8, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend([0, rtype, 0, 1, 0, 0, 1, 44]);
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

/// Whether a response to `a.example` with these records in the answer section is taken. They begin
/// at octet 27.
fn takes(records: &[Vec<u8>]) -> bool {
    let asked = query("a.example", 1, 0x0100, &[]);
    let count = u16::try_from(records.len()).unwrap();
    let mut said = response(&asked, 0x8180, [count, 0, 0], &records.concat());
    read(&mut said, &asked).is_ok()
}

#[test]
fn a_name_is_not_read_from_what_changes_between_replies() {
    const A: [u8; 4] = [10, 0, 0, 1];
    const NS: u8 = 2;
    let at_question = || record(&[0xc0, 12], 1, &A);
    assert!(takes(&[at_question(), record(&[0xc0, 14], 1, &A)]));
    // The counts of the header.
    assert!(!takes(&[record(&[0xc0, 6], 1, &A)]));
    // The first TTL (33), an own TTL (49), and a label that runs into one: 00 00 01 2c.
    assert!(!takes(&[at_question(), record(&[0xc0, 33], 1, &A)]));
    assert!(!takes(&[
        at_question(),
        record(&[0xc0, 12], NS, &[0xc0, 49])
    ]));
    assert!(!takes(&[at_question(), record(&[0xc0, 30], 1, &A)]));
    // Octets of data do not change: 10 is no such name, 0 is the root.
    assert!(takes(&[at_question(), record(&[0xc0, 40], 1, &A)]));
    // In the label of this question stand `y.` and a pointer to it, whose octets could be letters.
    let mut asked = query("abcde", 1, 0x0100, &[]);
    asked[13..18].copy_from_slice(&[1, b'y', 0, 0xc0, 13]);
    for (target, is_taken) in [(12, true), (13, true), (16, false)] {
        let mut said = response(&asked, 0x8180, [1, 0, 0], &record(&[0xc0, target], 1, &A));
        assert_eq!(read(&mut said, &asked).is_ok(), is_taken, "{target}");
    }
}

#[test]
fn labels_that_are_pointed_at_end_before_the_name_that_points() {
    // At 43 a label of 9 octets would swallow the pointer at 51 and end behind it.
    let inside = record(&[0xc0, 12], 10, &[9, 1, 1, 1]);
    assert!(!takes(&[inside, record(&[0xc0, 39], 1, &[10, 0, 0, 1])]));
}

#[test]
fn a_name_follows_no_more_than_126_pointers() {
    let chain = |pointers: u16| {
        let mut data = vec![0xc0, 12];
        for step in 0..pointers - 2 {
            data.extend((0xc000 + 39 + 2 * step).to_be_bytes());
        }
        let last = (0xc000 + 39 + 2 * (pointers - 2)).to_be_bytes();
        takes(&[record(&[0xc0, 12], 10, &data), record(&last, 1, &[10; 4])])
    };
    assert!(chain(126));
    assert!(!chain(127));
}

#[test]
fn the_data_of_every_type_of_rfc_1035_with_a_format_is_checked() {
    let name = [0xc0, 12];
    for one_name in [2, 3, 4, 5, 7, 8, 9, 12, 39] {
        assert!(takes(&[record(&name, one_name, &name)]), "{one_name}");
        assert!(
            !takes(&[record(&name, one_name, b"\xc0\x0c.")]),
            "{one_name}"
        );
    }
    assert!(takes(&[record(&name, 14, &[name, name].concat())]));
    assert!(!takes(&[record(&name, 14, &name)]));
    assert!(takes(&[record(&name, 13, b"\x03PDP\x02TS")]));
    assert!(!takes(&[record(&name, 13, b"\x03PDP\x02TS\x00")]));
    for only_asked in [0, 251, 252, 253, 254, 255] {
        assert!(!takes(&[record(&name, only_asked, &[1])]), "{only_asked}");
    }
    assert!(takes(&[record(&name, 99, &[])]), "RFC 3597: any octets");
}

#[test]
fn a_transaction_signature_is_left_out_and_stands_nowhere_but_at_the_end() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let records = [a_record(30, 1), record(&[0], 250, &[0; 17])].concat();
    let mut said = response(&asked, 0x8180, [1, 0, 1], &records);
    let (response_, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(response_.counts, [1, 0, 0]);
    assert_eq!(response_.answer(&said, &offsets).records.len(), 16);
    assert!(!takes(&[record(&[0], 250, &[0; 17])]));
}

#[test]
fn a_failure_without_a_question_brings_no_records() {
    let asked = query("a.example", 1, 0x0100, &[]);
    // The second record points at the first: behind a question it would point elsewhere.
    let mut said = vec![0xab, 0xcd, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 2];
    said.extend(record(b"\x01x\x00", 1, &[10; 4]));
    said.extend(record(&[0xc0, 12], 1, &[10; 4]));
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!((response.rcode, response.counts), (rcode::SERVFAIL, [0; 3]));
    let answer = response.answer(&said, &offsets);
    assert_eq!((answer.records.len(), answer.ttl_offsets.len()), (0, 0));
}

#[test]
fn an_extended_rcode_of_the_upstream_never_reads_as_an_answer() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let badvers = [0, 0, 41, 4, 0xd0, 1, 0, 0, 0, 0, 0];
    let mut said = response(&asked, 0x8180, [0, 0, 1], &badvers);
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(response.rcode, rcode::BADVERS);
    assert_eq!(
        response.answer(&said, &offsets).flags.rcode(),
        rcode::SERVFAIL
    );
}

/// An answer of so many address records behind an alias, ready to take turns.
fn alias_and_addresses(count: u8, with_additional: bool) -> Vec<Vec<u8>> {
    let target = b"\x03web\x07example\x00";
    // Behind the frame of the alias at octet 27: its data is what the addresses' owner points to.
    let mut records = vec![record(&[0xc0, 12], 5, target)];
    let owner = [0xc0, 27 + 12];
    records.extend((0..count).map(|last| record(&owner, 1, &[10, 0, 0, last])));
    if with_additional {
        records.push(record(&owner, 28, &[0xfd; 16]));
    }
    records
}

#[test]
fn addresses_take_turns_whole_and_nothing_else_moves() {
    let asked = query("a.example", 1, 0x0100, &[]);
    for with_additional in [false, true] {
        let records = alias_and_addresses(5, with_additional);
        let additionals = u16::from(with_additional);
        let mut said = response(&asked, 0x8180, [6, 0, additionals], &records.concat());
        let (parsed, offsets) = read(&mut said, &asked).unwrap();
        let mut answer = parsed.answer(&said, &offsets);
        answer.turns = answer.find_turns();
        assert_eq!((answer.turns.count, answer.turns.each), (5, 16));
        for id in 0..12_u16 {
            let mut buffer = [0; 600];
            buffer[..asked.len()].copy_from_slice(&asked);
            buffer[..2].copy_from_slice(&id.to_be_bytes());
            let (query, _) = parse(&buffer[..asked.len()]);
            // With room for everything, and for the alias and three addresses.
            for (limit, fit) in [(600, 5), (asked.len() + records[0].len() + 3 * 16, 3)] {
                let shape = Shape { limit, ..UDP };
                let length = reply::answer(&mut buffer, &query, &answer, &shape);
                let mut turned = records.clone();
                turned[1..6].rotate_left(usize::from(id % 5));
                let kept = if fit == 5 { turned.len() } else { 1 + fit };
                assert_eq!(
                    buffer[asked.len()..length],
                    turned[..kept].concat(),
                    "{id} {fit}"
                );
            }
        }
    }
}

#[test]
fn only_records_that_are_alike_take_turns() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let turns = |records: &[Vec<u8>]| {
        let count = u16::try_from(records.len()).unwrap();
        let mut said = response(&asked, 0x8180, [count, 0, 0], &records.concat());
        let (parsed, offsets) = read(&mut said, &asked).unwrap();
        parsed.answer(&said, &offsets).find_turns().count
    };
    let at = |owner: &[u8], last| record(owner, 1, &[10, 0, 0, last]);
    let own = [0xc0, 12];
    assert_eq!(turns(&[]), 0);
    assert_eq!(turns(&[at(&own, 1)]), 0);
    assert_eq!(turns(&[at(&own, 1), at(&own, 2)]), 2);
    // Names in full may be pointed into; other owners are other sets; a signature must stay behind.
    let full = b"\x01a\x07example\x00";
    assert_eq!(turns(&[at(full, 1), at(full, 2)]), 0);
    assert_eq!(turns(&[at(&own, 1), at(&[0xc0, 14], 2)]), 0);
    let signature = record(&own, 46, &[0; 18]);
    assert_eq!(turns(&[at(&own, 1), at(&own, 2), signature]), 0);
    let text = record(&own, 16, b"\x03abc");
    assert_eq!(turns(&[text.clone(), text]), 0);
}

#[test]
fn the_chain_of_an_answer_is_followed_from_its_question() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let chain = |records: &[Vec<u8>]| {
        let count = u16::try_from(records.len()).unwrap();
        let mut said = response(&asked, 0x8180, [count, 0, 0], &records.concat());
        read(&mut said, &asked).unwrap().0.chain
    };
    let own = &[0xc0, 12][..];
    let (b, c) = (&b"\x01B\x07example\x00"[..], &b"\x01c\x07example\x00"[..]);
    let alias = |owner: &[u8], target: &[u8]| record(owner, 5, target);
    let address = |owner: &[u8]| record(owner, 1, &[10, 0, 0, 1]);
    assert_eq!(chain(&[]), Chain::Sound);
    assert_eq!(chain(&[address(own)]), Chain::Sound);
    assert_eq!(chain(&[alias(own, b), address(b)]), Chain::Sound);
    assert_eq!(
        chain(&[address(c), alias(b, c), alias(own, b)]),
        Chain::Sound
    );
    assert_eq!(chain(&[address(b)]), Chain::Outside);
    assert_eq!(chain(&[alias(b, c), address(own)]), Chain::Outside);
    assert_eq!(chain(&[alias(own, own)]), Chain::Loop);
    assert_eq!(chain(&[alias(own, b), alias(b, own)]), Chain::Loop);
    let whole = record(&[0xc0, 14], 39, b"\x03new\x00");
    assert_eq!(chain(&[whole, alias(own, b), address(b)]), Chain::Sound);
    // On and on.
    let name = |number: u8| [&[1, b'k' + number][..], &[7], b"example\0"].concat();
    let mut long = vec![alias(own, &name(0))];
    long.extend((0..16).map(|number| alias(&name(number), &name(number + 1))));
    assert_eq!(chain(&long), Chain::Loop);
    assert_eq!(chain(&long[..16]), Chain::Sound);
}

#[test]
fn an_soa_in_full_says_what_it_said_before() {
    let asked = query("no.example", 1, 0x0100, &[]);
    // The owner is the question's parent, the mailbox lies in the primary's zone.
    let data = [
        &b"\x02ns\xc0\x0f\x04host\xc0\x0f"[..],
        &[7; 16],
        &[0, 0, 0, 9],
    ]
    .concat();
    let soa = record(&[0xc0, 15], 6, &data);
    let mut said = response(&asked, 0x8183, [0, 1, 0], &soa);
    let (parsed, _) = read(&mut said, &asked).unwrap();
    let (octets, length, ttl_at) = parsed.plain_soa(&said).unwrap();
    let names = b"\x02ns\x07example\x00\x04host\x07example\x00";
    let mut wanted = record(
        b"\x07example\x00",
        6,
        &[&names[..], &[7; 16], &[0, 0, 0, 9]].concat(),
    );
    assert_eq!(octets[..length], wanted);
    assert_eq!(wanted.drain(ttl_at..ttl_at + 4).as_slice(), [0, 0, 1, 44]);
}

#[test]
fn a_stale_answer_has_one_ttl_and_says_what_it_is() {
    let opt = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0];
    let asked = query("a.example", 1, 0x0100, &opt);
    let records = [a_record(300, 1), a_record(5, 2)].concat();
    let mut said = response(&asked, 0x8180, [2, 0, 0], &records);
    said[10..12].fill(0);
    let (parsed, offsets) = read(&mut said, &asked).unwrap();
    for (standing, rcode, code) in [
        (Standing::Stale, rcode::NOERROR, Some(3)),
        (Standing::Stale, rcode::NXDOMAIN, Some(19)),
        (Standing::Failure, rcode::SERVFAIL, Some(13)),
        (Standing::PassedOn, rcode::REFUSED, Some(0)),
        (Standing::Fresh, rcode::NXDOMAIN, None),
    ] {
        let answer = Answer {
            flags: Flags(rcode),
            age: 1000,
            standing,
            ..parsed.answer(&said, &offsets)
        };
        let mut buffer = [0; 600];
        buffer[..asked.len()].copy_from_slice(&asked);
        let (query, _) = parse(&asked);
        let length = reply::answer(&mut buffer, &query, &answer, &UDP);
        let end = query.question_end + records.len();
        let ttls = [6, 22].map(|at| buffer[query.question_end + at + 3]);
        let is_stale = standing == Standing::Stale;
        assert_eq!(ttls, if is_stale { [30, 30] } else { [0, 0] });
        // Option code 15 and its first two octets (RFC 8914 section 2).
        let told = (length > end + 11).then(|| buffer[end + 16]);
        assert_eq!(told, code, "{standing:?} {rcode}");
    }
}

/// `name 30 IN rtype data`, the name in full.
fn in_full(name: &[u8], rtype: u8, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).unwrap();
    let frame = [0, rtype, 0, 1, 0, 0, 0, 30, 0, length];
    [name, &frame, data].concat()
}

#[test]
fn names_in_full_become_pointers_at_the_question_and_at_targets() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let question = asked.len();
    let records = [
        in_full(b"\x01A\x07eXample\0", 5, b"\x01b\x07example\0"),
        in_full(b"\x01b\x07example\0", 1, &[10, 0, 0, 1]),
        in_full(b"\x01b\x07example\0", 1, &[10, 0, 0, 2]),
        in_full(b"\x01c\x07example\0", 1, &[10, 0, 0, 3]),
    ];
    let mut said = response(&asked, 0x8180, [3, 0, 1], &records.concat());
    let (mut response, mut offsets) = read(&mut said, &asked).unwrap();
    response.shorten(&mut said, &mut offsets);
    let answer = response.answer(&said, &offsets);
    let target = u8::try_from(question + 12).unwrap();
    let expected = [
        in_full(&[0xc0, 12], 5, b"\x01b\x07example\0"),
        in_full(&[0xc0, target], 1, &[10, 0, 0, 1]),
        in_full(&[0xc0, target], 1, &[10, 0, 0, 2]),
        in_full(b"\x01c\x07example\0", 1, &[10, 0, 0, 3]),
    ];
    assert_eq!(answer.records, expected.concat());
    assert_eq!(answer.counts, [3, 0, 1]);
    let ttls = answer.offsets().map(|at| &answer.records[at..at + 4]);
    assert!(ttls.eq([[0, 0, 0, 30]; 4]));
    assert_eq!(answer.find_turns().count, 2);
}

#[test]
fn what_has_a_pointer_or_may_have_one_stays_as_it_is() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let own = in_full(b"\x01a\x07example\0", 1, &[10, 0, 0, 1]);
    for other in [
        a_record(30, 2),
        in_full(b"\x01b\x07example\0", 5, &[0xc0, 12]),
        // AFSDB has a name that its server may have compressed, RFC 3597 section 4.
        in_full(b"\x01b\x07example\0", 18, &[0, 1, 0xc0, 12]),
    ] {
        let records = [own.clone(), other].concat();
        let mut said = response(&asked, 0x8180, [1, 0, 1], &records);
        let (mut response, mut offsets) = read(&mut said, &asked).unwrap();
        response.shorten(&mut said, &mut offsets);
        assert_eq!(response.answer(&said, &offsets).records, records);
    }
}

#[test]
fn an_soa_is_still_found_behind_shortened_names() {
    let asked = query("a.example", 28, 0x0100, &[]);
    let numbers = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5];
    let names: &[u8] = b"\x01n\x07example\0\x01h\x07example\0";
    let soa = in_full(b"\x01a\x07example\0", 6, &[names, &numbers].concat());
    let ns = in_full(b"\x01a\x07example\0", 2, b"\x01n\x07example\0");
    let mut said = response(&asked, 0x8180, [0, 2, 0], &[ns, soa.clone()].concat());
    let (mut response, mut offsets) = read(&mut said, &asked).unwrap();
    let before = response.plain_soa(&said).unwrap();
    response.shorten(&mut said, &mut offsets);
    assert_eq!(response.plain_soa(&said).unwrap(), before);
    assert_eq!(before.0[..before.1], soa[..]);
}
