//! Reads the CONNECT head. Its memory is wiped as soon as the head is understood or refused: it holds the credentials.
//! Never keeps a header value; the deadline is the caller's.

use bytes::BytesMut;
use zeroize::Zeroize;

use super::ends;
use super::story::Story;
use crate::outcome::{DenyReason, End, Failure};
use crate::reactor::{READ_BYTES, Socket};
use crate::wire::Parsed;
use crate::wire::connect::{self, Head};

/// Bytes of a head, wiped when they are dropped.
struct Secret(BytesMut);

/// Reads the whole head and gives what came behind it.
pub(super) async fn read(client: &Socket, bytes_max: usize, story: &mut Story) -> Result<(Head, BytesMut), End> {
    let mut buffer = Secret(BytesMut::new());
    loop {
        buffer.make_room();
        match client.read_some(&mut buffer.0).await {
            Ok(0) if buffer.0.is_empty() => return Err(Failure::ClientClosed.into()),
            Ok(0) => return Err(story.because("the connection ended inside the request head", DenyReason::BadRequest)),
            Ok(_) => story.spoken(),
            Err(error) => return Err(story.because(error, Failure::ClientReset)),
        }
        match connect::parse(&buffer.0, bytes_max) {
            Ok(Parsed::Complete { value, consumed }) => {
                let behind = buffer.0.split_off(consumed);
                return Ok((value, behind));
            }
            Ok(Parsed::Incomplete) => {}
            Err(error) => return Err(story.because(error, ends::of_head(error))),
        }
    }
}

impl Secret {
    /// Room for one read. A buffer that grows by itself leaves its old memory as it was.
    fn make_room(&mut self) {
        if self.0.capacity() - self.0.len() < READ_BYTES {
            let mut larger = BytesMut::with_capacity(self.0.capacity() * 2 + READ_BYTES);
            larger.extend_from_slice(&self.0);
            *self = Self(larger);
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
