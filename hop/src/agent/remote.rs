//! The connection to an upstream: TLS, or cleartext where the operator allows it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sealway::sys::options;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::stream::Stream;

/// A connection past its handshake.
#[derive(Debug)]
pub enum Remote {
    /// TLS.
    Tls(Box<TlsStream<Stream>>),
    /// Cleartext.
    Plain(Stream),
}

impl Remote {
    /// The TCP connection.
    #[must_use]
    pub fn socket(&self) -> &Stream {
        match self {
            Self::Tls(tls) => tls.get_ref().0,
            Self::Plain(stream) => stream,
        }
    }

    /// Makes a close send what is queued and an end.
    pub fn end_in_order(&self) {
        // Fails for no connected socket.
        let _set = options::end_in_order(&*self.socket().0);
    }

    /// What resolves when the connection is broken.
    pub fn broken(&self) -> impl Future<Output = ()> + use<> {
        let stream = self.socket().clone();
        async move {
            // An error of the wait means the same.
            let _either = stream.0.ready(Interest::ERROR).await;
        }
    }
}

impl AsyncRead for Remote {
    /// A FIN without close_notify is an end: the session inside has an end of its own.
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(tls) => match Pin::new(tls).poll_read(context, buffer) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Remote {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            // Costs nothing while TLS holds no record.
            Self::Tls(tls) if !tls.get_ref().1.wants_write() => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
