// SPDX-License-Identifier: Apache-2.0
//! Words of a Corefile, as the lexer of CoreDNS's Caddyfile cuts them: at white space, in double
//! quotes with `\"` as the one escape, and `#` begins a comment wherever it stands outside quotes.

use crate::config::yaml::Place;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Without its quotes.
    pub(super) text: String,
    /// Where it begins; lines are numbered through all texts.
    pub(super) place: Place,
    /// The first of its line.
    pub(super) starts_line: bool,
    /// It stood in quotes, and is no brace.
    pub(super) is_quoted: bool,
}

impl Token {
    /// Whether it is this word, and not in quotes.
    pub(super) fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text == word
    }
}

/// A quote that is never closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenQuote(pub(super) Place);

/// Cuts a text into words; its first line has the number after `before`.
///
/// # Errors
/// A quote that is never closed.
pub(super) fn lex(text: &str, before: usize) -> Result<Vec<Token>, OpenQuote> {
    let mut lexer = Lexer {
        tokens: Vec::new(),
        word: None,
        line: before + 1,
        column: 0,
        starts_line: true,
    };
    // Go's lexer skips a byte order mark, too.
    let mut letters = text.strip_prefix('\u{feff}').unwrap_or(text).chars();
    while let Some(letter) = lexer.next(&mut letters) {
        match letter {
            // Windows' line ends, even within a word.
            '\r' => {}
            '#' => {
                while let Some(letter) = lexer.next(&mut letters) {
                    if letter == '\n' {
                        lexer.end_line();
                        break;
                    }
                }
            }
            '\n' => lexer.end_line(),
            letter if letter.is_whitespace() => lexer.end_word(false),
            '"' if lexer.word.is_none() => lexer.quoted(&mut letters)?,
            letter => lexer.put(letter),
        }
    }
    lexer.end_word(false);
    Ok(lexer.tokens)
}

struct Lexer {
    tokens: Vec<Token>,
    word: Option<(String, Place)>,
    line: usize,
    column: usize,
    starts_line: bool,
}

impl Lexer {
    fn next(&mut self, letters: &mut std::str::Chars<'_>) -> Option<char> {
        self.column += 1;
        letters.next()
    }

    fn place(&self) -> Place {
        Place {
            line: self.line,
            column: self.column,
        }
    }

    fn put(&mut self, letter: char) {
        let place = self.place();
        let (word, _) = self.word.get_or_insert_with(|| (String::new(), place));
        word.push(letter);
    }

    fn end_word(&mut self, is_quoted: bool) {
        if let Some((text, place)) = self.word.take() {
            self.tokens.push(Token {
                text,
                place,
                starts_line: std::mem::take(&mut self.starts_line),
                is_quoted,
            });
        }
    }

    fn end_line(&mut self) {
        self.end_word(false);
        self.line += 1;
        self.column = 0;
        self.starts_line = true;
    }

    /// The rest of a word in quotes, which may run over several lines.
    fn quoted(&mut self, letters: &mut std::str::Chars<'_>) -> Result<(), OpenQuote> {
        let place = self.place();
        let mut text = String::new();
        let mut is_escaped = false;
        loop {
            let Some(letter) = self.next(letters) else {
                return Err(OpenQuote(place));
            };
            if letter == '\n' {
                self.line += 1;
                self.column = 0;
            }
            match (is_escaped, letter) {
                (false, '\\') => {
                    is_escaped = true;
                    continue;
                }
                (false, '"') => break,
                (true, '"') | (false, _) => {}
                // Only a quote can be escaped.
                (true, _) => text.push('\\'),
            }
            text.push(letter);
            is_escaped = false;
        }
        self.word = Some((text, place));
        self.end_word(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(String, usize, usize, bool)> {
        let tokens = lex(text, 0).unwrap();
        let word = |token: Token| {
            let Place { line, column } = token.place;
            (token.text, line, column, token.starts_line)
        };
        tokens.into_iter().map(word).collect()
    }

    fn texts(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.0).collect()
    }

    #[test]
    fn words_have_their_line_and_column() {
        assert_eq!(
            words(".:53 {\n  cache 30 # a comment {\r\n\n}"),
            [
                (".:53".to_owned(), 1, 1, true),
                ("{".to_owned(), 1, 6, false),
                ("cache".to_owned(), 2, 3, true),
                ("30".to_owned(), 2, 9, false),
                ("}".to_owned(), 4, 1, true),
            ]
        );
    }

    #[test]
    fn quotes_hold_spaces_lines_and_escaped_quotes() {
        assert_eq!(texts(r#"answer "{{ .Name }} 60 IN A 10.0.0.1""#).len(), 2);
        assert_eq!(texts(r#""a \"b\" \d \\""#), [r#"a "b" \d \\"#]);
        assert_eq!(words("\"a\nb\" c")[1], ("c".to_owned(), 2, 4, false));
        assert_eq!(texts(r#"a"b c"#), ["a\"b", "c"]);
        assert_eq!(texts("\"\""), [""]);
    }

    #[test]
    fn a_comment_begins_in_a_word_too() {
        assert_eq!(texts("cache#30\nlog"), ["cache", "log"]);
        assert_eq!(texts("\u{feff}log"), ["log"]);
    }

    #[test]
    fn a_quote_that_is_never_closed_is_told_where_it_begins() {
        let found = lex("log\n  \"abc", 0).unwrap_err();
        assert_eq!(found, OpenQuote(Place { line: 2, column: 3 }));
    }
}
