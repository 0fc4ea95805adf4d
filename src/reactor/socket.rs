//! A TCP socket for one future: what the set-up of a tunnel needs before the relay takes over. Deadlines are the
//! caller's.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

use zeroize::Zeroize;

use super::{Reactor, Readiness};
use crate::sys;

/// A non-blocking TCP socket that a future may wait for.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    key: Registration,
}

/// How a peer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It has ended its side: a FIN.
    Ended,
    /// The connection has failed: a reset, or a kernel that gave it up.
    Failed,
}

/// A place in the reactor's table, until it is dropped.
#[derive(Debug)]
struct Registration {
    key: usize,
    reactor: Reactor,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, key: usize, reactor: Reactor) -> Self {
        Self {
            stream,
            key: Registration { key, reactor },
        }
    }

    /// Gives `take` what has arrived, waiting for at least one byte; 0 means the peer has ended its side. The bytes lie in
    /// memory that all sockets of the thread read into: whoever takes secrets wipes them there.
    ///
    /// # Errors
    /// What the socket said.
    pub async fn read_some(&self, mut take: impl FnMut(&mut [u8])) -> io::Result<usize> {
        loop {
            self.ready(|known| known.readable || known.failed).await;
            match self.try_read(&mut take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Gives `take` what is there now, as [`read_some`](Self::read_some) does.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; a reset when the peer has sent urgent data; what the socket said otherwise.
    pub fn try_read(&self, mut take: impl FnMut(&mut [u8])) -> io::Result<usize> {
        // It would look like the end of what has come, with more behind it and no edge to tell.
        if self.key.with(|known| known.urgent) {
            return Err(sys::urgent_data());
        }
        let mut arrived = self.key.reactor.0.arrived.borrow_mut();
        let read = sys::read(&self.stream, &mut arrived);
        if let Ok(read) = read {
            let bytes = arrived.get_mut(..read);
            take(bytes.ok_or_else(|| sys::broken_invariant("read(2) fits its buffer"))?);
        }
        let would_block = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        // Less than was asked for is all there was, and what comes next is a new edge; but an end makes none.
        let is_drained = read.as_ref().is_ok_and(|read| *read < READ_BYTES);
        self.key.with(|known| {
            known.readable &= !would_block && (!is_drained || known.has_ended);
            known.gives_way = read.as_ref().is_ok_and(|read| *read == READ_BYTES);
        });
        read
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the socket said.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes).await?;
            let rest = bytes.get(written..);
            bytes = rest.ok_or_else(|| sys::broken_invariant("write(2) takes what it got"))?;
        }
        Ok(())
    }

    /// Writes as many of `bytes` as the socket takes, waiting until it takes any, and returns how many.
    ///
    /// # Errors
    /// What the socket said.
    pub async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await,
                done => return done,
            }
        }
    }

    /// Writes as many of `bytes` as the socket takes now, and returns how many.
    ///
    /// # Errors
    /// `WouldBlock` when it takes none; what the socket said otherwise.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = sys::write(&self.stream, bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.key.with(|known| known.writable = false);
        }
        written
    }

    /// Waits until the socket takes bytes again after [`try_write`](Self::try_write) found it full, or has failed.
    pub async fn writable(&self) {
        self.ready(|known| known.writable || known.failed).await;
    }

    /// Reads and drops until the peer ends, an error comes or `bytes_max` have come. A socket that is closed with
    /// unread bytes sends a reset, which can overtake the last words written to it (RFC 9112, section 9.6).
    pub async fn discard(&self, bytes_max: usize) {
        let mut total = 0;
        while total < bytes_max {
            // It may be the rest of a head, with credentials.
            match self.read_some(|bytes| bytes.zeroize()).await {
                // Whatever the socket says now, the conversation is over.
                Ok(0) | Err(_) => return,
                Ok(n) => total += n,
            }
        }
    }

    /// Waits for the end of a connect(2) that was begun.
    ///
    /// # Errors
    /// Why it has not connected.
    pub async fn connected(&self) -> io::Result<()> {
        self.ready(|known| known.writable || known.failed).await;
        if self.key.with(|known| known.failed || known.has_ended) {
            // Without an error it has been connected and has ended already, or was never connected.
            let failed = sys::take_error(&self.stream)?;
            return failed.map_or_else(|| self.stream.peer_addr().map(|_| ()), Err);
        }
        Ok(())
    }

    /// Waits until the peer has ended its side or the connection has failed, and says which. What came before the end
    /// stays unread.
    pub async fn gone(&self) -> Gone {
        self.ready(|known| known.has_ended || known.failed).await;
        if self.key.with(|known| known.failed) {
            Gone::Failed
        } else {
            Gone::Ended
        }
    }

    /// Waits for the connection to fail, and returns why: a reset, or a kernel that gave it up.
    pub async fn failed(&self) -> io::Error {
        self.ready(|known| known.failed).await;
        let cause = sys::take_error(&self.stream).ok().flatten();
        cause.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// This end's address.
    ///
    /// # Errors
    /// What getsockname(2) said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Releases the socket. epoll still holds it, edge-triggered and under a key that no table entry uses, until the
    /// poller changes it.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn ready(&self, is_ready: impl Fn(&Readiness) -> bool) {
        poll_fn(|context| {
            self.key.with(|known| {
                if std::mem::take(&mut known.gives_way) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if is_ready(known) {
                    return Poll::Ready(());
                }
                match &mut known.waiting {
                    Some(waiting) => waiting.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            })
        })
        .await;
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Registration {
    /// Looks at what is known. The place is there as long as this is.
    fn with<T>(&self, act: impl FnOnce(&mut Readiness) -> T) -> T {
        let mut sockets = self.reactor.0.sockets.borrow_mut();
        match sockets.get_mut(self.key) {
            Some(known) => act(known),
            None => act(&mut Readiness {
                failed: true,
                ..Readiness::default()
            }),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.reactor.0.sockets.borrow_mut().try_remove(self.key);
    }
}

/// A CONNECT head is some 200 bytes, a ClientHello at most about 2,000, and what a server says at once some 5,000: what is
/// read in two pieces is sent in two.
pub(super) const READ_BYTES: usize = 16 * 1_024;
