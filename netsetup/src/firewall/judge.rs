// SPDX-License-Identifier: Apache-2.0
//! A chain's verdict on a packet of which not all is known.
//!
//! It follows the kernel's own way (`nft_do_chain`). A condition holds, does not, or is open, and an
//! open one either hangs on something of the packet (then the best is assumed) or on a match of
//! iptables that we cannot read.

use super::kernel::{Chain, Element, Kernel, Path, Rule, Set, big};
use super::packet::Packet;
use super::registers::{Holds, Registers, register};
use crate::conversation::{Refusal, attributes, text};

/// Deepest nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes, or it may and there is no telling.
    Accepted,
    /// It is dropped for certain: by what.
    Dropped(String),
    /// It is dropped unless a rule that cannot be read lets it pass.
    Unread,
}

/// How sure it is that a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sure {
    Yes,
    /// It hangs on a match of iptables' own.
    Unread,
    /// It hangs on what is not known of the packet.
    Maybe,
}

/// How a chain, or a rule, ends.
enum End {
    Accepted,
    Dropped(String),
    /// The caller goes on behind the jump.
    Through,
}

/// What a rule wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// The next rule.
    Continue,
}

/// Judges packets by what the kernel has.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    kernel: &'a mut Kernel,
    /// Whether a rule that cannot be read would have let the packet pass.
    is_unread: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn new(kernel: &'a mut Kernel) -> Self {
        Self {
            kernel,
            is_unread: false,
        }
    }

    /// What a base chain does with a packet.
    pub(super) fn pass(&mut self, chain: &Chain, packet: &Packet) -> Result<Verdict, Refusal> {
        self.is_unread = false;
        let end = self.chain(&chain.path, packet, Sure::Yes, 0)?;
        let why = match end {
            End::Accepted => return Ok(Verdict::Accepted),
            End::Through if !chain.is_closed => return Ok(Verdict::Accepted),
            End::Through => "its policy is drop, and no rule accepts them".to_owned(),
            End::Dropped(why) => why,
        };
        Ok(if self.is_unread {
            Verdict::Unread
        } else {
            Verdict::Dropped(why)
        })
    }

    fn chain(
        &mut self,
        path: &Path,
        packet: &Packet,
        sure: Sure,
        depth: usize,
    ) -> Result<End, Refusal> {
        let rules = match self.kernel.rules(path)? {
            Some(rules) if depth < DEEPEST => rules,
            // Too much to read: the best is assumed.
            _ => return Ok(End::Accepted),
        };
        // Whether an open condition may have led back to the caller already.
        let mut may_be_over = false;
        for rule in rules.iter() {
            let Some((wishes, open)) = self.rule(rule, path, packet)? else {
                continue;
            };
            let sure = sure.max(open);
            let is_certain = open == Sure::Yes;
            for wish in wishes {
                let end = match wish {
                    Wish::Continue => continue,
                    Wish::Accept if sure == Sure::Unread => {
                        self.is_unread = true;
                        continue;
                    }
                    Wish::Accept => End::Accepted,
                    Wish::Drop => {
                        let Rule { handle, .. } = rule;
                        End::Dropped(format!("rule {handle} of chain {} drops them", path.name))
                    }
                    Wish::Return if is_certain => return Ok(End::Through),
                    Wish::Return => {
                        may_be_over = true;
                        continue;
                    }
                    Wish::Jump(name) => self.chain(&path.beside(name), packet, sure, depth + 1)?,
                    Wish::Goto(name) => {
                        let end = self.chain(&path.beside(name), packet, sure, depth + 1)?;
                        match end {
                            // It returns to our caller, not to us.
                            End::Through if is_certain => return Ok(End::Through),
                            end => end,
                        }
                    }
                };
                match end {
                    End::Accepted => return Ok(End::Accepted),
                    End::Dropped(_) if is_certain && may_be_over => return Ok(End::Through),
                    End::Dropped(why) if is_certain => return Ok(End::Dropped(why)),
                    End::Dropped(_) | End::Through => {}
                }
            }
        }
        Ok(End::Through)
    }

    /// What a rule wants, and how sure its conditions are; `None` where one does not hold. It may
    /// want one of several things, where the element of a map is open.
    fn rule(
        &mut self,
        rule: &Rule,
        path: &Path,
        packet: &Packet,
    ) -> Result<Option<(Vec<Wish>, Sure)>, Refusal> {
        let mut registers = Registers::default();
        let mut sure = Sure::Yes;
        for (name, data) in rule.expressions() {
            let holds = match name.as_str() {
                "meta" => registers.meta(data, packet),
                "ct" => registers.ct(data),
                "payload" => registers.payload(data, packet),
                "fib" => registers.fib(data, packet),
                "bitwise" => registers.bitwise(data),
                "byteorder" => registers.byteorder(data),
                "cmp" => registers.compare(data),
                "range" => registers.range(data),
                "immediate" => match immediate(&mut registers, data) {
                    Some(wish) => return Ok(Some((vec![wish], sure))),
                    None => Holds::Yes,
                },
                "lookup" => match self.lookup(&mut registers, path, data)? {
                    Found::Holds(holds) => holds,
                    Found::Wish(wish) => return Ok(Some((vec![wish], sure))),
                    Found::Open(wishes) => return Ok(Some((wishes, Sure::Maybe))),
                },
                "reject" => return Ok(Some((vec![Wish::Drop], sure))),
                // A program decides: it may let it pass.
                "queue" => return Ok(Some((vec![Wish::Accept], Sure::Maybe))),
                "counter" | "log" | "notrack" | "last" | "objref" => Holds::Yes,
                // iptables' own. What it asks cannot be read; a comment asks nothing.
                "match" if named(data).starts_with("comment") => Holds::Yes,
                "match" => {
                    sure = sure.max(Sure::Unread);
                    Holds::Yes
                }
                "target" => match named(data).as_str() {
                    "REJECT" => return Ok(Some((vec![Wish::Drop], sure))),
                    "QUEUE" | "NFQUEUE" => return Ok(Some((vec![Wish::Accept], Sure::Maybe))),
                    _ => Holds::Yes,
                },
                // Rates, headers beyond the ports, sockets: nothing that is known of the packet.
                _ => {
                    registers.forget();
                    Holds::Open
                }
            };
            match holds {
                Holds::Yes => {}
                Holds::No => return Ok(None),
                Holds::Open => sure = Sure::Maybe,
            }
        }
        Ok(Some((vec![Wish::Continue], sure)))
    }

    fn lookup(
        &mut self,
        registers: &mut Registers,
        path: &Path,
        data: &[u8],
    ) -> Result<Found, Refusal> {
        let (mut name, mut from, mut into, mut is_inverted) = (String::new(), 0, None, false);
        for (kind, value) in attributes(data) {
            match kind {
                1 => name = text(value),
                2 => from = register(value),
                3 => into = big(value),
                5 => is_inverted = big(value).unwrap_or(0) & 1 != 0,
                _ => {}
            }
        }
        // What is in a list of clients' addresses says nothing: it is not even read.
        let set = if into.is_none() && registers.is_blank(from) {
            None
        } else {
            self.kernel.set(&path.beside(name))?
        };
        let found = set.as_ref().and_then(|set| find(set, registers, from));
        Ok(match (found, into) {
            (Some(element), None) if element.is_some() == is_inverted => Found::Holds(Holds::No),
            (Some(_), None) => Found::Holds(Holds::Yes),
            (Some(None), Some(_)) => Found::Holds(Holds::No),
            (Some(Some(element)), Some(VERDICT)) => {
                Found::Wish(verdict(&element.data).unwrap_or(Wish::Continue))
            }
            (None, Some(VERDICT)) => {
                let elements = set.iter().flat_map(|set| &set.elements);
                let open = elements.filter(|one| !is_excluded(one, registers, from));
                let mut wishes: Vec<Wish> = open.filter_map(|one| verdict(&one.data)).collect();
                wishes.sort_unstable();
                wishes.dedup();
                if set.is_none() {
                    // Not read: the best is assumed.
                    wishes.push(Wish::Accept);
                }
                Found::Open(wishes)
            }
            // A value from a map.
            (found, Some(_)) => {
                registers.forget();
                let open = Holds::Open;
                Found::Holds(found.map_or(open, |_| Holds::Yes))
            }
            (None, None) => Found::Holds(Holds::Open),
        })
    }
}

