// SPDX-License-Identifier: Apache-2.0
//! A transaction: all of its messages take effect, or none does.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::{Answer, Connection, HEADER_BYTES};
use crate::error::Error;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` of include/uapi/linux/netfilter/nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFNL_SUBSYS_NFTABLES`: the upper octet of the type of its messages, and the batch's resource.
pub(super) const NF_TABLES: u8 = 10;

/// `NFT_MSG_DELRULE`.
const DELETE_RULE: u8 = 8;

/// `NFPROTO_INET`, the family of our tables.
pub(super) const INET: u8 = 1;

/// A transaction that is being written. Its octets are kept when it is cleared, for the next.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins.
    begins: Vec<usize>,
    /// What each message attempts, in the words of an error.
    steps: Vec<String>,
}

impl Batch {
    /// Adds a message; `step` says what it attempts.
    pub(crate) fn push(&mut self, message: NfTablesMessage, flags: u16, step: String) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let kind = u8::from(message.message_type());
        let message = NetfilterMessage::new(header, message);
        let length = <NetfilterMessage as Emitable>::buffer_len(&message);
        self.raw(kind, flags, |bytes| {
            let begin = bytes.len();
            bytes.resize(begin + length, 0);
            message.emit(&mut bytes[begin..]);
        });
        self.steps.push(step);
    }

    /// Adds a message that deletes all rules of a chain of ours.
    pub(crate) fn flush_chain(&mut self, table: &str, chain: &str, step: String) {
        self.delete_rules(INET, [table, chain], None, step);
    }

    /// Adds a message that deletes a rule of another program's table.
    pub(crate) fn delete_rule(&mut self, family: u8, names: [&str; 2], handle: u64, step: String) {
        self.delete_rules(family, names, Some(handle), step);
    }

    fn delete_rules(
        &mut self,
        family: u8,
        [table, chain]: [&str; 2],
        handle: Option<u64>,
        step: String,
    ) {
        self.raw(DELETE_RULE, 0, |bytes| {
            bytes.extend([family, 0, 0, 0]);
            // `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`, `NFTA_RULE_HANDLE`.
            for (kind, text) in [(1_u16, table), (2, chain)] {
                let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
                bytes.extend(length.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(text.as_bytes());
                bytes.push(0);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            if let Some(handle) = handle {
                bytes.extend(12_u16.to_ne_bytes());
                bytes.extend(3_u16.to_ne_bytes());
                bytes.extend(handle.to_be_bytes());
            }
        });
        self.steps.push(step);
    }

    /// Adds a message of nf_tables whose octets behind the netlink header `write` appends.
    pub(super) fn raw(&mut self, kind: u8, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let kind = u16::from_be_bytes([NF_TABLES, kind]);
        self.message(kind, flags, write);
    }

    /// Forgets the messages, not the room for them.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.begins.clear();
        self.steps.clear();
    }

    /// The types of its messages of nf_tables.
    #[cfg(test)]
    pub(crate) fn kinds(&self) -> Vec<u8> {
        super::messages(&self.bytes)
            .filter_map(|message| message.unwrap().inet())
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    fn message(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        if self.begins.is_empty() {
            self.begins.push(0);
            self.control(BATCH_BEGIN);
        }
        self.begins.push(self.bytes.len());
        self.header(kind, flags, write);
    }

    fn control(&mut self, kind: u16) {
        self.header(kind, 0, |bytes| bytes.extend([0, 0, 0, NF_TABLES]));
    }

    fn header(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend([0; HEADER_BYTES]);
        write(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
        let aligned = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(aligned, 0);
        let header = &mut self.bytes[begin..];
        header[..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    }

    /// The step that the message with this place attempts; the first is the batch itself.
    fn step(&self, place: usize) -> Option<&String> {
        match place {
            0 => self.steps.first(),
            place => self.steps.get(place - 1).or_else(|| self.steps.last()),
        }
    }
}

impl Connection {
    /// Carries out a transaction.
    ///
    /// # Errors
    /// The first step that the kernel refused, with its answer. Then nothing has been changed.
    pub(crate) fn commit(&mut self, batch: &mut Batch, what: &str) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let last = batch.begins.last().copied().unwrap_or_default();
        // An error is always told; that all went well, for the last message alone.
        let flags = u16::from_ne_bytes([batch.bytes[last + 6], batch.bytes[last + 7]]) | NLM_F_ACK;
        batch.bytes[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        let first = self.next_sequence();
        for place in 0..batch.begins.len() {
            let sequence = if place == 0 {
                first
            } else {
                self.next_sequence()
            };
            let at = batch.begins[place] + 8;
            batch.bytes[at..at + 4].copy_from_slice(&sequence.to_ne_bytes());
        }
        let end = self.sequence;
        batch.control(BATCH_END);
        self.send(&batch.bytes, what)?;

        let mut refused = None;
        let mut is_done = false;
        let number = batch.begins.len();
        let is_short = self.answers(what, |sequence, _, answer| {
            match answer {
                Answer::Done => is_done |= sequence == end,
                Answer::Object(_) => {}
                Answer::Refused(error, extended) => {
                    let place = usize::try_from(sequence.wrapping_sub(first));
                    if let Some(place) = place.ok().filter(|&place| place < number) {
                        refused.get_or_insert((place, error, extended));
                    }
                }
            }
            Ok(())
        })?;
        if let Some((place, error, extended)) = refused {
            let step = batch.step(place).cloned();
            return Err(Error::refused(
                step.unwrap_or_else(|| what.to_owned()),
                error,
                extended,
            ));
        }
        if is_done && !is_short {
            return Ok(());
        }
        Err(Error::Reply {
            step: what.to_owned(),
            what: "nothing was said about a transaction",
        })
    }
}
