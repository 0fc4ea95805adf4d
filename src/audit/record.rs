//! Defines the audit record of an attempt: its fields, in the order in which they are written, and
//! how each is printed. Never writes a record.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

mod offered;
mod parked;

pub use offered::{Protocols, Versions};

use super::line::{Field, Line, record};
use crate::authority::{Destination, UserId};
use crate::digest::Digest;
use crate::wire::ja4::Ja4;

record! {
    /// One attempt at a tunnel. Unknown fields are absent. Holds values, not texts: workers hand
    /// over values, and the writer thread formats them.
    #[derive(Clone, Debug)]
    pub struct TunnelRecord {
        /// When the attempt ended: RFC 3339, UTC, microseconds.
        pub ts: OffsetDateTime,
        /// Always `tunnel`.
        pub event: &'static str,
        /// Unique among all attempts of this process.
        pub id: TunnelId,
        /// The user whose credentials the request had.
        pub user: Option<UserId>,
        /// What has authenticated the user: `basic`, `certificate` or `both`.
        pub auth: Option<&'static str>,
        /// The client's address and port. None if `count` covers several clients.
        pub client: Option<SocketAddr>,
        /// The balancer or TLS terminator whose PROXY header declared the client.
        pub via: Option<SocketAddr>,
        /// SHA-256 of the client's certificate, which a TLS terminator has verified.
        pub certificate: Option<Digest>,
        /// Its serial number in hexadecimal digits.
        pub certificate_serial: Option<Arc<str>>,
        /// The version of TLS between the client and the terminator.
        pub hop_version: Option<Arc<str>>,
        /// The cipher suite there.
        pub hop_cipher: Option<Arc<str>>,
        /// The key-exchange group there.
        pub hop_group: Option<Arc<str>>,
        /// The listener's address.
        pub listener: SocketAddr,
        /// The canonical host, or the address literal.
        pub host: Option<Destination>,
        /// The requested port.
        pub port: Option<u16>,
        /// `allowed`, `denied` or `failed`.
        pub outcome: &'static str,
        /// The short code of the ending.
        pub code: &'static str,
        /// The short code of the refusal if names were enforced (report mode).
        pub would_deny: Option<&'static str>,
        /// The short code that a new connection would get now, if that ended this tunnel.
        pub revoked_by: Option<&'static str>,
        /// Fields of the ClientHello.
        pub hello: Option<Box<HelloRecord>>,
        /// Whether the server requested a second ClientHello.
        pub hello_retry: Option<bool>,
        /// Fields of the ServerHello.
        pub server: Option<ServerRecord>,
        /// The upstream's address and port.
        pub upstream: Option<SocketAddr>,
        /// The source address and port of the upstream connection.
        pub egress: Option<SocketAddr>,
        /// Duration of the look-up.
        pub dns_ms: Option<Micros>,
        /// Duration of the connect; None if the tunnel used a warm socket.
        pub connect_ms: Option<Micros>,
        /// Whether the tunnel used a warm socket.
        pub warm: Option<bool>,
        /// Whether it was dialled after all, because the upstream had closed the warm socket.
        pub redialled: Option<bool>,
        /// From the client's first byte after the handshake in clear to the upstream's first byte
        /// after that.
        pub first_byte_ms: Option<u32>,
        /// The longest time without a byte in either direction.
        pub max_gap_ms: Option<u32>,
        /// From accept to the end, in milliseconds.
        pub duration_ms: f64,
        /// Bytes from client to upstream.
        pub bytes_up: u64,
        /// Bytes from upstream to client.
        pub bytes_down: u64,
        /// Part of `bytes_up` that never entered user space.
        pub spliced_up: u64,
        /// Part of `bytes_down` that never entered user space.
        pub spliced_down: u64,
        /// Details of the error.
        pub error: Option<Box<str>>,
        /// Whether a text was truncated.
        pub cut: Option<bool>,
        /// How many refusals this record counts. None: one attempt.
        pub count: Option<u64>,
        /// When the first of them ended.
        pub first: Option<OffsetDateTime>,
        /// The hash of the policy in force.
        pub policy: Arc<str>,
    }
}

record! {
    /// Fields from the ClientHello.
    #[derive(Clone, Debug)]
    pub struct HelloRecord {
        /// The SNI.
        pub sni: Option<Arc<str>>,
        /// The offered ALPN protocols.
        pub alpn: Protocols,
        /// The hello's length in bytes.
        pub hello_bytes: u32,
        /// The number of TLS records that carried it.
        pub hello_records: u32,
        /// Whether it had encrypted_client_hello, GREASE included.
        pub ech: bool,
        /// The JA4 fingerprint of the client.
        pub ja4: Ja4,
        /// The offered TLS versions.
        pub tls_offered: Versions,
        /// From the 200 to the complete ClientHello.
        pub hello_ms: Micros,
    }
}

