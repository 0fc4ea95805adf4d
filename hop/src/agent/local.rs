//! The connection of an application: TCP on loopback, or a UNIX socket. A UNIX socket has no reset: its peer sees an end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sealway::sys::{self, options};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::stream::Stream;

/// A shared connection.
#[derive(Clone, Debug)]
pub enum Local {
    /// TCP.
    Tcp(Stream),
    /// A UNIX socket.
    Unix(Arc<UnixStream>),
}

impl Local {
    /// Makes a close reset the connection.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            stream.reset_on_close();
        }
    }

    /// Makes a close send what is queued and an end.
    pub fn end_in_order(&self) {
        if let Self::Tcp(stream) = self {
            // Fails for no connected socket.
            let _set = options::end_in_order(&*stream.0);
        }
    }

    /// Sends a reply to an application that gets nothing else, without waiting.
    pub fn say(&self, reply: &[u8]) {
        // An empty send queue takes it whole; a connection that is gone takes nothing.
        let _sent = match self {
            Self::Tcp(stream) => sys::write_and_end(&*stream.0, reply),
            Self::Unix(stream) => sys::write_and_end(&**stream, reply),
        };
    }

    /// Resolves when the connection is broken.
    pub async fn broken(&self) {
        // An error of the wait means the same.
        let _either = match self {
            Self::Tcp(stream) => stream.0.ready(Interest::ERROR).await,
            Self::Unix(stream) => stream.ready(Interest::ERROR).await,
        };
    }
}

impl AsyncRead for Local {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = match self.get_mut() {
            Self::Tcp(stream) => return Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => stream,
        };
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read(buffer.initialize_unfilled()) {
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

impl AsyncWrite for Local {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = match self.get_mut() {
            Self::Tcp(stream) => return Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => stream,
        };
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.get_mut() {
            Self::Tcp(stream) => sys::shutdown_write(&*stream.0),
            Self::Unix(stream) => sys::shutdown_write(&**stream),
        })
    }
}
