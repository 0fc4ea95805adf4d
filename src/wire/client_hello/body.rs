//! The body of a ClientHello (RFC 8446, section 4.1.2; RFC 5246, section 7.4.1.2): checks every
//! field that is read, and returns the positions of the lists. Never copies.

use std::ops::Range;

use super::reader::Reader;
use super::{Fault, HelloError, Part, extensions};
use crate::wire::message::MESSAGE_HEADER_BYTES;

/// The positions of the lists in a checked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// The cipher suites.
    pub(super) cipher_suites: Range<usize>,
    /// The extensions; empty if there are none.
    pub(super) extensions: Range<usize>,
}

/// Checks a message with its header of four bytes.
pub(super) fn check(message: &[u8]) -> Result<Places, HelloError> {
    let mut fields = Reader::new(Part::Fields, message);
    // The position of the last vector.
    let behind = |fields: &Reader<'_>, read: &[u8]| {
        let end = message.len() - fields.remaining();
        end - read.len()..end
    };
    fields.take(MESSAGE_HEADER_BYTES + VERSION_BYTES + RANDOM_BYTES)?;
    let session_id = fields.vector8()?;
    let suites = fields.vector16()?;
    let cipher_suites = behind(&fields, suites);
    let compressions = fields.vector8()?;
    session_id_and_suites(session_id, suites)?;
    if !compressions.contains(&NULL_COMPRESSION) {
        return Err(HelloError::Malformed(
            Part::CompressionMethods,
            Fault::Value,
        ));
    }
    // A hello of TLS 1.2 may end here (RFC 5246, section 7.4.1.2).
    let list = if fields.is_empty() {
        &[][..]
    } else {
        fields.vector16()?
    };
    let places = Places {
        cipher_suites,
        extensions: behind(&fields, list),
    };
    fields.end()?;
    extensions::check(list)?;
    Ok(places)
}

fn session_id_and_suites(session_id: &[u8], suites: &[u8]) -> Result<(), HelloError> {
    if session_id.len() > SESSION_ID_BYTES_MAX {
        return Err(HelloError::Malformed(Part::SessionId, Fault::TooLong));
    }
    if suites.is_empty() {
        return Err(HelloError::Malformed(Part::CipherSuites, Fault::Empty));
    }
    Reader::new(Part::CipherSuites, suites).numbers().map(drop)
}

pub(super) const VERSION_BYTES: usize = 2;
pub(super) const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
const NULL_COMPRESSION: u8 = 0;