/// What a set or a map gives.
enum Found {
    Holds(Holds),
    Wish(Wish),
    /// One of these, or none.
    Open(Vec<Wish>),
}

/// The element that a key leads to, or that there is none; `None` where that is open.
fn find<'a>(set: &'a Set, key: &Registers, from: usize) -> Option<Option<&'a Element>> {
    let rest = set.elements.iter().find(|element| element.is_rest);
    let mut elements: Vec<&Element> = set.elements.iter().filter(|one| !one.is_rest).collect();
    let Some(length) = elements.first().map(|element| element.key.len()) else {
        return Some(rest);
    };
    if set.is_interval && elements.iter().any(|element| element.is_end) {
        let key = key.known(from, length)?;
        // One range may end where the next begins.
        elements.sort_by_key(|element| (&element.key, !element.is_end));
        let last = elements.iter().rev().find(|element| element.key <= key);
        return Some(last.filter(|element| !element.is_end).copied().or(rest));
    }
    let mut is_open = false;
    for element in elements {
        if is_excluded(element, key, from) {
            continue;
        }
        let is_range = element
            .key_end
            .as_ref()
            .is_some_and(|end| *end != element.key);
        if !is_range && key.is_equal(from, &element.key) == Some(true) {
            return Some(Some(element));
        }
        is_open = true;
    }
    if is_open { None } else { Some(rest) }
}

