//! A connection of the admin listener, as hyper sees it. A stalled write is an error, and a
//! connection that does not end in order is reset, so neither this process nor the kernel keeps an
//! answer that nobody reads.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::sys::options;

/// The connection.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    /// The timeout of a write, set while the peer accepts nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// Takes a socket. From here on, dropping it before its orderly end resets the connection.
    ///
    /// # Errors
    /// When the peer has gone.
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        options::keep_little_unread(&socket, QUEUED_MAX, UNREAD_MAX)?;
        Ok(Self {
            socket,
            stalled: None,
        })
    }

    /// Waits until the peer has sent bytes or closed.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        stalled
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        options::end_in_order(&self.socket)?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// How long a write may make no progress.
const STALL_MAX: Duration = Duration::from_secs(1);
/// The kernel resets a connection if the peer acknowledges nothing for this long, even after this
/// process has closed it.
const UNREAD_MAX: Duration = Duration::from_secs(2);
/// Bytes that the kernel queues for the peer; the kernel doubles the value for its overhead.
const QUEUED_MAX: usize = 64 * 1024;
