//! The TLS ClientHello, read in clear from the records that carry it (RFC 8446 sections 4.1.2 and 5.1, RFC 5246, RFC
//! 6066).
//!
//! Joins the handshake message over any number of records and segments, and is strict: a duplicate extension, a
//! trailing byte, an overrun or a second server name is an error, never a guess. Never decrypts, never changes a
//! byte, never allocates by a length that a peer names: the joined message is at most the limit the caller gives.

mod body;
mod extensions;
mod fields;
mod pre_shared_key;
mod reader;
mod server_name;

use super::Parsed;
use super::message::{MessageError, Walk, Wanted};
use body::Places;

/// A ClientHello whose syntax has been checked: its message, and where its lists stand. What it says is read when it is
/// asked for, so that a tunnel pays for one copy and for no field that nobody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    message: Vec<u8>,
    places: Places,
    /// Records that carried the message.
    pub records: usize,
}

/// A key that a client offers for a group (RFC 8446, section 4.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyShare<'a> {
    /// The group by its number.
    pub group: u16,
    /// The key.
    pub key: &'a [u8],
}

/// What `encrypted_client_hello` says it is (RFC 9849, section 5). GREASE takes the form of an outer hello, and only
/// the holder of the key can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ech {
    /// An encrypted hello within this one, or GREASE.
    Outer,
    /// The hello that was within another one: its server_name is the true one.
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

/// Why bytes are no acceptable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The records or the message's frame.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// One part of the message, and what is wrong with it.
    #[error("{0} of the ClientHello: {1}")]
    Malformed(Part, Fault),
    /// The name in `server_name`, or the list around it.
    #[error("server_name of the ClientHello: {0}")]
    ServerName(#[from] NameFault),
    /// An extension behind `pre_shared_key` (RFC 8446, section 4.2.11).
    #[error("pre_shared_key of the ClientHello: not the last extension")]
    PreSharedKeyNotLast,
    /// More or fewer binders than identities (RFC 8446, section 4.2.11).
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

/// What can be wrong with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A length that runs past its container, or a missing field.
    #[error("a field overruns or is missing")]
    Overrun,
    /// Bytes behind the last field.
    #[error("bytes behind the last field")]
    Trailing,
    /// An empty vector where the RFC wants an entry.
    #[error("an empty list or entry")]
    Empty,
    /// A list of numbers of two bytes that has an odd length.
    #[error("half a number at the end of a list")]
    OddLength,
    /// A vector that is longer than the RFC allows.
    #[error("too long")]
    TooLong,
    /// The same extension, or two keys for the same group.
    #[error("the same one twice")]
    Duplicate,
    /// A value that the RFC forbids.
    #[error("a value that is not allowed")]
    Value,
}

/// What can be wrong with the name that a ClientHello gives (RFC 6066, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// A list without an entry.
    #[error("an empty list")]
    NoEntry,
    /// Another type than host_name.
    #[error("another type than host_name")]
    Kind,
    /// More than one name.
    #[error("several names")]
    Several,
    /// A name of no bytes.
    #[error("an empty name")]
    Empty,
    /// A name longer than any in DNS.
    #[error("a name that is too long")]
    TooLong,
    /// A NUL, where some readers end a name.
    #[error("a NUL in the name")]
    Nul,
    /// A character that is no ASCII letter, digit, hyphen, underscore or dot.
    #[error("a character in the name that no host name has")]
    Character,
}

/// A ClientHello that arrives in pieces: no byte is looked at twice before it is whole.
#[derive(Debug)]
pub struct Incoming(Walk);

/// Parses the ClientHello at the start of `bytes`; its records may take at most `bytes_max` bytes.
///
/// # Errors
/// One [`HelloError`] for each way to be refused, as soon as the bytes so far show it.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Parsed<ClientHello>, HelloError> {
    Incoming::new(bytes_max).parse(bytes)
}

impl Incoming {
    /// One whose records may take at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Walk::new(Wanted {
            kind: CLIENT_HELLO,
            bytes_max,
            more_may_follow: false,
        }))
    }

    /// Parses it as far as it has come: `bytes` is all that has arrived, and begins as it did before.
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

/// Whether clients say this number to keep servers tolerant (RFC 8701, section 2): two equal bytes ending in `a`.
#[must_use]
pub fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// The numbers of a list of even length.
fn numbers(list: &[u8]) -> impl Iterator<Item = u16> + '_ {
    list.as_chunks()
        .0
        .iter()
        .map(|pair| u16::from_be_bytes(*pair))
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
}

const CLIENT_HELLO: u8 = 1;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
