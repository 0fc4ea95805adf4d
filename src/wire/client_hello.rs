//! The TLS ClientHello, read in clear from the records that carry it (RFC 8446 sections 4.1.2 and 5.1, RFC 5246, RFC
//! 6066).
//!
//! Joins the handshake message over any number of records and segments, and is strict: a duplicate extension, a
//! trailing byte, an overrun or a second server name is an error, never a guess. Never decrypts, never changes a
//! byte, never allocates by a length that a peer names: the joined message is at most the limit the caller gives.

mod extensions;

use super::Parsed;
use super::cursor::Cursor;
use super::message::{MESSAGE_HEADER_BYTES, MessageError, Wanted, join};
use extensions::Extensions;

/// What the ClientHello says in clear, as far as policy and the audit record need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// `server_name`: ASCII letters, digits, hyphens, underscores and dots as they came; None when the extension is
    /// absent.
    pub server_name: Option<String>,
    /// Versions offered, in the client's order, GREASE left out: `supported_versions`, or else the highest one.
    pub versions: Vec<TlsVersion>,
    /// ALPN protocols in the client's order, at most [`ALPN_KEPT_MAX`] of them, GREASE left out.
    pub alpn: Vec<String>,
    /// Whether `encrypted_client_hello` is there (RFC 9849), as GREASE or in earnest: the wire does not tell.
    pub ech: bool,
    /// Whether `early_data` is there: records of 0-RTT data may follow before the server has answered.
    pub early_data: bool,
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
    /// The records or the message's frame.
    #[error("{0}")]
    Message(#[from] MessageError),
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
}

/// Parses the ClientHello at the start of `bytes`; its records may take at most `bytes_max` bytes.
///
/// # Errors
/// One [`HelloError`] for each way to be refused, as soon as the bytes so far show it.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Parsed<ClientHello>, HelloError> {
    let wanted = Wanted { kind: CLIENT_HELLO, bytes_max, more_may_follow: false };
    let Some(message) = join(bytes, wanted)? else {
        return Ok(Parsed::Incomplete);
    };
    let mut value = body(&message.bytes)?;
    value.records = message.records;
    Ok(Parsed::Complete { value, consumed: message.consumed })
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
    let Extensions { server_name, versions, alpn, ech, early_data } = Extensions::parse(extensions)?;
    let versions = versions.unwrap_or_else(|| TlsVersion::highest_of_legacy(legacy_version));
    Ok(ClientHello { server_name, versions, alpn, ech, early_data, records: 0 })
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

    pub(super) fn from_wire(number: u16) -> Option<Self> {
        match number {
            0x0300 => Some(Self::Ssl30),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }

    /// Without `supported_versions` a client takes every version up to `legacy_version`, and 1.3 never (RFC 8446,
    /// section 4.2.1).
    fn highest_of_legacy(legacy_version: u16) -> Vec<Self> {
        Self::from_wire(legacy_version.min(0x0303)).into_iter().collect()
    }
}

/// Clients send two or three; the audit record has no room for more.
pub const ALPN_KEPT_MAX: usize = 8;

const CLIENT_HELLO: u8 = 1;
const NULL_COMPRESSION: u8 = 0;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
