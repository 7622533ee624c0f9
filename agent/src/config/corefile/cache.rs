// SPDX-License-Identifier: Apache-2.0
//! The directive `cache` (CoreDNS plugin/cache/setup.go).

use std::time::Duration;

use super::context::Context;
use super::lexer::Token;
use super::parser::Directive;
use super::plugins::{At, duration, option_duration};
use super::values;
use crate::config::limits;
use crate::config::text::show_time;
use crate::config::yaml::{Place, quote};

const WORD: &str = "cache";
/// Longest lifetimes where none is written, in seconds.
const MAX_TTL: u32 = 3600;
const MAX_DENIAL_TTL: u32 = 1800;
/// Entries of each of the two caches where none are written: 39 for each of 256 shards.
pub(super) const CAPACITY: u64 = 9984;

/// What it says.
#[derive(Debug)]
pub(super) struct CacheRead {
    pub(super) place: Place,
    pub(super) max_ttl: At<u32>,
    pub(super) max_negative_ttl: At<u32>,
    /// Least TTLs, positive and negative, where they are written.
    pub(super) least_ttls: [Option<At<u32>>; 2],
    /// How long a failure is remembered at most.
    pub(super) max_failure_ttl: Option<At<u32>>,
    /// Entries of both caches.
    pub(super) capacity: u64,
    /// Where a capacity is written.
    pub(super) capacity_place: Option<Place>,
    pub(super) prefetch: Option<At<bool>>,
    pub(super) stale_for: Option<At<Duration>>,
    /// How long a client waits before it gets a stale answer, where that is written.
    pub(super) stale_after: Option<At<Duration>>,
    /// The zones that are cached, where not all of the block's are.
    pub(super) zones: Vec<At<String>>,
    /// Zones whose positive answers are not kept.
    pub(super) no_success: Vec<At<String>>,
    /// Zones whose negative answers are not kept.
    pub(super) no_denial: Vec<At<String>>,
}

/// Reads it.
pub(super) fn read(context: &mut Context<'_>, directive: &Directive) -> CacheRead {
    let place = directive.name.place;
    let mut read = CacheRead {
        place,
        max_ttl: (MAX_TTL, place),
        max_negative_ttl: (MAX_DENIAL_TTL, place),
        least_ttls: [None; 2],
        max_failure_ttl: None,
        capacity: 0,
        capacity_place: None,
        prefetch: None,
        stale_for: None,
        stale_after: None,
        zones: Vec::new(),
        no_success: Vec::new(),
        no_denial: Vec::new(),
    };
    let mut arguments = directive.arguments.iter();
    if let Some(first) = arguments.as_slice().first()
        && let Some(seconds) = lifetime(context, first)
    {
        arguments.next();
        match seconds {
            0 => {
                let remedy = "write a TTL above 0, or remove cache: then nothing is kept";
                context.wrong(first.place, WORD, "0", "a TTL in seconds above 0", remedy);
            }
            seconds => {
                read.max_ttl = (seconds, first.place);
                read.max_negative_ttl = (seconds, first.place);
            }
        }
    }
    read.zones = zones(context, arguments.as_slice());
    let mut capacities = [CAPACITY; 2];
    for line in &directive.lines {
        let Some(option) = line.first() else {
            continue;
        };
        match option.text.as_str() {
            "success" => {
                if let Some(of) = of_kind(context, line, &mut read) {
                    capacities[0] = of.capacity;
                    read.max_ttl = of.ttl.unwrap_or(read.max_ttl);
                    read.least_ttls[0] = of.least;
                }
            }
            "denial" => {
                if let Some(of) = of_kind(context, line, &mut read) {
                    capacities[1] = of.capacity;
                    read.max_negative_ttl = of.ttl.unwrap_or(read.max_negative_ttl);
                    read.least_ttls[1] = of.least;
                }
            }
            "prefetch" => prefetch(context, line, &mut read),
            "serve_stale" => serve_stale(context, line, &mut read),
            "servfail" => servfail(context, line, &mut read),
            "disable" => disable(context, line, &mut read),
            "keepttl" => {
                let message =
                    "TTLs always age, so that clients keep no answer for longer than its life";
                context.note(option.place, WORD, "zones", message, "remove keepttl");
            }
            _ => {}
        }
    }
    read.capacity = capacities.iter().sum();
    let kinds = [
        (&mut read.max_ttl, limits::MAX_TTL.max, "positive"),
        (
            &mut read.max_negative_ttl,
            limits::MAX_NEGATIVE_TTL.max,
            "negative",
        ),
    ];
    for ((seconds, place), most, kind) in kinds {
        let written = Duration::from_secs(u64::from(*seconds));
        if written > most {
            *seconds = u32::try_from(most.as_secs()).unwrap_or(u32::MAX);
            let message = format!(
                "{kind} answers are kept for {} at most, and not {seconds_written} s",
                show_time(most),
                seconds_written = written.as_secs()
            );
            context.note(*place, WORD, "zones", message, "nothing need be done");
        }
    }
    read
}

