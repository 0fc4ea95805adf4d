//! A handshake message joined from the records that carry it (RFC 8446, section 5.1; RFC 5246, section 6.2.1).
//!
//! Joins any number of records and segments. Never allocates by a length that a peer chooses: the
//! joined message is at most as long as the caller's limit. Does not copy a message within one
//! record, the usual case.

use std::borrow::Cow;

use super::cursor::Cursor;
use super::record::{RECORD_HEADER_BYTES, RecordHeader};

/// A whole message with its header of four bytes.
pub(super) struct Message<'a> {
    /// Header and body, and the following bytes of the last record if they are allowed.
    pub(super) bytes: Cow<'a, [u8]>,
    /// The number of records that carried it.
    pub(super) records: usize,
    /// Their length including headers.
    pub(super) consumed: usize,
}

/// The expected message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Its type (RFC 8446, section 4).
    pub(super) kind: u8,
    /// The limit for all its records together, in bytes.
    pub(super) bytes_max: usize,
    /// Whether another message may follow in the last record: a TLS 1.2 server sends its whole
    /// flight in one.
    pub(super) more_may_follow: bool,
}

/// Why bytes do not carry the expected message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a TLS handshake record: plain HTTP, SSH, SSLv2, anything.
    #[error("the first bytes are not a TLS handshake record")]
    NotTls,
    /// A record of another type between parts of the message.
    #[error("a record of another type inside the handshake message")]
    InterleavedRecord,
    /// A handshake record without content, or longer than 2^14 bytes.
    #[error("an empty or oversized record")]
    RecordLength,
    /// A handshake message of another type.
    #[error("an unexpected handshake message")]
    Kind,
    /// Bytes after the message in its last record, where a record boundary is required.
    #[error("bytes after the handshake message in its record")]
    Trailing,
    /// A malformed alert or change_cipher_spec.
    #[error("a malformed alert or change_cipher_spec")]
    Control,
    /// Longer than the limit, or split into more records than [`RECORDS_MAX`].
    #[error("the handshake message is larger than the limit")]
    TooLarge,
    /// The caller's bytes do not begin like those of the call before.
    #[error("broken invariant: bytes that were read are missing")]
    Lost,
}

/// The records received so far of a message that arrives in pieces. Walks over no record twice, and
/// joins nothing before the message is complete.
#[derive(Debug)]
pub(super) struct Walk {
    wanted: Wanted,
    records: usize,
    /// The length of the complete records including headers.
    consumed: usize,
    /// The number of message bytes in them.
    joined: usize,
    /// The part of the message header in them.
    header: Header,
}

/// The first bytes of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    bytes: [u8; MESSAGE_HEADER_BYTES],
    len: usize,
}

/// Collects the message at the start of `bytes`; None when bytes are missing.
pub(super) fn join(bytes: &[u8], wanted: Wanted) -> Result<Option<Message<'_>>, MessageError> {
    Walk::new(wanted).join(bytes)
}

impl Walk {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            records: 0,
            consumed: 0,
            joined: 0,
            header: Header::default(),
        }
    }

    /// Returns the message when it is complete. `bytes` holds all bytes received and begins like
    /// the last call's.
    pub(super) fn join<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<Message<'a>>, MessageError> {
        while !self.is_whole()? {
            let rest = bytes.get(self.consumed..).ok_or(MessageError::Lost)?;
            let Some(fragment) = record(rest, self.records)? else {
                return Ok(None);
            };
            let header = self.header.with(fragment.bytes);
            if fragment.is_cut {
                // The header may already show that more bytes cannot help.
                return self.wanted.len(header.get()).map(|_| None);
            }
            self.header = header;
            self.joined += fragment.bytes.len();
            self.consumed += RECORD_HEADER_BYTES + fragment.bytes.len();
            self.records += 1;
        }
        let records = bytes.get(..self.consumed).unwrap_or_default();
        let bytes = self.fragments(records);
        Ok(Some(Message {
            bytes,
            records: self.records,
            consumed: self.consumed,
        }))
    }

    /// Whether the complete records hold the whole message.
    fn is_whole(&self) -> Result<bool, MessageError> {
        // The last record may exceed the limit.
        if self.consumed > self.wanted.bytes_max {
            return Err(MessageError::TooLarge);
        }
        match self.wanted.len(self.header.get())? {
            Some(len) if self.joined > len && !self.wanted.more_may_follow => {
                return Err(MessageError::Trailing);
            }
            Some(len) if self.joined >= len => return Ok(true),
            _ => {}
        }
        if self.records == RECORDS_MAX || self.consumed >= self.wanted.bytes_max {
            return Err(MessageError::TooLarge);
        }
        Ok(false)
    }

    /// The content of these complete records; copied only if there are several.
    fn fragments<'a>(&self, mut records: &'a [u8]) -> Cow<'a, [u8]> {
        if self.records == 1 {
            return Cow::Borrowed(records.get(RECORD_HEADER_BYTES..).unwrap_or_default());
        }
        let mut joined = Vec::with_capacity(self.joined);
        // They were read before, so each is complete and none is refused.
        while let Ok(Some(fragment)) = record(records, self.records) {
            joined.extend_from_slice(fragment.bytes);
            let end = RECORD_HEADER_BYTES + fragment.bytes.len();
            records = records.get(end..).unwrap_or_default();
        }
        Cow::Owned(joined)
    }
}

