// SPDX-License-Identifier: Apache-2.0
//! Tests of what is said to the kernel, and of what is made of its answers.

use netlink_packet_core::NLM_F_CREATE;

use super::*;
use crate::netns::{run, within};
use crate::plan::Family;
use crate::rules::{
    Base, Chain, ChainKind, Dynamic, Hook, KeyType, Presence, Rule, Set, Statement, Table, netlink,
};

fn table(rules: Vec<Rule>) -> Table {
    Table {
        name: "nodens-test",
        is_owned: false,
        sets: vec![Set {
            name: "there",
            key: vec![KeyType::Address(Family::V4)],
            dynamic: Some(Dynamic {
                size: 10,
                timeout: std::time::Duration::from_secs(1),
            }),
        }],
        chains: vec![Chain {
            name: "one",
            base: Some(Base {
                kind: ChainKind::Filter,
                hook: Hook::Input,
                priority: 0,
            }),
            rules,
        }],
    }
}

fn batch(table: &Table) -> Batch {
    let mut batch = Batch::default();
    let message = netlink::new_table(table, false);
    batch.push(message, NLM_F_CREATE, "make the table".to_owned());
    let chain = &table.chains[0];
    let message = netlink::new_chain(table, chain);
    batch.push(message, NLM_F_CREATE, "make the chain".to_owned());
    for (number, rule) in chain.rules.iter().enumerate() {
        let message = netlink::new_rule(table, chain, rule);
        batch.push(message, NLM_F_CREATE, format!("add rule {number}"));
    }
    batch
}

fn rule(statements: Vec<Statement>) -> Rule {
    Rule {
        statements,
        why: "a test",
    }
}

#[test]
fn an_error_names_the_step_and_the_transaction_leaves_nothing() {
    within(|| {
        let accept = || rule(vec![Statement::Accept]);
        let missing = rule(vec![Statement::Lookup(Vec::new(), "missing", Presence::In)]);
        let mut connection = Connection::open().unwrap();
        let mut wrong = batch(&table(vec![accept(), missing, accept()]));
        let error = connection.commit(&mut wrong, "try").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("add rule 1: the kernel refused"),
            "{error}"
        );
        let Error::Refused { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
        assert_eq!(run("nft list ruleset"), "");
        // The socket is as good as before.
        connection
            .commit(&mut batch(&table(vec![accept()])), "try")
            .unwrap();
        assert_eq!(connection.rules("nodens-test").unwrap().len(), 1);
        assert_eq!(connection.table("other").unwrap(), None);
        assert_eq!(connection.chain("nodens-test", "other").unwrap(), None);
        assert_eq!(connection.rules("other").unwrap(), []);
    });
}

#[test]
fn a_chain_that_the_kernel_does_not_take_is_named_with_its_answer() {
    within(|| {
        let mut connection = Connection::open().unwrap();
        let mut nat = table(Vec::new());
        // Translation before connection tracking cannot be.
        nat.chains[0].base = Some(Base {
            kind: ChainKind::Nat,
            hook: Hook::Input,
            priority: -300,
        });
        let error = connection.commit(&mut batch(&nat), "try").unwrap_err();
        assert!(error.to_string().starts_with("make the chain: "), "{error}");
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains("not supported"), "{said}");
    });
}

#[test]
fn a_large_transaction_goes_in_one_piece() {
    within(|| {
        let rules = (0..1_000).map(|_| rule(vec![Statement::Accept])).collect();
        let mut connection = Connection::open().unwrap();
        connection.commit(&mut batch(&table(rules)), "try").unwrap();
        assert_eq!(connection.rules("nodens-test").unwrap().len(), 1_000);
    });
}

#[test]
fn the_socket_is_closed_on_exec() {
    let connection = Connection::open().unwrap();
    let flags = rustix::io::fcntl_getfd(&connection).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn octets_that_are_no_messages_are_told_from_those_that_are() {
    let message = |length: u32| {
        let mut bytes = vec![0; 20];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    };
    let count = |bytes: &[u8]| messages(bytes).filter(Result::is_ok).count();
    let is_wrong = |bytes: &[u8]| messages(bytes).any(|message| message.is_err());
    let two = [message(20), message(18)].concat();
    assert_eq!((count(&two), is_wrong(&two)), (2, false));
    assert_eq!((count(&[]), is_wrong(&[])), (0, false));
    for length in [0, 15, 21, u32::MAX] {
        let bytes = [message(20), message(length)].concat();
        assert_eq!((count(&bytes), is_wrong(&bytes)), (1, true), "{length}");
    }
    for length in 1..20 {
        assert!(is_wrong(&two[..length]), "{length}");
    }
}

#[test]
fn an_error_is_read_with_the_refused_message_cut_off_or_not() {
    let text = b"too many";
    let mut attribute = vec![12_u8 + 1, 0, 1, 0];
    attribute.extend(text);
    attribute.extend([0, 0, 0, 0]);
    let refused = |flags: u16, body: usize| {
        let mut payload = (-16_i32).to_ne_bytes().to_vec();
        let mut header = vec![0; HEADER_BYTES + body];
        let length = if flags & NLM_F_CAPPED == 0 {
            HEADER_BYTES + body
        } else {
            // The length is that of the message before it was cut off.
            HEADER_BYTES + 400
        };
        header[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        payload.extend(header);
        payload.extend(&attribute);
        payload
    };
    for (flags, body) in [(NLM_F_CAPPED, 0), (0, 40), (0, 0)] {
        let payload = refused(flags, body);
        let message = Message {
            kind: NLMSG_ERROR,
            flags,
            sequence: 1,
            payload: &payload,
        };
        let Ok(Answer::Refused(error, extended)) = message.answer() else {
            panic!("flags {flags:#x}");
        };
        assert_eq!(error.raw_os_error(), Some(16));
        assert_eq!(extended.as_deref(), Some("too many"), "flags {flags:#x}");
    }
}
