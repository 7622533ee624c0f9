// SPDX-License-Identifier: Apache-2.0
//! Reads tables of family `inet` back from the kernel, one table at a time: what belongs to others
//! is neither asked for nor looked at, wherever the kernel can leave it out.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NlaBuffer, parse_string, parse_u32_be, parse_u64_be,
};
use rustix::io::Errno;

use super::batch::{INET, NF_TABLES};
use super::{Answer, Connection, DUMP_INTERRUPTED, HEADER_BYTES, TRIES, attributes};
use crate::error::Error;
use crate::rules::compare::Meaning;

// Types of messages and attributes, of include/uapi/linux/netfilter/nf_tables.h.
const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_GENERATION: u8 = 16;

const GENERATION_ID: u16 = 1;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const TABLE_OWNER: u16 = 7;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_TIMEOUT: u16 = 11;
const DESCRIPTION_SIZE: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// The flag `NFT_TABLE_F_OWNER`.
const FLAG_OWNER: u32 = 2;

/// A table, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundTable {
    /// The netlink port that owns it.
    pub(crate) owner: Option<u32>,
    /// Chains, sets and other objects in it.
    pub(crate) number: u32,
}

/// A chain, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundChain {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Where it is hooked in, and in what order; none is not called by the kernel itself.
    pub(crate) hook: Option<(u32, i32)>,
    pub(crate) policy: Option<u32>,
}

/// A set, as it is, without its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundSet {
    pub(crate) name: String,
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_bytes: u32,
    pub(crate) timeout_ms: u64,
    pub(crate) size: u32,
}

/// A rule, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundRule {
    pub(crate) chain: String,
    pub(crate) meaning: Meaning,
}

impl Connection {
    /// The number of the last transaction, of anybody's. Takes no lock in the kernel.
    pub(crate) fn generation(&mut self) -> Result<u32, Error> {
        let step = "ask for the generation of nf_tables";
        let found = self
            .ask(GET_GENERATION, &[], step)
            .map_err(no_nf_tables)?
            .unwrap_or_default();
        let id = attributes(&found).find(|one| one.kind() == GENERATION_ID);
        id.map(|id| number(&id)).ok_or_else(|| Error::Reply {
            step: step.to_owned(),
            what: "no generation",
        })
    }

    /// The table of that name, if there is one.
    pub(crate) fn table(&mut self, name: &str) -> Result<Option<FoundTable>, Error> {
        let step = format!("read table inet {name}");
        let found = self
            .ask(GET_TABLE, &[(TABLE_NAME, name)], &step)
            .map_err(no_nf_tables)?;
        Ok(found.map(|bytes| {
            let mut table = FoundTable {
                owner: None,
                number: 0,
            };
            let (mut flags, mut port) = (0, None);
            for attribute in attributes(&bytes) {
                match attribute.kind() {
                    TABLE_FLAGS => flags = number(&attribute),
                    TABLE_USE => table.number = number(&attribute),
                    TABLE_OWNER => port = Some(number(&attribute)),
                    _ => {}
                }
            }
            if flags & FLAG_OWNER != 0 {
                table.owner = Some(port.unwrap_or_default());
            }
            table
        }))
    }

    /// The chain of that name in that table, if there is one.
    pub(crate) fn chain(&mut self, table: &str, name: &str) -> Result<Option<FoundChain>, Error> {
        let step = format!("read chain {name} of table inet {table}");
        let found = self.ask(
            GET_CHAIN,
            &[(CHAIN_TABLE, table), (CHAIN_NAME, name)],
            &step,
        )?;
        Ok(found.map(|bytes| chain(&bytes)))
    }

    /// Every chain of the table. The kernel tells those of all tables.
    pub(crate) fn chains(&mut self, table: &str) -> Result<Vec<FoundChain>, Error> {
        let step = format!("read the chains of table inet {table}");
        let is_of_table = |bytes: &[u8]| {
            attributes(bytes).any(|one| one.kind() == CHAIN_TABLE && text(&one) == table)
        };
        let found = self.list(GET_CHAIN, &[], &step, is_of_table)?;
        Ok(found.iter().map(|bytes| chain(bytes)).collect())
    }

    /// Every set of the table, those without a name too.
    pub(crate) fn sets(&mut self, table: &str) -> Result<Vec<FoundSet>, Error> {
        let step = format!("read the sets of table inet {table}");
        let found = self.list(GET_SET, &[(SET_TABLE, table)], &step, |_| true)?;
        Ok(found.iter().map(|bytes| set(bytes)).collect())
    }

    /// Every rule of the table, chain by chain, in their order.
    pub(crate) fn rules(&mut self, table: &str) -> Result<Vec<FoundRule>, Error> {
        let step = format!("read the rules of table inet {table}");
        let found = self.list(GET_RULE, &[(RULE_TABLE, table)], &step, |_| true)?;
        Ok(found.iter().map(|bytes| rule(bytes)).collect())
    }

