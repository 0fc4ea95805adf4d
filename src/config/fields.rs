//! Reads typed values from a section: each method takes a key, checks its value, reports a problem
//! and falls back to the default.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::file::{Given, Problem, Reader, Section};
use super::keys::{self, Kind};

/// A section, and the reader that collects its problems.
pub(super) struct Fields<'r, 't> {
    pub(super) reader: &'r mut Reader<'t>,
    section: Section<'t>,
    /// False where names are keys.
    has_rows: bool,
}

impl<'r, 't> Fields<'r, 't> {
    pub(super) fn new(reader: &'r mut Reader<'t>, section: Section<'t>) -> Self {
        Self {
            reader,
            section,
            has_rows: true,
        }
    }

    /// A section whose keys are not those of [`keys::KEYS`]: a user's, or one with names as keys.
    pub(super) fn without_rows(reader: &'r mut Reader<'t>, section: Section<'t>) -> Self {
        Self {
            reader,
            section,
            has_rows: false,
        }
    }

    /// Takes a value. A key without a row is a problem of every configuration, so that no reader
    /// takes a key that the reference does not name.
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<Given<T>> {
        if self.has_rows && self.kind(key).is_none() {
            self.has_no_row(key);
        }
        self.section.take(self.reader, key)
    }

    fn kind(&self, key: &str) -> Option<&'static Kind> {
        keys::find(&self.section.name(key)).map(|row| &row.kind)
    }

    fn has_no_row(&mut self, key: &str) {
        let name = self.section.name(key);
        self.reader
            .add(None, name, "has no row of this type in src/config/keys.rs");
    }

    /// Whether a key is present and not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.section.has(key)
    }

    /// Reports the keys that were not taken.
    pub(super) fn finish(self) {
        self.section.finish(self.reader);
    }

    pub(super) fn complain(&mut self, line: usize, key: &str, message: impl Into<String>) {
        let problem = self.problem(line, key, message);
        self.reader.problems.push(problem);
    }

    /// Reports an issue that does not prevent a start.
    pub(super) fn warn(&mut self, line: usize, key: &str, message: impl Into<String>) {
        let warning = self.problem(line, key, message);
        self.reader.warnings.push(warning);
    }

    /// Creates a problem without reporting it.
    pub(super) fn problem(&self, line: usize, key: &str, message: impl Into<String>) -> Problem {
        Problem {
            file: Some(self.reader.path().to_owned()),
            line: Some(line),
            key: self.section.name(key),
            message: message.into(),
            cause: None,
        }
    }

    /// Reports a problem of a file that the key names.
    pub(super) fn complain_of_file(
        &mut self,
        line: usize,
        key: &str,
        cause: Option<io::ErrorKind>,
        message: impl Into<String>,
    ) {
        let problem = self.problem(line, key, message);
        self.reader.problems.push(Problem { cause, ..problem });
    }

    /// The key's full name, as in `limits.tunnels`.
    pub(super) fn name(&self, key: &str) -> String {
        self.section.name(key)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<Given<String>> {
        self.take(key)
    }

    pub(super) fn texts(&mut self, key: &str) -> Option<Given<Vec<String>>> {
        let given: Given<Vec<String>> = self.take(key)?;
        // Without its entries such a list could open what an empty one leaves open.
        if !given.value.is_empty() && entries(&given.value).next().is_none() {
            self.complain(
                given.line,
                key,
                "has only empty entries: write [] for an empty list",
            );
        }
        Some(given)
    }

    /// Takes true or false; the default is that of the key's row.
    pub(super) fn flag(&mut self, key: &str) -> bool {
        let Some(Kind::Boolean(default)) = self.kind(key) else {
            self.has_no_row(key);
            return false;
        };
        self.flag_or(key, *default)
    }

    pub(super) fn flag_or(&mut self, key: &str, default: bool) -> bool {
        self.take(key)
            .map_or(default, |given: Given<bool>| given.value)
    }

    /// Takes a string that must be one of `choices`.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let given = self.text(key)?;
        let chosen = choices
            .iter()
            .find(|(name, _)| *name == given.value)
            .map(|(_, value)| *value);
        if chosen.is_none() {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            self.complain(given.line, key, format!("must be {}", names.join(" or ")));
        }
        chosen
    }

    /// Takes a string and parses it.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Given<T>> {
        let Given { value, line } = self.text(key)?;
        match parse(value.trim()) {
            Ok(value) => Some(Given { value, line }),
            Err(error) => {
                self.complain(line, key, format!("{}: {error}", shown(&value)));
                None
            }
        }
    }

    /// Takes a list of strings and parses each; reports each problem.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let given = self.texts(key)?;
        let mut values = Vec::with_capacity(given.value.len());
        for (place, text) in entries(&given.value) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(error) => {
                    self.complain(
                        given.line,
                        key,
                        format!("{}: {error}", shown_of(text, place, given.value.len())),
                    );
                }
            }
        }
        Some(values)
    }

    /// Takes a whole number; default and range are those of the key's row.
    pub(super) fn count(&mut self, key: &str) -> usize {
        let Some(Kind::Integer(default, range)) = self.kind(key) else {
            self.has_no_row(key);
            return 0;
        };
        self.count_or(key, *default, range.clone())
    }

    pub(super) fn count_or(
        &mut self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(given): Option<Given<i64>> = self.take(key) else {
            return default;
        };
        match usize::try_from(given.value)
            .ok()
            .filter(|count| range.contains(count))
        {
            Some(count) => count,
            None => {
                self.complain(
                    given.line,
                    key,
                    format!("must be from {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    /// Takes a duration of at most a year, such as `"10s"`, `"500ms"` or `"1h 30m"`; default and
    /// minimum are those of the key's row.
    pub(super) fn duration(&mut self, key: &str) -> Duration {
        let Some(Kind::Duration(default, min)) = self.kind(key) else {
            self.has_no_row(key);
            return Duration::ZERO;
        };
        let Some(Given { value, line }) = self.parsed(key, duration) else {
            return *default;
        };
        if value < *min || value > DURATION_MAX {
            let min = humantime::format_duration(*min);
            self.complain(line, key, format!("must be from {min} to 365 days"));
        }
        value
    }
}

/// Parses an address with a port.
///
/// # Errors
/// A description of the right form.
pub fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "not an address and a port such as 127.0.0.1:9293 or [::1]:9293; names are not looked up")
}

/// Parses an IP address.
///
/// # Errors
/// A description of the right form.
pub fn ip_address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse()
        .map_err(|_| "not an address such as 203.0.113.7 or 2001:db8::7, without brackets, port and prefix length")
}

/// Describes a wrong value for a message. Addresses are shown. Any other text may be a misplaced
/// secret, such as a token or a URL with a password, so only its length is shown.
#[must_use]
pub fn shown(text: &str) -> String {
    let text = text.trim();
    if is_address(text) {
        format!("\"{text}\"")
    } else {
        format!("a text of {} characters", text.chars().count())
    }
}

/// Describes an entry of a list, with its position.
pub(super) fn shown_of(text: &str, place: usize, places: usize) -> String {
    if places == 1 || is_address(text.trim()) {
        shown(text)
    } else {
        format!("entry {place}, {}", shown(text))
    }
}

/// The entries of a list with their places, from 1, without the spaces around them. An empty entry is none.
pub(super) fn entries(texts: &[String]) -> impl Iterator<Item = (usize, &str)> {
    let trimmed = (1..).zip(texts).map(|(place, text)| (place, text.trim()));
    trimmed.filter(|(_, text)| !text.is_empty())
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || text.parse::<IpNet>().is_ok()
        || text.parse::<SocketAddr>().is_ok()
}

/// Shows an unknown key if it looks like a mistyped one; other names may be secrets.
pub(super) fn shown_key(key: &str) -> String {
    let is_plain = key.len() <= KEY_CHARS_MAX
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_plain {
        key.to_owned()
    } else {
        format!("(a key of {} characters)", key.chars().count())
    }
}

/// Parses a duration. Does not pass on humantime's message, which quotes the value.
fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "not a duration such as 500ms, 10s or 1h 30m")
}

/// Whether a network holds loopback addresses only.
pub(super) fn is_loopback(net: &IpNet) -> bool {
    net.network().is_loopback() && net.broadcast().is_loopback()
}

/// Parses a network in CIDR notation, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "not an address or a network such as 192.0.2.0/24")
}

/// The longest known key has 23 characters.
const KEY_CHARS_MAX: usize = 32;
/// Longer deadlines would exceed the range of the clock.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);
