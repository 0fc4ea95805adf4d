//! Pipes belong to a pool: a tunnel borrows one when bytes arrive and returns it empty.
//!
//! An idle tunnel holds no pipe. An unprivileged user has 16,384 pages for pipes
//! (`pipe-user-pages-soft`, pipe(7)); beyond that the kernel returns pipes of two pages and
//! throughput collapses. Therefore the pool is bounded; without a free pipe bytes are copied
//! through a small buffer and counted as copied. A pipe that still holds bytes when its borrower
//! ends is closed, never reused: reuse would give one tunnel's bytes to another.

mod parked;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;

use zeroize::Zeroize;

use crate::sys::{self, Pipe};

/// The pipes of one relay thread.
#[derive(Clone, Debug)]
pub(super) struct PipePool(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    // Boxed, so that a blocked tunnel holds one word; the box lives as long as its pipe.
    #[allow(clippy::vec_box)]
    idle: RefCell<Vec<Box<Storage>>>,
    lent: Cell<usize>,
    bounds: Bounds,
}

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Pipes lent at once.
    pub lent: usize,
    /// Free pipes to keep.
    pub idle: usize,
}

/// Carries bytes from one socket to the other: a borrowed pipe, or a buffer if no pipe is free.
#[derive(Debug)]
pub(super) struct Buffer {
    pool: PipePool,
    /// None only during the drop.
    storage: Option<Box<Storage>>,
}

#[derive(Debug)]
struct Storage {
    kind: Kind,
    holds: usize,
}

#[derive(Debug)]
enum Kind {
    Pipe(Pipe),
    Memory { bytes: Box<[u8]>, start: usize },
}

impl PipePool {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self(Rc::new(Pool {
            idle: RefCell::default(),
            lent: Cell::new(0),
            bounds,
        }))
    }

    /// Returns an empty buffer.
    pub(super) fn lend(&self) -> Buffer {
        let storage = self
            .pipe()
            .unwrap_or_else(|| Storage::in_memory(vec![0; BUFFER_BYTES].into(), 0));
        Buffer {
            pool: self.clone(),
            storage: Some(storage),
        }
    }

    /// Returns a buffer with these bytes.
    pub(super) fn holding(&self, bytes: &[u8]) -> Buffer {
        Buffer {
            pool: self.clone(),
            storage: Some(Storage::in_memory(bytes.into(), bytes.len())),
        }
    }

    fn pipe(&self) -> Option<Box<Storage>> {
        let Pool { idle, lent, bounds } = &*self.0;
        if lent.get() >= bounds.lent {
            return None;
        }
        let kept = idle.borrow_mut().pop();
        // A lack of descriptors does not end a tunnel: its bytes are copied.
        let pipe = kept.or_else(|| {
            Some(Box::new(Storage {
                kind: Kind::Pipe(sys::pipe().ok()?),
                holds: 0,
            }))
        })?;
        lent.set(lent.get() + 1);
        Some(pipe)
    }

    fn take_back(&self, mut storage: Box<Storage>) {
        let Pool { idle, lent, bounds } = &*self.0;
        match &mut storage.kind {
            Kind::Memory { bytes, .. } => bytes.zeroize(),
            Kind::Pipe(pipe) => {
                lent.set(lent.get() - 1);
                let mut idle = idle.borrow_mut();
                // A pipe that the kernel kept small is not worth keeping: the next one may have the
                // full size.
                if storage.holds == 0 && pipe.is_full_size && idle.len() < bounds.idle {
                    idle.push(storage);
                }
            }
        }
    }
}

impl Storage {
    fn in_memory(bytes: Box<[u8]>, holds: usize) -> Box<Self> {
        Box::new(Self {
            kind: Kind::Memory { bytes, start: 0 },
            holds,
        })
    }
}

impl Buffer {
    /// Bytes drained and not yet pumped.
    pub(super) fn holds(&self) -> usize {
        self.storage.as_ref().map_or(0, |storage| storage.holds)
    }

    pub(super) fn is_spliced(&self) -> bool {
        self.storage
            .as_ref()
            .is_some_and(|storage| matches!(storage.kind, Kind::Pipe(_)))
    }

