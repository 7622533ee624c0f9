// SPDX-License-Identifier: Apache-2.0
//! From the question along its CNAMEs: which records of an answer section belong to it, and which
//! name the answer is about in the end (RFC 1034 section 3.6.2, RFC 6604 section 3).

use super::cursor::Cursor;
use super::header::HEADER;
use super::name::Name;
use super::qtype;

/// Names in one chain. Longer ones are of no use to anybody: Unbound follows 12 CNAMEs, BIND 17.
const LONGEST: usize = 18;

/// What an answer section is, seen from its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Every record belongs to the question, or to a name that its CNAMEs lead to.
    Sound,
    /// It has records of other names.
    Outside,
    /// Its CNAMEs lead back, or on and on.
    Loop,
}

/// Judges `answers` records of `message` that begin at `start`, behind its one question. The name
/// is the one at the end of the chain; the question's own where there are no CNAMEs. `None` where
/// the octets cannot be read, which a message that was checked rules out.
pub(super) fn judge(message: &[u8], start: usize, answers: u16) -> Option<(Chain, Name)> {
    let mut aliases = 0_usize;
    visit(message, start, answers, |_, rtype, _| {
        aliases = aliases.saturating_add(usize::from(rtype == qtype::CNAME));
        Some(())
    })?;
    // It bounds the work, too: names are compared for each of them.
    if aliases >= LONGEST {
        return Some((Chain::Loop, Name::ROOT));
    }
    let question = expand(message, HEADER)?;
    if aliases == 0 {
        // Most have none, and room for a whole chain is some 5 kB.
        let chain = owners(message, start, answers, &[question])?;
        return Some((chain, question));
    }
    let mut names = [Name::ROOT; LONGEST];
    let (first, others) = names.split_first_mut()?;
    *first = question;
    let mut end = question;
    let mut length = 1_usize;
    for place in others {
        let Some(target) = target_of(message, start, answers, &end)? else {
            break;
        };
        *place = target;
        end = target;
        length = length.saturating_add(1);
    }
    let chain = names.get(..length)?;
    let (_, before) = chain.split_last()?;
    if length == LONGEST || before.contains(&end) {
        return Some((Chain::Loop, end));
    }
    Some((owners(message, start, answers, chain)?, end))
}

/// Whether every record belongs to one of these names.
fn owners(message: &[u8], start: usize, answers: u16, chain: &[Name]) -> Option<Chain> {
    let mut judgement = Chain::Sound;
    let mut last = None;
    visit(message, start, answers, |at, rtype, _| {
        // Most records have the question's name, or the one before them.
        let owner = message.get(at..)?.first_chunk::<2>();
        let pointer = owner.filter(|[high, _]| *high >= 0xc0);
        if pointer == Some(&[0xc0, 12]) || (pointer.is_some() && pointer == last) {
            return Some(());
        }
        last = pointer;
        let owner = expand(message, at)?;
        // A DNAME stands above the names that it changes (RFC 6672), and so does its signature.
        let is_above = matches!(rtype, qtype::DNAME | qtype::RRSIG)
            && chain.iter().any(|name| owner.encloses(name.as_wire()));
        if !is_above && !chain.contains(&owner) {
            judgement = Chain::Outside;
        }
        Some(())
    })?;
    Some(judgement)
}

/// Where the CNAME of `owner` leads; `Some(None)` where it has none.
fn target_of(message: &[u8], start: usize, answers: u16, owner: &Name) -> Option<Option<Name>> {
    let mut target = None;
    visit(message, start, answers, |at, rtype, data_at| {
        if rtype == qtype::CNAME && target.is_none() && expand(message, at)? == *owner {
            target = Some(expand(message, data_at)?);
        }
        Some(())
    })?;
    Some(target)
}

/// Calls `each(place, type, place of the data)` for every record.
fn visit(
    message: &[u8],
    start: usize,
    count: u16,
    mut each: impl FnMut(usize, u16, usize) -> Option<()>,
) -> Option<()> {
    let mut cursor = Cursor::new(message, start);
    for _ in 0..count {
        let at = cursor.position();
        skip(&mut cursor)?;
        let rtype = cursor.u16()?;
        cursor.take(6)?;
        let length = cursor.u16()?;
        let data_at = cursor.position();
        cursor.take(usize::from(length))?;
        each(at, rtype, data_at)?;
    }
    Some(())
}

/// Passes a name, without a look at where it points.
fn skip(cursor: &mut Cursor<'_>) -> Option<()> {
    loop {
        match usize::from(*cursor.take(1)?.first()?) {
            0 => return Some(()),
            0xc0.. => return cursor.take(1).map(|_| ()),
            length => cursor.take(length)?,
        };
    }
}

/// The name at a place, its pointers followed, in lower case. The message has been checked, so
/// every pointer goes back.
pub(super) fn expand(message: &[u8], at: usize) -> Option<Name> {
    let mut wire = [0; super::name::MAX_NAME];
    let (mut at, mut len) = (at, 0_usize);
    loop {
        let head = usize::from(*message.get(at)?);
        if head >= 0xc0 {
            let low = usize::from(*message.get(at.checked_add(1)?)?);
            let target = (head & 0x3f) << 8 | low;
            // Always so in what was checked; it bounds the loop here too.
            if target >= at {
                return None;
            }
            at = target;
            continue;
        }
        let next = at.checked_add(head)?.checked_add(1)?;
        let end = len.checked_add(head)?.checked_add(1)?;
        wire.get_mut(len..end)?
            .copy_from_slice(message.get(at..next)?);
        (at, len) = (next, end);
        if head == 0 {
            return Name::from_wire(wire.get(..len)?);
        }
    }
}
