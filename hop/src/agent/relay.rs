//! A tunnel that is open: copies between the application and the upstream until both have ended.
//!
//! An end is passed on as an end, a reset as a reset. A direction without bytes holds no buffer. Never reads more than it
//! can pass on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::local::Local;
use super::remote::Remote;
use crate::buffer::Buffer;

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes that the receiver has not taken yet.
    rest: Option<Buffer>,
    /// Whether the sender has ended.
    is_at_end: bool,
    /// Whether the receiver knows it.
    is_over: bool,
    /// The bytes that the receiver has taken.
    bytes: u64,
}

/// The bytes of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// From the application.
    pub up: u64,
    /// To the application.
    pub down: u64,
}

/// Copies until both sides have ended or `stopped` resolves. The close of each connection must reset it; after an end in
/// order it does not.
pub async fn relay(
    mut local: Local,
    mut remote: Remote,
    stopped: impl Future<Output = ()>,
) -> Copied {
    let (mut up, mut down) = (Flow::default(), Flow::default());
    let (watched, broken) = (local.clone(), remote.broken());
    let broken = async {
        // A reset counts even while its direction waits for the other side.
        tokio::select! {
            () = watched.broken() => {}
            () = broken => {}
            () = stopped => {}
        }
    };
    tokio::pin!(broken);
    let copied = std::future::poll_fn(|context| {
        let up = up.poll(&mut local, &mut remote, context)?;
        let down = down.poll(&mut remote, &mut local, context)?;
        match up.is_ready() && down.is_ready() {
            true => Poll::Ready(io::Result::Ok(())),
            false => Poll::Pending,
        }
    });
    let is_in_order = tokio::select! {
        biased;
        copied = copied => copied.is_ok(),
        () = &mut broken => false,
    };
    if is_in_order {
        local.end_in_order();
        remote.end_in_order();
    }
    Copied {
        up: up.bytes,
        down: down.bytes,
    }
}

impl Flow {
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_over {
            if let Some(rest) = &mut self.rest {
                while !rest.is_empty() {
                    let sent = ready!(Pin::new(&mut *to).poll_write(context, rest.filled()))?;
                    if sent == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    rest.consume(sent);
                    self.bytes += u64::try_from(sent).unwrap_or_default();
                }
                self.rest = None;
            }
            if self.is_at_end {
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.is_over = true;
                break;
            }
            let mut buffer = Buffer::take();
            let mut space = ReadBuf::new(buffer.space());
            match Pin::new(&mut *from).poll_read(context, &mut space) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    // Records that TLS still holds; the direction goes on when more bytes arrive.
                    if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(context) {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Pending;
                }
            }
            let read = space.filled().len();
            buffer.fill(read);
            match read {
                0 => self.is_at_end = true,
                _ => self.rest = Some(buffer),
            }
        }
        Poll::Ready(Ok(()))
    }
}
