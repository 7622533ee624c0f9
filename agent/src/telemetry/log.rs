// SPDX-License-Identifier: Apache-2.0
//! The log: lines on standard error, JSON for machines or text for a terminal. Never called on
//! workers.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config;

/// Changes the log while it is written.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<LevelFilter, Registry>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl")
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

impl LogControl {
    /// From now on logs this level and what is graver.
    pub fn set_level(&self, level: Level) {
        // Fails only where the log itself is gone, and then there is nobody to tell.
        let _ = self.filter.reload(LevelFilter::from_level(level));
    }

    /// The level in force.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.filter
            .with_current(|filter| filter.into_level())
            .ok()
            .flatten()
    }
}

/// A log is there already: it can be set up once in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log of this process is already set up")]
pub struct AlreadySet;

/// Sets up the log of the process. Where `log.json` is not given, standard error decides: text
/// for a terminal, JSON for everything else.
///
/// # Errors
/// When it is not the first call; the log that is there stays as it is.
pub fn init(log: &config::Log) -> Result<LogControl, AlreadySet> {
    let is_json = log.json.unwrap_or_else(|| !io::stderr().is_terminal());
    let (subscriber, control) = build(log.level, is_json, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadySet)?;
    Ok(control)
}

/// One filter before everything: a record below the level costs one atomic load.
fn build<W>(level: Level, is_json: bool, writer: W) -> (impl Subscriber + Send + Sync, LogControl)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let subscriber = Registry::default()
        .with(filter)
        .with(lines(is_json, writer));
    (subscriber, LogControl { filter: handle })
}

/// Text has no colours: the feature is not compiled in, and logs are copied into tickets.
fn lines<S, W>(is_json: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    if is_json {
        // The fields of a record stand beside its message, where collectors look for them.
        Box::new(
            lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false),
        )
    } else {
        Box::new(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Buffer {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_beside_the_message() {
        let buffer = Buffer::default();
        let (subscriber, _) = build(Level::INFO, true, buffer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                upstream = "10.96.0.10:53",
                error = "line\nbreak",
                "upstream down"
            );
        });
        let log = buffer.take();
        assert_eq!(log.lines().count(), 1, "{log}");
        for part in [
            r#"{"timestamp":"20"#,
            r#""level":"WARN""#,
            r#""message":"upstream down""#,
            r#""upstream":"10.96.0.10:53""#,
            r#""error":"line\nbreak""#,
            r#""target":"nodens::telemetry::log::tests"}"#,
        ] {
            assert!(log.contains(part), "{part} in {log}");
        }
    }

    #[test]
    fn text_has_no_colours() {
        let buffer = Buffer::default();
        let (subscriber, _) = build(Level::INFO, false, buffer.clone());
        tracing::subscriber::with_default(subscriber, || tracing::error!(port = 53, "no right"));
        let log = buffer.take();
        assert!(
            log.contains("ERROR") && log.contains("no right port=53"),
            "{log}"
        );
        assert!(!log.contains('\x1b'), "{log:?}");
    }

    #[test]
    fn the_level_changes_while_the_log_is_written() {
        let buffer = Buffer::default();
        let (subscriber, control) = build(Level::WARN, false, buffer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("first");
            assert_eq!(buffer.take(), "");
            control.set_level(Level::DEBUG);
            assert_eq!(control.level(), Some(Level::DEBUG));
            tracing::debug!("second");
            assert!(buffer.take().contains("second"));
            control.set_level(Level::ERROR);
            tracing::warn!("third");
            assert_eq!(buffer.take(), "");
        });
    }
}
