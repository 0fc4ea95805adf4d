//! Lends buffers of one TLS record to sessions. Each thread keeps a few and wipes them before it lends them again, because
//! a CONNECT head in them holds credentials. A session holds a buffer only while bytes wait in it.

use std::cell::RefCell;

use zeroize::Zeroize;

/// A buffer with the bytes that wait in it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Takes an empty buffer.
    #[must_use]
    pub fn take() -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop);
        Self {
            bytes: kept.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
            start: 0,
            end: 0,
        }
    }

    /// The room of an empty buffer.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Says that this many bytes were written from the start. Wipes those of an earlier, longer
    /// content.
    pub fn fill(&mut self, bytes: usize) {
        let end = bytes.min(SIZE);
        if let Some(former) = self.bytes.get_mut(end..self.end) {
            former.zeroize();
        }
        (self.start, self.end) = (0, end);
    }

    /// The waiting bytes.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Says that this many of them have left.
    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// Whether no bytes wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(used) = self.bytes.get_mut(..self.end) {
            used.zeroize();
        }
        let bytes = std::mem::take(&mut self.bytes);
        // Fails while the thread ends; the buffer is freed then.
        let _kept = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// One record of TLS.
pub const SIZE: usize = 16 * 1024;
/// Free buffers of a thread: 256 KiB.
const KEPT: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_wiped_before_it_is_lent_again() {
        let mut buffer = Buffer::take();
        let at = buffer.space().as_ptr();
        buffer
            .space()
            .get_mut(..6)
            .unwrap()
            .copy_from_slice(b"secret");
        buffer.fill(6);
        buffer.consume(2);
        assert_eq!((buffer.filled(), buffer.is_empty()), (&b"cret"[..], false));
        // The end of the stream.
        buffer.fill(0);
        drop(buffer);
        let mut again = Buffer::take();
        assert_eq!(again.space().as_ptr(), at);
        assert!(again.space().iter().all(|byte| *byte == 0) && again.is_empty());
    }
}
