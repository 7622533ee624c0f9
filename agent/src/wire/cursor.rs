// SPDX-License-Identifier: Apache-2.0
//! Reading forward through a message, never past its end.

use super::header::HEADER;
use super::name::{MAX_LABEL, MAX_NAME};

/// A place in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.message.get(self.at..)?.first_chunk::<2>()?;
        self.at = self.at.saturating_add(2);
        Some(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let bytes = self.message.get(self.at..)?.first_chunk::<4>()?;
        self.at = self.at.saturating_add(4);
        Some(u32::from_be_bytes(*bytes))
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// Passes a name without compression: the one form a question may have, as nothing stands
    /// before it that a pointer could mean.
    pub(super) fn plain_name(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let mut at = start;
        loop {
            let len = usize::from(*self.message.get(at)?);
            if len > MAX_LABEL {
                return None;
            }
            at = at.saturating_add(len).saturating_add(1);
            if at.saturating_sub(start) > MAX_NAME {
                return None;
            }
            if len == 0 {
                let name = self.message.get(start..at)?;
                self.at = at;
                return Some(name);
            }
        }
    }

    /// Passes a name that may be compressed and checks all of it (RFC 1035 section 4.1.4): every
    /// pointer goes back, behind the header; with its pointers followed the name has at most 255
    /// octets. Each jump goes strictly further back, so the walk ends.
    pub(super) fn name(&mut self) -> Option<()> {
        let mut at = self.at;
        // Lowest place seen so far: a pointer must go below it.
        let mut floor = self.at;
        let mut octets = 0_usize;
        let mut end = None;
        loop {
            let len = usize::from(*self.message.get(at)?);
            match len {
                0 => {
                    let behind = at.saturating_add(1);
                    self.at = end.unwrap_or(behind);
                    return (octets < MAX_NAME).then_some(());
                }
                1..=MAX_LABEL => {
                    octets = octets.saturating_add(len).saturating_add(1);
                    if octets >= MAX_NAME {
                        return None;
                    }
                    at = at.saturating_add(len).saturating_add(1);
                }
                0xc0.. => {
                    let low = usize::from(*self.message.get(at.saturating_add(1))?);
                    let target = ((len & 0x3f) << 8) | low;
                    if target < HEADER || target >= floor {
                        return None;
                    }
                    let behind = at.saturating_add(2);
                    end = end.or(Some(behind));
                    floor = target;
                    at = target;
                }
                _ => return None,
            }
        }
    }
}
