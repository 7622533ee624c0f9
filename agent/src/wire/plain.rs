// SPDX-License-Identifier: Apache-2.0
//! Records of a response with every name in full and in lower case: what stands in them can be put
//! behind another question, where pointers would lead astray.

use super::chain;
use super::cursor::{Changing, Cursor};
use super::name::Name;
use super::qtype;
use super::response::{Record, Response};

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct PlainRecord<'a> {
    /// Whose it is.
    pub owner: Name,
    /// Its type.
    pub rtype: u16,
    /// Its TTL in seconds.
    pub ttl: u32,
    /// Its data in front of the names in it.
    pub head: &'a [u8],
    /// The names in its data, as far as the type has any that may be compressed.
    pub names: [Option<Name>; 2],
    /// Its data behind them.
    pub tail: &'a [u8],
}

impl Response {
    /// Calls `each(section, record)` for every record of the answer and the authority section.
    /// `message` is what the response was read from. `None` where the octets cannot be read, which a
    /// message that was checked rules out.
    pub fn plain_records<'a>(
        &self,
        message: &'a [u8],
        mut each: impl FnMut(usize, &PlainRecord<'a>),
    ) -> Option<()> {
        let (mut at, _) = self.records;
        let [answers, authorities, _] = self.counts;
        for (section, count) in [answers, authorities].into_iter().enumerate() {
            for _ in 0..count {
                let (record, end) = plain(message, at)?;
                each(section, &record);
                at = end;
            }
        }
        Some(())
    }
}

/// The record at a place, and where it ends.
fn plain(message: &[u8], at: usize) -> Option<(PlainRecord<'_>, usize)> {
    let record = Record::read(message, at, Changing::NOTHING)?;
    // RFC 1035 section 3.3, RFC 2782, RFC 6672. RFC 3597 section 4: no other type may be compressed.
    let (before, count) = match record.rtype {
        qtype::NS | qtype::CNAME | qtype::PTR | qtype::DNAME => (0, 1),
        qtype::MX => (2, 1),
        qtype::SRV => (6, 1),
        qtype::SOA => (0, 2),
        _ => (0, 0),
    };
    let mut data = Cursor::new(message.get(..record.end)?, record.data_at);
    let head = data.take(before)?;
    let mut names = [None; 2];
    for name in names.iter_mut().take(count) {
        *name = Some(chain::expand(message, data.position())?);
        data.name(Changing::NOTHING)?;
    }
    let tail = message.get(data.position()..record.end)?;
    let plain = PlainRecord {
        owner: chain::expand(message, at)?,
        rtype: record.rtype,
        ttl: record.ttl,
        head,
        names,
        tail,
    };
    Some((plain, record.end))
}
