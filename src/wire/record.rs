//! The header of a TLS record: type, version and length (RFC 8446, section 5.1). The only reader of
//! it; knows no content.

use super::cursor::Cursor;
use super::message::MessageError;

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// The length of the content.
    pub(super) len: usize,
}

impl RecordHeader {
    /// Reads the header at the start of `bytes`; None before it is complete. Judges each byte as
    /// soon as it is there: first the type, by `kind`, then the major version, then the length.
    ///
    /// # Errors
    /// Of `kind`; another protocol; a length outside `lens`.
    #[inline]
    pub(super) fn read(
        bytes: &[u8],
        kind: impl FnOnce(u8) -> Result<(), MessageError>,
        lens: std::ops::RangeInclusive<u16>,
    ) -> Result<Option<Self>, MessageError> {
        let mut cursor = Cursor::new(bytes);
        match cursor.u8() {
            None => return Ok(None),
            Some(first) => kind(first)?,
        }
        match cursor.u8() {
            None => return Ok(None),
            Some(MAJOR_VERSION) => {}
            Some(_) => return Err(MessageError::NotTls),
        }
        let Some(_minor) = cursor.u8() else {
            return Ok(None);
        };
        match cursor.u16() {
            None => Ok(None),
            Some(len) if lens.contains(&len) => Ok(Some(Self { len: len.into() })),
            Some(_) => Err(MessageError::RecordLength),
        }
    }

    /// The content that has arrived of the record at the start of `bytes`, and whether it is all.
    pub(super) fn content(self, bytes: &[u8]) -> (&[u8], bool) {
        let content = bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        match content.get(..self.len) {
            Some(whole) => (whole, true),
            None => (content, false),
        }
    }
}

/// Type, version and length.
pub const RECORD_HEADER_BYTES: usize = 5;
/// Of SSL 3.0 and every version of TLS.
const MAJOR_VERSION: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<usize>, MessageError> {
        let kind = |kind| (kind == 22).then_some(()).ok_or(MessageError::Control);
        RecordHeader::read(bytes, kind, 1..=0x4000).map(|header| header.map(|header| header.len))
    }

    #[test]
    fn each_byte_is_judged_on_arrival() {
        let header = [22, 3, 1, 0x01, 0x02];
        for len in 0..header.len() {
            assert_eq!(read(header.split_at(len).0), Ok(None), "{len}");
        }
        assert_eq!(read(&header), Ok(Some(0x0102)));
        for (bytes, error) in [
            (&[21][..], MessageError::Control),
            (&[22, 2], MessageError::NotTls),
            (&[22, 3, 9, 0, 0], MessageError::RecordLength),
            (&[22, 3, 9, 0x40, 1], MessageError::RecordLength),
        ] {
            assert_eq!(read(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(read(&[22, 3, 9, 0x40, 0]), Ok(Some(0x4000)));
    }

    #[test]
    fn content_is_returned_when_it_is_complete() {
        let header = RecordHeader { len: 2 };
        let record = [22, 3, 3, 0, 2, 7, 8, 9];
        let of = |len| header.content(record.split_at(len).0);
        assert_eq!(of(4), (&[][..], false));
        assert_eq!(of(6), (&[7][..], false));
        assert_eq!(of(7), (&[7, 8][..], true));
        assert_eq!(of(8), (&[7, 8][..], true));
    }
}