record! {
    /// Fields from the ServerHello.
    #[derive(Clone, Copy, Debug)]
    pub struct ServerRecord {
        /// The chosen version.
        pub tls_version: &'static str,
        /// The chosen cipher suite: IANA's name, or the number.
        pub cipher: Named,
        /// The chosen key-share group: IANA's name, or the number; absent below TLS 1.3.
        pub group: Option<Named>,
    }
}

/// A number of an IANA registry, printed by name if the name is known.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// The number.
    pub number: u16,
    /// Its name.
    pub name: Option<&'static str>,
}

/// Identifies a tunnel: the process and a number.
#[derive(Clone, Copy, Debug)]
pub struct TunnelId {
    /// When the process started: milliseconds of Unix time.
    pub start: u64,
    /// The tunnel's number.
    pub number: u64,
}

/// Microseconds, printed as milliseconds; values above 71 minutes saturate.
#[derive(Clone, Copy, Debug)]
pub struct Micros(u32);

/// The current time in the format of records.
#[must_use]
pub fn timestamp() -> String {
    time_text(OffsetDateTime::now_utc())
}

/// A time in the format of records.
#[must_use]
pub fn time_text(at: OffsetDateTime) -> String {
    // Fails only for a format with parts that UTC lacks; this one has none.
    at.format(MICROSECONDS).unwrap_or_default()
}

impl TunnelRecord {
    /// Truncates the texts that a peer can put into the record of a refusal. Keeps the host whole,
    /// because DNS bounds it.
    pub fn cut_texts(&mut self) {
        let mut is_cut = false;
        if let Some(hello) = &mut self.hello {
            is_cut |= hello.alpn.cut(REFUSED_TEXT_BYTES_MAX);
            if let Some(cut) = hello.sni.as_deref().and_then(cut_text) {
                hello.sni = Some(cut.into());
                is_cut = true;
            }
        }
        if let Some(cut) = self.error.as_deref().and_then(cut_text) {
            self.error = Some(cut.into());
            is_cut = true;
        }
        self.cut = is_cut.then_some(true);
    }

    /// The fields that refusals with the same code share for all clients.
    #[must_use]
    pub(super) fn of_several_clients(self) -> Self {
        Self {
            user: None,
            client: None,
            auth: None,
            via: None,
            certificate: None,
            certificate_serial: None,
            hop_version: None,
            hop_cipher: None,
            hop_group: None,
            host: None,
            port: None,
            would_deny: None,
            hello: None,
            hello_retry: None,
            server: None,
            upstream: None,
            egress: None,
            dns_ms: None,
            connect_ms: None,
            warm: None,
            redialled: None,
            error: None,
            cut: None,
            ..self
        }
    }
}

/// The beginning of a text that is too long for a refusal's record.
fn cut_text(text: &str) -> Option<String> {
    (text.len() > REFUSED_TEXT_BYTES_MAX).then(|| {
        let kept = text
            .get(..text.floor_char_boundary(REFUSED_TEXT_BYTES_MAX))
            .unwrap_or_default();
        format!("{kept}…")
    })
}

impl TunnelId {
    /// Reads an identifier, as [`Display`] prints it. Returns None for any other text.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let (start, number) = id.split_once('-')?;
        let parse = |digits: &str| {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
        };
        Some(Self {
            start: parse(start)?,
            number: parse(number)?,
        })
    }

    /// The identifier with these two parts, the process and the number.
    #[must_use]
    pub fn of((start, number): (u64, u64)) -> Self {
        Self { start, number }
    }
}

impl Display for TunnelId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.number)
    }
}

impl Micros {
    /// Rounds to the microsecond.
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

impl Field for Micros {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        self.milliseconds().print(key, line);
    }
}

impl Field for Digest {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.word(key, std::str::from_utf8(&self.digits()).unwrap_or_default());
    }
}

impl Field for Named {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        match self.name {
            Some(name) => line.word(key, name),
            None => line.shown(key, format_args!("0x{:04x}", self.number)),
        }
    }
}

impl Field for TunnelId {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.pair(key, self.start, self.number);
    }
}

impl Field for UserId {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.text(key, self.as_str());
    }
}

impl Field for Destination {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        match self {
            Self::Name(host) => line.text(key, host.as_str()),
            Self::Address(address) => line.shown(key, address),
        }
    }
}

impl Field for Ja4 {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.word(key, self.as_str());
    }
}

const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Of each text in the record of a refusal, escapes not counted.
const REFUSED_TEXT_BYTES_MAX: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
pub(super) mod tests;
