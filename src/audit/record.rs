//! What the audit record of an attempt says: its fields, in the order they are written, and how each is printed. Never writes one.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::authority::{Destination, UserId};
use crate::wire::client_hello::TlsVersion;
use crate::wire::ja4::Ja4;

/// One attempt at a tunnel. What was not known is absent. Holds values, not texts: whoever ends a tunnel has better to
/// do than to print them, the writer has not.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelRecord {
    /// When it ended: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "as_timestamp")]
    pub ts: OffsetDateTime,
    /// Always `tunnel`.
    pub event: &'static str,
    /// Unique within this process and its start.
    #[serde(serialize_with = "as_text")]
    pub id: TunnelId,
    /// The user whose credentials it had.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub user: Option<UserId>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address it came in on.
    pub listener: SocketAddr,
    /// The canonical host, or the address literal.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub host: Option<Destination>,
    /// The port asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `allowed`, `denied` or `failed`.
    pub outcome: &'static str,
    /// The short code of the end.
    pub code: &'static str,
    /// The short code with which it would have been refused if names were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<&'static str>,
    /// What the ClientHello said.
    #[serde(flatten)]
    pub hello: Option<Box<HelloRecord>>,
    /// Whether the server asked for a second ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_retry: Option<bool>,
    /// What the ServerHello said.
    #[serde(flatten)]
    pub server: Option<ServerRecord>,
    /// The upstream's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// The source address and port towards it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<SocketAddr>,
    /// The look-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_ms: Option<Micros>,
    /// The connection to the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<Micros>,
    /// From the client's first byte behind the handshake in clear to the upstream's first one after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u32>,
    /// The longest time without a byte either way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gap_ms: Option<u32>,
    /// Accept to end, in milliseconds.
    pub duration_ms: f64,
    /// Bytes from client to upstream.
    pub bytes_up: u64,
    /// Bytes from upstream to client.
    pub bytes_down: u64,
    /// Those of `bytes_up` that never entered user space.
    pub spliced_up: u64,
    /// Those of `bytes_down` that never entered user space.
    pub spliced_down: u64,
    /// What went wrong in detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// The hash of the policy in force.
    #[serde(serialize_with = "as_text")]
    pub policy: Arc<str>,
}

/// The part of a record that a ClientHello fills.
#[derive(Clone, Debug, Serialize)]
pub struct HelloRecord {
    /// What it named.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub sni: Option<Arc<str>>,
    /// The protocols it offered.
    #[serde(skip_serializing_if = "Protocols::is_empty")]
    pub alpn: Protocols,
    /// Its length on the wire.
    pub hello_bytes: u32,
    /// The records it came in.
    pub hello_records: u32,
    /// Whether it had encrypted_client_hello, GREASE included.
    pub ech: bool,
    /// The fingerprint of its client.
    #[serde(serialize_with = "as_text")]
    pub ja4: Ja4,
    /// TLS versions it offered.
    pub tls_offered: Versions,
    /// 200 to the whole ClientHello.
    pub hello_ms: Micros,
}

/// The part of a record that a ServerHello fills.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerRecord {
    /// The version that the server chose.
    pub tls_version: &'static str,
    /// The cipher suite that it chose: IANA's name, or the number.
    pub cipher: Named,
    /// The key-share group that it chose: IANA's name, or the number; absent below TLS 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Named>,
}

/// ALPN protocols in one piece of memory: thousands of tunnels keep theirs until they end.
#[derive(Clone, Debug)]
pub struct Protocols(Box<str>);

/// TLS versions, each at most once, in the order they were offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Versions([Option<TlsVersion>; 5]);

/// A number of IANA's, shown by its name if that is known.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// The number.
    pub number: u16,
    /// Its name.
    pub name: Option<&'static str>,
}

/// Which process and which of its tunnels.
#[derive(Clone, Copy, Debug)]
pub struct TunnelId {
    /// When the process started: milliseconds of Unix time.
    pub start: u64,
    /// The tunnel's number.
    pub number: u64,
}

/// Microseconds, shown as milliseconds; 71 minutes at most, which no deadline of the set-up exceeds.
#[derive(Clone, Copy, Debug)]
pub struct Micros(u32);

/// The time now as records show it.
#[must_use]
pub fn timestamp() -> String {
    time_text(OffsetDateTime::now_utc())
}

/// A time as records show it.
#[must_use]
pub fn time_text(at: OffsetDateTime) -> String {
    // Fails only for a format with parts that UTC lacks; this one has none.
    at.format(MICROSECONDS).unwrap_or_default()
}

impl Display for TunnelId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.number)
    }
}

impl Micros {
    /// To the microsecond.
    #[must_use]
    pub fn milliseconds(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl From<Duration> for Micros {
    fn from(took: Duration) -> Self {
        Self(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.milliseconds())
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&format_args!("0x{:04x}", self.number)),
        }
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_optional_text<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl Protocols {
    /// Keeps the first eight of at most 64 bytes, each without control characters.
    pub fn of<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut kept = String::new();
        for name in names.filter(|name| name.len() <= PROTOCOL_BYTES_MAX).take(PROTOCOLS_MAX) {
            if !kept.is_empty() {
                kept.push(SEPARATOR);
            }
            kept.extend(name.escape_ascii().map(char::from));
        }
        Self(kept.into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Protocols {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.split(SEPARATOR))
    }
}

impl Versions {
    /// Keeps each of them once; there are no more than five to tell apart.
    pub fn of(offered: impl Iterator<Item = TlsVersion>) -> Self {
        let mut kept = Self::default();
        for version in offered.map(Some) {
            // The place where it stands already, or else the first free one.
            if let Some(place) = kept.0.iter_mut().find(|place| place.is_none() || **place == version) {
                *place = version;
            }
        }
        kept
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flatten().map(|version| version.as_str()))
    }
}

fn as_timestamp<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time_text(*at))
}

const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// In no name of a protocol: those are escaped.
const SEPARATOR: char = '\0';
/// Clients offer two or three.
const PROTOCOLS_MAX: usize = 8;
/// The longest registered protocol has about twenty.
const PROTOCOL_BYTES_MAX: usize = 64;
