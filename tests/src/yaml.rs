// SPDX-License-Identifier: Apache-2.0
//! YAML as Helm writes it, read into JSON: what the tests of the chart look at. Aliases and tags are
//! errors, as Helm writes none.

use std::str::FromStr;

use anyhow::{Context, bail};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Every document of a text.
///
/// # Errors
/// It is no YAML, or has what no manifest has.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut events = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.context("read YAML")?;
        events.push((event, span.start.line()));
    }
    let mut documents = Vec::new();
    let mut events = events.into_iter();
    while let Some((event, _)) = events.next() {
        if matches!(event, Event::DocumentStart(_)) {
            match events.next() {
                Some((Event::DocumentEnd, _)) | None => {}
                Some(first) => documents.push(value(first, &mut events)?),
            }
        }
    }
    Ok(documents)
}

fn value<'a>(
    (event, line): (Event<'a>, usize),
    events: &mut impl Iterator<Item = (Event<'a>, usize)>,
) -> anyhow::Result<Value> {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, _, _) => Ok(plain(&text)),
        Event::Scalar(text, _, _, _) => Ok(Value::String(text.into_owned())),
        Event::SequenceStart(..) => {
            let mut list = Vec::new();
            loop {
                match events.next().context("the end of a list")? {
                    (Event::SequenceEnd, _) => return Ok(Value::Array(list)),
                    next => list.push(value(next, events)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut map = Map::new();
            loop {
                let key = match events.next().context("the end of a mapping")? {
                    (Event::MappingEnd, _) => return Ok(Value::Object(map)),
                    (Event::Scalar(key, ..), _) => key.into_owned(),
                    (other, line) => bail!("line {line}: {other:?} is no key"),
                };
                let next = events.next().context("a value")?;
                if map.insert(key.clone(), value(next, events)?).is_some() {
                    bail!("line {line}: {key} is there twice");
                }
            }
        }
        other => bail!("line {line}: {other:?} is in no manifest"),
    }
}

/// A scalar without quotes, as YAML 1.2's core schema has it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => Number::from_str(text).map_or_else(|_| Value::String(text.to_owned()), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_json() {
        let text = "# c\na: [1, '1', x]\nb: {c: true, d: }\n---\n---\nt: |\n  two\n  lines\n";
        let read = documents(text).unwrap();
        assert_eq!(
            read[0],
            json!({ "a": [1, "1", "x"], "b": { "c": true, "d": null } })
        );
        assert_eq!(read.last().unwrap(), &json!({ "t": "two\nlines\n" }));
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error() {
        assert!(documents("a: 1\na: 2\n").is_err());
    }
}
