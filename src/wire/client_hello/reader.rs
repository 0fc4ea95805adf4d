//! Reads one part of a ClientHello and names that part when it is malformed (RFC 8446, section 3). Never copies.

use super::{Fault, HelloError, Part};
use crate::wire::cursor::Cursor;

/// The unread rest of a part.
pub(super) struct Reader<'a> {
    part: Part,
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(part: Part, bytes: &'a [u8]) -> Self {
        Self {
            part,
            cursor: Cursor::new(bytes),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cursor.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.cursor.rest().len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], HelloError> {
        self.cursor
            .take(len)
            .ok_or(HelloError::Malformed(self.part, Fault::Overrun))
    }

    pub(super) fn u8(&mut self) -> Result<u8, HelloError> {
        self.cursor
            .u8()
            .ok_or(HelloError::Malformed(self.part, Fault::Overrun))
    }

    pub(super) fn u16(&mut self) -> Result<u16, HelloError> {
        self.cursor
            .u16()
            .ok_or(HelloError::Malformed(self.part, Fault::Overrun))
    }

    /// A vector with a length of one byte.
    pub(super) fn vector8(&mut self) -> Result<&'a [u8], HelloError> {
        self.cursor
            .vector8()
            .ok_or(HelloError::Malformed(self.part, Fault::Overrun))
    }

    /// A vector with a length of two bytes.
    pub(super) fn vector16(&mut self) -> Result<&'a [u8], HelloError> {
        self.cursor
            .vector16()
            .ok_or(HelloError::Malformed(self.part, Fault::Overrun))
    }

    /// Continues in `inner`, a vector of this part that must not be empty.
    pub(super) fn within(&self, inner: &'a [u8]) -> Result<Self, HelloError> {
        if inner.is_empty() {
            Err(self.fault(Fault::Empty))
        } else {
            Ok(Self::new(self.part, inner))
        }
    }

    /// A part that consists of one non-empty vector with a length of two bytes.
    pub(super) fn only_vector16(mut self) -> Result<Self, HelloError> {
        let inner = self.vector16()?;
        let inner = self.within(inner)?;
        self.end().map(|()| inner)
    }

    /// Fails if bytes remain.
    pub(super) fn end(self) -> Result<(), HelloError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.fault(Fault::Trailing))
        }
    }

    /// Checks that the rest is a list of two-byte numbers.
    pub(super) fn numbers(self) -> Result<&'a [u8], HelloError> {
        let list = self.cursor.rest();
        if list.len().is_multiple_of(2) {
            Ok(list)
        } else {
            Err(self.fault(Fault::OddLength))
        }
    }

    pub(super) fn fault(&self, fault: Fault) -> HelloError {
        HelloError::Malformed(self.part, fault)
    }
}
