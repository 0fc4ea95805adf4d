//! The TLS ClientHello, read in clear from the records that carry it (RFC 8446 sections 4.1.2 and 5.1, RFC 5246, RFC 6066).
//!
//! Joins the handshake message over any number of records and segments, and is strict: a duplicate extension, a trailing byte, an
//! overrun or a second server name is an error, never a guess. Never decrypts, never changes a byte, never allocates by a length that a
//! peer names: the joined message is at most the limit the caller gives.

mod extensions;

use std::borrow::Cow;

use crate::wire::Parsed;
use crate::wire::cursor::Cursor;
use extensions::Extensions;

/// What the ClientHello says in clear, as far as policy and the audit record need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// `server_name`: ASCII letters, digits, hyphens, underscores and dots as they came; None when the extension is absent.
    pub server_name: Option<String>,
    /// Versions offered, in the client's order, GREASE left out: `supported_versions`, or else the highest one.
    pub versions: Vec<TlsVersion>,
    /// ALPN protocols in the client's order, at most [`ALPN_KEPT_MAX`] of them, GREASE left out.
    pub alpn: Vec<String>,
    /// Whether `encrypted_client_hello` is there (RFC 9849), as GREASE or in earnest: the wire does not tell.
    pub ech: bool,
    /// Records that carried the message.
    pub records: usize,
}

/// A TLS version by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 0x0300.
    Ssl30,
    /// 0x0301.
    Tls10,
    /// 0x0302.
    Tls11,
    /// 0x0303.
    Tls12,
    /// 0x0304.
    Tls13,
}

/// Why bytes are no acceptable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not a TLS handshake record: plain HTTP, SSH, SSLv2, anything.
    #[error("the first bytes are not a TLS handshake record")]
    NotTls,
    /// A record of another type between the parts of the message.
    #[error("a record of another type inside the ClientHello")]
    InterleavedRecord,
    /// A handshake record without content, or longer than 2^14 bytes.
    #[error("an empty or oversized record")]
    RecordLength,
    /// Another handshake message where the ClientHello must be.
    #[error("the handshake message is not a ClientHello")]
    NotClientHello,
    /// More behind the ClientHello in its last record (RFC 8446, section 5.1 wants a record boundary here).
    #[error("bytes behind the ClientHello in its record")]
    TrailingHandshake,
    /// A length that runs past its container, a missing field or a trailing byte.
    #[error("a field of the ClientHello overruns or is missing")]
    Syntax,
    /// The same extension twice.
    #[error("a duplicate extension")]
    DuplicateExtension,
    /// More extensions than any client sends.
    #[error("too many extensions")]
    TooManyExtensions,
    /// An empty list, a second entry or another type than host_name in `server_name`.
    #[error("server_name does not hold one host_name")]
    ServerNameList,
    /// An empty, overlong or non-LDH name in `server_name`.
    #[error("the name in server_name is not a host name")]
    ServerName,
    /// Longer than the limit, or cut into more records than [`RECORDS_MAX`].
    #[error("the ClientHello is larger than the limit")]
    TooLarge,
}

/// Parses the ClientHello at the start of `bytes`; its records may take at most `bytes_max` bytes.
///
/// # Errors
/// One [`HelloError`] for each way to be refused, as soon as the bytes so far show it.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Parsed<ClientHello>, HelloError> {
    let Some(message) = join(bytes, bytes_max)? else {
        return Ok(Parsed::Incomplete);
    };
    let mut value = body(&message.body)?;
    value.records = message.records;
    Ok(Parsed::Complete { value, consumed: message.consumed })
}

struct Message<'a> {
    body: Cow<'a, [u8]>,
    records: usize,
    consumed: usize,
}

/// Collects the handshake message from its records. A message within one record, as nearly all are, is not copied.
fn join(bytes: &[u8], bytes_max: usize) -> Result<Option<Message<'_>>, HelloError> {
    let mut records = 0;
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        let consumed = bytes.len() - rest.len();
        let wanted = wanted_bytes(&joined, bytes_max)?;
        if wanted.is_some_and(|wanted| joined.len() > wanted) {
            return Err(HelloError::TrailingHandshake);
        }
        if wanted == Some(joined.len()) {
            return Ok(Some(Message { body: joined, records, consumed }));
        }
        if records == RECORDS_MAX || consumed >= bytes_max {
            return Err(HelloError::TooLarge);
        }
        let Some(fragment) = record(rest, records)? else {
            return Ok(None);
        };
        if records == 0 {
            joined = Cow::Borrowed(fragment.bytes);
        } else {
            joined.to_mut().extend_from_slice(fragment.bytes);
        }
        if fragment.is_cut {
            // The header may be there already and say that waiting is in vain.
            return wanted_bytes(&joined, bytes_max).map(|_| None);
        }
        records += 1;
        rest = rest.get(RECORD_HEADER_BYTES + fragment.bytes.len()..).unwrap_or_default();
    }
}

