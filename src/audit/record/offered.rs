//! What a ClientHello offers, as its record keeps it: ALPN protocols and TLS versions, bounded in
//! number and size.

use super::super::line::{Field, Line};
use crate::wire::client_hello::TlsVersion;

/// ALPN protocols in one allocation: thousands of tunnels keep theirs until they end.
#[derive(Clone, Debug)]
pub struct Protocols(Box<str>);

/// TLS versions, each at most once, in the offered order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Versions([Option<TlsVersion>; 5]);

impl Protocols {
    /// Keeps the first eight protocols of at most 64 bytes each, without control characters.
    pub fn of<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut kept = String::new();
        for name in names
            .filter(|name| name.len() <= PROTOCOL_BYTES_MAX)
            .take(PROTOCOLS_MAX)
        {
            if !kept.is_empty() {
                kept.push(SEPARATOR);
            }
            kept.extend(name.escape_ascii().map(char::from));
        }
        Self(kept.into())
    }

    /// Those of a former daemon's record, which are escaped already.
    pub(super) fn of_escaped(names: impl Iterator<Item = String>) -> Self {
        let names: Vec<String> = names
            .filter(|name| !name.is_empty() && !name.contains(SEPARATOR))
            .collect();
        Self(names.join("\0").into())
    }

    /// Each protocol, escaped.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split(SEPARATOR).filter(|name| !name.is_empty())
    }

    /// Keeps as many whole protocols as have at most this many bytes. Returns whether it dropped
    /// any.
    pub(super) fn cut(&mut self, bytes_max: usize) -> bool {
        if self.0.len() <= bytes_max {
            return false;
        }
        let end = self
            .0
            .get(..=bytes_max)
            .and_then(|kept| kept.rfind(SEPARATOR))
            .unwrap_or_default();
        self.0 = self.0.get(..end).unwrap_or_default().into();
        true
    }
}

impl Field for Protocols {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        if !self.0.is_empty() {
            line.texts(key, self.names());
        }
    }
}

impl Versions {
    /// Keeps each version once; at most five versions are distinct.
    pub fn of(offered: impl Iterator<Item = TlsVersion>) -> Self {
        let mut kept = Self::default();
        for version in offered.map(Some) {
            // The place of this version if it is present, otherwise the first free place.
            if let Some(place) = kept
                .0
                .iter_mut()
                .find(|place| place.is_none() || **place == version)
            {
                *place = version;
            }
        }
        kept
    }

    /// Each version.
    pub(super) fn each(&self) -> impl Iterator<Item = TlsVersion> + Clone {
        self.0.into_iter().flatten()
    }
}

impl Field for Versions {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.texts(key, self.each().map(|version| version.as_str()));
    }
}

/// No protocol name contains it, because names are escaped.
const SEPARATOR: char = '\0';
/// Clients offer two or three.
const PROTOCOLS_MAX: usize = 8;
/// The longest registered protocol has about twenty.
const PROTOCOL_BYTES_MAX: usize = 64;
