//! A server's first message, read in clear: ServerHello, HelloRetryRequest, or an alert (RFC 8446
//! sections 4.1.3, 4.1.4 and 6; RFC 5246 section 7.4.1.3).
//!
//! Strict about version, cipher suite and key-share group. Does not read past the ServerHello: TLS
//! 1.3 is encrypted from there on. Never changes a byte.

use super::Parsed;
use super::client_hello::TlsVersion;
use super::cursor::Cursor;
use super::distinct::Distinct;
use super::message::{
    ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, MESSAGE_HEADER_BYTES, MessageError, RECORDS_MAX, Wanted,
    control, final_alert, join,
};
use super::record::RECORD_HEADER_BYTES;

/// The server's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFlight {
    /// ServerHello.
    Hello(ServerHello),
    /// HelloRetryRequest.
    Retry,
    /// An alert that ends the server's side: a fatal one, or close_notify.
    FinalAlert(u8),
    /// A warning, or the change_cipher_spec of middlebox compatibility; the ServerHello is still to
    /// come.
    Preamble,
}

/// What was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite by its number.
    pub cipher: u16,
    /// The group of the key share; None below TLS 1.3, and for resumption without a key exchange.
    pub group: Option<u16>,
}

impl ServerHello {
    /// IANA's name of the cipher suite, if the table has it.
    #[must_use]
    pub fn cipher_name(&self) -> Option<&'static str> {
        name_of(&CIPHERS, self.cipher)
    }

    /// IANA's name of the group, if the table has it.
    #[must_use]
    pub fn group_name(&self) -> Option<&'static str> {
        name_of(&GROUPS, self.group?)
    }
}

