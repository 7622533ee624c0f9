// SPDX-License-Identifier: Apache-2.0
//! Owners in full, made as short as they can be: CoreDNS compresses no answer over TCP.
//!
//! A set of addresses takes 16 octets a record instead of 40 and more. So it fits where CoreDNS itself,
//! which compresses over UDP, would have made it fit; it takes less of the cache; its owners have the
//! letter case of each client's question; and its records can take turns.

use super::cursor::Cursor;
use super::header::HEADER;
use super::qtype;
use super::response::Response;

/// Type and class behind a name.
const TYPE_AND_CLASS: usize = 4;
/// Names that owners may be replaced by, beside the question's: the targets of CNAMEs.
const MOST_TARGETS: usize = 16;
/// The first place that a pointer cannot reach (RFC 1035 section 4.1.4).
const BEYOND: usize = 0x4000;

/// A name's place and length.
type Place = (usize, usize);

/// One record, by its places in the message.
struct Frame {
    ttl_at: usize,
    data_at: usize,
    end: usize,
    rtype: u16,
}

impl Response {
    /// Writes a pointer in place of each owner that is the question's name, or what a CNAME before it
    /// leads to, letter case aside. Only in a message that has no pointers, as nothing in it can
    /// then point at what is moved, and with records of known types alone. `message` and `offsets`
    /// are those the response was read from.
    pub fn shorten(&mut self, message: &mut [u8], offsets: &mut [u8]) {
        if self.is_in_full(message, offsets).is_some() {
            // What has been read before is read again: nothing can be amiss.
            let _ = self.rewrite(message, offsets);
        }
    }

    /// `None` for a message with a pointer or a record that may have one.
    fn is_in_full(&self, message: &[u8], offsets: &[u8]) -> Option<()> {
        let (start, end) = self.records;
        let mut at = start;
        for place in offsets.get(..self.offsets)?.as_chunks::<2>().0 {
            let frame = frame(message, start, *place)?;
            let mut owner = Cursor::new(message, at);
            owner.plain_name()?;
            let (skipped, names) = names_in(frame.rtype)?;
            let mut data = Cursor::new(message, frame.data_at);
            data.take(skipped)?;
            for _ in 0..names {
                data.plain_name()?;
            }
            at = frame.end;
        }
        (at == end).then_some(())
    }

    fn rewrite(&mut self, message: &mut [u8], offsets: &mut [u8]) -> Option<()> {
        let (start, _) = self.records;
        let question = (
            HEADER,
            start.checked_sub(HEADER.checked_add(TYPE_AND_CLASS)?)?,
        );
        let mut known = [question; MOST_TARGETS];
        let mut count = 1_usize;
        let (mut from, mut to) = (start, start);
        let (offsets, _) = offsets.get_mut(..self.offsets)?.as_chunks_mut::<2>();
        for place in offsets {
            let frame = frame(message, start, *place)?;
            let owner = (
                from,
                frame
                    .ttl_at
                    .checked_sub(TYPE_AND_CLASS)?
                    .checked_sub(from)?,
            );
            if self.soa_at == from {
                self.soa_at = to;
            }
            let same = known.get(..count)?.iter();
            let mut same = same.filter(|place| is_same(message, **place, owner));
            // A pointer is no shorter than the root.
            if let Some(&(at, _)) = same.next().filter(|&&(_, length)| length > 2) {
                let [high, low] = u16::try_from(at).ok()?.to_be_bytes();
                let end = to.checked_add(2)?;
                message
                    .get_mut(to..end)?
                    .copy_from_slice(&[0xc0 | high, low]);
                to = end;
                from = from.checked_add(owner.1)?;
            }
            let ttl_at = to.checked_add(frame.ttl_at.checked_sub(from)?)?;
            let data_at = to.checked_add(frame.data_at.checked_sub(from)?)?;
            *place = u16::try_from(ttl_at.checked_sub(start)?)
                .ok()?
                .to_le_bytes();
            let length = frame.end.checked_sub(from)?;
            message.get(from..frame.end)?;
            message.get(to..to.checked_add(length)?)?;
            message.copy_within(from..frame.end, to);
            if frame.rtype == qtype::CNAME && data_at < BEYOND && count < MOST_TARGETS {
                *known.get_mut(count)? = (data_at, frame.end.checked_sub(frame.data_at)?);
                count = count.checked_add(1)?;
            }
            from = frame.end;
            to = to.checked_add(length)?;
        }
        self.records = (start, to);
        Some(())
    }
}

/// The record whose TTL stands at `place` behind `start`.
fn frame(message: &[u8], start: usize, place: [u8; 2]) -> Option<Frame> {
    let ttl_at = start.checked_add(usize::from(u16::from_le_bytes(place)))?;
    let mut rtype = Cursor::new(message, ttl_at.checked_sub(TYPE_AND_CLASS)?);
    let mut rest = Cursor::new(message, ttl_at.checked_add(4)?);
    let length = usize::from(rest.u16()?);
    let data_at = rest.position();
    Some(Frame {
        ttl_at,
        data_at,
        end: data_at.checked_add(length)?,
        rtype: rtype.u16()?,
    })
}

/// Octets in front of the names in a record's data, and how many names there are; `None` for types
/// whose data is not known here.
fn names_in(rtype: u16) -> Option<(usize, usize)> {
    match rtype {
        qtype::A | qtype::AAAA | qtype::TXT => Some((0, 0)),
        qtype::NS | qtype::CNAME | qtype::PTR => Some((0, 1)),
        qtype::SOA => Some((0, 2)),
        qtype::MX => Some((2, 1)),
        qtype::SRV => Some((6, 1)),
        _ => None,
    }
}

fn is_same(message: &[u8], one: Place, other: Place) -> bool {
    let of = |(at, length): Place| message.get(at..at.checked_add(length)?);
    match (of(one), of(other)) {
        // Lengths of labels are below the letters: they have no case.
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}
