// SPDX-License-Identifier: Apache-2.0
//! Server blocks out of words. The rules about braces are those of the Caddyfile parser that CoreDNS
//! has (github.com/coredns/caddy, caddyfile/parse.go), with two that are stricter: a quote and a block
//! must be closed, and an opening brace must have been there.

use super::context::Context;
use super::directives;
use super::lexer::Token;
use crate::config::yaml::{Place, quote};

/// One server block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Zones with their ports, as they were written.
    pub(super) keys: Vec<Token>,
    /// What it says, in order.
    pub(super) directives: Vec<Directive>,
}

/// One directive of a block.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) name: Token,
    /// The rest of its line.
    pub(super) arguments: Vec<Token>,
    /// The lines in its braces; each has one word at least.
    pub(super) lines: Vec<Vec<Token>>,
}

/// Cuts words into blocks. What is wrong is told; what can be read is returned.
pub(super) fn parse(context: &mut Context<'_>, tokens: Vec<Token>) -> Vec<Block> {
    let mut parser = Parser {
        context,
        tokens,
        next: 0,
    };
    let mut blocks = Vec::new();
    while parser.peek().is_some() {
        match parser.block() {
            Some(block) => blocks.push(block),
            None => break,
        }
    }
    blocks
}

struct Parser<'a, 'b> {
    context: &'a mut Context<'b>,
    tokens: Vec<Token>,
    next: usize,
}

impl Parser<'_, '_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned()?;
        self.next += 1;
        Some(token)
    }

    fn next_is(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is(word))
    }

    /// One block; `None` where the rest cannot be read.
    fn block(&mut self) -> Option<Block> {
        let keys = self.keys()?;
        let opening = self.peek().map(|token| token.place);
        if !self.next_is("{") {
            // A Corefile of one block may leave its braces out.
            let directives = self.directives(None)?;
            return Some(Block { keys, directives });
        }
        self.next += 1;
        let directives = self.directives(opening)?;
        Some(Block { keys, directives })
    }

    fn keys(&mut self) -> Option<Vec<Token>> {
        let mut keys: Vec<Token> = Vec::new();
        let mut expects_another = false;
        while let Some(token) = self.peek().cloned() {
            if token.is("{") {
                if keys.is_empty() {
                    let remedy = "write the zone before the brace, e.g. `.:53 {`";
                    self.context
                        .wrong(token.place, "", "{", "the zone of a server block", remedy);
                    return None;
                }
                break;
            }
            if token.is("}") {
                let remedy = "remove it, or open the block that it closes with { behind its zones";
                let expected = "a server block, since none is open here";
                self.context.wrong(token.place, "", "}", expected, remedy);
                return None;
            }
            if token.starts_line && !keys.is_empty() && !expects_another {
                break;
            }
            self.next += 1;
            let mut key = token;
            expects_another = key.text.ends_with(',');
            if expects_another {
                key.text.pop();
            }
            if key.text.len() > 1 && key.text.ends_with('{') {
                let found = quote(&key.text);
                let remedy = "put a space before the brace";
                self.context
                    .wrong(key.place, "", &found, "a zone, a space and {", remedy);
                return None;
            }
            if !key.text.is_empty() {
                keys.push(key);
            }
        }
        Some(keys)
    }

    /// Directives up to the end of the block; `opening` is where its brace stands.
    fn directives(&mut self, opening: Option<Place>) -> Option<Vec<Directive>> {
        let mut directives = Vec::new();
        loop {
            let Some(token) = self.take() else {
                let Some(place) = opening else {
                    return Some(directives);
                };
                let remedy = "close the block with } on a line of its own";
                self.context
                    .wrong(place, "", "{", "a } that closes it", remedy);
                return None;
            };
            if token.is("}") {
                if opening.is_some() {
                    return Some(directives);
                }
                let remedy = "open the block with { behind its zones";
                self.context
                    .wrong(token.place, "", "}", "a { before it", remedy);
                return None;
            }
            if token.is("{") {
                let remedy = "remove it; a brace stands at the end of the line that it belongs to";
                self.context
                    .wrong(token.place, "", "{", "a directive", remedy);
                return None;
            }
            let directive = self.directive(token)?;
            if directives::find(&directive.name.text).is_some() {
                directives.push(directive);
            } else {
                self.unknown(&directive, opening)?;
            }
        }
    }

    fn directive(&mut self, name: Token) -> Option<Directive> {
        let mut arguments: Vec<Token> = Vec::new();
        let mut lines: Vec<Vec<Token>> = Vec::new();
        while let Some(token) = self.peek() {
            if token.is("{") && lines.is_empty() {
                let opening = token.place;
                self.next += 1;
                lines = self.lines(opening, &name)?;
                // What follows the closing brace is the next directive.
                break;
            }
            if token.starts_line || token.is("}") {
                break;
            }
            arguments.push(token.clone());
            self.next += 1;
        }
        Some(Directive {
            name,
            arguments,
            lines,
        })
    }

    /// The lines in a directive's braces.
    fn lines(&mut self, opening: Place, name: &Token) -> Option<Vec<Vec<Token>>> {
        let mut lines: Vec<Vec<Token>> = Vec::new();
        loop {
            let Some(token) = self.take() else {
                let remedy = "close it with } on a line of its own";
                self.context
                    .wrong(opening, &name.text, "{", "a } that closes it", remedy);
                return None;
            };
            if token.is("}") {
                return Some(lines);
            }
            if token.is("{") {
                let remedy = "close the braces before with } on a line of their own";
                let expected = "no braces within those of a directive";
                self.context
                    .wrong(token.place, &name.text, "{", expected, remedy);
                return None;
            }
            match lines.last_mut().filter(|_| !token.starts_line) {
                Some(line) => line.push(token),
                None => lines.push(vec![token]),
            }
        }
    }

    /// Tells of a directive that nobody knows; `None` where it is the next block.
    fn unknown(&mut self, directive: &Directive, opening: Option<Place>) -> Option<()> {
        let name = &directive.name;
        let found = quote(&name.text);
        let looks_like_zone = name.text.contains(['.', ':', '/']);
        if let (true, Some(opening)) = (looks_like_zone, opening) {
            let line = self.context.texts.line(opening);
            let expected = format!("a directive, or a }} for the block that line {line} opens");
            let remedy = "close the block before it with } on a line of its own";
            self.context
                .wrong(name.place, "", &found, &expected, remedy);
            return None;
        }
        let remedy = directives::remedy_for_unknown(&name.text);
        let expected = "a directive of a server block that nodens knows";
        self.context.wrong(
            name.place,
            "",
            &format!("the unknown directive {found}"),
            expected,
            &remedy,
        );
        Some(())
    }
}
