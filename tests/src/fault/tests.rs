// SPDX-License-Identifier: Apache-2.0
//! Each fault is the fault it says it is.

use std::io::ErrorKind;
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA};

use super::*;
use crate::client::{Client, Connection, Response};
use crate::query::{OPT, QR, Query, TC};

const NAME: &str = "api.example.com";

fn query() -> Query {
    Query::new(NAME, A).id(0x1234)
}

/// The octets that a reply makes, over UDP.
fn octets(reply: Reply) -> Vec<u8> {
    let fault = Fault::start(self::reply(reply)).unwrap();
    let client = Client::new(fault.addr());
    client.udp_bytes(&query().to_bytes()).unwrap().unwrap()
}

fn outline(reply: Reply) -> Outline {
    Outline::read(&octets(reply)).unwrap()
}

fn connect(fault: &Fault) -> Connection {
    let client = Client::new(fault.addr()).patience(Duration::from_millis(300));
    client.connect().unwrap()
}

fn good() -> Vec<Step> {
    vec![Step::Send(Reply::Address)]
}

#[test]
fn a_good_reply_is_good_over_udp_and_tcp() {
    let fault = Fault::start(reply(Reply::Address)).unwrap();
    let client = Client::new(fault.addr());
    for response in [
        client.udp(&query().edns(1232)).unwrap(),
        client.tcp(&query()).unwrap(),
    ] {
        assert_eq!(response.addresses(), [ADDRESS]);
        assert_eq!(response.ttls(), [30]);
    }
    let v6 = client.query(NAME, AAAA).unwrap();
    assert_eq!(v6.addresses(), [ADDRESS6]);
    let mx = client.query(NAME, 15u16).unwrap();
    assert_eq!((mx.answers.len(), mx.authorities.len()), (0, 1));
    assert_eq!((fault.total(), fault.count(NAME, A)), (4, 2));
    assert_eq!(fault.asked()[1].connection, Some(0));
}

#[test]
fn lies_differ_from_the_truth_in_the_one_place_they_name() {
    assert_eq!(outline(Reply::WrongId).id, !0x1234);
    assert!(!outline(Reply::NoResponse).is_response());
    assert_eq!(outline(Reply::NoResponse).counts, [1, 1, 0, 0]);
    assert_eq!(outline(Reply::NoQuestion).counts, [0, 1, 0, 0]);
    assert!(outline(Reply::WrongQuestion).asks("elsewhere.example.net", A));
    assert!(outline(Reply::WrongType).asks(NAME, AAAA));
    let other_case = outline(Reply::OtherCase);
    assert!(other_case.asks(NAME, A));
    assert_eq!(&other_case.question[..4], b"\x03API");
    assert_eq!(outline(Reply::Unasked).id, 0xbeef);
    assert_eq!(outline(Reply::Truncated).flags & TC, TC);
    for rcode in [1, 2, 4, 5] {
        assert_eq!(outline(Reply::Rcode(rcode)).rcode(), u16::from(rcode));
    }
    let garbage = octets(Reply::Garbage(300));
    assert_eq!((garbage.len(), &garbage[..2]), (300, &[0x12, 0x34][..]));
}

#[test]
fn odd_records_are_there_as_named() {
    let message = |reply| Message::from_vec(&octets(reply)).unwrap();
    let high = message(Reply::AddressWithTtl(0x8000_0001));
    assert_eq!(high.answers[0].ttl, 0x8000_0001);
    let other = message(Reply::OtherName);
    assert_eq!(other.answers[0].name.to_ascii(), "elsewhere.example.net.");
    assert_eq!(message(Reply::Many(500)).answers.len(), 500);
    let middle = message(Reply::OptInTheMiddle);
    assert_eq!(middle.additionals.len(), 2);
    assert!(middle.edns.is_some());
    let bytes = octets(Reply::OptInTheMiddle);
    assert_ne!(bytes[bytes.len() - 15..][..3], OPT.to_be_bytes()[..]);
    Message::from_vec(&octets(Reply::TwoOpts)).unwrap_err();
    let negative = message(Reply::Negative {
        rcode: 3,
        ttl: 9,
        minimum: 4,
    });
    assert_eq!(negative.response_code, ResponseCode::NXDomain);
    assert_eq!(negative.authorities[0].ttl, 9);
}

#[test]
fn compression_loops_fill_a_message_to_its_last_octet() {
    let fault = Fault::start(reply(Reply::CompressionLoops)).unwrap();
    let mut connection = connect(&fault);
    connection.send(&query()).unwrap();
    let bytes = connection.receive().unwrap().unwrap();
    assert_eq!(bytes.len(), 65_535);
    let outline = Outline::read(&bytes).unwrap();
    assert_eq!((outline.id, outline.flags & QR), (0x1234, QR));
    assert!(outline.counts[1] > 4_000);
    Message::from_vec(&bytes).unwrap_err();
    // The frame is whole: the next query on the connection is answered as well.
    connection.send(&query()).unwrap();
    connection.receive().unwrap().unwrap();
}