/// Whether a key is certainly not this element.
fn is_excluded(element: &Element, key: &Registers, from: usize) -> bool {
    let end = element.key_end.as_ref();
    let is_one = end.is_none_or(|end| *end == element.key) && !element.is_rest && !element.is_end;
    is_one && key.is_equal(from, &element.key) == Some(false)
}

/// The wish of an `immediate`, which else gives a register a value.
fn immediate(registers: &mut Registers, data: &[u8]) -> Option<Wish> {
    let (mut into, mut content) = (VERDICT, &[][..]);
    for (kind, value) in attributes(data) {
        match kind {
            1 => into = big(value).unwrap_or(into),
            2 => content = value,
            _ => {}
        }
    }
    if into == VERDICT {
        return verdict(content);
    }
    registers.load(into, content);
    None
}

/// `NFTA_DATA_VERDICT` within some data.
fn verdict(data: &[u8]) -> Option<Wish> {
    let (_, verdict) = attributes(data).find(|(kind, _)| *kind == 2)?;
    let (mut code, mut chain) = (0, String::new());
    for (kind, value) in attributes(verdict) {
        match kind {
            1 => code = big(value)?.cast_signed(),
            2 => chain = text(value),
            _ => {}
        }
    }
    Some(match code {
        0 => Wish::Drop,
        -1 | -2 => Wish::Continue,
        -3 => Wish::Jump(chain),
        -4 => Wish::Goto(chain),
        -5 => Wish::Return,
        // `NF_ACCEPT`, and `NF_QUEUE` and the like, which may come to it.
        _ => Wish::Accept,
    })
}

/// `NFTA_MATCH_NAME` and `NFTA_TARGET_NAME`.
fn named(data: &[u8]) -> String {
    let name = attributes(data).find(|(kind, _)| *kind == 1);
    name.map(|(_, name)| text(name)).unwrap_or_default()
}