    /// Asks for one object; `None` where there is none.
    fn ask(
        &mut self,
        kind: u8,
        names: &[(u16, &str)],
        step: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        let asked = self.question(kind, NLM_F_ACK, names, step)?;
        let mut found = None;
        let mut refused = None;
        let is_short = self.answers(step, |sequence, _, answer| {
            match answer {
                _ if sequence != asked => {}
                Answer::Object(bytes) => found = Some(bytes.to_vec()),
                Answer::Done => {}
                Answer::Refused(error, extended) => refused = Some((error, extended)),
            }
            Ok(())
        })?;
        match refused {
            Some((error, _)) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                Ok(None)
            }
            Some((error, extended)) => Err(Error::refused(step.to_owned(), error, extended)),
            None if found.is_none() || is_short => Err(Error::Reply {
                step: step.to_owned(),
                what: "nothing was said",
            }),
            None => Ok(found),
        }
    }

    /// Asks for all objects that `is_wanted`, anew when the ruleset changes meanwhile.
    fn list(
        &mut self,
        kind: u8,
        names: &[(u16, &str)],
        step: &str,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..TRIES {
            let asked = self.question(kind, NLM_F_DUMP, names, step)?;
            let mut found = Vec::new();
            let mut refused = None;
            let mut is_whole = false;
            let mut is_interrupted = false;
            let is_short = self.answers(step, |sequence, flags, answer| {
                if sequence != asked {
                    return Ok(());
                }
                is_interrupted |= flags & DUMP_INTERRUPTED != 0;
                match answer {
                    Answer::Object(bytes) if is_wanted(bytes) => found.push(bytes.to_vec()),
                    Answer::Object(_) => {}
                    Answer::Done => is_whole = true,
                    Answer::Refused(error, extended) => refused = Some((error, extended)),
                }
                Ok(())
            })?;
            match refused {
                Some((error, _)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Some((error, _)) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                    return Ok(Vec::new());
                }
                Some((error, extended)) => {
                    return Err(Error::refused(step.to_owned(), error, extended));
                }
                None if is_whole && !is_interrupted && !is_short => return Ok(found),
                None => {}
            }
        }
        Err(Error::Busy {
            step: step.to_owned(),
            tries: TRIES,
        })
    }

    fn question(
        &mut self,
        kind: u8,
        flags: u16,
        names: &[(u16, &str)],
        step: &str,
    ) -> Result<u32, Error> {
        let sequence = self.next_sequence();
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend([INET, 0, 0, 0]);
        for (kind, name) in names {
            super::element::text(&mut bytes, *kind, name);
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&u16::from_be_bytes([NF_TABLES, kind]).to_ne_bytes());
        let flags = flags | netlink_packet_core::NLM_F_REQUEST;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&bytes, step)?;
        Ok(sequence)
    }
}

/// What everything begins with is not understood: nobody is there who could (nfnetlink_rcv_msg).
fn no_nf_tables(error: Error) -> Error {
    let unknown = [Errno::INVAL, Errno::OPNOTSUPP].map(|errno| Some(errno.raw_os_error()));
    match error {
        Error::Refused { step, source, .. } if unknown.contains(&source.raw_os_error()) => {
            Error::NoNfTables { step, source }
        }
        error => error,
    }
}

fn chain(bytes: &[u8]) -> FoundChain {
    let mut found = FoundChain::default();
    for attribute in attributes(bytes) {
        match attribute.kind() {
            CHAIN_NAME => found.name = text(&attribute),
            CHAIN_HOOK => {
                let mut hook = (0, 0);
                for inner in attributes(attribute.value()) {
                    match inner.kind() {
                        HOOK_NUMBER => hook.0 = number(&inner),
                        HOOK_PRIORITY => hook.1 = number(&inner).cast_signed(),
                        _ => {}
                    }
                }
                found.hook = Some(hook);
            }
            CHAIN_POLICY => found.policy = Some(number(&attribute)),
            CHAIN_TYPE => found.kind = text(&attribute),
            _ => {}
        }
    }
    found
}

fn set(bytes: &[u8]) -> FoundSet {
    let mut found = FoundSet::default();
    for attribute in attributes(bytes) {
        match attribute.kind() {
            SET_NAME => found.name = text(&attribute),
            SET_FLAGS => found.flags = number(&attribute),
            SET_KEY_TYPE => found.key_type = number(&attribute),
            SET_KEY_LENGTH => found.key_bytes = number(&attribute),
            SET_DESCRIPTION => {
                let mut description = attributes(attribute.value());
                let size = description.find(|inner| inner.kind() == DESCRIPTION_SIZE);
                found.size = size.as_ref().map_or(0, number);
            }
            SET_TIMEOUT => found.timeout_ms = parse_u64_be(attribute.value()).unwrap_or_default(),
            _ => {}
        }
    }
    found
}

fn rule(bytes: &[u8]) -> FoundRule {
    let mut chain = String::new();
    let mut meaning = Meaning::read(&[]);
    for attribute in attributes(bytes) {
        match attribute.kind() {
            RULE_CHAIN => chain = text(&attribute),
            RULE_EXPRESSIONS => meaning = Meaning::read(attribute.value()),
            _ => {}
        }
    }
    FoundRule { chain, meaning }
}

fn number(attribute: &NlaBuffer<&[u8]>) -> u32 {
    parse_u32_be(attribute.value()).unwrap_or_default()
}

fn text(attribute: &NlaBuffer<&[u8]>) -> String {
    parse_string(attribute.value()).unwrap_or_default()
}
