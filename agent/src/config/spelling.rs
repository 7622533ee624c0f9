// SPDX-License-Identifier: Apache-2.0
//! How a key is written: its environment variable, its flag, its default and its bounds.

use super::keys::{Key, Kind};
use super::{limits, text};

impl Key {
    /// Whether an environment variable and a flag set it: everything but `version` (which speaks
    /// of the file) and the keys of single zones.
    #[must_use]
    pub fn is_overridable(&self) -> bool {
        self.path != "version" && !self.path.contains("[]")
    }

    /// The section it belongs to.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path.split(['.', '[']).next().unwrap_or(self.path)
    }

    /// Its environment variable, e.g. `NODENS_LISTEN_UDP_SIZE`. Underscores behind the first are
    /// free: see [`super::source`].
    #[must_use]
    pub fn variable(&self) -> String {
        format!("NODENS_{}", self.words('_').to_ascii_uppercase())
    }

    /// Its flag without the dashes in front, e.g. `listen-udp-size`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.words('-')
    }

    /// The words of the path, in lower case.
    fn words(&self, between: char) -> String {
        let mut words = String::with_capacity(self.path.len() + 4);
        for letter in self.path.chars() {
            if letter == '.' {
                words.push(between);
                continue;
            }
            if letter.is_ascii_uppercase() {
                words.push(between);
            }
            words.push(letter.to_ascii_lowercase());
        }
        words
    }

    /// The default as it would be written.
    #[must_use]
    pub fn default_text(&self) -> String {
        if !self.default.is_empty() {
            return self.default.to_owned();
        }
        match self.kind {
            Kind::Count(limit) => limit.default.to_string(),
            Kind::Size(limit) => text::show_size(limit.default),
            Kind::Time(limit) | Kind::Seconds(limit) => text::show_time(limit.default),
            Kind::Switch(on) => on.to_string(),
            _ => String::new(),
        }
    }

    /// The form of its values and their bounds, in words.
    #[must_use]
    pub fn bounds(&self) -> String {
        match self.kind {
            Kind::Version => "`1`".to_owned(),
            Kind::Domain => "a domain name".to_owned(),
            Kind::Addresses => format!("1 to {} addresses", limits::MAX_LISTEN_ADDRESSES),
            Kind::Services => "list of `ADDRESS` or `env:NAME`".to_owned(),
            Kind::ServicesOrOff => "`off`, or list of `ADDRESS` or `env:NAME`".to_owned(),
            Kind::AddressesOrAuto => "`auto`, or list of addresses".to_owned(),
            Kind::Count(limit) => format!("{} to {}", limit.min, limit.max),
            Kind::CountOrAuto(limit) => format!("`auto`, or {} to {}", limit.min, limit.max),
            Kind::Size(limit) => format!(
                "{} to {}",
                text::show_size(limit.min),
                text::show_size(limit.max)
            ),
            Kind::Time(limit) => format!(
                "{} to {}",
                text::show_time(limit.min),
                text::show_time(limit.max)
            ),
            Kind::Seconds(limit) => format!(
                "{} to {}, whole seconds",
                text::show_time(limit.min),
                text::show_time(limit.max)
            ),
            Kind::Switch(_) => "`true`, `false`".to_owned(),
            Kind::Word(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Kind::Interface => "1 to 15 characters".to_owned(),
            Kind::Path => "an absolute path".to_owned(),
            Kind::ResolvConf | Kind::CaFile => "a path".to_owned(),
            Kind::ServerName => "a host name or an address".to_owned(),
            Kind::Socket(_) => "`ADDRESS`, `ADDRESS:PORT`, `[v6]:PORT`".to_owned(),
            Kind::Zones => format!("at most {} zones", limits::MAX_ZONES),
            Kind::Answers => format!("at most {} rules in all zones", limits::MAX_ANSWERS),
            Kind::Rewrites => format!("at most {} rules", limits::MAX_REWRITES),
            Kind::Dns64 => "`off`, `PREFIX`, `PREFIX all`".to_owned(),
            Kind::Sockets => format!("at most {} of `ADDRESS:PORT`", limits::MAX_ALSO),
            Kind::Upstreams => format!(
                "1 to {} of `ADDRESS`, `ADDRESS:PORT`, `[v6]:PORT`, `env:NAME`",
                limits::MAX_UPSTREAMS
            ),
        }
    }

    /// What a value is called in the help of its flag.
    #[must_use]
    pub fn value_name(&self) -> &'static str {
        match self.kind {
            Kind::Version | Kind::Count(_) => "NUMBER",
            Kind::Domain | Kind::Interface | Kind::ServerName => "NAME",
            Kind::Addresses | Kind::Services => "ADDRESS,...",
            Kind::ServicesOrOff => "ADDRESS,...|off",
            Kind::AddressesOrAuto => "ADDRESS,...|auto",
            Kind::CountOrAuto(_) => "NUMBER|auto",
            Kind::Size(_) => "SIZE",
            Kind::Time(_) | Kind::Seconds(_) => "DURATION",
            Kind::Switch(_) => "true|false",
            Kind::Word(_) => "WORD",
            Kind::Path | Kind::ResolvConf | Kind::CaFile => "PATH",
            Kind::Socket(_) => "ADDRESS:PORT",
            Kind::Zones => "YAML",
            Kind::Answers | Kind::Rewrites => "RULE,...",
            Kind::Dns64 => "PREFIX",
            Kind::Sockets => "ADDRESS:PORT,...",
            Kind::Upstreams => "UPSTREAM,...",
        }
    }
}
