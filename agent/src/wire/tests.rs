// SPDX-License-Identifier: Apache-2.0
//! Messages octet by octet: what is taken, what is refused, what goes back.

use super::answer::Answer;
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
fn a_ttl_above_the_sign_bit_is_zero() {
    let asked = query("a.example", 1, 0x0100, &[]);
    let mut said = response(&asked, 0x8180, [1, 0, 0], &a_record(0x8000_0001, 1));
    let (response, offsets) = read(&mut said, &asked).unwrap();
    assert_eq!(response.min_ttl, Some(0));
    assert_eq!(response.answer(&said, &offsets).records[6..10], [0; 4]);
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
