//! Pipes are borrowed, never owned by a tunnel: taken when bytes are there, given back when empty.
//!
//! An idle tunnel holds no pipe. An unprivileged user has 16,384 pages for pipes (`pipe-user-pages-soft`, pipe(7));
//! past that the kernel hands out pipes of two pages and throughput collapses. So the pool is bounded, and where it
//! has none bytes are copied through a small buffer and counted as copied. A pipe that still holds bytes when its
//! borrower goes is closed, never reused: reuse would hand one tunnel's bytes to another.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpStream;

use crate::sys::{self, Pipe};

/// The pipes of one worker.
#[derive(Debug)]
pub struct PipePool {
    idle: Mutex<Vec<Pipe>>,
    lent: AtomicUsize,
    lent_max: usize,
    idle_max: usize,
}

/// What carries bytes from one socket to the other: a borrowed pipe, or a buffer where no pipe can be had.
pub(super) struct Vessel<'a> {
    pool: &'a PipePool,
    hull: Hull,
    holds: usize,
}

enum Hull {
    Pipe(Pipe),
    Buffer {
        bytes: Box<[u8]>,
        start: usize,
    },
    /// Only while it is dropped.
    Gone,
}

impl PipePool {
    /// A pool that lends at most `lent_max` pipes at once and keeps at most `idle_max` that nobody borrows.
    #[must_use]
    pub fn new(lent_max: usize, idle_max: usize) -> Self {
        Self { idle: Mutex::default(), lent: AtomicUsize::new(0), lent_max, idle_max }
    }

    pub(super) fn borrow(&self) -> Vessel<'_> {
        let pipe = self.pipe();
        let hull = pipe.map_or_else(|| Hull::Buffer { bytes: vec![0; BUFFER_BYTES].into(), start: 0 }, Hull::Pipe);
        Vessel { pool: self, hull, holds: 0 }
    }

    fn pipe(&self) -> Option<Pipe> {
        if self.lent.fetch_add(1, Ordering::Relaxed) < self.lent_max {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            // No descriptor left is no reason to end a tunnel: its bytes are copied.
            if let Some(pipe) = idle.or_else(|| sys::pipe().ok()) {
                return Some(pipe);
            }
        }
        self.lent.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn give_back(&self, pipe: Pipe, is_empty: bool) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A pipe that the kernel kept small in a rush is not worth keeping: the next one may be whole.
        if is_empty && pipe.is_full_size && idle.len() < self.idle_max {
            idle.push(pipe);
        }
    }
}

impl Vessel<'_> {
    /// Bytes drained and not yet pumped.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    pub(super) fn is_spliced(&self) -> bool {
        matches!(self.hull, Hull::Pipe(_))
    }

    /// Takes what the socket has. Only when empty.
    pub(super) fn drain(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert_eq!(self.holds, 0, "drain only into an empty vessel");
        let drained = match &mut self.hull {
            Hull::Pipe(pipe) => sys::move_bytes(from, &pipe.writer, ASK_BYTES)?,
            Hull::Buffer { bytes, start } => {
                *start = 0;
                sys::read(from, bytes)?
            }
            Hull::Gone => 0,
        };
        self.holds = drained;
        Ok(drained)
    }

    /// Hands on what it holds, as much as the socket takes.
    pub(super) fn pump(&mut self, to: &TcpStream) -> io::Result<usize> {
        debug_assert!(self.holds > 0, "pump only what was drained");
        let pumped = match &mut self.hull {
            Hull::Pipe(pipe) => sys::move_bytes(&pipe.reader, to, self.holds)?,
            Hull::Buffer { bytes, start } => {
                let pumped = sys::write(to, bytes.get(*start..*start + self.holds).unwrap_or_default())?;
                *start += pumped;
                pumped
            }
            Hull::Gone => 0,
        };
        if pumped == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.holds -= pumped;
        Ok(pumped)
    }
}

impl Drop for Vessel<'_> {
    fn drop(&mut self) {
        if let Hull::Pipe(pipe) = std::mem::replace(&mut self.hull, Hull::Gone) {
            self.pool.give_back(pipe, self.holds == 0);
        }
    }
}

/// As much as a pipe can hold; the kernel moves what is there.
const ASK_BYTES: usize = sys::PIPE_BYTES as usize;
/// For the rare tunnel without a pipe.
const BUFFER_BYTES: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().unwrap().0)
    }

    async fn drain(vessel: &mut Vessel<'_>, from: &TcpStream) -> usize {
        loop {
            from.readable().await.unwrap();
            match from.try_io(tokio::io::Interest::READABLE, || vessel.drain(from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_pipe_that_holds_bytes_is_never_lent_again() {
        let pool = PipePool::new(8, 8);
        let (from, mut peer) = pair().await;
        peer.write_all(b"of the first tunnel").unwrap();
        let mut vessel = pool.borrow();
        assert_eq!(drain(&mut vessel, &from).await, 19);
        drop(vessel);
        assert!(pool.idle.lock().unwrap().is_empty(), "closed, not kept");
        drop(pool.borrow());
        assert_eq!(pool.idle.lock().unwrap().len(), 1, "an empty one is kept");
        assert_eq!(pool.lent.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn without_a_pipe_bytes_are_copied() {
        let pool = PipePool::new(1, 1);
        let _lent = pool.borrow();
        let mut vessel = pool.borrow();
        assert!(!vessel.is_spliced());
        let (from, mut sender) = pair().await;
        let (to, mut receiver) = pair().await;
        sender.write_all(b"all the same").unwrap();
        drain(&mut vessel, &from).await;
        while vessel.holds() > 0 {
            to.writable().await.unwrap();
            to.try_io(tokio::io::Interest::WRITABLE, || vessel.pump(&to)).unwrap();
        }
        let mut got = [0; 12];
        receiver.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"all the same");
    }
}
