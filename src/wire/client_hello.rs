//! The TLS ClientHello, read in clear from the records that carry it (RFC 8446 sections 4.1.2 and 5.1, RFC 5246, RFC
//! 6066).
//!
//! Joins the handshake message from any number of records and segments. Strict: a duplicate
//! extension, a trailing byte, an overrun or a second server name is an error. Never decrypts,
//! never changes a byte, never allocates by a length that a peer chooses: the joined message is at
//! most as long as the caller's limit.

mod body;
mod extensions;
mod fields;
mod pre_shared_key;
mod reader;
mod server_name;

use super::Parsed;
use super::message::{MessageError, Walk, Wanted};
use body::Places;

/// A ClientHello with checked syntax: its message, and the positions of its lists. Reads a field
/// when it is asked for, so a tunnel pays for one copy and for no unused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    message: Vec<u8>,
    places: Places,
    /// The number of records that carried the message.
    pub records: usize,
}

/// A client's key share for a group (RFC 8446, section 4.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyShare<'a> {
    /// The group by its number.
    pub group: u16,
    /// The key.
    pub key: &'a [u8],
}

/// The type of `encrypted_client_hello` (RFC 9849, section 5). GREASE has the form of an outer
/// hello; only the holder of the key can distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ech {
    /// An encrypted hello within this one, or GREASE.
    Outer,
    /// The inner hello; its server_name is the true one.
    Inner,
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

/// Why bytes are not an acceptable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The records or the message's frame.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A malformed part of the message.
    #[error("{0} of the ClientHello: {1}")]
    Malformed(Part, Fault),
    /// The name in `server_name`, or the list around it.
    #[error("server_name of the ClientHello: {0}")]
    ServerName(#[from] NameFault),
    /// An extension after `pre_shared_key` (RFC 8446, section 4.2.11).
    #[error("pre_shared_key of the ClientHello: not the last extension")]
    PreSharedKeyNotLast,
    /// The numbers of binders and identities differ (RFC 8446, section 4.2.11).
    #[error("pre_shared_key of the ClientHello: not one binder for each identity")]
    PreSharedKeyBinders,
    /// A binder shorter than any hash (RFC 8446, section 4.2.11).
    #[error("pre_shared_key of the ClientHello: a binder that is too short")]
    PreSharedKeyBinderLength,
}

/// A part of a ClientHello: a field of its body (RFC 8446, section 4.1.2), or an extension by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // named as in the RFCs
pub enum Part {
    #[error("the fixed fields")]
    Fields,
    #[error("the session id")]
    SessionId,
    #[error("the cipher suites")]
    CipherSuites,
    #[error("the compression methods")]
    CompressionMethods,
    #[error("the extensions")]
    Extensions,
    #[error("server_name")]
    ServerName,
    #[error("supported_groups")]
    SupportedGroups,
    #[error("signature_algorithms")]
    SignatureAlgorithms,
    #[error("application_layer_protocol_negotiation")]
    Alpn,
    #[error("pre_shared_key")]
    PreSharedKey,
    #[error("early_data")]
    EarlyData,
    #[error("supported_versions")]
    SupportedVersions,
    #[error("key_share")]
    KeyShare,
    #[error("encrypted_client_hello")]
    EncryptedClientHello,
}

/// A fault of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A length beyond its container, or a missing field.
    #[error("a field overruns or is missing")]
    Overrun,
    /// Bytes after the last field.
    #[error("bytes after the last field")]
    Trailing,
    /// An empty vector where the RFC requires an entry.
    #[error("an empty list or entry")]
    Empty,
    /// A list of numbers of two bytes that has an odd length.
    #[error("an incomplete number at the end of a list")]
    OddLength,
    /// A vector that is longer than the RFC allows.
    #[error("too long")]
    TooLong,
    /// The same extension, or two keys for the same group.
    #[error("a duplicate")]
    Duplicate,
    /// A value that the RFC forbids.
    #[error("a value that is not allowed")]
    Value,
}

/// A fault of the name in a ClientHello (RFC 6066, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// A list without an entry.
    #[error("an empty list")]
    NoEntry,
    /// A type other than host_name.
    #[error("a type other than host_name")]
    Kind,
    /// More than one name.
    #[error("several names")]
    Several,
    /// An empty name.
    #[error("an empty name")]
    Empty,
    /// A name longer than any in DNS.
    #[error("a name that is too long")]
    TooLong,
    /// A NUL; some readers end a name there.
    #[error("a NUL in the name")]
    Nul,
    /// A character that is not an ASCII letter, digit, hyphen, underscore or dot.
    #[error("a character in the name that no host name has")]
    Character,
}

/// A ClientHello that arrives in pieces. Examines no byte twice before it is complete.
#[derive(Debug)]
pub struct Incoming(Walk);

/// Parses the ClientHello at the start of `bytes`; its records may take at most `bytes_max` bytes.
///
/// # Errors
/// One [`HelloError`] for each fault, as soon as the bytes show it.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Parsed<ClientHello>, HelloError> {
    Incoming::new(bytes_max).parse(bytes)
}

impl Incoming {
    /// A reader for records of at most `bytes_max` bytes in all.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Walk::new(Wanted {
            kind: CLIENT_HELLO,
            bytes_max,
            more_may_follow: false,
        }))
    }

    /// Parses the bytes received so far: `bytes` holds all of them and begins like the last call's.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Parsed<ClientHello>, HelloError> {
        let Some(message) = self.0.join(bytes)? else {
            return Ok(Parsed::Incomplete);
        };
        let places = body::check(&message.bytes)?;
        let value = ClientHello {
            message: message.bytes.into_owned(),
            places,
            records: message.records,
        };
        Ok(Parsed::Complete {
            value,
            consumed: message.consumed,
        })
    }
}

/// Whether the number is GREASE (RFC 8701, section 2): two equal bytes ending in `a`.
#[must_use]
pub fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// Reads the numbers of a list of even length.
fn numbers(list: &[u8]) -> impl Iterator<Item = u16> + '_ {
    list.as_chunks()
        .0
        .iter()
        .map(|pair| u16::from_be_bytes(*pair))
}

impl TlsVersion {
    /// Spelled as in RFCs and by users.
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

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Ssl30 => 0x0300,
            Self::Tls10 => 0x0301,
            Self::Tls11 => 0x0302,
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }

    /// The version with this number; None if it is unknown.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<Self> {
        match number {
            0x0300 => Some(Self::Ssl30),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }
}

const CLIENT_HELLO: u8 = 1;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
