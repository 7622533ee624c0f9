// SPDX-License-Identifier: Apache-2.0
//! The largest messages that a stranger can send cost bounded work: loops, chains of pointers,
//! thousands of records. What is made of them is checked beside the time; the bound is generous
//! and tells steps that grow with the message from steps that grow with its square.
#![expect(
    clippy::disallowed_methods,
    reason = "the time is what is tested, on the clock of the test alone"
)]

use std::time::{Duration, Instant};

use nodens::wire::MAX_MESSAGE;
use nodens::wire::fault::Fault;
use nodens::wire::query::Query;
use nodens::wire::question::Question;
use nodens::wire::response::{Expected, Lie, MAX_OFFSETS, Response};

/// For one message, on a busy machine, without optimisation. Following all pointers of
/// [`chains`] would take some 70 million steps; 126 in a name make it about one million.
const BOUND: Duration = Duration::from_millis(500);

/// `a.`, type A, class IN.
const QUESTION: &[u8] = b"\x01a\x00\x00\x01\x00\x01";
/// Where the records begin.
const RECORDS: usize = 12 + QUESTION.len();

fn message(flags: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd];
    for word in [flags, 1].into_iter().chain(counts) {
        message.extend(word.to_be_bytes());
    }
    message.extend(QUESTION);
    message.extend(records);
    message.truncate(MAX_MESSAGE);
    message
}

fn pointer(target: usize) -> [u8; 2] {
    (0xc000 | u16::try_from(target).expect("14 bits")).to_be_bytes()
}

fn record(owner: [u8; 2], rtype: u16, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend(rtype.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 30]);
    record.extend(u16::try_from(data.len()).expect("16 bits").to_be_bytes());
    record.extend(data);
    record
}

/// Parses a response within the bound.
fn parse(mut message: Vec<u8>) -> Result<Response, Lie> {
    let mut offsets = vec![0; MAX_OFFSETS];
    let expected = Expected {
        id: 0xabcd,
        question: QUESTION,
    };
    let start = Instant::now();
    let response = Response::parse(&mut message, &expected, &mut offsets);
    let taken = start.elapsed();
    assert!(taken < BOUND, "{taken:?} for {} octets", message.len());
    response
}

/// Parses a query within the bound.
fn fault(message: &[u8]) -> Option<Fault> {
    let start = Instant::now();
    let query = Query::parse(message, &mut Question::new());
    let taken = start.elapsed();
    assert!(taken < BOUND, "{taken:?} for {} octets", message.len());
    query.err().map(|rejection| rejection.fault)
}

/// A chain of as many pointers as 14 bits can reach, then records whose three names begin at its
/// `link`th pointer, up to the largest message. Returns their number with the octets.
fn chains(link: usize) -> (u16, Vec<u8>) {
    let data_at = RECORDS + 12;
    let links = (0x3fff - data_at) / 2;
    let mut data = pointer(12).to_vec();
    for step in 0..links {
        data.extend(pointer(data_at + 2 * step));
    }
    // Type 10, NULL: any octets.
    let mut records = record(pointer(12), 10, &data);
    let name = pointer(data_at + 2 * link);
    let minfo = record(name, 14, &[name, name].concat());
    let count = (MAX_MESSAGE - RECORDS - records.len()) / minfo.len();
    records.extend(minfo.repeat(count));
    (u16::try_from(count + 1).expect("16 bits"), records)
}

#[test]
fn octets_of_pointers_alone_are_refused_at_once() {
    for target in [0, 12, RECORDS, RECORDS + 2, 0x3fff] {
        let loops = pointer(target).repeat(MAX_MESSAGE / 2);
        let said = message(0x8180, [u16::MAX; 3], &loops);
        assert_eq!(parse(said), Err(Lie::Malformed), "{target}");
        let asked = message(0x0100, [0, 0, 2], &loops);
        assert_eq!(fault(&asked), Some(Fault::FormErr), "{target}");
        let asked = [&asked[..12], &loops].concat();
        assert_eq!(fault(&asked), Some(Fault::FormErr), "{target}");
    }
}

#[test]
fn chains_of_pointers_are_followed_so_far_and_no_further() {
    let (count, records) = chains(124);
    let response = parse(message(0x8180, [count, 0, 0], &records)).unwrap();
    assert_eq!(response.counts, [count, 0, 0]);
    let (count, records) = chains(8_000);
    let said = message(0x8180, [count, 0, 0], &records);
    assert_eq!(parse(said), Err(Lie::Malformed));
}

#[test]
fn six_thousand_records_are_read_in_one_pass() {
    // The smallest records: root, type 99, no data.
    let smallest = [0, 0, 99, 0, 1, 0, 0, 0, 30, 0, 0];
    let count = (MAX_MESSAGE - RECORDS) / smallest.len();
    assert!(count > 5_900);
    let records = smallest.repeat(count);
    let count = u16::try_from(count).unwrap();
    let response = parse(message(0x8180, [0, 0, count], &records)).unwrap();
    assert_eq!((response.counts, response.min_ttl), ([0, 0, count], None));
    // One more than there are.
    let said = message(0x8180, [0, 0, count + 1], &records);
    assert_eq!(parse(said), Err(Lie::Malformed));
    // A client is not heard out.
    let asked = message(0x0100, [0, 0, count], &records);
    assert_eq!(fault(&asked), Some(Fault::FormErr));
}

#[test]
fn counts_without_records_are_refused_at_once() {
    let said = message(0x8180, [u16::MAX; 3], &[]);
    assert_eq!(parse(said), Err(Lie::Malformed));
    assert_eq!(
        fault(&message(0x0100, [0, 0, 2], &[])),
        Some(Fault::FormErr)
    );
}

#[test]
fn names_that_end_close_to_ttls_are_looked_up_not_searched_for() {
    // Every record points at the data of the last one that 14 bits reach, behind a thousand TTLs.
    let a = record(pointer(12), 10, b"\x01x\x00\x00");
    let reachable = (0x3fff - RECORDS) / a.len();
    let mut records = a.repeat(reachable);
    let name = pointer(RECORDS + (reachable - 1) * a.len() + 12);
    let minfo = record(name, 14, &[name, name].concat());
    let count = (MAX_MESSAGE - RECORDS - records.len()) / minfo.len();
    records.extend(minfo.repeat(count));
    let count = u16::try_from(reachable + count).unwrap();
    let response = parse(message(0x8180, [count, 0, 0], &records)).unwrap();
    assert_eq!(response.min_ttl, Some(30));
}

#[test]
fn the_longest_message_of_options_and_of_texts_is_read_in_one_pass() {
    let room = MAX_MESSAGE - RECORDS - 12;
    let texts = record(pointer(12), 16, &vec![0; room]);
    assert!(parse(message(0x8180, [1, 0, 0], &texts)).is_ok());
    let mut opt = vec![0, 0, 41, 4, 208, 0, 0, 0, 0];
    let options = vec![0; (room - 4) / 4 * 4];
    opt.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    opt.extend(options);
    assert!(parse(message(0x8180, [0, 0, 1], &opt)).is_ok());
    assert_eq!(fault(&message(0x0100, [0, 0, 1], &opt)), None);
}

#[test]
fn more_octets_than_a_message_can_have_are_no_response() {
    let smallest = [0, 0, 99, 0, 1, 0, 0, 0, 30, 0, 0];
    let mut said = message(0x8180, [u16::MAX; 3], &[]);
    said.extend(smallest.repeat(3 * usize::from(u16::MAX)));
    assert_eq!(parse(said), Err(Lie::Malformed));
}