/// The lifetime that stands first, in seconds; `None` where the word is a zone.
fn lifetime(context: &mut Context<'_>, token: &Token) -> Option<u32> {
    if let Some(seconds) = values::number(&token.text) {
        return Some(seconds);
    }
    // Too large for CoreDNS, too: it would take it for a zone.
    if token.text.bytes().all(|byte| byte.is_ascii_digit()) {
        let found = quote(&token.text);
        let remedy = "write the TTL in seconds, e.g. cache 30";
        context.wrong(token.place, WORD, &found, "a number of seconds", remedy);
        return Some(1);
    }
    let time = values::duration(&token.text)?;
    let seconds = u32::try_from(time.as_secs()).ok()?;
    let message = format!(
        "{} is read as {seconds} seconds; CoreDNS takes it for the name of a zone, and keeps nothing else",
        quote(&token.text)
    );
    let remedy = format!("write cache {seconds}");
    context.note(token.place, WORD, "zones", message, remedy);
    Some(seconds)
}

fn zones(context: &mut Context<'_>, tokens: &[Token]) -> Vec<At<String>> {
    let mut all = Vec::new();
    for token in tokens {
        match values::zones(&token.text) {
            Ok(zones) => all.extend(zones.into_iter().map(|zone| (zone, token.place))),
            Err(remedy) => {
                let found = quote(&token.text);
                context.wrong(token.place, WORD, &found, "a zone", &remedy);
            }
        }
    }
    all
}

/// What `success` or `denial` says.
struct OfKind {
    capacity: u64,
    ttl: Option<At<u32>>,
    least: Option<At<u32>>,
}

/// `success|denial CAPACITY [TTL] [MINTTL]`.
fn of_kind(context: &mut Context<'_>, line: &[Token], read: &mut CacheRead) -> Option<OfKind> {
    let (option, numbers) = line.split_first()?;
    let mut values = Vec::new();
    for token in numbers {
        match values::number(&token.text) {
            Some(number) => values.push((number, token.place)),
            None => {
                let expected = format!("{} CAPACITY [TTL] [MINTTL], whole numbers", option.text);
                let remedy = format!("write it like {} 9984 30", option.text);
                context.wrong(token.place, WORD, &quote(&token.text), &expected, &remedy);
                return None;
            }
        }
    }
    if !(1..=3).contains(&values.len()) {
        let expected = format!("1 to 3 numbers behind {}", option.text);
        let remedy = format!("write it like {} 9984 30", option.text);
        let found = values.len().to_string();
        context.wrong(option.place, WORD, &found, &expected, &remedy);
        return None;
    }
    let ttl = values.get(1).copied();
    if let Some((0, place)) = ttl {
        let expected = "a TTL in seconds above 0";
        let remedy = format!("write a TTL above 0, or disable {}", option.text);
        context.wrong(place, WORD, "0", expected, &remedy);
        return None;
    }
    // Above its bound it is the longest that counts, as it always is.
    let most = u32::try_from(limits::MIN_TTL.max.as_secs()).unwrap_or(u32::MAX);
    let least = values.get(2).map(|(least, at)| ((*least).min(most), *at));
    let (capacity, place) = *values.first()?;
    read.capacity_place = read.capacity_place.or(Some(place));
    Some(OfKind {
        capacity: u64::from(capacity),
        ttl,
        least,
    })
}

