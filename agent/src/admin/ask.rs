// SPDX-License-Identifier: Apache-2.0
//! The pages of the admin socket that tell of the cache, of the agent and of who asks it, and what
//! they are asked with: `?name=NAME&type=TYPE`, `?zone=ZONE` or `?all`, percent-encoded.

use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::AdminState;
use super::body::{Body, Lines};
use super::pages::page;
use crate::inspect::page::Refused;
use crate::inspect::{Inspector, Scope};
use crate::wire::name::Name;
use crate::wire::presentation::TypeName;

/// When each listen address was last asked.
pub const CLIENTS: &str = "/clients";
/// The agent on one page.
pub const STATUS: &str = "/status";
/// The cache in figures.
pub const STATS: &str = "/cache/stats";
/// What is known of a name.
pub const GET: &str = "/cache/get";
/// Every entry, a line of JSON each.
pub const DUMP: &str = "/cache/dump";
/// Forgets.
pub const FLUSH: &str = "/cache/flush";

/// What was asked with is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("{0:?} is given, which this page does not know; it takes {1}")]
    Unknown(String, &'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("nothing is given; this page takes {0}")]
    Nothing(&'static str),
    #[error("give only one of name, zone and all")]
    Several,
    #[error("{0:?} is no name: {1}")]
    Name(String, crate::wire::name::NameError),
    #[error("{0:?} is no type: give its name (A, SRV) or TYPE and a number from 1 to 65535")]
    Type(String),
    #[error("a percent sign must be followed by two hexadecimal digits, and the text be UTF-8")]
    Encoding,
}

/// What was asked with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    name: Option<String>,
    qtype: Option<String>,
    zone: Option<String>,
    all: Option<String>,
}

impl Asked {
    /// Reads a query string that may have the parameters of `takes`.
    fn read(query: &str, takes: &'static str) -> Result<Self, Wrong> {
        let mut asked = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_known = takes.split(", ").any(|known| known == key);
            let (key, place) = match key {
                "name" => ("name", &mut asked.name),
                "type" => ("type", &mut asked.qtype),
                "zone" => ("zone", &mut asked.zone),
                "all" => ("all", &mut asked.all),
                other => return Err(Wrong::Unknown(other.to_owned(), takes)),
            };
            if !is_known {
                return Err(Wrong::Unknown(key.to_owned(), takes));
            }
            if place.replace(decode(value)?).is_some() {
                return Err(Wrong::Twice(key));
            }
        }
        Ok(asked)
    }
}

fn decode(text: &str) -> Result<String, Wrong> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            octets.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(Wrong::Encoding);
        };
        octets.push(high << 4 | low);
    }
    String::from_utf8(octets).map_err(|_| Wrong::Encoding)
}

fn name(text: &str) -> Result<Name, Wrong> {
    Name::parse(text).map_err(|why| Wrong::Name(text.to_owned(), why))
}

fn qtype(text: &str) -> Result<u16, Wrong> {
    let parsed = TypeName::parse(text).ok_or_else(|| Wrong::Type(text.to_owned()))?;
    Ok(parsed.0)
}

/// Answers one of the pages.
pub(super) async fn answer(path: &str, query: &str, state: &AdminState) -> Response<Body> {
    match said(path, query, state).await {
        Ok(response) => response,
        Err(wrong) => json(
            StatusCode::BAD_REQUEST,
            &Refused {
                errors: vec![wrong.to_string()],
            },
        ),
    }
}

async fn said(path: &str, query: &str, state: &AdminState) -> Result<Response<Body>, Wrong> {
    let inspector = &state.inspector;
    match path {
        CLIENTS => {
            Asked::read(query, "")?;
            Ok(json(StatusCode::OK, &(state.clients)()))
        }
        GET => {
            const TAKES: &str = "name, type";
            let asked = Asked::read(query, TAKES)?;
            let wanted = asked.qtype.as_deref().map(qtype).transpose()?;
            let name = name(&asked.name.ok_or(Wrong::Nothing(TAKES))?)?;
            Ok(json(StatusCode::OK, &inspector.name(&name, wanted)))
        }
        DUMP => {
            let asked = Asked::read(query, "zone")?;
            let below = asked.zone.as_deref().map_or(Ok(Name::ROOT), name)?;
            Ok(dump(inspector, below))
        }
        FLUSH => {
            let scope = scope(Asked::read(query, "name, zone, all")?)?;
            Ok(json(StatusCode::OK, &inspector.flush(scope).await))
        }
        STATS => {
            Asked::read(query, "")?;
            Ok(json(StatusCode::OK, &inspector.stats().await))
        }
        _ => {
            Asked::read(query, "")?;
            Ok(json(StatusCode::OK, &inspector.status()))
        }
    }
}

fn scope(asked: Asked) -> Result<Scope, Wrong> {
    match (asked.name, asked.zone, asked.all) {
        (Some(text), None, None) => Ok(Scope::Name(name(&text)?)),
        (None, Some(text), None) => Ok(Scope::Zone(name(&text)?)),
        (None, None, Some(_)) => Ok(Scope::All),
        (None, None, None) => Err(Wrong::Nothing("name, zone or all")),
        _ => Err(Wrong::Several),
    }
}

fn dump(inspector: &Arc<Inspector>, below: Name) -> Response<Body> {
    let Some(dump) = inspector.dump(below) else {
        let error = "as many dumps are under way as may be; try again when one has ended";
        return json(
            StatusCode::SERVICE_UNAVAILABLE,
            &Refused {
                errors: vec![error.to_owned()],
            },
        );
    };
    let mut response = page(StatusCode::OK, String::new());
    *response.body_mut() = Body::Dump(Lines::of(dump));
    is_of(&mut response, "application/x-ndjson");
    response
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    // It fails for nothing that a page is made of.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    let mut response = page(status, text);
    is_of(&mut response, "application/json");
    response
}

fn is_of(response: &mut Response<Body>, content_type: &'static str) {
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_with_comes_out_as_it_was_meant() {
        let asked = Asked::read("name=a%5C046b.example&type=aaaa", "name, type").unwrap();
        assert_eq!(asked.name.as_deref(), Some(r"a\046b.example"));
        assert_eq!(asked.qtype.as_deref(), Some("aaaa"));
        assert_eq!(Asked::read("", "").unwrap(), Asked::default());
        assert_eq!(
            scope(Asked::read("zone=.", "name, zone, all").unwrap()),
            Ok(Scope::Zone(Name::ROOT))
        );
        assert_eq!(
            scope(Asked::read("all", "name, zone, all").unwrap()),
            Ok(Scope::All)
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (query, takes, told) in [
            ("nam=x", "name", "it takes name"),
            ("all", "name, type", "it takes name, type"),
            ("name=a&name=b", "name", "name is given twice"),
            ("name=%4", "name", "percent"),
            ("name=%zz", "name", "percent"),
            ("name=%ff", "name", "UTF-8"),
        ] {
            let wrong = Asked::read(query, takes).unwrap_err().to_string();
            assert!(wrong.contains(told), "{query}: {wrong}");
        }
        let scope = |query| scope(Asked::read(query, "name, zone, all").unwrap());
        assert_eq!(scope("").unwrap_err(), Wrong::Nothing("name, zone or all"));
        assert_eq!(scope("all&zone=.").unwrap_err(), Wrong::Several);
        let wrong = scope("name=a..b").unwrap_err().to_string();
        assert_eq!(wrong, r#""a..b" is no name: a label is empty"#);
        assert!(qtype("TYPE0").is_err() && qtype("").is_err());
    }
}