#[test]
fn a_sequence_goes_on_with_its_last_steps() {
    let fault = Fault::start(sequence([
        vec![],
        vec![Step::Send(Reply::Rcode(2))],
        good(),
    ]));
    let fault = fault.unwrap();
    let client = Client::new(fault.addr()).patience(Duration::from_millis(200));
    let bytes = query().to_bytes();
    assert!(client.udp_bytes(&bytes).unwrap().is_none());
    let rcode = |response: Response| response.rcode();
    assert_eq!(rcode(client.udp(&query()).unwrap()), ResponseCode::ServFail);
    for _ in 0..3 {
        assert_eq!(rcode(client.udp(&query()).unwrap()), ResponseCode::NoError);
    }
}

#[test]
fn connections_end_as_the_steps_say() {
    let fault = Fault::start(sequence([
        vec![Step::Close],
        vec![Step::Reset],
        vec![Step::SendHalf(Reply::Address), Step::Close],
        vec![Step::SendHalf(Reply::Address), Step::Reset],
        vec![Step::Send(Reply::Address), Step::Send(Reply::Address)],
        vec![Step::Send(Reply::Length(1))],
        vec![Step::Send(Reply::Length(-1))],
        vec![],
    ]))
    .unwrap();
    let after_query = || {
        let mut connection = connect(&fault);
        connection.send(&query()).unwrap();
        connection
    };
    assert!(after_query().receive().unwrap().is_none());
    let error = |mut connection: Connection| connection.receive().unwrap_err().kind();
    assert_eq!(error(after_query()), ErrorKind::ConnectionReset);
    assert_eq!(error(after_query()), ErrorKind::UnexpectedEof);
    assert_eq!(error(after_query()), ErrorKind::ConnectionReset);
    let mut twice = after_query();
    assert_eq!(twice.receive().unwrap(), twice.receive().unwrap());
    // One octet too many is announced and never comes; one too few cuts the answer.
    assert_eq!(error(after_query()), ErrorKind::WouldBlock);
    let whole = Reply::Address.message(&fault.asked()[0]).len();
    let cut = after_query().receive().unwrap().unwrap();
    assert_eq!(cut.len(), whole - 1);
    assert_eq!(error(after_query()), ErrorKind::WouldBlock);
    assert_eq!(fault.connections(), 8);
}

#[test]
fn connections_are_met_as_the_greetings_say() {
    let greetings = [
        Greeting::Close,
        Greeting::Reset,
        Greeting::Ignore,
        Greeting::Speak,
        Greeting::Accept,
    ];
    let fault = Fault::builder().greetings(greetings).start(always(good()));
    let fault = fault.unwrap();
    assert!(connect(&fault).receive().unwrap().is_none());
    // The reset may come before the client has seen that it is connected.
    let client = Client::new(fault.addr());
    let error = client.connect().and_then(|mut c| Ok(c.receive()?));
    let error = error.unwrap_err();
    let error = error.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut ignored = connect(&fault);
    ignored.send(&query()).unwrap();
    assert_eq!(ignored.receive().unwrap_err().kind(), ErrorKind::WouldBlock);
    let mut spoken = connect(&fault);
    let unasked = Outline::read(&spoken.receive().unwrap().unwrap()).unwrap();
    assert_eq!(unasked.id, 0xbeef);
    spoken.ask(&query()).unwrap();
    connect(&fault).ask(&query()).unwrap();
    assert_eq!(fault.total(), 2);
}

#[test]
fn answers_come_in_order_unless_told_otherwise() {
    for out_of_order in [false, true] {
        let mut builder = Fault::builder();
        if out_of_order {
            builder = builder.out_of_order();
        }
        let slow_first = sequence([
            vec![
                Step::Wait(Duration::from_millis(100)),
                Step::Send(Reply::Address),
            ],
            good(),
        ]);
        let fault = builder.start(slow_first).unwrap();
        let mut connection = connect(&fault);
        let start = Instant::now();
        connection.send(&query().id(1)).unwrap();
        connection.send(&query().id(2)).unwrap();
        let first = Outline::read(&connection.receive().unwrap().unwrap()).unwrap();
        assert_eq!(first.id, if out_of_order { 2 } else { 1 });
        connection.receive().unwrap().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}

#[test]
fn a_fault_refuses_and_resumes() {
    let mut fault = Fault::start(reply(Reply::Address)).unwrap();
    let client = Client::new(fault.addr());
    fault.refuse().unwrap();
    client.connect().unwrap_err();
    client.udp(&query()).unwrap_err();
    fault.resume().unwrap();
    client.tcp(&query()).unwrap();
    client.udp(&query()).unwrap();
}