/// `prefetch AMOUNT [DURATION [PERCENT%]]`.
fn prefetch(context: &mut Context<'_>, line: &[Token], read: &mut CacheRead) {
    let expected = "prefetch AMOUNT [DURATION [PERCENT%]]";
    let remedy = "write it like prefetch 10 1m 10%";
    let [option, values @ ..] = line else {
        return;
    };
    let amount = values
        .first()
        .and_then(|amount| values::number(&amount.text));
    let (Some(amount), true) = (amount, values.len() <= 3) else {
        let place = values.first().unwrap_or(option).place;
        let found = values
            .first()
            .map_or_else(|| "nothing".to_owned(), |one| quote(&one.text));
        context.wrong(place, WORD, &found, expected, remedy);
        return;
    };
    if let Some(time) = values.get(1) {
        duration(context, time, WORD, "prefetch");
    }
    if let Some(percent) = values.get(2) {
        let number = percent.text.strip_suffix('%').and_then(values::number);
        if !number.is_some_and(|number| (10..=90).contains(&number)) {
            let expected = "a percentage from 10% to 90%";
            context.wrong(percent.place, WORD, &quote(&percent.text), expected, remedy);
        }
    }
    if amount > 0 {
        let message =
            "nodens decides itself what is popular: hit twice, and in the last tenth of its life";
        context.note(
            option.place,
            WORD,
            "cache.prefetch",
            message,
            "nothing need be done",
        );
    }
    read.prefetch = Some((amount > 0, option.place));
}

/// `serve_stale [DURATION] [immediate|verify ...]`.
fn serve_stale(context: &mut Context<'_>, line: &[Token], read: &mut CacheRead) {
    let Some((option, mut values)) = line.split_first() else {
        return;
    };
    let mut stale_for = (Duration::from_secs(3600), option.place);
    if let Some((first, rest)) = values.split_first()
        && !matches!(first.text.as_str(), "immediate" | "verify")
    {
        match duration(context, first, WORD, "serve_stale") {
            Some(time) => stale_for = time,
            None => return,
        }
        values = rest;
    }
    if let Some((mode, rest)) = values.split_first() {
        match mode.text.as_str() {
            "verify" => {}
            "immediate" => read.stale_after = Some((Duration::ZERO, mode.place)),
            other => {
                let near =
                    crate::config::nearest::nearest(other, ["immediate", "verify"].into_iter());
                let remedy = near.map_or_else(
                    || "write one of the two".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                let found = quote(other);
                context.wrong(mode.place, WORD, &found, "immediate or verify", &remedy);
            }
        }
        let mut rest = rest.iter();
        if mode.text == "verify"
            && let Some(timeout) = rest.next()
        {
            read.stale_after = duration(context, timeout, WORD, "serve_stale");
            let most = limits::STALE_AFTER.max;
            if let Some((time, place)) = &mut read.stale_after
                && *time > most
            {
                let most_shown = show_time(most);
                let message = format!(
                    "{} becomes {most_shown}: clients ask again by then",
                    show_time(*time)
                );
                let remedy = format!("write verify {most_shown}");
                context.note(*place, WORD, "zones", message, remedy);
                *time = most;
            }
        }
        for time in rest {
            if duration(context, time, WORD, "serve_stale").is_some() {
                let message = "a stale answer has a TTL of 30 s, and is looked at again after 5 s";
                context.note(time.place, WORD, "cache.staleFor", message, "remove it");
            }
        }
    }
    read.stale_for = Some(stale_for);
}

fn servfail(context: &mut Context<'_>, line: &[Token], read: &mut CacheRead) {
    if let Some((time, place)) = option_duration(context, line, WORD) {
        if time > Duration::from_secs(300) {
            let remedy = "write a duration from 0 to 5m";
            context.wrong(place, WORD, "more", "at most 5m for servfail", remedy);
            return;
        }
        // RFC 9520 section 3.2.
        if time < Duration::from_secs(1) {
            let message = "a failure is remembered for 1 s at least (RFC 9520 section 3.2); it never hides a good answer";
            context.note(place, WORD, "zones", message, "write servfail 1s");
        }
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        read.max_failure_ttl = Some((seconds.max(1), place));
    }
}

/// `disable success|denial [ZONES]`.
fn disable(context: &mut Context<'_>, line: &[Token], read: &mut CacheRead) {
    let Some((option, values)) = line.split_first() else {
        return;
    };
    let root = || vec![(".".to_owned(), option.place)];
    let of_line = |context: &mut Context<'_>| match values.get(1..) {
        None | Some([]) => root(),
        Some(tokens) => zones(context, tokens),
    };
    match values.first().map(|kind| kind.text.as_str()) {
        Some("success") => read.no_success.extend(of_line(context)),
        Some("denial") => read.no_denial.extend(of_line(context)),
        found => {
            let found = found.map_or_else(|| "nothing".to_owned(), quote);
            let place = values.first().unwrap_or(option).place;
            let remedy = "write disable success or disable denial";
            context.wrong(place, WORD, &found, "success or denial", remedy);
        }
    }
}