    /// Takes at most `most` bytes (not 0) from the socket. Call it only when the buffer is empty.
    pub(super) fn drain(&mut self, from: &TcpStream, most: u64) -> io::Result<usize> {
        let Some(storage) = &mut self.storage else {
            return Ok(0);
        };
        debug_assert_eq!(storage.holds, 0, "drain only into an empty buffer");
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        storage.holds = match &mut storage.kind {
            Kind::Pipe(pipe) => sys::move_bytes(from, &pipe.writer, ASK_BYTES.min(most))?,
            Kind::Memory { bytes, start } => {
                *start = 0;
                let room = bytes.len().min(most);
                sys::read(from, bytes.get_mut(..room).ok_or_else(broken)?)?
            }
        };
        Ok(storage.holds)
    }

    /// Writes its bytes to the socket, as many as the socket accepts.
    pub(super) fn pump(&mut self, to: &TcpStream) -> io::Result<usize> {
        let Some(storage) = &mut self.storage else {
            return Ok(0);
        };
        debug_assert!(storage.holds > 0, "pump only what was drained");
        let pumped = match &mut storage.kind {
            Kind::Pipe(pipe) => sys::move_bytes(&pipe.reader, to, storage.holds)?,
            Kind::Memory { bytes, start } => {
                let held = bytes.get(*start..*start + storage.holds);
                let pumped = sys::write(to, held.ok_or_else(broken)?)?;
                *start += pumped;
                pumped
            }
        };
        if pumped == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        storage.holds = storage.holds.checked_sub(pumped).ok_or_else(broken)?;
        Ok(pumped)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(storage) = self.storage.take() {
            self.pool.take_back(storage);
        }
    }
}

fn broken() -> io::Error {
    sys::broken_invariant("a buffer holds what was drained")
}

/// The size of a pipe; the kernel moves the bytes that are available.
const ASK_BYTES: usize = sys::PIPE_BYTES as usize;
/// For the rare tunnel without a pipe.
const BUFFER_BYTES: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A pipe that counts as full-sized or small, whatever this user's quota allows.
    fn lend(pool: &PipePool, is_full_size: bool) -> Buffer {
        let mut buffer = pool.lend();
        let Kind::Pipe(pipe) = &mut buffer.storage.as_mut().unwrap().kind else {
            panic!("no pipe")
        };
        pipe.is_full_size = is_full_size;
        buffer
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_never_lent_again() {
        let pool = PipePool::new(Bounds { lent: 8, idle: 8 });
        let (from, mut peer) = pair();
        peer.write_all(b"of the first tunnel").unwrap();
        let mut buffer = lend(&pool, true);
        assert_eq!(buffer.drain(&from, u64::MAX).unwrap(), 19);
        drop(buffer);
        assert!(pool.0.idle.borrow().is_empty(), "closed, not kept");
        drop(lend(&pool, true));
        assert_eq!(pool.0.idle.borrow().len(), 1, "an empty one is kept");
        assert_eq!(pool.0.lent.get(), 0);
    }

    #[test]
    fn a_small_pipe_is_not_reused() {
        let pool = PipePool::new(Bounds { lent: 8, idle: 8 });
        for (is_full_size, kept) in [(false, 0), (true, 1)] {
            drop(lend(&pool, is_full_size));
            assert_eq!((pool.0.idle.borrow().len(), pool.0.lent.get()), (kept, 0));
        }
    }

    #[test]
    fn a_wrong_byte_count_is_an_internal_error() {
        let pool = PipePool::new(Bounds { lent: 0, idle: 0 });
        let mut buffer = pool.holding(b"three");
        buffer.storage.as_mut().unwrap().holds = 6;
        let error = buffer.pump(&pair().0).unwrap_err();
        assert!(sys::is_fault_in_here(&error), "{error}");
    }

    #[test]
    fn without_a_pipe_bytes_are_copied() {
        let pool = PipePool::new(Bounds { lent: 1, idle: 1 });
        let _lent = pool.lend();
        let mut buffer = pool.lend();
        assert!(!buffer.is_spliced());
        let (from, mut sender) = pair();
        let (to, mut receiver) = pair();
        sender.write_all(b"all the same").unwrap();
        buffer.drain(&from, u64::MAX).unwrap();
        while buffer.holds() > 0 {
            buffer.pump(&to).unwrap();
        }
        let mut got = [0; 12];
        receiver.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"all the same");
        drop(buffer);
        assert_eq!(pool.0.lent.get(), 1, "a buffer is no pipe");
    }
}