impl Header {
    /// Adds the missing bytes from the start of `bytes`.
    fn with(mut self, more: &[u8]) -> Self {
        for byte in more {
            let Some(place) = self.bytes.get_mut(self.len) else {
                break;
            };
            *place = *byte;
            self.len += 1;
        }
        self
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Wanted {
    /// The length of header and body, once the header is complete.
    fn len(self, joined: &[u8]) -> Result<Option<usize>, MessageError> {
        let mut cursor = Cursor::new(joined);
        match cursor.u8() {
            None => return Ok(None),
            Some(kind) if kind == self.kind => {}
            Some(_) => return Err(MessageError::Kind),
        }
        match cursor.u24() {
            None => Ok(None),
            Some(len) if len + MESSAGE_HEADER_BYTES + RECORD_HEADER_BYTES > self.bytes_max => {
                Err(MessageError::TooLarge)
            }
            Some(len) => Ok(Some(len + MESSAGE_HEADER_BYTES)),
        }
    }
}

/// The part of the next record's content that has arrived.
struct Fragment<'a> {
    bytes: &'a [u8],
    is_cut: bool,
}

/// The next record's fragment; None before its header is complete.
fn record(rest: &[u8], records_before: usize) -> Result<Option<Fragment<'_>>, MessageError> {
    let kind = |kind| match kind {
        HANDSHAKE => Ok(()),
        ALERT | CHANGE_CIPHER_SPEC | APPLICATION_DATA if records_before > 0 => {
            Err(MessageError::InterleavedRecord)
        }
        _ => Err(MessageError::NotTls),
    };
    let header = RecordHeader::read(rest, kind, 1..=RECORD_BYTES_MAX)?;
    Ok(header.map(|header| {
        let (bytes, is_whole) = header.content(rest);
        Fragment {
            bytes,
            is_cut: !is_whole,
        }
    }))
}

/// The length of the record at the start of `bytes`, whatever it carries; None before it is
/// complete.
///
/// # Errors
/// Another protocol, or a length that RFC 8446, section 5.2, forbids.
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, MessageError> {
    let header = RecordHeader::read(bytes, |_| Ok(()), 0..=CIPHERTEXT_BYTES_MAX)?;
    Ok(header.and_then(|header| {
        let (content, is_whole) = header.content(bytes);
        is_whole.then_some(RECORD_HEADER_BYTES + content.len())
    }))
}

/// The content of the cleartext alert (two bytes) or change_cipher_spec (the byte 1) at the start
/// of `bytes`; None before it is complete. Checks every byte: both may pass before a verdict, so
/// they must have no room for other data (RFC 8446, section 5).
///
/// # Errors
/// [`MessageError::Control`] for any other content or length.
pub fn control(bytes: &[u8]) -> Result<Option<&[u8]>, MessageError> {
    let wanted: usize = if bytes.first() == Some(&ALERT) { 2 } else { 1 };
    let Some(header) = RecordHeader::read(bytes, |_| Ok(()), 0..=CIPHERTEXT_BYTES_MAX)? else {
        return Ok(None);
    };
    // The header first: the verdict on a record must not depend on how much of it has arrived.
    if header.len != wanted {
        return Err(MessageError::Control);
    }
    match header.content(bytes) {
        (_, false) => Ok(None),
        (content @ ([1] | [1 | 2, _]), true) => Ok(Some(content)),
        _ => Err(MessageError::Control),
    }
}

/// The description of an alert that ends its sender's side: a fatal one, or close_notify (RFC 8446,
/// section 6). `content` is that of a cleartext record. None for a warning and for a
/// change_cipher_spec.
#[must_use]
pub fn final_alert(content: &[u8]) -> Option<u8> {
    match content {
        [FATAL, description] | [WARNING, description @ CLOSE_NOTIFY] => Some(*description),
        _ => None,
    }
}

/// Peers use fragments of at least 512 bytes (max_fragment_length, RFC 6066): 64 KiB are 128
/// records. The bound keeps the work per byte constant.
pub const RECORDS_MAX: usize = 128;

/// RFC 8446, section 5.1.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// RFC 8446, section 5.1.
pub const ALERT: u8 = 21;
/// RFC 8446, section 5.1.
pub const HANDSHAKE: u8 = 22;
/// RFC 8446, section 5.1.
pub const APPLICATION_DATA: u8 = 23;
/// RFC 8446, section 6.
const WARNING: u8 = 1;
/// RFC 8446, section 6.
const FATAL: u8 = 2;
/// RFC 8446, section 6.1.
const CLOSE_NOTIFY: u8 = 0;
/// Type and length.
pub(super) const MESSAGE_HEADER_BYTES: usize = 4;
/// RFC 8446, section 5.1.
const RECORD_BYTES_MAX: u16 = 1 << 14;
/// RFC 8446, section 5.2.
const CIPHERTEXT_BYTES_MAX: u16 = RECORD_BYTES_MAX + 256;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_single_bytes_is_walked_once() {
        let message = [&[1, 1, 0, 0][..], &[0; 1 << 16]].concat();
        let size = message.len() / (RECORDS_MAX - 1);
        let record = |part: &[u8]| {
            [
                &[HANDSHAKE, 3, 1][..],
                &(part.len() as u16).to_be_bytes(),
                part,
            ]
            .concat()
        };
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        let mut walk = Walk::new(Wanted {
            kind: 1,
            bytes_max: 1 << 20,
            more_may_follow: false,
        });
        for len in 0..records.len() {
            assert!(walk.join(&records[..len]).unwrap().is_none());
            let behind = len - walk.consumed;
            assert!(
                behind < RECORD_HEADER_BYTES + size,
                "{behind} bytes would be looked at again at {len}"
            );
            assert_eq!(walk.records, len / (RECORD_HEADER_BYTES + size));
        }
        let whole = walk.join(&records).unwrap().unwrap();
        assert!(whole.bytes == message && whole.consumed == records.len());
    }
}
