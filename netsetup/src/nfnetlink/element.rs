// SPDX-License-Identifier: Apache-2.0
//! Elements of sets, written straight into a batch: what is sent several times a second makes no
//! tree of attributes first.

use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE};

use super::Batch;
use super::batch::INET;

/// Types of messages and attributes, of include/uapi/linux/netfilter/nf_tables.h.
const NEW_SET_ELEMENT: u8 = 12;
const DELETE_SET_ELEMENT: u8 = 14;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

/// Elements of one set of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a> {
    pub(crate) table: &'a str,
    pub(crate) set: &'a str,
    /// The concatenated keys, each part of which fills up slots of four octets.
    pub(crate) keys: &'a [Vec<u8>],
}

impl Batch {
    /// Puts the elements into their set for so long; those that are there stay as they are.
    pub(crate) fn add(&mut self, elements: Elements<'_>, timeout: Duration) {
        let times = [(ELEMENT_TIMEOUT, timeout)];
        self.elements(NEW_SET_ELEMENT, NLM_F_CREATE, elements, &times);
    }

    /// Puts the elements into their set for so long; for those that are there, that time begins anew.
    /// Kernels before 6.12 leave them as they are.
    pub(crate) fn renew(&mut self, elements: Elements<'_>, timeout: Duration) {
        let times = [(ELEMENT_TIMEOUT, timeout), (ELEMENT_EXPIRATION, timeout)];
        self.elements(NEW_SET_ELEMENT, NLM_F_CREATE, elements, &times);
    }

    /// Takes the elements, each of which must be there, out of their set.
    pub(crate) fn remove(&mut self, elements: Elements<'_>) {
        self.elements(DELETE_SET_ELEMENT, 0, elements, &[]);
    }

    /// Adds a message about elements; `times` are the attributes of each that hold milliseconds.
    fn elements(
        &mut self,
        kind: u8,
        flags: u16,
        elements: Elements<'_>,
        times: &[(u16, Duration)],
    ) {
        self.raw(kind, flags, |bytes| {
            bytes.extend([INET, 0, 0, 0]);
            text(bytes, LIST_TABLE, elements.table);
            text(bytes, LIST_SET, elements.set);
            nested(bytes, LIST_ELEMENTS, |bytes| {
                for key in elements.keys {
                    nested(bytes, LIST_ELEMENT, |bytes| {
                        nested(bytes, ELEMENT_KEY, |bytes| {
                            attribute(bytes, DATA_VALUE, |bytes| bytes.extend(key));
                        });
                        for (kind, time) in times {
                            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                            attribute(bytes, *kind, |bytes| bytes.extend(ms.to_be_bytes()));
                        }
                    });
                }
            });
        });
    }
}

pub(super) fn text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(bytes, kind, |bytes| {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    });
}

fn nested(bytes: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    attribute(bytes, kind | NLA_F_NESTED, write);
}

/// An attribute: its length, its type, what `write` appends, and what fills up four octets.
fn attribute(bytes: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = bytes.len();
    bytes.extend([0, 0]);
    bytes.extend(kind.to_ne_bytes());
    write(bytes);
    let length = u16::try_from(bytes.len() - begin).unwrap_or(u16::MAX);
    bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    let aligned = bytes.len().next_multiple_of(4);
    bytes.resize(aligned, 0);
}
