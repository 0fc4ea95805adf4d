//! A TCP socket for one future: the operations of a tunnel's set-up, before the relay takes over.
//! Callers set the deadlines.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

use zeroize::Zeroize;

use super::{Reactor, Readiness};
use crate::sys;

/// A non-blocking TCP socket on which one future can wait.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    key: Registration,
}

/// How the peer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It sent a FIN.
    Ended,
    /// The connection failed: the peer reset it, or the kernel gave up.
    Failed,
}

/// An entry in the reactor's table, removed on drop.
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

    /// Waits for at least one byte and passes the received bytes to `take`; 0 means a FIN. The
    /// bytes are in the read buffer of the thread: a caller that reads secrets wipes them there.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn read_some(&self, mut take: impl FnMut(&mut [u8])) -> io::Result<usize> {
        loop {
            self.ready(|known| known.readable || known.failed).await;
            match self.try_read(&mut take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Passes the bytes that are available now to `take`, like [`read_some`](Self::read_some).
    ///
    /// # Errors
    /// `WouldBlock` when no byte is available; a reset when the peer has sent urgent data;
    /// otherwise the error of the socket.
    pub fn try_read(&self, mut take: impl FnMut(&mut [u8])) -> io::Result<usize> {
        // Urgent data would look like the end of the stream, with more bytes after it and no
        // further edge.
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
        // A short read means that no more bytes were available, and the next ones cause a new edge.
        // The end of the stream causes none.
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
    /// The error of the socket.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes).await?;
            let rest = bytes.get(written..);
            bytes = rest.ok_or_else(|| sys::broken_invariant("write(2) takes what it got"))?;
        }
        Ok(())
    }

    /// Waits until the socket accepts bytes, writes as many of `bytes` as it accepts, and returns
    /// their number.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await,
                done => return done,
            }
        }
    }

    /// Writes as many of `bytes` as the socket accepts now and returns their number.
    ///
    /// # Errors
    /// `WouldBlock` when it accepts none; otherwise the error of the socket.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = sys::write(&self.stream, bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.key.with(|known| known.writable = false);
        }
        written
    }

    /// Waits until the socket accepts bytes again after [`try_write`](Self::try_write) found it
    /// full, or has failed.
    pub async fn writable(&self) {
        self.ready(|known| known.writable || known.failed).await;
    }

    /// Reads and discards bytes until the peer ends, an error occurs or `bytes_max` have arrived.
    /// Closing a socket with unread bytes sends a reset, which can overtake the last bytes written
    /// to it (RFC 9112, section 9.6).
    pub async fn discard(&self, bytes_max: usize) {
        let mut total = 0;
        while total < bytes_max {
            // The rest of a head may hold credentials.
            match self.read_some(|bytes| bytes.zeroize()).await {
                // The connection is over, whatever the error.
                Ok(0) | Err(_) => return,
                Ok(n) => total += n,
            }
        }
    }

    /// Waits for a started connect(2) to complete.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn connected(&self) -> io::Result<()> {
        self.ready(|known| known.writable || known.failed).await;
        if self.key.with(|known| known.failed || known.has_ended) {
            // Without an error, the socket was connected and has ended already, or was never
            // connected.
            let failed = sys::take_error(&self.stream)?;
            return failed.map_or_else(|| self.stream.peer_addr().map(|_| ()), Err);
        }
        Ok(())
    }

    /// Waits until the peer has sent a FIN or the connection has failed, and returns which. Leaves
    /// earlier bytes unread.
    pub async fn gone(&self) -> Gone {
        self.ready(|known| known.has_ended || known.failed).await;
        if self.key.with(|known| known.failed) {
            Gone::Failed
        } else {
            Gone::Ended
        }
    }

    /// Whether the peer has sent a FIN or the connection has failed, as far as the poller has reported it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.key.with(|known| known.has_ended || known.failed)
    }

    /// Waits for the connection to fail and returns the error: a reset, or a kernel that gave up.
    pub async fn failed(&self) -> io::Error {
        self.ready(|known| known.failed).await;
        let cause = sys::take_error(&self.stream).ok().flatten();
        cause.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// The local address.
    ///
    /// # Errors
    /// The error of getsockname(2).
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
    /// Reads the state of the socket. The entry exists as long as this socket.
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

/// A CONNECT head has some 200 bytes, a ClientHello at most about 2,000, and a server's first
/// flight some 5,000. Bytes read in two pieces would be sent in two.
pub(super) const READ_BYTES: usize = 16 * 1_024;