fn name_of(names: &[(u16, &'static str)], number: u16) -> Option<&'static str> {
    names
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

/// Why bytes are not an acceptable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerFlightError {
    /// The records or the message's frame.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A length beyond its container, a missing field, a trailing byte, a duplicate extension, or a
    /// value that the version forbids.
    #[error("a field of the ServerHello overruns, is missing or is invalid")]
    Syntax,
    /// An unknown version, which cannot be compared with the minimum.
    #[error("the ServerHello chooses an unknown TLS version")]
    Version,
}

/// Parses the message at the start of `bytes`.
///
/// # Errors
/// One [`ServerFlightError`] for each fault, as soon as the bytes show it.
pub fn parse(bytes: &[u8]) -> Result<Parsed<ServerFlight>, ServerFlightError> {
    match bytes.first() {
        Some(&(ALERT | CHANGE_CIPHER_SPEC)) => return preamble(bytes),
        Some(&HANDSHAKE) | None => {}
        Some(_) => return Err(MessageError::NotTls.into()),
    }
    let wanted = Wanted {
        kind: SERVER_HELLO,
        bytes_max: ANSWER_BYTES_MAX,
        more_may_follow: true,
    };
    let Some(message) = join(bytes, wanted)? else {
        return Ok(Parsed::Incomplete);
    };
    let mut cursor = Cursor::new(&message.bytes);
    let len = cursor
        .take(1)
        .and_then(|_| cursor.u24())
        .ok_or(ServerFlightError::Syntax)?;
    let value = body(cursor.take(len).ok_or(ServerFlightError::Syntax)?)?;
    if value == ServerFlight::Retry && message.bytes.len() > len + MESSAGE_HEADER_BYTES {
        return Err(MessageError::Trailing.into());
    }
    Ok(Parsed::Complete {
        value,
        consumed: message.consumed,
    })
}

/// Parses one complete alert or change_cipher_spec record.
fn preamble(bytes: &[u8]) -> Result<Parsed<ServerFlight>, ServerFlightError> {
    let Some(content) = control(bytes)? else {
        return Ok(Parsed::Incomplete);
    };
    let value = final_alert(content).map_or(ServerFlight::Preamble, ServerFlight::FinalAlert);
    Ok(Parsed::Complete {
        value,
        consumed: RECORD_HEADER_BYTES + content.len(),
    })
}

fn body(bytes: &[u8]) -> Result<ServerFlight, ServerFlightError> {
    let mut cursor = Cursor::new(bytes);
    let legacy_version = cursor.u16().ok_or(ServerFlightError::Syntax)?;
    let random = cursor.take(32).ok_or(ServerFlightError::Syntax)?;
    let session_id = cursor.vector8().ok_or(ServerFlightError::Syntax)?;
    let cipher = cursor.u16().ok_or(ServerFlightError::Syntax)?;
    let compression = cursor.u8().ok_or(ServerFlightError::Syntax)?;
    let extensions = if cursor.is_empty() {
        &[][..]
    } else {
        cursor.vector16().ok_or(ServerFlightError::Syntax)?
    };
    if session_id.len() > 32 || !cursor.is_empty() {
        return Err(ServerFlightError::Syntax);
    }
    let is_retry = random == RETRY_RANDOM;
    let Extensions { version, group } = Extensions::parse(extensions, is_retry)?;
    // supported_versions may name TLS 1.3 only; lower versions are in legacy_version (RFC 8446,
    // section 4.2.1).
    let version = match version {
        Some(TlsVersion::Tls13) => TlsVersion::Tls13,
        Some(_) => return Err(ServerFlightError::Syntax),
        // Only TLS 1.3 has a retry, and names it in supported_versions (RFC 8446, section 4.1.4).
        None if is_retry => return Err(ServerFlightError::Syntax),
        None => match TlsVersion::from_wire(legacy_version) {
            Some(TlsVersion::Tls13) => return Err(ServerFlightError::Syntax),
            version => version.ok_or(ServerFlightError::Version)?,
        },
    };
    // Below TLS 1.3 a server may choose any compression that the client offered (RFC 3749).
    if compression != 0 && version == TlsVersion::Tls13 {
        return Err(ServerFlightError::Syntax);
    }
    if is_retry {
        return Ok(ServerFlight::Retry);
    }
    // A key share has no meaning below TLS 1.3.
    let group = group.filter(|_| version == TlsVersion::Tls13);
    Ok(ServerFlight::Hello(ServerHello {
        version,
        cipher,
        group,
    }))
}

#[derive(Default)]
struct Extensions {
    version: Option<TlsVersion>,
    group: Option<u16>,
}

impl Extensions {
    fn parse(bytes: &[u8], is_retry: bool) -> Result<Self, ServerFlightError> {
        let mut found = Self::default();
        let mut kinds = Distinct::new();
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let kind = cursor.u16().ok_or(ServerFlightError::Syntax)?;
            let mut data = Cursor::new(cursor.vector16().ok_or(ServerFlightError::Syntax)?);
            if !kinds.add(kind) {
                return Err(ServerFlightError::Syntax);
            }
            match kind {
                SUPPORTED_VERSIONS => {
                    let number = data
                        .u16()
                        .filter(|_| data.is_empty())
                        .ok_or(ServerFlightError::Syntax)?;
                    found.version =
                        Some(TlsVersion::from_wire(number).ok_or(ServerFlightError::Version)?);
                }
                KEY_SHARE => {
                    let group = data.u16().ok_or(ServerFlightError::Syntax)?;
                    // A retry holds only the group (RFC 8446, section 4.2.8).
                    let share_ok =
                        is_retry || data.vector16().is_some_and(|share| !share.is_empty());
                    if !share_ok || !data.is_empty() {
                        return Err(ServerFlightError::Syntax);
                    }
                    found.group = Some(group);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// TLS Cipher Suites, IANA: those that today's clients negotiate.
const CIPHERS: [(u16, &str); 9] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];
/// TLS Supported Groups, IANA.
const GROUPS: [(u16, &str); 6] = [
    (23, "secp256r1"),
    (24, "secp384r1"),
    (25, "secp521r1"),
    (29, "x25519"),
    (30, "x448"),
    (0x11ec, "X25519MLKEM768"),
];

/// SHA-256 of "HelloRetryRequest" (RFC 8446, section 4.1.3).
pub const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The longest possible ServerHello (RFC 8446, section 4.1.3), so that no valid one is refused for
/// its length: header, version, random, session id, suite, compression, and the extensions with
/// their lengths.
/// random, session id, suite, compression, and the extensions with their lengths.
const HELLO_BYTES_MAX: usize = MESSAGE_HEADER_BYTES + 2 + 32 + 33 + 2 + 1 + 2 + 65_535;
/// The same in the largest permitted number of records, the last one filled by a flight of TLS 1.2.
/// Today's servers send 90 to 1,200 bytes.
pub const ANSWER_BYTES_MAX: usize = HELLO_BYTES_MAX + RECORDS_MAX * RECORD_HEADER_BYTES + (1 << 14);
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