/// Header and body of the message in bytes, once the header is there.
fn wanted_bytes(joined: &[u8], bytes_max: usize) -> Result<Option<usize>, HelloError> {
    let mut cursor = Cursor::new(joined);
    match cursor.u8() {
        None => return Ok(None),
        Some(CLIENT_HELLO) => {}
        Some(_) => return Err(HelloError::NotClientHello),
    }
    match cursor.u24() {
        None => Ok(None),
        Some(len) if len + MESSAGE_HEADER_BYTES + RECORD_HEADER_BYTES > bytes_max => Err(HelloError::TooLarge),
        Some(len) => Ok(Some(len + MESSAGE_HEADER_BYTES)),
    }
}

/// What the next record carries, as far as it is there.
struct Fragment<'a> {
    bytes: &'a [u8],
    is_cut: bool,
}

/// The next record's fragment; None before its header is whole.
fn record(rest: &[u8], records_before: usize) -> Result<Option<Fragment<'_>>, HelloError> {
    let mut cursor = Cursor::new(rest);
    match cursor.u8() {
        None => return Ok(None),
        Some(HANDSHAKE) => {}
        Some(ALERT | CHANGE_CIPHER_SPEC | APPLICATION_DATA) if records_before > 0 => {
            return Err(HelloError::InterleavedRecord);
        }
        Some(_) => return Err(HelloError::NotTls),
    }
    match cursor.u8() {
        None => return Ok(None),
        Some(3) => {}
        Some(_) => return Err(HelloError::NotTls),
    }
    let Some(_minor) = cursor.u8() else { return Ok(None) };
    let Some(len) = cursor.u16() else { return Ok(None) };
    if len == 0 || len > RECORD_BYTES_MAX {
        return Err(HelloError::RecordLength);
    }
    Ok(Some(match cursor.take(len.into()) {
        Some(bytes) => Fragment { bytes, is_cut: false },
        None => Fragment { bytes: cursor.rest(), is_cut: true },
    }))
}

/// The body of the message, behind its header of four bytes (RFC 8446, section 4.1.2).
fn body(message: &[u8]) -> Result<ClientHello, HelloError> {
    let mut cursor = Cursor::new(message);
    let fixed = |field: Option<&[u8]>| field.map(drop).ok_or(HelloError::Syntax);
    fixed(cursor.take(MESSAGE_HEADER_BYTES))?;
    let legacy_version = cursor.u16().ok_or(HelloError::Syntax)?;
    fixed(cursor.take(RANDOM_BYTES))?;
    let session_id = cursor.vector8().ok_or(HelloError::Syntax)?;
    let cipher_suites = cursor.vector16().ok_or(HelloError::Syntax)?;
    let compressions = cursor.vector8().ok_or(HelloError::Syntax)?;
    let suites_ok = !cipher_suites.is_empty() && cipher_suites.len() % 2 == 0;
    if session_id.len() > SESSION_ID_BYTES_MAX || !suites_ok || !compressions.contains(&NULL_COMPRESSION) {
        return Err(HelloError::Syntax);
    }
    // A hello of TLS 1.2 may end here (RFC 5246, section 7.4.1.2).
    let extensions = if cursor.is_empty() { &[][..] } else { cursor.vector16().ok_or(HelloError::Syntax)? };
    if !cursor.is_empty() {
        return Err(HelloError::Syntax);
    }
    let Extensions { server_name, versions, alpn, ech } = Extensions::parse(extensions)?;
    let versions = versions.unwrap_or_else(|| TlsVersion::highest_of_legacy(legacy_version));
    Ok(ClientHello { server_name, versions, alpn, ech, records: 0 })
}

impl TlsVersion {
    /// As RFCs and users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ssl30 => "SSL 3.0",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    fn from_wire(number: u16) -> Option<Self> {
        match number {
            0x0300 => Some(Self::Ssl30),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }

    /// Without `supported_versions` a client takes every version up to `legacy_version`, and 1.3 never (RFC 8446, section 4.2.1).
    fn highest_of_legacy(legacy_version: u16) -> Vec<Self> {
        Self::from_wire(legacy_version.min(0x0303)).into_iter().collect()
    }
}

/// Clients fragment down to 512 bytes (max_fragment_length, RFC 6066): 64 KiB are 128 records. The bound keeps the work per byte constant.
pub const RECORDS_MAX: usize = 128;
/// Clients send two or three; the audit record has no room for more.
pub const ALPN_KEPT_MAX: usize = 8;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const NULL_COMPRESSION: u8 = 0;
const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
/// RFC 8446, section 5.1.
const RECORD_BYTES_MAX: u16 = 1 << 14;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
