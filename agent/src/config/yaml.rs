// SPDX-License-Identifier: Apache-2.0
//! YAML as a tree in which every node knows its line and column. Depth and aliases are bounded,
//! duplicate keys are all reported, scalars stay text: what they mean is the key's business.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// Levels of lists and mappings inside each other. The configuration has four.
const MAX_DEPTH: usize = 32;
/// Nodes that aliases may repeat, so that a small file does not become a large tree.
const MAX_ALIASED_NODES: usize = 10_000;

/// A place in a text, both from 1; column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// Where the file as a whole is spoken of.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl From<&Span> for Place {
    fn from(span: &Span) -> Self {
        Self {
            line: span.start.line().max(1),
            column: span.start.col() + 1,
        }
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing: an empty plain scalar, `~` or `null`.
    Nothing,
    /// A scalar, quoted or not, without space around it.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping; keys are distinct.
    Map(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands.
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) node: Node,
}

impl Node {
    /// What was found, for a message: the text in quotes, cut where it is long.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Nothing => "nothing".to_owned(),
            Value::Text(text) => quote(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    fn count(&self) -> usize {
        match &self.value {
            Value::Nothing | Value::Text(_) => 1,
            Value::List(nodes) => nodes.iter().map(Self::count).sum::<usize>() + 1,
            Value::Map(entries) => {
                entries
                    .iter()
                    .map(|entry| entry.node.count())
                    .sum::<usize>()
                    + 1
            }
        }
    }
}

/// Text in quotes on one line, cut after 60 characters.
pub(super) fn quote(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(60).collect();
    match characters.next() {
        None => format!("{start:?}"),
        Some(_) => format!("{start:?}... ({} characters)", text.chars().count()),
    }
}

/// Something wrong with the YAML itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Place,
    /// The path of the key, empty where there is none.
    pub(super) key: String,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// Reads the one document of a text; `None` where it is empty.
///
/// # Errors
/// All faults that were found; after one of syntax nothing more can be read.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Vec<Fault>> {
    let mut reader = Reader {
        text,
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        aliased: 0,
        path: Vec::new(),
        faults: Vec::new(),
    };
    match reader.documents() {
        Ok(node) if reader.faults.is_empty() => Ok(node),
        Ok(_) => Err(reader.faults),
        Err(last) => {
            reader.faults.push(last);
            Err(reader.faults)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    aliased: usize,
    /// Keys and indexes from the root to here.
    path: Vec<String>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn documents(&mut self) -> Result<Option<Node>, Fault> {
        let mut document = None;
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(document),
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.fault(
                            &span,
                            "found a second YAML document, expected one",
                            "remove the line `---` and what follows it",
                        ));
                    }
                }
                first => {
                    let node = self.node(first, &span)?;
                    if !matches!(node.value, Value::Nothing) {
                        document = Some(node);
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn fault(&self, span: &Span, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            place: span.into(),
            key: self.path.concat(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A fault of syntax. Of a tab in the indentation the scanner speaks in its own words, and
    /// where it stands at the end of the line above, gives that line.
    fn syntax(&self, error: &ScanError) -> Fault {
        let marker = error.marker();
        let lines = self.text.lines().enumerate();
        let tab = lines
            .skip(marker.line().saturating_sub(1))
            .take(2)
            .filter(|_| error.info().contains("tab"))
            .find_map(|(index, line)| {
                let mut indentation = line.chars().take_while(|letter| letter.is_whitespace());
                let column = indentation.position(|letter| letter == '\t')? + 1;
                let line = index + 1;
                Some(Place { line, column })
            });
        let (place, message, remedy) = match tab {
            Some(place) => (
                place,
                "found a tab, expected spaces".to_owned(),
                "indent with spaces: YAML takes no tabs there",
            ),
            None => (
                Place::from(&Span::empty(*marker)),
                format!(
                    "found what is no YAML ({}), expected keys and values",
                    error.info()
                ),
                "correct the syntax; values with : # { [ or quotes in them need quotes around them",
            ),
        };
        Fault {
            place,
            key: String::new(),
            message,
            remedy: remedy.to_owned(),
        }
    }

    /// The node that begins with an event. Recursive, to [`MAX_DEPTH`].
    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Fault> {
        let (value, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref(), span);
                let is_nothing = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if is_nothing {
                    Value::Nothing
                } else {
                    Value::Text(text.trim().to_owned())
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref(), span);
                (self.list(span)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref(), span);
                (self.map(span)?, anchor)
            }
            _ => {
                return Err(self.fault(
                    span,
                    "found the end of the document, expected a value",
                    "complete the value",
                ));
            }
        };
        let node = Node {
            place: span.into(),
            value,
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Tags of YAML itself (`!!str`) say nothing that the key does not know; others ask for what
    /// nobody here does.
    fn tag(&mut self, tag: Option<&Tag>, span: &Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let message = format!(
                "found the tag {}, expected a value",
                quote(&tag.to_string())
            );
            let fault = self.fault(span, message, "remove the tag");
            self.faults.push(fault);
        }
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Node, Fault> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(self.fault(
                span,
                "found an alias inside of what it stands for",
                "write the value out",
            ));
        };
        self.aliased = self.aliased.saturating_add(node.count());
        if self.aliased > MAX_ALIASED_NODES {
            return Err(self.fault(
                span,
                format!("found aliases that repeat more than {MAX_ALIASED_NODES} values"),
                "write the values out",
            ));
        }
        Ok(Node {
            place: span.into(),
            value: node.value.clone(),
        })
    }

    fn deepen(&mut self, span: &Span) -> Result<(), Fault> {
        if self.path.len() < MAX_DEPTH {
            return Ok(());
        }
        self.path.clear();
        Err(self.fault(
            span,
            format!("found more than {MAX_DEPTH} levels of lists and mappings inside each other"),
            "remove levels; no key needs as many",
        ))
    }

    fn list(&mut self, span: &Span) -> Result<Value, Fault> {
        self.deepen(span)?;
        let mut nodes = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::List(nodes));
            }
            self.path.push(format!("[{}]", nodes.len()));
            nodes.push(self.node(event, &span)?);
            self.path.pop();
        }
    }

    fn map(&mut self, span: &Span) -> Result<Value, Fault> {
        self.deepen(span)?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut places = BTreeMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(entries));
            }
            self.path.push(String::new());
            let key_node = self.node(event, &span)?;
            self.path.pop();
            let key = match key_node.value {
                Value::Text(text) => text,
                _ => {
                    let fault = self.fault(
                        &span,
                        format!("found {} as a key, expected a word", key_node.found()),
                        "write `key: value`",
                    );
                    self.faults.push(fault);
                    String::new()
                }
            };
            let dot = if self.path.is_empty() { "" } else { "." };
            self.path.push(format!("{dot}{key}"));
            let (event, value_span) = self.next()?;
            let node = self.node(event, &value_span)?;
            let place = Place::from(&span);
            match places.get(&key) {
                Some(first) if !key.is_empty() => {
                    let first: &Place = first;
                    let fault = self.fault(
                        &span,
                        format!(
                            "found the key again, expected it once (first on line {})",
                            first.line
                        ),
                        "remove one of the two",
                    );
                    self.faults.push(fault);
                }
                _ => {
                    places.insert(key.clone(), place);
                    entries.push(Entry { place, key, node });
                }
            }
            self.path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> Fault {
        let mut faults = parse(text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    fn entries(text: &str) -> Vec<Entry> {
        match parse(text).unwrap().unwrap().value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_node_knows_its_line_and_column() {
        let entries = entries("a: 1\nb:\n  - x\n  - {c: \"y\"}\n");
        assert_eq!(entries[0].place, Place { line: 1, column: 1 });
        assert_eq!(entries[0].node.place, Place { line: 1, column: 4 });
        let Value::List(nodes) = &entries[1].node.value else {
            panic!("{entries:?}")
        };
        assert_eq!(nodes[0].place, Place { line: 3, column: 5 });
        let Value::Map(inner) = &nodes[1].value else {
            panic!("{nodes:?}")
        };
        assert_eq!(inner[0].place, Place { line: 4, column: 6 });
        assert_eq!(inner[0].node.place, Place { line: 4, column: 9 });
    }

    #[test]
    fn quotes_make_no_difference_but_for_nothing() {
        let entries = entries("a: 53\nb: \"53\"\nc: '53'\nd:\ne: \"\"\nf: ~\n");
        for entry in &entries[..3] {
            assert!(matches!(&entry.node.value, Value::Text(text) if text == "53"));
        }
        assert!(matches!(entries[3].node.value, Value::Nothing));
        assert!(matches!(&entries[4].node.value, Value::Text(text) if text.is_empty()));
        assert!(matches!(entries[5].node.value, Value::Nothing));
    }

    #[test]
    fn all_duplicate_keys_are_named() {
        let faults = parse("a: 1\nb: {c: 1, c: 2}\na: 3\nb: 4\n").unwrap_err();
        let keys: Vec<_> = faults
            .iter()
            .map(|fault| (&*fault.key, fault.place.line))
            .collect();
        assert_eq!(keys, [("b.c", 2), ("a", 3), ("b", 4)]);
        assert!(faults[1].message.contains("first on line 1"));
    }

    #[test]
    fn a_tab_is_named_as_such_where_it_stands() {
        let fault = fault("listen:\n\tport: 53\n");
        assert_eq!(fault.place, Place { line: 2, column: 1 });
        assert!(fault.message.contains("tab"), "{fault:?}");
    }

    #[test]
    fn syntax_faults_have_a_place() {
        let fault = fault("a: [1, 2\nb: 3\n");
        assert!(
            fault.place.line >= 1 && fault.message.contains("no YAML"),
            "{fault:?}"
        );
        assert!(parse("a: \"x").is_err());
        assert!(parse("a: *unknown\n").is_err());
    }

    #[test]
    fn one_document_and_no_more() {
        assert!(parse("").unwrap().is_none());
        assert!(parse("# nothing\n").unwrap().is_none());
        assert!(parse("---\n").unwrap().is_none());
        assert!(parse("---\na: 1\n...\n").unwrap().is_some());
        let fault = fault("a: 1\n---\nb: 2\n");
        assert!(fault.message.contains("second"), "{fault:?}");
        assert_eq!(fault.place.line, 2);
    }

    #[test]
    fn aliases_stand_for_their_anchor_and_are_bounded() {
        let entries = entries("a: &x [1, 2]\nb: *x\n");
        assert!(matches!(&entries[1].node.value, Value::List(nodes) if nodes.len() == 2));
        assert_eq!(entries[1].node.place.line, 2);

        let mut bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
        for level in 1..20 {
            let below = level - 1;
            let items = vec![format!("*a{below}"); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(fault(&bomb).message.contains("repeat more than"));
        assert!(
            fault("a: &x [*x]\n")
                .message
                .contains("inside of what it stands for")
        );
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        for text in [
            "[".repeat(1 << 19),
            "- ".repeat(1 << 19),
            "{a: ".repeat(1 << 18),
        ] {
            assert!(parse(&text).is_err());
        }
        let deep = (0..40).fold("x".to_owned(), |inner, _| format!("[{inner}]"));
        assert!(fault(&deep).message.contains("levels"));
        let shallow = (0..20).fold("x".to_owned(), |inner, _| format!("[{inner}]"));
        assert!(parse(&shallow).is_ok());
    }

    #[test]
    fn tags_of_applications_are_refused() {
        assert!(parse("a: !!str 53\nb: !!seq [x]\n").is_ok());
        let faults = parse("a: !secret x\nb: !ref [x]\n").unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].message.contains("found the tag \"!secret\""),
            "{faults:?}"
        );
    }

    #[test]
    fn a_key_is_a_word() {
        assert!(fault("? [a, b]\n: 1\n").message.contains("a list as a key"));
        assert!(fault("{: 1}").message.contains("nothing as a key"));
    }

    #[test]
    fn what_was_found_stays_on_one_line_and_short() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert!(quote(&"x".repeat(1000)).ends_with("(1000 characters)"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn nothing_made_of_yaml_panics(text in "[-a:{}\\[\\],&*!?|>'\"#%@ \\t\\n\\r.~0-9\u{feff}\u{85}]{0,200}") {
            let _ = parse(&text);
        }
    }
}
