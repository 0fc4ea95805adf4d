//! A connection between its handshake and its request. It is no attempt: the daemon gets a connection only when the first
//! byte of a request arrives, so that a client can keep connections ready. Bounded in number and time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::buffer::Buffer;
use crate::places::PlacePermit;
use crate::shared::Hop;
use crate::stream::Stream;

/// Waits for the first bytes of a request; None: the connection is over, and the client knows.
pub async fn first_bytes(
    hop: &Hop,
    tls: &mut TlsStream<Stream>,
    place: PlacePermit,
) -> Option<Buffer> {
    let max = hop.config.borrow().tls.idle;
    let is_over = tokio::select! {
        biased;
        read = timeout(max, read(tls)) => match read {
            Ok(Ok(buffer)) if !buffer.is_empty() => return Some(buffer),
            Ok(Ok(_)) | Err(_) => true,
            Ok(Err(_)) => false,
        },
        // Another connection needs the place more.
        () = place.lost() => true,
        () = hop.draining() => true,
    };
    if is_over {
        tls.get_ref().0.end_in_order();
        // A client that does not read its end learns of it by the next.
        let _said = timeout(FAREWELL, tls.shutdown()).await;
    }
    None
}

/// The first bytes; none at the end of the stream. No buffer is held while there are none.
async fn read(tls: &mut TlsStream<Stream>) -> std::io::Result<Buffer> {
    poll_fn(|context| {
        let mut buffer = Buffer::take();
        let mut space = ReadBuf::new(buffer.space());
        match Pin::new(&mut *tls).poll_read(context, &mut space) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                let filled = space.filled().len();
                buffer.fill(filled);
                Poll::Ready(read.map(|()| buffer))
            }
        }
    })
    .await
}

/// For the kernel to take a close_notify.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);
