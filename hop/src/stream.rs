//! Shares a TCP connection: one owner reads and writes, another waits for an error. Never buffers.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sealway::sys;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A shared connection.
#[derive(Clone, Debug)]
pub struct Stream(pub Arc<TcpStream>);

impl Stream {
    /// Makes a close reset the connection, so that it never looks like an end in order.
    pub fn reset_on_close(&self) {
        // Fails for no connected socket.
        let _set = sys::reset_on_close(&*self.0);
    }

    /// Moves the connection to the threads of the caller's runtime, which reports its bytes from now on. A clone stays with
    /// the threads of before.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn move_here(&mut self) -> io::Result<()> {
        let same: OwnedFd = self.0.as_fd().try_clone_to_owned()?;
        self.0 = Arc::new(TcpStream::from_std(same.into())?);
        Ok(())
    }

    /// Makes a close send what is queued and an end.
    pub fn end_in_order(&self) {
        // Fails for no connected socket.
        let _set = sys::options::end_in_order(&*self.0);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_send(&self.0, context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_send(&self.0, context, |socket| socket.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(sys::shutdown_write(&*self.0))
    }
}

/// Sends as soon as the socket has room.
pub fn poll_send(
    socket: &TcpStream,
    context: &mut Context<'_>,
    mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(context))?;
        match send(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
